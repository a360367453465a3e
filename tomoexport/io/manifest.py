"""What is done already: one record per unit of work, and a lock on the folder that holds them."""

import errno
import fcntl
import hashlib
import json
import os
import socket
import time
import warnings
from contextlib import contextmanager

from ..errors import InputError
from .atomic import write_json
from .paths import relative_to, safe_stem

_FOLDER = ".tomoexport"


def fingerprint(*parts):
    """Hash of everything that a result depends on.

    Parameters
    ----------
    *parts
        Values that JSON can hold; of a `pathlib.Path` name, size and time of the last change count.

    Returns
    -------
    str
        Hexadecimal digits.
    """
    def plain(part):
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
        return os.path.join(self.folder, _FOLDER, safe_stem(unit) + ".json")

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
        try:
            with open(self.path(unit), encoding="utf-8") as handle:
                record = json.load(handle)
            return record["fingerprint"] == fingerprint and all(
                os.path.getsize(os.path.join(self.folder, name)) == size for name, size in record["outputs"].items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # No record, no output, or a record that is damaged.
            return False

    def forget(self, unit):
        """Take a unit's record away, before its files are made anew: what is there then may be of two kinds.

        Parameters
        ----------
        unit : str
        """
        try:
            os.unlink(self.path(unit))
        except FileNotFoundError:
            pass

    def record(self, unit, fingerprint, outputs):
        """Record that a unit is complete.

        Parameters
        ----------
        unit : str
        fingerprint : str
        outputs : sequence of str
            Paths of the files that it made, which must exist.
        """
        sizes = {relative_to(path, self.folder): os.path.getsize(path) for path in outputs}
        write_json(self.path(unit), {"unit": str(unit), "fingerprint": fingerprint, "outputs": sizes})


@contextmanager
def lock(folder, unit=""):
    """Hold an output folder, or one unit's part of it, for this thread of this process alone.

    The lock goes with the process, however that ends: one left by a killed run is simply taken over.

    Parameters
    ----------
    folder : str
    unit : str
        By default the whole folder.

    Yields
    ------
    None

    Raises
    ------
    InputError
        If another run holds it; naming host, process and since when.
    """
    os.makedirs(os.path.join(folder, _FOLDER), exist_ok=True)
    path = os.path.join(folder, _FOLDER, (safe_stem(unit) if unit else "folder") + ".lock")
    with open(path, "a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                handle.seek(0)
                raise InputError(folder, "in use by %s" % (handle.read().strip() or "another run"),
                                 "Wait for that run, or stop it") from None
            warnings.warn("%s cannot be locked (%s): do not run two jobs in it at once" % (folder, error.strerror),
                          stacklevel=3)
        handle.truncate(0)
        handle.write("%s:%d since %s\n" % (socket.gethostname(), os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S")))
        handle.flush()
        try:
            yield
        finally:
            handle.truncate(0)
