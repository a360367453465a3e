"""RELION 5 projects: exact round trips, real tables, and what is missing is named."""
import os
import re
import shutil

import numpy as np
import pytest

from tomoexport.engine.geometry import from_imod_transform, projection_matrices
from tomoexport.errors import InputError
from tomoexport.io import mrc, relion5, star
from tomoexport.io.star import Table
from tomoexport.jobs import runner
from tomoexport.options import from_dict

GEOMETRY = ("tilt", "axis", "xtilt", "shift", "dose", "magnification", "used", "acq_order")


def assert_same(one, two, tolerance=1e-9):
    a, b = one.geometry, two.geometry
    assert (a.ts_id, a.image_shape, a.pixel_size, a.hand) == (b.ts_id, b.image_shape, b.pixel_size, b.hand)
    assert a.volume_size == b.volume_size
    for name in GEOMETRY:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=0, atol=tolerance)
    assert (one.ctf is None) == (two.ctf is None)
    if one.ctf is not None:
        for name in ("defocus_u", "defocus_v", "angle", "phase", "bfactor", "scale"):
            np.testing.assert_array_equal(getattr(one.ctf, name), getattr(two.ctf, name))
    assert (one.images, one.odd, one.even) == (two.images, two.odd, two.even)
    assert (one.optics, one.optics_group) == (two.optics, two.optics_group)
    assert (one.extra, one.tomo_extra) == (two.extra, two.tomo_extra)


@pytest.fixture
def edit(make_series, tmp_path):
    """Write a project of one series, with columns changed (dict) or taken away (None); return its path."""
    def make(tilts=None, tomogram=None, **fields):
        path = relion5.write_project(tmp_path / "project", [make_series(**fields)])
        for file, changes in ((path, tomogram), (str(tmp_path / "project" / "tilt_series" / "TS_01.star"), tilts)):
            table, = star.read(file)
            columns = {column: table.text(column) for column in table.columns}
            columns.update(changes or {})
            star.write(file, [Table.from_columns(table.name, {k: v for k, v in columns.items() if v is not None})])
        return path
    return make


@pytest.mark.parametrize("paths", ["relative", "absolute"])
def test_round_trip(make_series, tmp_path, paths):
    full = make_series("TS_01", 5, used=[True, False, True, True, True], acq_order=[4, 2, 0, 1, 3])
    bare = make_series("TS_02", 3, (12, 8), "other.mrc", ctf=False, hand=1)
    full = full.__class__(full.geometry, full.ctf, full.images, full.images[::-1], full.images, "group", full.optics,
                          {"rlnTomoNominalStageTiltAngle": ["1", "02", "3.0", "it's", ""]}, {"rlnNote": "a b"})
    path = relion5.write_project(tmp_path / "out", [full, bare], paths=paths)
    assert path == str(tmp_path / "out" / "tomograms.star")
    one, two = relion5.read_project(path)
    assert_same(one, full)
    bare.tomo_extra["rlnNote"] = ""
    assert_same(two, bare)
    only, = relion5.read_project(path, ["TS_02"])
    assert_same(only, bare)
    again = relion5.write_project(tmp_path / "again", [one, two], paths="absolute")
    assert_same(relion5.read_project(again)[0], full)


def test_project_can_move(make_series, tmp_path):
    (tmp_path / "out").mkdir()
    series = make_series(stack="out/stack.mrcs")
    relion5.write_project(tmp_path / "out", [series])
    shutil.move(str(tmp_path / "out"), str(tmp_path / "moved"))
    moved, = relion5.read_project(tmp_path / "moved" / "tomograms.star")
    assert moved.images[0][0] == str(tmp_path / "moved" / "stack.mrcs")
    assert moved.check_files() == []


def test_magnification_goes_through_projection_matrices(make_series, tmp_path):
    distortion = np.array([[1.02, 0.01], [0.01, 0.99]]) + np.zeros((3, 1, 1))
    series = make_series(magnification=distortion)
    back, = relion5.read_project(relion5.write_project(tmp_path, [series]))
    assert_same(back, series)
    relion5.write_project(tmp_path, [make_series()])
    assert not star.read(tmp_path / "tilt_series" / "TS_01.star").table("TS_01").has("rlnTomoProjX")


