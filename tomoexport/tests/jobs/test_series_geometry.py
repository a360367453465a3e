"""Image series against the geometry: visible tilts, excluded views, astigmatism, phase plates and both hands."""

import os
from dataclasses import replace

import numpy as np
import pytest
import scipy.fft
from scipy.spatial.transform import Rotation

from tomoexport.engine.ctf import Ctf, frequency_grid
from tomoexport.engine.phantom import Phantom, chiral_phantom
from tomoexport.engine.simulate import make_series, project_tilt
from tomoexport.io import mrc, particlestar, relion5, star
from tomoexport.io.tiltseries import TiltSeries
from tomoexport.jobs import runner
from tomoexport.jobs.simulate import true_particles

pytestmark = pytest.mark.slow

PIXEL, BOX, DIAMETER, DOSE = 5.0, 52, 180.0, 2.5
EXCLUDED = {"TS_plus": (3, 7), "TS_minus": (0,)}  # by order of acquisition
HANDS = {"TS_plus": 1, "TS_minus": -1}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two thick series of both hands: astigmatism of 8000 A, a phase plate that charges up, particles at the edges."""
    folder, rng = tmp_path_factory.mktemp("geometry"), np.random.default_rng(17)
    phantom, series, rows = chiral_phantom(150.0, 30), [], []
    for name, hand in HANDS.items():
        made = make_series(name, (240, 300), PIXEL, 2600.0, 13, 7, rng, DIAMETER, hand, 2.0, step=9.0,
                           dose_per_tilt=DOSE, defocus=25000.0, astigmatism=8000.0)
        g, ctf = made.geometry, made.ctf
        ctf = Ctf(ctf.optics, ctf.defocus_u, ctf.defocus_v, ctf.angle, phase=40.0 + 5.0 * g.acq_order)
        # Half of the particles lie where only some of the tilts show them.
        position = made.position * np.where(np.arange(len(made.position)) % 2, 1.0, 1.5)[:, None] * [1, 1, 0.7]
        made = replace(made, ctf=ctf, position=position)
        images = np.stack([project_tilt(made, phantom, t, decay=False) for t in range(g.n_tilts)])
        path = str(folder / (name + ".mrcs"))
        mrc.write(path, images, PIXEL, kind="stack")
        used = ~np.isin(g.acq_order, EXCLUDED[name])
        series.append(TiltSeries(g.replace(used=used), ctf, tuple((path, t) for t in range(g.n_tilts)),
                                 optics_group="optics1", optics=ctf.optics))
        rows.append((name, made))
    relion5.write_project(str(folder), series)
    particlestar.write_particles(str(folder / "particles.star"), true_particles(rows))
    return folder, phantom, dict(rows)


def export(data, name, **options):
    folder = data[0]
    return runner.run({"verb": "series", "options": dict(
        {"tomograms": str(folder / "tomograms.star"), "particles": str(folder / "particles.star"),
         "output": str(folder / name), "pixel_size": PIXEL, "box": BOX, "diameter": DIAMETER, "threads": 2,
         "min_tilts": 3}, **options)})["collected"]


@pytest.fixture(scope="module")
def plain(data):
    return read(data, export(data, "plain"))


def read(data, collected):
    """Rows as dicts of numbers, with the particle's index, its series, and its image."""
    table = star.read(collected["star"]).table("")
    folder, stacks, out = os.path.dirname(collected["star"]), {}, []
    for i in range(len(table)):
        row = {c[3:]: table.text(c)[i] for c in ("rlnGroupName", "rlnImageName", "rlnMicrographName")}
        row.update({c[3:]: float(table.text(c)[i]) for c in table.columns if c[3:] not in row})
        name, number = row["GroupName"].rsplit("_", 1)
        section, path = row["ImageName"].split("@")
        if path not in stacks:
            stacks[path] = mrc.read_volume(os.path.join(folder, path))[0]
        row.update(series=name, particle=int(number) - 1, image=stacks[path][int(section) - 1],
                   tilt=int(row["MicrographName"].split("@")[0]) - 1)
        out.append(row)
    assert sum(map(len, stacks.values())) == len(out)
    return out


def rotation(g, t):
    """Tomogram to image, written out anew: about x, then y, then z."""
    return Rotation.from_euler("xyz", [g.xtilt[t], g.tilt[t], g.axis[t]], degrees=True).as_matrix()


