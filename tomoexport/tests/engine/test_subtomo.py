"""Sub-tomograms: gridding against an exact sum, and the 3D CTF as the transfer function of the volume."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.fft

from tomoexport.engine.ctf import Ctf, Optics
from tomoexport.engine.fourier import centre_phase, shell_correlation, sphere
from tomoexport.engine.geometry import TiltSeriesGeometry
from tomoexport.engine.gridding import grid_size, kernel_table
from tomoexport.engine.kernels import implementation
from tomoexport.engine.normalise import normalise_volume
from tomoexport.engine.phantom import Phantom, chiral_phantom
from tomoexport.engine.poses import matrix_from_zyz
from tomoexport.engine.preprocess import prepare_stack
from tomoexport.engine.simulate import SimulatedSeries, make_series, project_tilt
from tomoexport.engine.subtomo import (
    _spread,
    _to_real,
    _within,
    exact_windows,
    padded_box,
    reconstruct_subtomos,
    setup_subtomos,
    setup_visible,
)
from tomoexport.engine.turn import turn_series
from tomoexport.engine.weights import exact_filter, odd_even_groups, slice_density

pytestmark = pytest.mark.slow


def fan(n=41, axis=85.3, **more):
    return TiltSeriesGeometry(
        "fan",
        (256, 256),
        1.0,
        np.linspace(-60, 60, n),
        axis,
        np.zeros((n, 2)),
        np.arange(n) * 3.0,
        (100, 100, 100),
        **more,
    )


@pytest.mark.parametrize("axis", [85.3, -90.0])
def test_kaiser_bessel_gridding_against_the_exact_sum(rng, cpu, axis):
    """Box 64, 41 tilts, white noise, every conjugate pair counted once, radius below 28; by both ways of gridding."""
    box, geometry = 64, fan(axis=axis)
    grid = grid_size(box)
    windows = rng.standard_normal((1, 41, box, box)).astype(np.float32)
    data = scipy.fft.rfft2(windows) * centre_phase(box)
    cells = np.ascontiguousarray(np.swapaxes(geometry.matrix[None], -1, -2)) * (grid / box)
    plan = setup_subtomos(geometry, None, box, box, 1.0, cpu)
    assert (plan.terms is None) == (axis != -90)
    if plan.terms:
        volume = _spread(data * _within(box), np.abs(data), plan, None, cpu, False)[0][0]
    else:
        kernels, table = implementation(cpu), kernel_table(box, grid)
        folded = kernels.fold_grid(kernels.insert_slices(data, np.abs(data), cells, table, grid), grid)
        volume = _to_real(folded[0], plan, cpu)[0]
    qy, qx = np.meshgrid(np.fft.fftfreq(box, 1 / box), np.arange(box // 2 + 1), indexing="ij")
    chosen = (qx ** 2 + qy ** 2 < (box / 2) ** 2) & ~((qx == 0) & (qy < 0))
    points = rng.integers(-27, 28, (4000, 3))
    points = points[(points ** 2).sum(axis=1) < 28 ** 2]
    exact = np.zeros(len(points))
    for t in range(41):
        k = geometry.matrix[t].T @ np.stack([qx[chosen], qy[chosen]]) / box
        value = data[0, t][chosen] * np.where((qx[chosen] == 0) & (qy[chosen] == 0), 0.5, 1.0)
        exact += 2 * (np.exp(2j * np.pi * (points @ k)) @ value).real
    exact /= box ** 3
    got = volume[tuple(points[:, ::-1].T + box // 2)]
    error = np.sqrt(np.mean((got - exact) ** 2) / np.mean(exact ** 2))
    print("relative error %.5f" % error)
    assert error < 0.005


def object_in_a_series(rng, hand=-1, thickness=1000.0, astigmatism=1500.0, diameter=100.0):
    """Noise-free, undamaged images of one particle far from the centre, and what is needed to reconstruct it."""
    phantom = chiral_phantom(diameter, 12)
    drawn = make_series("a", (420, 440), 4.0, thickness, 41, 1, rng, diameter, hand=hand, astigmatism=astigmatism)
    angles = np.array([[30.0, 50.0, 70.0]])
    series = SimulatedSeries(drawn.geometry, drawn.ctf, np.array([[102.3, -51.7, 211.9]]), angles)
    images = -np.stack([project_tilt(series, phantom, t, decay=False) for t in range(41)])
    ctf = Ctf(drawn.ctf.optics, drawn.ctf.defocus_u, drawn.ctf.defocus_v, drawn.ctf.angle)
    found = series.geometry.project(series.position)
    position = (found.xy / 4.0 + np.array([220, 210]))[..., ::-1]
    turned = Phantom(phantom.centre @ matrix_from_zyz(*angles[0]).T, phantom.sigma, phantom.weight)
    return series.geometry, ctf, images, position, found.depth, turned, phantom


def deviation(volume, transfer, known, radius):
    """Largest difference of a volume and an object filtered by a 3D CTF, in units of the filtered object's peak."""
    filtered = scipy.fft.irfftn(scipy.fft.rfftn(known) * transfer, s=known.shape)
    inside = sphere(len(known), radius, dtype=bool).astype(bool)
    return np.abs(volume - filtered)[inside].max() / np.abs(filtered).max()


