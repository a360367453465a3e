"""RELION 5 projects: tomograms.star and a table per tilt series, read and written.

Two columns of the tilt tables are ours: ``tomoexportUsed``, 0 for excluded views, and ``tomoexportAcquisitionOrder``.
RELION keeps columns that it does not know.
"""

import os
import re
from dataclasses import dataclass

import numpy as np

from ..engine.ctf import Ctf, Optics
from ..engine.geometry import TiltSeriesGeometry, from_projection_matrices, projection_matrices
from ..errors import InputError
from . import mrc, star
from .given import Given
from .paths import locate, relative_to, safe_stem, search_folders
from .statements import TILT_SERIES, of_columns
from .tiltseries import LARGEST_SIZE, LEAST_PIXEL, MOST_PIXEL, TiltSeries

_OPTICS = {"rlnVoltage": "voltage", "rlnSphericalAberration": "cs", "rlnAmplitudeContrast": "amplitude_contrast"}
_SIZE = ("rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ")
_ANGLES = ("rlnTomoYTilt", "rlnTomoZRot", "rlnTomoXShiftAngst", "rlnTomoYShiftAngst")
_PROJECTION = ("rlnTomoProjX", "rlnTomoProjY", "rlnTomoProjZ", "rlnTomoProjW")
_DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
_OPTIONAL_CTF = {"phase": "rlnPhaseShift", "bfactor": "rlnCtfBfactor", "scale": "rlnCtfScalefactor"}
_IMAGES = {"images": "rlnMicrographName", "even": "rlnMicrographNameEven", "odd": "rlnMicrographNameOdd"}
_DOSE, _XTILT = "rlnMicrographPreExposure", "rlnTomoXTilt"
_USED, _ORDER = "tomoexportUsed", "tomoexportAcquisitionOrder"
_PIXEL, _HAND, _GROUP = "rlnTomoTiltSeriesPixelSize", "rlnTomoHand", "rlnOpticsGroupName"
_NAME, _TABLE, _STACK = "rlnTomoName", "rlnTomoTiltSeriesStarFile", "rlnTomoTiltSeriesName"

_SAME = 0.1  # pixels by which matrices and angles may differ, numbers in tables being rounded

_SLOPE, _DECAY = "rlnTomoDefocusSlope", "rlnCtfBfactorPerElectronDose"
_NUMBER = "rlnTomoTiltMovieIndex"

_OWN_TILT = {_DOSE, _XTILT, _USED, _ORDER, *_ANGLES, *_PROJECTION, *_DEFOCUS, *_OPTIONAL_CTF.values(),
             *_IMAGES.values()}
_OWN_TOMO = {_NAME, _TABLE, _STACK, "rlnTomoFrameCount", _PIXEL, _HAND, _GROUP, _SLOPE, _DECAY, *_OPTICS, *_SIZE}


@dataclass(frozen=True, eq=False)
class _Row:
    """What the table of tomograms, and what is given, say of a tilt series."""

    tomogram: star.Table  # of one row
    pixel_size: float
    hand: int
    optics: object  # Optics, or the InputError that says what of them is missing
    extent: tuple  # angstrom; None if it is neither known nor needed
    factors: dict
    notes: tuple


