"""What is told before the work about what tomoDRGN and cryoDRGN cannot take."""

import os
import re
from dataclasses import replace

import numpy as np
import pytest

from tomoexport.engine.ctf import Optics
from tomoexport.errors import InputError
from tomoexport.io import particlestar, relion5, star
from tomoexport.jobs import programs, runner
from tomoexport.tests.programs import tomodrgn_rules


@pytest.fixture(scope="module")
def data(tmp_path_factory, simulated):
    folder = tmp_path_factory.mktemp("readers")
    simulated("tiny", into=folder, particles=6)
    return folder


def problems(data, **options):
    values = dict({"tomograms": str(data / "tomograms.star"), "particles": str(data / "particles.star"),
                   "output": str(data / "out"), "pixel_size": 8.0, "box": 32, "diameter": 100.0}, **options)
    return runner.plan("series", runner.read_options("series", values)).problems


def found(data, **options):
    """Severity and text of what is told beyond what an export without profile would be told."""
    plain = {str(p) for p in problems(data, **dict(options, reader="none"))}
    return [(p.severity, str(p)) for p in problems(data, **options) if str(p) not in plain]


def changed(data, name, change):
    series = [change(one) for one in relion5.read_project(str(data / "tomograms.star"))]
    return str(relion5.write_project(str(data / name), series, paths="absolute"))


@pytest.fixture(scope="module")
def columns(data):
    """A particle table with three more columns, made by a function."""
    read, _ = particlestar.read_particles(str(data / "particles.star"))

    def make(name, values):
        path = str(data / (name + ".star"))
        particlestar.write_particles(path, replace(read, extra=dict(read.extra, rlnSomething=values)))
        return path

    return make


def test_few_images(data):
    assert found(data) == [("warning", str(problems(data)[-1]))]
    assert "there are 36" in found(data)[0][1] and "--lazy or --norm" in found(data)[0][1]
    assert found(data, reader="cryodrgn") == []


@pytest.mark.parametrize("box, works", [(48, (44, 50)), (192, (190, 194)), (64, None), (46, (44, 50))])
def test_boxes_that_crash_the_back_projection(data, box, works):
    told = [text for severity, text in found(data, box=box, diameter=100.0) if "--box" in text]
    assert len(told) == (works is not None)
    if works:
        assert "backproject_voxel" in told[0] and "%d or %d" % works in told[0]
        assert not [text for _, text in found(data, box=box, reader="cryodrgn") if "--box" in text]


def test_the_boxes_are_those_of_the_rules():
    assert programs.CRASHING_BOXES == tomodrgn_rules.CRASHING


@pytest.mark.parametrize("reader", ["tomodrgn", "cryodrgn"])
def test_dark_particles_need_an_option(data, reader):
    assert any("--uninvert-data" in text for _, text in found(data, reader=reader, invert=False))
    assert not any("--uninvert-data" in text for _, text in found(data, reader=reader))


@pytest.mark.parametrize("voltage, tomodrgn, cryodrgn", [(300.0, None, None), (200.0, None, None),
                                                         (120.0, "warning", "error")])
def test_voltage(data, voltage, tomodrgn, cryodrgn):
    """Both know two voltages."""
    optics = Optics(voltage=voltage)
    path = changed(data, "kv%d" % voltage, lambda s: replace(s, optics=optics, ctf=replace(s.ctf, optics=optics)))
    for reader, severity in (("tomodrgn", tomodrgn), ("cryodrgn", cryodrgn)):
        told = {severity for severity, text in found(data, tomograms=path, reader=reader) if "kV" in text}
        assert told == ({severity} if severity else set())


