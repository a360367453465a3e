"""Options of the export of sub-tomograms that change what is written."""

import os

import numpy as np
import pytest

from tomoexport.errors import InputError
from tomoexport.io import mrc, star
from tomoexport.jobs import runner

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory, simulated):
    folder = tmp_path_factory.mktemp("options")
    simulated("demo", into=folder, particles=2, noise=2.0)
    return folder


def export(data, name, **options):
    out = runner.run({"verb": "subtomo", "options": dict(
        {"tomograms": str(data / "tomograms.star"), "particles": str(data / "particles.star"), "pixel_size": 8.0,
         "box": 32, "diameter": 170.0, "output": str(data / name), "threads": 2}, **options)})
    table = star.read(out["collected"]["star"]).table("particles")
    volumes, ctfs = ([mrc.read_volume(os.path.join(str(data / name), n))[0] for n in table.text(column)]
                     for column in ("rlnImageName", "rlnCtfImage"))
    return table, np.array(volumes), np.array(ctfs)


@pytest.fixture(scope="module")
def plain(data):
    return export(data, "plain")


def test_first_tilts_are_those_of_the_lowest_dose(data, plain):
    """A particle is seen in as many tilts, and the late ones are gone from the 3D CTF."""
    table, _, ctfs = export(data, "first", first_tilts=7)
    assert table.float("tomoexportVisibleTilts").max() == 7 < plain[0].float("tomoexportVisibleTilts").min()
    # The first seven of a dose-symmetric series are near 0 degrees: nothing is left far from that plane.
    far = ctfs[:, 12, 0, 1]  # z of 12, x of 1
    assert np.abs(far).max() < 0.02 < plain[2][:, 12, 0, 10].mean()
    assert np.allclose(export(data, "all", first_tilts=41)[2], plain[2])


def test_sparse_sets_small_values_to_zero(data, plain):
    _, volumes, ctfs = export(data, "sparse", sparse=True)
    small = plain[2] < 0.01
    assert 0.1 < small.mean() < 0.9 and (plain[2][small] != 0).any()
    assert not ctfs[small].any() and np.array_equal(ctfs[~small], plain[2][~small])
    assert np.array_equal(volumes, plain[1])


def test_paths_are_relative_or_absolute(data, plain):
    table, volumes, _ = export(data, "absolute", relative_paths=False)
    for column in ("rlnImageName", "rlnCtfImage"):
        assert all(os.path.isabs(name) and os.path.isfile(name) for name in table.text(column))
        assert not any(os.path.isabs(name) for name in plain[0].text(column))
    assert np.array_equal(volumes, plain[1])


def test_half_precision_and_the_name_of_the_table(data, plain):
    table, volumes, _ = export(data, "half", float16=True, star="mine.star")
    assert os.path.basename(table.where()).startswith("mine.star") and not np.array_equal(volumes, plain[1])
    assert np.abs(volumes - plain[1]).max() < 2e-3 * np.abs(plain[1]).max()


def test_pre_rotation_needs_orientations(data):
    source = star.read(str(data / "particles.star")).table("particles")
    columns = {c: source.text(c) for c in source.columns if not c.startswith("rlnAngle")}
    star.write(str(data / "unoriented.star"), [star.Table.from_columns("particles", columns)])
    with pytest.raises(InputError, match="orientations.*--prerotate"):
        export(data, "refused", particles=str(data / "unoriented.star"), prerotate=True)
    assert not os.path.exists(str(data / "refused" / "subtomo"))
    # A shift without orientations is one in the frame of the tomogram.
    table, _, _ = export(data, "moved", particles=str(data / "unoriented.star"), shift_z=16.0)
    assert np.allclose(table.float("rlnCenteredCoordinateZAngst"),
                       source.float("rlnCenteredCoordinateZAngst") + 16, atol=1e-3)


def test_a_shift_is_made_in_the_particles_frame(data, plain):
    from tomoexport.engine.poses import matrix_from_zyz
    table, _, _ = export(data, "shifted", shift_x=16.0, shift_y=-24.0)
    names = ["rlnCenteredCoordinate%sAngst" % axis for axis in "XYZ"]
    before, after = (np.stack([t.float(n) for n in names], -1) for t in (plain[0], table))
    rotation = matrix_from_zyz(*(plain[0].float("rlnAngle" + n) for n in ("Rot", "Tilt", "Psi")))
    assert np.allclose(after - before, rotation @ [16.0, -24.0, 0.0], atol=1e-3)


