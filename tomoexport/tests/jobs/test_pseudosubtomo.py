"""Pseudo-subtomograms through the verb: RELION's own extractions, files and tables, and what is refused."""

import csv
import os
from dataclasses import replace

import numpy as np
import pytest

from tomoexport.engine.fourier import sphere
from tomoexport.engine.poses import matrix_from_zyz
from tomoexport.engine.trajectory import Trajectory
from tomoexport.errors import InputError
from tomoexport.io import mrc, particlestar, relion5, species, star
from tomoexport.jobs import runner
from tomoexport.options import PseudosubtomoOptions
from tomoexport.tests.jobs.test_report import marks
from tomoexport.tests.shared import need_shared

pytestmark = pytest.mark.slow

#: RELION's four extractions: its options as ours.
EXTRACTIONS = {
    "stack2d_bin1": dict(optimisation_set="optimisation_set.star", box=64, crop=48, float16=False),
    "stack2d_bin2_trajectories": dict(particles="particles_offsets.star", tomograms="tomograms.star",
                                      motion="motion.star", box=48, crop=32, binning=2.0, max_dose=60.0, min_frames=5,
                                      float16=False),
    "stack2d_bin1p5_raw_float16": dict(optimisation_set="optimisation_set_offsets.star", box=48, crop=40, binning=1.5,
                                       ctf=False, invert=False),
    "volume_bin2": dict(optimisation_set="optimisation_set.star", box=48, crop=32, binning=2.0, stack2d=False,
                        float16=False)}


@pytest.fixture
def project(monkeypatch):
    folder = need_shared("reference", "relion5")
    monkeypatch.chdir(folder)
    return folder


def extract(folder, **options):
    out = runner.run({"verb": "pseudosubtomo", "options": dict({"output": str(folder), "threads": 2}, **options)})
    assert not out["failed"], out["results"]
    return out["collected"]


def rms(a, b):
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.shared
@pytest.mark.parametrize("name", EXTRACTIONS)
def test_the_extraction_is_relions(project, tmp_path, name):
    """Files, particles that are kept, visible frames, columns and values."""
    collected = extract(tmp_path, exact=True, **EXTRACTIONS[name])
    ours, theirs = (star.read(path) for path in (collected["star"], os.path.join("expected", name, "particles.star")))
    for block in ("general", "optics"):
        a, b = ours.table(block), theirs.table(block)
        assert set(a.columns) == set(b.columns)
        assert all(a.text(c) == b.text(c) if c == "rlnOpticsGroupName" else np.allclose(a.float(c), b.float(c))
                   for c in b.columns)
    a, b = ours.table("particles"), theirs.table("particles")
    assert set(a.columns) == set(b.columns) and len(a) == len(b)
    paths = ("rlnImageName", "rlnCtfImage")
    for column in b.columns:
        if column in ("rlnTomoName", "rlnTomoParticleName", "rlnTomoVisibleFrames"):
            assert a.text(column) == b.text(column)
        elif column not in paths:
            assert np.allclose(a.float(column), b.float(column), atol=2e-5), column
    found = []
    for column in paths:
        if not b.has(column):
            continue
        for mine, other in zip(a.text(column), b.text(column)):
            assert os.path.relpath(mine, str(tmp_path)) == os.path.relpath(other, os.path.join("expected", name))
            if os.path.exists(other):  # RELION's first ten of each series are there
                found.append(rms(mrc.read_volume(mine)[0], mrc.read_volume(other)[0]))
                one, two = mrc.read_header(mine), mrc.read_header(other)
                assert (one.shape, one.dtype) == (two.shape, two.dtype)
    print("%s: largest relative rms of %d files %.1e" % (name, len(found), max(found)))
    assert len(found) >= 15 and max(found) < 1e-4
    given = next(iter(star.read(collected["optimisation_set"])))
    assert given.text("rlnTomoParticlesFile")[0] == collected["star"]
    assert os.path.samefile(given.text("rlnTomoTomogramsFile")[0], "tomograms.star")
    assert given.has("rlnTomoTrajectoriesFile") == (name == "stack2d_bin2_trajectories")


