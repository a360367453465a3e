"""Scipion's coordinates and sub-tomograms as particles of the engine.

Scipion stores positions in tomogram pixels from the tomogram's origin, and the transpose of RELION's orientation
matrix (`to_scipion` is the inverse).
"""

import json
import os

import numpy as np

from ..engine.particles import ParticleSet
from ..engine.poses import matrix_from_zyz
from ..errors import InputError
from ..io import subtomostar
from . import attributes as extra
from . import movement, refined
from .from_scipion import is_number, optics_of
from .names import unique


class Frame:
    """How Scipion's coordinates in one tomogram become positions from the centre of the tilt series.

    Parameters
    ----------
    tomogram : tomo.objects.Tomogram
    centre : {'relion', 'imod'}
        Which point of the tomogram the alignment is about: voxel N//2, or (N-1)/2.

    Attributes
    ----------
    size : (float, float, float)
        Extent xyz of the unbinned tomogram, angstrom.

    Notes
    -----
    Scipion counts voxels from the tomogram's origin, by default N/2. An origin that was set moves with trimming and
    shifting and stays the centre of the whole tomogram; a default one of an odd size lies half a voxel above N//2.
    """

    def __init__(self, tomogram, centre="relion"):
        dims = tomogram.getDim()
        if dims is None:
            raise InputError(tomogram.getTsId(), "the file of its tomogram, %s, is missing" % tomogram.getFileName(),
                             "Restore it, or choose other tomograms")
        self.pixel_size = float(tomogram.getSamplingRate())
        self.dims = np.array(dims, np.float64)
        origin = np.array(tomogram.getShiftsFromOrigin(), np.float64) / self.pixel_size
        # A binned tomogram rarely spans the whole unbinned one to the voxel; half of it lies before the origin.
        near = np.abs(2 * origin + self.dims).max() < 2
        self.size = tuple((-2 * origin if near else self.dims) * self.pixel_size)
        if not origin.any() or np.abs(origin + self.dims / 2).max() < 0.01:
            middle = (self.dims - 1) / 2 if centre == "imod" else self.dims // 2
            self.offset = -origin - middle
        else:
            self.offset = np.full(3, 0.5 if centre == "imod" else 0.0)

    def positions(self, stored):
        """Stored coordinates `(..., 3)`, pixels, to positions in angstrom from the centre."""
        return (np.asarray(stored, np.float64) + self.offset) * self.pixel_size

    def stored(self, positions):
        """Positions in angstrom from the centre `(..., 3)` to what Scipion stores, pixels."""
        return np.asarray(positions, np.float64) / self.pixel_size - self.offset


def counts(coordinates):
    """Return the number of coordinates by tsId."""
    out = {}
    for row in coordinates.aggregate(["COUNT"], "_tomoId", ["_tomoId"]):
        out[row["_tomoId"]] = row["COUNT"]
    return out


def frames(tomograms, centre="relion"):
    """Return the `Frame` of every tomogram, by tsId."""
    return {t.getTsId(): Frame(t, centre) for t in tomograms.iterItems()}


