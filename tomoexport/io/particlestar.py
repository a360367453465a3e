"""Particles from STAR files of RELION 3.0, 3.1, 4, 5, WarpTools and M; `dialects` tells them apart."""

import os
import re
from dataclasses import dataclass

import numpy as np

from ..engine.particles import ParticleSet
from ..engine.poses import matrix_from_zyz, zyz_from_matrix
from ..errors import InputError
from . import species, star
from .dialects import CENTRED, CORNER, PIXEL_REMEDY, dialect_of, image_pixel_size
from .statements import ABERRATIONS, of_columns

ORIGIN = ("rlnOriginX", "rlnOriginY", "rlnOriginZ")
ANGLE = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
BOX_ANGLE = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")
_GROUP = "rlnOpticsGroup"
NAMES = ("rlnTomoName", "rlnMicrographName")
# What a new position, orientation, name or image makes untrue; priors and offsets are relative to the old orientation.
_STALE = NAMES + (
    "rlnTomoParticleName", "rlnTomoParticleId", "rlnCtfImage", "rlnReconstructImageName", "rlnTomoVisibleFrames",
    "rlnOpticsGroup", "rlnOpticsGroupName", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast",
    "rlnMagnification", "rlnDetectorPixelSize", "rlnPixelSize", "rlnTomoTiltSeriesPixelSize",
    "rlnCtfDataAreCtfPremultiplied")
_STALE_PREFIXES = ("rlnCoordinate", "rlnCenteredCoordinate", "rlnOrigin", "rlnAngle", "rlnTomoSubtomogram", "rlnImage",
                   "wrpCoordinate", "wrpAngle")
_FEW = 4  # particles of which nothing is concluded
_CORNER_SHARE = 0.52  # of a tomogram's sides in which all particles would lie if their pixels were twice as large
_SUFFIX = re.compile(r"(\.(tomostar|mrcs?|rec|st)|_\d+(\.\d+)?Apx)$")


def particle_table(path, only=None):
    """Read the table of particles of a STAR file, the columns of ``data_optics`` joined to it.

    Parameters
    ----------
    path : str
    only : sequence of str, optional
        Tilt series whose rows are enough: others may be left out.

    Returns
    -------
    table : star.Table
    optics : star.Table or None
        ``data_optics``.

    Raises
    ------
    InputError
        If no block has particles, or a row names an optics group that is not there.
    """
    endings = set()
    source = star.read(path, _of_series(only, endings) if only else None)
    if len(endings) > 1:
        return particle_table(path)  # names of several kinds: all rows together tell the dialect
    optics = source.find("optics")
    table = next((block for block in source if block is not optics and not block.is_list
                  and (species.is_species(block) or any(map(block.has, NAMES + CENTRED + CORNER)))), None)
    if only and table is not None and len(table) == 0:
        return particle_table(path)  # they have none, which whoever knows all rows can tell
    if table is None or len(table) == 0:
        raise InputError(path, "there are no particles in it", "Give a particle STAR file; the blocks are: %s"
                         % ", ".join("data_%s (%d rows)" % (block.name, len(block)) for block in source))
    if optics is None or len(optics) == 0:
        return table, optics
    new = [i for i, column in enumerate(optics.columns) if not table.has(column)]
    groups = optics.text(_GROUP)
    rows = {group: [row[i] for i in new] for group, row in zip(groups, optics.iter_rows())}
    of_particles = table.text(_GROUP, groups[0] if len(groups) == 1 else None)
    for row, group in enumerate(of_particles):
        if group not in rows:
            raise InputError(table.where(row), "there is no optics group %s" % group,
                             "data_optics has the groups %s" % ", ".join(groups))
    return table.extended([optics.columns[i] for i in new], (rows[group] for group in of_particles)), optics


def _of_series(only, endings):
    """For `star.read`: which rows may be of some tilt series, whatever folder or ending their names have.

    ``endings`` becomes the set of answers to whether names end as WarpTools' do.
    """
    bare, known = {bare_name(name) for name in only}, {}

    def choose(columns):
        name = next((name for name in NAMES if name in columns), None)
        if name is None or not set(CENTRED + CORNER) & set(columns) or species.COORDINATE[0] + "1" in columns:
            return None  # not a table of particles, or M's, which tells them otherwise

        def wanted(text):
            if text not in known:
                endings.add(text.endswith(".tomostar"))
                known[text] = text in only or bare_name(text) in bare
            return known[text]

        return columns.index(name), wanted

    return choose


