"""Functions on the unit cube that are given at the nodes of a grid, as Warp and M store local alignments.

Every axis runs from 0 to 1.  An axis with a single node is constant.  Values are indexed with the last axis of the
name first (zyx, wzyx); coordinates and margins are given in the order of the name (x, y, z, w).
"""

from dataclasses import dataclass, field
from itertools import product
from typing import Any, Callable, List, Sequence, Tuple, Union

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve_banded

from ..errors import InputError

PIECE = 1 << 18  # values that are looked up at once


@dataclass(frozen=True, eq=False)
class CubicGrid:
    """Interpolating cubic B-spline with natural ends: its second derivative is 0 at the first and the last node.

    Parameters
    ----------
    values : ndarray `(nz, ny, nx)`
        What the spline is at its nodes.
    margins : (float, float, float)
        xyz, 0 to below 1/2: the n nodes of an axis lie at ``margin + i (1 - 2 margin) / (n - 1)``.

    Raises
    ------
    InputError
        If the values are no finite numbers on three axes, or a margin leaves no room for nodes.
    """

    values: np.ndarray
    margins: Tuple[float, float, float] = (0.0, 0.0, 0.0)
    coefficients: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        values = _checked(self.values, 3)
        margins = tuple(float(m) for m in self.margins)
        if len(margins) != 3 or not all(0 <= m < 0.5 for m in margins):
            raise InputError("grid", "margins %s" % (margins,), "Give three margins from 0 to below 0.5")
        coefficients = values
        for axis in range(3):
            coefficients = _spline_coefficients(coefficients, axis)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "margins", margins)
        object.__setattr__(self, "coefficients", coefficients)

    @property
    def flat(self) -> bool:
        """Whether it depends on z alone."""
        return self.values.shape[1:] == (1, 1)

    def __call__(self, x: Union[float, np.ndarray], y: Union[float, np.ndarray], z: np.ndarray) -> np.ndarray:
        """Values of the spline.

        Parameters
        ----------
        x, y : float or ndarray, broadcastable to `(..., T)`
            0 to 1; what is outside counts as the nearer end. In margins the outermost piece is continued.
        z : ndarray `(T,)`
            The same.

        Returns
        -------
        ndarray `(..., T)` float64
        """
        nz, ny, nx = self.values.shape
        index, weight = _cubic_taps(np.atleast_1d(z), nz, self.margins[2])
        # One spline of x and y for every z.
        layers: Any = sum(w[:, None, None] * self.coefficients[i] for i, w in zip(index, weight))
        which = np.arange(len(layers))

        def look_up(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            taps = [_cubic_taps(y, ny, self.margins[1]), _cubic_taps(x, nx, self.margins[0])]
            return _weighted(taps, lambda iy, ix: layers[which, iy, ix])

        return _in_pieces(look_up, *np.broadcast_arrays(x, y, np.atleast_1d(z))[:2])


@dataclass(frozen=True, eq=False)
class MultilinearGrid:
    """Linear between the nodes along each of four axes, nodes at ``i / (n - 1)``.

    Parameters
    ----------
    values : ndarray `(nw, nz, ny, nx)`
        What it is at its nodes.

    Raises
    ------
    InputError
        If the values are no finite numbers on four axes.
    """

    values: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _checked(self.values, 4))

    def __call__(self, x: Union[float, np.ndarray], y: Union[float, np.ndarray], z: Union[float, np.ndarray],
                 w: Union[float, np.ndarray]) -> np.ndarray:
        """Values between the nodes.

        Parameters
        ----------
        x, y, z, w : float or ndarray, broadcastable to `(...)`
            0 to 1; what is outside counts as the nearer end.

        Returns
        -------
        ndarray `(...)` float64
        """
        nw, nz, ny, nx = self.values.shape

        def look_up(x: np.ndarray, y: np.ndarray, z: np.ndarray, w: np.ndarray) -> np.ndarray:
            taps = [_linear_taps(w, nw), _linear_taps(z, nz), _linear_taps(y, ny), _linear_taps(x, nx)]
            return _weighted(taps, lambda *index: self.values[index])

        return _in_pieces(look_up, *np.broadcast_arrays(x, y, z, w))


