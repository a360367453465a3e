"""Files that are there whole or not at all, and sets of files that appear together."""

import json
import os
import threading
import uuid
from contextlib import contextmanager

_watchers = []  # whoever is told what is written below a folder: objects with `folder`, `staging` and `replacing`
_own = {}  # process id: word that tells this process's temporary files from all others
_set = threading.local()


def token():
    """A word in the names of this process's temporary files; another one after a fork.

    Returns
    -------
    str
    """
    pid = os.getpid()
    if pid not in _own:
        _own.clear()
        _own[pid] = "%d-%s" % (pid, uuid.uuid4().hex[:8])
    return _own[pid]


def is_temporary(name, word):
    """Tell whether a file is a temporary one of a process.

    Parameters
    ----------
    name : str
        Without folders.
    word : str
        Its `token`.

    Returns
    -------
    bool
    """
    return name.startswith(".") and ".tmp-%s-" % word in name


@contextmanager
def watched(watcher):
    """Tell somebody what is written below a folder.

    Parameters
    ----------
    watcher : object
        With ``folder``, an absolute path, ``staging(folder)``, called before a temporary file is made in a folder, and
        ``replacing()``, called before a file that tables may name is replaced.
    """
    _watchers.append(watcher)
    try:
        yield watcher
    finally:
        _watchers.remove(watcher)


def is_watched():
    """Tell whether anybody is told what is written in this process.

    Returns
    -------
    bool
    """
    return bool(_watchers)


def _watching(folder):
    return [one for one in tuple(_watchers) if folder == one.folder or folder.startswith(one.folder + os.sep)]


@contextmanager
def staged(path, named=False):
    """Write a file beside its final place and move it there when it is complete.

    Parameters
    ----------
    path : str
        Final name; its folder is made if absent. A file that is there stays as it is until the new one is whole.
    named : bool
        Whether tables name such files: those of an earlier run are taken away before it is replaced.

    Yields
    ------
    str
        Temporary name in the same folder, to be written and closed. It is removed if the block raises.
    """
    final = os.path.abspath(path)
    temp, watching = _beside(final)
    together_with = getattr(_set, "files", None)
    try:
        yield temp
        _sync(temp)
        if together_with is not None:
            together_with.append((temp, final))
            return
        if named and os.path.lexists(final):
            for watcher in watching:
                watcher.replacing()
        os.replace(temp, final)
    except BaseException:
        _discard(temp)
        raise
    sync_folder(os.path.dirname(final))


@contextmanager
def scratch(path):
    """A file that is needed for a while: beside another one, for its room on disk is counted there.

    Parameters
    ----------
    path : str

    Yields
    ------
    str
        A name in the same folder, with the same ending. The file is removed in the end.
    """
    temp = _beside(os.path.abspath(path))[0] + os.path.splitext(path)[1]
    try:
        yield temp
    finally:
        _discard(temp)


def _beside(path):
    """A temporary name in the folder of a file, which is made if absent, and whoever was told of it."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    watching = _watching(folder)
    for watcher in watching:
        watcher.staging(folder)
    return os.path.join(folder, ".%s.tmp-%s-%s" % (name[:120], token(), uuid.uuid4().hex[:8])), watching


def _discard(temp):
    try:
        os.unlink(temp)
    except FileNotFoundError:
        pass


@contextmanager
def together(publish=None):
    """Let the files that this thread writes in a block appear together, all of them or none.

    What has their names is removed before the first of them appears, the last one first, and they appear in the order
    in which they were written: whoever reads the last one finds all others of the same run beside it.

    Parameters
    ----------
    publish : callable, optional
        ``publish(paths)``: a context manager around the moment in which they appear; it may raise.
    """
    if getattr(_set, "files", None) is not None:
        yield  # a part of a larger set
        return
    _set.files = []
    try:
        try:
            yield
        finally:
            files, _set.files = _set.files, None
        last = {final: temp for temp, final in files}  # of a file that was written twice; None for one that goes
        order = [final for final in dict.fromkeys(final for _, final in reversed(files))][::-1]
        if publish is None:
            _appear(order, last)
        else:
            with publish(order):
                _appear(order, last)
    finally:
        for temp, _ in files:
            if temp:
                _discard(temp)


def _appear(order, temporary):
    remove(reversed(order))
    for final in order:
        if temporary[final]:
            os.replace(temporary[final], final)
    for folder in {os.path.dirname(final) for final in order}:
        sync_folder(folder)


def gone(path):
    """Remove a file if it is there: within `together` when the others appear, otherwise at once.

    Parameters
    ----------
    path : str
    """
    if getattr(_set, "files", None) is None:
        remove([path])
    else:
        _set.files.append((None, os.path.abspath(path)))


def remove(paths):
    """Remove files for good: a machine that fails does not bring them back.

    Parameters
    ----------
    paths : iterable of str
        Those that do not exist are passed over.
    """
    folders = set()
    for path in paths:
        try:
            os.unlink(path)
            folders.add(os.path.dirname(os.path.abspath(path)))
        except (FileNotFoundError, NotADirectoryError):
            pass
    for folder in folders:
        sync_folder(folder)


def _sync(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder):
    """Make the names in a folder last; some file systems refuse that, and their files are safe by then.

    Parameters
    ----------
    folder : str
    """
    try:
        _sync(folder)
    except OSError:
        pass


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


def write_json(path, obj, long=False):
    """Write a JSON file, atomically, the same object always giving the same bytes.

    Parameters
    ----------
    path : str
    obj : object
        Plain values, of which no number may be NaN or infinite.
    long : bool
        In one line: what may have a value for every particle is written ten times faster so.
    """
    write_text(path, json.dumps(obj, indent=None if long else 1, sort_keys=True, allow_nan=False) + "\n")
