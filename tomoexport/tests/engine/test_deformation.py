"""Local alignment: movement, warp and angles of a series, and what they must not change."""

from dataclasses import replace

import numpy as np
import pytest

from tomoexport.engine import geometry as G
from tomoexport.engine.deformation import Deformation
from tomoexport.engine.grids import CubicGrid, MultilinearGrid
from tomoexport.engine.turn import turn_series
from tomoexport.errors import InputError

N, PIXEL, SHAPE, VOLUME = 7, 2.0, (100, 120), (240.0, 200.0, 100.0)


def series(rng, **local):
    """A series whose deformation has the kinds asked for."""
    kinds = {
        "movement": lambda: tuple(CubicGrid(rng.normal(0, 5, (N, 3, 4))) for _ in "xy"),
        "warp": lambda: tuple(MultilinearGrid(rng.normal(0, 5, (3, 2, 3, 2))) for _ in "xyz"),
        "angle": lambda: tuple(CubicGrid(rng.normal(0, 3, (N, 2, 2))) for _ in "xyz"),
    }
    grids = {name: make() for name, make in kinds.items() if local.get(name, True)}
    dose = np.array([3.0, 1, 0, 2, 4, 5, 6])
    deformation = Deformation(np.arange(N) / (N - 1), dose / 6, (240.0, 200.0), (120.0, 100.0), VOLUME, **grids)
    return G.TiltSeriesGeometry("a", SHAPE, PIXEL, np.linspace(-45, 45, N), rng.uniform(-90, 90, N),
                                rng.normal(0, 10, (N, 2)), dose, VOLUME, deformation=deformation)


@pytest.fixture
def points(rng):
    return rng.uniform(-0.5, 0.5, (5, 3)) * VOLUME


def by_hand(g, point, t):
    """Image position, depth and matrix of one point in one tilt, written out."""
    d, R = g.deformation, g.rotation[t]
    x, y, z = point / np.array(VOLUME) + 0.5
    moved = point + [float(grid(x, y, z, d.dose[t])) for grid in d.warp]
    turned = R @ moved
    seen = turned[:2] + g.shift[t]
    u, v = (seen + d.image_centre) / d.image_size
    gx, gy, gz = (grid(x, y, [t / (N - 1)])[0] for grid in d.angle)
    xy = seen - [grid(u, v, [t / (N - 1)])[0] for grid in d.movement]
    return xy, turned[2], (G.rotation_z(gz) @ G.rotation_y(gy) @ G.rotation_x(gx) @ R)[:2]


def test_projection_is_what_the_formula_says(rng, points):
    g = series(rng)
    found = g.project(points)
    assert found.matrix.shape == (5, N, 2, 3)
    for i, point in enumerate(points):
        for t in range(N):
            xy, depth, matrix = by_hand(g, point, t)
            assert np.allclose(found.xy[i, t], xy) and np.isclose(found.depth[i, t], depth)
            assert np.allclose(found.matrix[i, t], matrix)


def test_angles_turn_no_positions_and_move_no_depth(rng, points):
    g = series(rng, movement=False, warp=False)
    found, plain = g.project(points), g.replace(deformation=None).project(points)
    assert np.array_equal(found.xy, plain.xy) and np.array_equal(found.depth, plain.depth)
    assert np.abs(found.matrix - plain.matrix).max() > 0.01


def test_movement_turns_nothing_and_moves_no_depth(rng, points):
    g = series(rng, angle=False, warp=False)
    found, plain = g.project(points), g.replace(deformation=None).project(points)
    assert np.array_equal(found.matrix, plain.matrix) and np.array_equal(found.depth, plain.depth)
    assert np.abs(found.xy - plain.xy).max() > 1


def test_a_constant_movement_is_subtracted(rng, points):
    g = series(rng, movement=False, angle=False, warp=False)
    constant = tuple(CubicGrid([[[v]]]) for v in (3.0, -2.0))
    moved = g.replace(deformation=replace(g.deformation, movement=constant))
    assert np.allclose(moved.project(points).xy, g.project(points).xy - (3, -2))


def test_a_warp_adds_to_the_position_by_dose(rng, points):
    g = series(rng, movement=False, angle=False, warp=False)
    ramp = np.arange(2.0).reshape(2, 1, 1, 1) * 12  # 12 A along z at the end
    warp = tuple(MultilinearGrid(v) for v in (0 * ramp, 0 * ramp, ramp))
    found = g.replace(deformation=replace(g.deformation, warp=warp)).project(points)
    at_dose = points[:, None] + np.array([0, 0, 12.0]) * g.deformation.dose[:, None]
    assert np.allclose(found.xy, g.project(at_dose).xy)
    assert np.allclose(found.depth, g.project(at_dose).depth)