def _checked(values: ArrayLike, ndim: int) -> np.ndarray:
    values = np.array(values, np.float64)
    if values.ndim != ndim or values.size == 0:
        raise InputError("grid", "its values have shape %s" % (values.shape,), "Give values on %d axes" % ndim)
    if not np.isfinite(values).all():
        raise InputError("grid", "a value is not a finite number", "Correct the file that holds it")
    values.flags.writeable = False
    return values


def _spline_coefficients(values: np.ndarray, axis: int) -> np.ndarray:
    """B-spline coefficients along an axis, one more at either end; a single node stays as it is.

    Notes
    -----
    ``(c[i-1] + 4 c[i] + c[i+1]) / 6`` is the value at node i (de Boor, A Practical Guide to Splines, chapter IX); a
    second derivative ``c[i-1] - 2 c[i] + c[i+1]`` of 0 at the ends makes the coefficient there the value itself.
    """
    n = values.shape[axis]
    if n == 1:
        return values
    moved = np.moveaxis(values, axis, 0).reshape(n, -1)
    bands = np.zeros((3, n))
    bands[0, 2:] = bands[2, :-2] = 1 / 6
    bands[1] = 4 / 6
    bands[1, [0, -1]] = 1.0
    inner = solve_banded((1, 1), bands, moved)
    out = np.concatenate([2 * inner[:1] - inner[1:2], inner, 2 * inner[-1:] - inner[-2:-1]])
    shape = (n + 2,) + tuple(np.delete(values.shape, axis))
    return np.ascontiguousarray(np.moveaxis(out.reshape(shape), 0, axis))


def _cubic_taps(place: np.ndarray, n: int, margin: float) -> Tuple[List[np.ndarray], List[np.ndarray]]:
    """Indices and weights of the coefficients that make up the spline at a place, each a list of arrays."""
    place = np.clip(np.asarray(place, np.float64), 0, 1)
    if n == 1:
        return [np.zeros(place.shape, int)], [np.ones(place.shape)]
    u = (place - margin) / (1 - 2 * margin) * (n - 1)
    first = np.clip(np.floor(u), 0, n - 2).astype(int)
    t = u - first
    weight = [(1 - t) ** 3 / 6, (3 * t ** 3 - 6 * t ** 2 + 4) / 6, (-3 * t ** 3 + 3 * t ** 2 + 3 * t + 1) / 6,
              t ** 3 / 6]
    return [first + i for i in range(4)], weight


def _linear_taps(place: np.ndarray, n: int) -> Tuple[List[np.ndarray], List[np.ndarray]]:
    """Indices and weights of the nodes about a place."""
    u = np.clip(np.asarray(place, np.float64), 0, 1) * (n - 1)
    if n == 1:
        return [np.zeros(u.shape, int)], [np.ones(u.shape)]
    first = np.clip(np.floor(u), 0, n - 2).astype(int)
    return [first, first + 1], [1 - (u - first), u - first]


def _weighted(taps: Sequence[Tuple[List[np.ndarray], List[np.ndarray]]], take: Callable[..., np.ndarray]) -> np.ndarray:
    """Sum over all combinations of one tap from each axis: the product of the weights times what ``take`` gives."""
    out: Any = 0.0
    for combination in product(*(range(len(index)) for index, _ in taps)):
        weight: Any = 1.0
        for (_, weights), i in zip(taps, combination):
            weight = weight * weights[i]
        out = out + weight * take(*(index[i] for (index, _), i in zip(taps, combination)))
    return out


def _in_pieces(look_up: Callable[..., np.ndarray], *places: np.ndarray) -> np.ndarray:
    """Look up many places a piece at a time, cut along the first axis: the last one may stand for something else."""
    step = max(1, PIECE * len(places[0]) // max(1, places[0].size)) if places[0].ndim > 1 else 0
    if not step or step >= len(places[0]):
        return look_up(*places)
    return np.concatenate([look_up(*(p[i:i + step] for p in places)) for i in range(0, len(places[0]), step)])
