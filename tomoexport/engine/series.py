"""Windows of the tilt images about particles, as they are: neither CTF-corrected nor weighted."""

from dataclasses import dataclass
from typing import Tuple

import numpy as np

from .arrays import Array
from .backend import Backend
from .fourier import centre_crop, fast_even, nearest_pixel
from .kernels import CTF_MODES, implementation

MARGIN = 16  # pixels beyond the box: what a shift by part of a pixel brings round the edge stays outside


@dataclass(frozen=True, eq=False)
class SeriesSetup:
    """What all particles of one tilt series share.

    Attributes
    ----------
    box, padded : int
        Sides of the windows that are kept and that are shifted; even.
    nothing, ones : ndarray
        As the kernel `modulate` takes phase and slope, and the envelope; on the device.
    """

    box: int
    padded: int
    nothing: Tuple[Array, Array]
    ones: Array


def setup_series(n_tilts: int, box: int, backend: Backend) -> SeriesSetup:
    """Prepare what all particles of one tilt series share.

    Parameters
    ----------
    n_tilts, box : int
    backend : Backend

    Returns
    -------
    SeriesSetup
    """
    padded = fast_even(box + MARGIN)
    shape = (n_tilts, padded, padded // 2 + 1)
    nothing = np.zeros(shape, np.float32)
    put = backend.to_device
    return SeriesSetup(box, padded, (put(nothing), put(nothing[0].copy())), put(np.ones(shape, np.float32)))


def extract_series(stack: Array, plan: SeriesSetup, position_px: np.ndarray, backend: Backend,
                   shift: bool = True) -> Array:
    """Cut out N particles.

    Parameters
    ----------
    stack : ndarray `(T, h, w)` float32
        Prepared tilt images; on the device. Beyond them there is 0.
    plan : SeriesSetup
    position_px : ndarray `(N, T, 2)` float64
        Where each particle is seen, pixels of the images from their corner, yx.
    backend : Backend
    shift : bool
        Whether to shift windows by the part of a pixel that is left.

    Returns
    -------
    ndarray `(N, T, box, box)` float32
        Particle at pixel box//2, by a Fourier shift of at most half a pixel, or within half a pixel of it; on the
        device.
    """
    kernels, fft, put, s = implementation(backend), backend.fft, backend.to_device, plan.padded
    if not shift:
        return kernels.crop(stack, put(nearest_pixel(position_px, plan.box)[0]), plan.box)
    origin, rest = nearest_pixel(position_px, s)
    data = fft.rfft2(kernels.crop(stack, put(origin), s), axes=(2, 3))
    every = np.ones(data.shape[:2], bool)
    kernels.modulate(data, *plan.nothing, put(np.zeros(data.shape[:2], np.float32)), put(rest), plan.ones, put(every),
                     CTF_MODES["none"])
    windows = fft.irfft2(data, s=(s, s), axes=(2, 3), overwrite_x=True)
    return backend.xp.ascontiguousarray(centre_crop(windows, plan.box, (2, 3)))
