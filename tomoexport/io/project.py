"""Aligned tilt series, whichever program described them: RELION 5, Warp or IMOD."""

import os

from ..errors import InputError
from . import imod, relion5, warpxml


def tables(path):
    """The files that describe the tilt series: what has to be looked at to see whether they changed.

    Parameters
    ----------
    path : str
        As `read_project`.

    Returns
    -------
    list of str
        The file itself, or the XML files of a folder in the order of their names.

    Raises
    ------
    InputError
        If there is nothing, or the folder has no tilt series.
    """
    if not os.path.isdir(path):
        return [path]
    files = [os.path.join(path, name) for name in sorted(os.listdir(path))
             if name.lower().endswith(".xml")]
    found = [file for file in files if warpxml.is_tilt_series(file)]
    if not found:
        stars = [name for name in sorted(os.listdir(path)) if name.endswith(".star")]
        raise InputError(path, "the folder has no XML of a tilt series" + (", %d of something else" % len(files)
                                                                          if files else ""),
                         "Name a STAR file in it (%s)" % ", ".join(stars[:5]) if stars else
                         "Give the folder to which Warp writes its tilt series")
    return found


def read_project(path, names=None, base=None, image_shape=None, volume_size=None, pixel_size=None, size_px=None):
    """Read aligned tilt series.

    Parameters
    ----------
    path : str
        RELION's tomograms.star (also that of RELION 4 and WarpTools), Warp's XML of one tilt series or a folder of
        these, or IMOD's .xf of one tilt series, see `imod.read_series`.
    names : sequence of str, optional
        Tilt series to read, in this order. All by default.
    base : str, optional
        Folder in which files are looked for first.
    image_shape : (int, int), optional
        Height and width of images that are not there, pixels.
    volume_size : (float, float, float), optional
        Angstrom, xyz: what XML files should have said.
    pixel_size : float, optional
        Angstrom per pixel of the images: the same.
    size_px : (int, int, int), optional
        xyz, unbinned voxels: size of tomograms where neither volume_size nor the XML gives it.

    Returns
    -------
    list of TiltSeries

    Raises
    ------
    InputError
        As `relion5.read_project` and `warpxml.read_series`; also if a name is not there.
    """
    path = os.fspath(path)
    if path.lower().endswith(".xf"):
        return [imod.read_series(path, size_px, base)]
    if not os.path.isdir(path) and not path.lower().endswith(".xml"):
        return relion5.read_project(path, names, base, image_shape)
    files = {os.path.splitext(os.path.basename(file))[0]: file for file in tables(path)}
    for name in names or ():
        if name not in files:
            raise InputError(path, "there is no tilt series %s" % name, "The names are: %s" % ", ".join(files))
    return [warpxml.read_series(files[name], image_shape, pixel_size, volume_size, base, size_px)
            for name in (files if names is None else names)]