def particles(items, centre="relion", ts_ids=None):
    """Read particles from coordinates, from aligned sub-tomograms, or from pseudo-subtomograms of RELION's plugin.

    Parameters
    ----------
    items : tomo.objects.SetOfCoordinates3D or SetOfSubTomograms
        A translation in the transform is folded into the position.
    centre : {'relion', 'imod'}
        As in `Frame`.
    ts_ids : collection of str, optional
        Only particles of these tilt series.

    Returns
    -------
    ParticleSet
        In the order of the set; the columns of the table that they came from are in ``extra``.

    Raises
    ------
    InputError
        If a tomogram is missing or of another pixel size than the coordinates, or there is no particle.

    Notes
    -----
    Names that occur twice, as in sets that were joined, get a number: see `names.unique`. Scipion's class of a
    sub-tomogram counts as rlnClassNumber.
    """
    if refined.is_refined(items):
        return refined.particles(items, ts_ids)
    coordinates = items.getCoordinates3D() if hasattr(items, "getCoordinates3D") else items
    scale = float(coordinates.getSamplingRate())
    frame = frames(coordinates.getPrecedents(), centre)
    position, rotation, names, uid, own, columns, moves, classes = [], [], [], [], [], [], [], []
    for item in items.iterItems():
        coordinate = item.getCoordinate3D() if hasattr(item, "getCoordinate3D") else item
        ts_id = coordinate.getTomoId()
        uid.append(extra.take(coordinate, extra.UID) or "%s/%d" % (ts_id, item.getObjId()))
        if ts_ids is not None and ts_id not in ts_ids:
            continue
        if ts_id not in frame:
            raise InputError("%s, coordinate %d" % (ts_id, item.getObjId()), "its tomogram is not in the set of "
                             "tomograms", "Pick or import the coordinates again on the present tomograms")
        here = frame[ts_id]
        if abs(here.pixel_size / scale - 1) > 1e-3:
            raise InputError(ts_id, "its tomogram has %g A per pixel, the coordinates %g" % (here.pixel_size, scale),
                             "Extract the coordinates onto tomograms of one pixel size")
        box = extra.take(item, extra.BOX)
        if coordinate is item:
            matrix, step = item.getMatrix(), scale
        else:
            transform = item.getTransform()
            matrix, step = np.eye(4) if transform is None else transform.getMatrix(), item.getSamplingRate()
        turn = np.array(matrix[:3, :3], np.float64).T
        if box:
            turn = matrix_from_zyz(*json.loads(box)) @ turn
        stored = [coordinate._x.get(), coordinate._y.get(), coordinate._z.get()]
        if not all(is_number(v) for v in stored):
            stored = [np.nan] * 3
        # The stored translation is A^T o, o pointing from the particle to the coordinate.
        position.append(here.positions(stored) - turn @ np.array(matrix[:3, 3], np.float64) * step)
        rotation.append(turn)
        names.append(ts_id)
        own.append(len(uid) - 1)
        columns.append(extra.take(coordinate, extra.COLUMNS, ""))
        moves.append(extra.take(coordinate, extra.MOVEMENT, ""))
        classes.append(item.getClassId() or 0 if hasattr(item, "getClassId") else 0)
    if not names:
        raise InputError("coordinates", "there is none in the tilt series that take part",
                         "Compare the names (tsId) of tomograms and tilt series")
    uid = unique(uid)  # of all, so that a part has the names of the whole
    found = _unpack(columns, extra.take(coordinates, extra.COLUMNS, ""))
    if any(classes):
        found["rlnClassNumber"] = [str(number) for number in classes]
    ts_names = tuple(dict.fromkeys(names))
    index = {name: i for i, name in enumerate(ts_names)}
    turned = bool(np.abs(np.array(rotation) - np.eye(3)).max() > 1e-9)
    return ParticleSet(position, rotation, [index[n] for n in names], ts_names, [uid[i] for i in own], found,
                       oriented=turned, trajectory=movement.trajectories(position, rotation, moves))


def _unpack(texts, common):
    """Columns from the JSON of every particle and of the set; particles without a value have an empty text."""
    rows = [json.loads(t) if t else {} for t in texts]
    shared = json.loads(common) if common else {}
    names = list(shared) + [n for n in dict.fromkeys(n for row in rows for n in row) if n not in shared]
    return {n: [str(row.get(n, shared.get(n, ""))) for row in rows] for n in names}


def check_subtomograms(items):
    """Check that sub-tomograms can be averaged.

    Parameters
    ----------
    items : tomo.objects.SetOfSubTomograms

    Raises
    ------
    InputError
        If one has no 3D CTF, no coordinate, or a translation.
    """
    for item in items.iterItems():
        if not item.hasCoordinate3D():
            raise InputError(item.getFileName(), "it has no coordinate", "Give sub-tomograms that were exported from "
                             "coordinates")
        if not _ctf_file(item):
            raise InputError(item.getFileName(), "it has no 3D CTF", "Export the sub-tomograms with this plugin")
        transform = item.getTransform()
        if transform is not None and np.abs(transform.getMatrix()[:3, 3]).max() > 1e-3:
            raise InputError(item.getFileName(), "its alignment has a translation", "Export the sub-tomograms again at "
                             "the refined positions; then they are centred")


def _ctf_file(item):
    # RELION plugins keep it at the coordinate, or under another name.
    return (extra.take(item, extra.CTF_FILE) or extra.take(item.getCoordinate3D(), "_3dcftMrcFile")
            or extra.take(item, "_ctfFile"))


def write_subtomograms(path, items):
    """Write the table of sub-tomograms with their 3D CTFs, as an average needs it; files are named absolutely.

    Parameters
    ----------
    path : str
    items : tomo.objects.SetOfSubTomograms
        Checked by `check_subtomograms`.
    """
    images, ctfs, optics = [], [], {}
    for item in items.iterItems():
        images.append(os.path.abspath(item.getFileName()))
        ctfs.append(os.path.abspath(_ctf_file(item)))
        ts_id = item.getCoordinate3D().getTomoId()
        if ts_id not in optics:
            optics[ts_id] = optics_of(item)
    subtomostar.write_subtomos(
        path, particles(items), images, ctfs, items.getSamplingRate(), items.getDim()[0], optics,
        centres={name: np.array(f.size) / 2 for name, f in frames(items.getCoordinates3D().getPrecedents()).items()})