def dialect(path):
    """Tell the dialect of a particle STAR file.

    Parameters
    ----------
    path : str

    Returns
    -------
    str
        Name of one of `dialects.DIALECTS`.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    return dialect_of(*particle_table(path)).name


@dataclass(frozen=True, eq=False)
class TableOfParticles:
    """What a table says beside its particles, and how it was read.

    Attributes
    ----------
    dialect : str
    unit, zero : str
        In which unit coordinates were read, and from where, for people.
    optics : star.Table or None
        data_optics, as it stands.
    statements : tuple of statements.Statement
    adrift : bool
        Whether positions count from the corner of tomograms whose size is not known, so that only distances mean
        something.
    """

    dialect: str
    unit: str
    zero: str
    optics: object = None
    statements: tuple = ()
    adrift: bool = False


def about_table(path, table, optics, unit="angstrom", zero="the centre", adrift=False):
    """What a table says beside its particles, and how it was read.

    Parameters
    ----------
    path : str
    table : star.Table
    optics : star.Table or None
    unit, zero, adrift
        As of `TableOfParticles`, the unit without the program's name.

    Returns
    -------
    TableOfParticles
    """
    kind = dialect_of(table, optics)
    return TableOfParticles(kind.name, "%s (%s)" % (unit, kind.program), zero, optics,
                            of_columns(table, ABERRATIONS, path), adrift)


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
        raise InputError(table.where(), "the pixel size of rlnOriginX/Y/Z is not known", PIXEL_REMEDY)
    return out * np.reshape(pixel_size if known is None else known, (-1, 1))


_SIZE_CAUSE = "its coordinates count from the corner of the tomogram, whose size it does not tell"
_SIZE_REMEDY = "Give the tilt series as well (--tomograms), and --tomogram-size if their table does not tell it"


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
                   tomogram_binning=None, name=None, allow_loss=True, sources=(), anywhere=False, only=None):
    """Read particles and match them with tilt series.

    Parameters
    ----------
    path : str
    series : Project, or sequence of TiltSeries, optional
        Needed for coordinates that are counted from the corner of the tomogram. Without it names stay as they are.
        Particles of a project's tilt series that cannot be read, or that are left out, are left out, unless they may
        be `anywhere`.
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
    anywhere : bool
        Whether positions may count from the corner of tomograms whose size is not known: where only distances matter.
    only : sequence of str, optional
        Tilt series whose particles are enough: rows of others are passed over, in a fifth of the time.

    Returns
    -------
    particles : ParticleSet
        Those whose tilt series is there. Shifts (rlnOrigin*) are in the positions, box orientations
        (rlnTomoSubtomogram*) in the rotations; ``extra`` holds every column as it came in, ``table`` is a
        `TableOfParticles`. M's have a trajectory.
    problems : list of str
        Tomograms without tilt series and how many particles they have, coordinates that occur more than once, and what
        is odd about the units.

    Raises
    ------
    InputError
        If there are no coordinates, no name matches or, without `allow_loss`, a name does not, or a pixel size is not
        known.
    """
    table, optics = particle_table(path, only)
    names = [name] * len(table) if name else tomogram_names(table, sources)
    if series is None:
        ts_ids, problems = tuple(dict.fromkeys(names)), []
    else:
        unusable = _unusable(series)
        ts_ids = tuple(one.ts_id for one in series) + (tuple(unusable) if anywhere else ())
        table, names, problems = _matched(path, table, names, ts_ids, allow_loss, {} if anywhere else unusable)
    index = {ts_id: i for i, ts_id in enumerate(ts_ids)}
    ts = np.array([index[ts_id] for ts_id in names], int)
    places = _Places(path, series, ts, anywhere)
    kind, trajectory = dialect_of(table, optics), None
    if species.is_species(table):
        trajectory = species.trajectories(table, places.half_extents())
        position, rotation = trajectory.start
        oriented, unit = table.has(species.ANGLE[0] + "1"), "angstrom"
    else:
        if kind.centred:
            position, unit = vectors(table, CENTRED), "angstrom"
        else:
            position, unit, more = _from_corner(table, kind, places, coordinates_pixel_size, normalized, centre,
                                                tomogram_binning)
            problems += more
        box, particle = rotations(table)
        position = position - np.einsum("nij,nj->ni", box, origins(table, coordinates_pixel_size))
        rotation, oriented = box @ particle, any(map(table.has, ANGLE + BOX_ANGLE))
    zero = "the centre" if kind.centred else "the corner of tomograms of unknown size" if places.unknown else (
        "the corner, about %s" % ("(N-1)/2" if centre == "imod" and trajectory is None else "voxel N/2"))
    problems += _coinciding(position, names) + places.in_one_corner(position)
    if (coordinates_pixel_size or normalized) and (kind.centred or trajectory is not None):
        problems.append("its coordinates are in angstrom; what is given of their unit is not used")
    about = about_table(path, table, optics, unit, zero, places.unknown)
    particles = ParticleSet(position, rotation, ts, ts_ids, particle_names(table, names),
                            {column: table.packed(column) for column in table.columns}, oriented, trajectory, about)
    return particles, problems


def _unusable(series):
    """Tilt series of a project that have no geometry, and why."""
    faults = dict.fromkeys(getattr(series, "faults", ()), "its tilt series cannot be read")
    return dict(faults, **getattr(series, "left_out", {}))


class _Places:
    """Where the tomograms of particles have their corners.

    Parameters
    ----------
    path : str
    series : sequence of TiltSeries or None
    ts : ndarray `(N,)` of int
        Index of each particle's tilt series.
    anywhere : bool
        As of `read_particles`.
    """

    def __init__(self, path, series, ts, anywhere):
        self._path, self._series, self._ts, self._anywhere = path, series, ts, anywhere
        self.unknown = False  # whether a size was asked for that is not there

    def _known(self):
        if self._series is None or not all(i < len(self._series) and self._series[i].sized for i in set(self._ts)):
            if not self._anywhere:
                raise InputError(self._path, _SIZE_CAUSE, _SIZE_REMEDY)
            self.unknown = True
        return not self.unknown

    def half_extents(self):
        """Half the extent of each particle's tomogram `(N, 3)`, angstrom: where Warp's coordinates have its centre."""
        if not self._known():
            return np.zeros((len(self._ts), 3))
        return np.array([one.geometry.volume_size for one in self._series]).reshape(-1, 3)[self._ts] / 2

    def sizes(self):
        """Unbinned voxels of each particle's tomogram `(N, 3)`; None where that is not known and need not be."""
        return np.array([one.geometry.size_px for one in self._series])[self._ts] if self._known() else None

    def pixel_sizes(self):
        """Pixel size of each particle's tilt images `(N,)`, angstrom; NaN where they are not known."""
        known = [one.geometry.pixel_size for one in self._series or ()]
        return np.array([known[i] if i < len(known) else np.nan for i in self._ts])

    def in_one_corner(self, position):
        """Lines for tilt series whose particles all lie where they would if their pixels were larger than thought."""
        if self._series is None or self.unknown or len(position) < _FEW:
            return []
        lines = []
        for i, one in enumerate(self._series):
            own = position[self._ts == i]
            if len(own) < _FEW or not one.sized:
                continue
            g = one.geometry
            share = (own + g.centre) / np.array(g.volume_size)
            if share.max() < _CORNER_SHARE and share.min() > -0.02:
                lines.append("%s: all %d particles lie in one corner, within %.0f %% of each side: are their "
                             "coordinates pixels of a binned tomogram? --coordinates-pixel-size says of which size"
                             % (one.ts_id, len(own), 100 * share.max()))
        return lines


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


