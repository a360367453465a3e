"""Intersection of particle tables: sets, dialects, names of tilt series, histogram."""
import csv
import json
import os

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tomoexport.cli import main
from tomoexport.engine.matching import match
from tomoexport.engine.poses import zyz_from_matrix
from tomoexport.errors import InputError
from tomoexport.io import particlestar, relion5, species, star
from tomoexport.jobs import runner
from tomoexport.tests.jobs.sets import particle_table, rows
from tomoexport.tests.shared import need_shared


def places(seed, n=30, side=400.0):
    """Points on a grid of 80 A or more apart, in random order, around the centre."""
    grid = np.stack(np.meshgrid(*3 * [np.arange(-side, side + 1, 80.0)], indexing="ij"), -1).reshape(-1, 3)
    return np.random.default_rng(seed).permutation(grid)[:n]


@pytest.fixture
def pair(tmp_path):
    """Old: 30 in TS_1, 10 in TS_2. New: the first 20 of TS_1, displaced, and 12 others there; 5 in TS_3."""
    rng = np.random.default_rng(4)
    grid = places(1, 42)
    old = np.concatenate([grid[:30], places(2, 10)])
    new = np.concatenate([grid[:20] + rng.uniform(-4, 4, (20, 3)), grid[30:], places(3, 5)])
    turns = [Rotation.random(n, random_state=n).as_matrix() for n in (len(old), len(new))]
    shuffled = rng.permutation(len(new))
    return (
        particle_table(
            tmp_path / "old.star", old, ["TS_1"] * 30 + ["TS_2"] * 10, turns[0],
            [star.Table.from_columns("general", {"rlnTomoSubTomosAre2DStacks": [1]}, True)],
            {"rlnOpticsGroup": [1, 2], "rlnImagePixelSize": [4.0, 4.0], "rlnOpticsGroupName": ["one", "two"]},
            rlnOpticsGroup=[1] * 30 + [2] * 10, rlnTomoParticleName=["TS/%d" % (i + 1) for i in range(40)],
            rlnRandomSubset=[1, 2] * 20, rlnClassNumber=[3, 4] * 20, myLabel=["a b"] + ["x%d" % i for i in range(39)],
            rlnScore=np.arange(40) / 8, rlnGroupNumber=[7] * 40),
        particle_table(
            tmp_path / "new.star", new[shuffled],
            [(["rec/TS_1_10.00Apx.mrc"] * 32 + ["TS_3"] * 5)[i] for i in shuffled], turns[1][shuffled],
            rlnScore=100.0 + shuffled, rlnOther=shuffled, rlnTomoParticleName=["TS/%d" % (i + 1) for i in shuffled]),
        old, new, turns)


def intersect(folder, old, new, **options):
    return runner.run({"verb": "intersect", "options": dict(options, old=str(old), new=str(new), output=str(folder))})


@pytest.mark.parametrize("only_old", [False, True])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("only_new", [False, True])
def test_any_combination_of_the_three_sets(tmp_path, pair, only_old, both, only_new):
    old_star, new_star, old, new, _ = pair
    job = lambda: intersect(tmp_path / "out", old_star, new_star, only_old=only_old, both=both,  # noqa: E731
                            only_new=only_new)
    if not (only_old or both or only_new):
        with pytest.raises(InputError, match="none of the sets is chosen"):
            job()
        return
    out = job()["collected"]
    assert (out["only_old"], out["both"], out["only_new"]) == (20, 20, 17)
    assert out["written"] == 20 * only_old + 20 * both + 17 * only_new
    written = rows(out["star"])
    labels = [row["myLabel"] for row in rows(old_star)]
    kept = [label for i, label in enumerate(labels) if (both if i < 20 else only_old)]
    assert [row["myLabel"] for row in written] == kept + ["None"] * 17 * only_new
    assert star.read(out["star"]).blocks == ["general", "optics", "particles"]


