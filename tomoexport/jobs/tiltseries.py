"""Tilt series as operations use them: read, checked, and without the views that cannot be used."""

import os
from dataclasses import dataclass, replace

import numpy as np

from ..engine.preprocess import prepare_stack
from ..errors import InputError, UnitError
from ..io import mrc
from ..io.given import Given
from ..io.particlestar import bare_name
from ..io.project import Project, open_source
from ..io.tiltseries import ALL
from ..options import affecting
from .plan import Problem, Unit, state
from .statements import unfollowed


def given(options, size_px=None, size_needed=True):
    """What the options say beside the files of tilt series.

    Parameters
    ----------
    options : TiltSeriesOptions or SizeOptions
    size_px : (int, int, int), optional
        Size of the tomograms where the options give none.
    size_needed : bool
        As of `Given`.

    Returns
    -------
    Given

    Raises
    ------
    InputError
        If the size of the tomograms is none.
    """
    known = {"pixel_size": "image_pixel_size", "centre": "xf_centre", **{name: name for name in (
        "alignment_pixel_size", "hand", "exposure_dose", "voltage", "cs", "amplitude_contrast")}}
    return Given(size_px=_size_px(options.tomogram_size) or size_px, size_needed=size_needed, **{
        name: getattr(options, option) for name, option in known.items() if hasattr(options, option)})


def source(options):
    """What describes the tilt series of an operation.

    Parameters
    ----------
    options : TiltSeriesOptions

    Returns
    -------
    object
        One of `io.project.SOURCES`, opened.

    Raises
    ------
    InputError
        As `io.project.open_source`.
    """
    return open_source(options.tomograms, given(options, size_needed=False))


#: What else a verb can do for tilt series without CTF.
WITHOUT_CTF = {"reconstruct": ", or take --ctf none", "pseudosubtomo": ", or take --no-ctf",
               "particle": ", or take --no-ctf"}


@dataclass(frozen=True)
class Requirements:
    """What an operation needs of tilt series.

    Attributes
    ----------
    ctf : bool
        Whether tilts without a CTF are of no use.
    optics : bool
        Whether voltage, spherical aberration and amplitude contrast are written even if no CTF is applied.
    local : bool
        Whether what is local in the alignment matters; it does not for whole tomograms.
    images : sequence of str
        Which images are read, as `TiltSeries.check_files` takes it.
    pixel_size : float
        Angstrom of the output; images may not have larger pixels.
    """

    ctf: bool = True
    optics: bool = False
    local: bool = True
    images: tuple = ALL
    pixel_size: float = float("inf")


