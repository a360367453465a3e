"""What the verbs share that work on particle sets alone: reading, names of tilt series, an order of the rows."""

import os

import numpy as np

from ..errors import InputError
from ..io import particlestar
from ..io.manifest import fingerprint
from ..io.project import read_project
from ..options import affecting
from .plan import Plan, Problem, Unit, state
from .tiltseries import given

TABLE_PROCESS_BYTES = 110 << 20  # interpreter and libraries, without compiled kernels


def memory_of(paths, each=6.1):
    """Memory that a verb takes which only reads and writes tables.

    Parameters
    ----------
    paths : iterable of str
        Tables of particles.
    each : float
        Bytes of memory per byte of a table, as measured on a million rows of sixteen columns (docs/reliability.md).

    Returns
    -------
    int
        Bytes.
    """
    return TABLE_PROCESS_BYTES + int(each * sum(map(os.path.getsize, paths)))


def read_series(options):
    """The tilt series that tell names of tomograms and, where they do, their sizes.

    Parameters
    ----------
    options : SizeOptions

    Returns
    -------
    io.project.Project or None
        None if no table is named.

    Raises
    ------
    InputError
        If the table cannot be read.
    """
    return read_project(options.tomograms, given=given(options, size_needed=False)) if options.tomograms else None


def one_unit(verb, options, work, facts, files, problems=(), depends=(), disk_bytes=0, memory_bytes=0, reading=()):
    """The plan of a verb that has one unit, called as the verb.

    Parameters
    ----------
    verb : str
    options : object
        The verb's options.
    work : object
        What `execute` needs: a record of the verb's own.
    facts : dict of str to object
        What people are told.
    files : iterable of str
        That are read, and exist.
    problems : list of Problem
    depends : sequence
        What the outputs depend on beside options and files, plain values.
    disk_bytes, memory_bytes : int
        That it takes.
    reading : list of str
        How the inputs were read.

    Returns
    -------
    Plan
    """
    unit = Unit(verb, work=work, facts=facts, disk_bytes=disk_bytes, inputs={path: state(path) for path in files})
    unit.depends = dict(affecting(options, "input", "images", "table"), files=fingerprint(unit.inputs),
                        particles=fingerprint(*depends))
    return Plan(verb, options, [unit], list(problems), memory_bytes, list(reading))


def tables_of(project, options):
    """The tables that a verb reads beside those of particles.

    Parameters
    ----------
    project : io.project.Project or None
    options : ParticleTableOptions or IntersectOptions

    Returns
    -------
    list of str
    """
    described = [path for name in project.names for path in project.files(name)] if project is not None else []
    return list(dict.fromkeys(described + ([options.source] if options.source else [])))


def told(project, options):
    """Problems of tilt series that cannot be read; for particles alone they are no obstacle.

    Parameters
    ----------
    project : io.project.Project or None
    options : SizeOptions

    Returns
    -------
    list of Problem
    """
    if project is None:
        return []
    return [Problem("warning", options.tomograms, note) for note in project.notes] + [
        Problem("warning", name, "its table cannot be read: %s" % error) for name, error in project.faults.items()]


def read(flag, path, series, pixel_size, source="", allow_loss=False, **more):
    """Read a set of particles.

    Parameters
    ----------
    flag : str
        Of the option that names the table.
    path : str
    series : io.project.Project or None
    pixel_size : float
        Angstrom per pixel of the coordinates; 0 takes it from the table.
    source : str
        M's source file, if hashes and not names shall tell the tilt series.
    allow_loss : bool
        Whether particles in other tilt series are left out.
    **more
        As `particlestar.read_particles`: ``normalized``, ``centre``, ``anywhere``.

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
    rank = np.zeros(len(particles), np.int64)
    # As rows of text are sorted, but a column at a time, until every row has a rank of its own.
    for values in list(particles.extra.values()) or [particles.uid]:
        texts = list(values)
        place = {text: i for i, text in enumerate(sorted(set(texts)))}
        found = np.fromiter(map(place.__getitem__, texts), np.int64, len(texts))
        distinct, rank = np.unique(rank * (found.max(initial=0) + 1) + found, return_inverse=True)
        rank = rank.reshape(-1)
        if len(distinct) == len(rank):
            return rank
    out = np.empty(len(rank), np.int64)
    out[np.argsort(rank, kind="stable")] = np.arange(len(rank))  # rows that say the same, as they come
    return out
