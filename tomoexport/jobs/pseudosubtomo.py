"""Extract RELION 5 pseudo-subtomograms: plan, execute one tilt series, collect the tables."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from ..engine.backend import available_cores
from ..engine.copies import copier
from ..engine.fourier import fourier_rescale
from ..engine.poses import matrix_from_zyz, zyz_from_matrix
from ..engine.preprocess import rescaled_shape
from ..engine.pseudosubtomo import (
    cone_weight,
    extract_stacks,
    extract_volumes,
    setup_pseudosubtomos,
    visible_tilts,
    whitening_filter,
)
from ..engine.trajectory import Trajectory
from ..errors import InputError, UnitError
from ..io import atomic, mrc, optimisationset, particlestar, pseudostar, relion5, star
from ..io.manifest import fingerprint
from ..io.motion import read_motion
from ..io.paths import locate, safe_stem, search_folders
from ..io.projected import write_projected
from . import report
from .batches import CUDA_BYTES, GPU_WRITERS, Batches, uploaded
from .memory import budget, workers_that_fit
from .particles import RING, RING_BYTES, Needs, poses_at, recorded
from .pipeline import Pipeline
from .plan import PROCESS_BYTES, Plan, Problem, size, state
from .progress import Progress
from .tiltseries import identity, load, settings

WAITING = 2  # results per thread that may wait to be written
CENTRE_BYTES = 32  # of a line in the table of projected centres


def completed(options):
    """Options with the tables that an optimisation set names.

    Parameters
    ----------
    options : PseudosubtomoOptions

    Returns
    -------
    PseudosubtomoOptions

    Raises
    ------
    InputError
        If the set cannot be read, or tables are not given.
    """
    if options.optimisation_set:
        missing = [name for name in optimisationset.LABELS if not getattr(options, name)]
        options = replace(options, **optimisationset.read_optimisation_set(options.optimisation_set, missing))
    for name, what in (("tomograms", "a tomograms.star"), ("particles", "a particle STAR file")):
        if not getattr(options, name):
            raise InputError("--" + name, "no file is given", "Name %s, or an --optimisation-set" % what)
    return options


def read_inputs(options, only):
    """Read the tables, and move the particles as the options say.

    Parameters
    ----------
    options : PseudosubtomoOptions
    only : list of str or None
        Names of the tilt series asked for.

    Returns
    -------
    options : PseudosubtomoOptions
        With the tables of the optimisation set.
    series : list of TiltSeries
    units : list of plan.Unit
    problems : list of plan.Problem
    particles : ParticleSet
    notes : list of str

    Raises
    ------
    InputError
        If a table is not named, cannot be read or has what is not taken into account.
    """
    options = completed(options)
    own = SimpleNamespace(tomograms=options.tomograms, tomogram_size=options.tomogram_size, pixel_size=float("inf"))
    series, units, problems = load(own, options.ctf, only)
    particles, notes = particlestar.read_particles(options.particles, series,
                                                   allow_loss=options.allow_loss or only is not None)
    if isinstance(particles.trajectory, Trajectory):
        raise InputError(options.particles, "its particles turn while they are exposed, which RELION has no place for",
                         "Use tomoexport subtomo or series, which follow M's trajectories")
    for label in ("rlnOddZernike", "rlnEvenZernike", "rlnBeamTiltX", "rlnBeamTiltY"):
        if any(value.strip("[]0., ") for value in particles.extra.get(label, ())):
            raise InputError(options.particles, "%s is not taken into account" % label,
                             "Extract with RELION, or remove the column")
    if options.apply_orientations and not options.apply_offsets:
        raise InputError("--apply-orientations", "offsets would be in the frame of another box",
                         "Let the offsets be applied as well")
    if not options.apply_offsets:
        turned = np.einsum("nij,nj->ni", _box_rotation(particles), _offsets(particles))
        particles = replace(particles, position=particles.position + turned)
    particles = particles.moved([options.shift_x, options.shift_y, options.shift_z])
    if options.motion:
        particles = replace(particles, trajectory=read_motion(options.motion, particles, series))
    return options, series, units, problems, particles, notes


def crop(options):
    """Side of the output.

    Parameters
    ----------
    options : PseudosubtomoOptions

    Returns
    -------
    int
        Pixels; the box where no crop is asked for.
    """
    return options.crop or options.box


def plan(options, only=None):
    """Plan the extraction.

    Parameters
    ----------
    options : PseudosubtomoOptions
    only : list of str, optional
        Names of the tilt series asked for; all by default.

    Returns
    -------
    plan.Plan
        A unit per tilt series, with its particles and the tilts that show them.

    Raises
    ------
    InputError
        If a table is not named or cannot be read, or the boxes do not go together.
    """
    side = crop(options)
    if side % 2:
        raise InputError("--crop", "%d is odd" % side, "Give an even size; %d is next" % (side + 1))
    if side > options.box:
        raise InputError("--crop", "%d px is more than the box of %d px" % (side, options.box),
                         "Take a smaller crop or a larger --box")
    options, series, units, problems, particles, notes = read_inputs(options, only)
    for name in ("particles.star", "optimisation_set.star", "tomograms.star"):
        target = os.path.join(options.output, name)
        for given in (options.particles, options.tomograms, options.optimisation_set, options.motion):
            if not options.only_project and options.output and given and os.path.exists(target) and (
                    os.path.samefile(target, given)):
                problems.append(Problem("error", target, "it is an input and would be overwritten",
                                        "Choose another --output folder"))
    if options.output and not options.only_project and not _is_relions(options):
        folder = os.path.realpath(os.path.join(options.output, "tilt_series"))
        taken = [path for path in tilt_tables(options) if os.path.dirname(os.path.realpath(path)) == folder]
        problems += [Problem("error", path, "it is an input and would be overwritten", "Choose another --output folder")
                     for path in taken[:1]]
    for one, unit in ((one, unit) for unit in units for one in series if one.ts_id == unit.name):
        strange = _not_honoured(one)
        if strange and not unit.error:
            unit.error = Problem("failed", one.ts_id, "%s is not taken into account" % strange,
                                 "Extract this series with RELION, or remove the column")
            problems.append(unit.error)
        try:
            factors(one)
        except UnitError as error:
            unit.error = Problem("failed", error.item, error.cause, error.remedy)
            problems.append(unit.error)
    problems += [Problem("warning", "particles", note) for note in notes]
    complete = {one.ts_id: one.geometry for one in series}
    out, room, threads = Plan("pseudosubtomo", options, units, problems), budget(options), options.threads
    for unit in units:
        if unit.error:
            continue
        own, g = particles.in_series(unit.name), unit.series.geometry
        exposures = complete[unit.name].dose, complete[unit.name].acq_order
        seen = visible_tilts(g, g.project(poses_at(own, exposures, g)[0]).xy,
                             options.binning * side / 2 * g.pixel_size, options.max_dose or None)
        kept = seen.sum(axis=1) >= options.min_frames
        unit.inputs.update({path: state(path) for path in (options.particles, options.motion) if path})
        unit.work = {"particles": own, "seen": seen, "kept": kept, "exposures": exposures, "room": room, "facts": {
            "particles": "%d of %d kept" % (kept.sum(), len(own)), "pixel": "%g A" % (options.binning * g.pixel_size),
            "box": "%d px" % options.box, "crop": "%d px" % side, "hand": g.hand}}
        if len(own) == 0:
            problems.append(Problem("warning", unit.name, "the table has no particles in this tilt series", ""))
        each = 2 if options.float16 else 4
        unit.disk_bytes = CENTRE_BYTES * int(kept.sum()) * g.n_tilts
        if not options.only_project:
            unit.disk_bytes += int(seen[kept].sum()) * side * side * each if options.stack2d else (
                int(kept.sum()) * each * (side ** 3 + 2 * side * side * (side // 2 + 1)))
        files = [_file_name(uid, unit.name) for uid in own.uid]
        if len(set(files)) < len(files):
            twice = next(name for name in files if files.count(name) > 1)
            problems.append(Problem("error", unit.name, "two particles would be written to %s" % twice,
                                    "Give each a name of its own (rlnTomoParticleName)"))
        if any(int(round(n / g.pixel_size)) % 2 for n in g.volume_size or ()):
            problems.append(Problem("warning", unit.name, "the tomogram's size is odd, where RELION's centre is half a "
                                    "pixel off", "Give rlnTomoSizeX, Y and Z even numbers"))
        window = options.binning * options.box
        if options.exact and abs(window - round(window)) > 1e-6:
            problems.append(Problem("warning", unit.name, "windows of %g px are cut with %d: particles lie off the "
                                    "centre by up to a quarter of a pixel, as in RELION" % (window, int(window + 0.5)),
                                    "Take a binning and a box whose product is whole, or binned images"))
        needs = memory_needs(unit, options)
        if needs.least > room:
            problems.append(Problem("error", unit.name, "one particle at a time needs %s of memory, %s are allowed" % (
                size(needs.least), size(room)), "Allow more with --memory, or take a smaller box"))
        out.memory_bytes = max(out.memory_bytes, needs.peak(room, threads or available_cores()))
        turned = []  # orientations count where volumes or their weights depend on them
        if not options.stack2d:
            turned.append(_box_rotation(own).tolist())
            turned += [own.rotation.tolist()] if options.apply_orientations or options.cone_weight else []
        unit.fingerprint = fingerprint(_settings(options), identity(unit.series), factors(unit.series), list(own.uid),
                                       own.position.tolist(), turned, poses_at(own, exposures, g)[0].tolist())
    if units and not any(unit.error for unit in units) and not any(unit.work["kept"].any() for unit in units):
        problems.append(Problem("warning" if options.only_project else "error", options.particles,
                                "no particle lies within at least %d images" % options.min_frames, "Check the pixel "
                                "size of the coordinates and the tilt series; --only-project draws where they are"))
    return out


def _settings(options):
    """Options that change what is written for a tilt series; those of a cone only where it weighs."""
    values = settings(options)
    if options.stack2d or not options.cone_weight:
        values = {name: value for name, value in values.items() if not name.startswith("cone_")}
    return values


def _not_honoured(series):
    """A column that changes what RELION extracts, and nothing here; empty if there is none."""
    return next((label for label in list(series.tomo_extra) + list(series.extra)
                 if label.startswith("rlnTomoDeformation")), "")


def factors(series):
    """What RELION's table of tomograms says of how its CTFs change.

    Parameters
    ----------
    series : TiltSeries

    Returns
    -------
    slope : float
        Change of defocus with depth: rlnTomoDefocusSlope, 1 where there is none.
    bfactor : float
        A^2 per e/A^2: rlnCtfBfactorPerElectronDose, 0 where there is none.

    Raises
    ------
    UnitError
        If one is no number.
    """
    found = []
    for label, plain in (("rlnTomoDefocusSlope", 1.0), ("rlnCtfBfactorPerElectronDose", 0.0)):
        text = series.tomo_extra.get(label, "")
        try:
            found.append(float(text) if text else plain)
        except ValueError:
            raise UnitError(series.ts_id, "%s is %r" % (label, text), "Correct the table of tomograms") from None
    return tuple(found)


def memory_needs(unit, options):
    """Estimate the memory of one tilt series.

    Parameters
    ----------
    unit : plan.Unit
    options : PseudosubtomoOptions

    Returns
    -------
    particles.Needs
    """
    g, side, b = unit.series.geometry, crop(options), options.box
    if options.only_project:
        return Needs(PROCESS_BYTES, 12 * int(np.prod(g.image_shape)), 0, 0, False)
    shape = [n + 2 * _margin(options) for n in g.image_shape]
    ratio = 1.0 if options.exact else options.binning
    source = int(options.binning * b) if options.exact else b
    result = 4 * (g.n_tilts * side * side if options.stack2d else 2 * side ** 3 + 2 * side * side)
    images = 4 * g.n_tilts * int(np.prod(rescaled_shape(shape, ratio)))
    shared, reader = PROCESS_BYTES + images + 12 * g.n_tilts * b * b, 16 * int(np.prod(shape))
    if options.device.startswith("cuda"):
        return Needs(shared + CUDA_BYTES, reader, RING * result, result, True)
    working = g.n_tilts * (12 * source ** 2 + 24 * b * b) + (0 if options.stack2d else 40 * side ** 3)
    return Needs(shared, reader, working + (1 + WAITING) * result, result, False)


def _margin(options):
    """Pixels by which images are extended; half a window."""
    return 2 * int(np.ceil(options.binning * options.box / 4))


def _box_rotation(particles):
    """Rotation of each particle's box `(N, 3, 3)`: rlnTomoSubtomogramRot, Tilt, Psi."""
    if not any(label in particles.extra for label in particlestar.BOX_ANGLE):
        return np.broadcast_to(np.eye(3), (len(particles), 3, 3))
    zeros = [0.0] * len(particles)
    return matrix_from_zyz(*(np.array(particles.extra.get(label, zeros), np.float64)
                             for label in particlestar.BOX_ANGLE))


