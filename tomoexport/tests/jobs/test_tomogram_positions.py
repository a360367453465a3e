"""Particles lie in our tomograms where they are: RELION 5's reference project, and our own simulation with x-tilt."""

import json

import numpy as np
import pytest

from tomoexport.engine.phantom import Phantom
from tomoexport.io import mrc
from tomoexport.jobs import runner, simulate
from tomoexport.options import SimulateOptions
from tomoexport.tests.locate import displacements, within
from tomoexport.tests.shared import need_shared

pytestmark = pytest.mark.slow


@pytest.mark.shared
def test_particles_of_the_relion5_reference(tmp_path):
    folder = need_shared("reference", "relion5")
    out = runner.run({"verb": "reconstruct", "options": {
        "tomograms": str(folder / "tomograms.star"), "output": str(tmp_path), "pixel_size": 16.0, "threads": 2}})
    truth = np.load(folder / "truth.npz")
    blobs = truth["blobs"]
    phantom = Phantom(blobs[:, :3], blobs[:, 3], blobs[:, 4] * blobs[:, 3] ** 3)  # the table has peak heights
    for result in out["results"]:
        name = result["ts_id"]
        ours, pixel = mrc.read_volume(result["tomogram"])
        theirs, _ = mrc.read_volume(str(folder / "expected" / "tomogram_bin4" / "tomograms" / ("rec_%s.mrc" % name)))
        maps = {"ours": (ours, result["centre"]), "RELION's": (-theirs, np.array(theirs.shape[::-1]) // 2)}
        # RELION's second tomogram is wider than ours.
        both = np.logical_and.reduce([within(volume.shape, pixel, centre, truth[name + "_pos"], 20)
                                      for volume, centre in maps.values()])
        known = truth[name + "_pos"][both], truth[name + "_ang"][both]
        found = {which: displacements(volume, pixel, centre, *known, phantom, box=20)
                 for which, (volume, centre) in maps.items()}
        found["ours from RELION's"] = found["ours"] - found["RELION's"]
        for which, shift in found.items():
            length = np.linalg.norm(shift, axis=1)
            print("%s, %d particles, %s: mean %s, %.3f voxel; each %.3f in the mean, %.3f at most" % (
                name, both.sum(), which, shift.mean(axis=0).round(3), np.linalg.norm(shift.mean(axis=0)),
                length.mean(), length.max()))
            assert np.linalg.norm(shift.mean(axis=0)) < 0.1 and length.max() < 0.3
        assert both.sum() >= 5


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quiet")
    options = {"output": str(folder), "preset": "demo", "particles": 12, "noise": 0.3}
    runner.run({"verb": "simulate", "options": options})
    return folder, SimulateOptions(**options)


@pytest.mark.parametrize("pixel_size", [12.0, 7.3])
def test_both_hands_unequal_sides_and_x_tilt(quiet, tmp_path, pixel_size):
    folder, options = quiet
    out = runner.run({"verb": "reconstruct", "options": {
        "tomograms": str(folder / "tomograms.star"), "output": str(tmp_path), "pixel_size": pixel_size, "halves": True,
        "threads": 2}})
    truth = json.loads((folder / "truth.json").read_text())
    _, phantom, _ = simulate.make(options, "TS_01")
    for result in out["results"]:
        name = result["ts_id"]
        volume, pixel = mrc.read_volume(result["tomogram"])
        box = 2 * int(110 / pixel)
        known = [np.array(truth[name][k]) for k in ("position", "angles")]
        found = displacements(volume, pixel, result["centre"], *known, phantom, box)
        print(name, pixel_size, len(found), found.mean(0).round(3), np.linalg.norm(found, axis=1).max().round(3))
        assert len(found) >= 5 and np.linalg.norm(found, axis=1).max() < 0.3
        assert np.abs(found.mean(axis=0)).max() < 0.1
        halves = [mrc.read_volume(result[h])[0] for h in ("odd", "even")]
        assert np.allclose(0.5 * (halves[0] + halves[1]), volume, atol=1e-5 * volume.std())
        # The halves share the particles, which are few, and none of the noise.
        assert 0.02 < np.corrcoef(halves[0].ravel(), halves[1].ravel())[0, 1] < 0.5