def test_old_rows_stay_as_they_are_to_the_letter(tmp_path, pair):
    old_star, new_star = pair[:2]
    out = intersect(tmp_path / "out", old_star, new_star, only_old=True)["collected"]
    before, after = star.read(old_star), star.read(out["star"])
    for name in before.blocks:
        assert after.table(name).columns == before.table(name).columns
        assert after.table(name).rows == before.table(name).rows


def test_new_rows_have_their_own_poses_and_values(tmp_path, pair):
    old_star, new_star, old, new, turns = pair
    out = intersect(tmp_path / "out", old_star, new_star, both=False, only_new=True)["collected"]
    particles, _ = particlestar.read_particles(out["star"])
    order = [int(float(v)) - 100 for v in particles.extra["rlnScore"]]  # columns of both tables: their own values
    assert sorted(order) == list(range(20, 37))
    np.testing.assert_allclose(particles.position, new[order], atol=1e-9)
    np.testing.assert_allclose(particles.rotation, turns[1][order], atol=1e-9)
    # The tilt series has the name that the old table gives it; one that is not there brings its own.
    assert particles.names() == ["TS_1" if i < 32 else "TS_3" for i in order]
    assert particles.extra["rlnOpticsGroup"] == ["1"] * 17 and particles.extra["rlnGroupNumber"] == ["7"] * 17
    assert sorted(particles.extra["rlnRandomSubset"]) == ["1"] * 9 + ["2"] * 8
    assert set(particles.extra["rlnClassNumber"]) == {"3"} and "rlnOther" not in particles.extra


def test_names_of_particles_stay_unique(tmp_path, pair):
    old_star, new_star = pair[:2]
    out = intersect(tmp_path / "out", old_star, new_star, only_old=True, only_new=True)["collected"]
    names = [row["rlnTomoParticleName"] for row in rows(out["star"])]
    assert len(set(names)) == len(names) == 57
    assert names[:40] == ["TS/%d" % (i + 1) for i in range(40)]


def test_tolerance_and_what_it_means_at_zero(tmp_path, pair):
    old_star, new_star, old, new, _ = pair
    gaps = np.linalg.norm(old[:20] - new[:20], axis=1)
    limit = float(np.median(gaps))
    out = intersect(tmp_path / "half", old_star, new_star, tolerance=limit)["collected"]
    assert out["both"] == (gaps <= limit).sum() == 10
    # The recipe that adds particles: nothing matches, both sets are joined.
    out = intersect(tmp_path / "zero", old_star, old_star, tolerance=0.0, both=False, only_old=True, only_new=True)
    assert out["collected"]["both"] == 0 and out["collected"]["written"] == 80


def test_series_that_are_not_ticked_have_only_old_particles(tmp_path, pair):
    old_star, new_star = pair[:2]
    out = intersect(tmp_path / "out", old_star, new_star, sources="TS_2, TS_3", both=True, only_old=True, only_new=True)
    collected, result = out["collected"], out["results"][0]
    assert (collected["only_old"], collected["both"], collected["only_new"]) == (40, 0, 5)
    assert result["left_out"] == {"TS_1": 32} and set(result["series"]) == {"TS_2", "TS_3"}
    one = intersect(tmp_path / "one", old_star, new_star, sources="TS_1", both=True, only_old=True, only_new=True)
    assert one["results"][0]["counts"] == {"only_old": 20, "both": 20, "only_new": 12}
    assert one["results"][0]["series"] == {"TS_1": {"only_old": 10, "both": 20, "only_new": 12}}
    with pytest.raises(InputError, match="--sources: there is no tilt series TS_4.*TS_1, TS_2, TS_3"):
        intersect(tmp_path / "wrong", old_star, new_star, sources="TS_1,TS_4")


def test_particles_of_different_series_never_match(tmp_path):
    points = places(5, 8)
    old = particle_table(tmp_path / "old.star", points, ["TS_1"] * 8)
    new = particle_table(tmp_path / "new.star", points, ["TS_10"] * 4 + ["TS_1"] * 4)
    assert intersect(tmp_path / "out", old, new)["collected"]["both"] == 4


