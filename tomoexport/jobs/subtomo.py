"""Export sub-tomograms with their 3D CTFs: plan, execute one tilt series, collect the table."""

import os
import threading
from dataclasses import dataclass, replace

import numpy as np

from ..engine.copies import Fetched, copier
from ..engine.fourier import fast_even
from ..engine.gridding import grid_size
from ..engine.normalise import normalise_volume, normalise_volumes
from ..engine.preprocess import rescaled_shape
from ..engine.subtomo import (
    exact_windows,
    padded_box,
    reconstruct_subtomos,
    setup_subtomos,
    setup_visible,
)
from ..engine.trilinear import reconstruct_trilinear, windows_at
from ..engine.turn import turn_series
from ..errors import InputError
from ..io import mrc, subtomostar
from ..io.paths import safe_stem
from . import report
from .batches import CUDA_BYTES, GPU_WRITERS, Batches, uploaded
from .memory import workers_that_fit
from .particles import (
    RING,
    RING_BYTES,
    Needs,
    diameter,
    exported,
    paths_in_table,
    plan_particles,
    poses_at,
    volume_frames,
)
from .pipeline import Pipeline
from .plan import PROCESS_BYTES, Problem
from .progress import Progress
from .tiltseries import prepare

WAITING = 2  # results per thread of the CPU that may wait to be written
SPARSE = 0.01  # what is below in a sparse 3D CTF is 0


def plan(options, only=None):
    """Plan the export.

    Parameters
    ----------
    options : SubtomoOptions
    only : list of str, optional
        Names of the tilt series asked for; all by default.

    Returns
    -------
    plan.Plan
        A unit per tilt series, with its particles and the tilts that show them.

    Raises
    ------
    InputError
        If a table is not named or cannot be read, or the particle leaves nothing of the box.
    """
    if not options.particles:
        raise InputError("--particles", "no file is given", "Name a particle STAR file")
    if options.exact and options.interpolation == "trilinear":
        raise InputError("--exact", "trilinear gridding takes binned images", "Leave one of the two out")
    if diameter(options) >= options.box * options.pixel_size:
        raise InputError("--diameter", "%g A leaves nothing of the box of %g A outside the particle"
                         % (diameter(options), options.box * options.pixel_size), "Take a larger box")
    return plan_particles("subtomo", options, only, lambda *unit: _describe(options, *unit),
                          "--prerotate" if options.prerotate else "")


