"""Sub-tomograms with their 3D CTFs, made straight from the tilt images.

For every particle and tilt a window is cut out of the tilt image, multiplied by the sign of the CTF and Warp's weight
(`weights.envelope`) and divided by the density of slices there (`weights.slice_density`), all in a box that holds the
CTF without aliasing; it is cropped to the output box and its transform enters a Fourier grid.  With the density on
the slices, gridding is all that is left, and that is done with a Kaiser-Bessel kernel to 0.3 %.  The same weights
times the CTF's modulus go through the same steps and give the 3D CTF, which so is the transfer function of the volume
by construction: an exported object is the object filtered by its 3D CTF.

Where the images are turned so that the volume's y axis runs along their x (`turn.py`), a slice's frequencies along y
are those of the volume: only z and x are gridded, and every cell is a sum of whole rows of samples. Any other geometry,
and particles with frames of their own, take the general way, at nearly twice the cost; the two agree to 0.3 %.

Warp's own order of things (trilinear, twice oversampled, numerator over weights on the grid) is in `trilinear.py`.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Optional, Tuple

import numpy as np

from .arrays import Array
from .backend import Backend
from .ctf import Ctf, alias_free_box, frequency_grid
from .fourier import centre_phase, factor_sum, fast_even, fourier_crop, nearest_pixel
from .geometry import TiltSeriesGeometry
from .gridding import crop_matrix, deapodisation, grid_size, kernel_table, parity_matrices, spread_terms
from .kernels import CTF_MODES, implementation
from .turn import runs_along_x
from .weights import envelope, slice_density


@dataclass(frozen=True, eq=False)
class SubtomoSetup:
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
    density : ndarray `(T, padded, padded//2+1)` float32
        Of the slices of all tilts; on the host.
    phase, slope, envelope : ndarray
        As the kernel `modulate` takes them; on the device. The envelope is the weight over the density of slices.
    table : ndarray
        Kernel weights; on the device.
    matrix : ndarray `(T, 2, 3)`
        Of the geometry; on the host.
    terms : tuple of ndarray or None
        `gridding.spread_terms`, if y runs along x of all images; on the device.
    """

    box: int
    padded: int
    grid: int
    source: int
    pixel_size: float
    mode: int
    weight: np.ndarray
    density: np.ndarray
    phase: Array
    slope: Array
    envelope: Array
    table: Array
    matrix: np.ndarray
    terms: Optional[Tuple[Array, ...]]


def padded_box(box: int, ctf: Optional[Ctf], pixel_size: float, diameter: float, depth_range: float = 0.0,
               largest: Optional[int] = None) -> Tuple[int, int]:
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


