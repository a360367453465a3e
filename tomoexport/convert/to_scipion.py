"""Tilt series, particles and results of the engine as items of Scipion's sets; the inverse of `from_scipion`."""

import json
import re

import numpy as np
from pwem.objects import FSC, CTFModel, Particle, Transform
from tomo.objects import (
    AverageSubTomogram,
    Coordinate3D,
    CTFTomo,
    CTFTomoSeries,
    SubTomogram,
    TiltImage,
    TiltSeries,
    TomoAcquisition,
    Tomogram,
)

from ..engine.geometry import to_imod_transform
from ..engine.poses import matrix_from_zyz
from ..engine.trajectory import Trajectory
from ..io import particlestar
from . import attributes as extra
from . import connections, movement, positions

# Scipion wants a number; nothing here depends on it.
MAGNIFICATION = 50000
# Angstrom, of CTFs whose files do not say how far they fit: other plugins take a number for granted.
RESOLUTION = 10.0
_RESOLUTION, _NUMBER = "rlnCtfMaxResolution", "rlnTomoTiltMovieIndex"


def ts_ids_of(names):
    """Find names that Scipion can use as tsId: letters, digits and underscores, beginning with a letter.

    Parameters
    ----------
    names : list of str

    Returns
    -------
    dict of str to str
        tsId of every name, all different even where case does not count, as in names of database tables. A name that
        is a proper tsId is left as it is.
    """
    out, taken = {}, set()
    for name in sorted(names, key=lambda n: re.fullmatch("[A-Za-z][A-Za-z0-9_]*", n) is None):
        plain = re.sub("[^A-Za-z0-9_]", "_", name)[:100]
        plain = plain if re.match("[A-Za-z]", plain) else "TS_" + plain
        unique, n = plain, 1
        while unique.lower() in taken:
            n += 1
            unique = "%s_%d" % (plain, n)
        taken.add(unique.lower())
        out[name] = unique
    return out


def acquisition_orders(series):
    """Numbers of the exposures from 1, as Scipion's imports count them.

    Parameters
    ----------
    series : io.tiltseries.TiltSeries

    Returns
    -------
    ndarray `(T,)` of int
        rlnTomoTiltMovieIndex where the table has it for all and it agrees with the dose, so that exposures that are
        missing from the table leave a gap; otherwise the place by dose.
    """
    order = series.geometry.acq_order
    order = order + max(0, 1 - int(order.min()))
    numbers = _numbers(series.extra.get(_NUMBER))
    if numbers is not None and (numbers == np.round(numbers)).all() and numbers.min() >= 1 and (
            np.diff(numbers[np.argsort(order)]) > 0).all():
        return numbers.astype(int)
    return order


def resolutions(series):
    """How far the CTF of each tilt fits, angstrom (rlnCtfMaxResolution); None where the files do not say it.

    Parameters
    ----------
    series : io.tiltseries.TiltSeries

    Returns
    -------
    list of (float or None)
    """
    numbers = _numbers(series.extra.get(_RESOLUTION), whole=False)
    if numbers is None:
        return [None] * series.geometry.n_tilts
    return [float(n) if np.isfinite(n) and n > 0 else None for n in numbers]


def _numbers(texts, whole=True):
    """Column as numbers; None if it is not there or, where all are wanted, one is none."""
    out = []
    for text in texts or ():
        try:
            out.append(float(text))
        except ValueError:
            out.append(np.nan)
    return np.array(out) if out and not (whole and not np.isfinite(out).all()) else None


def acquisition(series, tilt=None):
    """Make the acquisition of a tilt series, or of its tilt number ``tilt``."""
    geometry = series.geometry
    by_time = np.argsort(geometry.acq_order)
    steps = np.diff(geometry.dose[by_time])
    exposure = np.empty(geometry.n_tilts)
    # The dose of the last exposure is not in the table: take it to be that of the one before.
    exposure[by_time] = np.append(steps, steps[-1]) if len(steps) else 0.0
    angles = np.sort(geometry.tilt)
    which = slice(None) if tilt is None else slice(tilt, tilt + 1)
    middle = geometry.n_tilts // 2
    # Written through setters: the keywords that the constructors understand differ between versions.
    out = TomoAcquisition(angleMin=float(angles[0]), angleMax=float(angles[-1]),
                          step=float(np.median(np.diff(angles))) if len(angles) > 1 else 0.0,
                          tiltAxisAngle=float(geometry.axis[middle if tilt is None else tilt]))
    out.setMagnification(MAGNIFICATION)
    out.setVoltage(series.optics.voltage)
    out.setSphericalAberration(series.optics.cs)
    out.setAmplitudeContrast(series.optics.amplitude_contrast)
    out.setDoseInitial(float(geometry.dose[which].min()))
    out.setDosePerFrame(float(np.median(exposure[which])))
    out.setAccumDose(float((geometry.dose + exposure)[which].max()))
    return out


