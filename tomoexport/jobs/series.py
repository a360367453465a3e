"""Export image series of particles: plan, execute one tilt series, collect the table."""

import os
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from ..engine.backend import Backend
from ..engine.copies import Fetched
from ..engine.fourier import nearest_pixel
from ..engine.poses import zyz_from_matrix
from ..engine.preprocess import rescaled_shape
from ..engine.series import MARGIN, extract_series, setup_series
from ..errors import InputError
from ..io import exportedparticles, mrc, particlestar, seriesstar, warptoolsset
from ..io.paths import safe_stem
from ..io.star import as_text
from . import programs, report
from .memory import workers_that_fit
from .particles import Needs, exported, paths_in_table, plan_particles, poses_at
from .pipeline import Pipeline
from .plan import PROCESS_BYTES, Problem
from .progress import Progress
from .tiltseries import prepare, stage_tilt

WAITING = 2  # results per thread that may wait to be written


def plan(options, only=None):
    """Plan the export.

    Parameters
    ----------
    options : SeriesOptions
    only : list of str, optional
        Names of the tilt series asked for; all by default.

    Returns
    -------
    plan.Plan
        A unit per tilt series, with its particles and the tilts that show them.

    Raises
    ------
    InputError
        If a table is not named or cannot be read.
    """
    if not options.particles:
        raise InputError("--particles", "no file is given", "Name a particle STAR file")
    for ending in ("_exported.star", "_optimisation_set.star", "_tomograms.star"):
        if options.star.endswith(ending):
            raise InputError("--star", "%s is a name that the export gives to another table" % options.star,
                             "Give one that does not end in " + ending)
    out = plan_particles("series", options, only, lambda *unit: _describe(options, *unit))
    good = [unit for unit in out.units if not unit.error]
    out.problems += programs.of_options(options, {unit.series.geometry.hand for unit in good})
    more = {}
    for unit in good:
        out.problems += programs.of_series(options, unit.series)
        columns = {"rlnGroupName": _groups(unit), "rlnTomoName": [unit.name]}
        if options.form == "series":
            columns = {"rlnGroupName": _groups(unit),
                       "rlnMicrographName": [os.path.basename(path) for path, _ in unit.series.images]}
        out.problems += programs.of_columns(options.reader, columns, unit.name)
        if options.all_columns:
            for label, values in _more_columns(unit.work["particles"]).items():
                more.setdefault(label, []).extend(values)
    # Whether a column has one type is seen in all tilt series together.
    out.problems += programs.of_columns(options.reader, more, options.star)
    out.problems += programs.of_columns(options.reader, {"rlnImageName": paths_in_table(options, ["stack"])},
                                       options.star)
    out.problems += _overwritten(options)
    if only is None:
        out.problems += programs.of_images(options, sum(int(u.work["seen"][u.work["kept"]].sum()) for u in good))
    return out


def _tables(options):
    """Tables that are written beside the one that an option names."""
    star = os.path.join(options.output, options.star)
    whole = warptoolsset.names(star) if options.form == "optimisation-set" else ()
    return [exportedparticles.path_beside(star)] + [path for path in whole if path != star]


def _overwritten(options):
    """Problems of inputs that the tables would replace; that of the one that is named is found with the others."""
    return [Problem("error", path, "it is an input and would be overwritten", "Choose another --output or --star")
            for path in (_tables(options) if options.output else ()) for given in (options.particles, options.tomograms)
            if os.path.exists(path) and os.path.exists(given) and os.path.samefile(path, given)]


def _groups(unit):
    """rlnGroupName of every particle: tilt series and number in it."""
    return ["%s_%07d" % (safe_stem(unit.name), i + 1) for i in range(len(unit.work["particles"]))]


def _more_columns(particles):
    """The columns of particles that stay true beside an image, and where they are, as texts."""
    kept = {label: values for label, values in particlestar.kept_columns(particles.extra).items()
            if label not in seriesstar.COLUMNS}
    places = dict(zip(particlestar.CENTRED, [[repr(float(v)) for v in axis] for axis in particles.position.T]))
    return {"rlnTomoName": particles.names(), "rlnTomoParticleName": list(particles.uid), **places,
            **{label: programs.as_one_kind(values) for label, values in kept.items()}}


