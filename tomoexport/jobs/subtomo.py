"""Export sub-tomograms with their 3D CTFs: plan, execute one tilt series, collect the table."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from ..engine.backend import available_cores
from ..engine.fourier import fast_even
from ..engine.preprocess import rescaled_shape
from ..engine.subtomo import (
    exact_windows,
    normalise_volume,
    padded_box,
    plan_subtomos,
    plan_visible,
    reconstruct_subtomos,
)
from ..engine.trilinear import reconstruct_trilinear, windows_at
from ..errors import InputError
from ..io import mrc, particlestar, subtomostar
from ..io.manifest import fingerprint
from ..io.paths import safe_stem
from . import report
from .batches import batch_size, run_halving
from .plan import PROCESS_BYTES, Plan, Problem, state
from .progress import Progress
from .series import identity, load, prepare, settings


def diameter(options):
    """Particle diameter: the option, or 80 % of the box.

    Parameters
    ----------
    options : SubtomoOptions

    Returns
    -------
    float
        Angstrom.
    """
    return options.diameter or 0.8 * options.box * options.pixel_size


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
    series, units, problems = load(options, True, only)
    _protect(options, problems)
    # A job for some of the series only is a part of a run that was looked at as a whole.
    particles, notes = _read_particles(options, series, options.allow_loss or only is not None)
    problems += [Problem("warning", "particles", note) for note in notes]
    out = Plan("subtomo", options, units, problems)
    if len(particles) and not particles.oriented:
        problems.append(Problem("warning", options.particles, "it has no orientations",
                                "Averages will need them; the sub-tomograms do not"))
    for unit in units:
        if unit.error:
            continue
        own = particles.in_series(unit.name)
        g = unit.series.geometry
        outside = int((np.abs(own.position) > np.array(g.volume_size) / 2).any(axis=1).sum())
        if outside:
            problems.append(Problem("warning", unit.name, "%d of %d particles lie outside the tomogram"
                                    % (outside, len(own)), "They are kept if enough tilts show them; check the pixel "
                                    "size and the centre of the coordinates if this is unexpected"))
        # A particle counts in a tilt where all of it is in the image.
        seen = g.coverage(g.project(own.position).xy, diameter(options) / 2)
        kept = seen.sum(axis=1) >= options.min_tilts
        reach = float(np.abs(g.project(own.position).depth).max()) if len(own) else 0.0
        h, w = rescaled_shape(g.image_shape, options.pixel_size / g.pixel_size)
        padded, needed = padded_box(options.box, unit.series.ctf, options.pixel_size, diameter(options), reach,
                                    fast_even(max(h, w)))
        source = None
        if options.exact:
            source, padded = exact_windows(padded, options.pixel_size / g.pixel_size)
            h, w = g.image_shape
        if needed > padded:
            problems.append(Problem("warning", unit.name, "a box without CTF aliasing needs %d px, more than the image "
                                    "has; %d px are used" % (needed, padded), "A larger pixel size needs less"))
        if len(own) == 0:
            problems.append(Problem("warning", unit.name, "the table has no particles in this tilt series", ""))
        unit.inputs[options.particles] = state(options.particles)
        unit.work = {"particles": own, "seen": seen, "kept": kept, "padded": padded, "source": source, "facts": {
            "particles": "%d of %d kept" % (kept.sum(), len(own)), "box": "%d px" % options.box,
            "CTF box": "%d px" % padded + (" from %d unbinned" % source if source else ""),
            "hand": options.hand or g.hand}}
        voxels = options.box ** 3
        unit.disk_bytes = int(kept.sum()) * (voxels * (2 if options.float16 else 4)
                                             + 4 * options.box ** 2 * (options.box // 2 + 1))
        threads = options.threads or available_cores()
        shared = PROCESS_BYTES + 4 * g.n_tilts * (h * w + 3 * padded ** 2)
        own_bytes = 12 * int(np.prod(g.image_shape)) + g.n_tilts * (24 * padded ** 2 + 12 * (source or 0) ** 2)
        out.memory_bytes = max(out.memory_bytes, shared + threads * (own_bytes + 120 * voxels))
        unit.fingerprint = fingerprint(settings(options), identity(unit.series), list(own.uid),
                                       own.position.tolist(), own.rotation.tolist())
    total = sum(int(u.work["kept"].sum()) for u in units if not u.error)
    if units and not total and not all(u.error for u in units):
        reasons = ", ".join("%s: %d in the table, %d seen in at least %d tilts" % (
            u.name, len(u.work["particles"]), u.work["kept"].sum(), options.min_tilts) for u in units if not u.error)
        problems.append(Problem("error", options.particles, "no particle can be exported (%s)" % reasons,
                                "Check the pixel size and the centre of the coordinates, and the names of the series"))
    return out


def _protect(options, problems):
    """Refuse to write the table over one that is read."""
    target = os.path.join(options.output, options.star)
    for given in (options.particles, options.tomograms):
        if options.output and os.path.exists(target) and os.path.exists(given) and os.path.samefile(target, given):
            problems.append(Problem("error", target, "it is an input and would be overwritten",
                                    "Choose another --output folder or another --star"))


def _read_particles(options, series, allow_loss=True):
    return particlestar.read_particles(
        options.particles, series, coordinates_pixel_size=options.coordinates_pixel_size or None,
        normalized=options.normalized, centre=options.centre, allow_loss=allow_loss)


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
    reading = replace(options, pixel_size=pixel_size) if options.exact else options
    stack, series, result["notes"] = prepare(unit.series, reading, options.normalize_input, backend,
                                             Progress(unit.name + " reading", len(before), "tilts"))
    g = series.geometry
    seen = unit.work["seen"][:, np.isin(before, g.acq_order)]
    for i in index[seen[index].sum(axis=1) < options.min_tilts]:
        entries[i].update(kept=False, reason="seen in %d tilts that have contrast" % seen[i].sum())
    index = np.array([i for i in index if entries[i]["kept"]], int)
    projection = g.project(particles.position)
    depth = (options.hand or g.hand) * projection.depth
    position = stack.position_px(projection.xy)
    os.makedirs(os.path.join(options.output, os.path.dirname(images[0])), exist_ok=True)
    progress = Progress(unit.name, len(index), "particles")
    radius = diameter(options) / 2 / options.pixel_size

    def store(i, volume, transfer):
        if options.normalize_output:
            normalise_volume(volume, radius)
        mrc.write(os.path.join(options.output, images[i]), volume, options.pixel_size, float16=options.float16)
        mrc.write(os.path.join(options.output, ctfs[i]), transfer, 1 / (options.box * options.pixel_size))
        progress()

    if options.interpolation == "trilinear":
        _run_trilinear(unit, stack, series, index, position, depth, projection.matrix, seen, options, backend, store)
    else:
        source, padded = unit.work["source"], unit.work["padded"]
        general = plan_subtomos(g, series.ctf, options.box, padded,
                                pixel_size * source / padded if source else options.pixel_size, backend, source=source)
        images_on_device = backend.to_device(stack.images)
        needed = _bytes_per_particle(general, g)
        batch = batch_size(backend, needed)
        patterns, which = np.unique(seen[index], axis=0, return_inverse=True)
        with ThreadPoolExecutor(1 if backend.on_gpu else backend.threads, initializer=backend.activate) as pool:
            tasks = []
            for n, pattern in enumerate(patterns):
                # Particles that the same tilts show, as a rule all of them, share the density of slices.
                own = index[which.reshape(-1) == n]
                plan_ = general if pattern.all() else plan_visible(general, g, pattern, backend)

                def work(some, plan_=plan_):
                    matrix = projection.matrix if len(projection.matrix) == 1 else projection.matrix[some]
                    volumes, transfer = reconstruct_subtomos(images_on_device, plan_, position[some], depth[some],
                                                             matrix, seen[some], backend)
                    for i, v, c in zip(some, backend.to_host(volumes), backend.to_host(transfer)):
                        store(i, v, c)

                tasks += [pool.submit(run_halving, work, own[i:i + batch], backend, needed)
                          for i in range(0, len(own), batch)]
            for task in tasks:
                task.result()
    progress.finish()
    result["files"] = [os.path.join(options.output, n) for i in index for n in (images[i], ctfs[i])]
    return result


def _bytes_per_particle(plan_, geometry):
    """Device memory of one particle: windows and transforms, grid cells, volumes."""
    windows = geometry.n_tilts * (plan_.padded ** 2 * 4 * 5 + plan_.source ** 2 * 4 * 3)
    return windows + (plan_.grid + 6) ** 2 * (plan_.grid // 2 + 7) * 16 + 6 * 4 * plan_.grid ** 3


def _run_trilinear(unit, stack, series, index, position, depth, matrix, seen, options, backend, store):
    size = max(2 * options.box, unit.work["padded"])

    def work(i):
        windows = windows_at(stack.images, position[i], size)
        store(i, *reconstruct_trilinear(windows, series.geometry, series.ctf, depth[i], matrix[min(i, len(matrix) - 1)],
                                        options.box, options.pixel_size, seen[i]))

    with ThreadPoolExecutor(backend.threads) as pool:
        list(pool.map(work, index))


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
    series, _, _ = load(options, True)
    particles, _ = _read_particles(options, series)
    entry = {}
    for r in results:
        if r["status"] != "failed":
            entry.update({p["uid"]: p for p in r["particles"]})
    kept = [i for i, uid in enumerate(particles.uid) if uid in entry and entry[uid]["kept"]]
    dropped = ["%s: %s" % (uid, entry[uid]["reason"] if uid in entry else "its tilt series failed")
               for uid in particles.uid if uid not in entry or not entry[uid]["kept"]]
    folder = os.path.join(options.output, "report")
    os.makedirs(folder, exist_ok=True)
    out = {"star": None, "kept": len(kept), "dropped": dropped}
    star = os.path.join(options.output, options.star)
    if not kept:
        if os.path.exists(star):
            os.remove(star)  # of an earlier run; it names particles that this one did not export
        return out
    chosen = particles.select(np.array(kept))
    entries = [entry[uid] for uid in chosen.uid]
    tilts = [e["tilts"] for e in entries]
    paths = [os.path.join(options.output, e["image"]) for e in entries]
    report.subtomo_montage(paths, os.path.join(folder, "montage.png"))
    counts = {}
    for name in chosen.names():
        counts[name] = counts.get(name, 0) + 1
    report.particles_per_tomogram(counts, os.path.join(folder, "particles_per_tomogram.png"))
    report.tilts_per_particle(tilts, os.path.join(folder, "tilts_per_particle.png"))
    by_name = {s.ts_id: s for s in series}
    chosen = replace(chosen, extra=dict(chosen.extra, tomoexportVisibleTilts=[str(t) for t in tilts]))
    subtomostar.write_subtomos(
        star, chosen, [e["image"] for e in entries], [e["ctf"] for e in entries], options.pixel_size, options.box,
        {name: by_name[name].optics for name in counts}, style=options.format,
        centres={name: by_name[name].geometry.centre for name in counts},
        micrograph_names={name: name + ".tomostar" for name in counts})
    out["star"] = star
    return out
