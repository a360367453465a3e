"""The same input gets the same answer from every verb: images, values, names, units, tables that are damaged."""

import builtins
import json
import keyword
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tomoexport import cli
from tomoexport.io import mrc, relion5, star
from tomoexport.jobs import runner
from tomoexport.tests.sources import columns_of, imod_folder, relion5_tables, rewrite, warp_xml

pytestmark = pytest.mark.slow

PARTICLE_VERBS = ("subtomo", "series", "pseudosubtomo", "particle")
VERBS = ("reconstruct",) + PARTICLE_VERBS
OPTIONS = {
    "reconstruct": dict(pixel_size=8.0, ctf="none"), "subtomo": dict(pixel_size=8.0, box=16, diameter=80.0),
    "series": dict(pixel_size=8.0, box=16, diameter=80.0), "pseudosubtomo": dict(box=16), "particle": dict(box=16)}


@pytest.fixture
def project(simulated, tmp_path):
    """A copy of the simulated project."""
    return relion5_tables(simulated("tiny"), tmp_path / "project")


def options(verb, project, out, **more):
    """Options of a verb on a project."""
    values = dict(OPTIONS[verb], tomograms=project.tomograms, output=str(out), device="cpu", threads=1, **more)
    return values if verb == "reconstruct" else dict({"particles": project.particles}, **values)


def words(verb, values):
    """A command line."""
    out = [verb]
    for name, value in values.items():
        flag = "--" + name.replace("_", "-")
        out += ([flag] if value else ["--no-" + flag[2:]]) if isinstance(value, bool) else ["%s=%s" % (flag, value)]
    return out


def command(capsys, *arguments):
    """Exit code and all text of a command line, in which there is no traceback."""
    code = cli.main(list(arguments))
    text = "".join(capsys.readouterr())
    assert "Traceback" not in text and "unforeseen" not in text, text
    return code, text


def result(out, name="TS_01"):
    """What was recorded of a tilt series."""
    return json.loads((Path(str(out)) / "results" / (name + ".json")).read_text())


def change_image(project, section, change):
    """Let ``change`` alter one image of TS_01 in place."""
    path = str(Path(project.tomograms).parent / "tiltseries" / "TS_01.mrcs")
    with open(path, "r+b") as handle:
        images = np.memmap(handle, np.float32, "r+", 1024, mrc.read_header(path).shape)
        change(images[section])
        images.flush()


# ------------------------------------------------------------------------------------------------------------ images

@pytest.mark.parametrize("value", (0.0, 7.0, 3e4))
def test_a_constant_image_is_left_out_by_all(project, tmp_path, value):
    change_image(project, 1, lambda image: image.fill(value))
    angle = relion5.read_project(project.tomograms)[0].geometry.tilt[1]
    for verb in VERBS:
        out = tmp_path / verb
        assert runner.run({"verb": verb, "options": options(verb, project, out)})["failed"] == []
        found = result(out)
        assert found["notes"] == ["left out because the image is constant: tilt %.1f" % angle]
        if verb in PARTICLE_VERBS:
            assert {p["tilts"] for p in found["particles"]} == {2}


def test_a_constant_image_adds_nothing(project, simulated, tmp_path):
    """What is written is what an excluded view leaves."""
    other = relion5_tables(simulated("tiny"), tmp_path / "other")
    change_image(project, 1, lambda image: image.fill(0.0))
    rewrite(Path(other.tomograms).parent / "tilt_series" / "TS_01.star",
            lambda columns: columns.update(tomoexportUsed=["1", "0", "1"]))
    for verb in VERBS:
        made = []
        for one in (project, other):
            out = tmp_path / ("%s_%d" % (verb, len(made)))
            runner.run({"verb": verb, "options": options(verb, one, out)})
            made.append({str(path.relative_to(out)): mrc.read_volume(str(path))[0] for path in out.rglob("*.mrc*")})
        assert made[0] and set(made[0]) == set(made[1])
        for name in made[0]:
            np.testing.assert_array_equal(made[0][name], made[1][name])