def load(verb, options, needs, only=None, size_px=None):
    """Read the tilt series of an operation.

    Parameters
    ----------
    verb : str
    options : TiltSeriesOptions
    needs : Requirements
    only : list of str, optional
        Names of the series that are asked for.
    size_px : (int, int, int), optional
        As of `given`.

    Returns
    -------
    project : io.project.Project
        All that the table names, complete; those asked for alone where that makes no difference to them.
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
    begun = {options.tomograms: state(options.tomograms)} if os.path.isfile(options.tomograms) else {}
    opened = open_source(options.tomograms, given(options, size_px))
    # Names of particles depend on all tilt series where each has a file of its own, and where names are much alike.
    some = only and not getattr(options, "per_series", False) and len(opened.names) == len(
        set(map(bare_name, opened.names)))
    chosen = [name for name in opened.names if name in only] if some else opened.names
    for path in {path for name in chosen for path in opened.files(name) if os.path.exists(path)} - set(begun):
        begun[path] = state(path)  # before they are read: what changes then is found
    project = Project(opened, chosen)
    problems = [Problem("warning", options.tomograms, note) for note in project.notes]
    problems += [Problem("warning", name, "left out, %s" % reason) for name, reason in project.left_out.items()]
    for name in only or []:
        if name not in opened.names:
            problems.append(Problem("error", name, "%s does not name this tilt series" % options.tomograms,
                                    "It names " + ", ".join(opened.names)))
    series, units = {one.ts_id: one for one in project}, []
    for name in project.names:
        if only and name not in only:
            continue
        unit = Unit(name, total_tilts=series[name].geometry.n_tilts if name in series else 0)
        units.append(unit)
        try:
            if name in project.faults:
                raise project.faults[name]
            _complete(unit, series[name], verb, options, needs, problems)
            unit.inputs = {path: begun.get(path) or state(path) for path in project.files(name) + sorted(
                {path for kind in needs.images for path, _ in getattr(unit.series, kind) or ()})}
        except InputError as error:
            unit.error = Problem("failed", error.item, error.cause, error.remedy)
    if units and len(project.faults) == len(project.names) and not only:
        first = next(iter(project.faults.values()))
        if len(units) == 1:
            raise first
    return project, units, problems


def _complete(unit, one, verb, options, needs, problems):
    """See whether a tilt series can be used, and tell what is odd about it."""
    _check_pixel_size(one, needs.pixel_size)
    problems += [Problem("warning", one.ts_id, text) for text in [*one.notes, *one.doubts(), *one.check_files(
        needs.images)]]
    told = unfollowed(verb, one.ts_id, one.statements, options.ignore, needs.local, needs.ctf)
    problems += [problem for problem in told if problem.severity == "warning"]
    for problem in told:
        if problem.severity == "failed":
            raise InputError(problem.item, problem.cause, problem.remedy)
    if needs.optics and one.optics is None:
        raise one.no_ctf or InputError(one.ts_id, "voltage, spherical aberration and amplitude contrast are not known, "
                                       "which the table of particles needs", "Give --voltage, --cs and "
                                       "--amplitude-contrast")
    unit.series = _usable(one, needs.ctf, problems, WITHOUT_CTF.get(verb, ""))


def hand_of(options, geometry):
    """The handedness of the defocus and where it comes from, for people.

    Parameters
    ----------
    options : TiltSeriesOptions
    geometry : TiltSeriesGeometry

    Returns
    -------
    str
    """
    return "%+d (%s)" % (geometry.hand, "as given" if options.hand else "of the tilt series")


def _size_px(text):
    """Three whole numbers of ``4000x5700x1000``; None for nothing."""
    if not text:
        return None
    parts = text.lower().replace(",", "x").split("x")
    if len(parts) != 3 or not all(part.strip().isdigit() and 0 < int(part) < 10 ** 7 for part in parts):
        raise InputError("--tomogram-size", "'%s' is no size of a tomogram" % text, "Give it as 4000x5700x1000")
    return tuple(int(part) for part in parts)


def _check_pixel_size(series, wanted):
    own = series.geometry.pixel_size
    if wanted < own * (1 - 1e-4):
        raise InputError(series.ts_id, "the pixel size asked for, %g A, is smaller than the images' own, %g A"
                         % (wanted, own), "Ask for at least %g A (--pixel-size)" % own)


def _usable(series, needs_ctf, problems, without=""):
    """Leave out views that are excluded or have no CTF, and say so."""
    g = series.geometry
    mask = g.used.copy()
    if needs_ctf:
        if series.ctf is None:
            error = series.no_ctf or InputError(
                series.ts_id, "it has no CTF (rlnDefocusU, rlnDefocusV, rlnDefocusAngle)",
                "Estimate the CTF and give RELION's tables or Warp's XML that hold it")
            raise InputError(error.item, error.cause, error.remedy.rstrip(".") + without)
        for name, value in (("spherical aberration", series.optics.cs),
                            ("amplitude contrast", series.optics.amplitude_contrast)):
            if value == 0:
                problems.append(Problem("warning", series.ts_id, "the %s is 0" % name,
                                        "Correct the table of tomograms if it is only missing there"))
        missing = mask & ~series.ctf.measured
        if missing.any():
            problems.append(Problem("warning", series.ts_id, "%d views are left out because they have no CTF "
                                    "(acquisition order %s)" % (missing.sum(), ", ".join(
                                        str(o) for o in sorted(g.acq_order[missing] + (g.acq_order.min() == 0))))))
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


@dataclass(frozen=True)
class Preparation:
    """What happens to tilt images before anything is cut out of them.

    Attributes
    ----------
    pixel_size : float
        Angstrom.
    invert, normalize, bad_pixels
        As of `engine.preprocess.prepare_image`.
    turn : engine.turn.Turn, optional
        How they are turned; the series is the one that is turned already.
    margin : int, optional
        Extend them by so many pixels instead, and leave them as they are.
    """

    pixel_size: float
    invert: bool = True
    normalize: bool = True
    bad_pixels: str = "error"
    turn: object = None
    margin: int = None


def prepare(series, how, backend, progress=None):
    """Read and prepare the images of a series; images without contrast are left out.

    Parameters
    ----------
    series : TiltSeries
        Only views that are used.
    how : Preparation
    backend : Backend
    progress : callable, optional

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
    headers = {path: mrc.read_header(path) for path in {path for path, _ in series.images}}

    def read(t):
        path, section = series.images[t]
        with mrc.Stack(headers[path]) as stack:  # not all at once: a series may have a file per tilt
            return stack.read(section)

    items = ["%s, section %d (%s, tilt %.1f)" % (path, section + 1, series.ts_id, angle)
             for (path, section), angle in zip(series.images, series.geometry.tilt)]
    stack = prepare_stack(read, items, series.geometry.pixel_size, how.pixel_size, how.invert, how.normalize,
                          how.bad_pixels, backend.threads, progress, how.turn, backend, how.margin)
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
        stack = replace(stack, images=stack.images[keep], empty=stack.empty[keep], filled=stack.filled[keep])
    return stack, series, notes


def identity(series):
    """What makes a series' outputs what they are: every number, and the size and time of every image file.

    Parameters
    ----------
    series : TiltSeries

    Returns
    -------
    list
        Nested plain values, for `io.manifest.fingerprint`.
    """
    return [series.numbers(), [[os.path.abspath(path)] + state(path) for path in sorted(
        {path for path, _ in series.images})]]


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
    return affecting(options, "images")
