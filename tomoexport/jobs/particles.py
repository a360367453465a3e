"""What all operations on particles plan alike: which particles, which tilts show them, is there memory."""

import os
import re
from dataclasses import dataclass, fields, replace
from math import ceil
from typing import Any, Callable

import numpy as np

from ..engine.backend import available_cores, count_devices
from ..errors import InputError
from ..io import particlefiles, particlestar
from ..io.manifest import fingerprint
from ..io.motion import read_motion
from ..options import flag
from .memory import budget, workers_that_fit
from .plan import PROCESS_BYTES, Plan, Problem, size, state
from .statements import unfollowed
from .tiltseries import first_tilts, hand_of, identity, load, settings

RING = 3  # buffers for results of a GPU: one is filled while others are written
RING_BYTES = 256 << 20  # of one of them at most
TABLE_SHARE = 5.5  # bytes of memory per byte of a table of particles
STILL = 1e-7  # elements of a rotation matrix that differ by less are of a particle that does not turn


@dataclass(frozen=True)
class MemoryNeeds:
    """Memory that the work on a tilt series takes, bytes.

    Attributes
    ----------
    shared : int
        Process, images, and what all particles have in common.
    reader : int
        What a thread takes that reads an image; gone before the rest begins.
    worker : int
        What a thread takes that makes one particle's output, with results that wait to be written; on a GPU, what the
        ring of buffers takes with one particle in each.
    result : int
        What is written of a particle.
    on_gpu : bool
        A GPU is insisted on.
    """

    shared: int
    reader: int
    worker: int
    result: int
    on_gpu: bool

    @property
    def least(self):
        """Without which nothing can be made."""
        return self.shared + max(self.reader, self.worker)

    def peak(self, room, threads):
        """What is taken of a budget by so many threads; auto may choose a GPU and take less."""
        readers, workers = (workers_that_fit(room, self.shared, n, threads) for n in (self.reader, self.worker))
        making = workers * self.worker
        if self.on_gpu:
            making = max(self.worker, min(room - self.shared, RING * RING_BYTES))
        return self.shared + max(readers * self.reader, making)


@dataclass(frozen=True, eq=False)
class ParticleWork:
    """What is to be done with the particles of one tilt series.

    Attributes
    ----------
    particles : ParticleSet
        Its N particles.
    seen : ndarray `(N, T)` of bool
        Which of the tilts that are used show a particle.
    kept : ndarray `(N,)` of bool
        Those that enough tilts show.
    exposures : (ndarray `(A,)`, ndarray `(A,)`)
        Dose and acquisition order of all tilts of the series, excluded ones too.
    room : int
        Memory that may be taken, bytes.
    fewest : int
        Tilts that must show a particle.
    needs : MemoryNeeds
    own : object
        What the verb adds: a record of its own.
    """

    particles: Any
    seen: np.ndarray
    kept: np.ndarray
    exposures: tuple
    room: int
    fewest: int
    needs: MemoryNeeds = None
    own: Any = None


@dataclass(frozen=True)
class ParticleVerb:
    """What an operation on particles is, beside what all of them share.

    Attributes
    ----------
    name : str
    sees : callable
        ``sees(options, geometry, xy)``: which tilts show points `(N, T, 2)`, angstrom from the image centre.
    fewest, extent : str
        Options that say how many tilts must show a particle, and how much of it.
    requires : callable
        ``requires(options)``: `tiltseries.Requirements`.
    describe : callable
        ``describe(unit, work, options, reach, problems)`` returns the work with `needs` and `own`, and completes the
        unit's facts and disk_bytes; reach is how far particles lie above or below the tomogram's centre along the
        beam, angstrom.
    matters : callable
        ``matters(options, work)``: what else of the particles the output depends on, plain values and arrays.
    check : callable
        ``check(options, particles)``: problems of the particles as a whole.
    adjust : callable
        ``adjust(options, particles)``: the particles with offsets as the options say.
    writes : callable
        ``writes(options)``: tables that are written, relative to the output folder.
    follows : callable
        ``follows(options)``: labels of statements of the particle table that are followed.
    """

    name: str
    sees: Callable
    fewest: str
    extent: str
    requires: Callable
    describe: Callable
    matters: Callable = lambda options, work: []
    check: Callable = lambda options, particles: []
    adjust: Callable = lambda options, particles: particles
    writes: Callable = lambda options: [options.star]
    follows: Callable = lambda options: ()