def _describe(options, unit, reach, problems):
    """Room on disk and in memory of a tilt series; see `plan_particles`."""
    g, b, kept = unit.series.geometry, options.box, unit.work["kept"]
    if options.form == "optimisation-set":
        part = kept & ~unit.work["seen"].all(axis=1)
        if part.any():
            problems.append(Problem("warning", unit.name, "%d of %d particles are left out: an optimisation set needs "
                                    "all tilts of a particle" % (part.sum(), len(kept)), "Take a smaller --diameter, "
                                    "--first-tilts, or --form series, which needs not all"))
        unit.work["kept"] = kept = kept & ~part
        unit.work["facts"]["particles"] = "%d of %d kept" % (kept.sum(), len(kept))
        if unit.work["particles"].trajectory is not None or g.deformation is not None:
            problems.append(Problem("error", unit.name, "an optimisation set has one pose for all tilts, and its "
                                    "particles move", "Take --form series"))
    image = b * b * (2 if options.float16 else 4)
    # With what the tables, and the results that these are made of, say of every image.
    unit.disk_bytes = int(unit.work["seen"][kept].sum()) * (image + 700)
    h, w = rescaled_shape(g.image_shape, options.pixel_size / g.pixel_size)
    padded = (b + 2 * MARGIN) ** 2
    told = 900 * int(unit.work["seen"][kept].sum())
    return Needs(PROCESS_BYTES + 4 * g.n_tilts * (h * w + 3 * padded) + told, 14 * int(np.prod(g.image_shape)),
                 g.n_tilts * (20 * padded + 4 * b * b * (1 + WAITING)), 4 * g.n_tilts * b * b, False)


def execute(unit, options, backend):
    """Export the particles of one tilt series.

    Parameters
    ----------
    unit : plan.Unit
        As planned.
    options : SeriesOptions
    backend : Backend
        Its threads; the images are cut out on the CPU.

    Returns
    -------
    dict
        Plain values: ``particles`` (a dict for each with ``uid``, ``kept``, ``reason``, ``tilts``, ``group``,
        ``image`` and, for those kept, ``first``, their first section in that stack, and ``rows``, a dict for each of
        their images), ``views`` (a dict for each tilt, by dose), ``pixel_size`` (A), ``box`` (px), ``notes``,
        ``files``.

    Raises
    ------
    UnitError
        If images cannot be used.
    """
    particles, kept, seen = unit.work["particles"], unit.work["kept"], unit.work["seen"]
    stem = safe_stem(unit.name)
    groups, whole = _groups(unit), options.form == "optimisation-set"
    names = ["particleseries/%s/%s_%.2fA.mrcs" % (stem, stem if options.stacks == "series" else group,
                                                  options.pixel_size) for group in groups]
    entries = [{"uid": uid, "kept": bool(k), "tilts": int(s), "group": group, "image": name,
                "reason": "" if k else _too_few(options, s, seen.shape[1])}
               for uid, k, s, group, name in zip(particles.uid, kept, seen.sum(axis=1), groups, names)]
    result = {"particles": entries, "pixel_size": options.pixel_size, "box": options.box, "notes": [], "files": []}
    if not kept.any():
        return result
    if backend.on_gpu:  # where copying would take longer than cutting
        backend = Backend("cpu", threads=backend.threads)
    before = unit.series.geometry.acq_order
    room, needs = int(options.memory * 1e9) or unit.work["room"], _describe(options, unit, 0, [])
    readers = replace(backend, threads=workers_that_fit(room, needs.shared, needs.reader, backend.threads))
    stack, series, result["notes"] = prepare(unit.series, options, options.normalize_input, readers,
                                             Progress(unit.name + " reading", len(before), "tilts"))
    g = series.geometry
    seen = seen[:, np.isin(before, g.acq_order)]
    enough = seen.all(axis=1) if whole else np.ones(len(seen), bool)
    for i in np.flatnonzero(kept & ~(enough & (seen.sum(axis=1) >= options.min_tilts))):
        entries[i].update(kept=False, reason="seen in %d tilts that have contrast" % seen[i].sum())
    index = [i for i in range(len(particles)) if entries[i]["kept"]]
    order = np.argsort(g.dose, kind="stable")
    # An excluded view was exposed, too.
    exposed = dict(zip(unit.work["exposures"][1], with_exposure(unit.work["exposures"][0])))
    dose = np.array([exposed[number] for number in g.acq_order])
    where, rotation = poses_at(particles, unit.work["exposures"], g)
    rotation = np.broadcast_to(rotation if rotation.ndim == 4 else rotation[:, None],
                               (len(particles), g.n_tilts, 3, 3))
    projection, turned = g.project(where), g.rotation @ rotation
    if g.deformation is not None:
        local = g.deformation.rotation(where if where.ndim == 3 else where[:, None])
        turned = turned if local is None else local @ turned
    position = stack.position_px(projection.xy)
    result["views"] = [_view(series, t) for t in order]
    total = 0
    for i in index:
        tilts = [t for t in order if seen[i, t]]
        entries[i].update(tilts=len(tilts), first=total if options.stacks == "series" else 0, rows=_rows(
            series, options, tilts, dose, position[i], projection.depth[i], turned[i]))
        total += len(tilts)
    paths = {i: os.path.join(options.output, names[i]) for i in index}
    result["files"] = list(dict.fromkeys(paths.values()))
    os.makedirs(os.path.join(options.output, os.path.dirname(names[0])), exist_ok=True)
    progress = Progress(unit.name, len(index), "particles")

    def store(i, images):
        images = images[[t for t in order if seen[i, t]]]
        if writer is not None:
            writer.put(entries[i]["first"], images)
        else:
            mrc.write(paths[i], images, options.pixel_size, kind="stack", float16=options.float16)
        progress()

    workers = workers_that_fit(room, needs.shared, needs.worker, backend.threads)
    pipeline = Pipeline(store, workers, WAITING * workers, backend.activate)
    shared = setup_series(g.n_tilts, options.box, backend)

    def compute(i):
        pipeline.deliver([i], Fetched([extract_series(stack.images, shared, position[i:i + 1], backend,
                                                      not options.origins)]))

    with ExitStack() as opened:
        writer = None
        if options.stacks == "series" and index:
            writer = opened.enter_context(mrc.VolumeWriter(
                result["files"][0], (total, options.box, options.box), options.pixel_size,
                np.float16 if options.float16 else np.float32, "stack"))
        pipeline.run(index, compute, workers)
    progress.finish()
    return result


