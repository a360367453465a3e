"""Values that a form can propose from the sets that were chosen: pixel sizes, boxes, diameters, sizes, tolerances."""

import numpy as np

from ..engine.ctf import alias_free_box
from ..engine.fourier import fast_even
from ..engine.matching import match, nearest
from ..errors import InputError
from ..io import mrc
from . import from_scipion, positions

# Tilt series that are looked at for the defocus: they are alike, and a form is to answer at once.
MOST_SERIES = 5
MOST_PARTICLES = 100  # in a picture of their mean
LEAST_BOX = 8  # pixels, that forms take


def pixel_sizes(ts_set, other=None):
    """Pixel sizes for what is made of tilt series.

    Parameters
    ----------
    ts_set : tomo.objects.SetOfTiltSeries
    other : object, optional
        Tomograms or particles of the project, which have a pixel size.

    Returns
    -------
    list of (float, str)
        Angstrom, and what people are told of it.
    """
    own = float(ts_set.getSamplingRate())
    out = {round(own * factor, 4): "bin %d of the tilt series, Nyquist %.4g Å" % (factor, 2 * own * factor)
           for factor in (1, 2, 4, 8)}
    if other is not None and other.getSamplingRate():
        size = round(float(other.getSamplingRate()), 4)
        if size >= own * (1 - 1e-6):
            note = "that of the tomograms, bin %.4g, Nyquist %.4g Å" % (size / own, 2 * size)
            out[size] = note if size not in out else out[size] + "; that of the tomograms"
    return sorted(out.items())


def binnings(ts_set, other=None):
    """The same as factors on the pixel size of the tilt series.

    Parameters
    ----------
    ts_set, other
        As `pixel_sizes`.

    Returns
    -------
    list of (float, str)
    """
    own = float(ts_set.getSamplingRate())
    return [(round(size / own, 4), "%.4g Å per pixel: %s" % (size, text)) for size, text in pixel_sizes(ts_set, other)]


def boxes(pixel_size, diameter, ts_set=None, ctf_set=None, depth=0.0):
    """Boxes for a particle, all of which have fast transforms.

    Parameters
    ----------
    pixel_size : float
        Of what is cut out, angstrom.
    diameter : float
        Of the particle, angstrom.
    ts_set, ctf_set : sets of tomo, optional
        For the box that holds the CTF without aliasing.
    depth : float
        How far particles lie above or below the centre, angstrom.

    Returns
    -------
    list of (int, str)
        Pixels, in ascending order.
    """
    out = {}
    for factor, why in ((1.25, "just holds the particle"), (1.5, "1.5 diameters"), (2.0, "2 diameters")):
        out.setdefault(fast_even(max(LEAST_BOX, factor * diameter / pixel_size)), why)
    if ts_set is not None and ctf_set is not None:
        needed = 0
        ids = set(ctf_set.getTSIds()) & set(ts_set.getTSIds())
        series, _, _ = from_scipion.tilt_series_set(ts_set, sorted(ids)[:MOST_SERIES], ctf_set)
        for one in series:
            ctf = one.ctf.select(one.geometry.used & one.ctf.measured)
            needed = max(needed, alias_free_box(ctf, pixel_size, diameter, depth))
        if needed:
            box = fast_even(needed)
            out[box] = "; ".join(filter(None, (out.get(box), "holds the CTF without aliasing at the largest defocus")))
    return [(box, "%d px = %.4g Å: %s" % (box, box * pixel_size, why)) for box, why in sorted(out.items())]


def sizes(ts_set):
    """Sizes of tomograms in pixels of the tilt series.

    Parameters
    ----------
    ts_set : tomo.objects.SetOfTiltSeries

    Returns
    -------
    list of ((int, int, int), str)
        xyz, and where it comes from.
    """
    own, out = float(ts_set.getSamplingRate()), {}
    for ts in ts_set.iterItems():
        known = from_scipion.known_size(ts)
        if known:
            size = tuple(int(round(side / own)) for side in known)
            out.setdefault(size, "of the tilt series (%s)" % ts.getTsId())
        else:
            first = ts.getFirstItem()
            width, height = first.getXDim(), first.getYDim()
            for thickness in (2000.0, 3000.0, 4000.0):
                out.setdefault((width, height, 2 * int(thickness / own / 2)),
                               "the images', %g Å thick" % thickness)
    return [(size, "%d x %d x %d px (%.4g Å thick), %s" % (*size, size[2] * own, why)) for size, why in out.items()]


def score_columns(items):
    """Columns of particles that are numbers and differ, as scores.

    Parameters
    ----------
    items : tomo.objects.SetOfCoordinates3D or SetOfSubTomograms

    Returns
    -------
    list of (str, str)
        Name, and its range; `none` last, which lets the position decide.
    """
    out = []
    for name, values in positions.particles(items).extra.items():
        try:
            numbers = np.array(values, np.float64)
        except ValueError:
            continue
        if np.isfinite(numbers).all() and np.ptp(numbers) > 0 and not name.startswith(
                ("rlnCoordinate", "rlnCenteredCoordinate", "rlnOrigin", "rlnTomoSubtomogram", "rlnAngle")):
            out.append((name, "from %.4g to %.4g" % (numbers.min(), numbers.max())))
    likely = ("FigureOfMerit", "MaxValueProb", "LogLikeli", "core")
    return sorted(out, key=lambda pair: not any(word in pair[0] for word in likely)) + [
        ("none", "no column: the position decides")]


