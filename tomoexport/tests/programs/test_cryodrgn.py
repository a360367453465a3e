"""cryoDRGN reads image series and RELION 5's 2D stacks, back-projects them and trains on them.

The program has an environment of its own, with torch, whose folder TOMOEXPORT_CRYODRGN names: `make test-cryodrgn`.
"""

import os
import subprocess
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from tomoexport.engine.poses import matrix_from_zyz
from tomoexport.io import mrc, particlestar, relion5, star
from tomoexport.tests.programs.conftest import BOX, PIXEL
from tomoexport.tests.programs.maps import likeness

pytestmark = [pytest.mark.slow, pytest.mark.cryodrgn]

COARSE, CROP = 6.0, 40  # of 2D stacks: pixel size (A), side
DOSE = 3.0  # of a tilt, e/A^2


@pytest.fixture(scope="module")
def cryodrgn():
    """Run a program of that environment in a folder; returns what it printed."""
    place = os.environ.get("TOMOEXPORT_CRYODRGN")
    if not place:
        pytest.skip("cryoDRGN has an environment of its own, TOMOEXPORT_CRYODRGN: make test-cryodrgn")
    # A second thread triples the CPU time of so small a network.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment["OMP_NUM_THREADS"] = "1"

    def run(folder, program, *arguments):
        done = subprocess.run([os.path.join(place, "bin", program)] + [str(a) for a in arguments], cwd=str(folder),
                              env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout
    return run


@pytest.fixture(scope="module")
def parsed(cryodrgn, image_series):
    """Folder of the image series, after parse_star."""
    folder = os.path.dirname(image_series)
    parse_star(cryodrgn, folder, "particles.star", BOX, PIXEL)
    return folder


def parse_star(cryodrgn, folder, name, box, pixel_size):
    cryodrgn(folder, "cryodrgn", "parse_star", name, "--ctf", "ctf.pkl", "--poses", "poses.pkl", "-D", box, "--Apix",
             pixel_size, "--overwrite")


def unpickled(cryodrgn, folder):
    """What parse_star wrote: rotations `(N, 3, 3)`, translations `(N, 2)` and CTF parameters `(N, 9)`."""
    code = ("import pickle, numpy as np; rotation, shift = pickle.load(open('poses.pkl', 'rb')); "
            "np.savez('parsed.npz', rotation=rotation, shift=shift, ctf=pickle.load(open('ctf.pkl', 'rb')))")
    cryodrgn(folder, "python", "-c", code)
    with np.load(os.path.join(str(folder), "parsed.npz")) as arrays:
        return arrays["rotation"], arrays["shift"], arrays["ctf"]


def back_project(cryodrgn, folder, name):
    cryodrgn(folder, "cryodrgn", "backproject_voxel", name, "--datadir", ".", "--ctf", "ctf.pkl", "--poses",
             "poses.pkl", "--tilt", "--ntilts", 41, "--dose-per-tilt", DOSE, "--no-half-maps", "-o", "map")
    return mrc.read_volume(os.path.join(str(folder), "map", "backproject.mrc"))[0]


class Truth:
    """What our own geometry says of each particle in each tilt."""

    def __init__(self, tomograms, particles):
        series = relion5.read_project(tomograms)
        every, _ = particlestar.read_particles(particles, series)
        self.rotation, self.ctf, self.scale, self.seen = {}, {}, {}, {}
        for one in series:
            own, g, ctf = every.in_series(one.ts_id), one.geometry, one.ctf
            depth = g.hand * g.project(own.position).depth
            for i in range(len(own)):
                key = one.ts_id, i
                self.rotation[key] = g.rotation @ own.rotation[i]
                self.ctf[key] = np.stack([ctf.defocus_u + depth[i], ctf.defocus_v + depth[i], ctf.angle, ctf.phase], -1)
                self.scale[key] = g.rotation[:, 2, 2]
                self.seen[key] = g.used

    def of(self, quantity, rows):
        """Its values for rows (particle, tilt), in their order."""
        return np.array([getattr(self, quantity)[particle][tilt] for particle, tilt in rows])


def series_rows(table):
    """Particle and tilt that the rows of image series mean: particles in their order, micrographs as 021@TS_01.mrcs."""
    names, found = {}, []
    for group, micrograph in zip(table.text("rlnGroupName"), table.text("rlnMicrographName")):
        number, stack = micrograph.split("@")
        own = names.setdefault(os.path.splitext(stack)[0], {})
        found.append(((os.path.splitext(stack)[0], own.setdefault(group, len(own))), int(number) - 1))
    assert [len(own) for own in names.values()] == [90, 90]
    return found


def expanded_rows(table):
    """The same for the rows of parse_relion: group TS_01/2, tilt 000021@tiltseries/TS_01.mrcs."""
    return [((group.split("/")[0], int(group.split("/")[1]) - 1), int(name.split("@")[0]) - 1)
            for group, name in zip(table.text("rlnGroupName"), table.text("rlnTiltName"))]


def changed(data, folder, change):
    """Table of tomograms after ``change`` of each series; images stay where they are."""
    series = [change(one) for one in relion5.read_project(os.path.join(data, "tomograms.star"))]
    return relion5.write_project(str(folder), series, paths="absolute")


def with_phase_plate(series):
    return replace(series, ctf=replace(series.ctf, phase=series.ctf.phase + np.linspace(60.0, 100.0, 41)))


def with_excluded_views(series):
    """The third and the eleventh exposure."""
    return replace(series, geometry=series.geometry.replace(used=~np.isin(series.geometry.acq_order, [2, 10])))


def check(found, expected, tolerance):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < tolerance


def test_poses_and_ctfs_arrive(cryodrgn, parsed, data):
    """Of particles seen in different numbers of tilts, of both hands, astigmatic."""
    table = star.read(os.path.join(parsed, "particles.star")).table("")
    rows, truth = series_rows(table), Truth(*(os.path.join(data, n) for n in ("tomograms.star", "particles.star")))
    assert len(set(Counter(particle for particle, _ in rows).values())) > 5
    compare(unpickled(cryodrgn, parsed), truth, rows)


def compare(parsed, truth, rows):
    """cryoDRGN holds single precision, and turns the volume by the same matrix as we do."""
    rotation, shift, ctf = parsed
    check(rotation, truth.of("rotation", rows), 1e-5)
    assert not shift.any()
    assert (ctf[:, 0] == BOX).all() and np.allclose(ctf[:, 1], PIXEL)
    check(ctf[:, [2, 3, 4, 8]], truth.of("ctf", rows), 0.01)
    assert np.allclose(ctf[:, 5:8], [300.0, 2.7, 0.1])


def test_phase_plate_and_excluded_views_arrive(cryodrgn, export, data, tmp_path):
    tomograms = changed(data, tmp_path / "tables", lambda one: with_excluded_views(with_phase_plate(one)))
    path = export("series", tmp_path / "out", tomograms=tomograms, pixel_size=PIXEL, box=BOX, diameter=180.0)["star"]
    rows = series_rows(star.read(path).table(""))
    truth = Truth(tomograms, os.path.join(data, "particles.star"))
    assert truth.of("seen", rows).all() and truth.of("ctf", rows)[:, 3].min() > 59
    parse_star(cryodrgn, tmp_path / "out", "particles.star", BOX, PIXEL)
    compare(unpickled(cryodrgn, tmp_path / "out"), truth, rows)


def test_back_projection_is_the_phantom(cryodrgn, parsed, phantom):
    made = back_project(cryodrgn, parsed, "particles.star")
    assert made.shape == (BOX,) * 3
    right, wrong = likeness(made, phantom, PIXEL)
    print("cryoDRGN's back-projection of image series: CC %.4f to the phantom, %.4f to the best mirror image"
          % (right, wrong))
    assert right >= 0.9 and right - wrong >= 0.3


def test_an_epoch_of_training_and_a_selection(cryodrgn, parsed):
    """Its particles are ours, in the order of the table; those of a cluster select their rows."""
    names = star.read(os.path.join(parsed, "particles.star")).table("").text("rlnGroupName")
    particles = list(dict.fromkeys(names))
    printed = cryodrgn(parsed, "cryodrgn", "train_vae", "particles.star", "--datadir", ".", "--ctf", "ctf.pkl",
                       "--poses", "poses.pkl", "--zdim", 2, "--encode-mode", "tilt", "--ntilts", 8, "--dose-per-tilt",
                       DOSE, "--enc-dim", 32, "--enc-layers", 1, "--dec-dim", 32, "--dec-layers", 1, "-n", 1,
                       "--batch-size", 8, "--seed", 1, "-o", "vae")
    assert "Loaded %d tilts for %d particles" % (len(names), len(particles)) in printed
    assert os.path.getsize(os.path.join(parsed, "vae", "weights.1.pkl")) > 10000
    code = ("import pickle, numpy as np; np.savez('kept.npz', z=pickle.load(open('vae/z.1.pkl', 'rb')), "
            "kept=pickle.load(open('kept.pkl', 'rb')))")
    cryodrgn(parsed, "cryodrgn_utils", "select_clusters", "vae/analyze.1/kmeans20/labels.pkl", "--sel", 1, 3, 5, "-o",
             "kept.pkl")
    cryodrgn(parsed, "cryodrgn_utils", "filter_star", "particles.star", "--et", "--ind", "kept.pkl", "-o", "kept.star")
    cryodrgn(parsed, "python", "-c", code)
    with np.load(os.path.join(parsed, "kept.npz")) as arrays:
        z, kept = arrays["z"], arrays["kept"]
    assert z.shape == (len(particles), 2) and np.isfinite(z).all() and z.std(axis=0).min() > 0
    assert 0 < len(kept) < len(particles)
    left = star.read(os.path.join(parsed, "kept.star"))
    left = next(table for table in left if table.has("rlnGroupName")).text("rlnGroupName")
    chosen = {particles[i] for i in kept}
    assert left == [name for name in names if name in chosen]


@pytest.mark.parametrize("name, options", [
    ("plain", {}), ("hidden", {"max_dose": 100.0}), ("turned", {"apply_orientations": True})])
def test_stacks_of_relion_5_expand(cryodrgn, export, data, phantom, tmp_path, name, options):
    """Images by the frames that are visible, poses and defoci by our geometry; and the map, where frames are hidden."""
    tomograms = changed(data, tmp_path, with_excluded_views if name == "hidden" else lambda one: one)
    path = export("pseudosubtomo", tmp_path / "out", tomograms=tomograms, binning=2.0, box=64, crop=CROP,
                  ctf=False, **options)["star"]
    given = star.read(path).table("particles")
    frames = [[int(v) for v in text.strip("[]").split(",")] for text in given.text("rlnTomoVisibleFrames")]
    printed = cryodrgn(tmp_path, "cryodrgn_utils", "parse_relion", "-t", tomograms, "-p", path, "--tilt-dim", 480, 400,
                       "-o", "expanded.star")
    assert "Total 2D rows in output: %d" % np.sum(frames) in printed
    table = star.read(str(tmp_path / "expanded.star")).table("")
    rows = expanded_rows(table)
    assert len(table) == np.sum(frames) == len(set(rows))
    visible = {(part, int(number) - 1): np.flatnonzero(shown) for (part, number), shown in zip(
        (uid.split("/") for uid in given.text("rlnTomoParticleName")), frames)}
    truth = Truth(tomograms, os.path.join(data, "particles.star"))
    for image, (particle, tilt) in zip(table.text("rlnImageName"), rows):
        assert visible[particle][int(image.split("@")[0]) - 1] == tilt
    if name == "hidden":
        assert truth.of("seen", rows).all() and table.float("rlnMicrographPreExposure").max() <= 100
        assert max(map(sum, frames)) < 34
    rotation = matrix_from_zyz(*(table.float("rlnAngle" + n) for n in ("Rot", "Tilt", "Psi")))
    check(rotation, truth.of("rotation", rows), 1e-5)
    ctf = np.stack([table.float(n) for n in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift")], -1)
    check(ctf, truth.of("ctf", rows), 1e-3)
    check(table.float("rlnCtfScalefactor"), truth.of("scale", rows), 1e-5)
    assert set(table.float("rlnDetectorPixelSize")) == {COARSE}
    if name != "hidden":
        return
    parse_star(cryodrgn, tmp_path, "expanded.star", CROP, COARSE)
    right, wrong = likeness(back_project(cryodrgn, tmp_path, "expanded.star"), phantom, COARSE)
    print("cryoDRGN's back-projection of RELION 5 stacks: CC %.4f to the phantom, %.4f to the best mirror image"
          % (right, wrong))
    assert right >= 0.9 and right - wrong >= 0.3


def test_optimisation_sets_expand(cryodrgn, export, data, tmp_path):
    """Of particles that all tilts show: a row per image, with the poses and defoci of our geometry, for both hands."""
    whole = export("series", tmp_path, pixel_size=PIXEL, box=BOX, diameter=180.0, form="optimisation-set",
                   reader="cryodrgn")
    cryodrgn(tmp_path, "cryodrgn_utils", "parse_warptools", "-t", "particles_tomograms.star", "-p", "particles.star",
             "--tilt-dim", 288, 240, "-o", "expanded.star")
    table = star.read(str(tmp_path / "expanded.star")).table("")
    tomograms = os.path.join(data, "tomograms.star")
    order = {one.ts_id: np.argsort(one.geometry.dose) for one in relion5.read_project(tomograms)}
    rows = []
    for group, tilt in zip(table.text("rlnGroupName"), table.text("rlnTiltName")):
        name, number = group.rsplit("_", 1)
        rows.append(((name, int(number) - 1), order[name][int(tilt.rsplit("_", 1)[1]) - 1]))
    assert len(table) == len(set(rows)) == whole["images"] == 41 * whole["kept"]
    assert set(name for (name, _), _ in rows) == {"TS_01", "TS_02"}
    truth = Truth(tomograms, os.path.join(data, "particles.star"))
    rotation = matrix_from_zyz(*(table.float("rlnAngle" + n) for n in ("Rot", "Tilt", "Psi")))
    check(rotation, truth.of("rotation", rows), 1e-5)
    ctf = np.stack([table.float(n) for n in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift")], -1)
    check(ctf, truth.of("ctf", rows), 1e-2)