def _offsets(particles):
    """rlnOriginX/Y/ZAngst of each particle `(N, 3)`, which its table's reader has applied."""
    labels = [label + "Angst" for label in particlestar.ORIGIN]
    zeros = [0.0] * len(particles)
    return np.stack([np.array(particles.extra.get(label, zeros), np.float64) for label in labels], -1)


def _read_image(stack, path, section):
    image = stack.read(section)
    if not np.isfinite(image).all():
        raise UnitError("%s, section %d" % (path, section + 1), "it has pixels that are NaN or infinite",
                        "Exclude the view or repair the image")
    return image


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
    g, kept, stem = unit.series.geometry, unit.work["kept"], safe_stem(unit.name)
    table = os.path.join(options.output, "projected", stem + ".csv")
    place = xy / g.pixel_size + np.array(g.image_shape[::-1]) // 2
    names = [uid for uid, k in zip(unit.work["particles"].uid, kept) if k]
    write_projected(table, names, rows, place[kept], unit.work["seen"][kept])
    if not len(kept):
        return table, None
    least = int(np.argmax(g.rotation[:, 2, 2]))
    path, section = unit.series.images[least]
    with mrc.open_stack(path) as stack:
        image = _read_image(stack, path, section)
    picture = os.path.join(options.output, "report", "projected_%s.png" % stem)
    report.projected_centres(image, g.pixel_size, place[:, least], kept, options.binning * crop(options) / 2, picture,
                             unit.name, g.tilt[least])
    return table, picture


