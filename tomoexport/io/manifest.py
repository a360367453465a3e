"""What is done already: one record per unit of work."""

import hashlib
import json
import os

import numpy as np

from ..errors import InputError
from .atomic import remove, write_json
from .lock import FOLDER
from .paths import relative_to, safe_stem
from .plainfile import open_plain

_SHORT = 40  # characters of a value that a record keeps to be shown; of what is longer it keeps a hash


def fingerprint(*parts):
    """Hash of everything that a result depends on.

    Parameters
    ----------
    *parts
        Values that JSON can hold, and arrays of numbers; of a `pathlib.Path` name, size and time of the last change
        count.

    Returns
    -------
    str
        Hexadecimal digits.
    """
    def plain(part):
        if isinstance(part, (str, int, float)):
            return part
        if isinstance(part, np.ndarray):
            data = np.ascontiguousarray(part, part.dtype.newbyteorder("<"))
            return [str(data.dtype), list(data.shape), hashlib.sha256(data.tobytes()).hexdigest()]
        if isinstance(part, os.PathLike):
            state = os.stat(part)
            return [os.path.basename(part), state.st_size, state.st_mtime_ns]
        if isinstance(part, dict):
            return {str(key): plain(value) for key, value in part.items()}
        if isinstance(part, (list, tuple)):
            return [plain(value) for value in part]
        return part

    text = json.dumps(plain(parts), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


class Manifest:
    """Records in ``folder/.tomoexport`` of the units that are complete.

    Each unit has a file of its own, which appears whole: threads and processes may record different units at once.

    Parameters
    ----------
    folder : str
        Output folder.
    """

    def __init__(self, folder):
        self.folder = os.fspath(folder)

    def path(self, unit):
        """Where the record of a unit is.

        Parameters
        ----------
        unit : str

        Returns
        -------
        str
        """
        return os.path.join(self.folder, FOLDER, safe_stem(unit) + ".json")

    def done(self, unit, fingerprint):
        """Tell whether a unit was completed with this fingerprint and all its outputs are there in their sizes.

        Parameters
        ----------
        unit : str
        fingerprint : str

        Returns
        -------
        bool
        """
        record = self._read(unit)
        try:
            return record["fingerprint"] == fingerprint and all(
                os.path.getsize(os.path.join(self.folder, name)) == size for name, size in record["outputs"].items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # No record, no output, or a record that is damaged.
            return False

    def holds(self, unit, fingerprint):
        """Tell whether the record of a unit is of this fingerprint; its outputs are not looked at.

        Parameters
        ----------
        unit : str
        fingerprint : str

        Returns
        -------
        bool
        """
        return self._read(unit).get("fingerprint") == fingerprint

    def known(self, unit):
        """Tell whether there is a record of a unit, of whatever inputs and options.

        Parameters
        ----------
        unit : str

        Returns
        -------
        bool
        """
        return bool(self._read(unit))

    def lost(self, unit):
        """Tell whether outputs that a record names are not there, or have another size.

        Parameters
        ----------
        unit : str

        Returns
        -------
        bool
        """
        return not self.done(unit, self._read(unit).get("fingerprint"))

    def changes(self, unit, depends):
        """What differs between the inputs and options of a record and others.

        Parameters
        ----------
        unit : str
        depends : dict
            As for `record`.

        Returns
        -------
        list of str
            For people: options with both values, inputs by what they are; empty if nothing is known.
        """
        before = self._read(unit).get("depends")
        if not isinstance(before, dict):
            return []
        now = _shown(depends)
        return ["%s (was %s, is %s)" % (name, *(json.dumps(side[name]) for side in (before, now)))
                if not any(str(side[name]).startswith("sha256:") for side in (before, now)) else name
                for name in sorted(set(before) & set(now)) if before[name] != now[name]] + sorted(
                    set(before) ^ set(now))

    def _read(self, unit):
        """A record; an empty one if there is none or it is damaged."""
        try:
            with open_plain(self.path(unit), "r", encoding="utf-8") as handle:
                record = json.load(handle)
        except (OSError, ValueError, RecursionError, InputError):
            return {}
        return record if isinstance(record, dict) else {}

    def forget(self, unit):
        """Take a unit's record away, before its files are made anew: what is there then may be of two kinds.

        Parameters
        ----------
        unit : str
        """
        remove([self.path(unit)])

    def record(self, unit, fingerprint, outputs, depends=()):
        """Record that a unit is complete.

        Parameters
        ----------
        unit : str
        fingerprint : str
        outputs : sequence of str
            Paths of the files that it made, which must exist.
        depends : dict, optional
            What the fingerprint is made of, by name: kept so that people can be told what has changed.
        """
        sizes = {relative_to(path, self.folder): os.path.getsize(path) for path in outputs}
        write_json(self.path(unit), {"unit": str(unit), "fingerprint": fingerprint, "outputs": sizes,
                                     "depends": _shown(dict(depends))}, long=True)


def _shown(depends):
    """Values as a record keeps them: short ones as they are, of others a hash."""
    out = {}
    for name, value in depends.items():
        plain = value if isinstance(value, (str, int, float, bool, type(None))) else None
        short = plain is not None and len(str(plain)) <= _SHORT or value is None
        out[str(name)] = plain if short else "sha256:" + fingerprint(value)
    return out
