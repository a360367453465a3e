"""Scipion's particle sets as tables for the verbs that choose among particles, and what they chose as sets again."""

import csv

from tomo.objects import ClassSubTomogram, SetOfAverageSubTomograms, SetOfSubTomograms

from ..errors import InputError
from ..io import particlestar
from . import attributes, positions, refined, to_scipion

SCORE = "rlnAutopickFigureOfMerit"


def coordinates(items):
    """The coordinates of sub-tomograms, or coordinates as they are."""
    return items.getCoordinates3D() if hasattr(items, "getCoordinates3D") else items


def obstacles(items):
    """What makes it impossible to take a set as particles; a list of str, empty if there is nothing.

    Parameters
    ----------
    items : tomo.objects.SetOfCoordinates3D or SetOfSubTomograms
        Of any class that an input for these offers.
    """
    if isinstance(items, SetOfAverageSubTomograms):
        return ["they are averages, not particles. Choose the particles that they were made of."]
    if refined.is_refined(items):
        return []
    if coordinates(items) is None:
        return ["the set has no coordinates. Give one that was extracted from coordinates."]
    if refined.holds_refined(items):
        return ["they are pseudo-subtomograms in a set that is none of pseudo-subtomograms, where half of their poses "
                "is not seen. Choose the set itself, or make a subset of the class."]
    return []


def create_like(protocol, items):
    """Make an empty set of the class of another one, with all that the other says of itself.

    Parameters
    ----------
    protocol : pyworkflow.protocol.Protocol
        In whose folder it is made.
    items : tomo.objects.SetOfCoordinates3D or SetOfSubTomograms
        Pseudo-subtomograms of other plugins have a class of their own, which other protocols ask for; a class of a
        classification becomes a plain set.

    Returns
    -------
    tomo.objects.SetOfCoordinates3D or SetOfSubTomograms
    """
    isVolumes = hasattr(items, "getCoordinates3D")
    kind = SetOfSubTomograms if isinstance(items, ClassSubTomogram) else type(items)
    name = "subtomograms%s.sqlite" if isVolumes else "coordinates%s.sqlite"
    output = protocol._createSet(kind, name, "")
    if isVolumes:
        output.copyInfo(items)
        return output
    like(output, items)
    if hasattr(items, "_numberOfMeshes"):
        output.copyAttributes(items, "_numberOfMeshes")
    return output


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
    """Append copies of the items whose particles have one of these names, in their order and with their numbers.

    Parameters
    ----------
    output : tomo.objects.SetOfCoordinates3D or SetOfSubTomograms
    items : the same
    names : collection of str
        As `write_table` wrote them.
    centre : {'relion', 'imod'}

    Notes
    -----
    Numbers of items stay, as in Scipion's own subsets, so that these find what belongs together. Names that two
    particles had are those by which tables tell them apart.
    """
    uid = positions.particles(items, centre).uid
    picked = coordinates(items)
    volumes = {} if picked is None else {t.getTsId(): t.clone() for t in picked.getPrecedents().iterItems()}
    for name, item in zip(uid, items.iterItems()):
        if name in names:
            copy = item.clone()
            coordinate = copy.getCoordinate3D() if hasattr(copy, "getCoordinate3D") else copy
            if coordinate is not None and coordinate.getTomoId() in volumes:
                coordinate.setVolume(volumes[coordinate.getTomoId()])
            refined.rename(copy, name)
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