def tilt_images(series, options, threads, progress):
    """Tilt images with their edge pixels repeated outwards, binned unless windows are.

    Parameters
    ----------
    series : TiltSeries
    options : PseudosubtomoOptions
    threads : int
    progress : Progress

    Returns
    -------
    images : ndarray `(T, h, w)` float32
    pixel : ndarray `(2,)`
        Angstrom along y and x.

    Raises
    ------
    UnitError
        If an image has pixels that are not numbers.
    """
    stacks = {path: mrc.open_stack(path) for path, _ in series.images}
    margin, g = _margin(options), series.geometry

    def one(t):
        path, section = series.images[t]
        image = np.pad(_read_image(stacks[path], path, section), margin, mode="edge")
        ratio = (1.0, 1.0)
        if not options.exact and options.binning > 1:
            image, ratio = fourier_rescale(image, options.binning)
        progress()
        return image, ratio

    def store(t):
        images[t] = one(t)[0]

    try:
        first, ratio = one(0)
        images = np.empty((g.n_tilts,) + first.shape, np.float32)
        images[0] = first
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(store, range(1, g.n_tilts)))
    finally:
        for stack in stacks.values():
            stack.close()
    progress.finish()
    return images, g.pixel_size * np.array(ratio)


def shared_plan(series, images, options, backend):
    """What all particles of a tilt series share.

    Parameters
    ----------
    series : TiltSeries
    images : ndarray `(T, h, w)` float32
        As `tilt_images` gives them.
    options : PseudosubtomoOptions
    backend : Backend

    Returns
    -------
    PseudosubtomoSetup
    """
    g, whitening = series.geometry, None
    if options.whiten:
        ratio = 1.0 if options.exact else options.binning
        edge = int(np.ceil(_margin(options) / ratio))
        inner, side = images[:, edge:-edge, edge:-edge], int(options.binning * options.box / ratio + 0.5)
        if min(inner.shape[1:]) < side:
            raise UnitError(series.ts_id, "its images are smaller than a window", "Take a smaller --box, or do not "
                            "whiten")
        whitening = whitening_filter(inner, side, options.box, ratio)
    return setup_pseudosubtomos(g, series.ctf if options.ctf else None, options.box, crop(options),
                       options.binning * g.pixel_size, options.binning, backend,
                       options.binning if options.exact else 1.0, options.invert, options.circle, options.precrop,
                       whitening, factors(series)[1])


