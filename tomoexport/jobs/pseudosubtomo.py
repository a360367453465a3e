"""Extract RELION 5 pseudo-subtomograms: plan, execute one tilt series, collect the tables."""

import os
import shutil
from dataclasses import fields, replace

import numpy as np

from ..engine.backend import insists_on_gpu
from ..engine.poses import zyz_from_matrix
from ..engine.preprocess import fill_bad_pixels
from ..engine.pseudosubtomo import cone_weight, extract_stacks, extract_volumes
from ..errors import InputError, UnitError
from ..io import atomic, mrc, optimisationset, particlestar, pseudostar, relion5
from ..io.paths import safe_stem
from ..io.projected import write_projected
from ..options import TiltSeriesOptions
from . import report, windows
from .batches import CUDA_BYTES
from .extraction import WAITING, Extraction, entries_of, make_folders
from .particles import RING, MemoryNeeds, ParticleVerb, exported, overwritten, plan_particles, poses_at
from .plan import PROCESS_BYTES, Problem
from .tiltseries import source
from .windows import box_rotation, completed, crop, offsets

CENTRE_BYTES = 32  # of a line in the table of projected centres
#: Kept in data_optics, for the refinement corrects them once; so are odd phases of 2D images.
IN_OPTICS = ("rlnBeamTiltX", "rlnBeamTiltY", "rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")
TABLES = ("particles.star", "optimisation_set.star", "tomograms.star")


def plan(options, only=None):
    """Plan the extraction; see `contract.Verb`.

    Raises
    ------
    InputError
        If a table is not named or cannot be read, or the boxes do not go together.
    """
    options = completed(options)
    if options.apply_orientations and not options.apply_offsets:
        raise InputError("--apply-orientations", "offsets would be in the frame of another box",
                         "Let the offsets be applied as well")
    return plan_particles(VERB, options, only)


