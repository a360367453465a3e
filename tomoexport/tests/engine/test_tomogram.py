"""Whole tomograms: laws that hold whatever the data."""

import numpy as np
import pytest

from tomoexport.engine.ctf import Ctf, Optics
from tomoexport.engine.geometry import TiltSeriesGeometry
from tomoexport.engine.preprocess import PreparedStack
from tomoexport.engine.tomogram import reconstruct_tomogram, setup_tomogram


def series(rng, n=9, **more):
    values = dict(ts_id="a", image_shape=(96, 80), pixel_size=4.0, tilt=np.linspace(-48, 48, n), axis=np.full(n, 20.0),
                  shift=rng.normal(0, 8, (n, 2)), dose=np.arange(n) * 3.0, volume_size=(240, 280, 160))
    return TiltSeriesGeometry(**dict(values, **more))


def bead(geometry, where, sigma=6.0):
    """Images of a Gaussian bead, one or more."""
    h, w = geometry.image_shape
    y, x = (np.mgrid[:h, :w] - np.array([h // 2, w // 2])[:, None, None]) * geometry.pixel_size
    xy = geometry.project(where).xy
    images = np.exp(-((x - xy[..., 0, None, None]) ** 2 + (y - xy[..., 1, None, None]) ** 2) / (2 * sigma ** 2)).sum(0)
    n = geometry.n_tilts
    return PreparedStack(images.astype(np.float32), (4.0, 4.0), np.zeros(n, bool), np.zeros(n, int))


def ctf(n):
    return Ctf(Optics(), np.full(n, 2e4), np.full(n, 1.9e4), np.full(n, 10.0))


def centre_of(volume, plan):
    """Top of parabolas through the brightest voxel and its neighbours, angstrom from the tomogram centre, xyz."""
    peak = np.array(np.unravel_index(volume.argmax(), volume.shape))
    top = peak.astype(float)
    for axis, step in enumerate(np.eye(3, dtype=int)):
        below, here, above = (volume[tuple(peak + i * step)] for i in (-1, 0, 1))
        top[axis] += 0.5 * (below - above) / (below - 2 * here + above)
    return (top[::-1] - plan.centre) * plan.pixel_size


@pytest.mark.parametrize("change", [
    {}, {"xtilt": np.full(9, 4.0)}, {"axis": np.linspace(15, 25, 9)}, {"axis": np.full(9, 100.0)},
    {"magnification": np.eye(2) * np.linspace(0.97, 1.03, 9)[:, None, None]},
    {"tilt": np.zeros(9), "xtilt": np.linspace(-48, 48, 9)},
    {"magnification": np.eye(2) + np.array([[0, 0.02], [0.01, 0]]) * np.ones((9, 1, 1))}],
    ids=["plain", "x-tilt", "axis per tilt", "axis across", "magnification", "tilt about x", "skew"])
@pytest.mark.parametrize("pixel", [4.0, 5.3])
def test_a_bead_appears_where_it_is(rng, cpu, change, pixel):
    g = series(rng, **change)
    where = np.array([[31.0, -52.0, 23.0]])
    plan = setup_tomogram(g, pixel)
    volume, = reconstruct_tomogram(bead(g, where), g, None, plan, cpu, "none", False)
    assert np.linalg.norm(centre_of(volume, plan) - where[0]) < 0.3 * pixel


def test_halves_average_to_the_whole(rng, cpu):
    g = series(rng)
    images = rng.standard_normal((9, 96, 80)).astype(np.float32)
    stack = PreparedStack(images, (4.0, 4.0), np.zeros(9, bool), np.zeros(9, int))
    group = np.arange(9) % 2
    plan = setup_tomogram(g, 6.0, ctf(9))
    whole, = reconstruct_tomogram(stack, g, ctf(9), plan, cpu)
    full, odd, even = reconstruct_tomogram(stack, g, ctf(9), plan, cpu, group=group)
    assert np.allclose(whole, full, atol=1e-6 * full.std() + 1e-9)
    assert np.allclose(0.5 * (odd + even), full, atol=1e-5 * full.std())
    assert abs(np.corrcoef(odd.ravel(), even.ravel())[0, 1]) < 0.2


def test_rows_and_general_kernel_agree(rng, cpu):
    g = series(rng)
    where = rng.uniform(-60, 60, (8, 3))
    a, = reconstruct_tomogram(bead(g, where), g, ctf(9), setup_tomogram(g, 4.0, ctf(9)), cpu)
    tipped = g.replace(xtilt=np.full(9, 1e-5))  # takes the general way, moves nothing
    b, = reconstruct_tomogram(bead(g, where), tipped, ctf(9), setup_tomogram(tipped, 4.0, ctf(9)), cpu)
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.998


def test_threads_change_nothing(rng, cpu):
    from tomoexport.engine.backend import select_backend
    g = series(rng)
    stack = bead(g, rng.uniform(-60, 60, (8, 3)))
    a, = reconstruct_tomogram(stack, g, None, setup_tomogram(g, 5.0), cpu, "none")
    b, = reconstruct_tomogram(stack, g, None, setup_tomogram(g, 5.0), select_backend("cpu", 1), "none")
    assert np.array_equal(a, b)


@pytest.mark.parametrize("n", [1, 2])
def test_F17_one_and_two_tilts(rng, cpu, n):
    g = series(rng, n, tilt=np.linspace(0, 40, n))
    where = np.array([[10.0, 20.0, 0.0]])
    volume, = reconstruct_tomogram(bead(g, where), g, ctf(n), setup_tomogram(g, 4.0, ctf(n)), cpu, "wiener")
    assert np.isfinite(volume).all() and volume.std() > 0


def test_weights_follow_the_axis_that_there_is(rng, cpu):
    """The same tilts about x as about y: the bead's profile across the axis is the same, turned."""
    n = 21
    angle = np.linspace(-60, 60, n)
    profiles = []
    for tilt, xtilt, axis in ((angle, 0 * angle, 2), (0 * angle, angle, 1)):
        g = series(rng, n, tilt=tilt, xtilt=xtilt, axis=np.zeros(n), shift=np.zeros((n, 2)), image_shape=(96, 96),
                   volume_size=(240, 240, 240))
        volume, = reconstruct_tomogram(bead(g, np.zeros((1, 3))), g, None, setup_tomogram(g, 4.0), cpu, "none", False)
        profile = np.take(volume, 30, axis=3 - axis)[30] if axis == 2 else volume[30, :, 30]
        profiles.append(profile[22:39] / profile[30])
    assert np.abs(profiles[0] - profiles[1]).max() < 0.05


def test_a_binned_voxel_is_its_unbinned_one():
    g = series(np.random.default_rng(0), volume_size=(4 * 63, 4 * 70, 4 * 40))
    assert np.allclose(setup_tomogram(g, 7.3).centre, np.array([31, 35, 20]) * 4 / 7.3)
    assert np.allclose(setup_tomogram(g, 8.0).centre, [15.5, 17.5, 10])


def test_slabs_are_thin_enough():
    g = series(np.random.default_rng(0), volume_size=(4000, 4000, 2000))
    coarse, fine = setup_tomogram(g, 10.0, ctf(9)), setup_tomogram(g, 3.0, ctf(9))
    assert coarse.n_slabs == 1 and fine.n_slabs > 3
    lam = Optics().wavelength
    assert np.pi * lam * fine.slab_height / 2 / (4 * 9.0) <= np.pi / 4 + 1e-9
    assert setup_tomogram(g, 3.0).n_slabs == 1
    assert setup_tomogram(g, 7.0).shape == (286, 572, 572)
