"""Warp's XML: what WarpLib itself projects, what every element means, and exports that follow it."""

import os
from dataclasses import replace

import numpy as np
import pytest

from tomoexport import options
from tomoexport.engine import geometry as G
from tomoexport.engine.ctf import Ctf
from tomoexport.engine.deformation import Deformation
from tomoexport.errors import InputError
from tomoexport.io import mrc, project, relion5, star, warpxml
from tomoexport.io.given import Given
from tomoexport.jobs import runner
from tomoexport.jobs.tiltseries import Requirements, identity, load
from tomoexport.tests.io import warpfiles
from tomoexport.tests.io.warpfiles import column, grid
from tomoexport.tests.shared import need_shared

# ---------------------------------------------------------------------- WarpLib's own values of a real series

PIXEL = 0.834
LIMITS = {"position": 0.005, "rotation": 0.001, "defocus": 1.0}  # A, degrees, A


def golden_rows():
    """Points `(P, 3)`, and for each of them and each tilt: x, y, three Euler angles, defocus U, V and angle."""
    text = need_shared("data", "warp", "TS_1", "TS_1_mappings_odd_points.star").read_text()
    tables = {"data_points": [], "data_tilts": [], "data_mappings": []}
    for line in text.splitlines():
        if line.startswith("data_"):
            table = tables[line.strip()]
        elif line.strip() and line.split()[0].lstrip("-").isdigit():
            table.append(line.split())
    points, rows = (np.array(tables[name], float) for name in ("data_points", "data_mappings"))
    which = np.unique(rows[:, 0]).astype(int)
    return points[which - 1], rows.reshape(len(which), -1, 10)[..., 2:]


@pytest.fixture(scope="module")
def golden():
    points, rows = golden_rows()
    assert rows.shape == (14, 41, 8)
    series = warpxml.read_series(str(need_shared("data", "warp", "TS_1", "TS_1.xml")), Given(
        image_shape=(4092, 5760), volume_size=tuple(n * PIXEL for n in (4000, 5700, 1000))))
    return points, rows, series


def differences(golden, geometry):
    """Largest differences from WarpLib's values: positions, A; rotations, degrees; defocus, A."""
    points, rows, series = golden
    found = geometry.project(points)
    top = np.broadcast_to(found.matrix, rows.shape[:2] + (2, 3))
    rotation = np.concatenate([top, np.cross(top[..., 0, :], top[..., 1, :])[..., None, :]], axis=-2)
    rot, tilt, psi = np.moveaxis(rows[..., 2:5], -1, 0)
    expected = G.rotation_z(-psi) @ G.rotation_y(-tilt) @ G.rotation_z(-rot)
    # The Frobenius norm of a difference of rotations is sqrt(8) sin(angle / 2).
    norm = np.linalg.norm(rotation - expected, axis=(-2, -1))
    depth = geometry.hand * found.depth
    defocus = np.stack([series.ctf.defocus_u + depth, series.ctf.defocus_v + depth], -1)
    return {"position": np.abs(found.xy - rows[..., :2]).max(), "defocus": np.abs(defocus - rows[..., 5:7]).max(),
            "rotation": np.rad2deg(2 * np.arcsin(np.minimum(norm / np.sqrt(8), 1))).max()}


@pytest.mark.shared
def test_a_real_series_is_projected_as_warp_does(golden):
    found = differences(golden, golden[2].geometry)
    print("largest differences: %(position).5f A, %(rotation).6f degrees, %(defocus).4f A of defocus" % found)
    assert all(found[name] < limit for name, limit in LIMITS.items())
    assert np.abs(golden[2].ctf.angle - golden[1][0, :, 7]).max() < 1e-3
    assert golden[2].geometry.pixel_size == PIXEL


def swapped(deformation, kind, change):
    """A deformation with the grids of one kind changed."""
    return replace(deformation, **{kind: tuple(type(g)(change(g.values)) for g in getattr(deformation, kind))})


@pytest.mark.shared
@pytest.mark.parametrize("what, noticed", [
    ("tilt", ("position", "rotation", "defocus")), ("level angle x", ("position", "rotation", "defocus")),
    ("level angle y", ("position", "rotation", "defocus")), ("axis", ("position", "rotation")),
    ("offset x", ("position",)), ("offset y", ("position",)), ("hand", ("defocus",)), ("movement", ("position",)),
    ("angle grids", ("rotation",)), ("order of movement", ("position",)), ("time", ("position", "rotation")),
    ("astigmatism", ("defocus",))])