def turned_images(images, geometry, ctf, points):
    """What `object_in_a_series` gives, turned: images, geometry, CTF, positions of points in pixels."""
    turn, geometry, ctf = turn_series(geometry, ctf, 4.0)
    stack = prepare_stack(lambda t: images[t].copy(), ["a"] * len(images), 4.0, 4.0, invert=False, normalize=False,
                          turn=turn)
    return stack.images, geometry, ctf, stack.position_px(geometry.project(points).xy)


@pytest.mark.parametrize("hand, turn", [(-1, False), (1, False), (-1, True), (1, True)])
def test_an_exported_object_is_the_object_filtered_by_its_3d_ctf(rng, cpu, hand, turn):
    """Non-zero mean, astigmatism, depth, box cropped from the alias-free one; the particle reaches to 14 voxels."""
    geometry, ctf, images, position, depth, turned, phantom = object_in_a_series(rng, hand)
    box = 64
    padded, _ = padded_box(box, ctf, 4.0, phantom.diameter, 300.0)
    assert padded > box and abs(turned.weight.sum()) > 1
    known = turned.volume(box, 4.0)
    if turn:
        images, geometry, ctf, position = turned_images(images, geometry, ctf, [[102.3, -51.7, 211.9]])
    plan = setup_subtomos(geometry, ctf, box, padded, 4.0, cpu)
    assert (plan.terms is not None) == turn
    seen = np.ones((1, 41), bool)
    v, c = reconstruct_subtomos(images, plan, position, geometry.hand * depth, geometry.matrix[None], seen, cpu)
    inner, whole = deviation(v[0], c[0], known, 16), deviation(v[0], c[0], known, 31)
    print("deviation %.4f within the particle, %.4f within the inscribed sphere" % (inner, whole))
    assert inner < 0.003 and whole < 0.015
    # The wrong sign of depth leaves a deviation several times as large.
    w, _ = reconstruct_subtomos(images, plan, position, -geometry.hand * depth, geometry.matrix[None], seen, cpu)
    assert deviation(w[0], c[0], known, 16) > 5 * inner


def test_pre_rotation_turns_volume_and_ctf_alike(rng, cpu):
    geometry, ctf, images, position, depth, _, phantom = object_in_a_series(rng)
    plan = setup_subtomos(geometry, ctf, 64, 80, 4.0, cpu)
    pose = matrix_from_zyz(30.0, 50.0, 70.0)
    v, c = reconstruct_subtomos(images, plan, position, geometry.hand * depth, geometry.matrix[None] @ pose,
                                np.ones((1, 41), bool), cpu)
    assert deviation(v[0], c[0], phantom.volume(64, 4.0), 16) < 0.003


