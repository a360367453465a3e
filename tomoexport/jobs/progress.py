"""Progress of long work: rate and time left, one line at a time in logs, one line in place on a terminal."""

import sys
import threading
import time
from contextlib import contextmanager

_silent = False  # whether nothing is to be shown in this process


class Progress:
    """Counts finished items and says so, at most every few seconds.

    Parameters
    ----------
    label : str
        What is worked on.
    total : int
        Number of items.
    unit : str
        What an item is.
    stream : file, optional
        Where lines go; standard output by default.
    """

    INTERVAL = 5.0  # seconds between lines of a log

    def __init__(self, label, total, unit="items", stream=None):
        self.label, self.total, self.unit = label, max(int(total), 1), unit
        self.stream = stream or sys.stdout
        self.silent = stream is None and _silent
        self.done, self.start, self.last = 0, time.monotonic(), time.monotonic()
        self.terminal = getattr(self.stream, "isatty", lambda: False)()
        self._lock = threading.Lock()

    def __call__(self, n=1):
        """Count n items as done; threads may share one counter."""
        with self._lock:
            self.done += n
            now = time.monotonic()
            if now - self.last >= (0.2 if self.terminal else self.INTERVAL) and self.done < self.total:
                self.last = now
                self._say(now, "\r" if self.terminal else "", "" if self.terminal else "\n")

    def finish(self):
        """Say how long it took."""
        self._say(time.monotonic(), "\r" if self.terminal else "", "\n")

    def _say(self, now, before, after):
        if self.silent:
            return
        elapsed = max(now - self.start, 1e-6)
        rate = self.done / elapsed
        left = (self.total - self.done) / rate if rate else 0
        state = "%s left" % clock(left) if self.done < self.total else "in %s" % clock(elapsed)
        self.stream.write("%s%s: %d/%d %s %3d %% %.3g/s, %s   %s" % (
            before, self.label, self.done, self.total, self.unit, 100 * self.done // self.total, rate, state, after))
        self.stream.flush()


@contextmanager
def shown(wanted):
    """Show progress, or do not, within a block: for callers that have an output of their own.

    Parameters
    ----------
    wanted : bool
    """
    global _silent
    before, _silent = _silent, not wanted
    try:
        yield
    finally:
        _silent = before


def clock(seconds):
    """A duration for people.

    Parameters
    ----------
    seconds : float

    Returns
    -------
    str
        As 1:02:03 or 2:03.
    """
    seconds = int(round(seconds))
    hours, rest = divmod(seconds, 3600)
    return "%d:%02d:%02d" % (hours, rest // 60, rest % 60) if hours else "%d:%02d" % divmod(rest, 60)
