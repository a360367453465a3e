"""A particle whose true shape is known in closed form: a chiral, asymmetric heap of Gaussian blobs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft


@dataclass(frozen=True, eq=False)
class Phantom:
    """Gaussian blobs.

    Attributes
    ----------
    centre : ndarray `(B, 3)`
        Angstrom, xyz in the particle's frame.
    sigma : ndarray `(B,)`
        Angstrom.
    weight : ndarray `(B,)`
        Integral of each blob.
    """

    centre: np.ndarray
    sigma: np.ndarray
    weight: np.ndarray

    @property
    def diameter(self) -> float:
        """Angstrom: twice the largest distance at which a blob still counts."""
        return float(2 * (np.linalg.norm(self.centre, axis=1) + 2.5 * self.sigma).max())

    def volume(self, box: int, pixel_size: float) -> np.ndarray:
        """Density sampled on a grid.

        Parameters
        ----------
        box : int
            Voxels; the particle's origin is voxel box//2.
        pixel_size : float
            Angstrom.

        Returns
        -------
        ndarray `(box, box, box)` float32
            Integral over each voxel's volume of the band-limited density, zyx.
        """
        k = np.fft.fftfreq(box, pixel_size)
        kx = np.fft.rfftfreq(box, pixel_size)
        transform = np.zeros((box, box, box // 2 + 1), np.complex64)
        for c, s, w in zip(self.centre, self.sigma, self.weight):
            # A Gaussian is separable, in Fourier space too.
            gz, gy, gx = (np.exp(-2 * (np.pi * s * f) ** 2 - 2j * np.pi * f * x).astype(np.complex64)
                          for f, x in ((k, c[2]), (k, c[1]), (kx, c[0])))
            transform += np.complex64(w) * gz[:, None, None] * gy[:, None] * gx
        return scipy.fft.fftshift(scipy.fft.irfftn(transform, s=(box,) * 3)).astype(np.float32)

    def projection_transform(self, centre: np.ndarray, kx: np.ndarray, ky: np.ndarray) -> np.ndarray:
        """Transform of the projection along the beam.

        Parameters
        ----------
        centre : ndarray `(..., B, 2)`
            Angstrom: where each blob is seen, from the point of phase 0.
        kx, ky : ndarray
            1/A, as `ctf.frequency_grid` gives them.

        Returns
        -------
        ndarray `(..., h, w//2+1)` complex64
        """
        out: Any = 0
        for b in range(len(self.sigma)):
            x, y = centre[..., b, 0, None, None], centre[..., b, 1, None, None]
            damp = 2 * (np.pi * self.sigma[b]) ** 2
            gx = np.exp(-damp * kx ** 2 - 2j * np.pi * kx * x).astype(np.complex64)
            gy = np.exp(-damp * ky ** 2 - 2j * np.pi * ky * y).astype(np.complex64)
            out = out + np.complex64(self.weight[b]) * gy * gx
        return out


def chiral_phantom(diameter: float = 170.0, blobs: int = 28, seed: int = 7) -> Phantom:
    """Make a phantom that differs from its mirror image and from itself turned.

    Parameters
    ----------
    diameter : float
        Angstrom, about.
    blobs : int
        Number of Gaussians.
    seed : int
        Of the random sizes and offsets.

    Returns
    -------
    Phantom
        Its centre of mass is at the origin.
    """
    rng = np.random.default_rng(seed)
    s = np.linspace(0, 1, blobs)
    radius = diameter / 2 * (0.25 + 0.5 * s)
    turn = 2 * np.pi * 1.6 * s  # a right-handed conical spiral
    centre = np.stack([radius * np.cos(turn), radius * np.sin(turn), diameter * 0.7 * (s - 0.5)], -1)
    centre += rng.normal(0, diameter * 0.02, centre.shape)
    sigma = diameter * rng.uniform(0.022, 0.055, blobs)
    weight = rng.uniform(0.5, 1.5, blobs)
    centre -= (centre * weight[:, None]).sum(0) / weight.sum()
    return Phantom(centre, sigma, weight)
