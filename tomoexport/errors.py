"""The errors a user can meet: each names the item, the cause and the remedy."""

from typing import Any, Tuple


class TomoexportError(Exception):
    """Base of every error that tomoexport raises on purpose."""


class InputError(TomoexportError):
    """Something the user gave cannot be used.

    Parameters
    ----------
    item : str
        What is concerned: a file (with a line), a tilt series, a particle, an option.
    cause : str
        What is wrong with it.
    remedy : str
        What the user can do about it.
    """

    def __init__(self, item: str, cause: str, remedy: str = "") -> None:
        self.item, self.cause, self.remedy = str(item), str(cause), str(remedy)
        text = "%s: %s." % (self.item, self.cause.rstrip("."))
        if self.remedy:
            text += " " + self.remedy.rstrip(".") + "."
        super().__init__(text)

    def __reduce__(self) -> Tuple[Any, ...]:
        return (type(self), (self.item, self.cause, self.remedy))


class UnitError(InputError):
    """One tilt series failed while it was worked on; the others go on."""


class BackendError(TomoexportError):
    """The compute device that was asked for cannot be used."""
