"""Alignments of IMOD: .xf, .tlt, .xtilt, and what tilt.com adds to them.

A raw image is aligned by ``X' = A (X - c) + c + d`` (a line ``A11 A12 A21 A22 d1 d2`` of the .xf), c being IMOD's own
centre (N-1)/2; `engine.geometry.from_imod_transform` keeps the half pixel to our centre.  Our tilt is the .tlt's, which
puts us in the frame of a tomogram that ``trimvol -rx`` has turned: z is minus the row of the slices that IMOD's tilt
writes.  In the manual's terms (slices with rows upwards), tilt.com then means, in pixels of the unbinned images::

    tilt = .tlt + OFFSET[0]
    xtilt = .xtilt - XAXISTILT         the section rises by the angle from the first slice to the last, before
    x_aligned = [R r]_x + OFFSET[1]    the axis lies to the right of the centre
    r -> r - (SHIFT[0], 0, -SHIFT[1])  the slice is moved to the right, and up, before it is written
"""

import os
import re

import numpy as np

from ..engine.geometry import TiltSeriesGeometry, from_imod_transform, rotation_x, rotation_y, rotation_z
from ..errors import InputError
from . import mrc
from .tiltseries import TiltSeries

STACKS = (".st", ".mrc", ".mrcs")
_COUNTS = {"OFFSET": (1, 2), "SHIFT": (1, 2), "XAXISTILT": (1, 1), "FULLIMAGE": (2, 2), "IMAGEBINNED": (1, 1),
           "THICKNESS": (1, 1), "WIDTH": (1, 1)}