def test_projection_matrices_win_row_by_row(make_series, tmp_path):
    series = make_series(magnification=np.tile(np.eye(2) * 1.01, (3, 1, 1)))
    path = relion5.write_project(tmp_path, [series])
    file = str(tmp_path / "tilt_series" / "TS_01.star")
    table = star.read(file).table("TS_01")
    columns = {column: table.text(column) for column in table.columns}
    columns["rlnTomoProjY"][1] = "None"
    columns["rlnTomoYTilt"] = ["11", "22", "33"]
    star.write(file, [Table.from_columns("TS_01", columns)])
    g = relion5.read_project(path)[0].geometry
    np.testing.assert_allclose(g.tilt, [-40, 22, 40], atol=1e-9)
    np.testing.assert_allclose(g.magnification[:, 0, 0], [1.01, 1, 1.01], atol=1e-9)
    columns["rlnTomoProjY"][1] = "[1,2,x,4]"
    star.write(file, [Table.from_columns("TS_01", columns)])
    with pytest.raises(InputError, match=r"TS_01.star:\d+: rlnTomoProjY is '\[1,2,x,4\]', not four numbers"):
        relion5.read_project(path)


@pytest.mark.parametrize("column, values, tilts, px", [
    ("rlnTomoYTilt", ["-40", "1", "40"], 1, 0.18), ("rlnTomoXShiftAngst", ["170", "170", "170"], 3, 100),
    ("rlnTomoZRot", ["None", "0", "0"], 2, 49)])
def test_matrices_and_angles_that_disagree_are_told(make_series, tmp_path, column, values, tilts, px):
    """RELION takes the matrices without a word; angles of a later alignment would be lost."""
    one = make_series(tilt=[-40, 0, 40], shift=np.zeros((3, 2)))
    path, file = relion5.write_project(tmp_path, [one]), str(tmp_path / "tilt_series" / "TS_01.star")
    table = star.read(file).table("TS_01")
    columns = {name: table.text(name) for name in table.columns}
    rows = projection_matrices(one.geometry).transpose(1, 0, 2).tolist()
    columns.update(("rlnTomoProj" + name, ["[%s]" % ",".join(map(repr, vector)) for vector in vectors])
                   for name, vectors in zip("XYZW", rows))
    star.write(file, [Table.from_columns("TS_01", columns)])
    agreeing, = relion5.read_project(path)
    assert agreeing.notes == ()
    assert_same(agreeing, one)
    columns[column] = values
    star.write(file, [Table.from_columns("TS_01", columns)])
    series, = relion5.read_project(path)
    assert_same(series, one)
    note, = series.notes
    assert re.match(r"rlnTomoProjX/Y/Z and the angles and shifts of %d tilts disagree, by up to" % tilts, note)
    assert "The matrices count, as in RELION" in note
    assert float(re.search(r"up to (\S+) px", note).group(1)) == pytest.approx(px, rel=0.05)
    # Where the images are, and with them their centre, is needed to compare shifts.
    os.remove(tmp_path / "stack.mrcs")
    assert relion5.read_project(path)[0].notes == ()


def test_matrices_that_disagree_are_a_warning_of_the_plan(make_series, tmp_path):
    series = make_series(magnification=np.tile(np.eye(2) * 1.01, (3, 1, 1)))
    path, file = relion5.write_project(tmp_path, [series]), str(tmp_path / "tilt_series" / "TS_01.star")

    def told():
        planned = runner.plan("reconstruct", from_dict("reconstruct", {"tomograms": path, "pixel_size": 4}))
        return [str(problem) for problem in planned.problems if "disagree" in str(problem)]

    assert told() == []  # a distortion is no disagreement
    table = star.read(file).table("TS_01")
    columns = {name: table.text(name) for name in table.columns}
    star.write(file, [Table.from_columns("TS_01", dict(columns, rlnTomoYTilt=["1", "2", "3"]))])
    text, = told()
    assert text.startswith("TS_01: rlnTomoProjX/Y/Z and the angles and shifts of 3 tilts disagree")


