"""The dialects of particle tables: how each is told from the others, and in which unit and from where it counts.

=========  ======================================================  ==============================================
dialect    recognised by                                           coordinates
=========  ======================================================  ==============================================
m          ``wrpCoordinateX1``                                     angstrom from the corner, sampled over dose
relion5    ``rlnCenteredCoordinateXAngst``                         angstrom from the tomogram's centre
warptools  ``rlnTomoName`` ending in ``.tomostar``                 particle pixels from the corner
relion4    ``rlnTomoName``                                         tilt series pixels from the corner
relion3.1  ``data_optics``                                         pixels from the corner, size to be told or taken
relion3.0  none of these                                           from the table
=========  ======================================================  ==============================================

WarpTools of today equates tilt series pixel and particle pixel, so that one rule reads its old and its new files.  A
new dialect is an entry of `DIALECTS`, before those that would take its tables for theirs.
"""

from dataclasses import dataclass
from typing import Callable

import numpy as np

from ..errors import InputError
from . import species

CENTRED = ("rlnCenteredCoordinateXAngst", "rlnCenteredCoordinateYAngst", "rlnCenteredCoordinateZAngst")
CORNER = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")
SERIES_PIXEL, IMAGE_PIXEL = "rlnTomoTiltSeriesPixelSize", "rlnImagePixelSize"
PIXEL_REMEDY = "Give the pixel size of the coordinates, A (--coordinates-pixel-size)"


@dataclass(frozen=True)
class Dialect:
    """One dialect.

    Attributes
    ----------
    name : str
    program : str
        For people.
    recognise : callable
        ``recognise(table, optics)``: whether a table of particles is of it; optics: whether there is a data_optics.
    centred : bool
        Whether its own coordinates count from the tomogram's centre, in angstrom.
    unit : callable
        ``unit(table, of_series)``: angstrom per unit of its coordinates from the corner, `(N,)`, of_series being the
        pixel size of each particle's tilt images; None if the table does not tell.
    unit_name : str
        What that unit is, for people.
    """

    name: str
    program: str
    recognise: Callable
    centred: bool
    unit: Callable
    unit_name: str

    def corner_unit(self, table, of_series):
        """Angstrom per unit of coordinates that count from the corner.

        Parameters
        ----------
        table : star.Table
        of_series : ndarray `(N,)`
            Pixel size of each particle's tilt images, angstrom.

        Returns
        -------
        ndarray `(N,)`

        Raises
        ------
        InputError
            If the table does not tell.
        """
        pixel = self.unit(table, of_series)
        if pixel is None or not (pixel > 0).all():
            raise InputError(table.where(), "the pixel size of its coordinates is not known", PIXEL_REMEDY)
        return pixel


def image_pixel_size(table):
    """Pixel size of the images of each particle.

    Parameters
    ----------
    table : star.Table

    Returns
    -------
    ndarray `(N,)` or None
        Angstrom; None if the table does not tell.
    """
    if table.has("rlnPixelSize"):
        return table.float("rlnPixelSize")
    if table.has("rlnDetectorPixelSize", "rlnMagnification"):
        return table.float("rlnDetectorPixelSize") * 1e4 / table.float("rlnMagnification")
    return table.float(IMAGE_PIXEL) if table.has(IMAGE_PIXEL) else None


def _of_images(table, of_series):
    return image_pixel_size(table)


def _of_particles(table, of_series):
    return table.float(IMAGE_PIXEL) if table.has(IMAGE_PIXEL) else image_pixel_size(table)


def _of_tilt_series(table, of_series):
    return table.float(SERIES_PIXEL) if table.has(SERIES_PIXEL) else of_series


def _is_warptools(table, optics):
    return table.has("rlnTomoName") and all(name.endswith(".tomostar") for name in table.text("rlnTomoName"))


DIALECTS = (
    Dialect("m", "M", lambda table, optics: species.is_species(table), False,
            lambda table, of_series: np.ones(len(table)), "angstrom"),
    Dialect("relion5", "RELION 5", lambda table, optics: table.has(*CENTRED), True, _of_images, "pixels of the images"),
    Dialect("warptools", "WarpTools", _is_warptools, False, _of_particles, "pixels of the particles"),
    Dialect("relion4", "RELION 4", lambda table, optics: table.has("rlnTomoName"), False, _of_tilt_series,
            "pixels of the tilt series"),
    Dialect("relion3.1", "RELION 3.1", lambda table, optics: optics, False, _of_images, "pixels of the images"),
    Dialect("relion3.0", "RELION 3.0", lambda table, optics: True, False, _of_images, "pixels of the images"))


def dialect_of(table, optics):
    """The dialect of a table of particles.

    Parameters
    ----------
    table : star.Table
    optics : bool
        Whether its file has a data_optics.

    Returns
    -------
    Dialect
    """
    return next(dialect for dialect in DIALECTS if dialect.recognise(table, optics))
