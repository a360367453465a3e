"""What a run did with the particles of a tilt series, as it can be drawn."""

from collections import namedtuple

import numpy as np
from scipy.ndimage import gaussian_filter

from ..convert import from_scipion, positions, refined, subsets
from ..errors import InputError
from ..io import mrc

#: name of the tilt series; path of its tomogram, angstrom per voxel, voxels `(N, 3)` from the first one; the least
#: tilted image `(h, w)`, its pixel size and tilt, pixels `(N, 2)`; depth `(N,)` in angstrom; kept `(N,)`; diameter in
#: angstrom.
Scene = namedtuple("Scene", "name volume voxel voxels image image_pixel tilt on_image depth kept diameter")
_SIDE = 800  # pixels of an image that is shown


def items_of(protocol):
    """The particles that a protocol took, or made if it took none; None without either.

    Parameters
    ----------
    protocol : pyworkflow.protocol.Protocol

    Returns
    -------
    tomo.objects.SetOfCoordinates3D or SetOfSubTomograms or None
    """
    name = protocol.particlesInput()
    if name and getattr(protocol, name).get() is not None:
        return getattr(protocol, name).get()
    return getattr(protocol, "Coordinates", None)


def names(protocol):
    """Tilt series of the particles of a protocol.

    Parameters
    ----------
    protocol : pyworkflow.protocol.Protocol

    Returns
    -------
    list of str
    """
    items = items_of(protocol)
    if items is None:
        return []
    counts = refined.counts(items) if refined.is_refined(items) else positions.counts(subsets.coordinates(items))
    return sorted(counts)


def kept_names(protocol):
    """Names of the particles that a run kept; None if it keeps all that it takes.

    Parameters
    ----------
    protocol : pyworkflow.protocol.Protocol

    Returns
    -------
    set of str or None
    """
    if hasattr(protocol, "_results"):
        entries = [p for record in protocol._results().values() for p in record.get("particles") or ()]
        return {p["uid"] for p in entries if p["kept"]} if entries else None
    if not protocol.VERB:
        return None
    for name in ("Coordinates", "Subtomograms"):
        if hasattr(protocol, name):
            return set(positions.particles(getattr(protocol, name)).uid)
    return None


def scene(protocol, name, diameter=0.0):
    """Make the scene of a tilt series.

    Parameters
    ----------
    protocol : pyworkflow.protocol.Protocol
    name : str
        Tilt series.
    diameter : float
        Angstrom; by default the form's, or that of the coordinates' boxes.

    Returns
    -------
    Scene

    Raises
    ------
    InputError
        If there is neither a tomogram nor an image to show them on.
    """
    items = items_of(protocol)
    found = positions.particles(items, ts_ids=[name])
    chosen = kept_names(protocol)
    kept = np.array([chosen is None or uid in chosen for uid in found.uid], bool)
    coordinates = subsets.coordinates(items)
    if not diameter and protocol.getParam("diameter") is not None:
        diameter = protocol.diameter.get() or 0.0
    if not diameter and coordinates is not None and coordinates.getBoxSize():
        diameter = coordinates.getBoxSize() * coordinates.getSamplingRate()
    volume, voxel, voxels, size = None, 1.0, np.zeros((len(found), 3)), None
    tomograms = coordinates.getPrecedents() if coordinates is not None else None
    for tomogram in tomograms.iterItems() if tomograms is not None else ():
        if tomogram.getTsId() == name:
            frame = positions.Frame(tomogram)
            volume, voxel, size = tomogram.getFileName(), frame.pixel_size, frame.size
            voxels = frame.stored(found.position) - np.array(tomogram.getShiftsFromOrigin()) / frame.pixel_size
    image, pixel, tilt, on_image, depth = _on_image(protocol, name, size, found.position, diameter)
    if volume is None and image is None:
        raise InputError(name, "it has neither a tomogram nor images to show particles on", "Choose tilt series")
    return Scene(name, volume, voxel, voxels, image, pixel, tilt, on_image,
                 found.position[:, 2] if depth is None else depth, kept, diameter or 10 * voxel)


def _on_image(protocol, name, size, position, diameter):
    """The least tilted image, low-passed, and where particles are on it; nothing if there are no tilt series."""
    pointer = getattr(protocol, "inputTS", None) or getattr(protocol, "inputTiltSeries", None)
    ts = None if pointer is None or pointer.get() is None else pointer.get().getItem("_tsId", name)
    if ts is None:
        return None, 1.0, 0.0, np.zeros((len(position), 2)), None
    series, _ = from_scipion.tilt_series(ts, volume_size=size)
    g = series.geometry
    least = int(np.argmin(np.where(g.used, np.abs(g.tilt), np.inf)))
    path, section = series.images[least]
    with mrc.open_stack(path) as source:
        image = source.read(section)
    step = max(1, int(np.ceil(max(image.shape) / _SIDE)))
    height, width = (n // step * step for n in image.shape)
    binned = image[:height, :width].reshape(height // step, step, width // step, step).mean((1, 3))
    seen = g.project(position)
    pixels = seen.xy[:, least] / g.pixel_size + np.array(g.image_shape[::-1]) // 2
    width = max(1.0, (diameter or 100.0) / g.pixel_size / step / 10)
    return (gaussian_filter(binned, width), g.pixel_size * step, float(g.tilt[least]),
            (pixels + 0.5) / step - 0.5, seen.depth[:, least])
