"""Alignments of IMOD: Warp's import of the same files, RELION's truth, and the entries of tilt.com."""

import os
import shutil

import numpy as np
import pytest

from tomoexport.engine.geometry import TiltSeriesGeometry, to_imod_transform
from tomoexport.errors import InputError
from tomoexport.io import imod, mrc, project, relion5, warpxml
from tomoexport.jobs import runner
from tomoexport.tests.shared import need_shared

# ---------------------------------------------------------------------- Warp's import


@pytest.fixture(scope="module")
def imported():
    """What Warp's XML says, and what we read from the .xf and .tlt that it came from; 10 A per pixel."""
    folder = need_shared("data", "warp", "xf_import")
    root = warpxml._parse(str(folder / "00254.xml"))
    theirs = {name: warpxml._numbers(root, name, "") for name in ("Angles", "AxisAngle", "AxisOffsetX", "AxisOffsetY")}
    ours = {centre: imod.read_alignment(str(folder / "00254.xf"), str(folder / "00254.tlt"), (512, 480), 10.0,
                                        centre=centre) for centre in ("imod", "relion")}
    return theirs, ours


@pytest.mark.shared
def test_warps_numbers_come_from_the_same_files(imported):
    """Warp drops the half pixel and keeps the angles of the .tlt as they are."""
    theirs, ours = imported[0], imported[1]["relion"]
    offset = np.abs(ours["shift"] - np.stack([theirs["AxisOffsetX"], theirs["AxisOffsetY"]], 1)).max()
    axis = np.abs(ours["axis"] - theirs["AxisAngle"]).max()
    print("differences from Warp's import: offsets %.6f A, axis %.7f degrees" % (offset, axis))
    assert offset < 1e-3 and axis < 1e-5 and np.allclose(ours["tilt"], theirs["Angles"], rtol=0, atol=1e-9)
    assert np.abs(ours["magnification"] - np.eye(2)).max() < 1e-6 and ours["used"].all() and not ours["xtilt"].any()


@pytest.mark.shared
def test_the_half_pixel_is_kept_unless_warp_is_asked_for(imported):
    """IMOD's centre lies half a pixel of 10 A below ours."""
    assert np.allclose(imported[1]["imod"]["shift"], imported[1]["relion"]["shift"] - 5.0, rtol=0, atol=1e-4)


@pytest.mark.shared
@pytest.mark.parametrize("column", ["AxisOffsetX", "AxisOffsetY", "AxisAngle", "Angles"])
def test_a_wrong_sign_would_be_noticed(imported, column):
    theirs, ours = imported[0], imported[1]["relion"]
    mine = {"AxisOffsetX": ours["shift"][:, 0], "AxisOffsetY": ours["shift"][:, 1], "AxisAngle": ours["axis"],
            "Angles": ours["tilt"]}[column]
    assert np.abs(-mine - theirs[column]).max() > 5


@pytest.mark.shared
@pytest.mark.parametrize("name, shape", [("TS_01", (320, 320)), ("TS_02", (320, 256))])
def test_files_of_a_known_geometry_meet_its_truth(name, shape):
    """Half pixel and x-tilt included: RELION's truth of the same series, 4 A per pixel."""
    folder, truth = need_shared("reference", "relion5", "imod", name), np.load(
        str(need_shared("reference", "relion5", "truth.npz")))
    found = imod.read_alignment(*(str(folder / (name + end)) for end in (".xf", ".tlt")), shape, 4.0,
                                xtilt=str(folder / (name + ".xtilt")))
    g = TiltSeriesGeometry(name, pixel_size=4.0, dose=np.arange(31), volume_size=(1280, 1280, 640), **found)
    expected = np.einsum("tij,nj->nti", truth[name + "_R"], truth[name + "_pos"])[..., :2] + truth[name + "_shift_A"]
    error = np.abs(g.project(truth[name + "_pos"]).xy - expected).max()
    print("%s: %.5f A" % (name, error))
    assert error < 0.01 * 4.0


