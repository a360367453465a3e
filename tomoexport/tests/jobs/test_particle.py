"""The particle's map straight from tilt series: RELION's own, hand, re-extraction, symmetry, and what is refused."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tomoexport.engine.average import fsc
from tomoexport.engine.fourier import centre_crop, shell_correlation
from tomoexport.engine.particlesum import divided
from tomoexport.engine.phantom import chiral_phantom
from tomoexport.engine.poses import zyz_from_matrix
from tomoexport.engine.simulate import make_series, project_tilt
from tomoexport.engine.symmetry import point_group
from tomoexport.errors import InputError
from tomoexport.io import mrc, particlestar, relion5, star
from tomoexport.io.tiltseries import TiltSeries
from tomoexport.jobs import runner
from tomoexport.jobs.simulate import true_particles
from tomoexport.tests.shared import need_shared

pytestmark = pytest.mark.slow

PIXEL, DIAMETER, THICKNESS = 4.0, 180.0, 5000.0


def run(verb, folder, **options):
    out = runner.run({"verb": verb, "options": dict({"output": str(folder), "threads": 2}, **options)})
    assert not out["failed"], out["results"]
    return out


@pytest.mark.shared
@pytest.mark.parametrize("exact", [True, False])
def test_the_map_is_relions(tmp_path, monkeypatch, exact):
    """RELION looks for windows in the image by half the box in unbinned pixels: a crop by the binning does so here."""
    folder = need_shared("reference", "relion5")
    monkeypatch.chdir(folder)
    out = run("particle", tmp_path, optimisation_set="optimisation_set.star", box=32, crop=16, binning=2, exact=exact)
    files = [np.load(r["sums"]) for r in out["results"]]
    sums = [[sum(f["%s%d" % (name, w)] for f in files) for name in ("data", "weight")] for w in (1, 2)]
    sums.append([a + b for a, b in zip(*sums)])
    for name, one, least in zip(("half1", "half2", "merged"), sums, (0.997, 0.997, 0.999)):
        theirs = mrc.read_volume(os.path.join("expected", "average_bin2", name + ".mrc"))[0]
        ours = divided(*one)
        cc = np.corrcoef(ours.ravel(), theirs.ravel())[0, 1]
        print("%s, %s: CC %.5f, FSC %s" % (name, "exact" if exact else "binned images", cc,
                                           shell_correlation(ours, theirs)[[4, 8, 12, 15]].round(4)))
        assert cc > least


@pytest.fixture(scope="module")
def thick(tmp_path_factory):
    """Two series, hands -1 and +1, with particles near the surfaces of a slab of 5000 A; little noise."""
    folder, rng = tmp_path_factory.mktemp("thick"), np.random.default_rng(5)
    phantom = chiral_phantom(160.0, 48)
    series, truth = [], []
    for name, hand in (("TS_01", -1), ("TS_02", 1)):
        one = make_series(name, (440, 420), PIXEL, THICKNESS, 21, 20, rng, DIAMETER, hand=hand, step=2.0)
        position = one.position * (0.6, 1, 1)
        position[:, 2] = np.where(np.arange(len(position)) % 2, -1, 1) * rng.uniform(1900, 2300, len(position))
        one = replace(one, position=position)
        images = np.stack([project_tilt(one, phantom, t, decay=False) for t in range(21)])
        images += 0.2 * images.std() * rng.standard_normal(images.shape, dtype=np.float32)
        path = str(folder / (name + ".mrcs"))
        mrc.write(path, images, PIXEL, kind="stack")
        series.append(TiltSeries(one.geometry, one.ctf, tuple((path, t) for t in range(21)), optics_group="optics1",
                                 optics=one.ctf.optics))
        truth.append((name, one))
    relion5.write_project(str(folder), series)
    wrong = [replace(s, geometry=replace(s.geometry, hand=-s.geometry.hand)) for s in series]
    relion5.write_project(str(folder / "wrong"), wrong)
    particles = true_particles(truth)
    particlestar.write_particles(str(folder / "particles.star"), particles)
    return folder, phantom, particles


def with_object(phantom, map_path, binning=1):
    """FSC of a map with the object that was simulated."""
    found = mrc.read_volume(str(map_path))[0]
    known = phantom.volume(len(found), PIXEL * binning)
    return fsc(found, known, DIAMETER / 2 / (PIXEL * binning))


def test_the_hand_shows_in_thick_specimens(thick, tmp_path):
    folder, phantom, _ = thick
    curves = []
    for tables in (folder, folder / "wrong"):
        out = run("particle", tmp_path / tables.name, tomograms=str(tables / "tomograms.star"),
                  particles=str(folder / "particles.star"), box=96, crop=64)
        curves.append(with_object(phantom, out["collected"]["average"]))
    right, wrong = (curve[8:25].mean() for curve in curves)
    print("FSC with the object from 32 to 10.7 A: %.3f with the right hand, %.3f with the wrong one" % (right, wrong))
    assert right > 0.95 and right > wrong + 0.5


def refined(extracted, particles, path):
    """A table as a refinement leaves it: the extracted one's, with the true poses as angles and offsets."""
    tables = star.read(extracted)
    table = tables.table("particles")
    columns = {c: table.text(c) for c in table.columns}
    names = list(particles.uid)
    truth = particles.select(np.array([names.index(uid) for uid in columns["rlnTomoParticleName"]]))
    at = np.stack([table.float(c) for c in particlestar.CENTRED], -1)
    columns.update(zip(particlestar.ANGLE, zyz_from_matrix(truth.rotation)))
    # A particle sits at its coordinate less the offset.
    columns.update((label + "Angst", at[:, i] - truth.position[:, i]) for i, label in enumerate(particlestar.ORIGIN))
    star.write(str(path), [tables.table("general"), tables.table("optics"),
                           star.Table.from_columns("particles", columns)])


