"""Export image series of particles: plan, execute one tilt series, collect the table."""

import os
from dataclasses import replace

import numpy as np

from ..engine.backend import Backend
from ..engine.imageseries import MARGIN, extract_series, plan_series
from ..engine.poses import zyz_from_matrix
from ..engine.preprocess import rescaled_shape
from ..engine.transfer import Fetched
from ..errors import InputError
from ..io import mrc, particlestar, seriesstar
from ..io.paths import safe_stem
from . import report
from .memory import workers_that_fit
from .particles import Needs, exported, paths_in_table, places, plan_particles
from .pipeline import Pipeline
from .plan import PROCESS_BYTES
from .progress import Progress
from .series import prepare

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
    return plan_particles("series", options, only, lambda *unit: _describe(options, *unit))


def _describe(options, unit, reach, problems):
    """Room on disk and in memory of a tilt series; see `plan_particles`."""
    g, b, kept = unit.series.geometry, options.box, unit.work["kept"]
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
        Plain values: ``particles`` (a dict for each with ``uid``, ``kept``, ``reason``, ``tilts``, ``image``, and for
        those kept ``rows``, a dict for each of their images), ``pixel_size`` (A), ``box`` (px), ``notes``, ``files``.

    Raises
    ------
    UnitError
        If images cannot be used.
    """
    particles, kept, seen = unit.work["particles"], unit.work["kept"], unit.work["seen"]
    stem = safe_stem(unit.name)
    names = ["particleseries/%s/%s_%07d_%.2fA.mrcs" % (stem, stem, i + 1, options.pixel_size)
             for i in range(len(particles))]
    entries = [{"uid": uid, "kept": bool(k), "tilts": int(s), "image": name,
                "reason": "" if k else "seen in %d tilts, %d asked for" % (s, options.min_tilts)}
               for uid, k, s, name in zip(particles.uid, kept, seen.sum(axis=1), names)]
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
    for i in np.flatnonzero(kept & (seen.sum(axis=1) < options.min_tilts)):
        entries[i].update(kept=False, reason="seen in %d tilts that have contrast" % seen[i].sum())
    index = [i for i in range(len(particles)) if entries[i]["kept"]]
    order = np.argsort(g.dose, kind="stable")
    # An excluded view was exposed, too.
    exposed = dict(zip(unit.work["exposures"][1], with_exposure(unit.work["exposures"][0])))
    dose = np.array([exposed[number] for number in g.acq_order])
    where, rotation = places(particles, unit.work["exposures"], g)
    rotation = np.broadcast_to(rotation if rotation.ndim == 4 else rotation[:, None],
                               (len(particles), g.n_tilts, 3, 3))
    projection, turned = g.project(where), g.rotation @ rotation
    if g.deformation is not None:
        local = g.deformation.rotation(where if where.ndim == 3 else where[:, None])
        turned = turned if local is None else local @ turned
    position = stack.position_px(projection.xy)
    for i in index:
        tilts = [t for t in order if seen[i, t]]
        entries[i].update(tilts=len(tilts), rows=_rows(series, options, tilts, dose, position[i], projection.depth[i],
                                                       turned[i]))
    os.makedirs(os.path.join(options.output, os.path.dirname(names[0])), exist_ok=True)
    progress = Progress(unit.name, len(index), "particles")

    def store(i, images):
        mrc.write(os.path.join(options.output, names[i]), images[[t for t in order if seen[i, t]]], options.pixel_size,
                  kind="stack", float16=options.float16)
        progress()

    workers = workers_that_fit(room, needs.shared, needs.worker, backend.threads)
    pipeline = Pipeline(store, workers, WAITING * workers, backend.activate)
    shared = plan_series(g.n_tilts, options.box, backend)

    def compute(i):
        pipeline.deliver([i], Fetched([extract_series(stack.images, shared, position[i:i + 1], backend)]))

    pipeline.run(index, compute, workers)
    progress.finish()
    result["files"] = [os.path.join(options.output, names[i]) for i in index]
    return result


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
            "dose": float(dose[t]), "scale": float(max(g.rotation[t, 2, 2], 1e-3))})
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
        That before the next exposure; the last one counts as much as the median of the others.
    """
    order = np.argsort(dose, kind="stable")
    steps = np.diff(dose[order])
    out = np.empty(len(dose))
    out[order] = dose[order] + np.append(steps, np.median(steps) if len(steps) else 0.0)
    return out


def collect(options, results):
    """Write the table of all images and the report of all finished units; the table comes last.

    Parameters
    ----------
    options : SeriesOptions
    results : list of dict
        As `execute` returned them.

    Returns
    -------
    dict
        ``star``: path of the table, None if no particle is left; ``kept``: number of particles; ``images``: of rows;
        ``dropped``: a line for each particle that is not in it.
    """
    series, chosen, entries, dropped = exported(options, results)
    folder = os.path.join(options.output, "report")
    os.makedirs(folder, exist_ok=True)
    star = os.path.join(options.output, options.star)
    out = {"star": None, "kept": len(chosen), "images": 0, "dropped": dropped}
    if not len(chosen):
        if os.path.exists(star):
            os.remove(star)  # of an earlier run; it names particles that this one did not export
        return out
    subset = particlestar.kept_columns(chosen.extra).get("rlnRandomSubset")
    rows, counts = [], {}
    paths = paths_in_table(options, [e["image"] for e in entries])
    for i, (name, entry, path) in enumerate(zip(chosen.names(), entries, paths)):
        counts[name] = counts.get(name, 0) + 1
        group = os.path.basename(entry["image"]).rsplit("_", 1)[0]
        half = 2 if subset and subset[i] in ("2", "2.0") else 1 if subset and subset[i] in ("1", "1.0") else 1 + i % 2
        rows += [dict(row, optics=series[name].optics, image="%03d@%s" % (n + 1, path), subset=half, group=group)
                 for n, row in enumerate(entry["rows"])]
    report.particles_per_tomogram(counts, os.path.join(folder, "particles_per_tomogram.png"))
    report.tilts_per_particle([e["tilts"] for e in entries], os.path.join(folder, "tilts_per_particle.png"))
    seriesstar.write_image_series(star, rows, options.pixel_size)
    return dict(out, star=star, images=len(rows))