# ---------------------------------------------------------------------- the files

N, PIXEL, SHAPE = 5, 2.0, (90, 100)


@pytest.fixture
def files(tmp_path):
    """Write the files of an alignment; returns a reader that takes the text of a tilt.com."""
    rng = np.random.default_rng(4)
    tilt = np.linspace(-40, 40, N)
    g = TiltSeriesGeometry("a", SHAPE, PIXEL, tilt, rng.uniform(80, 84, N), rng.normal(0, 20, (N, 2)), np.arange(N),
                           (200, 180, 100), magnification=np.eye(2) * rng.uniform(0.99, 1.01, (N, 1, 1)))
    rows = to_imod_transform(g)
    np.savetxt(str(tmp_path / "a.xf"), np.concatenate([rows[:, :2, :2].reshape(N, 4), rows[:, :2, 2]], 1), "%.9f")
    np.savetxt(str(tmp_path / "a.tlt"), tilt, "%8.2f")

    def read(com=None, shape=SHAPE, xf="a.xf", tlt="a.tlt", **how):
        if com is not None:
            (tmp_path / "tilt.com").write_text("$tilt -StandardInput\n# a comment\n" + com + "\n$if (-e ./x) ./x\n")
            how["tilt_com"] = str(tmp_path / "tilt.com")
        found = imod.read_alignment(str(tmp_path / xf), str(tmp_path / tlt), shape, PIXEL, **how)
        return g.replace(**found)

    read.geometry, read.folder = g, tmp_path
    return read


POINTS = np.random.default_rng(5).uniform(-50, 50, (6, 3))


def test_an_alignment_comes_back(files):
    g = files()
    assert np.abs(g.project(POINTS).xy - files.geometry.project(POINTS).xy).max() < 1e-5
    assert np.abs(g.project(POINTS).depth - files.geometry.project(POINTS).depth).max() < 1e-5


def test_the_first_number_of_offset_adds_to_the_angles(files):
    g = files("OFFSET 3.5")
    assert np.allclose(g.tilt, files.geometry.tilt + 3.5) and np.allclose(g.shift, files().shift)


def test_the_second_number_of_offset_moves_the_axis_and_not_the_specimen(files):
    """A point r is seen at ``[R (r - o x)]_x + o`` across the axis (measured beside IMOD 4.8.2): at zero tilt where it
    was, and o (1 - cos tilt) further to the right elsewhere.
    """
    o = 6 * PIXEL
    g, plain = files("OFFSET 0. 6"), files()
    seen, before = (np.einsum("tij,ntj->nti", to_imod_transform(plain)[:, :2, :2], one.project(POINTS).xy)
                    for one in (g, plain))
    assert np.ptp(g.tilt) > 60
    assert np.allclose((seen - before)[..., 0], o * (1 - np.cos(np.deg2rad(g.tilt))), atol=1e-6)
    assert np.allclose((seen - before)[..., 1], 0, atol=1e-6)


def test_offset_is_measured_in_the_tomogram_of_imod(files):
    """IMOD's numbers: the specimen seen with the axis 12 px right of the images' centre lies there at zero tilt.

    Median of 30 beads in tomograms of IMOD 4.8.2: x 11.50 with OFFSET 0 12, -0.50 without, voxels from the true place
    counted about voxel N//2; IMOD's centre is half a voxel lower.
    """
    turned, flat = files("OFFSET 0 12"), files()
    to_image = np.linalg.inv(to_imod_transform(flat)[:, :2, :2])
    seen = flat.project(POINTS).xy + to_image @ (12 * PIXEL, 0.0)
    corner, *ends = turned.project(np.vstack([np.zeros(3), np.eye(3)])).xy
    along = np.stack([end - corner for end in ends], -1).reshape(-1, 3)
    found = np.array([np.linalg.lstsq(along, (xy - corner).ravel(), rcond=None)[0] for xy in seen])
    assert np.allclose((found - POINTS) / PIXEL, (12.0, 0.0, 0.0), atol=0.02)


