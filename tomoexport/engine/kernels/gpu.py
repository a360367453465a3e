"""The kernels for CUDA: the functions of `reference` on CuPy arrays, from the source in `kernels.cu`.

Arrays are allocated with `xp` and launched with `launch`, so that the tests can put a compiled CPU build of the same
source behind the same host code.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np

from . import HALO

SOURCE = Path(__file__).with_name("kernels.cu")
THREADS = 256
BLOCKS = 65535


class CupyRuntime:
    """Allocates on the GPU and launches compiled kernels there."""

    def __init__(self):
        import cupy
        self.xp = cupy
        self._modules = {}

    def launch(self, name, count, *arguments):
        """Launch a kernel.

        Parameters
        ----------
        name : str
            Its name in `kernels.cu`.
        count : int
            Items it works on; decides the number of blocks.
        *arguments : cupy.ndarray or int
            Ints become 32-bit.
        """
        device = self.xp.cuda.Device().id
        if device not in self._modules:
            self._modules[device] = self.xp.RawModule(code=SOURCE.read_text(), options=("--std=c++11",))
        blocks = max(1, min(BLOCKS, -(-int(count) // THREADS)))
        self._modules[device].get_function(name)((blocks,), (THREADS,), tuple(
            np.int32(a) if isinstance(a, int) else a for a in arguments))


@lru_cache(maxsize=1)
def runtime():
    """The runtime in use; tests replace it.

    Returns
    -------
    CupyRuntime
    """
    return CupyRuntime()


def crop(stack, origin, size):
    """See `reference.crop`."""
    run = runtime()
    (n, t), (h, w) = origin.shape[:2], stack.shape[1:]
    out = run.xp.empty((n, t, size, size), np.float32)
    run.launch("crop", out.size, stack, origin, out, n, t, h, w, size)
    return out


def modulate(data, phase, slope, depth, shift, envelope, visible, mode):
    """See `reference.modulate`."""
    run = runtime()
    n, t, s, _ = data.shape
    out = run.xp.empty(data.shape, np.float32)
    run.launch("modulate", out.size, data, phase, slope, depth, shift, envelope, visible, out, n, t, s, mode)
    return out


def insert_slices(data, weight, matrix, table, grid):
    """See `reference.insert_slices`."""
    run = runtime()
    n, t, b, _ = data.shape
    if table.shape[1] != 4:
        raise ValueError("kernels of %d cells are not compiled; use 4" % table.shape[1])
    side = grid + 2 * HALO
    out = run.xp.zeros((n, side, side, grid // 2 + 1 + 2 * HALO, 4), np.float32)
    run.launch("insert_slices", data.size, data, weight, matrix, table, out, n, t, b, len(matrix),
               table.shape[0] - 1, grid)
    return out


def fold_grid(cells, grid):
    """See `reference.fold_grid`."""
    run = runtime()
    shape = (len(cells), grid, grid, grid // 2 + 1)
    data, weight = run.xp.empty(shape, np.complex64), run.xp.empty(shape, np.complex64)
    run.launch("fold_grid", data.size, cells, data, weight, len(cells), grid)
    return data, weight


def backproject(rows, position, slab, group, n_groups, nz, nx):
    """See `reference.backproject`."""
    run = runtime()
    t, k, u, ny = rows.shape
    out = run.xp.empty((n_groups, nz, nx, ny), np.float32)
    run.launch("backproject", nz * nx * ny, rows, position, slab, group, out, t, k, u, ny, nz, nx, n_groups)
    return out


def backproject_general(images, matrix, slab, group, n_groups, shape):
    """See `reference.backproject_general`."""
    run = runtime()
    t, k, h, w = images.shape
    nz, ny, nx = shape
    out = run.xp.empty((n_groups, nz, ny, nx), np.float32)
    run.launch("backproject_general", nz * ny * nx, images, matrix, slab, group, out, t, k, h, w, nz, ny, nx, n_groups)
    return out
