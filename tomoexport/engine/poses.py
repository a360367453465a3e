"""Particle orientations: RELION's three Euler angles and rotation matrices."""

from typing import Tuple

import numpy as np
from numpy.typing import ArrayLike

from .geometry import rotation_y, rotation_z


def matrix_from_zyz(rot: ArrayLike, tilt: ArrayLike, psi: ArrayLike) -> np.ndarray:
    """RELION orientation matrix ``A = Rz(-psi) Ry(-tilt) Rz(-rot)``.

    Parameters
    ----------
    rot, tilt, psi : ndarray `(...)`
        Degrees.

    Returns
    -------
    ndarray `(..., 3, 3)`
        Takes a point of the reference map to the tomogram: ``r = centre + A u``.
    """
    return rotation_z(-np.asarray(psi, np.float64)) @ rotation_y(-np.asarray(tilt, np.float64)) @ rotation_z(
        -np.asarray(rot, np.float64))


def zyz_from_matrix(matrix: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """RELION angles of a rotation matrix; the inverse of `matrix_from_zyz`.

    Parameters
    ----------
    matrix : ndarray `(..., 3, 3)`

    Returns
    -------
    rot, tilt, psi : ndarray `(...)`
        Degrees; tilt from 0 to 180. Where tilt is 0 or 180 only one other angle is defined: psi is 0 then.
    """
    m = np.asarray(matrix, np.float64)
    sine = np.hypot(m[..., 2, 0], m[..., 2, 1])
    tilt = np.arctan2(sine, m[..., 2, 2])
    single = sine < 1e-9
    rot = np.where(single, np.arctan2(-m[..., 1, 0] * np.sign(m[..., 2, 2]) * 1.0, m[..., 1, 1]),
                   np.arctan2(m[..., 2, 1], m[..., 2, 0]))
    # At tilt 0, A = Rz(-rot - psi); at tilt 180, A = Rz(-psi) diag(-1, 1, -1) Rz(-rot).
    rot = np.where(single & (m[..., 2, 2] > 0), np.arctan2(m[..., 0, 1], m[..., 0, 0]), rot)
    rot = np.where(single & (m[..., 2, 2] < 0), np.arctan2(-m[..., 0, 1], -m[..., 0, 0]), rot)
    psi = np.where(single, 0.0, np.arctan2(m[..., 1, 2], -m[..., 0, 2]))
    return np.rad2deg(rot), np.rad2deg(tilt), np.rad2deg(psi)


def is_rotation(matrix: np.ndarray, tolerance: float = 1e-3) -> np.ndarray:
    """Tell which matrices are proper rotations.

    Parameters
    ----------
    matrix : ndarray `(..., 3, 3)`
    tolerance : float
        Largest deviation of ``M M^T`` from 1.

    Returns
    -------
    ndarray `(...)` of bool
    """
    m = np.asarray(matrix, np.float64)
    error = np.abs(m @ np.swapaxes(m, -1, -2) - np.eye(3)).max(axis=(-1, -2))
    with np.errstate(invalid="ignore"):
        return (error < tolerance) & (np.linalg.det(m) > 0)
