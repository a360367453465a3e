"""Particles that move and turn while they are exposed: exports that follow them, and ones that do not."""

import os
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tomoexport.cli import main as run_cli
from tomoexport.engine.average import fsc
from tomoexport.engine.phantom import chiral_phantom
from tomoexport.engine.poses import matrix_from_zyz, zyz_from_matrix
from tomoexport.engine.simulate import make_series, project_tilt
from tomoexport.engine.trajectory import TiltTrajectory, Trajectory, normalised_dose
from tomoexport.errors import InputError
from tomoexport.io import mrc, particlestar, relion5, species, star
from tomoexport.io.tiltseries import TiltSeries
from tomoexport.jobs import runner
from tomoexport.jobs.simulate import true_particles

pytestmark = pytest.mark.slow

PIXEL, BOX, DIAMETER = 5.0, 52, 180.0


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve particles that drift by 25 A and turn by 15 degrees from the first exposure to the last."""
    folder, rng = tmp_path_factory.mktemp("moving"), np.random.default_rng(11)
    phantom = chiral_phantom(160.0, 40)
    still = make_series("TS_01", (300, 280), PIXEL, 600.0, 31, 12, rng, DIAMETER, step=4.0)
    g, n = still.geometry, len(still.position)
    drift, turn = (rng.standard_normal((n, 3)) for _ in range(2))
    drift *= 25 / np.linalg.norm(drift, axis=1, keepdims=True)
    turn *= np.deg2rad(15) / np.linalg.norm(turn, axis=1, keepdims=True)
    start = matrix_from_zyz(*still.angles.T)

    def at(tau):
        turned = Rotation.from_rotvec(tau * turn).as_matrix() @ start
        return still.position + tau * drift, turned

    images = []
    for t, tau in enumerate(normalised_dose(g.dose)):
        position, rotation = at(tau)
        moved = replace(still, position=position, angles=np.stack(zyz_from_matrix(rotation), -1))
        images.append(project_tilt(moved, phantom, t, decay=False))
    images = np.stack(images)
    images += 0.5 * images.std() * rng.standard_normal(images.shape, dtype=np.float32)
    path = str(folder / "TS_01.mrcs")
    mrc.write(path, images, PIXEL, kind="stack")
    series = [TiltSeries(g, still.ctf, tuple((path, t) for t in range(len(images))), optics_group="optics1",
                         optics=still.ctf.optics)]
    relion5.write_project(str(folder), series)
    particles = true_particles([("TS_01", still)])
    particlestar.write_particles(str(folder / "static.star"), particles)
    samples = [at(tau) for tau in (0, 0.5, 1)]
    moving = Trajectory(np.stack([p for p, _ in samples], 1), np.stack([r for _, r in samples], 1))
    species.write_species(str(folder / "moving.star"), replace(particles, trajectory=moving), series)
    constant = Trajectory(np.repeat(particles.position[:, None], 3, 1), np.repeat(particles.rotation[:, None], 3, 1))
    species.write_species(str(folder / "constant.star"), replace(particles, trajectory=constant), series)
    species.write_species(str(folder / "single.star"), particles, series)  # the same places, to the same digits
    return folder, phantom, particles, moving


def export(folder, verb, table, name="", **options):
    out = runner.run({"verb": verb, "options": dict(
        {"tomograms": str(folder / "tomograms.star"), "particles": str(folder / (table + ".star")), "pixel_size": PIXEL,
         "box": BOX, "diameter": DIAMETER, "output": str(folder / (verb + "_" + table + name)), "threads": 2},
        **options)})
    assert not out["failed"], out["results"]
    return out["collected"]["star"]


def average(table):
    out = runner.run({"verb": "average", "options": {"particles": table, "output": table[:-5] + "_average",
                                                     "threads": 2}})
    return mrc.read_volume(out["collected"]["average"])[0]


def quality(volume, phantom):
    """Mean FSC with the phantom from 40 A to 12 A."""
    curve = fsc(volume, phantom.volume(BOX, PIXEL), phantom.diameter / 2 / PIXEL)
    return float(curve[int(BOX * PIXEL / 40):int(BOX * PIXEL / 12)].mean())


def test_volumes_follow_their_particles(data):
    folder, phantom, _, _ = data
    found = {name: quality(average(export(folder, "subtomo", name)), phantom) for name in ("static", "moving")}
    print("mean FSC to the phantom: %(moving).3f with trajectories, %(static).3f without" % found)
    assert found["moving"] > 0.8 and found["moving"] - found["static"] > 0.15


def test_prerotated_volumes_follow_their_particles(data):
    folder, phantom, _, _ = data
    turned = quality(average(export(folder, "subtomo", "moving", "_turned", prerotate=True)), phantom)
    assert abs(turned - quality(average(export(folder, "subtomo", "moving")), phantom)) < 0.03


def series_average(folder, name):
    """RELION's reconstruction from image series; the column it reads with the other sign is set to 0."""
    path = export(folder, "series", name)
    table = star.read(path).table("")
    columns = {c: table.text(c) for c in table.columns}
    columns["rlnCtfBfactor"] = [0.0] * len(table)
    star.write(os.path.join(os.path.dirname(path), "relion.star"), [star.Table.from_columns("", columns)])
    run = subprocess.run(["relion_reconstruct", "--i", "relion.star", "--o", "rec.mrc", "--ctf"],
                         cwd=os.path.dirname(path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                         timeout=600)
    assert run.returncode == 0, run.stdout[-2000:]
    return mrc.read_volume(os.path.join(os.path.dirname(path), "rec.mrc"))[0]


@pytest.mark.relion
def test_image_series_follow_their_particles(data):
    if not shutil.which("relion_reconstruct"):
        pytest.skip("relion_reconstruct is not installed: apt-get install relion")
    folder, phantom, _, _ = data
    found = {name: quality(series_average(folder, name), phantom) for name in ("static", "moving")}
    print("mean FSC to the phantom, image series: %(moving).3f with trajectories, %(static).3f without" % found)
    assert found["moving"] > 0.8 and found["moving"] - found["static"] > 0.15


def volumes(path, column):
    table = star.read(path).table("particles")
    return np.array([mrc.read_volume(os.path.join(os.path.dirname(path), n))[0] for n in table.text(column)])


def test_a_constant_trajectory_is_none(data):
    folder, _, _, _ = data
    tables = [export(folder, "subtomo", name, "_same") for name in ("single", "constant")]
    for column in ("rlnImageName", "rlnCtfImage"):
        static, constant = (volumes(table, column) for table in tables)
        assert np.sqrt(np.mean((static - constant) ** 2)) < 1e-6 * np.sqrt(np.mean(static ** 2))
    tables = [star.read(export(folder, "series", name, "_same")).table("") for name in ("single", "constant")]
    for column in ("rlnDefocusU", "rlnCoordinateX", "rlnCoordinateY"):
        assert np.allclose(tables[0].float(column), tables[1].float(column), atol=1e-3)
    poses = [matrix_from_zyz(*(t.float("rlnAngle" + n) for n in ("Rot", "Tilt", "Psi"))) for t in tables]
    assert np.abs(poses[0] - poses[1]).max() < 1e-6


def test_displacements_of_relions_polishing_are_followed(data):
    """motion.star moves particles and does not turn them: as good as M's table without its rotations."""
    folder, phantom, particles, moving = data
    g = relion5.read_project(str(folder / "tomograms.star"))[0].geometry
    where, _ = moving.at(g.dose)
    blocks = [star.Table.from_columns("general", {"rlnParticleNumber": [len(particles)]})]
    blocks += [star.Table.from_columns(uid, dict(zip(("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst"),
                                                     (own - p).T)))
               for uid, own, p in zip(particles.uid, where, particles.position)]
    star.write(str(folder / "motion.star"), blocks)
    table = export(folder, "subtomo", "static", "_motion", motion=str(folder / "motion.star"))
    found = quality(average(table), phantom)
    still = quality(average(export(folder, "subtomo", "static")), phantom)
    print("mean FSC to the phantom with displacements alone: %.3f; without %.3f" % (found, still))
    assert found - still > 0.1
    half = replace(particles, trajectory=Trajectory(moving.position, particles.rotation[:, None]))
    species.write_species(str(folder / "drifting.star"), half, relion5.read_project(str(folder / "tomograms.star")))
    same = volumes(export(folder, "subtomo", "drifting"), "rlnImageName")
    assert np.abs(volumes(table, "rlnImageName") - same).max() < 1e-3 * same.std()
    assert isinstance(TiltTrajectory(particles.position, particles.rotation, where - particles.position[:, None]).start,
                      tuple)
    with pytest.raises(InputError, match="--motion.*of its own"):
        export(folder, "subtomo", "moving", "_both", motion=str(folder / "motion.star"))


def test_a_shift_is_followed_too(data):
    """The point at the shift moves on its own path: averages of moved exports are the phantom moved."""
    folder, phantom, _, _ = data
    shift = np.array([15.0, -10.0, 5.0])
    moved = replace(phantom, centre=phantom.centre - shift)
    table = export(folder, "subtomo", "moving", "_shifted", **dict(zip(("shift_x", "shift_y", "shift_z"), shift)))
    made = average(table)
    curve = fsc(made, moved.volume(BOX, PIXEL), (phantom.diameter / 2 + 20) / PIXEL)
    assert curve[int(BOX * PIXEL / 40):int(BOX * PIXEL / 12)].mean() > 0.8


def test_a_species_fills_in_what_is_not_given(data):
    folder, _, _, _ = data
    path = folder / "ribosome.species"
    path.write_text("""<?xml version="1.0" encoding="utf-8"?>
<Species>
  <Param Name="Name" Value="ribosome" />
  <Param Name="PixelSize" Value="5.5" />
  <Param Name="DiameterAngstrom" Value="170" />
  <Param Name="Size" Value="48" />
</Species>
""")
    shutil.copy(str(folder / "moving.star"), str(folder / "ribosome_particles.star"))
    values = {"tomograms": str(folder / "tomograms.star"), "output": str(folder / "species"), "species": str(path)}
    filled = runner.read_options("subtomo", values)
    assert (filled.pixel_size, filled.diameter) == (5.5, 170) and filled.particles.endswith("ribosome_particles.star")
    changed = runner.read_options("subtomo", dict(values, pixel_size="6", box="40", particles="mine.star"))
    assert (changed.pixel_size, changed.box, changed.diameter, changed.particles) == (6, 40, 170, "mine.star")
    code = run_cli(["check", "subtomo"] + [v for n, x in values.items() for v in ("--" + n, x)])
    assert code == 0
