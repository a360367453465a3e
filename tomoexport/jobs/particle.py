"""The particle's map straight from tilt series: plan, sum one tilt series, divide the sums of all."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields, replace

import numpy as np

from ..engine.backend import available_cores
from ..engine.copies import copier
from ..engine.particlesum import as_map, batch, divided, sum_particles, symmetrised
from ..engine.symmetry import point_group
from ..errors import InputError
from ..io import atomic, mrc
from ..io.manifest import fingerprint
from ..io.paths import safe_stem
from ..options import PseudosubtomoOptions
from . import maps, pseudosubtomo
from .average import damaged
from .batches import batch_size, run_halving, uploaded
from .memory import budget, workers_that_fit
from .particles import RING, Needs, halves, recorded
from .plan import PROCESS_BYTES, Problem, size
from .progress import Progress
from .tiltseries import settings

SAME = 1e-3  # relative difference of pixel sizes that one map may have
_LATER = ("symmetry", "diameter", "reference")  # what the sums of a tilt series do not depend on


def _extraction(options):
    """The extraction whose windows are summed: as large as the box, masked before the CTF and not after it."""
    known = {spec.name for spec in fields(PseudosubtomoOptions)}
    same = {name: value for name, value in asdict(options).items() if name in known}
    return PseudosubtomoOptions(**dict(same, stack2d=False, float16=False, circle=False, precrop=True))


def plan(options, only=None):
    """Plan the sums.

    Parameters
    ----------
    options : ParticleOptions
    only : list of str, optional
        Names of the tilt series asked for; all by default.

    Returns
    -------
    plan.Plan
        A unit per tilt series, with its particles and the tilts that show them.

    Raises
    ------
    InputError
        If a table is not named or cannot be read, the boxes do not go together or there is no such point group.
    """
    point_group(options.symmetry)
    inner = _extraction(options)
    side = pseudosubtomo.crop(inner)
    # Without an output folder: none of the files that an extraction writes are written here.
    out = replace(pseudosubtomo.plan(replace(inner, output=""), only), verb="particle", options=options, memory_bytes=0)
    if options.reference:
        out.problems += damaged([options.reference], (side,) * 3, "--reference") if os.path.exists(
            options.reference) else [Problem("error", options.reference, "the file does not exist", "Correct the path")]
        mine = [os.path.join(options.output, name + ".mrc") for name in ("average", "half1", "half2")]
        if options.output and os.path.exists(options.reference) and os.path.realpath(options.reference) in map(
                os.path.realpath, mine):
            out.problems.append(Problem("error", options.reference, "it is an input and would be overwritten",
                                        "Choose another --output folder, or copy it elsewhere"))
    filled = set()
    for unit in out.units:
        if unit.error:
            continue
        particles = unit.work["particles"]
        unit.work["half"] = halves(particles)
        filled |= set(unit.work["half"][unit.work["kept"]])
        unit.disk_bytes = 12 * options.box ** 3
        needs = memory_needs(unit, options)
        if needs.least > unit.work["room"]:
            out.problems.append(Problem("error", unit.name, "one thread needs %s of memory, %s are allowed" % (
                size(needs.least), size(unit.work["room"])), "Allow more with --memory, or take a smaller box"))
        out.memory_bytes = max(out.memory_bytes, needs.peak(unit.work["room"], options.threads or available_cores()))
        unit.fingerprint = fingerprint(
            {k: v for k, v in settings(options).items() if k not in _LATER}, unit.fingerprint,
            unit.work["half"].tolist(), particles.rotation.tolist())
    pixels = [unit.series.geometry.pixel_size for unit in out.units if not unit.error]
    if pixels and max(pixels) > min(pixels) * (1 + SAME):
        out.problems.append(Problem("error", options.tomograms, "its tilt series have pixel sizes of %g to %g A" % (
            min(pixels), max(pixels)), "Reconstruct from those of one pixel size at a time"))
    need = PROCESS_BYTES + (110 if options.symmetry.upper() == "C1" else 160) * options.box ** 3
    out.memory_bytes = max(out.memory_bytes, need)
    if need > budget(options):
        out.problems.append(Problem("error", "--box", "the map needs %s of memory, %s are allowed" % (
            size(need), size(budget(options))), "Allow more with --memory, or take a smaller box"))
    oriented = [unit.work["particles"].oriented for unit in out.units if not unit.error]
    if oriented and not all(oriented):
        out.problems.append(Problem("warning", "particles", "they have no orientations",
                                    "All are summed as they lie"))
    if only is None and oriented and len(filled) < 2:
        out.problems.append(Problem("error", "particles", "all of them are in one half",
                                    "Give rlnRandomSubset both values, or remove the column"))
    return out


def memory_needs(unit, options):
    """Estimate the memory of one tilt series.

    Parameters
    ----------
    unit : plan.Unit
    options : ParticleOptions

    Returns
    -------
    particles.Needs
    """
    inner = _extraction(options)
    needs, b, t = pseudosubtomo.memory_needs(unit, inner), options.box, unit.series.geometry.n_tilts
    windows = int(options.binning * b + 1) if options.exact else b
    if options.device.startswith("cuda"):
        return Needs(needs.shared + 36 * b ** 3, needs.reader, 12 * b ** 3, 6 * b ** 3, True)
    # Windows, their transforms and weights, and for every sample its place (tables that are sorted).
    working = batch(t, b) * t * (8 * windows ** 2 + 50 * b * b) + 30 * b ** 3
    return Needs(needs.shared + 36 * b ** 3, needs.reader, working, 6 * b ** 3, False)


def _empty(box):
    """Sums of no particles, as `sum_particles` gives them."""
    return [np.zeros((box, box, box // 2 + 1), kind) for kind in (np.complex128, np.float64)]


def execute(unit, options, backend):
    """Sum the particles of one tilt series.

    Parameters
    ----------
    unit : plan.Unit
        As planned.
    options : ParticleOptions
    backend : Backend

    Returns
    -------
    dict
        Plain values: ``particles`` (a dict for each with ``uid``, ``kept``, ``reason``), ``sums`` (a file),
        ``half_particles``, ``pixel_size`` (A), ``notes``, ``files``.

    Raises
    ------
    UnitError
        If images cannot be used.
    """
    particles, kept, seen, half = (unit.work[name] for name in ("particles", "kept", "seen", "half"))
    series, g, inner, b = unit.series, unit.series.geometry, _extraction(options), options.box
    result = {"particles": [{"uid": uid, "kept": bool(k), "reason": "" if k else "seen in %d tilts, %d asked for" % (
        shown.sum(), options.min_frames)} for uid, k, shown in zip(particles.uid, kept, seen)], "sums": None,
        "half_particles": [int((kept & (half == w)).sum()) for w in (0, 1)], "notes": [], "files": [],
        "pixel_size": float(options.binning * g.pixel_size)}
    if not kept.any():
        return result
    room, needs = int(options.memory * 1e9) or unit.work["room"], memory_needs(unit, options)
    images, pixel = pseudosubtomo.tilt_images(
        series, inner, workers_that_fit(room, needs.shared, needs.reader, backend.threads),
        Progress(unit.name + " reading", g.n_tilts, "tilts"))
    shared = pseudosubtomo.shared_plan(series, images, inner, backend)
    place, depth = pseudosubtomo.seen_at(particles, unit.work["exposures"], series, images, pixel)
    matrix = g.project(particles.position, particles.rotation).matrix
    copies = copier(backend, RING)
    backend.keep_plans()
    held, each = uploaded(images, copies, backend), g.n_tilts * (12 * shared.source ** 2 + 56 * b * b)
    progress = Progress(unit.name, int(kept.sum()), "particles")
    step, sums = max(batch(g.n_tilts, b), batch_size(backend, each)), [_empty(b) for _ in (0, 1)]

    def compute(task):
        which, index = task
        made = []

        def work(part):
            made.append(sum_particles(held, shared, place[part], depth[part], matrix[part], seen[part], backend))

        run_halving(work, index, backend, each)
        for _ in index:
            progress()
        return which, made

    tasks = [(w, index[i:i + step]) for w in (0, 1) for index in [np.flatnonzero(kept & (half == w))]
             for i in range(0, len(index), step)]
    workers = 1 if backend.on_gpu else workers_that_fit(room, needs.shared, needs.worker, backend.threads)
    with ThreadPoolExecutor(workers, initializer=backend.activate) as pool:
        # A few at a time, in a fixed order: neither memory nor the sums depend on how fast the threads are.
        for i in range(0, len(tasks), workers):
            for which, made in pool.map(compute, tasks[i:i + workers]):
                for one in made:
                    for total, part in zip(sums[which], one):
                        total += part
    progress.finish()
    path = os.path.join(options.output, "sums", safe_stem(unit.name) + ".npz")
    with atomic.staged(path) as temp, open(temp, "wb") as handle:
        np.savez(handle, data1=as_map(sums[0][0]), weight1=sums[0][1].astype(np.float32), data2=as_map(sums[1][0]),
                 weight2=sums[1][1].astype(np.float32))
    return dict(result, sums=path, files=[path])


def collect(options, results):
    """Write the map, its halves, their FSC and the report.

    Parameters
    ----------
    options : ParticleOptions
    results : list of dict
        As `execute` returned them.

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
    *_, particles, _ = pseudosubtomo.read_inputs(_extraction(options), None)
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
    side = pseudosubtomo.crop(options)
    found = {"average": divided(*(one + two for one, two in zip(*sums)), side),
             "half1": divided(*sums[0], side), "half2": divided(*sums[1], side)}
    known = mrc.read_volume(options.reference)[0] if options.reference else None
    out = maps.write_maps(options.output, found, good[0]["pixel_size"], options.diameter, known)
    told = dict({name: out[name] for name in ("average", "half1", "half2")}, resolution=maps.resolutions(out),
                kept=len(kept), half_particles=[int(n) for n in counts], symmetry=options.symmetry.upper(),
                dropped=dropped)
    more = {name: out[name] for name in ("pixel_size", "box", "resolution_0143", "resolution_05")}
    atomic.write_json(os.path.join(options.output, "map.json"), dict(told, **more))
    return told
