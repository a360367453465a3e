"""Alignments of IMOD: .xf, .tlt, .xtilt, and what tilt.com adds to them.

A raw image is aligned by ``X' = A (X - c) + c + d`` (a line ``A11 A12 A21 A22 d1 d2`` of the .xf), c being IMOD's own
centre (N-1)/2; `engine.geometry.from_imod_transform` keeps the half pixel to our centre.  Our tilt is the .tlt's, which
puts us in the frame of a tomogram that ``trimvol -rx`` has turned: z is minus the row of the slices that IMOD's tilt
writes.  In the manual's terms (slices with rows upwards), tilt.com then means, in pixels of the unbinned images that
were aligned, o being OFFSET[1], a and b SHIFT, and m the middle of what SUBSETSTART and the size of the aligned stack
cut out of FULLIMAGE, from the middle of that (measured beside IMOD 4.8.2)::

    tilt = .tlt + OFFSET[0]
    xtilt = .xtilt - XAXISTILT         the section rises by the angle from the first slice to the last, before
    x_aligned = [R (r - (o + a, 0, -b) + m)]_xy + (o, 0)
                                       OFFSET moves the axis and not what is seen; SHIFT moves the slice to the right
                                       and up, before it is written
"""

import os
import re

import numpy as np

from ..engine.geometry import TiltSeriesGeometry, from_imod_transform, rotation_x, rotation_y, rotation_z
from ..errors import InputError
from . import mrc
from .given import Given
from .plainfile import open_plain
from .statements import GLOBAL, LOCAL, SELECTION, Statement
from .tiltseries import LARGEST_SIZE, LEAST_PIXEL, MOST_PIXEL, TiltSeries

STACKS = (".st", ".mrc", ".mrcs")
MOST_VIEWS = 100_000  # of a list of views
_NUMBERS = {"OFFSET": (1, 2), "SHIFT": (1, 2), "XAXISTILT": (1, 1), "FULLIMAGE": (2, 2), "IMAGEBINNED": (1, 1),
            "THICKNESS": (1, 1), "WIDTH": (1, 1), "SUBSETSTART": (2, 2), "SLICE": (1, 2)}
_VIEWS = ("EXCLUDELIST", "EXCLUDE", "EXCLUDELIST2", "INCLUDE")
_FILES = ("TILTFILE", "XTILTFILE", "LOCALFILE", "ZFACTORFILE", "INPUTPROJECTIONS")
_NEAR = 0.02  # relative difference of image sizes below which they are the same, and of their ratio


class ImodAlignment:
    """The alignment of one tilt series as etomo leaves it: ``.xf``, and what is beside it.

    Parameters
    ----------
    path : str
    given : Given
    """

    NAME = "IMOD"
    TAKES = "IMOD's .xf, beside .tlt and raw stack"
    HAS_CTF = False

    def __init__(self, path, given=None):
        self.path, self._given, self.notes, self.left_out = os.fspath(path), given or Given(), (), {}
        self.names = (os.path.splitext(os.path.basename(path))[0],)

    @staticmethod
    def recognise(path):
        """See `project.SOURCES`."""
        return path.lower().endswith(".xf")

    def files(self, name):
        """See `project.SOURCES`."""
        stem = os.path.splitext(self.path)[0]
        com = find_tilt_com(self.path)
        return [self.path] + [file for file in (stem + ".tlt", stem + ".xtilt", com, stem + ".dose")
                              if file and os.path.isfile(file)]

    def read(self, name):
        """See `project.SOURCES`."""
        return read_series(self.path, self._given)

    def relion_finds_it(self):
        """See `project.SOURCES`."""
        return False


def find_tilt_com(xf):
    """The command file of IMOD's tilt that belongs to an alignment: ``tilt.com``, or ``tilta.com`` of an axis.

    Parameters
    ----------
    xf : str

    Returns
    -------
    str or None
    """
    folder, name = os.path.split(os.path.splitext(xf)[0])
    names = ["tilt.com"] if name[-1:] not in ("a", "b") else ["tilt%s.com" % name[-1], "tilt.com"]
    return next((path for path in (os.path.join(folder, one) for one in names) if os.path.isfile(path)), None)


