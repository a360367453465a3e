"""Options of whole tomograms: deconvolution, covered voxels, halves by frames, and outputs that are kept."""

import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tomoexport import options as options_module
from tomoexport.engine.deconvolve import deconvolve, typical_defocus
from tomoexport.errors import InputError
from tomoexport.io import mrc, relion5
from tomoexport.jobs import reconstruct as verb
from tomoexport.jobs import runner

pytestmark = pytest.mark.slow

NAME = "TS_01_20.00Apx.mrc"


@pytest.fixture(scope="module")
def data(tmp_path_factory, simulated):
    """Two series, the images of odd and even frames of the first being its own with different noise."""
    folder = tmp_path_factory.mktemp("data")
    simulated("demo", into=folder, particles=5, noise=1.0)
    series, rng = relion5.read_project(str(folder / "tomograms.star")), np.random.default_rng(3)
    path = series[0].images[0][0]
    images, pixel_size = mrc.read_volume(path)
    frames = {}
    for name in ("odd", "even"):
        frames[name] = str(folder / (name + ".mrcs"))
        noise = rng.normal(0, 8 * images.std(), images.shape).astype(np.float32)
        mrc.write(frames[name], images + noise, pixel_size, "stack")
    first = replace(series[0], **{n: tuple((f, s) for _, s in series[0].images) for n, f in frames.items()})
    return relion5.write_project(str(folder / "frames"), [first] + series[1:], paths="absolute")


def reconstruct(data, folder, series=("TS_01",), **options):
    out = runner.run({"verb": "reconstruct", "series": list(series), "options": dict(
        {"tomograms": str(data), "output": str(folder), "pixel_size": 20.0, "threads": 2}, **options)})
    assert not out["failed"], out["results"]
    return os.path.join(str(folder), "reconstruction"), out["results"][0]


def volume(folder, part=""):
    return mrc.read_volume(os.path.join(folder, part, NAME))[0]


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    return reconstruct(data, tmp_path_factory.mktemp("plain"), halves=True)[0]


