"""STAR files of exported sub-tomograms."""
import numpy as np
import pytest

from tomoexport.engine.ctf import Optics
from tomoexport.engine.particles import ParticleSet
from tomoexport.engine.poses import matrix_from_zyz
from tomoexport.errors import InputError
from tomoexport.io import mrc, star
from tomoexport.io.particlestar import dialect, read_particles
from tomoexport.io.subtomostar import read_subtomos, write_subtomos

SIZES = {"TS_01": (400.0, 600.0, 200.0), "TS 2": (400.0, 400.0, 200.0)}
OPTICS = {"TS_01": Optics(300, 2.7, 0.1), "TS 2": Optics(200, 2.7, 0.1)}


@pytest.fixture
def particles():
    rng = np.random.default_rng(5)
    extra = {"rlnTomoName": ["TS_01", "TS 2", "TS_01"], "rlnRandomSubset": ["1", "2", "1"],
             "rlnMyNote": ["a b", "", "#"], "rlnOriginXAngst": ["1", "2", "3"]}
    stale = {"rlnAngleTiltPrior": "90", "rlnTomoSubtomogramRot": "5", "rlnImageName": "old", "rlnOpticsGroup": "8",
             "rlnTomoVisibleFrames": "[1,1]", "rlnCtfDataAreCtfPremultiplied": "1", "rlnImagePixelSize": "9",
             "rlnCenteredCoordinateXAngst": "7"}
    extra.update((column, [value] * 3) for column, value in stale.items())
    return ParticleSet(rng.normal(size=(3, 3)) * 50, matrix_from_zyz(*rng.uniform(0, 170, (3, 3))), [0, 1, 0],
                       ("TS_01", "TS 2"), ("TS_01/1", "TS 2/1", "TS_01/2"), extra)


@pytest.fixture
def export(tmp_path, particles):
    def make(**how):
        path = str(tmp_path / "particles.star")
        images = ["subtomo/%d.mrc" % i for i in range(3)]
        for name in images:
            mrc.write(tmp_path / name, np.ones((8, 8, 8)), 5.0)
        write_subtomos(path, particles, images, [name.replace(".mrc", "_ctf.mrc") for name in images], 5.0, 8, OPTICS,
                       centres={name: np.array(size) / 2 for name, size in SIZES.items()}, **how)
        return path
    return make


@pytest.mark.parametrize("style", ["3.1", "3.0"])
def test_round_trip(export, particles, tmp_path, style, make_series):
    path = export(style=style)
    back, images, ctfs, pixel_size, box = read_subtomos(path)
    assert (pixel_size, box) == (5.0, 8)
    assert images == [str(tmp_path / "subtomo" / ("%d.mrc" % i)) for i in range(3)]
    assert ctfs[2] == str(tmp_path / "subtomo" / "2_ctf.mrc")
    assert back.uid == particles.uid and back.ts_ids == particles.ts_ids and back.oriented
    np.testing.assert_allclose(back.rotation, particles.rotation, atol=1e-12)
    np.testing.assert_array_equal(back.position, particles.position)
    again, problems = read_particles(path, [make_series("TS_01"), make_series("TS 2")])
    assert problems == []
    np.testing.assert_array_equal(again.position, particles.position)
    np.testing.assert_allclose(again.rotation, particles.rotation, atol=1e-12)


