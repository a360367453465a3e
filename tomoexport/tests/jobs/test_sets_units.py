"""Units of the coordinates of two sets that are compared."""

import numpy as np
import pytest

from tomoexport.io import relion5, star
from tomoexport.jobs import runner
from tomoexport.tests.sources import columns_of, relion5_tables


@pytest.fixture
def project(simulated, tmp_path):
    """A copy of the simulated project."""
    return relion5_tables(simulated("tiny"), tmp_path / "project")


def shares(project, path):
    """The particles with coordinates from 0 to 1 over their tomograms."""
    geometry = {one.ts_id: one.geometry for one in relion5.read_project(project.tomograms)}
    columns = columns_of(star.read(project.particles).table("particles"))
    for i, axis in enumerate("XYZ"):
        centred = columns.pop("rlnCenteredCoordinate%sAngst" % axis)
        columns["rlnCoordinate" + axis] = [repr(float(
            (float(value) + geometry[name].centre[i]) / geometry[name].pixel_size / (geometry[name].size_px[i] - 1)))
            for name, value in zip(columns["rlnTomoName"], centred)]
    star.write(str(path), [star.Table.from_columns("particles", columns)])
    return str(path)


@pytest.mark.parametrize("which", ("old", "new"))
def test_units_of_either_set(project, tmp_path, which):
    """One set in angstrom, the other in shares of the tomogram: the same particles."""
    tables = {"old": project.particles, "new": project.particles}
    tables[which] = shares(project, tmp_path / "shares.star")
    out = runner.run({"verb": "intersect", "options": dict(
        tables, tomograms=project.tomograms, output=str(tmp_path / "out"), tolerance=0.5,
        **{which + "_normalized": True})})
    assert out["results"][0]["counts"]["both"] == 8
    wrong = runner.run({"verb": "intersect", "options": dict(
        tables, tomograms=project.tomograms, output=str(tmp_path / "wrong"), tolerance=0.5, only_old=True)})
    assert wrong["results"][0]["counts"]["both"] == 0


def test_coordinates_of_tomograms_of_unknown_size(project, tmp_path):
    """Where both count from the corner, and only distances matter, no size is asked for."""
    geometry = {one.ts_id: one.geometry for one in relion5.read_project(project.tomograms)}
    table = star.read(project.particles).table("particles")
    columns = {"rlnTomoName": table.text("rlnTomoName"), "rlnTomoTiltSeriesPixelSize": [8.0] * 8}
    for i, axis in enumerate("XYZ"):
        centred = table.float("rlnCenteredCoordinate%sAngst" % axis)
        columns["rlnCoordinate" + axis] = np.array([c + geometry[n].centre[i] for n, c in zip(
            columns["rlnTomoName"], centred)]) / 8
    path = str(tmp_path / "corner.star")
    star.write(path, [star.Table.from_columns("particles", columns)])
    for verb, more in (("duplicates", {"particles": path}), ("intersect", {"old": path, "new": path})):
        assert runner.run({"verb": verb, "options": dict(more, output=str(tmp_path / verb))})["failed"] == []
