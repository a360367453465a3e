"""An output folder while something works in it: what may not outlive its files, and what dead processes left."""

import fcntl
import json
import os
import socket
import threading
import time
from contextlib import contextmanager
from itertools import count

from ..errors import InputError
from . import atomic
from .lock import FOLDER, lock, open_own
from .paths import relative_to
from .plainfile import open_plain

_JOURNAL, _number = "temporary-", count()
#: Where locks do not reach other computers, one that works there seems dead: seconds without a sign of life.
_SILENT = 900
_WAIT = 60.0  # seconds that a process needs at most to let its tables appear


class Outputs:
    """An output folder in which this process works; a context manager.

    Entering it sweeps the temporary files of processes that have ended. Tables that were collected in it, also in
    earlier runs and under other names, are removed before the first file that they may name is replaced.

    Parameters
    ----------
    folder : str
        Exists.
    verb : str
        Whose tables they are: what other operations collected in the folder names other files.
    expected : sequence of str
        Tables that it is going to write: theirs, too, where nothing is known of earlier runs.

    Raises
    ------
    InputError
        If the list of tables is damaged.
    """

    def __init__(self, folder, verb, expected=()):
        self.folder, self._expected = os.path.abspath(folder), list(expected)
        self._own = os.path.join(self.folder, FOLDER)
        self._list = os.path.join(self._own, "tables", verb + ".json")
        self.tables()
        self._known = "", []  # time of the list, and the tables
        self._journal, self._noted = None, set()
        self._lock = threading.Lock()

    def __enter__(self):
        os.makedirs(self._own, exist_ok=True)
        self.sweep()
        self._context = atomic.watched(self)
        self._context.__enter__()
        return self

    def __exit__(self, *error):
        self._context.__exit__(*error)
        stays = False
        if not atomic.is_watched():  # nothing of ours is at work any more
            stays = self._removes_not()
        with self._lock:
            if self._journal is not None:
                try:
                    if not stays:
                        _unlink(self._journal_path)
                except BaseException:  # a signal came just now
                    if not stays:
                        _unlink(self._journal_path)
                    raise
                finally:
                    os.close(self._journal)
                    self._journal = None
        return False

    # ---- temporary files

    def _removes_not(self):
        """Remove what this process has left, where it failed or the disk did; tell whether something does not go.

        Then its journal stays, by which the next run finds it.
        """
        left = [one for folder in self._noted for one in _temporary_in(folder, atomic.token())]
        for one in left:
            _unlink(one)
        return any(map(os.path.lexists, left))

    def staging(self, folder):
        """Note a folder in which this process is going to have a temporary file; called by `atomic.staged`.

        Parameters
        ----------
        folder : str
            Absolute.
        """
        if folder in self._noted:
            return
        with self._lock:
            if self._journal is None:
                self._journal_path = os.path.join(self._own, "%s%s-%d-%s.txt" % (
                    _JOURNAL, atomic.token(), next(_number), socket.gethostname().replace("/", "_")))
                self._journal = _held(self._journal_path)
            os.write(self._journal, (relative_to(folder, self.folder) + "\n").encode("utf-8", "surrogateescape"))
            os.fsync(self._journal)
            self._noted.add(folder)

    def sweep(self):
        """Remove the temporary files of processes that have ended."""
        for name in sorted(os.listdir(self._own)):
            if name.startswith(_JOURNAL) and name.endswith(".txt"):
                try:
                    self._sweep(name)
                except OSError:
                    pass  # somebody else sweeps, too, or may not; next time

    def _sweep(self, name):
        path = os.path.join(self._own, name)
        pid, mark, _, host = (name[len(_JOURNAL):-4].split("-", 3) + ["", "", ""])[:4]
        word = "%s-%s" % (pid, mark)
        handle = open_own(path)
        try:
            if _alive(handle, host, word):
                return
            left = []
            with open(handle, encoding="utf-8", errors="surrogateescape", closefd=False) as text:
                folders = [os.path.normpath(os.path.join(self.folder, line)) for line in text.read().split("\n")[:-1]]
            for folder in folders:
                inside = folder == self.folder or folder.startswith(self.folder + os.sep)
                if inside and "\0" not in folder:
                    left += _temporary_in(folder, word)
            far = host != socket.gethostname()
            if far and any(time.time() - os.lstat(one).st_mtime < _SILENT for one in left + [path]):
                return
            for one in left:
                os.unlink(one)
            os.unlink(path)
        finally:
            os.close(handle)

    # ---- tables

    def replacing(self):
        """Take away what may name a file that is going to be replaced; called by `atomic.staged`."""
        # Looked at each time: another run may have collected tables meanwhile.
        if any(map(os.path.lexists, self._paths())):
            with self._lock:
                self.withdraw()

    def withdraw(self):
        """Remove the tables of earlier runs: what they name is about to be of two kinds."""
        with lock(self.folder, wait=_WAIT):
            atomic.remove(reversed(self._paths()))

    def _paths(self):
        """Every table that may name files here."""
        try:
            when = os.stat(self._list).st_mtime_ns
        except OSError:
            when = None
        if self._known[0] != when:
            names = self.tables()
            self._known = when, [os.path.join(self.folder, name) for name in names + [
                name for name in self._expected if name not in names]]
        return self._known[1]

    @contextmanager
    def collecting(self, still=lambda: None):
        """Let the tables that are written in a block appear together, if what they name is still what it was.

        Parameters
        ----------
        still : callable, optional
            Raises if something has changed; called at a moment in which nobody replaces anything that tables name.
        """
        @contextmanager
        def publish(paths):
            with lock(self.folder, wait=_WAIT):
                still()
                names = [relative_to(path, self.folder) for path in paths]
                tables = [name for name in names if not name.startswith("report" + os.sep)]
                known = self.tables()
                noted = [name for name in known if name not in tables] + tables
                if noted != known:  # before they appear: nothing may name files unnoticed
                    atomic.write_json(self._list, noted)
                yield

        with atomic.together(publish):
            yield

    def tables(self):
        """Every table that this operation ever collected here.

        Returns
        -------
        list of str
            Relative to the folder; some may be gone.
        """
        try:
            with open_plain(self._list, "r", encoding="utf-8") as handle:
                names = json.load(handle)
        except FileNotFoundError:
            return []
        except (ValueError, RecursionError):
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(self._list, "this list of tables of earlier runs is damaged", "Remove it, and those "
                             "tables in %s: what they name may be replaced" % self.folder)
        return [name for name in names if not os.path.isabs(name) and ".." not in name.split(os.sep)]


def _held(path):
    """Make a journal, and lock it before anybody takes it for one of a dead process."""
    while True:
        handle = open_own(path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            return handle  # no locks here: see `_alive`
        try:
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)  # it was swept between the two


def _temporary_in(folder, word):
    """Temporary files of a process in a folder."""
    if not os.path.isdir(folder):
        return []
    return [os.path.join(folder, one) for one in os.listdir(folder) if atomic.is_temporary(one, word)]


def _unlink(path):
    try:
        os.unlink(path)
    except OSError:
        pass  # the next run will


def _alive(handle, host, word):
    """Whether the process that wrote a journal may still work."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:  # no locks on this disk
        if host != socket.gethostname():
            return False  # the age of its files decides
        try:
            os.kill(int(word.partition("-")[0]), 0)
        except (ProcessLookupError, ValueError):
            return False
        except PermissionError:
            pass
        return True
