"""Reconstruct whole tomograms: plan, execute one tilt series, collect."""

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from ..engine.backend import Backend, available_cores, count_devices
from ..engine.coverage import keep_covered
from ..engine.deconvolve import deconvolve, typical_defocus
from ..engine.preprocess import rescaled_shape
from ..engine.tomogram import (
    GPU_THREADS,
    TomogramSetup,
    reconstruct_tomogram,
    setup_tomogram,
    tomogram_bytes,
)
from ..engine.weights import odd_even_groups
from ..errors import InputError
from ..io import atomic, mrc
from ..io.manifest import Manifest, fingerprint
from ..io.paths import safe_stem
from ..io.tiltseries import ALL, HALVES
from . import report
from .memory import budget
from .plan import PROCESS_BYTES, RESULTS, Plan, Problem, size, state
from .progress import Progress
from .tiltseries import Preparation, Requirements, hand_of, identity, load, prepare, settings, source

LABEL = "tomoexport reconstruct"
#: Outputs that are made, and kept, together.
GROUPS = {"tomogram": ("tomogram",), "halves": ("odd", "even"), "deconv": ("deconv",)}


@dataclass(frozen=True, eq=False)
class TomogramWork:
    """A tomogram that is to be made.

    Attributes
    ----------
    setup : engine.tomogram.TomogramSetup
    room : int
        Memory that its pieces may take, bytes.
    """

    setup: TomogramSetup
    room: int


def plan(options, only=None):
    """Plan the tomograms, a unit per tilt series; see `contract.Verb`.

    Raises
    ------
    InputError
        If the table of tomograms is not named or cannot be read.
    """
    if options.deconvolve and options.ctf == "wiener":
        raise InputError("--deconvolve", "the Wiener filter of --ctf wiener has restored the amplitudes already",
                         "Choose --ctf phaseflip, or leave one of the two out")
    sides = (options.size_x, options.size_y, options.size_z)
    frames = options.halves and options.halves_by == "frames"
    corrected = with_ctf(options)
    _, units, problems = load("reconstruct", options, Requirements(
        ctf=corrected, local=False, images=HALVES if frames else ALL, pixel_size=options.pixel_size), only,
        sides if all(sides) else None)
    if options.ctf != "none" and not corrected:
        problems.append(Problem("warning", options.tomograms, "it has no CTF: tomograms are made without CTF "
                                "correction", "--ctf none says so"))
    out, devices = Plan("reconstruct", options, units, problems), count_devices(options.device)
    room = budget(options) // devices
    for unit in units:
        try:
            if not unit.error:
                _plan_unit(unit, options, room, out)
        except InputError as error:  # its geometry cannot be reconstructed; the others go on
            unit.error = Problem("failed", unit.name, error.cause, error.remedy)
            problems.append(unit.error)
    out.memory_bytes *= devices
    return out


def with_ctf(options):
    """Whether the CTF is corrected: it is asked for, and the program that aligned the series tells it.

    Parameters
    ----------
    options : ReconstructOptions

    Returns
    -------
    bool
    """
    if options.deconvolve:
        return True
    return options.ctf != "none" and (not options.tomograms or source(options).HAS_CTF)


def correction(options, series):
    """How the CTF of a tilt series is corrected.

    Parameters
    ----------
    options : ReconstructOptions
    series : TiltSeries

    Returns
    -------
    str
        Key of `engine.kernels.CTF_MODES`.
    """
    return "none" if series.ctf is None else options.ctf


