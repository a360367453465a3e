"""Fourier transforms on the CPU, called as those of `scipy.fft` are and nearly twice as fast.

They are those of `ducc0`, by the author of SciPy's, whose wheels hold code for each width of vectors that processors
have; SciPy's are built for the narrowest. Single precision stays single precision, and one thread does each call.

The same input gives the same bits. Lines that do not fill a vector are rounded otherwise than those that do; arrays of
four axes, the first of which counts particles, are therefore transformed particle by particle, so that the bits of one
do not depend on those that it is grouped with.
"""

from typing import List, Optional, Sequence

import ducc0.fft
import numpy as np

SCALED = 2  # ducc0's name for division by the number of samples


def fft(x: np.ndarray, axis: int = -1, overwrite_x: bool = False) -> np.ndarray:
    """Transform complex numbers along one axis.

    Parameters
    ----------
    x : ndarray of complex64 or complex128
    axis : int
    overwrite_x : bool
        Transform in place and return `x` itself.

    Returns
    -------
    ndarray
        Shape and type of `x`.
    """
    return _complex(x, axis, overwrite_x, True, 0)


def ifft(x: np.ndarray, axis: int = -1, overwrite_x: bool = False) -> np.ndarray:
    """Inverse of `fft`, divided by the number of samples.

    Parameters
    ----------
    x, axis, overwrite_x
        As `fft`.

    Returns
    -------
    ndarray
        Shape and type of `x`.
    """
    return _complex(x, axis, overwrite_x, False, SCALED)


def rfft(x: np.ndarray, n: Optional[int] = None, axis: int = -1) -> np.ndarray:
    """Transform real numbers along one axis, of which the frequencies from 0 to n//2 are kept.

    Parameters
    ----------
    x : ndarray of float32 or float64
    n : int, optional
        Samples, at least those of `x`, which 0 fills up at its end.
    axis : int

    Returns
    -------
    ndarray of complex64 or complex128
    """
    if n is not None and n != x.shape[axis]:
        shape, where = list(x.shape), [slice(None)] * x.ndim
        where[axis] = slice(0, shape[axis])
        shape[axis] = n
        filled = np.zeros(shape, x.dtype)
        filled[tuple(where)] = x
        x = filled
    return _forward(x, (axis,))


def rfft2(x: np.ndarray, axes: Sequence[int] = (-2, -1)) -> np.ndarray:
    """Transform real numbers along two axes, of which the last has the frequencies from 0 to n//2.

    Parameters
    ----------
    x : ndarray of float32 or float64
    axes : (int, int)

    Returns
    -------
    ndarray of complex64 or complex128
    """
    return _forward(x, axes)


def irfftn(x: np.ndarray, s: Optional[Sequence[int]] = None, axes: Optional[Sequence[int]] = None,
           overwrite_x: bool = False) -> np.ndarray:
    """Inverse of transforms of real numbers, divided by the number of samples.

    Parameters
    ----------
    x : ndarray of complex64 or complex128
        Frequencies from 0 to n//2 along the last of the axes.
    s : tuple of int, optional
        Samples along the axes, as in `x` but for the last, which is even by default.
    axes : tuple of int, optional
        All of them by default.
    overwrite_x : bool
        Whether `x` may lose its values.

    Returns
    -------
    ndarray of float32 or float64

    Raises
    ------
    ValueError
        If `s` asks for other samples than `x` has: nothing is cropped or filled up here.
    """
    return _inverse(x, s, tuple(range(x.ndim)) if axes is None else axes, overwrite_x)


def irfft2(x: np.ndarray, s: Optional[Sequence[int]] = None, axes: Sequence[int] = (-2, -1),
           overwrite_x: bool = False) -> np.ndarray:
    """Inverse of `rfft2`.

    Parameters
    ----------
    x, s, axes, overwrite_x
        As `irfftn`.

    Returns
    -------
    ndarray of float32 or float64
    """
    return _inverse(x, s, axes, overwrite_x)


def irfft(x: np.ndarray, n: Optional[int] = None, axis: int = -1, overwrite_x: bool = False) -> np.ndarray:
    """Inverse of `rfft`.

    Parameters
    ----------
    x : ndarray of complex64 or complex128
    n : int, optional
        Samples, even by default.
    axis : int
    overwrite_x : bool
        Whether `x` may lose its values.

    Returns
    -------
    ndarray of float32 or float64
    """
    return _inverse(x, None if n is None else (n,), (axis,), overwrite_x)


def _complex(x: np.ndarray, axis: int, overwrite_x: bool, forward: bool, scale: int) -> np.ndarray:
    out = x if overwrite_x else np.empty(x.shape, x.dtype)
    for part in _particles(x, (axis,)):
        ducc0.fft.c2c(x[part], axes=(axis % x.ndim,), forward=forward, inorm=scale, out=out[part])
    return out


def _forward(x: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    axes = [a % x.ndim for a in axes]
    shape = list(x.shape)
    shape[axes[-1]] = shape[axes[-1]] // 2 + 1
    out = np.empty(shape, np.result_type(x.dtype, np.complex64))
    for part in _particles(x, axes):
        ducc0.fft.r2c(x[part], axes=axes, out=out[part])
    return out


def _inverse(x: np.ndarray, s: Optional[Sequence[int]], axes: Sequence[int], overwrite_x: bool) -> np.ndarray:
    axes = [a % x.ndim for a in axes]
    shape = list(x.shape)
    last = shape[axes[-1]] = 2 * (x.shape[axes[-1]] - 1) if s is None else s[-1]
    if s is not None and (*s[:-1], last // 2 + 1) != tuple(x.shape[a] for a in axes):
        raise ValueError("%s samples along axes %s of a transform of shape %s" % (s, axes, x.shape))
    out = np.empty(shape, x.real.dtype)
    for part in _particles(x, axes):
        ducc0.fft.c2r(x[part], axes=axes, lastsize=last, forward=False, inorm=SCALED, out=out[part],
                      allow_overwriting_input=overwrite_x)
    return out


def _particles(x: np.ndarray, axes: Sequence[int]) -> List[slice]:
    """Parts of an array that are transformed apart."""
    if x.ndim < 4 or 0 in axes:
        return [slice(None)]
    return [slice(i, i + 1) for i in range(len(x))]
