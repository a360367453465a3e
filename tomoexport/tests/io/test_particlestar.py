"""Particles in the dialects that programs write."""
import numpy as np
import pytest

from tomoexport.engine.poses import matrix_from_zyz
from tomoexport.errors import InputError
from tomoexport.io import particlestar, relion5
from tomoexport.io.particlestar import bare_name, dialect, match_names, read_particles
from tomoexport.io.star import Table, read, write

SIZE = np.array([40, 60, 20]) * 1.7  # of conftest.make_series, angstrom


@pytest.fixture
def particle_file(tmp_path):
    """Write a particle table, and optics if given, from columns."""
    def make(optics=None, block="particles", **columns):
        path = str(tmp_path / "particles.star")
        tables = [Table.from_columns("optics", {"rln" + k: v for k, v in optics.items()})] if optics else []
        write(path, tables + [Table.from_columns(block, {"rln" + k: v for k, v in columns.items()})])
        return path
    return make


def xyz(prefix, values, suffix=""):
    return {prefix + axis + suffix: list(column) for axis, column in zip("XYZ", np.atleast_2d(values).T)}


def test_relion5_with_offset_in_a_turned_box(particle_file, make_series):
    c, o = np.array([10.0, -20.0, 5.0]), np.array([1.0, 2.0, 3.0])
    path = particle_file(
        {"OpticsGroup": [1], "ImagePixelSize": [4.0]}, TomoName=["TS_01"], OpticsGroup=[1],
        TomoParticleName=["TS_01/7"], **xyz("CenteredCoordinate", c, "Angst"), **xyz("Origin", o, "Angst"),
        **xyz("Coordinate", c * 9),
        TomoSubtomogramRot=[10.0], TomoSubtomogramTilt=[20.0], TomoSubtomogramPsi=[30.0],
        AngleRot=[40.0], AngleTilt=[50.0], AnglePsi=[60.0])
    particles, problems = read_particles(path, [make_series()])
    box = matrix_from_zyz(10, 20, 30)
    assert dialect(path) == "relion5" and problems == []
    np.testing.assert_allclose(particles.position[0], c - box @ o)
    np.testing.assert_allclose(particles.rotation[0], box @ matrix_from_zyz(40, 50, 60))
    assert particles.uid == ("TS_01/7",) and particles.oriented
    assert particles.extra["rlnImagePixelSize"] == ["4.0"] and particles.extra["rlnOriginXAngst"] == ["1.0"]


def test_relion4_counts_tilt_series_pixels(particle_file, make_series):
    path = particle_file({"OpticsGroup": [1, 2], "TomoTiltSeriesPixelSize": [1.7, 3.4], "ImagePixelSize": [8, 8]},
                         TomoName=["TS_01"] * 2, OpticsGroup=[1, 2], **xyz("Coordinate", [[20, 30, 10], [11, 15, 6]]))
    particles, _ = read_particles(path, [make_series()])
    assert dialect(path) == "relion4" and not particles.oriented
    np.testing.assert_allclose(particles.position, [[0, 0, 0], [3.4, 0, 3.4]], atol=1e-12)
    assert particles.uid == ("TS_01/1", "TS_01/2")
    bare = particle_file(TomoName=["TS_01"], **xyz("Coordinate", [21, 30, 10]))
    np.testing.assert_allclose(read_particles(bare, [make_series()])[0].position, [[1.7, 0, 0]], atol=1e-12)


@pytest.mark.parametrize("series_pixel", [1.7, 8.5])
def test_warptools_counts_particle_pixels(particle_file, make_series, series_pixel):
    path = particle_file({"OpticsGroup": [1], "TomoTiltSeriesPixelSize": [series_pixel], "ImagePixelSize": [8.5]},
                         TomoName=["TS_01.tomostar"], OpticsGroup=[1], **xyz("Coordinate", [4, 6, 3]))
    assert dialect(path) == "warptools"
    np.testing.assert_allclose(read_particles(path, [make_series()])[0].position, [[0, 0, 8.5]], atol=1e-12)


