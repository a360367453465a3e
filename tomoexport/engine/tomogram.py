"""Whole tomograms by weighted back-projection.

Each tilt image is filtered once in Fourier space (exact weights of the tilts that there are, Warp's envelope, the CTF
of each slab of depth, and the inverse of what the two linear interpolations take away), sampled twice as finely, and
smeared back.  Where the tilt axis is the volume's y axis in every tilt, in-plane rotation, shift and magnification are
absorbed in one resampling to rows along that axis, and the innermost loop runs along contiguous y; with x-tilt a
general kernel does the same for any direction.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.ndimage

from .ctf import frequency_grid
from .fourier import fast_even
from .geometry import rotation_z
from .kernels import implementation
from .weights import envelope, exact_filter, tilt_axis

UPSAMPLING = 2
ROW_BYTES = 400 << 20  # of filtered images held at once; more tilts take another pass over the volume
WIENER_NOISE = 0.1  # 1 / SNR of the Wiener-like correction


@dataclass(frozen=True, eq=False)
class TomogramPlan:
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

    shape: tuple
    pixel_size: float
    centre: np.ndarray
    n_slabs: int
    slab_start: float
    slab_height: float


def plan_tomogram(geometry, pixel_size, ctf=None):
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
    TomogramPlan
        Even sides. A slab is so thin that at Nyquist the CTF's phase is off by pi/4 at most at its faces.
    """
    shape = tuple(max(2, 2 * int(np.floor(s / pixel_size / 2 + 0.5))) for s in geometry.volume_size[::-1])
    centre = geometry.centre / pixel_size
    half = np.maximum(centre, np.array(shape[::-1]) - centre) * pixel_size
    reach = float(np.abs(geometry.rotation[:, 2] * half).sum(axis=1).max())
    if ctf is None:
        return TomogramPlan(shape, pixel_size, centre, 1, -reach, 2 * reach)
    # pi lambda (dz/2) k^2 <= pi/4 at k = 1 / (2 pixel_size)
    height = 2 * pixel_size ** 2 / ctf.optics.wavelength
    n = max(1, int(np.ceil(2 * reach / height)))
    return TomogramPlan(shape, pixel_size, centre, n, -reach, 2 * reach / n)


def reconstruct_tomogram(stack, geometry, ctf, plan, backend, correction="phaseflip", dose_weighting=True, group=None,
                         progress=None):
    """Reconstruct a tomogram.

    Parameters
    ----------
    stack : PreparedStack
        T images.
    geometry : TiltSeriesGeometry
        Of the same T tilts, all used.
    ctf : Ctf or None
        Of the same tilts; not needed for `correction` 'none'.
    plan : TomogramPlan
    backend : Backend
    correction : {'phaseflip', 'none', 'wiener'}
    dose_weighting : bool
        Weight by dose and tilt.
    group : ndarray `(T,)` of int, optional
        0 or 1: tilts of two half tomograms, made in the same pass.
    progress : callable, optional
        Called as tilts are done, with their number.

    Returns
    -------
    list of ndarray `(nz, ny, nx)` float32
        The tomogram, or with `group` the tomogram and its two halves; the tomogram is the halves' mean.

    Notes
    -----
    Density is the images' divided by the number of voxels in the tomogram's thickness.
    """
    group = np.zeros(geometry.n_tilts, np.int32) if group is None else np.asarray(group, np.int32)
    n_groups = int(group.max()) + 1
    straight = np.abs(geometry.xtilt).max() < 1e-6
    row_step = plan.pixel_size / UPSAMPLING if straight else 0.0
    filters = _Filters(stack, geometry, ctf, plan, correction, dose_weighting, row_step)
    project = _rows if straight else _general
    volumes = project(stack, geometry, plan, backend, filters, group, n_groups, progress)
    volumes *= np.float32(1.0 / plan.shape[0])
    if straight:
        volumes = volumes.transpose(0, 1, 3, 2)
    if n_groups == 1:
        return [volumes[0]]
    whole = volumes[0] + volumes[1]
    volumes *= np.float32(2)
    return [whole, volumes[0], volumes[1]]