def _describe(unit, work, options, reach, problems):
    """Names, room on disk and in memory of a tilt series; see `ParticleVerb`."""
    g, side, kept = unit.series.geometry, crop(options), int(work.kept.sum())
    windows.describe(unit, work, options, problems)
    if g.deformation is not None and not options.only_project:
        problems.append(Problem("warning", unit.name, "its local alignment shapes the images, and the table for RELION "
                                "beside them cannot hold it", "Refine these images in RELION, but extract them again, "
                                "and refine CTF and motion, from its own alignment only"))
    unit.disk_bytes = CENTRE_BYTES * kept * g.n_tilts
    if not options.only_project:
        each = 2 if options.float16 else 4
        unit.disk_bytes += int(work.seen[work.kept].sum()) * side * side * each if options.stack2d else (
            kept * each * (side ** 3 + 2 * side * side * (side // 2 + 1)))
    files = [_file_name(uid, unit.name) for uid in work.particles.uid]
    if len(set(files)) < len(files):
        twice = next(name for name in files if files.count(name) > 1)
        problems.append(Problem("error", unit.name, "two particles would be written to %s" % twice,
                                "Give each a name of its own (rlnTomoParticleName)"))
    return replace(work, needs=memory_needs(g, options))


def _matters(options, work):
    """Orientations count where volumes or their weights depend on them."""
    if options.stack2d:
        return []
    turned = options.apply_orientations or options.cone_weight
    return [box_rotation(work.particles)] + ([work.particles.rotation] if turned else [])


def _check(options, particles):
    """Tables of tilt series that would be replaced; see `ParticleVerb`."""
    if not options.output or options.only_project or not _writes_tilt_tables(options):
        return []
    return overwritten(options, [os.path.join("tilt_series", os.path.basename(path))
                                 for path in tilt_tables(options)], tilt_tables(options))[:1]


def _requirements(options):
    """What images need, and what the table of optics groups says."""
    return replace(windows.requirements(options), optics=not options.only_project)


VERB = ParticleVerb(
    "pseudosubtomo", windows.within_the_circle, "min_frames", "box", _requirements, _describe, _matters, _check,
    windows.adjusted, writes=lambda options: [] if options.only_project else TABLES,
    follows=lambda options: IN_OPTICS + (("rlnOddZernike",) if options.stack2d else ()))


def memory_needs(geometry, options):
    """Estimate the memory of one tilt series.

    Parameters
    ----------
    geometry : TiltSeriesGeometry
        With the tilts that are used.
    options : PseudosubtomoOptions

    Returns
    -------
    MemoryNeeds
    """
    g, side, b = geometry, crop(options), options.box
    if options.only_project:
        return MemoryNeeds(PROCESS_BYTES, 12 * int(np.prod(g.image_shape)), 0, 0, False)
    shared, reader = _windows(options).image_bytes(g)
    result = 4 * (g.n_tilts * side * side if options.stack2d else 2 * side ** 3 + 2 * side * side)
    if insists_on_gpu(options.device):
        return MemoryNeeds(shared + CUDA_BYTES, reader, RING * result, result, True)
    source = int(options.binning * b) if options.exact else b
    working = g.n_tilts * (12 * source ** 2 + 24 * b * b) + (0 if options.stack2d else 40 * side ** 3)
    return MemoryNeeds(shared, reader, working + (1 + WAITING) * result, result, False)


def _windows(options):
    return windows.Windows.of(options, options.circle, options.precrop)


def _show(unit, options, rows, xy):
    """Write and draw where particles are seen: before the images are worked on, so that wrong inputs show early.

    Parameters
    ----------
    unit : plan.Unit
    options : PseudosubtomoOptions
    rows : list of int
        Row of each of T tilts in the table of the tilt series.
    xy : ndarray `(N, T, 2)`
        Angstrom from the image centre.

    Returns
    -------
    table, picture : str
        The picture is None where there are no particles.
    """
    g, work, stem = unit.series.geometry, unit.work, safe_stem(unit.name)
    kept = work.kept
    table = os.path.join(options.output, "projected", stem + ".csv")
    place = xy / g.pixel_size + np.array(g.image_shape[::-1]) // 2
    names = [uid for uid, k in zip(work.particles.uid, kept) if k]
    write_projected(table, names, rows, place[kept], work.seen[kept])
    if not len(kept):
        return table, None
    least = int(np.argmax(g.rotation[:, 2, 2]))
    path, section = unit.series.images[least]
    with mrc.open_stack(path) as stack:
        image = stack.read(section)
    if not np.isfinite(image).all():
        if options.bad_pixels != "fill":
            raise UnitError("%s, section %d" % (path, section + 1), "%d of %d pixels are NaN or infinite" % (
                (~np.isfinite(image)).sum(), image.size), "Exclude the view, repair the image, or use --bad-pixels "
                "fill")
        fill_bad_pixels(image)
    picture = os.path.join(options.output, "report", "projected_%s.png" % stem)
    report.projected_centres(image, g.pixel_size, place[:, least], kept, options.binning * crop(options) / 2, picture,
                             unit.name, g.tilt[least])
    return table, picture


def execute(unit, options, backend):
    """Extract the particles of one tilt series; see `contract.Verb`.

    Returns
    -------
    dict
        Plain values: ``particles`` (a dict for each with ``uid``, ``kept``, ``reason``, ``tilts``, ``frames``,
        ``image``, ``weights``), ``projected`` (the table of projected centres), ``report`` (their picture), ``notes``,
        ``files``.

    Raises
    ------
    UnitError
        If images cannot be used.
    InputError
        If a particle's name cannot be that of a file.
    """
    work, whole = unit.work, unit.series.geometry
    order = {number: i for i, number in enumerate(work.exposures[1])}
    stems = ["Subtomograms/" + _file_name(uid, unit.name) for uid in work.particles.uid]
    end = "_stack2d.mrcs" if options.stack2d else "_data.mrc"
    entries = entries_of(unit, [{"image": stem + end, "weights": None if options.stack2d else stem + "_weights.mrc"}
                                for stem in stems])
    table, picture = _show(unit, options, [order[number] for number in whole.acq_order], whole.project(
        poses_at(work.particles, work.exposures, whole)[0]).xy)
    result = {"particles": entries, "projected": table, "report": picture, "notes": [], "files": [table]}
    _note_frames(entries, work.seen, whole, order)
    if options.only_project or not work.kept.any():
        return result
    how = _windows(options)
    run = Extraction(unit, options, backend, entries, how.preparation(whole.pixel_size, options.bad_pixels))
    result["notes"] = run.notes
    _note_frames(entries, run.seen, run.series.geometry, order)
    output_pixel = options.binning * whole.pixel_size
    make_folders(options, stems)

    def store(i, data, weights=None):
        path = os.path.join(options.output, entries[i]["image"])
        mrc.write(path, data[run.seen[i]] if options.stack2d else data, output_pixel, kind="stack",
                  float16=options.float16)
        if weights is not None:
            mrc.write(os.path.join(options.output, entries[i]["weights"]), weights, 1 / output_pixel, kind="stack",
                      float16=options.float16)

    setup, (place, depth) = how.setup(run.series, run.stack.images, backend), windows.seen_at(run)
    make, groups = _stacks(run, setup, place, depth) if options.stack2d else _volumes(run, options, setup, place, depth)
    run.write(groups, make, store, _bytes_per_particle(options, setup, run.series.geometry.n_tilts))
    result["files"] += [os.path.join(options.output, entries[i][name]) for i in run.index
                        for name in ("image", "weights") if entries[i][name]]
    return result


def _note_frames(entries, seen, geometry, order):
    """Note for each particle which of all tilts of the series it is cut out of, by their rows."""
    rows = [order[number] for number in geometry.acq_order]
    for entry, shown in zip(entries, seen):
        frames = np.zeros(len(order), int)
        frames[rows] = shown
        entry["frames"] = frames.tolist()


def _stacks(run, setup, place, depth):
    """What makes 2D stacks of some particles, and groups of those."""
    images = run.upload()

    def make(_, part):
        return [extract_stacks(images, setup, place[part], depth[part], run.seen[part], run.backend)]

    return make, [(None, run.index)]


def _volumes(run, options, setup, place, depth):
    """What makes 3D sums of some particles, and groups of those that the same tilts show."""
    images, xp, particles = run.upload(), run.backend.xp, run.particles
    box = particles.rotation if options.apply_orientations else box_rotation(particles)
    matrix, axes = run.series.geometry.project(particles.position, box).matrix, None
    if options.cone_weight:  # the particle's z axis in the frame of its box
        axes = np.einsum("nji,nj->ni", box, particles.rotation[:, :, 2])

    def make(_, part):
        cone = None if axes is None else cone_weight(crop(options), axes[part], options.cone_angle, options.cone_sigma)
        data, weight, count = extract_volumes(images, setup, place[part], depth[part], matrix[part], run.seen[part],
                                              run.backend, cone)
        return data, xp.concatenate([weight, count], axis=1)

    return make, run.alike()


def _bytes_per_particle(options, setup, n_tilts):
    """Device memory of one particle: windows and transforms, cells, volumes, results on their way to the host."""
    cut = n_tilts * (setup.source ** 2 * 4 * 3 + setup.box ** 2 * 4 * 6)
    if options.stack2d:
        return cut + RING * 4 * n_tilts * setup.crop ** 2
    return cut + (setup.crop + 4) ** 2 * (setup.crop // 2 + 2) * 16 + (6 + 2 * RING) * 4 * setup.crop ** 3


def _file_name(uid, ts_id):
    """A particle's name as that of its files."""
    name = uid if "/" in uid else "%s/%s" % (ts_id, uid)
    if os.path.isabs(name) or any(part in ("", ".", "..") for part in name.split("/")):
        raise InputError("particle %s" % uid, "its name cannot be that of a file",
                         "Names are like TS_01/17 (rlnTomoParticleName)")
    return name


def collect(options, results):
    """Write the particle table, the optimisation set and the report; the set comes last; see `contract.Verb`.

    Returns
    -------
    dict
        ``star``: path of the particle table and ``optimisation_set``, None if no particle is left or nothing was
        extracted; ``projected``: folder of the projected centres; ``kept``: number; ``dropped``: a line for each
        particle that is not in the table.
    """
    options = completed(options)
    project, particles, entries, dropped = exported(VERB, options, results)
    names = particles.names()
    # RELION groups particles by tomogram, in the order of these.
    rows = [i for one in project for i, name in enumerate(names) if name == one.ts_id]
    table, whole = (os.path.join(options.output, name) for name in ("particles.star", "optimisation_set.star"))
    out = {"star": None, "optimisation_set": None, "projected": os.path.join(options.output, "projected"),
           "kept": len(rows), "dropped": dropped}
    if options.only_project:
        return out
    if not rows:
        for path in (table, whole):
            atomic.gone(path)  # of an earlier run; it names particles that this one did not extract
        return out
    chosen = particles.select(np.array(rows, int))
    entries = [entries[i] for i in rows]
    if options.apply_orientations:
        angles = zyz_from_matrix(chosen.rotation)
        extra = dict(chosen.extra, **{label: a.tolist() for label, a in zip(particlestar.BOX_ANGLE, angles)})
        chosen = replace(chosen, extra=dict(extra, **dict.fromkeys(particlestar.ANGLE, [0.0] * len(chosen))))
    groups = {one.ts_id: (one.optics_group, one.optics, one.geometry.pixel_size) for one in project}
    report.tilts_per_particle([sum(e["frames"]) for e in entries],
                              os.path.join(options.output, "report", "tilts_per_particle.png"))
    motion = None
    if options.motion:
        motion = os.path.join(options.output, "motion.star")
        if not (os.path.exists(motion) and os.path.samefile(options.motion, motion)):
            with atomic.staged(motion) as temp:
                shutil.copyfile(options.motion, temp)
    pseudostar.write_pseudosubtomos(
        table, chosen, groups, [os.path.join(options.output, e["image"]) for e in entries],
        None if options.stack2d else [os.path.join(options.output, e["weights"]) for e in entries],
        [e["frames"] for e in entries], options.binning, crop(options),
        options.ctf or not options.stack2d, None if options.apply_offsets else offsets(chosen))
    optimisationset.write_optimisation_set(whole, particles=table, tomograms=_relions(options, project), motion=motion)
    return dict(out, star=table, optimisation_set=whole)


def tilt_tables(options):
    """The tables of tilt series that a table of tomograms names.

    Parameters
    ----------
    options : PseudosubtomoOptions
        As `completed` gives them.

    Returns
    -------
    list of str
        Paths; none for Warp's and IMOD's files.
    """
    tables = source(options)
    if not isinstance(tables, relion5.RelionTables):
        return []
    return [path for name in tables.names for path in tables.files(name)[1:]]


def _writes_tilt_tables(options):
    """Whether RELION cannot read the table of tomograms that was given, so that one of our own is written.

    Statements about local alignment that were ignored are no reason: RELION follows what its own tables say.
    """
    return not source(options).relion_finds_it() or _is_given_more(options)


def _is_given_more(options):
    """Whether options say what the tables do not, which RELION would not know of."""
    plain = TiltSeriesOptions()
    return any(getattr(options, spec.name) != spec.default for spec in fields(plain)
               if spec.name not in ("tomograms", "ignore"))


def _relions(options, series):
    """A table of tomograms that RELION 5 can read: the one that was given or one of our own."""
    return str(relion5.write_project(options.output, series, paths="absolute")) if _writes_tilt_tables(options) else (
        options.tomograms)