def test_both_ways_of_gridding_agree(rng, cpu):
    """On turned images of noise, and with frames of its own that a particle may have: three volumes at once."""
    geometry, ctf, images, _, _, _, _ = object_in_a_series(rng)
    points = np.array([[102.3, -51.7, 211.9], [-200, 31.7, -80.3], [0, 0, 0]])
    noise = rng.standard_normal(images.shape).astype(np.float32)
    noise, geometry, ctf, position = turned_images(noise, geometry, ctf, points)
    plan = setup_subtomos(geometry, ctf, 32, 48, 4.0, cpu)
    depth, seen = geometry.project(points).depth, np.ones((3, 41), bool)
    seen[1, 5:9] = False
    one = geometry.matrix[None]
    results = [reconstruct_subtomos(noise, p, position, depth, m, seen, cpu) for p, m in (
        (plan, one), (replace(plan, terms=None), one), (plan, np.repeat(one, 3, 0)))]
    inside = sphere(32, 14, dtype=bool).astype(bool)
    difference = lambda a, b: np.sqrt(np.mean((a - b) ** 2) / np.mean(b ** 2))  # noqa: E731
    for v, c in results[1:]:
        assert difference(results[0][0][:, inside], v[:, inside]) < 0.005
        assert difference(results[0][1], c) < 0.006
    for i in range(3):
        alone = reconstruct_subtomos(noise, plan, position[i:i + 1], depth[i:i + 1], one, seen[i:i + 1], cpu)
        assert all(np.array_equal(a[0], b[i]) for a, b in zip(alone, results[0]))
    assert reconstruct_subtomos(noise, plan, position, depth, one, seen, cpu, False)[1] is None


def test_hidden_tilts_are_absent(rng, cpu):
    """A view that does not show the particle leaves the same volume and CTF as a view of noise there."""
    geometry, ctf, images, position, depth, _, _ = object_in_a_series(rng)
    plan = setup_subtomos(geometry, ctf, 32, 48, 4.0, cpu)
    seen = np.ones((1, 41), bool)
    seen[0, [0, 7, 40]] = False
    spoilt = images.copy()
    spoilt[[0, 7, 40]] = 1e3
    run = lambda stack, mask: reconstruct_subtomos(stack, plan, position, depth, geometry.matrix[None], mask, cpu)  # noqa
    for a, b in zip(run(images, seen), run(spoilt, seen)):
        assert np.array_equal(a, b)
    assert not np.allclose(run(images, seen)[1], run(images, np.ones((1, 41), bool))[1], atol=1e-3)


def test_hidden_tilts_count_in_no_density(rng, cpu):
    """A particle that few tilts show gives what it would if the series had only those."""
    geometry, ctf, images, position, depth, _, _ = object_in_a_series(rng)
    few = np.zeros(41, bool)
    few[[3, 17, 18, 30]] = True
    whole = setup_visible(setup_subtomos(geometry, ctf, 32, 48, 4.0, cpu), geometry, few, cpu)
    short = setup_subtomos(geometry.select(few), ctf.select(few), 32, 48, 4.0, cpu)
    a = reconstruct_subtomos(images, whole, position, depth, geometry.matrix[None], few[None], cpu)
    b = reconstruct_subtomos(images[few], short, position[:, few], depth[:, few], geometry.matrix[None, few],
                             np.ones((1, 4), bool), cpu)
    assert all(np.allclose(x, y, atol=1e-6 * np.abs(y).max()) for x, y in zip(a, b))


@pytest.mark.parametrize("pixel", [4.0, 5.3, 8.0])
def test_unbinned_windows_agree_with_binned_images(rng, cpu, pixel):
    """`exact` against the default, in white noise and for every ratio; unrescaled images are the same windows."""
    geometry, ctf, _, position, depth, _, _ = object_in_a_series(rng)
    images = rng.standard_normal((41, 420, 440)).astype(np.float32)
    geometry = geometry.replace(image_shape=(420, 440))
    seen = np.ones((1, 41), bool)
    found = geometry.project([[102.3, -51.7, 211.9]])
    stack = prepare_stack(lambda t: images[t].copy(), ["noise"] * 41, 4.0, pixel, invert=False, normalize=False)
    plain = prepare_stack(lambda t: images[t].copy(), ["noise"] * 41, 4.0, 4.0, invert=False, normalize=False)
    source, padded = exact_windows(48, pixel / 4.0)
    results = []
    for prepared, more in ((stack, {}), (plain, {"source": source})):
        plan = setup_subtomos(geometry, ctf, 32, padded, pixel, cpu, **more)
        results.append(reconstruct_subtomos(prepared.images, plan, prepared.position_px(found.xy), depth,
                                            geometry.matrix[None], seen, cpu)[0][0])
    curve = shell_correlation(*results)
    print("%g A: FSC %s at 0.5, 0.75, 0.95 Nyquist" % (pixel, curve[[8, 12, 15]].round(4)))
    assert curve[2:13].min() > 0.99 and curve[13:16].min() > 0.97
    assert abs(source / padded / (pixel / 4.0) - 1) < 1e-3


