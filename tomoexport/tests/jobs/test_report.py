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
