"""Export image series of particles: plan, execute one tilt series, collect the table."""

import os
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from ..engine.backend import insists_on_gpu
from ..engine.fourier import nearest_pixel
from ..engine.poses import zyz_from_matrix
from ..engine.preprocess import rescaled_shape
from ..engine.series import MARGIN, extract_series, setup_series
from ..errors import InputError
from ..io import atomic, exportedparticles, mrc, particlestar, seriesstar, warptoolsset
from ..io.paths import safe_stem
from ..io.star import as_text
from ..io.statements import WEIGHTS, Statement
from ..io.tiltseries import stage_cosine
from . import programs, report
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
    unoriented,
    whole_particle,
)
from .plan import PROCESS_BYTES, Problem
from .statements import unfollowed
from .tiltseries import Preparation, Requirements

SAME_SCALE = 2e-3  # by which rlnCtfScalefactor, which Warp rounds to three decimals, may differ from the cosine


def plan(options, only=None):
    """Plan the export; see `contract.Verb`.

    Raises
    ------
    InputError
        If a table is not named or cannot be read.
    """
    for ending in ("_exported.star", "_optimisation_set.star", "_tomograms.star"):
        if options.star.endswith(ending):
            raise InputError("--star", "%s is a name that the export gives to another table" % options.star,
                             "Give one that does not end in " + ending)
    out = plan_particles(VERB, options, only)
    good = [unit for unit in out.units if not unit.error]
    out.problems += programs.of_options(options, {unit.series.geometry.hand for unit in good})
    for unit in good:
        out.problems += programs.of_series(options, unit.series)
    out.problems += _strange_columns(options, good)
    if only is None:
        out.problems += programs.of_images(options, sum(
            int(unit.work.seen[unit.work.kept].sum()) for unit in good))
    return out


def _strange_columns(options, units):
    """Problems of columns that the program which reads the tables cannot take."""
    out, more = [], {}
    for unit in units:
        columns = {"rlnGroupName": _groups(unit), "rlnTomoName": [unit.name]}
        if options.form == "series":
            columns = {"rlnGroupName": _groups(unit),
                       "rlnMicrographName": [os.path.basename(path) for path, _ in unit.series.images]}
        out += programs.of_columns(options.reader, columns, unit.name)
        if options.all_columns:
            for label, values in _more_columns(unit.work.particles).items():
                more.setdefault(label, []).extend(values)
    # Whether a column has one type is seen in all tilt series together.
    out += programs.of_columns(options.reader, more, options.star)
    return out + programs.of_columns(options.reader, {"rlnImageName": paths_in_table(options, ["stack"])}, options.star)


def _check(options, particles):
    """Problems of the particles as a whole; see `ParticleVerb`."""
    out = unoriented(options, particles)
    if diameter(options) > options.box * options.pixel_size:
        out.append(Problem("warning", "--box", "%g A hold less than the particle of %g A" % (
            options.box * options.pixel_size, diameter(options)), "Take a larger box"))
    return out


def _written(options):
    """Tables that are written, relative to the output folder; see `ParticleVerb`."""
    return [options.star] + [os.path.relpath(path, options.output) for path in _tables(options)]


def _tables(options):
    """Tables that are written beside the one that an option names."""
    star = os.path.join(options.output, options.star)
    whole = warptoolsset.names(star) if options.form == "optimisation-set" else ()
    return [exportedparticles.path_beside(star)] + [path for path in whole if path != star]


def _groups(unit):
    """rlnGroupName of every particle: tilt series and number in it."""
    return ["%s_%07d" % (safe_stem(unit.name), i + 1) for i in range(len(unit.work.particles))]


def _more_columns(particles):
    """The columns of particles that stay true beside an image, and where they are, as texts."""
    kept = {label: values for label, values in particlestar.kept_columns(particles.extra).items()
            if label not in seriesstar.COLUMNS}
    places = dict(zip(particlestar.CENTRED, [[repr(float(v)) for v in axis] for axis in particles.position.T]))
    return {"rlnTomoName": particles.names(), "rlnTomoParticleName": list(particles.uid), **places,
            **{label: programs.as_one_kind(values) for label, values in kept.items()}}


def _describe(unit, work, options, reach, problems):
    """Room on disk and in memory of a tilt series; see `ParticleVerb`."""
    g, kept = unit.series.geometry, work.kept
    if options.form == "optimisation-set":
        part = kept & ~work.seen.all(axis=1)
        if part.any():
            problems.append(Problem("warning", unit.name, "%d of %d particles are left out: an optimisation set needs "
                                    "all tilts of a particle" % (part.sum(), len(kept)), "Take a smaller --diameter, "
                                    "--first-tilts, or --form series, which needs not all"))
        kept = kept & ~part
        unit.facts["particles"] = "%d of %d kept" % (kept.sum(), len(kept))
        if work.particles.trajectory is not None or g.deformation is not None:
            problems.append(Problem("error", unit.name, "an optimisation set has one pose for all tilts, and its "
                                    "particles move", "Take --form series"))
    problems += unfollowed("series", unit.name, _other_weights(unit.series))
    unit.facts.update(box_facts(options, options.pixel_size))
    images = int(work.seen[kept].sum())
    # With what the tables, and the results that these are made of, say of every image.
    unit.disk_bytes = images * (options.box ** 2 * (2 if options.float16 else 4) + 700)
    return replace(work, kept=kept, needs=memory_needs(g, options, images))


