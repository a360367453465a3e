"""The particle's map straight from tilt series: plan, sum one tilt series, divide the sums of all."""

import os
from dataclasses import dataclass, replace

import numpy as np

from ..engine.backend import insists_on_gpu
from ..engine.particlesum import as_map, batch, divided, sum_particles, symmetrised
from ..engine.symmetry import point_group
from ..errors import InputError
from ..io import atomic, mrc
from ..io.paths import safe_stem
from . import maps, windows
from .extraction import Extraction, entries_of
from .maps import damaged
from .memory import budget
from .particles import MemoryNeeds, ParticleVerb, halves, plan_particles, read_inputs, recorded
from .plan import PROCESS_BYTES, Problem, size
from .windows import completed, crop

SAME = 1e-3  # relative difference of pixel sizes that one map may have
MAPS = ("average.mrc", "half1.mrc", "half2.mrc")


@dataclass(frozen=True, eq=False)
class Halves:
    """Half set of each particle of a tilt series, `(N,)` of 0 and 1."""

    half: np.ndarray


def plan(options, only=None):
    """Plan the sums; see `contract.Verb`.

    Raises
    ------
    InputError
        If a table is not named or cannot be read, the boxes do not go together or there is no such point group.
    """
    point_group(options.symmetry)
    options = completed(options)
    out = plan_particles(VERB, options, only)
    good = [unit for unit in out.units if not unit.error]
    filled = {half for unit in good for half in unit.work.own.half[unit.work.kept]}
    pixels = [unit.series.geometry.pixel_size for unit in good]
    if pixels and max(pixels) > min(pixels) * (1 + SAME):
        out.problems.append(Problem("error", options.tomograms, "its tilt series have pixel sizes of %g to %g A" % (
            min(pixels), max(pixels)), "Reconstruct from those of one pixel size at a time"))
    need = PROCESS_BYTES + (110 if options.symmetry.upper() == "C1" else 160) * options.box ** 3
    out.memory_bytes = max(out.memory_bytes, need)
    if need > budget(options):
        out.problems.append(Problem("error", "--box", "the map needs %s of memory, %s are allowed" % (
            size(need), size(budget(options))), "Allow more with --memory, or take a smaller box"))
    if only is None and good and len(filled) < 2 and any(unit.work.kept.any() for unit in good):
        out.problems.append(Problem("error", "particles", "all of them are in one half",
                                    "Give rlnRandomSubset both values, or remove the column"))
    return out


def _check(options, particles):
    """Problems of the particles and the known map; see `ParticleVerb`."""
    out = []
    if options.reference:
        out += damaged([options.reference], (crop(options),) * 3, "--reference") if os.path.exists(
            options.reference) else [Problem("error", options.reference, "the file does not exist", "Correct the path")]
    if len(particles) and not particles.oriented:
        out.append(Problem("warning", "particles", "they have no orientations", "All are summed as they lie"))
    halves(particles)  # raises: those of a refinement must not be mixed in any tilt series
    return out


def _describe(unit, work, options, reach, problems):
    """Halves and memory of a tilt series; see `ParticleVerb`."""
    windows.describe(unit, work, options, problems)
    unit.disk_bytes = 12 * options.box ** 3
    return replace(work, own=Halves(halves(work.particles)), needs=memory_needs(unit.series.geometry, options))


VERB = ParticleVerb(
    "particle", windows.within_the_circle, "min_frames", "box", windows.requirements, _describe,
    lambda options, work: [work.own.half, work.particles.rotation], _check, windows.adjusted,
    writes=lambda options: MAPS)


def _windows(options):
    """As large as the box, masked before the CTF and not after it."""
    return windows.Windows.of(options, False, True)


def memory_needs(geometry, options):
    """Estimate the memory of one tilt series.

    Parameters
    ----------
    geometry : TiltSeriesGeometry
        With the tilts that are used.
    options : ParticleOptions

    Returns
    -------
    MemoryNeeds
    """
    b, t = options.box, geometry.n_tilts
    shared, reader = _windows(options).image_bytes(geometry)
    side = int(options.binning * b + 1) if options.exact else b
    if insists_on_gpu(options.device):
        return MemoryNeeds(shared + 36 * b ** 3, reader, 12 * b ** 3, 6 * b ** 3, True)
    # Windows, their transforms and weights, and for every sample its place (tables that are sorted).
    working = batch(t, b) * t * (8 * side ** 2 + 50 * b * b) + 30 * b ** 3
    return MemoryNeeds(shared + 36 * b ** 3, reader, working, 6 * b ** 3, False)