def setup_subtomos(geometry: TiltSeriesGeometry, ctf: Optional[Ctf], box: int, padded: int, pixel_size: float,
                   backend: Backend, dose_weighting: bool = True, mode: str = "phaseflip",
                   source: Optional[int] = None) -> SubtomoSetup:
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
    SubtomoSetup
    """
    kx, ky = frequency_grid((padded, padded), pixel_size)
    mode = CTF_MODES["none" if ctf is None else mode]  # type: ignore[assignment]  # its number from here on
    shape = (geometry.n_tilts, padded, padded // 2 + 1)
    weight = envelope(geometry, kx ** 2 + ky ** 2, None if ctf is None else ctf.bfactor,
                      None if ctf is None else ctf.scale, dose_weighting)
    if mode == CTF_MODES["none"]:
        phase, slope = np.zeros(shape, np.float32), np.zeros(shape[1:], np.float32)
    else:
        assert ctf is not None
        phase, slope = ctf.coefficients(kx, ky)
        phase = (phase - np.rint(phase)).astype(np.float32)
        slope = slope.astype(np.float32)
    grid = grid_size(box)
    put = backend.to_device
    density = slice_density(geometry.matrix, (padded, padded), pixel_size, box * pixel_size)
    plan = SubtomoSetup(box, padded, grid, source or padded, pixel_size,
                        mode,  # type: ignore[arg-type]  # a number by now
                        weight, density, put(phase), put(slope), None, put(kernel_table(box, grid)), geometry.matrix,
                        None)
    if runs_along_x(geometry.matrix):
        plan = replace(plan, terms=tuple(put(a) for a in spread_terms(geometry.matrix[:, 1, ::2], box, grid)))
    return setup_visible(plan, geometry, np.ones(geometry.n_tilts, bool), backend)


def setup_visible(plan: SubtomoSetup, geometry: TiltSeriesGeometry, visible: np.ndarray,
                  backend: Backend) -> SubtomoSetup:
    """Adapt a plan to particles that only some of the tilts show: the others count in no density either.

    Parameters
    ----------
    plan : SubtomoSetup
    geometry : TiltSeriesGeometry
        That of the plan.
    visible : ndarray `(T,)` of bool
    backend : Backend

    Returns
    -------
    SubtomoSetup
    """
    envelope_, shown = np.zeros_like(plan.weight), np.flatnonzero(visible)
    density = plan.density[shown]
    if len(shown) < geometry.n_tilts:
        density -= slice_density(geometry.matrix, (plan.padded, plan.padded), plan.pixel_size,
                                 plan.box * plan.pixel_size, np.flatnonzero(~visible), shown)
    envelope_[shown] = plan.weight[shown] / density
    return replace(plan, envelope=backend.to_device(envelope_))


def reconstruct_subtomos(stack: Array, plan: SubtomoSetup, position_px: np.ndarray, depth: np.ndarray,
                         matrix: np.ndarray, visible: np.ndarray, backend: Backend,
                         correct: bool = True) -> Tuple[Array, ...]:
    """Reconstruct N particles.

    Parameters
    ----------
    stack : ndarray `(T, h, w)` float32
        Prepared tilt images; on the device.
    plan : SubtomoSetup
    position_px : ndarray `(N, T, 2)` float64
        Where each particle is seen, pixels of the images from their corner, yx.
    depth : ndarray `(N, T)`
        Angstrom added to the defocus (hand times depth).
    matrix : ndarray `(N, T, 2, 3)` or `(1, T, 2, 3)`
        Image displacement of a displacement in the frame of the volume; that of the geometry may take less time.
    visible : ndarray `(N, T)` of bool
        Tilts that show the particle; the others are absent from volume and CTF, and from the density if the plan is
        of `setup_visible`.
    backend : Backend
    correct : bool
        False leaves out the CTF volumes (None is returned for them).

    Returns
    -------
    volumes : ndarray `(N, box, box, box)` float32
        Particle at voxel box//2; on the device.
    transfer : ndarray `(N, box, box, box//2+1)` float32
        3D CTF, FFT order, zero frequency at 0; on the device.

    Notes
    -----
    On the CPU one particle is made after the other: how a library for matrices rounds depends on how many there are.
    """
    if not backend.on_gpu and len(position_px) > 1:
        of = lambda a, i: a if len(a) == 1 else a[i:i + 1]  # noqa: E731
        made = [reconstruct_subtomos(  # type: ignore[call-arg]  # mypy takes * for all
            stack, plan, *(of(a, i) for a in (position_px, depth, matrix, visible)), backend, correct)
            for i in range(len(position_px))]
        return tuple(None if parts[0] is None else np.concatenate(parts) for parts in zip(*made))
    aligned = plan.terms is not None and len(matrix) == 1 and np.array_equal(matrix[0], plan.matrix)
    data, weight = slices(stack, plan, position_px, depth, visible, backend)
    return (_spread if aligned else _insert)(data, weight, plan, matrix, backend, correct)


def _insert(data: Array, weight: Array, plan: SubtomoSetup, matrix: np.ndarray, backend: Backend,
            correct: bool) -> Tuple[Array, ...]:
    """Volumes and 3D CTFs of slices in any orientation."""
    xp, kernels = backend.xp, implementation(backend)
    # A frequency q of the window is the 3D frequency M^T q; in cells of the grid, q counts grid / box of them.
    cells = np.ascontiguousarray(np.swapaxes(np.asarray(matrix, np.float64), -1, -2)) * (plan.grid / plan.box)
    accumulated = kernels.insert_slices(data, weight, backend.to_device(cells), plan.table, plan.grid)
    folded = kernels.fold_grid(accumulated, plan.grid)
    volumes = _to_real(folded[0], plan, backend)
    if not correct:
        return volumes, None
    # Inverse transform, crop and transform as products of matrices, which the response's symmetry makes real.
    matrix, *last = (backend.to_device(m) for m in crop_matrix(plan.box, plan.grid, True))
    n, g, _, gh = folded[1].shape
    along_z = (matrix @ folded[1].reshape(n, g, g * gh)).reshape(n, plan.box, g, gh)
    return volumes, _crop_last(matrix @ along_z, *last, (1, 2), xp)  # type: ignore[call-arg]  # mypy takes * for all


def _spread(data: Array, weight: Array, plan: SubtomoSetup, matrix: np.ndarray, backend: Backend,
            correct: bool) -> Tuple[Array, ...]:
    """Volumes and 3D CTFs of slices whose x is the volume's y."""
    xp, fft, kernels = backend.xp, backend.fft, implementation(backend)
    (n, t, b, bh), g, half = data.shape, plan.grid, plan.box // 2
    assert plan.terms is not None
    start, source, factor, centred = plan.terms
    # The centre stays at pixel b//2 along y, where nothing is gridded.
    data *= xp.asarray(np.where(np.arange(bh) % 2, -1, 1).astype(np.float32))
    rows = data.reshape(n, t * b, bh).view(np.float32)
    grids = kernels.spread_rows(rows, start, source, centred, 2 * half).view(np.complex64).reshape(n, g, g, bh)
    crop = slice(g // 2 - half, g // 2 - half + b)
    real = fft.ifft(grids, axis=1, overwrite_x=True)[:, crop]
    real = fft.ifft(real, axis=2, overwrite_x=True)[:, :, crop]
    # From zxy to zyx on the way.
    volumes = fft.irfft(real.swapaxes(2, 3), n=b, axis=2)
    volumes *= xp.asarray(deapodisation(b, g, (True, False, True)))
    if not correct:
        return volumes, None
    grids = kernels.spread_rows(weight.reshape(n, t * b, bh), start, source, factor, half)
    matrix = backend.to_device(crop_matrix(b, g, True)[0])
    along_z = (matrix @ grids.reshape(n, g, g * bh)).reshape(n, b, g, bh)
    return volumes, _x_last(matrix @ along_z, xp)


@lru_cache(maxsize=4)
def _within(box: int) -> np.ndarray:
    """Frequencies of a slice that lie in the sphere of the box; the Nyquist frequency does not."""
    q = np.fft.fftfreq(box, 1 / box)
    out = (q[:, None] ** 2 + np.arange(box // 2 + 1) ** 2 < 0.25 * box ** 2).astype(np.float32)
    out.flags.writeable = False
    return out


def _x_last(transfer: Array, xp: Any) -> Array:
    """Half transforms of even functions `(N, kz, kx, ky >= 0)` as `(N, kz, ky, kx >= 0)`."""
    n, b, _, bh = transfer.shape
    out = xp.empty((n, b, b, bh), np.float32)
    out[:, :, :bh] = transfer[:, :, :bh].swapaxes(2, 3)
    # The value at (kz, -ky, kx) is that at (-kz, ky, -kx).
    back = -np.arange(b) % b
    mate = transfer[:, back][:, :, back[:bh], 1:bh - 1]
    out[:, :, :bh - 1:-1] = mate.swapaxes(2, 3)
    return out


def slices(stack: Array, plan: SubtomoSetup, position_px: np.ndarray, depth: np.ndarray, visible: np.ndarray,
           backend: Backend) -> Tuple[Array, Array]:
    """Windows of N particles, CTF and weights applied, cropped to the output box and transformed.

    Parameters
    ----------
    stack, plan, position_px, depth, visible, backend
        As `reconstruct_subtomos`.

    Returns
    -------
    data : ndarray `(N, T, box, box//2+1)` complex64
        Transforms about the particle, which has phase 0; both are 0 outside the sphere of the box.
    weight : ndarray `(N, T, box, box//2+1)` float32
        Transfer function of those slices.
    """
    xp, fft, kernels = backend.xp, backend.fft, implementation(backend)
    s, b = plan.padded, plan.box
    origin, shift = nearest_pixel(position_px, plan.source)
    put = backend.to_device
    data = fft.rfft2(kernels.crop(stack, put(origin), plan.source), axes=(2, 3))
    if plan.source != s:
        data = fourier_crop(data, s, xp)
        shift *= np.float32(s / plan.source)
    how = (data, plan.phase, plan.slope, put(np.ascontiguousarray(depth, np.float32)), put(shift), plan.envelope,
           put(np.ascontiguousarray(visible)), plan.mode)
    within = put(_within(b))
    if s == b:
        weight = kernels.modulate(*how)
        weight *= within
        data *= within * put(centre_phase(b))
        return data, weight
    # Inverse transform, crop and transform as products of matrices.
    even, odd, even_last, odd_last = (put(m) for m in parity_matrices(b, s))
    parts = kernels.modulate_parts(*how)
    _, sh, _, n, t, _ = parts.shape
    bh, real = b // 2 + 1, slice(0, 2 * n * t)  # the transfer is real, too
    imaginary = slice(real.stop, None)
    partly = xp.empty((2, bh, 3 * n * t, sh), np.float32)
    cropped = xp.empty((2, bh, 3 * n * t, bh), np.float32)
    for side, matrix, first, second in ((0, even, even_last, odd_last), (1, odd, odd_last, even_last)):
        xp.matmul(matrix, parts[side].reshape(sh, -1), out=partly[side].reshape(bh, -1))
        # Of a real image's transform the real part is even and the imaginary part odd: along x the one or the other
        # way about, where the part is odd along y.
        xp.matmul(partly[side, :, real], first, out=cropped[side, :, real])
        xp.matmul(partly[side, :, imaginary], second, out=cropped[side, :, imaginary])
    return kernels.join_parts(cropped.reshape(2, bh, 3, n, t, bh), within, within)


def exact_windows(padded: int, ratio: float) -> Tuple[int, int]:
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


def _crop_last(partly: Array, last: Array, mates: Array, axes: Tuple[int, ...], xp: Any) -> Array:
    """Crop the last axis of an even function's transform, the others being cropped already.

    Parameters
    ----------
    partly : ndarray `(..., b, s//2+1)` float32
    last, mates : ndarray
        As of `gridding.crop_matrix`.
    axes : tuple of int
        The axes that belong to the transform beside the last.
    xp : module

    Returns
    -------
    ndarray `(..., b, b//2+1)` float32
    """
    # The value at -k is that at k with all other axes reversed.
    mate = xp.roll(xp.flip(partly[..., 1:-1], axes), 1, axes)
    out = partly @ last
    out += mate @ mates
    return out


def _to_real(grids: Array, plan: SubtomoSetup, backend: Backend) -> Array:
    """Inverse transform, de-apodise and crop Fourier grids `(N, grid, grid, grid//2+1)`; centre at box//2."""
    fft = backend.fft
    first = plan.grid // 2 - plan.box // 2
    box = slice(first, first + plan.box)
    # Axis by axis, each cropped before the next: a fifth less to transform.
    real = fft.ifft(grids, axis=1, overwrite_x=True)[:, box]
    real = fft.ifft(real, axis=2)[:, :, box]
    real = fft.irfft(real, n=plan.grid, axis=3)[..., box]
    return real * backend.xp.asarray(deapodisation(plan.box, plan.grid))