def test_ambiguous_names_are_named(tmp_path):
    points = places(6, 3)
    old = particle_table(tmp_path / "old.star", points, ["TS_1.mrc", "TS_1.tomostar", "TS_2"])
    new = particle_table(tmp_path / "new.star", points, ["TS_1", "TS_1", "TS_2"])
    with pytest.raises(InputError, match=r"new.star.*several tilt series: TS_1 \(TS_1.mrc or TS_1.tomostar\)"):
        intersect(tmp_path / "out", old, new)


def test_methods_differ_and_agree_with_the_engine(tmp_path):
    rng = np.random.default_rng(7)
    old, new = rng.uniform(0, 1000, (150, 3)), rng.uniform(0, 1000, (200, 3))
    new[:90] = old[:90] + rng.uniform(-5, 5, (90, 3))
    tables = [particle_table(tmp_path / name, points, ["TS_1"] * len(points))
              for name, points in (("old.star", old), ("new.star", new))]
    found = {}
    for method in ("gated", "warp"):
        out = intersect(tmp_path / method, *tables, matching=method, tolerance=60.0)
        found[method] = out["collected"]["both"]
        assert found[method] == (match(old, new, 60.0, method)[0] >= 0).sum()
    assert found["gated"] > found["warp"]
    with pytest.raises(InputError, match="--matching: matching needs 510 kB of memory, 100 kB are allowed"):
        intersect(tmp_path / "small", *tables, matching="warp", memory=1e-4)
    with pytest.raises(InputError, match="--tolerance: matching needs .* Take a smaller tolerance"):
        intersect(tmp_path / "small", *tables, tolerance=1e4, memory=1e-4)


def test_the_order_of_the_rows_makes_no_difference(tmp_path):
    """Equal distances and coinciding particles without names: pairs are the same whatever comes first."""
    rng = np.random.default_rng(8)
    old, new = (np.round(rng.uniform(0, 6, (n, 3))) * 10 for n in (120, 160))
    labels = ["o%d" % i for i in range(120)], ["n%d" % i for i in range(160)]
    found = []
    for shuffle in range(3):
        a, b = (rng.permutation(n) if shuffle else np.arange(n) for n in (120, 160))
        tables = [particle_table(tmp_path / ("%s%d.star" % (name, shuffle)), points[order], ["TS_1"] * len(points),
                                 myLabel=[texts[i] for i in order])
                  for name, points, order, texts in (("old", old, a, labels[0]), ("new", new, b, labels[1]))]
        sets = {}
        for kind in ("only_old", "both", "only_new"):
            out = intersect(tmp_path / ("%s%d" % (kind, shuffle)), *tables, tolerance=15.0,
                            **{"both": False, kind: True})
            sets[kind] = {row["myLabel"] for row in rows(out["collected"]["star"])}
        found.append(sets)
    assert found[0] == found[1] == found[2] and len(found[0]["both"]) > 40 < len(found[0]["only_new"])


