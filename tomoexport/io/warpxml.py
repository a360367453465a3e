"""Tilt series of Warp and M: the XML that holds angles, offsets, CTF and grids of local alignment.

Warp's rotation of a tilt is ``Rz(axis) Ry(-(angle + levelY)) Rx(levelX)`` in our terms, about the centre of a volume
that is not mirrored: its frame is ours, and only the sign of the tilt angle differs (``tilt = -(angle + LevelAngleY)``,
``xtilt = LevelAngleX``).  Axis angles and offsets are ours as they stand.  ``AreAnglesInverted`` is the sign of the
defocus alone: hand -1 where it is set.  Warp's magnification correction is no part of its projection.

Movement, volume warp and angle grids become the series' deformation.  A defocus grid that varies over the image counts
with its value in the middle; weights that M refined (GridDoseBfacs and the like) are not used.
"""

import os
import xml.etree.ElementTree as ElementTree

import numpy as np

from ..engine.ctf import Ctf, Optics
from ..engine.deformation import Deformation
from ..engine.geometry import TiltSeriesGeometry
from ..engine.grids import CubicGrid, MultilinearGrid
from ..errors import InputError
from . import mrc
from .paths import locate, search_folders
from .tiltseries import TiltSeries

ROOT = "TiltSeries"
_IMAGES = (".mrc", ".mrcs", ".st", ".ali")


def is_tilt_series(path):
    """Whether a file is Warp's XML of a tilt series; that of a movie is not.

    Parameters
    ----------
    path : str

    Returns
    -------
    bool
    """
    try:
        with open(path, "rb") as file:
            return next(ElementTree.iterparse(file, events=("start",)))[1].tag == ROOT
    except (OSError, ElementTree.ParseError, StopIteration):
        return False


def read_series(path, image_shape=None, pixel_size=None, volume_size=None, base=None, size_px=None):
    """Read Warp's XML of one tilt series.

    Parameters
    ----------
    path : str
        The file; its name without extension names the series.
    image_shape : (int, int), optional
        Height and width of images that are not there, pixels. By default what the XML says.
    pixel_size : float, optional
        Angstrom per image pixel. By default that of the images' headers or, without them, of the XML.
    volume_size : (float, float, float), optional
        Angstrom, xyz. By default VolumeDimensionsAngstrom, which early versions of Warp do not write.
    base : str, optional
        Folder in which images are looked for first; then beside the XML, in its DataDirectory and above the XML.
    size_px : (int, int, int), optional
        xyz, unbinned voxels: instead of volume_size, where that is not known.

    Returns
    -------
    TiltSeries
        In the order of the file. Images are Warp's averages of movies (``average/`` beside the movies), or the
        movies' own names where those are images already.

    Raises
    ------
    InputError
        If the file is no such XML, its alignment is missing or damaged, or sizes are known neither from it nor from the
        images.
    """
    root = _parse(path)
    angles = _numbers(root, "Angles", path)
    n = len(angles)
    column = lambda name: _numbers(root, name, path, n)  # noqa: E731
    folders = search_folders(path, base)
    data = root.get("DataDirectory")
    if data:
        folders.insert(1 + bool(base), os.path.join(os.path.dirname(os.path.abspath(path)), data))
    images, odd, even = _images(_lines(root, "MoviePath", path, n), folders)
    shape, header_pixel = _header(images[0][0])
    pixel_size = pixel_size or _pixel_size(root, shape, header_pixel, path)
    shape = shape or image_shape or _shape(root, pixel_size, path)
    volume_size = volume_size or _lengths(root, "VolumeDimensionsAngstrom", 3, path)
    if volume_size is None and size_px is not None:
        volume_size = tuple(n * pixel_size for n in size_px)
    if volume_size is None:
        raise InputError(path, "it does not say how large the tomogram is, from whose corner Warp counts positions",
                         "Give the unbinned size that Warp was told: --tomogram-size")
    size = np.array(shape[::-1]) * pixel_size
    centre = np.array(shape[::-1]) // 2 * pixel_size
    # Warp's image centre is half its extent, which is half a pixel beyond ours along odd sides.
    shift = np.stack([column("AxisOffsetX"), column("AxisOffsetY")], 1) + size / 2 - centre
    dose = column("Dose")
    deformation = _deformation(root, dose, _lengths(root, "ImageDimensionsAngstrom", 2, path) or size, centre,
                               volume_size, path)
    used = None
    if root.find("UseTilt") is not None:
        used = [text.lower() == "true" for text in _lines(root, "UseTilt", path, n)]
    level_x, level_y = (_number(root.get(name, "0"), name, path) for name in ("LevelAngleX", "LevelAngleY"))
    try:
        geometry = TiltSeriesGeometry(
            os.path.splitext(os.path.basename(path))[0], shape, pixel_size, -(angles + level_y), column("AxisAngle"),
            shift, dose, volume_size, used=used, xtilt=np.full(n, level_x), deformation=deformation,
            hand=-1 if root.get("AreAnglesInverted", "False").lower() == "true" else 1)
        optics, ctf = _ctf(root, n, path)
    except InputError as error:
        raise InputError("%s, %s" % (path, error.item), error.cause, error.remedy) from None
    return TiltSeries(geometry, ctf, images, odd, even, optics=optics)


