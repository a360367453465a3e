"""The Python interface: its examples, its types, and that it is the command line's equal."""

import doctest
import inspect
from dataclasses import fields
from pathlib import Path

import pytest

from tomoexport import api, options
from tomoexport.errors import InputError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"


def examples(finder):
    """Run examples; returns how many there are, none of which fails."""
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in finder:
        runner.run(test)
    assert runner.failures == 0
    return runner.tries


def test_examples_of_the_module():
    assert examples(doctest.DocTestFinder().find(api)) >= 8


def test_examples_of_the_page():
    if not PAGE.exists():
        pytest.skip("docs/ is not beside the package: run from a checkout")
    test = doctest.DocTestParser().get_doctest(PAGE.read_text(encoding="utf-8"), {}, "python.md", str(PAGE), 0)
    assert examples([test]) > 25


def test_every_verb_is_a_function_with_a_typed_result():
    for verb, kind in options.VERBS.items():
        function = getattr(api, verb)
        assert verb in api.__all__ and kind.__name__ in str(inspect.signature(function).parameters["options"])
        result = function.__annotations__["return"]
        assert issubclass(result, api.Result) and all(spec.type for spec in fields(result))


def test_every_name_is_there_and_documented():
    for name in api.__all__:
        assert inspect.getdoc(getattr(api, name)), name


def test_a_record_and_names_are_the_same(simulated, tmp_path):
    data = simulated("tiny")
    record = options.ReconstructOptions(tomograms=str(data / "tomograms.star"), output=str(tmp_path), pixel_size=16.0)
    made = api.reconstruct(record)
    again = api.reconstruct(tomograms=str(data / "tomograms.star"), output=str(tmp_path), pixel_size=16.0)
    assert made.tomograms == again.tomograms and again.series["TS_01"].status == "skipped"
    assert api.reconstruct(record, pixel_size=20.0).tomograms["TS_01"].pixel_size == 20.0
    with pytest.raises(InputError, match="ReconstructOptions"):
        api.reconstruct(options.SubtomoOptions())
    with pytest.raises(InputError, match="no option .*voxel|voxel"):
        api.reconstruct(record, voxel=3)


def test_some_tilt_series_only(simulated, tmp_path):
    data = simulated("tiny")
    made = api.subtomo(tomograms=str(data / "tomograms.star"), particles=str(data / "particles.star"),
                       output=str(tmp_path), pixel_size=8.0, box=16, diameter=80.0, only=["TS_02"])
    assert list(made.series) == ["TS_02"] and made.kept == 4


def test_nothing_is_printed_unless_it_is_asked_for(simulated, tmp_path, capsys):
    data = simulated("tiny")
    for progress in (False, True):
        api.reconstruct(tomograms=str(data / "tomograms.star"), output=str(tmp_path / str(progress)), pixel_size=16.0,
                        progress=progress)
        assert ("rows" in capsys.readouterr().out) == progress


def test_a_series_that_fails_is_in_the_result(simulated, tmp_path):
    from tomoexport.tests.sources import relion5_tables
    project = relion5_tables(simulated("tiny"), tmp_path / "data")
    (tmp_path / "data" / "tiltseries" / "TS_02.mrcs").unlink()
    made = api.reconstruct(tomograms=project.tomograms, output=str(tmp_path / "out"), pixel_size=16.0)
    assert list(made.tomograms) == ["TS_01"] and "no such file" in made.failed["TS_02"]
