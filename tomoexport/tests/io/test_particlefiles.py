"""Particle files of one tilt series each."""
import os

import numpy as np
import pytest

from tomoexport.errors import InputError
from tomoexport.io.particlefiles import find_particle_files, read_particle_files
from tomoexport.io.star import Table, write

PIXEL = dict(coordinates_pixel_size=1.7)


@pytest.fixture
def folder(tmp_path):
    """Write files of particles whose x, in pixels, is a number from their call."""
    def make(**files):
        for name, numbers in files.items():
            table = {"rlnCoordinateX": numbers, "rlnCoordinateY": [30.0] * len(numbers),
                     "rlnCoordinateZ": [10.0] * len(numbers)}
            write(str(tmp_path / (name + ".star")), [Table.from_columns("", table)])
        return str(tmp_path)
    return make


def test_all_files_are_found_from_any_one(folder):
    where = folder(TS_1_ribo=[21], TS_10_ribo=[22], TS_2_ribo=[23], TS_2_other=[24], TS_100_ribo=[25])
    ids = ["TS_10", "TS_1", "TS_2", "TS_3"]
    for picked in ("TS_1", "TS_10", "TS_2"):
        found = find_particle_files(os.path.join(where, picked + "_ribo.star"), ids)
        assert found.suffix == "_ribo.star" and found.missing == ("TS_3",)
        assert list(found.files.items()) == [(name, os.path.join(where, name + "_ribo.star")) for name in ids[:3]]
        assert found.others == (os.path.join(where, "TS_100_ribo.star"),)


@pytest.mark.parametrize("picked, ids, suffix", [
    ("TS_1_2_x", ["TS_1", "TS_1_2"], "_x.star"),
    ("TS_1_2_x", ["TS_1_2", "TS_1"], "_x.star"),
    ("TS_1_2_x", ["TS_1"], "_2_x.star"),
    ("TS_1", ["TS_1", "TS_10"], ".star"),
    ("TS_1-x", ["TS_1"], "-x.star"),
    ("TS_1_10.00Apx_x", ["TS_1", "TS_1_10"], ".00Apx_x.star"),
    ("TS_1_x", ["TS_1.tomostar", "TS_10.tomostar"], "_x.star")])
def test_the_longest_name_leaves_the_suffix(folder, picked, ids, suffix):
    path = os.path.join(folder(**{picked: [1]}), picked + ".star")
    found = find_particle_files(path, ids)
    assert found.suffix == suffix and list(found.files.values()) == [path]
    assert len(found.missing) == len(ids) - 1 and found.others == ()


@pytest.mark.parametrize("picked, ids", [("TS_10_x", ["TS_1", "TS_2"]), ("TS_1b_x", ["TS_1"]), ("ribo_TS_1", ["TS_1"]),
                                         ("x_1", ["x.st", "x.rec"])])
def test_a_name_is_no_part_of_a_longer_one(folder, picked, ids):
    path = os.path.join(folder(**{picked: [1]}), picked + ".star")
    with pytest.raises(InputError, match="name does not begin with that of a tilt series, which are " + ", ".join(ids)):
        find_particle_files(path, ids)


def test_a_file_that_is_not_there(folder):
    with pytest.raises(InputError, match="TS_1_x.star: there is no such file"):
        find_particle_files(os.path.join(folder(), "TS_1_x.star"), ["TS_1"])


def test_each_files_rows_belong_to_its_tilt_series(folder, make_series):
    where = folder(TS_1_ribo=[21, 22], TS_10_ribo=[24], TS_3_ribo=[], TS_9_ribo=[1])
    series = [make_series(name) for name in ("TS_1", "TS_2", "TS_3", "TS_10")]
    particles, problems = read_particle_files(os.path.join(where, "TS_10_ribo.star"), series, **PIXEL)
    assert particles.ts_ids == ("TS_1", "TS_2", "TS_3", "TS_10")
    assert particles.names() == ["TS_1", "TS_1", "TS_10"] and particles.uid == ("TS_1/1", "TS_1/2", "TS_10/1")
    np.testing.assert_allclose(particles.position, np.outer([1, 2, 4], [1.7, 0, 0]), atol=1e-9)
    assert particles.extra["rlnCoordinateX"] == ["21", "22", "24"] and not particles.oriented
    assert problems == ["TS_2: there is no particle file TS_2_ribo.star of this tilt series",
                        "TS_9_ribo.star: it is not read, there is no tilt series of this name",
                        "TS_3: there are no particles in TS_3_ribo.star"]


def test_the_files_name_counts_and_not_the_tables(tmp_path, make_series):
    for name, other, score in (("TS_1", "rec/TS_1_10.00Apx.mrc", 0.5), ("TS_2", "TS_1", 0.25)):
        table = {"rlnMicrographName": [other], "rlnTomoParticleName": ["a"], "rlnScore" + name[-1]: [score]}
        table.update({"rlnCenteredCoordinate%sAngst" % axis: [1.0] for axis in "XYZ"})
        table.update(rlnAngleRot=[3.0])
        write(str(tmp_path / (name + "_x.star")), [Table.from_columns("particles", table)])
    particles, problems = read_particle_files(tmp_path / "TS_2_x.star", [make_series("TS_1"), make_series("TS_2")])
    assert particles.names() == ["TS_1", "TS_2"] and particles.oriented
    assert problems == ["TS_2_x.star: its rows name TS_1 and are taken for those of TS_2"]
    assert particles.uid == ("TS_1/a", "TS_2/a")
    assert particles.extra["rlnScore1"] == ["0.5", ""] and particles.extra["rlnScore2"] == ["", "0.25"]


def test_damage_in_one_file_is_no_lack_of_particles(folder, make_series):
    where = folder(TS_1_x=[1], TS_2_x=[])
    series = [make_series("TS_1"), make_series("TS_2")]
    with open(os.path.join(where, "TS_2_x.star"), "a") as handle:
        handle.write("1 2\n")
    with pytest.raises(InputError, match="TS_2_x.star:.*2 values for 3 columns"):
        read_particle_files(os.path.join(where, "TS_1_x.star"), series, **PIXEL)


def test_no_particles_anywhere(folder, make_series):
    where = folder(TS_1_x=[])
    with pytest.raises(InputError, match=r"TS_1_x.star: neither it nor another file \*_x.star has particles"):
        read_particle_files(os.path.join(where, "TS_1_x.star"), [make_series("TS_1")], **PIXEL)


def test_ms_tables_hold_all_tilt_series(star_file, make_series):
    path = star_file("data_\nloop_\n_wrpCoordinateX1\n_wrpCoordinateY1\n_wrpCoordinateZ1\n_wrpSourceName\n"
                     "1 2 3 TS_1.tomostar\n", "TS_1_particles.star")
    with pytest.raises(InputError, match="M's particle tables hold all tilt series. Read it as one file for all"):
        read_particle_files(path, [make_series("TS_1")])
