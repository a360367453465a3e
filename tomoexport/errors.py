"""The errors a user can meet: each names the item, the cause and the remedy."""

from typing import Any, Tuple


class TomoexportError(Exception):
    """Base of every error that tomoexport raises on purpose."""


_LONGEST = 1500  # characters of a part of a message: what a damaged file holds may be anything


def _readable(text: object) -> str:
    """A text without what no terminal shows, and no longer than anybody reads."""
    plain = "".join(c if c.isprintable() or c == "\n" else "\\x%02x" % ord(c) for c in str(text)[:4 * _LONGEST])
    return plain if len(plain) <= _LONGEST else "%s ... (%d characters)" % (plain[:_LONGEST], len(str(text)))


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
        self.item, self.cause, self.remedy = (_readable(text) for text in (item, cause, remedy))
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
