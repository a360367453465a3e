"""Tilt images turned so that the volume's y axis runs along their x: what makes gridding quick.

An image is band-limited to what turned pixels can hold, made finer and sampled with a Kaiser-Bessel kernel.  Geometry
and CTF are turned with it.
"""

from dataclasses import dataclass, replace
from types import ModuleType
from typing import List, Optional, Sequence, Tuple, cast

import numpy as np

from . import transforms
from .ctf import Ctf, frequency_grid
from .fourier import fast_even
from .geometry import TiltSeriesGeometry, rotation_z
from .gridding import OVERSAMPLING, interpolation_table, prefilter

ALONG_X = -90.0  # degrees of the tilt axis, with which y of the volume is x of the image
STRAIGHT = 1e-5  # by which matrix elements may be off: a thousandth of a cell in a box of 200


@dataclass(frozen=True, eq=False)
class Turn:
    """How the images of a tilt series are turned.

    Attributes
    ----------
    angle : ndarray `(T,)`
        Degrees, counter-clockwise.
    shape : (int, int)
        Height and width of the turned images, even; they hold all of every image.
    pixel_size : float
        Angstrom.
    """

    angle: np.ndarray
    shape: Tuple[int, int]
    pixel_size: float


def runs_along_x(matrix: np.ndarray) -> bool:
    """Whether the volume's y axis is x of every image, and only that.

    Parameters
    ----------
    matrix : ndarray `(T, 2, 3)`

    Returns
    -------
    bool
    """
    return bool(np.abs(matrix[:, 0] - (0, 1, 0)).max() < STRAIGHT and np.abs(matrix[:, 1, 1]).max() < STRAIGHT)


def turn_series(geometry: TiltSeriesGeometry, ctf: Optional[Ctf],
                pixel_size: float) -> Tuple[Optional[Turn], TiltSeriesGeometry, Optional[Ctf]]:
    """Turn geometry and CTF.

    Parameters
    ----------
    geometry : TiltSeriesGeometry
    ctf : Ctf or None
    pixel_size : float
        Angstrom of the turned images.

    Returns
    -------
    turn : Turn or None
        None if no turn in the image plane makes y run along x: with x-tilt or distorted images, or particles that
        a deformation turns.
    geometry : TiltSeriesGeometry
    ctf : Ctf or None
        The same as before if there is no turn. Excluded tilts stay as they are.
    """
    angle, local = ALONG_X - geometry.axis, geometry.deformation
    if local is not None and local.angle is not None:
        return None, geometry, ctf
    turned = geometry.replace(axis=np.full(geometry.n_tilts, ALONG_X),
                              shift=(rotation_z(angle)[:, :2, :2] @ geometry.shift[:, :, None])[:, :, 0],
                              deformation=None if local is None else local.turned(angle))
    if not runs_along_x(turned.matrix):
        return None, geometry, ctf
    h, w = (n * geometry.pixel_size for n in geometry.image_shape)
    c, s = np.abs(np.cos(np.deg2rad(angle))), np.abs(np.sin(np.deg2rad(angle)))
    shape = cast(Tuple[int, int], tuple(2 * int(np.ceil(n / pixel_size / 2))
                                        for n in ((h * c + w * s).max(), (w * c + h * s).max())))
    turned = turned.replace(image_shape=[np.ceil(n * pixel_size / geometry.pixel_size) for n in shape])
    return Turn(angle, shape, pixel_size), turned, None if ctf is None else replace(ctf, angle=ctf.angle + angle)


def turn_image(spectrum: np.ndarray, pixel_size: Sequence[float], angle: float, new_pixel_size: float,
               kernels: ModuleType, out: np.ndarray) -> None:
    """Sample an image on a turned lattice.

    Parameters
    ----------
    spectrum : ndarray `(h, w//2+1)` complex64
        rfft2 of the image, the point about which it is turned at pixel N//2. Changed in place.
    pixel_size : (float, float)
        Angstrom along y and x.
    angle : float
        Degrees, counter-clockwise.
    new_pixel_size : float
        Angstrom; frequencies that the turned pixels cannot hold are taken away.
    kernels : module
        Implementation for the CPU.
    out : ndarray `(h', w')` float32
        Filled with the turned image, that point at pixel N//2; 0 where there is no image.
    """
    h, w = len(spectrum), 2 * (spectrum.shape[1] - 1)
    fine = [fast_even(OVERSAMPLING * n) for n in (h, w)]
    kx, ky = frequency_grid((h, w), pixel_size)
    ratio = np.array(fine) / (h, w)
    gain = [prefilter(k * p / r, OVERSAMPLING) for k, p, r in zip((ky, kx), pixel_size, ratio)]
    spectrum *= (gain[0] * ratio[0]).astype(np.float32)
    spectrum *= (gain[1] * ratio[1]).astype(np.float32)
    # What the turned lattice can hold is a turned square, of which every row has a piece.
    first, last = _piece(ky.ravel(), angle, 0.5 / new_pixel_size, w * pixel_size[1])
    for row, start, stop in zip(spectrum, first, last):
        row[:start] = 0
        row[stop:] = 0
    wide = np.zeros((fine[0], fine[1] // 2 + 1), np.complex64)
    filled = wide[:, :spectrum.shape[1]]
    filled[:h // 2] = spectrum[:h // 2]
    filled[-(h // 2):] = spectrum[-(h // 2):]
    transforms.ifft(filled, axis=0, overwrite_x=True)
    image = transforms.irfft(wide, n=fine[1], axis=1, overwrite_x=True)
    scale = ratio / pixel_size
    back = rotation_z(-angle)[:2, :2]
    # Finer pixels yx from one sample to the next, along y and along x of the turned image.
    step = np.stack([back[::-1, 1] * scale, back[::-1, 0] * scale], -1) * new_pixel_size
    origin = np.array(fine) / 2 - step @ (out.shape[0] // 2, out.shape[1] // 2)
    kernels.resample(image[None], origin, step, interpolation_table(), out[None])


def _piece(ky: np.ndarray, angle: float, limit: float, scale: float) -> List[np.ndarray]:
    """Range of columns ``start, stop`` of an rfft2 where both components of the turned frequency are below a limit."""
    c, s = rotation_z(angle)[:2, 0]
    low, high = np.full(len(ky), -np.inf), np.full(len(ky), np.inf)
    for along, across in ((c, -s), (s, c)):  # component = along * kx + across * ky
        if abs(along) < 1e-9:
            high[np.abs(across * ky) >= limit] = -np.inf
            continue
        ends = np.sort([(side * limit - across * ky) / along for side in (-1, 1)], axis=0)
        low, high = np.maximum(low, ends[0]), np.minimum(high, ends[1])
    start, stop = np.ceil(low * scale + 1e-6), np.ceil(high * scale - 1e-6)
    return [np.clip(side, 0, np.iinfo(np.int32).max).astype(int) for side in (start, stop)]
