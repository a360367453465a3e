"""Pseudo-subtomograms: RELION 5's own files, and laws that hold whatever the data."""

import os

import numpy as np
import pytest

from tomoexport.engine.fourier import fourier_rescale
from tomoexport.engine.pseudosubtomo import (
    cone_weight,
    dose_weight,
    extract_stacks,
    extract_volumes,
    setup_pseudosubtomos,
    visible_tilts,
    whitening_filter,
    windows,
)
from tomoexport.io import mrc, particlestar, relion5
from tomoexport.tests.shared import need_shared


@pytest.fixture
def project(monkeypatch):
    monkeypatch.chdir(need_shared("reference", "relion5"))
    return relion5.read_project("tomograms.star")


def raw_images(series, margin):
    """All tilt images as they are, their edge pixels repeated outwards."""
    stacks = {path: mrc.open_stack(path) for path, _ in series.images}
    images = np.stack([stacks[path].read(section) for path, section in series.images])
    return np.pad(images, ((0, 0), (margin, margin), (margin, margin)), mode="edge")


def extracted(project, particles, kind, box, crop, binning, cpu, volumes=False, ctf=True):
    """Our particle and RELION's for each of its files: lists of pairs of arrays."""
    table, _ = particlestar.read_particles(particles, project)
    for s in project:
        g, own = s.geometry, table.in_series(s.ts_id)
        pixel, margin = g.pixel_size, int(binning * box) // 2
        images = raw_images(s, margin)
        plan = setup_pseudosubtomos(g, s.ctf if ctf else None, box, crop, pixel * binning, binning, cpu, binning,
                                    invert=ctf)
        found = g.project(own.position)
        place = (found.xy / pixel + np.array(g.image_shape[::-1]) // 2 + margin)[..., ::-1]
        seen = visible_tilts(g, found.xy, binning * crop / 2 * pixel)
        depth = g.hand * found.depth
        for i, uid in enumerate(own.uid):
            stem = os.path.join("expected", kind, "Subtomograms", uid)
            if volumes and os.path.exists(stem + "_data.mrc"):
                made = extract_volumes(images, plan, place[i:i + 1], depth[i:i + 1],
                                       found.matrix, seen[i:i + 1], cpu)
                weights = mrc.read_volume(stem + "_weights.mrc")[0]
                yield uid, [(made[0][0], mrc.read_volume(stem + "_data.mrc")[0]), (made[1][0], weights[:crop]),
                            (made[2][0], weights[crop:])]
            elif not volumes and os.path.exists(stem + "_stack2d.mrcs"):
                made = extract_stacks(images, plan, place[i:i + 1], depth[i:i + 1], seen[i:i + 1], cpu)[0]
                yield uid, [(made[seen[i]], mrc.read_volume(stem + "_stack2d.mrcs")[0])]


def relative(a, b):
    assert a.shape == b.shape
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.shared
def test_stacks_are_relions(project, cpu):
    found = [relative(*pair) for _, pairs in extracted(project, "particles.star", "stack2d_bin1", 64, 48, 1.0, cpu)
             for pair in pairs]
    print("largest difference of %d stacks %.1e" % (len(found), max(found)))
    assert len(found) > 15 and max(found) < 1e-5


@pytest.mark.shared
def test_raw_stacks_at_an_odd_binning_are_relions(project, cpu):
    """Neither CTF nor inversion; RELION's are in half precision, so ours are rounded first."""
    made = extracted(project, "particles_offsets.star", "stack2d_bin1p5_raw_float16", 48, 40, 1.5, cpu, ctf=False)
    pairs = [pair for _, pairs in made for pair in pairs]
    assert len(pairs) > 15 and max(relative(a.astype(np.float16).astype(np.float32), b) for a, b in pairs) < 1e-4


@pytest.mark.shared
def test_volumes_weights_and_multiplicities_are_relions(project, cpu):
    found = [[relative(*pair) for pair in pairs]
             for _, pairs in extracted(project, "particles.star", "volume_bin2", 48, 32, 2.0, cpu, volumes=True)]
    print("largest differences of %d: data, weight, multiplicity" % len(found), np.max(found, axis=0))
    assert len(found) > 15 and np.max(found) < 1e-5


@pytest.mark.shared
@pytest.mark.parametrize("box, crop, binning", [(48, 32, 2.0), (50, 40, 1.5)])
def test_rescaled_images_give_nearly_the_same(project, cpu, box, crop, binning):
    """Every image binned once instead of every window: same scale, and correlation of rings up to 0.9 Nyquist."""
    s = project[0]
    g = s.geometry
    table, _ = particlestar.read_particles("particles.star", project)
    found = g.project(table.in_series(s.ts_id).position)
    depth = g.hand * found.depth
    seen = visible_tilts(g, found.xy, 64 * g.pixel_size)  # well within
    raw = raw_images(s, 48)
    small, true = zip(*(fourier_rescale(image, binning) for image in raw))
    results = []
    for images, ratio in ((raw, binning), (np.stack(small), 1.0)):
        plan = setup_pseudosubtomos(g, s.ctf, box, crop, g.pixel_size * binning, binning, cpu, ratio)
        assert plan.source == int(box * ratio + 0.5)
        pixel = g.pixel_size * (np.array(true[0][::-1]) if ratio == 1 else 1)
        place = (found.xy / pixel + np.array(images.shape[:0:-1]) // 2)[..., ::-1]
        results.append(extract_stacks(images, plan, place, depth, seen, cpu)[seen])
    assert np.linalg.norm(results[0]) == pytest.approx(np.linalg.norm(results[1]), rel=0.01)
    a, b = (np.fft.fft2(r) for r in results)
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(crop), np.fft.fftfreq(crop)))
    rings = [(k >= low) & (k < low + 0.05) for low in np.arange(0.05, 0.44, 0.05)]
    frc = [np.sum(a[:, r] * b[:, r].conj()).real / np.sqrt(np.sum(abs(a[:, r]) ** 2) * np.sum(abs(b[:, r]) ** 2))
           for r in rings]
    print("ring correlations", np.round(frc, 4))
    assert len(a) > 100 and min(frc) > 0.995