def _plan_unit(unit, options, room, out):
    """Work, facts, sizes and fingerprint of one tilt series."""
    unit.series = sized(unit.series, options)
    g = unit.series.geometry
    if options.halves and options.halves_by == "frames" and (unit.series.odd is None or unit.series.even is None):
        raise InputError(unit.name, "it names no images of odd and even frames (rlnMicrographNameOdd, "
                         "rlnMicrographNameEven)", "Use --halves-by tilts")
    tomogram = setup_tomogram(g, options.pixel_size, None if options.ctf == "none" else unit.series.ctf)
    unit.disk_bytes = 4 * (1 + 2 * options.halves + options.deconvolve) * int(np.prod(tomogram.shape))
    least, best, held = memory_bytes(unit.series, options, tomogram)
    out.memory_bytes = max(out.memory_bytes, max(least, min(best, room)))
    if least > room:
        raise InputError(unit.name, "it needs at least %s of memory, %s are allowed" % (size(least), size(room)),
                         "Allow more with --memory, use fewer --threads, or take larger voxels")
    unit.work = TomogramWork(tomogram, max(room, least) - held)
    unit.facts = {
        "tomogram": "%d x %d x %d voxels" % tomogram.shape[::-1], "pixel": "%g A" % options.pixel_size,
        "Nyquist": "%g A" % (2 * options.pixel_size), "CTF": correction(options, unit.series),
        "slabs": tomogram.n_slabs, "hand": hand_of(options, g)}
    if options.halves and options.halves_by == "tilts" and g.n_tilts < 2:
        out.problems.append(Problem("warning", unit.name, "it has one tilt: the even half is empty",
                                    "Switch the halves off for such series"))
    unit.depends = dict(settings(options), **output_keys(unit, options))


def memory_bytes(series, options, tomogram):
    """Memory that a reconstruction takes.

    Parameters
    ----------
    series : TiltSeries
    options : ReconstructOptions
    tomogram : engine.tomogram.TomogramSetup

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
                                 Backend("cpu", threads=threads), 1 + _by_tilts(options, g), iterations(options))
    # Deconvolution has the whole volume, its transform and the filtered one, when the images are gone.
    filtering = 17 * int(np.prod(tomogram.shape)) + PROCESS_BYTES if options.deconvolve else 0
    return max(filtering, held + max(reading, least)), max(filtering, held + max(reading, best)), held


def _by_tilts(options, geometry):
    """Whether the halves are made in the same pass."""
    return bool(options.halves and options.halves_by == "tilts" and geometry.n_tilts > 1)


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
        Path of ``tomogram``, and of ``odd``, ``even`` and ``deconv`` if asked for.
    """
    folder = os.path.join(options.output, "reconstruction")
    name = "%s_%.2fApx.mrc" % (safe_stem(unit.name), options.pixel_size)
    out = {"tomogram": os.path.join(folder, name)}
    if options.halves:
        out.update({half: os.path.join(folder, half, name) for half in ("odd", "even")})
    if options.deconvolve:
        out["deconv"] = os.path.join(folder, "deconv", name)
    return out


def output_keys(unit, options):
    """What the outputs of a unit depend on, one by one, so that those that are there already can be kept.

    Parameters
    ----------
    unit : plan.Unit
    options : ReconstructOptions

    Returns
    -------
    dict of str to str
        Fingerprints of ``tomogram``, ``halves`` and ``deconv``.
    """
    values = settings(options)
    filtering = [values.pop(name, None) for name in ("deconv_strength", "deconv_falloff", "deconv_highpass")]
    wanted = {name: values.pop(name, None) for name in ("deconvolve", "halves", "halves_by")}
    whole = fingerprint(RESULTS, values, identity(unit.series))
    frames = [[path, section] + state(path) for path, section in unit.series.odd + unit.series.even] if (
        wanted["halves"] and wanted["halves_by"] == "frames") else []
    return {"tomogram": whole, "deconv": fingerprint(whole, filtering),
            "halves": fingerprint(whole, wanted["halves_by"], frames, filtering if wanted["deconvolve"] else None)}