class _Filters:
    """The filtered, twice finer images of a stack, one per tilt and slab."""

    def __init__(self, stack, geometry, ctf, plan, correction, dose_weighting, row_step):
        self.stack, self.geometry, self.plan, self.ctf = stack, geometry, plan, ctf
        self.correction = "none" if ctf is None else correction
        h, w = stack.images.shape[1:]
        # Room for what the filters spread beyond the image.
        self.shape = fast_even(h + max(32, h // 10)), fast_even(w + max(32, w // 10))
        self.kx, self.ky = frequency_grid(self.shape, stack.pixel_size)
        self.dose_weighting = dose_weighting
        # Across the axis: weights of the tilt set, and the inverse of the kernel's own linear interpolation of rows.
        self.u = np.arange(0, 4097) / 4096 * (0.75 / min(stack.pixel_size))
        angle, direction = tilt_axis(geometry.rotation)
        # An image frequency q is the 3D frequency M^T q; the filter acts on its part across the axis.
        self.direction = np.einsum("tij,tj->ti", geometry.matrix, direction)
        self.across = exact_filter(angle, self.u, plan.shape[0] * plan.pixel_size)
        self.across /= np.sinc(np.clip(self.u * row_step, 0, 0.5)) ** 2
        self.in_plane = geometry.magnification @ rotation_z(geometry.axis)[:, :2, :2]
        # Undo the bilinear interpolation of the fine images, and end the band softly.
        fine = 1.0 / UPSAMPLING
        sy = np.sinc(self.ky * stack.pixel_size[0] * fine) ** 2
        sx = np.sinc(self.kx * stack.pixel_size[1] * fine) ** 2
        self.gain = 1 / (sy * sx)
        nyquist = 0.5 / max(stack.pixel_size)
        k = np.sqrt(self.kx ** 2 + self.ky ** 2)
        self.gain *= 0.5 + 0.5 * np.cos(np.pi * np.clip((k / nyquist - 0.95) / 0.05, 0, 1))

    def tilt(self, t):
        """Filtered images of tilt t: `(K, 2h', 2w')` float32; image pixel i of the padded image is sample 2 i."""
        h, w = self.stack.images.shape[1:]
        padded = np.zeros(self.shape, np.float32)
        y, x = self.shape[0] // 2 - h // 2, self.shape[1] // 2 - w // 2
        padded[y:y + h, x:x + w] = self.stack.images[t]
        transform = scipy.fft.rfft2(padded)
        across = self.direction[t, 0] * self.kx + self.direction[t, 1] * self.ky
        weight = np.interp(np.abs(across), self.u, self.across[t]) * self.gain
        ctf = None if self.ctf is None else self.ctf.select([t])
        weight = weight * envelope(self.geometry.select([t]), self.kx ** 2 + self.ky ** 2,
                                   None if ctf is None else ctf.bfactor, None if ctf is None else ctf.scale,
                                   self.dose_weighting)[0]
        out = np.empty((self.plan.n_slabs, UPSAMPLING * self.shape[0], UPSAMPLING * self.shape[1]), np.float32)
        for k in range(self.plan.n_slabs):
            out[k] = _upsample(transform * (weight * self._ctf_factor(ctf, k)).astype(np.float32))
        return out

    def _ctf_factor(self, ctf, k):
        if self.correction == "none":
            return np.float32(1)
        depth = self.plan.slab_start + (k + 0.5) * self.plan.slab_height
        c = ctf.values(self.kx, self.ky, self.geometry.hand * depth)[0]
        return np.where(c < 0, -1.0, 1.0) if self.correction == "phaseflip" else c / (c * c + WIENER_NOISE)

    def pixel(self, xy):
        """Fine sample (x, y) of a point `(..., 2)` xy, angstrom from the image centre."""
        scale = UPSAMPLING / np.array(self.stack.pixel_size[::-1])
        return xy * scale + UPSAMPLING * (np.array(self.shape[::-1]) // 2)


def _upsample(transform):
    """Inverse rfft2 onto a grid that is finer by UPSAMPLING; values are kept."""
    h, wh = transform.shape
    w = 2 * (wh - 1)
    big = np.zeros((UPSAMPLING * h, UPSAMPLING * w // 2 + 1), np.complex64)
    m = h // 2
    big[:m, :wh - 1] = transform[:m, :wh - 1]
    big[-(m - 1):, :wh - 1] = transform[-(m - 1):, :wh - 1]
    return scipy.fft.irfft2(big, s=(UPSAMPLING * h, UPSAMPLING * w), overwrite_x=True) * np.float32(UPSAMPLING ** 2)


def _batches(n_tilts, bytes_per_tilt):
    size = max(1, min(n_tilts, int(ROW_BYTES // max(bytes_per_tilt, 1))))
    return [range(i, min(i + size, n_tilts)) for i in range(0, n_tilts, size)]


def _chunks(n, parts):
    edges = np.linspace(0, n, min(n, parts) + 1).astype(int)
    return list(zip(edges[:-1], edges[1:]))


def _rows(stack, geometry, plan, backend, filters, group, n_groups, progress):
    """Back-project with the tilt axis along y; returns `(n_groups, nz, nx, ny)`."""
    nz, ny, nx = plan.shape
    p = plan.pixel_size
    step = p / UPSAMPLING
    reach = 1 + (nx * np.abs(np.cos(np.deg2rad(geometry.tilt))) + nz * np.abs(np.sin(np.deg2rad(geometry.tilt)))).max()
    diagonal = np.hypot(*(np.array(filters.shape) * stack.pixel_size)) + np.abs(geometry.shift).max() * 2
    half = int(np.ceil(min(reach * p, diagonal) / 2 / step)) + 2
    volumes = np.empty((n_groups, nz, nx, ny), np.float32)
    cx, cy, cz = plan.centre
    y = (np.arange(ny) - cy) * p
    cos, sin = np.cos(np.deg2rad(geometry.tilt)), np.sin(np.deg2rad(geometry.tilt))
    a, b = UPSAMPLING * cos, UPSAMPLING * sin
    position = np.stack([half - a * cx - b * cz, a, b], -1)
    d, e = -sin * p / plan.slab_height, cos * p / plan.slab_height
    slab = np.stack([-plan.slab_start / plan.slab_height - d * cx - e * cz, d, e], -1)
    kernels = implementation(backend)

    def resample(t):
        images = filters.tilt(t)
        linear = filters.in_plane[t]
        # Fine sample (y, x) as an affine function of (u, y index).
        origin = filters.pixel(linear @ np.array([-half * step, y[0]]) + geometry.shift[t])
        scale = UPSAMPLING / np.array(stack.pixel_size[::-1])
        du, dy = linear[:, 0] * step * scale, linear[:, 1] * p * scale
        matrix = np.array([[du[1], dy[1]], [du[0], dy[0]]])
        return np.stack([scipy.ndimage.affine_transform(image, matrix, origin[::-1], (2 * half, ny), order=1)
                         for image in images])

    with ThreadPoolExecutor(backend.threads, initializer=backend.activate) as pool:
        for batch in _batches(geometry.n_tilts, plan.n_slabs * 2 * half * ny * 4):
            rows = backend.to_device(np.stack(list(pool.map(resample, batch))))
            part = np.array(batch)

            def add(z, rows=rows, part=part):
                shifted, version = position[part].copy(), slab[part].copy()
                shifted[:, 0] += z[0] * position[part, 2]
                version[:, 0] += z[0] * slab[part, 2]
                put = backend.to_device
                _put(volumes[:, z[0]:z[1]], backend.to_host(kernels.backproject(
                    rows, put(shifted), put(version), put(group[part]), n_groups, int(z[1] - z[0]), nx)), part[0] == 0)

            list(pool.map(add, _chunks(nz, _parts(backend, nz))))
            if progress:
                progress(len(batch))
    return volumes


def _general(stack, geometry, plan, backend, filters, group, n_groups, progress):
    """Back-project in any direction; returns `(n_groups, nz, ny, nx)`."""
    nz, ny, nx = plan.shape
    p = plan.pixel_size
    volumes = np.empty((n_groups, nz, ny, nx), np.float32)
    centre = plan.centre
    scale = UPSAMPLING / np.array(stack.pixel_size[::-1])
    matrix = np.zeros((geometry.n_tilts, 2, 4))
    matrix[:, :, :3] = geometry.matrix * p * scale[:, None]
    matrix[:, :, 3] = filters.pixel(geometry.shift) - matrix[:, :, :3] @ centre
    slab = np.zeros((geometry.n_tilts, 4))
    slab[:, :3] = geometry.rotation[:, 2] * p / plan.slab_height
    slab[:, 3] = -plan.slab_start / plan.slab_height - slab[:, :3] @ centre
    kernels = implementation(backend)
    with ThreadPoolExecutor(backend.threads, initializer=backend.activate) as pool:
        for batch in _batches(geometry.n_tilts, plan.n_slabs * 16 * filters.shape[0] * filters.shape[1]):
            images = backend.to_device(np.stack(list(pool.map(filters.tilt, batch))))
            part = np.array(batch)

            def add(z, images=images, part=part):
                shifted, version = matrix[part].copy(), slab[part].copy()
                shifted[:, :, 3] += z[0] * matrix[part][:, :, 2]
                version[:, 3] += z[0] * slab[part, 2]
                put = backend.to_device
                _put(volumes[:, z[0]:z[1]], backend.to_host(kernels.backproject_general(
                    images, put(shifted), put(version), put(group[part]), n_groups, (int(z[1] - z[0]), ny, nx))),
                    part[0] == 0)

            list(pool.map(add, _chunks(nz, _parts(backend, nz))))
            if progress:
                progress(len(batch))
    return volumes


def _put(place, values, first):
    """Store the sums of the first tilts, add those of the others."""
    if first:
        place[:] = values
    else:
        place += values


def _parts(backend, nz):
    """Pieces of the volume that are worked on apart: many on the CPU for balance, few on a GPU."""
    return 4 * backend.threads if not backend.on_gpu else max(1, nz // 64)
