"""Whole tomograms by weighted back-projection, and SIRT that starts from it.

Each tilt image is filtered (exact weights of the tilts that there are, Warp's envelope, the CTF of each slab of depth)
and sampled on rows along the volume's y axis (`rows.py`).  The volume is then made block by block of y, which needs
those pieces of the rows only; finished pieces of it are handed on at once, so that it is never in memory as a whole.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Iterable, List, Optional, Sequence, Tuple, Union, cast

import numpy as np

from ..errors import InputError
from .arrays import Array
from .backend import Backend
from .ctf import Ctf
from .geometry import TiltSeriesGeometry
from .kernels import implementation
from .preprocess import PreparedStack
from .rows import RowSampler
from .sirt import refine

UPSAMPLING = 2  # rows per voxel: white noise up to Nyquist is then interpolated to 4 %
BLOCK = 64  # voxels along y that are worked on at once; a multiple of the kernels' 16
GPU_BLOCK = 256
GPU_THREADS = 3  # that keep a GPU busy: while one waits for its results and hands them on, another computes
GPU_SHARE = 0.5  # of the free device memory
PIECE_BYTES = 32 << 20  # of a finished piece of the volume
MEMORY = 1 << 30  # for rows and pieces, unless something else is asked for
START_SMOOTHING = 3.0  # voxels: iterations keep all that they start from, noise included, and add detail slowly
FILTERING = 0.3  # share of the time that filtering takes, for progress


@dataclass(frozen=True, eq=False)
class TomogramSetup:
    """Extent of a tomogram and how its slabs of depth are cut.

    Attributes
    ----------
    shape : (int, int, int)
        Voxels zyx, even.
    pixel_size : float
        Angstrom per voxel.
    centre : ndarray `(3,)`
        Where the tomogram centre is, voxels xyz: voxel i is the unbinned voxel i times the binning, so this is half
        the shape only where the binning divides the unbinned size.
    n_slabs : int
        Slabs of depth that have a CTF of their own.
    slab_start, slab_height : float
        Angstrom, along the beam.
    """

    shape: Tuple[int, int, int]
    pixel_size: float
    centre: np.ndarray
    n_slabs: int
    slab_start: float
    slab_height: float


def setup_tomogram(geometry: TiltSeriesGeometry, pixel_size: float, ctf: Optional[Ctf] = None) -> TomogramSetup:
    """Plan the tomogram of a tilt series.

    Parameters
    ----------
    geometry : TiltSeriesGeometry
        Its `volume_size` is the extent.
    pixel_size : float
        Angstrom per voxel.
    ctf : Ctf, optional
        Without it there is one slab.

    Returns
    -------
    TomogramSetup
        Even sides. A slab is so thin that at Nyquist the CTF's phase is off by pi/4 at most at its faces: half its
        height changes the defocus by no more than ``p^2 / lambda``.
    """
    shape = cast(Tuple[int, int, int], tuple(max(2, 2 * int(np.floor(s / pixel_size / 2 + 0.5)))
                                             for s in geometry.volume_size[::-1]))
    centre = geometry.centre / pixel_size
    half = np.maximum(centre, np.array(shape[::-1]) - centre) * pixel_size
    reach = float(np.abs(geometry.rotation[:, 2] * half).sum(axis=1).max())
    if ctf is None:
        return TomogramSetup(shape, pixel_size, centre, 1, -reach, 2 * reach)
    # pi lambda (dz/2) k^2 <= pi/4 at k = 1 / (2 pixel_size)
    height = 2 * pixel_size ** 2 / ctf.optics.wavelength
    n = max(1, int(np.ceil(2 * reach * abs(geometry.defocus_slope) / height)))
    return TomogramSetup(shape, pixel_size, centre, n, -reach, 2 * reach / n)


def reconstruct_tomogram(stack: PreparedStack, geometry: TiltSeriesGeometry, ctf: Optional[Ctf], plan: TomogramSetup,
                         backend: Backend, correction: str = "phaseflip", dose_weighting: bool = True,
                         group: Optional[np.ndarray] = None, progress: Optional[Callable[[float], Any]] = None,
                         sirt: int = 0, memory: int = MEMORY,
                         put: Optional[Callable[[int, int, List[np.ndarray]], Any]] = None
                         ) -> Optional[List[np.ndarray]]:
    """Reconstruct a tomogram.

    Parameters
    ----------
    stack : PreparedStack
        T images.
    geometry : TiltSeriesGeometry
        Of the same T tilts, all used.
    ctf : Ctf or None
        Of the same tilts; not needed for `correction` 'none'.
    plan : TomogramSetup
    backend : Backend
    correction : {'phaseflip', 'none', 'wiener'}
    dose_weighting : bool
        Weight by dose and tilt.
    group : ndarray `(T,)` of int, optional
        0 or 1: tilts of two half tomograms, made in the same pass.
    progress : callable, optional
        Called now and then with the number of sections along y that have been finished since, a float.
    sirt : int
        Iterations of SIRT that follow, from a back-projection that is smoothed by `START_SMOOTHING`; 0 for none.
    memory : int
        Bytes that rows and pieces may take, beyond the stack.
    put : callable, optional
        ``put(z, y, pieces)`` is called, from several threads, with every finished piece: its first section and row, and
        a list of `(n_z, n_y, nx)` float32 arrays, for the tomogram or the tomogram and its two halves. Without it the
        volumes are returned.

    Returns
    -------
    list of ndarray `(nz, ny, nx)` float32, or None
        The tomogram, or with `group` the tomogram and its two halves. By back-projection the tomogram is the halves'
        mean; by SIRT it has iterations of its own.

    Raises
    ------
    InputError
        If `memory` does not hold what the smallest block needs.

    Notes
    -----
    Density is the images' divided by the number of voxels in the tomogram's thickness: what SIRT converges to is the
    density whose sums along the beam are the images.
    """
    group = np.zeros(geometry.n_tilts, np.int32) if group is None else np.asarray(group, np.int32)
    n_groups = int(group.max()) + 1
    volumes: Optional[np.ndarray] = None
    if put is None:
        volumes = np.empty((1 if n_groups == 1 else 3,) + plan.shape, np.float32)

        def put(z: int, y: int, pieces: List[np.ndarray]) -> None:
            for volume, piece in zip(volumes, pieces):
                volume[z:z + piece.shape[0], y:y + piece.shape[1]] = piece

    work = _Work(stack, geometry, ctf, plan, backend, correction, dose_weighting, group, n_groups, sirt, memory)
    work.run(put, progress or (lambda n: None))
    return None if volumes is None else list(volumes)


def tomogram_bytes(stack_shape: Sequence[int], geometry: TiltSeriesGeometry, ctf: Optional[Ctf], plan: TomogramSetup,
                   backend: Backend, n_groups: int = 1, sirt: int = 0) -> Tuple[int, int]:
    """Memory that a reconstruction takes at least beyond the prepared images, and with which it is fastest.

    Parameters
    ----------
    stack_shape : (int, int)
        Height and width of the prepared images.
    geometry, ctf, plan, backend, sirt
        As `reconstruct_tomogram`; `ctf` None for `correction` 'none'.
    n_groups : int
        2 with half tomograms.

    Returns
    -------
    least, best : int
        Bytes.
    """
    images = np.broadcast_to(np.float32(0), (geometry.n_tilts,) + tuple(stack_shape))
    stack = _Shape(images, (geometry.pixel_size * geometry.image_shape[0] / stack_shape[0],) * 2)
    group = np.arange(geometry.n_tilts, dtype=np.int32) % n_groups
    work = _Work(stack, geometry, ctf, plan, backend, "phaseflip", True, group, n_groups, sirt, None)
    blocks = -(-plan.shape[1] // work.block)
    return work.bytes(work.block if work.whole else 16, 1), work.bytes(work.block, blocks)


@dataclass(frozen=True, eq=False)
class _Shape:
    """A stack of which nothing but the shape is known."""

    images: np.ndarray
    pixel_size: Tuple[float, float]


class _Work:
    """One reconstruction: rows of some blocks of y at a time, then the pieces of the volume that they give."""

    def __init__(self, stack: Union[PreparedStack, _Shape], geometry: TiltSeriesGeometry, ctf: Optional[Ctf],
                 plan: TomogramSetup, backend: Backend, correction: str, dose_weighting: bool, group: np.ndarray,
                 n_groups: int, sirt: int, memory: Optional[int]) -> None:
        self.plan, self.backend, self.group, self.n_groups, self.sirt = plan, backend, group, n_groups, sirt
        self.kernels = implementation(backend)
        common = (stack, geometry, ctf, plan, backend, correction, dose_weighting)
        smoothing = START_SMOOTHING * plan.pixel_size if sirt else 0.0
        self.samplers = [RowSampler(*common, weighted=True, upsampling=UPSAMPLING, scale=n_groups / plan.shape[0],
                                    smoothing=smoothing)]
        if sirt:
            self.samplers.append(RowSampler(*common, weighted=False, upsampling=1))
        # Beams then cross from block to block, and SIRT has to see both.
        self.whole = bool(sirt) and not self.samplers[1].lattice.straight
        along = plan.shape[1] * np.abs(self.samplers[-1].lattice.slab_y).max()
        if self.whole and plan.n_slabs > 1 and along > 0.5:
            raise InputError(geometry.ts_id, "its depth varies by %.1f slabs of the CTF along y, which SIRT cannot "
                             "follow" % along, "Use --method wbp, --ctf none, or larger voxels")
        self.cosine = np.maximum(geometry.rotation[:, 2, 2], 0.05) if dose_weighting else np.ones(geometry.n_tilts)
        self.threads = GPU_THREADS if backend.on_gpu else backend.threads
        self.block = self._largest_block()
        if memory is not None:
            remedy = "Allow more with --memory, use fewer --threads, or take larger voxels"
            own = backend.own_memory()
            if own is not None and GPU_SHARE * own < memory:
                memory = int(GPU_SHARE * own)
                remedy = "Device %d has no more: take larger voxels, or --device cpu" % backend.device
            self._fit(memory, remedy)

    def _largest_block(self) -> int:
        """Voxels along y of a block: enough to be quick, few enough for one CTF along displaced columns."""
        block = GPU_BLOCK if self.backend.on_gpu else BLOCK
        lattice, ny = self.samplers[0].lattice, self.plan.shape[1]
        if self.whole:
            return 16 * -(-ny // 16)
        if not lattice.straight:
            block = max(block, 16 * int(np.ceil(sum(lattice.halo) / 8)))
            if self.plan.n_slabs > 1:
                block = min(block, max(16, 16 * int(0.5 / max(np.abs(lattice.slab_y).max(), 1e-9) / 16)))
        # Near that, what leaves the least of the last block unused.
        sizes = range(max(16, 16 * (3 * block // 64)), 16 * (-(-block // 16)) + 1, 16)
        return min(sizes, key=lambda size: (-(-ny // size) * (size + 8), -size))

    def bytes(self, block: int, n_blocks: int) -> int:
        """Memory with the rows of so many blocks held at once."""
        nz, _, nx = self.plan.shape
        threads = 1 if self.whole else self.threads
        rows = sum(4 * int(np.prod(s.lattice.rows_shape(s.n_versions, block))) for s in self.samplers)
        piece = 4 * block * nx * (min(nz, self._sections(block)) * (self.n_groups + 3) if not self.sirt else
                                  nz * (self.n_groups + 8))
        if self.sirt:  # projections and residuals of a block
            piece += 3 * 4 * int(np.prod(self.samplers[1].lattice.rows_shape(self.samplers[1].n_versions, block)))
        filtering = max(s.tilt_bytes() for s in self.samplers)
        return rows * n_blocks + max(threads * piece, self.threads * filtering)

    def _fit(self, memory: int, remedy: str) -> None:
        """Choose how many blocks' rows are held at once; smaller blocks if not even one's are within the limit."""
        while self.bytes(self.block, 1) > memory and self.block > 16 and not self.whole:
            self.block = 16 * (self.block // 32) or 16
        if self.bytes(self.block, 1) > memory:
            raise InputError("--memory", "the smallest piece of the tomogram needs %.2g GB, there are %.2g" % (
                self.bytes(self.block, 1) / 1e9, memory / 1e9), remedy)
        each = self.bytes(self.block, 2) - self.bytes(self.block, 1)
        self.at_once = 1 + int((memory - self.bytes(self.block, 1)) // each)

    def _sections(self, block: int) -> int:
        """Sections of the volume in a piece."""
        nz, _, nx = self.plan.shape
        return max(1, min(nz, PIECE_BYTES // (4 * block * nx * self.n_groups)))

    def run(self, put: Callable[[int, int, List[np.ndarray]], Any], progress: Callable[[float], Any]) -> None:
        """Make all pieces."""
        ny = self.plan.shape[1]
        starts = list(range(0, ny, self.block))
        with ThreadPoolExecutor(self.threads, initializer=self.backend.activate) as pool:
            for first in range(0, len(starts), self.at_once):
                part = starts[first:first + self.at_once]
                rows = [self._rows(sampler, part, pool, progress) for sampler in self.samplers]
                make: Callable[..., None] = partial(self._refined if self.sirt else self._back_projected, part, rows,
                                                    put, progress)
                if self.whole:
                    make(self._tasks(1)[0], each=None if self.backend.on_gpu else pool.map)
                else:
                    list(pool.map(make, self._tasks(len(part))))

    def _rows(self, sampler: RowSampler, part: List[int], pool: ThreadPoolExecutor,
              progress: Callable[[float], Any]) -> Array:
        """Rows of all tilts for some blocks; `(len(part), T, K, U, F, Y)`."""
        shape = (len(part),) + sampler.lattice.rows_shape(sampler.n_versions, self.block)
        rows = self.backend.xp.empty(shape, np.float32)
        share = FILTERING * sum(self._length(start) for start in part) / shape[1] / len(self.samplers)

        def fill(t: int) -> None:
            sampler.fill(t, part, rows)
            progress(share)

        list(pool.map(fill, range(shape[1])))
        return rows

    def _tasks(self, n_blocks: int) -> List[Tuple[int, int, int]]:
        """Block, first and last section of every piece."""
        nz = self.plan.shape[0]
        n = nz if self.sirt else self._sections(self.block)
        return [(b, z, min(z + n, nz)) for b in range(n_blocks) for z in range(0, nz, n)]

    def _back_projected(self, part: List[int], rows: List[Array], put: Callable[[int, int, List[np.ndarray]], Any],
                        progress: Callable[[float], Any], task: Tuple[int, int, int]) -> None:
        b, first, last = task
        put(first, part[b], self._finished(self._back_project(rows[0][b], part[b], first, last), part[b]))
        progress((1 - FILTERING) * self._length(part[b]) * (last - first) / self.plan.shape[0])

    def _back_project(self, rows: Array, start: int, first: int, last: int) -> Array:
        """Sums over the tilts of each group for some sections of a block; `(n_groups, n_z, block, nx)`."""
        lattice, kernels, send = self.samplers[0].lattice, self.kernels, self.backend.to_device
        nx = self.plan.shape[2]
        shifted = [a.copy() for a in (lattice.position, lattice.offset, lattice.slab)]
        for a in shifted:
            a[:, 0] += first * a[:, 2]
        shifted[2][:, 0] += lattice.slab_y * (start + self.block / 2)
        position, offset, slab = (send(a) for a in shifted)
        if lattice.straight:
            return kernels.backproject(rows[:, :, :, 0], position, slab, send(self.group), self.n_groups,
                                       last - first, nx)
        return kernels.backproject_sheared(rows, position, offset, slab, send(self.group), self.n_groups,
                                           (last - first, self.block, nx))

    def _length(self, start: int) -> int:
        return min(self.block, self.plan.shape[1] - start)

    def _finished(self, sums: Array, start: int) -> List[np.ndarray]:
        """The tomogram, and its halves if there are groups, of sums over the tilts of each group."""
        sums = self.backend.to_host(sums[:, :, :self._length(start)])
        if self.n_groups == 1:
            return [sums[0]]
        whole = sums[0] + sums[1]
        whole *= np.float32(0.5)
        return [whole, sums[0], sums[1]]

    def _refined(self, part: List[int], rows: List[Array], put: Callable[[int, int, List[np.ndarray]], Any],
                 progress: Callable[[float], Any], task: Tuple[int, int, int],
                 each: Optional[Callable[..., Iterable[Any]]] = None) -> None:
        """SIRT of a block, from its back-projection."""
        b, first, last = task
        sampler, xp = self.samplers[1], self.backend.xp
        sums = self._back_project(rows[0][b], part[b], first, last)
        covered = self.backend.to_device(sampler.covered([part[b]], self.block)[0])
        # The tomogram has all tilts, each half its own.
        sets = [np.ones(len(self.group), bool)]
        starts = [sums.sum(axis=0) / np.float32(self.n_groups)]
        if self.n_groups == 2:
            sets += [self.group == g for g in (0, 1)]
            starts += [sums[0], sums[1]]
        share = (1 - FILTERING) * self._length(part[b]) / len(sets) / self.sirt
        out = []
        for tilts, volume in zip(sets, starts):
            if not tilts.any():
                out.append(volume)
                continue
            chosen = slice(None) if tilts.all() else self.backend.to_device(np.flatnonzero(tilts))
            out.append(refine(xp.ascontiguousarray(volume), rows[1][b][chosen], covered[chosen], sampler.lattice,
                              np.flatnonzero(tilts), self.cosine[tilts], part[b] + self.block / 2, self.sirt,
                              self.backend, lambda: progress(share), each))
        put(0, part[b], [self.backend.to_host(v[:, :self._length(part[b])]) for v in out])
