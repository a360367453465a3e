"""Copies to and from a device that is not there, whose streams do nothing until somebody waits for them."""

import ctypes
import threading
import types
import weakref

import numpy as np
import pytest

from tomoexport.engine import copies
from tomoexport.engine.backend import Backend, CudaBackend
from tomoexport.engine.copies import CopyStream, Fetched, Ring
from tomoexport.engine.normalise import normalise_volume, normalise_volumes

SOON = 20.0  # seconds, after which something hangs


class LazyStream:
    """A `CopyStream` of NumPy arrays that copies at the last moment, and fails if buffers or arrays are gone by then.

    What computes is as lazy: `launch` gives an array whose numbers appear when a copy that follows it is made.
    """

    def __init__(self):
        self.lock = threading.RLock()
        self.launched, self.copies, self.busy, self.buffers = [], [], [], []
        self.allowed, self.led = 0, []

    def launch(self, *values):
        """An array that will hold `values`, when it is computed."""
        array = np.full(len(values), np.nan, np.float32)
        with self.lock:
            self.launched.append((weakref.ref(array), values))
        return array

    def empty(self, shape, dtype):
        return np.empty(shape, dtype)

    contiguous = staticmethod(np.ascontiguousarray)

    def buffer(self, nbytes):
        self.buffers.append(np.empty(nbytes, np.uint8))
        return self.buffers[-1]

    def follow(self):
        self.allowed = len(self.launched)

    def lead(self, mark):
        self.led.append(mark)

    def get(self, array, host):
        with self.lock:
            self._take(host)
            host[:] = 255  # what is looked at too early is no number
            self.copies.append((weakref.ref(array), host, self.allowed))

    def put(self, host, array, offset):
        with self.lock:
            self._take(host)
            self.copies.append((host, array.reshape(-1).view(np.uint8)[offset:offset + host.nbytes], None))

    def _take(self, host):
        assert not any(np.shares_memory(host, other) for other in self.busy), "a buffer is used before its time"
        self.busy.append(host)

    def mark(self):
        count = len(self.copies)
        return types.SimpleNamespace(synchronize=lambda: self._until(count))

    def _until(self, n):
        with self.lock:
            for k in range(n):
                if self.copies[k] is None:
                    continue
                source, target, allowed = self.copies[k]
                if allowed is not None:
                    array = source()
                    assert array is not None, "the device used the memory again before it was copied"
                    for reference, values in self.launched[:allowed]:
                        if reference() is array:
                            array[:] = values
                    source = array.reshape(-1).view(np.uint8)
                target[:] = source
                self.busy = [b for b in self.busy if b is not source and b is not target]
                self.copies[k] = None


@pytest.fixture
def stream():
    return LazyStream()


def test_results_arrive(stream):
    ring = Ring(stream, 2)
    for n in range(7):
        fetched = ring.fetch(stream.launch(n, n + 1), stream.launch(*range(n + 3)))
        first, second = fetched.wait()
        assert first.tolist() == [n, n + 1] and second.tolist() == list(range(n + 3))
        fetched.release()


def test_buffers_are_used_again_and_grow(stream):
    ring = Ring(stream, 2)
    for count in (10, 10, 10, 10, 500, 500, 10, 10):
        ring.fetch(stream.launch(*range(count))).release()
    assert [b.size for b in stream.buffers] == [256, 256, 2048, 2048]


def test_copies_are_under_way_while_the_next_is_computed(stream):
    ring = Ring(stream, 3)
    away = [ring.fetch(stream.launch(n)) for n in range(3)]
    assert len([c for c in stream.copies if c]) == 3, "somebody waited"
    assert [f.wait()[0][0] for f in reversed(away)] == [2, 1, 0]


def test_a_full_ring_waits_for_a_release(stream):
    ring, third = Ring(stream, 2), []
    away = [ring.fetch(stream.launch(n)) for n in range(2)]
    thread = threading.Thread(target=lambda: third.append(ring.fetch(stream.launch(2))))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive() and away[0].wait()[0][0] == 0
    away[0].release()
    thread.join(SOON)
    assert third[0].wait()[0][0] == 2 and away[1].wait()[0][0] == 1


def test_a_buffer_nobody_waited_for_is_not_used_before_it_has_arrived(stream):
    ring = Ring(stream, 1)
    ring.fetch(stream.launch(1, 2)).release()
    assert ring.fetch(stream.launch(3)).wait()[0][0] == 3