def test_select_keeps_everything_together(make_series):
    series = make_series(n=4)
    series.extra["rlnX"] = list("abcd")
    some = series.select(np.array([True, False, False, True]))
    assert some.images == (series.images[0], series.images[3]) and some.extra == {"rlnX": ["a", "d"]}
    np.testing.assert_array_equal(some.ctf.defocus_u, series.ctf.defocus_u[[0, 3]])
    with pytest.raises(InputError, match="images: 2 values for 4 tilts"):
        series.__class__(series.geometry, None, series.images[:2])


def test_F03_stack_with_other_number_of_images(make_series, tmp_path):
    series = make_series(n=4)
    path = series.images[0][0]
    assert series.check_files() == []
    mrc.write(path, np.ones((3, 10, 12)), 1.7, "stack")
    with pytest.raises(InputError, match="it has 3 images, tilt series TS_01 needs 4"):
        series.check_files()
    mrc.write(path, np.ones((6, 10, 12)), 3.4, "stack")
    notes = series.check_files()
    assert len(notes) == 2
    assert "2 of its 6 images are not in the table of TS_01" in notes[0]
    assert "the header says 3.4 A per pixel, the table of TS_01 1.7 A" in notes[1]
    mrc.write(path, np.ones((4, 12, 10)), 1.7, "stack")
    with pytest.raises(InputError, match="its images have 10 x 12 px, tilt series TS_01 has 12 x 10"):
        series.check_files()
    os.remove(path)
    with pytest.raises(InputError, match="no such file"):
        series.check_files()


def test_F03_images_that_are_not_there_do_not_keep_the_table_from_being_read(edit, tmp_path):
    path = edit()
    os.remove(tmp_path / "stack.mrcs")
    assert relion5.read_project(path)[0].geometry.image_shape == (60, 40)
    assert relion5.read_project(path, image_shape=(10, 12))[0].geometry.image_shape == (10, 12)


def test_image_names(edit, tmp_path):
    for i in range(3):
        mrc.write(tmp_path / ("%d.mrc" % i), np.ones((10, 12)), 1.7, "image")
    path = edit({"rlnMicrographName": ["../0.mrc", "1@../1.mrc", "../2.mrc:mrc"]})
    series, = relion5.read_project(path)
    assert series.images == tuple((str(tmp_path / ("%d.mrc" % i)), 0) for i in range(3))
    assert series.check_files() == []
    relion5.write_project(tmp_path / "project", [series])
    table = star.read(tmp_path / "project" / "tilt_series" / "TS_01.star").table("TS_01")
    assert table.text("rlnMicrographName") == ["../0.mrc", "../1.mrc", "../2.mrc"]


def test_stack_named_in_the_tomogram_table_and_tables_in_one_file(edit, tmp_path):
    """As RELION 4 has it."""
    tomogram, = star.read(edit(tomogram={"rlnTomoTiltSeriesStarFile": None, "rlnTomoTiltSeriesName": ["../stack.mrcs"],
                                         "rlnTomoFrameCount": ["3"]}))
    tilts, = star.read(tmp_path / "project" / "tilt_series" / "TS_01.star")
    columns = {column: tilts.text(column) for column in tilts.columns if column != "rlnMicrographName"}
    path = str(tmp_path / "project" / "relion4.star")
    star.write(path, [tomogram, Table.from_columns("TS_01", columns)])
    series, = relion5.read_project(path)
    assert series.images == tuple((str(tmp_path / "stack.mrcs"), i) for i in range(3))
    assert series.check_files() == [] and series.tomo_extra == {}
    star.write(path, [Table.from_columns("global", {c: tomogram.text(c) for c in tomogram.columns
                                                    if c != "rlnTomoTiltSeriesName"}),
                      Table.from_columns("TS_01", columns)])
    with pytest.raises(InputError, match="Name the images: rlnMicrographName"):
        relion5.read_project(path)