@pytest.mark.parametrize("value", (np.nan, np.inf, -np.inf))
def test_pixels_that_are_no_numbers(project, tmp_path, value):
    change_image(project, 1, lambda image: image.__setitem__((slice(3, 5), slice(7, 9)), value))
    for verb in VERBS:
        out = tmp_path / verb
        ran = runner.run({"verb": verb, "options": options(verb, project, out)})
        assert ran["failed"] == ["TS_01"]
        error = result(out)["error"]
        assert "TS_01.mrcs, section 2" in error and "4 of 4096 pixels" in error and "--bad-pixels fill" in error
        # The remedy works.
        ran = runner.run({"verb": verb, "options": options(verb, project, out, bad_pixels="fill")})
        assert ran["failed"] == []
        assert result(out)["notes"] == ["4 pixels that were not numbers were filled, in 1 views"]
        for path in out.rglob("*.mrc*"):
            assert np.isfinite(mrc.read_volume(str(path))[0]).all()


def test_a_stack_that_is_missing(project, tmp_path, capsys):
    os.remove(str(Path(project.tomograms).parent / "tiltseries" / "TS_02.mrcs"))
    for verb in VERBS:
        code, text = command(capsys, *words(verb, options(verb, project, tmp_path / verb)))
        assert code == 1 and "1 of 2 tilt series failed: TS_02" in text
        assert "no such file" in result(tmp_path / verb, "TS_02")["error"]
        assert result(tmp_path / verb)["status"] == "done"


@pytest.mark.parametrize("name", ("1@tiltseries/gone.mrc", "None", "", "<NA>"))
def test_half_images_that_are_missing_matter_to_those_who_read_them(project, tmp_path, capsys, name):
    for ts_id in ("TS_01", "TS_02"):
        rewrite(Path(project.tomograms).parent / "tilt_series" / (ts_id + ".star"), lambda columns: columns.update(
            rlnMicrographNameEven=[name] * 3, rlnMicrographNameOdd=[name] * 3))
    for verb in VERBS:
        assert command(capsys, "check", *words(verb, options(verb, project, tmp_path / verb)))[0] == 0
    halves = dict(options("reconstruct", project, tmp_path / "halves"), halves=True)
    assert command(capsys, *words("reconstruct", halves))[0] == 0
    code, text = command(capsys, "check", *words("reconstruct", dict(halves, halves_by="frames")))
    assert code == 2 and ("gone.mrc" in text or "halves" in text)


# ------------------------------------------------------------------------------------------- tables that are damaged

def emptied(path):
    path.write_text("")


def removed(path):
    path.unlink()


def unaligned(path):
    path.write_text(path.read_text().replace("rlnTomoYTilt", "rlnTomoNominalStageTiltAngle"))


def half(path):
    path.write_text(path.read_text()[:200])


def garbage(path):
    path.write_bytes(bytes(range(256)) * 8)


@pytest.mark.parametrize("damage", (emptied, removed, unaligned, half, garbage))
@pytest.mark.parametrize("verb", VERBS)
def test_a_damaged_table_stops_its_own_series(project, tmp_path, capsys, verb, damage):
    damage(Path(project.tomograms).parent / "tilt_series" / "TS_02.star")
    code, text = command(capsys, *words(verb, options(verb, project, tmp_path / "out")))
    assert code == 1 and "TS_02" in text
    assert result(tmp_path / "out")["status"] == "done" and result(tmp_path / "out", "TS_02")["status"] == "failed"
    # A job for the other one alone has nothing to complain of.
    job = {"verb": verb, "options": options(verb, project, tmp_path / "one"), "series": ["TS_01"]}
    assert runner.run(job)["failed"] == []