@pytest.mark.parametrize("style", ["3.1", "3.0"])
def test_columns(export, particles, style):
    file = star.read(export(style=style))
    table = file.table("particles" if style == "3.1" else "")
    corner = (particles.position + [np.array(SIZES[name]) / 2 for name in particles.names()]) / 5.0
    for axis, letter in enumerate("XYZ"):
        np.testing.assert_allclose(table.float("rlnCoordinate" + letter), corner[:, axis])
        assert (table.float("rlnOrigin" + letter + ("Angst" if style == "3.1" else "")) == 0).all()
    assert table.text("rlnMicrographName") == ["TS_01.mrc", "TS 2.mrc", "TS_01.mrc"]
    assert table.text("rlnMyNote") == ["a b", "", "#"] and table.text("rlnRandomSubset") == ["1", "2", "1"]
    assert table.text("rlnTomoParticleName") == list(particles.uid)
    for stale in ("AngleTiltPrior", "TomoSubtomogramRot", "TomoVisibleFrames", "CtfDataAreCtfPremultiplied"):
        assert not table.has("rln" + stale)
    assert len(set(table.columns)) == len(table.columns)
    if style == "3.1":
        optics = file.table("optics")
        assert optics.columns == ["rlnOpticsGroup", "rlnOpticsGroupName", "rlnVoltage", "rlnSphericalAberration",
                                  "rlnAmplitudeContrast", "rlnImagePixelSize", "rlnImageSize", "rlnImageDimensionality"]
        assert optics.rows == [["1", "opticsGroup1", "300.0", "2.7", "0.1", "5.0", "8", "3"],
                               ["2", "opticsGroup2", "200.0", "2.7", "0.1", "5.0", "8", "3"]]
        assert table.int("rlnOpticsGroup").tolist() == [1, 2, 1] and not table.has("rlnImagePixelSize")
    else:
        assert file.blocks == [""]
        np.testing.assert_array_equal(table.float("rlnDetectorPixelSize") * 1e4 / table.float("rlnMagnification"), 5.0)
        assert table.float("rlnVoltage").tolist() == [300, 200, 300] and table.has("rlnSphericalAberration")


def test_note_about_the_square_of_the_ctf(export):
    with open(export()) as handle:
        assert "--ctf3d_not_squared" in handle.readline()


def test_one_optics_group_for_equal_optics(export, monkeypatch):
    monkeypatch.setitem(OPTICS, "TS 2", OPTICS["TS_01"])
    assert len(star.read(export()).table("optics")) == 1


def test_micrograph_names_and_style(export):
    path = export(micrograph_names={"TS_01": "TS_01.tomostar", "TS 2": "TS_02.tomostar"})
    assert star.read(path).table("particles").text("rlnMicrographName")[1] == "TS_02.tomostar"
    assert dialect(path) == "relion5"
    with pytest.raises(InputError, match="STAR style 4"):
        export(style="4")


def test_export_of_warp(tmp_path, star_file):
    """Columns as Warp writes them: no offsets, no centred coordinates."""
    mrc.write(tmp_path / "s" / "1.mrc", np.ones((6, 6, 6)), 4.0)
    path = star_file("data_\n\nloop_\n" + "".join("_rln%s #%d\n" % (name, i) for i, name in enumerate((
        "CoordinateX", "CoordinateY", "CoordinateZ", "AngleRot", "AngleTilt", "AnglePsi", "MicrographName",
        "Magnification", "DetectorPixelSize", "ImageName", "CtfImage"), 1)) +
        "1.0 2.0 3.0 10 20 30 TS_1.tomostar 10000.0 4.00000 s/1.mrc s/1_ctf.mrc\n")
    particles, images, ctfs, pixel_size, box = read_subtomos(path)
    assert (pixel_size, box, particles.ts_ids, particles.uid) == (4.0, 6, ("TS_1",), ("TS_1/1",))
    np.testing.assert_allclose(particles.rotation[0], matrix_from_zyz(10, 20, 30))
    assert (particles.position == 0).all()


@pytest.mark.parametrize("old, new, cause", [
    ("_rlnCtfImage", "_rlnOther", "no column rlnCtfImage"), ("_rlnImageName", "_rlnOther", "no column rlnImageName"),
    ("_rlnImagePixelSize", "_rlnOther", "one pixel size"), (" 5.0 ", " 6.0 ", "one pixel size"),
    (" 0.0 ", " 2.0 ", "off the centres of their volumes"), ("subtomo/0.mrc", "absent.mrc", "no such file")])
def test_what_cannot_be_averaged(export, tmp_path, old, new, cause):
    path = export()
    with open(path) as handle:
        text = handle.read()
    assert old in text
    with open(path, "w") as handle:
        handle.write(text.replace(old, new, 1))
    with pytest.raises(InputError, match=cause):
        read_subtomos(path)


def test_volumes_are_cubes(export, tmp_path):
    path = export()
    mrc.write(tmp_path / "subtomo" / "0.mrc", np.ones((8, 8, 6)), 5.0)
    with pytest.raises(InputError, match="6 x 8 x 8 voxels"):
        read_subtomos(path)
