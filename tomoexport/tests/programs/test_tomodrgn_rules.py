"""The rules of tomoDRGN's reader: our exports keep them, its own file keeps them, and each is found when broken."""

import inspect
import os
import re
import shutil
import struct

import pytest

from tomoexport.io import particlestar, star
from tomoexport.jobs import runner
from tomoexport.tests.programs import tomodrgn_rules
from tomoexport.tests.programs.tomodrgn_rules import check
from tomoexport.tests.shared import need_shared

pytestmark = pytest.mark.slow

PIXEL, BOX = 8.0, 32
SET = "particles_optimisation_set.star"


@pytest.fixture(scope="module")
def data(tmp_path_factory, simulated):
    folder = tmp_path_factory.mktemp("rules")
    simulated("tiny", into=folder / "data", particles=6)
    return folder


def export(data, name, **options):
    out = runner.run({"verb": "series", "options": dict(
        {"tomograms": str(data / "data" / "tomograms.star"), "particles": str(data / "data" / "particles.star"),
         "output": str(data / name), "pixel_size": PIXEL, "box": BOX, "diameter": 100.0, "threads": 2}, **options)})
    return out["collected"]


@pytest.fixture(scope="module")
def plain(data):
    return export(data, "plain")


@pytest.fixture(scope="module")
def whole(data):
    return export(data, "whole", form="optimisation-set", hand=1)


def test_the_file_that_comes_with_tomodrgn_is_accepted():
    path = need_shared("data", "tomodrgn", "10076_both_32_sim_first_rows.star")
    found = check(str(path), lazy=True, images=False)
    assert (found.kind, found.broken) == ("cryosrpnt", [])
    assert list(found.particles)[:3] == ["000_000000", "000_000001", "000_000002"]
    assert found.particles["000_000001"] == list(range(8, 16))
    assert found.dose[:8] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert found.tilt[:4] == pytest.approx([0, 3, 3, 6], abs=1e-3)


@pytest.mark.parametrize("options, source", [
    ({}, "auto"), ({"stacks": "series"}, "auto"), ({"float16": True}, "auto"), ({"relative_paths": False}, "auto"),
    ({"reader": "cryodrgn"}, "auto"), ({"star": "images.star"}, "auto"), ({"origins": True}, "warp"),
    ({"all_columns": True}, "warp")], ids=str)
def test_our_image_series_are_accepted(data, plain, options, source):
    collected = export(data, "_".join(options) or "plain", **options)
    found = check(collected["star"], source, lazy=True)
    assert (found.kind, found.broken) == ("warp", [])
    assert len(found.particles) == collected["kept"] == 12
    for rows in found.particles.values():
        doses = [found.dose[row] for row in rows]
        assert rows == list(range(rows[0], rows[0] + len(rows))) and doses == sorted(set(doses))
    # The commands that a mere 31 images need told apart from those they do not.
    assert check(collected["star"], source).rules == {"train_vae: images"}
    if source == "warp":
        assert check(collected["star"], lazy=True).rules == {"format"}
        assert any("--source-software warp" in line for line in collected["advice"])


def test_our_optimisation_set_is_accepted(whole):
    assert os.path.basename(whole["star"]) == SET
    found = check(whole["star"])
    assert (found.kind, found.broken) == ("warptools", [])
    assert len(found.particles) == whole["kept"] > 3 and len(found.dose) == whole["images"] == 3 * whole["kept"]


def edit(name, old, new, count=0):
    """A change of a text file in the copied export; ``old`` is a pattern that must be there."""
    def change(folder):
        path = os.path.join(folder, name)
        with open(path, encoding="utf-8") as file:
            text = file.read()
        changed = re.sub(old, new, text, count=count, flags=re.MULTILINE)
        assert changed != text
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(changed)
    return change


