"""The Kaiser-Bessel kernel: its table, its weights on a grid, and the real-space window that undoes it."""

from functools import lru_cache
from typing import Tuple

import numpy as np

from .fourier import fast_even

WIDTH = 4  # cells
OVERSAMPLING = 1.25
PRECISION = 1024  # table entries per cell, linear between
FINE = 4096  # entries per cell of the table of which the nearest is taken: 1e-4, a thirtieth of the kernel's own error


def grid_size(box: int, oversampling: float = OVERSAMPLING) -> int:
    """Side of the Fourier grid for a box: even, quick to transform.

    Parameters
    ----------
    box : int
        Side of the box.
    oversampling : float
        Smallest ratio of grid to box.

    Returns
    -------
    int
    """
    return fast_even(box * oversampling)


def beta(width: int, oversampling: float) -> float:
    """Shape of the kernel.

    Parameters
    ----------
    width : int
        Kernel width W, cells.
    oversampling : float
        Ratio a of grid to box.

    Returns
    -------
    float

    Notes
    -----
    Beatty, Nishimura and Pauly, IEEE Trans. Med. Imaging 24 (2005) 799, equation 5,
    ``pi sqrt((W/a)^2 (a - 1/2)^2 - 0.8)``, times 1.05: that spends a little accuracy on the outermost two cells of the
    box (3 % there) and gains a fifth within the rest of the inscribed sphere.
    """
    return 1.05 * np.pi * np.sqrt((width / oversampling) ** 2 * (oversampling - 0.5) ** 2 - 0.8)


@lru_cache(maxsize=16)
def kernel_table(box: int, grid: int) -> np.ndarray:
    """Weights of the cells about a sample.

    Parameters
    ----------
    box, grid : int
        Sides of the box and of its grid.

    Returns
    -------
    ndarray `(PRECISION + 1, WIDTH)` float32
        Row p: a sample p/PRECISION of a cell above cell 0; columns: cells -1, 0, 1, 2.
    """
    table = _table(grid / box)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=1)
def interpolation_table() -> np.ndarray:
    """`kernel_table` for images that have been made finer by `OVERSAMPLING`, so fine that the nearest row will do.

    Returns
    -------
    ndarray `(FINE + 1, WIDTH)` float32
    """
    table = _table(OVERSAMPLING, FINE)
    table.flags.writeable = False
    return table


