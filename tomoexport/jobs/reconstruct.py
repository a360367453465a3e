"""Reconstruct whole tomograms: plan, execute one tilt series, collect."""

import os
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from ..engine.backend import Backend, available_cores
from ..engine.preprocess import rescaled_shape
from ..engine.tomogram import GPU_THREADS, plan_tomogram, reconstruct_tomogram, tomogram_bytes
from ..engine.weights import odd_even_groups
from ..errors import InputError
from ..io import mrc
from ..io.manifest import fingerprint
from ..io.paths import safe_stem
from . import report
from .memory import budget
from .plan import PROCESS_BYTES, Plan, Problem, size
from .progress import Progress
from .series import identity, load, prepare, settings

LABEL = "tomoexport reconstruct"


def plan(options, only=None):
    """Plan the tomograms.

    Parameters
    ----------
    options : ReconstructOptions
    only : list of str, optional
        Names of the tilt series asked for; all by default.

    Returns
    -------
    plan.Plan
        A unit per tilt series.

    Raises
    ------
    InputError
        If the table of tomograms is not named or cannot be read.
    """
    _, units, problems = load(options, options.ctf != "none", only)
    out, room = Plan("reconstruct", options, units, problems), budget(options)
    for unit in units:
        if unit.error:
            continue
        unit.series = sized(unit.series, options)
        g = unit.series.geometry
        tomogram = plan_tomogram(g, options.pixel_size, None if options.ctf == "none" else unit.series.ctf)
        volumes = 3 if options.halves else 1
        unit.disk_bytes = 4 * volumes * int(np.prod(tomogram.shape))
        try:
            least, best, held = memory_bytes(unit.series, options, tomogram)
        except InputError as error:  # its geometry cannot be reconstructed; the others go on
            unit.error = Problem("failed", unit.name, error.cause, error.remedy)
            problems.append(unit.error)
            continue
        out.memory_bytes = max(out.memory_bytes, max(least, min(best, room)))
        if least > room:
            problems.append(Problem("failed", unit.name, "it needs at least %s of memory, %s are allowed"
                                    % (size(least), size(room)),
                                    "Allow more with --memory, use fewer --threads, or take larger voxels"))
            unit.error = problems[-1]
            continue
        unit.work = {"plan": tomogram, "facts": {
            "tomogram": "%d x %d x %d voxels" % tomogram.shape[::-1], "pixel": "%g A" % options.pixel_size,
            "CTF": options.ctf, "slabs": tomogram.n_slabs, "hand": options.hand or g.hand},
            "room": max(room, least) - held}
        if options.halves and g.n_tilts < 2:
            problems.append(Problem("warning", unit.name, "it has one tilt: the even half is empty",
                                    "Switch the halves off for such series"))
        unit.fingerprint = fingerprint(settings(options), identity(unit.series))
    return out


def memory_bytes(series, options, tomogram):
    """Memory that a reconstruction takes.

    Parameters
    ----------
    series : TiltSeries
    options : ReconstructOptions
    tomogram : engine.tomogram.TomogramPlan

    Returns
    -------
    least, best, held : int
        Bytes: without which it cannot be made, with which it is made in one go, and those of them that are taken
        before the reconstruction begins.
    """
    g = series.geometry
    shape = rescaled_shape(g.image_shape, options.pixel_size / g.pixel_size)
    threads = options.threads or available_cores()
    if options.device not in ("cpu", "numpy"):
        threads = max(threads, GPU_THREADS)  # that many hand pieces on
    stack = 4 * g.n_tilts * int(np.prod(shape))
    held = PROCESS_BYTES + stack
    # Reading needs an image with its transform in every thread; they are gone before the rest begins.
    reading = threads * 14 * int(np.prod(g.image_shape))
    least, best = tomogram_bytes(shape, g, None if options.ctf == "none" else series.ctf, tomogram,
                                 Backend("cpu", threads=threads), 2 if options.halves and g.n_tilts > 1 else 1,
                                 iterations(options))
    return held + max(reading, least), held + max(reading, best), held


