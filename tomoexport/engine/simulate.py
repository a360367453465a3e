"""Tilt series of known particles: every projection in closed form, so that nothing is assumed of the reconstruction."""

from dataclasses import dataclass
from typing import Any, Callable, Optional, Tuple, cast

import numpy as np
import scipy.fft

from .ctf import Ctf, Optics, alias_free_box, frequency_grid
from .fourier import fast_even
from .geometry import TiltSeriesGeometry
from .phantom import Phantom
from .poses import matrix_from_zyz


@dataclass(frozen=True, eq=False)
class SimulatedSeries:
    """One tilt series with its truth.

    Attributes
    ----------
    geometry : TiltSeriesGeometry
    ctf : Ctf
    position : ndarray `(N, 3)`
        Angstrom from the tomogram centre.
    angles : ndarray `(N, 3)`
        Degrees: rot, tilt, psi.
    """

    geometry: TiltSeriesGeometry
    ctf: Ctf
    position: np.ndarray
    angles: np.ndarray


def dose_decay(dose: float, k: np.ndarray) -> np.ndarray:
    """What radiation leaves of the signal, as an amplitude.

    Parameters
    ----------
    dose : float
        Electrons per square angstrom.
    k : ndarray
        1/A.

    Returns
    -------
    ndarray
        Shape of `k`.

    Notes
    -----
    Grant and Grigorieff, eLife 4 (2015) e06980: ``exp(-dose / (2 (0.245 k^-1.665 + 2.81)))``.
    """
    return np.exp(-0.5 * dose / (0.245 * np.maximum(k, 1e-6) ** -1.665 + 2.81))


def dose_symmetric_order(tilt: np.ndarray) -> np.ndarray:
    """Order of acquisition of a dose-symmetric scheme: by distance from the angle nearest 0.

    Parameters
    ----------
    tilt : ndarray `(T,)`
        Degrees.

    Returns
    -------
    ndarray `(T,)` of int
        0 for the tilt that was taken first.
    """
    return np.lexsort((tilt, np.round(np.abs(tilt), 3))).argsort()