def visible(made, n, t):
    """Whether a particle lies wholly in an image."""
    g = made.geometry
    xy = (rotation(g, t) @ made.position[n])[:2] + g.shift[t]
    h, w = g.image_shape
    place = xy / PIXEL + [w // 2, h // 2]
    reach = DIAMETER / 2 / PIXEL
    return (place >= reach).all() and (place <= np.array([w - 1, h - 1]) - reach).all()


def test_every_particle_has_the_tilts_that_show_it(data, plain):
    """Different numbers of them; excluded views are in none; sections are numbered by ascending dose."""
    counts = []
    for name, made in data[2].items():
        g = made.geometry
        for n in range(len(made.position)):
            rows = [row for row in plain if (row["series"], row["particle"]) == (name, n)]
            seen = [t for t in np.argsort(g.dose) if g.acq_order[t] not in EXCLUDED[name] and visible(made, n, t)]
            assert [row["tilt"] for row in rows] == (seen if len(seen) >= 3 else [])
            assert [int(row["ImageName"].split("@")[0]) for row in rows] == list(range(1, len(rows) + 1))
            counts.append(len(rows))
    assert len(set(counts)) >= 4 and max(counts) == 12


def test_dose_counts_every_exposure_and_the_scale_is_of_the_stage(data, plain):
    for row in plain:
        g = data[2][row["series"]].geometry
        assert row["CtfBfactor"] == pytest.approx(-4 * DOSE * (g.acq_order[row["tilt"]] + 1))
        assert row["CtfScalefactor"] == pytest.approx(np.cos(np.deg2rad(g.tilt[row["tilt"]])), abs=1e-12)
        assert row["CtfScalefactor"] <= 1


@pytest.mark.parametrize("name", sorted(HANDS))
def test_defocus_is_that_at_the_particles_depth(data, plain, name):
    """Both axes of the astigmatism and its angle, the phase shift, and the sign of the hand."""
    made, depths = data[2][name], []
    g, ctf = made.geometry, made.ctf
    for row in [row for row in plain if row["series"] == name]:
        t = row["tilt"]
        depth = (rotation(g, t) @ made.position[row["particle"]])[2]
        assert row["DefocusU"] == pytest.approx(ctf.defocus_u[t] + HANDS[name] * depth, abs=0.05)
        assert row["DefocusV"] == pytest.approx(ctf.defocus_v[t] + HANDS[name] * depth, abs=0.05)
        assert row["DefocusU"] - row["DefocusV"] == pytest.approx(8000, abs=0.01)
        assert row["DefocusAngle"] == pytest.approx(ctf.angle[t])
        assert row["PhaseShift"] == pytest.approx(40 + 5 * g.acq_order[t])
        depths.append(depth)
    assert np.ptp(depths) > 800


def test_poses_are_those_of_the_projections(data, plain):
    """RELION's matrix, written out anew: the view's rotation times the particle's."""
    for row in plain:
        made = data[2][row["series"]]
        particle, found = (Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix() for angles in (
            made.angles[row["particle"]], [row["AngleRot"], row["AngleTilt"], row["AnglePsi"]]))
        assert np.abs(found - rotation(made.geometry, row["tilt"]) @ particle).max() < 1e-5


def ring_correlation(image, expected, low=1 / 40, high=1 / 11):
    """Correlation of two images over spatial frequencies from low to high, 1/A, each ring with the same weight."""
    a, b = (scipy.fft.rfft2(one) for one in (image, expected))
    kx, ky = frequency_grid(image.shape, PIXEL)
    k = np.sqrt(kx ** 2 + ky ** 2)
    edges = np.linspace(low, high, 9)
    values = []
    for inner, outer in zip(edges, edges[1:]):
        ring = (k >= inner) & (k < outer)
        values.append((a[ring] @ b[ring].conj()).real / np.sqrt((abs(a[ring]) ** 2).sum() * (abs(b[ring]) ** 2).sum()))
    return float(np.mean(values))


def promised(data, row, **changes):
    """The image that a row promises, bright: the phantom in its pose, and the CTF of the row."""
    made, phantom = data[2][row["series"]], data[1]
    row = dict(row, **changes)
    turn = Rotation.from_euler("ZYZ", [row["AngleRot"], row["AngleTilt"], row["AnglePsi"]], degrees=True).inv()
    offset = np.array([row.get("OriginX", 0.0), row.get("OriginY", 0.0), 0.0]) * PIXEL
    turned = Phantom(phantom.centre @ turn.as_matrix().T - offset, phantom.sigma, phantom.weight)
    ctf = Ctf(made.ctf.optics, *([row[label]] for label in ("DefocusU", "DefocusV", "DefocusAngle", "PhaseShift")))
    values = ctf.values(*frequency_grid((BOX, BOX), PIXEL))[0]
    return scipy.fft.irfft2(scipy.fft.rfft2(turned.volume(BOX, PIXEL).sum(axis=0)) * values, s=(BOX, BOX))


def likeness(data, rows, **changes):
    """Mean correlation of images with what their rows promise; changes are functions of the row."""
    return np.mean([ring_correlation(row["image"], promised(data, row, **{k: f(row) for k, f in changes.items()}))
                    for row in rows])


def alone(data, rows):
    """Rows whose particle has no other near it in that image."""
    out = []
    for row in rows:
        made = data[2][row["series"]]
        xy = (made.position @ rotation(made.geometry, row["tilt"]).T)[:, :2]
        away = np.linalg.norm(xy - xy[row["particle"]], axis=1)
        if np.sort(away)[1] > 0.9 * BOX * PIXEL:
            out.append(row)
    return out


@pytest.mark.parametrize("name", sorted(HANDS))
def test_images_are_what_their_rows_promise(data, plain, name):
    """Centred to a part of a pixel, bright; the other hand, no astigmatism, or no phase plate fit worse."""
    made = data[2][name]
    rows = alone(data, [row for row in plain if row["series"] == name])
    deep = [row for row in rows if abs(row["DefocusU"] - made.ctf.defocus_u[row["tilt"]]) > 300]
    assert len(rows) > 12 and len(deep) > 5
    right = likeness(data, rows)
    middle = lambda row: (row["DefocusU"] + row["DefocusV"]) / 2  # noqa: E731
    wrong = {
        "other hand": likeness(data, deep, **{
            "Defocus" + axis: lambda row, axis=axis: 2 * getattr(made.ctf, "defocus_" + axis.lower())[row["tilt"]]
            - row["Defocus" + axis] for axis in "UV"}),
        "no astigmatism": likeness(data, rows, DefocusU=middle, DefocusV=middle),
        "no phase plate": likeness(data, rows, PhaseShift=lambda row: 0.0),
        "half a pixel off": likeness(data, rows, OriginX=lambda row: 0.5, OriginY=lambda row: 0.5)}
    print("%s: %.4f, of deep ones %.4f; %s" % (name, right, likeness(data, deep), wrong))
    assert right > 0.99 and likeness(data, deep) > 0.99
    assert wrong["other hand"] < likeness(data, deep) - 0.05
    assert max(wrong["no astigmatism"], wrong["no phase plate"]) < right - 0.2
    assert wrong["half a pixel off"] < right - 0.03


def test_whole_pixel_windows_say_what_is_left(data, plain):
    """rlnOriginX/Y move the particle to the centre; without them the images fit worse."""
    found = read(data, export(data, "origins", origins=True))
    assert len(found) == len(plain)
    rest = np.array([[row["OriginX"], row["OriginY"]] for row in found])
    assert np.abs(rest).max() <= 0.5 and rest.std(axis=0).min() > 0.2
    rows = alone(data, found)
    right, wrong = likeness(data, rows), likeness(data, rows, OriginX=lambda row: 0.0, OriginY=lambda row: 0.0)
    print("windows of whole pixels: %.4f with the origins, %.4f without" % (right, wrong))
    assert right > 0.99 and wrong < right - 0.01
    mirrored = likeness(data, rows, OriginX=lambda row: -row["OriginX"], OriginY=lambda row: -row["OriginY"])
    assert mirrored < wrong


def test_a_stack_per_tilt_series_has_the_same_images(data, plain):
    collected = export(data, "stacks", stacks="series")
    assert sum(name.endswith(".mrcs") for _, _, names in os.walk(str(data[0] / "stacks")) for name in names) == 2
    for one, other in zip(plain, read(data, collected)):
        assert np.allclose(one["image"], other["image"], atol=1e-6)
        assert one["GroupName"] == other["GroupName"] and one["MicrographName"] == other["MicrographName"]


def test_all_columns_stay_on_request(data, plain):
    table = particlestar.read_particles(str(data[0] / "particles.star"))[0]
    uid = dict(zip(table.uid, range(len(table))))
    halves = table.extra["rlnRandomSubset"]
    extra = dict(table.extra, rlnClassNumber=[str(i % 3) for i in range(len(table))],
                 rlnMaxValueProbDistribution=["1"] + ["0.%d" % i for i in range(1, len(table))])
    particlestar.write_particles(str(data[0] / "more.star"), replace(table, extra=extra))
    collected = export(data, "columns", all_columns=True, particles=str(data[0] / "more.star"))
    written = star.read(collected["star"]).table("")
    assert len(written.columns) == 20 + 7
    for i, row in enumerate(plain):
        n = uid[written.text("rlnTomoParticleName")[i]]
        assert (table.names()[n], halves[n]) == (row["series"], written.text("rlnRandomSubset")[i])
        assert written.text("rlnClassNumber")[i] == extra["rlnClassNumber"][n]
        assert "." in written.text("rlnMaxValueProbDistribution")[i]
        assert written.float(particlestar.CENTRED[2])[i] == pytest.approx(table.position[n, 2])


@pytest.mark.parametrize("hand", [1, -1])
def test_an_optimisation_set_says_the_same(data, plain, hand):
    """Particles that all tilts show; poses, defocus and doses follow from the two tables as from the images' rows."""
    name = next(n for n, h in HANDS.items() if h == hand)
    table = star.read(str(data[0] / "particles.star")).table("particles")
    own = [i for i, text in enumerate(table.text("rlnTomoName")) if text == name]
    star.write(str(data[0] / (name + "_own.star")), [table.select(own)])
    collected = export(data, "whole%d" % hand, form="optimisation-set", reader="none", min_tilts=1,
                       particles=str(data[0] / (name + "_own.star")))
    folder = os.path.dirname(collected["star"])
    tables = star.read(os.path.join(folder, "particles.star")).table("particles")
    tomograms = star.read(os.path.join(folder, "particles_tomograms.star"))
    world, tilts = tomograms.table("global"), tomograms.table(name + ".tomostar")
    assert 0 < len(tables) < len(own) and len(collected["dropped"]) == len(own) - len(tables)
    assert "an optimisation set needs all" in collected["dropped"][0]
    matrices = np.array([[[float(v) for v in text.strip("[]").split(",")] for text in tilts.text("rlnTomoProj" + axis)]
                         for axis in "XYZ"]).transpose(1, 0, 2)[:, :, :3]
    size = np.array([world.int("rlnTomoSize" + axis)[0] for axis in "XYZ"])
    place = (np.stack([tables.float("rlnCoordinate" + axis) for axis in "XYZ"], -1) - size / 2) * PIXEL
    turns = Rotation.from_euler("ZYZ", np.stack([tables.float(c) for c in particlestar.ANGLE], -1),
                                degrees=True).inv().as_matrix()
    for i, group in enumerate(tables.text("rlnTomoParticleName")):
        rows = [row for row in plain if row["GroupName"] == group or row["series"] == name
                and np.abs(data[2][name].position[row["particle"]] - place[i]).max() < 0.01]
        assert len(rows) == len(tilts) == 13 - len(EXCLUDED[name])
        assert {row["GroupName"] for row in rows} == {group}
        images = mrc.read_volume(os.path.join(folder, tables.text("rlnImageName")[i]))[0]
        for t, row in enumerate(rows):
            assert np.allclose(images[t], row["image"], atol=1e-6)
            depth = (matrices[t] @ place[i])[2]
            hand_written = world.float("rlnTomoHand")[0]
            assert tilts.float("rlnDefocusU")[t] + hand_written * depth == pytest.approx(row["DefocusU"], abs=0.1)
            assert tilts.float("rlnPhaseShift")[t] == pytest.approx(row["PhaseShift"])
            assert tilts.float("rlnCtfScalefactor")[t] == pytest.approx(row["CtfScalefactor"])
            assert tilts.float("rlnMicrographPreExposure")[t] == pytest.approx(row["CtfBfactor"] / -4 - DOSE)
            angles = [row["AngleRot"], row["AngleTilt"], row["AnglePsi"]]
            pose = Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix()
            assert np.abs(matrices[t] @ turns[i] - pose).max() < 1e-5
