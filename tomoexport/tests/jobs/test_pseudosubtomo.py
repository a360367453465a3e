"""Pseudo-subtomograms through the verb: RELION's own extractions, files and tables, and what is refused."""

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
from tomoexport.tests.shared import need_shared

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
def test_binned_images_give_nearly_the_same(project, tmp_path):
    """The default against RELION: rings up to 0.95 Nyquist."""
    collected = extract(tmp_path, **EXTRACTIONS["stack2d_bin2_trajectories"])
    table = star.read(collected["star"]).table("particles")
    theirs = star.read("expected/stack2d_bin2_trajectories/particles.star").table("particles")
    assert table.text("rlnTomoVisibleFrames") == theirs.text("rlnTomoVisibleFrames")
    pairs = [(a, b) for a, b in zip(table.text("rlnImageName"), theirs.text("rlnImageName")) if os.path.exists(b)]
    a, b = (np.concatenate([np.fft.fft2(mrc.read_volume(path)[0]) for path in paths]) for paths in zip(*pairs))
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(32), np.fft.fftfreq(32)))
    rings = [(k >= low) & (k < low + 0.05) for low in np.arange(0.025, 0.43, 0.05)]
    frc = [np.sum(a[:, r] * b[:, r].conj()).real / np.sqrt(np.sum(abs(a[:, r]) ** 2) * np.sum(abs(b[:, r]) ** 2))
           for r in rings]
    print("ring correlations up to 0.95 Nyquist", np.round(frc, 4))
    assert min(frc) > 0.995


@pytest.mark.parametrize("options, words", [
    (dict(box=33), "--box.*odd"), (dict(box=32, crop=17), "--crop.*odd"), (dict(box=32, crop=40), "--crop.*box"),
    (dict(particles=""), "--particles.*no file")])
def test_silent_failures_of_relion_are_errors(tmp_path, options, words):
    runner.run({"verb": "simulate", "options": {"output": str(tmp_path / "data"), "preset": "tiny"}})
    values = dict({"tomograms": str(tmp_path / "data" / "tomograms.star"), "box": 32,
                   "particles": str(tmp_path / "data" / "particles.star")}, **options)
    with pytest.raises(InputError, match=words):
        extract(tmp_path / "out", **values)
    assert not os.path.exists(str(tmp_path / "out" / "Subtomograms"))


def test_particles_that_no_image_shows_are_an_error(tmp_path):
    runner.run({"verb": "simulate", "options": {"output": str(tmp_path / "data"), "preset": "tiny"}})
    with pytest.raises(InputError, match="no particle lies within"):
        extract(tmp_path / "out", tomograms=str(tmp_path / "data" / "tomograms.star"), box=128, binning=4.0,
                particles=str(tmp_path / "data" / "particles.star"))


def test_a_table_that_an_optimisation_set_names_must_be_there(tmp_path):
    path = tmp_path / "optimisation_set.star"
    path.write_text("data_\n\n_rlnTomoParticlesFile nowhere/particles.star\n_rlnTomoTomogramsFile tomograms.star\n")
    with pytest.raises(InputError, match="nowhere/particles.star, which is not there"):
        extract(tmp_path / "out", optimisation_set=str(path))


@pytest.fixture
def tiny(tmp_path):
    runner.run({"verb": "simulate", "options": {"output": str(tmp_path / "data"), "preset": "tiny"}})
    return dict(tomograms=str(tmp_path / "data" / "tomograms.star"), box=24, binning=1.5,
                particles=str(tmp_path / "data" / "particles.star"))


def test_inputs_are_not_overwritten(tiny, tmp_path):
    """Re-extraction into the folder of the table that is read."""
    with pytest.raises(InputError, match="particles.star.*would be overwritten"):
        extract(tmp_path / "data", **tiny)


def test_what_is_not_taken_into_account_is_refused(tiny, tmp_path):
    series = relion5.read_project(tiny["tomograms"])
    one = replace(series[0], tomo_extra=dict(series[0].tomo_extra, rlnTomoDefocusSlope="0.5"))
    table = relion5.write_project(str(tmp_path / "slope"), [one] + series[1:], paths="absolute")
    values = dict(tiny, tomograms=str(table), output=str(tmp_path / "out"))
    out = runner.run({"verb": "pseudosubtomo", "options": values})
    assert out["failed"] == ["TS_01"] and "rlnTomoDefocusSlope" in out["results"][0]["error"]
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
