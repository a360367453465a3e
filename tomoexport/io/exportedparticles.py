"""The list that an export of image series leaves of its particles, and what an analysis of the images says of them.

Programs for heterogeneity know a particle by its rlnGroupName, or by its number in their table. The list has the
particles in that order, under both names, where they were before they were cut out.
"""

from dataclasses import replace

from ..errors import InputError
from . import particlestar, star
from .indices import read_index
from .optimisationset import LABELS, read_optimisation_set

GROUP = "rlnGroupName"
_END, _SET = "_exported.star", "_optimisation_set.star"


def path_beside(table):
    """Path of the list that belongs to a table of images, or to an optimisation set.

    Parameters
    ----------
    table : str
        Or the list itself.

    Returns
    -------
    str

    Raises
    ------
    InputError
        If it is no STAR file.
    """
    if table.endswith(_END):
        return table
    for end in (_SET, ".star"):
        if table.endswith(end):
            return table[:-len(end)] + _END
    raise InputError(table, "it is no STAR file", "Give the table of an export of image series")


def write_exported(path, particles, groups):
    """Write the list.

    Parameters
    ----------
    path : str
    particles : ParticleSet
        In the order of the table that readers get.
    groups : list of str
        rlnGroupName of each.
    """
    particlestar.write_particles(path, replace(particles, extra=dict(particles.extra, **{GROUP: list(groups)})))


def read_exported(path):
    """Read the list.

    Parameters
    ----------
    path : str
        As for `path_beside`.

    Returns
    -------
    particles : ParticleSet
    groups : list of str

    Raises
    ------
    InputError
        If it is not there, or has no names of groups.
    """
    listed = path_beside(path)
    particles, _ = particlestar.read_particles(listed)
    if GROUP not in particles.extra:
        raise InputError(listed, "there is no column %s" % GROUP, "Give the list that an export of image series left")
    return particles, particles.extra[GROUP]


def read_groups(path):
    """The particle of every row of a table.

    Parameters
    ----------
    path : str
        Table of images (a row for each) or of particles; or an optimisation set, whose particles count.

    Returns
    -------
    list of str
        rlnGroupName, or rlnTomoParticleName where there is no such column.

    Raises
    ------
    InputError
        If there is neither.
    """
    tables = star.read(path)
    if any(table.has(LABELS["particles"]) for table in tables):
        return read_groups(read_optimisation_set(path, ["particles"])["particles"])
    for label in (GROUP, "rlnTomoParticleName"):
        table = next((one for one in tables if one.has(label) and not one.is_list), None)
        if table is not None:
            return table.text(label)
    raise InputError(path, "it has neither %s nor rlnTomoParticleName" % GROUP, "Give a table of exported images, or a "
                     "part of it")


def read_kept(path, indexed, counts="particles"):
    """The particles that an analysis kept.

    Parameters
    ----------
    path : str
        STAR file, or a pickled index.
    indexed : str
        Table in which the index counts.
    counts : {'particles', 'images'}
        What it counts: particles in the order in which the table has them first, or rows.

    Returns
    -------
    list of str
        Names of their groups, each once.

    Raises
    ------
    InputError
        If a file cannot be read, or the index has numbers that the table has not.
    """
    if path.endswith(".star"):
        return list(dict.fromkeys(read_groups(path)))
    numbers, rows = read_index(path), read_groups(indexed)
    particles = list(dict.fromkeys(rows))
    names = particles if counts == "particles" else rows
    top = max(numbers)
    if top >= len(names):
        fits = counts == "particles" and top < len(rows)
        raise InputError(path, "the index goes up to %d, counted from 0, and %s has %d %s" % (
            top, indexed, len(names), counts), "It may count images" if fits else
            "Name the table that the analysis read")
    return list(dict.fromkeys(names[number] for number in numbers))
