"""Batches of particles on a GPU: as many as fit, fewer when they turn out not to."""

import logging

from ..errors import UnitError
from .plan import size

log = logging.getLogger(__name__)

SHARE = 0.25  # of the free device memory that one batch may take; transforms need as much again for themselves


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


def run_halving(work, items, backend, bytes_per_item):
    """Work on a batch; halve it and try again where the device runs out of memory.

    Parameters
    ----------
    work : callable
        Takes a part of ``items``; may be called again with a part of what it failed with.
    items : ndarray `(N,)`
    backend : Backend
    bytes_per_item : int
        For the message.

    Raises
    ------
    UnitError
        If a single item does not fit.
    """
    try:
        work(items)
        return
    except Exception as error:
        if not backend.is_out_of_memory(error):
            raise
        backend.release()
        if len(items) == 1:
            raise UnitError("device %d" % backend.device, "one particle needs about %s, %s are free" % (
                size(bytes_per_item), size(backend.free_bytes())), "Take a smaller box or --device cpu") from error
    half = len(items) // 2
    log.warning("the GPU ran out of memory at %d particles; going on with %d", len(items), half)
    run_halving(work, items[:half], backend, bytes_per_item)
    run_halving(work, items[half:], backend, bytes_per_item)
