"""RELION's motion.star: how polishing displaced every particle in every tilt.

After ``data_general`` with ``rlnParticleNumber`` there is a block for each particle, called as rlnTomoParticleName has
it, with a row per tilt in the order of the tilt table: ``rlnOriginX/Y/ZAngst``, which here is a displacement in the
frame of the tomogram, added to the particle's position.
"""

import numpy as np

from ..engine.trajectory import TiltTrajectory
from ..errors import InputError
from . import star

_DISPLACEMENT = ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst")
_COUNT = "rlnParticleNumber"
_SHOWN = 5  # names in a message


def read_motion(path, particles, series):
    """Read the trajectories of particles.

    Parameters
    ----------
    path : str
    particles : ParticleSet
        Their names are those of the blocks.
    series : sequence of TiltSeries
        As their tables have them, with all their tilts: as many as a trajectory has rows.

    Returns
    -------
    TiltTrajectory
        In the order of the particles. Trajectories of other particles are left out.

    Raises
    ------
    InputError
        If the file has fewer trajectories than it says, a particle has none, its rows are not as many as the tilts,
        or a displacement is no finite number.
    """
    source = star.read(path)
    general = source.find("general")
    if general is not None and general.has(_COUNT) and len(general):
        count, found = general.int(_COUNT)[0], len(source.blocks) - 1
        if found < count:
            raise InputError(path, "it says that it has %d trajectories, and has %d" % (count, found),
                             "It was cut off; copy it again")
    missing = [uid for uid in particles.uid if source.find(uid) is None]
    if missing:
        raise InputError(path, "%d of %d particles have no trajectory: %s" % (
            len(missing), len(particles), ", ".join(missing[:_SHOWN]) + ", ..." * (len(missing) > _SHOWN)),
            "Give the trajectories of the same particles; blocks are called as in rlnTomoParticleName")
    tilts = {one.ts_id: one.geometry.n_tilts for one in series}
    return TiltTrajectory(particles.position, particles.rotation, [
        _displacement(source.table(uid), name, tilts[name]) for uid, name in zip(particles.uid, particles.names())])


def _displacement(table, ts_id, count):
    if len(table) != count:
        raise InputError(table.where(), "the trajectory has %d rows, tilt series %s has %d tilts"
                         % (len(table), ts_id, count), "Give the tilt series that was polished, with all its tilts")
    out = np.stack([table.float(column) for column in _DISPLACEMENT], axis=1)
    bad = np.flatnonzero(~np.isfinite(out).all(axis=1))
    if len(bad):
        raise InputError(table.where(bad[0]), "the displacement is not three finite numbers", "Correct the row")
    return out
