"""Turned images: the same objects at turned places, and when a series can be turned."""

import numpy as np
import pytest

from tomoexport.engine.ctf import Ctf, Optics
from tomoexport.engine.geometry import TiltSeriesGeometry, rotation_z
from tomoexport.engine.preprocess import prepare_stack
from tomoexport.engine.turn import ALONG_X, runs_along_x, turn_series

SHAPE = (300, 260)


def series(axis, pixel_size=2.0, **more):
    n = len(axis)
    return TiltSeriesGeometry("a", SHAPE, pixel_size, np.linspace(-60, 60, n), np.array(axis, float),
                              np.linspace(-9, 12, 2 * n).reshape(n, 2), np.arange(n) * 3.0, (400.0, 400.0, 200.0),
                              **more)


def dots(shape, pixel_size, place, sigma):
    """An image of Gaussians, `place` in angstrom xy from its centre N//2."""
    y, x = ((np.arange(n) - n // 2) * pixel_size for n in shape)
    along = [np.exp(-(axis - p[:, None]) ** 2 / (2 * sigma ** 2)) for axis, p in zip((y, x), place.T[::-1])]
    weight = np.linspace(-1, 2, len(place))[:, None]
    return ((weight * along[0]).T @ along[1]).astype(np.float32)


@pytest.mark.parametrize("pixel_size", [2.0, 2.3, 3.1])
def test_points_are_found_where_the_turned_geometry_sees_them(rng, pixel_size):
    """Any axis; binned or not; values stay what they are."""
    geometry = series([85.3, -90.0, 0.0, 37.0, 180.0])
    points = rng.uniform(-90, 90, (12, 3))
    turn, turned, _ = turn_series(geometry, None, pixel_size)
    images = [dots(SHAPE, 2.0, place, 9.0) for place in geometry.project(points).xy.swapaxes(0, 1)]
    stack = prepare_stack(lambda t: images[t].copy(), ["a"] * 5, 2.0, pixel_size, False, False, turn=turn)
    plain = prepare_stack(lambda t: images[t].copy(), ["a"] * 5, 2.0, pixel_size, False, False)
    assert stack.images.shape[1:] == turn.shape and stack.pixel_size == (pixel_size, pixel_size)
    assert np.allclose(turned.matrix[:, 0], (0, 1, 0)) and runs_along_x(turned.matrix)
    assert np.allclose(turned.project(points).depth, geometry.project(points).depth)
    for t in range(5):
        expected = dots(turn.shape, pixel_size, turned.project(points).xy[:, t], 9.0)
        y, x = (np.arange(n) - n // 2 for n in turn.shape)
        inside = y[:, None] ** 2 + x ** 2 < (100 * 2.0 / pixel_size) ** 2  # neither tapered nor levelled much
        level = (stack.images[t] - expected)[inside].mean()
        error = (stack.images[t] - expected - level)[inside].std() / expected[inside].std()
        assert error < 0.02, "tilt %d" % t
        assert abs(plain.images[t].std() * plain.images[t].size ** 0.5 / (
            stack.images[t].std() * stack.images[t].size ** 0.5) - 1) < 0.01


def test_turned_images_are_normalised_alike(rng):
    noise = rng.standard_normal((2,) + SHAPE).astype(np.float32) + 5
    turn, _, _ = turn_series(series([85.3, 20.0]), None, 6.0)
    for normalize in (True, False):
        plain, turned = (prepare_stack(lambda t: noise[t].copy(), ["a"] * 2, 2.0, 6.0, True, normalize, turn=way).images
                         for way in (None, turn))
        # Corners of the spectrum that leave the turned square are gone.
        power = [np.sum(images.astype(np.float64) ** 2, axis=(1, 2)) for images in (plain, turned)]
        k = np.stack(np.meshgrid(*2 * [np.linspace(-1, 1, 201)])).reshape(2, -1)
        kept = [np.mean(np.abs(rotation_z(a)[:2, :2] @ k).max(axis=0) < 1) for a in turn.angle]
        assert np.allclose(power[1] / power[0], kept, rtol=0.03) and min(kept) < 0.9
        assert np.abs(turned.mean(axis=(1, 2))).max() < 1e-3 * turned.std()


def test_images_without_contrast_are_found():
    turn, _, _ = turn_series(series([85.3, 20.0]), None, 6.0)
    stack = prepare_stack(lambda t: np.full(SHAPE, 3.0, np.float32), ["a"] * 2, 2.0, 6.0, turn=turn)
    assert stack.empty.all() and not stack.images.any()


def test_the_numpy_backend_turns_alike(rng):
    noise = rng.standard_normal(SHAPE).astype(np.float32)
    turn, _, _ = turn_series(series([12.0]), None, 6.0)
    a, b = (prepare_stack(lambda t: noise.copy(), ["a"], 2.0, 6.0, turn=turn, backend=name).images
            for name in ("numpy", "cpu"))
    assert np.allclose(a, b, atol=1e-5)


def test_the_ctf_is_turned():
    """Along a direction of the turned image the CTF is that along the same direction before."""
    ctf = Ctf(Optics(), np.full(2, 30000.0), np.full(2, 27000.0), np.array([10.0, 75.0]), np.array([0.0, 30.0]))
    turn, _, turned = turn_series(series([85.3, 20.0]), ctf, 4.0)
    k = np.array([0.03, 0.05])
    for t in range(2):
        new = rotation_z(turn.angle[t])[:2, :2] @ k
        assert abs(ctf.values(*k)[t] - turned.values(*new)[t]) < 1e-9
        assert abs(ctf.values(*new)[t] - ctf.values(*k)[t]) > 0.01


@pytest.mark.parametrize("more", [{"xtilt": np.array([0.0, 0.1])},
                                  {"magnification": np.array([np.eye(2), 1.001 * np.eye(2)])}])
def test_what_cannot_be_turned_stays(more):
    geometry = series([85.3, 20.0], **more)
    turn, same, ctf = turn_series(geometry, None, 4.0)
    assert turn is None and same is geometry and ctf is None
    assert not runs_along_x(geometry.replace(axis=np.full(2, ALONG_X)).matrix)