def add_tilt_series(ts_set, series, ts_id, places):
    """Append a tilt series with its images.

    Parameters
    ----------
    ts_set : tomo.objects.SetOfTiltSeries
    series : io.tiltseries.TiltSeries
    ts_id : str
    places : import_files.Places
        Where the images are now.

    Notes
    -----
    Images are appended in the order of their sections, which is what readers of stacks expect.
    """
    geometry = series.geometry
    ts = TiltSeries(tsId=ts_id)
    ts.setSamplingRate(geometry.pixel_size)
    ts.setAcquisition(acquisition(series))
    ts.setAnglesCount(geometry.n_tilts)
    extra.put(ts, extra.NAME, series.ts_id)
    extra.put(ts, extra.HAND, geometry.hand)
    extra.put(ts, extra.CENTRE, "imod")
    extra.put(ts, extra.SIZE, " ".join(repr(float(v)) for v in geometry.volume_size))
    extra.put(ts, extra.SLOPE, float(geometry.defocus_slope))
    extra.put(ts, extra.DECAY, float(geometry.dose_bfactor))
    connections.append(ts_set, ts)
    transforms, orders = to_imod_transform(geometry), acquisition_orders(series)
    for t in sorted(range(geometry.n_tilts), key=lambda i: places.images[i][1]):
        path, section = places.images[t]
        ti = TiltImage(tsId=ts.getTsId(), tiltAngle=float(geometry.tilt[t]),
                       acquisitionOrder=int(orders[t]))
        ti.setLocation(section + 1, path)
        ti.setSamplingRate(geometry.pixel_size)
        ti.setTransform(Transform(transforms[t]))
        ti.setAcquisition(acquisition(series, t))
        ti.setEnabled(bool(geometry.used[t]))
        if places.odd and places.even:
            ti.setOddEven(["%d@%s" % (section + 1, path) for path, section in (places.odd[t], places.even[t])])
        extra.put(ti, extra.XTILT, float(geometry.xtilt[t]))
        ts.append(ti)
    height, width = geometry.image_shape
    ts.setDim((width, height, 1))
    ts.write(properties=False)
    ts_set.update(ts)
    return ts


def add_ctfs(ctf_set, series, ts_id, places):
    """Append the CTFs of a tilt series; a view without one is marked as Scipion does, and disabled."""
    ctf, scale = series.ctf, series.tilt_scale
    ctfs = CTFTomoSeries(tsId=ts_id)
    connections.append(ctf_set, ctfs)
    measured, orders, fits = ctf.measured, acquisition_orders(series), resolutions(series)
    for t in sorted(range(ctf.n_tilts), key=lambda i: places.images[i][1]):
        item = CTFTomo(index=places.images[t][1] + 1, acqOrder=int(orders[t]))
        if measured[t]:
            item.setStandardDefocus(float(ctf.defocus_u[t]), float(ctf.defocus_v[t]), float(ctf.angle[t]) % 180)
        else:
            item.setWrongDefocus()
            item.setEnabled(False)
        item.setPhaseShift(float(ctf.phase[t]))
        item.setResolution(fits[t] or RESOLUTION)
        extra.put(item, extra.BFACTOR, float(ctf.bfactor[t]))
        extra.put(item, extra.SCALE, "" if scale is None else float(scale[t]))
        ctfs.append(item)
    ctfs.write(properties=False)
    ctf_set.update(ctfs)
    return ctfs


