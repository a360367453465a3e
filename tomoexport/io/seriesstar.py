"""STAR files of particle image series, one row per image, as Warp 1.0.9 writes and tomoDRGN and cryoDRGN read them."""

from dataclasses import dataclass

import numpy as np

from ..engine.poses import matrix_from_zyz
from ..errors import InputError
from . import particlestar, star

#: The columns, in their order.
COLUMNS = ("rlnMagnification", "rlnDetectorPixelSize", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast",
           "rlnPhaseShift", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnImageName", "rlnMicrographName",
           "rlnCoordinateX", "rlnCoordinateY", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnCtfBfactor",
           "rlnCtfScalefactor", "rlnRandomSubset", "rlnGroupName")
#: Columns of windows that were cut at whole pixels.
ORIGINS = ("rlnOriginX", "rlnOriginY")
_NOTE = ("One row per tilt image of each particle, by ascending dose; %s particles, not multiplied by the CTF.\n"
         "rlnCtfBfactor is -4 times the dose up to and including the exposure, as Warp writes it: RELION, where decay\n"
         "has a positive sign, would amplify by it.")


def write_image_series(path, rows, pixel_size, extra=None, bright=True):
    """Write the table of all images of all particles.

    Parameters
    ----------
    path : str
    rows : list of dict
        As for `image_columns`.
    pixel_size : float
        Angstrom.
    extra : dict of str to sequence, optional
        Further columns, N values each; they come after all others.
    bright : bool
        Whether particles are bright; the comment says so.
    """
    star.write(path, [star.Table.from_columns("", dict(image_columns(rows, pixel_size), **(extra or {})))],
               comment=_NOTE % ("bright" if bright else "dark"))


def image_columns(rows, pixel_size):
    """The columns of a table of images.

    Parameters
    ----------
    rows : list of dict
        One per image: ``optics`` (Optics), ``phase`` and ``defocus_angle`` (degrees), ``defocus_u``, ``defocus_v``
        (angstrom, at the particle), ``image``, ``micrograph``, ``xy`` (pixels of the image from its corner), ``angles``
        (rot, tilt, psi, degrees, of the projection), ``dose`` (e/A^2, with the exposure), ``scale``, ``subset``,
        ``group`` and, in all of them or in none, ``origin`` (pixels, xy: what moves the particle to the window's
        centre).
    pixel_size : float
        Angstrom.

    Returns
    -------
    dict of str to sequence
        `COLUMNS` and, where rows have it, `ORIGINS`.
    """
    count = len(rows)
    column = lambda name: [row[name] for row in rows]  # noqa: E731
    xy, angles = (np.array(column(name), np.float64).reshape(count, -1) for name in ("xy", "angles"))
    values = [[1e4] * count, [float(pixel_size)] * count, [float(o.voltage) for o in column("optics")],
              [float(o.cs) for o in column("optics")], [float(o.amplitude_contrast) for o in column("optics")],
              column("phase"), column("defocus_u"), column("defocus_v"), column("defocus_angle"), column("image"),
              column("micrograph"), *xy.T, *angles.T, [-4.0 * d for d in column("dose")], column("scale"),
              column("subset"), column("group")]
    columns = dict(zip(COLUMNS, values))
    if rows and "origin" in rows[0]:
        columns.update(zip(ORIGINS, zip(*column("origin"))))
    return columns


@dataclass(frozen=True, eq=False)
class ImageSeries:
    """M tilt images of particles, in the order of their table.

    Attributes
    ----------
    group : list of str
        The particle of each image.
    image : list of str
        ``number@stack``, as the table names it.
    pixel_size : ndarray `(M,)`
        Angstrom.
    rotation : ndarray `(M, 3, 3)`
        Takes the frame of the reference to that of the image, whose z is along the beam.
    offset : ndarray `(M, 2)`
        Angstrom: what moves the particle to the centre of its image (rlnOrigin*).
    dose : ndarray `(M,)`
        Electrons per square angstrom up to and including the exposure, -1/4 of rlnCtfBfactor.
    tilt : ndarray `(M,)`
        Degrees from the untilted view, without sign: the arc cosine of rlnCtfScalefactor.
    extra : dict of str to list of str
        All columns, as text.
    """

    group: list
    image: list
    pixel_size: np.ndarray
    rotation: np.ndarray
    offset: np.ndarray
    dose: np.ndarray
    tilt: np.ndarray
    extra: dict


def read_image_series(path):
    """Read a table of particle image series: ours, Warp's, or one of 17 columns that tomoDRGN ships.

    Parameters
    ----------
    path : str

    Returns
    -------
    ImageSeries

    Raises
    ------
    InputError
        If no block has images of particles, a column is missing, or a value is no finite number.
    """
    table = next((one for one in star.read(path) if one.has("rlnGroupName", "rlnImageName")), None)
    if table is None or not len(table):
        raise InputError(path, "there are no image series in it: rows with rlnGroupName and rlnImageName",
                         "Give the table of an export of image series")
    pixel_size = particlestar.image_pixel_size(table) if table.has("rlnMagnification") else (
        table.float("rlnDetectorPixelSize"))
    angles = particlestar.vectors(table, particlestar.ANGLE)
    offset = particlestar.vectors(table, particlestar.ORIGIN[:2], 0.0) * pixel_size[:, None]
    dose, scale = table.float("rlnCtfBfactor") / -4, table.float("rlnCtfScalefactor")
    numbers = np.column_stack([pixel_size, angles, offset, dose, scale])
    bad = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
    if len(bad):
        raise InputError(table.where(bad[0]), "a number of the pose, the dose or the tilt is not finite",
                         "Correct the row")
    return ImageSeries(table.text("rlnGroupName"), table.text("rlnImageName"), pixel_size, matrix_from_zyz(*angles.T),
                       offset, dose, np.rad2deg(np.arccos(np.clip(scale, -1, 1))),
                       {column: table.text(column) for column in table.columns})
