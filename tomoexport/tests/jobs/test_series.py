"""Image series of particles: what the table says of an image is what the image shows."""

import os
from dataclasses import replace

import numpy as np
import pytest
import scipy.fft

from tomoexport.engine.ctf import Ctf, frequency_grid
from tomoexport.engine.fourier import sphere
from tomoexport.engine.phantom import Phantom, chiral_phantom
from tomoexport.engine.poses import matrix_from_zyz
from tomoexport.io import mrc, particlestar, relion5, seriesstar, species, star
from tomoexport.jobs import runner, simulate
from tomoexport.jobs.series import with_exposure
from tomoexport.tests.shared import need_shared

PIXEL, BOX = 5.0, 52


@pytest.fixture(scope="module")
def data(tmp_path_factory, simulated):
    """Two series, both hands, x-tilt, astigmatism, little noise."""
    folder = tmp_path_factory.mktemp("series")
    simulated("demo", into=folder / "data", particles=12, noise=0.3)
    return folder


@pytest.fixture(scope="module")
def phantom():
    preset = simulate.PRESETS["demo"]
    return chiral_phantom(preset["diameter"], preset["blobs"])


def export(data, name, **options):
    out = runner.run({"verb": "series", "options": dict(
        {"tomograms": str(data / "data" / "tomograms.star"), "particles": str(data / "data" / "particles.star"),
         "output": str(data / name), "pixel_size": PIXEL, "box": BOX, "diameter": 180.0, "threads": 2}, **options)})
    return out["collected"]


def images(folder, table):
    """All images `(N, BOX, BOX)` in the order of the table."""
    stacks, out = {}, []
    for name in table.text("rlnImageName"):
        number, path = name.split("@")
        if path not in stacks:
            stacks[path] = mrc.read_volume(os.path.join(folder, path))[0]
        out.append(stacks[path][int(number) - 1])
    assert sum(len(s) for s in stacks.values()) == len(out), "an image that no row names"
    return np.array(out)


@pytest.fixture(scope="module")
def plain(data):
    collected = export(data, "plain")
    table = star.read(collected["star"]).table("")
    return collected, table, images(str(data / "plain"), table)


def test_the_table_has_the_columns_of_warp_in_order_of_dose(data, plain):
    collected, table, _ = plain
    assert tuple(table.columns) == seriesstar.COLUMNS and len(seriesstar.COLUMNS) == 20
    assert collected["images"] == len(table) > 600 and collected["kept"] == 24
    groups = np.array(table.text("rlnGroupName"))
    dose = table.float("rlnCtfBfactor") / -4
    for group in set(groups):
        own = dose[groups == group]
        assert (np.diff(own) > 0).all() and own[0] >= 3 - 1e-6  # after the first exposure
        numbers = [int(n.split("@")[0]) for n, g in zip(table.text("rlnImageName"), groups) if g == group]
        assert numbers == list(range(1, len(own) + 1))
    assert set(table.float("rlnRandomSubset")) == {1, 2}
    tilt = np.rad2deg(np.arccos(table.float("rlnCtfScalefactor")))
    assert tilt.max() > 55 and tilt[np.isclose(dose, 3.0)].max() < 10  # dose-symmetric, one series with x-tilt
    sizes = {name.split("@")[1].split("_")[-1] for name in table.text("rlnImageName")}
    assert sizes == {"%.2fA.mrcs" % PIXEL}


def expected(table, row, phantom, optics):
    """The image that a row promises: the phantom in that pose, projected, times the row's CTF."""
    rotation = matrix_from_zyz(*(table.float("rlnAngle" + n)[row] for n in ("Rot", "Tilt", "Psi")))
    turned = Phantom(phantom.centre @ rotation.T, phantom.sigma, phantom.weight)
    projection = turned.volume(BOX, PIXEL).sum(axis=0)
    ctf = Ctf(optics, *(table.float(n)[[row]] for n in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle",
                                                        "rlnPhaseShift")))
    values = ctf.values(*frequency_grid((BOX, BOX), PIXEL))[0]
    return scipy.fft.irfft2(scipy.fft.rfft2(projection) * values, s=(BOX, BOX))