def test_names_are_warps_and_each_tomogram_has_a_thumbnail(plain):
    for part in ("", "odd", "even"):
        shape = volume(plain, part).shape
        with Image.open(os.path.join(plain, part, NAME[:-4] + ".png")) as picture:
            assert picture.size == shape[:0:-1] and picture.mode == "L"
            grey = np.array(picture)
        middle = grey[shape[1] // 4:-(shape[1] // 4), shape[2] // 4:-(shape[2] // 4)]
        assert abs(middle.mean() - 127.5) < 6 and 15 < middle.std() < 55


@pytest.mark.parametrize("ctf", ["phaseflip", "none"])
def test_deconvolution_is_of_the_tomogram_and_of_both_halves(data, tmp_path, plain, ctf):
    folder, _ = reconstruct(data, tmp_path, halves=True, deconvolve=True, deconv_strength=0.8, deconv_falloff=1.2,
                            deconv_highpass=400.0, ctf=ctf)
    one = relion5.read_project(str(data))[0]
    how = (20.0, one.optics, typical_defocus(one.ctf, one.geometry.tilt), 0.8, 1.2, 400.0, ctf != "none")
    made = volume(folder, "deconv")
    assert np.abs(made - deconvolve(volume(folder), *how)).max() < 1e-5 * made.std()
    if ctf == "phaseflip":
        assert np.allclose(volume(folder), volume(plain), atol=1e-5 * volume(plain).std())
        for half in ("odd", "even"):
            assert np.allclose(volume(folder, half), deconvolve(volume(plain, half), *how),
                               atol=1e-3 * volume(folder, half).std())
    assert os.path.exists(os.path.join(folder, "deconv", NAME[:-4] + ".png"))


def test_a_wiener_filtered_tomogram_is_not_deconvolved(data, tmp_path):
    with pytest.raises(InputError, match="--deconvolve.*wiener.*phaseflip"):
        reconstruct(data, tmp_path, deconvolve=True, ctf="wiener")


def test_only_covered_voxels_are_kept(data, tmp_path, plain):
    folder, _ = reconstruct(data, tmp_path, halves=True, full_voxels=True, deconvolve=True)
    whole = volume(folder)
    kept = whole != 0
    assert 0.1 < kept.mean() < 0.95 and np.array_equal(whole[kept], volume(plain)[kept])
    assert kept[whole.shape[0] // 2, whole.shape[1] // 2, whole.shape[2] // 2]
    for part in ("odd", "even", "deconv"):
        assert not volume(folder, part)[~kept].any() and volume(folder, part)[kept].all()


def test_halves_by_frames(data, tmp_path, plain):
    folder, _ = reconstruct(data, tmp_path, halves=True, halves_by="frames")
    assert np.allclose(volume(folder), volume(plain), atol=1e-5 * volume(plain).std())
    odd, even = volume(folder, "odd"), volume(folder, "even")
    alike = [np.corrcoef(a.ravel(), volume(plain).ravel())[0, 1] for a in (odd, even)]
    print("CC to the tomogram %.3f and %.3f" % tuple(alike))
    # Each has the images' own noise, which they share, and as much of its own.
    assert min(alike) > 0.4 and np.corrcoef(odd.ravel(), even.ravel())[0, 1] < 0.9 * min(alike)
    other = [np.corrcoef(odd.ravel(), volume(plain, half).ravel())[0, 1] for half in ("odd", "even")]
    assert abs(other[0] - other[1]) < 0.1 < min(other)  # made of all tilts


def test_a_series_without_frames_fails_alone(data, tmp_path):
    out = runner.run({"verb": "reconstruct", "options": {
        "tomograms": str(data), "output": str(tmp_path), "pixel_size": 20.0, "halves": True, "halves_by": "frames",
        "threads": 2}})
    assert out["failed"] == ["TS_02"] and "rlnMicrographNameOdd" in str(out["results"][1]["error"])


def test_outputs_are_kept_one_by_one(data, tmp_path):
    """What is complete, of the same inputs and options, stays; what is not is made; nothing else is touched."""
    folder, _ = reconstruct(data, tmp_path)
    changed = lambda: {part: os.stat(os.path.join(folder, part, NAME)).st_mtime_ns  # noqa: E731
                       for part in ("", "odd", "even", "deconv") if os.path.exists(os.path.join(folder, part, NAME))}
    first = changed()
    _, result = reconstruct(data, tmp_path, deconvolve=True)
    assert changed()[""] == first[""] and "deconv" in changed() and "kept" in result["notes"][0]
    second = changed()
    reconstruct(data, tmp_path, deconvolve=True, halves=True)
    third = changed()
    assert third[""] == second[""] and third["deconv"] == second["deconv"] and "odd" in third
    reconstruct(data, tmp_path, deconvolve=True, halves=True, deconv_strength=2.0)
    fourth = changed()
    assert fourth[""] == third[""] and all(fourth[p] != third[p] for p in ("deconv", "odd", "even"))
    # A file that is not whole is made again, and it alone.
    with open(os.path.join(folder, "odd", NAME), "r+b") as file:
        file.truncate(5000)
    reconstruct(data, tmp_path, deconvolve=True, halves=True, deconv_strength=2.0)
    fifth = changed()
    assert fifth[""] == fourth[""] and fifth["deconv"] == fourth["deconv"] and fifth["odd"] != fourth["odd"]
    assert mrc.read_volume(os.path.join(folder, "odd", NAME))[0].any()
    # Another option of the reconstruction makes all of them anew.
    reconstruct(data, tmp_path, deconvolve=True, halves=True, deconv_strength=2.0, dose_weighting=False)
    assert all(changed()[p] != fifth[p] for p in fifth)


def test_room_on_disk_is_planned_for(data, tmp_path):
    values = {"tomograms": str(data), "output": str(tmp_path), "pixel_size": 20.0, "threads": 2, "memory": 4.0}
    sizes = [verb.plan(options_module.from_dict("reconstruct", dict(values, **more))) for more in (
        {}, {"deconvolve": True}, {"deconvolve": True, "halves": True})]
    disk = [p.units[0].disk_bytes for p in sizes]
    assert disk[1] == 2 * disk[0] and disk[2] == 4 * disk[0]


def test_contrast_and_normalisation_of_the_images(data, tmp_path, plain):
    dark, _ = reconstruct(data, tmp_path / "dark", invert=False)
    assert np.allclose(volume(dark), -volume(plain), atol=1e-5 * volume(plain).std())
    raw, _ = reconstruct(data, tmp_path / "raw", normalize=False)
    ratio = volume(raw).std() / volume(plain).std()
    images = mrc.read_volume(relion5.read_project(str(data))[0].images[0][0])[0]
    # The images' own grey values, of which binning leaves less.
    assert 0.2 * images.std() < ratio < images.std() and abs(ratio - 1) > 0.05
    assert np.corrcoef(volume(raw).ravel(), volume(plain).ravel())[0, 1] > 0.99


def test_dimensions_are_unbinned_voxels(data, tmp_path, plain):
    g = relion5.read_project(str(data))[0].geometry
    binning = 20 / g.pixel_size
    less = np.array([80, 120, 16])  # voxels that are whole ones after binning, on both sides
    wanted = g.size_px - less
    folder, result = reconstruct(data, tmp_path, **dict(zip(("size_x", "size_y", "size_z"), map(int, wanted))))
    small, large = volume(folder), volume(plain)
    assert np.allclose(np.array(large.shape) - small.shape, less[::-1] / binning, atol=1.01)
    # The middle stays where it was.
    start = (less[::-1] / 2 / binning).round().astype(int)
    part = large[tuple(slice(a, a + n) for a, n in zip(start, small.shape))]
    assert part.shape == small.shape and np.corrcoef(small.ravel(), part.ravel())[0, 1] > 0.95


def test_a_series_that_cannot_be_reconstructed_fails_alone(data, tmp_path):
    """Its beams run along the tomogram's y axis; the plan says so before anything is computed."""
    one, other = relion5.read_project(str(data))
    wrong = replace(other, geometry=other.geometry.replace(xtilt=np.full(other.geometry.n_tilts, 90.0)))
    table = relion5.write_project(str(tmp_path / "wrong"), [one, wrong], paths="absolute")
    out = runner.run({"verb": "reconstruct", "options": {
        "tomograms": str(table), "output": str(tmp_path / "out"), "pixel_size": 20.0, "threads": 2}})
    assert out["failed"] == ["TS_02"] and "along the y axis" in out["results"][1]["error"]
    assert out["results"][0]["status"] == "done"


def test_new_images_of_frames_make_new_halves(data, tmp_path):
    """The main images are the same: the tomogram is kept, and the run is not taken for finished."""
    folder, _ = reconstruct(data, tmp_path / "out", halves=True, halves_by="frames")
    before = {part: os.stat(os.path.join(folder, part, NAME)).st_mtime_ns for part in ("", "odd")}
    odd = relion5.read_project(str(data))[0].odd[0][0]
    state = os.stat(odd)
    os.utime(odd, ns=(state.st_atime_ns, state.st_mtime_ns + 10 ** 9))
    reconstruct(data, tmp_path / "out", halves=True, halves_by="frames")
    after = {part: os.stat(os.path.join(folder, part, NAME)).st_mtime_ns for part in ("", "odd")}
    assert after[""] == before[""] and after["odd"] > before["odd"]


def test_a_run_that_was_stopped_leaves_no_record_of_what_was_there(data, tmp_path, monkeypatch):
    """Options A, then B stopped on the way, then A again: what B has written is not taken for A's."""
    folder, _ = reconstruct(data, tmp_path)
    first = volume(folder)

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(verb.report, "thumbnail", stop)
        with pytest.raises(KeyboardInterrupt):
            reconstruct(data, tmp_path, invert=False)
    assert np.allclose(volume(folder), -first, atol=1e-5 * first.std())  # B's, under the same name
    reconstruct(data, tmp_path)
    assert np.array_equal(volume(folder), first)
