"""A set of particles: where they are, how they are turned, and everything else their table said."""

from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple, Union

import numpy as np

from ..errors import InputError
from .poses import is_rotation
from .texts import Texts
from .trajectory import TiltTrajectory, Trajectory


@dataclass(frozen=True, eq=False)
class ParticleSet:
    """N particles in named tilt series.

    Parameters
    ----------
    position : ndarray `(N, 3)`
        Angstrom, xyz from the tomogram centre.
    rotation : ndarray `(N, 3, 3)`
        Takes the reference frame to the tomogram frame.
    ts : ndarray `(N,)` of int
        Index into ``ts_ids``.
    ts_ids : tuple of str
        Names of the tilt series.
    uid : tuple of str
        Unique name of each particle.
    extra : dict of str to sequence of str
        Columns of the source table as text, in their order, N values each.
    oriented : bool
        Whether the source gave orientations.
    trajectory : trajectory.Trajectory or trajectory.TiltTrajectory, optional
        How the particles move while their tilt series is exposed; ``position`` and ``rotation`` are its start.
    table : object, optional
        What their table says beside the particles, and how it was read.

    Raises
    ------
    InputError
        If lengths differ, a coordinate is not finite, a matrix is no rotation, or a name occurs twice.
    """

    position: np.ndarray
    rotation: np.ndarray
    ts: np.ndarray
    ts_ids: Tuple[str, ...]
    uid: Tuple[str, ...]
    extra: Dict[str, Sequence[str]] = field(default_factory=dict)
    oriented: bool = True
    trajectory: Optional[Union[Trajectory, TiltTrajectory]] = None
    table: Any = None

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731  frozen
        put("position", np.array(self.position, np.float64).reshape(-1, 3))
        n = len(self.position)
        put("rotation", np.array(self.rotation, np.float64).reshape(-1, 3, 3))
        put("ts", np.array(self.ts, np.int64).reshape(-1))
        put("ts_ids", tuple(self.ts_ids))
        put("uid", tuple(self.uid))
        for name in ("rotation", "ts", "uid"):
            if len(getattr(self, name)) != n:
                raise InputError("particles", "%d %ss for %d positions" % (len(getattr(self, name)), name, n),
                                 "Give one per particle")
        if self.trajectory is not None and len(self.trajectory) != n:
            raise InputError("particles", "%d trajectories for %d positions" % (len(self.trajectory), n),
                             "Give one per particle")
        for name, column in self.extra.items():
            if len(column) != n:
                raise InputError("column %s" % name, "%d values for %d particles" % (len(column), n),
                                 "Give one per particle")
        bad: Union[np.ndarray, List[int]] = np.flatnonzero(~np.isfinite(self.position).all(axis=1))
        if len(bad):
            raise InputError("particle %s" % self.uid[bad[0]], "its coordinates are not finite numbers (%d particles)"
                             % len(bad), "Correct or remove the rows")
        bad = np.flatnonzero(~is_rotation(self.rotation)) if n else []
        if len(bad):
            raise InputError("particle %s" % self.uid[bad[0]], "its matrix is no proper rotation (%d particles)"
                             % len(bad), "Orientations must be orthonormal with determinant +1; mirror the map instead")
        if len(set(self.uid)) != n:
            seen: Set[str] = set()
            twice = next(u for u in self.uid if u in seen or seen.add(u))  # type: ignore[func-returns-value]  # adds
            raise InputError(
                "particle %s" % twice, "the name occurs more than once", "Give every particle its own name"
            )
        for name in ("position", "rotation", "ts"):
            getattr(self, name).flags.writeable = False

    def __len__(self) -> int:
        return len(self.position)

    def select(self, index: Union[np.ndarray, Sequence[int]]) -> "ParticleSet":
        """Some of the particles.

        Parameters
        ----------
        index : ndarray `(N,)` of bool, or of indices

        Returns
        -------
        ParticleSet
        """
        index = np.arange(len(self))[index]
        return replace(self, position=self.position[index], rotation=self.rotation[index], ts=self.ts[index],
                       uid=tuple(self.uid[i] for i in index),
                       extra={k: Texts(v.pick(index)) if isinstance(v, Texts) else [v[i] for i in index]
                              for k, v in self.extra.items()},
                       trajectory=None if self.trajectory is None else self.trajectory.select(index))

    def moved(self, shift: Sequence[float]) -> "ParticleSet":
        """The particles with their centres moved, each in its own frame.

        Parameters
        ----------
        shift : sequence of 3 float
            Angstrom, xyz in the frame of the reference.

        Returns
        -------
        ParticleSet
            ``position + rotation shift``: the point of the reference that lay there is its centre now.
        """
        return replace(self, position=self.position + self.rotation @ np.asarray(shift, np.float64),
                       trajectory=None if self.trajectory is None else self.trajectory.moved(shift))

    def prerotated(self) -> "ParticleSet":
        """The particles as they lie in volumes that were turned into the reference's frame: without rotation.

        What moved with the dose is in such volumes already: there is no trajectory.

        Returns
        -------
        ParticleSet
        """
        return replace(self, rotation=np.broadcast_to(np.eye(3), self.rotation.shape), trajectory=None)

    def in_series(self, ts_id: str) -> "ParticleSet":
        """The particles of one tilt series.

        Parameters
        ----------
        ts_id : str

        Returns
        -------
        ParticleSet
            Empty if the name is unknown.
        """
        if ts_id not in self.ts_ids:
            return self.select(np.zeros(len(self), bool))
        return self.select(self.ts == self.ts_ids.index(ts_id))

    def split(self) -> Dict[str, "ParticleSet"]:
        """The particles of every tilt series that has some, in one go whatever the order of the rows.

        Returns
        -------
        dict of str to ParticleSet
            By name; of each in the order of the rows.
        """
        order = np.argsort(self.ts, kind="stable")
        whole = self if (np.diff(self.ts) >= 0).all() else self.select(order)
        edges = np.flatnonzero(np.diff(whole.ts)) + 1
        return {self.ts_ids[whole.ts[part[0]]]: whole.select(part)
                for part in np.split(np.arange(len(whole)), edges) if len(part)}

    def names(self) -> List[str]:
        """The tilt series of each particle.

        Returns
        -------
        list of str
            N names.
        """
        return [self.ts_ids[i] for i in self.ts]