def execute(unit, options, backend):
    """Reconstruct one tilt series, and write its tomograms and figure; see `contract.Verb`.

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
    tomogram, paths, series = unit.work.setup, outputs(unit, options), unit.series
    keys, manifest = output_keys(unit, options), Manifest(options.output)
    files = {name: [paths[n] for n in names if n in paths] for name, names in GROUPS.items()}
    missing = [name for name in GROUPS if files[name] and not manifest.done(_record(unit, name), keys[name])]
    kept, notes = [name for name in GROUPS if files[name] and name not in missing], []
    if kept:
        notes.append("kept what is there of the same inputs and options: %s" % ", ".join(
            os.path.relpath(f, options.output) for name in kept for f in files[name]))
    for name in missing:  # until it is whole
        manifest.forget(_record(unit, name))
    with ExitStack() as scratch:
        made = dict(paths)
        if options.deconvolve and "halves" in missing:  # under their names stands only what is final
            for name in GROUPS["halves"]:
                made[name] = scratch.enter_context(atomic.scratch(paths[name]))
        notes += _reconstruct(unit, options, backend, made, missing)
        if options.deconvolve:
            for name in missing:
                for target in GROUPS[name] if name != "tomogram" else ():
                    source = made["tomogram" if target == "deconv" else target]
                    _deconvolve(unit, options, backend, source, paths[target])
    for name in missing:
        for path in files[name]:
            report.thumbnail(path, path[:-4] + ".png")
        manifest.record(_record(unit, name), keys[name], files[name])
    picture = os.path.join(options.output, "report", safe_stem(unit.name) + "_slices.png")
    os.makedirs(os.path.dirname(picture), exist_ok=True)
    report.tomogram_slices(paths["tomogram"], options.pixel_size, picture)
    return dict(paths, pixel_size=options.pixel_size, centre=tomogram.centre.tolist(), shape=list(tomogram.shape),
                tilts=int(series.geometry.n_tilts), ctf=correction(options, series), method=options.method, notes=notes,
                report=picture, files=list(paths.values()))


def _deconvolve(unit, options, backend, source, target):
    """Filter a tomogram in a file."""
    series = unit.series
    volume, _ = mrc.read_volume(source)
    made = deconvolve(volume, options.pixel_size, series.ctf.optics,
                      typical_defocus(series.ctf, series.geometry.tilt), options.deconv_strength,
                      options.deconv_falloff, options.deconv_highpass, options.ctf != "none", backend.threads)
    if options.full_voxels:
        keep_covered(series.geometry, unit.work.setup, 0, 0, [made])
    mrc.write(target, made, options.pixel_size, label=LABEL + " deconvolved")


def _record(unit, name):
    """How the manifest calls a part of a unit's outputs."""
    return "%s, %s" % (unit.name, name)


def _reconstruct(unit, options, backend, paths, missing):
    """Write the tomogram and its halves, as far as they are missing; returns notes."""
    notes = []
    by_tilts = options.halves and options.halves_by == "tilts"
    if "tomogram" in missing or by_tilts and "halves" in missing:
        wanted = [paths["tomogram"] if "tomogram" in missing else None]
        if by_tilts:  # also where they are there: the tomogram is their sum, to the last bit
            wanted += [paths[name] if "halves" in missing else None for name in GROUPS["halves"]]
        notes += _one_pass(unit, unit.series, options, backend, wanted)
    if "halves" in missing and not by_tilts:
        for name in ("odd", "even"):
            series = replace(unit.series, images=getattr(unit.series, name))
            notes += _one_pass(unit, series, options, backend, [paths[name]], " %s frames" % name)
    return notes


def _one_pass(unit, series, options, backend, paths, what=""):
    """Reconstruct a set of images: the tomogram, or with three paths also that of each half; None leaves one out."""
    tomogram, group, n_tilts = unit.work.setup, None, series.geometry.n_tilts
    how = Preparation(options.pixel_size, options.invert, options.normalize, options.bad_pixels)
    stack, series, notes = prepare(series, how, backend, Progress(unit.name + what + " reading", n_tilts, "tilts"))
    g = series.geometry
    if len(paths) > 1 and g.n_tilts > 1:
        group = odd_even_groups(g.tilt, g.used)
    progress = Progress(unit.name + what, tomogram.shape[1], "rows")
    with ExitStack() as files:
        writers = [path and files.enter_context(mrc.VolumeWriter(path, tomogram.shape, options.pixel_size, label=LABEL))
                   for path in paths]

        def put(z, y, pieces):
            if len(writers) > len(pieces):  # a single tilt
                pieces = [pieces[0], pieces[0].copy(), np.zeros_like(pieces[0])]
            if options.full_voxels:
                pieces = [np.array(piece) for piece in pieces]
                keep_covered(g, tomogram, z, y, pieces)
            for writer, piece in zip(writers, pieces):
                if writer:
                    writer.put(z, piece, y)

        reconstruct_tomogram(stack, g, series.ctf, tomogram, backend, correction(options, series),
                             options.dose_weighting, group, progress, iterations(options), unit.work.room, put)
    progress.finish()
    return notes


def collect(options, results):
    """Summarise the results of all units; see `contract.Verb`.

    Returns
    -------
    dict
        ``tomograms``: paths of those that did not fail.
    """
    return {"tomograms": [r["tomogram"] for r in results if r["status"] != "failed"]}