def test_F10_duplicate_tomogram(make_series, tmp_path):
    with pytest.raises(InputError, match="TS_01: the name occurs twice"):
        relion5.write_project(tmp_path, [make_series(), make_series()])
    path = relion5.write_project(tmp_path, [make_series()])
    table, = star.read(path)
    star.write(path, [Table("global", table.columns, table.rows * 2)])
    with pytest.raises(InputError, match=r"tomograms.star.* tomogram TS_01 occurs twice"):
        relion5.read_project(path)


@pytest.mark.parametrize("name", [
    "001", "1", "nan", "TS 1", "ü", "a/b", "../x", "$(rm)", "-rf", "x" * 300, "#1", "it's"])
def test_F11_odd_names(make_series, tmp_path, name):
    series = make_series(name)
    path = relion5.write_project(tmp_path / "out", [series])
    file, = os.listdir(tmp_path / "out" / "tilt_series")
    assert sorted(os.listdir(tmp_path)) == ["out", "stack.mrcs"]
    assert_same(relion5.read_project(path, [name])[0], series)


@pytest.mark.parametrize("column, cause", [
    ("rlnVoltage", "no column rlnVoltage"), ("rlnSphericalAberration", "no column rlnSphericalAberration"),
    ("rlnAmplitudeContrast", "no column rlnAmplitudeContrast"), (("rlnVoltage", "0"), "voltage is 0"),
    (("rlnVoltage", "None"), "voltage is nan"), (("rlnAmplitudeContrast", "7"), "amplitude contrast is 7"),
    (("rlnVoltage", "high"), "rlnVoltage is 'high', not a number")])
def test_F20_optics(edit, column, cause):
    path = edit(tomogram={column: None} if isinstance(column, str) else {column[0]: [column[1]]})
    with pytest.raises(InputError, match=r"tomograms.star:\d+.*" + cause) as error:
        relion5.read_project(path)
    assert error.value.remedy


def test_F20_series_without_optics_is_not_written(make_series, tmp_path):
    series = make_series()
    with pytest.raises(InputError, match="TS_01: voltage, spherical aberration"):
        relion5.write_project(tmp_path, [series.__class__(series.geometry, None, series.images)])


@pytest.mark.parametrize("missing", ["rlnTomoYTilt", "rlnTomoZRot", "rlnTomoXShiftAngst", "rlnTomoYShiftAngst"])
def test_F21_missing_alignment(edit, missing):
    with pytest.raises(InputError, match=r"TS_01.star.*alignment is missing: there is no column %s\. Align" % missing):
        relion5.read_project(edit({missing: None}))


def test_F21_alignment_without_a_value(edit):
    with pytest.raises(InputError, match=r"TS_01.star.*tilt of tilt 2 is not a finite number"):
        relion5.read_project(edit({"rlnTomoYTilt": ["1", "None", "3"]}))


@pytest.mark.parametrize("table, column, cause", [
    ("tomogram", "rlnTomoHand", "defocus handedness"), ("tomogram", "rlnTomoSizeY", "size of the tomogram"),
    ("tomogram", "rlnTomoTiltSeriesPixelSize", "pixel size of the tilt images"),
    ("tilts", "rlnMicrographPreExposure", "dose before each exposure"), ("tilts", "rlnDefocusV", "both defoci")])
def test_missing_columns_come_with_a_remedy(edit, table, column, cause):
    with pytest.raises(InputError, match="there is no column %s. .*%s" % (column, cause)):
        relion5.read_project(edit(**{table: {column: None}}))


@pytest.mark.parametrize("column, value, cause", [
    ("rlnTomoHand", "0", "hand 0"), ("rlnTomoHand", "0.5", "not an integer"), ("rlnTomoSizeX", "-999", "tomogram size"),
    ("rlnTomoTiltSeriesPixelSize", "0", "size")])
def test_values_without_meaning(edit, column, value, cause):
    with pytest.raises(InputError, match=cause):
        relion5.read_project(edit(tomogram={column: [value]}))