def test_a_wrong_sign_of_each_kind_is_noticed(golden, what, noticed):
    points, rows, series = golden
    g = series.geometry
    local = g.deformation
    level_y = -5.920115  # of the file
    wrong = {
        "tilt": lambda: g.replace(tilt=-g.tilt), "level angle x": lambda: g.replace(xtilt=-g.xtilt),
        "level angle y": lambda: g.replace(tilt=g.tilt + 2 * level_y), "axis": lambda: g.replace(axis=-g.axis),
        "offset x": lambda: g.replace(shift=g.shift * (-1, 1)), "offset y": lambda: g.replace(shift=g.shift * (1, -1)),
        "hand": lambda: g.replace(hand=-g.hand),
        "movement": lambda: g.replace(deformation=swapped(local, "movement", np.negative)),
        "angle grids": lambda: g.replace(deformation=swapped(local, "angle", np.negative)),
        "order of movement": lambda: g.replace(deformation=swapped(local, "movement", lambda v: v.swapaxes(1, 2))),
        "time": lambda: g.replace(deformation=replace(local, time=1 - local.time)), "astigmatism": lambda: g}[what]()
    if what == "astigmatism":
        ctf = series.ctf
        series = replace(series, ctf=replace(ctf, defocus_u=ctf.defocus_v, defocus_v=ctf.defocus_u))
    found = differences((points, rows, series), wrong)
    for name, limit in LIMITS.items():
        assert (found[name] > 5 * limit) if name in noticed else (found[name] < limit), (name, found)


@pytest.mark.shared
def test_warps_import_of_an_alignment_is_read():
    """Offsets and axis as they stand, the tilt with our sign; nothing local, and no CTF yet."""
    path = need_shared("data", "warp", "xf_import", "00254.xml")
    series = warpxml.read_series(str(path), Given(image_shape=(3838, 3710), pixel_size=1.35,
                                                  volume_size=(5400, 5400, 2700)))
    g = series.geometry
    tlt = np.loadtxt(str(need_shared("data", "warp", "xf_import", "00254.tlt")))
    assert np.allclose(g.tilt, -tlt, atol=1e-9) and np.allclose(g.axis, -4.2999735)
    assert np.allclose(g.shift[[0, -1]], [[271.82022, 1.5337157], [-281.4533, -26.020374]])
    assert g.deformation is None and series.ctf is None and series.optics.amplitude_contrast == 0.07
    assert series.images[0] == (str(path.parent.parent / "2" / "average" / "TS_01_041_-60.0.mrc"), 0)
    assert g.acq_order[20] == 0 and g.dose[20] == 0


@pytest.mark.shared
def test_an_early_file_in_two_byte_letters_is_read():
    path = str(need_shared("data", "mdoc", "TS_017", "017.xml"))
    with pytest.raises(InputError, match="how large the tomogram is"):
        warpxml.read_series(path)
    g = warpxml.read_series(path, Given(volume_size=(8000, 8000, 3000))).geometry
    assert g.image_shape == (4096, 4096) and g.pixel_size == 1.971 and g.n_tilts == 60
    assert np.isclose(g.axis[0], 83.22321) and np.isclose(g.tilt[0], 52)
    local = g.deformation
    assert [len(kind) for kind in (local.movement, local.warp, local.angle)] == [2, 3, 3]
    assert local.warp[0].values.ndim == 4 and local.dose.min() == 0 and local.dose.max() == 1