def test_report(tmp_path, pair):
    old_star, new_star, old, new, _ = pair
    out = intersect(tmp_path / "out", old_star, new_star, tolerance=30.0)
    with open(str(tmp_path / "out" / "report" / "distances.csv"), encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 100 and sum(int(row["pairs"]) for row in table) == 20
    gaps = np.linalg.norm(old[:20] - new[:20], axis=1)
    expected = np.histogram(gaps, np.linspace(0, gaps.max(), 101))[0]
    assert [int(row["pairs"]) for row in table] == list(expected)
    assert float(table[-1]["to_A"]) == pytest.approx(gaps.max(), rel=1e-5)
    assert sum(int(row["nearest_new_particle"]) for row in table) == 20
    with open(str(tmp_path / "out" / "report" / "matches.csv"), encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    assert [row["set"] for row in listed] == ["both"] * 20 + ["only_old"] * 20 + ["only_new"] * 17
    assert [(row["old"], row["new"]) for row in listed[:20]] == [("TS/%d" % i, "TS/%d" % i) for i in range(1, 21)]
    np.testing.assert_allclose([float(row["distance_A"]) for row in listed[:20]], gaps, atol=1e-3)
    with open(out["results"][0]["report"], "rb") as file:
        assert file.read(4) == b"\x89PNG"
    with open(str(tmp_path / "out" / "results" / "intersect.json"), encoding="utf-8") as file:
        assert json.load(file)["counts"] == {"only_old": 20, "both": 20, "only_new": 17}


def test_nothing_left_is_an_error_with_numbers_and_leaves_the_histogram(tmp_path, pair):
    with pytest.raises(InputError, match="no particle is left: 40 only old, 0 both, 37 only new.*tolerance"):
        intersect(tmp_path / "out", *pair[:2], tolerance=0.0)
    assert not os.path.exists(str(tmp_path / "out" / "particles.star"))
    assert os.path.exists(str(tmp_path / "out" / "report" / "distances.csv"))


def test_inputs_are_not_overwritten(tmp_path, pair):
    with pytest.raises(InputError, match="old.star: it is an input and would be overwritten"):
        intersect(tmp_path, *pair[:2], star="old.star")


def test_a_finished_run_is_kept_and_a_changed_one_redone(tmp_path, pair):
    first = intersect(tmp_path / "out", *pair[:2])
    assert first["results"][0]["status"] == "done"
    assert intersect(tmp_path / "out", *pair[:2])["results"][0]["status"] == "skipped"
    again = intersect(tmp_path / "out", *pair[:2], only_old=True)
    assert again["results"][0]["status"] == "done" and again["collected"]["written"] == 40


def test_command_line(tmp_path, pair, capsys, caplog):
    caplog.set_level("INFO")
    arguments = ["--old", pair[0], "--new", pair[1], "--output", str(tmp_path / "out"), "--star", "mine.star"]
    assert main(["check", "intersect"] + arguments) == 0 and not (tmp_path / "out").exists()
    assert main(["intersect", "--only-new", "--no-both", "--tolerance", "8"] + arguments) == 0
    text = caplog.text
    assert "only old: 20" in text and "both: 20" in text and "only new: 17" in text and "written: 17" in text
    assert len(rows(tmp_path / "out" / "mine.star")) == 17
    assert main(["intersect", "--old", pair[0], "--output", str(tmp_path / "out")]) == 2
    assert "--new: no file is given" in capsys.readouterr().err


@pytest.fixture(scope="module")
def project(tmp_path_factory, simulated):
    """Two simulated tilt series whose tomograms have different sizes, and positions in them."""
    folder = tmp_path_factory.mktemp("project")
    simulated("tiny", into=folder)
    series = relion5.read_project(str(folder / "tomograms.star"))
    particles, _ = particlestar.read_particles(str(folder / "particles.star"), series)
    return folder, series, particles


def corner_table(path, kind, series, particles, names, box=None, offset=None):
    """Write particles in a dialect that counts from the corner; `offset` is rlnOrigin*Angst in the frame `box`."""
    sizes = {one.ts_id: np.array(one.geometry.size_px) // 2 * one.geometry.pixel_size for one in series}
    n = len(particles)
    box = np.broadcast_to(np.eye(3), (n, 3, 3)) if box is None else box
    corner = particles.position + np.array([sizes[name] for name in particles.names()])
    pixel = {"relion4": 8.0, "warptools": 5.0, "relion3.1": 5.0, "relion3.0": 5.0, "m": 1.0}[kind]
    angles = np.einsum("nji,njk->nik", box, particles.rotation)
    columns = {}
    if kind == "m":
        sizes = {one.ts_id: np.array(one.geometry.volume_size) / 2 for one in series}
        corner = particles.position + np.array([sizes[name] for name in particles.names()])
        for sample in (1, 2):
            columns.update(("wrpCoordinate%s%d" % (a, sample), v + sample - 1) for a, v in zip("XYZ", corner.T))
        columns.update(("wrpAngle%s1" % a, v) for a, v in zip(("Rot", "Tilt", "Psi"), zyz_from_matrix(angles)))
        columns.update(wrpSourceName=names, wrpSourceHash=["hash of " + name for name in names],
                       wrpRandomSubset=[1 + i % 2 for i in range(n)])
        star.write(str(path), [star.Table.from_columns("", columns)])
        return str(path)
    columns["rlnTomoName" if kind in ("relion4", "warptools") else "rlnMicrographName"] = names
    if offset is not None:
        corner = corner + np.einsum("nij,nj->ni", box, offset)
        columns.update(zip(("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst"), np.transpose(offset)))
        columns.update(zip(("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi"),
                           zyz_from_matrix(box)))
    columns.update(zip(particlestar.CORNER, corner.T / pixel))
    columns.update(zip(particlestar.ANGLE, zyz_from_matrix(angles)))
    tables = []
    if kind == "relion3.0":
        columns.update(rlnMagnification=[10000.0] * n, rlnDetectorPixelSize=[pixel] * n)
    else:
        columns["rlnOpticsGroup"] = [1] * n
        optics = {"rlnOpticsGroup": [1], "rlnImagePixelSize": [5.0]}
        if kind != "relion3.1":
            optics["rlnTomoTiltSeriesPixelSize"] = [8.0]
        tables.append(star.Table.from_columns("optics", optics))
    star.write(str(path), tables + [star.Table.from_columns("particles", columns)])
    return str(path)


ENDINGS = {"relion4": "", "warptools": ".tomostar", "relion3.1": ".mrc", "relion3.0": "_8.00Apx.mrc", "m": ".tomostar"}


@pytest.mark.parametrize("old_kind", sorted(ENDINGS))
@pytest.mark.parametrize("new_kind", sorted(ENDINGS))
def test_every_dialect_with_every_other(tmp_path, project, old_kind, new_kind):
    """Old rows stay, and new ones come into the dialect of the old table with the position and pose they had."""
    folder, series, particles = project
    own, other = np.arange(len(particles)) % 2 == 0, np.arange(len(particles)) >= 2
    old, new = particles.select(own), particles.select(other)
    tables = [corner_table(tmp_path / name, kind, series, one, [n + ENDINGS[kind] for n in one.names()])
              for name, kind, one in (("old.star", old_kind, old), ("new.star", new_kind, new))]
    out = intersect(tmp_path / "out", *tables, tomograms=str(folder / "tomograms.star"), tolerance=1.0, only_old=True,
                    only_new=True)["collected"]
    assert (out["only_old"], out["both"], out["only_new"]) == ((own & ~other).sum(), (own & other).sum(),
                                                               (other & ~own).sum())
    read, problems = particlestar.read_particles(out["star"], series)
    assert not problems and particlestar.dialect(out["star"]) == old_kind
    expected = particles.select(np.concatenate([np.flatnonzero(own), np.flatnonzero(other & ~own)]))
    assert read.names() == expected.names()
    np.testing.assert_allclose(read.position, expected.position, atol=1e-4)
    np.testing.assert_allclose(read.rotation, expected.rotation, atol=1e-5)
    block = [b for b in star.read(tables[0]).blocks if b != "optics"][0]
    assert star.read(out["star"]).table(block).rows[:len(old)] == star.read(tables[0]).table(block).rows
    if old_kind == "m":
        hashes = star.read(out["star"]).table(block).text(species.HASH)
        assert hashes == ["hash of %s.tomostar" % name for name in read.names()]
        if new_kind == "m":  # the second sample, too, of particles that move
            moved = read.trajectory.position[:, 1] - read.trajectory.position[:, 0]
            np.testing.assert_allclose(moved, 1.0, atol=1e-4)


def test_tilt_series_of_m_are_told_by_their_source_file(tmp_path, project):
    """Names that say nothing, hashes that say it all: both verbs take the .source file."""
    folder, series, particles = project
    files = "".join('<File Hash="hash of %s" Name="%s.tomostar" />' % (one.ts_id, one.ts_id) for one in series)
    (tmp_path / "m.source").write_text("<Source><Files>%s</Files></Source>" % files)
    table = corner_table(tmp_path / "m.star", "m", series, particles, particles.names())
    block = star.read(table).table("")
    columns = dict({c: block.text(c) for c in block.columns}, wrpSourceName=["x%d" % i for i in range(len(particles))])
    star.write(table, [star.Table.from_columns("", columns)])
    given = dict(tomograms=str(folder / "tomograms.star"), source=str(tmp_path / "m.source"))
    assert intersect(tmp_path / "a", table, table, **given)["collected"]["both"] == len(particles)
    job = {"verb": "duplicates", "options": dict(given, particles=table, output=str(tmp_path / "b"), distance=1.0)}
    assert runner.run(job)["collected"]["kept"] == len(particles)
    del given["source"], job["options"]["source"]
    with pytest.raises(InputError, match="no particle belongs to one of the tilt series"):
        intersect(tmp_path / "c", table, table, **given)
    with pytest.raises(InputError, match="no particle belongs to one of the tilt series"):
        runner.run(job)


@pytest.mark.shared
def test_a_real_table_with_itself(tmp_path):
    """WarpTools' own table: nothing changes, and joined with itself each particle is there twice, in the same place."""
    folder = need_shared("data", "warptools")
    table = str(folder / "warp2_particles_matching.star")
    given = dict(tomograms=str(folder / "warp2_matching_tomograms.star"))
    out = intersect(tmp_path / "a", table, table, tolerance=0.1, **given)["collected"]
    before, after = star.read(table), star.read(out["star"])
    assert out["only_old"] == out["only_new"] == 0 and after.blocks == before.blocks
    for name in before.blocks:
        assert after.table(name).columns == before.table(name).columns
        assert after.table(name).rows == before.table(name).rows
    joined = intersect(tmp_path / "b", table, table, tolerance=0.0, both=False, only_old=True, only_new=True, **given)
    twice, _ = particlestar.read_particles(joined["collected"]["star"], relion5.read_project(given["tomograms"]))
    n = out["both"]
    assert len(twice) == 2 * n > 0 and twice.names()[:n] == twice.names()[n:]
    np.testing.assert_allclose(twice.position[n:], twice.position[:n], atol=1e-4)
    np.testing.assert_allclose(twice.rotation[n:], twice.rotation[:n], atol=1e-6)


@pytest.mark.parametrize("has", ["offsets and box angles", "offsets", "neither"])
def test_offsets_and_box_angles_go_along_where_the_table_has_them(tmp_path, project, has):
    """A new particle beside the centre of its image stays so; a table without offsets gets its true position."""
    folder, series, particles = project
    own = np.arange(len(particles)) < 4
    box = Rotation.random(len(particles), random_state=1).as_matrix()
    offset = np.random.default_rng(2).uniform(-9, 9, (len(particles), 3))
    old = corner_table(tmp_path / "old.star", "relion4", series, particles.select(own), particles.select(own).names(),
                       *(() if has == "neither" else (box[own], offset[own])))
    if has == "offsets":
        tables = star.read(old)
        block = tables.table("particles")
        kept = {c: block.text(c) for c in block.columns if not c.startswith("rlnTomoSubtomogram")}
        star.write(old, [tables.table("optics"), star.Table.from_columns("particles", kept)])
    new = corner_table(tmp_path / "new.star", "relion4", series, particles.select(~own), particles.select(~own).names(),
                       box[~own], offset[~own])
    out = intersect(tmp_path / "out", old, new, tomograms=str(folder / "tomograms.star"), both=False, only_new=True)
    written = star.read(out["collected"]["star"]).table("particles")
    read, _ = particlestar.read_particles(out["collected"]["star"], series)
    np.testing.assert_allclose(read.position, particles.select(~own).position, atol=1e-6)
    np.testing.assert_allclose(read.rotation, particles.select(~own).rotation, atol=1e-6)
    if has == "neither":
        return
    if has == "offsets":
        offset = np.einsum("nij,nj->ni", box, offset)
    np.testing.assert_allclose(written.float("rlnOriginZAngst"), offset[~own][:, 2], atol=1e-6)
    np.testing.assert_allclose(written.float("rlnCoordinateX"), star.read(new).table("particles").float(
        "rlnCoordinateX"), atol=1e-6)


def test_pixel_sizes_of_coordinates_can_be_given(tmp_path, project):
    """Each for its own table: 8 A per pixel in one, 5 in the other, neither of which says so."""
    folder, series, particles = project
    tables = []
    for name, pixel in (("old.star", 8.0), ("new.star", 5.0)):
        corner = particles.position + [np.array(one.geometry.size_px) // 2 * 8.0 for i in particles.ts
                                       for one in [series[i]]]
        columns = dict(zip(particlestar.CORNER, corner.T / pixel), rlnMicrographName=particles.names())
        star.write(str(tmp_path / name), [star.Table.from_columns("", columns)])
        tables.append(str(tmp_path / name))
    given = dict(tomograms=str(folder / "tomograms.star"), tolerance=0.5)
    out = intersect(tmp_path / "a", *tables, old_pixel_size=8.0, new_pixel_size=5.0, **given)["collected"]
    assert out["both"] == len(particles)
    swapped = intersect(tmp_path / "b", *tables, old_pixel_size=5.0, new_pixel_size=8.0, both=False, only_old=True,
                        only_new=True, **given)["collected"]
    assert swapped["both"] < len(particles)
    # New rows are in the pixels of the old table.
    zero = intersect(tmp_path / "c", *tables, old_pixel_size=8.0, new_pixel_size=5.0, both=False, only_new=True,
                     **dict(given, tolerance=0.0))["collected"]
    np.testing.assert_allclose(star.read(zero["star"]).table("").float("rlnCoordinateY"),
                               star.read(tables[0]).table("").float("rlnCoordinateY"), rtol=1e-12)
    with pytest.raises(InputError, match="pixel size of its coordinates is not known"):
        intersect(tmp_path / "d", *tables, new_pixel_size=5.0, **given)


def test_series_that_the_project_does_not_have(tmp_path, project):
    folder, series, particles = project
    strange = [name.replace("TS_02", "TS_99") for name in particles.names()]
    tables = [particle_table(tmp_path / name, particles.position, names) for name, names in (
        ("all.star", particles.names()), ("strange.star", strange))]
    given = dict(tomograms=str(folder / "tomograms.star"))
    # New particles there are left out and listed, old ones would be lost: an error.
    out = intersect(tmp_path / "a", *tables, only_old=True, only_new=True, **given)["collected"]
    assert (out["only_old"], out["both"], out["only_new"]) == (4, 4, 0)
    planned = runner.plan("intersect", runner.options_module.from_dict("intersect", dict(
        given, old=tables[0], new=tables[1])))
    assert any("TS_99: 4 particles are left out" in str(p) for p in planned.problems)
    with pytest.raises(InputError, match="4 particles would be lost.*TS_99"):
        intersect(tmp_path / "b", tables[1], tables[0], **given)


def test_species_are_matched_by_hash(tmp_path, project):
    folder, series, particles = project
    renamed = [{"TS_01": "TS_02", "TS_02": "TS_01"}[name] for name in particles.names()]
    old = corner_table(tmp_path / "old.star", "m", series, particles, particles.names())
    table = star.read(old).table("")
    columns = {c: table.text(c) for c in table.columns}
    sizes = [one.geometry.volume_size for one in series]
    columns.update(wrpSourceName=renamed)
    # Counted from the corners of the tomograms whose names are given now.
    swap = np.array(sizes)[1 - particles.ts] / 2 - np.array(sizes)[particles.ts] / 2
    for axis in range(3):
        columns["wrpCoordinate%s1" % "XYZ"[axis]] = [
            repr(float(v) + float(d)) for v, d in zip(columns["wrpCoordinate%s1" % "XYZ"[axis]], swap[:, axis])]
    new = str(tmp_path / "new.star")
    star.write(new, [star.Table.from_columns("", columns)])
    out = intersect(tmp_path / "out", old, new, tomograms=str(folder / "tomograms.star"), tolerance=0.1)
    assert out["collected"]["both"] == len(particles)