def read_inputs(verb, options, only=None):
    """Read tilt series and particles, and move the particles as the options say.

    Parameters
    ----------
    verb : ParticleVerb
    options : ExtractionOptions
    only : list of str or None
        Names of the tilt series asked for; None for all. A job for some of them only is a part of a run that was
        looked at as a whole: particles of others are no loss.

    Returns
    -------
    project : io.project.Project
    units : list of plan.Unit
    problems : list of plan.Problem
    particles : ParticleSet

    Raises
    ------
    InputError
        If a table is not named or cannot be read.
    """
    if not options.particles:
        raise InputError("--particles", "no file is given", "Name a particle STAR file")
    project, units, problems = load(verb.name, options, verb.requires(options), only)
    particles, notes = read_table(options, project, options.allow_loss or only is not None, only)
    problems += [Problem("warning", "particles", note) for note in notes]
    particles = verb.adjust(options, particles)
    if options.motion:
        if particles.trajectory is not None:
            raise InputError("--motion", "%s has trajectories of its own" % options.particles,
                             "Leave one of the two out")
        particles = replace(particles, trajectory=read_motion(options.motion, particles, project))
    return project, units, problems, particles.moved((options.shift_x, options.shift_y, options.shift_z))


def read_table(options, project, allow_loss, only=None):
    """Read the particles of an operation as they stand in their table, or tables.

    Parameters
    ----------
    options : ExtractionOptions
    project : io.project.Project
    allow_loss : bool
        Whether particles may name tilt series that are not there.
    only : list of str, optional
        Tilt series whose rows are enough.

    Returns
    -------
    particles : ParticleSet
    notes : list of str

    Raises
    ------
    InputError
        If a table cannot be read.
    """
    read, more = particlestar.read_particles, {"only": only}
    if getattr(options, "per_series", False):
        read, more = particlefiles.read_particle_files, {}
    return read(
        options.particles, project, **more, coordinates_pixel_size=options.coordinates_pixel_size or None,
        normalized=options.normalized, centre=options.centre, allow_loss=allow_loss,
        sources=[options.source] if options.source else ())


