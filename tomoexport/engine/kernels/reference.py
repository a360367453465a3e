"""The kernels in plain NumPy: slow, and meant to be read. The other two must agree with this file."""

from typing import Any, Iterator, List, Sequence, Tuple

import numpy as np

from . import HALO, WIENER_NOISE


def crop(stack: np.ndarray, origin: np.ndarray, size: int) -> np.ndarray:
    """Cut windows out of tilt images; what lies outside an image is 0.

    Parameters
    ----------
    stack : ndarray `(T, h, w)` float32
    origin : ndarray `(N, T, 2)` int32
        First pixel of each window, yx; may lie outside.
    size : int
        Side of the windows.

    Returns
    -------
    ndarray `(N, T, size, size)` float32
    """
    n, t = origin.shape[:2]
    h, w = stack.shape[1:]
    out = np.zeros((n, t, size, size), np.float32)
    for i in range(n):
        for j in range(t):
            y, x = (int(v) for v in origin[i, j])
            y0, y1, x0, x1 = max(y, 0), min(y + size, h), max(x, 0), min(x + size, w)
            if y1 > y0 and x1 > x0:
                out[i, j, y0 - y:y1 - y, x0 - x:x1 - x] = stack[j, y0:y1, x0:x1]
    return out


def modulate(data: np.ndarray, phase: np.ndarray, slope: np.ndarray, depth: np.ndarray, shift: np.ndarray,
             envelope: np.ndarray, visible: np.ndarray, mode: int) -> np.ndarray:
    """Apply CTF, envelope and sub-pixel shift to the transforms of windows.

    Parameters
    ----------
    data : ndarray `(N, T, S, S//2+1)` complex64
        rfft2 of the windows; changed in place.
    phase : ndarray `(T, S, S//2+1)` float32
        CTF phase of each tilt at its own defocus, cycles, reduced to -1/2..1/2.
    slope : ndarray `(S, S//2+1)` float32
        Change of the phase per angstrom of defocus, cycles.
    depth : ndarray `(N, T)` float32
        Angstrom added to the defocus.
    shift : ndarray `(N, T, 2)` float32
        Pixels, yx: the point that shall come to rest on the window's centre, from that centre.
    envelope : ndarray `(T, S, S//2+1)` float32
        Weight of each tilt.
    visible : ndarray `(N, T)` bool
        Tilts that show the particle; the others become 0.
    mode : int
        `CTF_MODES`: f(c) is the sign of the CTF c, or c, or 1 (then c is 1 too).

    Returns
    -------
    ndarray `(N, T, S, S//2+1)` float32
        Transfer of the operation, ``envelope c f(c)``; the data are multiplied by ``envelope f(c)``. Where f(c) is c,
        the envelope belongs to the CTF: the transfer is ``(envelope c)^2``.
    """
    s = data.shape[2]
    ky, kx = np.fft.fftfreq(s)[:, None], np.arange(s // 2 + 1) / s
    cycles = phase.astype(np.float64) + depth[..., None, None].astype(np.float64) * slope
    ctf = -np.sin(2 * np.pi * cycles) if mode != 2 else np.ones_like(cycles)
    factor = {0: np.where(ctf < 0, -1.0, 1.0), 1: ctf, 2: np.ones_like(ctf)}[mode]
    factor = factor * envelope * visible[..., None, None]
    turn = ky * shift[..., 0, None, None] + kx * shift[..., 1, None, None]
    data *= (factor * np.exp(2j * np.pi * turn)).astype(np.complex64)
    return (factor * (factor if mode == 1 else ctf)).astype(np.float32)


def modulate_parts(data: np.ndarray, phase: np.ndarray, slope: np.ndarray, depth: np.ndarray, shift: np.ndarray,
                   envelope: np.ndarray, visible: np.ndarray, mode: int) -> np.ndarray:
    """As `modulate`, split into what is even and what is odd along y, with the origin on the centre of the windows.

    Parameters
    ----------
    data : ndarray `(N, T, S, S//2+1)` complex64
        rfft2 of the windows; may be changed.
    phase, slope, depth, shift, envelope, visible, mode
        As `modulate`.

    Returns
    -------
    ndarray `(2, S//2+1, 3, N, T, S//2+1)` float32
        Sum and difference of the values at ky and -ky (once where the two are the same), for ky from 0 to S//2; of
        the data's real part, the transfer, and the data's imaginary part.
    """
    s = data.shape[2]
    half = s // 2
    transfer = modulate(data, phase, slope, depth, shift, envelope, visible, mode)
    k = np.arange(s)
    centred = data * np.where((k[:, None] + k[:half + 1]) % 2, -1, 1)
    planes = np.stack([centred.real, transfer, centred.imag]).transpose(3, 0, 1, 2, 4)  # (S, 3, N, T, S//2+1)
    out = np.zeros((2, half + 1) + planes.shape[1:], np.float32)
    out[0] = planes[:half + 1]
    mate = planes[:half:-1]
    out[0, 1:half] += mate
    out[1, 1:half] = planes[1:half] - mate
    return out


def join_parts(parts: np.ndarray, sign: np.ndarray, mask: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Undo the split of `modulate_parts`, after each part has been transformed on its own.

    Parameters
    ----------
    parts : ndarray `(2, b//2+1, 3, N, T, b//2+1)` float32
        Even and odd parts, of real part, transfer and imaginary part.
    sign, mask : ndarray `(b, b//2+1)` float32
        Factors of data and transfer.

    Returns
    -------
    data : ndarray `(N, T, b, b//2+1)` complex64
    transfer : ndarray `(N, T, b, b//2+1)` float32
    """
    half = parts.shape[1] - 1
    even, odd = parts
    planes = np.concatenate([even + odd, (even - odd)[half - 1:0:-1]]).transpose(1, 2, 3, 0, 4)
    return ((planes[0] + 1j * planes[2]) * sign).astype(np.complex64), planes[1] * mask


def circle(rows: np.ndarray, total: np.ndarray, radius: float, edge: float, size: int, rolled: bool = False,
           scale: float = 1.0) -> np.ndarray:
    """Level windows by what lies outside a circle, mask them with it, and crop them.

    Parameters
    ----------
    rows : ndarray `(N, T, R, S)` float32
        The R rows about row S//2 of windows with S rows; R even, all that the circle touches.
    total : ndarray `(N, T)` float32
        Sum of all pixels of each window.
    radius, edge : float
        Pixels, from pixel S//2: 1 up to `radius - edge`, then falling as a cosine to 0 at `radius`. The mean of what
        lies beyond `radius` is subtracted first.
    size : int
        Side of the crop about pixel S//2, even.
    rolled : bool
        Bring the centre to pixel 0, so that transforms are about it.
    scale : float
        Factor on all values.

    Returns
    -------
    ndarray `(N, T, size, size)` float32
    """
    n, t, count, s = rows.shape
    axis = np.arange(s) - s // 2
    r = np.hypot(axis[:, None], axis)
    first = s // 2 - count // 2
    inside = rows[..., r[first:first + count] <= radius].sum(axis=-1, dtype=np.float64)
    mean = (total - inside) / max((r > radius).sum(), 1)
    mask = scale * (0.5 + 0.5 * np.cos(np.pi * np.clip((r - radius + edge) / edge, 0, 1)))
    out = np.zeros((n, t, s, s))
    out[:, :, first:first + count] = (rows - mean[..., None, None]) * mask[first:first + count]
    part = slice(s // 2 - size // 2, s // 2 - size // 2 + size)
    out = out[..., part, part].astype(np.float32)
    return np.roll(out, (-(size // 2),) * 2, axis=(2, 3)) if rolled else out


def insert_linear(data: np.ndarray, weight: np.ndarray, matrix: np.ndarray, limit: np.ndarray, grid: int) -> np.ndarray:
    """Scatter 2D transforms into a 3D Fourier grid by trilinear interpolation, as RELION 5 does.

    Parameters
    ----------
    data : ndarray `(N, T, B, B//2+1)` complex64
        Transforms about the window's centre.
    weight : ndarray `(N, T, B, B//2+1)` float32
        A second, real quantity that is scattered alike.
    matrix : ndarray `(N, T, 3, 2)` or `(1, T, 3, 2)` float64
        Grid cells per transform sample, xyz.
    limit : ndarray `(T,)` float64
        Samples farther than this from the zero frequency are left out; all of them if it is negative.
    grid : int
        Side of the grid, even.

    Returns
    -------
    ndarray `(N, grid+4, grid+4, grid//2+2, 4)` float32
        Real and imaginary part, weight, number of samples; the zero frequency at `[grid//2+2, grid//2+2, 0]`. Samples
        of the half-space kx < 0 enter as their mates.
    """
    n, t, b, bh = data.shape
    side, half = grid + 4, grid // 2 + 2
    out = np.zeros((n, side * side * half, 4))
    qy, qx = np.meshgrid(np.fft.fftfreq(b, 1 / b), np.arange(bh), indexing="ij")
    for i in range(n):
        for j in range(t):
            chosen = (qx ** 2 + qy ** 2 <= limit[j] * abs(limit[j])) & ~((qx == 0) & (qy < 0))
            k = matrix[min(i, len(matrix) - 1), j] @ np.stack([qx[chosen], qy[chosen]])
            value = data[i, j][chosen].astype(np.complex128)
            mirrored = k[0] < 0
            k, value = np.where(mirrored, -k, k), np.where(mirrored, value.conj(), value)
            channels = np.stack([value.real, value.imag, weight[i, j][chosen], np.ones(len(value))], -1)
            inside = (np.abs(k) < grid // 2 + 1).all(axis=0)
            k, channels = k[:, inside], channels[inside]
            lower = np.floor(k).astype(int)
            part = k - lower
            for corner in np.ndindex(2, 2, 2):
                step = np.array(corner)[:, None]
                w = np.prod(np.where(step, part, 1 - part), axis=0)
                x, y, z = lower + step + np.array([0, grid // 2 + 2, grid // 2 + 2])[:, None]
                np.add.at(out[i], (z * side + y) * half + x, channels * w[:, None])
    return out.reshape(n, side, side, half, 4).astype(np.float32)


def fold_linear(cells: np.ndarray, grid: int, share: float = 1.0) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bring the Hermitian mates on the plane kx = 0 of a trilinear Fourier grid together.

    Parameters
    ----------
    cells : ndarray `(N, grid+4, grid+4, grid//2+2, 4)` float32
        As `insert_linear` returns it. Not to be used any more afterwards.
    grid : int
        Side of the grid.
    share : float
        Factor on weight and count.

    Returns
    -------
    data : ndarray `(N, grid, grid, grid//2+1)` complex64
        FFT order, ready for irfftn, which brings the centre to voxel grid//2. Cells beyond the grid are left out.
    weight, count : ndarray `(N, grid, grid, grid//2+1)` float32
        FFT order.
    """
    half = grid // 2
    inner = cells[:, 2:-2, 2:-2, :half + 1].astype(np.float64)
    value, weight, count = inner[..., 0] + 1j * inner[..., 1], inner[..., 2], inner[..., 3]
    out = []
    for channel in (value, weight, count):
        channel = np.fft.ifftshift(channel, axes=(1, 2))
        plane = channel[..., 0].copy()
        channel[..., 0] += np.roll(plane[:, ::-1, ::-1], 1, axis=(1, 2)).conj()
        out.append(channel)
    k = np.arange(grid)
    sign = np.where((k[:, None, None] + k[:, None] + k[:half + 1]) % 2, -1, 1)
    return (out[0] * sign).astype(np.complex64), *((share * channel).astype(np.float32) for channel in out[1:])


def insert_slices(data: np.ndarray, weight: np.ndarray, matrix: np.ndarray, table: np.ndarray, grid: int) -> np.ndarray:
    """Scatter 2D transforms into a 3D Fourier grid.

    Parameters
    ----------
    data : ndarray `(N, T, B, B//2+1)` complex64
        Transforms about the window's centre (the centre voxel has phase 0).
    weight : ndarray `(N, T, B, B//2+1)` float32
        A second, real quantity that is scattered alike.
    matrix : ndarray `(N, T, 3, 2)` or `(1, T, 3, 2)` float64
        Grid cells per transform sample: ``k = matrix @ (qx, qy)``, k in xyz.
    table : ndarray `(P + 1, W)` float32
        Kernel weights of the W cells about a sample that lies p/P of a cell above its lower neighbour; linear between.
    grid : int
        Side of the grid, even.

    Returns
    -------
    ndarray `(N, grid+2h, grid+2h, grid//2+1+2h, 4)` float32
        h = `HALO`. Last axis: real and imaginary part, weight, number of samples. Each sample of the inner disc
        (|q| < B/2) enters once, the zero frequency half, all in the half-space kx >= 0; `fold_grid` adds the mates.
        Samples beyond the grid's Nyquist frequency, which magnified images have, are left out.
    """
    n, t, b, bh = data.shape
    precision, taps = table.shape[0] - 1, table.shape[1]
    side, half = grid + 2 * HALO, grid // 2 + 1 + 2 * HALO
    out = np.zeros((n, side * side * half, 4))
    qy, qx = np.meshgrid(np.fft.fftfreq(b, 1 / b), np.arange(bh), indexing="ij")
    # The half plane holds each conjugate pair once, but for the line qx = 0, of which one half is taken.
    chosen = (qx ** 2 + qy ** 2 < (b / 2) ** 2) & ~((qx == 0) & (qy < 0))
    q = np.stack([qx[chosen], qy[chosen]])
    once = np.where((q == 0).all(axis=0), 0.5, 1.0)
    for i in range(n):
        for j in range(t):
            k = matrix[min(i, len(matrix) - 1), j] @ q
            inside = (np.abs(k) < grid // 2).all(axis=0)
            k, factor = k[:, inside], once[inside]
            mirrored = k[0] < 0
            k = np.where(mirrored, -k, k)
            value = data[i, j][chosen][inside].astype(np.complex128)
            value = np.where(mirrored, value.conj(), value) * factor
            channels = np.stack([value.real, value.imag, weight[i, j][chosen][inside] * factor, factor], -1)
            lower = np.floor(k).astype(int)
            place = (k - lower) * precision
            cell = np.minimum(place.astype(int), precision - 1)
            part = (place - cell)[..., None]
            kernel = table[cell] * (1.0 - part) + table[cell + 1] * part  # (3, samples, taps)
            first = lower - (taps // 2 - 1) + np.array([HALO, HALO + grid // 2, HALO + grid // 2])[:, None]
            for z in range(taps):
                for y in range(taps):
                    for x in range(taps):
                        index = ((first[2] + z) * side + first[1] + y) * half + first[0] + x
                        w = kernel[2, :, z] * kernel[1, :, y] * kernel[0, :, x]
                        np.add.at(out[i], index, channels * w[:, None])
    return out.reshape(n, side, side, half, 4).astype(np.float32)


def fold_grid(cells: np.ndarray, grid: int) -> Tuple[np.ndarray, np.ndarray]:
    """Bring halo and Hermitian mates of a Fourier grid together.

    Parameters
    ----------
    cells : ndarray `(N, grid+2h, grid+2h, grid//2+1+2h, 4)` float32
        As `insert_slices` returns it. Not to be used any more afterwards.
    grid : int
        Side of the grid.

    Returns
    -------
    data : ndarray `(N, grid, grid, grid//2+1)` complex64
        In FFT order, ready for irfftn, which brings the centre to voxel grid//2.
    weight : ndarray `(N, grid, grid, grid//2+1)` float32
        In FFT order, the centre at voxel 0.
    """
    n = len(cells)
    axis = np.arange(-HALO - grid // 2, grid // 2 + HALO) % grid
    x = np.arange(-HALO, grid // 2 + 1 + HALO) % grid
    index = np.ravel_multi_index(np.ix_(axis, axis, x), (grid,) * 3).ravel()
    out = []
    for channel in (cells[..., 0] + 1j * cells[..., 1], cells[..., 2] + 0j):
        full = np.zeros((n, grid ** 3), np.complex128)
        for i in range(n):
            np.add.at(full[i], index, channel[i].ravel())
        full = full.reshape(n, grid, grid, grid)
        mate = np.roll(full[:, ::-1, ::-1, ::-1], 1, axis=(1, 2, 3)).conj()
        out.append((full + mate)[..., :grid // 2 + 1])
    k = np.arange(grid)
    sign = np.where((k[:, None, None] + k[:, None] + k[:grid // 2 + 1]) % 2, -1, 1)
    return (out[0] * sign).astype(np.complex64), out[1].real.astype(np.float32)


def spread_rows(rows: np.ndarray, start: np.ndarray, source: np.ndarray, factor: np.ndarray, used: int) -> np.ndarray:
    """Add rows of samples up in cells: every cell is a weighted sum of some of the rows.

    Parameters
    ----------
    rows : ndarray `(N, R, L)` float32
        C-contiguous.
    start : ndarray `(C + 1,)` int32
        Cell c has the terms `start[c]` to `start[c + 1]`.
    source : ndarray `(S,)` int32
        The row of each term.
    factor : ndarray `(S,)` float32
        What it is multiplied by.
    used : int
        Columns that are added up; the others become 0.

    Returns
    -------
    ndarray `(N, C, L)` float32
    """
    cells = len(start) - 1
    out = np.zeros((len(rows), cells, rows.shape[2]))
    cell = np.repeat(np.arange(cells), np.diff(start))
    for some, own in zip(out, rows):
        np.add.at(some[:, :used], cell, own[source, :used] * factor[:, None].astype(np.float64))
    return out.astype(np.float32)


def weigh(transform: np.ndarray, step: np.ndarray, gain_y: np.ndarray, gain_x: np.ndarray, tables: np.ndarray,
          scale: np.ndarray, direction: np.ndarray, phase: np.ndarray, depth: np.ndarray, mode: int,
          shape: Sequence[int]) -> np.ndarray:
    """Multiply the transform of a tilt image by all its filters, and lay it out for a finer image.

    Parameters
    ----------
    transform : ndarray `(h, w//2+1)` complex64
        rfft2 of the image, h and w even.
    step : ndarray `(2,)` float64
        1/A between samples of the transform, y and x.
    gain_y, gain_x : ndarray `(h,)`, `(w//2+1,)` float32
        Separable factors.
    tables : ndarray `(1 + D, N)` float32
        Factors that depend on k^2, and on the frequency's products with D directions (their sign does not matter);
        linear between entries, the last one beyond.
    scale : ndarray `(1 + D,)` float64
        Entries per unit of k^2 and of the products.
    direction : ndarray `(D, 2)` float64
        Vectors xy.
    phase : ndarray `(6,)` float64
        Of the CTF, as `ctf.Ctf.polynomial`.
    depth : ndarray `(K,)` float64
        Angstrom of defocus added, for K versions of the image.
    mode : int
        `CTF_MODES`: the sign of the CTF c, c itself, no CTF, or c / (c^2 + `WIENER_NOISE`).
    shape : (int, int)
        H and W of the finer image, even and not below h and w.

    Returns
    -------
    ndarray `(K, H, W//2+1)` complex64
        Zero beyond the frequencies of the image; its own Nyquist lines are left out.
    """
    h, wh = transform.shape
    out = np.zeros((len(depth), shape[0], shape[1] // 2 + 1), np.complex64)
    iy, ix = np.fft.fftfreq(h, 1 / h)[:, None], np.arange(wh)
    ky, kx = iy * step[0], ix * step[1]
    k2 = kx ** 2 + ky ** 2
    weight = gain_y[:, None].astype(np.float64) * gain_x
    coordinates = [k2] + [np.abs(d[0] * kx + d[1] * ky) for d in direction]
    for table, factor, coordinate in zip(tables, scale, coordinates):
        weight = weight * np.interp(coordinate * factor, np.arange(len(table)), table)
    keep = (iy > -(h // 2)) & (ix < wh - 1)
    rows = (iy.astype(int) % shape[0]).ravel()
    for version, dz in zip(out, depth):
        cycles = (phase[0] * kx ** 2 + phase[1] * kx * ky + phase[2] * ky ** 2 + phase[3] * k2 ** 2 + phase[4]
                  + dz * phase[5] * k2)
        c = -np.sin(2 * np.pi * cycles)
        factor = {0: np.where(c < 0, -1.0, 1.0), 1: c, 2: np.ones_like(c), 3: c / (c * c + WIENER_NOISE)}[mode]
        version[rows, :wh] = np.where(keep, transform * (weight * factor), 0)
    return out


def resample(images: np.ndarray, origin: np.ndarray, step: np.ndarray, table: np.ndarray,
             out: np.ndarray) -> np.ndarray:
    """Sample images on a slanted lattice.

    Parameters
    ----------
    images : ndarray `(K, h, w)` float32
        Divided by the kernel's transform beforehand.
    origin : ndarray `(2,)` float64
        Pixel yx of sample (0, 0).
    step : ndarray `(2, 2)` float64
        Pixels yx per sample: `step[:, 0]` from one u to the next, `step[:, 1]` from one v to the next.
    table : ndarray `(P + 1, 4)` float32
        Kernel weights, row p those of a sample p/P of a pixel above pixel 0; the nearest row is taken.
    out : ndarray `(K, U, V)` float32
        Filled with the samples; 0 where the kernel's 4 x 4 pixels are not all in the image.

    Returns
    -------
    ndarray `(K, U, V)` float32
        The same.
    """
    h, w = images.shape[1:]
    precision = len(table) - 1
    u, v = np.arange(out.shape[1])[:, None], np.arange(out.shape[2])
    place = [origin[i] + step[i, 0] * u + step[i, 1] * v for i in (0, 1)]
    lower = [np.floor(p).astype(int) for p in place]
    inside = (lower[0] >= 1) & (lower[0] < h - 2) & (lower[1] >= 1) & (lower[1] < w - 2)
    weights = []
    for p, low in zip(place, lower):
        weights.append(table[((p - low) * precision + 0.5).astype(int)].astype(np.float64))
    sums = np.zeros(out.shape)
    y, x = (np.where(inside, low, 1) for low in lower)
    for i in range(4):
        for j in range(4):
            sums += weights[0][..., i] * weights[1][..., j] * images[:, y + i - 1, x + j - 1]
    out[:] = sums * inside
    return out


def backproject(rows: np.ndarray, position: np.ndarray, slab: np.ndarray, group: np.ndarray, n_groups: int, nz: int,
                nx: int) -> np.ndarray:
    """Smear tilt images back along the beam, where the volume's y axis is a row of every image.

    Parameters
    ----------
    rows : ndarray `(T, K, U, Y)` float32
        Filtered images, u across the tilt axis; K versions for K slabs of depth.
    position : ndarray `(T, 3)` float64
        ``u = position @ (1, x, z)``: sample of a voxel, x and z counted from 0.
    slab : ndarray `(T, 3)` float64
        ``k = floor(slab @ (1, x, z))``, limited to 0..K-1: version for that voxel.
    group : ndarray `(T,)` int32
        Which of the volumes a tilt goes to.
    n_groups, nz, nx : int
        Number of volumes, and their extent.

    Returns
    -------
    ndarray `(n_groups, nz, Y, nx)` float32
        Sums over tilts; linear between samples, and 0 beyond the first and last.
    """
    shape = (nz, rows.shape[3], nx)
    return backproject_sheared(rows[:, :, :, None], position, np.zeros_like(position), slab, group, n_groups, shape)


def backproject_sheared(rows: np.ndarray, position: np.ndarray, offset: np.ndarray, slab: np.ndarray, group: np.ndarray,
                        n_groups: int, shape: Sequence[int]) -> np.ndarray:
    """Smear tilt images back along the beam, where the volume's y axis is a direction of every image.

    Parameters
    ----------
    rows : ndarray `(T, K, U, F, Y)` float32
        As of `backproject`, sampled F times per voxel along y: sample v is at ``[v % F, v // F]``.
    position, slab, group, n_groups
        As of `backproject`.
    offset : ndarray `(T, 3)` float64
        ``v = F y + offset @ (1, x, z)``: sample along y.
    shape : (int, int, int)
        Extent of the volumes, zyx.

    Returns
    -------
    ndarray `(n_groups, nz, ny, nx)` float32
        Sums over tilts, bilinear. Columns (x, z) of which a sample lies beyond the rows are 0.
    """
    t = len(rows)
    nz, ny, nx = shape
    out = np.zeros((n_groups,) + tuple(shape))
    for i in range(t):
        for z, x, taps in _taps(rows.shape[2:], position[i], offset[i], shape):
            k = np.clip(np.floor(slab[i] @ (1, x, z)), 0, rows.shape[1] - 1).astype(int)
            for (line, phase, first), weight in taps:
                out[group[i], z, :, x] += weight * rows[i, k, line, phase, first:first + ny]
    return out.astype(np.float32)


def _taps(extent: Sequence[int], position: np.ndarray, offset: np.ndarray,
          shape: Sequence[int]) -> Iterator[Tuple[int, int, List[Tuple[Tuple[int, int, int], Any]]]]:
    """For every column of voxels that a tilt shows: z, x, and where its samples are with what weights."""
    n_u, n_phases, n_y = extent
    nz, ny, nx = shape
    for z in range(nz):
        for x in range(nx):
            u, v = position @ (1, x, z), offset @ (1, x, z)
            lower, below = int(np.floor(u)), int(np.floor(v))
            part, rest = u - lower, v - below
            places = [(below + s) % n_phases for s in (0, 1)], [(below + s) // n_phases for s in (0, 1)]
            last = places[1][1] if rest > 0 else places[1][0]
            if lower < 0 or lower >= n_u - 1 or places[1][0] < 0 or last + ny > n_y:
                continue
            taps = [((lower + a, places[0][b], places[1][b]), (part if a else 1 - part) * (rest if b else 1 - rest))
                    for a in (0, 1) for b in (0, 1)]
            yield z, x, [tap for tap in taps if tap[1] > 0]


def project(volume: np.ndarray, position: np.ndarray, n_u: int) -> np.ndarray:
    """Project a volume onto the rows of every tilt: the adjoint of `backproject` for one volume and version.

    Parameters
    ----------
    volume : ndarray `(nz, Y, nx)` float32
    position : ndarray `(T, 3)` float64
        As of `backproject`.
    n_u : int
        Samples across the tilt axis.

    Returns
    -------
    ndarray `(T, n_u, Y)` float32
    """
    shape = (n_u, 1, volume.shape[1])
    return project_sheared(volume, position, np.zeros_like(position), shape)[:, :, 0]


def project_sheared(volume: np.ndarray, position: np.ndarray, offset: np.ndarray, extent: Sequence[int]) -> np.ndarray:
    """Project a volume onto the rows of every tilt: the adjoint of `backproject_sheared`.

    Parameters
    ----------
    volume : ndarray `(nz, ny, nx)` float32
    position, offset : ndarray `(T, 3)` float64
        As of `backproject_sheared`.
    extent : (int, int, int)
        U, F and Y of the rows.

    Returns
    -------
    ndarray `(T, U, F, Y)` float32
    """
    out = np.zeros((len(position),) + tuple(extent))
    ny = volume.shape[1]
    for i in range(len(position)):
        for z, x, taps in _taps(extent, position[i], offset[i], volume.shape):
            for (line, phase, first), weight in taps:
                out[i, line, phase, first:first + ny] += weight * volume[z, :, x]
    return out.astype(np.float32)