@pytest.mark.shared
def test_offsets_may_stay(project, tmp_path):
    """Windows are cut at the coordinates as they stand; by default at the particles, whose offsets are 0 then."""
    given = star.read("particles_offsets.star").table("particles")
    common = dict(EXTRACTIONS["stack2d_bin2_trajectories"], motion="", max_dose=0.0, min_frames=1)
    kept, moved = (star.read(extract(tmp_path / str(apply), apply_offsets=apply, **common)["star"]).table("particles")
                   for apply in (False, True))
    rows = [given.text("rlnTomoParticleName").index(name) for name in kept.text("rlnTomoParticleName")]
    for axis in "XYZ":
        for column in ("rlnCenteredCoordinate%sAngst" % axis, "rlnOrigin%sAngst" % axis):
            assert np.allclose(kept.float(column), given.float(column)[rows], atol=1e-4)
        assert np.abs(given.float("rlnOrigin%sAngst" % axis)).max() > 5
        assert not moved.float("rlnOrigin%sAngst" % axis).any()
    a, b = (mrc.read_volume(t.text("rlnImageName")[0])[0] for t in (kept, moved))
    assert a.shape != b.shape or rms(a, b) > 0.3


@pytest.mark.shared
def test_orientations_may_be_applied(project, tmp_path):
    """The box has the whole rotation, the particle in it none: plain sums show it upright."""
    common = EXTRACTIONS["volume_bin2"]
    given = star.read("particles.star").table("particles")
    table = star.read(extract(tmp_path, apply_orientations=True, exact=True, **common)["star"]).table("particles")
    assert not any(table.float("rlnAngle" + n).any() for n in ("Rot", "Tilt", "Psi"))
    rows = [given.text("rlnTomoParticleName").index(name) for name in table.text("rlnTomoParticleName")]
    turned, before = (matrix_from_zyz(*(t.float(label + n) for n in ("Rot", "Tilt", "Psi")))
                      for t, label in ((table, "rlnTomoSubtomogram"), (given, "rlnAngle")))
    assert np.abs(turned - before[rows]).max() < 1e-4
    # The plain sums show the particle, bright and upright, without any angles.
    known, _ = mrc.read_volume("phantom_bin2.mrc")
    total = sum(mrc.read_volume(path)[0] for path in table.text("rlnImageName"))
    first = known.shape[0] // 2 - 16
    part = known[first:first + 32, first:first + 32, first:first + 32]
    inside = sphere(32, 10, dtype=bool).astype(bool)
    found = np.corrcoef(total[inside], part[inside])[0, 1]
    plain = star.read(extract(tmp_path / "plain", exact=True, **common)["star"]).table("particles")
    unturned = sum(mrc.read_volume(path)[0] for path in plain.text("rlnImageName"))
    other = np.corrcoef(unturned[inside], part[inside])[0, 1]
    print("CC of plain sums to the particle: %.3f with orientations applied, %.3f without" % (found, other))
    assert found > 0.6 and found - other > 0.3


@pytest.mark.shared
@pytest.mark.parametrize("name", EXTRACTIONS)
def test_binned_images_give_nearly_the_same(project, tmp_path, name):
    """The default against RELION: rings, or shells, up to 0.95 Nyquist."""
    collected = extract(tmp_path, **EXTRACTIONS[name])
    table = star.read(collected["star"]).table("particles")
    theirs = star.read("expected/%s/particles.star" % name).table("particles")
    if table.has("rlnTomoVisibleFrames"):
        assert table.text("rlnTomoVisibleFrames") == theirs.text("rlnTomoVisibleFrames")
    pairs = [(a, b) for a, b in zip(table.text("rlnImageName"), theirs.text("rlnImageName")) if os.path.exists(b)]
    assert len(pairs) >= 15
    n = 3 if name.startswith("volume") else 2
    axes = tuple(range(-n, 0))
    a, b = ([np.fft.fftn(mrc.read_volume(path)[0], axes=axes) for path in paths] for paths in zip(*pairs))
    k = np.sqrt(sum(q ** 2 for q in np.meshgrid(*[np.fft.fftfreq(a[0].shape[-1])] * n)))
    rings = [(k >= low) & (k < low + 0.05) for low in np.arange(0.025, 0.43, 0.05)]
    frc = [sum(np.sum(x[..., r] * y[..., r].conj()).real for x, y in zip(a, b)) / np.sqrt(
        sum(np.sum(abs(x[..., r]) ** 2) for x in a) * sum(np.sum(abs(y[..., r]) ** 2) for y in b)) for r in rings]
    print("%s: correlations up to 0.95 Nyquist" % name, np.round(frc, 4))
    assert min(frc) > 0.995


