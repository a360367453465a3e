"""Grids of local alignments: splines and multilinear interpolation on the unit cube."""

import numpy as np
import pytest
from scipy.interpolate import CubicSpline, RegularGridInterpolator

from tomoexport.engine import grids
from tomoexport.engine.grids import CubicGrid, MultilinearGrid
from tomoexport.errors import InputError


def natural(values, place, margins=(0, 0, 0)):
    """The same spline at one place xyz, axis by axis and by another program."""
    for n, p, margin in zip(values.shape, place[::-1], margins[::-1]):
        nodes = np.linspace(margin, 1 - margin, n)
        values = CubicSpline(nodes, values, bc_type="natural")(p) if n > 1 else values[0]
    return values


@pytest.mark.parametrize("shape", [(5, 4, 6), (41, 4, 6), (2, 3, 2), (1, 4, 1), (7, 1, 5), (1, 1, 1)])
def test_it_is_the_natural_spline(rng, shape):
    values, places = rng.normal(size=shape), rng.uniform(size=(40, 3))
    found = CubicGrid(values)(*places.T)
    assert np.allclose(found, [natural(values, p) for p in places], atol=1e-12)


def test_margins_move_the_nodes_inwards(rng):
    values, margins = rng.normal(size=(4, 5, 3)), (1 / 6, 0.1, 0.125)
    places = rng.uniform(size=(40, 3))
    found = CubicGrid(values, margins)(*places.T)
    assert np.allclose(found, [natural(values, p, margins) for p in places], atol=1e-12)
    assert np.abs(found - CubicGrid(values)(*places.T)).max() > 0.1
    node = [m + i * (1 - 2 * m) / (n - 1) for m, i, n in zip(margins, (1, 3, 2), (3, 5, 4))]
    assert np.isclose(CubicGrid(values, margins)(*node)[0], values[2, 3, 1])


def test_one_value_per_tilt_comes_back(rng):
    values = rng.normal(size=(41, 1, 1))
    grid = CubicGrid(values)
    assert np.allclose(grid(0.3, rng.uniform(size=(5, 1)), np.arange(41) / 40), values[:, 0, 0], atol=1e-13)
    assert grid.flat and not CubicGrid(np.zeros((1, 2, 1))).flat


def test_outside_counts_as_the_end(rng):
    grid = CubicGrid(rng.normal(size=(3, 4, 5)))
    assert np.allclose(grid([-3.0, 0.2], [0.4, 7.0], [-1.0, 2.0]), grid([0.0, 0.2], [0.4, 1.0], [0.0, 1.0]))


def test_many_places_are_looked_up_in_pieces(rng, monkeypatch):
    grid, x, y = CubicGrid(rng.normal(size=(3, 4, 5))), *rng.uniform(size=(2, 50, 3))
    z = np.array([0.0, 0.3, 1.0])
    whole = grid(x, y, z)
    monkeypatch.setattr(grids, "PIECE", 8)
    assert np.array_equal(grid(x, y, z), whole)


def test_four_axes_are_linear_between_nodes(rng):
    values = rng.normal(size=(3, 2, 4, 5))
    places = rng.uniform(size=(60, 4))
    axes = [np.linspace(0, 1, n) for n in values.shape]
    expected = RegularGridInterpolator(axes, values)(places[:, ::-1])
    grid = MultilinearGrid(values)
    assert np.allclose(grid(*places.T), expected, atol=1e-12)
    assert np.isclose(grid(-1.0, 5.0, 1.0, 0.5), values[1, 1, 3, 0])


def test_an_axis_with_one_node_is_constant(rng):
    values = rng.normal(size=(3, 1, 1, 2))
    x, w = rng.uniform(size=(2, 9))
    grid = MultilinearGrid(values)
    assert np.allclose(grid(x, 0.1, 0.9, w), grid(x, 0.8, 0.0, w))
    assert np.allclose(grid([0.0, 1.0], 0.1, 0.9, [0.5, 1.0]), [values[1, 0, 0, 0], values[2, 0, 0, 1]])


@pytest.mark.parametrize("make", [lambda: CubicGrid([[1.0]]), lambda: CubicGrid([[[np.nan]]]),
                                  lambda: CubicGrid(np.zeros((2, 2, 2)), (0.5, 0, 0)),
                                  lambda: MultilinearGrid(np.zeros((2, 2, 2)))])
def test_what_is_no_grid_is_refused(make):
    with pytest.raises(InputError, match="grid"):
        make()