def copy_tilt_series(ts_set, ts, reason):
    """Append a copy of a tilt series that failed, with the reason."""
    copy = TiltSeries(tsId=ts.getTsId())
    copy.copyInfo(ts)
    extra.put(copy, extra.ERROR, reason)
    connections.append(ts_set, copy)
    for ti in ts.iterItems():
        image = ti.clone()
        image.setObjId(None)
        copy.append(image)
    copy.write(properties=False)
    ts_set.update(copy)


def tomogram(path, ts, pixel_size, centre, halves=(), ctf_corrected=False):
    """Make a tomogram whose origin is the tomogram centre.

    Parameters
    ----------
    path : str
    ts : tomo.objects.TiltSeries
    pixel_size : float
        Angstrom per voxel.
    centre : sequence of 3 float
        Voxels xyz from the first one; not always the middle, see `engine.tomogram.TomogramSetup`.
    halves : (str, str)
        From the odd and from the even tilts.
    ctf_corrected : bool
    """
    out = Tomogram(tsId=ts.getTsId())
    out.setFileName(path)
    out.setSamplingRate(pixel_size)
    origin = Transform()
    origin.setShifts(*(-float(c) * pixel_size for c in centre))
    out.setOrigin(origin)
    out.setAcquisition(ts.getAcquisition())
    out.setCtfCorrected(ctf_corrected)
    if halves:
        out.setHalfMaps(list(halves))
    extra.put(out, extra.NAME, extra.take(ts, extra.NAME, ts.getTsId()))
    return out