class RelionTables:
    """RELION's table of tomograms, also that of RELION 4 and WarpTools, and its table of each tilt series.

    Parameters
    ----------
    path : str
        File with ``data_global``, one row per tilt series; the tilt tables are files of their own or, as RELION 4
        has them, further blocks.
    given : Given
        Images that are not there have the size that is given, or else the tomogram's, which is enough to read a table;
        `TiltSeries.check_files` tells before images are needed.

    Raises
    ------
    InputError
        If it cannot be read, or a name occurs twice.
    """

    NAME = "RELION"
    TAKES = "RELION 5's tomograms.star (also that of RELION 4 and WarpTools)"
    HAS_CTF = True

    def __init__(self, path, given=None):
        self.path, self._given, self.notes, self.left_out = os.fspath(path), given or Given(), (), {}
        self._star = star.read(path)
        self._rows = self._star.table("global")
        ids = self._rows.text(_NAME)
        if not ids:
            raise InputError(self._rows.where(), "it names no tomogram",
                             "Give a table with a row for every tilt series")
        for row, ts_id in enumerate(ids):
            if ts_id in ids[:row]:
                raise InputError(self._rows.where(row), "tomogram %s occurs twice" % ts_id,
                                 "Remove or rename one of the two")
        self.names = tuple(ids)
        self._folders = search_folders(path, self._given.base)
        # One table for all: what is wrong in any of its rows has to be put right first.
        self._tomograms = {name: self._of_row(row) for row, name in enumerate(ids)}

    @staticmethod
    def recognise(path):
        """See `project.SOURCES`."""
        return os.path.isfile(path) and not path.lower().endswith((".xml", ".xf"))

    def files(self, name):
        """See `project.SOURCES`."""
        table = self._table_of(self._tomograms[name].tomogram)
        return [self.path] + ([table] if table else [])

    def _table_of(self, tomogram):
        return locate(tomogram.text(_TABLE)[0], self._folders) if tomogram.has(_TABLE) else None

    def read(self, name):
        """See `project.SOURCES`."""
        return self._read(name, self._tomograms[name])

    def relion_finds_it(self):
        """See `project.SOURCES`: RELION looks for files from where it runs, which is taken for the working folder."""
        named = self._rows.text(_TABLE, "")
        return all(named) and all(os.path.exists(path) for path in named) and all(
            os.path.exists(image.rpartition("@")[2]) for path in named for block in star.read(path)
            if block.has(_IMAGES["images"]) for image in set(block.text(_IMAGES["images"])))

    def _of_row(self, row):
        """What a row of the table of tomograms says, with what is given beside it."""
        given, tomogram = self._given, self._rows.select([row])
        where = tomogram.where(0)
        pixel_size, notes = _choose(tomogram, _PIXEL, given.pixel_size, "--image-pixel-size",
                                    "the pixel size of the tilt images", " A")
        if not MOST_PIXEL > pixel_size > LEAST_PIXEL:
            raise InputError(where, "a pixel size of %g A" % pixel_size, "Give --image-pixel-size")
        hand = given.hand or int(_require(
            tomogram, (_HAND,), "Give --hand, +1 or -1: the defocus handedness").int(_HAND)[0])
        notes += given.told("--hand", given.hand, _number(tomogram, _HAND))
        optics, more = self._optics(tomogram)
        return _Row(tomogram, pixel_size, hand, optics, given.extent(pixel_size) or self._extent(tomogram, pixel_size),
                    _factors(tomogram), notes + more)

    def _optics(self, tomogram):
        """Optics, or the error that says what of them is missing; and notes."""
        values, notes = [], ()
        for column, name in _OPTICS.items():
            flag = "--" + name.replace("_", "-")
            mine = getattr(self._given, name)
            if not mine and not tomogram.has(column):
                return InputError(tomogram.where(0), "there is no column %s" % column, "Give voltage, spherical "
                                  "aberration and amplitude contrast, which a CTF needs: %s" % flag), ()
            value, more = _choose(tomogram, column, mine, flag, name)
            values.append(value)
            notes += more
        return _make(tomogram.where(0), Optics, *values), notes

    def _read(self, ts_id, row):
        given, folders, tomogram, pixel_size = self._given, self._folders, row.tomogram, row.pixel_size
        notes, extent = row.notes, row.extent
        tilts = self._tilts(ts_id, tomogram)
        images = {key: _images(tilts, column, folders) for key, column in _IMAGES.items()}
        if images["images"] is None:
            stack, _ = _parse_image(_require(tomogram, (_STACK,), "Name the images: %s in %s" % (
                _IMAGES["images"], tilts.where())).text(_STACK)[0])
            images["images"] = tuple((locate(stack, folders), section) for section in range(len(tilts)))
        known_shape = _image_shape(images["images"]) or given.image_shape
        sized = extent is not None
        if not sized:  # and not needed
            extent = tuple(n * pixel_size for n in (known_shape or (1000, 1000))[::-1] + (1000,))
        size = [int(round(side / pixel_size)) for side in extent]
        shape = known_shape or (size[1], size[0])
        angles = _angles(tilts)
        matrices = np.stack([_vectors(tilts, column) for column in _PROJECTION], 1) if tilts.has(*_PROJECTION) else None
        order = tilts.int(_ORDER) if tilts.has(_ORDER) else None
        geometry = _make(
            tilts.where(), TiltSeriesGeometry, ts_id, shape, pixel_size, dose=self._dose(tilts, order), hand=row.hand,
            volume_size=extent, used=tilts.bool(_USED, True), acq_order=order, **_alignment(
                tilts, angles, matrices, shape, pixel_size, size), **row.factors)
        # Shifts of matrices count from the image's corner.
        notes += _disagreement(geometry, angles) if known_shape and matrices is not None else ()
        no_ctf = row.optics if isinstance(row.optics, InputError) else None
        optics = None if no_ctf else row.optics
        return TiltSeries(
            geometry, None if no_ctf else _ctf(tilts, optics), optics=optics, no_ctf=no_ctf,
            optics_group=tomogram.text(_GROUP, "")[0],
            extra={column: tilts.text(column) for column in tilts.columns if column not in _OWN_TILT},
            tomo_extra={column: tomogram.text(column)[0] for column in tomogram.columns if column not in _OWN_TOMO},
            notes=notes, sized=sized, fault=_fault(tilts, matrices), **images,
            statements=of_columns(tomogram, TILT_SERIES, tomogram.where(0)) + of_columns(tilts, TILT_SERIES))

    def _tilts(self, ts_id, tomogram):
        """The table of the tilts of a series."""
        path = self._table_of(tomogram)
        if path is None:
            return self._star.table(ts_id)
        tables = star.read(path)
        # A name that no block can have is still the only one of its file.
        return tables.table(tables.blocks[0] if len(tables.blocks) == 1 else ts_id)

    def _extent(self, tomogram, pixel_size):
        """Size of the tomogram in angstrom; None if the table does not tell it and it is not needed."""
        remedy = "Give --tomogram-size, such as 4000x4000x1200: the unbinned size of the tomogram"
        if not tomogram.has(*_SIZE):
            if self._given.size_needed:
                missing = next(column for column in _SIZE if not tomogram.has(column))
                raise InputError(tomogram.where(0), "there is no column %s" % missing, remedy)
            return None
        sides = [tomogram.float(column)[0] for column in _SIZE]
        if not all(0.5 < side and side * pixel_size < LARGEST_SIZE for side in sides):
            raise InputError(tomogram.where(0), "tomogram size %g x %g x %g" % tuple(sides), remedy)
        return tuple(int(tomogram.int(column)[0]) * pixel_size for column in _SIZE)

    def _dose(self, tilts, order):
        if self._given.exposure_dose:
            if order is None and tilts.has(_NUMBER):
                order = tilts.int(_NUMBER)
            if order is None and tilts.has(_DOSE):
                order = tilts.float(_DOSE)
            return self._given.dose(tilts.where(), order)
        return _require(tilts, (_DOSE,), "Give --exposure-dose, the dose of an exposure, or that column: the dose "
                        "before each exposure, e/A^2; 0 for series that are dose-filtered already").float(_DOSE)


