"""Every particle table of the real data: counts, named rows worked out from the raw text, and round trips."""
import re
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from tomoexport.engine.pseudosubtomo import visible_tilts
from tomoexport.io import relion5, star
from tomoexport.io.particlestar import bare_name, dialect, kept_columns, read_particles, write_particles
from tomoexport.io.pseudostar import write_pseudosubtomos
from tomoexport.io.seriesstar import read_image_series
from tomoexport.tests.shared import need_shared

HALF = np.array([40, 60, 20]) * 1.7 / 2  # of conftest.make_series, angstrom
WARPTOOLS_HALF = np.array([4400, 6000, 1000]) * 0.7894 / 2  # of warp2_matching_tomograms.star
SERIES = "tomodrgn/10076_both_32_sim_first_rows.star"


@dataclass
class Real:
    """A table: its dialect, its number of rows, and by number the rows that are checked, with their tilt series."""

    path: str
    kind: str
    count: int
    rows: dict
    pixel: dict = field(default_factory=dict)  # A per pixel of the coordinates of these rows


FILES = [
    Real("relion3/bin1_1deg_500.star", "relion3.0", 2, {0: "1342", 1: "1333"}, {0: 1.971, 1: 1.971}),
    Real("relion3/bin1_1deg_500_2.star", "relion3.0", 2, {0: "1342", 1: "1333"}, {0: 1.971, 1: 1.971}),
    Real("relion3/relion_3.0.star", "relion3.0", 3, {1: "01006", 2: "01006"}, {1: 5.364, 2: 5.364}),
    Real("relion3/relion_3.1_optics.star", "relion3.1", 3, {0: "0002", 2: "0003"}, {0: 2.446, 2: 2.446}),
    Real("relion3/relion_3.1_optics2.star", "relion3.1", 3, {0: "0002", 2: "0003"}, {0: 2.446, 2: 3.446}),
    Real("relion3/relion_4.0_first_rows.star", "relion4", 855, {0: "TS_017", 498: "TS_019"}, {0: 1.971, 498: 1.971}),
    Real("relion5/hiv_empiar_10164/particles_TS_01_first60.star", "relion5", 60, dict.fromkeys((0, 29, 59), "TS_01")),
    Real("warptools/warp2_particles_matching.star", "warptools", 1218, {0: "TS_17", 400: "TS_1", 1217: "TS_23"},
         {0: 4.0, 400: 4.0, 1217: 4.0})]
real = pytest.mark.parametrize("one", FILES, ids=lambda one: Path(one.path).stem)
pytestmark = pytest.mark.shared


def raw_rows(path):
    """Labels and values of each row of the last loop of a file, by splitting its lines."""
    labels, rows = [], []
    for line in Path(path).read_text().splitlines():
        words = line.split()
        if words[:1] == ["loop_"]:
            labels, rows = [], []
        elif words and words[0].startswith("_rln"):
            labels.append(words[0][1:])
        elif words and labels and len(words) == len(labels):
            rows.append(dict(zip(labels, words)))
    return rows


def numbers(row, *labels):
    return np.array([float(row.get(label, 0)) for label in labels])


def euler(rot, tilt, psi):
    """RELION's matrix, element by element (spec/warp.md 1.2)."""
    (a, b, c), (sa, sb, sc) = np.cos(np.deg2rad([rot, tilt, psi])), np.sin(np.deg2rad([rot, tilt, psi]))
    return np.array([[c * b * a - sc * sa, c * b * sa + sc * a, -c * sb],
                     [-sc * b * a - c * sa, -sc * b * sa + c * a, sc * sb], [sb * a, sb * sa, b]])


def tilt_series(one, folder, make_series):
    if one.kind == "warptools":
        return relion5.read_project(folder / "warptools" / "warp2_matching_tomograms.star")
    names = [bare_name(row.get("rlnTomoName", row.get("rlnMicrographName"))) for row in raw_rows(folder / one.path)]
    return [make_series(name) for name in dict.fromkeys(names)]


def test_no_particle_table_is_left_out():
    """A table that is added to the data must be added here; the others hold tilts, tomograms or points."""
    folder = need_shared("data")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*.star")
             if re.search(r"^_rln(Coordinate|CenteredCoordinate|AngleRot)", path.read_text(), re.MULTILINE)}
    assert found == {one.path for one in FILES} | {SERIES}


