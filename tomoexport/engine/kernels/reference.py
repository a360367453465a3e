"""The kernels in plain NumPy: slow, and meant to be read. The other two must agree with this file."""

import numpy as np

from . import HALO


def crop(stack, origin, size):
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


def modulate(data, phase, slope, depth, shift, envelope, visible, mode):
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
        Transfer of the operation, ``envelope c f(c)``; the data are multiplied by ``envelope f(c)``.
    """
    s = data.shape[2]
    ky, kx = np.fft.fftfreq(s)[:, None], np.arange(s // 2 + 1) / s
    cycles = phase.astype(np.float64) + depth[..., None, None].astype(np.float64) * slope
    ctf = -np.sin(2 * np.pi * cycles) if mode != 2 else np.ones_like(cycles)
    factor = {0: np.where(ctf < 0, -1.0, 1.0), 1: ctf, 2: np.ones_like(ctf)}[mode]
    factor = factor * envelope * visible[..., None, None]
    turn = ky * shift[..., 0, None, None] + kx * shift[..., 1, None, None]
    data *= (factor * np.exp(2j * np.pi * turn)).astype(np.complex64)
    return (factor * ctf).astype(np.float32)


def insert_slices(data, weight, matrix, table, grid):
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


def fold_grid(cells, grid):
    """Bring halo and Hermitian mates of a Fourier grid together.

    Parameters
    ----------
    cells : ndarray `(N, grid+2h, grid+2h, grid//2+1+2h, 4)` float32
        As `insert_slices` returns it.
    grid : int
        Side of the grid.

    Returns
    -------
    data : ndarray `(N, grid, grid, grid//2+1)` complex64
    weight : ndarray `(N, grid, grid, grid//2+1)` complex64
        Both in FFT order, ready for irfftn.
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
        out.append((full + mate)[..., :grid // 2 + 1].astype(np.complex64))
    return tuple(out)


def backproject(rows, position, slab, group, n_groups, nz, nx):
    """Smear aligned tilt images back along the beam, for tilts about the volume's y axis.

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
    ndarray `(n_groups, nz, nx, Y)` float32
        Sums over tilts; linear between samples, and 0 beyond the first and last.
    """
    t, k, u, y = rows.shape
    out = np.zeros((n_groups, nz, nx, y))
    x = np.arange(nx)
    for i in range(t):
        for z in range(nz):
            place = position[i, 0] + position[i, 1] * x + position[i, 2] * z
            version = np.clip(np.floor(slab[i, 0] + slab[i, 1] * x + slab[i, 2] * z), 0, k - 1).astype(int)
            lower = np.floor(place).astype(int)
            inside = (lower >= 0) & (lower < u - 1)
            lower = np.clip(lower, 0, u - 2)
            part = (place - lower)[:, None]
            value = rows[i, version, lower] * (1 - part) + rows[i, version, lower + 1] * part
            out[group[i], z] += value * inside[:, None]
    return out.astype(np.float32)


def backproject_general(images, matrix, slab, group, n_groups, shape):
    """Smear tilt images back along any direction.

    Parameters
    ----------
    images : ndarray `(T, K, H, W)` float32
        Filtered images; K versions for K slabs of depth.
    matrix : ndarray `(T, 2, 4)` float64
        Pixel (x, y) of voxel (x, y, z, 1), voxels counted from 0.
    slab : ndarray `(T, 4)` float64
        ``k = floor(slab @ (x, y, z, 1))``, limited to 0..K-1.
    group : ndarray `(T,)` int32
        Which of the volumes a tilt goes to.
    n_groups : int
        Number of volumes.
    shape : (int, int, int)
        Extent of the volumes, zyx.

    Returns
    -------
    ndarray `(n_groups, nz, ny, nx)` float32
        Sums over tilts, bilinear, 0 outside the images.
    """
    t, k, h, w = images.shape
    nz, ny, nx = shape
    out = np.zeros((n_groups, nz, ny, nx))
    x, y = np.arange(nx), np.arange(ny)[:, None]
    for i in range(t):
        for z in range(nz):
            px, py = (m[0] * x + m[1] * y + m[2] * z + m[3] for m in matrix[i])
            version = np.floor(slab[i, 0] * x + slab[i, 1] * y + slab[i, 2] * z + slab[i, 3])
            version = np.clip(version, 0, k - 1).astype(int)
            ix, iy = np.floor(px).astype(int), np.floor(py).astype(int)
            inside = (ix >= 0) & (ix < w - 1) & (iy >= 0) & (iy < h - 1)
            ix, iy = np.clip(ix, 0, w - 2), np.clip(iy, 0, h - 2)
            fx, fy = px - ix, py - iy
            image = images[i]
            value = ((image[version, iy, ix] * (1 - fx) + image[version, iy, ix + 1] * fx) * (1 - fy)
                     + (image[version, iy + 1, ix] * (1 - fx) + image[version, iy + 1, ix + 1] * fx) * fy)
            out[group[i], z] += value * inside
    return out.astype(np.float32)
