"""Sub-tomograms with their 3D CTFs, made straight from the tilt images.

For every particle and tilt a window is cut out of the tilt image, multiplied by the sign of the CTF and Warp's weight
(`weights.envelope`) and divided by the density of slices there (`weights.slice_density`), all in a box that holds the
CTF without aliasing; it is cropped to the output box and its transform enters a Fourier grid.  With the density on
the slices, gridding is all that is left, and that is done with a Kaiser-Bessel kernel to 0.3 %.  The same weights
times the CTF's modulus go through the same steps and give the 3D CTF, which so is the transfer function of the volume
by construction: an exported object is the object filtered by its 3D CTF.

Warp's own order of things (trilinear, twice oversampled, numerator over weights on the grid) is in `trilinear.py`.
"""

from dataclasses import dataclass, replace

import numpy as np

from .ctf import alias_free_box, frequency_grid
from .fourier import centre_crop, centre_phase, factor_sum, fast_even, nearest_pixel, sphere
from .gridding import deapodisation, grid_size, kernel_table
from .kernels import CTF_MODES, implementation
from .weights import envelope, slice_density


@dataclass(frozen=True, eq=False)
class SubtomoPlan:
    """All that particles of one tilt series share.

    Attributes
    ----------
    box, padded, grid : int
        Output box, box in which the CTF is applied, side of the Fourier grid; even.
    source : int
        Side of the windows that are cut out of the images: `padded`, or more pixels of unbinned images.
    pixel_size : float
        Angstrom of the output.
    mode : int
        How the CTF enters, `kernels.CTF_MODES`.
    weight : ndarray `(T, padded, padded//2+1)` float32
        Warp's weight of each tilt; on the host.
    phase, slope, envelope : ndarray
        As the kernel `modulate` takes them; on the device. The envelope is the weight over the density of slices.
    table : ndarray
        Kernel weights; on the device.
    """

    box: int
    padded: int
    grid: int
    source: int
    pixel_size: float
    mode: int
    weight: np.ndarray
    phase: object
    slope: object
    envelope: object
    table: object


def padded_box(box, ctf, pixel_size, diameter, depth_range=0.0, largest=None):
    """Box in which the CTF is applied: the output box or, if larger, the alias-free one.

    Parameters
    ----------
    box : int
        Output box, pixels.
    ctf : Ctf or None
        Of the used tilts.
    pixel_size, diameter, depth_range : float
        Angstrom, as `ctf.alias_free_box`.
    largest : int, optional
        Side beyond which a window would hold nothing but padding.

    Returns
    -------
    padded, needed : int
        The box taken, and the one that would be alias-free.
    """
    needed = box if ctf is None else max(box, alias_free_box(ctf, pixel_size, diameter, depth_range))
    taken = needed if largest is None else max(box, min(needed, largest))
    return (box if taken == box else fast_even(taken)), needed


