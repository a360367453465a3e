"""Scipion's tilt series and CTFs as tilt series of the engine.

Tilt images and CTFs are joined by acquisition order. Scipion stores alignment transforms as IMOD writes them, about
the image centre (N-1)/2 (`to_scipion` is the inverse).
"""

from collections import namedtuple

import numpy as np

from ..engine.ctf import Ctf, Optics
from ..engine.geometry import TiltSeriesGeometry, from_imod_transform
from ..errors import InputError
from ..io import mrc
from ..io.tiltseries import TiltSeries
from . import attributes as extra

# What is assumed where neither the tilt series nor the form says it.
HAND, THICKNESS = -1, 3000.0

_Tilt = namedtuple("_Tilt", "index path odd even order angle dose matrix xtilt pixel_size enabled")
_Defocus = namedtuple("_Defocus", "u v angle phase bfactor scale cosine")


def tilt_series(ts, ctfs=None, volume_size=None, hand=0, centre=""):
    """Read one tilt series, with its CTFs.

    Parameters
    ----------
    ts : tomo.objects.TiltSeries
    ctfs : dict, optional
        What `defoci` read of its CTFs. Views without a CTF are excluded.
    volume_size : (float, float, float), optional
        Angstrom, xyz. By default what the series says, or else the images' extent and `THICKNESS`.
    hand : int
        +1 or -1 overrules the series, 0 does not; `HAND` where neither says it.
    centre : {'', 'imod', 'relion'}
        What the transforms are about: '' as the series says, or else IMOD's centre.

    Returns
    -------
    io.tiltseries.TiltSeries
        All rows, those that are excluded with ``used`` false.
    list of str
        What was excluded or assumed.

    Raises
    ------
    InputError
        If the series has no alignment or an applied one, no view is left, or a header or a number is wrong.
    """
    ts_id = ts.getTsId()
    tilts = _tilts(ts)
    notes = []
    key = _join_key(ts_id, tilts, notes)
    used = np.array([t.enabled for t in tilts])
    if not used.all():
        notes.append("%s: %d of %d views are excluded (%s)" % (ts_id, (~used).sum(), len(tilts),
                                                             _orders(key, ~used)))
    optics = optics_of(ts)
    ctf, cosine = None, False
    if ctfs is not None:
        shift, remark = orders_apart(key, ctfs)
        notes += ["%s: %s" % (ts_id, remark)] if remark else []
        rows = [ctfs.get(k + shift) for k in key]
        missing = np.array([row is None for row in rows])
        if (missing & used).any():
            notes.append("%s: %d views have no CTF and are excluded (%s)" % (ts_id, (missing & used).sum(),
                                                                           _orders(key, missing & used)))
        unmatched = sorted(k for k in set(ctfs) - {k + shift for k in key} if ctfs[k] is not None)
        if unmatched:
            notes.append("%s: CTFs without a view are left aside (acquisition order %s)"
                         % (ts_id, ", ".join(str(k) for k in unmatched)))
        used &= ~missing
        nothing = _Defocus(np.nan, np.nan, np.nan, 0.0, 0.0, 1.0, True)
        *columns, scale, weighed = (np.array(c, np.float64) for c in zip(*(row or nothing for row in rows)))
        cosine = bool(weighed.all())
        ctf = Ctf(optics, *columns, scale=None if np.isnan(scale).any() else scale)
    if not used.any():
        raise InputError(ts_id, "no view is left", "Include at least one view that is enabled and has a CTF")
    first = tilts[int(np.argmax(used))]
    _, height, width = mrc.read_header(first.path).shape
    pixel_size = first.pixel_size
    matrices = np.array([t.matrix for t in tilts])
    alignment = from_imod_transform(matrices, (height, width), pixel_size,
                                    centre or extra.take(ts, extra.CENTRE, "imod"))
    geometry = TiltSeriesGeometry(
        ts_id=ts_id, image_shape=(height, width), pixel_size=pixel_size, tilt=[t.angle for t in tilts],
        dose=_doses(ts_id, tilts, used), acq_order=key, used=used, xtilt=[t.xtilt for t in tilts],
        hand=hand or known_hand(ts) or HAND,
        defocus_slope=extra.take(ts, extra.SLOPE, 1.0), dose_bfactor=extra.take(ts, extra.DECAY, 0.0),
        volume_size=volume_size or known_size(ts) or _default_size(height, width, pixel_size, alignment["axis"]),
        **alignment)
    halves = all(t.odd and t.even for t in tilts)
    return TiltSeries(geometry=geometry, ctf=ctf, images=tuple((t.path, t.index) for t in tilts),
                      odd=tuple(_location(t.odd, t.index) for t in tilts) if halves else None,
                      even=tuple(_location(t.even, t.index) for t in tilts) if halves else None,
                      optics_group=ts_id, optics=optics, cosine=cosine), notes