def test_tilts_without_ctf(edit, tmp_path):
    names = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
    path = edit({name: ["1.0", "", "nan"] for name in names})
    series, = relion5.read_project(path)
    assert series.ctf.measured.tolist() == [True, False, False]
    again, = relion5.read_project(relion5.write_project(tmp_path / "again", [series]))
    assert again.ctf.measured.tolist() == [True, False, False]
    with pytest.raises(InputError, match=r"TS_01.star:\d+: rlnPhaseShift is no finite number"):
        relion5.read_project(edit({"rlnPhaseShift": ["0", "nan", "0"]}))
    none, = relion5.read_project(edit(dict.fromkeys(names)))
    assert none.ctf is None
    assert relion5.read_project(edit({"rlnCtfScalefactor": None}))[0].ctf.scale is None


def test_order_of_acquisition(edit):
    g = relion5.read_project(edit({"tomoexportAcquisitionOrder": None, "tomoexportUsed": None,
                                   "rlnMicrographPreExposure": ["5", "0", "9"]}))[0].geometry
    assert g.acq_order.tolist() == [1, 0, 2] and g.used.all()


def test_unknown_names_are_listed(edit):
    with pytest.raises(InputError, match="there is no tomogram TS_1. The names are: TS_01"):
        relion5.read_project(edit(), ["TS_1"])


@pytest.mark.shared
def test_reference_project(shared):
    folder = shared / "reference" / "relion5"
    truth = np.load(folder / "truth.npz")
    for series in relion5.read_project(folder / "tomograms.star"):
        assert series.check_files() == []
        g = series.geometry
        get = lambda name: truth["%s_%s" % (g.ts_id, name)]  # noqa: B023,E731
        np.testing.assert_allclose(g.rotation, get("R"), atol=1e-7)
        np.testing.assert_allclose(g.shift, get("shift_A"), atol=1e-6)
        np.testing.assert_allclose(g.dose, get("pre"))
        np.testing.assert_allclose(series.ctf.defocus_u, get("dU"), atol=1e-5)
        assert g.hand == int(get("hand"))
        xf = np.loadtxt(folder / "imod" / g.ts_id / (g.ts_id + ".xf"))
        transform = np.concatenate([xf[:, :4].reshape(-1, 2, 2), xf[:, 4:, None]], axis=2)
        imod = from_imod_transform(transform, g.image_shape, g.pixel_size)
        np.testing.assert_allclose(imod["shift"] / g.pixel_size, g.shift / g.pixel_size, atol=0.005)


@pytest.mark.shared
def test_real_project_with_angles(shared, tmp_path):
    folder = shared / "data" / "relion5" / "hiv_empiar_10164"
    (tmp_path / "Tomograms" / "job006" / "tilt_series").mkdir(parents=True)
    shutil.copy(folder / "tilt_series_TS_01.star", tmp_path / "Tomograms" / "job006" / "tilt_series" / "TS_01.star")
    series, = relion5.read_project(folder / "tomograms_TS_01.star", base=tmp_path, image_shape=(3838, 3710))
    g = series.geometry
    assert (g.n_tilts, g.hand, g.pixel_size, g.volume_size) == (40, -1, 1.35, (5400.0, 5400.0, 2700.0))
    assert g.tilt[0] == -57 and g.acq_order[0] == 38 and series.ctf.scale[0] == 0.544639
    assert series.images[0][0] == str(tmp_path / "MotionCorr/job002/frames/TS_01_038_-57_0.mrc")
    assert series.odd[0][0].endswith("_ODD.mrc") and series.even[0][0].endswith("_EVN.mrc")
    path = relion5.write_project(tmp_path / "out", [series], base=tmp_path)
    back, = relion5.read_project(path, base=tmp_path, image_shape=(3838, 3710))
    assert_same(back, series)
    # Nothing is lost: every column and value of both tables, text as text and numbers as numbers.
    written = star.read(tmp_path / "out" / "tilt_series" / "TS_01.star").table("TS_01")
    for before, after, others in ((star.read(folder / "tilt_series_TS_01.star").table("TS_01"), written, {}),
                                  (star.read(folder / "tomograms_TS_01.star").table("global"), star.read(path).table(
                                      "global"), {"rlnTomoTiltSeriesStarFile": ["out/tilt_series/TS_01.star"]})):
        assert len(before) == len(after) and len(before.columns) in (28, 16)
        for column in before.columns:
            expected, found = others.get(column, before.text(column)), after.text(column)
            assert len(found) == len(expected) and all(
                a == b or float(a) == float(b) for a, b in zip(found, expected)), column


