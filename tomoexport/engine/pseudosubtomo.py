"""RELION 5's pseudo-subtomograms: 2D stacks multiplied by their CTF, or 3D sums of them with their weights.

For every particle and visible tilt a window is cut out of the tilt image, multiplied by CTF and dose weight, levelled
and masked by a circle and cropped.  That is the 2D stack; in 3D the windows' transforms enter a Fourier grid by
trilinear interpolation, beside the squares of what they were multiplied by and the number of samples.  Every step and
factor is RELION's, so that it takes the files for its own.
"""

from dataclasses import dataclass
from typing import Optional, Tuple, Union

import numpy as np

from .arrays import Array
from .backend import Backend
from .ctf import Ctf, frequency_grid
from .fourier import centre_phase, fourier_crop
from .geometry import TiltSeriesGeometry
from .kernels import CTF_MODES, implementation
from .transforms import rfft2

EDGE = 5.0  # pixels of the circle's soft edge
FAINT = 0.01  # dose weight below which frequencies stay out of 3D sums


@dataclass(frozen=True, eq=False)
class PseudosubtomoSetup:
    """All that particles of one tilt series share.

    Attributes
    ----------
    box, crop : int
        Side of the windows in which the CTF is applied, and of the output; pixels of the output, even.
    source : int
        Side of the windows that are cut out of the images, pixels of the images.
    ratio : float
        Output over image pixel size; 1 for images that have been rescaled already.
    binning : float
        Output over original pixel size: RELION's scales depend on it.
    mode : int
        How the CTF enters, `kernels.CTF_MODES`.
    phase, slope, envelope : ndarray
        As the kernel `modulate` takes them, with the sign of the contrast; on the device.
    limit : ndarray `(T,)` float64
        Radius of the frequencies that enter 3D sums, samples of the box.
    circle, precrop : bool
        Whether windows are levelled and masked, and whether they are before the CTF too, as large as they are cut.
    whitening : ndarray `(T, box, box//2+1)` float32 or None
        Further factor of the images, which enters the weights of 3D sums once; on the device.
    """

    box: int
    crop: int
    source: int
    ratio: float
    binning: float
    mode: int
    phase: Array
    slope: Array
    envelope: Array
    limit: np.ndarray
    circle: bool
    precrop: bool
    whitening: Optional[Array]


def dose_weight(dose: Union[float, np.ndarray], k: np.ndarray, bfactor: float = 0.0) -> np.ndarray:
    """What is left of a frequency after a dose.

    Parameters
    ----------
    dose : float or ndarray
        e/A^2, before the exposure.
    k : ndarray
        1/A; broadcasts with the dose.
    bfactor : float
        A^2 per e/A^2; above 0 it rules instead of the curve of critical exposures.

    Returns
    -------
    ndarray
        Amplitude, 1 at k = 0.

    Notes
    -----
    ``exp(-dose / (2 Ne))`` with ``Ne = 0.245 k^-1.665 + 2.81``: Grant and Grigorieff, eLife 4 (2015) e06980. Otherwise
    ``exp(-B dose k^2 / 4)``.
    """
    if bfactor > 0:
        return np.exp(-0.25 * bfactor * np.asarray(dose) * np.asarray(k) ** 2)
    k = np.maximum(k, 1e-9)
    return np.exp(-0.5 * np.asarray(dose) / (0.245 * k ** -1.665 + 2.81))


