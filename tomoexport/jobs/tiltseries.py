"""Tilt series as operations use them: read, checked, and without the views that cannot be used."""

import os

import numpy as np

from ..engine.preprocess import prepare_stack
from ..errors import InputError, UnitError
from ..io import mrc, project
from ..options import to_dict
from .plan import Problem, Unit, state


def load(options, needs_ctf, only=None):
    """Read the tilt series of an operation.

    Parameters
    ----------
    options : ReconstructOptions or SubtomoOptions
    needs_ctf : bool
        Whether tilts without a CTF are of no use.
    only : list of str, optional
        Names of the series that are asked for.

    Returns
    -------
    series : list of TiltSeries
        All that the table names, complete.
    units : list of Unit
        The ones asked for, with unusable views left out.
    problems : list of Problem

    Raises
    ------
    InputError
        If the table is not named or cannot be read. What is wrong with one series is that unit's ``error``.
    """
    if not options.tomograms:
        raise InputError("--tomograms", "no file is given", "Name a RELION 5 tomograms.star, or Warp's XML")
    series = project.read_project(options.tomograms, size_px=_size_px(options.tomogram_size))
    tables = project.tables(options.tomograms)
    units, problems = [], []
    names = [s.ts_id for s in series]
    for name in only or []:
        if name not in names:
            problems.append(Problem("error", name, "%s does not name this tilt series" % options.tomograms,
                                    "It names " + ", ".join(names)))
    for one in series:
        if only and one.ts_id not in only:
            continue
        unit = Unit(one.ts_id, total_tilts=one.geometry.n_tilts)
        units.append(unit)
        try:
            _check_pixel_size(one, options.pixel_size)
            problems += [Problem("warning", one.ts_id, text) for text in [*one.notes, *one.check_files()]]
            unit.series = _usable(one, needs_ctf, problems)
            unit.inputs = {path: state(path) for path in tables + sorted(p for p, _ in unit.series.images)}
        except InputError as error:
            unit.error = Problem("failed", error.item, error.cause, error.remedy)
    return series, units, problems


def _size_px(text):
    """Three whole numbers of ``4000x5700x1000``; None for nothing."""
    if not text:
        return None
    parts = text.lower().replace(",", "x").split("x")
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise InputError("--tomogram-size", "'%s' is no size of a tomogram" % text, "Give it as 4000x5700x1000")
    return tuple(int(part) for part in parts)


def _check_pixel_size(series, wanted):
    own = series.geometry.pixel_size
    if wanted < own * (1 - 1e-4):
        raise InputError(series.ts_id, "the pixel size asked for, %g A, is smaller than the images' own, %g A"
                         % (wanted, own), "Ask for at least %g A" % own)


def _usable(series, needs_ctf, problems):
    """Leave out views that are excluded or have no CTF, and say so."""
    g = series.geometry
    mask = g.used.copy()
    if needs_ctf:
        for name, value in (("spherical aberration", series.optics.cs),
                            ("amplitude contrast", series.optics.amplitude_contrast)):
            if value == 0:
                problems.append(Problem("warning", series.ts_id, "the %s is 0" % name,
                                        "Correct the table of tomograms if it is only missing there"))
        if series.ctf is None:
            raise InputError(series.ts_id, "it has no CTF (rlnDefocusU, rlnDefocusV, rlnDefocusAngle)",
                             "Estimate the CTF, or switch CTF correction off")
        missing = mask & ~series.ctf.measured
        if missing.any():
            problems.append(Problem("warning", series.ts_id, "%d views are left out because they have no CTF "
                                    "(acquisition order %s)" % (missing.sum(), ", ".join(
                                        str(o + 1) for o in sorted(g.acq_order[missing])))))
            mask &= series.ctf.measured
        if (series.ctf.bfactor[mask] < 0).any():
            problems.append(Problem("warning", series.ts_id, "%d views have a negative rlnCtfBfactor, which amplifies "
                                    "high frequencies" % (series.ctf.bfactor[mask] < 0).sum(),
                                    "In RELION decay is positive; Warp writes -4 times the dose there. Zero the column "
                                    "if it is Warp's"))
        plain = series.ctf.defocus_u[mask]
        if len(plain) and (plain <= 0).any():
            problems.append(Problem("warning", series.ts_id, "%d views have a defocus of 0 or overfocus"
                                    % (plain <= 0).sum(), "Underfocus is positive; check the sign"))
    if not mask.any():
        raise InputError(series.ts_id, "none of its %d views can be used" % g.n_tilts,
                         "Include views that have data and a CTF")
    if g.n_tilts > 1 and np.ptp(g.dose) == 0:
        problems.append(Problem("warning", series.ts_id, "all views have the same dose, %g e/A^2" % g.dose[0],
                                "Dose weighting does nothing then; was the series filtered by dose before?"))
    return series.select(mask)