def test_dose_weight():
    assert dose_weight(40.0, 0.0) == pytest.approx(1.0, abs=1e-6)
    # Grant and Grigorieff: the critical exposure at 10 A is 0.245 * 0.1^-1.665 + 2.81.
    assert dose_weight(2 * (0.245 * 0.1 ** -1.665 + 2.81), 0.1) == pytest.approx(np.exp(-1))
    assert np.all(np.diff(dose_weight(30.0, np.linspace(0.01, 0.4, 50))) < 0)


def test_hidden_tilts_take_no_part(rng, cpu):
    from tomoexport.tests.engine.test_subtomo import object_in_a_series
    g, ctf, images, position, depth, _, _ = object_in_a_series(rng)
    plan = setup_pseudosubtomos(g, ctf, 48, 32, 4.0, 1.0, cpu)
    seen = np.ones((1, 41), bool)
    seen[0, ::4] = False
    broken = images.copy()
    broken[~seen[0]] = 1e6
    common = (position, depth, g.matrix[None], seen, cpu)
    with pytest.raises(ValueError, match="same tilts"):
        extract_volumes(images, plan, np.repeat(position, 2, axis=0), np.repeat(depth, 2, axis=0), g.matrix[None],
                        np.stack([seen[0], ~seen[0]]), cpu)
    a = extract_volumes(images, plan, *common)
    b = extract_volumes(broken, plan, *common)
    assert all(np.array_equal(x, y) for x, y in zip(a, b)) and a[0].std() > 0
    everything = extract_volumes(images, plan, position, depth, g.matrix[None], np.ones((1, 41), bool), cpu)
    assert np.isclose(a[2].sum() / everything[2].sum(), seen.mean(), rtol=0.02)
    stack = extract_stacks(broken, plan, position, depth, seen, cpu)[0]
    assert not stack[~seen[0]].any() and stack[seen[0]].std() > 0


def test_whitening_makes_noise_flat(rng):
    """Noise of a known spectrum, for windows of 48 pixels that cover 64 of the images."""
    n = 192
    k = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n))
    amplitude = 3 / (0.1 + k)
    images = np.stack([np.fft.irfft2(amplitude * np.fft.rfft2(rng.standard_normal((n, n)))) for _ in range(12)])
    gain = whitening_filter(images.astype(np.float32), 64, 48)
    rings = np.hypot(np.fft.fftfreq(48, 1 / 48)[:, None], np.arange(25)) / 64
    flat = gain.mean(axis=0) * 3 / (0.1 + rings)
    assert gain.shape == (12, 48, 25) and np.abs(flat[(rings > 0.05) & (rings < 0.5)] - 1).max() < 0.05
    assert np.allclose(whitening_filter(images.astype(np.float32), 64, 48, binning=2.0), gain / 2)
    beyond = whitening_filter(images.astype(np.float32), 64, 64)[:, np.hypot(*np.mgrid[:64, :33]) % 64 > 32.5]
    assert np.isfinite(beyond).all() and (beyond > 0).all()
    assert not whitening_filter(np.zeros((1, 64, 64), np.float32), 32, 32).any()
    with pytest.raises(ValueError, match="larger than images"):
        whitening_filter(images, 256, 64)