def read_alignment(xf, tlt, image_shape, pixel_size, xtilt=None, tilt_com=None, centre="imod", scale=1.0):
    """Read the alignment of a tilt series.

    Parameters
    ----------
    xf, tlt : str
        Files of transforms and tilt angles, a line per image.
    image_shape : (int, int) or None
        Height and width of the raw images, pixels; None takes FULLIMAGE of tilt.com.
    pixel_size : float
        Angstrom per pixel of the raw images.
    xtilt : str, optional
        File of rotations about x, a line per image.
    tilt_com : str, optional
        Command file of IMOD's tilt.
    centre : {'imod', 'relion'}
        What the transforms are about, as of `engine.geometry.from_imod_transform`: ``relion`` drops the half pixel, as
        Warp does in its import.
    scale : float
        Pixel of the images that were aligned, in which .xf and tilt.com are, over that of the raw images.

    Returns
    -------
    dict
        ``tilt``, ``axis``, ``xtilt`` `(T,)` degrees, ``shift`` `(T, 2)` A, ``magnification`` `(T, 2, 2)`, ``used``
        `(T,)` of bool and ``image_shape``: arguments of TiltSeriesGeometry.

    Raises
    ------
    InputError
        If a file is missing or damaged, or the files are not of the same number of images.
    """
    com = {} if tilt_com is None else read_tilt_com(tilt_com)
    if image_shape is None:
        if "FULLIMAGE" not in com:
            raise InputError(tilt_com or xf, "the size of the raw images is not known",
                             "Give a tilt.com with FULLIMAGE")
        image_shape = tuple(int(n) for n in com["FULLIMAGE"][::-1])
    transform, tilt = read_xf(xf), np.array(com["ANGLES"]) if "ANGLES" in com else read_angles(tlt)
    n = len(transform)
    x = np.zeros(n) if xtilt is None else read_angles(xtilt)
    for path, count in ((tilt_com if "ANGLES" in com else tlt, len(tilt)), (xtilt, len(x))):
        if count != n:
            raise InputError(path, "it has %d angles, %s has transforms of %d images" % (count, xf, n),
                             "Give files of one alignment")
    if n > 1 and not tilt.any():
        raise InputError(tlt, "all tilt angles are 0", "Give the angles of the alignment")
    used = _used(com, n, tilt_com)
    axis_at, right, up = (com.get(name, [0.0]) + [0.0, 0.0] for name in ("OFFSET", "SHIFT", "SHIFT"))
    axis_at, right, up = axis_at[1], right[0], up[1]
    transform[:, :, 2] *= scale
    transform[:, 0, 2] -= axis_at * scale
    try:
        out = from_imod_transform(transform, image_shape, pixel_size, centre)
    except np.linalg.LinAlgError:
        raise InputError(xf, "a transform cannot be inverted", "Give the transforms of the alignment") from None
    out.update(tilt=tilt + com.get("OFFSET", [0.0])[0], xtilt=x - com.get("XAXISTILT", [0.0])[0], used=used,
               image_shape=image_shape)
    rotation = rotation_z(out["axis"]) @ rotation_y(out["tilt"]) @ rotation_x(out["xtilt"])
    middle_x, middle_y = _subset(com, tilt_com)
    moved = np.array([axis_at + right - middle_x, -middle_y, -up]) * scale * pixel_size
    out["shift"] = out["shift"] - np.einsum("tij,tj->ti", out["magnification"], rotation[:, :2] @ moved)
    return out


def _used(com, n, tilt_com):
    """Which of n views tilt.com leaves in."""
    used = np.ones(n, bool)
    for name in _VIEWS:
        for view in com.get(name, ()):
            if not 1 <= view <= n:
                raise InputError(tilt_com, "%s names view %d of %d" % (name, view, n), "Give files of one alignment")
    if "INCLUDE" in com:
        used[:] = False
        used[np.array(com["INCLUDE"]) - 1] = True
    for name in _VIEWS[:3]:
        used[np.array(com.get(name, ()), int) - 1] = False
    return used