def read_project(tomograms_star, names=None, base=None, image_shape=None):
    """Read the tilt series of a RELION 5 (or RELION 4, WarpTools) project, all of which must be right.

    Parameters
    ----------
    tomograms_star : str
        As `RelionTables`.
    names : sequence of str, optional
        Tilt series to read, in this order. All by default.
    base : str, optional
        Project folder. Files are looked for there, beside the STAR file, in the working folder and above the STAR file.
    image_shape : (int, int), optional
        Height and width of images that are not there, pixels.

    Returns
    -------
    list of TiltSeries

    Raises
    ------
    InputError
        If a name occurs twice or is not there, or if alignment, dose, optics, hand or tomogram size are missing.
    """
    tables = RelionTables(tomograms_star, Given(base=base, image_shape=image_shape))
    for name in names or ():
        if name not in tables.names:
            raise InputError(tomograms_star, "there is no tomogram %s" % name,
                             "The names are: %s" % ", ".join(tables.names))
    out = [tables.read(name) for name in (tables.names if names is None else names)]
    for one in out:
        if one.no_ctf:
            raise one.no_ctf
    return out


def _number(table, column):
    """The number in the one row of a table; None if there is none."""
    value = table.float(column)[0] if table.has(column) else np.nan
    return float(value) if np.isfinite(value) else None


