"""Image files that are damaged, or are not what the tables say: F01 to F06."""
import os

import numpy as np
import pytest

from tomoexport.io import mrc

from .conftest import assert_told, whole

VERBS = ("reconstruct", "subtomo")


@pytest.mark.parametrize("verb", VERBS)
def test_F01_truncated_stack(project, verb):
    size = os.path.getsize(project.stack())
    os.truncate(project.stack(), size - 1000)
    project.alone(verb, "TS_01", project.stack(), "truncated", str(size - 1000), str(size))


def test_F01_truncated_subtomogram(project):
    image = project.run("subtomo")["results"][1]["files"][-2]
    os.truncate(image, 5000)
    project.refused("average", image, "truncated", "5000", output=project.out + "/average")


def test_F02_not_an_mrc(project):
    with open(project.stack(), "w") as handle:
        handle.write("no images here\n" * 1000)
    project.alone("reconstruct", "TS_01", project.stack(), "not an MRC")


def test_F02_empty_file(project):
    open(project.stack("TS_02"), "w").close()
    project.alone("subtomo", "TS_02", project.stack("TS_02"), "not an MRC", "0 bytes")


def test_F02_missing_file(project):
    os.unlink(project.stack())
    project.alone("subtomo", "TS_01", project.stack(), "no such file")


def test_F02_all_series_are_refused_before_anything_is_written(project):
    for name in ("TS_01", "TS_02"):
        os.truncate(project.stack(name), 0)
    project.refused("reconstruct", project.stack("TS_01"), project.stack("TS_02"), "0 bytes")


def test_F03_fewer_images_than_tilts(project):
    mrc.write(project.stack(), np.ones((2, 64, 64)), 8.0, kind="stack")
    project.alone("reconstruct", "TS_01", project.stack(), "it has 2 images", "needs 3")


def test_F03_more_images_than_tilts(project):
    mrc.write(project.stack(), np.random.default_rng(0).normal(size=(5, 64, 64)), 8.0, kind="stack")
    code, text = project.check("subtomo")
    assert code == 0
    assert_told(text, ("warning: TS_01", project.stack(), "2 of its 5 images are not in the table"))
    assert {r["status"] for r in project.run("subtomo")["results"]} == {"done"}


def test_F23_images_of_another_size(project):
    mrc.write(project.stack(), np.ones((1, 70, 64)), 8.0, kind="stack")
    mrc.write(str(project.root / "one.mrc"), np.ones((64, 64)), 8.0, kind="image")
    project.put(project.tilts(), "rlnMicrographName", 1, "one.mrc")
    project.put(project.tilts(), "rlnMicrographName", 2, "one.mrc")
    project.alone("reconstruct", "TS_01", "one.mrc", "64 x 64 px", "has 64 x 70", "images of one size")


@pytest.mark.parametrize("value", (np.nan, np.inf))
@pytest.mark.parametrize("verb", VERBS)
def test_F04_pixels_that_are_no_numbers(project, verb, value):
    def spoil(images):
        images[1, 20:22, 30:33] = value
    project.pixels(spoil)
    project.alone(verb, "TS_01", project.stack(), "section 2", "tilt 0.0", "6 of 4096 pixels", "--bad-pixels fill",
                  planned=False)
    results = project.results(verb, bad_pixels="fill")
    assert {r["status"] for r in results.values()} == {"done"}
    assert results["TS_01"]["notes"] == ["6 pixels that were not numbers were filled, in 1 views"]
    whole(project.out)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("level", (0.0, 1234.5))
def test_F05_constant_tilt(project, verb, level):
    project.put(project.tilts(), "tomoexportUsed", 2, "0")
    expected = project.results(verb, output=project.out + "/expected")["TS_01"]
    project.put(project.tilts(), "tomoexportUsed", 2, "1")

    def flatten(images):
        images[2] = level
    project.pixels(flatten)
    results = project.results(verb)
    assert results["TS_01"]["notes"] == ["left out because the image is constant: tilt 20.0"]
    assert results["TS_02"]["notes"] == []
    # The view is as absent as an excluded one.
    for got, wanted in zip(results["TS_01"]["files"], expected["files"]):
        np.testing.assert_allclose(mrc.read_volume(got)[0], mrc.read_volume(wanted)[0], rtol=1e-4, atol=1e-5)
    whole(project.out)


def test_F05_no_image_has_contrast(project):
    project.pixels(lambda images: images.fill(3.0))
    project.alone("subtomo", "TS_01", "none of its images has any contrast", "Check the stack", planned=False)


def test_F06_excluded_view(project):
    """An excluded view is counted, and what its image and its row hold is of no consequence."""
    project.put(project.tilts(), "tomoexportUsed", 1, "0")
    code, text = project.check("subtomo")
    assert code == 0
    assert_told(text, ("TS_01: 2 of 3 tilts", "TS_02: 3 of 3 tilts"))
    before = project.results("subtomo")["TS_01"]
    volumes = [mrc.read_volume(path)[0] for path in before["files"]]
    assert max(p["tilts"] for p in before["particles"]) <= 2
    project.pixels(lambda images: images[1].fill(np.nan))
    project.put(project.tilts(), "rlnDefocusU", 1, "12345.0")
    after = project.results("subtomo", output=project.out + "/after")["TS_01"]
    for volume, path in zip(volumes, after["files"]):
        np.testing.assert_array_equal(volume, mrc.read_volume(path)[0])


def test_F06_rows_in_another_order(project):
    """A view is what its row says, wherever the row stands: acquisition order, not the row number, joins."""
    before = project.results("reconstruct")["TS_01"]["tomogram"]

    def reverse(columns):
        for values in columns.values():
            values.reverse()
    project.edit(project.tilts(), reverse)
    after = project.results("reconstruct", output=project.out + "/after")["TS_01"]["tomogram"]
    one, two = (mrc.read_volume(path)[0] for path in (before, after))
    np.testing.assert_allclose(one, two, atol=1e-4 * one.std())
