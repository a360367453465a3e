"""The kernels for the CPU, compiled by Numba: the same functions as `reference`, made for speed.

All of them release the interpreter lock and use one core, so that a thread can own one particle (or one piece of a
volume) without sharing anything; results do not depend on the number of threads.
"""

import math

import numba
import numpy as np

from . import HALO

# Off by default in Numba; makes vector instructions of the sixteen sums of `_insert_slices` (3 times as fast).
numba.config.SLP_VECTORIZE = 1

_jit = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})


def crop(stack, origin, size):
    """See `reference.crop`."""
    out = np.empty(origin.shape[:2] + (size, size), np.float32)
    _crop(stack, origin, out)
    return out


@_jit
def _crop(stack, origin, out):
    n, t, size, _ = out.shape
    h, w = stack.shape[1:]
    for i in range(n):
        for j in range(t):
            y0, x0 = origin[i, j, 0], origin[i, j, 1]
            left, right = min(max(-x0, 0), size), max(min(w - x0, size), 0)
            for y in range(size):
                row = out[i, j, y]
                if y0 + y < 0 or y0 + y >= h or right <= left:
                    row[:] = 0
                else:
                    row[:left] = 0
                    row[left:right] = stack[j, y0 + y, x0 + left:x0 + right]
                    row[right:] = 0


def modulate(data, phase, slope, depth, shift, envelope, visible, mode):
    """See `reference.modulate`."""
    transfer = np.empty(data.shape, np.float32)
    _modulate(data, phase, slope, depth, shift, envelope, visible, mode, transfer)
    return transfer


@_jit
def _sine_of_cycles(x):
    """sin(2 pi x) to 2e-7: an odd polynomial on a quarter turn, which compilers vectorise."""
    x = x - np.rint(x)
    # Fold -1/2..1/2 to -1/4..1/4: sin(2 pi (1/2 - x)) = sin(2 pi x).
    half = np.float32(0.5)
    quarter = np.float32(0.25)
    x = half - x if x > quarter else (-half - x if x < -quarter else x)
    x2 = x * x
    p = np.float32(39.535814) * x2 - np.float32(76.549657)
    p = p * x2 + np.float32(81.600998)
    p = p * x2 - np.float32(41.341655)
    p = p * x2 + np.float32(6.2831852)
    return x * p


@_jit
def _modulate(data, phase, slope, depth, shift, envelope, visible, mode, transfer):
    n, t, s, sh = data.shape
    zero, one = np.float32(0), np.float32(1)
    cx, sx = np.empty(sh, np.float32), np.empty(sh, np.float32)
    for i in range(n):
        for j in range(t):
            if not visible[i, j]:
                data[i, j] = 0
                transfer[i, j] = 0
                continue
            dz = depth[i, j]
            ty, tx = float(shift[i, j, 0]) / s, float(shift[i, j, 1]) / s
            for x in range(sh):
                cx[x] = math.cos(2 * math.pi * tx * x)
                sx[x] = math.sin(2 * math.pi * tx * x)
            for y in range(s):
                ky = y if y < (s + 1) // 2 else y - s
                cy, sy = np.float32(math.cos(2 * math.pi * ty * ky)), np.float32(math.sin(2 * math.pi * ty * ky))
                row, out = data[i, j, y], transfer[i, j, y]
                for x in range(sh):
                    factor = envelope[j, y, x]
                    ctf = one
                    if mode != 2:
                        ctf = -_sine_of_cycles(phase[j, y, x] + dz * slope[y, x])
                        if mode == 1:
                            factor = factor * ctf
                        elif ctf < zero:
                            factor = -factor
                    out[x] = factor * ctf
                    re, im = cx[x] * cy - sx[x] * sy, cx[x] * sy + sx[x] * cy
                    a, b = row[x].real, row[x].imag
                    row[x] = complex(factor * (a * re - b * im), factor * (a * im + b * re))


