"""Removal of duplicates from particle tables."""
import csv
import os

import numpy as np
import pytest

from tomoexport.cli import main
from tomoexport.errors import InputError
from tomoexport.io import particlestar, star
from tomoexport.jobs import runner
from tomoexport.tests.engine.test_matching import lattice, nearest, picks
from tomoexport.tests.jobs.sets import particle_table, rows


def remove(folder, table, **options):
    return runner.run({"verb": "duplicates", "options": dict(options, particles=str(table), output=str(folder))})


@pytest.fixture
def line(tmp_path):
    """Three particles 10 A apart in each of two tilt series, with scores that disagree; the last two coincide."""
    position = [[x, 0, 0] for x in (0, 10, 20)] * 2 + [[500, 0, 0]] * 2
    return particle_table(
        tmp_path / "line.star", position, ["TS_1"] * 3 + ["TS_2"] * 3 + ["TS_1"] * 2,
        optics={"rlnOpticsGroup": [1], "rlnImagePixelSize": [3.0]}, rlnOpticsGroup=[1] * 8,
        myLabel=["particle %d" % i for i in range(8)], rlnLogLikeliContribution=[1, 2, 1, 2, 1, 2, 5, 6],
        rlnMaxValueProbDistribution=[2, 1, 2, 1, 2, 1, 6, 5], myScore=["1.5", "nan", "2", "1", "1", "3", "0", "1"])


def labels(table):
    return [int(row["myLabel"].split()[1]) for row in rows(table)]


def test_an_oversampled_sphere_comes_down_to_its_lattice(tmp_path):
    """Two virus-like spheres in two tilt series, in the same place: they do not thin out each other."""
    sets = [picks(seed, n=3000) for seed in (11, 12)]
    position, score = (np.concatenate(values) for values in zip(*sets))
    order = np.random.default_rng(13).permutation(6000)
    table = particle_table(tmp_path / "picks.star", position[order], [("TS_1", "TS_2")[i // 3000] for i in order],
                           rlnAutopickFigureOfMerit=score[order])
    out = remove(tmp_path / "out", table, distance=230.0)
    assert (out["collected"]["kept"], out["collected"]["removed"]) == (84, 6000 - 84)
    assert out["results"][0]["series"] == {name: {"kept": 42, "removed": 2958} for name in ("TS_1", "TS_2")}
    particles, _ = particlestar.read_particles(out["collected"]["star"])
    for name in ("TS_1", "TS_2"):
        distance, index = nearest(particles.in_series(name).position, lattice(500.0))
        assert sorted(index) == list(range(42)) and distance.max() < 40


@pytest.mark.parametrize("options, kept", [
    ({"distance": 10.0}, [0, 1, 2, 3, 4, 5, 6]),
    ({"distance": 10.5}, [0, 2, 4, 6]),
    ({"distance": 10.5, "score": "rlnLogLikeliContribution"}, [1, 3, 5, 7]),
    ({"distance": 25.0}, [0, 4, 6]),
    ({"distance": 25.0, "score": "myScore"}, [2, 5, 7]),
    ({"distance": 25.0, "score": "none"}, [0, 3, 6]),
    ({"distance": 0.0}, list(range(8))),
])
def test_distance_and_score(tmp_path, line, options, kept):
    found = labels(remove(tmp_path / "out", line, **options)["collected"]["star"])
    # Particles 0 and 2 have the same probability: the position decides.
    assert found == kept


def test_rows_and_other_tables_stay_as_they_are(tmp_path, line):
    before, after = star.read(line), star.read(remove(tmp_path / "out", line, distance=10.5)["collected"]["star"])
    assert after.blocks == before.blocks and after.table("optics").rows == before.table("optics").rows
    old, new = before.table("particles"), after.table("particles")
    assert new.columns == old.columns and new.rows == [old.rows[i] for i in (0, 2, 4, 6)]


def test_what_is_removed_is_listed(tmp_path, line):
    out = remove(tmp_path / "out", line, distance=25.0)
    with open(str(tmp_path / "out" / "report" / "duplicates.csv"), encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    found = {(row["tilt_series"], row["particle"], row["nearest_kept"], float(row["distance_A"]), float(row["score"]))
             for row in listed}
    assert found == {("TS_1", "TS_1/2", "TS_1/1", 10.0, 1.0), ("TS_1", "TS_1/3", "TS_1/1", 20.0, 2.0),
                     ("TS_1", "TS_1/5", "TS_1/4", 0.0, 5.0),
                     ("TS_2", "TS_2/1", "TS_2/2", 10.0, 1.0), ("TS_2", "TS_2/3", "TS_2/2", 10.0, 1.0)}
    assert [float(row["x_A"]) for row in listed] == [10.0, 20.0, 0.0, 20.0, 500.0]
    with open(str(tmp_path / "out" / "report" / "distances.csv"), encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 100 and sum(int(row["nearest_particle_before"]) for row in table) == 8
    assert int(table[0]["nearest_particle_before"]) == 2
    with open(out["results"][0]["report"], "rb") as file:
        assert file.read(4) == b"\x89PNG"
    assert out["results"][0]["score"] == "rlnMaxValueProbDistribution"


def test_wrong_scores_are_named(tmp_path, line):
    with pytest.raises(InputError, match="--score: .*line.star has no column rlnFoo.*myScore"):
        remove(tmp_path / "out", line, score="rlnFoo")
    with pytest.raises(InputError, match="particle TS_1/1: myLabel is 'particle 0', not a number"):
        remove(tmp_path / "out", line, score="myLabel")
    with pytest.raises(InputError, match="it is an input and would be overwritten"):
        remove(tmp_path, line, star="line.star")


def test_coordinates_in_pixels(tmp_path, simulated):
    """Two particles 4 pixels apart: nearer than 25 A at 5 A per pixel, farther at 8."""
    folder = tmp_path / "project"
    simulated("tiny", into=folder)
    star.write(str(tmp_path / "p.star"), [star.Table.from_columns("", {
        "rlnMicrographName": ["TS_01.mrc"] * 2, "rlnCoordinateX": [10.0, 14.0], "rlnCoordinateY": [10.0, 10.0],
        "rlnCoordinateZ": [10.0, 10.0]})])
    given = dict(tomograms=str(folder / "tomograms.star"), distance=25.0)
    for pixel, kept in ((5.0, 1), (8.0, 2)):
        out = remove(tmp_path / str(pixel), tmp_path / "p.star", coordinates_pixel_size=pixel, **given)
        assert out["collected"]["kept"] == kept
    with pytest.raises(InputError, match="pixel size of its coordinates is not known"):
        remove(tmp_path / "unknown", tmp_path / "p.star", **given)


def test_command_line(tmp_path, line, capsys, caplog):
    caplog.set_level("INFO")
    arguments = ["--particles", line, "--output", str(tmp_path / "out"), "--star", "mine.star", "--distance", "10.5"]
    assert main(["check", "duplicates"] + arguments) == 0 and not (tmp_path / "out").exists()
    assert "score rlnMaxValueProbDistribution" in capsys.readouterr().out
    assert main(["duplicates"] + arguments) == 0
    text = caplog.text
    assert "kept: 4" in text and "removed: 4" in text and labels(tmp_path / "out" / "mine.star") == [0, 2, 4, 6]
    assert main(["duplicates", "--output", str(tmp_path / "out")]) == 2
    assert "--particles: no file is given" in capsys.readouterr().err
    assert os.path.isfile(str(tmp_path / "out" / "results" / "duplicates.json"))
