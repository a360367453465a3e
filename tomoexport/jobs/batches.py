"""Batches of particles on a GPU: as many as fit, fewer when they turn out not to."""

import logging

from ..errors import UnitError
from .plan import size

log = logging.getLogger(__name__)

GPU_WRITERS = 4
CUDA_BYTES = 400 << 20  # of the host, for CuPy and the driver
SHARE = 0.25  # of the free device memory that one batch may take; transforms need as much again for themselves


def uploaded(images, copies, backend):
    """Copy tilt images to the device.

    Parameters
    ----------
    images : ndarray `(T, h, w)`
    copies : engine.copies.Ring or engine.copies.Direct
    backend : Backend

    Returns
    -------
    ndarray or cupy.ndarray

    Raises
    ------
    UnitError
        If the device's memory does not hold them.
    """
    try:
        return copies.upload(images)
    except Exception as error:
        if not backend.is_out_of_memory(error):
            raise
        need = "the images need %s, %s are free" % (size(images.nbytes), size(backend.free_bytes()))
        raise UnitError("device %d" % backend.device, need, "Take a larger pixel size or --device cpu") from error


def batch_size(backend, bytes_per_item):
    """How many items a device takes at once.

    Parameters
    ----------
    backend : Backend
    bytes_per_item : int
        Device memory of one item.

    Returns
    -------
    int
        1 on the CPU, where every thread owns one particle.
    """
    return max(1, int(SHARE * backend.free_bytes() / bytes_per_item)) if backend.on_gpu else 1


class Batches:
    """Cuts items into batches that a device takes at once, and learns from those that it did not.

    The sizes are powers of two: few sizes need few plans of Fourier transforms, which are kept by size, and what is
    left at the end needs no filling up.

    Parameters
    ----------
    backend : Backend
    bytes_per_item : int
        Device memory of one item.
    most : int, optional
        Largest batch.
    """

    def __init__(self, backend, bytes_per_item, most=None):
        self._backend, self._bytes = backend, bytes_per_item
        self.size = batch_size(backend, bytes_per_item)
        if most is not None:
            self.size = max(1, min(self.size, most))

    def split(self, items):
        """Cut items into batches, each of the size that is right when it is asked for.

        Parameters
        ----------
        items : ndarray `(N,)`

        Yields
        ------
        ndarray
        """
        while len(items):
            n = 1 << (min(self.size, len(items)).bit_length() - 1)
            yield items[:n]
            items = items[n:]

    def run(self, work, items, make_room=None):
        """Work on a batch as `run_halving` does; later ones will be no larger than what fitted."""
        fitted = run_halving(work, items, self._backend, self._bytes, make_room)
        if fitted < len(items):
            self.size = min(self.size, fitted)


def run_halving(work, items, backend, bytes_per_item, make_room=None):
    """Work on a batch; halve it and try again where the device runs out of memory.

    Parameters
    ----------
    work : callable
        Takes a part of ``items``; may be called again with a part of what it failed with.
    items : ndarray `(N,)`
    backend : Backend
    bytes_per_item : int
        For the message.
    make_room : callable, optional
        Called before another try: lets go of device memory.

    Returns
    -------
    int
        Items of the largest part that fitted.

    Raises
    ------
    UnitError
        If a single item does not fit.
    """
    try:
        work(items)
        return len(items)
    except Exception as error:
        if not backend.is_out_of_memory(error):
            raise
        if len(items) == 1:
            _release(backend, make_room)
            raise UnitError("device %d" % backend.device, "one particle needs about %s, %s are free" % (
                size(bytes_per_item), size(backend.free_bytes())), "Take a smaller box or --device cpu") from error
    # Out here the exception is gone, which holds the arrays of the attempt.
    _release(backend, make_room)
    half = len(items) // 2
    log.warning("the GPU ran out of memory at %d particles; going on with %d", len(items), half)
    return max([run_halving(work, part, backend, bytes_per_item, make_room) for part in (items[:half], items[half:])])


def _release(backend, make_room):
    if make_room is not None:
        make_room()
    backend.release()