def _too_few(options, seen, total):
    if options.form == "optimisation-set" and seen >= options.min_tilts:
        return "seen in %d of %d tilts, an optimisation set needs all" % (seen, total)
    return "seen in %d tilts, %d asked for" % (seen, options.min_tilts)


def _stage_cosine(series, t):
    """rlnCtfScalefactor of a tilt: the cosine of the stage's tilt, whatever the x-tilt; never above 1."""
    return float(min(1.0, max(np.cos(np.deg2rad(stage_tilt(series)[t])), 1e-3)))


def _view(series, t):
    """What an optimisation set says of a tilt, plain values."""
    g, ctf = series.geometry, series.ctf
    return {"rotation": g.rotation[t].tolist(), "defocus_u": float(ctf.defocus_u[t]),
            "defocus_v": float(ctf.defocus_v[t]), "defocus_angle": float(ctf.angle[t]), "phase": float(ctf.phase[t]),
            "scale": _stage_cosine(series, t), "before": float(g.dose[t])}


def _rows(series, options, tilts, dose, position, depth, rotation):
    """What the table says of a particle's images, plain values."""
    g, ctf = series.geometry, series.ctf
    hand = options.hand or g.hand
    angles = np.stack(zyz_from_matrix(rotation), -1)
    rows = []
    for t in tilts:
        path, section = series.images[t]
        more = hand * depth[t]
        rows.append({
            "phase": float(ctf.phase[t]), "defocus_u": float(ctf.defocus_u[t] + more),
            "defocus_v": float(ctf.defocus_v[t] + more), "defocus_angle": float(ctf.angle[t]),
            "micrograph": "%03d@%s" % (section + 1, os.path.basename(path)),
            "xy": [float(position[t, 1]), float(position[t, 0])], "angles": [float(a) for a in angles[t]],
            "dose": float(dose[t]), "scale": _stage_cosine(series, t)})
        if options.origins:
            rest = nearest_pixel(position[t], options.box)[1]
            rows[-1]["origin"] = [-float(rest[1]), -float(rest[0])]
    return rows


def with_exposure(dose):
    """Dose up to and including each exposure.

    Parameters
    ----------
    dose : ndarray `(T,)`
        Before it.

    Returns
    -------
    ndarray `(T,)`
        That before the next exposure; the last one counts as much as the median of the others, and one before a
        gap as much as the median of its neighbours.
    """
    order = np.argsort(dose, kind="stable")
    steps = np.diff(dose[order])
    # A table may lack exposures, as RELION's do after its exclusion of tilts: the step there is of several.
    near = np.array([np.median(np.delete(steps[max(i - 2, 0):i + 3], min(i, 2))) if len(steps) > 1 else step
                     for i, step in enumerate(steps)])
    steps = np.where((near > 0) & (steps > 1.5 * near), near, steps)
    out = np.empty(len(dose))
    out[order] = dose[order] + np.append(steps, np.median(steps) if len(steps) else 0.0)
    return out