@real
def test_rows_positions_and_poses(one, make_series):
    folder = need_shared("data")
    path = folder / one.path
    particles, problems = read_particles(path, tilt_series(one, folder, make_series))
    raw = raw_rows(path)
    assert dialect(path) == one.kind and len(particles) == len(raw) == one.count
    assert problems == [] and particles.oriented
    for i, name in one.rows.items():
        row = raw[i]
        origin = numbers(row, *("rlnOrigin%sAngst" % axis for axis in "XYZ"))
        box = euler(*numbers(row, *("rlnTomoSubtomogram" + angle for angle in ("Rot", "Tilt", "Psi"))))
        if one.kind == "relion5":
            position = numbers(row, *("rlnCenteredCoordinate%sAngst" % axis for axis in "XYZ"))
        else:
            half = WARPTOOLS_HALF if one.kind == "warptools" else HALF
            position = numbers(row, "rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ") * one.pixel[i] - half
        assert bare_name(particles.names()[i]) == name
        np.testing.assert_allclose(particles.position[i], position - box @ origin, atol=1e-9)
        np.testing.assert_allclose(particles.rotation[i],
                                   box @ euler(*numbers(row, "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")), atol=1e-9)
        assert {label: particles.extra[label][i] for label in row} == row


@pytest.mark.parametrize("one", [one for one in FILES if one.kind.startswith("relion3")],
                         ids=lambda one: Path(one.path).stem)
def test_a_pixel_size_that_is_given_scales_coordinates_alone(one, make_series):
    folder = need_shared("data")
    particles, _ = read_particles(folder / one.path, tilt_series(one, folder, make_series), coordinates_pixel_size=10.0)
    row = raw_rows(folder / one.path)[-1]
    origin = numbers(row, *("rlnOrigin%sAngst" % axis for axis in "XYZ"))
    coordinate = numbers(row, "rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")
    np.testing.assert_allclose(particles.position[-1], 10 * coordinate - HALF - origin, atol=1e-9)


@real
def test_a_round_trip_keeps_every_column_and_value(one, make_series, tmp_path):
    folder = need_shared("data")
    series = tilt_series(one, folder, make_series)
    before, again = star.read(folder / one.path), str(tmp_path / "again.star")
    star.write(again, list(before))
    after = star.read(again)
    assert after.blocks == before.blocks
    for old, new in zip(before, after):
        assert (new.columns, new.rows, new.is_list) == (old.columns, old.rows, old.is_list)
    a, b = (read_particles(path, series)[0] for path in (folder / one.path, again))
    assert (a.extra, a.uid, a.names()) == (b.extra, b.uid, b.names())
    np.testing.assert_array_equal(a.position, b.position)
    np.testing.assert_array_equal(a.rotation, b.rotation)


@real
def test_written_as_relion5_positions_and_poses_stay(one, make_series, tmp_path):
    folder = need_shared("data")
    series = tilt_series(one, folder, make_series)
    particles, _ = read_particles(folder / one.path, series)
    write_particles(str(tmp_path / "again.star"), particles)
    again, problems = read_particles(tmp_path / "again.star", series)
    assert problems == [] and again.uid == particles.uid and again.names() == particles.names()
    np.testing.assert_allclose(again.position, particles.position, rtol=1e-14)
    np.testing.assert_allclose(again.rotation, particles.rotation, atol=1e-9)
    kept = kept_columns(particles.extra)
    assert {name: again.extra[name] for name in kept} == kept


@pytest.fixture
def hiv(tmp_path):
    """TS_01 of EMPIAR-10164, its table of particles, and these as we read them."""
    folder = need_shared("data", "relion5", "hiv_empiar_10164")
    tables = tmp_path / "Tomograms" / "job006" / "tilt_series"
    tables.mkdir(parents=True)
    shutil.copy(str(folder / "tilt_series_TS_01.star"), str(tables / "TS_01.star"))
    series, = relion5.read_project(folder / "tomograms_TS_01.star", base=tmp_path, image_shape=(3838, 3710))
    path = folder / "particles_TS_01_first60.star"
    return series, star.read(path), read_particles(path, [series])[0]


