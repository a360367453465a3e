"""Computing and writing at the same time, with a bounded number of results on the way from one to the other."""

import queue
import threading


class Halted(Exception):
    """Tells a computing thread that its results are not wanted any more; the reason is another exception."""


class Pipeline:
    """Threads that compute batches, and threads that write what the batches consist of.

    Parameters
    ----------
    write : callable
        ``write(item, *arrays)`` puts one item on disk; called in any order, several at once.
    writers : int
        Threads that write.
    ahead : int
        Deliveries that may be under way, counting those that are being written; more make the computation wait.
    activate : callable, optional
        Called in every thread that is started, before it does anything.
    """

    def __init__(self, write, writers, ahead, activate=None):
        self._write, self._activate = write, activate
        self._waiting = queue.SimpleQueue()
        # Not the library's pools: they forget a thread whose start is interrupted, and do not wait for it.
        self._computers = []
        self._writers = [_Thread(self._serve) for _ in range(writers)]
        self._room = threading.Semaphore(ahead)
        self._taking, self._failing = threading.Lock(), threading.Lock()
        self._error = None
        self._halt = self._drop = False

    def run(self, batches, compute, workers=1):
        """Compute and write all batches; may be called once.

        Parameters
        ----------
        batches : iterable
            Taken one at a time, when a thread is free.
        compute : callable
            Takes a batch and passes results to `deliver`.
        workers : int
            Threads that compute; 1 computes in the calling thread.

        Raises
        ------
        Exception
            The first that was raised anywhere. If it is one of writing, or an interrupt, what waits to be written is
            dropped; after one of computing it is written.
        """
        try:
            self._start(self._writers)
            batches = iter(batches)
            if workers == 1:
                self._compute(batches, compute)
            else:
                self._computers += [_Thread(self._compute, batches, compute, True) for _ in range(workers)]
                self._start(self._computers)
            self._finish()
        except BaseException as error:
            self._fail(error)
            self._finish()
        if self._error is not None:
            raise self._error

    def deliver(self, items, fetched):
        """Hand results over to the writers; waits while too much is under way.

        Parameters
        ----------
        items : sequence
            What `write` calls them; at least one.
        fetched : engine.copies.Fetched
            Their arrays, one entry per item along the first axis; released when all are written.

        Raises
        ------
        Halted
            If nothing more is to be computed.
        """
        self._room.acquire()
        delivery = _Delivery(len(items), fetched, self._room)
        for n, item in enumerate(items):
            self._waiting.put((delivery, n, item))
        if self._halt:
            raise Halted

    def _compute(self, batches, compute, started=False):
        try:
            if started and self._activate:
                self._activate()
            while not self._halt:
                with self._taking:
                    batch = next(batches, self)
                if batch is self:
                    return
                compute(batch)
        except Halted:
            pass
        except BaseException as error:
            self._fail(error)

    @staticmethod
    def _start(threads):
        for thread in threads:
            thread.start()

    def _finish(self):
        """Wait until nothing is computed any more, and then until nothing is left to be written."""
        for thread in self._computers:
            if thread.ident is not None:  # it was started
                thread.wait()
        for _ in self._writers:
            self._waiting.put(None)
        for thread in self._writers:
            if thread.ident is not None:
                thread.wait()

    def _serve(self):
        for task in iter(self._waiting.get, None):
            self._put(*task)

    def _put(self, delivery, n, item):
        try:
            if not self._drop:
                if self._activate:
                    self._activate()
                self._write(item, *(array[n] for array in delivery.fetched.wait()))
        except BaseException as error:
            self._fail(error, True)
        finally:
            delivery.done()

    def _fail(self, error, drop=False):
        """Let no new batch begin and, if asked or at an interrupt, write no more."""
        with self._failing:
            # Being stopped is more than a failure that came before.
            if self._error is None or isinstance(self._error, Exception) and not isinstance(error, Exception):
                self._error = error
        self._drop = self._drop or drop or not isinstance(error, Exception)
        self._halt = True


class _Thread(threading.Thread):
    """A thread whose end can be waited for again after an interrupt; `join` may then wait for ever (Python 3.8)."""

    def __init__(self, work, *arguments):
        super().__init__(daemon=True)
        self._work, self._arguments, self._ended = work, arguments, threading.Event()

    def run(self):
        try:
            self._work(*self._arguments)
        finally:
            self._ended.set()

    def wait(self):
        """Wait for the end. An interrupt that comes just before waiting begins is noticed a little later."""
        while not self._ended.wait(0.1):
            pass


class _Delivery:
    """Results that go back to where they came from when the last of them is written."""

    def __init__(self, count, fetched, room):
        self.fetched, self._left, self._room = fetched, count, room
        self._lock = threading.Lock()

    def done(self):
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            try:
                self.fetched.release()
            finally:
                self._room.release()