def test_threads_may_wait_together(stream):
    fetched, seen = Ring(stream, 1).fetch(stream.launch(5)), []
    threads = [threading.Thread(target=lambda: seen.append(fetched.wait()[0][0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert seen == [5] * 4


def test_draining_frees_the_device(stream):
    ring, array = Ring(stream, 2), stream.launch(4)
    gone, fetched = weakref.ref(array), ring.fetch(array)
    del array
    assert gone() is not None
    ring.drain()
    assert gone() is None and fetched.wait()[0][0] == 4
    fetched.release()
    ring.drain()


def test_a_copy_that_cannot_begin_leaves_the_ring_whole(stream):
    ring, get = Ring(stream, 1), stream.get
    stream.get = lambda *a: (_ for _ in ()).throw(RuntimeError("no"))
    with pytest.raises(RuntimeError):
        ring.fetch(stream.launch(1))
    stream.get = get
    assert ring.fetch(stream.launch(2)).wait()[0][0] == 2


@pytest.mark.parametrize("count", [0, 3, 250, 251, 2600])
def test_upload_through_two_small_buffers(stream, monkeypatch, count):
    monkeypatch.setattr(copies, "CHUNK", 1000)
    array = np.arange(2 * count, dtype=np.float32).reshape(2, count)
    made = Ring(stream, 1).upload(array)
    assert made.shape == array.shape and made.dtype == array.dtype and (made == array).all()
    assert not stream.busy and len(stream.led) == (count > 0) and sum(b.size for b in stream.buffers) <= 2000


def test_nothing_is_copied_on_the_cpu():
    copies, array = Backend("cpu").copies(3), np.arange(3)
    fetched = copies.fetch(array, array)
    assert copies.upload(array) is array and all(a is array for a in fetched.wait())
    fetched.release()
    copies.drain()


# --------------------------------------------------------------------- what is asked of CuPy, with its names and units

class Cupy:
    """NumPy with as much of CuPy as copies need."""

    def __init__(self, pinned=True):
        log = self.log = []

        class Stream:
            def __init__(self, non_blocking=False):
                self.non_blocking = non_blocking

            def record(self, event=None):
                return event or ("compute" if not self.non_blocking else "copy")

            def wait_event(self, event):
                log.append(("copy" if self.non_blocking else "compute", "waits for", event))

        class CUDARuntimeError(RuntimeError):
            pass

        def alloc(nbytes):
            if not pinned:
                raise CUDARuntimeError("cudaErrorMemoryAllocation")
            return bytearray(nbytes)

        self.cuda = types.SimpleNamespace(
            Stream=Stream, Event=lambda block, disable_timing: ("event", block, disable_timing),
            alloc_pinned_memory=alloc, get_current_stream=Stream,
            runtime=types.SimpleNamespace(CUDARuntimeError=CUDARuntimeError))

    class Array:
        """A device array: its bytes can only be reached by copies."""

        class Pointer:
            def __init__(self, array, offset=0):
                self.array, self.offset = array, offset

            def __add__(self, n):
                return type(self)(self.array, self.offset + n)

            def copy_to_host_async(self, mem, size, stream):
                assert isinstance(mem, ctypes.c_void_p) and stream.non_blocking
                ctypes.memmove(mem, self.array.ctypes.data + self.offset, size)

            def copy_from_host_async(self, mem, size, stream):
                assert isinstance(mem, ctypes.c_void_p) and stream.non_blocking
                ctypes.memmove(self.array.ctypes.data + self.offset, mem, size)

        def __init__(self, array):
            self.host, self.nbytes, self.data = array, array.nbytes, self.Pointer(array)


@pytest.mark.parametrize("pinned", [True, False])
def test_what_is_asked_of_cupy(pinned):
    xp = Cupy(pinned)
    stream = CopyStream(xp)
    device, host = xp.Array(np.arange(6, dtype=np.uint8)), stream.buffer(4)
    assert host.dtype == np.uint8 and host.size == 4 and host.flags.writeable
    host[:] = 9
    stream.put(host[:3], device, 2)
    assert device.host.tolist() == [0, 1, 9, 9, 9, 5]
    stream.get(xp.Array(device.host[1:4].copy()), host[:3])
    assert host.tolist() == [1, 9, 9, 9]
    stream.follow()
    mark = stream.mark()
    stream.lead(mark)
    assert mark == ("event", True, True)  # a thread that waits for it sleeps
    assert xp.log == [("copy", "waits for", "compute"), ("compute", "waits for", mark)]
    assert isinstance(CudaBackend("cuda", xp).copies(2), Ring)


# ------------------------------------------------------------------------------------------------ work on the device

def test_volumes_are_normalised_as_one_by_one(rng):
    volumes = (rng.standard_normal((4, 12, 12, 12)) * 3 + 100).astype(np.float32)
    volumes[1] = 7  # no contrast
    volumes[2, 4:8, 4:8, 4:8] += 1000
    expected = volumes.copy()
    for volume in expected:
        normalise_volume(volume, 4.5)
    normalise_volumes(volumes, 4.5, Backend("cpu"))
    assert np.abs(volumes - expected).max() < 1e-4 and (volumes[1] == 7).all()
    with pytest.raises(ValueError, match="fills the box"):
        normalise_volumes(volumes, 40, Backend("cpu"))


def test_fetched_without_a_ring():
    fetched = Fetched([np.arange(2)])
    assert fetched.wait()[0].tolist() == [0, 1]
    fetched.release()
