"""Opening files of others for reading: a named pipe or a device in the place of one must not hold us."""

import os
import stat

from ..errors import InputError


def open_plain(path, mode="rb", **how):
    """Open a regular file for reading.

    Parameters
    ----------
    path : str
    mode : {'rb', 'r'}
    **how
        As of `open`.

    Returns
    -------
    file

    Raises
    ------
    InputError
        If it is no regular file.
    OSError
        If it cannot be opened.
    """
    handle = open(path, mode, opener=_opener, **how)
    if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
        handle.close()
        raise InputError(path, "it is no plain file", "Give a file")
    return handle


def _opener(path, flags):
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