def first_tilts(series, count):
    """The views of a series that were exposed first.

    Parameters
    ----------
    series : TiltSeries
    count : int
        How many, by dose; 0 keeps all.

    Returns
    -------
    TiltSeries
        In the order of the series.
    """
    if not count or count >= series.geometry.n_tilts:
        return series
    order = np.argsort(series.geometry.dose, kind="stable")
    return series.select(np.sort(order[:count]))


def stage_tilt(series):
    """Tilt of the stage, which the alignment's differs from where the specimen lies obliquely on it.

    Parameters
    ----------
    series : TiltSeries

    Returns
    -------
    ndarray `(T,)`
        Degrees: rlnTomoNominalStageTiltAngle where the table has it for all tilts, else the alignment's.
    """
    try:
        nominal = np.array(series.extra["rlnTomoNominalStageTiltAngle"], np.float64)
    except (KeyError, ValueError):
        return series.geometry.tilt
    return nominal if np.isfinite(nominal).all() else series.geometry.tilt


def prepare(series, options, normalize, backend, progress=None, turn=None):
    """Read and prepare the images of a series; images without contrast are left out.

    Parameters
    ----------
    series : TiltSeries
        Only views that are used.
    options : ReconstructOptions or SubtomoOptions
    normalize : bool
    backend : Backend
    progress : callable, optional
    turn : turn.Turn, optional
        How the images are turned; the series is the one that is turned already.

    Returns
    -------
    stack : PreparedStack
    series : TiltSeries
        Without empty images.
    notes : list of str

    Raises
    ------
    UnitError
        If pixels are not finite and are not to be filled, or no image has any contrast.
    InputError
        If a stack cannot be read.
    """
    stacks = {}
    try:
        for path, _ in series.images:
            if path not in stacks:
                stacks[path] = mrc.open_stack(path)

        def read(t):
            path, section = series.images[t]
            return stacks[path].read(section)

        items = ["%s, section %d (%s, tilt %.1f)" % (path, section + 1, series.ts_id, angle)
                 for (path, section), angle in zip(series.images, series.geometry.tilt)]
        stack = prepare_stack(read, items, series.geometry.pixel_size, options.pixel_size, options.invert, normalize,
                              options.bad_pixels, backend.threads, progress, turn, backend)
    finally:
        for opened in stacks.values():
            opened.close()
    notes = []
    if stack.filled.any():
        notes.append("%d pixels that were not numbers were filled, in %d views" % (stack.filled.sum(),
                                                                                  (stack.filled > 0).sum()))
    if stack.empty.any():
        if stack.empty.all():
            raise UnitError(series.ts_id, "none of its images has any contrast", "Check the stack")
        notes.append("left out because the image is constant: tilt %s" % ", ".join(
            "%.1f" % a for a in series.geometry.tilt[stack.empty]))
        keep = ~stack.empty
        series = series.select(keep)
        stack = type(stack)(stack.images[keep], stack.pixel_size, stack.empty[keep], stack.filled[keep])
    return stack, series, notes


def identity(series):
    """What makes a series' outputs what they are: every number, and the size and time of every image file.

    Parameters
    ----------
    series : TiltSeries

    Returns
    -------
    list
        Nested lists of plain values, for `io.manifest.fingerprint`.
    """
    g, c = series.geometry, series.ctf
    numbers = [g.ts_id, g.pixel_size, g.image_shape, g.volume_size, g.hand, g.tilt.tolist(), g.axis.tolist(),
               g.xtilt.tolist(), g.shift.tolist(), g.dose.tolist(), g.acq_order.tolist(), g.magnification.tolist(),
               stage_tilt(series).tolist()]
    if c is not None:
        numbers += [c.optics.voltage, c.optics.cs, c.optics.amplitude_contrast] + [
            v.tolist() for v in (c.defocus_u, c.defocus_v, c.angle, c.phase, c.bfactor)]
        numbers.append(None if c.scale is None else c.scale.tolist())
    if g.deformation is not None:
        numbers += g.deformation.numbers()
    files = [[os.path.abspath(path)] + state(path) for path in sorted({p for p, _ in series.images})]
    return [numbers, [s for _, s in series.images], files]


# What says where files are or how fast to be, what a fingerprint has in another form (the positions), and what only
# the table at the end depends on.
_NO_SETTINGS = ("output", "device", "threads", "memory", "tomograms", "particles", "coordinates_pixel_size",
                "normalized", "centre", "allow_loss", "star", "format", "relative_paths", "per_series", "source",
                "motion", "species", "optimisation_set", "reader", "all_columns")


def settings(options):
    """The options that change the outputs of a tilt series, for fingerprints.

    Parameters
    ----------
    options : object
        A verb's options.

    Returns
    -------
    dict
    """
    return {k: v for k, v in to_dict(options).items() if k not in _NO_SETTINGS}