@pytest.mark.parametrize("damage", (emptied, half, garbage))
@pytest.mark.parametrize("verb", VERBS)
def test_a_damaged_xml_stops_its_own_series(simulated, tmp_path, capsys, verb, damage):
    source = warp_xml(simulated("tiny"), tmp_path / "warp")
    (tmp_path / "warp" / "movie.xml").write_text('<?xml version="1.0"?>\n<Movie></Movie>')
    damage(tmp_path / "warp" / "TS_02.xml")
    code, text = command(capsys, "check", *words(verb, options(verb, source, tmp_path / "out")))
    assert code == 2 and "TS_02: cannot be used" in text and "movie.xml" in text
    code, text = command(capsys, *words(verb, options(verb, source, tmp_path / "out")))
    assert code == 1 and "1 of 2 tilt series failed: TS_02" in text
    assert result(tmp_path / "out")["status"] == "done"


# ------------------------------------------------------------------------------------------------------------ values

BAD = [
    ("imod", "TS_01.xf", lambda text: "0 0 0 0 0 0\n" * 3), ("imod", "TS_01.tlt", lambda text: "1e24\n0\n3\n"),
    ("imod", "tilt.com", lambda text: text + "EXCLUDELIST 1-9999999999\n"),
    ("imod", "tilt.com", lambda text: text.replace("THICKNESS 30", "THICKNESS 1e300")),
    ("imod", "tilt.com", lambda text: text + "XAXISTILT 1e9\n"),
    ("relion", "tomograms.star", lambda text: text.replace(" 30 ", " 1e19 ")),
    ("relion", "tomograms.star", lambda text: text.replace(" 8.0 ", " 1e-300 ")),
    ("relion", "tomograms.star", lambda text: text.replace(" 8.0 ", " 1e300 ")),
    ("relion", "tilt_series/TS_01.star", lambda text: re.sub(r" -?19\.9\d+", " 1.5e24", text, count=1)),
    ("relion", "tilt_series/TS_01.star", lambda text: re.sub(r"(@\S+ +)\S+", r"\g<1>-5", text, count=1)),
    ("warp", "TS_01.xml", lambda text: re.sub(r"<Angles>[^\n]*", "<Angles>1.5e24", text)),
    ("warp", "TS_01.xml", lambda text: re.sub(r'VolumeDimensionsAngstrom="[^"]*"',
                                              'VolumeDimensionsAngstrom="1e300, 1, 1"', text)),
    ("warp", "TS_01.xml", lambda text: re.sub(r"<AxisOffsetX>[^\n]*", "<AxisOffsetX>inf", text)),
    ("warp", "TS_01.xml", lambda text: re.sub(r"<Dose>[^\n]*", "<Dose>nan", text))]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_values_out_of_range_are_one_line(simulated, tmp_path, capsys, number):
    """Of every kind of file: what is wrong with it, in seconds."""
    kind, name, change = BAD[number]
    make = {"imod": imod_folder, "relion": relion5_tables, "warp": warp_xml}[kind]
    source = make(simulated("tiny"), tmp_path / "d")
    path = tmp_path / "d" / name
    changed = change(path.read_text())
    assert changed != path.read_text(), "the test changes nothing"
    path.write_text(changed)
    code, text = command(capsys, "check", *words("reconstruct", options("reconstruct", source, tmp_path / "out")))
    assert code == 2
    line = next(line for line in text.splitlines() if "cannot be used" in line or "error" in line)
    assert os.path.basename(name) in line or "TS_01" in line
    assert re.search(r"\. [A-Z]\w+ ", line), "no remedy: " + line


# ------------------------------------------------------------------------------------------------------------- names

LABELS = sorted(set(keyword.kwlist) | {name for name in dir(builtins) if name[0] != "_"})