def _tilts(ts):
    """Copy what is needed of every tilt image: iterating a set gives the same object again and again."""
    ts_id = ts.getTsId()
    if ts.interpolated():
        raise InputError(ts_id, "its images are interpolated: the alignment has been applied to them",
                         "Give the tilt series as recorded, with the alignment as transforms")
    tilts = []
    for ti in ts.iterItems():
        acquisition, transform = ti.getAcquisition(), ti.getTransform()
        if ti.isEnabled() and transform is None:
            raise InputError("%s, tilt %d" % (ts_id, ti.getIndex()), "it has no alignment",
                             "Align the tilt series, or assign transforms to it")
        tilts.append(_Tilt(
            index=max(int(ti.getIndex() or 1), 1) - 1, path=ti.getFileName(),
            odd=ti.getOdd() if ti.hasOddEven() else "", even=ti.getEven() if ti.hasOddEven() else "",
            order=ti.getAcquisitionOrder(), angle=ti.getTiltAngle(),
            dose=acquisition.getDoseInitial() if acquisition is not None else None,
            matrix=_flat(transform), xtilt=extra.take(ti, extra.XTILT, 0.0),
            pixel_size=ti.getSamplingRate() or ts.getSamplingRate(), enabled=ti.isEnabled()))
    if not tilts:
        raise InputError(ts_id, "it has no tilt images", "Give a series with at least one tilt")
    sizes = sorted({round(t.pixel_size, 4) for t in tilts})
    if len(sizes) > 1:
        raise InputError(ts_id, "its images have different pixel sizes (%s A)" % ", ".join("%g" % s for s in sizes),
                         "Bring them to one pixel size")
    return tilts


def _flat(transform):
    """`(3, 3)` matrix of a transform; the identity of a view that has none."""
    if transform is None:
        return np.eye(3)
    matrix = np.array(transform.getMatrix(), np.float64)
    if matrix.shape == (4, 4):
        matrix = matrix[np.ix_([0, 1, 3], [0, 1, 3])]
    return matrix


def _location(text, index):
    """(path, section) of a half image, which Scipion writes as a path or as ``index@path``."""
    number, _, path = text.rpartition("@")
    return path, int(number) - 1 if number else index


def _join_key(ts_id, tilts, notes):
    """Acquisition orders if they tell the tilts apart, otherwise the positions in the stack."""
    orders = [t.order for t in tilts]
    if None not in orders and len(set(orders)) == len(orders):
        return [int(o) for o in orders]
    notes.append("%s: the acquisition orders do not tell the views apart; the positions in the stack are taken instead"
                 % ts_id)
    return [t.index + 1 for t in tilts]


def from_zero(orders):
    """Acquisition orders counted from 0: Scipion's imports count from 1, tables and older imports of ours from 0.

    Parameters
    ----------
    orders : sequence of int

    Returns
    -------
    list of int
    """
    return [int(order) - (min(orders) > 0) for order in orders]


def orders_apart(views, ctfs):
    """Find out whether the acquisition orders of views and of their CTFs begin at different numbers.

    Parameters
    ----------
    views, ctfs : collection of int

    Returns
    -------
    shift : int
        What to add to the order of a view; not 0 only where one side begins with 0, the other with 1, and both end one
        apart as well.
    remark : str
        What people should know of it; empty if there is nothing.
    """
    if not len(views) or not len(ctfs):
        return 0, ""
    first, last = min(ctfs) - min(views), max(ctfs) - max(views)
    if {min(views), min(ctfs)} == {0, 1} and first == last:
        return first, ("the views are numbered from %d, the CTFs from %d: they are joined in the order of acquisition, "
                       "the first with the first." % (min(views), min(ctfs)))
    if {min(views), min(ctfs)} == {0, 1} or abs(first) == 1 and first == last:
        return 0, ("the views are numbered from %d to %d, the CTFs from %d to %d. They are joined by these numbers; if "
                   "one side counts from 0 and the other from 1, every CTF is one exposure off: import both anew with "
                   "one protocol." % (min(views), max(views), min(ctfs), max(ctfs)))
    return 0, ""


