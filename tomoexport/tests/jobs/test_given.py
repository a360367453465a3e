"""What files of tilt series lack can be given, and means what the file would have meant."""

from pathlib import Path

import numpy as np
import pytest

from tomoexport.errors import InputError
from tomoexport.io import mrc, relion5
from tomoexport.jobs import runner
from tomoexport.tests.jobs.test_one_rule import VERBS, options
from tomoexport.tests.sources import imod_folder, relion5_tables, rewrite

pytestmark = pytest.mark.slow


@pytest.fixture
def project(simulated, tmp_path):
    """A copy of the simulated project."""
    return relion5_tables(simulated("tiny"), tmp_path / "project")


def volumes(verb, project, out, **more):
    """All that a verb writes."""
    values = dict(options(verb, project, out), **more)
    if verb == "reconstruct":
        values.setdefault("ctf", "phaseflip")
    assert runner.run({"verb": verb, "options": values})["failed"] == []
    found = {str(path.relative_to(out)): mrc.read_volume(str(path))[0] for path in sorted(Path(out).rglob("*.mrc*"))}
    assert found
    return found


def the_same(one, other):
    """See that two runs wrote the same."""
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=1e-5 * np.abs(one[name]).max())


def differ(one, other):
    """Whether two runs wrote something else."""
    return any(one[name].shape != other[name].shape or not np.allclose(one[name], other[name], rtol=1e-3, atol=1e-6)
               for name in one)


COLUMNS = {"rlnVoltage": ("voltage", 300.0, 200.0), "rlnSphericalAberration": ("cs", 2.7, 9.0),
           "rlnAmplitudeContrast": ("amplitude_contrast", 0.1, 0.5),
           "rlnTomoTiltSeriesPixelSize": ("image_pixel_size", 8.0, 7.5)}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_that_is_missing(project, simulated, tmp_path, verb, column):
    """Given it is as good as written; another value is another result, and told where the table says otherwise."""
    name, value, other = COLUMNS[column]
    more = {"ctf": "phaseflip"} if verb == "reconstruct" else {}
    expected = volumes(verb, project, tmp_path / "whole", **more)
    stated = runner.plan(verb, runner.read_options(verb, dict(options(verb, project, tmp_path / "x"), **{name: other})))
    assert any("--%s %g" % (name.replace("_", "-"), other) in str(problem) for problem in stated.problems)
    short = relion5_tables(simulated("tiny"), tmp_path / "short")
    rewrite(short.tomograms, lambda columns: columns.pop(column))
    with pytest.raises(InputError, match="--" + name.replace("_", "-")):
        volumes(verb, short, tmp_path / "refused", **more)
    the_same(expected, volumes(verb, short, tmp_path / "given", **{name: value}, **more))
    if (verb, column) not in (("series", "rlnVoltage"), ("series", "rlnSphericalAberration"),
                              ("series", "rlnAmplitudeContrast")):  # images of a series are not corrected
        assert differ(expected, volumes(verb, short, tmp_path / "other", **{name: other}, **more))


@pytest.mark.parametrize("verb", ("reconstruct", "subtomo", "pseudosubtomo", "particle"))
def test_a_dose_that_is_missing(project, simulated, tmp_path, verb):
    """Of equal exposures, in the order in which they were taken."""
    one, two = relion5.read_project(project.tomograms)
    step = float(np.diff(np.sort(one.geometry.dose))[0])
    assert np.allclose(np.sort(one.geometry.dose), step * np.arange(3))
    short = relion5_tables(simulated("tiny"), tmp_path / "short")
    for ts_id in ("TS_01", "TS_02"):
        rewrite(Path(short.tomograms).parent / "tilt_series" / (ts_id + ".star"),
                lambda columns: columns.pop("rlnMicrographPreExposure"))
    more = {"ctf": "phaseflip"} if verb == "reconstruct" else {}
    with pytest.raises(InputError, match="--exposure-dose"):
        volumes(verb, short, tmp_path / "refused", **more)
    expected = volumes(verb, project, tmp_path / "whole", **more)
    the_same(expected, volumes(verb, short, tmp_path / "given", exposure_dose=step, **more))
    assert differ(expected, volumes(verb, short, tmp_path / "other", exposure_dose=5 * step, **more))


@pytest.mark.parametrize("verb", ("reconstruct", "pseudosubtomo", "particle"))
def test_the_pixel_of_an_alignment_of_binned_images(simulated, tmp_path, verb):
    """IMOD aligned images binned by 4; the stack beside its files is the unbinned one (WarpTools' alignment_angpix)."""
    more = {"reconstruct": {"ctf": "none"}, "pseudosubtomo": dict(ctf=False, voltage=300.0, cs=2.7,
                                                                   amplitude_contrast=0.07),
            "particle": {"ctf": False}}[verb]
    if verb != "reconstruct":
        more["allow_loss"] = True
    expected = volumes(verb, imod_folder(simulated("tiny"), tmp_path / "a"), tmp_path / "plain", **more)
    binned = imod_folder(simulated("tiny"), tmp_path / "b", "THICKNESS 7.5\n")
    path = tmp_path / "b" / "TS_01.xf"
    rows = np.loadtxt(str(path))
    rows[:, 4:] /= 4
    np.savetxt(str(path), rows, fmt="%.9f")
    com = tmp_path / "b" / "tilt.com"
    com.write_text(com.read_text().replace("FULLIMAGE 64 64", "FULLIMAGE 16 16"))
    with pytest.raises(InputError, match="--alignment-pixel-size"):
        volumes(verb, binned, tmp_path / "refused", **more)
    # The centre of 16 px of 32 A is that of 64 px of 8 A for IMOD: (N-1)/2 pixels from the middle of the first.
    the_same(expected, volumes(verb, binned, tmp_path / "given", alignment_pixel_size=32.0, **more))


def test_transforms_about_another_point(simulated, tmp_path):
    """Half a pixel, for programs that drop it."""
    source = imod_folder(simulated("tiny"), tmp_path / "a")
    positions = {}
    for centre in ("imod", "relion"):
        planned = runner.plan("reconstruct", runner.read_options("reconstruct", dict(
            options("reconstruct", source, tmp_path / "out"), xf_centre=centre)))
        positions[centre] = planned.units[0].series.geometry.project(np.zeros((1, 3))).xy[0] / 8.0
    apart = np.linalg.norm(positions["relion"] - positions["imod"], axis=1)
    # A turn about (N-1)/2 or N//2, half a pixel apart: the two differ by |(1 - R) (1/2, 1/2)|.
    assert np.all(apart > 0.3) and np.all(apart < 1.5)


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_given_is_a_part_of_the_result(project, tmp_path, verb):
    """Another value and the work is done again; the same and it is not."""
    more = {"ctf": "phaseflip"} if verb == "reconstruct" else {}
    values = dict(options(verb, project, tmp_path / "out"), **more)
    runner.run({"verb": verb, "options": values})
    again = runner.run({"verb": verb, "options": dict(values, voltage=300.0)})
    assert {r["status"] for r in again["results"]} == {"skipped"}
    other = runner.run({"verb": verb, "options": dict(values, voltage=200.0)})
    assert {r["status"] for r in other["results"]} == {"done"}