def execute(unit, options, backend):
    """Sum the particles of one tilt series; see `contract.Verb`.

    Returns
    -------
    dict
        Plain values: ``particles`` (a dict for each with ``uid``, ``kept``, ``tilts``, ``reason``), ``sums`` (a file),
        ``half_particles``, ``pixel_size`` (A), ``notes``, ``files``.

    Raises
    ------
    UnitError
        If images cannot be used.
    """
    work, g, b = unit.work, unit.series.geometry, options.box
    entries = entries_of(unit, [{} for _ in work.particles.uid])
    result = {"particles": entries, "sums": None, "half_particles": [0, 0], "notes": [], "files": [],
              "pixel_size": float(options.binning * g.pixel_size)}
    if not work.kept.any():
        return result
    how, half = _windows(options), work.own.half
    run = Extraction(unit, options, backend, entries, how.preparation(g.pixel_size, options.bad_pixels))
    setup, (place, depth) = how.setup(run.series, run.stack.images, backend), windows.seen_at(run)
    matrix = run.series.geometry.project(work.particles.position, work.particles.rotation).matrix
    images, t = run.upload(), run.series.geometry.n_tilts
    sums = [[np.zeros((b, b, b // 2 + 1), kind) for kind in (np.complex128, np.float64)] for _ in (0, 1)]

    def make(_, part):
        return sum_particles(images, setup, place[part], depth[part], matrix[part], run.seen[part], backend)

    def add(which, made):
        for total, part in zip(sums[which], made):
            total += part

    run.add_up([(which, run.index[half[run.index] == which]) for which in (0, 1)], make, add, batch(t, b),
               t * (12 * setup.source ** 2 + 56 * b * b))
    path = os.path.join(options.output, "sums", safe_stem(unit.name) + ".npz")
    with atomic.staged(path) as temp, open(temp, "wb") as handle:
        np.savez(handle, data1=as_map(sums[0][0]), weight1=sums[0][1].astype(np.float32), data2=as_map(sums[1][0]),
                 weight2=sums[1][1].astype(np.float32))
    return dict(result, half_particles=[int((half[run.index] == which).sum()) for which in (0, 1)], notes=run.notes,
                sums=path, files=[path])


def collect(options, results):
    """Write the map, its halves, their FSC and the report; see `contract.Verb`.

    Returns
    -------
    dict
        ``average``, ``half1``, ``half2`` (paths), ``resolution`` (a text), ``kept`` (number of particles) and
        ``half_particles``, ``symmetry``, ``dropped`` (a line for each other particle). The same is written as map.json,
        with ``pixel_size``, ``box``, ``resolution_0143`` and ``resolution_05``.

    Raises
    ------
    InputError
        If one of the halves has no particles.
    """
    options = completed(options)
    *_, particles = read_inputs(VERB, options)
    _, kept, dropped = recorded(particles, results)
    good = [r for r in results if r["status"] != "failed" and r["sums"]]
    counts = np.sum([r["half_particles"] for r in good], axis=0) if good else np.zeros(2)
    if not counts.all():
        raise InputError("particles", "one of the halves has none", "Give rlnRandomSubset both values, or remove the "
                         "column")
    if not np.allclose([r["pixel_size"] for r in good], good[0]["pixel_size"], rtol=SAME, atol=0):
        raise InputError(options.tomograms or options.optimisation_set, "its tilt series have different pixel sizes",
                         "Reconstruct from those of one pixel size at a time")
    b, rotations = options.box, point_group(options.symmetry)
    sums = [[np.zeros((b, b, b)), np.zeros((b, b, b // 2 + 1))] for _ in (0, 1)]
    for r in good:
        # The folder may have been moved since.
        with np.load(os.path.join(options.output, "sums", os.path.basename(r["sums"]))) as content:
            for w in (0, 1):
                for total, name in zip(sums[w], ("data", "weight")):
                    total += content["%s%d" % (name, w + 1)]
    sums = [symmetrised(*one, rotations) for one in sums]
    side = crop(options)
    found = {"average": divided(*(one + two for one, two in zip(*sums)), side),
             "half1": divided(*sums[0], side), "half2": divided(*sums[1], side)}
    known = mrc.read_volume(options.reference)[0] if options.reference else None
    out = maps.write_maps(options.output, found, good[0]["pixel_size"], options.diameter, known)
    told = dict({name: out[name] for name in ("average", "half1", "half2")}, resolution=maps.resolutions(out),
                kept=len(kept), half_particles=[int(n) for n in counts], symmetry=options.symmetry.upper(),
                dropped=dropped)
    more = {name: out[name] for name in ("pixel_size", "box", "resolution_0143", "resolution_05", "stays_above")}
    atomic.write_json(os.path.join(options.output, "map.json"), dict(told, **more))
    return told