def _orders(key, mask):
    return "acquisition order " + ", ".join(str(k) for k, m in zip(key, mask) if m)


def defoci(ctfs):
    """Read the CTFs of one tilt series.

    Parameters
    ----------
    ctfs : tomo.objects.CTFTomoSeries

    Returns
    -------
    dict
        By acquisition order, or by index where they have none; None for those that are excluded or unusable.
    """
    table, rows = {}, []
    for ctf in ctfs.iterItems():
        values = [ctf.getDefocusU(), ctf.getDefocusV(), ctf.getDefocusAngle()]
        phase = ctf.getPhaseShift()
        bfactor, scale = extra.take(ctf, extra.BFACTOR, 0.0), extra.take(ctf, extra.SCALE, np.nan)
        rows.append((ctf.getAcquisitionOrder(), ctf.getIndex(), ctf.isEnabled() and _usable(values),
                     _Defocus(*values, phase if is_number(phase) else 0.0, bfactor, scale,
                              not hasattr(ctf, extra.SCALE))))
    by_order = all(order is not None for order, *_ in rows)
    for order, index, usable, values in rows:
        number = order if by_order else index
        if usable or table.get(number) is None:
            table[number] = values if usable else None
    return table


def is_number(value):
    """Tell whether a value is there and finite."""
    return value is not None and bool(np.isfinite(value))


def _usable(values):
    # -999, -1, -999 is how Scipion marks a defocus that could not be found.
    return all(is_number(v) for v in values) and tuple(values) != (-999, -1, -999)


def _doses(ts_id, tilts, used):
    """Dose before each exposure; zero where the whole series has none, as after dose filtering."""
    doses = np.array([np.nan if t.dose is None else t.dose for t in tilts], np.float64)
    missing = ~np.isfinite(doses)
    if missing.all():
        return np.zeros(len(tilts))
    if (missing & used).any():
        raise InputError(ts_id, "the dose of %d views is missing" % (missing & used).sum(),
                         "Assign the dose to every view, or exclude these")
    return np.where(missing, 0.0, doses)


def _default_size(height, width, pixel_size, axis):
    """Extent of the tomogram, xyz: the images' with the tilt axis along y, and `THICKNESS`; even numbers of pixels."""
    across, along = (height, width) if 45 < abs(np.median(axis)) < 135 else (width, height)
    sides = (across, along, THICKNESS / pixel_size)
    return tuple(2 * int(np.ceil(s / 2)) * pixel_size for s in sides)


def optics_of(item):
    """Read the optics from the acquisition of a tilt series or a sub-tomogram.

    Raises
    ------
    InputError
        If voltage, spherical aberration or amplitude contrast is missing or out of range.
    """
    acquisition = item.getAcquisition()
    name = item.getTsId() if hasattr(item, "getTsId") else item.getVolName()
    if acquisition is None:
        raise InputError(name, "it has no acquisition", "Give it voltage, Cs and amplitude contrast")
    try:
        return Optics(acquisition.getVoltage(), acquisition.getSphericalAberration(),
                      acquisition.getAmplitudeContrast())
    except InputError as error:
        raise InputError(name, error.cause, error.remedy) from None


def known_hand(ts):
    """+1 or -1 if the tilt series says its hand, otherwise 0."""
    return int(extra.take(ts, extra.HAND, 0))


def known_size(ts):
    """Extent of the tomogram in angstrom, xyz, if the tilt series says it, otherwise None."""
    text = extra.take(ts, extra.SIZE)
    return tuple(float(v) for v in text.split()) if text else None


def tilt_series_set(ts_set, ts_ids, ctf_set=None, sizes=None, hand=0, centre=""):
    """Read the named tilt series of a set; one that cannot be read does not stop the others.

    Parameters
    ----------
    ts_set : tomo.objects.SetOfTiltSeries
    ts_ids : collection of str
    ctf_set : tomo.objects.SetOfCTFTomoSeries, optional
    sizes : dict of str to (float, float, float), optional
        Extent of the tomograms, angstrom.
    hand, centre
        As in `tilt_series`.

    Returns
    -------
    series : list of io.tiltseries.TiltSeries
    notes : list of str
        What was excluded or assumed.
    failures : dict of str to str
        Why a tilt series could not be read.
    """
    series, notes, failures = [], [], {}
    ctfs = {}
    if ctf_set is not None:
        ctfs = {c.getTsId(): defoci(c) for c in ctf_set.iterItems() if c.getTsId() in ts_ids}
    for ts in ts_set.iterItems():
        ts_id = ts.getTsId()
        if ts_id not in ts_ids:
            continue
        try:
            if ctf_set is not None and ts_id not in ctfs:
                raise InputError(ts_id, "it has no CTFs", "Estimate them, or leave the tilt series out")
            one, remarks = tilt_series(ts, ctfs.get(ts_id), (sizes or {}).get(ts_id), hand, centre)
            series.append(one)
            notes += remarks
        except InputError as error:
            failures[ts_id] = str(error) if str(error).startswith(ts_id) else "%s: %s" % (ts_id, error)
    return series, notes, failures