def _parse(path):
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise InputError(path, "it cannot be read: %s" % (error.strerror or error), "Give Warp's XML") from None
    except ElementTree.ParseError as error:
        raise InputError(path, "it is no valid XML: %s" % error, "Give the file as Warp wrote it") from None
    if root.tag != ROOT:
        raise InputError(path, "it describes a %s, not a TiltSeries" % root.tag,
                         "Give the XML of a tilt series, which Warp writes into its folder of tilt series")
    return root


def _lines(root, name, path, count=None):
    """The lines of an element's text, one per tilt."""
    element = root.find(name)
    lines = [] if element is None else [line.strip() for line in (element.text or "").strip().splitlines()]
    if not lines:
        raise InputError(path, "there is no %s" % name, "Import movies and alignment of the tilt series in Warp first")
    if count is not None and len(lines) != count:
        raise InputError(path, "%s has %d lines for %d tilts" % (name, len(lines), count), "Give one per tilt")
    return lines


def _numbers(root, name, path, count=None):
    """The numbers of an element's text, one per tilt."""
    lines = _lines(root, name, path, count)
    for row, text in enumerate(lines):
        _number(text, "%s, line %d" % (name, row + 1), path)
    return np.array([float(text) for text in lines])


def _number(text, name, path):
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise InputError(path, "%s is '%s', not a finite number" % (name, text), "Correct the value")
    return value


def _lengths(root, name, count, path):
    """An attribute of ``count`` lengths; None if it is not there or 0, as before Warp has seen images."""
    text = root.get(name)
    if not text:
        return None
    values = [_number(part, name, path) for part in text.strip("()").split(",")]
    if len(values) != count:
        raise InputError(path, "%s is '%s', not %d numbers" % (name, text, count), "Correct the value")
    return tuple(values) if min(values) > 0 else None


def _params(root, name):
    """Names and values of an element's Param elements."""
    element = root.find(name)
    return {} if element is None else {p.get("Name"): p.get("Value") for p in element.findall("Param")}


def _images(movies, folders):
    """Images of all, odd and even frames of movies; the halves are None unless all of them are there."""
    movies = [movie.replace("\\", "/") for movie in movies]
    whole = [_average(movie, folders) for movie in movies]
    halves = []
    for half in ("odd", "even"):
        paths = [os.path.join(os.path.dirname(image), half, os.path.basename(image)) for image in whole]
        halves.append(tuple((p, 0) for p in paths) if all(os.path.exists(p) for p in paths) else None)
    return tuple((image, 0) for image in whole), halves[0], halves[1]


def _average(movie, folders):
    """Path of a movie's average, or of the movie if it is an image; where the average should be if there is neither."""
    folder, name = os.path.split(movie)
    average = os.path.join("average", os.path.splitext(name)[0] + ".mrc")
    candidates = [os.path.join(folder, average), average]
    if name.lower().endswith(_IMAGES):
        candidates.append(movie)
    found = [locate(candidate, folders) for candidate in candidates]
    chosen = next((path for path in found if os.path.exists(path)), None)
    if chosen is not None and len(candidates) == 3 and chosen == found[2]:
        frames = mrc.read_header(chosen).shape[0]
        if frames > 1:
            raise InputError(chosen, "it has %d frames, and their average is not there" % frames,
                             "Let Warp write averages of the movies")
    return chosen or found[0]


def _header(path):
    """Shape and pixel size of an image, None if unknown; `TiltSeries.check_files` reports what is wrong with it."""
    try:
        header = mrc.read_header(path)
    except InputError:
        return None, None
    return tuple(header.shape[1:]), header.pixel_size or None


def _pixel_size(root, shape, header, path):
    if header and header != 1:  # 1 is what programs write that do not know it
        return header
    extent = _lengths(root, "ImageDimensionsAngstrom", 2, path)
    if extent and shape:
        return extent[0] / shape[1]
    options = _params(root, "OptionsCTF")
    sides = [_number(options[key], key, path) for key in ("PixelSize", "PixelSizeX", "PixelSizeY") if key in options]
    if sides and min(sides) > 0:
        return float(np.mean(sides)) * 2.0 ** _number(options.get("BinTimes", "0"), "BinTimes", path)
    own = _number(_params(root, "CTF").get("PixelSize", "1"), "PixelSize", path)
    if own in (0, 1) and not header:
        raise InputError(path, "the pixel size of its images is not known", "Put the images where the XML says")
    return header or own


