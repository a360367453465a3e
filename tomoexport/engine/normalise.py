"""Sub-tomograms brought to mean 0 and standard deviation 1 outside the particle."""

from functools import lru_cache
from typing import Tuple

import numpy as np

from .arrays import Array
from .backend import Backend
from .fourier import sphere


def normalise_volume(volume: np.ndarray, radius: float) -> float:
    """Bring what lies outside a sphere to mean 0 and standard deviation 1, in place.

    Parameters
    ----------
    volume : ndarray `(n, n, n)` float32
    radius : float
        Voxels.

    Returns
    -------
    float
        The factor applied; 0 if the outside has no contrast, when the volume is left as it is.

    Raises
    ------
    ValueError
        If no voxel lies outside.
    """
    outside, count = _outside(volume.shape[0], float(radius))
    if not count:
        raise ValueError("the sphere fills the box")
    flat = volume.reshape(-1)
    level = float(flat @ outside) / count
    # A second round takes away what single precision left of a large mean.
    level += float((flat - np.float32(level)) @ outside) / count
    flat = flat - np.float32(level)
    sd = float(np.sqrt((flat * flat) @ outside / count))
    if not sd > 0:
        return 0.0
    volume -= np.float32(level)
    volume *= np.float32(1 / sd)
    return 1 / sd


def normalise_volumes(volumes: Array, radius: float, backend: Backend) -> None:
    """Bring what lies outside a sphere to mean 0 and standard deviation 1, a batch at a time, on a device.

    Parameters
    ----------
    volumes : ndarray `(N, n, n, n)` float32
        On the device; changed in place. Those without contrast outside the sphere are left as they are.
    radius : float
        Voxels.
    backend : Backend

    Raises
    ------
    ValueError
        If no voxel lies outside.
    """
    xp, n = backend.xp, volumes.shape[-1]
    outside, count = _outside(n, float(radius))
    if not count:
        raise ValueError("the sphere fills the box")
    share = backend.to_device(outside / np.float32(count))
    flat = volumes.reshape(len(volumes), -1)
    level = flat @ share
    # A second round takes away what single precision left of a large mean.
    level += (flat - level[:, None]) @ share
    rest = flat - level[:, None]
    rest *= rest
    sd = xp.sqrt(rest @ share)
    good = sd > 0
    volumes -= xp.where(good, level, 0).astype(np.float32).reshape(-1, 1, 1, 1)
    volumes /= xp.where(good, sd, 1).astype(np.float32).reshape(-1, 1, 1, 1)


@lru_cache(maxsize=4)
def _outside(side: int, radius: float) -> Tuple[np.ndarray, int]:
    """1 for the voxels beyond a sphere, as a flat array, and their number."""
    outside = 1 - sphere(side, radius).reshape(-1)
    return outside, int(outside.sum(dtype=np.float64))
