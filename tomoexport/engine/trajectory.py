"""How particles move and turn while their tilt series is exposed.

Two kinds, used alike: `Trajectory`, samples over dose as M refines them, and `TiltTrajectory`, a displacement in every
tilt as RELION's polishing measures it.  Each gives a position ``r`` in angstrom from the tomogram centre and a rotation
``A`` from the reference frame to the tomogram frame for every tilt, so that a point ``u`` of the reference lies at
``r + A u`` while that tilt is exposed.  Both are in the frame of the tomogram: the tilt itself is no part of them.
"""

from dataclasses import dataclass, replace
from typing import Optional, Sequence, Tuple, Union

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import PchipInterpolator
from scipy.spatial.transform import Rotation

from ..errors import InputError
from .poses import is_rotation

_STILL = 1e-9  # radians: a rotation without axis


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Positions and rotations of N particles at equal steps of normalised dose.

    Parameters
    ----------
    position : ndarray `(N, S, 3)`
        Angstrom, xyz from the tomogram centre. Sample i is at ``tau = i / (S - 1)``.
    rotation : ndarray `(N, R, 3, 3)`
        Takes the reference frame to the tomogram frame; R samples in the same way.
    shift : sequence of 3 float
        Angstrom, xyz in the frame of the reference: the point of the particle that is followed.

    Raises
    ------
    InputError
        If lengths differ, there is no sample, a coordinate is not finite or a matrix is no rotation.

    Notes
    -----
    ``tau = (dose - min) / (max - min)`` over all tilts of the series; 0 if all have the same dose. Between samples,
    each component of the position and of the rotation vector relative to the first sample, ``log(A_i A_0^T)``, follows
    a monotone cubic (F. N. Fritsch and R. E. Carlson, SIAM J. Numer. Anal. 17 (1980) 238): constant for one sample, a
    line for two. Rotation vectors have no jump where Euler angles pass 180 degrees; for small motions both agree.
    """

    position: np.ndarray
    rotation: np.ndarray
    shift: np.ndarray = (0.0, 0.0, 0.0)  # type: ignore[assignment]  # becomes an array

    def __post_init__(self) -> None:
        for name, ndim, last in (("position", 3, (3,)), ("rotation", 4, (3, 3)), ("shift", 1, (3,))):
            array = np.array(getattr(self, name), np.float64)
            if array.ndim != ndim or array.shape[-len(last):] != last:
                raise InputError("trajectories", "%s has the shape %s" % (name, array.shape),
                                 "Give N x samples x 3 positions, N x samples x 3 x 3 rotations and one shift")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if len(self.rotation) != len(self.position):
            raise InputError("trajectories", "%d rotations for %d positions" % (len(self.rotation), len(self.position)),
                             "Give one per particle")
        if not self.position.shape[1] or not self.rotation.shape[1]:
            raise InputError("trajectories", "they have no samples", "Give at least one position and one rotation")
        if not np.isfinite(self.shift).all():
            raise InputError("trajectories", "the shift is not finite", "Give three numbers")
        _check(self.position, self.rotation)

    def __len__(self) -> int:
        return len(self.position)

    @property
    def start(self) -> Tuple[np.ndarray, np.ndarray]:
        """Position `(N, 3)` and rotation `(N, 3, 3)` at the lowest dose, tau = 0."""
        return self.position[:, 0] + self.rotation[:, 0] @ self.shift, self.rotation[:, 0]

    def at(self, dose: ArrayLike,
           tilts: Optional[Union[np.ndarray, Sequence[int]]] = None) -> Tuple[np.ndarray, np.ndarray]:
        """Where the particles are, and how they are turned, in the tilts of a series.

        Parameters
        ----------
        dose : ndarray `(T,)`
            Electrons per square angstrom, of all tilts of the series in any order, excluded ones too: the lowest and
            the highest set the scale.
        tilts : ndarray `(K,)` of indices, or `(T,)` of bool, optional
            Tilts that are asked for; all by default.

        Returns
        -------
        position : ndarray `(N, K, 3)`
            Angstrom, xyz from the tomogram centre, ``r(tau) + A(tau) shift``.
        rotation : ndarray `(N, K, 3, 3)`

        Raises
        ------
        InputError
            If a dose is not finite.
        """
        tau = normalised_dose(dose)
        tau = tau if tilts is None else tau[tilts]
        rotation = self._rotation(tau)
        position = _interpolate(self.position, tau)
        if self.shift.any():
            position = position + rotation @ self.shift
        return position, rotation

    def _rotation(self, tau: np.ndarray) -> np.ndarray:
        n, samples = self.rotation.shape[:2]
        if samples == 1 or not n:
            return np.repeat(self.rotation[:, :1], len(tau), axis=1)
        vector = _interpolate(_relative(self.rotation), tau)
        turn = Rotation.from_rotvec(vector.reshape(-1, 3)).as_matrix() if vector.size else np.zeros(0)
        return turn.reshape(n, len(tau), 3, 3) @ self.rotation[:, :1]

    def moved(self, shift: Sequence[float]) -> "Trajectory":
        """The same particles followed at another point of theirs.

        Parameters
        ----------
        shift : sequence of 3 float
            Angstrom, xyz in the frame of the reference.

        Returns
        -------
        Trajectory
            ``r(t) + A(t) shift``.
        """
        return replace(self, shift=self.shift + np.asarray(shift, np.float64))

    def select(self, index: Union[np.ndarray, Sequence[int]]) -> "Trajectory":
        """Some of the particles.

        Parameters
        ----------
        index : ndarray `(N,)` of bool, or of indices

        Returns
        -------
        Trajectory
        """
        return replace(self, position=self.position[index], rotation=self.rotation[index])


@dataclass(frozen=True, eq=False)
class TiltTrajectory:
    """N particles displaced in every tilt, at constant rotation.

    Parameters
    ----------
    position : ndarray `(N, 3)`
        Angstrom, xyz from the tomogram centre.
    rotation : ndarray `(N, 3, 3)`
        Takes the reference frame to the tomogram frame.
    displacement : sequence of N ndarray `(T, 3)`
        Angstrom, xyz in the frame of the tomogram, added to the position; in the order of the tilts, whose number
        depends on the tilt series. RELION moves the image point by it and leaves the depth.

    Raises
    ------
    InputError
        If lengths differ, a number is not finite or a matrix is no rotation.
    """

    position: np.ndarray
    rotation: np.ndarray
    displacement: Tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731  frozen
        put("position", np.array(self.position, np.float64).reshape(-1, 3))
        put("rotation", np.array(self.rotation, np.float64).reshape(-1, 3, 3))
        put("displacement", tuple(np.array(one, np.float64) for one in self.displacement))
        for name in ("rotation", "displacement"):
            if len(getattr(self, name)) != len(self):
                raise InputError("trajectories", "%d %ss for %d positions"
                                 % (len(getattr(self, name)), name, len(self)), "Give one per particle")
        for n, one in enumerate(self.displacement):
            if one.ndim != 2 or one.shape[1] != 3 or not np.isfinite(one).all():
                raise InputError("trajectory of particle %d" % (n + 1), "it is not three finite numbers for every tilt",
                                 "Correct or remove it")
        _check(self.position[:, None], self.rotation[:, None])
        for array in (self.position, self.rotation) + self.displacement:
            array.flags.writeable = False

    def __len__(self) -> int:
        return len(self.position)

    @property
    def start(self) -> Tuple[np.ndarray, np.ndarray]:
        """Position `(N, 3)` and rotation `(N, 3, 3)` without displacement."""
        return self.position, self.rotation

    def at(self, dose: ArrayLike,
           tilts: Optional[Union[np.ndarray, Sequence[int]]] = None) -> Tuple[np.ndarray, np.ndarray]:
        """Where the particles are, and how they are turned, in the tilts of a series.

        Parameters
        ----------
        dose : ndarray `(T,)`
            Electrons per square angstrom, of all tilts of the series in their order; only their number counts.
        tilts : ndarray `(K,)` of indices, or `(T,)` of bool, optional
            Tilts that are asked for; all by default.

        Returns
        -------
        position : ndarray `(N, K, 3)`
            Angstrom, xyz from the tomogram centre.
        rotation : ndarray `(N, K, 3, 3)`

        Raises
        ------
        InputError
            If a particle has a displacement for fewer or more tilts.
        """
        count = np.size(dose)
        for n, one in enumerate(self.displacement):
            if len(one) != count:
                raise InputError("trajectory of particle %d" % (n + 1), "it has %d tilts, the tilt series %d"
                                 % (len(one), count), "Give the trajectories that belong to the tilt series")
        moved = np.reshape(self.displacement, (len(self), count, 3)) + self.position[:, None]
        moved = moved if tilts is None else moved[:, tilts]
        return moved, np.repeat(self.rotation[:, None], moved.shape[1], axis=1)

    def moved(self, shift: Sequence[float]) -> "TiltTrajectory":
        """The same particles followed at another point of theirs.

        Parameters
        ----------
        shift : sequence of 3 float
            Angstrom, xyz in the frame of the reference.

        Returns
        -------
        TiltTrajectory
        """
        return replace(self, position=self.position + self.rotation @ np.asarray(shift, np.float64))

    def select(self, index: Union[np.ndarray, Sequence[int]]) -> "TiltTrajectory":
        """Some of the particles.

        Parameters
        ----------
        index : ndarray `(N,)` of bool, or of indices

        Returns
        -------
        TiltTrajectory
        """
        index = np.arange(len(self))[index]
        return TiltTrajectory(self.position[index], self.rotation[index],
                              [self.displacement[i] for i in index])  # type: ignore[arg-type]  # becomes a tuple


def normalised_dose(dose: ArrayLike) -> np.ndarray:
    """Dose from 0 at the tilt that was exposed first to 1 at the last.

    Parameters
    ----------
    dose : ndarray `(T,)`
        Electrons per square angstrom.

    Returns
    -------
    ndarray `(T,)`
        All 0 if there is one dose only.

    Raises
    ------
    InputError
        If a dose is not finite.
    """
    dose = np.asarray(dose, np.float64).reshape(-1)
    if not np.isfinite(dose).all():
        raise InputError("dose of tilt %d" % (np.flatnonzero(~np.isfinite(dose))[0] + 1), "it is no finite number",
                         "Trajectories follow the dose: give the dose of every tilt")
    span = np.ptp(dose) if dose.size else 0.0
    return (dose - dose.min()) / span if span else np.zeros(dose.shape)


def _interpolate(values: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """Monotone cubics through samples `(N, S, K)` at equal steps from 0 to 1, at tau `(T,)`: `(N, T, K)`."""
    n, samples, width = values.shape
    if samples == 1 or not n:
        return np.repeat(values[:, :1], len(tau), axis=1)
    return PchipInterpolator(np.linspace(0, 1, samples), values, axis=1)(tau).reshape(n, len(tau), width)


def _relative(rotation: np.ndarray) -> np.ndarray:
    """Rotation vectors `(N, R, 3)`, radians in the tomogram frame, from the first sample to each, without jumps.

    A rotation by an angle a about an axis is also one by a + 2 pi k: k is taken nearest to the sample before.
    """
    n, samples = rotation.shape[:2]
    turn = rotation @ np.swapaxes(rotation[:, :1], -1, -2)
    vector = Rotation.from_matrix(turn.reshape(-1, 3, 3)).as_rotvec().reshape(n, samples, 3)
    vector[:, 0] = 0.0
    for i in range(1, samples):
        before = vector[:, i - 1]
        angle = np.linalg.norm(vector[:, i], axis=1, keepdims=True)
        along = np.where(angle > _STILL, vector[:, i], before)
        length = np.linalg.norm(along, axis=1, keepdims=True)
        axis = along / np.where(length > 0, length, 1.0)
        turns = np.rint(((axis * before).sum(axis=1, keepdims=True) - angle) / (2 * np.pi))
        vector[:, i] = axis * (angle + 2 * np.pi * turns)
    return vector


def _check(position: np.ndarray, rotation: np.ndarray) -> None:
    for what, good in (("coordinates are not finite numbers", np.isfinite(position).all(axis=(1, 2))),
                       ("matrices are no proper rotations", is_rotation(rotation).all(axis=1) if len(rotation)
                        else np.ones(0, bool))):
        bad = np.flatnonzero(~good)
        if len(bad):
            raise InputError("trajectory of particle %d" % (bad[0] + 1), "its %s (%d particles)" % (what, len(bad)),
                             "Correct or remove the rows")