def _describe(options, unit, reach, problems):
    """Boxes, room on disk and in memory of a tilt series; see `plan_particles`."""
    g = unit.series.geometry
    h, w = rescaled_shape(g.image_shape, options.pixel_size / g.pixel_size)
    padded, needed = padded_box(options.box, unit.series.ctf, options.pixel_size, diameter(options), reach,
                                fast_even(max(h, w)))
    source = None
    if options.exact:
        source, padded = exact_windows(padded, options.pixel_size / g.pixel_size)
    if needed > padded:
        problems.append(Problem("warning", unit.name, "a box without CTF aliasing needs %d px, more than the image "
                                "has; %d px are used" % (needed, padded), "A larger pixel size needs less"))
    unit.work.update(padded=padded, source=source)
    unit.work["facts"]["CTF box"] = "%d px" % padded + (" from %d unbinned" % source if source else "")
    voxels = options.box ** 3
    unit.disk_bytes = int(unit.work["kept"].sum()) * (voxels * (2 if options.float16 else 4)
                                                      + 4 * options.box ** 2 * (options.box // 2 + 1))
    return memory_needs(unit, options)


def names(unit, options, count):
    """Names of the volumes and 3D CTFs of a unit's particles, relative to the output folder.

    Parameters
    ----------
    unit : plan.Unit
    options : SubtomoOptions
    count : int
        Particles of the unit.

    Returns
    -------
    volumes, transfers : list of str
    """
    stem = safe_stem(unit.name)
    image = ["subtomo/%s/%s_%07d_%.2fA.mrc" % (stem, stem, i + 1, options.pixel_size) for i in range(count)]
    return image, [n.replace("_%.2fA.mrc" % options.pixel_size, "_ctf_%.2fA.mrc" % options.pixel_size) for n in image]


def execute(unit, options, backend):
    """Export the particles of one tilt series.

    Parameters
    ----------
    unit : plan.Unit
    options : SubtomoOptions
    backend : Backend

    Returns
    -------
    dict
        Plain values: ``particles`` (a dict for each with ``uid``, ``kept``, ``reason``, ``tilts``, ``image``, ``ctf``),
        ``pixel_size`` (A), ``box`` and ``padded`` (px), ``notes``, ``files``.

    Raises
    ------
    UnitError
        If images cannot be used.
    """
    particles, kept = unit.work["particles"], unit.work["kept"]
    images, ctfs = names(unit, options, len(particles))
    index = np.flatnonzero(kept)
    entries = [{"uid": uid, "kept": bool(k), "tilts": int(s), "image": a, "ctf": b,
                "reason": "" if k else "seen in %d tilts, %d asked for" % (s, options.min_tilts)}
               for uid, k, s, a, b in zip(particles.uid, kept, unit.work["seen"].sum(axis=1), images, ctfs)]
    result = {"particles": entries, "pixel_size": options.pixel_size, "box": options.box,
              "padded": unit.work["padded"], "notes": [], "files": []}
    if not len(index):
        return result
    before = unit.series.geometry.acq_order
    pixel_size = unit.series.geometry.pixel_size
    # The plan's budget, not half of what is free after earlier series, unless several devices share it.
    room, needs = int(options.memory * 1e9) or unit.work["room"], memory_needs(unit, options)
    reading = replace(options, pixel_size=pixel_size) if options.exact else options
    readers = replace(backend, threads=workers_that_fit(room, needs.shared, needs.reader, backend.threads))
    rotation = poses_at(particles, unit.work["exposures"], unit.series.geometry)[1]
    turning = volume_frames(particles, rotation, options.prerotate)
    series, turn = _turned(unit.series, options, turning is not None)
    stack, series, result["notes"] = prepare(series, reading, options.normalize_input, readers,
                                             Progress(unit.name + " reading", len(before), "tilts"), turn)
    g = series.geometry
    seen = unit.work["seen"][:, np.isin(before, g.acq_order)]
    for i in index[seen[index].sum(axis=1) < options.min_tilts]:
        entries[i].update(kept=False, reason="seen in %d tilts that have contrast" % seen[i].sum())
    index = np.array([i for i in index if entries[i]["kept"]], int)
    os.makedirs(os.path.join(options.output, os.path.dirname(images[0])), exist_ok=True)
    progress = Progress(unit.name, len(index), "particles")
    radius = diameter(options) / 2 / options.pixel_size
    kaiser_bessel = options.interpolation != "trilinear"
    on_gpu = backend.on_gpu and kaiser_bessel

    def store(i, volume, transfer):
        if options.sparse:
            transfer = np.where(transfer < SPARSE, np.float32(0), transfer)
        if options.normalize_output and not on_gpu:
            normalise_volume(volume, radius)
        mrc.write(os.path.join(options.output, images[i]), volume, options.pixel_size, float16=options.float16)
        mrc.write(os.path.join(options.output, ctfs[i]), transfer, 1 / (options.box * options.pixel_size))
        progress()

    workers = 1 if on_gpu else workers_that_fit(room, needs.shared, needs.worker, backend.threads)
    pipeline = Pipeline(store, GPU_WRITERS if on_gpu else workers, RING if on_gpu else WAITING * workers,
                        backend.activate)
    position, rotation = poses_at(particles, unit.work["exposures"], g)
    projection = g.project(position, volume_frames(particles, rotation, options.prerotate))
    views = _Views(stack.position_px(projection.xy), (options.hand or g.hand) * projection.depth, projection.matrix,
                   seen)
    if kaiser_bessel:
        most = max(1, min(RING_BYTES, (room - needs.shared) // RING) // needs.result)
        batches, compute = _kaiser_bessel(unit, options, backend, stack, series, views, index, radius, most, pipeline)
    else:
        batches, compute = index, _trilinear(unit, options, stack, series, views, pipeline)
    del stack  # on a GPU it is there
    pipeline.run(batches, compute, workers)
    progress.finish()
    result["files"] = [os.path.join(options.output, n) for i in index for n in (images[i], ctfs[i])]
    return result


def _turned(series, options, turning):
    """The series with its images turned so that y of the volume is their x, if that is of use, and the turn."""
    if options.exact or turning or options.interpolation == "trilinear":
        return series, None
    turn, geometry, ctf = turn_series(series.geometry, series.ctf, options.pixel_size)
    return replace(series, geometry=geometry, ctf=ctf), turn


@dataclass(frozen=True, eq=False)
class _Views:
    """Where the tilts show the particles: position (px), depth (A, with the sign of the hand), matrix, visibility."""

    position: np.ndarray
    depth: np.ndarray
    matrix: np.ndarray
    seen: np.ndarray

    def of(self, some):
        """The arguments of `reconstruct_subtomos` for some particles."""
        matrix = self.matrix if len(self.matrix) == 1 else self.matrix[some]
        return self.position[some], self.depth[some], matrix, self.seen[some]


class _Once:
    """A value that is made by the first thread that asks for it."""

    def __init__(self, make):
        self._make, self._lock = make, threading.Lock()

    def get(self):
        with self._lock:
            if self._make is not None:
                self._value, self._make = self._make(), None
            return self._value


def _kaiser_bessel(unit, options, backend, stack, series, views, index, radius, most, pipeline):
    """Batches of particles that the same tilts show, and what computes one of them."""
    g, source, padded = series.geometry, unit.work["source"], unit.work["padded"]
    copies = copier(backend, RING)
    backend.keep_plans()
    images = uploaded(stack.images, copies, backend)
    general = setup_subtomos(g, series.ctf, options.box, padded,
                            options.pixel_size if source is None else g.pixel_size * source / padded, backend,
                            source=source)
    patterns, which = np.unique(views.seen[index], axis=0, return_inverse=True)
    sizes = Batches(backend, _bytes_per_particle(general, g), most)

    def batches():
        # Particles that the same tilts show, as a rule all of them, share the density of slices.
        for n, pattern in enumerate(patterns):
            plan_ = _Once(lambda p=pattern: general if p.all() else setup_visible(general, g, p, backend))
            for some in sizes.split(index[which.reshape(-1) == n]):
                yield plan_, some

    def compute(batch):
        plan_, some = batch[0].get(), batch[1]

        def work(part):
            volumes, transfer = reconstruct_subtomos(images, plan_, *views.of(part), backend)
            if backend.on_gpu and options.normalize_output:
                normalise_volumes(volumes, radius, backend)
                if options.float16:  # now that nothing is too large for it
                    volumes = volumes.astype(np.float16)
            pipeline.deliver(part, copies.fetch(volumes, transfer))

        sizes.run(work, some, copies.drain)

    return batches(), compute


def _bytes_per_particle(plan_, geometry):
    """Device memory of one particle: windows and transforms, grid cells, volumes, results on their way to the host."""
    windows = geometry.n_tilts * (plan_.padded ** 2 * 4 * 5 + plan_.source ** 2 * 4 * 3)
    return (windows + (plan_.grid + 6) ** 2 * (plan_.grid // 2 + 7) * 16 + 6 * 4 * plan_.grid ** 3
            + RING * result_bytes(plan_.box))


def result_bytes(box):
    """Memory of a sub-tomogram and its 3D CTF.

    Parameters
    ----------
    box : int

    Returns
    -------
    int
    """
    return 4 * box ** 3 + 4 * box ** 2 * (box // 2 + 1)


def _trilinear(unit, options, stack, series, views, pipeline):
    """What computes one particle."""
    side, images = max(2 * options.box, unit.work["padded"]), stack.images

    def compute(i):
        position, depth, matrix, seen = (a[0] for a in views.of(np.array([i])))
        made = reconstruct_trilinear(windows_at(images, position, side), series.geometry, series.ctf, depth, matrix,
                                     options.box, options.pixel_size, seen)
        pipeline.deliver([i], Fetched([a[None] for a in made]))

    return compute


def memory_needs(unit, options):
    """Estimate the memory of one tilt series' export.

    Parameters
    ----------
    unit : plan.Unit
        As planned.
    options : SubtomoOptions

    Returns
    -------
    Needs
    """
    g, padded, source, b = unit.series.geometry, unit.work["padded"], unit.work["source"], options.box
    ratio = 1.0 if source else options.pixel_size / g.pixel_size
    t, result, reader = g.n_tilts, result_bytes(b), 14 * int(np.prod(g.image_shape))
    _, turn = _turned(unit.series, options, options.prerotate)
    if turn:
        reader += int(16 * np.prod(g.image_shape) / ratio ** 2)
    images = 4 * t * int(np.prod(turn.shape if turn else rescaled_shape(g.image_shape, ratio)))
    written = 16 * b ** 3  # normalising
    if options.interpolation == "trilinear":
        side = max(2 * b, padded)
        # Four quantities of 16 bytes: samples, many times, and grids; windows.
        making = 64 * side ** 2 * (side // 2 + 1) * 3 // 2 + t * side ** 2 * 190
        return Needs(PROCESS_BYTES + images, reader, making + (1 + WAITING) * result + written, result, False)
    shared = PROCESS_BYTES + images + 16 * t * padded ** 2 + 64 * t * b * b  # coefficients; samples of the slices
    on_gpu = options.device.startswith("cuda")
    if on_gpu:
        return Needs(shared + CUDA_BYTES, reader, RING * result, result, True)
    grid = grid_size(b)
    half = grid // 2 + 1
    making = (t * (20 * padded ** 2 + 12 * b ** 2 + 12 * (source or 0) ** 2)  # windows and their transforms
              + 16 * (grid + 6) ** 2 * (half + 6) + 12 * grid ** 2 * half  # cells, and folded
              + 8 * b * grid * half + 4 * b * b * grid + 4 * b ** 3)  # inverse transforms
    return Needs(shared, reader, making + (1 + WAITING) * result + written, result, False)


def collect(options, results):
    """Write the particle table and the report of all finished units; the table comes last.

    Parameters
    ----------
    options : SubtomoOptions
    results : list of dict
        As `execute` returned them.

    Returns
    -------
    dict
        ``star``: path of the table, None if no particle is left; ``kept``: number; ``dropped``: a line for each
        particle that is not in it.
    """
    by_name, chosen, entries, dropped = exported(options, results)
    folder = os.path.join(options.output, "report")
    os.makedirs(folder, exist_ok=True)
    out = {"star": None, "kept": len(chosen), "dropped": dropped}
    star = os.path.join(options.output, options.star)
    if not len(chosen):
        if os.path.exists(star):
            os.remove(star)  # of an earlier run; it names particles that this one did not export
        return out
    if options.prerotate:
        chosen = chosen.prerotated()
    tilts = [e["tilts"] for e in entries]
    paths = [os.path.join(options.output, e["image"]) for e in entries]
    report.subtomo_montage(paths, os.path.join(folder, "montage.png"))
    counts = {}
    for name in chosen.names():
        counts[name] = counts.get(name, 0) + 1
    report.particles_per_tomogram(counts, os.path.join(folder, "particles_per_tomogram.png"))
    report.tilts_per_particle(tilts, os.path.join(folder, "tilts_per_particle.png"))
    chosen = replace(chosen, extra=dict(chosen.extra, tomoexportVisibleTilts=[str(t) for t in tilts]))
    named = paths_in_table(options, [e["image"] for e in entries] + [e["ctf"] for e in entries])
    subtomostar.write_subtomos(
        star, chosen, named[:len(entries)], named[len(entries):], options.pixel_size, options.box,
        {name: by_name[name].optics for name in counts}, style=options.format,
        centres={name: by_name[name].geometry.centre for name in counts},
        micrograph_names={name: name + ".tomostar" for name in counts})
    out["star"] = star
    return out