def test_results_do_not_depend_on_how_particles_are_grouped(rng, cpu):
    geometry, ctf, images, position, depth, _, _ = object_in_a_series(rng)
    plan = setup_subtomos(geometry, ctf, 32, 48, 4.0, cpu)
    many = np.concatenate([position, position + 3.3, position - 7.1])
    seen = np.ones((3, 41), bool)
    depths = np.repeat(depth, 3, axis=0)
    all_at_once = reconstruct_subtomos(images, plan, many, depths, geometry.matrix[None], seen, cpu)
    for i in range(3):
        alone = reconstruct_subtomos(images, plan, many[i:i + 1], depths[i:i + 1], geometry.matrix[None], seen[:1], cpu)
        assert np.array_equal(alone[0][0], all_at_once[0][i]) and np.array_equal(alone[1][0], all_at_once[1][i])


def test_one_tilt_alone_is_a_slice(rng, cpu):
    """F17: with a single tilt the volume is constant along its beam."""
    geometry, ctf, images, position, depth, _, _ = object_in_a_series(rng)
    one = geometry.select([20]).replace(tilt=np.zeros(1), axis=np.zeros(1))
    plan = setup_subtomos(one, ctf.select([20]), 32, 48, 4.0, cpu)
    v, c = reconstruct_subtomos(images[20:21], plan, position[:, 20:21], depth[:, 20:21], one.matrix[None],
                                np.ones((1, 1), bool), cpu)
    assert np.isfinite(v).all() and np.isfinite(c).all()
    inner = v[0][4:29]  # gridding is least exact at the very faces of the box
    assert np.abs(inner - inner.mean(axis=0)).max() < 0.01 * np.abs(v).max()


def test_without_ctf_the_transfer_is_the_wedge(cpu):
    geometry = fan()
    plan = setup_subtomos(geometry, None, 32, 32, 1.0, cpu, dose_weighting=False)
    images = np.zeros((41, 64, 64), np.float32)
    _, c = reconstruct_subtomos(images, plan, np.full((1, 41, 2), 32.0), np.zeros((1, 41)), geometry.matrix[None],
                                np.ones((1, 41), bool), cpu)
    # Along x, in the data; along z, in the missing wedge.
    assert c[0][0, 0, 6] == pytest.approx(1.0, abs=0.15) and abs(c[0][10, 0, 0]) < 0.15


def test_density_is_the_number_of_slices_near_the_axis():
    d = slice_density(fan(axis=0.0).matrix, (64, 64), 1.0, 64.0)
    assert d[20, 0, 0] == pytest.approx(41)
    assert (d >= 1).all() and d[20, 10, 31] < 3


def test_density_does_not_change_when_everything_turns():
    m = fan().matrix
    assert np.allclose(
        slice_density(m, (16, 16), 1.0, 16.0),
        slice_density(m @ matrix_from_zyz(10, 40, 70), (16, 16), 1.0, 16.0),
        atol=1e-5,
    )


def test_exact_filter_is_a_ramp_for_even_tilts():
    tilt = np.arange(-60, 61, 3.0)
    k = np.linspace(0, 0.05, 200)
    w = exact_filter(tilt, k, 1000.0)
    assert w[20, 0] == pytest.approx(1 / 41)
    slope = 1000.0 * np.deg2rad(3.0)  # thickness k sin(step): the share of each slice while slices overlap
    assert np.allclose(w[20, 20:70], slope * k[20:70], rtol=0.1)
    assert np.allclose(w[20, -20:], 1, atol=0.35)


def test_odd_and_even_share_the_used_views():
    tilt, used = np.array([3.0, -3.0, 0.0, 6.0, -6.0]), np.array([1, 1, 1, 0, 1], bool)
    assert list(odd_even_groups(tilt, used)) == [1, 1, 0, 0, 0]


def test_normalised_outside_the_particle(rng):
    v = (5 + 3 * rng.standard_normal((16, 16, 16))).astype(np.float32)
    normalise_volume(v, 5)
    outside = v[sphere(16, 5, dtype=bool) == 0]
    assert outside.mean() == pytest.approx(0, abs=1e-5) and outside.std() == pytest.approx(1, abs=1e-5)


def test_F19_the_alias_free_box_is_capped_and_told():
    ctf = Ctf(Optics(), [60000.0], [60000.0], [0.0])
    padded, needed = padded_box(64, ctf, 1.0, 150.0, largest=400)
    assert padded == 400 and needed > 1000