def setup_pseudosubtomos(geometry: TiltSeriesGeometry, ctf: Optional[Ctf], box: int, crop: int, pixel_size: float,
                         binning: float, backend: Backend, ratio: float = 1.0, invert: bool = True, circle: bool = True,
                         precrop: bool = False, whitening: Optional[np.ndarray] = None,
                         bfactor: float = 0.0) -> PseudosubtomoSetup:
    """Prepare what all particles of one tilt series share.

    Parameters
    ----------
    geometry : TiltSeriesGeometry
        Only the tilts that are used.
    ctf : Ctf or None
        Of the same tilts; None multiplies by nothing, neither CTF nor dose weight.
    box, crop : int
        Pixels of the output, even, crop not above box.
    pixel_size : float
        Angstrom of the output.
    binning : float
        Output over original pixel size.
    backend : Backend
    ratio : float
        Output over image pixel size: 1 for images rescaled beforehand, `binning` for those that were not.
    invert : bool
        Multiply by -1: particles, dark in the images, become bright.
    circle : bool
        Level and mask windows.
    precrop : bool
        Level and mask them as they are cut, too, by the largest circle that they hold.
    whitening : ndarray `(T, box, box//2+1)`, optional
        As `whitening_filter` gives it.
    bfactor : float
        As `dose_weight`.

    Returns
    -------
    PseudosubtomoSetup
    """
    kx, ky = frequency_grid((box, box), pixel_size)
    k = np.hypot(kx, ky)
    shape = (geometry.n_tilts,) + k.shape
    sign = np.float32(-1 if invert else 1)
    limit = np.full(geometry.n_tilts, box / 2.0)
    if ctf is None:
        phase, slope, weight = np.zeros(shape, np.float32), np.zeros(k.shape, np.float32), np.ones(shape, np.float32)
    else:
        phase, slope = ctf.coefficients(kx, ky)
        phase, slope = (phase - np.rint(phase)).astype(np.float32), slope.astype(np.float32)
        scale = np.ones(geometry.n_tilts) if ctf.scale is None else ctf.scale
        weight = dose_weight(geometry.dose[:, None, None], k, bfactor) * scale[:, None, None]
        weight *= np.exp(-0.25 * ctf.bfactor[:, None, None] * k ** 2)
        radius = np.arange(box // 2 + 1)
        faint = dose_weight(geometry.dose[:, None], radius / (box * pixel_size), bfactor) <= FAINT
        limit = np.where(faint.any(axis=1), faint.argmax(axis=1) - 1.0, limit)
    put = backend.to_device
    return PseudosubtomoSetup(box, crop, int(np.floor(ratio * box + 0.5)), float(ratio), float(binning),
                      CTF_MODES["none" if ctf is None else "multiply"], put(phase), put(slope),
                      put((sign * weight).astype(np.float32)), limit, circle, precrop,
                      None if whitening is None else put(whitening))


def whitening_filter(images: np.ndarray, side: int, box: int, binning: float = 1.0) -> np.ndarray:
    """What makes the spectrum of each tilt image flat.

    Parameters
    ----------
    images : ndarray `(T, h, w)` float32
        Tilt images, without what was added at their edges; on the host.
    side : int
        Of the blocks, pixels; they overlap by half.
    box : int
        Side of the windows that the filter is for, pixels, which cover what a block does.
    binning : float
        Pixel size of these images over that of the original ones, whose noise the filter brings to 1.

    Returns
    -------
    ndarray `(T, box, box//2+1)` float32
        ``1 / sqrt(P(k))``, P the mean of the blocks' power in unitary transforms over the pixels of a ring; 0 where
        that is 0.

    Raises
    ------
    ValueError
        If the images are smaller than a block.
    """
    h, w = images.shape[1:]
    if min(h, w) < side:
        raise ValueError("blocks of %d px are larger than images of %d x %d px" % (side, w, h))
    ring = lambda n: np.hypot(np.fft.fftfreq(n, 1 / n)[:, None], np.arange(n // 2 + 1))  # noqa: E731
    index = np.rint(ring(side)).astype(int)
    # All but the two lines that are their own mates stand for their mates too.
    twice = np.full(index.shape, 2.0)
    twice[:, 0] = 1
    if side % 2 == 0:
        twice[:, -1] = 1
    count = np.bincount(index.ravel(), twice.ravel())
    out = np.empty((len(images), box, box // 2 + 1), np.float32)
    for t, image in enumerate(images):
        power = np.zeros(index.shape)
        starts = [np.unique(np.append(np.arange(0, n - side + 1, max(side // 2, 1)), n - side)) for n in (h, w)]
        for y in starts[0]:
            for x in starts[1]:
                power += np.abs(rfft2(np.ascontiguousarray(image[y:y + side, x:x + side]))) ** 2
        mean = np.bincount(index.ravel(), (twice * power).ravel()) / count
        mean *= binning ** 2 / (side ** 2 * len(starts[0]) * len(starts[1]))
        gain = np.zeros(len(mean))
        np.divide(1, np.sqrt(mean), out=gain, where=mean > 0)
        # A block and a window have the same frequencies; beyond the blocks' Nyquist rings are incomplete.
        out[t] = np.interp(ring(box), np.arange(side // 2 + 1), gain[:side // 2 + 1])
    return out


def cone_weight(size: int, axis: np.ndarray, angle: float, sigma: float) -> np.ndarray:
    """Weight that takes away the frequencies about an axis, such as those of a membrane.

    Parameters
    ----------
    size : int
        Side of the volume, even.
    axis : ndarray `(N, 3)`
        Unit vectors xyz, in the frame of the volume.
    angle : float
        Opening of the cone, degrees.
    sigma : float
        Frequency pixels: width of the cone at its tip.

    Returns
    -------
    ndarray `(N, size, size, size//2+1)` float32
        ``1 - exp(-t^2 / 2)`` with ``t = rho / (|z| sin(angle / 2) + sigma)``, z along the axis and rho from it; FFT
        order.
    """
    k = np.fft.fftfreq(size, 1 / size)
    grid = np.stack(np.broadcast_arrays(np.arange(size // 2 + 1), k[:, None], k[:, None, None]), -1).astype(np.float32)
    along = np.abs(np.einsum("zyxi,ni->nzyx", grid, np.asarray(axis, np.float32)))
    rho = np.sqrt(np.maximum((grid ** 2).sum(-1) - along ** 2, 0))
    return (1 - np.exp(-0.5 * (rho / (along * np.sin(np.deg2rad(angle) / 2) + sigma)) ** 2)).astype(np.float32)


def visible_tilts(geometry: TiltSeriesGeometry, xy: np.ndarray, radius: float,
                  max_dose: Optional[float] = None) -> np.ndarray:
    """Which tilts show particles, the circle of their windows lying within the image.

    Parameters
    ----------
    geometry : TiltSeriesGeometry
    xy : ndarray `(N, T, 2)`
        Angstrom from the image centre.
    radius : float
        Half the cropped window, angstrom.
    max_dose : float, optional
        Tilts that had more before their exposure are left out, e/A^2.

    Returns
    -------
    ndarray `(N, T)` of bool
    """
    h, w = geometry.image_shape
    p = geometry.pixel_size
    corner = np.array([w // 2, h // 2]) * p
    place = xy + corner
    inside = ((place > radius) & (place < np.array([w, h]) * p - radius)).all(axis=-1)
    return inside if max_dose is None else inside & (geometry.dose <= max_dose)


def windows(stack: Array, plan: PseudosubtomoSetup, position_px: np.ndarray, depth: np.ndarray, visible: np.ndarray,
            backend: Backend) -> Tuple[Array, Array]:
    """Transforms of windows, multiplied by the CTF, and the squares of the factors.

    Parameters
    ----------
    stack, plan, position_px, depth, visible, backend
        As `extract_stacks`.

    Returns
    -------
    data : ndarray `(N, T, box, box//2+1)` complex64
        Particle at pixel box//2; on the device.
    weight : ndarray `(N, T, box, box//2+1)` float32
    """
    kernels, put = implementation(backend), backend.to_device
    position_px = np.asarray(position_px, np.float64)
    half = plan.source // 2
    origin = np.clip(np.floor(position_px + 0.5), -2 ** 30, 2 ** 30).astype(np.int32) - half
    shift = ((position_px - origin) / plan.ratio - plan.box // 2).astype(np.float32)
    cut = kernels.crop(stack, put(origin), plan.source)
    if plan.precrop:
        cut = kernels.circle(cut, cut.sum(axis=(2, 3)), plan.source / 2, EDGE, plan.source)
    data = backend.fft.rfft2(cut, axes=(2, 3))
    if plan.source != plan.box:
        data = fourier_crop(data, plan.box, backend.xp, nyquist=True)
        data *= np.float32(plan.source / (plan.ratio * plan.box))  # not 1 where the source box had to be rounded
    weight = kernels.modulate(data, plan.phase, plan.slope, put(np.ascontiguousarray(depth, np.float32)), put(shift),
                              plan.envelope, put(np.ascontiguousarray(visible)), plan.mode)
    if plan.whitening is not None:
        data *= plan.whitening
        weight *= plan.whitening
    return data, weight


def extract_stacks(stack: Array, plan: PseudosubtomoSetup, position_px: np.ndarray, depth: np.ndarray,
                   visible: np.ndarray, backend: Backend) -> Array:
    """Cut out N particles as 2D stacks.

    Parameters
    ----------
    stack : ndarray `(T, h, w)` float32
        Tilt images, not inverted; on the device. RELION repeats the pixels at the edge outwards: do so by half a
        window beforehand, and count positions from the new corner; beyond the images there is 0 here.
    plan : PseudosubtomoSetup
    position_px : ndarray `(N, T, 2)` float64
        Where each particle is seen, pixels of the images from their corner, yx.
    depth : ndarray `(N, T)`
        Angstrom added to the defocus (hand times depth).
    visible : ndarray `(N, T)` of bool
        Tilts that show the particle; the others are 0.
    backend : Backend

    Returns
    -------
    ndarray `(N, T, crop, crop)` float32
        Particle at pixel crop//2; on the device.
    """
    data, _ = windows(stack, plan, position_px, depth, visible, backend)
    return _circled(data, plan, plan.crop, 1 / plan.binning, backend)


def _circled(data: Array, plan: PseudosubtomoSetup, size: int, scale: Union[float, np.floating], backend: Backend,
             rolled: bool = False) -> Array:
    """Windows of transforms, levelled and masked if the plan says so, cropped and scaled; others are not rolled."""
    fft, b, first = backend.fft, plan.box, plan.box // 2 - size // 2
    if not plan.circle:
        windows = fft.irfft2(data, s=(b, b), axes=(2, 3), overwrite_x=True)
        windows = windows[:, :, first:first + size, first:first + size] * np.float32(scale)
        return windows
    total = data[:, :, 0, 0].real.copy()
    # Rows that the circle does not touch are not needed.
    reach = _reach(plan)
    lines = fft.ifft(data, axis=2, overwrite_x=True)[:, :, b // 2 - reach:b // 2 + reach]
    rows = fft.irfft(lines, n=b, axis=3)
    return implementation(backend).circle(rows, total, plan.crop / 2, EDGE, size, rolled, scale)


def _reach(plan: PseudosubtomoSetup) -> int:
    """Rows above and below the centre that the circle touches."""
    return min(plan.crop // 2 + 1, plan.box // 2)


def _transform(windows: Array, reach: int, backend: Backend) -> Array:
    """rfft2 of windows that are 0 but for some rows at both ends."""
    xp, fft, b = backend.xp, backend.fft, windows.shape[3]
    lines = xp.zeros(windows.shape[:3] + (b // 2 + 1,), np.complex64)
    for rows in (slice(0, reach), slice(b - reach, b)):
        lines[:, :, rows] = fft.rfft(windows[:, :, rows], axis=3)
    return fft.fft(lines, axis=2, overwrite_x=True)


def extract_volumes(stack: Array, plan: PseudosubtomoSetup, position_px: np.ndarray, depth: np.ndarray,
                    matrix: np.ndarray, visible: np.ndarray, backend: Backend,
                    cone: Optional[np.ndarray] = None) -> Tuple[Array, Array, Array]:
    """Cut out N particles as 3D sums.

    Parameters
    ----------
    stack, plan, position_px, depth, visible, backend
        As `extract_stacks`; all particles must be seen in the same tilts.
    matrix : ndarray `(N, T, 2, 3)` or `(1, T, 2, 3)`
        Image displacement of a displacement in the frame of the volume.
    cone : ndarray `(N, crop, crop, crop//2+1)`, optional
        Weight of all three, as `cone_weight` gives it.

    Returns
    -------
    data : ndarray `(N, crop, crop, crop)` float32
        Sum of the windows, particle at voxel crop//2; on the device.
    weight, count : ndarray `(N, crop, crop, crop//2+1)` float32
        Sum of the squares of CTF and dose weight, and of the samples; FFT order, zero frequency at 0.

    Raises
    ------
    ValueError
        If particles are seen in different tilts.
    """
    kernels, c, b = implementation(backend), plan.crop, plan.box
    visible = np.asarray(visible)
    if (visible != visible[0]).any():
        raise ValueError("particles of one call must be seen in the same tilts")
    data, weight = windows(stack, plan, position_px, depth, visible, backend)
    # Unitary transforms on both sides, RELION's own factor, and samples that count (c / b)^2.
    share = np.float32((c / b) ** 2)
    scale = share * np.float32(c ** 1.5 / b * (b / (c * np.sqrt(plan.binning))))
    if plan.circle:
        data = _transform(_circled(data, plan, b, scale, backend, rolled=True), _reach(plan), backend)
    else:
        data *= backend.xp.asarray(scale * centre_phase(b))
    cells = np.ascontiguousarray(np.swapaxes(np.asarray(matrix, np.float64), -1, -2)) * (c / b)
    limit = np.where(visible[0], plan.limit, -1.0)
    cells = kernels.insert_linear(data, weight, backend.to_device(cells), backend.to_device(limit), c)
    grids, weight, count = kernels.fold_linear(cells, c, share)
    if cone is not None:
        cone = backend.to_device(cone)
        grids, weight, count = grids * cone, weight * cone, count * cone
    volumes = backend.fft.irfftn(grids, s=(c, c, c), axes=(1, 2, 3), overwrite_x=True)
    return volumes, weight, count
