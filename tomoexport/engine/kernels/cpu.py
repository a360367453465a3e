"""The kernels for the CPU, compiled by Numba: the same functions as `reference`, made for speed.

All of them release the interpreter lock and use one core, so that a thread can own one particle (or one piece of a
volume) without sharing anything; results do not depend on the number of threads.
"""

import math
import threading
from functools import lru_cache
from typing import Any, Callable, Sequence, Tuple

import numba
import numpy as np

from . import HALO, WIENER_NOISE

# Off by default in Numba; makes vector instructions of the sixteen sums of `_insert_slices` (3 times as fast).
numba.config.SLP_VECTORIZE = 1  # type: ignore[attr-defined]  # Numba makes its settings as it starts

LANES = 16
L1, L2, L3, L4, L5, L6, L7, L8, L9, L10, L11, L12, L13, L14, L15 = (np.uintp(i) for i in range(1, LANES))

_jit: Callable[..., Any] = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})
# Sums may be taken in another order too, so that they become vector instructions.
_jit_sums: Callable[..., Any] = numba.njit(nogil=True, cache=True, error_model="numpy",
                                           fastmath={"contract", "nsz", "arcp", "reassoc"})


def crop(stack: np.ndarray, origin: np.ndarray, size: int) -> np.ndarray:
    """See `reference.crop`."""
    out = np.empty(origin.shape[:2] + (size, size), np.float32)
    _crop(stack, origin, out)
    return out


@_jit
def _touch(image: np.ndarray, y0: int, y1: int, x0: int, x1: int) -> np.float32:
    """Read a number of every cache line of a window: many lines come from memory at once, which halves the time."""
    total = np.float32(0)
    for y in range(y0, y1):
        row = image[y, x0:x1]
        for x in range(0, len(row), 16):
            total += row[x]
    return total


@_jit
def _crop(stack: np.ndarray, origin: np.ndarray, out: np.ndarray) -> np.float32:
    n, t, size, _ = out.shape
    h, w = stack.shape[1:]
    total = np.float32(0)
    for i in range(n):
        for j in range(t):
            y0, x0 = origin[i, j, 0], origin[i, j, 1]
            left, right = min(max(-x0, 0), size), max(min(w - x0, size), 0)
            if right > left:
                total += _touch(stack[j], max(y0, 0), min(y0 + size, h), x0 + left, x0 + right)
            for y in range(size):
                row = out[i, j, y]
                if y0 + y < 0 or y0 + y >= h or right <= left:
                    row[:] = 0
                else:
                    row[:left] = 0
                    row[left:right] = stack[j, y0 + y, x0 + left:x0 + right]
                    row[right:] = 0
    return total  # for nobody, but without it the compiler would leave out what it is the sum of


def modulate(data: np.ndarray, phase: np.ndarray, slope: np.ndarray, depth: np.ndarray, shift: np.ndarray,
             envelope: np.ndarray, visible: np.ndarray, mode: int) -> np.ndarray:
    """See `reference.modulate`."""
    transfer = np.empty(data.shape, np.float32)
    _modulate(data, phase, slope, depth, shift, envelope, visible, mode, transfer)
    return transfer


@_jit
def _sine_of_cycles(x: np.float32) -> np.float32:
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
def _modulate_window(data: np.ndarray, phase: np.ndarray, slope: np.ndarray, dz: np.float32, shift: np.ndarray,
                     envelope: np.ndarray, mode: int, turn: int, transfer: np.ndarray) -> None:
    """One window; a turn of -1 brings the origin to its centre, one of 1 leaves it at pixel 0."""
    s, sh = data.shape
    zero, one = np.float32(0), np.float32(1)
    cx, sx = np.empty(sh, np.float32), np.empty(sh, np.float32)
    ty, tx = float(shift[0]) / s, float(shift[1]) / s
    sign = 1
    for x in range(sh):
        cx[x] = sign * math.cos(2 * math.pi * tx * x)
        sx[x] = sign * math.sin(2 * math.pi * tx * x)
        sign *= turn
    sign = 1
    for y in range(s):
        ky = y if y < (s + 1) // 2 else y - s
        cy = np.float32(sign * math.cos(2 * math.pi * ty * ky))
        sy = np.float32(sign * math.sin(2 * math.pi * ty * ky))
        sign *= turn
        row, out = data[y], transfer[y]
        for x in range(sh):
            factor = envelope[y, x]
            ctf = one
            if mode != 2:
                ctf = -_sine_of_cycles(phase[y, x] + dz * slope[y, x])
                if mode == 1:
                    factor = factor * ctf
                elif ctf < zero:
                    factor = -factor
            out[x] = factor * (factor if mode == 1 else ctf)
            re, im = cx[x] * cy - sx[x] * sy, cx[x] * sy + sx[x] * cy
            a, b = row[x].real, row[x].imag
            row[x] = complex(factor * (a * re - b * im), factor * (a * im + b * re))


@_jit
def _modulate(data: np.ndarray, phase: np.ndarray, slope: np.ndarray, depth: np.ndarray, shift: np.ndarray,
              envelope: np.ndarray, visible: np.ndarray, mode: int, transfer: np.ndarray) -> None:
    n, t = data.shape[:2]
    for i in range(n):
        for j in range(t):
            if visible[i, j]:
                _modulate_window(data[i, j], phase[j], slope, depth[i, j], shift[i, j], envelope[j], mode, 1,
                                 transfer[i, j])
            else:
                data[i, j] = 0
                transfer[i, j] = 0


def modulate_parts(data: np.ndarray, phase: np.ndarray, slope: np.ndarray, depth: np.ndarray, shift: np.ndarray,
                   envelope: np.ndarray, visible: np.ndarray, mode: int) -> np.ndarray:
    """See `reference.modulate_parts`."""
    n, t, s, sh = data.shape
    out = np.empty((2, sh, 3, n, t, sh), np.float32)
    _modulate_parts(data, phase, slope, depth, shift, envelope, visible, mode, out)
    return out


