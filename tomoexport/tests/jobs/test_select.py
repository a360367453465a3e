"""Particles that an analysis kept, chosen from the original table by every kind of list."""

import os
import pickle
from dataclasses import replace

import numpy as np
import pytest

from tomoexport.errors import InputError
from tomoexport.io import particlestar, relion5, star
from tomoexport.io.indices import read_index
from tomoexport.jobs import runner


@pytest.fixture(scope="module")
def data(tmp_path_factory, simulated):
    """Twelve particles of two series, in mixed order; one export lost one of them, and moved all."""
    folder = tmp_path_factory.mktemp("select")
    simulated("tiny", into=folder / "data", particles=6)
    particles, _ = particlestar.read_particles(str(folder / "data" / "particles.star"))
    order = np.random.default_rng(3).permutation(12)
    mixed = particles.select(order)
    extra = dict(mixed.extra, rlnClassNumber=[str(i) for i in range(12)])
    particlestar.write_particles(str(folder / "original.star"), replace(mixed, extra=extra))
    # One of them lies where no tilt shows it.
    position = mixed.position.copy()
    position[4] += [3000, 0, 0]
    particlestar.write_particles(str(folder / "given.star"), replace(mixed, position=position, extra=extra))
    return folder


def export(data, name, **options):
    return runner.run({"verb": "series", "options": dict(
        {"tomograms": str(data / "data" / "tomograms.star"), "particles": str(data / "given.star"),
         "output": str(data / name), "pixel_size": 8.0, "box": 32, "diameter": 100.0, "threads": 2}, **options)})[
             "collected"]


@pytest.fixture(scope="module")
def exported(data):
    collected = export(data, "exported", shift_x=24.0, shift_z=-16.0)
    assert collected["kept"] == 11
    return collected


@pytest.fixture(scope="module")
def uids(exported):
    """Names of the exported particles in the order of the images."""
    groups = list(dict.fromkeys(star.read(exported["star"]).table("").text("rlnGroupName")))
    listed = star.read(exported["exported"]).table("particles")
    name = dict(zip(listed.text("rlnGroupName"), listed.text("rlnTomoParticleName")))
    return [name[group] for group in groups]


def select(data, exported, kept, name="selected", **options):
    """Names of the rows that are written."""
    values = dict({"particles": str(data / "given.star"), "exported": exported["star"], "kept": str(kept),
                   "output": str(data / name)}, **options)
    out = runner.run({"verb": "select", "options": values})["collected"]
    table = star.read(out["star"]).table("particles")
    assert out["kept"] == len(table) and out["kept"] + out["removed"] == 11
    return table.text("rlnTomoParticleName")


def in_original_order(data, names):
    table = star.read(str(data / "given.star")).table("particles")
    return [name for name in table.text("rlnTomoParticleName") if name in names]


def save(path, values, protocol=None):
    with open(str(path), "wb") as file:
        pickle.dump(values, file, protocol)
    return path


WANTED = [7, 2, 9]


@pytest.mark.parametrize("made", [np.array(WANTED), WANTED, tuple(WANTED), np.array(WANTED, np.int32),
                                  [np.int64(i) for i in WANTED]], ids=["array", "list", "tuple", "int32", "numpy ints"])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_an_index_chooses_exactly_its_particles(data, exported, uids, tmp_path, made, protocol):
    if protocol > pickle.HIGHEST_PROTOCOL:
        pytest.skip("this Python does not write it")
    names = select(data, exported, save(tmp_path / "ind.pkl", made, protocol))
    assert names == in_original_order(data, {uids[i] for i in WANTED}) and len(names) == 3


def test_a_filtered_table_chooses_exactly_its_particles(data, exported, uids, tmp_path):
    table = star.read(exported["star"]).table("")
    groups = table.text("rlnGroupName")
    kept = [list(dict.fromkeys(groups))[i] for i in (0, 5, 10)]
    rows = [i for i, group in enumerate(groups) if group in kept][::-1]
    path = str(tmp_path / "filtered.star")
    star.write(path, [table.select(rows)])
    expected = in_original_order(data, {uids[i] for i in (0, 5, 10)})
    assert select(data, exported, path) == expected
    assert select(data, exported, path, exclude=True) == in_original_order(data, set(uids) - set(expected))


def test_rows_stay_as_they_are_to_the_letter(data, exported, tmp_path):
    select(data, exported, save(tmp_path / "ind.pkl", list(range(11))))
    before, after = (star.read(str(p)).table("particles") for p in (data / "given.star",
                                                                      data / "selected" / "particles.star"))
    assert after.columns == before.columns and after.rows == [r for i, r in enumerate(before.rows) if i != 4]