def test_a_section_that_rises_becomes_flat(files):
    """The manual's example: 5 pixels below the middle in the first of 500 slices, 5 above in the last, is 1.1 degrees.

    Slices follow y, rows of a slice go up, and z of the turned volume is minus the row.
    """
    angle = np.rad2deg(np.arcsin(10 / 500))
    g, plain = files("XAXISTILT %.6f" % angle), files()
    length = np.hypot(250, 5)
    for y, row in ((-250, -5), (250, 5)):
        flat = [[12.0, np.sign(y) * length, 0.0]]
        assert np.abs(g.project(flat).xy - plain.project([[12.0, y, -row]]).xy).max() < 0.02
        assert np.abs(g.project(flat).xy - plain.project([[12.0, y, row]]).xy).max() > 1


def test_angles_about_x_are_a_file_less_xaxistilt(files):
    values = np.linspace(-1, 2, N)
    np.savetxt(str(files.folder / "a.xtilt"), values)
    xtilt = str(files.folder / "a.xtilt")
    assert np.allclose(files(xtilt=xtilt).xtilt, values)
    assert np.allclose(files("XAXISTILT 2.5", xtilt=xtilt).xtilt, values - 2.5)


def test_a_slice_that_was_shifted_shows_things_elsewhere(files):
    """SHIFT 7 4 moves contents of the slices by 7 to the right and 4 up: up is -z of the turned volume."""
    g, plain = files("XAXISTILT 3\nSHIFT 7 4"), files("XAXISTILT 3")
    moved = POINTS + np.array([7.0, 0.0, -4.0]) * PIXEL
    assert np.abs(g.project(moved).xy - plain.project(POINTS).xy).max() < 1e-9
    only_x = files("XAXISTILT 3\nSHIFT 7")
    assert np.abs(only_x.project(POINTS + (7 * PIXEL, 0, 0)).xy - plain.project(POINTS).xy).max() < 1e-9


def test_excluded_views_are_not_used(files):
    g = files("EXCLUDELIST 1,3-4\nEXCLUDELIST2 5")
    assert list(g.used) == [False, True, False, False, False] and files().used.all()


def test_fullimage_is_the_size_of_the_images(files):
    """An odd side has no half pixel."""
    g = files("FULLIMAGE 101 90\nIMAGEBINNED 2", shape=None)
    assert g.image_shape == (90, 101)
    assert np.allclose(g.shift - files().shift, (1.0, 0.0))
    com = imod.read_tilt_com(str(files.folder / "tilt.com"))
    assert com == {"FULLIMAGE": [101.0, 90.0], "IMAGEBINNED": [2.0]}
    # Its entries are unbinned whatever the binning of the aligned images.
    both = ["OFFSET 1 6\nSHIFT 7 4\nIMAGEBINNED %d" % n for n in (1, 4)]
    assert np.array_equal(files(both[0]).shift, files(both[1]).shift)


@pytest.mark.shared
def test_a_real_tilt_com():
    folder = need_shared("data", "mdoc", "TS_017")
    com = imod.read_tilt_com(str(folder / "tilt.com"))
    assert com == {"OFFSET": [0.0], "SHIFT": [0.0, 0.0], "XAXISTILT": [0.0], "FULLIMAGE": [4096.0, 4096.0],
                   "IMAGEBINNED": [1.0], "THICKNESS": [1500.0], "SUBSETSTART": [0.0, 0.0], "TILTFILE": "017.tlt",
                   "INPUTPROJECTIONS": "017.ali"}
    angles = imod.read_angles(str(folder / "017.tlt"))
    assert len(angles) == 60 and angles[0] == -52.01 and angles[-1] == 65.97