def _choose(table, column, mine, flag, what, unit=""):
    """The value that is given, or else that of the one row of a table; and a note if both are there and differ."""
    if mine:
        return mine, Given().told(flag, mine, _number(table, column), unit)
    return float(_require(table, (column,), "Give %s, %s" % (flag, what)).float(column)[0]), ()


def _factors(tomogram):
    """How the defocus changes with depth, and frequencies fade with dose, where RELION has fitted or been told it."""
    found = {}
    for name, column, least in (("defocus_slope", _SLOPE, -np.inf), ("dose_bfactor", _DECAY, 0.0)):
        text = tomogram.text(column, "")[0]
        if text not in star.NO_VALUE:
            found[name] = max(tomogram.float(column)[0], least)
    return found


def _require(table, columns, remedy):
    for column in columns:
        if not table.has(column):
            raise InputError(table.where(0), "there is no column %s" % column, remedy)
    return table


def _make(place, kind, *values, **fields):
    """Make a value of the engine; errors then name the place in the table, too."""
    try:
        return kind(*values, **fields)
    except InputError as error:
        raise InputError("%s, %s" % (place, error.item), error.cause, error.remedy) from None


def _parse_image(text):
    """Path and section (from 0) of RELION's ``000012@stack.mrcs``; a name alone is section 0."""
    number, path = re.match(r"(?:(\d+)@)?(.*)", text).groups()
    # RELION tells the format of other extensions by a suffix.
    return re.sub(r":mrcs?$", "", path), int(number or 1) - 1


def _images(tilts, column, folders):
    if not tilts.has(column) or column != _IMAGES["images"] and any(
            text in star.NO_VALUE for text in tilts.text(column)):
        return None  # programs that make no halves leave the names empty
    parsed = [_parse_image(text) for text in tilts.text(column)]
    for row, (_path, section) in enumerate(parsed):
        if section < 0:
            raise InputError(tilts.where(row), "%s is %s: sections count from 1" % (column, tilts.text(column)[row]),
                             "Correct the number before the @")
    found = {path: locate(path, folders) for path in dict(parsed)}
    return tuple((found[path], section) for path, section in parsed)


def _image_shape(images):
    """Height and width of the first image; None if it cannot be read, which `TiltSeries.check_files` will report."""
    try:
        return mrc.read_header(images[0][0]).shape[1:] if images else None
    except InputError:
        return None


def _angles(tilts):
    """Angles and shifts of the tilts; NaN where columns are absent or a row has no value."""
    n = len(tilts)
    if not tilts.has(*_ANGLES):
        return dict({name: np.full(n, np.nan) for name in ("tilt", "axis", "xtilt")}, shift=np.full((n, 2), np.nan))
    tilt, axis, x, y = (tilts.float(column) for column in _ANGLES)
    return {"tilt": tilt, "axis": axis, "xtilt": tilts.float(_XTILT, 0.0), "shift": np.stack([x, y], axis=1)}


