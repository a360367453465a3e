"""Tilt images as rows along a volume's y axis: what tomograms are projected back from, and SIRT projects onto.

The y axis of the volume is a direction in every tilt image.  Each image is filtered once in Fourier space and sampled
on a lattice one side of which is that direction, with a sample per voxel; the other side, u, runs across.  Rotation,
shift and magnification are gone then: a column of voxels along y falls on two neighbouring rows, with weights that are
the same for all of its voxels.  Where beams are not perpendicular to y (x-tilt, or axes that differ from tilt to
tilt), columns are displaced along y as well; rows then are sampled twice as finely and a column falls on four pieces.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional, Sequence, Tuple, Union, cast

import numpy as np

from ..errors import InputError
from .arrays import Array
from .backend import Backend
from .ctf import Ctf, frequency_grid
from .fourier import fast_even
from .geometry import TiltSeriesGeometry
from .gridding import OVERSAMPLING, interpolation_table, prefilter
from .kernels import CTF_MODES, implementation
from .preprocess import PreparedStack
from .weights import envelope, exact_filter, tilt_axis

if TYPE_CHECKING:
    from .tomogram import TomogramSetup, _Shape

ENTRIES = 4097  # of the tables of filters
IMAGE_BYTES = 64 << 20  # of finer images of one tilt that are worked on at once
STRAIGHT = 1e-3  # voxels of displacement along y that count as none


@dataclass(frozen=True, eq=False)
class Lattice:
    """Where the samples of the rows lie, and where voxels fall among them.

    Attributes
    ----------
    across, along : ndarray `(T, 2)`
        Angstrom xy in the image: from one u to the next, and from one voxel along y to the next.
    origin : ndarray `(T, 2)`
        Angstrom xy from the image centre: sample u = 0 of the row position of voxel y = 0.
    n_u : int
        Samples across.
    phases : int
        Samples per voxel along y: 1 if no column of voxels is displaced, else 2.
    halo : (int, int)
        Voxels before and after a block of y that its displaced columns reach.
    position, offset, slab : ndarray `(T, 3)`
        As the kernels take them, for voxel y = 0.
    slab_y : ndarray `(T,)`
        Slabs per voxel along y.
    """

    across: np.ndarray
    along: np.ndarray
    origin: np.ndarray
    n_u: int
    phases: int
    halo: Tuple[int, int]
    position: np.ndarray
    offset: np.ndarray
    slab: np.ndarray
    slab_y: np.ndarray

    @property
    def straight(self) -> bool:
        """Whether no column of voxels is displaced along y."""
        return self.phases == 1 and self.halo == (0, 0)

    def rows_shape(self, n_versions: int, block: int) -> Tuple[int, int, int, int, int]:
        """Shape of the rows for a block of y: `(T, K, U, F, Y)`."""
        return len(self.across), n_versions, self.n_u, self.phases, block + sum(self.halo)


def make_lattice(geometry: TiltSeriesGeometry, plan: "TomogramSetup", upsampling: int) -> Lattice:
    """Lay the rows of a tilt series out for a tomogram.

    Parameters
    ----------
    geometry : TiltSeriesGeometry
        Of T tilts.
    plan : tomogram.TomogramSetup
    upsampling : int
        Samples per voxel across, and along y where columns are displaced.

    Returns
    -------
    Lattice

    Raises
    ------
    InputError
        If a beam runs along the volume's y axis.
    """
    p, m = plan.pixel_size, geometry.matrix
    nz, _, nx = plan.shape
    cx, cy, cz = plan.centre
    along = m[:, :, 1] * p
    if (np.linalg.norm(m[:, :, 1], axis=1) < 0.05).any():
        raise InputError(geometry.ts_id, "a beam runs along the y axis of the tomogram",
                         "Exclude that tilt, or align the series with its axis along y")
    corners = np.array([[(x - cx), (z - cz)] for x in (0, nx - 1) for z in (0, nz - 1)])
    # One direction across serves x and z alike if all columns are to be straight.
    direction = np.linalg.svd(m[:, :, ::2])[0][:, :, 0]
    steps = _components(m[:, :, ::2] * p, direction * p / upsampling, along)
    phases, halo = 1, (0, 0)
    if np.abs(steps[:, 1] @ corners.T).max() > STRAIGHT:
        phases = upsampling
        direction = along[:, ::-1] * (1, -1) / np.linalg.norm(along, axis=1, keepdims=True)
        steps = _components(m[:, :, ::2] * p, direction * p / upsampling, along)
        reach = steps[:, 1] @ corners.T
        halo = int(np.ceil(max(0, -reach.min()))) + 1, int(np.ceil(max(0, reach.max()))) + 2
    sign = np.where(steps[:, 0, 0] < 0, -1.0, 1.0)
    direction, steps[:, 0] = direction * sign[:, None], steps[:, 0] * sign[:, None]
    across = direction * p / upsampling
    # What the images hold limits the samples that are worth having.
    image = np.hypot(*geometry.image_shape) * geometry.pixel_size / 2 + np.linalg.norm(geometry.shift, axis=1)
    reach = np.abs(steps[:, 0] @ corners.T).max(axis=1)
    half = int(np.ceil(np.minimum(reach, 1.5 * image / p * upsampling).max())) + 2
    origin = geometry.shift - cy * along - half * across - halo[0] * along
    position = np.stack([half - steps[:, 0] @ (cx, cz), steps[:, 0, 0], steps[:, 0, 1]], -1)
    offset = phases * np.stack([halo[0] - steps[:, 1] @ (cx, cz), steps[:, 1, 0], steps[:, 1, 1]], -1)
    depth = geometry.rotation[:, 2] * p / plan.slab_height
    slab = np.stack([-plan.slab_start / plan.slab_height - depth @ plan.centre, depth[:, 0], depth[:, 2]], -1)
    return Lattice(across, along, origin, 2 * half + 1, phases, halo, position, offset, slab, depth[:, 1])


def _components(vectors: np.ndarray, across: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Components `(T, 2, n)` of image vectors `(T, 2, n)` along the two sides of the lattice."""
    return np.linalg.solve(np.stack([across, along], -1), vectors)