def test_extraction_again_keeps_refined_poses(thick, tmp_path):
    """Picked 15 A and 20 degrees off, extracted at bin 4, refined, extracted again at bin 2: as if picked truly."""
    folder, phantom, particles = thick
    rng = np.random.default_rng(3)
    away = rng.normal(size=(len(particles), 3))
    away *= 15 / np.linalg.norm(away, axis=1, keepdims=True)
    turn = Rotation.from_rotvec(np.deg2rad(20) * away / 15).as_matrix()
    picked = replace(particles, position=particles.position + away, rotation=turn @ particles.rotation)
    particlestar.write_particles(str(tmp_path / "picked.star"), picked)
    common = dict(tomograms=str(folder / "tomograms.star"), float16=False)
    first = run("pseudosubtomo", tmp_path / "bin4", particles=str(tmp_path / "picked.star"), binning=4, box=32, crop=24,
                **common)["collected"]
    assert np.allclose(star.read(first["star"]).table("optics").float("rlnImagePixelSize"), 4 * PIXEL)
    refined(first["star"], particles, tmp_path / "refined.star")
    stars = {"again": str(tmp_path / "refined.star"), "directly": str(folder / "particles.star")}
    curves, images = {}, {}
    for name, table in stars.items():
        out = run("pseudosubtomo", tmp_path / name, particles=table, binning=2, box=64, crop=32, **common)["collected"]
        written = star.read(out["star"]).table("particles")
        assert all((written.float(label + "Angst") == 0).all() for label in particlestar.ORIGIN)
        images[name] = {uid: mrc.read_volume(path)[0] for uid, path in zip(
            written.text("rlnTomoParticleName"), written.text("rlnImageName"))}
        found = run("particle", tmp_path / (name + "_map"), tomograms=common["tomograms"], particles=out["star"],
                    binning=2, box=64, crop=32)["collected"]["average"]
        curves[name] = with_object(phantom, found, 2)
    assert set(images["again"]) == set(images["directly"])
    worst = max(np.linalg.norm(images["again"][uid] - image) / np.linalg.norm(image)
                for uid, image in images["directly"].items())
    print("images extracted again differ by a relative rms of %.1e; mean FSC with the object %.5f and %.5f" % (
        worst, curves["again"][1:15].mean(), curves["directly"][1:15].mean()))
    assert worst < 1e-3 and curves["again"][1:15].mean() > curves["directly"][1:15].mean() - 1e-3
    # The poses that were picked give less, so the refined ones are what came through.
    rough = run("particle", tmp_path / "rough", tomograms=common["tomograms"], particles=str(tmp_path / "picked.star"),
                binning=2, box=64, crop=32)["collected"]["average"]
    assert with_object(phantom, rough, 2)[1:15].mean() < curves["again"][1:15].mean() - 0.2


