"""Names of tilt series, paths of projects, and STAR files as they come: F11, F25, F34."""
import os
import shutil

import numpy as np
import pytest

from tomoexport.io import mrc, star

from .conftest import assert_told, contents, whole

pytestmark = pytest.mark.slow

NAMES = ("001", "TS 1", "tomo_\u00fc\u00df\u6f22", "a/b", "../x", "/abs/x", "$(rm -rf x)", "$a_{$", "-rf", "it's", '5"',
         "#1", "_1", "data_", "loop_", "nan", ".hidden", "~", "*", "x" * 300)


@pytest.mark.parametrize("name", NAMES)
def test_F11_names(project, name, figures):
    """Every name becomes a safe file stem; tables keep the name itself, and nothing is written elsewhere."""
    project.rename("TS_01", name)
    before = contents(project.root.parent)
    results = project.results("reconstruct")
    assert {n: r["status"] for n, r in results.items()} == {name: "done", "TS_02": "done"}
    out = project.run("subtomo")
    assert out["failed"] == []
    inside = set(contents(project.root.parent)) - set(before)
    assert all(path == project.out or path.startswith(project.out + os.sep) for path in inside)
    for path in inside:
        stem = os.path.basename(path)
        assert len(stem) < 200 and stem.isascii() and not set(stem) & set(" '\"$()*~#\\") and stem[0] != "-"
    table = star.read(os.path.join(project.out, "particles.star")).table("particles")
    assert table.text("rlnTomoName") == [name] * 4 + ["TS_02"] * 4
    assert table.text("rlnMicrographName")[0] == name + ".tomostar"
    average = project.run("average", output=project.out + "/average")["results"][0]
    assert average["particles"] == 8
    # And the second time it is known.
    assert {r["status"] for r in project.run("subtomo")["results"]} == {"skipped"}


def test_F11_names_that_look_alike_as_files(project):
    project.rename("TS_01", "a/b")
    project.rename("TS_02", "a b")
    files = [path for r in project.run("subtomo")["results"] for path in r["files"]]
    assert len(set(files)) == 16
    assert len({r["tomogram"] for r in project.run("reconstruct")["results"]}) == 2
    table = star.read(os.path.join(project.out, "particles.star")).table("particles")
    assert table.text("rlnTomoName") == ["a/b"] * 4 + ["a b"] * 4


def faulty(project, which, *words):
    """See that a table of a tilt series stops that series alone, and any other table everything."""
    if which == "tilts":
        project.alone("subtomo", "TS_01", *words)
    else:
        project.refused("subtomo", *words)


def lines_of(path):
    with open(path) as handle:
        return handle.read().splitlines()


def spoil(path, change):
    """Let ``change`` alter the lines of a file in place; returns the number of the first row of its table, from 1."""
    lines = lines_of(path)
    row = max(i for i, line in enumerate(lines) if line.startswith("_")) + 1
    change(lines, row)
    with open(path, "w") as handle:
        handle.write("\n".join(lines) + "\n")
    return row + 1


def duplicate_column(lines, row):
    lines.insert(row, lines[row - 1])


def short_row(lines, row):
    lines[row] = " ".join(lines[row].split()[:-1])


def long_row(lines, row):
    lines[row] += " 1"


def misnamed_block(lines, row):
    lines[next(i for i, line in enumerate(lines) if line.startswith("data_"))] = "data_other"


def no_block(lines, row):
    del lines[:row]


def empty(lines, row):
    del lines[:]


def no_rows(lines, row):
    del lines[row:]


def garbage(lines, row):
    lines[row] = " ".join(["x1x" if "." in word and "@" not in word and "/" not in word else word
                           for word in lines[row].split()])


MALFORMED = ((duplicate_column, "occurs twice"), (short_row, "values for"), (long_row, "values for"),
             (no_block, "belongs to no table"), (empty, "no data_ block"), (garbage, "'x1x', not a number"))


@pytest.mark.parametrize("which", ("tomograms", "particles", "tilts"))
@pytest.mark.parametrize("change, cause", MALFORMED, ids=[c.__name__ for c, _ in MALFORMED])
def test_F25_malformed_table(project, which, change, cause):
    path = project.tilts() if which == "tilts" else getattr(project, which)
    row = spoil(path, change)
    # Errors in a row name its line.
    place = "%s:%d" % (path, row) if change in (short_row, long_row, garbage) else path
    faulty(project, which, place, cause)


def test_F25_malformed_table_of_subtomograms(project):
    project.run("subtomo")
    table = os.path.join(project.out, "particles.star")
    whole_text = lines_of(table)
    for change, cause in MALFORMED[:4]:
        row = spoil(table, change)
        project.refused("average", table, cause, output=project.out + "/average")
        with open(table, "w") as handle:
            handle.write("\n".join(whole_text) + "\n")
    assert row


@pytest.mark.parametrize("which, cause", (
    ("tomograms", "there is no block data_global. The blocks are: data_other"),
    ("particles", ""), ("tilts", "")))
def test_F25_block_of_another_name(project, which, cause):
    """The tables of particles and tilts are known by their columns or stand alone; data_global is not."""
    path = project.tilts() if which == "tilts" else getattr(project, which)
    spoil(path, misnamed_block)
    if cause:
        faulty(project, which, path, cause)
    else:
        assert project.check("subtomo")[0] == 0


@pytest.mark.parametrize("which, cause", (("tomograms", "names no tomogram"), ("particles", "there are no particles"),
                                          ("tilts", "no tilt images")))
def test_F25_table_without_rows(project, which, cause):
    path = project.tilts() if which == "tilts" else getattr(project, which)
    spoil(path, no_rows)
    faulty(project, which, path, cause)