@pytest.mark.shared
def test_a_series_of_warpylib_written_as_xml_is_projected_alike(tmp_path):
    peer = np.load(str(need_shared("reference", "warpylib", "series.npz")))
    lines = {"Angles": peer["tilt_angle_warp_deg"], "Dose": peer["dose"], "AxisAngle": peer["tilt_axis_angle_deg"],
             "AxisOffsetX": peer["axis_offset_angstrom"][:, 0], "AxisOffsetY": peer["axis_offset_angstrom"][:, 1],
             "MoviePath": ["%d.tif" % t for t in range(31)]}
    volume = tuple(peer["volume_size_angstrom"])
    path = warpfiles.write(tmp_path / "peer.xml", lines, {"VolumeDimensionsAngstrom": "%r, %r, %r" % tuple(
        float(v) for v in volume)}, grids=[grid("GridCTF", column(peer["defocus_um"]))])
    series = warpxml.read_series(path, Given(image_shape=(192, 192), pixel_size=8.0))
    found = series.geometry.project(peer["points_angstrom"] - np.array(volume) / 2)
    expected = peer["position_and_defocus"]
    assert np.abs(found.xy + 96 * 8.0 - expected[..., :2]).max() < 0.01
    defocus = (series.ctf.defocus_u + series.geometry.hand * found.depth) / 1e4
    assert np.abs(defocus - expected[..., 2]).max() < 1e-4


# ---------------------------------------------------------------------- what each element means

N = 4
MOVIES = ["../frames/a_%d_%.1f.tif" % (t, 3.0 * t) for t in range(N)]


def basic(**changes):
    """Lines per tilt of a small series."""
    lines = {"Angles": [-3, 0, 3, 6.5], "Dose": [6, 0, 3, 9], "UseTilt": ["True", "True", "False", "True"],
             "AxisAngle": [80, 81, 82, 83], "AxisOffsetX": [1, 2, 3, 4], "AxisOffsetY": [-5, 6, 7, 8],
             "MoviePath": MOVIES}
    lines.update(changes)
    return {name: values for name, values in lines.items() if values is not None}


VOLUME = {"VolumeDimensionsAngstrom": "400, 500, 200"}


@pytest.fixture
def read(tmp_path):
    """Write the small series with changes, and read it."""
    def make(lines=None, attributes=None, shape=(40, 30), pixel=2.0, **how):
        attributes = dict(VOLUME, **(attributes or {}))
        path = warpfiles.write(tmp_path / "ts" / "TS_7.xml", lines or basic(), attributes, **how)
        return warpxml.read_series(path, Given(image_shape=shape, pixel_size=pixel or 0.0))
    return make


def test_lines_and_attributes(read):
    series = read(attributes={"LevelAngleX": "1.5", "LevelAngleY": "-2"})
    g = series.geometry
    assert series.ts_id == "TS_7" and g.volume_size == (400, 500, 200) and g.image_shape == (40, 30)
    assert np.allclose(g.tilt, [5, 2, -1, -4.5]) and np.allclose(g.xtilt, 1.5)
    assert np.allclose(g.axis, [80, 81, 82, 83]) and np.allclose(g.shift, [[1, -5], [2, 6], [3, 7], [4, 8]])
    assert list(g.used) == [True, True, False, True] and list(g.dose) == [6, 0, 3, 9]
    assert list(g.acq_order) == [2, 0, 1, 3]
    assert g.hand == 1 and read(attributes={"AreAnglesInverted": "True"}).geometry.hand == -1
    assert read(basic(UseTilt=None)).geometry.used.all()


def test_inverted_angles_change_nothing_but_the_defocus(read):
    points = np.random.default_rng(1).uniform(-100, 100, (5, 3))
    plain, inverted = (read(attributes={"AreAnglesInverted": text}).geometry for text in ("False", "True"))
    for name in ("xy", "depth", "matrix"):
        assert np.array_equal(getattr(plain.project(points), name), getattr(inverted.project(points), name))
    assert plain.hand == -inverted.hand


def test_magnification_correction_is_no_part_of_the_projection(read):
    g = read(attributes={"MagnificationCorrection": "1.02, 0.01, 0.01, 0.97"}).geometry
    assert np.array_equal(g.magnification, np.broadcast_to(np.eye(2), (N, 2, 2)))


def test_warps_centre_is_half_a_pixel_on_along_odd_sides(read):
    """Half the extent of 31 pixels is pixel 15.5; ours is 15."""
    assert np.allclose(read(shape=(40, 31)).geometry.shift, read().geometry.shift + (1.0, 0))
    assert np.allclose(read(shape=(41, 30)).geometry.shift, read().geometry.shift + (0, 1.0))
    movement = [grid("GridMovementX", np.random.default_rng(2).normal(0, 3, (N, 3, 4)))]
    odd = read(shape=(41, 31), grids=movement).geometry
    seen = np.array([[[5.0, -7.0]] * N])  # from our centre
    expected = odd.deformation.movement[0]((seen[..., 0] + 30) / 62, (seen[..., 1] + 40) / 82, np.arange(N) / 3)
    assert np.allclose(seen[..., 0] - odd.deformation.moved(seen)[..., 0], expected)