def _matched(path, table, names, ts_ids, allow_loss, unusable):
    """Keep the rows whose name means a tilt series. Returns table, names of their tilt series, problems."""
    match = match_names(names, tuple(ts_ids) + tuple(unusable))
    rows = [row for row, name in enumerate(names) if match.get(name) in ts_ids]
    lost, idle = {}, {}
    for name in names:
        if name not in match:
            lost[name] = lost.get(name, 0) + 1
        elif match[name] in unusable:
            idle[match[name]] = idle.get(match[name], 0) + 1
    if not rows and not idle:
        raise InputError(path, "no particle belongs to one of the tilt series; it names %s, the tilt series are %s"
                         % (", ".join(lost), ", ".join(ts_ids)), "Give the tilt series that the particles belong to")
    if lost and not allow_loss:
        raise InputError(path, "%d particles would be lost: there is no tilt series %s; the tilt series are %s" % (
            sum(lost.values()), ", ".join("%s (%d particles)" % item for item in lost.items()), ", ".join(ts_ids)),
            "Complete the tilt series, or leave these particles out with --allow-loss")
    problems = ["%s: %d particles are left out, there is no tilt series of this name" % item for item in lost.items()]
    problems += ["%s: %d particles are left out, %s" % (name, count, unusable[name]) for name, count in idle.items()]
    return table.select(rows), [match[names[row]] for row in rows], problems


