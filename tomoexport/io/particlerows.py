"""Rows of particle tables: taken over as they stand, or made anew in the dialect of a table that is there."""

import numpy as np

from ..engine.poses import zyz_from_matrix
from ..engine.trajectory import Trajectory
from ..errors import InputError
from . import species, star
from .dialects import CENTRED, CORNER, dialect_of, image_pixel_size
from .particlestar import ANGLE, BOX_ANGLE, ORIGIN, origins, rotations

_PRIOR = ("rlnAngleRotPrior", "rlnAngleTiltPrior", "rlnAnglePsiPrior")
_NAMES = ("rlnTomoName", "rlnMicrographName", species.NAME)
_NUMBER = "rlnTomoParticleId"
# What belongs to the images of a tilt series: taken from a particle that is there, pixel sizes among them.
_OPTICS = ("rlnOpticsGroup", "rlnOpticsGroupName", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast",
           "rlnMagnification", "rlnDetectorPixelSize", "rlnPixelSize", "rlnTomoTiltSeriesPixelSize",
           "rlnImagePixelSize", "rlnImageSize", "rlnImageDimensionality", "rlnTomoSubtomogramBinning",
           "rlnCtfDataAreCtfPremultiplied", "rlnTomoHand")


def write_rows(path, source, rows, added=()):
    """Write a particle STAR file again with some of its rows, and further ones; its other blocks stay.

    Parameters
    ----------
    path : str
        To be written; may be the source itself.
    source : str
    rows : sequence of int
        Of the table of particles, counted from 0, in the order in which they are written.
    added : list of list of str
        Further rows, of `made_rows`.

    Raises
    ------
    InputError
        If there are no particles in the source, or none is left.
    """
    tables = star.read(source)
    name = _table_name(tables)
    if not len(rows) and not len(added):
        raise InputError(path, "no particle is left to be written", "Keep at least one")
    out = []
    for table in tables:
        if table.name == name:
            table = table.select(rows).followed_by(added)
        out.append(table)
    star.write(path, out)


def _table_name(tables):
    """Name of the block that holds the particles."""
    for table in tables:
        named = any(map(table.has, _NAMES + CENTRED + CORNER)) or species.is_species(table)
        if named and table.name != "optics" and not table.is_list:
            return table.name
    raise InputError(tables.path, "there are no particles in it", "Give a particle STAR file")


def made_rows(source, old, new, source_names, series=None, pixel_size=None):
    """Rows for particles of another table, in the dialect and with the columns of this one.

    Positions, offsets and orientations are converted. Columns that both tables have get the particle's own values.
    What describes images and optics is that of a particle of the same tilt series, or else of the first one. Of the
    rest, whole numbers get the least that occurs, other numbers 0, half sets 1 and 2 by turns, and text ``None`` (M's
    ``null``); a column with one value keeps it.

    Parameters
    ----------
    source : str
        STAR file of the particles `old`.
    old : ParticleSet
        All its particles, in the order of its rows.
    new : ParticleSet
        M particles that get rows.
    source_names : sequence of str
        M names: the tilt series of each, as `old` calls it where it has it.
    series : sequence of TiltSeries, optional
        Needed where coordinates of `source` count from the corner of the tomogram.
    pixel_size : float, optional
        Angstrom per pixel of such coordinates; by default the table tells.

    Returns
    -------
    list of list of str
        M rows.

    Raises
    ------
    InputError
        If the tomogram's size or a pixel size that is needed is not known.
    """
    if not len(new):
        return []
    tables = star.read(source)
    columns = tables.table(_table_name(tables)).columns
    joined = star.Table.from_columns("particles", old.extra)
    first = {}
    for row, name in enumerate(old.names()):
        first.setdefault(name, row)
    like = np.array([first.get(name, 0) for name in source_names])
    made = _poses(source, joined, columns, old, new, source_names, like, series, pixel_size)
    made.update(_names(joined, columns, old, new, source_names, first))
    out, nothing = [], "null" if species.is_species(joined) else "None"
    for column in columns:
        if column not in made:
            made[column] = _values(column, joined.text(column), like, new, nothing)
        out.append([star.as_text(v) for v in np.asarray(made[column], object)])
    return [list(row) for row in zip(*out)]


def _poses(source, joined, columns, old, new, source_names, like, series, pixel_size):
    """Columns of positions, offsets and orientations."""
    made = {}
    own = star.Table.from_columns("particles", new.extra)
    n, has_offsets = len(new), any(c in columns or c + "Angst" in columns for c in ORIGIN)
    # Where both tables have offsets, the image stays at its place and the offset beside it.
    box, particle = np.broadcast_to(np.eye(3), (n, 3, 3)), new.rotation
    offset = np.zeros((n, 3))
    if has_offsets and len(new.extra):
        box, particle = rotations(own)
        if np.abs(box @ particle - new.rotation).max() > 1e-6:  # they come from elsewhere
            box, particle = np.broadcast_to(np.eye(3), (n, 3, 3)), new.rotation
        else:
            offset = _known_offsets(own)
    place = new.position + np.einsum("nij,nj->ni", box, offset)
    if not set(BOX_ANGLE) <= set(columns):
        offset, particle = np.einsum("nij,nj->ni", box, offset), new.rotation
        box = np.broadcast_to(np.eye(3), (n, 3, 3))
    for names, values in ((BOX_ANGLE, zyz_from_matrix(box)), (ANGLE, zyz_from_matrix(particle)),
                          (_PRIOR, zyz_from_matrix(particle)), (CENTRED, place.T)):
        made.update((c, v) for c, v in zip(names, values) if c in columns)
    made.update((c + "Angst", v) for c, v in zip(ORIGIN, offset.T) if c + "Angst" in columns)
    if set(ORIGIN) & set(columns):
        image = image_pixel_size(joined)
        pixel = image[like] if image is not None else np.full(n, pixel_size or np.nan)
        if offset.any() and np.isnan(pixel).any():
            raise InputError(source, "the pixel size of rlnOriginX/Y/Z is not known", "Give the pixel size, A")
        made.update((c, np.where(v == 0, 0.0, v / pixel)) for c, v in zip(ORIGIN, offset.T) if c in columns)
    if set(CORNER) & set(columns):
        pixel, middle = _corner(source, joined, old, source_names, like, series, pixel_size)
        made.update((c, v) for c, v in zip(CORNER, ((place + middle) / pixel[:, None]).T) if c in columns)
    if species.is_species(joined):
        made.update(_species(source, joined, new, source_names, series))
    return made


