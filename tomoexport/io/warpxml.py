"""Tilt series of Warp and M: the XML that holds angles, offsets, CTF and grids of local alignment.

Warp's rotation of a tilt is ``Rz(axis) Ry(-(angle + levelY)) Rx(levelX)`` in our terms, about the centre of a volume
that is not mirrored: its frame is ours, and only the sign of the tilt angle differs (``tilt = -(angle + LevelAngleY)``,
``xtilt = LevelAngleX``).  Axis angles and offsets are ours as they stand.  ``AreAnglesInverted`` is the sign of the
defocus alone: hand -1 where it is set.  Warp's magnification correction is no part of its projection.

Movement, volume warp and angle grids become the series' deformation.  What else the XML says of alignment, CTF, weights
and selection and is not followed (weights that M refined, a defocus that varies over the image) is a statement of the
series.
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
from .given import Given
from .paths import locate, search_folders
from .plainfile import open_plain
from .statements import OPTICS, WEIGHTS, Statement, is_nothing
from .tiltseries import LARGEST_SIZE, LEAST_PIXEL, MOST_PIXEL, TiltSeries

ROOT = "TiltSeries"
_IMAGES = (".mrc", ".mrcs", ".st", ".ali")


def kind_of(path):
    """What an XML of Warp describes.

    Parameters
    ----------
    path : str

    Returns
    -------
    str
        Its root: ``TiltSeries``, ``Movie``...; "" for a file that is damaged before it says so, or empty.
    """
    try:
        with open_plain(path) as file:
            return next(ElementTree.iterparse(file, events=("start",)))[1].tag
    except (OSError, ElementTree.ParseError, StopIteration, ValueError, LookupError, InputError):
        return ""


class WarpXml:
    """Warp's XML of one tilt series, or a folder of these; a file of the folder is a tilt series of its name.

    Parameters
    ----------
    path : str
    given : Given

    Raises
    ------
    InputError
        If there is nothing, or the folder has no tilt series.
    """

    NAME = "Warp"
    TAKES = "Warp's or M's XML of one tilt series, or a folder of these"
    HAS_CTF = True

    def __init__(self, path, given=None):
        self.path, self._given, self.notes, self.left_out = os.fspath(path), given or Given(), (), {}
        if not os.path.isdir(path):
            self._files = {_stem(path): self.path}
        else:
            self._look_through()
        self.names = tuple(self._files)

    @staticmethod
    def recognise(path):
        """See `project.SOURCES`."""
        return os.path.isdir(path) or path.lower().endswith(".xml")

    def _look_through(self):
        """Find the tilt series of a folder, and those that Warp was told to leave out."""
        files = [os.path.join(self.path, name) for name in sorted(os.listdir(self.path))
                 if name.lower().endswith(".xml")]
        kinds = {file: kind_of(file) for file in files}
        # One that cannot be read may well be a tilt series: it must not vanish.
        self._files = {_stem(file): file for file in files if kinds[file] in (ROOT, "")}
        if not any(kinds[file] == ROOT for file in files):
            raise InputError(self.path, *self._nothing(kinds))
        others = [os.path.basename(file) for file in files if kinds[file] not in (ROOT, "")]
        if others:
            self.notes += ("%d files are passed over, they describe no tilt series: %s" % (
                len(others), ", ".join(others[:3]) + ", ..." * (len(others) > 3)),)
        for name, file in list(self._files.items()):
            reason = _deselected(file)
            if reason:
                self.left_out[name] = "it is deselected in Warp (%s)" % reason
                del self._files[name]

    def _nothing(self, kinds):
        """Cause and remedy of a folder without a tilt series."""
        damaged = [file for file, kind in kinds.items() if not kind]
        if damaged:
            return ("%s is no valid XML" % os.path.basename(damaged[0]), "Give the files as Warp wrote them")
        stars = [name for name in sorted(os.listdir(self.path)) if name.endswith(".star")]
        return ("the folder has no XML of a tilt series" + (", %d of something else" % len(kinds) if kinds else ""),
                "Name a STAR file in it (%s)" % ", ".join(stars[:5]) if stars else
                "Give the folder to which Warp writes its tilt series")

    def files(self, name):
        """See `project.SOURCES`."""
        return [self._files[name]]

    def read(self, name):
        """See `project.SOURCES`."""
        return read_series(self._files[name], self._given)

    def relion_finds_it(self):
        """See `project.SOURCES`."""
        return False


def _stem(path):
    return os.path.splitext(os.path.basename(path))[0]


def _deselected(path):
    """What tells Warp to leave the series out, "" if nothing does; the user's word goes before the filter's."""
    try:
        with open_plain(path) as file:
            root = next(ElementTree.iterparse(file, events=("start",)))[1]
    except (OSError, ElementTree.ParseError, StopIteration, ValueError, LookupError, InputError):
        return ""  # reading it tells more
    manual, filtered = (root.get(name, "").lower() for name in ("UnselectManual", "UnselectFilter"))
    if manual in ("true", "false"):
        return "UnselectManual" if manual == "true" else ""
    return "UnselectFilter" if filtered == "true" else ""


def read_series(path, given=None):
    """Read Warp's XML of one tilt series.

    Parameters
    ----------
    path : str
        The file; its name without extension names the series.
    given : Given, optional
        Without a given size the tomogram's is VolumeDimensionsAngstrom, which early versions of Warp do not write;
        without a given pixel size that of the images' headers counts or, without them, of the XML. Images are looked
        for in ``base`` first; then beside the XML, in its DataDirectory and above the XML.

    Returns
    -------
    TiltSeries
        In the order of the file. Images are Warp's averages of movies (``average/`` beside the movies), or the
        movies' own names where those are images already. The weight of a tilt is the cosine of the stage's tilt.

    Raises
    ------
    InputError
        If the file is no such XML, its alignment is missing or damaged, or sizes are known neither from it nor from the
        images.
    """
    given = given or Given()
    root = _parse(path)
    angles = _numbers(root, "Angles", path)
    n = len(angles)
    column = lambda name: _numbers(root, name, path, n)  # noqa: E731
    folders = search_folders(path, given.base)
    data = root.get("DataDirectory")
    if data:
        folders.insert(1 + bool(given.base), os.path.join(os.path.dirname(os.path.abspath(path)), data))
    images, odd, even = _images(_lines(root, "MoviePath", path, n), folders)
    shape, header_pixel = _header(images[0][0])
    pixel_size = given.pixel_size or _pixel_size(root, shape, header_pixel, path)
    if not LEAST_PIXEL < pixel_size < MOST_PIXEL:
        raise InputError(path, "a pixel size of %g A" % pixel_size, "Give --image-pixel-size")
    shape = shape or given.image_shape or _shape(root, pixel_size, path)
    own = _lengths(root, "VolumeDimensionsAngstrom", 3, path)
    extent = given.extent(pixel_size) or own
    sized = extent is not None
    if not sized and given.size_needed:
        raise InputError(path, "it does not say how large the tomogram is, from whose corner Warp counts positions",
                         "Give the unbinned size that Warp was told: --tomogram-size")
    size = np.array(shape[::-1]) * pixel_size
    extent = extent or tuple(size) + (size.max(),)
    if not max(extent) < LARGEST_SIZE:
        raise InputError(path, "tomogram size %g x %g x %g A" % tuple(extent), "Give --tomogram-size")
    centre = np.array(shape[::-1]) // 2 * pixel_size
    # Warp's image centre is half its extent, which is half a pixel beyond ours along odd sides.
    shift = np.stack([column("AxisOffsetX"), column("AxisOffsetY")], 1) + size / 2 - centre
    dose = column("Dose")
    if given.exposure_dose:
        dose = given.dose(path, np.argsort(np.argsort(dose, kind="stable")))
    deformation = _deformation(root, dose, _lengths(root, "ImageDimensionsAngstrom", 2, path) or size, centre,
                               extent, path)
    used = None
    if root.find("UseTilt") is not None:
        used = [text.lower() == "true" for text in _lines(root, "UseTilt", path, n)]
    level_x, level_y = (_number(root.get(name, "0"), name, path) for name in ("LevelAngleX", "LevelAngleY"))
    hand = -1 if root.get("AreAnglesInverted", "False").lower() == "true" else 1
    try:
        geometry = TiltSeriesGeometry(
            _stem(path), shape, pixel_size, -(angles + level_y), column("AxisAngle"), shift, dose, extent, used=used,
            xtilt=np.full(n, level_x), deformation=deformation, hand=given.hand or hand)
        optics, ctf = _ctf(root, n, given, path)
    except InputError as error:
        raise InputError("%s, %s" % (path, error.item), error.cause, error.remedy) from None
    notes = given.told("--hand", given.hand, hand)
    notes += given.told("--image-pixel-size", given.pixel_size, header_pixel, " A")
    if _deselected(path):
        notes += ("it is deselected in Warp (%s), and named here all the same" % _deselected(path),)
    return TiltSeries(geometry, ctf, images, odd, even, optics=optics, notes=notes, sized=sized, cosine=True,
                      extra={"rlnTomoNominalStageTiltAngle": [repr(-float(angle)) for angle in angles]},
                      statements=_statements(root, path))


#: Elements whose grids M refines, and parameters of the CTF: what they change where they are not trivial.
_GRIDS = {"GridDoseBfacs": WEIGHTS, "GridDoseBfacsDelta": WEIGHTS, "GridDoseWeights": WEIGHTS,
          "GridLocationBfacs": WEIGHTS, "GridLocationWeights": WEIGHTS, "GridCTF": OPTICS,
          "GridCTFDefocusDelta": OPTICS, "GridCTFDefocusAngle": OPTICS, "GridCTFPhase": OPTICS}
_PARAMETERS = {"ZernikeCoeffsOdd": "the phases of the images", "ZernikeCoeffsEven": "the phase of the CTF",
               "BeamTilt": "the phases of the images", "PixelSizeDeltaPercent": "the pixel size, which differs by "
               "direction"}
_PLAIN = {"GridDoseWeights": 1.0, "GridLocationWeights": 1.0}


def _statements(root, path):
    """What the XML says and is not followed here."""
    out = []
    for name, kind in _GRIDS.items():
        element = root.find(name)
        if element is None:
            continue
        values = read_grid(element, path).values
        if kind == OPTICS:
            varies = values.shape[-1] * values.shape[-2] > 1 and np.ptp(values, axis=(-2, -1)).max() > 1e-6
            if varies:
                out.append(Statement(name, path, kind, "the CTF, which varies over the images; its middle is taken"))
        elif np.abs(values - _PLAIN.get(name, 0.0)).max() > 1e-6:
            out.append(Statement(name, path, kind, "how much tilts and frequencies count, as M refined it; dose and "
                                 "cosine of the tilt are taken"))
    for name, value in _params(root, "CTF").items():
        if name in _PARAMETERS and not is_nothing((value or "").replace(";", ",")):
            out.append(Statement(name, path, OPTICS, _PARAMETERS[name]))
    for name, plain, effect in (("Bfactor", 0.0, "how fast the series fades beside others"),
                                ("Weight", 1.0, "how much the series counts beside others")):
        if abs(_number(root.get(name, repr(plain)), name, path) - plain) > 1e-6:
            out.append(Statement(name, path, WEIGHTS, effect))
    return tuple(out)


def _parse(path):
    try:
        with open_plain(path) as file:
            root = ElementTree.parse(file).getroot()
    except OSError as error:
        raise InputError(path, "it cannot be read: %s" % (error.strerror or error), "Give Warp's XML") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # an unknown encoding is a LookupError
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
    nodes = element.findall("Node")
    count = float(np.prod(shape, dtype=float))
    if count != len(nodes):  # before room is made for them
        raise InputError(path, "%s has %d nodes instead of %.0f" % (element.tag, len(nodes), count),
                         "Give the file as Warp wrote it")
    values = np.full(shape, np.nan)
    for node in nodes:
        place = tuple(whole(node, axis, "0") for axis, _ in axes)
        if not all(0 <= p < n for p, n in zip(place, shape)) or np.isfinite(values[place]):
            raise InputError(path, "%s has a node that is outside the grid or there twice: %s" % (
                element.tag, node.attrib), "Give the file as Warp wrote it")
        values[place] = _number(node.get("Value", ""), "a node of %s" % element.tag, path)
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


def _ctf(root, n, given, path):
    """Optics, and CTF of n tilts; None instead of the latter if all defoci are 0, which is how Warp begins."""
    params = _params(root, "CTF")
    value = lambda name, default: _number(params.get(name, default), name, path)  # noqa: E731
    optics = Optics(given.voltage or value("Voltage", "300"), given.cs or value("Cs", "2.7"),
                    given.amplitude_contrast or value("Amplitude", "0.07"))
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
    # The phase is in units of pi.
    return optics, Ctf(optics, defocus + half, defocus - half, angle, phase * 180)
