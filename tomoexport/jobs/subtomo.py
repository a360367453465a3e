"""Export sub-tomograms with their 3D CTFs: plan, execute one tilt series, collect the table."""

import os
import threading
from dataclasses import dataclass, replace

import numpy as np

from ..engine.backend import insists_on_gpu
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
from ..io import atomic, mrc, subtomostar
from ..io.paths import safe_stem
from . import report
from .batches import CUDA_BYTES
from .extraction import WAITING, Extraction, entries_of, make_folders
from .particles import (
    RING,
    MemoryNeeds,
    ParticleVerb,
    box_facts,
    diameter,
    exported,
    paths_in_table,
    plan_particles,
    poses_at,
    unoriented,
    volume_frames,
    whole_particle,
)
from .plan import PROCESS_BYTES, Problem
from .tiltseries import Preparation, Requirements

SPARSE = 0.01  # what is below in a sparse 3D CTF is 0


@dataclass(frozen=True)
class Boxes:
    """Sides of the windows of a tilt series.

    Attributes
    ----------
    padded : int
        In which the CTF is applied, pixels of the output.
    source : int or None
        That are cut out of images that are not binned, pixels of those.
    """

    padded: int
    source: int = None


def plan(options, only=None):
    """Plan the export; see `contract.Verb`.

    Raises
    ------
    InputError
        If a table is not named or cannot be read, or the particle leaves nothing of the box.
    """
    if options.exact and options.interpolation == "trilinear":
        raise InputError("--exact", "trilinear gridding takes binned images", "Leave one of the two out")
    if diameter(options) >= options.box * options.pixel_size:
        raise InputError("--diameter", "%g A leaves nothing of the box of %g A outside the particle"
                         % (diameter(options), options.box * options.pixel_size), "Take a larger box")
    return plan_particles(VERB, options, only)


