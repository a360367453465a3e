"""Files that are there whole or not at all."""

import json
import os
import uuid
from contextlib import contextmanager


@contextmanager
def staged(path):
    """Write a file beside its final place and move it there when it is complete.

    Parameters
    ----------
    path : str
        Final name; its folder is made if absent. A file that is there stays as it is until the new one is whole.

    Yields
    ------
    str
        Temporary name in the same folder, to be written and closed. It is removed if the block raises.
    """
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temp = os.path.join(folder, ".%s.tmp-%d-%s" % (name[:150], os.getpid(), uuid.uuid4().hex[:8]))
    try:
        yield temp
        _sync(temp)
        os.replace(temp, os.path.join(folder, name))
    except BaseException:
        if os.path.lexists(temp):
            os.unlink(temp)
        raise
    try:
        _sync(folder)
    except OSError:
        # Some file systems refuse to sync a folder; the file itself is safe by now.
        pass


def _sync(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path, text):
    """Write a text file, atomically; undecodable bytes of file names are kept as they came in.

    Parameters
    ----------
    path : str
    text : str
    """
    with staged(path) as temp:
        with open(temp, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as handle:
            handle.write(text)


def write_json(path, obj):
    """Write a JSON file, atomically, the same object always giving the same bytes.

    Parameters
    ----------
    path : str
    obj : object
        Plain values, of which no number may be NaN or infinite.
    """
    write_text(path, json.dumps(obj, indent=1, sort_keys=True, allow_nan=False) + "\n")
