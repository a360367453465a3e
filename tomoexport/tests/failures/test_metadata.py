"""Alignment, dose and CTF that are missing, incomplete or impossible: F07, F08, F10, F15 to F24."""
import os

import numpy as np
import pytest

from tomoexport.io import mrc, star

from .conftest import assert_told, whole

VERBS = ("reconstruct", "subtomo")


@pytest.mark.parametrize("verb", VERBS)
def test_F07_fewer_ctfs_than_tilts(project, verb):
    for column in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"):
        project.put(project.tilts(), column, 0, "")
    code, text = project.check(verb)
    assert code == 0
    assert_told(text, ("TS_01: 2 of 3 tilts", "1 views are left out because they have no CTF (acquisition order 2)"))
    assert {r["status"] for r in project.run(verb)["results"]} == {"done"}
    whole(project.out)


def test_F07_no_ctf_at_all(project):
    project.drop(project.tilts(), "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
    project.alone("subtomo", "TS_01", "it has no CTF", "Estimate the CTF")
    assert {r["status"] for r in project.run("reconstruct", ctf="none")["results"]} == {"done"}


def test_F07_more_values_than_columns(project):
    """A table that has grown a value in one row is refused, with its line."""
    lines = open(project.tilts()).read().splitlines()
    row = next(i for i, line in enumerate(lines) if "000002@" in line)
    lines[row] += " 30000.0"
    with open(project.tilts(), "w") as handle:
        handle.write("\n".join(lines) + "\n")
    project.alone("reconstruct", "TS_01", "%s:%d" % (project.tilts(), row + 1), "values for", "quotes")


@pytest.mark.parametrize("value", ("nan", "inf", ""))
def test_F08_ctf_disabled_on_some_tilts(project, value):
    """A view without CTF and an excluded one are treated alike."""
    project.put(project.tilts(), "rlnDefocusU", 2, value)
    one = project.results("subtomo")["TS_01"]
    project.put(project.tilts(), "rlnDefocusU", 2, "30000.0")
    project.put(project.tilts(), "tomoexportUsed", 2, "0")
    two = project.results("subtomo", output=project.out + "/excluded")["TS_01"]
    assert [p["tilts"] for p in one["particles"]] == [p["tilts"] for p in two["particles"]]
    for a, b in zip(one["files"], two["files"]):
        np.testing.assert_array_equal(mrc.read_volume(a)[0], mrc.read_volume(b)[0])


def test_F08_all_views_with_ctf_are_excluded(project):
    for row in range(3):
        project.put(project.tilts(), *(("rlnDefocusV", row, "nan") if row else ("tomoexportUsed", row, "0")))
    project.alone("reconstruct", "TS_01", "none of its 3 views can be used", "Include views")


@pytest.mark.parametrize("verb", VERBS)
def test_F10_duplicate_tomogram(project, verb):
    project.put(project.tomograms, "rlnTomoName", 1, "TS_01")
    project.refused(verb, "tomograms.star:", "TS_01 occurs twice", "Remove or rename")


@pytest.mark.parametrize("value, words", (
    (0, "out of range"), (-3, "out of range"), ("nan", "not a number"), ("inf", "not a number"), ("big", "a number"),
    (7.9, "smaller than the images' own, 8 A"), (1e4, "out of range")))
@pytest.mark.parametrize("verb", VERBS)
def test_F15_impossible_pixel_size(project, verb, value, words):
    options = {"diameter": 100} if verb == "subtomo" else {}
    project.refused(verb, words, pixel_size=value, **options)


@pytest.mark.parametrize("value", (7.9995, 8.0, 8.08, 8.4, 8.8, 10.73, 13.37, 40.0))
def test_F15_any_pixel_size_from_the_images_own_up(project, value):
    """No black, empty or wrongly scaled volume at any ratio, 1.0 to 1.1 included."""
    tomogram = project.results("reconstruct", pixel_size=value)["TS_02"]["tomogram"]
    volume, pixel = mrc.read_volume(tomogram)
    assert pixel == pytest.approx(value, rel=1e-5)
    # 64 x 72 x 30 voxels of 8 A, to the next even number of voxels
    assert np.abs(np.array(volume.shape[::-1]) * value - (512, 576, 240)).max() <= value * 1.01
    middle = volume[len(volume) // 2]
    assert middle[4:-4, 4:-4].std() > 1e-3
    result = project.results("subtomo", pixel_size=value, diameter=100,
                             output=project.out + "/subtomo")["TS_02"]
    volumes = [mrc.read_volume(path) for path in result["files"]]
    assert len(volumes) == 2 * sum(p["kept"] for p in result["particles"]) > 0
    for volume, pixel in volumes[::2]:
        assert volume.std() > 0.1
        assert pixel == pytest.approx(value, rel=1e-5)
    # 3D CTF: half a volume, its lowest frequency is not empty
    for transfer, _ in volumes[1::2]:
        assert transfer.shape == (16, 16, 9) and np.abs(transfer).max() > 1e-3


@pytest.mark.parametrize("dose", ("0.0", "7.0"))
def test_F16_all_doses_equal(project, dose):
    project.drop(project.tilts(), "tomoexportAcquisitionOrder")
    for row in range(3):
        project.put(project.tilts(), "rlnMicrographPreExposure", row, dose)
    code, text = project.check("reconstruct")
    assert code == 0
    assert_told(text, ("warning: TS_01", "all views have the same dose, %g e" % float(dose), "filtered by dose"))
    assert "TS_02: all views" not in text
    assert {r["status"] for r in project.run("reconstruct")["results"]} == {"done"}
    whole(project.out)


def test_F16_dose_is_no_number(project):
    project.put(project.tilts(), "rlnMicrographPreExposure", 1, "nan")
    project.alone("subtomo", "TS_01", project.tilts(), "dose of tilt 2 is not a finite number")


def test_F16_dose_missing(project):
    project.drop(project.tilts(), "rlnMicrographPreExposure")
    project.alone("subtomo", "TS_01", project.tilts(), "no column rlnMicrographPreExposure", "0 for series that are")


@pytest.mark.parametrize("n", (1, 2))
@pytest.mark.parametrize("verb", VERBS)
def test_F17_few_tilts(project, verb, n, figures):
    for row in range(n, 3):
        project.put(project.tilts(), "tomoexportUsed", row, "0")
    code, text = project.check(verb)
    assert code == 0 and "TS_01: %d of 3 tilts" % n in text
    options = {"halves": True} if verb == "reconstruct" else {}
    results = project.results(verb, **options)
    assert {r["status"] for r in results.values()} == {"done"}
    assert whole(project.out) >= len(results["TS_01"]["files"])
    volume, _ = mrc.read_volume(results["TS_01"]["files"][0])
    assert volume.std() > 0


def test_F17_one_tilt_has_no_second_half(project):
    for row in (1, 2):
        project.put(project.tilts(), "tomoexportUsed", row, "0")
    code, text = project.check("reconstruct", halves=True)
    assert code == 0 and "warning: TS_01: it has one tilt: the even half is empty" in text


@pytest.mark.parametrize("verb", VERBS)
def test_F17_no_tilt(project, verb):
    for row in range(3):
        project.put(project.tilts(), "tomoexportUsed", row, "0")
    project.alone(verb, "TS_01", "none of its 3 views can be used", "Include views")


def test_F17_empty_table(project):
    project.edit(project.tilts(), lambda columns: [values.clear() for values in columns.values()])
    project.alone("reconstruct", "TS_01", project.tilts(), "no tilt images")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("defocus", (0.0, -20000.0))
def test_F18_no_underfocus(project, verb, defocus):
    for row in range(3):
        project.put(project.tilts(), "rlnDefocusU", row, str(defocus))
        project.put(project.tilts(), "rlnDefocusV", row, str(defocus))
    code, text = project.check(verb)
    assert code == 0
    assert_told(text, ("warning: TS_01", "3 views have a defocus of 0 or overfocus", "Underfocus is positive"))
    assert {r["status"] for r in project.run(verb)["results"]} == {"done"}
    whole(project.out)


@pytest.mark.parametrize("verb", VERBS)
def test_F18_impossible_defocus(project, verb):
    project.put(project.tilts(), "rlnDefocusV", 1, "1000000.0")
    project.alone(verb, "TS_01", project.tilts(), "defocus 1e+06 A", "below 500000")


@pytest.mark.parametrize("change", ("wrapped", "exchanged"))
def test_F18_one_astigmatism_written_in_several_ways(project, change):
    """The angle counts modulo 180 degrees; with U below V it is the direction of the smaller defocus."""
    before = project.results("subtomo")["TS_01"]["files"]

    def rewrite(columns):
        angle = np.array(columns["rlnDefocusAngle"], float)
        if change == "exchanged":
            columns["rlnDefocusU"], columns["rlnDefocusV"] = columns["rlnDefocusV"], columns["rlnDefocusU"]
        columns["rlnDefocusAngle"] = [str(a) for a in angle + (90 if change == "exchanged" else -540)]
    project.edit(project.tilts(), rewrite)
    after = project.results("subtomo", output=project.out + "/after")["TS_01"]["files"]
    for a, b in zip(before, after):
        np.testing.assert_allclose(mrc.read_volume(a)[0], mrc.read_volume(b)[0], atol=1e-4)


def test_F19_box_without_aliasing_is_larger_than_the_image(project):
    for column in ("rlnDefocusU", "rlnDefocusV"):
        project.put(project.tilts(), column, 0, "400000.0")
    code, text = project.check("subtomo", pixel_size=8.0, diameter=100)
    assert code == 0
    assert_told(text, ("warning: TS_01: a box without CTF aliasing needs", "more than the image has; 64 px are used",
                       "A larger pixel size needs less", "CTF box 64 px"))
    assert {r["status"] for r in project.run("subtomo", pixel_size=8.0, diameter=100)["results"]} == {"done"}
    whole(project.out)


@pytest.mark.parametrize("column, value, cause", (
    ("rlnVoltage", "0.0", "voltage is 0"), ("rlnVoltage", "", "voltage is nan"),
    ("rlnVoltage", "-300", "voltage is -300"), ("rlnVoltage", "300000", "voltage is 300000"),
    ("rlnSphericalAberration", "-2.7", "cs is -2.7"),
    ("rlnSphericalAberration", "nan", "cs is nan"), ("rlnAmplitudeContrast", "7", "amplitude contrast is 7"),
    ("rlnAmplitudeContrast", "", "amplitude contrast is nan")))
def test_F20_impossible_optics(project, column, value, cause):
    project.put(project.tomograms, column, 0, value)
    project.refused("subtomo", "tomograms.star:", cause, "Give a value from")


@pytest.mark.parametrize("column", ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"))
def test_F20_missing_optics(project, column):
    project.drop(project.tomograms, column)
    words = "tomograms.star:", "no column " + column, "Give voltage"
    project.refused("reconstruct", *words)
    assert_told(project.refused("subtomo", *words), ["--"])


@pytest.mark.parametrize("column, name", (("rlnSphericalAberration", "spherical aberration"),
                                          ("rlnAmplitudeContrast", "amplitude contrast")))
def test_F20_optics_of_zero(project, column, name):
    """Corrected microscopes come near these; more often the value was forgotten."""
    project.put(project.tomograms, column, 0, "0.0")
    code, text = project.check("subtomo")
    assert code == 0
    assert_told(text, ("warning: TS_01: the %s is 0" % name,))
    assert "TS_02: the" not in text
    assert {r["status"] for r in project.run("subtomo")["results"]} == {"done"}


@pytest.mark.parametrize("verb", VERBS)
def test_F21_alignment_missing(project, verb):
    project.drop(project.tilts(), "rlnTomoYTilt", "rlnTomoZRot")
    project.alone(verb, "TS_01", project.tilts(), "alignment is missing", "rlnTomoYTilt, rlnTomoZRot",
                  "Align the tilt series")


def test_F21_alignment_of_one_view_missing(project):
    project.put(project.tilts(), "rlnTomoXShiftAngst", 1, "")
    project.alone("reconstruct", "TS_01", project.tilts(), "shift of tilt 2 is not a finite number")


def test_F22_trimmed_tomogram(project):
    """A tomogram of another size is cut out about the same centre."""
    full, _ = mrc.read_volume(project.results("reconstruct", ctf="none")["TS_01"]["tomogram"])
    part, _ = mrc.read_volume(project.results("reconstruct", ctf="none", size_x=40, size_y=48,
                                              output=project.out + "/part")["TS_01"]["tomogram"])
    assert full.shape == (16, 32, 32) and part.shape == (16, 24, 20)
    np.testing.assert_allclose(part, full[:, 4:-4, 6:-6], atol=1e-4 * full.std())


def test_F22_particles_picked_in_a_tomogram_of_imod(project):
    """Corner coordinates are half a voxel of that tomogram apart between IMOD's centre and RELION's."""
    def corner(columns):
        for axis, side in zip("XYZ", (64, 64, 30)):
            centred = np.array(columns.pop("rlnCenteredCoordinate%sAngst" % axis), float)
            columns["rlnCoordinate" + axis] = [str(c / 8.0 + side / 2) for c in centred]
        for values in columns.values():
            del values[4:]
    truth = np.array(star.read(project.particles).table("particles").float("rlnCenteredCoordinateXAngst"))[:4]
    project.edit(project.particles, corner)
    for centre, offset in (("relion", 0.0), ("imod", 4.0)):
        out = project.out + "/" + centre
        project.run("subtomo", centre=centre, output=out)
        table = star.read(os.path.join(out, "particles.star")).table("particles")
        np.testing.assert_allclose(table.float("rlnCenteredCoordinateXAngst"), truth + offset, atol=1e-6)


def test_F23_mixed_pixel_sizes(project):
    project.put(project.tomograms, "rlnTomoTiltSeriesPixelSize", 1, "20.0")
    project.alone("subtomo", "TS_02", "16 A, is smaller than the images' own, 20 A", "Ask for at least 20 A")
    code, text = project.check("reconstruct", pixel_size=20.0)
    assert code == 0
    assert_told(text, ("warning: TS_02", project.stack("TS_02"), "the header says 8 A", "20 A; the table counts"))


def test_F23_particles_of_series_with_other_shapes(project):
    """Every series is planned by its own shape."""
    code, text = project.check("reconstruct", pixel_size=16.0)
    assert code == 0
    assert_told(text, ("tomogram 32 x 32 x 16 voxels", "tomogram 32 x 36 x 16 voxels"))


def matrices(project, change):
    """Replace the angles of TS_01 by projection matrices that were changed."""
    from tomoexport.engine.geometry import projection_matrices
    from tomoexport.io import relion5
    values = projection_matrices(relion5.read_project(project.tomograms)[0].geometry).copy()
    change(values)

    def rewrite(columns):
        for name in [n for n in columns if n.startswith("rlnTomo")]:
            columns.pop(name)
        for i, letter in enumerate("XYZW"):
            columns["rlnTomoProj" + letter] = ["[%s]" % ",".join(map(repr, row)) for row in values[:, i].tolist()]
    project.edit(project.tilts(), rewrite)


def test_F24_mirrored_projection(project):
    def mirror(values):
        values[1, 0] *= -1
    matrices(project, mirror)
    project.alone("reconstruct", "TS_01", project.tilts(), "mirrors the specimen",
                  "rlnTomoProjX/Y/Z must be a rotation")


def test_F24_singular_projection(project):
    def flatten(values):
        values[1, 0, :3] = 0
    matrices(project, flatten)
    project.alone("subtomo", "TS_01", project.tilts(), "singular")


def test_F24_projection_that_is_a_rotation_passes(project):
    before = project.results("reconstruct")["TS_01"]["tomogram"]
    matrices(project, lambda values: None)
    after = project.results("reconstruct", output=project.out + "/after")["TS_01"]["tomogram"]
    one, two = (mrc.read_volume(path)[0] for path in (before, after))
    np.testing.assert_allclose(one, two, atol=1e-3 * one.std())


def test_F24_orientation_is_no_number(project):
    project.put(project.particles, "rlnAngleTilt", 2, "nan")
    project.refused("subtomo", "particle TS_01/3", "no proper rotation")
