"""Copies between host and device that go on while the device computes."""

import ctypes
import queue
import threading
from typing import TYPE_CHECKING, Any, Callable, List, Optional, Sequence, Set, Tuple

import numpy as np
from numpy.typing import DTypeLike

from .arrays import Array

if TYPE_CHECKING:
    from .backend import Backend

CHUNK = 32 << 20  # bytes of one of the two buffers through which inputs go to the device
ALIGNMENT = 256  # bytes


class Direct:
    """No copies where host and device are one.

    Parameters
    ----------
    backend : Backend
    """

    def __init__(self, backend: "Backend") -> None:
        self._backend = backend

    def upload(self, array: np.ndarray) -> Array:
        """See `Ring.upload`."""
        return self._backend.to_device(array)

    def fetch(self, *arrays: Array) -> "Fetched":
        """See `Ring.fetch`."""
        return Fetched([self._backend.to_host(a) for a in arrays])

    def drain(self) -> None:
        """See `Ring.drain`."""


class Ring:
    """Results go to the host through a few pinned buffers, on a stream of their own.

    Parameters
    ----------
    stream : CopyStream
    slots : int
        Buffers. One is filled while the host works on what is in the others.
    """

    def __init__(self, stream: "CopyStream", slots: int) -> None:
        self._free: queue.Queue[_Slot]
        self._away: Set[Fetched]
        self._stream, self._free = stream, queue.Queue()
        self._lock, self._away = threading.Lock(), set()
        for _ in range(slots):
            self._free.put(_Slot())

    def upload(self, array: np.ndarray) -> Array:
        """Copy an array to the device; what is launched afterwards in the calling thread finds it there.

        Parameters
        ----------
        array : ndarray

        Returns
        -------
        cupy.ndarray
        """
        stream, source = self._stream, np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        out = stream.empty(array.shape, array.dtype)
        if not source.size:
            return out
        marks: List[Any]
        buffers, marks = [stream.buffer(min(CHUNK, source.size)) for _ in range(2)], [None, None]
        stream.follow()  # the memory may have been in use until now
        for n, start in enumerate(range(0, source.size, CHUNK)):
            k = n % 2
            if marks[k] is not None:
                marks[k].synchronize()
            part = source[start:start + CHUNK]
            buffers[k][:part.size] = part
            stream.put(buffers[k][:part.size], out, start)
            marks[k] = stream.mark()
        stream.lead(marks[k])
        for mark in marks:
            if mark is not None:
                mark.synchronize()  # the buffers may go
        return out

    def fetch(self, *arrays: Array) -> "Fetched":
        """Begin to copy results to the host, after what the calling thread has launched; waits for a free buffer.

        Parameters
        ----------
        *arrays : cupy.ndarray
            Kept until they are copied.

        Returns
        -------
        Fetched
        """
        slot = self._free.get()
        try:
            arrays = [self._stream.contiguous(a) for a in arrays]  # type: ignore[assignment]  # no tuple any more
            needed = sum(_aligned(a.nbytes) for a in arrays)
            if slot.buffer is None or slot.buffer.size < needed:
                slot.buffer = None  # before there are two
                slot.buffer = self._stream.buffer(needed)
            self._stream.follow()
            hosts, start = [], 0
            for array in arrays:
                host = slot.buffer[start:start + array.nbytes]
                self._stream.get(array, host)
                hosts.append(host.view(array.dtype).reshape(array.shape))
                start += _aligned(array.nbytes)
            fetched = Fetched(hosts, self._stream.mark(), arrays, lambda: self._returned(slot, fetched))
        except BaseException:
            self._free.put(slot)
            raise
        with self._lock:
            self._away.add(fetched)
        return fetched

    def _returned(self, slot: "_Slot", fetched: "Fetched") -> None:
        with self._lock:
            self._away.discard(fetched)
        self._free.put(slot)

    def drain(self) -> None:
        """Wait for the copies under way, so that the device's memory of what they copy is free."""
        with self._lock:
            away = list(self._away)
        for fetched in away:
            fetched.wait()


class _Slot:
    """A place in the ring; its buffer grows when needed."""

    buffer: Optional[np.ndarray] = None


def _aligned(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


class Fetched:
    """Arrays that are on their way to the host.

    Parameters
    ----------
    hosts : list of ndarray
        Where they will be.
    mark : CUDA event, optional
        Comes when they are there.
    sources : list of cupy.ndarray
        What is copied.
    give_back : callable, optional
        Called when the hosts are not needed any more.
    """

    def __init__(self, hosts: List[np.ndarray], mark: Any = None, sources: Sequence[Array] = (),
                 give_back: Optional[Callable[[], None]] = None) -> None:
        self._hosts, self._mark, self._sources, self._give_back = hosts, mark, sources, give_back
        self._lock = threading.Lock()

    def wait(self) -> List[np.ndarray]:
        """The arrays, when they have arrived; threads may wait together.

        Returns
        -------
        list of ndarray
            Valid until `release`.
        """
        with self._lock:
            if self._mark is not None:
                self._mark.synchronize()
                # Not earlier: the device would use their memory again.
                self._mark, self._sources = None, ()
            return self._hosts

    def release(self) -> None:
        """Give the buffer back, also of results that nobody waited for; to be called once."""
        self.wait()
        self._hosts = None  # type: ignore[assignment]  # nobody may use them now
        if self._give_back is not None:
            self._give_back()


class CopyStream:
    """A CUDA stream for copies beside the one that computes, and all that copies need of CuPy.

    Parameters
    ----------
    xp : module
        cupy.
    """

    def __init__(self, xp: Any) -> None:
        self._xp = xp
        self._stream = xp.cuda.Stream(non_blocking=True)

    def empty(self, shape: Tuple[int, ...], dtype: DTypeLike) -> Array:
        """A device array of any content."""
        return self._xp.empty(shape, dtype)

    def contiguous(self, array: Array) -> Array:
        """The device array without gaps."""
        return self._xp.ascontiguousarray(array)

    def buffer(self, nbytes: int) -> np.ndarray:
        """Pinned host memory as an array of bytes; ordinary memory, from which copies are slower, if there is none."""
        try:
            memory = self._xp.cuda.alloc_pinned_memory(nbytes)
        except self._xp.cuda.runtime.CUDARuntimeError:
            return np.empty(nbytes, np.uint8)
        return np.frombuffer(memory, np.uint8, nbytes)

    def follow(self) -> None:
        """Let later copies wait for what the calling thread has launched."""
        self._stream.wait_event(self._xp.cuda.get_current_stream().record())

    def lead(self, mark: Any) -> None:
        """Let what the calling thread launches later wait for a mark."""
        self._xp.cuda.get_current_stream().wait_event(mark)

    def get(self, array: Array, host: np.ndarray) -> None:
        """Copy a device array to bytes of the host."""
        array.data.copy_to_host_async(ctypes.c_void_p(host.ctypes.data), array.nbytes, self._stream)

    def put(self, host: np.ndarray, array: Array, offset: int) -> None:
        """Copy bytes of the host to a device array from a byte offset on."""
        (array.data + offset).copy_from_host_async(ctypes.c_void_p(host.ctypes.data), host.nbytes, self._stream)

    def mark(self) -> Any:
        """An event that comes when the copies so far are done; a thread that waits for it sleeps."""
        return self._stream.record(self._xp.cuda.Event(block=True, disable_timing=True))