def _alignment(tilts, angles, matrices, shape, pixel_size, size):
    """Angles, shifts and distortion. Projection matrices win over angles, as in RELION, in the rows that have them."""
    out = dict(angles, magnification=np.tile(np.eye(2), (len(tilts), 1, 1)))
    if matrices is None:
        missing = [column for column in _ANGLES if not tilts.has(column)]
        if missing:
            raise InputError(tilts.where(), "the alignment is missing: there is no column %s" % ", ".join(missing),
                             "Align the tilt series first, and give the table that the alignment wrote")
        return out
    given = np.isfinite(matrices).all(axis=(1, 2))
    for row in np.flatnonzero(given & (np.linalg.det(np.nan_to_num(matrices[:, :3, :3])) < 0)):
        raise InputError(tilts.where(row), "its projection matrix mirrors the specimen (negative determinant)",
                         "Correct the alignment: rlnTomoProjX/Y/Z must be a rotation")
    for name, values in from_projection_matrices(matrices[given], shape, pixel_size, size).items():
        out[name] = out[name].copy()
        out[name][given] = values
    return out


def _disagreement(geometry, angles):
    """A note if projection matrices, which count, and angles of the same table put things to different places.

    Distortions do not matter here: only matrices can have them.
    """
    rows = np.flatnonzero(np.isfinite(np.column_stack(list(angles.values()))).all(axis=1))
    if not len(rows):
        return ()
    corners = np.stack(np.meshgrid(*[(-0.5, 0.5)] * 3), axis=-1).reshape(-1, 3) * geometry.volume_size
    ours = geometry.select(rows).replace(magnification=None)
    other = ours.replace(**{name: values[rows] for name, values in angles.items()})
    apart = np.linalg.norm(ours.project(corners).xy - other.project(corners).xy, axis=-1) / geometry.pixel_size
    wrong = int((apart.max(axis=0) > _SAME).sum())
    if not wrong:
        return ()
    return ("rlnTomoProjX/Y/Z and the angles and shifts of %d tilts disagree, by up to %.3g px at the corners of the "
            "tomogram. The matrices count, as in RELION: remove their columns if the angles are right"
            % (wrong, apart.max()),)


def _fault(tilts, matrices):
    """Why images cannot be used: WarpTools' tables for template matching have rotations where RELION has projections.

    They are read all the same, for particles do not need them.
    """
    if matrices is None or not np.isfinite(matrices).any() or np.nan_to_num(matrices[:, :2, 3]).any():
        return None
    return InputError(tilts.where(), "its projection matrices have no shifts, so that they do not tell where anything "
                      "is seen", "Give the XML files of Warp instead, or a table with angles and shifts")


def _vectors(tilts, column):
    """Column of ``[a,b,c,d]`` as `(T, 4)`; NaN where a row has no value."""
    out = np.full((len(tilts), 4), np.nan)
    for row, text in enumerate(tilts.text(column)):
        try:
            if text not in star.NO_VALUE:
                out[row] = [float(value) for value in text.strip("[]").split(",")]
        except ValueError:
            raise InputError(tilts.where(row), "%s is '%s', not four numbers as in [1,0,0,0]" % (column, text),
                             "Correct the value") from None
    return out


def _ctf(tilts, optics):
    if not any(tilts.has(column) for column in _DEFOCUS):
        return None
    _require(tilts, _DEFOCUS, "Give both defoci and the angle, or none of the three")
    optional = {name: tilts.float(column) for name, column in _OPTIONAL_CTF.items() if tilts.has(column)}
    ctf = _make(tilts.where(), Ctf, optics, *(tilts.float(column) for column in _DEFOCUS), **optional)
    for name, values in optional.items():
        for row in np.flatnonzero(ctf.measured & ~np.isfinite(values)):
            raise InputError(tilts.where(row), "%s is no finite number" % _OPTIONAL_CTF[name],
                             "Give a number, or leave the defocus of this tilt empty as well")
    return ctf


