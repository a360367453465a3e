"""How much each tilt, and each frequency of it, counts."""

from typing import Optional, Sequence, Tuple, Union

import numpy as np

from .geometry import TiltSeriesGeometry


def envelope(geometry: TiltSeriesGeometry, frequency_squared: np.ndarray, bfactor: Optional[np.ndarray] = None,
             scale: Optional[np.ndarray] = None, dose_weighting: bool = True) -> np.ndarray:
    """Warp's weight of each tilt: ``exp(-dose k^2) cos(tilt)``, the angle being that between beam and z.

    Parameters
    ----------
    geometry : TiltSeriesGeometry
        Of T tilts.
    frequency_squared : ndarray `(...)`
        k^2, 1/A^2.
    bfactor : ndarray `(T,)`, optional
        A^2, fitted per tilt: a further ``exp(-B k^2 / 4)``.
    scale : ndarray `(T,)`, optional
        Replaces the cosine.
    dose_weighting : bool
        False leaves the dose and the cosine out.

    Returns
    -------
    ndarray `(T, ...)` float32

    Notes
    -----
    Warp writes the dose as B = -4 dose, to enter as exp(B k^2 / 4); here, as in RELION, decay has a positive B. A
    series with a B factor per dose has that in place of 4.
    """
    shape = (-1,) + (1,) * np.ndim(frequency_squared)
    exponent = np.zeros(geometry.n_tilts)
    factor = np.ones(geometry.n_tilts)
    if dose_weighting:
        exponent = geometry.dose * (geometry.dose_bfactor / 4 if geometry.dose_bfactor else 1.0)
        factor = np.maximum(geometry.rotation[:, 2, 2], 0) if scale is None else np.asarray(scale)
    if bfactor is not None:
        exponent = exponent + np.asarray(bfactor) / 4
    return (factor.reshape(shape) * np.exp(-exponent.reshape(shape) * frequency_squared)).astype(np.float32)


def slice_density(matrix: np.ndarray, shape: Sequence[int], pixel_size: float, extent: float,
                  counted: Optional[Union[np.ndarray, Sequence[int]]] = None,
                  at: Optional[Union[np.ndarray, Sequence[int]]] = None) -> np.ndarray:
    """How many tilts share each frequency, counted on every tilt's own central slice.

    Parameters
    ----------
    matrix : ndarray `(T, 2, 3)`
        Image displacement of a displacement in space.
    shape : (int, int)
        Height and width of the image that is transformed.
    pixel_size : float
        Angstrom.
    extent : float
        Angstrom: size of the object; slices closer than 1 / extent carry the same information.
    counted, at : sequence of int, optional
        Tilts that are counted, and those on whose slices they are; all by default.

    Returns
    -------
    ndarray `(len(at), h, w//2+1)` float32
        At least 1 everywhere on the slices of tilts that are counted.

    Notes
    -----
    A frequency q of tilt t is the 3D frequency ``M_t^T q``; its distance d from the plane of tilt t' counts
    ``max(0, 1 - |d| extent)``, the triangle that linear gridding gives. The sum over t' is the density by which the
    slice is divided, so that frequencies seen by many tilts are averaged and not added up.
    """
    matrix = np.asarray(matrix, np.float64)
    normal = np.cross(matrix[:, 0], matrix[:, 1])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    ky = np.fft.fftfreq(shape[0], pixel_size)[:, None].astype(np.float32)
    kx = np.fft.rfftfreq(shape[1], pixel_size)[None, :].astype(np.float32)
    along = (np.einsum("tij,uj->tui", matrix, normal) * extent).astype(np.float32)  # (T, T', 2): d extent per 1/A
    counted, at = (range(len(matrix)) if some is None else some for some in (counted, at))
    out = np.zeros((len(at), shape[0], shape[1] // 2 + 1), np.float32)
    for density, t in zip(out, at):
        for u in counted:
            if u == t:
                density += 1
            else:
                distance = np.abs(along[t, u, 0] * kx + along[t, u, 1] * ky)
                density += np.maximum(np.float32(1) - distance, np.float32(0))
    return out


def tilt_axis(rotation: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """The common axis of a tilt series, and the angles about it.

    Parameters
    ----------
    rotation : ndarray `(T, 3, 3)`
        Tomogram to image.

    Returns
    -------
    angle : ndarray `(T,)`
        Degrees.
    across : ndarray `(T, 3)`
        Unit vectors in the tomogram frame, in the plane of each image and perpendicular to the axis.

    Notes
    -----
    The axis is the direction that the beams differ in least, hence perpendicular to them all if there is one axis;
    x-tilt tips it, and it need not be y.
    """
    beam = rotation[:, 2]
    axis = np.linalg.svd(beam)[2][2] if len(beam) > 1 else rotation[0, 1]
    axis = axis * (1 if axis @ rotation[:, 1].sum(axis=0) >= 0 else -1)
    across = np.cross(axis, beam)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    angle = np.arctan2(across @ np.cross(across[0], axis), across @ across[0])
    return np.rad2deg(angle), across


def exact_filter(tilt: np.ndarray, frequency: np.ndarray, thickness: float) -> np.ndarray:
    """Weights of weighted back-projection for the tilts that there are.

    Parameters
    ----------
    tilt : ndarray `(T,)`
        Degrees, of the used tilts, about their common axis.
    frequency : ndarray `(U,)`
        1/A, across the tilt axis.
    thickness : float
        Angstrom: extent of the object.

    Returns
    -------
    ndarray `(T, U)`
        1 / sum of the overlaps of slice t with all slices.

    Notes
    -----
    Harauz and van Heel, Optik 73 (1986) 146: two slices at angle a overlap by ``sinc(thickness k sin a)``.
    """
    angle = np.deg2rad(np.asarray(tilt, np.float64))
    overlap = np.ones((len(angle), len(frequency)))
    turn = (np.pi * thickness * np.abs(frequency)).astype(np.float32)
    for i in range(len(angle)):
        for j in range(i):
            argument = np.float32(abs(np.sin(angle[i] - angle[j]))) * turn + np.float32(1e-6)
            sinc = np.sin(argument) / argument
            overlap[i] += sinc
            overlap[j] += sinc
    return 1.0 / np.maximum(overlap, 0.5)


def odd_even_groups(tilt: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Two halves of the tilts: every second used view in order of angle.

    Parameters
    ----------
    tilt : ndarray `(T,)`
    used : ndarray `(T,)` of bool

    Returns
    -------
    ndarray `(T,)` of int32
        0 for the first, third ... (odd), 1 for the others (even); excluded views have 0 too.
    """
    order = [i for i in np.argsort(tilt, kind="stable") if used[i]]
    out = np.zeros(len(tilt), np.int32)
    out[order[1::2]] = 1
    return out