def _describe(unit, work, options, reach, problems):
    """Boxes, room on disk and in memory of a tilt series; see `ParticleVerb`."""
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
    unit.facts.update(box_facts(options, options.pixel_size))
    unit.facts["CTF box"] = "%d px" % padded + (" from %d unbinned" % source if source else "")
    unit.disk_bytes = int(work.kept.sum()) * (options.box ** 3 * (2 if options.float16 else 4)
                                              + 4 * options.box ** 2 * (options.box // 2 + 1))
    boxes = Boxes(padded, source)
    return replace(work, own=boxes, needs=memory_needs(unit.series, options, boxes))


VERB = ParticleVerb(
    "subtomo", whole_particle, "min_tilts", "diameter", lambda options: Requirements(pixel_size=options.pixel_size),
    _describe, matters=lambda options, work: work.particles.rotation,
    check=lambda options, particles: unoriented(options, particles, "--prerotate" if options.prerotate else ""))


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
    """Export the particles of one tilt series; see `contract.Verb`.

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
    work, pixel_size = unit.work, unit.series.geometry.pixel_size
    images, ctfs = names(unit, options, len(work.particles))
    entries = entries_of(unit, [{"image": image, "ctf": ctf} for image, ctf in zip(images, ctfs)])
    result = {"particles": entries, "pixel_size": options.pixel_size, "box": options.box,
              "padded": work.own.padded, "notes": [], "files": []}
    if not work.kept.any():
        return result
    if options.interpolation == "trilinear":
        backend = backend.host()
    rotation = poses_at(work.particles, work.exposures, unit.series.geometry)[1]
    turning = volume_frames(work.particles, rotation, options.prerotate) is not None
    series, turn = _turned(unit.series, options, turning)
    how = Preparation(pixel_size if options.exact else options.pixel_size, options.invert, options.normalize_input,
                      options.bad_pixels, turn)
    run = Extraction(unit, options, backend, entries, how, series)
    result["notes"] = run.notes
    make_folders(options, images)
    radius = diameter(options) / 2 / options.pixel_size

    def store(i, volume, transfer):
        if options.sparse:
            transfer = np.where(transfer < SPARSE, np.float32(0), transfer)
        if options.normalize_output and not backend.on_gpu:
            normalise_volume(volume, radius)
        mrc.write(os.path.join(options.output, images[i]), volume, options.pixel_size, float16=options.float16)
        mrc.write(os.path.join(options.output, ctfs[i]), transfer, 1 / (options.box * options.pixel_size))

    views = _views(run, options)
    if options.interpolation == "trilinear":
        _write_trilinear(run, options, work.own, views, store)
    else:
        _write_kaiser_bessel(run, options, work.own, views, radius, store)
    result["files"] = [os.path.join(options.output, n) for i in run.index for n in (images[i], ctfs[i])]
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


def _views(run, options):
    """Where and how the tilts show the particles of an extraction."""
    position, rotation = run.poses()
    g = run.series.geometry
    found = g.project(position, volume_frames(run.particles, rotation, options.prerotate))
    return _Views(run.stack.position_px(found.xy), g.defocus_shift(found.depth), found.matrix, run.seen)


class _Once:
    """A value that is made by the first thread that asks for it."""

    def __init__(self, make):
        self._make, self._lock = make, threading.Lock()

    def get(self):
        with self._lock:
            if self._make is not None:
                self._value, self._make = self._make(), None
            return self._value


def _write_kaiser_bessel(run, options, boxes, views, radius, store):
    """Make and write all particles, gridded with a Kaiser-Bessel kernel."""
    g, backend = run.series.geometry, run.backend
    images = run.upload()
    pixel_size = options.pixel_size if boxes.source is None else g.pixel_size * boxes.source / boxes.padded
    general = setup_subtomos(g, run.series.ctf, options.box, boxes.padded, pixel_size, backend, source=boxes.source)

    def make(setup, part):
        volumes, transfer = reconstruct_subtomos(images, setup.get(), *views.of(part), backend)
        if backend.on_gpu and options.normalize_output:
            normalise_volumes(volumes, radius, backend)
            if options.float16:  # now that nothing is too large for it
                volumes = volumes.astype(np.float16)
        return volumes, transfer

    # Particles that the same tilts show, as a rule all of them, share the density of slices.
    groups = ((_Once(lambda p=pattern: general if p.all() else setup_visible(general, g, p, backend)), index)
              for pattern, index in run.alike())
    run.write(groups, make, store, _bytes_per_particle(general, g))


def _bytes_per_particle(setup, geometry):
    """Device memory of one particle: windows and transforms, grid cells, volumes, results on their way to the host."""
    windows = geometry.n_tilts * (setup.padded ** 2 * 4 * 5 + setup.source ** 2 * 4 * 3)
    return (windows + (setup.grid + 6) ** 2 * (setup.grid // 2 + 7) * 16 + 6 * 4 * setup.grid ** 3
            + RING * result_bytes(setup.box))


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


def _write_trilinear(run, options, boxes, views, store):
    """Make and write all particles as Warp does, one at a time."""
    side, images = max(2 * options.box, boxes.padded), run.upload()

    def make(_, part):
        position, depth, matrix, seen = (a[0] for a in views.of(part))
        made = reconstruct_trilinear(windows_at(images, position, side), run.series.geometry, run.series.ctf, depth,
                                     matrix, options.box, options.pixel_size, seen)
        return [a[None] for a in made]

    run.write([(None, run.index)], make, store, 0)


def memory_needs(series, options, boxes):
    """Estimate the memory of one tilt series' export.

    Parameters
    ----------
    series : TiltSeries
        With the tilts that are used.
    options : SubtomoOptions
    boxes : Boxes

    Returns
    -------
    MemoryNeeds
    """
    g, padded, source, b = series.geometry, boxes.padded, boxes.source, options.box
    ratio = 1.0 if source else options.pixel_size / g.pixel_size
    t, result, reader = g.n_tilts, result_bytes(b), 14 * int(np.prod(g.image_shape))
    _, turn = _turned(series, options, options.prerotate)
    if turn:
        reader += int(16 * np.prod(g.image_shape) / ratio ** 2)
    images = 4 * t * int(np.prod(turn.shape if turn else rescaled_shape(g.image_shape, ratio)))
    written = 16 * b ** 3  # normalising
    if options.interpolation == "trilinear":
        side = max(2 * b, padded)
        # Four quantities of 16 bytes: samples, many times, and grids; windows.
        making = 64 * side ** 2 * (side // 2 + 1) * 3 // 2 + t * side ** 2 * 190
        return MemoryNeeds(PROCESS_BYTES + images, reader, making + (1 + WAITING) * result + written, result, False)
    shared = PROCESS_BYTES + images + 16 * t * padded ** 2 + 64 * t * b * b  # coefficients; samples of the slices
    if insists_on_gpu(options.device):
        return MemoryNeeds(shared + CUDA_BYTES, reader, RING * result, result, True)
    grid = grid_size(b)
    half = grid // 2 + 1
    making = (t * (20 * padded ** 2 + 12 * b ** 2 + 12 * (source or 0) ** 2)  # windows and their transforms
              + 16 * (grid + 6) ** 2 * (half + 6) + 12 * grid ** 2 * half  # cells, and folded
              + 8 * b * grid * half + 4 * b * b * grid + 4 * b ** 3)  # inverse transforms
    return MemoryNeeds(shared, reader, making + (1 + WAITING) * result + written, result, False)


def collect(options, results):
    """Write the particle table and the report of all finished units, the table last; see `contract.Verb`.

    Returns
    -------
    dict
        ``star``: path of the table, None if no particle is left; ``kept``: number; ``dropped``: a line for each
        particle that is not in it.
    """
    project, chosen, entries, dropped = exported(VERB, options, results)
    by_name = {one.ts_id: one for one in project}
    folder = os.path.join(options.output, "report")
    os.makedirs(folder, exist_ok=True)
    out = {"star": None, "kept": len(chosen), "dropped": dropped}
    star = os.path.join(options.output, options.star)
    if not len(chosen):
        atomic.gone(star)  # of an earlier run; it names particles that this one did not export
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
