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
from . import attributes
from .names import unique

CLASS, ITEM = "RelionSetOfPseudoSubtomograms", "RelionPSubtomogram"
_OFFSET = tuple(label + "Angst" for label in particlestar.ORIGIN)
_SUBSET, _NAME, _CLASS_NUMBER = "rlnRandomSubset", "rlnTomoParticleName", "rlnClassNumber"


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


def holds_refined(items):
    """Tell whether the items of a set are scipion-em-reliontomo's pseudo-subtomograms, whatever the set is."""
    return type(items.getFirstItem()).__name__ == ITEM


def rename(item, name):
    """Give a particle the name by which its table tells it from others, where it had one that others have as well."""
    if type(item).__name__ == ITEM:
        item._relionParticleName.set(name)
    else:
        coordinate = item.getCoordinate3D() if hasattr(item, "getCoordinate3D") else item
        if attributes.take(coordinate, attributes.UID):
            attributes.put(coordinate, attributes.UID, name)


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
        If they are not RELION 5's, or there is no particle.

    Notes
    -----
    Names that occur twice, as in sets that were joined, get a number: see `names.unique`.
    """
    if not items.areRe5Particles():
        raise InputError("pseudo-subtomograms", "they are RELION 4's", "Import their coordinates, and extract them "
                         "from these")
    names, own, subset, classes, files = [], [], [], [], []
    centred, offset, box, angles = [], [], [], []
    called = []
    for item in items.iterItems():
        called.append(item.getRelionParticleName())
        if ts_ids is not None and item.getTsId() not in ts_ids:
            continue
        matrix = np.array(item.getTransform().getMatrix(), np.float64)
        turn = matrix[:3, :3].T
        names.append(item.getTsId())
        own.append(len(called) - 1)
        subset.append(item.getRdnSubset())
        classes.append(item.getClassId() or 0)
        files.append(item.getFileName() or "")
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
    extra = _columns_of_table(items.getParticlesStar(), [called[i] for i in own], files)
    called = unique(called)  # of all, so that a part has the names of the whole
    uid = [called[i] for i in own]
    for labels, values in ((particlestar.CENTRED, centred), (_OFFSET, offset),
                           (particlestar.BOX_ANGLE, np.stack(zyz_from_matrix(box), -1)), (particlestar.ANGLE, angles)):
        extra.update((label, [star.as_text(v) for v in column]) for label, column in zip(labels, values.T))
    extra.update({"rlnTomoName": names, _NAME: list(uid)})
    if all(subset):
        extra[_SUBSET] = [str(s) for s in subset]
    if any(classes):
        extra[_CLASS_NUMBER] = [str(c) for c in classes]
    ts_names = tuple(dict.fromkeys(names))
    index = {name: i for i, name in enumerate(ts_names)}
    return ParticleSet(centred - np.einsum("nij,nj->ni", box, offset), box @ matrix_from_zyz(*angles.T),
                       [index[name] for name in names], ts_names, uid, extra, oriented=True)


def _columns_of_table(path, uid, files):
    """Columns of the particles in a table; none if it does not name all of them.

    Sets that were joined have the table of the first one, in which particles of another may have namesakes: where it
    has images, a row is of a particle that has its image.
    """
    if not path or not os.path.isfile(path):
        return {}
    table = star.read(path).find("particles")
    if table is None or not table.has(_NAME):
        return {}
    pictured = table.has("rlnImageName") and all(files)
    images = [os.path.abspath(name) for name in table.text("rlnImageName")] if pictured else [""] * len(table)
    wanted = list(zip(uid, [os.path.abspath(name) for name in files] if pictured else [""] * len(uid)))
    row = {pair: i for i, pair in enumerate(zip(table.text(_NAME), images))}
    if not all(pair in row for pair in wanted):
        return {}
    chosen = table.select([row[pair] for pair in wanted])
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
