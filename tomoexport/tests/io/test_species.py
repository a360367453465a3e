"""M's particle tables, species and sources."""
from dataclasses import replace

import numpy as np
import pytest

from tomoexport.engine.poses import matrix_from_zyz
from tomoexport.errors import InputError
from tomoexport.io import mrc, particlestar, species
from tomoexport.io.particlestar import dialect, read_particles, write_particles
from tomoexport.io.species import read_source, read_species, write_species
from tomoexport.io.star import read

HALF = np.array([40, 60, 20]) * 1.7 / 2  # of conftest.make_series, angstrom
SIZE = dict(volume_size=(100.0, 200.0, 50.0))
# Three samples of the position, two of the angles; a negative tilt and angles that M would write like this.
TABLE = """
data_

loop_
_wrpCoordinateX1 #1
_wrpCoordinateX2 #2
_wrpCoordinateX3 #3
_wrpCoordinateY1 #4
_wrpCoordinateY2 #5
_wrpCoordinateY3 #6
_wrpCoordinateZ1 #7
_wrpCoordinateZ2 #8
_wrpCoordinateZ3 #9
_wrpAngleRot1 #10
_wrpAngleRot2 #11
_wrpAngleTilt1 #12
_wrpAngleTilt2 #13
_wrpAnglePsi1 #14
_wrpAnglePsi2 #15
_wrpRandomSubset #16
_wrpSourceName #17
_wrpSourceHash #18
_rlnClassNumber #19
40.00000 41.00000 42.00000 60 60.5 61.00000 10.0 10 10.00000 10.0 12.0 -20.5 -21.0 30.0 31.0 2 TS_1.tomostar aBc-1 3
35.12345 35.12345 35.12345 50.00000 50 50 20 20 20.00000 0.0 0.0 0.0 0.0 0.0 0.0 1 TS_10.tomostar d_ null
10.00000 10 10 20 20 20.00000 30.00000 30 30 5.0 5.0 90.0 90.0 -170.0 170.0 1 TS_1.tomostar aBc-1 null
"""
SOURCE = """<?xml version="1.0" encoding="%s"?>
<Source><Param Name="Name" Value="s" /><Param Name="PixelSize" Value="1.7" />
<Files><File Hash="aBc-1" Name="TS_1.tomostar" /><File Hash="d_" Name="sub/TS_10.tomostar" /></Files></Source>"""


@pytest.fixture
def series(make_series):
    return [make_series("TS_10"), make_series("TS_1", **SIZE)]


def columns(path):
    table = read(path).table("")
    return {name: table.text(name) for name in table.columns}


def test_positions_count_from_the_corner_and_follow_the_dose(star_file, series):
    path = star_file(TABLE)
    particles, problems = read_particles(path, series)
    assert dialect(path) == "m" and problems == [] and particles.oriented
    assert particles.names() == ["TS_1", "TS_10", "TS_1"] and particles.uid == (
        "TS_1/1", "TS_10/1", "TS_1/2")
    np.testing.assert_allclose(particles.position, [[-10, -40, -15], [35.12345, 50, 20] - HALF, [-40, -80, 5]])
    np.testing.assert_allclose(particles.rotation[0], matrix_from_zyz(10, -20.5, 30), atol=1e-12)
    own = particles.in_series("TS_1").trajectory
    assert own.position.shape == (2, 3, 3) and own.rotation.shape == (2, 2, 3, 3)
    position, rotation = own.at([6.0, 0.0, 3.0, 1.5])
    np.testing.assert_allclose(position[0], [[-8, -39, -15], [-10, -40, -15], [-9, -39.5, -15],
                                             [-9.5, -39.75, -15]], atol=1e-12)
    np.testing.assert_allclose(rotation[0, 0], matrix_from_zyz(12, -21, 31), atol=1e-12)
    np.testing.assert_allclose(rotation[1, 2], matrix_from_zyz(5, 90, 180), atol=1e-9)


