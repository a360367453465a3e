"""How like the phantom a map is, and how like its mirror images."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from tomoexport.engine.fourier import sphere

_MIRRORS = (np.diag([-1.0, 1, 1]), np.diag([1.0, -1, 1]), np.diag([1.0, 1, -1]), -np.eye(3))


def correlation(volume, phantom, pixel_size):
    """Correlation of a map with a phantom, inside the phantom's sphere.

    Parameters
    ----------
    volume : ndarray `(n, n, n)`
        Its origin is voxel n//2.
    phantom : Phantom
    pixel_size : float
        Angstrom.

    Returns
    -------
    float
    """
    known = phantom.volume(len(volume), pixel_size)
    inside = sphere(len(volume), phantom.diameter / 2 / pixel_size, dtype=bool).astype(bool)
    return float(np.corrcoef(volume[inside], known[inside])[0, 1])


@lru_cache(maxsize=1)
def mirrored(phantom):
    """The phantom's mirror images: through each plane of the axes, through the origin, and as it fits itself best.

    Parameters
    ----------
    phantom : Phantom

    Returns
    -------
    list of Phantom
    """
    centre = phantom.centre
    variance = phantom.sigma[:, None] ** 2 + phantom.sigma ** 2
    weight = np.outer(phantom.weight, phantom.weight) / variance ** 1.5

    def overlap(rotation):
        """Integral of the phantom times its mirror image, in that orientation: Gaussians have it in closed form."""
        apart = ((centre[:, None] + rotation.apply(centre)) ** 2).sum(axis=-1)
        return (weight * np.exp(-apart / (2 * variance))).sum()

    turns = Rotation.from_quat(np.random.default_rng(5).normal(size=(3000, 4)))
    starts = sorted(turns, key=overlap)[-10:]
    found = [minimize(lambda x, start=start: -overlap(Rotation.from_rotvec(x) * start), np.zeros(3),
                      method="Nelder-Mead") for start in starts]
    best, start = min(zip(found, starts), key=lambda pair: pair[0].fun)
    closest = -(Rotation.from_rotvec(best.x) * start).as_matrix()
    return [replace(phantom, centre=centre @ matrix.T) for matrix in _MIRRORS + (closest,)]


def likeness(volume, phantom, pixel_size):
    """Correlation of a map with the phantom, and the best with what a wrong sign would make of it.

    Parameters
    ----------
    volume : ndarray `(n, n, n)`
    phantom : Phantom
    pixel_size : float
        Angstrom.

    Returns
    -------
    right, wrong : float
        With the phantom; the largest with it inverted, mirrored, or both.
    """
    right = correlation(volume, phantom, pixel_size)
    others = [correlation(volume, mirror, pixel_size) for mirror in mirrored(phantom)]
    return right, max([-right] + [abs(value) for value in others])
