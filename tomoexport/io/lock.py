"""Locks on an output folder and on parts of it, between threads, processes and, where the disk can, computers."""

import errno
import fcntl
import os
import socket
import stat
import time
import warnings
from contextlib import contextmanager

from ..errors import InputError
from .paths import safe_stem

FOLDER = ".tomoexport"
_WHOLE = ".folder"  # no stem of a name begins so
_BUSY = (errno.EWOULDBLOCK, errno.EACCES)


@contextmanager
def lock(folder, unit="", wait=0.0):
    """Hold an output folder, or one unit's part of it, for this thread of this process alone.

    The lock goes with the process, however that ends: one left by a killed run is simply taken over.

    Parameters
    ----------
    folder : str
    unit : str
        By default the whole folder.
    wait : float
        Seconds to wait for whoever holds it.

    Yields
    ------
    None

    Raises
    ------
    InputError
        If another run holds it, naming host, process and since when; or if the lock is a link, which might lead
        anywhere.
    """
    os.makedirs(os.path.join(folder, FOLDER), exist_ok=True)
    path = os.path.join(folder, FOLDER, (safe_stem(unit) if unit else _WHOLE) + ".lock")
    with os.fdopen(open_own(path), "r+", encoding="utf-8", errors="replace") as handle:
        _take(handle, folder, unit, wait)
        handle.seek(0)
        handle.truncate(0)
        handle.write("%s since %s\n" % (whoami(), time.strftime("%Y-%m-%d %H:%M:%S")))
        handle.flush()
        try:
            yield
        finally:
            handle.seek(0)
            handle.truncate(0)


def _take(handle, folder, unit, wait):
    until = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in _BUSY:
                warnings.warn("%s cannot be locked (%s): do not run two jobs in it at once" % (folder, error.strerror),
                              stacklevel=4)
                return
        if time.monotonic() >= until:
            handle.seek(0)
            holder = handle.read(200).strip() or "another run"
            raise InputError(unit or folder, "another part or run is at it: %s, in use by %s" % (folder, holder),
                       "Wait for that run, or stop it; then run this again")
        time.sleep(0.05)


def whoami():
    """This computer and process, for people and for other processes.

    Returns
    -------
    str
    """
    return "%s:%d" % (socket.gethostname(), os.getpid())


def open_own(path):
    """Open a file of our own for reading and writing, or make it, following no link.

    Parameters
    ----------
    path : str

    Returns
    -------
    int
        File descriptor.

    Raises
    ------
    InputError
        If it is a link, or no regular file.
    """
    try:
        # Not blocking: a named pipe in its place must not hold us.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EISDIR):
            raise InputError(path, "it is a link or no plain file", "Remove it") from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(path, "it is a link or no plain file", "Remove it")
    return handle

