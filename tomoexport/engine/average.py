"""CTF-weighted average of sub-tomograms in the frame of the reference."""

from typing import Optional

import numpy as np
import scipy.fft
import scipy.ndimage

from .fourier import centre_crop, shell_correlation, sphere

PADDING = 2
FLOOR = 1e-3  # of the mean of the shell: smallest divisor


class Accumulator:
    """Sums over particles of ``C V`` and ``C^2``, V the volume and C its 3D CTF, both turned to the reference frame.

    Parameters
    ----------
    box : int
        Voxels, even.
    """

    def __init__(self, box: int) -> None:
        self.box, self.count = box, 0
        self.padded = PADDING * box
        half = self.padded // 2 + 1
        self.data = np.zeros((self.padded, self.padded, half), np.complex128)
        self.weight = np.zeros(self.data.shape)
        k = np.fft.fftfreq(self.padded, 1 / self.padded)
        z, y, x = np.meshgrid(k, k, np.arange(half), indexing="ij")
        self.inside = x ** 2 + y ** 2 + z ** 2 < (self.padded // 2 - 1) ** 2
        self.k = np.stack([x[self.inside], y[self.inside], z[self.inside]])
        axis = (np.arange(box) - box // 2) / self.padded
        r = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis ** 2)
        self.gridding = 1 / np.sinc(r) ** 2

    def add(self, volume: np.ndarray, transfer: np.ndarray, rotation: np.ndarray) -> None:
        """Add one particle.

        Parameters
        ----------
        volume : ndarray `(box, box, box)`
            Particle at voxel box//2.
        transfer : ndarray `(box, box, box//2+1)`
            3D CTF, FFT order.
        rotation : ndarray `(3, 3)`
            Takes the reference frame to that of the volume.
        """
        # Dividing by sinc^2 beforehand undoes the linear interpolation of the transform that follows.
        data = self._transform(np.asarray(volume, np.float32) * self.gridding)
        psf = scipy.fft.fftshift(scipy.fft.irfftn(np.asarray(transfer, np.float32), s=(self.box,) * 3))
        ctf = self._transform(psf * self.gridding).real
        k = rotation @ self.k
        mirrored = k[0] < 0
        k = np.where(mirrored, -k, k)
        half = self.padded // 2
        where = np.stack([k[2] + half, k[1] + half, k[0]])
        c = scipy.ndimage.map_coordinates(ctf, where, order=1, mode="nearest")
        v = (scipy.ndimage.map_coordinates(data.real, where, order=1, mode="nearest")
             + 1j * np.where(mirrored, -1, 1) * scipy.ndimage.map_coordinates(data.imag, where, order=1,
                                                                            mode="nearest"))
        self.data[self.inside] += v * c
        self.weight[self.inside] += c * c
        self.count += 1

    def _transform(self, volume: np.ndarray) -> np.ndarray:
        """Transform about the centre, padded; rows and sections centred, so that it can be interpolated."""
        big = np.zeros((self.padded,) * 3, np.float32)
        start = (self.padded - self.box) // 2
        big[start:start + self.box, start:start + self.box, start:start + self.box] = volume
        return scipy.fft.fftshift(scipy.fft.rfftn(scipy.fft.ifftshift(big)), axes=(0, 1))

    def merged(self, other: "Accumulator") -> "Accumulator":
        """Join two accumulators of the same box.

        Parameters
        ----------
        other : Accumulator

        Returns
        -------
        Accumulator
            With the particles of both.
        """
        out = Accumulator.__new__(Accumulator)
        out.__dict__.update(self.__dict__)
        out.data, out.weight = self.data + other.data, self.weight + other.weight
        out.count = self.count + other.count
        return out

    def map(self) -> np.ndarray:
        """The average, ``sum C V / sum C^2``.

        Returns
        -------
        ndarray `(box, box, box)` float32

        Notes
        -----
        Where the weight is far below the mean of its shell the divisor is held at a thousandth of it.
        """
        shell = np.rint(np.sqrt((self.k ** 2).sum(0))).astype(int)
        weight = self.weight[self.inside]
        divisor = held(weight, shell)
        out = np.zeros(self.data.shape, np.complex64)
        np.divide(self.data[self.inside], divisor, out=(value := np.zeros(len(shell), np.complex128)),
                  where=divisor > 0)
        out[self.inside] = value
        real = scipy.fft.fftshift(scipy.fft.irfftn(out, s=(self.padded,) * 3))
        return np.ascontiguousarray(centre_crop(real, self.box, (0, 1, 2))).astype(np.float32)


def held(weight: np.ndarray, shell: np.ndarray) -> np.ndarray:
    """Weights as divisors: nowhere far below the mean of their shell.

    Parameters
    ----------
    weight : ndarray
        Never negative.
    shell : ndarray of int
        Of each, alike in shape.

    Returns
    -------
    ndarray
        At least a thousandth of the shell's mean.
    """
    flat = shell.ravel()
    mean = np.bincount(flat, weight.ravel()) / np.maximum(np.bincount(flat), 1)
    return np.maximum(weight, FLOOR * mean[shell])


def fsc(a: np.ndarray, b: np.ndarray, radius: Optional[float] = None, edge: float = 4.0) -> np.ndarray:
    """Fourier shell correlation of two maps inside a soft sphere.

    Parameters
    ----------
    a, b : ndarray `(n, n, n)`
    radius : float, optional
        Voxels; none takes 0.4 n.
    edge : float
        Voxels.

    Returns
    -------
    ndarray `(n//2 + 1,)`

    Notes
    -----
    Harauz and van Heel, Optik 73 (1986) 146.
    """
    n = a.shape[0]
    mask = sphere(n, 0.4 * n if radius is None else radius, edge)
    centred = [(m - (m * mask).sum() / mask.sum()) * mask for m in (a, b)]
    return shell_correlation(*centred)


def resolution(curve: np.ndarray, box: int, pixel_size: float, threshold: float) -> float:
    """Where an FSC curve first falls below a threshold.

    Parameters
    ----------
    curve : ndarray `(box//2 + 1,)`
        FSC of shells 0 to box//2.
    box : int
        Voxels.
    pixel_size : float
        Angstrom.
    threshold : float
        0.143 for half maps (Rosenthal and Henderson, J. Mol. Biol. 333 (2003) 721), 0.5 against a known map.

    Returns
    -------
    float
        Angstrom; twice the pixel size if it never does.
    """
    below = np.flatnonzero(curve[1:] < threshold)
    if not len(below):
        return 2 * pixel_size
    i = below[0] + 1
    if i == 1:
        return float(box * pixel_size)
    part = (curve[i - 1] - threshold) / (curve[i - 1] - curve[i])
    return float(box * pixel_size / (i - 1 + part))