def value(label, row, new, name="particles.star", block=""):
    """Put another value into the table; ``new`` is a text or a function of the old one."""
    def change(folder):
        path = os.path.join(folder, name)
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
        start = lines.index("data_" + block)
        labels = [i for i in range(start, len(lines)) if lines[i].startswith("_rln")]
        first = next(i for i in labels if re.match(r"_rln%s\b" % label, lines[i]))
        column = labels.index(first)
        rows = [i for i in range(first, len(lines)) if len(lines[i].split()) > 4]
        for i in rows if row is None else [rows[row]]:
            words = lines[i].split()
            words[column] = new(words[column]) if callable(new) else new
            lines[i] = " ".join(words)
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    return change


def header(offset, number, which=0, code="<i"):
    """Write a number into the header of one of the stacks."""
    def change(folder):
        path = stacks(folder)[which]
        with open(path, "r+b") as file:
            file.seek(offset)
            file.write(struct.pack(code, number))
    return change


def stacks(folder):
    found = [os.path.join(root, name) for root, _, names in os.walk(folder) for name in names if name.endswith("mrcs")]
    return sorted(found)


def longer_header(folder):
    path = stacks(folder)[0]
    with open(path, "rb") as file:
        data = file.read()
    with open(path, "wb") as file:
        file.write(data[:92] + struct.pack("<i", 64) + data[96:1024] + bytes(64) + data[1024:])


def shorten(folder):
    path = stacks(folder)[0]
    os.truncate(path, os.path.getsize(path) - 1)


def without(label):
    """Take a column away."""
    def change(folder):
        path = os.path.join(folder, "particles.star")
        table = star.read(path).table("")
        star.write(path, [star.Table.from_columns("", {c: table.text(c) for c in table.columns if c != label})])
    return change


def swapped(folder):
    edit("particles.star", r"_rlnVoltage", "_rlnOther")(folder)
    edit("particles.star", r"_rlnSphericalAberration", "_rlnVoltage")(folder)
    edit("particles.star", r"_rlnOther", "_rlnSphericalAberration")(folder)


def ungrouped(folder):
    path = os.path.join(folder, "particles.star")
    tables = star.read(path)
    rows = tables.table("particles")
    order = list(range(1, len(rows))) + [0]
    star.write(path, [tables.table("general"), tables.table("optics"), rows.select(order)])


WARP = {"source": "warp", "lazy": True}
LAZY = {"lazy": True}
#: Rule, a change that breaks it, and how the reader is called.
BREAKS = [
    ("separator", edit("particles.star", r"^_rlnVoltage\b.*", "_rlnVoltage\t#3"), LAZY),
    ("column 0", edit("particles.star", r"^_rlnVoltage", " _rlnVoltage"), LAZY),
    ("column 0", edit("particles.star", r"^loop_", " loop_"), LAZY),
    ("comment", edit("particles.star", r"^( *1.*\n)", r"\1# a comment" + "\n", 1), LAZY),
    ("blank line", edit("particles.star", r"^( *1.*\n)", r"\1" + "\n", 1), LAZY),
    ("quotes", value("MicrographName", 0, "'a'"), LAZY),
    ("row length", value("MicrographName", 0, "a b"), LAZY),
    ("format", swapped, LAZY),
    ("format", without("rlnRandomSubset"), LAZY),
    ("column missing", without("rlnDefocusV"), WARP),
    ("column missing", without("rlnGroupName"), WARP),
    ("dtype", value("PhaseShift", 0, "0"), LAZY),
    ("dtype", value("DefocusU", None, "x"), LAZY),
    ("finite", value("DefocusU", 3, "nan"), LAZY),
    ("group name", value("GroupName", None, lambda old: old.rsplit("_", 1)[1]), LAZY),
    ("pixel size", value("DetectorPixelSize", 1, "9.0"), LAZY),
    ("dose", value("CtfBfactor", 0, "12.0"), LAZY),
    ("scale", value("CtfScalefactor", 0, "1.0000001"), LAZY),
    ("scale", value("CtfScalefactor", 0, "nan"), LAZY),
    ("image name", value("ImageName", 0, lambda old: old.replace("001@", "000@")), LAZY),
    ("image name", value("ImageName", 0, lambda old: old.split("@")[1]), LAZY),
    ("train_vae: images", lambda folder: None, {}),
    ("working folder", lambda folder: None, dict(LAZY, cwd="/")),
    ("paths", lambda folder: os.rename(stacks(folder)[0], stacks(folder)[0] + "~"), LAZY),
    ("byte order", header(0, BOX, code=">i"), LAZY),
    ("square", header(4, BOX - 2), LAZY),
    ("even box", header(0, BOX - 1), LAZY),
    ("mode", header(12, 1), LAZY),
    ("image number", header(8, 1), LAZY),
    ("truncated", shorten, LAZY),
    ("one size", header(0, BOX - 2), LAZY),
    ("one mode", header(12, 12), LAZY),
    ("extended header", longer_header, LAZY),
    ("backproject_voxel: box", header(0, 46), LAZY),
]
BREAKS_OF_SETS = [
    ("set name", lambda folder: os.rename(os.path.join(folder, SET), os.path.join(folder, "optimisation_set.star"))),
    ("paths", edit(SET, "particles.star", "parts.star")),
    ("paths", lambda folder: os.remove(stacks(folder)[0])),
    ("format", edit("particles.star", "_rlnImageSize", "_rlnImageDim")),
    ("2D stacks", edit("particles.star", r"(_rlnTomoSubTomosAre2DStacks\s+)1", r"\g<1>0")),
    ("grouped", ungrouped),
    ("tomogram name", value("TomoName", None, lambda old: old[3:5], block="particles")),
    ("tilt table", edit("particles_tomograms.star", "data_TS_02", "data_TS_03")),
    ("tilt table", edit("particles_tomograms.star", "_rlnMicrographPreExposure", "_rlnDose")),
    ("matrix", edit("particles_tomograms.star", r"\[0,0,0,1\]", "0,0,0,1")),
    ("scale", value("CtfScalefactor", 0, "1.5", "particles_tomograms.star", "TS_01.tomostar")),
    ("image name", value("ImageName", 0, lambda old: "1@" + old, block="particles")),
    ("visible frames", value("TomoVisibleFrames", 0, "[1,0,1]", block="particles")),
    ("units", value("TomoTiltSeriesPixelSize", 0, "4.0", block="optics")),
    ("image number", header(8, 2)),
]