def projected(folder, name):
    """Particles, tilts, places `(N, T, 2)` and visibility `(N, T)` of a table of projected centres."""
    with open(os.path.join(str(folder), "projected", name + ".csv"), newline="") as handle:
        rows = list(csv.DictReader(handle))
    particles, tilts = (list(dict.fromkeys(row[key] for row in rows)) for key in ("particle", "tilt"))
    assert [(row["particle"], row["tilt"]) for row in rows] == [(p, t) for p in particles for t in tilts]
    shape = len(particles), len(tilts)
    xy = np.array([(row["x_px"], row["y_px"]) for row in rows], float).reshape(shape + (2,))
    return particles, [int(t) for t in tilts], xy, np.array([int(row["visible"]) for row in rows]).reshape(shape)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["stack2d_bin1", "stack2d_bin2_trajectories"])
def test_projected_centres_are_those_of_geometry_and_relion(project, tmp_path, name):
    """Places from the truth and the raw trajectories, by RELION's formula and ours; particles and frames of RELION."""
    collected = extract(tmp_path, only_project=True, **EXTRACTIONS[name])
    assert collected["star"] is None and collected["projected"] == str(tmp_path / "projected")
    theirs = star.read(os.path.join("expected", name, "particles.star")).table("particles")
    given = star.read(EXTRACTIONS[name].get("particles", "particles.star")).table("particles")
    truth, kept = np.load("truth.npz"), 0
    for series in relion5.read_project("tomograms.star"):
        g, ts_id = series.geometry, series.ts_id
        particles, tilts, xy, visible = projected(tmp_path, ts_id)
        rows = [row for row, tomogram in enumerate(theirs.text("rlnTomoName")) if tomogram == ts_id]
        assert particles == [theirs.text("rlnTomoParticleName")[row] for row in rows]
        assert ["[%s]" % ",".join(map(str, seen)) for seen in visible] == [
            theirs.text("rlnTomoVisibleFrames")[row] for row in rows]
        assert tilts == list(range(g.n_tilts))
        own = [uid for uid in given.text("rlnTomoParticleName") if uid.startswith(ts_id + "/")]
        point = truth[ts_id + "_pos"][[own.index(uid) for uid in particles]][:, None]
        if name.endswith("trajectories"):
            motion = star.read("motion.star")
            point = point + [particlestar.vectors(motion.table(uid), ["rlnOrigin%sAngst" % a for a in "XYZ"])
                             for uid in particles]
        assert np.abs(g.project(point).xy / g.pixel_size + np.array(g.image_shape[::-1]) // 2 - xy).max() < 6e-4
        moved = np.einsum("tij,ntj->nti", truth[ts_id + "_R"], np.broadcast_to(point, xy.shape[:2] + (3,)))
        centre = np.array([{"TS_01": 320, "TS_02": 256}[ts_id] // 2, 320 // 2])
        assert np.abs((moved[..., :2] + truth[ts_id + "_shift_A"]) / 4.0 + centre - xy).max() < 7e-4
        kept += len(particles)
    assert kept == len(theirs)


@pytest.mark.parametrize("options, words", [
    (dict(box=33), "--box.*odd"), (dict(box=32, crop=17), "--crop.*odd"), (dict(box=32, crop=40), "--crop.*box"),
    (dict(particles=""), "--particles.*no file")])
def test_silent_failures_of_relion_are_errors(tmp_path, options, words, simulated):
    simulated("tiny", into=tmp_path / "data")
    values = dict({"tomograms": str(tmp_path / "data" / "tomograms.star"), "box": 32,
                   "particles": str(tmp_path / "data" / "particles.star")}, **options)
    with pytest.raises(InputError, match=words):
        extract(tmp_path / "out", **values)
    assert not os.path.exists(str(tmp_path / "out" / "Subtomograms"))


def test_particles_that_no_image_shows_are_an_error(tmp_path, simulated):
    simulated("tiny", into=tmp_path / "data")
    with pytest.raises(InputError, match="no particle lies within"):
        extract(tmp_path / "out", tomograms=str(tmp_path / "data" / "tomograms.star"), box=128, binning=4.0,
                particles=str(tmp_path / "data" / "particles.star"))


def test_a_table_that_an_optimisation_set_names_must_be_there(tmp_path):
    path = tmp_path / "optimisation_set.star"
    path.write_text("data_\n\n_rlnTomoParticlesFile nowhere/particles.star\n_rlnTomoTomogramsFile tomograms.star\n")
    with pytest.raises(InputError, match="nowhere/particles.star, which is not there"):
        extract(tmp_path / "out", optimisation_set=str(path))


@pytest.fixture
def tiny(tmp_path, simulated):
    simulated("tiny", into=tmp_path / "data")
    return dict(tomograms=str(tmp_path / "data" / "tomograms.star"), box=24, binning=1.5,
                particles=str(tmp_path / "data" / "particles.star"))


def test_inputs_are_not_overwritten(tiny, tmp_path):
    """Re-extraction into the folder of the table that is read."""
    with pytest.raises(InputError, match="particles.star.*would be overwritten"):
        extract(tmp_path / "data", **tiny)


def test_what_is_not_taken_into_account_is_refused(tiny, tmp_path):
    series = relion5.read_project(tiny["tomograms"])
    for label, value, words in (("rlnTomoDeformationType", "spline", "TS_01: %s is not followed.*--ignore %s"),
                                ("rlnTomoDefocusSlope", "steep", "tomograms.star:.*: %s is 'steep', not a number")):
        changed = [replace(one, tomo_extra=dict(one.tomo_extra, **{label: value})) for one in series]
        table = relion5.write_project(str(tmp_path / label), changed, paths="absolute")
        with pytest.raises(InputError, match=words.replace("%s", label)):
            extract(tmp_path / "out" / label, **dict(tiny, tomograms=str(table)))
    particles, _ = particlestar.read_particles(tiny["particles"], series)
    moving = Trajectory(np.repeat(particles.position[:, None], 2, 1), particles.rotation[:, None])
    species.write_species(str(tmp_path / "m.star"), replace(particles, trajectory=moving), series)
    with pytest.raises(InputError, match="turn while they are exposed"):
        extract(tmp_path / "m", **dict(tiny, particles=str(tmp_path / "m.star")))


def test_optics_groups_have_their_own_pixel_size_and_name(tiny, tmp_path):
    from tomoexport.engine.ctf import Optics
    from tomoexport.io import pseudostar
    series = relion5.read_project(tiny["tomograms"])
    particles, _ = particlestar.read_particles(tiny["particles"], series)
    optics = {"TS_01": ("", Optics(), 1.35), "TS_02": ("", Optics(200.0), 1.7)}
    n = len(particles)
    pseudostar.write_pseudosubtomos(str(tmp_path / "p.star"), particles, optics, ["a"] * n, None, [[1, 1, 0]] * n, 2.0,
                                    32, True)
    table = star.read(str(tmp_path / "p.star")).table("optics")
    assert list(table.float("rlnImagePixelSize")) == [2.7, 3.4] and len(set(table.text("rlnOpticsGroupName"))) == 2


def table_of(tiny, folder, positions):
    """A table of particles of TS_01 at these positions."""
    series, *_ = relion5.read_project(tiny["tomograms"])
    particles, _ = particlestar.read_particles(tiny["particles"], [series])
    some = particles.select(np.arange(len(positions)))
    path = str(folder / "some.star")
    particlestar.write_particles(path, replace(some, position=np.array(positions, float)))
    return path, series.geometry


def test_the_picture_shows_where_particles_are_seen(tiny, tmp_path):
    """A circle of the cropped box's size at the place in the table, and another one when coordinates move."""
    found = []
    for i, x in enumerate((0.0, 40.0)):
        path, g = table_of(tiny, tmp_path, [(x, 20.0, 0.0)])
        extract(tmp_path / str(i), **dict(tiny, particles=path, only_project=True, crop=20))
        assert sorted(os.listdir(str(tmp_path / str(i)))) == [".tomoexport", "projected", "report", "results"]
        _, _, xy, _ = projected(tmp_path / str(i), "TS_01")
        least = np.abs(g.tilt).argmin()
        mark = marks(tmp_path / str(i) / "report" / "projected_TS_01.png", g.image_shape)
        assert mark["left out"] is None
        for place, (low, high) in zip(xy[0, least], mark["kept"]):
            assert (low + high) / 2 == pytest.approx(place, abs=0.1)
            assert high - low == pytest.approx(20 * 1.5, abs=0.5)
        found.append(xy[0, least])
    assert np.linalg.norm(found[1] - found[0]) == pytest.approx(40 / g.pixel_size, rel=0.02)


def test_particles_that_are_left_out_are_drawn_and_not_in_the_table(tiny, tmp_path):
    """Even if nothing is left to be extracted; that is what the picture is for."""
    corner = relion5.read_project(tiny["tomograms"])[0].geometry
    far = 0.5 * corner.image_shape[1] * corner.pixel_size
    path, g = table_of(tiny, tmp_path, [(0.8 * far, 0.0, 0.0)])
    values = dict(tiny, particles=path, min_frames=3)
    with pytest.raises(InputError, match="no particle lies within at least 3 images.*--only-project draws"):
        extract(tmp_path / "out", **values)
    collected = extract(tmp_path / "out", only_project=True, **values)
    assert collected["kept"] == 0 and len(collected["dropped"]) == 1
    assert (tmp_path / "out" / "projected" / "TS_01.csv").read_text() == "particle,tilt,x_px,y_px,visible\n"
    mark = marks(tmp_path / "out" / "report" / "projected_TS_01.png", g.image_shape)
    assert mark["kept"] is None and mark["left out"] is not None


def test_tilts_of_projected_centres_are_rows_of_the_whole_table(tiny, tmp_path):
    """Excluded views are not there, and the others keep their numbers."""
    series = relion5.read_project(tiny["tomograms"])
    first = series[0].geometry
    used = np.array([False] + [True] * (first.n_tilts - 1))
    series[0] = replace(series[0], geometry=first.replace(used=used))
    tomograms = relion5.write_project(str(tmp_path / "excluded"), series, paths="absolute")
    extract(tmp_path / "out", **dict(tiny, tomograms=tomograms))
    extract(tmp_path / "all", **tiny)
    (a, some, xy, _), (b, every, whole, _) = (projected(tmp_path / name, "TS_01") for name in ("out", "all"))
    assert some == every[1:] == list(range(1, first.n_tilts)) and set(a) <= set(b)
    assert np.array_equal(xy, whole[[b.index(uid) for uid in a], 1:])


def test_projecting_does_not_stand_for_an_extraction(tiny, tmp_path):
    extract(tmp_path / "out", only_project=True, **tiny)
    assert not (tmp_path / "out" / "Subtomograms").exists()
    before = (tmp_path / "out" / "projected" / "TS_01.csv").read_bytes()
    collected = extract(tmp_path / "out", **tiny)
    assert (tmp_path / "out" / "projected" / "TS_01.csv").read_bytes() == before
    names = star.read(collected["star"]).table("particles").text("rlnImageName")
    assert len(names) == collected["kept"] and all(map(os.path.exists, names))


def test_slope_and_bfactor_of_the_table_rule_the_ctf(tiny, tmp_path):
    """A slope of 0 is a hand of 0: all particles have the defocus of the centre. The B factor is the dose's."""
    from tomoexport.engine.pseudosubtomo import dose_weight
    series = relion5.read_project(tiny["tomograms"])
    assert dose_weight(20.0, np.array([0.1]), 4.0)[0] == pytest.approx(np.exp(-0.25 * 4 * 20 * 0.01))

    def stacks(name, tables):
        table = relion5.write_project(str(tmp_path / name), tables, paths="absolute")
        written = star.read(extract(tmp_path / (name + "_out"), **dict(tiny, tomograms=str(table)))["star"])
        return np.concatenate([mrc.read_volume(p)[0] for p in written.table("particles").text("rlnImageName")])

    def with_labels(**labels):
        return [replace(one, tomo_extra=dict(one.tomo_extra, **labels)) for one in series]

    plain, level = stacks("plain", series), stacks("level", with_labels(rlnTomoDefocusSlope="0"))
    assert rms(level, plain) > 5e-4
    assert np.array_equal(stacks("one", with_labels(rlnTomoDefocusSlope="1.0")), plain)
    # The other hand changes the defocus by the opposite: a slope of -1 undoes it.
    flipped = [replace(one, geometry=one.geometry.replace(hand=-one.geometry.hand)) for one in
               with_labels(rlnTomoDefocusSlope="-1")]
    assert rms(stacks("flipped", flipped), plain) < 1e-5
    assert rms(stacks("decay", with_labels(rlnCtfBfactorPerElectronDose="40")), plain) > 5e-3
    assert np.array_equal(stacks("none", with_labels(rlnCtfBfactorPerElectronDose="0.0")), plain)


def test_tables_that_relion_would_not_find_are_written_anew(tiny, tmp_path, monkeypatch):
    """Paths that count from the table's folder, as simulate writes them: RELION finds them from there alone."""
    given = os.path.abspath(tiny["tomograms"])
    for name, folder in (("there", os.path.dirname(given)), ("elsewhere", str(tmp_path))):
        monkeypatch.chdir(folder)
        out = extract(tmp_path / name, **dict(tiny, tomograms=given, particles=os.path.abspath(tiny["particles"])))
        table = next(iter(star.read(out["optimisation_set"]))).text("rlnTomoTomogramsFile")[0]
        assert os.path.samefile(table, given) == (name == "there")
        for path in star.read(table).table("global").text("rlnTomoTiltSeriesStarFile"):
            images = next(iter(star.read(path))).text("rlnMicrographName")
            assert all(os.path.exists(image.rpartition("@")[2]) for image in images)


def test_what_relion_does_silently_is_told(tiny, tmp_path):
    series = relion5.read_project(tiny["tomograms"])
    odd = [replace(one, geometry=one.geometry.replace(volume_size=tuple(
        one.geometry.pixel_size * (2 * (n // 2) + 1) for n in (64, 64, 30)))) for one in series]
    table = str(relion5.write_project(str(tmp_path / "odd"), odd, paths="absolute"))

    def problems(**options):
        return [str(p) for p in runner.plan("pseudosubtomo", PseudosubtomoOptions(**dict(tiny, **options))).problems]

    assert not problems(box=24)
    assert any("size is odd" in p for p in problems(tomograms=table))
    assert any("27.2 px are cut with 27" in p for p in problems(box=16, binning=1.7, exact=True))
    assert not problems(box=16, binning=1.7)
    particles = star.read(tiny["particles"]).table("particles")
    columns = {c: particles.text(c) for c in particles.columns}
    first, second = columns["rlnTomoParticleName"][:2]
    columns["rlnTomoParticleName"][1] = first.split("/")[-1]
    star.write(str(tmp_path / "same.star"), [star.Table.from_columns("particles", columns)])
    assert any("two particles would be written to %s" % first in p
               for p in problems(particles=str(tmp_path / "same.star")))


def test_tables_of_tilt_series_are_not_overwritten(tiny, tmp_path, monkeypatch):
    """Where a table of ours would take the place of those that are read."""
    monkeypatch.chdir(tmp_path)
    folder = os.path.dirname(tiny["tomograms"])
    os.rename(tiny["tomograms"], os.path.join(folder, "others.star"))
    os.rename(tiny["particles"], os.path.join(folder, "picked.star"))
    values = dict(tiny, tomograms=os.path.join(folder, "others.star"), particles=os.path.join(folder, "picked.star"))
    before = open(os.path.join(folder, "tilt_series", "TS_01.star")).read()
    with pytest.raises(InputError, match="TS_01.star: it is an input"):
        extract(folder, **values)
    assert open(os.path.join(folder, "tilt_series", "TS_01.star")).read() == before


def test_missing_angles_and_offsets_of_boxes_count_as_0(tiny, tmp_path):
    particles = star.read(tiny["particles"]).table("particles")
    columns = {c: particles.text(c) for c in particles.columns}
    count, results = len(particles), []
    for name, more in (("part", {}), ("whole", dict.fromkeys(("rlnTomoSubtomogramRot", "rlnTomoSubtomogramPsi",
                                                             "rlnOriginYAngst", "rlnOriginZAngst"), [0.0] * count))):
        table = dict(columns, rlnTomoSubtomogramTilt=[30.0] * count, rlnOriginXAngst=[9.0] * count, **more)
        star.write(str(tmp_path / (name + ".star")), [star.Table.from_columns("particles", table)])
        out = extract(tmp_path / name, **dict(tiny, particles=str(tmp_path / (name + ".star")), stack2d=False,
                                              apply_offsets=False))
        written = star.read(out["star"]).table("particles")
        results.append((np.stack([written.float(c) for c in particlestar.CENTRED]),
                        np.stack([mrc.read_volume(path)[0] for path in written.text("rlnImageName")])))
    assert np.allclose(results[0][0], results[1][0]) and np.allclose(results[0][1], results[1][1], rtol=1e-5)