def _table(oversampling: float, entries: int = PRECISION) -> np.ndarray:
    fraction = np.arange(entries + 1)[:, None] / entries
    return _kernel(fraction - (np.arange(WIDTH) - (WIDTH // 2 - 1)), oversampling).astype(np.float32)


def _kernel(distance: np.ndarray, oversampling: float) -> np.ndarray:
    b = beta(WIDTH, oversampling)
    inside = np.clip(1 - (2 * distance / WIDTH) ** 2, 0, None)
    return np.where(np.abs(distance) <= WIDTH / 2, np.i0(b * np.sqrt(inside)) / np.i0(b), 0.0)


def spread_terms(matrix: np.ndarray, box: int, grid: int) -> Tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where slices go whose second axis is an axis of the grid: the terms of `kernels.spread_rows`.

    Parameters
    ----------
    matrix : ndarray `(T, 2)`
        x and z components of what an image frequency along y counts in the volume.
    box, grid : int
        Sides of the box, hence of the slices, and of the grid along z and x.

    Returns
    -------
    start : ndarray `(grid * grid + 1,)` int32
        Cells are those of `(z, x)` in FFT order.
    source : ndarray `(S,)` int32
        Rows: tilt times `box` plus the frequency along y in FFT order.
    factor : ndarray `(S,)` float32
        Weights.
    centred : ndarray `(S,)` float32
        Weights with the signs that bring the centre of the inverse transform from voxel 0 to voxel grid//2.
    """
    q = np.fft.fftfreq(box, 1 / box)
    # In cells, (T, box): a frequency of the slice counts grid / box of them.
    x, z = (np.asarray(matrix, np.float64)[:, i, None] * q * (grid / box) for i in (0, 1))
    tilt, row = np.nonzero((np.abs(q) < box // 2) & (np.maximum(np.abs(x), np.abs(z)) < grid // 2))
    taps = np.arange(WIDTH) - (WIDTH // 2 - 1)
    cells, weights = [], []
    for place in (z[tilt, row], x[tilt, row]):
        near = np.floor(place)[:, None] + taps
        weights.append(_kernel(place[:, None] - near, grid / box))
        cells.append(near.astype(int) % grid)
    cell = (cells[0][:, :, None] * grid + cells[1][:, None, :]).reshape(-1)
    factor = (weights[0][:, :, None] * weights[1][:, None, :]).reshape(-1)
    source = np.repeat(tilt * box + row, WIDTH * WIDTH)
    order = np.argsort(cell, kind="stable")
    cell, factor, source = cell[order], factor[order].astype(np.float32), source[order].astype(np.int32)
    start = np.searchsorted(cell, np.arange(grid * grid + 1)).astype(np.int32)
    return start, source, factor, factor * np.where((cell // grid + cell % grid) % 2, -1, 1).astype(np.float32)


@lru_cache(maxsize=4)
def deapodisation(box: int, grid: int, gridded: Tuple[bool, bool, bool] = (True, True, True)) -> np.ndarray:
    """What a volume is to be multiplied by after the inverse transform of its grid.

    Parameters
    ----------
    box, grid : int
        Sides of the box and of its grid.
    gridded : tuple of bool
        Axes zyx that were gridded; the others were as long as the box.

    Returns
    -------
    ndarray `(box, box, box)` float32
        Centre at box//2; with the factor of a transform that was longer than the box.

    Notes
    -----
    The inverse of the kernel's transform ``sinh(s) / s`` with ``s = sqrt(beta^2 - (pi W x / G)^2)``, along each axis.
    """
    one = (grid / box * prefilter((np.arange(box) - box // 2) / grid, grid / box)).astype(np.float32)
    z, y, x = (one if axis else np.ones_like(one) for axis in gridded)
    factor = z[:, None, None] * (y[:, None] * x)
    factor.flags.writeable = False
    return factor


def prefilter(frequency: np.ndarray, oversampling: float) -> np.ndarray:
    """Inverse of the kernel's Fourier transform: undone before interpolation, or after gridding.

    Parameters
    ----------
    frequency : ndarray `(...)`
        Cycles per cell, or real-space position over the side of the grid.
    oversampling : float
        Ratio of grid to box that the kernel is shaped for.

    Returns
    -------
    ndarray `(...)` float64
    """
    b = beta(WIDTH, oversampling)
    s = np.sqrt((b ** 2 - (np.pi * WIDTH * np.asarray(frequency, np.float64)) ** 2).astype(np.complex128))
    return 1 / ((np.sinh(s) / s).real * WIDTH / np.i0(b))


@lru_cache(maxsize=16)
def crop_matrix(box: int, grid: int, gridded: bool) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crop of a point response seen in Fourier space: from frequencies of a grid to those of a smaller box.

    Parameters
    ----------
    box, grid : int
        Sides, even.
    gridded : bool
        The response was made by gridding: undo the kernel, and scale from cells to the frequencies of the box.

    Returns
    -------
    matrix : ndarray `(box, grid)` float32
        For an axis in FFT order. Real: the response counts with half its value at both ends of the box.
    last, mates : ndarray `(grid//2+1, box//2+1)`, `(grid//2-1, box//2+1)` float32
        For the half that is stored of the last axis: factors of the frequencies from 0 to the highest, and of the
        negative ones that belong to 1 ... grid//2-1.

    Notes
    -----
    ``A[k, K] = sum_r m(r) cos(2 pi r (k / box - K / grid)) / grid`` with ``m`` the window of the crop, for r from
    -box/2 to box/2: what an inverse transform, crop and transform do to an even function, axis by axis.
    """
    r = np.arange(-(box // 2), box // 2 + 1)
    window = np.where(np.abs(r) == box // 2, 0.5, 1.0) / grid
    if gridded:
        window = window * prefilter(r / grid, grid / box) * grid / box
    k, cell = (2 * np.pi * np.outer(np.fft.fftfreq(n), r) for n in (box, grid))
    matrix = ((np.cos(k) * window) @ np.cos(cell).T + (np.sin(k) * window) @ np.sin(cell).T).astype(np.float32)
    half = matrix[:box // 2 + 1].T
    out = matrix, half[:grid // 2 + 1].copy(), half[:grid // 2:-1].copy()
    for part in out:
        part.flags.writeable = False
    return out


@lru_cache(maxsize=16)
def parity_matrices(box: int, padded: int) -> Tuple[np.ndarray, ...]:
    """Crop of a real window seen in Fourier space, for the parts of its transform that are even or odd along an axis.

    Parameters
    ----------
    box, padded : int
        Sides, even, the smaller one first.

    Returns
    -------
    even, odd : ndarray `(box//2+1, padded//2+1)` float32
        For sums and differences of the values at a frequency and its negative.
    even_last, odd_last : ndarray `(padded//2+1, box//2+1)` float32
        From the right, for values that stand for themselves and for those at the negative frequency.

    Notes
    -----
    The cosines and sines of `crop_matrix` apart: an even function of the frequency meets the cosines only, an odd one
    the sines, which halves the work.
    """
    r = np.arange(-(box // 2), box // 2 + 1)
    window = np.where(np.abs(r) == box // 2, 0.5, 1.0) / padded
    new, old = (2 * np.pi * np.outer(np.arange(n // 2 + 1) / n, r) for n in (box, padded))
    twice = np.where(np.arange(padded // 2 + 1) % (padded // 2), 2, 1)[:, None]
    even, odd = ((f(new) * window) @ f(old).T for f in (np.cos, np.sin))
    out = tuple(np.ascontiguousarray(m, np.float32) for m in (even, odd, twice * even.T, twice * odd.T))
    for part in out:
        part.flags.writeable = False
    return out
