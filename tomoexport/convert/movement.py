"""Trajectories of particles as texts that travel with Scipion's coordinates, relative to the pose these have."""

import json

import numpy as np
from scipy.spatial.transform import Rotation

from ..engine.trajectory import Trajectory


def texts(trajectory):
    """Movement of every particle from its start.

    Parameters
    ----------
    trajectory : engine.trajectory.Trajectory

    Returns
    -------
    list of str
        JSON: displacements (A, in the frame of the tomogram) and rotation vectors (radians, the same frame) of the
        samples over normalised dose.
    """
    position, rotation = trajectory.start
    out = []
    for start, turn, path, turns in zip(position, rotation, trajectory.position, trajectory.rotation):
        moved = path + (turns if len(turns) == len(path) else turns[:1]) @ trajectory.shift - start
        vectors = Rotation.from_matrix(turns @ turn.T).as_rotvec()
        out.append(json.dumps([np.round(moved, 5).tolist(), np.round(vectors, 8).tolist()], separators=(",", ":")))
    return out


def trajectories(position, rotation, movements):
    """Trajectories that begin at given poses.

    Parameters
    ----------
    position : ndarray `(N, 3)`
        Angstrom, xyz from the tomogram centre.
    rotation : ndarray `(N, 3, 3)`
    movements : list of str
        As `texts` made them; an empty one is of a particle that does not move.

    Returns
    -------
    Trajectory or None
        None if no particle moves, or not all movements have the same number of samples.
    """
    known = [json.loads(text) if text else None for text in movements]
    shapes = {(len(one[0]), len(one[1])) for one in known if one}
    if len(shapes) != 1:
        return None
    samples, turns = shapes.pop()
    none = [[[0.0] * 3] * samples, [[0.0] * 3] * turns]
    moved, vectors = (np.array([(one or none)[i] for one in known], np.float64) for i in (0, 1))
    turned = Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(len(known), turns, 3, 3)
    return Trajectory(np.asarray(position)[:, None] + moved, turned @ np.asarray(rotation)[:, None])