def test_ctf(read):
    params = {"Voltage": 200, "Cs": 1.4, "Amplitude": 0.12, "Defocus": 9, "DefocusDelta": 0.2, "DefocusAngle": 33,
              "PhaseShift": 0.25}
    one = read(ctf=params, grids=[grid("GridCTF", column([3, 3.1, 3.2, 3.3]))])
    assert (one.optics.voltage, one.optics.cs, one.optics.amplitude_contrast) == (200, 1.4, 0.12)
    assert np.allclose(one.ctf.defocus_u, [31000, 32000, 33000, 34000])
    assert np.allclose(one.ctf.defocus_v, [29000, 30000, 31000, 32000])
    assert np.allclose(one.ctf.angle, 33) and np.allclose(one.ctf.phase, 45)
    two = read(ctf=params, grids=[grid("GridCTF", column([3, 3.1, 3.2, 3.3])),
                                  grid("GridCTFDefocusDelta", column([0, 0.1, 0.2, 0.3])),
                                  grid("GridCTFDefocusAngle", column([1, 2, 3, 4])),
                                  grid("GridCTFPhase", column([0.5, 0.5, 0, 0]))])
    assert np.allclose(two.ctf.defocus_u - two.ctf.defocus_v, [0, 1000, 2000, 3000])
    assert np.allclose(two.ctf.angle, [1, 2, 3, 4]) and np.allclose(two.ctf.phase, [90, 90, 0, 0])
    assert np.allclose(read(ctf=params).ctf.defocus_u, 91000)
    assert read(ctf=params, grids=[grid("GridCTF", 0)]).ctf is None


def test_grids_become_the_deformation(read):
    rng = np.random.default_rng(3)
    x, z = rng.normal(size=(N, 2, 3)), rng.normal(size=(3, 2, 4, 5))
    d = read(grids=[grid("GridMovementX", x, MarginX=0.1, MarginZ=0.2), grid("GridVolumeWarpZ", z),
                    grid("GridAngleY", column([0, 1, 2, 3]))],
             attributes={"ImageDimensionsAngstrom": "61, 82"}).geometry.deformation
    assert np.array_equal(d.movement[0].values, x) and d.movement[0].margins == (0.1, 0, 0.2)
    assert not d.movement[1].values.any() and np.array_equal(d.warp[2].values, z) and not d.warp[0].values.any()
    assert np.array_equal(d.angle[1].values[:, 0, 0], [0, 1, 2, 3])
    assert np.allclose(d.time, np.arange(N) / 3) and np.allclose(d.dose, [6 / 9, 0, 3 / 9, 1])
    assert d.image_size == (61, 82) and d.image_centre == (30, 40) and d.volume_size == (400, 500, 200)
    assert read(grids=[grid("GridMovementX", 0), grid("GridAngleZ", column(np.zeros(N)))]).geometry.deformation is None


def test_images_are_the_averages_of_the_movies(tmp_path, read):
    def put(*parts, frames=1, pixel=1.7):
        path = tmp_path.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        mrc.write(str(path), np.ones((frames, 26, 22), np.float32), pixel, kind="stack")
        return str(path)

    stems = [movie[10:-4] for movie in MOVIES]
    first = read()
    assert first.images[1] == (str(tmp_path / "frames" / "average" / (stems[1] + ".mrc")), 0)
    assert first.geometry.pixel_size == 2.0 and first.odd is None
    own = [put("elsewhere", "average", stem + ".mrc") for stem in stems]
    assert [p for p, _ in read(basic(MoviePath=["..\\elsewhere\\%s.tif" % s for s in stems])).images] == own
    lines = basic(MoviePath=["../raw/%s.eer" % s for s in stems])
    beside = [put("ts", "average", stem + ".mrc") for stem in stems]
    assert [p for p, _ in read(lines).images] == beside
    named = read(lines, shape=None, pixel=None)
    assert named.geometry.image_shape == (26, 22) and np.isclose(named.geometry.pixel_size, 1.7)
    halves = [[put("ts", "average", half, stem + ".mrc") for stem in stems] for half in ("odd", "even")]
    again = read(lines)
    assert [[p for p, _ in again.odd], [p for p, _ in again.even]] == halves
    os.remove(halves[0][2])
    assert read(lines).odd is None and read(lines).even is not None
    images = [put("plain", "img_%d.mrc" % t) for t in range(N)]
    assert [p for p, _ in read(basic(MoviePath=["../plain/img_%d.mrc" % t for t in range(N)])).images] == images
    put("plain", "img_2.mrc", frames=5)
    with pytest.raises(InputError, match="5 frames"):
        read(basic(MoviePath=["../plain/img_%d.mrc" % t for t in range(N)]))


