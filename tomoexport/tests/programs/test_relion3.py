"""RELION 3.1.3, as Debian packages it, reads what we write.

Of image series everything, once rlnCtfBfactor is 0: RELION has the opposite sign there, and would amplify.

RELION 5's pseudo-subtomograms are younger than that program. It keeps the columns that it does not know, and reads

- 3D ones as sub-tomograms: relion_star_handler, relion_image_handler, relion_stack_create,
  relion_particle_symmetry_expand, relion_project, relion_reconstruct, relion_refine. With --ctf the last two take the
  weights, two volumes in one file, for the plain transfer function of one: maps are worse than without.
- tables of 2D ones: relion_star_handler, relion_image_handler (each stack), relion_particle_symmetry_expand,
  relion_project.

What it cannot: see in a stack without number more than the first image (relion_stack_create and relion_reconstruct do
not complain), refine such stacks (relion_refine stops), read 16-bit floats (it stops; extract without --float16), and
relion_convert_star takes the tables for ones of micrographs.
"""

import os
import re
import shutil
import subprocess

import numpy as np
import pytest

from tomoexport.io import mrc, star
from tomoexport.tests.programs.conftest import BOX, PIXEL
from tomoexport.tests.programs.maps import correlation, likeness

pytestmark = [pytest.mark.slow, pytest.mark.relion]

COARSE, CROP = 6.0, 40  # of pseudo-subtomograms: pixel size (A), side


@pytest.fixture(scope="module")
def relion():
    """Run one of RELION's programs in a folder; returns its exit status and what it printed."""
    if not shutil.which("relion_reconstruct"):
        pytest.skip("relion_reconstruct is not installed: apt-get install relion")

    def run(folder, program, *arguments):
        done = subprocess.run(["relion_" + program] + [str(a) for a in arguments], cwd=str(folder),
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=600)
        return done.returncode, done.stdout
    return run


@pytest.fixture(scope="module", params=["stacks", "volumes"])
def pseudo(request, export, tmp_path_factory):
    """A table of pseudo-subtomograms, and whether they are stacks."""
    stacks = request.param == "stacks"
    return _extract(export, tmp_path_factory.mktemp(request.param), stacks), stacks


def _extract(export, folder, stacks, **options):
    return export("pseudosubtomo", folder, stack2d=stacks, binning=2.0, box=64, crop=CROP,
                  **dict({"float16": False}, **options))["star"]


def test_a_particle_from_image_series(relion, image_series, phantom):
    """Signs of angles, defocus, contrast and centring, by a program that knows none of our code."""
    table, folder = star.read(image_series).table(""), os.path.dirname(image_series)
    columns = dict({c: table.text(c) for c in table.columns}, rlnCtfBfactor=[0.0] * len(table))
    star.write(os.path.join(folder, "relion.star"), [star.Table.from_columns("", columns)])
    status, printed = relion(folder, "reconstruct", "--i", "relion.star", "--o", "rec.mrc", "--ctf")
    assert status == 0, printed[-2000:]
    made = mrc.read_volume(os.path.join(folder, "rec.mrc"))[0]
    assert made.shape == (BOX,) * 3
    right, wrong = likeness(made, phantom, PIXEL)
    print("relion_reconstruct on image series: CC %.4f to the phantom, %.4f to the best mirror image" % (right, wrong))
    assert right >= 0.9 and right - wrong >= 0.3


def test_tables_go_through(relion, pseudo, tmp_path):
    """Half the particles are selected, and columns younger than the program are still there."""
    path, stacks = pseudo
    given = star.read(path).table("particles")
    status, printed = relion(tmp_path, "star_handler", "--i", path, "--o", "half.star", "--select", "rlnRandomSubset",
                             "--minval", 1, "--maxval", 1)
    assert status == 0, printed[-2000:]
    half = star.read(str(tmp_path / "half.star")).table("particles")
    mine = np.flatnonzero(given.float("rlnRandomSubset") == 1)
    assert 0 < len(mine) < len(given) and set(given.columns) == set(half.columns)
    for column in ["rlnTomoParticleName", "rlnImageName"] + (["rlnTomoVisibleFrames"] if stacks else ["rlnCtfImage"]):
        assert half.text(column) == [given.text(column)[i] for i in mine]
    for axis in "XYZ":
        column = "rlnCenteredCoordinate%sAngst" % axis
        assert np.allclose(half.float(column), given.float(column)[mine], atol=1e-3)
    status, printed = relion(tmp_path, "particle_symmetry_expand", "--i", path, "--o", "twice.star", "--sym", "C2")
    assert status == 0, printed[-2000:]
    assert len(star.read(str(tmp_path / "twice.star")).table("particles")) == 2 * len(given)