def test_relion31_offsets_and_pixel_size_of_the_coordinates(particle_file, make_series):
    path = particle_file({"OpticsGroup": [1], "ImagePixelSize": [2.0]}, MicrographName=["rec/TS_01_6.80Apx.mrc"],
                         OpticsGroup=[1], **xyz("Coordinate", [5, 7.5, 2.5]), **xyz("Origin", [2, 4, 6], "Angst"))
    assert dialect(path) == "relion3.1"
    series = [make_series()]
    np.testing.assert_allclose(read_particles(path, series, coordinates_pixel_size=6.8)[0].position, [[-2, -4, -6]],
                               atol=1e-12)
    np.testing.assert_allclose(read_particles(path, series)[0].position,
                               [np.array([10, 15, 5]) - SIZE / 2 - [2, 4, 6]])


def test_relion30_offsets_in_pixels_of_the_images(particle_file, make_series):
    path = particle_file(block="", MicrographName=["TS_01.tomostar"], Magnification=[10000.0], DetectorPixelSize=[2.0],
                         **xyz("Coordinate", [5, 7.5, 2.5]), **xyz("Origin", [1, 2, 3]))
    assert dialect(path) == "relion3.0"
    particles, _ = read_particles(path, [make_series()], coordinates_pixel_size=6.8)
    np.testing.assert_allclose(particles.position, [[-2, -4, -6]], atol=1e-12)


@pytest.mark.parametrize("how, expected", [
    (dict(), [[3.4, 3.4, 3.4]]),
    (dict(centre="imod"), [[3.4 + 1.7, 3.4 + 1.7, 3.4 + 1.7]]),
    (dict(centre="imod", tomogram_binning=4), [[3.4 + 3.4, 3.4 + 3.4, 3.4 + 3.4]])])
def test_centre_of_the_tomogram(particle_file, make_series, how, expected):
    """(N-1)/2 lies half a voxel of the tomogram before N//2."""
    path = particle_file(MicrographName=["TS_01"], **xyz("Coordinate", [11, 16, 6]))
    particles, _ = read_particles(path, [make_series()], coordinates_pixel_size=3.4, **how)
    np.testing.assert_allclose(particles.position, expected, atol=1e-12)


def test_odd_tomogram_has_its_centre_at_half_rounded_down(particle_file, make_series):
    path = particle_file(MicrographName=["TS_01"], **xyz("Coordinate", [20, 30, 10]))
    series = [make_series(volume_size=(41 * 1.7, 61 * 1.7, 21 * 1.7))]
    for centre in ("relion", "imod"):
        particles, _ = read_particles(path, series, coordinates_pixel_size=1.7, centre=centre)
        np.testing.assert_allclose(particles.position, [[0, 0, 0]], atol=1e-12)


def test_normalized_coordinates(particle_file, make_series):
    path = particle_file(MicrographName=["TS_01"] * 2, **xyz("Coordinate", [[0, 0, 0], [1, 1, 1]]))
    particles, _ = read_particles(path, [make_series()], normalized=True)
    np.testing.assert_allclose(particles.position, [-SIZE / 2, SIZE / 2 - 1.7])


