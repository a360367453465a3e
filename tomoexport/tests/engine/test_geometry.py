"""Laws of the geometry: signs, centres, transforms there and back."""

import numpy as np
import pytest

from tomoexport.engine import geometry as G
from tomoexport.errors import InputError


def series(rng, n=7, magnified=False, shape=(100, 120), **more):
    magnification = None
    if magnified:
        magnification = np.eye(2) + rng.normal(0, 0.01, (n, 2, 2))
    values = dict(
        ts_id="a",
        image_shape=shape,
        pixel_size=2.0,
        tilt=rng.uniform(-60, 60, n),
        axis=rng.uniform(-90, 90, n),
        shift=rng.normal(0, 20, (n, 2)),
        dose=np.arange(n) * 3.0,
        volume_size=(240, 200, 100),
        xtilt=rng.uniform(-3, 3, n),
        magnification=magnification,
    )
    return G.TiltSeriesGeometry(**dict(values, **more))


def test_the_three_axes_are_right_handed():
    x, y, z = np.eye(3)
    assert np.allclose(G.rotation_x(90) @ y, z)
    assert np.allclose(G.rotation_y(90) @ z, x)
    assert np.allclose(G.rotation_z(90) @ x, y)


def test_a_positive_tilt_moves_what_is_up_to_the_right(rng):
    g = series(rng, 1, tilt=[30.0], axis=[0.0], xtilt=[0.0], shift=[[0, 0]])
    found = g.project([[0, 0, 10.0], [10.0, 0, 0]])
    assert np.allclose(found.xy[:, 0], [[5, 0], [10 * np.cos(np.pi / 6), 0]])
    assert np.allclose(found.depth[:, 0], [10 * np.cos(np.pi / 6), -5])


def test_the_matrix_is_the_derivative_of_the_projection(rng):
    g = series(rng, magnified=True)
    points, step = rng.normal(0, 50, (4, 3)), rng.normal(0, 1, 3)
    a, b = g.project(points), g.project(points + step)
    assert np.allclose(b.xy - a.xy, a.matrix @ step)


@pytest.mark.parametrize("shape", [(100, 120), (101, 120), (101, 121)])
def test_imod_transforms_there_and_back(rng, shape):
    g = series(rng, magnified=True, shape=shape)
    back = G.from_imod_transform(G.to_imod_transform(g), shape, g.pixel_size)
    linear = lambda axis, m: m @ G.rotation_z(axis)[:, :2, :2]  # noqa: E731
    assert np.allclose(linear(back["axis"], back["magnification"]), linear(g.axis, g.magnification))
    assert np.allclose(back["shift"], g.shift)


def test_imod_centre_is_half_a_pixel_below():
    identity = np.eye(3)[None]
    assert np.allclose(G.from_imod_transform(identity, (10, 10), 4.0)["shift"], -2.0)
    assert np.allclose(G.from_imod_transform(identity, (11, 10), 4.0)["shift"], [[-2.0, 0.0]])
    assert np.allclose(G.from_imod_transform(identity, (10, 10), 4.0, centre="relion")["shift"], 0.0)


def test_projection_matrices_there_and_back(rng):
    g = series(rng, magnified=True)
    size = (120, 100, 50)
    back = g.replace(**G.from_projection_matrices(G.projection_matrices(g), g.image_shape, g.pixel_size, size))
    points = rng.normal(0, 60, (9, 3))
    assert np.allclose(back.project(points).xy, g.project(points).xy, atol=1e-9)
    assert np.allclose(back.project(points).depth, g.project(points).depth, atol=0.05 * 60)  # magnified: no rotation


def test_projection_matrices_without_magnification_keep_the_angles(rng):
    g = series(rng)
    back = G.from_projection_matrices(G.projection_matrices(g), g.image_shape, g.pixel_size, (120, 100, 50))
    for name in ("tilt", "axis", "xtilt", "shift"):
        assert np.allclose(back[name], getattr(g, name)), name
    assert np.allclose(back["magnification"], np.eye(2))


def test_turning_geometry_and_specimen_together_changes_nothing(rng):
    g = series(rng, xtilt=np.zeros(7))
    turn = G.rotation_y(20.0)
    points = rng.normal(0, 50, (5, 3))
    assert np.allclose(g.replace(tilt=g.tilt + 20).project(points).xy, g.project(points @ turn.T).xy)


def test_selecting_tilts_selects_everything(rng):
    g = series(rng, magnified=True)
    mask = np.array([1, 0, 1, 1, 0, 0, 1], bool)
    points = rng.normal(0, 50, (3, 3))
    assert np.allclose(g.select(mask).project(points).xy, g.project(points).xy[:, mask])
    assert list(g.select(mask).acq_order) == list(g.acq_order[mask])


def test_coverage_counts_the_whole_pixels(rng):
    g = series(rng, 1)
    edge = np.array([[-120.0, 0], [-120.1, 0], [118.0, 0], [118.1, 0]])
    assert list(g.coverage(edge)) == [True, False, True, False]
    assert not g.coverage(edge, margin=2.5).any()


@pytest.mark.parametrize("change, word", [
    (dict(tilt=[0.0, np.nan], axis=[0, 0], shift=np.zeros((2, 2)), dose=[0, 1], xtilt=[0, 0]), "tilt of tilt 2"),
    (dict(pixel_size=0.0), "pixel size"), (dict(hand=0), "hand"), (dict(volume_size=(1, 2, 0)), "tomogram size"),
    (dict(dose=[1.0]), "dose"), (dict(acq_order=[0] * 7), "acquisition order"),
    (dict(magnification=np.zeros((7, 2, 2))), "singular"),
    (dict(magnification=np.diag([1.0, -1.0]) * np.ones((7, 1, 1))), "mirrors"), (dict(axis=[1.0]), "axis"),
    (dict(hand=np.nan), "hand")])
def test_wrong_numbers_are_named(rng, change, word):
    with pytest.raises(InputError, match=word):
        series(rng, **change)
