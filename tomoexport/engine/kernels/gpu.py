"""The kernels for CUDA: the functions of `reference` on CuPy arrays, from the source in `kernels.cu`.

Arrays are allocated with `xp` and launched with `launch`, so that the tests can put a compiled CPU build of the same
source behind the same host code.  A kernel sees memory, not an array: what it reads is copied first where the array has
gaps or another order of axes, as CuPy's transforms along any axis but the last return it.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from ..arrays import Array
from . import HALO

SOURCE = Path(__file__).with_name("kernels.cu")
THREADS = 256
BLOCKS = 65535


class Runtime:
    """Launches kernels on arrays whose memory they may walk through.

    Parameters
    ----------
    xp : module
        cupy, or numpy in tests.
    """

    def __init__(self, xp: Any) -> None:
        self.xp = xp

    def launch(self, name: str, count: int, read: Sequence[Array], written: Sequence[Array], *numbers: int) -> None:
        """Launch a kernel.

        Parameters
        ----------
        name : str
            Its name in `kernels.cu`.
        count : int
            Items it works on; decides the number of blocks.
        read : sequence of arrays
            Its first arguments; copied where they are not contiguous.
        written : sequence of arrays
            Its next arguments, contiguous.
        *numbers : int
            The rest; they become 32-bit.

        Raises
        ------
        ValueError
            If an array that is written has gaps: its copy would be lost.
        """
        if not all(a.flags.c_contiguous for a in written):
            raise ValueError("%s would write into an array with gaps" % name)
        self.start(name, int(count), [self.xp.ascontiguousarray(a) for a in read] + list(written),
                   [int(n) for n in numbers])

    def start(self, name: str, count: int, arrays: List[Array], numbers: List[int]) -> None:
        """Start a kernel on contiguous arrays."""
        raise NotImplementedError


class CupyRuntime(Runtime):
    """Allocates on the GPU and launches compiled kernels there."""

    def __init__(self) -> None:
        import cupy
        super().__init__(cupy)
        self._modules: Dict[int, Any] = {}

    def start(self, name: str, count: int, arrays: List[Array], numbers: List[int]) -> None:
        """See `Runtime.start`."""
        device = self.xp.cuda.Device().id
        if device not in self._modules:
            self._modules[device] = self.xp.RawModule(code=SOURCE.read_text(), options=("--std=c++11",))
        blocks = max(1, min(BLOCKS, -(-count // THREADS)))
        self._modules[device].get_function(name)((blocks,), (THREADS,), (*arrays, *map(np.int32, numbers)))


@lru_cache(maxsize=1)
def runtime() -> CupyRuntime:
    """The runtime in use; tests replace it.

    Returns
    -------
    CupyRuntime
    """
    return CupyRuntime()


def crop(stack: Array, origin: Array, size: int) -> Array:
    """See `reference.crop`."""
    run = runtime()
    (n, t), (h, w) = origin.shape[:2], stack.shape[1:]
    out = run.xp.empty((n, t, size, size), np.float32)
    run.launch("crop", out.size, (stack, origin), (out,), n, t, h, w, size)
    return out


def modulate(data: Array, phase: Array, slope: Array, depth: Array, shift: Array, envelope: Array, visible: Array,
             mode: int) -> Array:
    """See `reference.modulate`."""
    run = runtime()
    n, t, s, _ = data.shape
    if not data.flags.c_contiguous:
        raise ValueError("modulate would change an array with gaps")
    out = run.xp.empty(data.shape, np.float32)
    run.launch("modulate", out.size, (data, phase, slope, depth, shift, envelope, visible), (out,), n, t, s, mode)
    return out


def insert_slices(data: Array, weight: Array, matrix: Array, table: Array, grid: int) -> Array:
    """See `reference.insert_slices`."""
    run = runtime()
    n, t, b, _ = data.shape
    if table.shape[1] != 4:
        raise ValueError("kernels of %d cells are not compiled; use 4" % table.shape[1])
    side = grid + 2 * HALO
    out = run.xp.zeros((n, side, side, grid // 2 + 1 + 2 * HALO, 4), np.float32)
    run.launch("insert_slices", data.size, (data, weight, matrix, table), (out,), n, t, b, len(matrix),
               table.shape[0] - 1, grid)
    return out


def modulate_parts(data: Array, phase: Array, slope: Array, depth: Array, shift: Array, envelope: Array, visible: Array,
                   mode: int) -> Array:
    """See `reference.modulate_parts`."""
    run = runtime()
    n, t, s, sh = data.shape
    out = run.xp.empty((2, sh, 3, n, t, sh), np.float32)
    run.launch("modulate_parts", n * t * sh * sh, (data, phase, slope, depth, shift, envelope, visible), (out,),
               n, t, s, mode)
    return out


def join_parts(parts: Array, sign: Array, mask: Array) -> Tuple[Array, Array]:
    """See `reference.join_parts`."""
    run = runtime()
    _, bh, _, n, t, _ = parts.shape
    shape = (n, t, 2 * (bh - 1), bh)
    data, transfer = run.xp.empty(shape, np.complex64), run.xp.empty(shape, np.float32)
    run.launch("join_parts", data.size, (parts, sign, mask), (data, transfer), n * t, 2 * (bh - 1))
    return data, transfer


def circle(rows: Array, total: Array, radius: float, edge: float, size: int, rolled: bool = False,
           scale: float = 1.0) -> Array:
    """See `reference.circle`."""
    run = runtime()
    n, t, count, s = rows.shape
    axis = run.xp.arange(s, dtype=np.float32) - s // 2
    r = run.xp.sqrt(axis[:, None] ** 2 + axis ** 2)
    part = slice(s // 2 - count // 2, s // 2 - count // 2 + count)
    fall = run.xp.clip((r[part] - np.float32(radius - edge)) / np.float32(edge), 0, 1)
    mask = np.float32(scale) * (0.5 + 0.5 * run.xp.cos(np.float32(np.pi) * fall))
    inside = (rows * (r[part] <= radius)).sum(axis=(2, 3))
    mean = (total - inside) / run.xp.maximum((r > radius).sum(), np.float32(1))
    out = run.xp.empty((n, t, size, size), np.float32)
    run.launch("circle", out.size, (rows, mask.astype(np.float32), mean.astype(np.float32)), (out,), n * t, count, s,
               size, size // 2 if rolled else 0)
    return out


def insert_linear(data: Array, weight: Array, matrix: Array, limit: Array, grid: int) -> Array:
    """See `reference.insert_linear`."""
    run = runtime()
    n, t, b, _ = data.shape
    out = run.xp.zeros((n, grid + 4, grid + 4, grid // 2 + 2, 4), np.float32)
    run.launch("insert_linear", data.size, (data, weight, matrix, limit), (out,), n, t, b, len(matrix), grid)
    return out


def fold_linear(cells: Array, grid: int, share: float = 1.0) -> Tuple[Array, Array, Array]:
    """See `reference.fold_linear`."""
    run = runtime()
    shape = (len(cells), grid, grid, grid // 2 + 1)
    data, weight, count = (run.xp.empty(shape, kind) for kind in (np.complex64, np.float32, np.float32))
    run.launch("fold_linear", data.size, (cells,), (data, weight, count), len(cells), grid)
    weight *= np.float32(share)
    count *= np.float32(share)
    return data, weight, count


def fold_grid(cells: Array, grid: int) -> Tuple[Array, Array]:
    """See `reference.fold_grid`."""
    run = runtime()
    shape = (len(cells), grid, grid, grid // 2 + 1)
    data, weight = run.xp.empty(shape, np.complex64), run.xp.empty(shape, np.float32)
    run.launch("fold_grid", data.size, (cells,), (data, weight), len(cells), grid)
    return data, weight


def spread_rows(rows: Array, start: Array, source: Array, factor: Array, used: int) -> Array:
    """See `reference.spread_rows`."""
    run = runtime()
    n, count, length = rows.shape
    out = run.xp.empty((n, len(start) - 1, length), np.float32)
    run.launch("spread_rows", out.size, (rows, start, source, factor), (out,), n, count, len(start) - 1, length, used)
    return out


def weigh(transform: Array, step: Array, gain_y: Array, gain_x: Array, tables: Array, scale: Array, direction: Array,
          phase: Array, depth: Array, mode: int, shape: Sequence[int]) -> Array:
    """See `reference.weigh`."""
    run = runtime()
    (h, wh), out_wh = transform.shape, shape[1] // 2 + 1
    out = run.xp.zeros((len(depth), shape[0], out_wh), np.complex64)
    run.launch("weigh", transform.size, (transform, step, gain_y, gain_x, tables, scale, direction, phase, depth),
               (out,), h, wh, tables.shape[1], len(depth), mode, shape[0], out_wh, len(direction))
    return out


def resample(images: Array, origin: Array, step: Array, table: Array, out: Array) -> Array:
    """See `reference.resample`."""
    run = runtime()
    n, h, w = images.shape
    samples = out if out.flags.c_contiguous else run.xp.empty(out.shape, np.float32)
    run.launch("resample", out.size, (images, origin, step, table), (samples,), n, h, w, len(table) - 1, out.shape[1],
               out.shape[2])
    if samples is not out:
        out[:] = samples
    return out


def backproject(rows: Array, position: Array, slab: Array, group: Array, n_groups: int, nz: int, nx: int) -> Array:
    """See `reference.backproject`."""
    run = runtime()
    t, k, u, ny = rows.shape
    out = run.xp.empty((n_groups, nz, nx, ny), np.float32)
    run.launch("backproject", nz * nx * ny, (rows, position, slab, group), (out,), t, k, u, ny, nz, nx, n_groups)
    return run.xp.ascontiguousarray(out.transpose(0, 1, 3, 2))


def project(volume: Array, position: Array, n_u: int) -> Array:
    """See `reference.project`."""
    run = runtime()
    nz, ny, nx = volume.shape
    rows = run.xp.zeros((len(position), n_u, ny), np.float32)
    run.launch("project", volume.size, (volume.transpose(0, 2, 1), position), (rows,), len(position), n_u, ny, nz, nx)
    return rows


def backproject_sheared(rows: Array, position: Array, offset: Array, slab: Array, group: Array, n_groups: int,
                        shape: Sequence[int]) -> Array:
    """See `reference.backproject_sheared`."""
    run = runtime()
    t, k, u, f, n_y = rows.shape
    nz, ny, nx = (int(n) for n in shape)
    out = run.xp.empty((n_groups, nz, nx, ny), np.float32)
    run.launch("backproject_sheared", nz * nx * ny, (rows, position, offset, slab, group), (out,), t, k, u, f, n_y,
               nz, nx, ny, n_groups)
    return run.xp.ascontiguousarray(out.transpose(0, 1, 3, 2))


def project_sheared(volume: Array, position: Array, offset: Array, extent: Sequence[int]) -> Array:
    """See `reference.project_sheared`."""
    run = runtime()
    nz, ny, nx = volume.shape
    u, f, n_y = (int(n) for n in extent)
    rows = run.xp.zeros((len(position), u, f, n_y), np.float32)
    run.launch("project_sheared", volume.size, (volume.transpose(0, 2, 1), position, offset), (rows,), len(position), u,
               f, n_y, nz, nx, ny)
    return rows
