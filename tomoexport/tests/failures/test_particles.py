"""Particles without series, at the edge or outside, and boxes that are none: F09, F10, F12 to F14."""
import os

import numpy as np
import pytest

from tomoexport.io import mrc, star

from .conftest import assert_told, whole


def ghosts(project):
    """Let three particles name tilt series that are not there."""
    for row, name in ((0, "TS_03"), (1, "TS_03"), (5, "TS_10")):
        project.put(project.particles, "rlnTomoName", row, name)


def exported(project, folder="out"):
    return star.read(str(project.root / folder / "particles.star")).table("particles")


def test_F09_particles_without_tilt_series(project):
    ghosts(project)
    project.refused("subtomo", project.particles, "3 particles would be lost", "TS_03 (2 particles)",
                    "TS_10 (1 particles)", "TS_01, TS_02", "--allow-loss")


def test_F09_loss_that_is_allowed(project):
    ghosts(project)
    code, text = project.check("subtomo", allow_loss=True)
    assert code == 0
    assert_told(text, ("TS_03: 2 particles are left out", "TS_10: 1 particles are left out"))
    project.run("subtomo", allow_loss=True)
    assert len(exported(project)) == 5


def test_F09_a_job_for_one_series_is_not_asked_about_the_others(project):
    """Scipion's steps are jobs for one series; the form has asked before."""
    ghosts(project)
    from tomoexport.jobs import runner
    out = runner.run(dict(project.job("subtomo"), series=["TS_02"]))
    assert [r["status"] for r in out["results"]] == ["done"] and "collected" not in out


def test_F09_no_particle_has_a_tilt_series(project):
    def change(columns):
        columns["rlnTomoName"] = ["X" + name for name in columns["rlnTomoName"]]
    project.edit(project.particles, change)
    for allow in (False, True):
        project.refused("subtomo", project.particles, "XTS_01", "XTS_02", "TS_01, TS_02", allow_loss=allow)


def test_F09_tilt_series_without_particles(project):
    def change(columns):
        for values in columns.values():
            del values[4:]
    project.edit(project.particles, change)
    code, text = project.check("subtomo")
    assert code == 0
    assert_told(text, ("warning: TS_02: the table has no particles in this tilt series",
                       "TS_02: 3 of 3 tilts, particles 0 of 0"))
    assert project.results("subtomo")["TS_02"]["status"] == "done"
    assert len(exported(project)) == 4


def test_F09_series_that_the_job_asks_for_is_unknown(project):
    from tomoexport.errors import InputError
    from tomoexport.jobs import runner
    with pytest.raises(InputError, match="TS_9: .*does not name this tilt series.*TS_01, TS_02"):
        runner.run(dict(project.job("reconstruct"), series=["TS_9"]))
    assert not os.path.exists(project.out)


def test_F10_duplicate_particle_name(project):
    project.put(project.particles, "rlnTomoParticleName", 1, "TS_01/1")
    project.refused("subtomo", "particle TS_01/1", "more than once")


def test_F10_duplicate_coordinate(project):
    for axis in "XYZ":
        project.put(project.particles, "rlnCenteredCoordinate%sAngst" % axis, 1,
                    star.read(project.particles).table("particles").text("rlnCenteredCoordinate%sAngst" % axis)[0])
    code, text = project.check("subtomo")
    assert code == 0
    assert_told(text, ("TS_01: 1 particles have the same coordinates as another",))
    project.run("subtomo")
    assert len(exported(project)) == 8


def test_F12_particle_outside_the_volume_but_in_the_images(project):
    """Above the tomogram, yet in every image: it is counted and kept."""
    for axis, value in zip("XYZ", ("0.0", "0.0", "150.0")):
        project.put(project.particles, "rlnCenteredCoordinate%sAngst" % axis, 0, value)
    code, text = project.check("subtomo")
    assert code == 0
    assert_told(text, ("warning: TS_01: 1 of 4 particles lie outside the tomogram", "particles 4 of 4 kept"))
    project.run("subtomo")
    assert exported(project).text("tomoexportVisibleTilts")[0] == "3"


