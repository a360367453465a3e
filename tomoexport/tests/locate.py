"""Where a known particle is in a map: cross-correlation with sub-voxel peak."""

import numpy as np

from tomoexport.engine.phantom import Phantom
from tomoexport.engine.poses import matrix_from_zyz


def turned(phantom, angles):
    """The phantom in an orientation (rot, tilt, psi), degrees."""
    return Phantom(phantom.centre @ matrix_from_zyz(*angles).T, phantom.sigma, phantom.weight)


def peak(a, b):
    """Shift `(3,)` xyz in voxels by which `a` lies from `b`: both cubes, found within a hundredth of a voxel."""
    spectrum = np.fft.fftn(a) * np.conj(np.fft.fftn(b))
    n = len(a)
    k = np.fft.fftfreq(n)
    coarse = np.array(np.unravel_index(np.fft.ifftn(spectrum).real.argmax(), a.shape), float)
    best = np.where(coarse > n // 2, coarse - n, coarse)
    for step in (0.25, 0.05, 0.01):
        offsets = np.arange(-5, 6) * step
        waves = [np.exp(2j * np.pi * np.outer(best[i] + offsets, k)) for i in range(3)]
        value = np.einsum("az,by,cx,zyx->abc", *waves, spectrum, optimize=True).real
        best = best + offsets[list(np.unravel_index(value.argmax(), value.shape))]
    return best[::-1]


def within(shape, pixel_size, centre, positions, box):
    """Which particles' boxes lie in a tomogram: `(N,)` of bool; arguments as of `displacements`."""
    corner = _corners(pixel_size, centre, positions, box)
    return (corner >= 0).all(axis=1) & (corner + box <= np.array(shape)).all(axis=1)


def _corners(pixel_size, centre, positions, box):
    """First voxels of the particles' boxes `(N, 3)`, zyx."""
    return np.round((np.asarray(positions) / pixel_size + centre)[:, ::-1]).astype(int) - box // 2


def displacements(tomogram, pixel_size, centre, positions, angles, phantom, box=32):
    """How far particles lie from where they should, voxels.

    Parameters
    ----------
    tomogram : ndarray `(nz, ny, nx)`
    pixel_size : float
        Angstrom.
    centre : sequence of 3 float
        Tomogram centre, voxels xyz.
    positions : ndarray `(N, 3)`
        Angstrom from the tomogram centre.
    angles : ndarray `(N, 3)`
    phantom : Phantom
    box : int
        Particles whose box leaves the tomogram are passed over.

    Returns
    -------
    ndarray `(M, 3)`
        xyz.
    """
    out = []
    inside = within(tomogram.shape, pixel_size, centre, positions, box)
    corners = _corners(pixel_size, centre, positions, box)
    for position, angle, corner in zip(positions[inside], angles[inside], corners[inside]):
        voxel = (position / pixel_size + centre)[::-1]
        window = tomogram[tuple(slice(c, c + box) for c in corner)]
        # The phantom goes where the truth is within the window, so that the peak is at 0 if all is right.
        left = (voxel - corner - box // 2)[::-1] * pixel_size
        known = turned(phantom, angle)
        known = Phantom(known.centre + left, known.sigma, known.weight).volume(box, pixel_size)
        out.append(peak(window - window.mean(), known - known.mean()))
    return np.array(out)