def make_series(ts_id: str, image_shape: Tuple[int, int], pixel_size: float, thickness: float, n_tilts: int,
                n_particles: int, rng: np.random.Generator, diameter: float, hand: int = -1, xtilt: float = 0.0,
                axis: float = 85.0, step: float = 3.0, dose_per_tilt: float = 3.0, defocus: float = 30000.0,
                astigmatism: float = 600.0, optics: Optional[Optics] = None) -> SimulatedSeries:
    """Draw a geometry, a CTF and particle poses.

    Parameters
    ----------
    ts_id : str
    image_shape : (int, int)
        Height and width, pixels.
    pixel_size, thickness : float
        Angstrom.
    n_tilts, n_particles : int
    rng : numpy.random.Generator
    diameter : float
        Angstrom: particles keep this distance from one another and from the edges.
    hand : int
    xtilt, axis, step : float
        Degrees.
    dose_per_tilt : float
        Electrons per square angstrom.
    defocus, astigmatism : float
        Angstrom: mean, and difference of the two defoci.
    optics : Optics, optional

    Returns
    -------
    SimulatedSeries
    """
    tilt = (np.arange(n_tilts) - n_tilts // 2) * step
    order = dose_symmetric_order(tilt)
    tilt = tilt + rng.normal(0, 0.03, n_tilts)
    swap = 45 < abs(axis) % 180 < 135
    h, w = image_shape
    across, along = (h, w) if swap else (w, h)
    size = cast(Tuple[float, float, float],
                tuple(2 * int(s // 2) * pixel_size for s in (across, along, thickness / pixel_size)))
    geometry = TiltSeriesGeometry(
        ts_id, image_shape, pixel_size, tilt, axis + rng.normal(0, 0.1, n_tilts),
        rng.normal(0, 4 * pixel_size, (n_tilts, 2)), order * dose_per_tilt, size, hand, order,
        xtilt=np.full(n_tilts, xtilt))
    centre = defocus + rng.normal(0, 250, n_tilts)
    ctf = Ctf(optics or Optics(), centre + astigmatism / 2, centre - astigmatism / 2,
              35.0 + rng.normal(0, 2, n_tilts), scale=geometry.rotation[:, 2, 2])
    return SimulatedSeries(geometry, ctf, *_scatter(n_particles, np.array(size), diameter, rng))


def _scatter(n: int, size: np.ndarray, diameter: float, rng: np.random.Generator) -> Tuple[np.ndarray, np.ndarray]:
    """Positions apart from one another and from the faces, and random orientations."""
    margin = np.array([0.75, 0.75, 0.55]) * diameter
    room = np.maximum(size / 2 - margin, 0)
    position = np.zeros((0, 3))
    distance = 1.1 * diameter
    for attempt in range(200 * max(n, 1)):
        if len(position) == n:
            break
        point = rng.uniform(-room, room)
        if not len(position) or np.linalg.norm(position - point, axis=1).min() > distance:
            position = np.vstack([position, point])
        elif attempt % 50 == 49:
            distance *= 0.95  # a crowded specimen
    angles = np.stack([rng.uniform(-180, 180, n), np.rad2deg(np.arccos(rng.uniform(-1, 1, n))),
                       rng.uniform(-180, 180, n)], -1)
    return position, angles


def project_tilt(series: SimulatedSeries, phantom: Phantom, t: int, decay: bool = True) -> np.ndarray:
    """Noise-free image of one tilt: density times CTF, particles dark.

    Parameters
    ----------
    series : SimulatedSeries
    phantom : Phantom
    t : int
        Index of the tilt.
    decay : bool
        Apply `dose_decay`.

    Returns
    -------
    ndarray `(h, w)` float32
    """
    g = series.geometry
    h, w = g.image_shape
    p = g.pixel_size
    box = alias_free_box(series.ctf.select([t]), p, phantom.diameter, np.linalg.norm(g.volume_size) / 2)
    box = fast_even(min(box, 2 * max(h, w)))
    kx, ky = frequency_grid((box, box), p)
    one = g.select([t])
    found = one.project(series.position)
    blobs = np.einsum("nij,bj->nbi", matrix_from_zyz(*series.angles.T), phantom.centre)
    offset = np.einsum("ij,nbj->nbi", one.matrix[0], blobs)
    image = np.zeros((h + 2 * box, w + 2 * box), np.float32)
    weight = dose_decay(g.dose[t], np.sqrt(kx ** 2 + ky ** 2)) if decay else 1.0
    for n in range(len(series.position)):
        px = found.xy[n, 0] / p + np.array([w // 2, h // 2])
        corner = np.floor(px).astype(int) - box // 2
        # Phase 0 is pixel 0 of the patch; the particle goes to box//2 plus what is left of a pixel.
        local = offset[n] + (px - corner) * p
        transform = phantom.projection_transform(local, kx, ky)
        transform = transform * (-weight * series.ctf.select([t]).values(kx, ky, g.defocus_shift(found.depth[n, 0]))[0])
        patch = scipy.fft.irfft2(transform.astype(np.complex64), s=(box, box))
        y, x = np.clip(corner[1] + box, 0, h + box), np.clip(corner[0] + box, 0, w + box)
        if (y, x) == (corner[1] + box, corner[0] + box):  # else the particle lies outside the image
            image[y:y + box, x:x + box] += patch
    return image[box:box + h, box:box + w]


def simulate_series(series: SimulatedSeries, phantom: Phantom, noise: float, rng: np.random.Generator,
                    progress: Optional[Callable[[], Any]] = None) -> Tuple[np.ndarray, float]:
    """Images of a series, with white noise.

    Parameters
    ----------
    series : SimulatedSeries
    phantom : Phantom
    noise : float
        Standard deviation of the noise in units of that of the whole series' signal.
    rng : numpy.random.Generator
    progress : callable, optional
        Called after each image.

    Returns
    -------
    images : ndarray `(T, h, w)` float32
    sd : float
        Standard deviation of the signal.
    """
    images: Any = []
    for t in range(series.geometry.n_tilts):
        images.append(project_tilt(series, phantom, t))
        if progress:
            progress()
    images = np.stack(images)
    sd = float(images.std(dtype=np.float64)) if len(series.position) else 1.0
    images += (noise * sd) * rng.standard_normal(images.shape, dtype=np.float32)
    return images, sd