def test_an_index_that_counts_in_a_part_of_the_table(data, exported, uids, tmp_path):
    """An analysis that was given a part of the particles counts in that."""
    table = star.read(exported["star"]).table("")
    groups = table.text("rlnGroupName")
    part = list(dict.fromkeys(groups))[3:]
    star.write(str(tmp_path / "part.star"), [table.select([i for i, g in enumerate(groups) if g in part])])
    path = save(tmp_path / "ind.pkl", np.array([0, 4]))
    assert select(data, exported, path, indexed=str(tmp_path / "part.star")) == in_original_order(
        data, {uids[3], uids[7]})
    assert select(data, exported, path) == in_original_order(data, {uids[0], uids[4]})


def test_an_index_of_images(data, exported, uids, tmp_path):
    groups = star.read(exported["star"]).table("").text("rlnGroupName")
    order = list(dict.fromkeys(groups))
    images = [1, 2, len(groups) - 1]
    expected = {uids[order.index(groups[i])] for i in images}
    path = save(tmp_path / "ind.pkl", images)
    assert select(data, exported, path, counts="images") == in_original_order(data, expected)
    with pytest.raises(InputError, match="goes up to %d.*11 particles.*may count images" % images[-1]):
        select(data, exported, path)


def test_without_a_table_the_list_of_the_export_is_cut(data, exported, uids, tmp_path):
    """Positions are those from before the shift."""
    path = save(tmp_path / "ind.pkl", [1, 3])
    assert set(select(data, exported, path, particles="")) == {uids[1], uids[3]}
    chosen, _ = particlestar.read_particles(str(data / "selected" / "particles.star"))
    given, _ = particlestar.read_particles(str(data / "given.star"))
    for uid, position in zip(chosen.uid, chosen.position):
        assert np.allclose(position, given.position[given.uid.index(uid)], atol=1e-9)


def test_optimisation_sets_have_their_own_order(data, tmp_path):
    """Particles of a series together; the filtered table, or the set that names it, and an index agree."""
    whole = export(data, "whole", form="optimisation-set", reader="none", star="sub.star")
    assert os.path.basename(whole["star"]) == "sub_optimisation_set.star"
    tables = star.read(str(data / "whole" / "sub.star"))
    names = tables.table("particles").text("rlnTomoName")
    assert names == sorted(names, key=names.index)
    listed = star.read(whole["exported"]).table("particles").text("rlnTomoParticleName")
    rows = [1, len(names) - 1]
    filtered = tables.table("particles").select(rows)
    star.write(str(tmp_path / "kept.star"), [tables.table("general"), tables.table("optics"), filtered])
    star.write(str(tmp_path / "kept_optimisation_set.star"), [star.Table.from_columns("", {
        "rlnTomoParticlesFile": ["kept.star"], "rlnTomoTomogramsFile": ["none.star"]}, is_list=True)])
    save(tmp_path / "ind.pkl", rows)
    for kept in ("kept.star", "kept_optimisation_set.star", "ind.pkl"):
        values = {"particles": str(data / "given.star"), "exported": whole["star"], "kept": str(tmp_path / kept),
                  "output": str(data / "of_set")}
        out = runner.run({"verb": "select", "options": values})["collected"]
        found = star.read(out["star"]).table("particles").text("rlnTomoParticleName")
        assert found == in_original_order(data, {listed[i] for i in rows})


def test_names_that_mean_other_particles_are_found_out(data, exported, tmp_path):
    """The same names at other places; a tolerance of 0 trusts them."""
    path = save(tmp_path / "ind.pkl", list(range(11)))
    given, _ = particlestar.read_particles(str(data / "given.star"))
    other = str(tmp_path / "other.star")
    particlestar.write_particles(other, replace(given, uid=given.uid[1:] + given.uid[:1]))
    with pytest.raises(InputError, match="from where it was exported"):
        select(data, exported, path, particles=other)
    assert len(select(data, exported, path, particles=other, tolerance=0)) == 11


def test_what_cannot_be_meant(data, exported, uids, tmp_path):
    for values, words in (([11], "goes up to 11"), ([-1], "negative"), ([1, 1], "more than once"), ([], "empty"),
                          ([1.0], "holds a list"), (np.array([1.0]), "f8"), (np.array([True]), "b1"),
                          ([True], "holds a list"), (np.zeros((2, 2), int), "no list of whole numbers"),
                          ({"a": 1}, "holds a dict")):
        with pytest.raises(InputError, match=words):
            select(data, exported, save(tmp_path / "ind.pkl", values))
    table = star.read(exported["star"]).table("")
    rows = [row[:-1] + ["TS_09_0000001"] for row in table.rows]
    star.write(str(tmp_path / "foreign.star"), [star.Table("", table.columns, rows)])
    with pytest.raises(InputError, match="not of this export, as TS_09_0000001"):
        select(data, exported, tmp_path / "foreign.star")
    listed, _ = particlestar.read_particles(str(data / "given.star"))
    particlestar.write_particles(str(tmp_path / "few.star"), listed.select(slice(0, 3)))
    with pytest.raises(InputError, match="are not in it"):
        select(data, exported, save(tmp_path / "ind.pkl", list(range(11))), particles=str(tmp_path / "few.star"))
    with pytest.raises(InputError, match="there is no such file"):
        select(data, {"star": str(data / "given.star")}, tmp_path / "ind.pkl")
    with pytest.raises(InputError, match="no particle is left"):
        select(data, exported, save(tmp_path / "ind.pkl", list(range(11))), exclude=True)