@pytest.mark.shared
def test_real_project_with_matrices_and_angles_agrees_with_itself(shared, tmp_path):
    folder = shared / "data" / "relion5" / "import_220728"
    (tmp_path / "tilt_series_metadata").mkdir()
    shutil.copytree(folder / "tilt_series", tmp_path / "tilt_series_metadata" / "tilt_series")
    names = ["220728_TS_01", "220728_TS_03"]
    for series in relion5.read_project(folder / "tilt_series.star", names, tmp_path, (3838, 3710)):
        g = series.geometry
        table = star.read(folder / "tilt_series" / (g.ts_id + ".star")).table(g.ts_id)
        for column, values, tolerance in (("YTilt", g.tilt, 1e-5), ("ZRot", g.axis, 1e-5), ("XTilt", g.xtilt, 1e-5),
                                          ("XShiftAngst", g.shift[:, 0], 1e-5), ("YShiftAngst", g.shift[:, 1], 1e-5)):
            np.testing.assert_allclose(values, table.float("rlnTomo" + column), atol=tolerance)
        np.testing.assert_allclose(g.magnification, np.eye(2) + np.zeros((41, 1, 1)), atol=1e-7)
        assert series.notes == ()
        # The same tables without matrices: those we build from angles and shifts are RELION's, at the volume's corners.
        given = np.array([[[float(value) for value in text.strip("[]").split(",")]
                           for text in table.text("rlnTomoProj" + row)] for row in "XYZW"]).transpose(1, 0, 2)
        file = str(tmp_path / "tilt_series_metadata" / "tilt_series" / (g.ts_id + ".star"))
        star.write(file, [Table.from_columns(g.ts_id, {column: table.text(column) for column in table.columns
                                                       if not column.startswith("rlnTomoProj")})])
        angles, = relion5.read_project(folder / "tilt_series.star", [g.ts_id], tmp_path, (3838, 3710))
        corners = np.array(np.meshgrid((0, 4000), (0, 4000), (0, 3000), 1)).reshape(4, -1)
        apart = (projection_matrices(angles.geometry) - given) @ corners
        print("%s: images %.1e px, depth %.1e px" % (g.ts_id, np.abs(apart[:, :2]).max(), np.abs(apart[:, 2]).max()))
        assert given.shape == (41, 4, 4) and np.abs(apart).max() < 1e-3
    with pytest.raises(InputError, match="no such file"):
        relion5.read_project(folder / "tilt_series.star", ["220728_TS_43"], tmp_path)


@pytest.mark.shared
def test_real_warptools_project(shared, tmp_path):
    series = relion5.read_project(shared / "data" / "warptools" / "warp2_matching_tomograms.star")
    assert [one.ts_id for one in series] == ["TS_%d.tomostar" % i for i in (17, 32, 1, 11, 23)]
    g = series[0].geometry
    assert g.volume_size == pytest.approx((4400 * 0.7894, 6000 * 0.7894, 1000 * 0.7894))
    np.testing.assert_allclose(np.cos(np.deg2rad(g.tilt)), series[0].ctf.scale, atol=6e-4)
    np.testing.assert_allclose(g.axis, -85.6, atol=0.01)
    for one, back in zip(series, relion5.read_project(relion5.write_project(tmp_path, series))):
        assert_same(back, one)
    # Rotations alone, which RELION takes for projections: particles would be cut out anywhere.
    for one in series:
        with pytest.raises(InputError, match=r"warp2_matching_tomograms.star.*have no shifts.*XML files of Warp"):
            one.check_files()