def test_options_for_other_dialects_change_nothing(star_file, series):
    """M's coordinates are angstrom in Warp's frame, whatever pixel another table would count in."""
    path = star_file(TABLE)
    plain, _ = read_particles(path, series)
    other, _ = read_particles(path, series, coordinates_pixel_size=7.0, centre="imod", normalized=True)
    np.testing.assert_array_equal(other.position, plain.position)


def test_the_size_of_the_tomogram_is_needed(star_file):
    with pytest.raises(InputError, match="whose size it does not tell. Give the tilt series"):
        read_particles(star_file(TABLE))


def test_names_are_matched_exactly(star_file, make_series):
    particles, problems = read_particles(star_file(TABLE), [make_series("TS_10")])
    assert len(particles) == 1 and problems == [
        "TS_1.tomostar: 2 particles are left out, there is no tilt series of this name"]
    with pytest.raises(InputError, match="2 particles would be lost.*TS_1.tomostar"):
        read_particles(star_file(TABLE), [make_series("TS_10")], allow_loss=False)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_hashes_win_over_names_where_a_source_is_given(star_file, series, encoding):
    source = star_file(SOURCE % encoding, "x.source", encoding=encoding)
    assert read_source(source) == {"aBc-1": "TS_1.tomostar", "d_": "TS_10.tomostar"}
    path = star_file(TABLE.replace("TS_10.tomostar", "old_name").replace("TS_1.tomostar", "TS_10.tomostar"))
    particles, problems = read_particles(path, series, sources=[source])
    assert particles.names() == ["TS_1", "TS_10", "TS_1"] and problems == []
    assert particles.extra["wrpSourceName"][1] == "old_name"
    by_name, _ = read_particles(path, series)
    assert by_name.names() == ["TS_10", "TS_10"]


def test_a_hash_of_another_source_is_not_taken_by_its_name(star_file, series):
    path = star_file(TABLE.replace("d_", "elsewhere"))
    source = star_file(SOURCE % "utf-8", "x.source")
    particles, problems = read_particles(path, series, sources=[source])
    assert particles.names() == ["TS_1", "TS_1"]
    assert problems == ["TS_10.tomostar (hash elsewhere is in no source): 1 particles are left out, there is no tilt "
                        "series of this name"]


def test_a_name_of_two_sources_is_ambiguous(star_file, series):
    first, other = "aBc-1 3", "other 3"
    path = star_file(TABLE.replace(first, other))
    with pytest.raises(InputError, match="2 tilt series are called TS_1.tomostar .hashes other, aBc-1.. Give the "
                       ".source"):
        read_particles(path, series)
    source = star_file(SOURCE % "utf-8", "x.source")
    particles, problems = read_particles(path, series, sources=[source])
    assert particles.names() == ["TS_10", "TS_1"] and "hash other is in no source" in problems[0]
    both = star_file((SOURCE % "utf-8").replace("d_", "other").replace("sub/TS_10", "TS_1"), "y.source")
    with pytest.raises(InputError, match="2 tilt series are called TS_1.tomostar.*Give only the .source"):
        read_particles(path, series, sources=[source, both])


def test_one_sample_without_angles(star_file, series):
    path = star_file("data_\nloop_\n_wrpCoordinateX1\n_wrpCoordinateY1\n_wrpCoordinateZ1\n_wrpSourceName\n"
                     "1 2 3 TS_1.tomostar\n")
    particles, _ = read_particles(path, series)
    assert not particles.oriented
    np.testing.assert_allclose(particles.trajectory.at([0, 5])[0][0], [[-49, -98, -22]] * 2)
    np.testing.assert_array_equal(particles.rotation[0], np.eye(3))


def test_samples_are_counted_up_to_the_first_gap(star_file, series):
    particles, _ = read_particles(star_file(TABLE.replace("X3 ", "X4 ").replace("Y3 ", "Y4 ").replace("Z3 ", "Z4 ")),
                                  series)
    assert particles.trajectory.position.shape[1] == 2