def test_a_point_of_the_map_becomes_the_centre(thick, tmp_path):
    """The map moves by the shift, as positions that were moved beforehand make it move."""
    folder, _, particles = thick
    shift = np.array([16.0, -8.0, 24.0])
    particlestar.write_particles(str(tmp_path / "moved.star"), particles.moved(shift))
    common = dict(tomograms=str(folder / "tomograms.star"), binning=2, box=64, crop=32)
    maps = [mrc.read_volume(run("particle", tmp_path / name, **common, **options)["collected"]["average"])[0]
            for name, options in (
                ("shift", dict(particles=str(folder / "particles.star"), shift_x=16, shift_y=-8, shift_z=24)),
                ("moved", dict(particles=str(tmp_path / "moved.star"))))]
    assert np.linalg.norm(maps[0] - maps[1]) < 1e-3 * np.linalg.norm(maps[1])
    still = mrc.read_volume(run("particle", tmp_path / "still", particles=str(folder / "particles.star"),
                                **common)["collected"]["average"])[0]
    steps = np.rint(-shift / (2 * PIXEL)).astype(int)[::-1]  # zyx: what lay there is at the centre now
    middle = lambda m: centre_crop(m, 16, (0, 1, 2))  # noqa: E731
    assert np.corrcoef(middle(np.roll(still, steps, (0, 1, 2))).ravel(), middle(maps[0]).ravel())[0, 1] > 0.9
    assert np.corrcoef(middle(np.roll(still, -steps, (0, 1, 2))).ravel(), middle(maps[0]).ravel())[0, 1] < 0.5


def test_the_mask_and_the_known_map_are_those_of_the_fsc(thick, tmp_path):
    folder, phantom, _ = thick
    common = dict(tomograms=str(folder / "tomograms.star"), particles=str(folder / "particles.star"), binning=2, box=64,
                  crop=32)
    mrc.write(str(tmp_path / "known.mrc"), phantom.volume(32, 2 * PIXEL), 2 * PIXEL)
    for name, diameter in (("wide", 0.0), ("narrow", 120.0)):
        out = run("particle", tmp_path / name, diameter=diameter, reference=str(tmp_path / "known.mrc"), **common)
        found = [mrc.read_volume(out["collected"][half])[0] for half in ("average", "half1", "half2")]
        _, halves, known = np.loadtxt(str(tmp_path / name / "fsc.csv"), delimiter=",", skiprows=1).T
        radius = diameter / 2 / (2 * PIXEL) if diameter else None
        assert np.allclose(halves, fsc(*found[1:], radius), atol=1e-5)
        assert np.allclose(known, fsc(found[0], phantom.volume(32, 2 * PIXEL), radius), atol=1e-5)
    assert not np.allclose(*(np.loadtxt(str(tmp_path / name / "fsc.csv"), delimiter=",", skiprows=1)[:, 1]
                             for name in ("wide", "narrow")), atol=1e-3)