def _shape(root, pixel_size, path):
    extent = _lengths(root, "ImageDimensionsAngstrom", 2, path)
    if extent is None:
        text = _params(root, "OptionsCTF").get("Dimensions", "0,0,0")
        extent = [_number(part, "Dimensions", path) for part in text.split(",")][:2]
    if len(extent) < 2 or not min(extent) > 0:
        raise InputError(path, "the size of its images is not known", "Put the images where the XML says")
    return tuple(int(round(side / pixel_size)) for side in extent[::-1])


def read_grid(element, path=""):
    """Read a grid.

    Parameters
    ----------
    element : xml.etree.ElementTree.Element
        With Width, Height, Depth, and Duration if it has four axes; Node elements.
    path : str
        For errors.

    Returns
    -------
    CubicGrid or MultilinearGrid

    Raises
    ------
    InputError
        If a node is missing, there twice or outside the grid, or something is no number.
    """
    def whole(node, key, default):
        return int(_number(node.get(key, default), "%s of %s" % (key, element.tag), path))

    axes = [("W", "Duration")] if "Duration" in element.attrib else []
    axes += [("Z", "Depth"), ("Y", "Height"), ("X", "Width")]
    shape = [whole(element, side, "1") for _, side in axes]
    if min(shape) < 1:
        raise InputError(path, "%s has no nodes" % element.tag, "Give the file as Warp wrote it")
    values = np.full(shape, np.nan)
    for node in element.findall("Node"):
        place = tuple(whole(node, axis, "0") for axis, _ in axes)
        if not all(0 <= p < n for p, n in zip(place, shape)) or np.isfinite(values[place]):
            raise InputError(path, "%s has a node that is outside the grid or there twice: %s" % (
                element.tag, node.attrib), "Give the file as Warp wrote it")
        values[place] = _number(node.get("Value", ""), "a node of %s" % element.tag, path)
    if not np.isfinite(values).all():
        raise InputError(path, "%s has %d nodes instead of %d" % (element.tag, np.isfinite(values).sum(), values.size),
                         "Give the file as Warp wrote it")
    if len(axes) == 4:
        return MultilinearGrid(values)
    return CubicGrid(values, tuple(_number(element.get("Margin" + axis, "0"), "Margin" + axis, path)
                                   for axis in "XYZ"))


def _grids(root, name, axes, path):
    """The grids of a vector; None if all of them are 0."""
    elements = [root.find(name + axis) for axis in axes]
    grids = [CubicGrid(np.zeros((1, 1, 1))) if e is None else read_grid(e, path) for e in elements]
    return tuple(grids) if any(grid.values.any() for grid in grids) else None


def _deformation(root, dose, image_size, image_centre, volume_size, path):
    """What is local in the alignment; None if nothing is."""
    grids = {"movement": _grids(root, "GridMovement", "XY", path), "angle": _grids(root, "GridAngle", "XYZ", path)}
    warp = _grids(root, "GridVolumeWarp", "XYZ", path)
    if warp is not None:
        grids["warp"] = tuple(grid if isinstance(grid, MultilinearGrid) else MultilinearGrid(grid.values[None])
                              for grid in warp)
    if not any(grids.values()):
        return None
    n, span = len(dose), np.ptp(dose)
    return Deformation(np.arange(n) / max(1, n - 1), (dose - dose.min()) / (span or 1.0), image_size, image_centre,
                       volume_size, **grids)


def _ctf(root, n, path):
    """Optics, and CTF of n tilts; None instead of the latter if all defoci are 0, which is how Warp begins."""
    params = _params(root, "CTF")
    value = lambda name, default: _number(params.get(name, default), name, path)  # noqa: E731
    optics = Optics(value("Voltage", "300"), value("Cs", "2.7"), value("Amplitude", "0.07"))
    time = np.arange(n) / max(1, n - 1)

    def per_tilt(name, fallback):
        element = root.find(name)
        if element is None:
            return np.full(n, value(fallback, "0"))
        return read_grid(element, path)(0.5, 0.5, time)

    defocus = per_tilt("GridCTF", "Defocus") * 1e4
    if not defocus.any():
        return optics, None
    half = per_tilt("GridCTFDefocusDelta", "DefocusDelta") * 0.5e4
    angle, phase = per_tilt("GridCTFDefocusAngle", "DefocusAngle"), per_tilt("GridCTFPhase", "PhaseShift")
    return optics, Ctf(optics, defocus + half, defocus - half, angle, phase * 180)  # the phase is in units of pi