def _other_weights(series):
    """Statements about weights in place of which the tables have dose and cosine, as the programs read them."""
    ctf, cosine = series.ctf, stage_cosine(series.stage_tilt)
    stated = {"rlnCtfBfactor": ctf.bfactor.any(), "rlnCtfBfactorPerElectronDose": series.geometry.dose_bfactor != 0,
              "rlnCtfScalefactor": ctf.scale is not None and np.abs(ctf.scale - cosine).max() > SAME_SCALE}
    return [Statement(label, series.ts_id, WEIGHTS, "how much tilts and frequencies count; the tables say the dose and "
                      "the cosine of the tilt") for label, there in stated.items() if there]


def memory_needs(geometry, options, images):
    """Estimate the memory of one tilt series' export.

    Parameters
    ----------
    geometry : TiltSeriesGeometry
        With the tilts that are used.
    options : SeriesOptions
    images : int
        Of all particles.

    Returns
    -------
    MemoryNeeds
    """
    t, b, padded = geometry.n_tilts, options.box, (options.box + 2 * MARGIN) ** 2
    h, w = rescaled_shape(geometry.image_shape, options.pixel_size / geometry.pixel_size)
    shared, result = PROCESS_BYTES + 4 * t * (h * w + 3 * padded) + 900 * images, 4 * t * b * b
    reader = 14 * int(np.prod(geometry.image_shape))
    if insists_on_gpu(options.device):
        return MemoryNeeds(shared + CUDA_BYTES, reader, RING * result, result, True)
    return MemoryNeeds(shared, reader, 20 * t * padded + (1 + WAITING) * result, result, False)


VERB = ParticleVerb(
    "series", whole_particle, "min_tilts", "diameter", lambda options: Requirements(pixel_size=options.pixel_size),
    _describe, matters=lambda options, work: work.particles.rotation, check=_check, writes=_written)