@pytest.mark.parametrize("change, word", [
    (lambda r: r("OFFSET a"), "tilt.com, line 3: 'a'"), (lambda r: r("XAXISTILT"), "XAXISTILT has 0 numbers"),
    (lambda r: r("EXCLUDELIST 2,x"), "'x' is no view"), (lambda r: r("EXCLUDELIST 9"), "view 9 of 5"),
    (lambda r: r("OFFSET 1", shape=None), "size of the raw images"), (lambda r: r(xf="b.xf"), "no such file"),
    (lambda r: r(tlt="short.tlt"), "4 angles, .* transforms of 5"),
    (lambda r: r(tlt="zero.tlt"), "all tilt angles are 0"),
    (lambda r: r(tlt="empty.tlt"), "empty"), (lambda r: r(xf="five.xf"), "line 2: 5 numbers instead of 6"),
    (lambda r: r(tlt="nan.tlt"), "line 1: 'nan'")])
def test_damage_is_named(files, change, word):
    lines = (files.folder / "a.xf").read_text().splitlines()
    for name, text in (("short.tlt", "1\n2\n3\n4\n"), ("zero.tlt", "0\n" * N), ("empty.tlt", "\n"),
                       ("five.xf", "\n".join([lines[0], "1 2 3 4 5"] + lines[2:])), ("nan.tlt", "nan\n1\n2\n3\n4\n")):
        (files.folder / name).write_text(text)
    with pytest.raises(InputError, match=word):
        change(files)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["TS_01", "TS_02"])
def test_a_tomogram_by_imods_files_is_that_by_relions_table(tmp_path, name):
    """The half pixel, x-tilt, angles and dose of a whole series; a wrong half pixel or sign leaves another volume."""
    folder = need_shared("reference", "relion5")
    own = tmp_path / name
    shutil.copytree(str(folder / "imod" / name), str(own))
    os.symlink(str(folder / "tiltseries" / (name + ".mrcs")), str(own / (name + ".mrcs")))
    size = relion5.read_project(str(folder / "tomograms.star"), [name])[0].geometry.size_px
    common = {"pixel_size": 16.0, "ctf": "none", "threads": 2}

    def made(tomograms, out, **more):
        run = runner.run({"verb": "reconstruct", "series": [name], "options": dict(
            common, tomograms=str(tomograms), output=str(tmp_path / out), **more)})
        assert not run["failed"], run["results"]
        return mrc.read_volume(run["results"][0]["tomogram"])[0]

    expected = made(folder / "tomograms.star", "relion")
    found = made(own / (name + ".xf"), "imod", tomogram_size="%dx%dx%d" % tuple(size))
    difference = np.sqrt(np.mean((found - expected) ** 2)) / expected.std()
    lines = (own / (name + ".tlt")).read_text().split()
    (own / (name + ".tlt")).write_text("\n".join(str(-float(v)) for v in lines) + "\n")
    wrong = made(own / (name + ".xf"), "wrong", tomogram_size="%dx%dx%d" % tuple(size))
    print("%s: relative rms %.1e; with angles of the wrong sign %.2f" % (
        name, difference, np.sqrt(np.mean((wrong - expected) ** 2)) / expected.std()))
    assert difference < 0.01 and np.sqrt(np.mean((wrong - expected) ** 2)) > 0.3 * expected.std()


@pytest.mark.shared
def test_what_a_series_of_imod_lacks_is_named(tmp_path):
    folder = need_shared("reference", "relion5")
    shutil.copytree(str(folder / "imod" / "TS_01"), str(tmp_path / "a"))
    path = str(tmp_path / "a" / "TS_01.xf")
    with pytest.raises(InputError, match="no stack of images TS_01.st"):
        project.read_project(path).complete()
    os.symlink(str(folder / "tiltseries" / "TS_01.mrcs"), str(tmp_path / "a" / "TS_01.mrcs"))
    with pytest.raises(InputError, match="thickness.*--tomogram-size"):
        project.read_project(path).complete()
    (tmp_path / "a" / "tilt.com").write_text("$tilt -StandardInput\nTHICKNESS 120\nFULLIMAGE 320 320\n")
    one = project.read_project(path)[0]
    assert one.ts_id == "TS_01" and one.ctf is None and one.geometry.size_px[2] == 120
    assert one.geometry.dose.max() == 90