class Command:
    """Its pickle runs a command when it is loaded."""

    def __init__(self, name, *arguments):
        self.name, self.arguments = name, arguments

    def __reduce__(self):
        return self.name, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_runs_nothing(tmp_path, protocol):
    mark = tmp_path / "run"
    evil = [Command(os.mkdir, str(mark)), Command(eval, "__import__('os').mkdir(%r)" % str(mark)),
            [1, Command(os.mkdir, str(mark))], Command(np.load, str(mark)), Command(np.frombuffer, b"12345678")]
    for one in evil:
        with pytest.raises(InputError, match="has no place in an index"):
            read_index(str(save(tmp_path / "ind.pkl", one, protocol)))
    assert not mark.exists()
    pickle.loads(pickle.dumps(evil[0]))
    assert mark.exists()  # which a plain reader does


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1, 2, 3])[:-2], b"\x80\x04\x95" + b"\xff" * 40])
def test_a_damaged_index_is_an_error(tmp_path, content):
    (tmp_path / "ind.pkl").write_bytes(content)
    with pytest.raises(InputError, match="it is no index"):
        read_index(str(tmp_path / "ind.pkl"))


@pytest.mark.parametrize("content", [
    b"cnumpy.core.multiarray\n_reconstruct\n(N}S'__name__'\nS'pwned'\nstb.",  # sets an attribute of what is called
    b"cnumpy\nndarray\n(N}S'made'\nS'pwned'\nstb.", b"cnumpy\ndtype\n}S'made'\nS'pwned'\nsb."])
def test_a_pickle_changes_nothing(tmp_path, content):
    (tmp_path / "ind.pkl").write_bytes(content)
    with pytest.raises(InputError, match="it is no index"):
        read_index(str(tmp_path / "ind.pkl"))
    assert read_index(str(save(tmp_path / "good.pkl", np.array([2, 0])))) == [2, 0]


def test_small_files_take_little_memory_and_large_numbers_are_refused(tmp_path):
    """Eleven bytes that would make Python's faster reader take gigabytes."""
    (tmp_path / "ind.pkl").write_bytes(b"\x80\x02K\x01r\xff\xff\xff\x1f].")
    with pytest.raises(InputError, match="index"):
        read_index(str(tmp_path / "ind.pkl"))
    with pytest.raises(InputError, match="beyond all tables"):
        read_index(str(save(tmp_path / "ind.pkl", [10 ** 5000])))


@pytest.mark.parametrize("protocol", range(5))
def test_empty_arrays_are_empty(tmp_path, protocol):
    with pytest.raises(InputError, match="empty"):
        read_index(str(save(tmp_path / "ind.pkl", np.array([], int), protocol)))


def test_tables_in_other_coordinates_are_read_as_they_were_for_the_export(data, uids, tmp_path):
    """Counted from the corner of tomograms of IMOD, and beside particles of a tilt series that is not there."""
    given = star.read(str(data / "given.star")).table("particles")
    series = relion5.read_project(str(data / "data" / "tomograms.star"))
    sizes = {s.ts_id: np.array(s.geometry.volume_size) for s in series}
    position = particlestar.vectors(given, particlestar.CENTRED)
    names = given.text("rlnTomoName")
    corner = position / 20.0 + np.array([sizes[name] / 20.0 / 2 for name in names]) - 0.5
    columns = {c: given.text(c) for c in given.columns if c not in particlestar.CENTRED}
    columns.update(zip(particlestar.CORNER, corner.T))
    for c in columns:
        columns[c] = list(columns[c]) + [columns[c][0]]
    columns["rlnTomoName"][-1], columns["rlnTomoParticleName"][-1] = "TS_99", "TS_99/1"
    star.write(str(tmp_path / "corner.star"), [star.Table.from_columns("particles", columns)])
    common = dict(particles=str(tmp_path / "corner.star"), coordinates_pixel_size=20.0, centre="imod")
    there = export(data, "corner", allow_loss=True, **common)
    kept = save(tmp_path / "ind.pkl", list(range(there["kept"])))
    for centre, works in (("imod", True), ("relion", False)):
        options = dict(common, centre=centre, tomograms=str(data / "data" / "tomograms.star"), tolerance=1.0)
        out = lambda o=options: runner.run({"verb": "select", "options": dict(  # noqa: E731
            o, exported=there["star"], kept=str(kept), output=str(tmp_path / "out"))})["collected"]
        if works:
            assert out()["kept"] == there["kept"] == 11
            written = star.read(str(tmp_path / "out" / "particles.star")).table("particles")
            assert "TS_99" not in written.text("rlnTomoName")
        else:
            with pytest.raises(InputError, match="from where it was exported"):
                out()
