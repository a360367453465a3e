"""STAR files of particle image series, one row per image, as Warp 1.0.9 writes and tomoDRGN reads them."""

import numpy as np

from . import star

#: The columns, in their order.
COLUMNS = ("rlnMagnification", "rlnDetectorPixelSize", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast",
           "rlnPhaseShift", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnImageName", "rlnMicrographName",
           "rlnCoordinateX", "rlnCoordinateY", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnCtfBfactor",
           "rlnCtfScalefactor", "rlnRandomSubset", "rlnGroupName")
_NOTE = ("One row per tilt image of each particle, by ascending dose; bright particles, not multiplied by the CTF.\n"
         "rlnCtfBfactor is -4 times the dose up to and including the exposure, as Warp writes it: RELION, where decay\n"
         "has a positive sign, would amplify by it.")


def write_image_series(path, rows, pixel_size):
    """Write the table of all images of all particles.

    Parameters
    ----------
    path : str
    rows : list of dict
        One per image: ``optics`` (Optics), ``phase`` and ``defocus_angle`` (degrees), ``defocus_u``, ``defocus_v``
        (angstrom, at the particle), ``image``, ``micrograph``, ``xy`` (pixels of the image from its corner), ``angles``
        (rot, tilt, psi, degrees, of the projection), ``dose`` (e/A^2, with the exposure), ``scale``, ``subset``,
        ``group``.
    pixel_size : float
        Angstrom.
    """
    count = len(rows)
    column = lambda name: [row[name] for row in rows]  # noqa: E731
    xy, angles = (np.array(column(name), np.float64).reshape(count, -1) for name in ("xy", "angles"))
    values = [[1e4] * count, [float(pixel_size)] * count, [float(o.voltage) for o in column("optics")],
              [float(o.cs) for o in column("optics")], [float(o.amplitude_contrast) for o in column("optics")],
              column("phase"), column("defocus_u"), column("defocus_v"), column("defocus_angle"), column("image"),
              column("micrograph"), *xy.T, *angles.T, [-4.0 * d for d in column("dose")], column("scale"),
              column("subset"), column("group")]
    star.write(path, [star.Table.from_columns("", dict(zip(COLUMNS, values)))], comment=_NOTE)