def read_alignment(xf, tlt, image_shape, pixel_size, xtilt=None, tilt_com=None, centre="imod"):
    """Read the alignment of a tilt series.

    Parameters
    ----------
    xf, tlt : str
        Files of transforms and tilt angles, a line per image.
    image_shape : (int, int) or None
        Height and width of the raw images, pixels; None takes FULLIMAGE of tilt.com.
    pixel_size : float
        Angstrom per pixel of the raw images, in which the .xf is.
    xtilt : str, optional
        File of rotations about x, a line per image.
    tilt_com : str, optional
        Command file of IMOD's tilt.
    centre : {'imod', 'relion'}
        What the transforms are about, as of `engine.geometry.from_imod_transform`: ``relion`` drops the half pixel, as
        Warp does in its import.

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
    transform, tilt = read_xf(xf), read_angles(tlt)
    n = len(transform)
    x = np.zeros(n) if xtilt is None else read_angles(xtilt)
    for path, count in ((tlt, len(tilt)), (xtilt, len(x))):
        if count != n:
            raise InputError(path, "it has %d angles, %s has transforms of %d images" % (count, xf, n),
                             "Give files of one alignment")
    if n > 1 and not tilt.any():
        raise InputError(tlt, "all tilt angles are 0", "Give the angles of the alignment")
    used = np.ones(n, bool)
    for view in com.get("EXCLUDELIST", ()):
        if not 1 <= view <= n:
            raise InputError(tilt_com, "EXCLUDELIST names view %d of %d" % (view, n), "Give files of one alignment")
        used[view - 1] = False
    offset = com.get("OFFSET", [0.0])
    transform[:, 0, 2] -= (offset + [0.0])[1]
    out = from_imod_transform(transform, image_shape, pixel_size, centre)
    out.update(tilt=tilt + offset[0], xtilt=x - com.get("XAXISTILT", [0.0])[0], used=used, image_shape=image_shape)
    right, up = (com.get("SHIFT", [0.0]) + [0.0])[:2]
    rotation = rotation_z(out["axis"]) @ rotation_y(out["tilt"]) @ rotation_x(out["xtilt"])
    moved = np.array([right, 0.0, -up]) * pixel_size
    out["shift"] = out["shift"] - np.einsum("tij,tj->ti", out["magnification"], rotation[:, :2] @ moved)
    return out


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


def read_series(path, size_px=None, base=None):
    """Read a tilt series as etomo leaves it: transforms, angles and raw stack of one name in a folder.

    Parameters
    ----------
    path : str
        The ``.xf``. Beside it the ``.tlt`` and, where they are there, ``.xtilt``, ``tilt.com``, and ``.dose`` with the
        dose before each image in a line of its own, e/A^2.
    size_px : (int, int, int), optional
        xyz, unbinned voxels: size of the tomogram; by default that of the images and THICKNESS of tilt.com.
    base : str, optional
        Folder in which the stack is looked for first.

    Returns
    -------
    TiltSeries
        Without CTF: IMOD's alignment has none.

    Raises
    ------
    InputError
        As `read_alignment`; or if there is no stack or no size of the tomogram.
    """
    stem, folder = os.path.splitext(path)[0], os.path.dirname(path)
    ts_id = os.path.basename(stem)
    beside = lambda name: name if os.path.isfile(name) else None  # noqa: E731
    places = [os.path.join(where, ts_id + end) for where in ([base] if base else []) + [folder] for end in STACKS]
    stack = next(filter(os.path.isfile, places), None)
    if stack is None:
        raise InputError(path, "there is no stack of images %s" % ", ".join(ts_id + end for end in STACKS),
                         "Put the raw stack, or a link to it, beside the .xf")
    header = mrc.read_header(stack)
    com = beside(os.path.join(folder, "tilt.com"))
    fields = read_alignment(path, stem + ".tlt", header.shape[1:], header.pixel_size, beside(stem + ".xtilt"), com)
    count = len(fields["tilt"])
    if header.shape[0] != count:
        raise InputError(stack, "it has %d images, %s has transforms of %d" % (header.shape[0], path, count),
                         "Give the stack that was aligned")
    if size_px is None:
        thickness = read_tilt_com(com).get("THICKNESS") if com else None
        if not thickness:
            raise InputError(path, "the thickness of the tomogram is not known",
                             "Put tilt.com beside it, or give --tomogram-size")
        axis = np.abs(np.cos(np.deg2rad(fields["axis"]))).mean()
        width, height = header.shape[:0:-1] if axis > 0.5 else header.shape[1:]
        size_px = width, height, 2 * int(np.ceil(thickness[0] / 2))
    dose = beside(stem + ".dose")
    geometry = TiltSeriesGeometry(
        ts_id, pixel_size=header.pixel_size, dose=read_angles(dose) if dose else np.zeros(count),
        volume_size=tuple(n * header.pixel_size for n in size_px), **fields)
    return TiltSeries(geometry, None, tuple((os.path.abspath(stack), t) for t in range(count)))


def read_tilt_com(path):
    """Read what a command file of IMOD's tilt says of the geometry.

    Parameters
    ----------
    path : str

    Returns
    -------
    dict
        OFFSET, SHIFT, XAXISTILT, FULLIMAGE, IMAGEBINNED, THICKNESS and WIDTH as lists of float, so far as they are
        there, in unbinned pixels and degrees whatever IMAGEBINNED is; EXCLUDELIST as a list of views from 1.

    Raises
    ------
    InputError
        If an entry has no meaning.

    Notes
    -----
    SUBSETSTART needs no regard where the aligned images have been cut or extended alike on opposite sides, as newstack
    does.
    """
    out = {}
    for number, text in _lines(path):
        name, rest = (text.split(None, 1) + [""])[:2]
        name = name.upper()
        if name.startswith("EXCLUDELIST"):  # and EXCLUDELIST2
            out.setdefault("EXCLUDELIST", []).extend(_views(rest, path, number))
        elif name in _COUNTS:
            values = _floats(rest.replace(",", " "), path, number)
            low, high = _COUNTS[name]
            if not low <= len(values) <= high:
                raise InputError("%s, line %d" % (path, number), "%s has %d numbers" % (name, len(values)),
                                 "Give the file as IMOD wrote it")
            out[name] = values
    return out


def _lines(path):
    """Numbers, from 1, and texts of the lines that are neither empty nor comments."""
    if not os.path.isfile(path):
        raise InputError(path, "there is no such file", "Check the path")
    with open(path, encoding="utf-8", errors="replace") as file:
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
        out.extend(range(min(first, last), max(first, last) + 1))
    return out
