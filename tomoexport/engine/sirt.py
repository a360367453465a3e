"""SIRT: a volume whose projections come to be the images, by simultaneous steps.

P. Gilbert, J. Theor. Biol. 36 (1972) 105.  Projection and back-projection are each other's adjoint to rounding, one row
per voxel, so every step lessens the weighted difference between images and projections.
"""

from typing import Any, Callable, Iterable, List, Optional

import numpy as np

from .arrays import Array
from .backend import Backend
from .kernels import implementation
from .rows import Lattice


def refine(volume: Array, rows: Array, covered: Array, lattice: Lattice, tilts: np.ndarray, weight: np.ndarray,
           y: float, iterations: int, backend: Backend, progress: Optional[Callable[[], Any]] = None,
           each: Optional[Callable[..., Iterable[Any]]] = None) -> Array:
    """Bring a block of a volume closer to its tilt images.

    Parameters
    ----------
    volume : ndarray `(nz, ny, nx)` float32
        To start from; on the device. Changed in place. All of the volume, unless its columns are straight.
    rows : ndarray `(T, K, U, F, Y)` float32
        Images on the rows of the block, K versions for K slabs of depth; on the device.
    covered : ndarray `(T, U, F, Y)` of bool
        Samples that lie within the images; the others say nothing.
    lattice : rows.Lattice
        Of all tilts.
    tilts : ndarray `(T,)` of int
        Those of the rows.
    weight : ndarray `(T,)` float
        How much each tilt counts.
    y : float
        Middle of the block, voxels: slabs of depth are cut there.
    iterations : int
    backend : Backend
    progress : callable, optional
        Called after every iteration.
    each : callable, optional
        A `map` that works on several items at once, for tilts and sections.

    Returns
    -------
    ndarray `(nz, ny, nx)` float32
        The volume.

    Notes
    -----
    ``x += C A^T R (b - A x)`` with C the inverse of the weights that a voxel receives, and R a tilt's weight over the
    longest way of its beams through the volume: beams that leave it by its sides, where the specimen goes on, count
    in proportion to their length.
    """
    kernels, xp = implementation(backend), backend.xp
    send = backend.to_device
    nz, ny, nx = volume.shape
    position, offset, slab = lattice.position[tilts], lattice.offset[tilts], lattice.slab[tilts].copy()
    slab[:, 0] += lattice.slab_y[tilts] * y
    shape, each = rows.shape[2:], each or map
    parts = backend.threads if each is not map else 1

    def forward(x: Array) -> Array:
        def some(t: slice) -> Array:
            if lattice.straight:
                return kernels.project(x, send(position[t]), shape[0])[:, :, None]
            return kernels.project_sheared(x, send(position[t]), send(offset[t]), shape)
        return _joined(each(some, _slices(len(tilts), parts)), xp)

    def backward(r: Array) -> Array:
        group = send(np.zeros(len(tilts), np.int32))

        def some(z: slice) -> Array:
            start = [a.copy() for a in (position, offset, slab)]
            for a in start:
                a[:, 0] += z.start * a[:, 2]
            place, shift, version = (send(a) for a in start)
            if lattice.straight:
                return kernels.backproject(r[:, :, :, 0], place, version, group, 1, z.stop - z.start, nx)[0]
            return kernels.backproject_sheared(r, place, shift, version, group, 1, (z.stop - z.start, ny, nx))[0]
        return _joined(each(some, _slices(nz, parts)), xp)

    length = forward(xp.ones_like(volume)).reshape(len(tilts), -1).max(axis=1)
    step = send(np.asarray(weight, np.float32)) / xp.maximum(length, np.float32(1e-3))
    step = covered * step[:, None, None, None].astype(np.float32)
    received = send(np.asarray(weight, np.float32))[:, None, None, None] * covered
    scale = 1 / xp.maximum(backward(received[:, None].astype(np.float32)), np.float32(0.05))
    for _ in range(iterations):
        residual = rows - forward(volume)[:, None]
        residual *= step[:, None]
        volume += scale * backward(residual)
        if progress:
            progress()
    return volume


def _joined(parts: Iterable[Array], xp: Any) -> Array:
    parts = list(parts)
    return parts[0] if len(parts) == 1 else xp.concatenate(parts)


def _slices(n: int, parts: int) -> List[slice]:
    edges = np.linspace(0, n, min(n, parts) + 1).astype(int)
    return [slice(int(a), int(b)) for a, b in zip(edges[:-1], edges[1:])]