def test_data_directory_and_base_are_searched(tmp_path, read):
    for folder in ("data", "first"):
        path = tmp_path / folder / "average" / "m.mrc"
        path.parent.mkdir(parents=True)
        mrc.write(str(path), np.ones((1, 26, 22), np.float32), 1.7, kind="stack")
    lines = basic(MoviePath=["m.tif"] * N)
    series = read(lines, {"DataDirectory": str(tmp_path / "data")})
    assert series.images[0][0] == str(tmp_path / "data" / "average" / "m.mrc")
    path = str(tmp_path / "ts" / "TS_7.xml")
    assert warpxml.read_series(path, Given(base=str(tmp_path / "first"))).images[0][0] == str(
        tmp_path / "first" / "average" / "m.mrc")


@pytest.mark.parametrize("attributes, options, ctf, pixel, shape", [
    ({}, {"PixelSize": "1.5", "Dimensions": "45,60,0"}, {"PixelSize": "1.9"}, 1.5, (40, 30)),
    ({}, {"PixelSizeX": "1.4", "PixelSizeY": "1.6", "BinTimes": "1", "Dimensions": "90,120,0"}, None, 3.0, (40, 30)),
    ({"ImageDimensionsAngstrom": "57, 76"}, None, {"PixelSize": "1.9"}, 1.9, (40, 30))])
def test_sizes_without_images(read, attributes, options, ctf, pixel, shape):
    g = read(attributes=attributes, options=options, ctf=ctf, shape=None, pixel=None).geometry
    assert np.isclose(g.pixel_size, pixel) and g.image_shape == shape


@pytest.mark.parametrize("how, word", [
    (dict(lines=basic(Angles=None)), "no Angles"), (dict(lines=basic(AxisAngle=None)), "no AxisAngle"),
    (dict(lines=basic(Dose=[1, 2])), "Dose has 2 lines for 4 tilts"),
    (dict(lines=basic(AxisOffsetX=[0, "nan", 0, 0])), "AxisOffsetX, line 2 is 'nan'"),
    (dict(attributes={"VolumeDimensionsAngstrom": "1, 2"}), "not 3 numbers"),
    (dict(attributes={"VolumeDimensionsAngstrom": "0, 0, 0"}), "how large the tomogram is"),
    (dict(attributes={"LevelAngleX": "flat"}), "LevelAngleX is 'flat'"), (dict(pixel=None), "pixel size"),
    (dict(shape=None), "size of its images"), (dict(root="Movie"), "describes a Movie"),
    (dict(ctf={"Voltage": "5"}), "TS_7.xml, optics: voltage"),
    (dict(grids=['<GridCTF Width="1" Height="1" Depth="2"><Node X="0" Y="0" Z="0" Value="1" /></GridCTF>']),
     "1 nodes instead of 2"),
    (dict(grids=['<GridAngleX Width="1" Height="1" Depth="1"><Node X="0" Y="0" Z="1" Value="1" /></GridAngleX>']),
     "outside the grid"),
    (dict(grids=['<GridAngleX Width="1" Height="1" Depth="1"><Node X="0" Y="0" Z="0" Value="x" /></GridAngleX>']),
     "not a finite number")])
def test_damage_is_named(read, how, word):
    with pytest.raises(InputError, match=word):
        read(**how)