def outside(volumes, radius):
    from tomoexport.engine.fourier import sphere
    return volumes[:, sphere(volumes.shape[-1], radius, dtype=bool).astype(bool) == 0]


def test_contrast_and_normalisation(data, plain):
    assert np.allclose(export(data, "dark", invert=False)[1], -plain[1], atol=1e-4)
    around = outside(plain[1], 170 / 2 / 8)
    assert np.abs(around.mean(axis=1)).max() < 1e-3 and np.abs(around.std(axis=1) - 1).max() < 1e-3
    _, wide, _ = export(data, "wide", diameter=220.0)
    around = outside(wide, 220 / 2 / 8)
    assert np.abs(around.std(axis=1) - 1).max() < 1e-3 < np.abs(outside(plain[1], 220 / 2 / 8).std(axis=1) - 1).max()
    _, raw, _ = export(data, "raw", normalize_output=False)
    _, grey, _ = export(data, "grey", normalize_output=False, normalize_input=False)
    for a, b, c in zip(raw, plain[1], grey):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9999 and abs(a.std() / b.std() - 1) > 0.01
        assert np.corrcoef(a.ravel(), c.ravel())[0, 1] > 0.95 and abs(a.std() / c.std() - 1) > 0.01


def test_pixel_size_and_box(data):
    table, volumes, ctfs = export(data, "coarse", pixel_size=9.3, box=28)
    assert volumes.shape[1:] == (28,) * 3 and ctfs.shape[1:] == (28, 28, 15)
    optics = star.read(str(data / "coarse" / "particles.star")).table("optics")
    assert optics.float("rlnImagePixelSize")[0] == 9.3 and optics.float("rlnImageSize")[0] == 28
    names = table.text("rlnImageName")
    assert all(name.endswith("_9.30A.mrc") for name in names)
    assert mrc.read_header(str(data / "coarse" / names[0])).pixel_size == pytest.approx(9.3)


def test_the_box_without_aliasing_is_computed_from_the_worst_defocus_and_shown(data, capsys):
    from tomoexport.cli import main
    from tomoexport.engine.ctf import alias_free_box
    from tomoexport.io import relion5
    flags = ["--tomograms", str(data / "tomograms.star"), "--particles", str(data / "particles.star"), "--output",
             str(data / "shown"), "--pixel-size", "6", "--box", "32", "--diameter", "170"]
    assert main(["check", "subtomo"] + flags) == 0
    shown = capsys.readouterr().out
    ctf = relion5.read_project(str(data / "tomograms.star"))[0].ctf
    least = alias_free_box(ctf, 6.0, 170.0)
    found = [int(part.split()[0]) for part in shown.split("CTF box")[1:] for part in [part.strip(" :=")]]
    assert len(found) == 2 and found[0] >= least > 32


def test_offsets_are_considered_and_reset(data, plain):
    """rlnOrigin moves particles; the exported volumes are cut there, and the table's offsets are 0."""
    source = star.read(str(data / "particles.star")).table("particles")
    columns = {c: source.text(c) for c in source.columns}
    columns["rlnCenteredCoordinateXAngst"] = source.float("rlnCenteredCoordinateXAngst") + 24
    columns["rlnOriginXAngst"] = [24.0] * len(source)
    columns.update({"rlnOrigin%sAngst" % a: [0.0] * len(source) for a in "YZ"})
    columns["mineOwn"] = ["value%d" % i for i in range(len(source))]
    star.write(str(data / "offset.star"), [star.Table.from_columns("particles", columns)])
    table, volumes, _ = export(data, "offset", particles=str(data / "offset.star"))
    assert np.allclose(volumes, plain[1], atol=1e-3)
    assert not any(table.float("rlnOrigin%sAngst" % a).any() for a in "XYZ")
    assert table.text("mineOwn") == columns["mineOwn"]
