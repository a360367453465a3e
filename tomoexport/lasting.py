"""Output streams that may be lost without stopping the work: a pipe nobody reads, a closed terminal, a full disk."""

import os
import sys
from contextlib import contextmanager


class Lasting:
    """A text stream whose failures are nobody's; what cannot be written is dropped.

    Parameters
    ----------
    stream : file or None
        None where the process was started without it.
    """

    def __init__(self, stream):
        self._stream = stream
        self.lost = False

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        """Write, if anybody still listens; returns the number of characters."""
        try:
            self._stream.write(text)
        except (OSError, ValueError, AttributeError):
            self.lost = True
        return len(text)

    def flush(self):
        """Hand on what was written, if anybody still listens."""
        try:
            self._stream.flush()
        except (OSError, ValueError, AttributeError):
            self.lost = True


@contextmanager
def streams():
    """Make the standard streams lasting ones within a block."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = lasting = [Lasting(stream) for stream in before]
    try:
        yield
    finally:
        for stream in lasting:
            stream.flush()
            if stream.lost:
                _empty(stream)
        sys.stdout, sys.stderr = before


def _empty(stream):
    """Point a lost stream nowhere: the interpreter would fail once more when it flushes at its end."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()
    except (OSError, ValueError, AttributeError):
        pass