def _known_offsets(table):
    try:
        return origins(table)
    except InputError:  # in pixels of unknown size: they are in the positions already
        return np.zeros((len(table), 3))


def _corner(source, joined, old, source_names, like, series, pixel_size):
    """Pixel size `(M,)` of coordinates from the corner, and the tomograms' centres `(M, 3)`, angstrom."""
    geometries = _geometries(source, source_names, series)
    of_series = np.array([geometries[name].pixel_size for name in source_names])
    middle = np.array([geometries[name].size_px for name in source_names]) // 2 * of_series[:, None]
    kind = dialect_of(joined, old.table and old.table.optics)
    if pixel_size and not kind.centred:
        return np.full(len(like), float(pixel_size)), middle
    like_them = joined.select(like)
    return kind.corner_unit(like_them, of_series), middle


def _species(source, joined, new, source_names, series):
    """M's columns: the poses over dose, in as many samples as the table has, angstrom from the corner."""
    geometries = _geometries(source, source_names, series)
    half = np.array([geometries[name].volume_size for name in source_names])[:, None] / 2
    trajectory = new.trajectory
    if not isinstance(trajectory, Trajectory):
        trajectory = Trajectory(new.position[:, None], new.rotation[:, None])
    made = {}
    for which, labels in enumerate((species.COORDINATE, species.ANGLE)):
        samples = species.sample_columns(joined, labels)
        if not samples:
            continue
        values = trajectory.at(np.linspace(0.0, 1.0, len(samples)))[which]
        values = values + half if which == 0 else np.stack(zyz_from_matrix(values), axis=-1)
        made.update((label, values[:, s, axis]) for s, three in enumerate(samples) for axis, label in enumerate(three))
    return made


def _geometries(source, source_names, series):
    """Geometry of each tilt series that is needed."""
    geometries = {one.ts_id: one.geometry for one in series or () if one.sized}
    missing = [name for name in dict.fromkeys(source_names) if name not in geometries]
    if missing:
        raise InputError(source, "its coordinates count from the corner of the tomogram, and the size of %s is not "
                         "known" % ", ".join(missing), "Give the tilt series as well (--tomograms), and "
                         "--tomogram-size if their table does not tell it")
    return geometries


def _names(joined, columns, old, new, source_names, first):
    """Columns that name the tomogram and the particle."""
    made = {}
    for column in [c for c in _NAMES if c in columns][:1]:
        texts = joined.text(column)
        ending = ".tomostar" if all(t.endswith(".tomostar") for t in texts) else ""
        own = new.extra.get(column, source_names)
        made[column] = [texts[first[name]] if name in first
                        else given if given.endswith(ending) else name + ending
                        for name, given in zip(source_names, own)]
    if "rlnTomoParticleName" in columns:
        taken, counts = set(old.uid), {}
        made["rlnTomoParticleName"] = names = []
        for uid, name in zip(new.uid, source_names):
            while uid in taken:
                counts[name] = counts.get(name, 0) + 1
                uid = "%s/%d" % (name, counts[name])
            taken.add(uid)
            names.append(uid)
    if species.HASH in columns:
        texts, own = joined.text(species.HASH), new.extra.get(species.HASH, ["null"] * len(new))
        made[species.HASH] = [texts[first[name]] if name in first else value for name, value in zip(source_names, own)]
    if _NUMBER in columns:
        top = int(joined.float(_NUMBER).max())
        made[_NUMBER] = np.arange(top + 1, top + 1 + len(new))
    return made


def _values(column, texts, like, new, nothing):
    """A column that has nothing to do with the pose."""
    if column in _OPTICS:
        return [texts[i] for i in like]
    if column in new.extra:
        return new.extra[column]
    if column == "rlnTomoVisibleFrames":
        return ["[%s]" % ",".join("1" * (texts[i].count(",") + 1)) for i in like]
    if column in ("rlnRandomSubset", species.SUBSET):
        return [str(1 + i % 2) for i in range(len(new))]
    if len(set(texts)) == 1 and len(texts) > 1:
        return [texts[0]] * len(new)
    try:
        numbers = [float(t) for t in texts]
    except ValueError:
        return [nothing] * len(new)
    whole = all(v.is_integer() for v in numbers) and not any("." in t or "e" in t.lower() for t in texts)
    return [str(int(min(numbers))) if whole else "0.0"] * len(new)
