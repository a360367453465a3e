"""Sub-tomograms the way Warp makes them: trilinear insertion, numerator over weights on the grid.

Slower and less accurate than `subtomo.py`; kept in plain NumPy because it is what other programs' results are
compared with, and for users who must reproduce them.
"""

from typing import Optional, Tuple

import numpy as np
import scipy.fft

from .ctf import Ctf, frequency_grid
from .fourier import centre_crop, centre_phase, nearest_pixel
from .geometry import TiltSeriesGeometry
from .kernels.reference import crop
from .weights import envelope


def reconstruct_trilinear(windows: np.ndarray, geometry: TiltSeriesGeometry, ctf: Optional[Ctf], depth: np.ndarray,
                          matrix: np.ndarray, box: int, pixel_size: float, visible: Optional[np.ndarray] = None,
                          denominator: str = "warp", epsilon: float = 1e-4,
                          dose_weighting: bool = True) -> Tuple[np.ndarray, np.ndarray]:
    """Reconstruct one particle and its 3D CTF.

    Parameters
    ----------
    windows : ndarray `(T, S, S)` float32
        Windows of the tilt images, the particle exactly on pixel S//2; S is the padded box, twice `box` in Warp.
    geometry : TiltSeriesGeometry
        Of the same T tilts.
    ctf : Ctf or None
        Of the same tilts; None takes the CTF for 1.
    depth : ndarray `(T,)`
        Angstrom added to the defocus.
    matrix : ndarray `(T, 2, 3)`
        Image displacement of a displacement in the frame of the volume.
    box : int
        Output box, pixels.
    pixel_size : float
        Angstrom.
    visible : ndarray `(T,)` of bool, optional
        Tilts that show the particle.
    denominator : {'warp', 'warpylib'}
        Modulus of the CTF without its weight, as Warp has it, or with it.
    epsilon : float
        Smallest divisor.
    dose_weighting : bool
        Weight by dose and tilt.

    Returns
    -------
    volume : ndarray `(box, box, box)` float32
    transfer : ndarray `(box, box, box//2+1)` float32
        3D CTF, FFT order.

    Notes
    -----
    ``V = sum(w I C) min(1, sum w) / max(epsilon, sum(w |D|))`` with trilinear weights w, then the inverse transform
    divided by ``sinc^2(|r| / S)``; the 3D CTF is the same with ``I = C`` without weight.
    """
    s = windows.shape[-1]
    t = len(windows)
    kx, ky = frequency_grid((s, s), pixel_size)
    plain = np.ones((t, s, s // 2 + 1)) if ctf is None else ctf.values(kx, ky, np.asarray(depth, np.float64))
    weighted = plain * envelope(geometry, kx ** 2 + ky ** 2, None if ctf is None else ctf.bfactor,
                                None if ctf is None else ctf.scale, dose_weighting)
    if visible is not None:
        keep = np.flatnonzero(visible)
        windows, plain, weighted, matrix = windows[keep], plain[keep], weighted[keep], np.asarray(matrix)[keep]
    divisor = np.abs(plain if denominator == "warp" else weighted)
    other = plain if denominator == "warp" else weighted
    image = scipy.fft.rfft2(windows.astype(np.float32)) * centre_phase(s)
    quantities = np.stack([image * weighted, weighted * other, divisor, np.ones(divisor.shape)]).astype(np.complex128)
    data, square, below, count = _insert(quantities, matrix, s)
    scale = np.minimum(1, count.real) / np.maximum(epsilon, below.real)
    axis = np.arange(box) - box // 2
    r = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis ** 2)
    gridding = np.sinc(r / s) ** 2
    volume = scipy.fft.fftshift(scipy.fft.irfftn(data * scale, s=(s,) * 3))
    psf = scipy.fft.fftshift(scipy.fft.irfftn(square * scale, s=(s,) * 3))
    volume = centre_crop(volume, box, (0, 1, 2)) / gridding
    psf = centre_crop(psf, box, (0, 1, 2))
    transfer = scipy.fft.rfftn(scipy.fft.ifftshift(psf)).real
    return volume.astype(np.float32), transfer.astype(np.float32)


def _insert(quantities: np.ndarray, matrix: np.ndarray, s: int) -> np.ndarray:
    """Scatter `(Q, T, s, s//2+1)` into half grids `(Q, s, s, s//2+1)`, FFT order, mates on the plane x = 0 too."""
    half = s // 2 + 1
    out = np.zeros((len(quantities), s * s * half), np.complex128)
    qy, qx = np.meshgrid(np.fft.fftfreq(s, 1 / s), np.arange(half), indexing="ij")
    chosen = (qx ** 2 + qy ** 2 < (s / 2) ** 2) & ~((qx == 0) & (qy < 0))
    k = np.swapaxes(np.asarray(matrix, np.float64), 1, 2) @ np.stack([qx[chosen], qy[chosen]])  # (T, 3, samples)
    mirrored = k[:, :1] < 0
    k = np.where(mirrored, -k, k).transpose(1, 0, 2).reshape(3, -1)
    value = quantities[:, :, chosen]
    value = np.where(mirrored[:, 0], value.conj(), value).reshape(len(quantities), -1)
    lower = np.floor(k).astype(int)
    part = k - lower
    for corner in np.ndindex(2, 2, 2):
        step = np.array(corner)[:, None]
        w = np.prod(np.where(step, part, 1 - part), axis=0)
        x, y, z = lower + step
        _add(out, value * w, x, y, z, s, half)
        plane = x == 0
        _add(out, (value * w).conj()[:, plane], -x[plane], -y[plane], -z[plane], s, half)
    return out.reshape(-1, s, s, half)


def _add(out: np.ndarray, value: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray, s: int, half: int) -> None:
    inside = (x >= 0) & (x < half) & (abs(y) <= s // 2) & (abs(z) <= s // 2)
    index = (((z % s) * s + y % s) * half + x)[inside]
    for q in range(len(out)):
        out[q] += np.bincount(index, value[q, inside].real, out.shape[1])
        out[q] += 1j * np.bincount(index, value[q, inside].imag, out.shape[1])


def windows_at(stack: np.ndarray, position_px: np.ndarray, size: int) -> np.ndarray:
    """Windows of tilt images with a point exactly on their centre.

    Parameters
    ----------
    stack : ndarray `(T, h, w)` float32
    position_px : ndarray `(T, 2)`
        Pixels from the images' corner, yx.
    size : int
        Side of the windows, even.

    Returns
    -------
    ndarray `(T, size, size)` float32
        The point is on pixel size//2; 0 outside the images.
    """
    origin, left = nearest_pixel(position_px, size)
    transform = scipy.fft.rfft2(crop(stack, origin[None], size)[0])
    ky, kx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)
    turn = ky * left[:, 0, None, None] + kx * left[:, 1, None, None]
    return scipy.fft.irfft2(transform * np.exp(2j * np.pi * turn).astype(np.complex64), s=(size, size))
