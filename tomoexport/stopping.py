"""Being stopped from outside: SIGTERM ends a command as Ctrl-C does, in an orderly way and once."""

import signal
import threading
import time
from contextlib import contextmanager

_PATIENCE = 20.0  # seconds in which it should have ended


class Terminated(KeyboardInterrupt):
    """SIGTERM: to all that tidies up it is an interrupt."""


@contextmanager
def on_signals():
    """Within a block, raise `Terminated` at SIGTERM, and live on when the terminal is closed.

    Further SIGTERMs in the next seconds change nothing: schedulers send one to every process of a job and then to its
    group, and what tidies up must not be interrupted. Outside the main thread, where signals cannot be handled, nothing
    changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    stopped = []

    def terminate(number, frame):
        if not stopped or time.monotonic() - stopped[-1] > _PATIENCE:
            stopped.append(time.monotonic())
            raise Terminated("SIGTERM")

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    # Whoever ignored one wants it ignored, as nohup does.
    if before[signal.SIGTERM] is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, terminate)
    if before[signal.SIGHUP] is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            if stopped and number == signal.SIGTERM:
                signal.signal(number, signal.SIG_IGN)  # it ends now, with its own exit code
            elif handler is not None:
                signal.signal(number, handler)