def obstacles(ts_set, ts_ids, pixel_size):
    """What makes it impossible to work on the tilt series at ``pixel_size`` (angstrom); a list of str."""
    lines = []
    for ts in ts_set.iterItems():
        if ts.getTsId() in ts_ids:
            try:
                tilts = _tilts(ts)
                if pixel_size < tilts[0].pixel_size * (1 - 1e-6):
                    raise InputError(ts.getTsId(), "its images have %g A per pixel, %g A is smaller" % (
                        tilts[0].pixel_size, pixel_size), "Give a pixel size not below that of the images")
                optics_of(ts)
            except InputError as error:
                lines.append(str(error))
    return lines


def doubts(ts_set, ts_ids, hand=0, size_known=False, ctf=True):
    """What is assumed about the tilt series, or looks wrong without being an error.

    Parameters
    ----------
    ts_set : tomo.objects.SetOfTiltSeries
    ts_ids : collection of str
    hand : int
        What the form says; 0 for nothing.
    size_known : bool
        Whether the extent of the tomograms is known from elsewhere.
    ctf : bool
        Whether the CTF matters.

    Returns
    -------
    list of str
    """
    handless, other, sizeless, filtered, corrected = [], [], [], [], []
    for ts in ts_set.iterItems():
        if ts.getTsId() not in ts_ids:
            continue
        if ctf and not hand and not known_hand(ts):
            handless.append(ts.getTsId())
        if ctf and hand and known_hand(ts) == -hand:
            other.append(ts.getTsId())
        if not size_known and not known_size(ts):
            sizeless.append(ts.getTsId())
        if ctf and ts.ctfCorrected():
            corrected.append(ts.getTsId())
        doses = [ti.getAcquisition().getDoseInitial() if ti.getAcquisition() is not None else None
                 for ti in ts.iterItems()]
        if len(doses) > 1 and len(set(doses)) == 1:
            filtered.append(ts.getTsId())
    lines = ((other, "the form says that the handedness of the defocus is %+d, the tilt series say %+d. The form's is "
              "used." % (hand, -hand)),
             (handless, "the handedness of the defocus is not known, %+d is assumed. Set it in the form if the "
              "geometry is the other one." % HAND),
             (sizeless, "the thickness of the tomogram is not known, %g A is assumed. Set it in the form." % THICKNESS),
             (filtered, "all views have the same dose, or none. Has the series been dose-filtered? Give the one before "
              "the filter: dose is weighted here."),
             (corrected, "the CTF of the images has been corrected already. Give the uncorrected series, or no CTF."))
    return ["%s: %s" % (listed(names), text) for names, text in lines if names]


def listed(names, most=8):
    """Names as messages show them.

    Parameters
    ----------
    names : sequence of str
    most : int
        More are counted.

    Returns
    -------
    str
    """
    shown = ", ".join(str(n) for n in names[:most])
    return shown if len(names) <= most else "%s and %d more" % (shown, len(names) - most)


def match(sets, weights=None):
    """Find the tilt series that every input has.

    Parameters
    ----------
    sets : dict of str to collection of str
        tsIds by what the input is called.
    weights : dict of str to int, optional
        Particles per tsId.

    Returns
    -------
    common : list of str
        In the order of the first input.
    orphans : list of str
        Lines that name, for each input, the tilt series that another one has and it lacks.
    lost : int
        Particles in tilt series that are not common.
    """
    everything = [set(ids) for ids in sets.values()]
    shared = set.intersection(*everything)
    first = next(iter(sets.values()))
    orphans = []
    for name, ids in sets.items():
        lacking = sorted(set.union(*everything) - set(ids))
        if lacking:
            orphans.append("%s: missing from the %s" % (listed(lacking), name))
    lost = sum(n for ts_id, n in (weights or {}).items() if ts_id not in shared)
    return [ts_id for ts_id in first if ts_id in shared], orphans, lost