class RowSampler:
    """Filters tilt images and samples them on the rows of a lattice.

    Parameters
    ----------
    stack : PreparedStack
    geometry : TiltSeriesGeometry
    ctf : Ctf or None
    plan : tomogram.TomogramSetup
    backend : Backend
    correction : str
        Key of `kernels.CTF_MODES`.
    dose_weighting : bool
        Damp by dose; with `weighted` also by the cosine of the angle.
    weighted : bool
        Weights of back-projection, and the inverse of the linear interpolation between rows. SIRT has both in its
        iterations.
    upsampling : int
        Rows per voxel.
    scale : float
        Factor on all values.
    smoothing : float
        Angstrom: standard deviation of a Gaussian that the volume is smoothed with.
    """

    def __init__(self, stack: Union[PreparedStack, "_Shape"], geometry: TiltSeriesGeometry, ctf: Optional[Ctf],
                 plan: "TomogramSetup", backend: Backend, correction: str, dose_weighting: bool, weighted: bool,
                 upsampling: int, scale: float = 1.0, smoothing: float = 0.0) -> None:
        self.stack, self.geometry, self.plan, self.ctf, self.backend = stack, geometry, plan, ctf, backend
        self.mode = CTF_MODES["none" if ctf is None else correction]
        self.dose_weighting, self.weighted = dose_weighting, weighted
        self.lattice = make_lattice(geometry, plan, upsampling)
        self.kernels = implementation(backend)
        h, w = stack.images.shape[1:]
        # Room for what the filters spread beyond the image.
        self.padded = fast_even(h + max(32, h // 10)), fast_even(w + max(32, w // 10))
        self.shape = tuple(fast_even(OVERSAMPLING * n) for n in self.padded)
        self.ratio = np.array(self.shape) / self.padded
        kx, ky = (axis.ravel() for axis in frequency_grid(self.padded, stack.pixel_size))
        pixel = np.array(stack.pixel_size)
        values = scale * np.prod(self.ratio)  # the finer image has the same values then
        self.gain_y = prefilter(ky * pixel[0] / self.ratio[0], OVERSAMPLING).astype(np.float32)
        self.gain_x = (values * prefilter(kx * pixel[1] / self.ratio[1], OVERSAMPLING)).astype(np.float32)
        nyquist = 0.5 / pixel.max()
        k = np.linspace(0, nyquist ** 2, ENTRIES) ** 0.5
        self.k2 = k * k
        # The band ends softly.
        self.edge = 0.5 + 0.5 * np.cos(np.pi * np.clip((k / nyquist - 0.95) / 0.05, 0, 1))
        self.edge *= np.exp(-2 * (np.pi * smoothing * k) ** 2)
        self.angle, direction = tilt_axis(geometry.rotation)
        # An image frequency q is the 3D frequency M^T q; the weights act on its part across the axis.
        self.direction = np.einsum("tij,tj->ti", geometry.matrix, direction)
        self.u = np.linspace(0, 0.75 / pixel.min(), ENTRIES)
        self._across: Optional[np.ndarray] = None
        self.step = np.array([1 / (n * p) for n, p in zip(self.padded, pixel)])
        depth = plan.slab_start + (np.arange(plan.n_slabs) + 0.5) * plan.slab_height
        self.depth = geometry.defocus_shift(depth) if self.mode != CTF_MODES["none"] else np.zeros(1)

    @property
    def across(self) -> np.ndarray:
        """Weights of back-projection `(T, ENTRIES)` at the frequencies `u` across the axis."""
        if self._across is None:
            self._across = exact_filter(self.angle, self.u, self.plan.shape[0] * self.plan.pixel_size)
        return self._across

    @property
    def n_versions(self) -> int:
        """Versions of each image: one per slab of depth, or one without a CTF."""
        return len(self.depth)

    def tilt_bytes(self) -> int:
        """Memory that filtering one tilt takes beyond its rows, bytes."""
        fine = 4 * self.shape[0] * self.shape[1]
        return 16 * self.padded[0] * self.padded[1] + 3 * fine * self._at_once()

    def _at_once(self) -> int:
        return max(1, min(self.n_versions, IMAGE_BYTES // (4 * self.shape[0] * self.shape[1])))

    def fill(self, t: int, starts: Sequence[int], rows: Array) -> None:
        """Filter and sample one tilt for some blocks of y.

        Parameters
        ----------
        t : int
            Tilt.
        starts : list of int
            First voxel along y of each block.
        rows : ndarray `(len(starts), T, K, U, F, Y)` float32
            On the device; changed for tilt t.
        """
        backend, kernels, put = self.backend, self.kernels, self.backend.to_device
        h, w = self.stack.images.shape[1:]
        padded = backend.xp.zeros(self.padded, np.float32)
        y, x = self.padded[0] // 2 - h // 2, self.padded[1] // 2 - w // 2
        padded[y:y + h, x:x + w] = put(self.stack.images[t])
        transform = backend.fft.rfft2(padded)
        tables, scale, direction = self._tables(t)
        phase = np.zeros(6) if self.mode == CTF_MODES["none"] else cast(Ctf, self.ctf).select([t]).polynomial()[0]
        table = put(interpolation_table())
        lattice, many = self.lattice, self._at_once()
        for k in range(0, self.n_versions, many):
            fine = kernels.weigh(transform, put(self.step), put(self.gain_y), put(self.gain_x), put(tables), put(scale),
                                 put(direction), put(phase), put(self.depth[k:k + many]), self.mode, self.shape)
            fine = backend.fft.irfft2(fine, s=self.shape, axes=(1, 2), overwrite_x=True)
            for b, start in enumerate(starts):
                for f in range(lattice.phases):
                    origin = self._pixel(lattice.origin[t] + (start + f / lattice.phases) * lattice.along[t])
                    step = np.stack([self._pixel(lattice.across[t], False), self._pixel(lattice.along[t], False)], -1)
                    kernels.resample(fine, put(origin), put(step), table, rows[b, t, k:k + many, :, f])

    def _tables(self, t: int) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Filters of one tilt as `kernels.weigh` takes them: tables, scale, direction."""
        one = self.geometry.select([t])
        bfactor = None if self.ctf is None else self.ctf.bfactor[[t]]
        scale = None if self.ctf is None or self.ctf.scale is None else self.ctf.scale[[t]]
        scale = scale if self.weighted else np.ones(1)
        tables = [self.edge * envelope(one, self.k2, bfactor, scale, self.dose_weighting)[0]]
        entries = [(ENTRIES - 1) / self.k2[-1]]
        if not self.weighted:
            return np.array(tables, np.float32), np.array(entries), np.zeros((0, 2))
        directions = [self.direction[t]]
        tables.append(self.across[t].copy())
        # The kernels interpolate between rows linearly: q a is the cycles that a frequency q has from row to row.
        sides = [self.lattice.across[t]]
        if not self.lattice.straight:
            sides.append(self.lattice.along[t] / self.lattice.phases)
        for n, side in enumerate(sides):
            ratio = side @ self.direction[t] / (self.direction[t] @ self.direction[t])
            if n == 0 and np.allclose(ratio * self.direction[t], side, atol=1e-9 * np.abs(side).max()):
                tables[1] /= np.sinc(np.clip(ratio * self.u, -0.5, 0.5)) ** 2
            else:
                length = np.linalg.norm(side)
                directions.append(side / length)
                tables.append(1 / np.sinc(np.clip(length * self.u, 0, 0.5)) ** 2)
        entries += [(ENTRIES - 1) / self.u[-1]] * len(directions)
        return np.array(tables, np.float32), np.array(entries), np.array(directions)

    def _pixel(self, xy: np.ndarray, place: bool = True) -> np.ndarray:
        """Finer pixel yx of a point of the image (angstrom xy from its centre), or of a difference of points."""
        scale = self.ratio / self.stack.pixel_size
        yx = np.asarray(xy)[::-1] * scale
        return yx + np.array(self.shape) / 2 if place else yx

    def covered(self, starts: Sequence[int], block: int) -> np.ndarray:
        """Samples that lie within the tilt images.

        Parameters
        ----------
        starts : list of int
        block : int
            As `fill`.

        Returns
        -------
        ndarray `(len(starts), T, U, F, Y)` of bool
            On the host.
        """
        lattice = self.lattice
        shape = lattice.rows_shape(1, block)
        half = np.array(self.stack.images.shape[:0:-1]) * self.stack.pixel_size[::-1] / 2
        out = np.empty((len(starts), shape[0]) + shape[2:], bool)
        u = np.arange(lattice.n_u)[:, None, None]
        v = np.arange(shape[4]) + np.arange(lattice.phases)[:, None] / lattice.phases
        for b, start in enumerate(starts):
            for t in range(shape[0]):
                inside = [np.abs(lattice.origin[t, i] + u * lattice.across[t, i] + (start + v) * lattice.along[t, i])
                          < half[i] for i in (0, 1)]
                out[b, t] = inside[0] & inside[1]
        return out