def test_symmetry_is_that_of_turned_particles(thick, tmp_path):
    """Summing turned sums is summing turned particles: the same table with every orientation of D2 in it."""
    folder, _, particles = thick
    group = point_group("D2")
    copies = [replace(particles, rotation=particles.rotation @ r, uid=tuple("%s_%d" % (u, i) for u in particles.uid),
                      extra=dict(particles.extra, rlnTomoParticleName=["%s_%d" % (u, i) for u in particles.uid]))
              for i, r in enumerate(group)]
    table = star.read(str(folder / "particles.star")).table("particles")
    columns = {c: table.text(c) * len(group) for c in table.columns}
    turned = np.concatenate([c.rotation for c in copies])
    columns.update(zip(particlestar.ANGLE, zyz_from_matrix(turned)))
    columns["rlnTomoParticleName"] = [u for c in copies for u in c.uid]
    star.write(str(tmp_path / "turned.star"), [star.Table.from_columns("particles", columns)])
    common = dict(tomograms=str(folder / "tomograms.star"), binning=2, box=64, crop=48)
    one, other = (run("particle", tmp_path / name, particles=str(table), symmetry=name, **common)["collected"]
                  for name, table in (("D2", folder / "particles.star"), ("C1", tmp_path / "turned.star")))
    maps = [mrc.read_volume(out["average"])[0] for out in (one, other)]
    cc = np.corrcoef(*(m.ravel() for m in maps))[0, 1]
    print("CC of the map with symmetry and of that of turned particles: %.5f" % cc)
    assert cc > 0.999 and one["symmetry"] == "D2" and other["kept"] == 4 * one["kept"]
    assert json.loads((tmp_path / "D2" / "map.json").read_text())["symmetry"] == "D2"


@pytest.mark.parametrize("options, words", [
    (dict(symmetry="X3"), "no point group"), (dict(box=32, crop=40), "more than the box"),
    (dict(box=32, crop=15), "odd"), (dict(box=31), "odd"), (dict(reference="absent.mrc"), "does not exist")])
def test_what_cannot_be_is_refused(thick, tmp_path, options, words):
    folder, _, _ = thick
    with pytest.raises(InputError, match=words):
        run("particle", tmp_path, tomograms=str(folder / "tomograms.star"), particles=str(folder / "particles.star"),
            **dict(dict(box=32), **options))
    assert not list(tmp_path.glob("*.mrc"))


def test_one_map_has_one_pixel_size(thick, tmp_path):
    folder, _, _ = thick
    series = relion5.read_project(str(folder / "tomograms.star"))
    other = replace(series[1], geometry=series[1].geometry.replace(pixel_size=1.3 * PIXEL))
    table = relion5.write_project(str(tmp_path / "two"), [series[0], other], paths="absolute")
    with pytest.raises(InputError, match="pixel sizes of 4 to 5.2 A"):
        run("particle", tmp_path / "out", tomograms=str(table), particles=str(folder / "particles.star"), box=32)


def test_sums_are_found_where_the_folder_was_moved(thick, tmp_path):
    """And neither its inputs nor the map that it is compared with are overwritten."""
    folder, _, _ = thick
    common = dict(tomograms=str(folder / "tomograms.star"), particles=str(folder / "particles.star"), binning=4, box=32)
    first = mrc.read_volume(run("particle", tmp_path / "first", **common)["collected"]["average"])[0]
    (tmp_path / "first").rename(tmp_path / "moved")
    out = run("particle", tmp_path / "moved", symmetry="C2", **common)
    second = mrc.read_volume(out["collected"]["average"])[0]
    assert second.shape == first.shape and not np.allclose(second, first)
    assert [r["status"] for r in out["results"]] == ["skipped", "skipped"]
    with pytest.raises(InputError, match="would be overwritten"):
        run("particle", tmp_path / "moved", reference=str(tmp_path / "moved" / "average.mrc"), **common)
    run("particle", folder, **common)  # beside its own tables, none of which it writes
    assert (folder / "average.mrc").exists()


