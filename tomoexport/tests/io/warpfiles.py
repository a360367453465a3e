"""Warp's XML of a tilt series, written for tests from Warp's own quantities or from one of our series."""

import os

import numpy as np

from tomoexport.io import mrc


def grid(name, values, **margins):
    """Element of a grid `(z, y, x)` or `(w, z, y, x)`, or of one value."""
    values = np.asarray(values, float)
    values = values.reshape((1,) * (3 - values.ndim) + values.shape) if values.ndim < 3 else values
    sides, axes = ("Duration", "Depth", "Height", "Width")[-values.ndim:], "WZYX"[-values.ndim:]
    head = ["%s=\"%d\"" % pair for pair in zip(sides, values.shape)] + ["%s=\"%r\"" % pair for pair in margins.items()]
    nodes = ["<Node %s Value=\"%r\" />" % (" ".join("%s=\"%d\"" % pair for pair in zip(axes, index)), float(value))
             for index, value in np.ndenumerate(values)]
    return "<%s %s>%s</%s>" % (name, " ".join(head), "".join(nodes), name)


def column(values):
    """One value per tilt as a grid along z."""
    return np.reshape(values, (-1, 1, 1))


def write(path, lines, attributes=None, ctf=None, options=None, grids=(), root="TiltSeries"):
    """Write an XML from lines per tilt (name: values), attributes, parameters and grids (texts of elements)."""
    params = lambda name, values: "" if values is None else "<%s>%s</%s>" % (name, "".join(  # noqa: E731
        '<Param Name="%s" Value="%s" />' % pair for pair in values.items()), name)
    head = "".join(' %s="%s"' % pair for pair in (attributes or {}).items())
    body = "".join("<%s>%s</%s>" % (name, "\n".join(str(v) for v in values), name) for name, values in lines.items())
    os.makedirs(os.path.dirname(str(path)), exist_ok=True)
    with open(str(path), "w", encoding="utf-8") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<%s%s>%s</%s>' % (
            root, head, body + params("CTF", ctf) + params("OptionsCTF", options) + "".join(grids), root))
    return str(path)


def lines_of(geometry, movies):
    """What Warp says of a series, which must have even image sides."""
    repeat = lambda values: [repr(float(v)) for v in values]  # noqa: E731
    return {"Angles": repeat(-geometry.tilt), "Dose": repeat(geometry.dose), "UseTilt": geometry.used,
            "AxisAngle": repeat(geometry.axis), "AxisOffsetX": repeat(geometry.shift[:, 0]),
            "AxisOffsetY": repeat(geometry.shift[:, 1]), "MoviePath": movies}


def attributes_of(geometry):
    """The same: attributes."""
    return {"AreAnglesInverted": str(geometry.hand < 0), "LevelAngleX": repr(float(geometry.xtilt[0])),
            "LevelAngleY": "0", "VolumeDimensionsAngstrom": ", ".join("%r" % v for v in geometry.volume_size)}


def ctf_of(ctf):
    """Parameters and grids of a CTF."""
    params = {"Voltage": ctf.optics.voltage, "Cs": ctf.optics.cs, "Amplitude": ctf.optics.amplitude_contrast}
    values = {"GridCTF": (ctf.defocus_u + ctf.defocus_v) / 2e4, "GridCTFDefocusAngle": ctf.angle,
              "GridCTFDefocusDelta": (ctf.defocus_u - ctf.defocus_v) / 1e4, "GridCTFPhase": ctf.phase / 180}
    return params, [grid(name, column(value)) for name, value in values.items()]


def write_series(folder, series, change=lambda lines, ctf, g: (lines, ctf), grids=()):
    """Write one of our series as Warp keeps it: an XML, and each image in the folder ``average``."""
    os.makedirs(str(folder / "average"), exist_ok=True)
    movies = ["%s_%03d_%.1f.tif" % (series.ts_id, t, angle) for t, angle in enumerate(series.geometry.tilt)]
    for movie, (path, section) in zip(movies, series.images):
        name = os.path.join(str(folder), "average", movie[:-4] + ".mrc")
        mrc.write(name, mrc.read_volume(path)[0][section][None], series.geometry.pixel_size, kind="stack")
    lines, ctf = change(lines_of(series.geometry, movies), series.ctf, series.geometry)
    params, more = ctf_of(ctf)
    return write(folder / (series.ts_id + ".xml"), lines, attributes_of(series.geometry), params,
                 grids=more + list(grids))