def test_what_is_no_xml_is_refused(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text("<TiltSeries><Angles>1")
    with pytest.raises(InputError, match="no valid XML"):
        warpxml.read_series(str(path))
    with pytest.raises(InputError, match="cannot be read"):
        warpxml.read_series(str(tmp_path / "b.xml"))


# ---------------------------------------------------------------------- projects

def test_a_folder_holds_tilt_series_and_other_things(tmp_path):
    for name in ("TS_2", "TS_10"):
        warpfiles.write(tmp_path / (name + ".xml"), basic(), dict(VOLUME, ImageDimensionsAngstrom="60, 80"),
                        options={"PixelSize": "2"})
    warpfiles.write(tmp_path / "movie.xml", {}, root="Movie")
    (tmp_path / "broken.xml").write_text("nothing")
    found = project.read_project(tmp_path)
    assert [s.ts_id for s in found] == ["TS_10", "TS_2"] and list(found.faults) == ["broken"]
    assert "no valid XML" in str(found.faults["broken"]) and "movie.xml" in found.notes[0]
    assert [s.ts_id for s in project.read_project(str(tmp_path), ["TS_2"])] == ["TS_2"]
    assert [s.ts_id for s in project.read_project(str(tmp_path / "TS_2.xml"))] == ["TS_2"]
    assert found.files("TS_2") == [str(tmp_path / "TS_2.xml")]
    with pytest.raises(InputError, match="no tilt series TS_1"):
        project.read_project(str(tmp_path), ["TS_1"])
    with pytest.raises(InputError, match="no XML of a tilt series"):
        project.read_project(str(tmp_path.parent / tmp_path.name / ".."))


def test_a_star_file_is_relions(make_series, tmp_path):
    path = relion5.write_project(tmp_path, [make_series()])
    one, = found = project.read_project(path)
    assert one.ts_id == "TS_01" and found.files("TS_01") == [path, str(tmp_path / "tilt_series" / "TS_01.star")]
    assert isinstance(found.source, relion5.RelionTables)


# ---------------------------------------------------------------------- exports

OPTIONS = dict(pixel_size=16.0, box=16, diameter=140.0, device="cpu", threads=1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, simulated):
    """A tiny exported project, and its export."""
    folder = tmp_path_factory.mktemp("warp")
    simulated("tiny", into=folder / "data")
    return folder, export(folder, folder / "data" / "tomograms.star", "relion")


def export(folder, tomograms, name, **more):
    """Volumes and 3D CTFs of an export, by particle."""
    out = folder / name
    run = runner.run({"verb": "subtomo", "options": dict(
        OPTIONS, tomograms=str(tomograms), output=str(out), particles=str(folder / "data" / "particles.star"), **more)})
    assert not any(result["error"] for result in run["results"])
    table = star.read(run["collected"]["star"]).table("particles")
    return {image: [mrc.read_volume(str(out / path))[0] for path in (image, ctf)] for image, ctf in zip(
        table.text("rlnImageName"), table.text("rlnCtfImage"))}


def unlike(one, other):
    """Largest difference of two exports, in units of the first one's rms."""
    assert list(one) == list(other) and len(one) == 8
    return max(np.abs(a - b).max() / a.std() for name in one for a, b in zip(one[name], other[name]))


def written(folder, name, change=lambda lines, ctf, g: (lines, ctf), grids=()):
    """The exported series as Warp keeps them."""
    for series in relion5.read_project(str(folder / "data" / "tomograms.star")):
        warpfiles.write_series(folder / name, series, change, grids)
    return folder / name


def test_an_export_by_xml_is_that_by_tomograms_star(exported):
    """Both hands and an x-tilt are among the two series."""
    folder, expected = exported
    table = written(folder, "plain")
    assert unlike(expected, export(folder, table, "from_xml")) < 1e-4
    wrong = written(folder, "wrong", lambda lines, ctf, g: (dict(lines, Angles=g.tilt), ctf))
    assert unlike(expected, export(folder, wrong, "from_wrong")) > 0.5


def test_movement_and_warp_are_followed_by_an_export(exported):
    """A movement and a warp that are the same everywhere, taken back by offsets and defocus, change nothing."""
    folder, expected = exported
    movement, warp = (24.0, -16.0), np.array([11.0, -30.0, 300.0])
    grids = [grid("GridMovementX", movement[0]), grid("GridMovementY", movement[1])]
    grids += [grid("GridVolumeWarp" + axis, np.full((1, 1, 1, 1), value)) for axis, value in zip("XYZ", warp)]

    def take_back(lines, ctf, g):
        shift = g.shift - g.rotation[:, :2] @ warp + movement
        depth = g.hand * g.rotation[:, 2] @ warp
        return dict(lines, AxisOffsetX=shift[:, 0], AxisOffsetY=shift[:, 1]), Ctf(
            ctf.optics, ctf.defocus_u - depth, ctf.defocus_v - depth, ctf.angle, ctf.phase)

    assert unlike(expected, export(folder, written(folder, "moved", take_back, grids), "moved_out")) < 1e-3
    left = written(folder, "left", take_back, grids[:1])
    assert unlike(expected, export(folder, left, "left_out")) > 0.5


def test_angles_of_an_export_turn_volumes_and_not_positions(exported):
    """A turn of 180 degrees about the beam is a turn of image and volume, to be seen in the volume alone."""
    folder, _ = exported
    straight, turned = (export(folder, written(folder, name, grids=[grid("GridAngleZ", angle)]), name + "_out")
                        for name, angle in (("straight", 1e-7), ("turned", 180.0)))
    for name in straight:
        volume, other = straight[name][0], turned[name][0]
        # Frequencies q become -q: the volume is mirrored through its centre, voxel N//2; the first voxels have no mate.
        mirrored = other[:0:-1, :0:-1, :0:-1]
        assert np.corrcoef(volume[1:, 1:, 1:].ravel(), mirrored.ravel())[0, 1] > 0.99999
        assert np.corrcoef(volume.ravel(), other.ravel())[0, 1] < 0.9


def test_an_export_is_redone_where_the_local_alignment_has_changed(exported):
    folder, _ = exported
    keys = []
    for value in (None, 5.0, 6.0):
        grids = [] if value is None else [grid("GridMovementX", value)]
        table = written(folder, "changing", grids=grids)
        keys.append(identity(project.read_project(str(table), ["TS_01"])[0])[0])
    assert keys[0] != keys[1] != keys[2]


def test_whole_tomograms_follow_the_global_alignment(exported):
    folder, _ = exported
    made = []
    for name, grids in (("flat", []), ("wavy", [grid("GridMovementX", 40.0), grid("GridAngleZ", 9.0)])):
        table = written(folder, name, grids=grids)
        run = runner.run({"verb": "reconstruct", "options": dict(
            pixel_size=16.0, device="cpu", threads=1, tomograms=str(table), output=str(folder / (name + "_rec")))})
        made.append([mrc.read_volume(path)[0] for result in run["results"] for path in sorted(result["files"])
                     if path.endswith(".mrc")])
    assert len(made[0]) == 2 and all(np.array_equal(a, b) for a, b in zip(*made))


def test_the_local_part_is_what_the_file_says(exported):
    """Not a series without deformation, by mistake, in the tests above."""
    folder, _ = exported
    table = written(folder, "kinds", grids=[grid("GridMovementX", 40.0)])
    assert all(isinstance(s.geometry.deformation, Deformation) for s in project.read_project(str(table)))


def test_the_size_of_the_tomogram_can_be_given(exported):
    folder, expected = exported
    table = written(folder, "sizeless")
    sizes = {}
    for path in map(str, sorted(table.glob("*.xml"))):
        with open(path) as file:
            text = file.read()
        with open(path, "w") as file:
            file.write(text.replace("VolumeDimensionsAngstrom", "Forgotten"))
        sizes[path] = warpxml.read_series(path, Given(size_px=(64, 60, 30))).geometry.volume_size
    assert set(sizes.values()) == {(512.0, 480.0, 240.0)}
    with pytest.raises(InputError, match="--tomogram-size"):
        export(folder, table, "sizeless_out")
    for wrong in ("64", "64x60xdeep", "0x1x1"):
        with pytest.raises(InputError, match="no size of a tomogram"):
            export(folder, table, "sizeless_out", tomogram_size=wrong)
    assert unlike(expected, export(folder, table, "sizeless_out", tomogram_size="64x60x30")) < 1e-4
    how = options.from_dict("reconstruct", {"tomograms": str(table), "tomogram_size": "64 x 60 x 30"})
    assert load("reconstruct", how, Requirements(ctf=False))[0][0].geometry.volume_size == (512.0, 480.0, 240.0)