def test_F12_particle_that_no_image_shows(project):
    project.put(project.particles, "rlnCenteredCoordinateXAngst", 0, "5000.0")
    code, text = project.check("subtomo")
    assert code == 0
    assert_told(text, ("1 of 4 particles lie outside", "TS_01: 3 of 3 tilts, particles 3 of 4 kept"))
    out = project.run("subtomo")
    assert out["collected"]["dropped"] == ["TS_01/1: seen in 0 tilts, 1 asked for"]
    lost = out["results"][0]["particles"][0]
    assert lost["uid"] == "TS_01/1" and not lost["kept"]
    assert not os.path.exists(os.path.join(project.out, lost["image"]))
    assert "TS_01/1" not in exported(project).text("rlnTomoParticleName") and len(exported(project)) == 7


def test_F12_no_particle_can_be_exported(project):
    def change(columns):
        columns["rlnCenteredCoordinateXAngst"] = ["9000.0"] * 8
    project.edit(project.particles, change)
    project.refused("subtomo", project.particles, "no particle can be exported", "TS_01: 4 in the table, 0 seen",
                    "TS_02: 4 in the table, 0 seen", "Check the pixel size and the centre")


@pytest.mark.parametrize("value", ("nan", "inf", ""))
def test_F12_coordinate_is_no_number(project, value):
    project.put(project.particles, "rlnCenteredCoordinateYAngst", 6, value)
    project.refused("subtomo", "particle TS_02/3", "not finite")


def test_F13_particle_at_the_edge(project):
    """A tilt that does not show it wholly takes no part; the table says how many do."""
    for axis in "XYZ":
        project.put(project.particles, "rlnCenteredCoordinate%sAngst" % axis, 0, "0.0")
    # Its centre is then 58 A within the outermost pixels of the first image; its radius is 70 A.
    project.put(project.tilts(), "rlnTomoXShiftAngst", 0, "190.0")
    entry = project.results("subtomo")["TS_01"]["particles"][0]
    assert entry["kept"] and entry["tilts"] == 2
    assert exported(project).text("tomoexportVisibleTilts")[0] == "2"
    volume, _ = mrc.read_volume(os.path.join(project.out, entry["image"]))
    # What that image holds is of no consequence.
    project.pixels(lambda images: images[0].__imul__(-1))
    project.run("subtomo")
    np.testing.assert_array_equal(mrc.read_volume(os.path.join(project.out, entry["image"]))[0], volume)
    # With more tilts asked for it is left out, and said to be.
    out = project.run("subtomo", min_tilts=3, output=project.out + "/three")
    assert "TS_01/1: seen in 2 tilts, 3 asked for" in out["collected"]["dropped"]
    assert "TS_01/1" not in exported(project, "out/three").text("rlnTomoParticleName")
    # A smaller one is wholly there.
    assert project.results("subtomo", diameter=100.0)["TS_01"]["particles"][0]["tilts"] == 3


def test_F13_box_larger_than_the_image(project):
    out = project.run("subtomo", pixel_size=8.0, box=96, diameter=140.0)
    assert out["failed"] == []
    table = exported(project)
    assert len(table) == 8
    for name in table.text("rlnImageName"):
        volume, _ = mrc.read_volume(os.path.join(project.out, name))
        assert volume.shape == (96, 96, 96) and np.isfinite(volume).all()
    # The same particle as in a small box, around it.
    project.run("subtomo", pixel_size=8.0, box=48, diameter=140.0, output=project.out + "/small")
    for name in table.text("rlnImageName")[:2]:
        large, small = (mrc.read_volume(os.path.join(folder, name))[0][tuple([slice(n // 2 - 8, n // 2 + 8)] * 3)]
                        for folder, n in ((project.out, 96), (project.out + "/small", 48)))
        assert np.corrcoef(large.ravel(), small.ravel())[0, 1] > 0.9
    whole(project.out)


@pytest.mark.parametrize("box, cause, remedy", (
    (17, "17 is odd", "18 is next"), (1, "1 is out of range", "from 8 to 4096"), (0, "0 is out of range", "from 8"),
    (-16, "-16 is out of range", "from 8"), (7, "7 is out of range", "from 8"),
    (5000, "5000 is out of range", "to 4096"), (16.5, "not a whole number", "Correct"),
    ("", "not a whole number", "Correct")))
def test_F14_box(project, box, cause, remedy):
    project.refused("subtomo", "--box", cause, remedy, box=box)


@pytest.mark.parametrize("diameter, cause", ((256, "leaves nothing of the box"), (1000, "leaves nothing of the box"),
                                             (-1, "out of range"), ("nan", "not a number")))
def test_F14_diameter(project, diameter, cause):
    project.refused("subtomo", "--diameter", cause, diameter=diameter)