def test_images_have_the_size_and_number_that_the_table_says(relion, pseudo, tmp_path):
    path, stacks = pseudo
    status, printed = relion(tmp_path, "image_handler", "--i", path, "--o", "unused", "--stats")
    assert status == 0, printed[-2000:]
    found = dict((os.path.normpath(name), tuple(map(int, size.split("x")))) for name, size in re.findall(
        r"^(\S+) : \(x,y,z,n\)= ([\d x]+) ;.*angpix = %g$" % COARSE, printed, re.MULTILINE))
    table = star.read(path).table("particles")
    frames = [text.count("1") for text in table.text("rlnTomoVisibleFrames")] if stacks else [None] * len(table)
    expected = [(CROP, CROP, 1, n) if stacks else (CROP, CROP, CROP, 1) for n in frames]
    assert [found[os.path.normpath(name)] for name in table.text("rlnImageName")] == expected
    assert not stacks or len(set(frames)) > 5


def test_images_are_copied(relion, pseudo, tmp_path):
    """Volumes into a stack of them; of stacks the first image each."""
    path, stacks = pseudo
    status, printed = relion(tmp_path, "stack_create", "--i", path, "--o", "all")
    assert status == 0, printed[-2000:]
    names = star.read(path).table("particles").text("rlnImageName")
    side = (CROP,) * (2 if stacks else 3)
    header = mrc.read_header(str(tmp_path / "all.mrcs"))
    copied = np.fromfile(str(tmp_path / "all.mrcs"), np.float32, offset=header.offset).reshape((-1,) + side)
    assert len(copied) == len(names)
    for i in (0, 1, len(names) - 1):
        ours = mrc.read_volume(names[i])[0]
        assert np.array_equal(copied[i], ours[0] if stacks else ours)


def test_projections_in_the_poses_of_the_table(relion, pseudo, phantom, tmp_path):
    path, _ = pseudo
    mrc.write(str(tmp_path / "map.mrc"), phantom.volume(CROP, COARSE), COARSE)
    status, printed = relion(tmp_path, "project", "--i", "map.mrc", "--ang", path, "--o", "projections")
    assert status == 0, printed[-2000:]
    assert mrc.read_volume(str(tmp_path / "projections.mrcs"))[0].shape == (
        len(star.read(path).table("particles")), CROP, CROP)


def test_a_particle_from_volumes(relion, export, phantom, tmp_path):
    """Plain sums: the poses are right. Weights are another matter, see above."""
    path = _extract(export, tmp_path, False)
    found = {}
    for how in ([], ["--ctf"]):
        status, printed = relion(tmp_path, "reconstruct", "--i", path, "--o", "rec.mrc", "--3d_rot", *how)
        assert status == 0, printed[-2000:]
        found[bool(how)] = likeness(mrc.read_volume(str(tmp_path / "rec.mrc"))[0], phantom, COARSE)
    print("relion_reconstruct on 3D pseudo-subtomograms: CC %.3f to the phantom, %.3f to the best mirror image; with "
          "--ctf %.3f" % (found[False] + found[True][:1]))
    assert found[False][0] > 0.75 and found[False][0] - found[False][1] > 0.3
    assert found[True][0] < found[False][0]
    refined = _refine(relion, path, phantom, tmp_path)
    assert refined[0] == 0, refined[1][-2000:]
    made = mrc.read_volume(str(tmp_path / "refined" / "run_it001_class001.mrc"))[0]
    right, wrong = likeness(made, phantom, COARSE)
    print("relion_refine --skip_align on them: CC %.3f, %.3f" % (right, wrong))
    assert right - wrong > 0.2


def _refine(relion, path, phantom, folder):
    os.makedirs(str(folder / "refined"))
    mrc.write(str(folder / "map.mrc"), phantom.volume(CROP, COARSE), COARSE)
    return relion(folder, "refine", "--i", path, "--o", "refined/run", "--ref", "map.mrc", "--ini_high", 30,
                  "--iter", 1, "--skip_align", "--firstiter_cc", "--K", 1, "--particle_diameter", 180, "--ctf",
                  "--flatten_solvent", "--zero_mask", "--dont_check_norm", "--pad", 1)


def test_what_relion_3_cannot(relion, export, phantom, tmp_path):
    """Held here so that the list above stays true."""
    stacks = _extract(export, tmp_path / "stacks", True)
    status, _ = relion(tmp_path, "reconstruct", "--i", stacks, "--o", "rec.mrc", "--ctf")
    first_images_only = mrc.read_volume(str(tmp_path / "rec.mrc"))[0]
    assert status == 0 and correlation(first_images_only, phantom, COARSE) < 0.5
    status, printed = _refine(relion, stacks, phantom, tmp_path)
    assert status != 0 and "different shapes" in printed
    half = _extract(export, tmp_path / "half", False, float16=True)
    status, printed = relion(tmp_path, "reconstruct", "--i", half, "--o", "rec.mrc", "--3d_rot")
    assert status != 0 and "half-precision" in printed
    relion(tmp_path, "convert_star", "--i", stacks, "--o", "converted.star")
    assert "_rlnTomoParticleName" not in (tmp_path / "converted.star").read_text()
