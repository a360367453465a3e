"""Particles from STAR files of RELION 3.0, 3.1, 4, 5, WarpTools and M.

What differs is the unit and the zero of the coordinates, and where pixel sizes stand; `dialect` tells them apart:

=========  ======================================================  ==============================================
dialect    recognised by                                           coordinates
=========  ======================================================  ==============================================
m          ``wrpCoordinateX1``                                     angstrom from the corner, sampled over dose
relion5    ``rlnCenteredCoordinateXAngst``                         angstrom from the tomogram's centre
warptools  ``rlnTomoName`` ending in ``.tomostar``                 particle pixels from the corner
relion4    ``rlnTomoName``                                         tilt series pixels from the corner
relion3.1  ``data_optics``                                         pixels from the corner, size to be told or taken
relion3.0  none of these                                           from the table
=========  ======================================================  ==============================================

WarpTools of today equates tilt series pixel and particle pixel, so that one rule reads its old and its new files.
"""

import os
import re

import numpy as np

from ..engine.particles import ParticleSet
from ..engine.poses import matrix_from_zyz, zyz_from_matrix
from ..errors import InputError
from . import species, star

CENTRED = ("rlnCenteredCoordinateXAngst", "rlnCenteredCoordinateYAngst", "rlnCenteredCoordinateZAngst")
CORNER = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")
ORIGIN = ("rlnOriginX", "rlnOriginY", "rlnOriginZ")
ANGLE = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
BOX_ANGLE = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")
_GROUP, _SERIES_PIXEL, _IMAGE_PIXEL = "rlnOpticsGroup", "rlnTomoTiltSeriesPixelSize", "rlnImagePixelSize"
NAMES = ("rlnTomoName", "rlnMicrographName")
# What a new position, orientation, name or image makes untrue; priors and offsets are relative to the old orientation.
_STALE = NAMES + (
    "rlnTomoParticleName", "rlnTomoParticleId", "rlnCtfImage", "rlnReconstructImageName", "rlnTomoVisibleFrames",
    "rlnOpticsGroup", "rlnOpticsGroupName", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast",
    "rlnMagnification", "rlnDetectorPixelSize", "rlnPixelSize", "rlnTomoTiltSeriesPixelSize",
    "rlnCtfDataAreCtfPremultiplied")
_STALE_PREFIXES = ("rlnCoordinate", "rlnCenteredCoordinate", "rlnOrigin", "rlnAngle", "rlnTomoSubtomogram", "rlnImage",
                   "wrpCoordinate", "wrpAngle")
_SUFFIX = re.compile(r"(\.(tomostar|mrcs?|rec|st)|_\d+(\.\d+)?Apx)$")


def particle_table(path):
    """Read the table of particles of a STAR file, the columns of ``data_optics`` joined to it.

    Parameters
    ----------
    path : str

    Returns
    -------
    table : star.Table
    optics : bool
        Whether there is a ``data_optics``.

    Raises
    ------
    InputError
        If no block has particles, or a row names an optics group that is not there.
    """
    source = star.read(path)
    optics = source.find("optics")
    table = next((block for block in source if block is not optics and not block.is_list
                  and (species.is_species(block) or any(map(block.has, NAMES + CENTRED + CORNER)))), None)
    if table is None or len(table) == 0:
        raise InputError(path, "there are no particles in it", "Give a particle STAR file; the blocks are: %s"
                         % ", ".join("data_%s (%d rows)" % (block.name, len(block)) for block in source))
    if optics is None or len(optics) == 0:
        return table, optics is not None
    new = [i for i, column in enumerate(optics.columns) if not table.has(column)]
    groups = optics.text(_GROUP)
    rows = {group: [row[i] for i in new] for group, row in zip(groups, optics.rows)}
    of_particles = table.text(_GROUP, groups[0] if len(groups) == 1 else None)
    for row, group in enumerate(of_particles):
        if group not in rows:
            raise InputError(table.where(row), "there is no optics group %s" % group,
                             "data_optics has the groups %s" % ", ".join(groups))
    return table.extended([optics.columns[i] for i in new], [rows[group] for group in of_particles]), True


