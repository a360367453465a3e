"""What all exports of particles have in common: which particles, which tilts show them, is there memory."""

import os
import re
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from ..engine.backend import available_cores
from ..errors import InputError
from ..io import particlefiles, particlestar
from ..io.manifest import fingerprint
from ..io.motion import read_motion
from .memory import budget, workers_that_fit
from .plan import Plan, Problem, size, state
from .tiltseries import first_tilts, identity, load, settings

RING = 3  # buffers for results of a GPU: one is filled while others are written
RING_BYTES = 256 << 20  # of one of them at most
STILL = 1e-7  # elements of a rotation matrix that differ by less are of a particle that does not turn


def diameter(options):
    """Particle diameter: the option, or 80 % of the box.

    Parameters
    ----------
    options : SubtomoOptions or SeriesOptions

    Returns
    -------
    float
        Angstrom.
    """
    return options.diameter or 0.8 * options.box * options.pixel_size


@dataclass(frozen=True)
class Needs:
    """Memory that the export of a tilt series takes, bytes.

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


def plan_particles(verb, options, only, describe, poses_for=""):
    """Plan an export of particles.

    Parameters
    ----------
    verb : str
    options : SubtomoOptions or SeriesOptions
    only : list of str or None
        Names of the tilt series asked for; None for all.
    describe : callable
        ``describe(unit, reach, problems)`` completes a unit's ``work``, ``work["facts"]`` and ``disk_bytes`` and
        returns its `Needs`; reach is how far particles lie above or below the tomogram's centre along the beam,
        angstrom.
    poses_for : str
        The option for whose sake particles must have orientations, if they must.

    Returns
    -------
    plan.Plan
        A unit per tilt series, with its particles and the tilts that show them.

    Raises
    ------
    InputError
        If a table cannot be read.
    """
    series, units, problems = load(options, True, only)
    tables = _own_tables(options, series)
    _protect(options, tables, problems)
    # A job for some of the series only is a part of a run that was looked at as a whole.
    particles, notes = read_particles(options, series, options.allow_loss or only is not None)
    problems += [Problem("warning", "particles", note) for note in notes]
    out = Plan(verb, options, units, problems)
    devices = options.device.count(",") + 1  # that share memory and threads
    room, threads, short = budget(options) // devices, max(1, (options.threads or available_cores()) // devices), []
    if len(particles) and not particles.oriented:
        cause = "it has no orientations (rlnAngleRot, rlnAngleTilt, rlnAnglePsi)"
        problems.append(Problem("error", options.particles, cause + " to rotate particles by",
                                "Refine them first, or leave out " + poses_for) if poses_for else
                        Problem("warning", options.particles, cause, "Averages will need them; the export does not"))
    complete = {one.ts_id: one.geometry for one in series}
    for unit in units:
        if unit.error:
            continue
        own = particles.in_series(unit.name)
        unit.series = first_tilts(unit.series, options.first_tilts)
        g = unit.series.geometry
        outside = int((np.abs(own.position) > np.array(g.volume_size) / 2).any(axis=1).sum())
        if outside:
            problems.append(Problem("warning", unit.name, "%d of %d particles lie outside the tomogram"
                                    % (outside, len(own)), "They are kept if enough tilts show them; check the pixel "
                                    "size and the centre of the coordinates if this is unexpected"))
        # A particle counts in a tilt where all of it is in the image.
        exposures = complete[unit.name].dose, complete[unit.name].acq_order
        try:
            found = g.project(poses_at(own, exposures, g)[0])
        except InputError as error:
            unit.error = Problem("failed", unit.name, "%s: %s" % (error.item, error.cause), error.remedy)
            problems.append(unit.error)
            continue
        seen = g.coverage(found.xy, diameter(options) / 2)
        kept = seen.sum(axis=1) >= options.min_tilts
        reach = float(np.abs(found.depth).max()) if len(own) else 0.0
        if len(own) == 0:
            problems.append(Problem("warning", unit.name, "the table has no particles in this tilt series", ""))
        unit.inputs.update((path, state(path)) for path in (tables.get(unit.name, options.particles), options.source)
                           if path)
        unit.work = {"particles": own, "seen": seen, "kept": kept, "room": room, "exposures": exposures, "facts": {
            "particles": "%d of %d kept" % (kept.sum(), len(own)), "box": "%d px" % options.box,
            **({"tilts": "%d, by dose" % g.n_tilts} if options.first_tilts else {}),
            **({"trajectories": "over dose"} if own.trajectory is not None else {}),
            "hand": options.hand or g.hand}}
        needs = describe(unit, reach, problems)
        if needs.least > room:
            short.append((needs.least, unit.name))
        workers = workers_that_fit(room, needs.shared, needs.worker, threads)
        if workers < threads and not needs.on_gpu:
            unit.work["facts"]["threads"] = "%d of %d, for want of memory" % (workers, threads)
        out.memory_bytes = max(out.memory_bytes, devices * needs.peak(room, threads))
        unit.fingerprint = fingerprint(settings(options), identity(unit.series), list(own.uid),
                                       own.position.tolist(), own.rotation.tolist(), [a.tolist() for a in exposures],
                                       [a.tolist() for a in poses_at(own, exposures, g)])
    if short:
        least, name = max(short)
        needed = ceil(100 * devices * least / 1e9) / 100
        problems.append(Problem("error", name, "one particle at a time needs %s of memory, %s are allowed" % (
            size(devices * least), size(devices * room)), "Allow --memory %g if the computer has as much, or take a "
            "smaller box or a larger pixel size" % needed))
    total = sum(int(u.work["kept"].sum()) for u in units if not u.error)
    if units and not total and not all(u.error for u in units):
        reasons = ", ".join("%s: %d in the table, %d seen in at least %d tilts" % (
            u.name, len(u.work["particles"]), u.work["kept"].sum(), options.min_tilts) for u in units if not u.error)
        problems.append(Problem("error", options.particles, "no particle can be exported (%s)" % reasons,
                                "Check the pixel size and the centre of the coordinates, and the names of the series"))
    return out


def _own_tables(options, series):
    """The particle table of each tilt series, where each has its own."""
    if not options.per_series:
        return {}
    return particlefiles.find_particle_files(options.particles, [one.ts_id for one in series]).files


def _protect(options, tables, problems):
    """Refuse to write the table over one that is read."""
    target = os.path.join(options.output, options.star)
    for given in {options.particles, options.tomograms, *tables.values()}:
        if options.output and os.path.exists(target) and os.path.exists(given) and os.path.samefile(target, given):
            problems.append(Problem("error", target, "it is an input and would be overwritten",
                                    "Choose another --output folder or another --star"))


def read_particles(options, series, allow_loss=True):
    """The particles as they are exported, shifted if asked to.

    Parameters
    ----------
    options : SubtomoOptions or SeriesOptions
    series : list of TiltSeries
        All that the table of tomograms names.
    allow_loss : bool
        Leave out particles without a tilt series.

    Returns
    -------
    particles : ParticleSet
    notes : list of str
    """
    read = particlefiles.read_particle_files if options.per_series else particlestar.read_particles
    particles, notes = read(
        options.particles, series, coordinates_pixel_size=options.coordinates_pixel_size or None,
        normalized=options.normalized, centre=options.centre, allow_loss=allow_loss,
        sources=[options.source] if options.source else ())
    if options.motion:
        if particles.trajectory is not None:
            raise InputError("--motion", "%s has trajectories of its own" % options.particles,
                             "Leave one of the two out")
        particles = replace(particles, trajectory=read_motion(options.motion, particles, series))
    return particles.moved((options.shift_x, options.shift_y, options.shift_z)), notes


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


def exported(options, results):
    """The particles of a finished export, in the order of their table.

    Parameters
    ----------
    options : SubtomoOptions or SeriesOptions
    results : list of dict
        Of all tilt series; each has ``particles``, a dict for each with ``uid``, ``kept`` and ``reason``.

    Returns
    -------
    series : dict of str to TiltSeries
    particles : ParticleSet
        Those that are kept.
    entries : list of dict
        What was recorded of each of them.
    dropped : list of str
        A line for each of the others.
    """
    series, _, _ = load(options, True)
    particles, _ = read_particles(options, series)
    entry, kept, dropped = recorded(particles, results)
    chosen = particles.select(np.array(kept, int))
    return {s.ts_id: s for s in series}, chosen, [entry[uid] for uid in chosen.uid], dropped


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
    options : SubtomoOptions
    names : list of str
        Relative to the output folder, which holds the table.

    Returns
    -------
    list of str
    """
    return names if options.relative_paths else [os.path.abspath(os.path.join(options.output, n)) for n in names]