@pytest.mark.parametrize("which, column", (
    ("tomograms", "rlnTomoName"), ("tomograms", "rlnTomoTiltSeriesPixelSize"), ("tomograms", "rlnTomoHand"),
    ("tomograms", "rlnTomoSizeZ"), ("particles", "rlnTomoName"), ("particles", "rlnCenteredCoordinateYAngst"),
    ("tilts", "rlnMicrographName"), ("tilts", "rlnTomoZRot"), ("tilts", "rlnDefocusV")))
def test_F25_missing_column(project, which, column):
    path = project.tilts() if which == "tilts" else getattr(project, which)
    project.drop(path, column)
    faulty(project, which, path, column.replace("rlnCenteredCoordinateYAngst", "rlnCoordinateX"))


@pytest.mark.parametrize("which", ("tomograms", "particles", "tilts"))
def test_F25_no_star_file(project, which):
    path = project.tilts() if which == "tilts" else getattr(project, which)
    shutil.copy(project.stack(), path)
    faulty(project, which, path, "binary file")
    os.unlink(path)
    faulty(project, which, path, "no such file")


def crlf(text):
    return text.replace("\n", "\r\n")


def quoted(text):
    return text.replace(" TS_01 ", " 'TS_01' ").replace(" TS_02 ", ' "TS_02" ')


def bare_end(text):
    return text.rstrip()


def commented(text):
    return "# made by hand\n\n" + text.replace("loop_\n", "loop_   \n# labels\n") + "\n# the end"


def with_mark(text):
    return "\ufeff" + text


def joined_by_tabs(text):
    return "\n".join("\t".join(line.split()) if "@" in line or " TS_0" in line else line for line in text.split("\n"))


@pytest.mark.parametrize("dialect", (crlf, quoted, bare_end, commented, with_mark, joined_by_tabs))
def test_F25_dialects_are_read(project, dialect):
    project.run("subtomo", output=project.out + "/plain")
    for path in (project.tomograms, project.particles, project.tilts(), project.tilts("TS_02")):
        with open(path) as handle:
            text = handle.read()
        with open(path, "w", newline="") as handle:
            handle.write(dialect(text))
    out = project.run("subtomo")
    assert out["failed"] == [] and out["collected"]["kept"] == 8
    with open(project.out + "/particles.star") as one, open(project.out + "/plain/particles.star") as two:
        assert one.read() == two.read()


def test_F25_columns_that_nobody_knows_are_kept(project):
    values = ["1e-7", "it's", "a b", "#", "", "\u00fc", "nan", "001"]
    project.edit(project.particles, lambda columns: columns.update(myOwnColumn=values))
    project.run("subtomo")
    assert star.read(project.out + "/particles.star").table("particles").text("myOwnColumn") == values


FOLDERS = ("my project", "it's #1", 'a "quoted" one', "Pr\u00f6jekt \u6f22", "-$HOME 100%")


@pytest.mark.parametrize("folder", FOLDERS)
def test_F34_project_path(copy, tmp_path, monkeypatch, folder):
    """The chain in a folder of any name, called by relative and by absolute paths, gives the same files."""
    project = copy(tmp_path / folder)
    monkeypatch.chdir(project.root)
    project.run("subtomo")
    relative = dict(tomograms="tomograms.star", particles="./particles.star", output="other out")
    project.run("subtomo", **relative)
    with open(project.out + "/particles.star") as one, open("other out/particles.star") as two:
        assert one.read() == two.read()
    assert project.cli("reconstruct", tomograms="tomograms.star", output="other out")[0] == 0
    average = project.run("average", particles="other out/particles.star", output="average")["results"][0]
    assert average["particles"] == 8
    assert whole(str(project.root)) > 40


def test_F34_simulate(tmp_path, monkeypatch):
    from tomoexport.jobs import runner
    monkeypatch.chdir(tmp_path)
    out = runner.run({"verb": "simulate", "options": {"output": "it's \u00fc/x", "preset": "tiny"}})
    assert out["failed"] == [] and whole("it's \u00fc/x") == 7
    # Its tables name files relative to themselves.
    shutil.move("it's \u00fc/x", "moved")
    made = runner.run({"verb": "reconstruct", "options": {"tomograms": "moved/tomograms.star", "output": "out",
                                                          "pixel_size": 16, "device": "cpu"}})
    assert made["failed"] == []


def test_F34_project_that_was_moved(copy, tmp_path):
    """Paths in tables are relative: the project and its results work at another place."""
    project = copy(tmp_path / "before")
    project.run("subtomo")
    shutil.move(str(tmp_path / "before"), str(tmp_path / "after"))
    project.root = tmp_path / "after"
    tomograms, out = str(project.root / "tomograms.star"), str(project.root / "out")
    average = project.run("average", particles=out + "/particles.star", output=out + "/average")["results"][0]
    assert average["particles"] == 8 and str(tmp_path / "before") not in open(out + "/particles.star").read()
    result = project.results("reconstruct", tomograms=tomograms, output=out)["TS_01"]
    assert mrc.read_volume(result["tomogram"])[0].std() > 0


def test_F34_files_beside_the_table_win(copy, tmp_path, monkeypatch):
    """A working folder that holds another data set of the same names is not mistaken for the one asked for."""
    project, other = copy(tmp_path / "one"), copy(tmp_path / "two")
    other.pixels(lambda images: images.fill(np.nan))
    monkeypatch.chdir(other.root)
    assert project.run("reconstruct")["failed"] == []
    code, text = other.check("reconstruct")
    assert_told(text, ("TS_01: 3 of 3 tilts",))
