"""What the verbs share that work on particle sets alone: reading, names of tilt series, an order of the rows."""

import os

import numpy as np

from ..errors import InputError
from ..io import particlestar, project
from .plan import Problem, state


def read_series(options):
    """The tilt series that tell names and sizes of tomograms.

    Parameters
    ----------
    options : IntersectOptions or DuplicatesOptions

    Returns
    -------
    list of TiltSeries or None
        None if no table is named.

    Raises
    ------
    InputError
        If the table cannot be read.
    """
    return project.read_project(options.tomograms) if options.tomograms else None


def inputs(options, particles):
    """The files that a verb reads, and their state.

    Parameters
    ----------
    options : IntersectOptions or DuplicatesOptions
    particles : list of str
        Its particle tables.

    Returns
    -------
    dict of str to list
        As `plan.Unit` has them.
    """
    tables = project.tables(options.tomograms) if options.tomograms else []
    return {path: state(path) for path in particles + tables + [options.source] if path}


def read(flag, path, series, pixel_size, source="", allow_loss=False, **more):
    """Read a set of particles.

    Parameters
    ----------
    flag : str
        Of the option that names the table.
    path : str
    series : list of TiltSeries or None
    pixel_size : float
        Angstrom per pixel of the coordinates; 0 takes it from the table.
    source : str
        M's source file, if hashes and not names shall tell the tilt series.
    allow_loss : bool
        Whether particles in other tilt series are left out.
    **more
        As `particlestar.read_particles`: ``normalized``, ``centre``.

    Returns
    -------
    particles : ParticleSet
        One per row of the table, in its order, unless some are left out.
    notes : list of str

    Raises
    ------
    InputError
        If no table is named, it cannot be read, or its names do not mean one tilt series each.
    """
    if not path:
        raise InputError(flag, "no file is given", "Name a particle STAR file")
    try:
        particles, notes = particlestar.read_particles(
            path, series, coordinates_pixel_size=pixel_size or None, allow_loss=allow_loss,
            sources=[source] if source else (), **more)
    except InputError:
        _refuse_ambiguous(path, series)
        raise
    if any("left out" in note for note in notes):
        _refuse_ambiguous(path, series)
    return particles, notes


def _refuse_ambiguous(path, series):
    if series is None:
        return
    try:
        names = particlestar.tomogram_names(particlestar.particle_table(path)[0])
    except InputError:
        return
    refuse_ambiguous(path, names, [one.ts_id for one in series])


def refuse_ambiguous(item, names, ts_ids):
    """See that no name may mean several tilt series.

    Parameters
    ----------
    item : str
        Where the names are from.
    names, ts_ids : sequence of str

    Raises
    ------
    InputError
        Naming all that may, and what they may mean.
    """
    by_bare = {}
    for ts_id in dict.fromkeys(ts_ids):
        by_bare.setdefault(particlestar.bare_name(ts_id), []).append(ts_id)
    several = ["%s (%s)" % (name, " or ".join(by_bare[bare])) for name, bare in (
        (name, particlestar.bare_name(name)) for name in dict.fromkeys(names))
        if name not in ts_ids and len(by_bare.get(bare, ())) > 1]
    if several:
        raise InputError(item, "names that may mean several tilt series: " + ", ".join(several),
                         "Give every tilt series a name of its own, the same in both tables")


def grouped(names):
    """Which particles each tilt series has.

    Parameters
    ----------
    names : list of str
        Tilt series of each particle.

    Returns
    -------
    dict of str to ndarray of int
        Indices, in the order in which the names come first.
    """
    out = {}
    for i, name in enumerate(names):
        out.setdefault(name, []).append(i)
    return {name: np.array(rows) for name, rows in out.items()}


def row_order(particles):
    """Rank of each particle by what its row says, which does not depend on the order of the rows.

    Parameters
    ----------
    particles : ParticleSet

    Returns
    -------
    ndarray `(N,)` of int
    """
    rows = list(zip(*particles.extra.values())) or list(particles.uid)
    rank = np.empty(len(particles), int)
    rank[sorted(range(len(particles)), key=rows.__getitem__)] = np.arange(len(particles))
    return rank


def protect(options, paths):
    """Problems if the table that is written would replace one that is read.

    Parameters
    ----------
    options : IntersectOptions or DuplicatesOptions
    paths : collection of str
        Files that are read.

    Returns
    -------
    list of Problem
    """
    target = os.path.join(options.output, options.star)
    for given in paths:
        if options.output and os.path.exists(target) and os.path.samefile(target, given):
            return [Problem("error", target, "it is an input and would be overwritten",
                            "Choose another --output folder or another --star")]
    return []