def test_relion5_particles_are_written_back_without_loss(hiv, tmp_path):
    """As the table of an extraction whose offsets are not applied: blocks, columns, values."""
    series, before, particles = hiv
    table = before.table("particles")
    values = {name: numbers_of(table, name, *ends) for name, *ends in (
        ("rlnOrigin", "XAngst", "YAngst", "ZAngst"), ("rlnTomoSubtomogram", "Rot", "Tilt", "Psi"))}
    box = np.array([euler(*angles) for angles in values["rlnTomoSubtomogram"]])
    cut = replace(particles, position=particles.position + np.einsum("nij,nj->ni", box, values["rlnOrigin"]))
    frames = [[int(v) for v in text.strip("[]").split(",")] for text in table.text("rlnTomoVisibleFrames")]
    write_pseudosubtomos(str(tmp_path / "again.star"), cut,
                         {"TS_01": (series.optics_group, series.optics, series.geometry.pixel_size)},
                         table.text("rlnImageName"), None, frames, 1.0, 192, True, values["rlnOrigin"])
    after = star.read(tmp_path / "again.star")
    assert after.blocks == before.blocks
    for old, new in zip(before, after):
        assert set(new.columns) == set(old.columns) and len(new) == len(old) and new.is_list == old.is_list
        for column in old.columns:
            for a, b in zip(old.text(column), new.text(column)):
                assert a == b or float(b) == pytest.approx(float(a), rel=1e-12, abs=1e-9), column
    assert len(table.columns) == 26 and len(table) == 60


def numbers_of(table, name, *ends):
    return np.stack([table.float(name + end) for end in ends], axis=-1)


def test_relion5_particles_are_projected_as_relion_does(hiv):
    """RELION's formula, written out, and the frames that it found visible: those of less than 50 e/A^2."""
    series, before, particles = hiv
    g, table = series.geometry, before.table("particles")
    tilts = star.read(need_shared("data", "relion5", "hiv_empiar_10164", "tilt_series_TS_01.star")).table("TS_01")
    a, b, s = np.deg2rad(tilts.float("rlnTomoZRot")), np.deg2rad(tilts.float("rlnTomoYTilt")), particles.position
    assert not tilts.float("rlnTomoXTilt").any()
    across = s[:, :1] * np.cos(b) + s[:, 2:] * np.sin(b)
    x = (across * np.cos(a) - s[:, 1:2] * np.sin(a) + tilts.float("rlnTomoXShiftAngst")) / 1.35 + 3710 // 2
    y = (across * np.sin(a) + s[:, 1:2] * np.cos(a) + tilts.float("rlnTomoYShiftAngst")) / 1.35 + 3838 // 2
    found = g.project(particles.position)
    assert np.abs(found.xy / 1.35 + (3710 // 2, 3838 // 2) - np.stack([x, y], axis=-1)).max() < 1e-9
    np.testing.assert_allclose(found.depth, s[:, 2:] * np.cos(b) - s[:, :1] * np.sin(b), atol=1e-9)
    seen = visible_tilts(g, found.xy, 192 / 2 * 1.35, max_dose=50)
    assert ["[%s]" % ",".join(map(str, row)) for row in seen.astype(int)] == table.text("rlnTomoVisibleFrames")
    assert seen.sum() == 60 * 17


def test_image_series_of_tomodrgn():
    path = need_shared("data", *SERIES.split("/"))
    found, raw = read_image_series(path), raw_rows(path)
    assert len(found.group) == len(raw) == 98 and len(set(found.group)) == 13
    for i in (0, 5, 97):
        row = raw[i]
        np.testing.assert_allclose(
            found.rotation[i], euler(*numbers(row, "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")), atol=1e-9)
        np.testing.assert_allclose(found.offset[i], numbers(row, "rlnOriginX", "rlnOriginY") * 13.1)
        assert found.image[i] == row["rlnImageName"] and found.pixel_size[i] == 13.1
        assert found.dose[i] == float(row["rlnCtfBfactor"]) / -4
        np.testing.assert_allclose(np.cos(np.deg2rad(found.tilt[i])), float(row["rlnCtfScalefactor"]))
        assert {label: found.extra[label][i] for label in row} == row
    assert found.dose[:3].tolist() == [2, 4, 6] and found.tilt[5] == pytest.approx(9, abs=1e-3)