def test_every_row_is_true_of_its_image(data, plain, phantom):
    """Pose, sign of contrast, defocus at the particle's depth, centring: of early images of every particle."""
    _, table, found = plain
    optics = relion5.read_project(str(data / "data" / "tomograms.star"))[0].optics
    early = np.flatnonzero(table.float("rlnCtfBfactor") > -4 * 7)
    assert len(early) > 30
    inside = sphere(BOX, 16, dtype=bool)[BOX // 2].astype(bool)
    alike = np.array([np.corrcoef(found[r][inside], expected(table, r, phantom, optics)[inside])[0, 1] for r in early])
    print("CC of images with what their rows promise: median %.3f, lowest %.3f" % (np.median(alike), alike.min()))
    assert np.median(alike) > 0.9 and alike.min() > 0.7


def test_coordinates_are_those_in_the_binned_image(data, plain):
    _, table, _ = plain
    series = {s.ts_id: s.geometry for s in relion5.read_project(str(data / "data" / "tomograms.star"))}
    for name, g in series.items():
        shape = np.array(g.image_shape[::-1]) * g.pixel_size / PIXEL
        rows = [i for i, group in enumerate(table.text("rlnGroupName")) if group.startswith(name)]
        xy = np.stack([table.float("rlnCoordinate" + a)[rows] for a in "XY"], -1)
        assert (xy > 0).all() and (xy < shape).all() and np.ptp(xy, axis=0).min() > 20


@pytest.mark.parametrize("options, same", [({"invert": False}, False), ({"first_tilts": 5}, None),
                                           ({"shift_x": 20.0}, False), ({"float16": True}, False),
                                           ({"relative_paths": False}, True), ({"hand": 1}, True)])
def test_options_are_heard(data, plain, options, same):
    """What each option must change, and what it must not."""
    collected = export(data, "_".join(options), **options)
    table = star.read(collected["star"]).table("")
    found = images(str(data / "_".join(options)), table)
    if "first_tilts" in options:
        dose = table.float("rlnCtfBfactor") / -4
        assert 100 < collected["images"] <= 5 * 24 and dose.max() == pytest.approx(15)
        assert len(table) == (plain[1].float("rlnCtfBfactor") > -4 * 15.5).sum()
        return
    assert (found.shape == plain[2].shape and np.allclose(found, plain[2], atol=1e-6)) == same
    if "invert" in options:
        assert np.allclose(found, -plain[2], atol=1e-5)
    if "float16" in options:
        assert np.abs(found - plain[2]).max() < 0.01
    if "relative_paths" in options:
        assert all(os.path.isabs(n.split("@")[1]) for n in table.text("rlnImageName"))
    if "hand" in options:  # of the first series it is -1
        change = table.float("rlnDefocusU") - plain[1].float("rlnDefocusU")
        first = np.array([g.startswith("TS_01") for g in table.text("rlnGroupName")])
        assert np.abs(change[first]).max() > 50 and not change[~first].any()


def test_dose_with_the_exposure():
    assert np.allclose(with_exposure(np.array([6.0, 0.0, 3.0])), [9, 3, 6])
    assert np.allclose(with_exposure(np.array([4.0])), [4])
    # Exposures whose rows are gone count for nothing, at whatever place; the dose per exposure may grow.
    whole = np.arange(0, 123, 3.0)
    for gone in ([38], [1], [20, 21], [39]):
        left = np.delete(np.arange(41), gone)
        assert np.allclose(with_exposure(whole[left]), whole[left] + 3)
    grown = np.concatenate([[0], np.cumsum(3 / np.cos(np.deg2rad(np.linspace(0, 60, 20))))])
    assert np.allclose(with_exposure(grown)[:-1], grown[1:])


@pytest.mark.shared
def test_the_dose_of_a_real_series_that_lacks_an_exposure():
    """HIV-1: 40 of 41 rows, 3 e/A^2 each."""
    path = os.path.join(need_shared("data", "relion5", "hiv_empiar_10164"), "tilt_series_TS_01.star")
    dose = next(iter(star.read(path))).float("rlnMicrographPreExposure")
    assert len(dose) == 40
    assert sorted(np.round(np.diff(np.sort(dose)), 3))[-1] == 6 and np.allclose(with_exposure(dose), dose + 3)


def test_the_scale_is_of_the_stage_and_not_of_the_specimen(data):
    """A lamella lies obliquely: the alignment's tilt is not the stage's, which the table names."""
    series = relion5.read_project(str(data / "data" / "tomograms.star"))
    stage = [s.geometry.tilt + 9.0 for s in series]
    told = [replace(s, extra=dict(s.extra, rlnTomoNominalStageTiltAngle=[repr(float(v)) for v in angle]))
            for s, angle in zip(series, stage)]
    tomograms = relion5.write_project(str(data / "oblique"), told, paths="absolute")
    read_ = relion5.read_project(str(tomograms))
    assert np.allclose(read_[0].stage_tilt, stage[0])
    table = star.read(export(data, "oblique_out", tomograms=str(tomograms))["star"]).table("")
    found = {(image.split("@")[1][:5], int(image.split("@")[0]) - 1): scale for image, scale in zip(
        table.text("rlnMicrographName"), table.float("rlnCtfScalefactor"))}
    assert len(found) == sum(s.geometry.n_tilts for s in series)
    for (name, section), scale in found.items():
        i = [s.ts_id for s in series].index(name)
        t = [s for _, s in series[i].images].index(section)
        assert scale == pytest.approx(min(1.0, np.cos(np.deg2rad(stage[i][t]))), abs=1e-6)


def test_the_dose_beside_an_excluded_view_is_its_own(data, plain):
    """The view after it was exposed all the same; the table says what each image had received."""
    series = relion5.read_project(str(data / "data" / "tomograms.star"))
    late = [replace(s, geometry=s.geometry.replace(used=s.geometry.acq_order != 2)) for s in series]
    tomograms = relion5.write_project(str(data / "excluded"), late, paths="absolute")
    assert not any(s.geometry.used.all() for s in relion5.read_project(str(tomograms)))
    table = star.read(export(data, "beside", tomograms=str(tomograms))["star"]).table("")
    doses = sorted(set(np.round(table.float("rlnCtfBfactor") / -4, 3)))
    assert doses[:3] == [3, 6, 12]


def test_half_sets_of_m_are_kept(data):
    """wrpRandomSubset; and a value that is no number does not stop the export."""
    series = relion5.read_project(str(data / "data" / "tomograms.star"))
    particles, _ = particlestar.read_particles(str(data / "data" / "particles.star"), series)
    halves = ["2", "2", "1", "null"] * 6
    plain = {k: v for k, v in particles.extra.items() if k != "rlnRandomSubset"}
    species.write_species(str(data / "m.star"), replace(particles, extra=dict(plain, wrpRandomSubset=halves)), series)
    table = star.read(export(data, "halves", particles=str(data / "m.star"))["star"]).table("")
    own = dict(zip(table.text("rlnGroupName"), table.text("rlnRandomSubset")))
    expected = {"2": {"2"}, "1": {"1"}, "null": {"1", "2"}}
    for i, (name, half) in enumerate(zip(particles.names(), halves)):
        number = particles.names()[:i + 1].count(name)
        assert own["%s_%07d" % (name, number)] in expected[half]