def aligned_size(com, tilt_com):
    """Size of the stack that IMOD's tilt reads: what SUBSETSTART cuts out of FULLIMAGE.

    Parameters
    ----------
    com : dict
        As `read_tilt_com` gives it.
    tilt_com : str

    Returns
    -------
    (int, int) or None
        Width and height, unbinned pixels; None if the stack is not there.
    """
    name = com.get("INPUTPROJECTIONS")
    path = name and os.path.join(os.path.dirname(tilt_com), os.path.basename(name))
    if not path or not os.path.isfile(path):
        return None
    try:
        shape = mrc.read_header(path).shape
    except InputError:
        return None
    binned = int(com.get("IMAGEBINNED", [1])[0])
    return shape[2] * binned, shape[1] * binned


def _subset(com, tilt_com):
    """Middle of the part of FULLIMAGE that is reconstructed, from the middle of that, xy, pixels."""
    start, full = com.get("SUBSETSTART"), com.get("FULLIMAGE")
    if not start or not any(start) or not full:
        return 0.0, 0.0
    size = aligned_size(com, tilt_com)
    if size is None:  # as cut alike on both sides
        return 0.0, 0.0
    return tuple(first + side / 2 - whole / 2 for first, side, whole in zip(start, size, full))


def read_xf(path):
    """Read transforms.

    Parameters
    ----------
    path : str

    Returns
    -------
    ndarray `(T, 2, 3)`
        ``[A d]``, raw to aligned, d in pixels.

    Raises
    ------
    InputError
        If a line has not six numbers.
    """
    rows = [_floats(text, path, number) for number, text in _lines(path)]
    for (number, _), row in zip(_lines(path), rows):
        if len(row) != 6:
            raise InputError("%s, line %d" % (path, number), "%d numbers instead of 6" % len(row),
                             "Give a file of transforms as IMOD writes it")
    values = np.array(rows)
    return np.concatenate([values[:, :4].reshape(-1, 2, 2), values[:, 4:, None]], axis=2)


def read_angles(path):
    """Read a .tlt, .rawtlt or .xtilt.

    Parameters
    ----------
    path : str

    Returns
    -------
    ndarray `(T,)`
        Degrees.

    Raises
    ------
    InputError
        If a word is no number, or there is none.
    """
    return np.array([value for number, text in _lines(path) for value in _floats(text, path, number)])


def read_series(path, given=None):
    """Read a tilt series as etomo leaves it: transforms, angles and raw stack of one name in a folder.

    Parameters
    ----------
    path : str
        The ``.xf``. Beside it the ``.tlt`` and, where they are there, ``.xtilt``, ``tilt.com`` (``tilta.com``), and
        ``.dose`` with the dose before each image in a line of its own, e/A^2. Other files of angles that tilt.com
        names are taken instead.
    given : Given, optional
        The size of the tomogram is by default that of the images and THICKNESS of tilt.com; the pixel size that of the
        stack's header; that of the alignment the same.

    Returns
    -------
    TiltSeries
        Without CTF: IMOD's alignment has none.

    Raises
    ------
    InputError
        As `read_alignment`; if there is no stack or no size of the tomogram, or if stack and tilt.com are of other
        sizes and no pixel size of the alignment is given.
    """
    given = given or Given()
    stem, folder = os.path.splitext(path)[0], os.path.dirname(path)
    ts_id = os.path.basename(stem)
    beside = lambda name: name if os.path.isfile(name) else None  # noqa: E731
    places = [os.path.join(where, ts_id + end) for where in ([given.base] if given.base else []) + [folder]
              for end in STACKS]
    stack = next(filter(os.path.isfile, places), None)
    if stack is None:
        raise InputError(path, "there is no stack of images %s" % ", ".join(ts_id + end for end in STACKS),
                         "Put the raw stack, or a link to it, beside the .xf")
    header = mrc.read_header(stack)
    shape = tuple(header.shape[1:])
    pixel_size = given.pixel_size or header.pixel_size
    if not LEAST_PIXEL < pixel_size < MOST_PIXEL:
        raise InputError(stack, "its header gives a pixel size of %g A" % pixel_size, "Give --image-pixel-size")
    notes = given.told("--image-pixel-size", given.pixel_size, header.pixel_size or None, " A")
    com_path = find_tilt_com(path)
    com = read_tilt_com(com_path) if com_path else {}
    files, statements, more = _angle_files(com, com_path, stem)
    scale = _scale(com, com_path, stack, shape, pixel_size, given.alignment_pixel_size)
    fields = read_alignment(path, files["TILTFILE"], shape, pixel_size, files["XTILTFILE"], com_path, given.centre,
                            scale)
    statements += _local_files(com, com_path, path)
    count = len(fields["tilt"])
    if header.shape[0] != count:
        raise InputError(stack, "it has %d images, %s has transforms of %d" % (header.shape[0], path, count),
                         "Give the stack that was aligned")
    extent = given.extent(pixel_size) or _extent(com, com_path, fields["axis"], shape, scale, pixel_size)
    sized = extent is not None
    if not sized and given.size_needed:
        raise InputError(path, "the thickness of the tomogram is not known",
                         "Put tilt.com beside it, or give --tomogram-size")
    extent = extent or tuple(n * pixel_size for n in shape[::-1] + (min(shape),))
    if not max(extent) < LARGEST_SIZE:
        raise InputError(com_path or path, "tomogram size %g x %g x %g A" % tuple(extent), "Give --tomogram-size")
    dose = beside(stem + ".dose")
    doses = read_angles(dose) if dose else given.dose(path, None) if given.exposure_dose else np.zeros(count)
    geometry = TiltSeriesGeometry(ts_id, pixel_size=pixel_size, dose=doses, volume_size=extent,
                                  hand=given.hand or -1, **fields)
    known = given.voltage and given.cs and given.amplitude_contrast
    return TiltSeries(geometry, None, tuple((os.path.abspath(stack), t) for t in range(count)), notes=notes + more,
                      optics=given.optics(path) if known else None, statements=statements, sized=sized, cosine=True)