def insert_slices(data, weight, matrix, table, grid):
    """See `reference.insert_slices`."""
    side = grid + 2 * HALO
    out = np.zeros((len(data), side, side, grid // 2 + 1 + 2 * HALO, 4), np.float32)
    if table.shape[1] != 4:
        raise ValueError("kernels of %d cells are not compiled; use 4" % table.shape[1])
    _insert_slices(data, weight, matrix, table, grid, out.reshape(len(data), -1))
    return out


@_jit
def _tap(table, place, precision, i):
    cell = min(int(place), precision - 1)
    part = np.float32(place - cell)
    return table[cell, i] * (np.float32(1) - part) + table[cell + 1, i] * part


@_jit
def _insert_slices(data, weight, matrix, table, grid, out):
    n, t, b, bh = data.shape
    side, half = np.uintp(grid + 2 * HALO), np.uintp(grid // 2 + 1 + 2 * HALO)
    precision = table.shape[0] - 1
    limit = 0.25 * b * b
    for i in range(n):
        cells = out[i]
        m_index = i if len(matrix) > 1 else 0
        for j in range(t):
            m = matrix[m_index, j]
            for y in range(b):
                qy = y if y < (b + 1) // 2 else y - b
                for qx in range(1 if qy < 0 else 0, bh):
                    if qx * qx + qy * qy >= limit:
                        break
                    kx = m[0, 0] * qx + m[0, 1] * qy
                    ky = m[1, 0] * qx + m[1, 1] * qy
                    kz = m[2, 0] * qx + m[2, 1] * qy
                    re, im = data[i, j, y, qx].real, data[i, j, y, qx].imag
                    if max(abs(kx), abs(ky), abs(kz)) >= grid // 2:
                        continue
                    if kx < 0:
                        kx, ky, kz, im = -kx, -ky, -kz, -im
                    w, once = weight[i, j, y, qx], np.float32(1)
                    if qx == 0 and qy == 0:
                        once = np.float32(0.5)
                        re, im, w = re * once, im * once, w * once
                    lx, ly, lz = math.floor(kx), math.floor(ky), math.floor(kz)
                    px, py, pz = (kx - lx) * precision, (ky - ly) * precision, (kz - lz) * precision
                    x0, x1 = _tap(table, px, precision, 0), _tap(table, px, precision, 1)
                    x2, x3 = _tap(table, px, precision, 2), _tap(table, px, precision, 3)
                    # Four channels of four cells: sixteen contiguous numbers, written out so that they become
                    # vector instructions.
                    a0, a1, a2, a3 = re * x0, im * x0, w * x0, once * x0
                    b0, b1, b2, b3 = re * x1, im * x1, w * x1, once * x1
                    c0, c1, c2, c3 = re * x2, im * x2, w * x2, once * x2
                    d0, d1, d2, d3 = re * x3, im * x3, w * x3, once * x3
                    first_x = np.uintp(lx - 1 + HALO)
                    first_y = np.uintp(ly - 1 + HALO + grid // 2)
                    first_z = np.uintp(lz - 1 + HALO + grid // 2)
                    y0, y1 = _tap(table, py, precision, 0), _tap(table, py, precision, 1)
                    y2, y3 = _tap(table, py, precision, 2), _tap(table, py, precision, 3)
                    for dz in range(4):
                        wz = _tap(table, pz, precision, dz)
                        p = np.uintp(4) * (((first_z + np.uintp(dz)) * side + first_y) * half + first_x)
                        for dy in range(4):
                            f = wz * (y0 if dy == 0 else y1 if dy == 1 else y2 if dy == 2 else y3)
                            cells[p] += a0 * f
                            cells[p + np.uintp(1)] += a1 * f
                            cells[p + np.uintp(2)] += a2 * f
                            cells[p + np.uintp(3)] += a3 * f
                            cells[p + np.uintp(4)] += b0 * f
                            cells[p + np.uintp(5)] += b1 * f
                            cells[p + np.uintp(6)] += b2 * f
                            cells[p + np.uintp(7)] += b3 * f
                            cells[p + np.uintp(8)] += c0 * f
                            cells[p + np.uintp(9)] += c1 * f
                            cells[p + np.uintp(10)] += c2 * f
                            cells[p + np.uintp(11)] += c3 * f
                            cells[p + np.uintp(12)] += d0 * f
                            cells[p + np.uintp(13)] += d1 * f
                            cells[p + np.uintp(14)] += d2 * f
                            cells[p + np.uintp(15)] += d3 * f
                            p += np.uintp(4) * half


def fold_grid(cells, grid):
    """See `reference.fold_grid`. Changes its input."""
    shape = (len(cells), grid, grid, grid // 2 + 1)
    data, weight = np.empty(shape, np.complex64), np.empty(shape, np.complex64)
    _fold_grid(cells, grid, data, weight)
    return data, weight


@_jit
def _fold_grid(cells, grid, data, weight):
    for i in range(len(cells)):
        c = cells[i]
        for z in range(HALO):  # wrap the halo of z, then that of y
            c[z + grid] += c[z]
            c[HALO + z] += c[HALO + grid + z]
        for z in range(HALO, HALO + grid):
            for y in range(HALO):
                c[z, y + grid] += c[z, y]
                c[z, HALO + y] += c[z, HALO + grid + y]
        for z in range(grid):
            kz = z if z < grid // 2 else z - grid
            pz = HALO + grid // 2 + kz
            mz = HALO + grid // 2 - kz if kz != -(grid // 2) else HALO
            for y in range(grid):
                ky = y if y < grid // 2 else y - grid
                py = HALO + grid // 2 + ky
                my = HALO + grid // 2 - ky if ky != -(grid // 2) else HALO
                for x in range(grid // 2 + 1):
                    v = c[pz, py, HALO + x]
                    re, im, w = v[0], v[1], v[2]
                    if x <= HALO:
                        v = c[mz, my, HALO - x]
                        re, im, w = re + v[0], im - v[1], w + v[2]
                    if grid - x <= grid // 2 + HALO:
                        v = c[mz, my, HALO + grid - x]
                        re, im, w = re + v[0], im - v[1], w + v[2]
                    data[i, z, y, x] = complex(re, im)
                    weight[i, z, y, x] = complex(w, np.float32(0))


def backproject(rows, position, slab, group, n_groups, nz, nx):
    """See `reference.backproject`."""
    out = np.zeros((n_groups, nz, nx, rows.shape[3]), np.float32)
    for g in range(n_groups):
        _backproject(rows, position, slab, np.flatnonzero(group == g), out[g])
    return out


@_jit
def _row(rows, position, slab, i, x, z):
    """Version, row below and weights of the rows below and above, of tilt i for voxel (x, z); weights 0 outside."""
    _, k, u, _ = rows.shape
    place = position[i, 0] + position[i, 1] * x + position[i, 2] * z
    lower = math.floor(place)
    if lower < 0 or lower >= u - 1:
        return 0, 0, np.float32(0), np.float32(0)
    version = min(max(math.floor(slab[i, 0] + slab[i, 1] * x + slab[i, 2] * z), 0), k - 1)
    part = np.float32(place - lower)
    return version, lower, np.float32(1) - part, part


@_jit
def _backproject(rows, position, slab, tilts, out):
    ny = rows.shape[3]
    nz, nx, _ = out.shape
    block = 640  # rows of y: what one voxel column needs of eight images stays in the cache
    for y0 in range(0, ny, block):
        y1 = min(y0 + block, ny)
        for z in range(nz):
            # Four tilts in one pass: the sums are loaded and stored a quarter as often.
            for first in range(0, len(tilts) - 3, 4):
                i, j, k, m = tilts[first], tilts[first + 1], tilts[first + 2], tilts[first + 3]
                for x in range(nx):
                    vi, li, ai, bi = _row(rows, position, slab, i, x, z)
                    vj, lj, aj, bj = _row(rows, position, slab, j, x, z)
                    vk, lk, ak, bk = _row(rows, position, slab, k, x, z)
                    vm, lm, am, bm = _row(rows, position, slab, m, x, z)
                    pi, qi = rows[i, vi, li, y0:y1], rows[i, vi, li + 1, y0:y1]
                    pj, qj = rows[j, vj, lj, y0:y1], rows[j, vj, lj + 1, y0:y1]
                    pk, qk = rows[k, vk, lk, y0:y1], rows[k, vk, lk + 1, y0:y1]
                    pm, qm = rows[m, vm, lm, y0:y1], rows[m, vm, lm + 1, y0:y1]
                    o = out[z, x, y0:y1]
                    for y in range(len(o)):
                        o[y] += (ai * pi[y] + bi * qi[y] + aj * pj[y] + bj * qj[y]
                                 + ak * pk[y] + bk * qk[y] + am * pm[y] + bm * qm[y])
            for first in range(len(tilts) - len(tilts) % 4, len(tilts)):
                i = tilts[first]
                for x in range(nx):
                    vi, li, ai, bi = _row(rows, position, slab, i, x, z)
                    pi, qi = rows[i, vi, li, y0:y1], rows[i, vi, li + 1, y0:y1]
                    o = out[z, x, y0:y1]
                    for y in range(len(o)):
                        o[y] += ai * pi[y] + bi * qi[y]


def backproject_general(images, matrix, slab, group, n_groups, shape):
    """See `reference.backproject_general`."""
    out = np.zeros((n_groups,) + tuple(shape), np.float32)
    _backproject_general(images, matrix, slab, group, out)
    return out


@_jit
def _backproject_general(images, matrix, slab, group, out):
    t, k, h, w = images.shape
    _, nz, ny, nx = out.shape
    for z in range(nz):
        for y in range(ny):
            for i in range(t):
                m, s = matrix[i], slab[i]
                bx, by = m[0, 1] * y + m[0, 2] * z + m[0, 3], m[1, 1] * y + m[1, 2] * z + m[1, 3]
                depth = s[1] * y + s[2] * z + s[3]
                o = out[group[i], z, y]
                for x in range(nx):
                    px, py = m[0, 0] * x + bx, m[1, 0] * x + by
                    ix, iy = math.floor(px), math.floor(py)
                    if ix < 0 or ix >= w - 1 or iy < 0 or iy >= h - 1:
                        continue
                    version = min(max(math.floor(depth + s[0] * x), 0), k - 1)
                    fx, fy = np.float32(px - ix), np.float32(py - iy)
                    gx, gy = np.float32(1) - fx, np.float32(1) - fy
                    image = images[i, version]
                    o[x] += ((image[iy, ix] * gx + image[iy, ix + 1] * fx) * gy
                             + (image[iy + 1, ix] * gx + image[iy + 1, ix + 1] * fx) * fy)
