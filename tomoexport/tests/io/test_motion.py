"""Trajectories of RELION's motion.star."""
import re
from dataclasses import replace

import numpy as np
import pytest

from tomoexport.engine.particles import ParticleSet
from tomoexport.errors import InputError
from tomoexport.io import particlestar, relion5
from tomoexport.io.motion import read_motion

NAMES = ("TS_01/1", "TS_01/2", "TS_02/1")


def text(count=3, blocks=NAMES, rows=(3, 3, 2), columns="XYZ"):
    """A file whose displacements are 100 n + 10 tilt + axis."""
    out = "data_general\n\n_rlnParticleNumber %d\n" % count
    for n, (name, length) in enumerate(zip(blocks, rows)):
        out += "\ndata_%s\n\nloop_\n" % name + "".join("_rlnOrigin%sAngst\n" % axis for axis in columns)
        out += "".join(" ".join(str(100.0 * n + 10 * tilt + axis) for axis in range(len(columns))) + "\n"
                       for tilt in range(length))
    return out


@pytest.fixture
def series(make_series):
    return [make_series("TS_02", n=2), make_series("TS_01", n=3)]


def particles(order=(2, 0, 1)):
    return ParticleSet(np.arange(9.0).reshape(3, 3)[list(order)], [np.eye(3)] * 3, [[1, 1, 0][i] for i in order],
                       ("TS_02", "TS_01"), [NAMES[i] for i in order])


def test_displacements_belong_to_names_and_are_added(star_file, series):
    own = particles()
    own = replace(own, trajectory=read_motion(star_file(text()), own, series))
    position, _ = own.in_series("TS_01").trajectory.at([0.0, 3.0, 6.0])
    assert own.in_series("TS_01").uid == NAMES[:2]
    expected = np.arange(6.0).reshape(2, 1, 3) + [[[0, 1, 2], [10, 11, 12], [20, 21, 22]],
                                                  [[100, 101, 102], [110, 111, 112], [120, 121, 122]]]
    np.testing.assert_allclose(position, expected)
    position, _ = own.in_series("TS_02").trajectory.at([0.0, 3.0])
    np.testing.assert_allclose(position[0], [[206, 208, 210], [216, 218, 220]])


def test_trajectories_of_others_are_left_out(star_file, series):
    own = particles().select([1])
    assert len(read_motion(star_file(text()), own, series)) == 1


@pytest.mark.parametrize("how, words", [
    (dict(count=4), "it says that it has 4 trajectories, and has 3"),
    (dict(blocks=("TS_01/1", "TS_01/3", "TS_02/1")), "1 of 3 particles have no trajectory: TS_01/2. "),
    (dict(rows=(3, 4, 2)), "data_TS_01/2: the trajectory has 4 rows, tilt series TS_01 has 3 tilts"),
    (dict(rows=(3, 3, 3)), "data_TS_02/1: the trajectory has 3 rows, tilt series TS_02 has 2 tilts"),
    (dict(columns="XY"), "there is no column rlnOriginZAngst")])
def test_F25_what_does_not_fit_is_named(star_file, series, how, words):
    with pytest.raises(InputError, match=words):
        read_motion(star_file(text(**how)), particles(), series)


@pytest.mark.parametrize("value", ["nan", "x"])
def test_displacements_must_be_numbers(star_file, series, value):
    with pytest.raises(InputError, match="file.star:22: "):
        read_motion(star_file(text().replace("110.0 111.0", "110.0 " + value)), particles(), series)


@pytest.mark.shared
def test_reference_trajectories(shared):
    """Every row of RELION's own file, against the numbers in its text."""
    folder = shared / "reference" / "relion5"
    series = relion5.read_project(folder / "tomograms.star")
    own, _ = particlestar.read_particles(folder / "particles.star", series)
    move = read_motion(folder / "motion.star", own, series)
    number = r"-?\d+\.\d+"
    for name, one in zip(own.uid, move.displacement):
        block = (folder / "motion.star").read_text().split("data_%s\n" % name)[1].split("data_")[0]
        rows = np.array([line.split() for line in block.splitlines()
                         if re.fullmatch(r"\s*" + r"\s+".join([number] * 3) + r"\s*", line)], float)
        assert len(rows) == 31
        np.testing.assert_array_equal(one, rows)
    own = own.in_series("TS_02")
    found, _ = move.select(np.arange(20, 40)).at(series[1].geometry.dose)
    np.testing.assert_allclose(found[3, 30] - own.position[3], move.displacement[23][30], atol=1e-9)
    assert np.abs(found - own.position[:, None]).max() > 1