def test_labels_that_are_words_of_python(project, tmp_path):
    """STOPGAP has _class: any label is read, in every table, and written again."""
    for path in (project.tomograms, project.particles, Path(project.tomograms).parent / "tilt_series" / "TS_01.star"):
        def change(columns):
            n = len(next(iter(columns.values())))
            columns.update((label, ["1"] * n) for label in LABELS)
        rewrite(path, change)
    for verb in ("pseudosubtomo", "duplicates"):
        values = options(verb, project, tmp_path / verb) if verb in OPTIONS else {
            "particles": project.particles, "output": str(tmp_path / verb)}
        out = runner.run({"verb": verb, "options": values})
        table = star.read(str(tmp_path / verb / "particles.star")).table("particles")
        assert not out["failed"] and set(LABELS) <= set(table.columns)


def test_a_list_of_values_with_such_labels(tmp_path):
    """A block without loop."""
    path = str(tmp_path / "list.star")
    star.write(path, [star.Table.from_columns("general", {"class": ["x y"], "def": [3]}, is_list=True)])
    assert columns_of(star.read(path).table("general")) == {"class": ["x y"], "def": ["3"]}


def test_a_reader_that_goes_away(project, tmp_path):
    """``tomoexport check ... | head -1`` ends quietly."""
    values = options("subtomo", project, tmp_path / "out")
    process = subprocess.Popen([sys.executable, "-m", "tomoexport", "check", *words("subtomo", values)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    text = process.stderr.read().decode()
    process.wait(60)
    assert "Traceback" not in text and "BrokenPipe" not in text, text


# ------------------------------------------------------------------------------------------------------------- units

def corner_table(project, factor, path, **columns):
    """The particles in pixels of `factor` tilt series pixels, from the corner."""
    series = relion5.read_project(project.tomograms)
    by_name = {one.ts_id: one.geometry for one in series}
    table = star.read(project.particles).table("particles")
    names = table.text("rlnTomoName")
    out = {"rlnTomoName": names}
    for i, axis in enumerate("XYZ"):
        centred = table.float("rlnCenteredCoordinate%sAngst" % axis)
        out["rlnCoordinate" + axis] = [(c + by_name[n].centre[i]) / by_name[n].pixel_size / factor
                                       for n, c in zip(names, centred)]
    star.write(str(path), [star.Table.from_columns("particles", dict(out, **columns))])
    return str(path)


@pytest.mark.parametrize("verb", PARTICLE_VERBS)
def test_binned_coordinates_are_warned_of(simulated, tmp_path, capsys, verb):
    """All particles in one corner: pixels of a binned tomogram, taken for those of the tilt series."""
    project = relion5_tables(simulated("tiny", particles=40), tmp_path / "project")
    path = corner_table(project, 4, tmp_path / "binned.star")
    values = options(verb, project, tmp_path / "out", particles=path)
    _, text = command(capsys, "check", *words(verb, values))
    assert "coordinates: pixels of the tilt series, 8 A (RELION 4) from the corner, about voxel N/2" in text
    assert "all 40 particles lie in one corner" in text and "--coordinates-pixel-size" in text
    code, text = command(capsys, "check", *words(verb, dict(values, coordinates_pixel_size=32.0)))
    assert code == 0 and "corner, within" not in text and "coordinates: pixels of 32 A, as given" in text
    # Where they are is what the whole table says.
    whole = {unit.name: unit.work.particles.position for unit in runner.plan(
        verb, runner.read_options(verb, options(verb, project, tmp_path / "out"))).units}
    for unit in runner.plan(verb, runner.read_options(verb, dict(values, coordinates_pixel_size=32.0))).units:
        np.testing.assert_allclose(unit.work.particles.position, whole[unit.name], atol=1e-3)


@pytest.mark.parametrize("verb", PARTICLE_VERBS)
def test_what_a_particle_table_lacks_can_be_given(project, tmp_path, capsys, verb):
    """Unit, shares of the tomogram, centre: in each verb that asks for it."""
    table = corner_table(project, 2, tmp_path / "voxels.star")
    columns = columns_of(star.read(table).table("particles"))
    columns["rlnMicrographName"] = columns.pop("rlnTomoName")
    star.write(table, [star.Table.from_columns("", columns)])
    values = options(verb, project, tmp_path / "out", particles=table)
    code, text = command(capsys, "check", *words(verb, values))
    assert code == 2 and "--coordinates-pixel-size" in text
    read = {}
    for centre in ("relion", "imod"):
        planned = runner.plan(verb, runner.read_options(verb, dict(values, coordinates_pixel_size=16.0, centre=centre)))
        read[centre] = np.concatenate([unit.work.particles.position for unit in planned.units])
        assert ("(N-1)/2" if centre == "imod" else "voxel N/2") in "\n".join(planned.lines())
    np.testing.assert_allclose(read["imod"] - read["relion"], [[8.0, 8.0, 8.0]] * 8, atol=8.0 + 1e-6)
    assert np.abs(read["imod"] - read["relion"]).min() > 1
    # From 0 to 1 over the tomogram.
    sides = {one.ts_id: np.array(one.geometry.size_px) for one in relion5.read_project(project.tomograms)}
    for i, axis in enumerate("XYZ"):
        columns["rlnCoordinate" + axis] = [repr(float(2 * float(v) / (sides[name][i] - 1))) for v, name in zip(
            columns["rlnCoordinate" + axis], columns["rlnMicrographName"])]
    star.write(table, [star.Table.from_columns("", columns)])
    planned = runner.plan(verb, runner.read_options(verb, dict(values, normalized=True)))
    np.testing.assert_allclose(np.concatenate([unit.work.particles.position for unit in planned.units]),
                               read["relion"], atol=1e-3)


@pytest.mark.parametrize("verb", PARTICLE_VERBS)
def test_a_pixel_size_beside_the_name_of_the_tomogram_is_told(project, tmp_path, capsys, verb):
    """TOMOMAN and STOPGAP write voxels of rlnPixelSize; RELION 4's tables have pixels of the tilt series."""
    path = corner_table(project, 2, tmp_path / "stopgap.star", rlnPixelSize=[16.0] * 8)
    _, text = command(capsys, "check", *words(verb, options(verb, project, tmp_path / "out", particles=path)))
    assert "rlnPixelSize" in text and "--coordinates-pixel-size" in text and "coordinates: pixels of the tilt" in text


@pytest.mark.parametrize("verb", VERBS)
def test_the_hand_and_where_it_is_from(project, tmp_path, capsys, verb):
    """And a warning where the option contradicts the table."""
    values = options(verb, project, tmp_path / "out")
    if verb == "reconstruct":
        values.pop("ctf")
    _, text = command(capsys, "check", *words(verb, values))
    assert re.search(r"TS_01:.*hand -1 \(of the tilt series\)", text)
    assert re.search(r"TS_02:.*hand \+1 \(of the tilt series\)", text)
    assert "--hand" not in text
    _, text = command(capsys, "check", *words(verb, dict(values, hand=1)))
    assert re.search(r"TS_01:.*hand \+1 \(as given\)", text)
    assert "warning: TS_01: --hand 1 is taken, its own table says -1" in text and "warning: TS_02: --hand" not in text


@pytest.mark.parametrize("verb", VERBS)
def test_defaults_that_nobody_chose_are_told(project, tmp_path, capsys, verb):
    plain = {name: value for name, value in options(verb, project, tmp_path / "out").items()
             if name not in ("pixel_size", "box", "binning")}
    _, text = command(capsys, "check", *words(verb, plain))
    asked = {"reconstruct": ("--pixel-size",), "subtomo": ("--pixel-size", "--box"), "series": (
        "--pixel-size", "--box")}.get(verb, ("--box",))
    for flag in asked:
        assert re.search(r"warning: %s: .* is a default that nobody chose" % flag, text), text
    _, text = command(capsys, "check", *words(verb, options(verb, project, tmp_path / "out")))
    assert "nobody chose" not in text


@pytest.mark.parametrize("verb", PARTICLE_VERBS)
def test_the_plan_shows_box_and_resolution(project, tmp_path, capsys, verb):
    _, text = command(capsys, "check", *words(verb, options(verb, project, tmp_path / "out")))
    assert "box 16 px = 128 A, Nyquist 16 A" in text and re.search(r"lying at x \d+-\d+ %", text)


def test_a_box_that_is_smaller_than_the_particle_is_told(project, tmp_path, capsys):
    for verb in ("subtomo", "series"):
        _, text = command(capsys, "check", *words(verb, dict(options(verb, project, tmp_path / "out"), diameter=140.0)))
        assert re.search(r"(warning|error).*(128 A.*140 A|140 A.*128 A)", text), text


# ------------------------------------------------------------------------------------------------------------ groups

def test_optics_groups_are_carried_through(project, tmp_path):
    """With all their columns; particles keep theirs."""
    table = columns_of(star.read(project.particles).table("particles"))
    table["rlnOpticsGroup"] = ["2" if i % 2 else "7" for i in range(8)]
    optics = {"rlnOpticsGroup": ["7", "2"], "rlnOpticsGroupName": ["shift7", "shift2"], "rlnMtfFileName": ["m", "m"],
              "rlnTomoTiltSeriesPixelSize": ["8.0", "8.0"], "rlnVoltage": ["300", "300"]}
    star.write(project.particles, [star.Table.from_columns("optics", optics),
                                   star.Table.from_columns("particles", table)])
    runner.run({"verb": "pseudosubtomo", "options": options("pseudosubtomo", project, tmp_path / "out")})
    written = star.read(str(tmp_path / "out" / "particles.star"))
    of_groups = written.table("optics")
    groups = dict(zip(of_groups.text("rlnOpticsGroup"), of_groups.text("rlnOpticsGroupName")))
    assert sorted(groups.values()) == ["shift2", "shift7"] and of_groups.text("rlnMtfFileName") == ["m", "m"]
    here = written.table("particles")
    own = dict(zip(table["rlnTomoParticleName"], table["rlnOpticsGroup"]))
    for uid, group in zip(here.text("rlnTomoParticleName"), here.text("rlnOpticsGroup")):
        assert groups[group] == "shift" + own[uid]


# -------------------------------------------------------------------------------------------------------- tilt weights

@pytest.mark.parametrize("stack2d", (True, False))
def test_tilts_weigh_the_same_by_every_route(project, simulated, tmp_path, stack2d):
    """Warp's XML carries the cosine of the tilt, as rlnCtfScalefactor of RELION's pipelines does."""
    for one in relion5.read_project(project.tomograms):
        rewrite(Path(project.tomograms).parent / "tilt_series" / (one.ts_id + ".star"), lambda columns, one=one:
                columns.update(rlnCtfScalefactor=np.cos(np.deg2rad(one.geometry.tilt)).tolist()))
    made = {}
    for name, source in (("relion", project), ("warp", warp_xml(simulated("tiny"), tmp_path / "warp"))):
        out = tmp_path / ("from_" + name)
        runner.run({"verb": "pseudosubtomo", "options": dict(options("pseudosubtomo", source, out), stack2d=stack2d)})
        made[name] = {str(path.relative_to(out)): mrc.read_volume(str(path))[0] for path in sorted(out.rglob("*.mrc*"))}
    assert made["relion"].keys() == made["warp"].keys() and len(made["warp"]) >= 8
    for name, one in made["relion"].items():
        np.testing.assert_allclose(made["warp"][name], one, atol=1e-4 * np.abs(one).max())
    # And RELION, which reads the table beside them, is told.
    for path in (tmp_path / "from_warp" / "tilt_series").glob("*.star"):
        table, = star.read(str(path))
        np.testing.assert_allclose(table.float("rlnCtfScalefactor"), np.cos(np.deg2rad(table.float("rlnTomoYTilt"))),
                                   atol=1e-6)
