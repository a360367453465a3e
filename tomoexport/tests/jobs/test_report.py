"""Figures are made from any data, stay small, and show what they are given."""

import numpy as np
import pytest
from PIL import Image

from tomoexport.io import mrc
from tomoexport.jobs import report


@pytest.fixture
def volumes(tmp_path):
    rng = np.random.default_rng(1)
    paths = []
    for i in range(3):
        paths.append(str(tmp_path / ("%d.mrc" % i)))
        mrc.write(paths[-1], rng.normal(size=(24, 24, 24)), 4.0)
    return paths


def figure(path):
    assert path.stat().st_size < report.LIMIT
    return np.asarray(Image.open(path).convert("L"), float)


def marks(path, shape):
    """Where something blue (kept), orange (left out) or black is in a picture of projected centres.

    Each is a pair of its extent in x and in y, pixels of the image from the centre of the first one, or None.
    """
    picture = np.asarray(Image.open(path).convert("RGB"), int)
    scale = picture.shape[1] / shape[1]
    red, green, blue = np.moveaxis(picture[-int(round(scale * shape[0])):][::-1], 2, 0)
    masks = {"kept": blue - red > 60, "left out": red - blue > 60, "black": red + green + blue < 60}
    return {name: [tuple((np.flatnonzero(mask.any(axis=axis))[[0, -1]] + 0.5) / scale - 0.5) for axis in (0, 1)]
            if mask.any() else None for name, mask in masks.items()}


def test_large_noise_stays_below_the_limit(tmp_path):
    volume = np.random.default_rng(0).normal(size=(300, 500, 400)).astype(np.float32)
    report.tomogram_slices(volume, 10.0, str(tmp_path / "slices.png"))
    assert figure(tmp_path / "slices.png").std() > 20


def test_slices_of_file_and_array_agree(volumes):
    array, _ = mrc.read_volume(volumes[0])
    for busiest in (False, True):
        for one, two in zip(report.central_slices(array, busiest), report.central_slices(volumes[0], busiest)):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("n", [1, 2, 36])
def test_montage(tmp_path, volumes, n):
    report.subtomo_montage(volumes, str(tmp_path / "montage.png"), n)
    images, total = report.montage(volumes[:n])
    np.testing.assert_allclose(total, images.sum(axis=0))
    assert figure(tmp_path / "montage.png").std() > 20


@pytest.mark.parametrize("shape", [(300, 240), (1805, 2410)])
@pytest.mark.parametrize("kept", [True, False])
def test_circles_lie_on_what_the_image_shows(tmp_path, shape, kept):
    """A dark square in noise, and a circle about it; both have their places in the picture, binned or not."""
    half, radius, image = shape[0] // 20, shape[0] / 8, np.random.default_rng(0).normal(size=shape)
    x, y = shape[1] // 4, shape[0] // 3
    image[y - half:y + half + 1, x - half:x + half + 1] -= 30
    path = tmp_path / "projected.png"
    report.projected_centres(image, 2.0, [(x, y)], [kept], radius, str(path), "TS_01", -0.01)
    assert path.stat().st_size < report.LIMIT
    found = marks(path, shape)
    assert found["left out" if kept else "kept"] is None
    for what, extent in (("kept" if kept else "left out", 2 * radius), ("black", 2 * half + 1)):
        for place, (low, high) in zip((x, y), found[what]):
            assert (low + high) / 2 == pytest.approx(place, abs=0.3 * max(shape) / 300)
            assert high - low == pytest.approx(extent, abs=1.5 * max(shape) / 300)


def test_constant_data(tmp_path):
    report.tomogram_slices(np.zeros((8, 8, 8)), 10.0, str(tmp_path / "flat.png"))
    report.tilts_per_particle([41], str(tmp_path / "tilts.png"))
    report.particles_per_tomogram({}, str(tmp_path / "none.png"))
    report.particles_per_tomogram({"TS_%d" % i: i for i in range(500)}, str(tmp_path / "many.png"))
    for name in ("flat", "tilts", "none", "many"):
        figure(tmp_path / (name + ".png"))


def test_overview(tmp_path, volumes):
    frequency = np.linspace(0, 0.125, 13)
    array, _ = mrc.read_volume(volumes[0])
    report.overview(volumes[0], 10.0, volumes, array, 4.0, {"half maps": (frequency, 1 - 8 * frequency)},
                    str(tmp_path / "overview.png"), "a title")
    assert figure(tmp_path / "overview.png").std() > 20