def test_cryodrgn_needs_a_dose_symmetric_scheme(data):
    """It takes the order of the exposures from the tilts."""
    nominal = np.array([-20.0, 0, 20])
    one_way = changed(data, "one_way", lambda s: replace(s, geometry=s.geometry.replace(
        tilt=nominal, dose=3.0 * np.arange(3), acq_order=np.arange(3))))
    assert not any("earlier exposures" in text for _, text in found(data, reader="cryodrgn"))
    # From -20 to 20 degrees the first exposure is ranked second, which is a neighbour's dose.
    assert not any("earlier exposures" in text for _, text in found(data, reader="cryodrgn", tomograms=one_way))
    inward = changed(data, "inward", lambda s: replace(s, geometry=s.geometry.replace(
        tilt=nominal, dose=np.array([0.0, 6.0, 3.0]), acq_order=np.array([0, 2, 1]))))
    told = found(data, reader="cryodrgn", tomograms=inward)
    assert [s for s, text in told if "earlier exposures" in text] == ["warning", "warning"]
    assert found(data, tomograms=inward) == found(data)


@pytest.mark.parametrize("values, words", [
    (["0", "0.5", "1", "1", "1", "1"] * 2, None), (["1"] * 12, None), (["a", "0.5", "b", "b", "b", "b"] * 2, None),
    (["0.5", "high", "0.5", "1", "1", "1"] * 2, "type of a column from its first row, '0.5', and cannot read 'high'"),
    (["1", "two", "1", "1", "1", "1"] * 2, "'1', and cannot read 'two'"),
    (["a b"] * 12, "splits rows at blanks"), ([""] * 12, "splits rows at blanks")])
def test_columns_that_begin_as_another_type(data, columns, values, words):
    """Numbers are all written with a decimal point; what is left cannot be mended."""
    path = columns("typed", values)
    assert not any("rlnSomething" in text for _, text in found(data, particles=path))
    told = [(severity, text) for severity, text in found(data, particles=path, all_columns=True)
            if "rlnSomething" in text]
    assert [severity for severity, _ in told] == ["error"] * (words is not None)
    for _, text in told:
        assert words in text
    if not words:
        out = runner.run({"verb": "series", "options": {
            "tomograms": str(data / "tomograms.star"), "particles": path, "output": str(data / "typed"),
            "pixel_size": 8.0, "box": 32, "diameter": 100.0, "all_columns": True, "threads": 2}})["collected"]
        assert tomodrgn_rules.check(out["star"], "warp", lazy=True).broken == []
        assert star.read(out["star"]).table("").has("rlnSomething")


def test_values_of_a_table_are_looked_at_again():
    """Numeric group names and what has no arc cosine: our names and cosines are never so, others' might be."""
    told = lambda label, values, reader="tomodrgn": [  # noqa: E731
        str(p) for p in programs.of_columns(reader, {label: values}, "a.star")]
    assert "takes '4' for a number" in told("rlnGroupName", ["4", "5"])[0]
    assert told("rlnGroupName", ["4", "5"], "cryodrgn") == told("rlnGroupName", ["000_000004"]) == []
    for bad in ("1.0000001", "nan", "0.0", "-0.5"):
        assert "no cosine" in told("rlnCtfScalefactor", ["1.0", bad], "cryodrgn")[0]
    assert told("rlnCtfScalefactor", ["1.0", "0.5"]) == []
    assert told("rlnGroupName", ["a b"], "none") == []


def test_equal_tilts_are_told_apart_for_cryodrgn():
    """Which ranks exposures by the cosine, in single precision."""
    tilts = np.deg2rad([0.0, 3, -3, -6, 6, 9, -9, 60, -60])
    made = np.array(programs.break_ties(np.cos(tilts).tolist()), np.float32)
    assert (np.diff(made) < 0).all() and np.abs(made - np.cos(tilts)).max() < 2e-6 and made[0] == 1