def test_what_is_not_known_is_asked_for(particle_file, make_series):
    series = [make_series()]
    path = particle_file(MicrographName=["TS_01"], **xyz("Coordinate", [1, 2, 3]))
    with pytest.raises(InputError, match="pixel size of its coordinates is not known. Give the pixel size"):
        read_particles(path, series)
    with pytest.raises(InputError, match="Give the tilt series as well"):
        read_particles(path, coordinates_pixel_size=2)
    path = particle_file(TomoName=["TS_01"], **xyz("CenteredCoordinate", [1, 2, 3], "Angst"),
                         **xyz("Origin", [1, 2, 3]))
    with pytest.raises(InputError, match="pixel size of rlnOriginX/Y/Z is not known"):
        read_particles(path, series)
    path = particle_file(**xyz("CenteredCoordinate", [1, 2, 3], "Angst"))
    with pytest.raises(InputError, match="no column names the tomograms"):
        read_particles(path, series)
    assert read_particles(path, series, name="TS_01")[0].names() == ["TS_01"]
    with pytest.raises(InputError, match="neither the columns"):
        read_particles(particle_file(MicrographName=["TS_01"]), series)
    with pytest.raises(InputError, match="there are no particles in it"):
        read_particles(particle_file(TomoName=[]), series)
    with pytest.raises(InputError, match="there is no optics group 2"):
        read_particles(particle_file({"OpticsGroup": [1]}, TomoName=["TS_01"], OpticsGroup=[2]), series)


@pytest.mark.parametrize("name, bare", [
    ("TS_1.tomostar", "TS_1"), ("a/b/01006_10.73Apx.mrc", "01006"), ("TS_1_10Apx.rec", "TS_1"), ("TS_1", "TS_1"),
    ("TS_1.st", "TS_1"), ("TS_1.mrcs", "TS_1"), ("TS_1.mrc.tomostar", "TS_1"), ("TS_1.2", "TS_1.2")])
def test_bare_name(name, bare):
    assert bare_name(name) == bare


def test_names_match_exactly_or_bare_but_never_by_part():
    ids = ["TS_1", "TS_10", "TS_2.mrc", "x.st", "x.rec"]
    assert match_names(["TS_1.tomostar", "TS_10", "TS_2", "TS_100", "TS", "x.st", "x"], ids) == {
        "TS_1.tomostar": "TS_1", "TS_10": "TS_10", "TS_2": "TS_2.mrc", "x.st": "x.st"}


def test_particles_of_other_tomograms_are_told(particle_file, make_series):
    rows = np.arange(12).reshape(4, 3)
    path = particle_file(TomoName=["TS_9", "TS_01", "TS_9", "TS_01"], **xyz("CenteredCoordinate", rows, "Angst"),
                         RandomSubset=[1, 2, 1, 1])
    particles, problems = read_particles(path, [make_series("TS_02"), make_series()])
    assert problems == ["TS_9: 2 particles are left out, there is no tilt series of this name"]
    assert particles.ts_ids == ("TS_02", "TS_01") and particles.ts.tolist() == [1, 1]
    assert particles.uid == ("TS_01/1", "TS_01/2") and particles.extra["rlnRandomSubset"] == ["2", "1"]
    np.testing.assert_array_equal(particles.position, rows[[1, 3]])
    with pytest.raises(InputError, match="it names TS_9, TS_01, the tilt series are TS_1$|TS_9, TS_01.*TS_1"):
        read_particles(path, [make_series("TS_1")])


def test_F10_duplicate_coordinates_and_names(particle_file, make_series):
    rows = [[1, 2, 3], [4, 5, 6], [1, 2, 3]]
    path = particle_file(TomoName=["TS_01"] * 3, **xyz("CenteredCoordinate", rows, "Angst"))
    particles, problems = read_particles(path, [make_series()])
    assert len(particles) == 3 and problems == ["TS_01: 1 particles have the same coordinates as another"]
    path = particle_file(TomoName=["TS_01"] * 2, TomoParticleName=["a", "a"],
                         **xyz("CenteredCoordinate", rows[:2], "Angst"))
    with pytest.raises(InputError, match="particle a: the name occurs more than once"):
        read_particles(path, [make_series()])


@pytest.mark.parametrize("column", ["CenteredCoordinateXAngst", "AngleRot"])
def test_F24_coordinates_and_angles_must_be_numbers(particle_file, make_series, column):
    columns = dict(xyz("CenteredCoordinate", [1.0, 2.0, 3.0], "Angst"), AngleRot=[0.0])
    for value, cause in (("x", "particles.star:.*rln%s is 'x', not a number" % column), ("nan", "particle TS_01/1")):
        with pytest.raises(InputError, match=cause):
            read_particles(particle_file(TomoName=["TS_01"], **dict(columns, **{column: [value]})), [make_series()])