def _angle_files(com, com_path, stem):
    """Files of angles: those that tilt.com names where they are there, else those beside the .xf."""
    found, statements, notes = {}, (), ()
    for name, end in (("TILTFILE", ".tlt"), ("XTILTFILE", ".xtilt")):
        own = stem + end
        found[name] = own if end == ".tlt" or os.path.isfile(own) else None
        named = com.get(name)
        if not named or os.path.basename(named) == os.path.basename(own):
            continue
        other = os.path.join(os.path.dirname(com_path), os.path.basename(named))
        if os.path.isfile(other):
            found[name] = other
            notes += ("angles are those of %s, which tilt.com names (%s)" % (os.path.basename(other), name),)
        else:
            statements += (Statement(name, com_path, GLOBAL, "the angles, which are in %s; it is not there, and %s is "
                                     "taken" % (named, os.path.basename(own) if found[name] else "no x-tilt")),)
    return found, statements, notes


def _local_files(com, com_path, xf):
    """Statements of tilt.com that are not followed."""
    out, named = (), com.get("LOCALFILE")
    # AreTomo names its global transforms here.
    if named and os.path.basename(named) != os.path.basename(xf):
        out += (Statement("LOCALFILE", com_path, LOCAL, "where things are seen, by the local alignment in %s" % named),)
    if com.get("ZFACTORFILE"):
        out += (Statement("ZFACTORFILE", com_path, LOCAL, "where things are seen, by factors of z in %s"
                          % com["ZFACTORFILE"]),)
    if any(com.get("SUBSETSTART", ())) and aligned_size(com, com_path) is None:
        out += (Statement("SUBSETSTART", com_path, GLOBAL, "the middle of the tomogram, if the aligned images were cut "
                          "unevenly; their stack (InputProjections) would tell, and is not there"),)
    if "SLICE" in com:
        out += (Statement("SLICE", com_path, SELECTION, "which slices along y IMOD's tomogram has; ours has all"),)
    return out