def test_angles_that_are_the_same_everywhere_give_one_matrix(rng, points):
    g = series(rng, movement=False, warp=False, angle=False)
    flat = tuple(CubicGrid(rng.normal(0, 3, (N, 1, 1))) for _ in "xyz")
    found = g.replace(deformation=replace(g.deformation, angle=flat)).project(points)
    assert found.matrix.shape == (1, N, 2, 3)
    gx, gy, gz = (grid.values[:, 0, 0] for grid in flat)
    expected = (G.rotation_z(gz) @ G.rotation_y(gy) @ G.rotation_x(gx) @ g.rotation)[:, :2]
    assert np.allclose(found.matrix[0], expected)


def test_particle_frames_come_after_the_local_angles(rng, points):
    g = series(rng)
    frames = G.rotation_z(rng.uniform(-180, 180, 5)) @ G.rotation_y(rng.uniform(0, 180, 5))
    assert np.allclose(g.project(points, frames).matrix, g.project(points).matrix @ frames[:, None])
    per_tilt = np.repeat(frames[:, None], N, axis=1)
    assert np.allclose(g.project(points, per_tilt).matrix, g.project(points, frames).matrix)


def test_points_may_differ_between_tilts(rng, points):
    g = series(rng)
    path = points[:, None] + rng.normal(0, 9, (5, N, 3))
    found = g.project(path)
    for t in range(N):
        alone = g.project(path[:, t])
        for name in ("xy", "depth", "matrix"):
            assert np.allclose(getattr(found, name)[:, t], getattr(alone, name)[:, t]), name


@pytest.mark.parametrize("index", [np.array([1, 0, 1, 1, 0, 0, 1], bool), np.array([6, 2, 3])])
def test_selected_tilts_keep_their_place_in_the_grids(rng, points, index):
    g = series(rng)
    found, whole = g.select(index).project(points), g.project(points)
    for name in ("xy", "depth", "matrix"):
        assert np.array_equal(getattr(found, name), getattr(whole, name)[:, index]), name
    assert g.replace(shift=g.shift).deformation is g.deformation


def test_images_may_be_turned(rng, points):
    g = series(rng, angle=False)
    turn, turned, _ = turn_series(g, None, PIXEL)
    assert turn is not None
    expected = np.einsum("tij,ntj->nti", G.rotation_z(turn.angle)[:, :2, :2], g.project(points).xy)
    assert np.allclose(turned.project(points).xy, expected)
    assert np.array_equal(turned.project(points).depth, g.project(points).depth)


def test_turned_particles_turn_with_the_images(rng, points):
    g = series(rng)
    assert turn_series(g, None, PIXEL)[0] is None
    angle = rng.uniform(-90, 90, N)
    other = g.replace(axis=g.axis + angle, deformation=g.deformation.turned(angle))
    expected = G.rotation_z(angle)[:, :2, :2] @ g.project(points).matrix
    assert np.allclose(other.project(points).matrix, expected)


def test_whole_tomograms_use_the_global_alignment(rng):
    g = series(rng)
    plain = g.replace(deformation=None)
    for name in ("matrix", "rotation", "shift"):
        assert np.array_equal(getattr(g, name), getattr(plain, name))


def test_numbers_tell_deformations_apart(rng):
    d = series(rng).deformation
    assert d.numbers() == replace(d).numbers()
    others = [replace(d, time=d.time / 2), replace(d, dose=d.dose / 2), d.turned(1.0), replace(d, angle=None),
              replace(d, movement=d.movement[::-1]), replace(d, warp=d.warp[::-1]), replace(d, volume_size=(1, 2, 3)),
              replace(d, movement=tuple(CubicGrid(grid.values, (0.1, 0, 0)) for grid in d.movement))]
    assert all(other.numbers() != d.numbers() for other in others)


def test_wrong_numbers_are_named(rng):
    g = series(rng)
    with pytest.raises(InputError, match="deformation of 3 tilts"):
        g.replace(deformation=g.deformation.select(np.arange(3)))
    for change, word in [(dict(dose=[0.0]), "dose"), (dict(image_size=(0, 1)), "image size"),
                         (dict(volume_size=(1, 1)), "volume size"), (dict(warp=g.deformation.movement), "warp")]:
        with pytest.raises(InputError, match=word):
            replace(g.deformation, **change)
