"""Pseudo-subtomograms in the sets of scipion-em-reliontomo, which is optional, as particles.

Scipion's sub-tomograms have the orientation of the particle in their transform. Here it has the rotation of the
particle's box in the tomogram (rlnTomoSubtomogram*) and the offset from its centre (rlnOrigin*); how the particle is
turned in its box (rlnAngle*) stands beside it.
"""

import os

import numpy as np

from ..engine.particles import ParticleSet
from ..engine.poses import matrix_from_zyz, zyz_from_matrix
from ..errors import InputError
from ..io import particlestar, star

CLASS = "RelionSetOfPseudoSubtomograms"
_OFFSET = tuple(label + "Angst" for label in particlestar.ORIGIN)
_SUBSET, _NAME = "rlnRandomSubset", "rlnTomoParticleName"


def plugin():
    """Return the modules ``reliontomo.objects`` and ``reliontomo.convert``, or None without that plugin."""
    try:
        from reliontomo import convert, objects
    except ImportError:
        return None
    return objects, convert


def is_refined(items):
    """Tell whether a set is one of scipion-em-reliontomo's."""
    return type(items).__name__ == CLASS


def particle_classes(*classes):
    """Names of the classes of particle sets for an input; scipion-em-reliontomo's only where it is installed."""
    return ", ".join(classes + ((CLASS,) if plugin() else ()))


def counts(items):
    """Return the number of pseudo-subtomograms by tsId."""
    return {row["_volName"]: row["COUNT"] for row in items.aggregate(["COUNT"], "_volName", ["_volName"])}


def particles(items, ts_ids=None):
    """Read particles from a set of pseudo-subtomograms.

    Parameters
    ----------
    items : reliontomo.objects.RelionSetOfPseudoSubtomograms
    ts_ids : collection of str, optional
        Only particles of these tilt series.

    Returns
    -------
    ParticleSet
        In the order of the set: offsets in the positions, both rotations in the orientations. ``extra`` holds the
        columns of a RELION 5 table, the poses as they are in the set, and all others of the set's own table as far as
        it names these particles.

    Raises
    ------
    InputError
        If they are not RELION 5's, there is no particle, or two have one name.
    """
    if not items.areRe5Particles():
        raise InputError("pseudo-subtomograms", "they are RELION 4's", "Import their coordinates, and extract them "
                         "from these")
    names, uid, subset = [], [], []
    centred, offset, box, angles = [], [], [], []
    for item in items.iterItems():
        if ts_ids is not None and item.getTsId() not in ts_ids:
            continue
        matrix = np.array(item.getTransform().getMatrix(), np.float64)
        turn = matrix[:3, :3].T
        names.append(item.getTsId())
        uid.append(item.getRelionParticleName())
        subset.append(item.getRdnSubset())
        centred.append([item.getXInImg(), item.getYInImg(), item.getZInImg()])
        box.append(turn)
        # The stored translation is A^T o.
        offset.append(turn @ matrix[:3, 3] * items.getSamplingRate())
        angles.append([item.getRot(), item.getTilt(), item.getPsi()])
    if not names:
        raise InputError("pseudo-subtomograms", "there is none in the tilt series that take part",
                         "Compare the names (tsId) of particles and tilt series")
    centred, offset, box, angles = (np.array(a, np.float64) for a in (centred, offset, box, angles))
    if not centred.any():
        raise InputError("pseudo-subtomograms", "their positions (%s) are not known" % particlestar.CENTRED[0],
                         "Import their coordinates, and extract them from these")
    extra = _columns_of_table(items.getParticlesStar(), uid)
    for labels, values in ((particlestar.CENTRED, centred), (_OFFSET, offset),
                           (particlestar.BOX_ANGLE, np.stack(zyz_from_matrix(box), -1)), (particlestar.ANGLE, angles)):
        extra.update((label, [star.as_text(v) for v in column]) for label, column in zip(labels, values.T))
    extra.update({"rlnTomoName": names, _NAME: uid})
    if all(subset):
        extra[_SUBSET] = [str(s) for s in subset]
    ts_names = tuple(dict.fromkeys(names))
    index = {name: i for i, name in enumerate(ts_names)}
    return ParticleSet(centred - np.einsum("nij,nj->ni", box, offset), box @ matrix_from_zyz(*angles.T),
                       [index[name] for name in names], ts_names, uid, extra, oriented=True)


def _columns_of_table(path, uid):
    """Columns of the particles in a table; none if it does not name all of them."""
    if not path or not os.path.isfile(path):
        return {}
    table = star.read(path).find("particles")
    if table is None or not table.has(_NAME):
        return {}
    row = {name: i for i, name in enumerate(table.text(_NAME))}
    if not all(name in row for name in uid):
        return {}
    chosen = table.select([row[name] for name in uid])
    return {column: chosen.text(column) for column in chosen.columns}


def write_table(path, chosen):
    """Write the table from which these particles are extracted again: poses and offsets as they are in the set.

    Parameters
    ----------
    path : str
    chosen : ParticleSet
        Of `particles`.
    """
    star.write(path, [star.Table.from_columns("particles", chosen.extra)])