def plan_subtomos(geometry, ctf, box, padded, pixel_size, backend, dose_weighting=True, mode="phaseflip", source=None):
    """Prepare what all particles of one tilt series share.

    Parameters
    ----------
    geometry : TiltSeriesGeometry
        Only the tilts that are used.
    ctf : Ctf or None
        Of the same tilts; None applies no CTF.
    box, padded : int
        Output box and CTF box, pixels, even.
    pixel_size : float
        Angstrom of the output.
    backend : Backend
    dose_weighting : bool
        Weight by dose and tilt.
    mode : str
        One of `kernels.CTF_MODES`.
    source : int, optional
        Side of the windows in pixels of images that were not rescaled, as `exact_windows` gives it.

    Returns
    -------
    SubtomoPlan
    """
    kx, ky = frequency_grid((padded, padded), pixel_size)
    mode = CTF_MODES["none" if ctf is None else mode]
    shape = (geometry.n_tilts, padded, padded // 2 + 1)
    weight = envelope(geometry, kx ** 2 + ky ** 2, None if ctf is None else ctf.bfactor,
                      None if ctf is None else ctf.scale, dose_weighting)
    if mode == CTF_MODES["none"]:
        phase, slope = np.zeros(shape, np.float32), np.zeros(shape[1:], np.float32)
    else:
        phase, slope = ctf.coefficients(kx, ky)
        phase = (phase - np.rint(phase)).astype(np.float32)
        slope = slope.astype(np.float32)
    grid = grid_size(box)
    put = backend.to_device
    plan = SubtomoPlan(box, padded, grid, source or padded, pixel_size, mode, weight, put(phase), put(slope), None,
                       put(kernel_table(box, grid)))
    return plan_visible(plan, geometry, np.ones(geometry.n_tilts, bool), backend)


def plan_visible(plan, geometry, visible, backend):
    """Adapt a plan to particles that only some of the tilts show: the others count in no density either.

    Parameters
    ----------
    plan : SubtomoPlan
    geometry : TiltSeriesGeometry
        That of the plan.
    visible : ndarray `(T,)` of bool
    backend : Backend

    Returns
    -------
    SubtomoPlan
    """
    shape = (plan.padded, plan.padded)
    envelope_ = np.zeros_like(plan.weight)
    envelope_[visible] = plan.weight[visible] / slice_density(geometry.matrix[visible], shape, plan.pixel_size,
                                                              plan.box * plan.pixel_size)
    return replace(plan, envelope=backend.to_device(envelope_))


def reconstruct_subtomos(stack, plan, position_px, depth, matrix, visible, backend, correct=True):
    """Reconstruct N particles.

    Parameters
    ----------
    stack : ndarray `(T, h, w)` float32
        Prepared tilt images; on the device.
    plan : SubtomoPlan
    position_px : ndarray `(N, T, 2)` float64
        Where each particle is seen, pixels of the images from their corner, yx.
    depth : ndarray `(N, T)`
        Angstrom added to the defocus (hand times depth).
    matrix : ndarray `(N, T, 2, 3)` or `(1, T, 2, 3)`
        Image displacement of a displacement in the frame of the volume.
    visible : ndarray `(N, T)` of bool
        Tilts that show the particle; the others are absent from volume and CTF, and from the density if the plan is
        of `plan_visible`.
    backend : Backend
    correct : bool
        False leaves out the CTF volumes (None is returned for them).

    Returns
    -------
    volumes : ndarray `(N, box, box, box)` float32
        Particle at voxel box//2; on the device.
    transfer : ndarray `(N, box, box, box//2+1)` float32
        3D CTF, FFT order, zero frequency at 0; on the device.
    """
    xp, kernels = backend.xp, implementation(backend)
    data, weight = slices(stack, plan, position_px, depth, visible, backend)
    # A frequency q of the window is the 3D frequency M^T q; in cells of the grid, q counts grid / box of them.
    cells = np.ascontiguousarray(np.swapaxes(np.asarray(matrix, np.float64), -1, -2)) * (plan.grid / plan.box)
    accumulated = kernels.insert_slices(data, weight, backend.to_device(cells), plan.table, plan.grid)
    folded = kernels.fold_grid(accumulated, plan.grid)
    volumes = _to_real(folded[0], plan, backend)
    if not correct:
        return volumes, None
    psf = xp.fft.ifftshift(_to_real(folded[1], plan, backend), axes=(1, 2, 3))
    transfer = backend.fft.rfftn(psf, axes=(1, 2, 3)).real
    return volumes, xp.ascontiguousarray(transfer)


def slices(stack, plan, position_px, depth, visible, backend):
    """Windows of N particles, CTF and weights applied, cropped to the output box and transformed.

    Parameters
    ----------
    stack, plan, position_px, depth, visible, backend
        As `reconstruct_subtomos`.

    Returns
    -------
    data : ndarray `(N, T, box, box//2+1)` complex64
        Transforms about the particle, which has phase 0.
    weight : ndarray `(N, T, box, box//2+1)` float32
        Transfer function of those slices.
    """
    xp, fft, kernels = backend.xp, backend.fft, implementation(backend)
    s, b = plan.padded, plan.box
    origin, shift = nearest_pixel(position_px, plan.source)
    put = backend.to_device
    data = fft.rfft2(kernels.crop(stack, put(origin), plan.source), axes=(2, 3))
    if plan.source != s:
        data = _fourier_crop(data, s, xp)
        shift *= np.float32(s / plan.source)
    weight = kernels.modulate(data, plan.phase, plan.slope, put(np.ascontiguousarray(depth, np.float32)), put(shift),
                              plan.envelope, put(np.ascontiguousarray(visible)), plan.mode)
    sign = xp.asarray(centre_phase(b))
    if s != b:
        windows = fft.irfft2(data, s=(s, s), axes=(2, 3))
        data = fft.rfft2(xp.ascontiguousarray(centre_crop(windows, b, (2, 3))), axes=(2, 3))
        spread = fft.irfft2(weight.astype(xp.complex64), s=(s, s), axes=(2, 3))
        # The transfer's point response sits on pixel 0: bring the crop's pixels together around it.
        half = b // 2
        rows = xp.concatenate([spread[:, :, :half], spread[:, :, s - half:]], axis=2)
        spread = xp.concatenate([rows[..., :half], rows[..., s - half:]], axis=3)
        weight = xp.ascontiguousarray(fft.rfft2(spread, axes=(2, 3)).real)
    data *= sign
    return data, weight


def exact_windows(padded, ratio):
    """Sides of unbinned windows and of the CTF box whose ratio is that of the pixel sizes.

    Parameters
    ----------
    padded : int
        Smallest CTF box, output pixels.
    ratio : float
        Output over image pixel size, at least 1.

    Returns
    -------
    source, padded : int
        Even; ``source / padded`` is the ratio within 1e-4 or as near as even numbers up to a quarter more allow.
    """
    choices = []
    for side in range(padded, int(1.25 * padded) + 66, 2):
        source = 2 * int(round(side * ratio / 2))
        choices.append((max(abs(source / side / ratio - 1), 1e-4), side * factor_sum(side), source, side))
    return min(choices)[2:]


def _fourier_crop(data, size, xp):
    """Low frequencies of rfft2s `(N, T, S, S//2+1)` as those of windows of a smaller, even side; values are kept."""
    n, t, big, _ = data.shape
    half = size // 2
    out = xp.zeros((n, t, size, half + 1), data.dtype)
    factor = np.float32((size / big) ** 2)
    out[:, :, :half, :half] = data[:, :, :half, :half] * factor
    out[:, :, half + 1:, :half] = data[:, :, big - half + 1:, :half] * factor
    return out


def _to_real(grids, plan, backend):
    """Inverse transform, de-apodise and crop Fourier grids `(N, grid, grid, grid//2+1)`; centre at box//2."""
    fft, half = backend.fft, plan.box // 2

    def central(array, axis):
        """The box about index 0 of a periodic axis, index 0 moved to box//2."""
        ends = [slice(None)] * axis
        return backend.xp.concatenate([array[tuple(ends + [slice(plan.grid - half, plan.grid)])],
                                       array[tuple(ends + [slice(0, half)])]], axis=axis)

    # Axis by axis, each cropped before the next: a fifth less to transform.
    real = central(fft.ifft(grids, axis=1), 1)
    real = central(fft.ifft(real, axis=2, overwrite_x=True), 2)
    real = central(fft.irfft(real, n=plan.grid, axis=3, overwrite_x=True), 3)
    factor = backend.xp.asarray(deapodisation(plan.box, plan.grid))
    real *= factor[:, None, None] * factor[:, None] * (np.float32((plan.grid / plan.box) ** 3) * factor)
    return real


def normalise_volume(volume, radius):
    """Bring what lies outside a sphere to mean 0 and standard deviation 1, in place.

    Parameters
    ----------
    volume : ndarray `(n, n, n)` float32
    radius : float
        Voxels.

    Returns
    -------
    float
        The factor applied; 0 if the outside has no contrast, when the volume is left as it is.

    Raises
    ------
    ValueError
        If no voxel lies outside.
    """
    n = volume.shape[0]
    outside = volume[sphere(n, radius, dtype=bool) == 0]
    if outside.size == 0:
        raise ValueError("the sphere fills the box")
    sd = outside.std(dtype=np.float64)
    if not sd > 0:
        return 0.0
    volume -= np.float32(outside.mean(dtype=np.float64))
    volume *= np.float32(1 / sd)
    return 1 / sd