@_jit
def _modulate_parts(data: np.ndarray, phase: np.ndarray, slope: np.ndarray, depth: np.ndarray, shift: np.ndarray,
                    envelope: np.ndarray, visible: np.ndarray, mode: int, out: np.ndarray) -> None:
    n, t, s, sh = data.shape
    half = s // 2
    transfer = np.empty((s, sh), np.float32)
    for i in range(n):
        for j in range(t):
            if not visible[i, j]:
                out[:, :, :, i, j] = 0
                continue
            window = data[i, j]
            _modulate_window(window, phase[j], slope, depth[i, j], shift[i, j], envelope[j], mode, -1, transfer)
            for y in range(half + 1):
                even, odd = out[0, y], out[1, y]
                own, w = window[y], transfer[y]
                if y == 0 or y == half:
                    for x in range(sh):
                        even[0, i, j, x], even[1, i, j, x], even[2, i, j, x] = own[x].real, w[x], own[x].imag
                    odd[:, i, j] = 0
                    continue
                mate, v = window[s - y], transfer[s - y]
                even0, even2, odd0, odd2 = even[0, i, j], even[2, i, j], odd[0, i, j], odd[2, i, j]
                for x in range(sh):
                    even0[x] = own[x].real + mate[x].real
                    odd0[x] = own[x].real - mate[x].real
                    even2[x] = own[x].imag + mate[x].imag
                    odd2[x] = own[x].imag - mate[x].imag
                even1, odd1 = even[1, i, j], odd[1, i, j]
                for x in range(sh):
                    even1[x] = w[x] + v[x]
                    odd1[x] = w[x] - v[x]


