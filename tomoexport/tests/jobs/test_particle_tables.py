"""Which tables the particles of an export come from: one per tilt series, or M's."""

import os

import numpy as np
import pytest

from tomoexport.errors import InputError
from tomoexport.io import relion5, star
from tomoexport.io.particlestar import read_particles
from tomoexport.io.species import write_species
from tomoexport.jobs import runner
from tomoexport.options import from_dict

SIZES = dict(pixel_size=16.0, box=16, diameter=140.0, device="cpu", threads=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory, simulated):
    """TS_01 and TS_02, four particles each: as one table, one per tilt series without names, and one of M."""
    folder = tmp_path_factory.mktemp("tables")
    simulated("tiny", into=folder)
    table = star.read(str(folder / "particles.star")).table("particles")
    names = table.text("rlnTomoName")
    for ts_id in ("TS_01", "TS_02"):
        rows = [i for i, name in enumerate(names) if name == ts_id]
        own = {c: table.select(rows).text(c) for c in table.columns if c not in ("rlnTomoName", "rlnTomoParticleName")}
        star.write(str(folder / (ts_id + "_match.star")), [star.Table.from_columns("particles", own)])
    series = relion5.read_project(str(folder / "tomograms.star"))
    particles, _ = read_particles(str(folder / "particles.star"), series)
    particles.extra["wrpSourceHash"] = ["h" + name for name in names]
    write_species(str(folder / "m_particles.star"), particles, series)
    (folder / "m.source").write_text('<Source><Files><File Hash="hTS_01" Name="TS_02.tomostar" />'
                                     '<File Hash="hTS_02" Name="TS_01.tomostar" /></Files></Source>')
    return folder


def planned(data, particles, verb="subtomo", only=None, **options):
    values = dict(SIZES, tomograms=str(data / "tomograms.star"), particles=str(data / particles),
                  output=str(data / "out"), **options)
    out = runner.plan(verb, from_dict(verb, values), only)
    return {unit.name: unit for unit in out.units}, [str(problem) for problem in out.problems]


@pytest.mark.parametrize("verb", ["subtomo", "series"])
@pytest.mark.parametrize("picked", ["TS_01", "TS_02"])
def test_tables_of_all_tilt_series_are_found_from_one(data, verb, picked):
    expected, _ = planned(data, "particles.star", verb)
    found, problems = planned(data, picked + "_match.star", verb, per_series=True)
    for name, unit in found.items():
        own, other = unit.work.particles, expected[name].work.particles
        np.testing.assert_allclose(own.position, other.position)
        np.testing.assert_allclose(own.rotation, other.rotation)
        assert unit.fingerprint == expected[name].fingerprint
        assert str(data / (name + "_match.star")) in unit.inputs
    assert len(found) == 2 and not [text for text in problems if "match" in text]


def test_a_job_for_one_series_may_name_the_table_of_another(data):
    found, _ = planned(data, "TS_01_match.star", only=["TS_02"], per_series=True)
    assert list(found) == ["TS_02"] and len(found["TS_02"].work.particles) == 4


def test_switched_off_the_table_is_one_for_all(data):
    with pytest.raises(InputError, match="TS_01_match.star, data_particles: no column names the tomograms"):
        planned(data, "TS_01_match.star")


def test_a_series_without_table_is_told(data):
    one = data / "one" / "TS_02_match.star"
    one.parent.mkdir(exist_ok=True)
    one.write_bytes((data / "TS_02_match.star").read_bytes())
    found, problems = planned(data, os.path.join("one", "TS_02_match.star"), per_series=True)
    assert [len(unit.work.particles) for unit in found.values()] == [0, 4]
    assert [text for text in problems if "TS_01: there is no particle file TS_01_match.star" in text]


def test_an_export_from_tables_of_each_series(data):
    out = runner.run({"verb": "subtomo", "options": dict(
        SIZES, tomograms=str(data / "tomograms.star"), particles=str(data / "TS_02_match.star"), per_series=True,
        output=str(data / "run"))})
    table = star.read(out["collected"]["star"]).table("particles")
    assert table.text("rlnTomoParticleName") == ["TS_0%d/%d" % (t, i) for t in (1, 2) for i in (1, 2, 3, 4)]


def test_ms_particles_go_by_name_or_by_hash(data):
    expected, _ = planned(data, "particles.star")
    by_name, _ = planned(data, "m_particles.star")
    by_hash, _ = planned(data, "m_particles.star", source=str(data / "m.source"))
    for name, other in (("TS_01", "TS_02"), ("TS_02", "TS_01")):
        np.testing.assert_allclose(by_name[name].work.particles.position, expected[name].work.particles.position,
                                   atol=1.1e-5)
        assert by_hash[name].work.particles.extra["wrpSourceHash"] == ["h" + other] * 4
        assert str(data / "m.source") in by_hash[name].inputs
