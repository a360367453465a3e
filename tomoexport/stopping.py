"""Being stopped from outside: SIGTERM ends a command as Ctrl-C does, in an orderly way and once."""

import signal
import threading
from contextlib import contextmanager


class Terminated(KeyboardInterrupt):
    """SIGTERM: to all that tidies up it is an interrupt."""


@contextmanager
def on_signals():
    """Within a block, raise `Terminated` at SIGTERM, and live on when the terminal is closed.

    A second SIGTERM changes nothing: schedulers send one to every process of a job and then to its group, and what
    tidies up must not be interrupted. Outside the main thread, where signals cannot be handled, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    stopped = []

    def terminate(number, frame):
        stopped.append(number)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
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
            if handler is not None and number not in stopped:  # whoever is stopped ends, and is not stopped twice
                signal.signal(number, handler)