def execute(unit, options, backend):
    """Export the particles of one tilt series; see `contract.Verb`.

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
    stem, groups, count = safe_stem(unit.name), _groups(unit), unit.work.seen.shape[1]
    names = ["particleseries/%s/%s_%.2fA.mrcs" % (stem, stem if options.stacks == "series" else group,
                                                  options.pixel_size) for group in groups]
    entries = entries_of(unit, [{"group": group, "image": name} for group, name in zip(groups, names)],
                         lambda seen: _too_few(options, seen, count))
    result = {"particles": entries, "pixel_size": options.pixel_size, "box": options.box, "notes": [], "files": []}
    if not unit.work.kept.any():
        return result
    how = Preparation(options.pixel_size, options.invert, options.normalize_input, options.bad_pixels)
    whole = options.form == "optimisation-set"
    run = Extraction(unit, options, backend, entries, how, enough=lambda seen: (
        seen.sum(axis=1) >= unit.work.fewest) & (seen.all(axis=1) | (not whole)))
    g = run.series.geometry
    order = np.argsort(g.dose, kind="stable")
    position, total = _add_rows(run, options, entries, order)
    paths = {i: os.path.join(options.output, names[i]) for i in run.index}
    make_folders(options, names)
    images, setup = run.upload(), setup_series(g.n_tilts, options.box, backend)

    def make(_, part):
        return [extract_series(images, setup, position[part], backend, not options.origins)]

    def store(i, images):
        images = images[[t for t in order if run.seen[i, t]]]
        if writer is not None:
            writer.put(entries[i]["first"], images)
        else:
            mrc.write(paths[i], images, options.pixel_size, kind="stack", float16=options.float16)

    with ExitStack() as opened:
        writer = None
        if options.stacks == "series" and len(run.index):
            writer = opened.enter_context(mrc.VolumeWriter(
                paths[run.index[0]], (total, options.box, options.box), options.pixel_size,
                np.float16 if options.float16 else np.float32, "stack"))
        run.write([(None, run.index)], make, store, g.n_tilts * (28 * setup.padded ** 2 + RING * 4 * options.box ** 2))
    return dict(result, views=[_view(run.series, t) for t in order], notes=run.notes,
                files=list(dict.fromkeys(paths.values())))


def _add_rows(run, options, entries, order):
    """Add to the entries what the table says of each image, by dose.

    Returns
    -------
    position : ndarray `(N, T, 2)`
        Where the particles are seen, pixels of the images from their corner, yx.
    total : int
        Images of all particles.
    """
    series, g = run.series, run.series.geometry
    # An excluded view was exposed, too.
    exposed = dict(zip(run.exposures[1], with_exposure(run.exposures[0])))
    dose = np.array([exposed[number] for number in g.acq_order])
    where, rotation = run.poses()
    rotation = np.broadcast_to(rotation if rotation.ndim == 4 else rotation[:, None],
                               (len(run.particles), g.n_tilts, 3, 3))
    projection, turned = g.project(where), g.rotation @ rotation
    if g.deformation is not None:
        local = g.deformation.rotation(where if where.ndim == 3 else where[:, None])
        turned = turned if local is None else local @ turned
    position, more, total = run.stack.position_px(projection.xy), g.defocus_shift(projection.depth), 0
    for i in run.index:
        tilts = [t for t in order if run.seen[i, t]]
        entries[i].update(first=total if options.stacks == "series" else 0, rows=_rows(
            series, options, tilts, dose, position[i], more[i], turned[i]))
        total += len(tilts)
    return position, total


def _too_few(options, seen, total):
    if options.form == "optimisation-set" and seen >= options.min_tilts:
        return "seen in %d of %d tilts, an optimisation set needs all" % (seen, total)
    return "seen in %d tilts, %d asked for" % (seen, options.min_tilts)


def _view(series, t):
    """What an optimisation set says of a tilt, plain values."""
    g, ctf = series.geometry, series.ctf
    return {"rotation": g.rotation[t].tolist(), "defocus_u": float(ctf.defocus_u[t]),
            "defocus_v": float(ctf.defocus_v[t]), "defocus_angle": float(ctf.angle[t]), "phase": float(ctf.phase[t]),
            "scale": float(stage_cosine(series.stage_tilt[t])), "before": float(g.dose[t])}


def _rows(series, options, tilts, dose, position, more, rotation):
    """What the table says of a particle's images, plain values."""
    ctf = series.ctf
    angles = np.stack(zyz_from_matrix(rotation), -1)
    rows = []
    for t in tilts:
        path, section = series.images[t]
        rows.append({
            "phase": float(ctf.phase[t]), "defocus_u": float(ctf.defocus_u[t] + more[t]),
            "defocus_v": float(ctf.defocus_v[t] + more[t]), "defocus_angle": float(ctf.angle[t]),
            "micrograph": "%03d@%s" % (section + 1, os.path.basename(path)),
            "xy": [float(position[t, 1]), float(position[t, 0])], "angles": [float(a) for a in angles[t]],
            "dose": float(dose[t]), "scale": float(stage_cosine(series.stage_tilt[t]))})
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
    """Write the tables and the report of all finished units, the one that programs read last; see `contract.Verb`.

    Returns
    -------
    dict
        ``star``: path of the table, or of the optimisation set, None if no particle is left; ``exported``: path of the
        list of the particles in their order; ``kept``: number of particles; ``images``: of images; ``advice``: lines
        about the reader's options; ``dropped``: a line for each particle that is not in it.

    Raises
    ------
    InputError
        If the program that reads them cannot take a value.
    """
    project, chosen, entries, dropped = exported(VERB, options, results)
    series = {one.ts_id: one for one in project}
    folder = os.path.join(options.output, "report")
    os.makedirs(folder, exist_ok=True)
    star = os.path.join(options.output, options.star)
    listed = exportedparticles.path_beside(star)
    out = {"star": None, "exported": None, "kept": len(chosen), "images": 0, "advice": [], "dropped": dropped}
    if not len(chosen):
        for path in {star, listed} | set(_tables(options)):
            atomic.gone(path)  # of an earlier run; it names particles that this one did not export
        return out
    if options.form == "optimisation-set":  # which has the particles of a tilt series together
        rank = {name: i for i, name in enumerate(dict.fromkeys(chosen.names()))}
        order = np.argsort([rank[name] for name in chosen.names()], kind="stable")
        chosen, entries = chosen.select(order), [entries[i] for i in order]
    else:
        for path in set(warptoolsset.names(star)) - {star}:
            atomic.gone(path)  # of an earlier run in the other form; it names a table of particles
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
    views = {r["ts_id"]: r["views"] for r in results if r.get("views")}
    if options.reader == "cryodrgn":
        for tilts in views.values():
            for tilt, scale in zip(tilts, programs.break_ties([tilt["scale"] for tilt in tilts])):
                tilt["scale"] = scale
    return warptoolsset.write_set(star, chosen, [e["group"] for e in entries],
                                  paths_in_table(options, [e["image"] for e in entries]), series, views,
                                  options.pixel_size, options.box)
