"""RELION 5's own extraction of one particle, file by file, in a clone without the reference data."""

import json
import os

import numpy as np
import pytest

from tomoexport.io import mrc, star
from tomoexport.jobs import runner
from tomoexport.tests.shared import RELION, unpack

#: RELION's options as ours.
EXTRACTIONS = {"stack2d_bin1": dict(box=64, crop=48), "volume_bin2": dict(box=48, crop=32, binning=2.0, stack2d=False)}


@pytest.fixture(scope="module")
def kept():
    return json.loads(RELION.read_text())


@pytest.fixture(scope="module")
def project(kept, tmp_path_factory):
    """The tilt series with nothing but what surrounds the particle, and its tables."""
    folder = tmp_path_factory.mktemp("relion")
    stack = np.zeros((len(kept["shown"]),) + tuple(kept["shape"]), np.float32)
    stack[:, ::7, ::5] = 1e-3  # images that do not show it are not constant, or they would be left out
    windows = iter(unpack(kept["windows"]))
    for image, there, (y, x) in zip(stack, kept["shown"], kept["origin"]):
        if there:
            window, top, left = next(windows), max(0, y), max(0, x)
            part = window[top - y:, left - x:][:image.shape[0] - top, :image.shape[1] - left]
            image[top:top + part.shape[0], left:left + part.shape[1]] = part
    os.makedirs(str(folder / "tiltseries"))
    mrc.write(str(folder / "tiltseries" / "TS_01.mrcs"), stack, 4.0, kind="stack")
    os.makedirs(str(folder / "tilt_series"))
    star.write(str(folder / "tomograms.star"), [star.Table.from_columns("global", kept["tables"]["global"])])
    star.write(str(folder / "tilt_series" / "TS_01.star"), [star.Table.from_columns("TS_01", kept["tables"]["TS_01"])])
    optics = {c: v for c, v in kept["stack2d_bin1"]["tables"]["optics"].items() if c in (
        "rlnOpticsGroup", "rlnOpticsGroupName", "rlnSphericalAberration", "rlnVoltage", "rlnAmplitudeContrast",
        "rlnTomoTiltSeriesPixelSize")}
    star.write(str(folder / "particles.star"), [star.Table.from_columns("optics", optics),
                                                star.Table.from_columns("particles", kept["particles"])])
    return folder


@pytest.mark.parametrize("name", EXTRACTIONS)
def test_files_and_table_are_relions(kept, project, tmp_path, name):
    """Tables to the value, images to the rounding of what is kept here (a 16-bit step of both)."""
    made = runner.run({"verb": "pseudosubtomo", "options": dict(
        EXTRACTIONS[name], tomograms=str(project / "tomograms.star"), particles=str(project / "particles.star"),
        output=str(tmp_path), exact=True, float16=False, threads=1)})
    written, theirs = star.read(made["collected"]["star"]), kept[name]
    for block, columns in theirs["tables"].items():
        mine = written.table(block)
        assert set(mine.columns) == set(columns)
        for column, values in columns.items():
            assert mine.text(column) == values if column == "rlnOpticsGroupName" else np.allclose(
                mine.float(column), [float(v) for v in values]), column
    mine = written.table("particles")
    assert set(mine.columns) == set(theirs["particle"]) and len(mine) == 1
    for column, value in theirs["particle"].items():
        if column in theirs["files"]:
            assert mine.text(column)[0].endswith(value.split(name + "/")[1])
        elif column in ("rlnTomoName", "rlnTomoParticleName", "rlnTomoVisibleFrames"):
            assert mine.text(column) == [value], column
        else:
            assert abs(mine.float(column)[0] - float(value)) < 2e-5, column
    for column, packed in theirs["files"].items():
        expected, found = unpack(packed), mrc.read_volume(mine.text(column)[0])[0]
        assert found.shape == expected.shape
        apart = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        print("%s, %s: relative rms %.1e" % (name, column, apart))
        assert apart < 2e-4