def test_cryodrgns_table_ranks_by_dose(data):
    nominal = changed(data, "nominal", lambda s: replace(s, geometry=s.geometry.replace(
        tilt=np.array([-20.0, 0, 20]))))
    values = {"tomograms": nominal, "particles": str(data / "particles.star"), "pixel_size": 8.0, "box": 32,
              "diameter": 100.0, "threads": 2}
    for reader, differ in (("cryodrgn", True), ("tomodrgn", False)):
        out = runner.run({"verb": "series", "options": dict(values, output=str(data / reader), reader=reader)})
        table = star.read(out["collected"]["star"]).table("")
        groups = np.array(table.text("rlnGroupName"))
        scale = table.float("rlnCtfScalefactor").astype(np.float32)
        ranks = [(np.diff(scale[groups == group]) < 0).all() for group in dict.fromkeys(groups)]
        assert set(ranks) == {differ}
    assert any(re.search(r"--ntilts 3 or less; --dose-per-tilt 3$", line) for line in runner.run(
        {"verb": "series", "options": dict(values, output=str(data / "cryodrgn"), reader="cryodrgn")})[
            "collected"]["advice"])


@pytest.mark.parametrize("options, words", [
    ({"stacks": "series", "reader": "none"}, "needs a stack for every particle"),
    ({"origins": True, "reader": "none"}, "has no such columns"),
    ({"all_columns": True, "reader": "cryodrgn"}, "has no such columns"),
    ({}, "takes no notice of the defocus hand"), ({"hand": -1}, "takes no notice of the defocus hand"),
    ({"hand": 1}, None), ({"reader": "cryodrgn"}, None)])
def test_optimisation_sets(data, options, words):
    errors = [str(p) for p in problems(data, form="optimisation-set", **options) if p.severity == "error"]
    assert len(errors) == (words is not None) and (not words or words in errors[0])


def test_phase_plates_are_lost_by_cryodrgns_way_with_optimisation_sets(data):
    path = changed(data, "phase", lambda s: replace(s, ctf=replace(s.ctf, phase=np.full(3, 60.0))))
    for form, count in (("optimisation-set", 2), ("series", 0)):
        told = found(data, tomograms=path, form=form, reader="cryodrgn")
        assert sum("parse_warptools" in text for _, text in told) == count


def test_no_input_is_overwritten(data):
    for name, options in (("a_exported.star", {}), ("a_tomograms.star", {"form": "optimisation-set", "hand": 1})):
        copy = str(data / name)
        star.write(copy, list(star.read(str(data / "particles.star"))))
        told = [str(p) for p in problems(data, particles=copy, output=str(data), star="a.star", **options)
                if p.severity == "error"]
        assert len(told) == 1 and "would be overwritten" in told[0]


def test_names_with_blanks_are_told_before_the_work(data):
    """Of an image, which the table of images names; of a tomogram, which an optimisation set names."""
    path = str(data / "TS 01.mrcs")
    first = relion5.read_project(str(data / "tomograms.star"))[0]
    if not os.path.exists(path):
        os.symlink(first.images[0][0], path)
    blank = changed(data, "blank", lambda one: replace(one, images=tuple((path, s) for _, s in one.images)))
    told = found(data, tomograms=blank)
    assert any(severity == "error" and "rlnMicrographName" in text and "TS 01.mrcs" in text for severity, text in told)
    assert not any("rlnMicrographName" in text for _, text in found(data, tomograms=blank, form="optimisation-set"))


@pytest.mark.parametrize("name", ["a_exported.star", "a_optimisation_set.star", "a_tomograms.star"])
def test_names_of_other_tables_are_refused(data, name):
    with pytest.raises(InputError, match="gives to another table"):
        problems(data, star=name)


def test_tables_of_the_other_form_are_removed(data):
    def run(form):
        return runner.run({"verb": "series", "options": {
            "tomograms": str(data / "tomograms.star"), "particles": str(data / "particles.star"), "pixel_size": 8.0,
            "output": str(data / "forms"), "box": 32, "diameter": 100.0, "form": form, "threads": 2,
            "min_tilts": 3, "reader": "none"}})["collected"]["star"]

    whole = run("optimisation-set")
    assert os.path.exists(whole)
    images = run("series")
    assert not os.path.exists(whole) and not os.path.exists(images[:-len(".star")] + "_tomograms.star")
    assert "bright particles" in open(images).read()