@pytest.mark.parametrize("value", ["3", "0", "", "one"])
def test_halves_of_a_refinement_are_not_mixed(thick, tmp_path, value):
    folder, _, _ = thick
    table = star.read(str(folder / "particles.star")).table("particles")
    columns = {c: table.text(c) for c in table.columns}
    columns["rlnRandomSubset"] = ["1.0", "2.000"] * (len(table) // 2)
    star.write(str(tmp_path / "good.star"), [star.Table.from_columns("particles", columns)])
    common = dict(tomograms=str(folder / "tomograms.star"), binning=4, box=32)
    out = run("particle", tmp_path / "good", particles=str(tmp_path / "good.star"), **common)
    kept = {p["uid"] for r in out["results"] for p in r["particles"] if p["kept"]}
    first = [uid in kept for uid in columns["rlnTomoParticleName"]][::2]
    assert out["collected"]["half_particles"] == [sum(first), len(kept) - sum(first)]
    columns["rlnRandomSubset"][3] = value or "None"
    star.write(str(tmp_path / "bad.star"), [star.Table.from_columns("particles", columns)])
    with pytest.raises(InputError, match="rlnRandomSubset: it has a value"):
        run("particle", tmp_path / "bad", particles=str(tmp_path / "bad.star"), **common)


@pytest.mark.parametrize("applied", [False, True])
def test_boxes_that_are_turned_offsets_and_a_shift_come_together(thick, tmp_path, applied):
    """3D, with a cone: extracted again from a table with all three, and from one with the final poses."""
    folder, _, particles = thick
    rng, shift = np.random.default_rng(1), np.array([8.0, -12.0, 16.0])
    n = len(particles)
    box, offset = Rotation.random(n, random_state=2).as_matrix(), rng.uniform(-15, 15, (n, 3))
    within = np.swapaxes(box, 1, 2) @ particles.rotation

    def table(name, position, turned, angles, origin):
        columns = {"rlnTomoName": particles.names(), "rlnTomoParticleName": list(particles.uid)}
        columns.update(zip(particlestar.CENTRED, position.T))
        columns.update(zip(particlestar.BOX_ANGLE, zyz_from_matrix(turned)))
        columns.update(zip(particlestar.ANGLE, zyz_from_matrix(angles)))
        columns.update((label + "Angst", origin[:, i]) for i, label in enumerate(particlestar.ORIGIN))
        star.write(str(tmp_path / name), [star.Table.from_columns("particles", columns)])
        return str(tmp_path / name)

    final = particles.position + particles.rotation @ shift
    still, none = np.broadcast_to(np.eye(3), (n, 3, 3)), np.zeros((n, 3))
    refined_ = table("refined.star", particles.position + np.einsum("nij,nj->ni", box, offset), box, within, offset)
    direct = table("direct.star", final, *((particles.rotation, still) if applied else (box, within)), none)
    common = dict(tomograms=str(folder / "tomograms.star"), binning=2, box=48, crop=24, stack2d=False, float16=False,
                  cone_weight=True)
    tables = [star.read(run("pseudosubtomo", tmp_path / name, particles=path, **common, **more)["collected"]["star"])
              .table("particles") for name, path, more in (
                  ("again", refined_, dict(shift_x=8, shift_y=-12, shift_z=16, apply_orientations=applied)),
                  ("directly", direct, {}))]
    assert tables[0].text("rlnTomoParticleName") == tables[1].text("rlnTomoParticleName")
    for column in ("rlnImageName", "rlnCtfImage"):
        for a, b in zip(*(t.text(column) for t in tables)):
            a, b = mrc.read_volume(a)[0], mrc.read_volume(b)[0]
            assert np.linalg.norm(a - b) < 1e-3 * np.linalg.norm(b)
    assert np.allclose(*(np.stack([t.float(c) for c in particlestar.CENTRED]) for t in tables), atol=1e-4)


def test_halves_need_particles(thick, tmp_path):
    folder, _, particles = thick
    table = star.read(str(folder / "particles.star")).table("particles")
    columns = {c: table.text(c) for c in table.columns}
    columns["rlnRandomSubset"] = ["1"] * len(table)
    star.write(str(tmp_path / "one.star"), [star.Table.from_columns("particles", columns)])
    with pytest.raises(InputError, match="one half"):
        run("particle", tmp_path / "out", tomograms=str(folder / "tomograms.star"),
            particles=str(tmp_path / "one.star"), box=32)