def plan_particles(verb, options, only):
    """Plan an operation on particles.

    Parameters
    ----------
    verb : ParticleVerb
    options : ExtractionOptions
    only : list of str or None
        Names of the tilt series asked for; None for all.

    Returns
    -------
    plan.Plan
        A unit per tilt series; its work is a `ParticleWork`.

    Raises
    ------
    InputError
        If a table cannot be read.
    """
    project, units, problems, particles = read_inputs(verb, options, only)
    tables = _own_tables(options, project)
    problems += overwritten(options, verb.writes(options), tables.values()) + verb.check(options, particles)
    problems += unfollowed(verb.name, options.particles, particles.table.statements, options.ignore,
                           ctf=verb.requires(options).ctf, followed=verb.follows(options))
    out = Plan(verb.name, options, units, problems, reading=["coordinates: %s from %s" % (
        particles.table.unit, particles.table.zero)])
    devices = count_devices(options.device)  # that share memory and threads
    room, threads = budget(options) // devices, max(1, (options.threads or available_cores()) // devices)
    complete, short = {one.ts_id: one.geometry for one in project}, []
    of_series = particles.split()
    for unit in units:
        if unit.error:
            continue
        try:
            own = of_series.get(unit.name)
            own = particles.in_series(unit.name) if own is None else own
            needs = _plan_unit(unit, verb, options, own, complete[unit.name], room, problems)
        except InputError as error:
            unit.error = Problem("failed", unit.name, "%s: %s" % (error.item, error.cause), error.remedy)
            problems.append(unit.error)
            continue
        unit.inputs.update((path, state(path)) for path in (
            tables.get(unit.name, options.particles), options.source, options.motion) if path)
        if needs.least > room:
            short.append((needs.least, unit.name))
        workers = workers_that_fit(room, needs.shared, needs.worker, threads)
        if workers < threads and not needs.on_gpu:
            unit.facts["threads"] = "%d of %d, for want of memory" % (workers, threads)
        out.memory_bytes = max(out.memory_bytes, devices * needs.peak(room, threads))
    # The table, its rows of every tilt series and what is planned of them; a small one is in what a process takes.
    table_bytes = TABLE_SHARE * sum(os.path.getsize(path) for path in set(tables.values()) or {options.particles})
    out.memory_bytes += max(0, int(table_bytes) - PROCESS_BYTES // 2)
    if short:
        problems.append(_too_little(max(short), devices, room))
    problems += _nothing_kept(verb, options, units) + _more_than_there_are(options, only, complete.values())
    return out


def _more_than_there_are(options, only, geometries):
    """Problems of a number of tilts that a series, or none of them, has."""
    wanted, found = getattr(options, "first_tilts", 0), {g.ts_id: g.n_tilts for g in geometries}
    short = sorted(name for name, count in found.items() if count < wanted)
    if not short:
        return []
    if len(short) == len(found) and only is None:
        return [Problem("error", "--first-tilts", "%d are asked for, the tilt series have %d at most" % (
            wanted, max(found.values())), "Give a smaller number, or 0 for all")]
    return [Problem("warning", "--first-tilts", "fewer than %d tilts are in %s, whose tilts are all used" % (
        wanted, ", ".join(short[:8]) + (" and %d more" % (len(short) - 8) if len(short) > 8 else "")))]


def _plan_unit(unit, verb, options, own, whole, room, problems):
    """Work, facts, fingerprint of one tilt series; returns its memory needs."""
    unit.series = first_tilts(unit.series, getattr(options, "first_tilts", 0))
    g, exposures = unit.series.geometry, (whole.dose, whole.acq_order)
    position, rotation = poses_at(own, exposures, g)
    found = g.project(position)
    seen = verb.sees(options, g, found.xy)
    fewest = getattr(options, verb.fewest)
    kept = seen.sum(axis=1) >= fewest
    problems += _outside(unit.name, own, g)
    unit.facts = {
        "particles": "%d of %d kept" % (kept.sum(), len(own)),
        **({"lying at": _span(own, g)} if len(own) else {}),
        **({"tilts": "%d, by dose" % g.n_tilts} if getattr(options, "first_tilts", 0) else {}),
        **({"trajectories": "over dose"} if own.trajectory is not None else {}), "hand": hand_of(options, g)}
    work = ParticleWork(own, seen, kept, exposures, room, fewest)
    reach = float(np.abs(found.depth).max()) if len(own) else 0.0
    unit.work = work = verb.describe(unit, work, options, reach, problems)
    unit.depends = dict(settings(options), **{
        "tilt series": fingerprint(identity(unit.series), list(exposures)),
        "particles": fingerprint("\n".join(own.uid), own.position, verb.matters(options, work), position)})
    return work.needs


def _span(own, geometry):
    """Between which shares of the tomogram's sides particles lie, for people."""
    share = 100 * (own.position + geometry.centre) / np.array(geometry.volume_size)
    return " ".join("%s %.0f-%.0f %%" % (axis, low, high) for axis, low, high in zip(
        "xyz", share.min(axis=0), share.max(axis=0)))


def _outside(name, own, geometry):
    """Problems of particles that are nowhere, or not in the tomogram."""
    if len(own) == 0:
        return [Problem("warning", name, "the table has no particles in this tilt series")]
    outside = int((np.abs(own.position) > np.array(geometry.volume_size) / 2).any(axis=1).sum())
    if not outside:
        return []
    return [Problem("warning", name, "%d of %d particles lie outside the tomogram" % (outside, len(own)),
                    "They are kept if enough tilts show them; check the pixel size and the centre of the coordinates "
                    "if this is unexpected")]


def _too_little(short, devices, room):
    """The problem of too little memory; short: bytes that are needed, and for which tilt series."""
    least, name = short
    needed = ceil(100 * devices * least / 1e9) / 100
    return Problem("error", name, "one particle at a time needs %s of memory, %s are allowed" % (
        size(devices * least), size(devices * room)), "Allow --memory %g if the computer has as much, or take a "
        "smaller box or a larger pixel size" % needed)


def _nothing_kept(verb, options, units):
    """The problem that no particle is left."""
    good = [unit for unit in units if not unit.error]
    if not good or any(unit.work.kept.any() for unit in good):
        return []
    reasons = ", ".join("%s: %d in the table, %d seen in at least %d tilts" % (
        unit.name, len(unit.work.particles), unit.work.kept.sum(), unit.work.fewest) for unit in good)
    # A look at where particles would be is what helps then.
    severity = "warning" if getattr(options, "only_project", False) else "error"
    return [Problem(severity, options.particles, "no particle can be exported: no particle lies within at least %d "
                    "images (%s)" % (good[0].work.fewest, reasons), "Check the pixel size and the centre of the "
                    "coordinates, and the names of the series; pseudosubtomo --only-project draws where they are. If "
                    "that is right, more images show what is smaller: %s" % flag(verb.extent))]


def _own_tables(options, series):
    """The particle table of each tilt series, where each has its own."""
    if not getattr(options, "per_series", False):
        return {}
    return particlefiles.find_particle_files(options.particles, [one.ts_id for one in series]).files


def overwritten(options, names, more=()):
    """Problems of inputs that would be replaced.

    Parameters
    ----------
    options : object
        A verb's options.
    names : sequence of str
        Files that are written, relative to the output folder.
    more : collection of str
        Files that are read beside those that options name.

    Returns
    -------
    list of Problem
    """
    if not options.output:
        return []
    read = {path for path in [getattr(options, spec.name) for spec in fields(options)
                              if spec.metadata["kind"] == "input"] + list(more) if path and os.path.exists(path)}
    other = " or another --star" if any(name == getattr(options, "star", None) for name in names) else ""
    targets = [os.path.join(options.output, name) for name in names]
    return [Problem("error", target, "it is an input and would be overwritten",
                    "Choose another --output folder" + other)
            for target in targets if os.path.exists(target) and any(os.path.samefile(target, path) for path in read)]


def poses_at(particles, exposures, geometry):
    """Where particles are, and how they are turned, while the tilts of a series are exposed.

    Parameters
    ----------
    particles : ParticleSet
        Of the series.
    exposures : (ndarray `(A,)`, ndarray `(A,)`)
        Dose and acquisition order of all its tilts, excluded ones too.
    geometry : TiltSeriesGeometry
        With the T tilts that are asked for.

    Returns
    -------
    position : ndarray `(N, 3)` or `(N, T, 3)`
        Angstrom, xyz from the tomogram centre; for every tilt only if the particles move.
    rotation : ndarray `(N, 3, 3)` or `(N, T, 3, 3)`
    """
    if particles.trajectory is None:
        return particles.position, particles.rotation
    dose, order = exposures
    row = {number: i for i, number in enumerate(order)}
    return particles.trajectory.at(dose, np.array([row[number] for number in geometry.acq_order]))


def volume_frames(particles, rotation, prerotate):
    """Frames in which volumes are made.

    Parameters
    ----------
    particles : ParticleSet
    rotation : ndarray `(N, 3, 3)` or `(N, T, 3, 3)`
        As of `poses_at`.
    prerotate : bool

    Returns
    -------
    ndarray `(N, 3, 3)`, `(N, T, 3, 3)` or None
        Pre-rotated that of the reference, else the tomogram's, turned along with the particle since its start; None
        if that is the tomogram's own for all.
    """
    if prerotate:
        return rotation
    if rotation.ndim == 3:
        return None
    turned = rotation @ np.swapaxes(particles.rotation, -1, -2)[:, None]
    return None if np.abs(turned - np.eye(3)).max(initial=0) < STILL else turned


def diameter(options):
    """Particle diameter: the option, or 80 % of the box.

    Parameters
    ----------
    options : ExportOptions

    Returns
    -------
    float
        Angstrom.
    """
    return options.diameter or 0.8 * options.box * options.pixel_size


def whole_particle(options, geometry, xy):
    """Which tilts show particles: those whose image holds all of them, as Warp has it.

    Parameters
    ----------
    options : ExportOptions
    geometry : TiltSeriesGeometry
    xy : ndarray `(N, T, 2)`
        Angstrom from the image centre.

    Returns
    -------
    ndarray `(N, T)` of bool
    """
    return geometry.coverage(xy, diameter(options) / 2)


def box_facts(options, pixel_size):
    """The box and the resolution that it allows, for people.

    Parameters
    ----------
    options : ExtractionOptions
    pixel_size : float
        Angstrom of the output.

    Returns
    -------
    dict of str to str
    """
    return {"box": "%d px = %.4g A" % (options.box, options.box * pixel_size), "Nyquist": "%.4g A" % (2 * pixel_size)}


def unoriented(options, particles, needed_for=""):
    """The problem of particles without orientations.

    Parameters
    ----------
    options : ExtractionOptions
    particles : ParticleSet
    needed_for : str
        Option for whose sake they must have them, if they must.

    Returns
    -------
    list of Problem
    """
    if not len(particles) or particles.oriented:
        return []
    cause = "it has no orientations (rlnAngleRot, rlnAngleTilt, rlnAnglePsi)"
    if needed_for:
        return [Problem("error", options.particles, cause + " to rotate particles by",
                        "Refine them first, or leave out " + needed_for)]
    return [Problem("warning", options.particles, cause, "Averages will need them; the export does not")]


def exported(verb, options, results):
    """The particles of a finished export, in the order of their table.

    Parameters
    ----------
    verb : ParticleVerb
    options : ExtractionOptions
    results : list of dict
        Of all tilt series; each has ``particles``, a dict for each with ``uid``, ``kept`` and ``reason``.

    Returns
    -------
    project : io.project.Project
    particles : ParticleSet
        Those that are kept.
    entries : list of dict
        What was recorded of each of them.
    dropped : list of str
        A line for each of the others.
    """
    project, _, _, particles = read_inputs(verb, options, None)
    entry, kept, dropped = recorded(particles, results)
    chosen = particles.select(np.array(kept, int))
    return project, chosen, [entry[uid] for uid in chosen.uid], dropped


def halves(particles):
    """Half set of each particle: rlnRandomSubset where the table has it, else every second one.

    Parameters
    ----------
    particles : ParticleSet
        N particles.

    Returns
    -------
    ndarray `(N,)` of int
        0 or 1.

    Raises
    ------
    InputError
        If that column has other values than 1 and 2: the halves of a refinement must not be mixed.
    """
    subset = particles.extra.get("rlnRandomSubset")
    if not subset or not any(subset):
        return np.arange(len(particles)) % 2
    strange = [value for value in subset if re.fullmatch(r"[12](\.0*)?", str(value)) is None]
    if strange:
        raise InputError("rlnRandomSubset", "it has a value of %r" % strange[0],
                         "Give every particle 1 or 2, or remove the column")
    return np.array([int(str(value)[0]) - 1 for value in subset])


def recorded(particles, results):
    """What was recorded of particles.

    Parameters
    ----------
    particles : ParticleSet
    results : list of dict
        As for `exported`.

    Returns
    -------
    entry : dict of str to dict
        By uid, of the tilt series that did not fail.
    kept : list of int
        Rows of the particles that are kept.
    dropped : list of str
        A line for each of the others.
    """
    entry = {}
    for r in results:
        if r["status"] != "failed":
            entry.update({p["uid"]: p for p in r["particles"]})
    kept = [i for i, uid in enumerate(particles.uid) if uid in entry and entry[uid]["kept"]]
    dropped = ["%s: %s" % (uid, entry[uid]["reason"] if uid in entry else "its tilt series failed")
               for uid in particles.uid if uid not in entry or not entry[uid]["kept"]]
    return entry, kept, dropped


def paths_in_table(options, names):
    """Names of files as the table of particles gives them.

    Parameters
    ----------
    options : ExportOptions
    names : list of str
        Relative to the output folder, which holds the table.

    Returns
    -------
    list of str
    """
    return names if options.relative_paths else [os.path.abspath(os.path.join(options.output, n)) for n in names]
