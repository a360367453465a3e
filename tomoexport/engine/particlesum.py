"""The map of a particle straight from the tilt images of many: sums of slices, their symmetry and their division.

Windows multiplied by CTF and dose weight, as `pseudosubtomo.windows` gives them, enter one Fourier grid for all
particles by trilinear interpolation, turned by their orientations, beside the squares of the factors.  Both sums add up
over tilt series and obey symmetries; the first, freed from the interpolation's envelope, is divided by the second.  The
order of things is RELION 5's, whose maps come out.
"""

from typing import Optional, Tuple

import ducc0.nufft
import numpy as np
import scipy.fft

from .arrays import Array
from .average import held
from .backend import Backend
from .fourier import centre_crop, centre_phase, sphere
from .kernels import implementation
from .pseudosubtomo import PseudosubtomoSetup, windows

ACCURACY = 1e-5  # of turned transforms
SAMPLES = 2_000_000  # of slices in one call, about
AT_ONCE = 4  # orientations that are sampled together
TAPER = 10.0  # voxels from the map to nothing


def batch(n_tilts: int, box: int) -> int:
    """Particles of one call of `sum_particles`, so that emptying and folding a grid take little of its time.

    Parameters
    ----------
    n_tilts, box : int

    Returns
    -------
    int
    """
    return SAMPLES // (n_tilts * box * (box // 2 + 1)) + 1


def sum_particles(stack: Array, plan: PseudosubtomoSetup, position_px: np.ndarray, depth: np.ndarray,
                  matrix: np.ndarray, visible: np.ndarray, backend: Backend) -> Tuple[np.ndarray, np.ndarray]:
    """Add up N particles.

    Parameters
    ----------
    stack, plan, position_px, depth, visible, backend
        As `pseudosubtomo.extract_stacks`.
    matrix : ndarray `(N, T, 2, 3)`
        Image displacement of a displacement in the frame of the particle.

    Returns
    -------
    data : ndarray `(box, box, box//2+1)` complex64
        Sum of the slices, FFT order; on the host.
    weight : ndarray `(box, box, box//2+1)` float32
        Sum of the squares of what they were multiplied by, never negative.
    """
    b, put, kernels = plan.box, backend.to_device, implementation(backend)
    data, weight = windows(stack, plan, position_px, depth, visible, backend)
    data *= put(centre_phase(b).astype(np.float32))
    cells = np.swapaxes(np.asarray(matrix, np.float64), -1, -2).reshape(1, -1, 3, 2)
    limit, shape = np.tile(plan.limit, len(data)), (1, -1) + data.shape[2:]
    grids = kernels.insert_linear(data.reshape(shape), weight.reshape(shape), put(np.ascontiguousarray(cells)),
                                  put(limit), b)
    data, weight, _ = kernels.fold_linear(grids, b)
    return backend.to_host(data)[0], backend.to_host(weight)[0]


def as_map(data: np.ndarray) -> np.ndarray:
    """Sum of slices as a map, freed from the envelope of trilinear interpolation.

    Parameters
    ----------
    data : ndarray `(box, box, box//2+1)` complex
        Of `sum_particles`.

    Returns
    -------
    ndarray `(box, box, box)` float32
        Centre at voxel box//2.
    """
    b = len(data)
    line = np.sinc((np.arange(b) - b // 2) / b) ** 2
    return (scipy.fft.irfftn(data, s=(b, b, b)) / (line[:, None, None] * line[:, None] * line)).astype(np.float32)


def symmetrised(data: np.ndarray, weight: np.ndarray, rotations: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Add up the sums in all orientations of a point group.

    Parameters
    ----------
    data : ndarray `(box, box, box)`
        As `as_map` gives it.
    weight : ndarray `(box, box, box//2+1)`
        Of `sum_particles`.
    rotations : ndarray `(G, 3, 3)`
        Of the group, the identity first.

    Returns
    -------
    data, weight : ndarray
        As given; 0 outside the sphere of Nyquist's frequency where there is more than the identity.

    Notes
    -----
    Both are sampled at turned frequencies by transforms for uneven points, to a relative 1e-5: interpolating them would
    blur what lies off the centre.
    """
    if len(rotations) == 1:
        return data, weight
    n = len(data)
    q = np.fft.fftfreq(n, 1 / n)
    k = np.stack(np.meshgrid(q, q, np.arange(n // 2 + 1), indexing="ij"), -1)  # zyx
    inside = (k ** 2).sum(-1) < 0.25 * n * n
    points = k[inside]
    maps = [np.asarray(m, np.complex64) for m in (data, scipy.fft.fftshift(scipy.fft.irfftn(weight, s=(n, n, n))))]
    sums = [np.zeros(len(points), np.complex128) for _ in maps]
    for first in range(0, len(rotations), AT_ONCE):
        some = rotations[first:first + AT_ONCE]
        turned = np.concatenate([points @ r[::-1, ::-1].T for r in some]).astype(np.float32) * np.float32(2 * np.pi / n)
        for total, volume in zip(sums, maps):
            found = ducc0.nufft.u2nu(grid=volume, coord=turned, forward=True, epsilon=ACCURACY, nthreads=0)
            total += found.reshape(len(some), -1).sum(axis=0)
    out = [np.zeros(inside.shape, np.complex128) for _ in maps]
    for place, total in zip(out, sums):
        place[inside] = total
    # Sampling may leave a little below 0 where there is nothing.
    return scipy.fft.fftshift(scipy.fft.irfftn(out[0], s=(n, n, n))), np.maximum(out[1].real, 0)


def divided(data: np.ndarray, weight: np.ndarray, crop: Optional[int] = None) -> np.ndarray:
    """The map, sum of slices over sum of weights.

    Parameters
    ----------
    data : ndarray `(box, box, box)`
        As `as_map` or `symmetrised` gives it.
    weight : ndarray `(box, box, box//2+1)`
        Of `sum_particles` or `symmetrised`.
    crop : int, optional
        Side of the map, even; that of the box by default.

    Returns
    -------
    ndarray `(crop, crop, crop)` float32
        Centre at voxel crop//2. Its mean within a soft sphere is 0, and it falls to 0 over the last ten voxels.

    Notes
    -----
    Where the weight is far below the mean of its shell the divisor is held at a thousandth of it. The map has nothing
    beyond the sphere of Nyquist's frequency.
    """
    n = len(data)
    q = np.fft.fftfreq(n, 1 / n)
    radius = np.sqrt(q[:, None, None] ** 2 + q[:, None] ** 2 + np.arange(n // 2 + 1) ** 2)
    divisor = held(weight, np.rint(radius).astype(int))
    transform = scipy.fft.rfftn(scipy.fft.ifftshift(np.asarray(data, np.float64)))
    out = np.zeros_like(transform)
    np.divide(transform, divisor, out=out, where=(divisor > 0) & (radius < n / 2))
    volume = centre_crop(scipy.fft.fftshift(scipy.fft.irfftn(out, s=(n, n, n))), crop or n, (0, 1, 2))
    mask = sphere(len(volume), max(len(volume) / 2 - TAPER, 0), TAPER)
    return ((volume - (volume * mask).sum() / mask.sum()) * mask).astype(np.float32)
