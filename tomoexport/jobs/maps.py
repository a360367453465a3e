"""Maps of a particle and of its halves: files, Fourier shell correlation and report."""

import csv
import io
import os

import numpy as np

from ..engine.average import fsc, resolution
from ..errors import InputError
from ..io import atomic, mrc
from . import report
from .plan import Problem


def write_maps(folder, maps, pixel_size, diameter=0.0, known=None):
    """Write maps and what is to be said of them; the maps come last.

    Parameters
    ----------
    folder : str
    maps : dict of str to ndarray `(box, box, box)`
        ``average``, ``half1`` and ``half2``: also the names of the files.
    pixel_size : float
        Angstrom.
    diameter : float
        Of the mask of the FSC, angstrom; 0 takes 80 % of the box.
    known : ndarray `(box, box, box)`, optional
        Map to compare the average with.

    Returns
    -------
    dict
        Plain values: paths of the maps; ``pixel_size`` in A, ``box`` in voxels; ``resolution_0143`` and
        ``resolution_05`` in A; ``stays_above``, those of the two thresholds below which the FSC of the half maps never
        falls; ``curves`` (FSC per shell) over ``frequency`` in 1/A; ``report``; ``files``.
    """
    box = len(maps["average"])
    paths = {name: os.path.join(folder, name + ".mrc") for name in maps}
    radius = diameter / 2 / pixel_size if diameter else None
    curves = {"half maps": fsc(maps["half1"], maps["half2"], radius)}
    if known is not None:
        curves["known map"] = fsc(maps["average"], known, radius)
    frequency = np.arange(box // 2 + 1) / (box * pixel_size)
    os.makedirs(os.path.join(folder, "report"), exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["frequency_1/A"] + list(curves))
    writer.writerows(np.round(np.column_stack([frequency] + list(curves.values())), 6).tolist())
    atomic.write_text(os.path.join(folder, "fsc.csv"), text.getvalue())
    picture = os.path.join(folder, "report", "fsc.png")
    report.fsc_curve({name: (frequency, curve) for name, curve in curves.items()}, picture)
    report.tomogram_slices(maps["average"], pixel_size, os.path.join(folder, "report", "average_slices.png"))
    for name, volume in maps.items():
        mrc.write(paths[name], volume, pixel_size)
    return dict(paths, pixel_size=pixel_size, box=box,
                resolution_0143=resolution(curves["half maps"], box, pixel_size, 0.143),
                resolution_05=resolution(curves["half maps"], box, pixel_size, 0.5),
                stays_above=[level for level in (0.143, 0.5) if (curves["half maps"][1:] >= level).all()],
                curves={name: curve.tolist() for name, curve in curves.items()}, frequency=frequency.tolist(),
                report=picture, files=list(paths.values()))


def resolutions(result):
    """A text with the resolutions.

    Parameters
    ----------
    result : dict
        As `write_maps` returns it.

    Returns
    -------
    str
    """
    return ", ".join(falls(result, level) for level in (0.143, 0.5))


def falls(result, level):
    """A text that says where the FSC of half maps falls below a threshold, or that it never does.

    Parameters
    ----------
    result : dict
        As `write_maps` returns it.
    level : {0.143, 0.5}

    Returns
    -------
    str
    """
    length = result["resolution_0143" if level == 0.143 else "resolution_05"]
    if level in result.get("stays_above", ()):
        return "FSC stays above %g to the last frequency, %.1f A" % (level, length)
    return "%.1f A at FSC %g" % (length, level)


def damaged(paths, shape, table):
    """See whether files are volumes of a shape; headers are read where sizes differ.

    Parameters
    ----------
    paths : list of str
        Those that do not exist are passed over.
    shape : tuple of int
    table : str
        What names them.

    Returns
    -------
    list of plan.Problem
        That of the first file that is not, or none; a warning if one is longer than it should be.
    """
    sizes, longer = set(), []
    for path in paths:
        size = os.path.getsize(path) if os.path.exists(path) else None
        if size is None or size in sizes:
            continue
        try:
            found = mrc.read_header(path)
        except InputError as error:
            return [Problem("error", error.item, error.cause, error.remedy)]
        if found.shape != shape:
            return [Problem("error", path, "it has %d x %d x %d voxels, expected %d x %d x %d"
                            % (found.shape[::-1] + shape[::-1]),
                            "All volumes of %s must have one box size, and half volumes of 3D CTF" % table)]
        if found.excess:
            longer.append(Problem("warning", path, "it is %d bytes longer than its header says" % found.excess))
        sizes.add(size)
    return longer[:1]