def test_whitened_windows_have_weights_whitened_once(rng, cpu):
    from tomoexport.tests.engine.test_subtomo import object_in_a_series
    g, ctf, images, position, depth, _, _ = object_in_a_series(rng)
    seen, gain = np.ones((1, 41), bool), rng.uniform(0.5, 2, (41, 48, 25)).astype(np.float32)
    plain = windows(images, setup_pseudosubtomos(g, ctf, 48, 32, 4.0, 1.0, cpu), position, depth, seen, cpu)
    setup = setup_pseudosubtomos(g, ctf, 48, 32, 4.0, 1.0, cpu, whitening=gain)
    white = windows(images, setup, position, depth, seen, cpu)
    assert np.allclose(white[0], plain[0] * gain, rtol=1e-5) and np.allclose(white[1], plain[1] * gain, rtol=1e-5)


@pytest.mark.parametrize("source", [48, 47])
def test_the_first_circle_levels_and_masks_windows_as_they_are_cut(rng, cpu, source):
    from tomoexport.tests.engine.test_subtomo import object_in_a_series
    g, ctf, images, position, depth, _, _ = object_in_a_series(rng)
    images = images + 2.0
    plan = setup_pseudosubtomos(g, None, 32, 32, 4.0, source / 32, cpu, source / 32, circle=False, precrop=True)
    assert plan.source == source
    found = extract_stacks(images, plan, position, depth, np.ones((1, 41), bool), cpu)[0]
    axis = np.arange(source) - source // 2
    r = np.hypot(axis[:, None], axis)
    mask = 0.5 + 0.5 * np.cos(np.pi * np.clip((r - source / 2 + 5) / 5, 0, 1))
    origin = np.floor(position[0] + 0.5).astype(int) - source // 2
    cut = np.stack([image[y:y + source, x:x + source] for image, (y, x) in zip(images, origin)]).astype(float)
    cut = (cut - cut[:, r > source / 2].mean(axis=1)[:, None, None]) * mask
    same = setup_pseudosubtomos(g, None, 32, 32, 4.0, source / 32, cpu, source / 32, circle=False)
    expected = extract_stacks(cut.astype(np.float32), same, position - origin, depth, np.ones((1, 41), bool), cpu)[0]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_cone_lies_about_the_axis(rng, cpu):
    tilted = np.array([0.0, np.sin(0.6), np.cos(0.6)])
    weight = cone_weight(32, np.stack([[0, 0, 1.0], tilted]), 20.0, 2.0)
    k = np.fft.fftfreq(32, 1 / 32).astype(int)
    for axis, one in zip(([0, 0, 1.0], tilted), weight):
        for x, y, z in rng.integers(-15, 15, (200, 3)):
            x = abs(x)
            along = abs(np.dot((x, y, z), axis))
            t = np.sqrt(max(x * x + y * y + z * z - along ** 2, 0)) / (along * np.sin(np.deg2rad(10)) + 2)
            assert one[np.flatnonzero(k == z)[0], np.flatnonzero(k == y)[0], x] == pytest.approx(
                1 - np.exp(-t * t / 2), abs=1e-5)
    from tomoexport.tests.engine.test_subtomo import object_in_a_series
    g, ctf, images, position, depth, _, _ = object_in_a_series(rng)
    plan = setup_pseudosubtomos(g, ctf, 48, 32, 4.0, 1.0, cpu)
    where = images, plan, position, depth, g.matrix[None], np.ones((1, 41), bool)
    plain, less = extract_volumes(*where, cpu), extract_volumes(*where, cpu, weight[:1])
    assert all(np.allclose(b, a * weight[0], atol=1e-6 * abs(a).max()) for a, b in zip(plain[1:], less[1:]))
    assert np.allclose(np.fft.rfftn(less[0][0]), np.fft.rfftn(plain[0][0]) * weight[0],
                       atol=1e-5 * np.abs(np.fft.rfftn(plain[0][0])).max())