def distances(old, new=None):
    """Distances from particles to the nearest of another set, or of their own, in the same tilt series.

    Parameters
    ----------
    old, new : tomo.objects.SetOfCoordinates3D or SetOfSubTomograms

    Returns
    -------
    ndarray
        Angstrom; of those that have a nearest one.
    """
    one, other = positions.particles(old), None if new is None else positions.particles(new)
    out = []
    for name in one.ts_ids:
        mine = one.in_series(name).position
        theirs = None
        if other is not None:
            if name not in other.ts_ids:
                continue
            theirs = other.in_series(name).position
        out.append(nearest(mine, theirs)[0])
    found = np.concatenate(out) if out else np.zeros(0)
    return found[np.isfinite(found)]


def counter(old, new):
    """Read two sets once, to count the three sets of their intersection at any tolerance.

    Parameters
    ----------
    old, new : tomo.objects.SetOfCoordinates3D or SetOfSubTomograms

    Returns
    -------
    callable
        Takes a tolerance in angstrom; gives three int: only old, both, only new.
    """
    one, other = positions.particles(old), positions.particles(new)
    pairs = [(one.in_series(name).position, other.in_series(name).position)
             for name in one.ts_ids if name in other.ts_ids]

    def counts(tolerance):
        both = sum(int((match(*pair, tolerance)[0] >= 0).sum()) for pair in pairs)
        return len(one) - both, both, len(other) - both

    return counts


def tolerances(old, new=None, most=8):
    """Tolerances from the distances between particles: the steps of their distribution.

    Parameters
    ----------
    old, new : tomo.objects.SetOfCoordinates3D or SetOfSubTomograms
        Without a new set, the particles of one set among each other.
    most : int

    Returns
    -------
    list of (float, str)
        Angstrom, and how many particles lie closer; the widest gap first.

    Raises
    ------
    InputError
        If no tilt series has particles of both.
    """
    found = np.sort(distances(old, new))
    if not len(found):
        raise InputError("particles", "no tilt series has any of both sets", "Choose sets of the same tomograms")
    edges = np.concatenate([found, [found[-1] * 2 + 10]])
    # Relative to where they are: a gap of 10 A means more at 5 A than at 500 A.
    gaps = np.diff(edges) / (edges[:-1] + 5.0)
    best = list(np.argsort(-gaps, kind="stable")[:most])
    out = {}
    for i in best:
        value = float("%.2g" % np.sqrt((edges[i] + 1) * (edges[i + 1] + 1)))
        if edges[i] < value <= edges[i + 1]:
            out.setdefault(value, "%d of %d closer; none from %.4g to %.4g Å" % (
                i + 1, len(found), edges[i], edges[i + 1]))
    return list(out.items())


def mean_of_particles(items, diameter=0.0):
    """A picture of the mean particle: of sub-tomograms, or of crops from the tomograms.

    Parameters
    ----------
    items : tomo.objects.SetOfCoordinates3D or SetOfSubTomograms
    diameter : float
        Angstrom; half of what is shown, where the set does not say how large boxes are.

    Returns
    -------
    picture : ndarray `(n, n)`
        Mean over z of the middle quarter, bright where particles are.
    pixel_size : float
        Angstrom.

    Raises
    ------
    InputError
        If no particle lies in its tomogram.
    """
    volumes = []
    if hasattr(items, "getCoordinates3D"):
        pixel_size = float(items.getSamplingRate())
        for item in items.iterItems():
            volume = mrc.read_volume(item.getFileName())[0]
            if volume.shape[0] == volume.shape[1] == volume.shape[2]:
                volumes.append(volume)
            if len(volumes) == MOST_PARTICLES:
                break
    if volumes:
        return np.mean([_middle(volume) for volume in volumes], 0), pixel_size
    return _mean_of_crops(items.getCoordinates3D() if hasattr(items, "getCoordinates3D") else items, diameter)


def _middle(volume):
    """Mean of the sections in the middle quarter of a volume."""
    n = len(volume)
    return volume[3 * n // 8:max(5 * n // 8, 3 * n // 8 + 1)].mean(0)


def _mean_of_crops(coordinates, diameter):
    """Mean of what the tomograms show about the coordinates; where they end, of what there is."""
    pixel_size = float(coordinates.getSamplingRate())
    half = int(max(coordinates.getBoxSize() or 0, diameter / pixel_size, 8))
    total, count, used = np.zeros((2 * half,) * 2), np.zeros((2 * half,) * 2), 0
    for tomogram in coordinates.getPrecedents().iterItems():
        frame, volume = positions.Frame(tomogram), None
        for item in coordinates.iterCoordinates(volume=tomogram):
            volume = mrc.read_volume(tomogram.getFileName())[0] if volume is None else volume
            stored = np.array([item._x.get(), item._y.get(), item._z.get()])
            # From the first voxel.
            x, y, z = np.round(stored - np.array(tomogram.getShiftsFromOrigin()) / frame.pixel_size).astype(int)
            sections = volume[max(0, z - half // 4):z + half // 4 + 1]
            low, high = np.maximum(0, (y - half, x - half)), np.minimum(volume.shape[1:], (y + half, x + half))
            if len(sections) and (high > low).all():
                here = tuple(slice(a, b) for a, b in zip(low, high))
                there = tuple(slice(a - c + half, b - c + half) for a, b, c in zip(low, high, (y, x)))
                total[there] += sections[(slice(None), *here)].mean(0)
                count[there] += 1
                used += 1
            if used == MOST_PARTICLES:
                return total / np.maximum(count, 1), pixel_size
    if not used:
        raise InputError("particles", "none lies in its tomogram", "Give the diameter by hand")
    return total / np.maximum(count, 1), pixel_size