@pytest.mark.parametrize("old, new, words", [
    ("wrpCoordinateY2", "wrpOtherY2", "there is no column wrpCoordinateY2"),
    ("wrpAnglePsi2", "wrpOther2", "there is no column wrpAnglePsi2"),
    ("wrpSourceName", "wrpOther", "no column names the tilt series: wrpSourceName. Give the .source file as well"),
    ("61.00000", "x", r"file.star:24: wrpCoordinateY3 is 'x', not a number"),
    ("61.00000", "nan", r"file.star:24: wrpCoordinateY3 is no finite number"),
    (" 31.0 ", " null ", r"file.star:24: wrpAnglePsi2 is 'null'")])
def test_F25_what_is_missing_is_named(star_file, series, old, new, words):
    with pytest.raises(InputError, match=words):
        read_particles(star_file(TABLE.replace(old, new)), series)


def test_written_back_nothing_changes(star_file, series, tmp_path):
    path, again = star_file(TABLE), str(tmp_path / "again.star")
    particles, _ = read_particles(path, series)
    write_species(again, particles, series)
    assert columns(again) == columns(path) and list(columns(again)) == list(columns(path))
    back, _ = read_particles(again, series)
    np.testing.assert_array_equal(back.trajectory.position, particles.trajectory.position)
    np.testing.assert_array_equal(back.trajectory.rotation, particles.trajectory.rotation)
    assert back.uid == particles.uid and back.extra == particles.extra


def test_poses_that_changed_are_written(star_file, series, tmp_path):
    path, again = star_file(TABLE), str(tmp_path / "again.star")
    particles, _ = read_particles(path, series)
    moved = particles.moved([0.0, 0.0, 4.0]).select([1, 0])
    write_species(again, moved, series)
    back, _ = read_particles(again, series)
    assert columns(again)["wrpCoordinateZ3"][0] == "24.00000" and columns(again)["rlnClassNumber"] == ["null", "3"]
    dose = [0.0, 1.0, 2.0]
    for found, expected in zip(back.trajectory.at(dose), moved.trajectory.at(dose)):
        np.testing.assert_allclose(found, expected, atol=1.1e-5)


def test_samples_that_are_asked_for(star_file, series, tmp_path):
    path, again = star_file(TABLE), str(tmp_path / "again.star")
    particles, _ = read_particles(path, series)
    write_species(again, particles, series, samples=(2, 1))
    back, _ = read_particles(again, series)
    np.testing.assert_allclose(back.trajectory.position, particles.trajectory.position[:, [0, 2]], atol=1e-5)
    np.testing.assert_allclose(back.trajectory.rotation, particles.trajectory.rotation[:, :1], atol=1e-6)
    assert not {"wrpCoordinateX3", "wrpAngleRot2"} & set(columns(again))
    write_species(again, particles, series, samples=(5, 3))
    assert read_particles(again, series)[0].trajectory.position.shape[1] == 5


def test_relions_particles_become_ms(star_file, series, tmp_path):
    path = star_file("""
data_particles

loop_
_rlnTomoName
_rlnTomoParticleName
_rlnCenteredCoordinateXAngst
_rlnCenteredCoordinateYAngst
_rlnCenteredCoordinateZAngst
_rlnAngleRot
_rlnAngleTilt
_rlnAnglePsi
_rlnClassNumber
TS_1 TS_1/7 1.0 2.0 3.0 10.0 20.0 30.0 4
TS_10 TS_10/1 1.0 2.0 3.0 10.0 20.0 30.0 5
""")
    particles, _ = read_particles(path, series)
    again = str(tmp_path / "again.star")
    write_species(again, particles, series, samples=(2, 1))
    found = columns(again)
    assert found["wrpCoordinateX2"] == ["51.00000", "35.00000"] and found["wrpAnglePsi1"] == ["30.00000"] * 2
    assert found["wrpSourceName"] == ["TS_1.tomostar", "TS_10.tomostar"] and found["wrpSourceHash"] == ["null"] * 2
    assert found["wrpRandomSubset"] == ["1", "2"] and found["rlnClassNumber"] == ["4", "5"]
    assert not [name for name in found if name.startswith(("rlnAngle", "rlnCentered"))]
    np.testing.assert_allclose(read_particles(again, series)[0].position, [[1, 2, 3]] * 2, atol=1e-9)
    with pytest.raises(InputError, match="there is no tilt series TS_10"):
        write_species(again, particles, series[1:])


