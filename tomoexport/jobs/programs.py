"""What tomoDRGN and cryoDRGN cannot take, told before the work, and which of their options an export needs.

Of tomoDRGN 1.0.1 the rules are those of `tests/programs/tomodrgn_rules.py`, of cryoDRGN 4.3.1 those of its package.
"""

import re

import numpy as np

from .plan import Problem

PROGRAMS = {"tomodrgn": "tomoDRGN", "cryodrgn": "cryoDRGN"}
FEWEST_IMAGES = 100  # of which tomoDRGN takes a hundredth to estimate a deviation from
#: Boxes for which tomoDRGN's backproject_voxel fails before it writes a map, from its own arithmetic up to 512.
CRASHING_BOXES = frozenset((
    46, 48, 54, 106, 108, 114, 134, 176, 178, 184, 192, 206, 212, 216, 226, 228, 232, 274, 288, 294, 304, 338, 342, 354,
    362, 366, 378, 394, 418, 432, 438, 440, 444, 446, 452, 456, 466, 472, 478, 486, 498, 506))
VOLTAGES = (200, 300)  # kV, for which both know how quickly details fade with dose
_TIE = 1e-6  # of rlnCtfScalefactor: more than single precision rounds off
_INTEGER = re.compile(r"[-+]?\d+$")
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$|[-+]?(nan|inf|infinity)$", re.IGNORECASE)


def of_options(options, hands=()):
    """Problems of the options alone.

    Parameters
    ----------
    options : SeriesOptions
    hands : collection of int
        Defocus hands of the tilt series, as far as known.

    Returns
    -------
    list of Problem
    """
    out = []
    if options.form == "optimisation-set":
        if options.stacks == "series":
            out.append(Problem("error", "--stacks", "an optimisation set needs a stack for every particle",
                               "Take --stacks particle, or --form series"))
        if options.origins or options.all_columns:
            out.append(Problem("error", "--origins" if options.origins else "--all-columns",
                               "an optimisation set has no such columns", "Leave it out, or take --form series"))
    name = PROGRAMS.get(options.reader)
    if name is None:
        return out
    if not options.invert:
        out.append(Problem("warning", "--no-invert", "%s expects bright particles" % name,
                           "Give it --uninvert-data"))
    if options.reader == "tomodrgn":
        if options.box in CRASHING_BOXES:
            out.append(Problem("warning", "--box", "tomoDRGN's backproject_voxel fails with boxes of %d pixels"
                               % options.box, "Take %s" % " or ".join("%d" % b for b in _boxes_beside(options.box))))
        hands = {options.hand or hand for hand in hands} or {options.hand}
        if options.form == "optimisation-set" and -1 in hands:
            out.append(Problem("error", "--form", "tomoDRGN takes no notice of the defocus hand of an optimisation "
                               "set, which is -1", "Take --form series, which has the defocus of every image"))
    return out


def _boxes_beside(box):
    """The nearest even boxes that work."""
    works = lambda step: next(b for b in range(box, 4098 * (step > 0), step) if b not in CRASHING_BOXES)  # noqa: E731
    return works(-2), works(2)


def of_series(options, series):
    """Problems of a tilt series.

    Parameters
    ----------
    options : SeriesOptions
    series : TiltSeries
        With the tilts that are used.

    Returns
    -------
    list of Problem
    """
    g = series.geometry
    out = of_voltage(options, series.optics.voltage, g.ts_id)
    if options.reader == "cryodrgn":
        late = np.argsort(np.argsort(g.dose, kind="stable"))
        ranked = np.lexsort((late, -np.round(np.cos(np.deg2rad(series.stage_tilt)), 6)))
        if np.abs(late[ranked] - np.arange(g.n_tilts)).max() > 1:
            out.append(Problem("warning", g.ts_id, "cryoDRGN takes smaller tilts for earlier exposures, which is not "
                               "so in this series", "Leave out its --dose-per-tilt and --angle-per-tilt"))
        if options.form == "optimisation-set" and series.ctf.phase.any():
            out.append(Problem("error", g.ts_id, "cryodrgn_utils parse_warptools sets phase shifts to 0",
                               "Take --form series"))
    return out


def of_voltage(options, voltage, item):
    """Problems of the voltage.

    Parameters
    ----------
    options : SeriesOptions
    voltage : float
        kV.
    item : str
        Whose it is.

    Returns
    -------
    list of Problem
    """
    name = PROGRAMS.get(options.reader)
    if name is None or round(voltage) in VOLTAGES:
        return []
    cause = "%s knows how details fade with dose at 200 and 300 kV, the voltage is %g" % (name, voltage)
    if options.reader == "cryodrgn":
        return [Problem("error", item, cause, "Correct the voltage, or take --reader none")]
    return [Problem("warning", item, cause, "It takes the numbers of 200 kV")]