def _scale(com, com_path, stack, shape, pixel_size, alignment_pixel_size):
    """Pixel of the aligned images over that of the stack; an error if tilt.com speaks of images of another size."""
    full = com.get("FULLIMAGE")
    scale = alignment_pixel_size / pixel_size if alignment_pixel_size else 1.0
    if not 0.01 < scale < 100:
        raise InputError("--alignment-pixel-size", "%g A is %g times the pixel size of %s, %g A" % (
            alignment_pixel_size, scale, stack, pixel_size), "Correct it")
    if full and min(full) > 0 and not alignment_pixel_size:
        # The aligned images may be turned by a right angle, and cut or extended.
        ratios = sorted((shape[1] / full[a], shape[0] / full[b]) for a, b in ((0, 1), (1, 0)))
        factor = min(ratios, key=lambda pair: abs(np.log(pair[0] / pair[1])))
        mean = np.sqrt(factor[0] * factor[1])
        if abs(np.log(factor[0] / factor[1])) < _NEAR and not 1 - _NEAR < mean < 1 + _NEAR:
            raise InputError(com_path, "FULLIMAGE says that images of %g x %g px were aligned, and %s has %d x %d" % (
                full[0], full[1], stack, shape[1], shape[0]), "Give --alignment-pixel-size, %.6g A if they are binned, "
                "or the stack that was aligned" % (pixel_size * mean))
    return scale


def _extent(com, com_path, axis, shape, scale, pixel_size):
    """Size of the tomogram in angstrom, xyz; None if its thickness is not known."""
    thickness = com.get("THICKNESS", [0])[0]
    if not thickness > 0:
        return None
    width, height = shape[::-1] if np.abs(np.cos(np.deg2rad(axis))).mean() > 0.5 else shape
    thickness = 2 * np.ceil(min(thickness * scale, 1e18) / 2)
    return width * pixel_size, height * pixel_size, float(thickness) * pixel_size


def read_tilt_com(path):
    """Read what a command file of IMOD's tilt says of the geometry.

    Parameters
    ----------
    path : str

    Returns
    -------
    dict
        By entry in capitals, so far as they are there: OFFSET, SHIFT, XAXISTILT, FULLIMAGE, IMAGEBINNED, THICKNESS,
        WIDTH, SUBSETSTART, SLICE as lists of float, in unbinned pixels and degrees whatever IMAGEBINNED is; ANGLES,
        degrees; EXCLUDELIST, EXCLUDE, EXCLUDELIST2 and INCLUDE as lists of views from 1; TILTFILE, XTILTFILE,
        LOCALFILE, ZFACTORFILE, INPUTPROJECTIONS as texts.

    Raises
    ------
    InputError
        If an entry has no meaning.
    """
    out = {}
    for number, text in _lines(path):
        name, rest = (text.split(None, 1) + [""])[:2]
        name, rest = name.upper(), rest.partition("#")[0].strip()
        if name in _VIEWS:
            out.setdefault(name, []).extend(_views(rest, path, number))
        elif name == "ANGLES":
            out.setdefault(name, []).extend(_floats(rest.replace(",", " "), path, number))
        elif name in _FILES and rest:
            out[name] = rest
        elif name in _NUMBERS:
            values = _floats(rest.replace(",", " "), path, number)
            low, high = _NUMBERS[name]
            if not low <= len(values) <= high:
                raise InputError("%s, line %d" % (path, number), "%s has %d numbers" % (name, len(values)),
                                 "Give the file as IMOD wrote it")
            out[name] = values
    return out


def _lines(path):
    """Numbers, from 1, and texts of the lines that are neither empty nor comments."""
    if not os.path.isfile(path):
        raise InputError(path, "there is no such file", "Check the path")
    with open_plain(path, "r", encoding="utf-8", errors="replace") as file:
        lines = [(number, line.strip()) for number, line in enumerate(file, 1)]
    lines = [(number, text) for number, text in lines if text and not text.startswith("#")]
    if not lines:
        raise InputError(path, "it is empty", "Give the file as IMOD wrote it")
    return lines


def _floats(text, path, number):
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        values = [np.nan]
    if not np.isfinite(values).all():
        raise InputError("%s, line %d" % (path, number), "'%s' are not finite numbers" % text, "Correct the line")
    return values


def _views(text, path, number):
    """Views of a list such as ``1,3-5,8``."""
    out = []
    for part in re.split(r"[,\s]+", text.strip(", \t")):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None:
            raise InputError("%s, line %d" % (path, number), "'%s' is no view and no range of views" % part,
                             "List views as 1,3-5,8")
        first, last = int(match.group(1)), int(match.group(2) or match.group(1))
        if max(first, last) > MOST_VIEWS:
            raise InputError("%s, line %d" % (path, number), "it names view %d" % max(first, last),
                             "List views of the stack, as 1,3-5,8")
        out.extend(range(min(first, last), max(first, last) + 1))
    return out
