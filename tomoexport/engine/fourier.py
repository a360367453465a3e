"""Fourier lengths, Fourier cropping and windows; every transform keeps single precision."""

from functools import lru_cache
from typing import Any, Callable, List, Optional, Sequence, Tuple

import numpy as np
import scipy.fft
from numpy.typing import DTypeLike

from ..errors import InputError
from . import transforms
from .arrays import Array

ROWS = 64  # of an image that are worked on at once


def fast_even(n: float) -> int:
    """Smallest even length not below a number whose transform is fast: no prime factor above 5.

    Parameters
    ----------
    n : int or float

    Returns
    -------
    int
    """
    n = int(np.ceil(n / 2))
    while _largest_factor(n) > 5:
        n += 1
    return 2 * n


def _largest_factor(n: int) -> int:
    for p in (2, 3, 5):
        while n % p == 0 and n > 1:
            n //= p
    return n if n > 1 else 1


@lru_cache(maxsize=64)
def rescale_lengths(n: int, ratio: float, tolerance: float = 1e-4) -> Tuple[int, int]:
    """Lengths between which a Fourier crop scales an image by a given ratio.

    Parameters
    ----------
    n : int
        Number of pixels.
    ratio : float
        Output pixel size over input pixel size, at least 1.
    tolerance : float
        Largest relative error of the ratio.

    Returns
    -------
    padded, cropped : int
        Both even and quick to transform; ``padded / cropped`` is the ratio within the tolerance, or as close to it as
        padding by a quarter (or 512 pixels) allows.

    Raises
    ------
    InputError
        If less than two pixels would be left.
    """
    best: Any = None
    for padded in range(2 * ((n + 1) // 2), max(int(1.25 * n), n + 512) + 2, 2):
        cropped = 2 * int(round(padded / ratio / 2))
        if cropped < 2:
            continue
        error = abs(padded / cropped / ratio - 1)
        # A transform takes time in proportion to length and prime factors.
        cost = padded * factor_sum(padded) + cropped * factor_sum(cropped)
        key = (max(error, tolerance), cost)
        if best is None or key < best[0]:
            best = (key, padded, cropped)
    if best is None:
        raise InputError("pixel size", "%g times that of the images leaves nothing of %d pixels" % (ratio, n),
                         "Ask for a smaller --pixel-size or --binning")
    return best[1], best[2]


def factor_sum(n: int) -> int:
    """Sum of the prime factors of ``n``: what a transform of this length costs per sample."""
    total, p = 0, 2
    while p * p <= n:
        while n % p == 0:
            total, n = total + p, n // p
        p += 1
    return total + (n if n > 1 else 0)


def fourier_rescale(image: np.ndarray, ratio: float, before: Optional[Callable[[int, np.ndarray], None]] = None
                    ) -> Tuple[np.ndarray, Tuple[float, float]]:
    """Scale an image to a larger pixel by cropping its transform; the centre N//2 stays the centre.

    Parameters
    ----------
    image : ndarray `(h, w)` float32
        Should fall off to 0 at its edges.
    ratio : float
        Output over input pixel size, at least 1.
    before : callable, optional
        ``before(y, rows)`` is called with some rows of the image, from row y on, right before they are transformed;
        what it changes in place is what is scaled.

    Returns
    -------
    scaled : ndarray `(h', w')` float32
        Even sides; mean values are kept.
    true_ratio : (float, float)
        The ratio really applied along y and x; see `rescale_lengths`.

    Raises
    ------
    InputError
        If the ratio is below 1 by more than that.
    """
    if 1 - 1e-4 <= ratio < 1 + 1e-6:
        for y in range(0, len(image), ROWS):
            if before:
                before(y, image[y:y + ROWS])
        return image, (1.0, 1.0)
    spectrum, true_ratio, shape = low_frequencies(image, ratio, before)
    scaled = transforms.irfft2(spectrum, overwrite_x=True)
    return np.ascontiguousarray(centre_crop(centre_crop(scaled, shape[0], (0,)), shape[1], (1,))), true_ratio


def low_frequencies(image: np.ndarray, ratio: float, before: Optional[Callable[[int, np.ndarray], None]] = None
                    ) -> Tuple[np.ndarray, Tuple[float, float], Tuple[int, ...]]:
    """Transform of an image, as that of one with larger pixels.

    Parameters
    ----------
    image, ratio, before
        As `fourier_rescale`; the ratio may be 1.

    Returns
    -------
    spectrum : ndarray `(h', w'//2+1)` complex64
        rfft2 of the scaled image, whose sides are even and whose centre is that of the image; mean values are kept.
        The Nyquist lines are 0.
    true_ratio : (float, float)
        As `fourier_rescale`.
    shape : (int, int)
        Central part of it that the image covers, even.

    Raises
    ------
    InputError
        As `fourier_rescale`.
    """
    if ratio < 1 - 1e-4:
        raise InputError("pixel size", "the output's is smaller than the images'", "Ask for at least the images' own")
    h, w = image.shape
    (hp, ho), (wp, wo) = (rescale_lengths(n, max(ratio, 1.0)) for n in (h, w))
    m = ho // 2
    # Rows first, a few at a time so that they stay in the cache; columns beyond the crop go before the second pass.
    half = np.empty((hp, wo // 2), np.complex64)
    half[h:] = 0
    for y in range(0, h, ROWS):
        rows = image[y:y + ROWS]
        if before:
            before(y, rows)
        half[y:y + len(rows)] = transforms.rfft(rows, n=wp, axis=1)[:, :wo // 2]
    full = transforms.fft(half, axis=0, overwrite_x=True)
    kept = np.zeros((ho, wo // 2 + 1), np.complex64)
    kept[:m, :wo // 2] = full[:m]
    kept[ho - m + 1:, :wo // 2] = full[hp - m + 1:]
    # The image was filled up at its end; its centre belongs in the middle.
    scale = ho * wo / (hp * wp)
    for axis, (size, padded, cropped) in enumerate(((h, hp, ho), (w, wp, wo))):
        k = np.fft.fftfreq(cropped, 1 / cropped)[:kept.shape[axis]]
        turn = (scale * np.exp(-2j * np.pi * (padded // 2 - size // 2) / padded * k)).astype(np.complex64)
        if padded != size or axis == 1:
            kept *= turn[:, None] if axis == 0 else turn
            scale = 1
    shape = tuple(min(n, 2 * int(np.ceil(size * n / padded / 2))) for size, padded, n in ((h, hp, ho), (w, wp, wo)))
    return kept, (hp / ho, wp / wo), shape


def fourier_crop(data: Array, size: int, xp: Any = np, nyquist: bool = False) -> Array:
    """Low frequencies of windows, as those of windows with larger pixels; values are kept.

    Parameters
    ----------
    data : ndarray `(N, T, S, S//2+1)` complex
        rfft2 of the windows.
    size : int
        Side of the new windows, even, below S.
    xp : module
        numpy or cupy.
    nyquist : bool
        Keep the new Nyquist lines, that of the rows from the negative side; otherwise they are 0.

    Returns
    -------
    ndarray `(N, T, size, size//2+1)`
    """
    n, t, big, _ = data.shape
    half = size // 2
    out = xp.zeros((n, t, size, half + 1), data.dtype)
    factor = np.float32((size / big) ** 2)
    out[:, :, :half, :half] = data[:, :, :half, :half] * factor
    out[:, :, half + 1:, :half] = data[:, :, big - half + 1:, :half] * factor
    if nyquist:
        out[:, :, :half, half] = data[:, :, :half, half] * factor
        out[:, :, half:, half] = data[:, :, big - half:, half] * factor
        out[:, :, half, :half] = data[:, :, big - half, :half] * factor
    return out


def centre_crop(array: Array, size: int, axes: Sequence[int]) -> Array:
    """Central part of the named axes, index N//2 staying the centre.

    Parameters
    ----------
    array : ndarray
    size : int
        Extent along each of the axes, not above the array's.
    axes : tuple of int

    Returns
    -------
    ndarray
        A view.
    """
    index: List[slice] = [slice(None)] * array.ndim
    for axis in axes:
        start = array.shape[axis] // 2 - size // 2
        index[axis] = slice(start, start + size)
    return array[tuple(index)]


def centre_phase(n: int) -> np.ndarray:
    """Phase that moves the origin of an rfft2 from pixel 0 to pixel n//2.

    Parameters
    ----------
    n : int
        Side of the image, even.

    Returns
    -------
    ndarray `(n, n//2+1)` float32
        +1 or -1.
    """
    return np.where((np.arange(n)[:, None] + np.arange(n // 2 + 1)) % 2, -1, 1).astype(np.float32)


def nearest_pixel(position: np.ndarray, size: int) -> Tuple[np.ndarray, np.ndarray]:
    """Place windows about points.

    Parameters
    ----------
    position : ndarray `(..., 2)`
        Pixels from an image's corner, yx.
    size : int
        Side of the windows, even.

    Returns
    -------
    origin : ndarray `(..., 2)` int32
        First pixel of each window.
    shift : ndarray `(..., 2)` float32
        Where the point lies from pixel size//2 of the window: half a pixel at most.
    """
    nearest = np.floor(np.asarray(position) + 0.5)
    return (np.clip(nearest, -2 ** 30, 2 ** 30) - size // 2).astype(np.int32), (position - nearest).astype(np.float32)


def sphere(n: int, radius: float, edge: float = 0.0, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Spherical mask about voxel n//2.

    Parameters
    ----------
    n : int
        Side of the cube.
    radius : float
        Voxels: where the mask starts to fall.
    edge : float
        Voxels: width of the raised-cosine edge; 0 is hard.
    dtype : numpy dtype

    Returns
    -------
    ndarray `(n, n, n)`
    """
    axis = (np.arange(n) - n // 2) ** 2
    r = np.sqrt(axis[:, None, None] + axis[None, :, None] + axis[None, None, :])
    if edge <= 0:
        return (r <= radius).astype(dtype)
    return (0.5 + 0.5 * np.cos(np.pi * np.clip((r - radius) / edge, 0, 1))).astype(dtype)


def taper(n: int, width: float) -> np.ndarray:
    """Window that rises from 0 by a raised cosine at both ends.

    Parameters
    ----------
    n : int
        Samples.
    width : float
        Samples of each rise.

    Returns
    -------
    ndarray `(n,)` float32
    """
    distance = np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5
    return (0.5 - 0.5 * np.cos(np.pi * np.clip(distance / max(width, 1e-9), 0, 1))).astype(np.float32)


def shell_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Fourier shell correlation of two cubes.

    Parameters
    ----------
    a, b : ndarray `(n, n, n)`
        Real, n even.

    Returns
    -------
    ndarray `(n // 2 + 1,)`
        Correlation of shell s, spatial frequency s / (n pixel_size).
    """
    n = a.shape[0]
    fa, fb = scipy.fft.rfftn(a.astype(np.float32)), scipy.fft.rfftn(b.astype(np.float32))
    k = np.fft.fftfreq(n, 1 / n)
    kx = np.arange(n // 2 + 1)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + kx ** 2)).astype(int)
    # The half-volume holds kx > 0 once; its mates count too.
    weight = np.where((kx > 0) & (kx < n // 2), 2.0, 1.0) * np.ones(shell.shape)
    inside = shell <= n // 2
    total = lambda v: np.bincount(shell[inside], (weight * v)[inside], n // 2 + 1)  # noqa: E731
    cross = total((fa * fb.conj()).real.astype(np.float64))
    power = np.sqrt(total(np.abs(fa).astype(np.float64) ** 2) * total(np.abs(fb).astype(np.float64) ** 2))
    return cross / np.maximum(power, 1e-300)