def of_images(options, count):
    """Problems of the number of images.

    Parameters
    ----------
    options : SeriesOptions
    count : int
        Of all tilt series.

    Returns
    -------
    list of Problem
    """
    if options.reader == "tomodrgn" and 0 < count < FEWEST_IMAGES:
        return [Problem("warning", options.star, "tomoDRGN's train_vae estimates the deviation of the images from "
                        "a hundredth of them, and there are %d" % count, "Give it --lazy or --norm")]
    return []


def of_columns(reader, columns, item):
    """Problems of the values of a table: what a reader would misread that takes types from the first row.

    Parameters
    ----------
    reader : str
    columns : dict of str to sequence of str
        As they are written.
    item : str
        What the table is called.

    Returns
    -------
    list of Problem
    """
    name, out = PROGRAMS.get(reader), []
    if name is None:
        return out
    for label, values in columns.items():
        values = [str(value) for value in values]
        where = "%s, %s" % (item, label)
        bad = next((value for value in values if not value or re.search(r"\s", value) or value[0] in "\"'#"), None)
        if bad is not None:
            out.append(Problem("error", where, "%s splits rows at blanks and knows no quotes: '%s'" % (name, bad),
                               "Rename it, or, if it is a path, take --relative-paths"))
            continue
        if label == "rlnGroupName" and reader == "tomodrgn":
            number = next((value for value in values if _kind(value) is not str), None)
            if number is not None:
                out.append(Problem("error", where, "tomoDRGN takes '%s' for a number and no name" % number,
                                   "Give the particles names that are no numbers"))
        first = _kind(values[0]) if values else str
        other = next((v for v in values if first is int and _kind(v) is not int
                      or first is float and _kind(v) is str), None)
        if reader == "tomodrgn" and other is not None:
            out.append(Problem("error", where, "tomoDRGN takes the type of a column from its first row, '%s', and "
                               "cannot read '%s' then" % (values[0], other), "Mend the column, or leave it out"))
        if label == "rlnCtfScalefactor":
            wrong = next((v for v in values if not 0 < float(v) <= 1), None)
            if wrong is not None:
                out.append(Problem("error", where, "%s is no cosine of a tilt" % wrong, "Correct the tilt angles"))
    return out


def _kind(text):
    return int if _INTEGER.match(text) else float if _FLOAT.match(text) else str


def as_one_kind(values):
    """A column of texts in which no number looks like another kind than that of the first row.

    Parameters
    ----------
    values : sequence of str

    Returns
    -------
    list of str
        Numbers all have a decimal point if one of them is no whole number; other texts stay.
    """
    kinds = {_kind(value) for value in values}
    return [repr(float(v)) for v in values] if kinds == {int, float} else list(values)


def break_ties(scales):
    """Make the cosines of a particle's tilts differ where they are the same.

    cryoDRGN ranks exposures by them, and of two equal ones takes any first.

    Parameters
    ----------
    scales : sequence of float
        Cosines of the tilts, by ascending dose.

    Returns
    -------
    list of float
        Of equal ones the later is smaller, by 1e-6: at 3 degrees that is 0.001 degree.
    """
    out = []
    for scale in scales:
        while any(abs(scale - other) < _TIE / 2 for other in out):
            scale -= _TIE
        out.append(scale)
    return out


def advice(options, counts, steps):
    """What to give the program, for an export that is done.

    Parameters
    ----------
    options : SeriesOptions
    counts : list of int
        Images of every particle.
    steps : list of float
        Dose of each exposure, e/A^2.

    Returns
    -------
    list of str
    """
    out, few = [], min(counts)
    sign = [] if options.invert else ["--uninvert-data"]
    if options.reader == "tomodrgn":
        wanted = sign + (["--source-software warp"] if options.origins or options.all_columns else [])
        out.append("tomoDRGN: run it in the folder of the table, or give --datadir with that folder%s"
                   % ("".join("; " + flag for flag in wanted)))
        if len(set(counts)) > 1:
            out.append("tomoDRGN: particles have %d to %d images; --use-first-ntilts N drops those with fewer than N"
                       % (few, max(counts)))
        if sum(counts) < FEWEST_IMAGES:
            out.append("tomoDRGN: fewer than %d images; give train_vae --lazy or --norm" % FEWEST_IMAGES)
    elif options.reader == "cryodrgn":
        if options.form == "optimisation-set":
            out.append("cryoDRGN: cryodrgn_utils parse_warptools makes a table of images of the two tables")
        out.append("cryoDRGN: parse_star -D %d --Apix %g; --datadir with the folder of the table%s"
                   % (options.box, options.pixel_size, "".join("; " + flag for flag in sign)))
        out.append("cryoDRGN: --ntilts %d or less; --dose-per-tilt %.4g" % (few, np.median(steps) if steps else 0.0))
    return out