def iterations(options):
    """Iterations of SIRT, 0 for back-projection alone.

    Parameters
    ----------
    options : ReconstructOptions

    Returns
    -------
    int
    """
    return options.iterations if options.method == "sirt" else 0


def sized(series, options):
    """The series with the tomogram dimensions that the options ask for.

    Parameters
    ----------
    series : TiltSeries
    options : ReconstructOptions

    Returns
    -------
    TiltSeries
    """
    g = series.geometry
    wanted = (options.size_x, options.size_y, options.size_z)
    extent = tuple(n * g.pixel_size if n else s for n, s in zip(wanted, g.volume_size))
    return replace(series, geometry=g.replace(volume_size=extent))


def outputs(unit, options):
    """Where the tomograms of a unit go.

    Parameters
    ----------
    unit : plan.Unit
    options : ReconstructOptions

    Returns
    -------
    dict of str to str
        Path of ``tomogram``, and of ``odd`` and ``even`` if asked for.
    """
    folder = os.path.join(options.output, "reconstruction")
    name = "%s_%.2fApx.mrc" % (safe_stem(unit.name), options.pixel_size)
    out = {"tomogram": os.path.join(folder, name)}
    if options.halves:
        out.update({half: os.path.join(folder, half, name) for half in ("odd", "even")})
    return out


def execute(unit, options, backend):
    """Reconstruct one tilt series, and write its tomograms and figure.

    Parameters
    ----------
    unit : plan.Unit
    options : ReconstructOptions
    backend : Backend

    Returns
    -------
    dict
        Plain values: paths as `outputs`, ``pixel_size`` (A), ``centre`` (where the tomogram centre is, voxels xyz),
        ``shape`` (zyx), ``tilts``, ``notes``, ``files``.

    Raises
    ------
    UnitError
        If images cannot be used.
    """
    stack, series, notes = prepare(unit.series, options, options.normalize, backend,
                                   Progress(unit.name + " reading", unit.series.geometry.n_tilts, "tilts"))
    g = series.geometry
    tomogram = unit.work["plan"]
    group = odd_even_groups(g.tilt, g.used) if options.halves else None
    if options.halves and g.n_tilts < 2:
        group = None
    paths = outputs(unit, options)
    progress = Progress(unit.name, tomogram.shape[1], "rows")
    with ExitStack() as files:
        writers = [files.enter_context(mrc.VolumeWriter(path, tomogram.shape, options.pixel_size, label=LABEL))
                   for path in paths.values()]

        def put(z, y, pieces):
            if options.halves and len(pieces) == 1:  # a single tilt
                pieces = [pieces[0], pieces[0], np.zeros_like(pieces[0])]
            for writer, piece in zip(writers, pieces):
                writer.put(z, piece, y)

        reconstruct_tomogram(stack, g.replace(hand=options.hand or g.hand), series.ctf, tomogram, backend,
                             options.ctf, options.dose_weighting, group, progress, iterations(options),
                             unit.work["room"] // max(1, options.device.count(",") + 1), put)
    progress.finish()
    picture = os.path.join(options.output, "report", safe_stem(unit.name) + "_slices.png")
    os.makedirs(os.path.dirname(picture), exist_ok=True)
    report.tomogram_slices(paths["tomogram"], options.pixel_size, picture)
    return dict(paths, pixel_size=options.pixel_size, centre=tomogram.centre.tolist(),
                shape=list(tomogram.shape), tilts=int(g.n_tilts), ctf=options.ctf, method=options.method, notes=notes,
                report=picture, files=list(paths.values()))


def collect(options, results):
    """Summarise the results of all units.

    Parameters
    ----------
    options : ReconstructOptions
    results : list of dict
        As `execute` returned them.

    Returns
    -------
    dict
        ``tomograms``: paths of those that did not fail.
    """
    return {"tomograms": [r["tomogram"] for r in results if r["status"] != "failed"]}
