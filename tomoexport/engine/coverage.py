"""Which voxels of a tomogram all of the tilt images show."""

from typing import Sequence, Tuple

import numpy as np

from .geometry import TiltSeriesGeometry
from .tomogram import TomogramSetup


def covered_columns(geometry: TiltSeriesGeometry, plan: TomogramSetup, sections: np.ndarray,
                    rows: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Voxels of every line along x that lie within all images.

    Parameters
    ----------
    geometry : TiltSeriesGeometry
        Only the tilts that are used.
    plan : tomogram.TomogramSetup
    sections, rows : ndarray `(Z,)`, `(Y,)` of int
        Voxels along z and y.

    Returns
    -------
    first, stop : ndarray `(Z, Y)` of int
        The voxels from `first` up to, but not with, `stop` are seen in every tilt; none if they are equal.

    Notes
    -----
    A voxel is within an image if its projection lies on or between the centres of the outermost pixels. That is linear
    in x: every tilt and side of the image bounds a range.
    """
    p, nx = plan.pixel_size, plan.shape[2]
    h, w = geometry.image_shape
    centre = np.array([w // 2, h // 2])
    low = -centre * geometry.pixel_size  # angstrom from the image centre, xy
    high = (np.array([w - 1, h - 1]) - centre) * geometry.pixel_size
    y, z = (np.asarray(rows) - plan.centre[1]) * p, (np.asarray(sections) - plan.centre[2])[:, None] * p
    first, stop = np.zeros((z.size, y.size)), np.full((z.size, y.size), float(nx - 1))
    for matrix, shift in zip(geometry.matrix, geometry.shift):
        for i in (0, 1):
            start = shift[i] - matrix[i, 0] * plan.centre[0] * p + matrix[i, 1] * y + matrix[i, 2] * z
            slope = matrix[i, 0] * p
            if abs(slope) * nx < 1e-6 * p:
                stop[(start < low[i]) | (start > high[i])] = -1
                continue
            ends = (low[i] - start) / slope, (high[i] - start) / slope
            np.maximum(first, np.minimum(*ends), out=first)
            np.minimum(stop, np.maximum(*ends), out=stop)
    first = np.ceil(first - 1e-9).astype(int)
    return first, np.maximum(np.floor(stop + 1e-9).astype(int) + 1, first)


def keep_covered(geometry: TiltSeriesGeometry, plan: TomogramSetup, z: int, y: int,
                 pieces: Sequence[np.ndarray]) -> None:
    """Set voxels of a piece that some image does not show to 0.

    Parameters
    ----------
    geometry, plan
        As `covered_columns`.
    z, y : int
        First section and row of the piece.
    pieces : list of ndarray `(n_z, n_y, nx)` float32
        Changed in place.
    """
    n_z, n_y, nx = pieces[0].shape
    first, stop = covered_columns(geometry, plan, np.arange(z, z + n_z), np.arange(y, y + n_y))
    x = np.arange(nx)
    for section in range(n_z):
        outside = (x < first[section][:, None]) | (x >= stop[section][:, None])
        for piece in pieces:
            piece[section][outside] = 0