def collect(options, results):
    """Write the tables and the report of all finished units; the table that readers are given comes last.

    Parameters
    ----------
    options : SeriesOptions
    results : list of dict
        As `execute` returned them.

    Returns
    -------
    dict
        ``star``: path of the table, or of the optimisation set, None if no particle is left; ``exported``: path of the
        list of the particles in their order; ``kept``: number of particles; ``images``: of images; ``advice``: lines
        about the reader's options; ``dropped``: a line for each particle that is not in it.

    Raises
    ------
    InputError
        If the reader cannot take a value.
    """
    series, chosen, entries, dropped = exported(options, results)
    folder = os.path.join(options.output, "report")
    os.makedirs(folder, exist_ok=True)
    star = os.path.join(options.output, options.star)
    listed = exportedparticles.path_beside(star)
    out = {"star": None, "exported": None, "kept": len(chosen), "images": 0, "advice": [], "dropped": dropped}
    if not len(chosen):
        for path in {star, listed} | set(_tables(options)):
            if os.path.exists(path):
                os.remove(path)  # of an earlier run; it names particles that this one did not export
        return out
    if options.form == "optimisation-set":  # which has the particles of a tilt series together
        rank = {name: i for i, name in enumerate(dict.fromkeys(chosen.names()))}
        order = np.argsort([rank[name] for name in chosen.names()], kind="stable")
        chosen, entries = chosen.select(order), [entries[i] for i in order]
    else:
        for path in set(warptoolsset.names(star)) - {star}:
            if os.path.exists(path):
                os.remove(path)  # of an earlier run in the other form; it names a table of particles
    groups, counts = [entry["group"] for entry in entries], [entry["tilts"] for entry in entries]
    report.particles_per_tomogram(dict(Counter(chosen.names())), os.path.join(folder, "particles_per_tomogram.png"))
    report.tilts_per_particle(counts, os.path.join(folder, "tilts_per_particle.png"))
    shift = -np.array([options.shift_x, options.shift_y, options.shift_z])
    exportedparticles.write_exported(listed, chosen.moved(shift), groups)
    if options.form == "optimisation-set":
        star = _write_set(options, star, results, series, chosen, entries)
    else:
        _write_images(options, star, series, chosen, entries)
    steps = np.diff([row["dose"] for row in max(entries, key=lambda entry: entry["tilts"])["rows"]]).tolist()
    return dict(out, star=star, exported=listed, images=sum(counts), advice=programs.advice(options, counts, steps))


def _write_images(options, star, series, chosen, entries):
    """Write the table with a row for every image."""
    subset = particlestar.kept_columns(chosen.extra).get("rlnRandomSubset")
    rows, particle = [], []
    paths = paths_in_table(options, [e["image"] for e in entries])
    for i, (name, entry, path) in enumerate(zip(chosen.names(), entries, paths)):
        half = 2 if subset and subset[i] in ("2", "2.0") else 1 if subset and subset[i] in ("1", "1.0") else 1 + i % 2
        scales = [row["scale"] for row in entry["rows"]]
        if options.reader == "cryodrgn":
            scales = programs.break_ties(scales)
        rows += [dict(row, optics=series[name].optics, image="%03d@%s" % (entry["first"] + n, path), subset=half,
                      group=entry["group"], scale=scale)
                 for n, (row, scale) in enumerate(zip(entry["rows"], scales), 1)]
        particle += [i] * len(scales)
    extra = {}
    if options.all_columns:
        extra = {label: [values[i] for i in particle] for label, values in _more_columns(chosen).items()}
    texts = {label: [as_text(value) for value in values]
             for label, values in dict(seriesstar.image_columns(rows, options.pixel_size), **extra).items()}
    for problem in programs.of_columns(options.reader, texts, options.star):
        raise InputError(problem.item, problem.cause, problem.remedy)
    seriesstar.write_image_series(star, rows, options.pixel_size, extra, options.invert)


def _write_set(options, star, results, series, chosen, entries):
    """Write the tables of an optimisation set; returns its path."""
    if options.hand:
        series = {name: replace(one, geometry=one.geometry.replace(hand=options.hand)) for name, one in series.items()}
    views = {r["ts_id"]: r["views"] for r in results if r.get("views")}
    if options.reader == "cryodrgn":
        for tilts in views.values():
            for tilt, scale in zip(tilts, programs.break_ties([tilt["scale"] for tilt in tilts])):
                tilt["scale"] = scale
    return warptoolsset.write_set(star, chosen, [e["group"] for e in entries],
                                  paths_in_table(options, [e["image"] for e in entries]), series, views,
                                  options.pixel_size, options.box)