def test_new_particles_get_the_hash_of_their_tilt_series(star_file, series, tmp_path):
    path, again = star_file(TABLE), str(tmp_path / "again.star")
    particles, _ = read_particles(path, series)
    emptied = {name: [*particles.extra[name][:2], ""] for name in ("wrpSourceHash", "wrpSourceName")}
    particles = replace(particles, extra=dict(particles.extra, **emptied))
    write_species(again, particles, series)
    assert columns(again)["wrpSourceHash"] == ["aBc-1", "d_", "aBc-1"]
    assert columns(again)["wrpSourceName"][2] == "TS_1.tomostar"


def test_relion_reads_what_was_ms(star_file, series, tmp_path):
    """Exported tables are RELION's: no sample of a trajectory is left, and half sets have RELION's name."""
    again = str(tmp_path / "again.star")
    particles, _ = read_particles(star_file(TABLE), series)
    write_particles(again, particles)
    assert dialect(again) == "relion5"
    table = read(again).table("particles")
    assert table.text("rlnRandomSubset") == ["2", "1", "1"] and table.text("wrpSourceHash")[0] == "aBc-1"
    assert not [name for name in table.columns if name.startswith(("wrpCoordinate", "wrpAngle"))]
    assert particlestar.kept_columns({"wrpRandomSubset": ["1"], "rlnRandomSubset": ["2"]}) == {
        "wrpRandomSubset": ["1"], "rlnRandomSubset": ["2"]}


SPECIES = """<?xml version="1.0" encoding="utf-8"?>
<Species><Param Name="Name" Value="70S ribosome" /><Param Name="PixelSize" Value="1.5" />
<Param Name="DiameterAngstrom" Value="310" /><Param Name="Symmetry" Value="C3" />%s</Species>"""


def test_a_species_tells_pixel_size_box_and_diameter(star_file, tmp_path):
    path = star_file(SPECIES % '<Param Name="Size" Value="288" />', "70S_ribosome.species")
    found = read_species(path)
    assert (found.name, found.pixel_size, found.diameter, found.box, found.symmetry, found.particles) == (
        "70S ribosome", 1.5, 310.0, 288, "C3", "")
    table = star_file(TABLE, "70S_ribosome_particles.star")
    mrc.write(str(tmp_path / "70S_ribosome_half1.mrc"), np.zeros((6, 6, 6), np.float32), 1.5)
    found = read_species(star_file(SPECIES % "", "70S_ribosome.species"))
    assert found.box == 6 and found.particles == table


@pytest.mark.parametrize("text, words", [
    ("x", "it is no XML file"), (SPECIES.replace("1.5", "0") % "", "PixelSize is 0, not a number above 0"),
    (SPECIES.replace("DiameterAngstrom", "D") % "", "DiameterAngstrom is None")])
def test_what_is_no_species(star_file, text, words):
    with pytest.raises(InputError, match="a.species: " + words):
        read_species(star_file(text, "a.species"))


def test_what_is_no_source(star_file, tmp_path):
    with pytest.raises(InputError, match="a.source: it lists no tilt series"):
        read_source(star_file("<Source />", "a.source"))
    with pytest.raises(InputError, match="there is no such file"):
        species.read_source(str(tmp_path / "b.source"))