def write_project(folder_or_path, series, paths="relative", base=None):
    """Write tilt series as a RELION 5 project.

    Parameters
    ----------
    folder_or_path : str
        Folder, or path of tomograms.star in it. The tilt tables go into its ``tilt_series``.
    series : sequence of TiltSeries
        Tomogram sizes are written in whole pixels.
    paths : {'relative', 'absolute'}
        How files are named.
    base : str, optional
        What relative names are relative to, in RELION the project folder; by default the folder written to.

    Returns
    -------
    str
        Path of tomograms.star, which is written last.

    Raises
    ------
    InputError
        If a name occurs twice, or a series has no optics.
    """
    path = folder_or_path if str(folder_or_path).endswith(".star") else os.path.join(folder_or_path, "tomograms.star")
    folder = os.path.dirname(os.path.abspath(path))
    base = base or folder
    ids = [one.ts_id for one in series]
    for one in series:
        if ids.count(one.ts_id) > 1:
            raise InputError(one.ts_id, "the name occurs twice", "Give every tilt series a name of its own")
        if one.optics is None:
            raise InputError(one.ts_id, "voltage, spherical aberration and amplitude contrast are not known",
                             "Set the acquisition of the tilt series")
    name = os.path.abspath if paths == "absolute" else lambda file: relative_to(file, base)
    files = []
    for one in series:
        stem = safe_stem(one.ts_id)
        files.append(os.path.join(folder, "tilt_series", stem + ".star"))
        block = stem if re.search(r"\s", one.ts_id) else one.ts_id
        star.write(files[-1], [star.Table.from_columns(block, _tilt_columns(one, name))])
    star.write(path, [star.Table.from_columns("global", _tomogram_columns(series, [name(file) for file in files]))])
    return str(path)


def _tilt_columns(series, name):
    geometry, ctf = series.geometry, series.ctf
    columns = {column: [_image_text(image, images, name) for image in images]
               for images, column in ((getattr(series, key), column) for key, column in _IMAGES.items()) if images}
    columns[_DOSE] = geometry.dose
    if ctf is not None:
        columns.update(zip(_DEFOCUS, (ctf.defocus_u, ctf.defocus_v, ctf.angle)))
        optional = {"phase": ctf.phase, "bfactor": ctf.bfactor, "scale": series.tilt_scale}
        columns.update((column, optional[key]) for key, column in _OPTIONAL_CTF.items() if optional[key] is not None)
    columns[_XTILT] = geometry.xtilt
    columns.update(zip(_ANGLES, (geometry.tilt, geometry.axis, *geometry.shift.T)))
    if not np.allclose(geometry.magnification, np.eye(2), rtol=0, atol=1e-12):
        rows = projection_matrices(geometry).transpose(1, 0, 2).tolist()
        columns.update((column, ["[%s]" % ",".join(map(repr, vector)) for vector in vectors])
                       for column, vectors in zip(_PROJECTION, rows))
    columns.update({_USED: geometry.used, _ORDER: geometry.acq_order, **series.extra})
    return columns


def _image_text(image, images, name):
    """RELION's name of an image; one that has a .mrc file to itself goes without number."""
    path, section = image
    if section == 0 and path.endswith(".mrc") and sum(path == other for other, _ in images) == 1:
        return name(path)
    return "%06d@%s" % (section + 1, name(path))


def _tomogram_columns(series, files):
    columns = {_NAME: [one.ts_id for one in series], _TABLE: files}
    columns.update(zip(_OPTICS, zip(*((one.optics.voltage, one.optics.cs, one.optics.amplitude_contrast)
                                      for one in series))))
    columns[_HAND] = [float(one.geometry.hand) for one in series]
    columns[_GROUP] = [one.optics_group or "optics1" for one in series]
    for column, values, plain in ((_SLOPE, [one.geometry.defocus_slope for one in series], 1.0),
                                  (_DECAY, [one.geometry.dose_bfactor for one in series], 0.0)):
        if set(values) != {plain}:
            columns[column] = values
    columns[_PIXEL] = [one.geometry.pixel_size for one in series]
    columns.update(zip(_SIZE, zip(*([int(round(side / one.geometry.pixel_size)) for side in one.geometry.volume_size]
                                    for one in series))))
    extra = dict.fromkeys(column for one in series for column in one.tomo_extra)
    columns.update((column, [one.tomo_extra.get(column, "") for one in series]) for column in extra)
    return columns