def _from_corner(table, kind, places, pixel_size, normalized, centre, binning):
    """Positions `(N, 3)` in angstrom from the tomogram centre, of coordinates counted from its corner.

    Returns
    -------
    position : ndarray `(N, 3)`
    unit : str
    notes : list of str
    """
    if not table.has(*CORNER):
        raise InputError(table.where(), "it has neither the columns %s nor %s" % (CENTRED[0], CORNER[0]),
                         "Give a particle STAR file with coordinates")
    of_series, sizes, notes = places.pixel_sizes(), places.sizes(), []
    coordinates = vectors(table, CORNER)
    if normalized:
        if sizes is None:
            raise InputError(table.where(), _SIZE_CAUSE, _SIZE_REMEDY)
        pixel, coordinates, unit = of_series, coordinates * (sizes - 1), "shares of the tomogram"
    else:
        pixel = np.full(len(table), float(pixel_size)) if pixel_size else kind.corner_unit(table, of_series)
        unit = "pixels of %s A, as given" % _range(pixel)
        if not pixel_size:
            unit, of_images = "%s, %s A" % (kind.unit_name, _range(pixel)), image_pixel_size(table)
            # rlnImagePixelSize is the binned images' in any table of RELION's.
            told = table.has("rlnPixelSize") or table.has("rlnMagnification")
            apart = np.abs(of_images - pixel).max(initial=0) if told and of_images is not None else 0
            if apart > 1e-3 * pixel.max(initial=0):
                notes.append("its coordinates are taken for %s, as %s has them; its images' pixel size is %s A "
                             "(rlnPixelSize). If they are pixels of that size, give --coordinates-pixel-size" % (
                                 unit, kind.program, _range(of_images)))
    if sizes is None:
        return coordinates * pixel[:, None], unit, notes
    if centre == "imod":
        voxel = (of_series * binning if binning else np.maximum(pixel, of_series))[:, None]
        middle = (np.round(sizes * of_series[:, None] / voxel) - 1) / 2 * voxel
    else:
        # Voxel N//2 of the unbinned tomogram; in a binned one, where it may fall between voxels, it is the same point.
        middle = sizes // 2 * of_series[:, None]
    return coordinates * pixel[:, None] - middle, unit, notes


def _range(values):
    """A number, or the least and the largest, for people."""
    if not len(values):
        return "no"
    low, high = float(values.min()), float(values.max())
    return "%.5g" % low if high - low <= 1e-4 * high else "%.5g to %.5g" % (low, high)


def _coinciding(position, names):
    """Lines that tell how many particles of a tilt series sit exactly where another one does."""
    index = {name: i for i, name in enumerate(dict.fromkeys(names))}
    series = np.fromiter((index[name] for name in names), np.int64, len(names))
    keys = (*(position + 0.0).T, series)  # no difference between 0 and -0
    order = np.lexsort(keys)  # of equal ones the first comes first
    same = np.ones(max(len(order) - 1, 0), bool)
    for key in keys:
        same &= key[order[1:]] == key[order[:-1]]
    counts = np.bincount(series[order[1:][same]], minlength=len(index))
    return ["%s: %d particles have the same coordinates as another" % (name, counts[i]) for name, i in index.items()
            if counts[i]]


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