@pytest.mark.parametrize("rule, change, how", BREAKS, ids=["%s-%d" % (b[0], i) for i, b in enumerate(BREAKS)])
def test_a_broken_rule_is_found(data, plain, tmp_path, rule, change, how):
    folder = str(tmp_path / "copy")
    shutil.copytree(str(data / "plain"), folder)
    change(folder)
    assert rule in check(os.path.join(folder, "particles.star"), **how).rules


@pytest.mark.parametrize("rule, change", BREAKS_OF_SETS,
                         ids=["%s-%d" % (b[0], i) for i, b in enumerate(BREAKS_OF_SETS)])
def test_a_broken_rule_of_optimisation_sets_is_found(data, whole, tmp_path, rule, change):
    folder = str(tmp_path / "copy")
    shutil.copytree(str(data / "whole"), folder)
    change(folder)
    found = check(os.path.join(folder, next(n for n in os.listdir(folder) if n.endswith("optimisation_set.star"))))
    assert rule in found.rules


def test_every_rule_is_shown_to_be_found():
    rules = set(re.findall(r'breaks\("([^"]+)"', inspect.getsource(tomodrgn_rules)))
    assert len(rules) > 30 and rules == {rule for rule, *_ in BREAKS + BREAKS_OF_SETS}


def test_a_path_with_a_blank_is_refused_before_the_work(data):
    values = {"tomograms": str(data / "data" / "tomograms.star"), "particles": str(data / "data" / "particles.star"),
              "output": str(data / "with blank"), "pixel_size": PIXEL, "box": BOX, "relative_paths": False}
    planned = runner.plan("series", runner.read_options("series", values))
    assert [str(p) for p in planned.problems if p.severity == "error" and "splits rows at blanks" in str(p)]


def test_the_list_of_the_particles_is_in_the_order_of_the_table(plain, whole):
    for collected in (plain, whole):
        particles, _ = particlestar.read_particles(collected["exported"])
        assert list(check(collected["star"], lazy=True).particles) == particles.extra["rlnGroupName"]