@pytest.mark.shared
@pytest.mark.parametrize("name, oriented", [
    ("particles", True), ("particles_offsets", True), ("particles_pick", False)])
def test_reference_particles(shared, name, oriented):
    folder = shared / "reference" / "relion5"
    truth = np.load(folder / "truth.npz")
    series = relion5.read_project(folder / "tomograms.star")
    particles, problems = read_particles(folder / (name + ".star"), series)
    position = np.concatenate([truth["TS_01_pos"], truth["TS_02_pos"]])
    np.testing.assert_allclose(particles.position, position, atol=2e-6)
    assert particles.oriented == oriented and problems == []
    if oriented:
        angles = np.concatenate([truth["TS_01_ang"], truth["TS_02_ang"]])
        np.testing.assert_allclose(particles.rotation, matrix_from_zyz(*angles.T), atol=5e-8)


@pytest.mark.shared
def test_real_warptools_particles(shared):
    folder = shared / "data" / "warptools"
    series = relion5.read_project(folder / "warp2_matching_tomograms.star")
    path = folder / "warp2_particles_matching.star"
    particles, problems = read_particles(path, series)
    assert dialect(path) == "warptools" and len(particles) == 1218 and problems == []
    size = np.array(series[0].geometry.volume_size)
    np.testing.assert_allclose(particles.position[0], np.array([354.242, 397.132, 75.828]) * 4 - size / 2)
    # They fill the tomogram: with the tilt series' pixel they would crowd into a fifth of it.
    assert (np.abs(particles.position) < size / 2).all()
    assert (np.abs(particles.position).max(axis=0) > 0.75 * size / 2).all()


@pytest.mark.shared
@pytest.mark.parametrize("name, kind, count, first", [
    ("bin1_1deg_500.star", "relion3.0", 2, np.array([4052.123, 3272.708, 777.879]) * 1.971),
    ("bin1_1deg_500_2.star", "relion3.0", 2, np.array([4052.123, 3272.708, 777.879]) * 1.971),
    ("relion_3.0.star", "relion3.0", 3, np.array([1028.455, 733.955, 422.955]) * 5.364),
    ("relion_3.1_optics.star", "relion3.1", 3, None),
    ("relion_3.1_optics2.star", "relion3.1", 3, None),
    ("relion_4.0_first_rows.star", "relion4", 855,
     np.array([1700, 428, 944]) * 1.971 - [1.260416, 2.364176, 3.783296])])
def test_real_particles_of_older_relion(shared, make_series, name, kind, count, first):
    path = shared / "data" / "relion3" / name
    names = particlestar.tomogram_names(particlestar.particle_table(path)[0])
    series = [make_series(bare) for bare in dict.fromkeys(map(bare_name, names))]
    particles, problems = read_particles(path, series)
    assert dialect(path) == kind and len(particles) == count and problems == []
    if first is not None:
        np.testing.assert_allclose(particles.position[0], first - SIZE / 2)


@pytest.mark.shared
def test_real_relion5_particles(shared):
    path = shared / "data" / "relion5" / "hiv_empiar_10164" / "particles_TS_01_first60.star"
    particles, problems = read_particles(path)
    assert dialect(path) == "relion5" and len(particles) == 60 and problems == []
    table = read(path).table("particles")
    box = matrix_from_zyz(*(table.float("rlnTomoSubtomogram" + a)[0] for a in ("Rot", "Tilt", "Psi")))
    origin = np.array([0.028068, 1.040568, 0.365568])
    np.testing.assert_allclose(particles.position[0], [1774.846956, -951.52983, 1127.416439] - box @ origin)
    assert particles.uid[0] == "TS_01/12" and particles.extra["rlnVoltage"][0] == "300.000000"