def join_parts(parts: np.ndarray, sign: np.ndarray, mask: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """See `reference.join_parts`."""
    _, bh, _, n, t, _ = parts.shape
    shape = (n, t, 2 * (bh - 1), bh)
    data, transfer = np.empty(shape, np.complex64), np.empty(shape, np.float32)
    _join_parts(parts, sign, mask, data, transfer)
    return data, transfer


@_jit
def _join_parts(parts: np.ndarray, sign: np.ndarray, mask: np.ndarray, data: np.ndarray, transfer: np.ndarray) -> None:
    n, t, b, bh = data.shape
    for i in range(n):
        for j in range(t):
            for y in range(b):
                k, side = (y, np.float32(1)) if y <= b // 2 else (b - y, np.float32(-1))
                even, odd = parts[0, k], parts[1, k]
                row, out, s, m = data[i, j, y], transfer[i, j, y], sign[y], mask[y]
                for x in range(bh):
                    row[x] = complex((even[0, i, j, x] + side * odd[0, i, j, x]) * s[x],
                                     (even[2, i, j, x] + side * odd[2, i, j, x]) * s[x])
                    out[x] = (even[1, i, j, x] + side * odd[1, i, j, x]) * m[x]


def circle(rows: np.ndarray, total: np.ndarray, radius: float, edge: float, size: int, rolled: bool = False,
           scale: float = 1.0) -> np.ndarray:
    """See `reference.circle`."""
    out = np.empty(rows.shape[:2] + (size, size), np.float32)
    masks = _circular_masks(rows.shape[3], rows.shape[2], float(radius), float(edge), float(scale))
    _circle(rows, total, *masks, size // 2 if rolled else 0, out)
    return out


@lru_cache(maxsize=4)
def _circular_masks(side: int, count: int, radius: float, edge: float,
                    scale: float) -> Tuple[np.ndarray, np.ndarray, np.float32]:
    """Rows of the mask and of what is inside it, 1 over the number of pixels outside."""
    axis = np.arange(side) - side // 2
    r = np.hypot(axis[:, None], axis)
    mask = scale * (0.5 + 0.5 * np.cos(np.pi * np.clip((r - radius + edge) / edge, 0, 1)))
    rows = slice(side // 2 - count // 2, side // 2 - count // 2 + count)
    share = np.float32(1 / max((r > radius).sum(), 1))
    return mask[rows].astype(np.float32), (r <= radius)[rows].astype(np.float32), share


@_jit_sums
def _weighted_sum(window: np.ndarray, factor: np.ndarray) -> np.float32:
    total = np.float32(0)
    for y in range(len(window)):
        row, f = window[y], factor[y]
        for x in range(len(row)):
            total += row[x] * f[x]
    return total


@_jit
def _circle(rows: np.ndarray, total: np.ndarray, mask: np.ndarray, inside: np.ndarray, share: np.float32, roll: int,
            out: np.ndarray) -> None:
    n, t, count, s = rows.shape
    size = out.shape[-1]
    first, left = count // 2 - size // 2, s // 2 - size // 2
    for i in range(n):
        for j in range(t):
            mean = share * (total[i, j] - _weighted_sum(rows[i, j], inside))
            for y in range(size):
                o = out[i, j, (y + size - roll) % size]
                if first + y < 0 or first + y >= count:
                    o[:] = 0
                    continue
                row, m = rows[i, j, first + y, left:left + size], mask[first + y, left:left + size]
                head, tail = o[size - roll:], o[:size - roll]
                for x in range(roll):
                    head[x] = (row[x] - mean) * m[x]
                row, m = row[roll:], m[roll:]
                for x in range(size - roll):
                    tail[x] = (row[x] - mean) * m[x]


_workspace = threading.local()


def _zeros(shape: Tuple[int, ...]) -> np.ndarray:
    """Cells that are 0: those that this thread has emptied last, if they have the shape."""
    cells, _workspace.cells = getattr(_workspace, "cells", None), None
    return cells if cells is not None and cells.shape == shape else np.zeros(shape, np.float32)


def _emptied(cells: np.ndarray) -> None:
    """Keep cells, whose values are not needed any more, for the thread's next particle."""
    cells[:] = 0
    _workspace.cells = cells


PLANES = 8  # of the grid that samples are sorted by: they stay in the cache while neighbours in a row stay together
LINEAR_PLANES = 16  # the same for the smaller grid of trilinear samples
SAMPLES = 2_000_000  # at most this many samples have their cells and weights kept between calls


def insert_slices(data: np.ndarray, weight: np.ndarray, matrix: np.ndarray, table: np.ndarray, grid: int) -> np.ndarray:
    """See `reference.insert_slices`."""
    side, b = grid + 2 * HALO, data.shape[2]
    out = _zeros((len(data), side, side, grid // 2 + 1 + 2 * HALO, 4))
    if table.shape[1] != 4:
        raise ValueError("kernels of %d cells are not compiled; use 4" % table.shape[1])
    cells = out.reshape(len(data), -1)
    if len(matrix) == 1 and weight[0].size <= SAMPLES:
        # All particles have the same slices: where their samples go is found once.
        samples = _ordered_samples(matrix.tobytes(), b, table.tobytes(), grid)
        _insert_samples(data.reshape(len(data), -1), weight.reshape(len(data), -1), *samples, grid, cells)
    else:
        _insert_slices(data, weight, matrix, table, grid, cells)
    return out


@lru_cache(maxsize=2)
def _ordered_samples(matrix: bytes, b: int, table: bytes, grid: int) -> Tuple[np.ndarray, ...]:
    """The samples of all slices, some planes of the grid after the other.

    Returns
    -------
    source : ndarray `(S,)` int32
        Index into the data of one particle.
    place : ndarray `(S,)` int32
        First of the cells that it enters.
    mirrored : ndarray `(S,)` float32
        -1 where the conjugate enters.
    taps : ndarray `(S, 12)` float32
        Weights along x, y and z.
    """
    matrix = np.frombuffer(matrix).reshape(-1, 3, 2)  # type: ignore[assignment]  # bytes no more
    most = len(matrix) * b * (b // 2 + 1)
    out = np.empty(most, np.int32), np.empty(most, np.int32), np.empty(most, np.float32), np.empty((most, 12),
                                                                                                  np.float32)
    plane = np.empty(most, np.int32)
    n = _place_samples(matrix, b, np.frombuffer(table, np.float32).reshape(-1, 4), grid, *out, plane)
    order = np.argsort(plane[:n] // PLANES, kind="stable")
    return tuple(a[order] for a in out)


@_jit
def _place_samples(matrix: np.ndarray, b: int, table: np.ndarray, grid: int, source: np.ndarray, place: np.ndarray,
                   mirrored: np.ndarray, taps: np.ndarray, plane: np.ndarray) -> int:
    side, half = grid + 2 * HALO, grid // 2 + 1 + 2 * HALO
    precision = table.shape[0] - 1
    bh = b // 2 + 1
    n = 0
    for j in range(len(matrix)):
        m = matrix[j]
        for y in range(b):
            qy = y if y < (b + 1) // 2 else y - b
            for qx in range(1 if qy < 0 else 0, bh):
                if qx * qx + qy * qy >= 0.25 * b * b:
                    break
                kx = m[0, 0] * qx + m[0, 1] * qy
                ky = m[1, 0] * qx + m[1, 1] * qy
                kz = m[2, 0] * qx + m[2, 1] * qy
                if max(abs(kx), abs(ky), abs(kz)) >= grid // 2:
                    continue
                mirrored[n] = 1
                if kx < 0:
                    kx, ky, kz = -kx, -ky, -kz
                    mirrored[n] = -1
                lx, ly, lz = math.floor(kx), math.floor(ky), math.floor(kz)
                once = np.float32(0.5) if qx == 0 and qy == 0 else np.float32(1)
                for i in range(4):
                    taps[n, i] = _tap(table, (kx - lx) * precision, precision, i) * once
                    taps[n, 4 + i] = _tap(table, (ky - ly) * precision, precision, i)
                    taps[n, 8 + i] = _tap(table, (kz - lz) * precision, precision, i)
                plane[n] = ly - 1 + HALO + grid // 2
                place[n] = ((lz - 1 + HALO + grid // 2) * side + plane[n]) * half + lx - 1 + HALO
                source[n] = (j * b + y) * bh + qx
                n += 1
    return n


@_jit
def _insert_samples(data: np.ndarray, weight: np.ndarray, source: np.ndarray, place: np.ndarray, mirrored: np.ndarray,
                    taps: np.ndarray, grid: int, out: np.ndarray) -> None:
    side, half = grid + 2 * HALO, grid // 2 + 1 + 2 * HALO
    line, sheet = np.uintp(4 * half), np.uintp(4 * side * half)
    for n in range(len(data)):
        cells, values, weights = out[n], data[n], weight[n]
        for i in range(len(source)):
            value, w = values[source[i]], weights[source[i]]
            re, im = value.real, value.imag * mirrored[i]
            x0, x1, x2, x3 = taps[i, 0], taps[i, 1], taps[i, 2], taps[i, 3]
            # Four channels of four cells: sixteen contiguous numbers, written out so that they become vector
            # instructions.
            a0, a1, a2, a3 = re * x0, im * x0, w * x0, x0
            b0, b1, b2, b3 = re * x1, im * x1, w * x1, x1
            c0, c1, c2, c3 = re * x2, im * x2, w * x2, x2
            d0, d1, d2, d3 = re * x3, im * x3, w * x3, x3
            for dz in range(4):
                p = np.uintp(4) * np.uintp(place[i]) + np.uintp(dz) * sheet
                for dy in range(4):
                    f = taps[i, 8 + dz] * taps[i, 4 + dy]
                    cells[p] += a0 * f
                    cells[p + L1] += a1 * f
                    cells[p + L2] += a2 * f
                    cells[p + L3] += a3 * f
                    cells[p + L4] += b0 * f
                    cells[p + L5] += b1 * f
                    cells[p + L6] += b2 * f
                    cells[p + L7] += b3 * f
                    cells[p + L8] += c0 * f
                    cells[p + L9] += c1 * f
                    cells[p + L10] += c2 * f
                    cells[p + L11] += c3 * f
                    cells[p + L12] += d0 * f
                    cells[p + L13] += d1 * f
                    cells[p + L14] += d2 * f
                    cells[p + L15] += d3 * f
                    p += line


@_jit
def _tap(table: np.ndarray, place: float, precision: int, i: int) -> np.float32:
    cell = min(int(place), precision - 1)
    part = np.float32(place - cell)
    return table[cell, i] * (np.float32(1) - part) + table[cell + 1, i] * part


@_jit
def _insert_slices(data: np.ndarray, weight: np.ndarray, matrix: np.ndarray, table: np.ndarray, grid: int,
                   out: np.ndarray) -> None:
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
                            cells[p + L1] += a1 * f
                            cells[p + L2] += a2 * f
                            cells[p + L3] += a3 * f
                            cells[p + L4] += b0 * f
                            cells[p + L5] += b1 * f
                            cells[p + L6] += b2 * f
                            cells[p + L7] += b3 * f
                            cells[p + L8] += c0 * f
                            cells[p + L9] += c1 * f
                            cells[p + L10] += c2 * f
                            cells[p + L11] += c3 * f
                            cells[p + L12] += d0 * f
                            cells[p + L13] += d1 * f
                            cells[p + L14] += d2 * f
                            cells[p + L15] += d3 * f
                            p += np.uintp(4) * half


def insert_linear(data: np.ndarray, weight: np.ndarray, matrix: np.ndarray, limit: np.ndarray, grid: int) -> np.ndarray:
    """See `reference.insert_linear`."""
    side, half, b = grid + 4, grid // 2 + 2, data.shape[2]
    out = _zeros((len(data), side, side, half, 4))
    cells = out.reshape(len(data), -1)
    for i in range(len(data)):
        m = matrix[min(i, len(matrix) - 1)]
        samples = _ordered_linear(np.ascontiguousarray(m).tobytes(), b, limit.tobytes(), grid)
        _insert_linear(data[i].reshape(-1), weight[i].reshape(-1), *samples, side, half, cells[i])
    return out


@lru_cache(maxsize=2)
def _ordered_linear(matrix: bytes, b: int, limit: bytes, grid: int) -> Tuple[np.ndarray, ...]:
    """As `_ordered_samples`, with the places between two cells along x, y and z for weights.

    Where the conjugate enters, the index into the data is -1 less it: these tables are read for every particle.
    """
    matrix = np.frombuffer(matrix).reshape(-1, 3, 2)  # type: ignore[assignment]  # bytes no more
    most = len(matrix) * b * (b // 2 + 1)
    out = np.empty(most, np.int32), np.empty(most, np.int32), np.empty((most, 3), np.float32)
    plane = np.empty(most, np.int32)
    n = _place_linear(matrix, b, np.frombuffer(limit), grid, *out, plane)
    order = np.argsort(plane[:n] // LINEAR_PLANES, kind="stable")
    return tuple(a[order] for a in out)


@_jit
def _place_linear(matrix: np.ndarray, b: int, limit: np.ndarray, grid: int, source: np.ndarray, place: np.ndarray,
                  part: np.ndarray, plane: np.ndarray) -> int:
    side, half, centre = grid + 4, grid // 2 + 2, grid // 2 + 2
    bh = b // 2 + 1
    n = 0
    for j in range(len(matrix)):
        m = matrix[j]
        for y in range(b):
            qy = y if y < (b + 1) // 2 else y - b
            for qx in range(1 if qy < 0 else 0, bh):
                if qx * qx + qy * qy > limit[j] * abs(limit[j]):
                    break
                kx = m[0, 0] * qx + m[0, 1] * qy
                ky = m[1, 0] * qx + m[1, 1] * qy
                kz = m[2, 0] * qx + m[2, 1] * qy
                if max(abs(kx), abs(ky), abs(kz)) >= grid // 2 + 1:
                    continue
                source[n] = (j * b + y) * bh + qx
                if kx < 0:
                    kx, ky, kz = -kx, -ky, -kz
                    source[n] = -1 - source[n]
                lx, ly, lz = math.floor(kx), math.floor(ky), math.floor(kz)
                part[n, 0], part[n, 1], part[n, 2] = kx - lx, ky - ly, kz - lz
                plane[n] = ly
                place[n] = ((lz + centre) * side + ly + centre) * half + lx
                n += 1
    return n


@_jit
def _insert_linear(data: np.ndarray, weight: np.ndarray, source: np.ndarray, place: np.ndarray, part: np.ndarray,
                   side: int, half: int, cells: np.ndarray) -> None:
    one, line, sheet = np.float32(1), np.uintp(4 * half), np.uintp(4 * side * half)
    for i in range(len(source)):
        s, sign = source[i], one
        if s < 0:
            s, sign = -1 - s, -one
        value, w = data[s], weight[s]
        re, im = value.real, value.imag * sign
        x, y, z = part[i, 0], part[i, 1], part[i, 2]
        rest = one - x
        a0, a1, a2, a3 = re * rest, im * rest, w * rest, rest
        b0, b1, b2, b3 = re * x, im * x, w * x, x
        first = np.uintp(4) * np.uintp(place[i])
        for corner in range(4):
            p, f = first, (z if corner > 1 else one - z) * (y if corner % 2 else one - y)
            if corner > 1:
                p += sheet
            if corner % 2:
                p += line
            cells[p] += a0 * f
            cells[p + L1] += a1 * f
            cells[p + L2] += a2 * f
            cells[p + L3] += a3 * f
            cells[p + L4] += b0 * f
            cells[p + L5] += b1 * f
            cells[p + L6] += b2 * f
            cells[p + L7] += b3 * f


def fold_linear(cells: np.ndarray, grid: int, share: float = 1.0) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """See `reference.fold_linear`. Empties its input."""
    shape = (len(cells), grid, grid, grid // 2 + 1)
    data, weight, count = np.empty(shape, np.complex64), np.empty(shape, np.float32), np.empty(shape, np.float32)
    # Cells are emptied while they are at hand; what mates need of them is copied.
    _fold_linear(cells, cells[:, :, :, 0].copy(), grid, np.float32(share), data, weight, count)
    _workspace.cells = cells
    return data, weight, count


@_jit
def _fold_linear(cells: np.ndarray, first: np.ndarray, grid: int, share: np.float32, data: np.ndarray,
                 weight: np.ndarray, count: np.ndarray) -> None:
    centre, turns = grid // 2 + 2, _alternating(grid // 2 + 1)
    for i in range(len(cells)):
        for edge in (0, 1, grid + 2, grid + 3):
            cells[i, edge] = 0
        for z in range(grid):
            kz = z if z < grid // 2 else z - grid
            for y in range(grid):
                ky = y if y < grid // 2 else y - grid
                row, sign = cells[i, centre + kz, centre + ky], np.float32(-1 if (z + y) % 2 else 1)
                d, w, n = data[i, z, y], weight[i, z, y], count[i, z, y]
                for x in range(len(w)):
                    f = sign * turns[x]
                    d[x] = complex(f * row[x, 0], f * row[x, 1])
                    w[x] = share * row[x, 2]
                    n[x] = share * row[x, 3]
                row[:] = 0
                # The highest frequency is its own mate.
                mz, my = kz if kz == -(grid // 2) else -kz, ky if ky == -(grid // 2) else -ky
                mate = first[i, centre + mz, centre + my]
                d[0] += complex(sign * mate[0], -sign * mate[1])
                w[0] += share * mate[2]
                n[0] += share * mate[3]
            for edge in (0, 1, grid + 2, grid + 3):
                cells[i, centre + kz, edge] = 0


def fold_grid(cells: np.ndarray, grid: int) -> Tuple[np.ndarray, np.ndarray]:
    """See `reference.fold_grid`. Empties its input."""
    shape = (len(cells), grid, grid, grid // 2 + 1)
    data, weight = np.empty(shape, np.complex64), np.empty(shape, np.float32)
    _fold_grid(cells, grid, data, weight)
    _emptied(cells)
    return data, weight


@_jit
def _alternating(n: int) -> np.ndarray:
    turns = np.ones(n, np.float32)
    turns[1::2] = -1
    return turns


@_jit
def _fold_grid(cells: np.ndarray, grid: int, data: np.ndarray, weight: np.ndarray) -> None:
    turns = _alternating(grid // 2 + 1)
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
                row, mate, sign = c[pz, py, HALO:], c[mz, my], np.float32(-1 if (z + y) % 2 else 1)
                d, w = data[i, z, y], weight[i, z, y]
                for x in range(len(w)):
                    f = sign * turns[x]
                    d[x] = complex(f * row[x, 0], f * row[x, 1])
                    w[x] = row[x, 2]
                # At both ends the cells have mates in the other half.
                for x in range(HALO + 1):
                    _add_mate(data[i, z, y], weight[i, z, y], x, mate[HALO - x], (z + y + x) % 2)
                for x in range(grid - grid // 2 - HALO, grid // 2 + 1):
                    _add_mate(data[i, z, y], weight[i, z, y], x, mate[HALO + grid - x], (z + y + x) % 2)


@_jit
def _add_mate(data: np.ndarray, weight: np.ndarray, x: int, value: np.ndarray, odd: int) -> None:
    sign = np.float32(-1 if odd else 1)
    data[x] += complex(sign * value[0], -sign * value[1])
    weight[x] += value[2]


def spread_rows(rows: np.ndarray, start: np.ndarray, source: np.ndarray, factor: np.ndarray, used: int) -> np.ndarray:
    """See `reference.spread_rows`."""
    n, _, length = rows.shape
    out = np.empty((n, len(start) - 1, length), np.float32)
    _spread_rows(rows.reshape(n, -1), start, source, factor, used, out)
    return out


@_jit
def _spread_rows(rows: np.ndarray, start: np.ndarray, source: np.ndarray, factor: np.ndarray, used: int,
                 out: np.ndarray) -> None:
    n, cells, length = out.shape
    whole = used - used % LANES
    for k in range(n):
        values = rows[k]
        for c in range(cells):
            # Sums of 16 columns stay in registers while all terms go by.
            for x in range(0, whole, LANES):
                s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = s9 = s10 = s11 = s12 = s13 = s14 = s15 = np.float32(0)
                for i in range(start[c], start[c + 1]):
                    f, p = factor[i], np.uintp(source[i]) * np.uintp(length) + np.uintp(x)
                    s0 += f * values[p]
                    s1 += f * values[p + L1]
                    s2 += f * values[p + L2]
                    s3 += f * values[p + L3]
                    s4 += f * values[p + L4]
                    s5 += f * values[p + L5]
                    s6 += f * values[p + L6]
                    s7 += f * values[p + L7]
                    s8 += f * values[p + L8]
                    s9 += f * values[p + L9]
                    s10 += f * values[p + L10]
                    s11 += f * values[p + L11]
                    s12 += f * values[p + L12]
                    s13 += f * values[p + L13]
                    s14 += f * values[p + L14]
                    s15 += f * values[p + L15]
                out[k, c, x] = s0
                out[k, c, x + 1] = s1
                out[k, c, x + 2] = s2
                out[k, c, x + 3] = s3
                out[k, c, x + 4] = s4
                out[k, c, x + 5] = s5
                out[k, c, x + 6] = s6
                out[k, c, x + 7] = s7
                out[k, c, x + 8] = s8
                out[k, c, x + 9] = s9
                out[k, c, x + 10] = s10
                out[k, c, x + 11] = s11
                out[k, c, x + 12] = s12
                out[k, c, x + 13] = s13
                out[k, c, x + 14] = s14
                out[k, c, x + 15] = s15
            for x in range(whole, used):
                s0 = np.float32(0)
                for i in range(start[c], start[c + 1]):
                    s0 += factor[i] * values[np.uintp(source[i]) * np.uintp(length) + np.uintp(x)]
                out[k, c, x] = s0
            for x in range(used, length):
                out[k, c, x] = 0


def weigh(transform: np.ndarray, step: np.ndarray, gain_y: np.ndarray, gain_x: np.ndarray, tables: np.ndarray,
          scale: np.ndarray, direction: np.ndarray, phase: np.ndarray, depth: np.ndarray, mode: int,
          shape: Sequence[int]) -> np.ndarray:
    """See `reference.weigh`."""
    out = np.zeros((len(depth), shape[0], shape[1] // 2 + 1), np.complex64)
    _weigh(transform, step, gain_y, gain_x, tables, scale, direction, phase, depth, mode, out)
    return out


@_jit
def _between(table: np.ndarray, place: float) -> np.float32:
    """Linear interpolation; the last entry beyond the table."""
    last = len(table) - 1
    cell = min(int(place), last - 1)
    part = np.float32(min(place - cell, 1.0))
    return table[cell] * (np.float32(1) - part) + table[cell + 1] * part


@_jit
def _weigh(transform: np.ndarray, step: np.ndarray, gain_y: np.ndarray, gain_x: np.ndarray, tables: np.ndarray,
           scale: np.ndarray, direction: np.ndarray, phase: np.ndarray, depth: np.ndarray, mode: int,
           out: np.ndarray) -> None:
    h, wh = transform.shape
    for y in range(h):
        iy = y if y < h // 2 else y - h
        if iy == -(h // 2):
            continue
        ky = iy * step[0]
        target = iy if iy >= 0 else iy + out.shape[1]
        for x in range(wh - 1):
            kx = x * step[1]
            k2 = kx * kx + ky * ky
            weight = gain_y[y] * gain_x[x] * _between(tables[0], k2 * scale[0])
            for d in range(len(direction)):
                weight *= _between(tables[d + 1], abs(direction[d, 0] * kx + direction[d, 1] * ky) * scale[d + 1])
            value = transform[y, x]
            if mode == 2:
                for k in range(len(depth)):
                    out[k, target, x] = complex(value.real * weight, value.imag * weight)
                continue
            cycles = ((phase[0] * kx + phase[1] * ky) * kx + phase[2] * ky * ky + phase[3] * k2 * k2 + phase[4])
            for k in range(len(depth)):
                turn = cycles + depth[k] * phase[5] * k2
                turn -= np.rint(turn)
                if mode == 0:  # the sine has the sign of its argument
                    factor = -weight if turn > 0 else weight
                else:
                    c = -_sine_of_cycles(np.float32(turn))
                    factor = weight * (c if mode == 1 else c / (c * c + np.float32(WIENER_NOISE)))
                out[k, target, x] = complex(value.real * factor, value.imag * factor)


def resample(images: np.ndarray, origin: np.ndarray, step: np.ndarray, table: np.ndarray,
             out: np.ndarray) -> np.ndarray:
    """See `reference.resample`."""
    _resample(images.reshape(-1), images.shape[1], images.shape[2], origin, step, table, out)
    return out


@_jit
def _resample(pixels: np.ndarray, h: int, w: int, origin: np.ndarray, step: np.ndarray, table: np.ndarray,
              out: np.ndarray) -> None:
    n, n_u, n_v = out.shape
    precision = len(table) - 1
    i1, i2, i3, line = np.uintp(1), np.uintp(2), np.uintp(3), np.uintp(w)
    for k in range(n):
        for u in range(n_u):
            for v in range(n_v):
                y = origin[0] + step[0, 0] * u + step[0, 1] * v
                x = origin[1] + step[1, 0] * u + step[1, 1] * v
                ly, lx = math.floor(y), math.floor(x)
                if ly < 1 or ly >= h - 2 or lx < 1 or lx >= w - 2:
                    out[k, u, v] = 0
                    continue
                # Four neighbours at a time, written out so that they become vector instructions.
                cy, cx = int((y - ly) * precision + 0.5), int((x - lx) * precision + 0.5)
                y0, y1, y2, y3 = table[cy, 0], table[cy, 1], table[cy, 2], table[cy, 3]
                x0, x1, x2, x3 = table[cx, 0], table[cx, 1], table[cx, 2], table[cx, 3]
                p = np.uintp((k * h + ly - 1) * w + lx - 1)
                q = p + line
                r = q + line
                s = r + line
                a0 = y0 * pixels[p] + y1 * pixels[q] + y2 * pixels[r] + y3 * pixels[s]
                a1 = y0 * pixels[p + i1] + y1 * pixels[q + i1] + y2 * pixels[r + i1] + y3 * pixels[s + i1]
                a2 = y0 * pixels[p + i2] + y1 * pixels[q + i2] + y2 * pixels[r + i2] + y3 * pixels[s + i2]
                a3 = y0 * pixels[p + i3] + y1 * pixels[q + i3] + y2 * pixels[r + i3] + y3 * pixels[s + i3]
                out[k, u, v] = (a0 * x0 + a1 * x1) + (a2 * x2 + a3 * x3)


# The four kernels below work on 16 voxels along y at a time, each with a variable of its own: that keeps the sums in
# vector registers while all tilts go by, which no compiler does with an array.


def _padded(array: np.ndarray) -> np.ndarray:
    """The array with its last axis filled up with zeros to a multiple of LANES."""
    missing = -array.shape[-1] % LANES
    if not missing:
        return np.ascontiguousarray(array)
    return np.concatenate([array, np.zeros(array.shape[:-1] + (missing,), array.dtype)], axis=-1)


def backproject(rows: np.ndarray, position: np.ndarray, slab: np.ndarray, group: np.ndarray, n_groups: int, nz: int,
                nx: int) -> np.ndarray:
    """See `reference.backproject`."""
    ny = rows.shape[3]
    order = np.argsort(group, kind="stable")
    start = np.searchsorted(group[order], np.arange(n_groups + 1))
    out = np.empty((n_groups, nz, ny + -ny % LANES, nx), np.float32)
    rows = _padded(rows)
    _backproject(rows.reshape(-1), rows.shape, order, position[order], slab[order], start, out)
    return out[:, :, :ny] if ny % LANES else out


@_jit
def _line(position: np.ndarray, n_u: int, x: int, z: int) -> Tuple[int, np.float32, np.float32]:
    """Row below a voxel and the weights of the rows below and above; weights 0 outside."""
    place = position[0] + position[1] * x + position[2] * z
    lower = math.floor(place)
    if lower < 0 or lower >= n_u - 1:
        return 0, np.float32(0), np.float32(0)
    part = np.float32(place - lower)
    return lower, np.float32(1) - part, part


@_jit
def _version(slab: np.ndarray, n: int, x: int, z: int) -> int:
    return 0 if n == 1 else min(max(math.floor(slab[0] + slab[1] * x + slab[2] * z), 0), n - 1)


@_jit
def _backproject(rows: np.ndarray, shape: Tuple[int, int, int, int], tilt: np.ndarray, position: np.ndarray,
                 slab: np.ndarray, start: np.ndarray, out: np.ndarray) -> None:
    n, n_versions, n_u, n_y = shape
    n_groups, nz, _, nx = out.shape
    offset, below, above = np.empty(n, np.uintp), np.empty(n, np.float32), np.empty(n, np.float32)
    for z in range(nz):
        for x in range(nx):
            for i in range(n):
                lower, below[i], above[i] = _line(position[i], n_u, x, z)
                offset[i] = ((tilt[i] * n_versions + _version(slab[i], n_versions, x, z)) * n_u + lower) * n_y
            for g in range(n_groups):
                for y in range(0, n_y, LANES):
                    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = s9 = s10 = s11 = s12 = s13 = s14 = s15 = np.float32(0)
                    for i in range(start[g], start[g + 1]):
                        p, a, b = offset[i] + np.uintp(y), below[i], above[i]
                        q = p + np.uintp(n_y)
                        s0 += a * rows[p] + b * rows[q]
                        s1 += a * rows[p + L1] + b * rows[q + L1]
                        s2 += a * rows[p + L2] + b * rows[q + L2]
                        s3 += a * rows[p + L3] + b * rows[q + L3]
                        s4 += a * rows[p + L4] + b * rows[q + L4]
                        s5 += a * rows[p + L5] + b * rows[q + L5]
                        s6 += a * rows[p + L6] + b * rows[q + L6]
                        s7 += a * rows[p + L7] + b * rows[q + L7]
                        s8 += a * rows[p + L8] + b * rows[q + L8]
                        s9 += a * rows[p + L9] + b * rows[q + L9]
                        s10 += a * rows[p + L10] + b * rows[q + L10]
                        s11 += a * rows[p + L11] + b * rows[q + L11]
                        s12 += a * rows[p + L12] + b * rows[q + L12]
                        s13 += a * rows[p + L13] + b * rows[q + L13]
                        s14 += a * rows[p + L14] + b * rows[q + L14]
                        s15 += a * rows[p + L15] + b * rows[q + L15]
                    out[g, z, y, x] = s0
                    out[g, z, y + 1, x] = s1
                    out[g, z, y + 2, x] = s2
                    out[g, z, y + 3, x] = s3
                    out[g, z, y + 4, x] = s4
                    out[g, z, y + 5, x] = s5
                    out[g, z, y + 6, x] = s6
                    out[g, z, y + 7, x] = s7
                    out[g, z, y + 8, x] = s8
                    out[g, z, y + 9, x] = s9
                    out[g, z, y + 10, x] = s10
                    out[g, z, y + 11, x] = s11
                    out[g, z, y + 12, x] = s12
                    out[g, z, y + 13, x] = s13
                    out[g, z, y + 14, x] = s14
                    out[g, z, y + 15, x] = s15


def project(volume: np.ndarray, position: np.ndarray, n_u: int) -> np.ndarray:
    """See `reference.project`."""
    ny = volume.shape[1]
    out = np.zeros((len(position), n_u, ny + -ny % LANES), np.float32)
    _project(volume, position, out.shape, out.reshape(-1))
    return out[:, :, :ny] if ny % LANES else out


@_jit
def _column(volume: np.ndarray, z: int, x: int, column: np.ndarray) -> None:
    """Copy the voxels along y to the beginning of a longer array."""
    for y in range(volume.shape[1]):
        column[y] = volume[z, y, x]


@_jit
def _project(volume: np.ndarray, position: np.ndarray, shape: Tuple[int, int, int], rows: np.ndarray) -> None:
    n, n_u, n_y = shape
    nz, _, nx = volume.shape
    column = np.zeros(n_y, np.float32)
    for z in range(nz):
        for x in range(nx):
            _column(volume, z, x, column)
            for i in range(n):
                lower, a, b = _line(position[i], n_u, x, z)
                p = np.uintp((i * n_u + lower) * n_y)
                q = p + np.uintp(n_y)
                for y in range(0, n_y, LANES):
                    v = np.uintp(y)
                    rows[p + v] += a * column[v]
                    rows[p + v + L1] += a * column[v + L1]
                    rows[p + v + L2] += a * column[v + L2]
                    rows[p + v + L3] += a * column[v + L3]
                    rows[p + v + L4] += a * column[v + L4]
                    rows[p + v + L5] += a * column[v + L5]
                    rows[p + v + L6] += a * column[v + L6]
                    rows[p + v + L7] += a * column[v + L7]
                    rows[p + v + L8] += a * column[v + L8]
                    rows[p + v + L9] += a * column[v + L9]
                    rows[p + v + L10] += a * column[v + L10]
                    rows[p + v + L11] += a * column[v + L11]
                    rows[p + v + L12] += a * column[v + L12]
                    rows[p + v + L13] += a * column[v + L13]
                    rows[p + v + L14] += a * column[v + L14]
                    rows[p + v + L15] += a * column[v + L15]
                    rows[q + v] += b * column[v]
                    rows[q + v + L1] += b * column[v + L1]
                    rows[q + v + L2] += b * column[v + L2]
                    rows[q + v + L3] += b * column[v + L3]
                    rows[q + v + L4] += b * column[v + L4]
                    rows[q + v + L5] += b * column[v + L5]
                    rows[q + v + L6] += b * column[v + L6]
                    rows[q + v + L7] += b * column[v + L7]
                    rows[q + v + L8] += b * column[v + L8]
                    rows[q + v + L9] += b * column[v + L9]
                    rows[q + v + L10] += b * column[v + L10]
                    rows[q + v + L11] += b * column[v + L11]
                    rows[q + v + L12] += b * column[v + L12]
                    rows[q + v + L13] += b * column[v + L13]
                    rows[q + v + L14] += b * column[v + L14]
                    rows[q + v + L15] += b * column[v + L15]


def backproject_sheared(rows: np.ndarray, position: np.ndarray, offset: np.ndarray, slab: np.ndarray, group: np.ndarray,
                        n_groups: int, shape: Sequence[int]) -> np.ndarray:
    """See `reference.backproject_sheared`."""
    nz, ny, nx = shape
    order = np.argsort(group, kind="stable")
    start = np.searchsorted(group[order], np.arange(n_groups + 1))
    out = np.empty((n_groups, nz, ny + -ny % LANES, nx), np.float32)
    flat = rows.reshape(-1)
    if ny % LANES:  # reading LANES at a time may run past the last row's end
        flat = np.concatenate([flat, np.zeros(LANES, np.float32)])
    _backproject_sheared(flat, rows.shape, order, position[order], offset[order], slab[order], start, ny, out)
    return out[:, :, :ny]


@_jit
def _taps(position: np.ndarray, offset: np.ndarray, extent: Tuple[int, int, int], ny: int, x: int,
          z: int) -> Tuple[int, int, int, np.float32, np.float32, np.float32, np.float32]:
    """The four pieces of rows that a column of voxels falls between, as places in one version, with their weights."""
    n_u, n_phases, n_y = extent
    zero = np.float32(0)
    lower, a, b = _line(position, n_u, x, z)
    v = offset[0] + offset[1] * x + offset[2] * z
    down = math.floor(v)
    d = np.float32(v - down)
    if d == zero:
        up = down
    else:
        up = down + 1
    first, second = down // n_phases, up // n_phases
    if first < 0 or second + ny > n_y:
        return 0, 0, 0, zero, zero, zero, zero
    c = np.float32(1) - d
    p = (lower * n_phases + down - first * n_phases) * n_y + first
    q = (lower * n_phases + up - second * n_phases) * n_y + second
    return p, q, n_phases * n_y, a * c, a * d, b * c, b * d


@_jit
def _backproject_sheared(rows: np.ndarray, shape: Tuple[int, int, int, int, int], tilt: np.ndarray,
                         position: np.ndarray, offset: np.ndarray, slab: np.ndarray, start: np.ndarray, ny: int,
                         out: np.ndarray) -> None:
    n, n_versions, n_u, n_phases, n_y = shape
    n_groups, nz, padded, nx = out.shape
    first, second = np.empty(n, np.uintp), np.empty(n, np.uintp)
    weight = np.empty((n, 4), np.float32)
    extent = (n_u, n_phases, n_y)
    for z in range(nz):
        for x in range(nx):
            line = np.uintp(n_phases * n_y)
            for i in range(n):
                p, q, _, a, b, c, d = _taps(position[i], offset[i], extent, ny, x, z)
                base = (tilt[i] * n_versions + _version(slab[i], n_versions, x, z)) * n_u * n_phases * n_y
                first[i], second[i] = base + p, base + q
                weight[i, 0], weight[i, 1], weight[i, 2], weight[i, 3] = a, b, c, d
            for g in range(n_groups):
                for y in range(0, padded, LANES):
                    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = s9 = s10 = s11 = s12 = s13 = s14 = s15 = np.float32(0)
                    for i in range(start[g], start[g + 1]):
                        a, b, c, d = weight[i, 0], weight[i, 1], weight[i, 2], weight[i, 3]
                        p, q = first[i] + np.uintp(y), second[i] + np.uintp(y)
                        r, t = p + line, q + line
                        s0 += a * rows[p] + b * rows[q] + c * rows[r] + d * rows[t]
                        s1 += a * rows[p + L1] + b * rows[q + L1] + c * rows[r + L1] + d * rows[t + L1]
                        s2 += a * rows[p + L2] + b * rows[q + L2] + c * rows[r + L2] + d * rows[t + L2]
                        s3 += a * rows[p + L3] + b * rows[q + L3] + c * rows[r + L3] + d * rows[t + L3]
                        s4 += a * rows[p + L4] + b * rows[q + L4] + c * rows[r + L4] + d * rows[t + L4]
                        s5 += a * rows[p + L5] + b * rows[q + L5] + c * rows[r + L5] + d * rows[t + L5]
                        s6 += a * rows[p + L6] + b * rows[q + L6] + c * rows[r + L6] + d * rows[t + L6]
                        s7 += a * rows[p + L7] + b * rows[q + L7] + c * rows[r + L7] + d * rows[t + L7]
                        s8 += a * rows[p + L8] + b * rows[q + L8] + c * rows[r + L8] + d * rows[t + L8]
                        s9 += a * rows[p + L9] + b * rows[q + L9] + c * rows[r + L9] + d * rows[t + L9]
                        s10 += a * rows[p + L10] + b * rows[q + L10] + c * rows[r + L10] + d * rows[t + L10]
                        s11 += a * rows[p + L11] + b * rows[q + L11] + c * rows[r + L11] + d * rows[t + L11]
                        s12 += a * rows[p + L12] + b * rows[q + L12] + c * rows[r + L12] + d * rows[t + L12]
                        s13 += a * rows[p + L13] + b * rows[q + L13] + c * rows[r + L13] + d * rows[t + L13]
                        s14 += a * rows[p + L14] + b * rows[q + L14] + c * rows[r + L14] + d * rows[t + L14]
                        s15 += a * rows[p + L15] + b * rows[q + L15] + c * rows[r + L15] + d * rows[t + L15]
                    out[g, z, y, x] = s0
                    out[g, z, y + 1, x] = s1
                    out[g, z, y + 2, x] = s2
                    out[g, z, y + 3, x] = s3
                    out[g, z, y + 4, x] = s4
                    out[g, z, y + 5, x] = s5
                    out[g, z, y + 6, x] = s6
                    out[g, z, y + 7, x] = s7
                    out[g, z, y + 8, x] = s8
                    out[g, z, y + 9, x] = s9
                    out[g, z, y + 10, x] = s10
                    out[g, z, y + 11, x] = s11
                    out[g, z, y + 12, x] = s12
                    out[g, z, y + 13, x] = s13
                    out[g, z, y + 14, x] = s14
                    out[g, z, y + 15, x] = s15


def project_sheared(volume: np.ndarray, position: np.ndarray, offset: np.ndarray, extent: Sequence[int]) -> np.ndarray:
    """See `reference.project_sheared`."""
    size = int(np.prod(extent))
    out = np.zeros(len(position) * size + LANES, np.float32)  # writing LANES at a time may run past the end
    _project_sheared(np.ascontiguousarray(volume), position, offset, tuple(extent), out)
    return out[:len(position) * size].reshape((len(position),) + tuple(extent))


@_jit
def _project_sheared(volume: np.ndarray, position: np.ndarray, offset: np.ndarray, extent: Tuple[int, int, int],
                     rows: np.ndarray) -> None:
    n_u, n_phases, n_y = extent
    nz, ny, nx = volume.shape
    padded = ny + -ny % LANES
    column = np.zeros(padded, np.float32)
    for z in range(nz):
        for x in range(nx):
            _column(volume, z, x, column)
            for i in range(len(position)):
                j, k, line, a, b, c, d = _taps(position[i], offset[i], extent, ny, x, z)
                base = i * n_u * n_phases * n_y
                for p, f in ((base + j, a), (base + k, b), (base + j + line, c), (base + k + line, d)):
                    if f == np.float32(0):
                        continue
                    for y in range(0, padded, LANES):
                        v, o = np.uintp(y), np.uintp(p) + np.uintp(y)
                        rows[o] += f * column[v]
                        rows[o + L1] += f * column[v + L1]
                        rows[o + L2] += f * column[v + L2]
                        rows[o + L3] += f * column[v + L3]
                        rows[o + L4] += f * column[v + L4]
                        rows[o + L5] += f * column[v + L5]
                        rows[o + L6] += f * column[v + L6]
                        rows[o + L7] += f * column[v + L7]
                        rows[o + L8] += f * column[v + L8]
                        rows[o + L9] += f * column[v + L9]
                        rows[o + L10] += f * column[v + L10]
                        rows[o + L11] += f * column[v + L11]
                        rows[o + L12] += f * column[v + L12]
                        rows[o + L13] += f * column[v + L13]
                        rows[o + L14] += f * column[v + L14]
                        rows[o + L15] += f * column[v + L15]