def dialect(path):
    """Tell the dialect of a particle STAR file.

    Parameters
    ----------
    path : str

    Returns
    -------
    str
        One of the names in the head of this module.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    return _dialect(*particle_table(path))


def _dialect(table, optics):
    if species.is_species(table):
        return "m"
    if table.has(*CENTRED):
        return "relion5"
    if table.has("rlnTomoName"):
        return "warptools" if all(name.endswith(".tomostar") for name in table.text("rlnTomoName")) else "relion4"
    return "relion3.1" if optics else "relion3.0"


def image_pixel_size(table):
    """Pixel size of the images of each particle.

    Parameters
    ----------
    table : star.Table

    Returns
    -------
    ndarray `(N,)` or None
        Angstrom; None if the table does not tell.
    """
    if table.has("rlnPixelSize"):
        return table.float("rlnPixelSize")
    if table.has("rlnDetectorPixelSize", "rlnMagnification"):
        return table.float("rlnDetectorPixelSize") * 1e4 / table.float("rlnMagnification")
    return table.float(_IMAGE_PIXEL) if table.has(_IMAGE_PIXEL) else None


def vectors(table, columns, default=None):
    """Three columns of a table side by side.

    Parameters
    ----------
    table : star.Table
    columns : sequence of str
    default : float, optional
        Value of columns that are not there.

    Returns
    -------
    ndarray `(N, 3)`

    Raises
    ------
    InputError
        If a column is not there and has no default.
    """
    return np.stack([table.float(column, default) for column in columns], axis=1)


def origins(table, pixel_size=None):
    """Offsets rlnOriginX/Y/Z of the particles from their boxes' centres.

    Parameters
    ----------
    table : star.Table
    pixel_size : float or ndarray `(N,)`, optional
        Angstrom per pixel of offsets in pixels, where the table does not tell.

    Returns
    -------
    ndarray `(N, 3)`
        Angstrom, in the frame of the box; its centre is the particle's plus this.

    Raises
    ------
    InputError
        If offsets are in pixels of unknown size.
    """
    angst = [column + "Angst" for column in ORIGIN]
    if any(map(table.has, angst)):
        return vectors(table, angst, 0.0)
    out = vectors(table, ORIGIN, 0.0)
    if not out.any():
        return out
    known = image_pixel_size(table)
    if known is None and pixel_size is None:
        raise InputError(table.where(), "the pixel size of rlnOriginX/Y/Z is not known", _PIXEL_REMEDY)
    return out * np.reshape(pixel_size if known is None else known, (-1, 1))


_PIXEL_REMEDY = "Give the pixel size of the coordinates, A"
_SIZE_CAUSE = "its coordinates count from the corner of the tomogram, whose size it does not tell"
_SIZE_REMEDY = "Give the tilt series as well"


def rotations(table):
    """Orientations of the particles.

    Parameters
    ----------
    table : star.Table

    Returns
    -------
    box : ndarray `(N, 3, 3)`
        Of the particle's box in the tomogram (rlnTomoSubtomogram*).
    particle : ndarray `(N, 3, 3)`
        Of the particle in its box (rlnAngle*). Angles that are not there are 0.
    """
    return tuple(matrix_from_zyz(*(table.float(column, 0.0) for column in columns))
                 for columns in (BOX_ANGLE, ANGLE))


def bare_name(name):
    """Strip folder, extension and pixel size from the name of a tomogram: ``rec/TS_1_10.00Apx.mrc`` to ``TS_1``.

    Parameters
    ----------
    name : str

    Returns
    -------
    str
    """
    bare = os.path.basename(name)
    while _SUFFIX.search(bare):
        bare = _SUFFIX.sub("", bare)
    return bare


def match_names(names, ts_ids):
    """Find the tilt series that each name means.

    Parameters
    ----------
    names : sequence of str
    ts_ids : sequence of str

    Returns
    -------
    dict of str to str
        For each distinct name that means exactly one tilt series: the same name, or else the same bare name.
    """
    by_bare = {}
    for ts_id in ts_ids:
        by_bare.setdefault(bare_name(ts_id), []).append(ts_id)
    out = {}
    for name in dict.fromkeys(names):
        candidates = [name] if name in ts_ids else by_bare.get(bare_name(name), [])
        if len(candidates) == 1:
            out[name] = candidates[0]
    return out


def read_particles(path, series=None, *, coordinates_pixel_size=None, normalized=False, centre="relion",
                   tomogram_binning=None, name=None, allow_loss=True, sources=()):
    """Read particles and match them with tilt series.

    Parameters
    ----------
    path : str
    series : sequence of TiltSeries, optional
        Needed for coordinates that are counted from the corner of the tomogram. Without it names stay as they are.
    coordinates_pixel_size : float, optional
        Angstrom per pixel of coordinates counted from the corner; by default the table tells. M's are in angstrom.
    normalized : bool
        Whether such coordinates run from 0 to 1 over the tomogram.
    centre : {'relion', 'imod'}
        Where the tomogram they were measured in has its centre: voxel N//2 or (N-1)/2.
    tomogram_binning : float, optional
        Voxel of that tomogram in pixels of the tilt series, for 'imod'. By default the tomogram has the coarser of the
        coordinates' and the tilt series' pixel.
    name : str, optional
        Tilt series of all particles, whatever the table says.
    allow_loss : bool
        Whether particles may name a tilt series that is not there; they are left out.
    sources : sequence of str
        M's ``.source`` files, if hashes and not names shall tell the tilt series of M's particles.

    Returns
    -------
    particles : ParticleSet
        Those whose tilt series is there. Shifts (rlnOrigin*) are in the positions, box orientations
        (rlnTomoSubtomogram*) in the rotations; ``extra`` holds every column as it came in. M's have a trajectory.
    problems : list of str
        Tomograms without tilt series and how many particles they have, and coordinates that occur more than once.

    Raises
    ------
    InputError
        If there are no coordinates, no name matches or, without `allow_loss`, a name does not, or a pixel size is not
        known.
    """
    table, optics = particle_table(path)
    names = [name] * len(table) if name else tomogram_names(table, sources)
    if series is None:
        ts_ids, problems = tuple(dict.fromkeys(names)), []
    else:
        ts_ids = tuple(one.ts_id for one in series)
        table, names, problems = _matched(path, table, names, ts_ids, allow_loss)
    index = {ts_id: i for i, ts_id in enumerate(ts_ids)}
    ts = np.array([index[ts_id] for ts_id in names])
    trajectory = None
    if species.is_species(table):
        trajectory = species.trajectories(table, _half_extents(path, series)[ts])
        position, rotation = trajectory.start
        oriented = table.has(species.ANGLE[0] + "1")
    else:
        if table.has(*CENTRED):
            position = vectors(table, CENTRED)
        else:
            position = _from_corner(path, table, _dialect(table, optics), ts, series, coordinates_pixel_size,
                                    normalized, centre, tomogram_binning)
        box, particle = rotations(table)
        position = position - np.einsum("nij,nj->ni", box, origins(table, coordinates_pixel_size))
        rotation, oriented = box @ particle, any(map(table.has, ANGLE + BOX_ANGLE))
    problems += _coinciding(position, names)
    particles = ParticleSet(position, rotation, ts, ts_ids, particle_names(table, names),
                            {column: table.text(column) for column in table.columns}, oriented, trajectory)
    return particles, problems


def tomogram_names(table, sources=()):
    """The tomogram of each particle, as the table names it.

    Parameters
    ----------
    table : star.Table
    sources : sequence of str
        M's ``.source`` files, for M's particles.

    Returns
    -------
    list of str
        N names.

    Raises
    ------
    InputError
        If no column names them.
    """
    if species.is_species(table):
        return species.source_names(table, sources)
    column = next(filter(table.has, NAMES), None)
    if column is None:
        raise InputError(table.where(), "no column names the tomograms: neither %s nor %s" % NAMES,
                         "Say which tilt series the particles belong to")
    return table.text(column)


def particle_names(table, names):
    """Unique names of the particles: rlnTomoParticleName, else their number in the tilt series.

    Parameters
    ----------
    table : star.Table
    names : list of str
        Tilt series of each particle.

    Returns
    -------
    list of str
    """
    if table.has("rlnTomoParticleName"):
        return table.text("rlnTomoParticleName")
    counts = dict.fromkeys(names, 0)
    uids = []
    for name in names:
        counts[name] += 1
        uids.append("%s/%d" % (name, counts[name]))
    return uids


def _matched(path, table, names, ts_ids, allow_loss):
    """Keep the rows whose name means a tilt series. Returns table, names of their tilt series, problems."""
    match = match_names(names, ts_ids)
    rows = [row for row, name in enumerate(names) if name in match]
    lost = {}
    for name in names:
        if name not in match:
            lost[name] = lost.get(name, 0) + 1
    if not rows:
        raise InputError(path, "no particle belongs to one of the tilt series; it names %s, the tilt series are %s"
                         % (", ".join(lost), ", ".join(ts_ids)), "Give the tilt series that the particles belong to")
    if lost and not allow_loss:
        raise InputError(path, "%d particles would be lost: there is no tilt series %s; the tilt series are %s" % (
            sum(lost.values()), ", ".join("%s (%d particles)" % item for item in lost.items()), ", ".join(ts_ids)),
            "Complete the tilt series, or leave these particles out with --allow-loss")
    problems = ["%s: %d particles are left out, there is no tilt series of this name" % item for item in lost.items()]
    return table.select(rows), [match[names[row]] for row in rows], problems


def _half_extents(path, series):
    """Half the extent of each series' tomogram `(M, 3)`, angstrom: where Warp's coordinates have its centre."""
    if series is None:
        raise InputError(path, _SIZE_CAUSE, _SIZE_REMEDY)
    return np.array([one.geometry.volume_size for one in series]) / 2


def _from_corner(path, table, kind, ts, series, pixel_size, normalized, centre, binning):
    """Positions `(N, 3)` in angstrom from the tomogram centre, of coordinates counted from its corner."""
    if not table.has(*CORNER):
        raise InputError(table.where(), "it has neither the columns %s nor %s" % (CENTRED[0], CORNER[0]),
                         "Give a particle STAR file with coordinates")
    if series is None:
        raise InputError(path, _SIZE_CAUSE, _SIZE_REMEDY)
    geometries = [one.geometry for one in series]
    of_series = np.array([geometry.pixel_size for geometry in geometries])[ts]
    sizes = np.array([geometry.size_px for geometry in geometries])[ts]
    coordinates = vectors(table, CORNER)
    if normalized:
        pixel, coordinates = of_series, coordinates * (sizes - 1)
    elif pixel_size:
        pixel = np.full(len(table), float(pixel_size))
    else:
        pixel = _coordinate_pixel(table, kind, of_series)
    if centre == "imod":
        voxel = (of_series * binning if binning else np.maximum(pixel, of_series))[:, None]
        middle = (np.round(sizes * of_series[:, None] / voxel) - 1) / 2 * voxel
    else:
        # Voxel N//2 of the unbinned tomogram; in a binned one, where it may fall between voxels, it is the same point.
        middle = sizes // 2 * of_series[:, None]
    return coordinates * pixel[:, None] - middle


def _coordinate_pixel(table, kind, of_series):
    if kind == "relion4":
        return table.float(_SERIES_PIXEL) if table.has(_SERIES_PIXEL) else of_series
    pixel = table.float(_IMAGE_PIXEL) if kind == "warptools" and table.has(_IMAGE_PIXEL) else image_pixel_size(table)
    if pixel is None or not (pixel > 0).all():
        raise InputError(table.where(), "the pixel size of its coordinates is not known", _PIXEL_REMEDY)
    return pixel


def _coinciding(position, names):
    """Lines that tell how many particles of a tilt series sit exactly where another one does."""
    seen, twice = set(), {}
    for name, point in zip(names, map(tuple, position)):
        if (name, point) in seen:
            twice[name] = twice.get(name, 0) + 1
        seen.add((name, point))
    return ["%s: %d particles have the same coordinates as another" % item for item in twice.items()]


def kept_columns(columns):
    """Columns that stay true when particles get another position, orientation or image.

    M's half sets get RELION's name.

    Parameters
    ----------
    columns : dict of str to sequence

    Returns
    -------
    dict
    """
    renamed = {species.SUBSET: "rlnRandomSubset"} if "rlnRandomSubset" not in columns else {}
    return {renamed.get(name, name): values for name, values in columns.items()
            if name not in _STALE and not name.startswith(_STALE_PREFIXES)}


def write_particles(path, particles):
    """Write particles as a RELION 5 table: positions in angstrom from the tomogram centre, orientations, other columns.

    Parameters
    ----------
    path : str
    particles : ParticleSet
    """
    columns = {"rlnTomoName": particles.names(), "rlnTomoParticleName": list(particles.uid)}
    columns.update(zip(CENTRED, particles.position.T))
    columns.update(zip(ANGLE, zyz_from_matrix(particles.rotation)))
    columns.update(kept_columns(particles.extra))
    star.write(path, [star.Table.from_columns("particles", columns)])