def pose(rotation):
    """Scipion's 4x4 matrix of an orientation `(3, 3)` that takes the reference to the tomogram."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(rotation).T
    return matrix


def add_coordinates(coordinate_set, particles, tomograms, centre="relion"):
    """Append particles as coordinates; the columns of their table that stay true are kept.

    Parameters
    ----------
    coordinate_set : tomo.objects.SetOfCoordinates3D
    particles : ParticleSet
        Its tilt series are called by tsId.
    tomograms : tomo.objects.SetOfTomograms
    centre : {'relion', 'imod'}
        As in `positions.Frame`.

    Returns
    -------
    dict of str to int
        Particles by tsId.
    """
    volumes = {t.getTsId(): t.clone() for t in tomograms.iterItems()}
    frames = {name: positions.Frame(t, centre) for name, t in volumes.items()}
    # Every coordinate has all of them: what a set says of all would be said of others when sets are joined.
    own = particlestar.kept_columns(particles.extra)
    groups = _groups(particles.extra)
    moving = isinstance(particles.trajectory, Trajectory)
    moves = movement.texts(particles.trajectory) if moving else None
    counts = dict.fromkeys(volumes, 0)
    for i, ts_id in enumerate(particles.names()):
        item = Coordinate3D()
        item.setVolume(volumes[ts_id])
        item.setTomoId(ts_id)
        for attribute, value in zip((item._x, item._y, item._z), frames[ts_id].stored(particles.position[i])):
            attribute.set(float(value))
        item.setMatrix(pose(particles.rotation[i]))
        item.setGroupId(groups[i] if groups else 0)
        extra.put(item, extra.UID, particles.uid[i])
        extra.put(item, extra.COLUMNS, json.dumps({n: v[i] for n, v in own.items()}))
        if moving:
            extra.put(item, extra.MOVEMENT, moves[i])
        coordinate_set.append(item)
        counts[ts_id] += 1
    return counts


def _groups(columns):
    """Group numbers of particles, if a column has them: what Scipion wrote, or the surface that they were picked on."""
    for name in ("sciGroupId", "rlnTomoManifoldIndex"):
        if name in columns:
            try:
                return [int(float(v)) for v in columns[name]]
            except ValueError:
                continue
    return None


def add_subtomograms(subtomogram_set, items, results, acquisitions, centre="relion", relative=str, moved=None):
    """Append the sub-tomograms that were written, in the order of the particles that they were made of.

    Parameters
    ----------
    subtomogram_set : tomo.objects.SetOfSubTomograms
    items : tomo.objects.SetOfCoordinates3D or SetOfSubTomograms
        The particles that were exported.
    results : dict of str to dict
        By the particle's name, what the job recorded of those that it wrote.
    acquisitions : dict of str to tomo.objects.TomoAcquisition
        Of the tilt series.
    centre : {'relion', 'imod'}
        As in `positions.Frame`.
    relative : callable
        Makes paths as sets keep them.
    moved : callable, optional
        Gives the particles as they lie in the sub-tomograms, for the particles of the items.

    Notes
    -----
    Sub-tomograms are centred on the particle: their transform has no translation, and a translation that the input
    had is folded into the coordinate.
    """
    particles = positions.particles(items, centre)
    particles = moved(particles) if moved else particles
    coordinates = items.getCoordinates3D() if hasattr(items, "getCoordinates3D") else items
    volumes = {t.getTsId(): t.clone() for t in coordinates.getPrecedents().iterItems()}
    frames = {name: positions.Frame(t, centre) for name, t in volumes.items()}
    pixel_size = subtomogram_set.getSamplingRate()
    columns = particlestar.kept_columns(particles.extra)
    for i, item in enumerate(items.iterItems()):
        result = results.get(particles.uid[i])
        if result is None:
            continue
        coordinate = (item.getCoordinate3D() if coordinates is not items else item).clone()
        ts_id = coordinate.getTomoId()
        coordinate.setVolume(volumes[ts_id])
        for attribute, value in zip((coordinate._x, coordinate._y, coordinate._z),
                                    frames[ts_id].stored(particles.position[i])):
            attribute.set(float(value))
        matrix = pose(particles.rotation[i])
        coordinate.setMatrix(matrix)
        extra.put(coordinate, extra.UID, particles.uid[i])
        extra.put(coordinate, extra.COLUMNS, json.dumps({name: values[i] for name, values in columns.items()}))
        out = SubTomogram()
        out.setFileName(relative(result["image"]))
        out.setSamplingRate(pixel_size)
        out.setCoordinate3D(coordinate)
        out.setVolName(ts_id)
        out.setClassId(item.getClassId() if hasattr(item, "getClassId") else None)
        out.setTransform(Transform(matrix))
        out.setAcquisition(acquisitions[ts_id])
        extra.put(out, extra.CTF_FILE, relative(result["ctf"]))
        extra.put(out, extra.TILTS, int(result["tilts"]))
        subtomogram_set.append(out)


def add_image_series(particle_set, entries, relative=str):
    """Append the images of particles, with defocus and orientation of the projection.

    Parameters
    ----------
    particle_set : pwem.objects.SetOfParticles
    entries : list of dict
        What the job recorded of every particle: ``uid``, ``image``, ``first``, and ``rows``.
    relative : callable
        Makes paths as sets keep them.
    """
    for entry in entries:
        for n, row in enumerate(entry["rows"], entry["first"] + 1):
            out = Particle()
            out.setLocation(n, relative(entry["image"]))
            out.setSamplingRate(particle_set.getSamplingRate())
            out.setAcquisition(particle_set.getAcquisition())
            ctf = CTFModel()
            ctf.setStandardDefocus(row["defocus_u"], row["defocus_v"], row["defocus_angle"])
            ctf.setPhaseShift(row["phase"])
            out.setCTF(ctf)
            matrix = pose(matrix_from_zyz(*row["angles"]))
            # As Scipion's plugin for RELION keeps rlnOriginX/Y, pixels.
            matrix[:3, 3] = matrix[:3, :3] @ [*row.get("origin", (0.0, 0.0)), 0.0]
            out.setTransform(Transform(matrix))
            extra.put(out, extra.UID, entry["uid"])
            extra.put(out, extra.DOSE, float(row["dose"]))
            particle_set.append(out)


def average(path, halves, pixel_size):
    """Make an average with its two half maps."""
    out = AverageSubTomogram()
    out.setFileName(path)
    out.setSamplingRate(pixel_size)
    out.setHalfMaps(list(halves))
    return out


def add_fscs(fsc_set, path):
    """Append the curves of a table ``fsc.csv``: a header, frequencies in 1/A, then one column per curve."""
    with open(path, encoding="utf-8") as file:
        names = file.readline().lstrip("# ").strip().split(",")
        rows = [[float(v) for v in line.split(",")] for line in file if line.strip()]
    for name, values in list(zip(names, zip(*rows)))[1:]:
        curve = FSC(objLabel=name.strip())
        curve.setData(list(next(zip(*rows))), list(values))
        fsc_set.append(curve)
