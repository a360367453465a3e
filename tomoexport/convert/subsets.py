"""Scipion's particle sets as tables for the verbs that choose among particles, and what they chose as sets again."""

import csv

from ..errors import InputError
from ..io import particlestar
from . import attributes, positions, to_scipion

SCORE = "rlnAutopickFigureOfMerit"


def coordinates(items):
    """The coordinates of sub-tomograms, or coordinates as they are."""
    return items.getCoordinates3D() if hasattr(items, "getCoordinates3D") else items


def write_table(path, items, centre="relion"):
    """Write the particles of a set as a table, with Scipion's score where there is one.

    Parameters
    ----------
    path : str
    items : tomo.objects.SetOfCoordinates3D or SetOfSubTomograms
    centre : {'relion', 'imod'}
        As in `positions.Frame`.

    Returns
    -------
    ParticleSet
        What was written, in the order of the set.
    """
    particles = positions.particles(items, centre)
    if SCORE not in particles.extra:
        scores = [_score(item) for item in items.iterItems()]
        if any(scores):
            particles.extra[SCORE] = [repr(score) for score in scores]
    particlestar.write_particles(path, particles)
    return particles


def _score(item):
    coordinate = item.getCoordinate3D() if hasattr(item, "getCoordinate3D") else item
    return float(getattr(coordinate, "getScore", float)() or 0.0)


def chosen(path, **sets):
    """Names of the old particles that are chosen, from the list of an intersection.

    Parameters
    ----------
    path : str
        ``matches.csv``.
    **sets : bool
        ``only_old`` and ``both``.

    Returns
    -------
    set of str
    """
    with open(path, encoding="utf-8", newline="") as file:
        return {row["old"] for row in csv.DictReader(file) if sets.get(row["set"])}


def kept(path):
    """Names of the particles in a table that a verb wrote."""
    return set(particlestar.read_particles(path)[0].uid)


def like(output, source):
    """Give a new set of coordinates the tomograms, pixel size, box and common columns of another one."""
    output.setPrecedents(source._precedentsPointer)
    output.setSamplingRate(source.getSamplingRate())
    output.setBoxSize(source.getBoxSize())
    attributes.put(output, attributes.COLUMNS, attributes.take(source, attributes.COLUMNS, ""))


def copy_items(output, items, names, centre="relion"):
    """Append copies of the items whose particles have one of these names, in their order.

    Parameters
    ----------
    output : tomo.objects.SetOfCoordinates3D or SetOfSubTomograms
    items : the same
    names : collection of str
        As `write_table` wrote them.
    centre : {'relion', 'imod'}
    """
    uid = positions.particles(items, centre).uid
    volumes = {t.getTsId(): t.clone() for t in coordinates(items).getPrecedents().iterItems()}
    for name, item in zip(uid, items.iterItems()):
        if name in names:
            copy = item.clone()
            coordinate = copy.getCoordinate3D() if hasattr(copy, "getCoordinate3D") else copy
            coordinate.setVolume(volumes[coordinate.getTomoId()])
            copy.setObjId(None)
            output.append(copy)


def add_table(output, path, tomograms, centre="relion"):
    """Append the particles of a table that a verb wrote, as coordinates.

    Parameters
    ----------
    output : tomo.objects.SetOfCoordinates3D
    path : str
    tomograms : tomo.objects.SetOfTomograms
    centre : {'relion', 'imod'}

    Raises
    ------
    InputError
        If particles are in tomograms that are not there.
    """
    particles, _ = particlestar.read_particles(path)
    missing = sorted(set(particles.names()) - {t.getTsId() for t in tomograms.iterItems()})
    if missing:
        raise InputError(path, "there are no tomograms of %s" % ", ".join(missing), "Leave these tilt series out")
    to_scipion.add_coordinates(output, particles, tomograms, centre)