def seen_at(particles, exposures, series, images, pixel):
    """Where particles are seen, and how deep they lie.

    Parameters
    ----------
    particles : ParticleSet
    exposures : (ndarray, ndarray)
        Dose before every exposure of the series, excluded ones too, and their numbers.
    series : TiltSeries
    images : ndarray `(T, h, w)`
    pixel : ndarray `(2,)`
        As `tilt_images` gives them.

    Returns
    -------
    place : ndarray `(N, T, 2)`
        Pixels of the images from their corner, yx.
    depth : ndarray `(N, T)`
        Angstrom added to the defocus.
    """
    g = series.geometry
    found = g.project(poses_at(particles, exposures, g)[0])
    place = (found.xy / pixel[::-1] + np.array(images.shape[:0:-1]) // 2)[..., ::-1]
    # A trajectory moves the image point and leaves the defocus, as in RELION.
    return place, g.hand * factors(series)[0] * g.project(particles.position).depth


def execute(unit, options, backend):
    """Extract the particles of one tilt series.

    Parameters
    ----------
    unit : plan.Unit
        As planned.
    options : PseudosubtomoOptions
    backend : Backend

    Returns
    -------
    dict
        Plain values: ``particles`` (a dict for each with ``uid``, ``kept``, ``reason``, ``frames``, ``image``,
        ``weights``), ``projected`` (the table of projected centres), ``report`` (their picture), ``notes``, ``files``.

    Raises
    ------
    UnitError
        If images cannot be used.
    InputError
        If a particle's name cannot be that of a file.
    """
    particles, kept, seen = unit.work["particles"], unit.work["kept"], unit.work["seen"]
    series, g, side = unit.series, unit.series.geometry, crop(options)
    order = {number: i for i, number in enumerate(unit.work["exposures"][1])}
    rows = [order[number] for number in g.acq_order]
    stems = ["Subtomograms/" + _file_name(uid, unit.name) for uid in particles.uid]
    end = "_stack2d.mrcs" if options.stack2d else "_data.mrc"
    entries = []
    for uid, k, shown, stem in zip(particles.uid, kept, seen, stems):
        frames = np.zeros(len(order), int)
        frames[rows] = shown
        entries.append({"uid": uid, "kept": bool(k), "frames": frames.tolist(), "image": stem + end,
                        "weights": None if options.stack2d else stem + "_weights.mrc",
                        "reason": "" if k else "seen in %d tilts, %d asked for" % (shown.sum(), options.min_frames)})
    found = g.project(poses_at(particles, unit.work["exposures"], g)[0])
    table, picture = _show(unit, options, rows, found.xy)
    result = {"particles": entries, "projected": table, "report": picture, "notes": [], "files": [table]}
    index = np.flatnonzero(kept)
    if options.only_project or not len(index):
        return result
    room, needs = int(options.memory * 1e9) or unit.work["room"], memory_needs(unit, options)
    images, pixel = tilt_images(series, options, workers_that_fit(room, needs.shared, needs.reader, backend.threads),
                            Progress(unit.name + " reading", g.n_tilts, "tilts"))
    output_pixel = options.binning * g.pixel_size
    shared = shared_plan(series, images, options, backend)
    place, depth = seen_at(particles, unit.work["exposures"], series, images, pixel)
    matrix = g.project(particles.position, particles.rotation if options.apply_orientations
                       else _box_rotation(particles)).matrix
    axes = None
    if options.cone_weight:  # the particle's z axis in the frame of its box
        box = particles.rotation if options.apply_orientations else _box_rotation(particles)
        axes = np.einsum("nji,nj->ni", box, particles.rotation[:, :, 2])
    for folder in {os.path.dirname(stem) for stem in stems}:
        os.makedirs(os.path.join(options.output, folder), exist_ok=True)
    progress = Progress(unit.name, len(index), "particles")

    def store(i, data, weights=None):
        path = os.path.join(options.output, entries[i]["image"])
        mrc.write(path, data[seen[i]] if options.stack2d else data, output_pixel, kind="stack", float16=options.float16)
        if weights is not None:
            mrc.write(os.path.join(options.output, entries[i]["weights"]), weights, 1 / output_pixel, kind="stack",
                      float16=options.float16)
        progress()

    copies = copier(backend, RING)
    backend.keep_plans()
    held = uploaded(images, copies, backend)
    most = max(1, min(RING_BYTES, (room - needs.shared) // RING) // needs.result)
    sizes = Batches(backend, _bytes_per_particle(options, shared, g.n_tilts), most)
    groups = [index]
    if not options.stack2d:  # those of one call must be seen in the same tilts
        patterns, which = np.unique(seen[index], axis=0, return_inverse=True)
        groups = [index[which.reshape(-1) == n] for n in range(len(patterns))]

    def compute(some):
        def work(part):
            where = held, shared, place[part], depth[part]
            if options.stack2d:
                made = [extract_stacks(*where, seen[part], backend)]
            else:
                cone = None if axes is None else cone_weight(side, axes[part], options.cone_angle, options.cone_sigma)
                data, weight, count = extract_volumes(*where, matrix[part], seen[part], backend, cone)
                made = [data, backend.xp.concatenate([weight, count], axis=1)]
            pipeline.deliver(part, copies.fetch(*made))

        sizes.run(work, some, copies.drain)

    workers = 1 if backend.on_gpu else workers_that_fit(room, needs.shared, needs.worker, backend.threads)
    pipeline = Pipeline(store, GPU_WRITERS if backend.on_gpu else workers, RING if backend.on_gpu else
                        WAITING * workers, backend.activate)
    pipeline.run((some for group in groups for some in sizes.split(group)), compute, workers)
    progress.finish()
    result["files"] += [os.path.join(options.output, entries[i][name]) for i in index for name in ("image", "weights")
                        if entries[i][name]]
    return result


def _bytes_per_particle(options, shared, n_tilts):
    """Device memory of one particle: windows and transforms, cells, volumes, results on their way to the host."""
    windows = n_tilts * (shared.source ** 2 * 4 * 3 + shared.box ** 2 * 4 * 6)
    if options.stack2d:
        return windows + RING * 4 * n_tilts * shared.crop ** 2
    return windows + (shared.crop + 4) ** 2 * (shared.crop // 2 + 2) * 16 + (6 + 2 * RING) * 4 * shared.crop ** 3


def _file_name(uid, ts_id):
    """A particle's name as that of its files."""
    name = uid if "/" in uid else "%s/%s" % (ts_id, uid)
    if os.path.isabs(name) or any(part in ("", ".", "..") for part in name.split("/")):
        raise InputError("particle %s" % uid, "its name cannot be that of a file",
                         "Names are like TS_01/17 (rlnTomoParticleName)")
    return name


def collect(options, results):
    """Write the particle table, the optimisation set and the report; the set comes last.

    Parameters
    ----------
    options : PseudosubtomoOptions
    results : list of dict
        As `execute` returned them.

    Returns
    -------
    dict
        ``star``: path of the particle table and ``optimisation_set``, None if no particle is left or nothing was
        extracted; ``projected``: folder of the projected centres; ``kept``: number; ``dropped``: a line for each
        particle that is not in the table.
    """
    options, series, _, _, particles, _ = read_inputs(options, None)
    entry, kept, dropped = recorded(particles, results)
    names = particles.names()
    # RELION groups particles by tomogram, in the order of these.
    rows = [i for one in series for i in kept if names[i] == one.ts_id]
    table, whole = (os.path.join(options.output, name) for name in ("particles.star", "optimisation_set.star"))
    out = {"star": None, "optimisation_set": None, "projected": os.path.join(options.output, "projected"),
           "kept": len(rows), "dropped": dropped}
    if options.only_project:
        return out
    if not rows:
        for path in (table, whole):
            if os.path.exists(path):
                os.remove(path)  # of an earlier run; it names particles that this one did not extract
        return out
    chosen = particles.select(np.array(rows))
    entries = [entry[uid] for uid in chosen.uid]
    if options.apply_orientations:
        angles = zyz_from_matrix(chosen.rotation)
        extra = dict(chosen.extra, **{label: a.tolist() for label, a in zip(particlestar.BOX_ANGLE, angles)})
        chosen = replace(chosen, extra=dict(extra, **dict.fromkeys(particlestar.ANGLE, [0.0] * len(chosen))))
    groups = {one.ts_id: (one.optics_group, one.optics, one.geometry.pixel_size) for one in series}
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
        options.ctf or not options.stack2d, None if options.apply_offsets else _offsets(chosen))
    optimisationset.write_optimisation_set(whole, particles=table, tomograms=_relions(options, series), motion=motion)
    return dict(out, star=table, optimisation_set=whole)


def _named_tables(options):
    """The tables of tilt series as a table of tomograms names them; none in Warp's and IMOD's files."""
    if os.path.isdir(options.tomograms) or not options.tomograms.endswith(".star"):
        return []
    return [path for block in star.read(options.tomograms) if block.has("rlnTomoTiltSeriesStarFile")
            for path in block.text("rlnTomoTiltSeriesStarFile")]


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
    return [locate(path, search_folders(options.tomograms)) for path in _named_tables(options)]


def _is_relions(options):
    """Tell whether RELION 5 can read the table of tomograms that was given.

    RELION looks for what tables name from where it runs, which is taken for the folder that we run in.
    """
    tables = _named_tables(options)
    return bool(tables) and all(os.path.exists(path) for path in tables) and all(
        os.path.exists(image.rpartition("@")[2]) for path in tables for block in star.read(path)
        if block.has("rlnMicrographName") for image in set(block.text("rlnMicrographName")))


def _relions(options, series):
    """A table of tomograms that RELION 5 can read: the one that was given or one of our own."""
    return options.tomograms if _is_relions(options) else str(
        relion5.write_project(options.output, series, paths="absolute"))
