"""Reconstruct whole tomograms: plan, execute one tilt series, collect."""

import os
from dataclasses import replace

import numpy as np

from ..engine.backend import available_cores
from ..engine.preprocess import rescaled_shape
from ..engine.tomogram import ROW_BYTES, plan_tomogram, reconstruct_tomogram
from ..engine.weights import odd_even_groups
from ..io import mrc
from ..io.manifest import fingerprint
from ..io.paths import safe_stem
from . import report
from .plan import PROCESS_BYTES, Plan, Problem
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
    out = Plan("reconstruct", options, units, problems)
    for unit in units:
        if unit.error:
            continue
        unit.series = sized(unit.series, options)
        g = unit.series.geometry
        tomogram = plan_tomogram(g, options.pixel_size, None if options.ctf == "none" else unit.series.ctf)
        volumes = 3 if options.halves else 1
        voxels = int(np.prod(tomogram.shape))
        h, w = rescaled_shape(g.image_shape, options.pixel_size / g.pixel_size)
        unit.disk_bytes = 4 * volumes * voxels
        threads = options.threads or available_cores()
        out.memory_bytes = max(out.memory_bytes, PROCESS_BYTES + ROW_BYTES + 4 * (
            g.n_tilts * h * w + volumes * voxels) + threads * max(
                12 * int(np.prod(g.image_shape)), 40 * tomogram.n_slabs * h * w))
        unit.work = {"plan": tomogram, "facts": {
            "tomogram": "%d x %d x %d voxels" % tomogram.shape[::-1], "pixel": "%g A" % options.pixel_size,
            "CTF": options.ctf, "slabs": tomogram.n_slabs, "hand": options.hand or g.hand}}
        if options.halves and g.n_tilts < 2:
            problems.append(Problem("warning", unit.name, "it has one tilt: the even half is empty",
                                    "Switch the halves off for such series"))
        unit.fingerprint = fingerprint(settings(options), identity(unit.series))
    return out


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
    progress = Progress(unit.name, g.n_tilts, "tilts")
    volumes = reconstruct_tomogram(stack, g.replace(hand=options.hand or g.hand), series.ctf, tomogram, backend,
                                   options.ctf, options.dose_weighting, group, progress)
    if options.halves and len(volumes) == 1:
        volumes += [volumes[0], np.zeros_like(volumes[0])]
    progress.finish()
    paths = outputs(unit, options)
    for path, volume in zip(paths.values(), volumes):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_volume(path, volume, options.pixel_size)
    picture = os.path.join(options.output, "report", safe_stem(unit.name) + "_slices.png")
    os.makedirs(os.path.dirname(picture), exist_ok=True)
    report.tomogram_slices(volumes[0], options.pixel_size, picture)
    return dict(paths, pixel_size=options.pixel_size, centre=tomogram.centre.tolist(),
                shape=list(tomogram.shape), tilts=int(g.n_tilts), ctf=options.ctf, notes=notes, report=picture,
                files=list(paths.values()))


def write_volume(path, volume, pixel_size):
    """Write a tomogram slab by slab, so that no second copy of it is in memory.

    Parameters
    ----------
    path : str
    volume : ndarray `(nz, ny, nx)` float32
    pixel_size : float
        Angstrom.
    """
    with mrc.VolumeWriter(path, volume.shape, pixel_size, label=LABEL) as writer:
        for z in range(0, len(volume), 16):
            writer.put(z, np.ascontiguousarray(volume[z:z + 16]))


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
