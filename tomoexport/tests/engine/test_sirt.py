"""SIRT: a matched pair of projectors, and what iterations do to a tomogram."""

import numpy as np
import pytest

from tomoexport.engine.ctf import Ctf, Optics
from tomoexport.engine.kernels import gpu, implementation
from tomoexport.engine.phantom import chiral_phantom
from tomoexport.engine.preprocess import PreparedStack, prepare_stack
from tomoexport.engine.rows import make_lattice
from tomoexport.engine.simulate import make_series, project_tilt
from tomoexport.engine.sirt import refine
from tomoexport.engine.tomogram import reconstruct_tomogram, setup_tomogram
from tomoexport.tests.engine.test_tomogram import bead, centre_of, series

pytestmark = pytest.mark.slow

PIXEL = 10.0


@pytest.fixture(params=["numpy", "cpu", pytest.param("cuda-source-on-cpu", marks=pytest.mark.compiler)])
def kernels(request, monkeypatch):
    if request.param != "cuda-source-on-cpu":
        return implementation(request.param)
    runtime = request.getfixturevalue("shim_runtime")
    monkeypatch.setattr(gpu, "runtime", lambda: runtime)
    return gpu


@pytest.mark.parametrize("phases", [0, 1, 2], ids=["straight", "sheared", "sheared, twice as fine"])
def test_projection_is_the_adjoint_of_back_projection(rng, kernels, phases):
    g = series(rng, 7, xtilt=np.full(7, 5.0 if phases else 0.0))
    lattice = make_lattice(g, setup_tomogram(g, 14.0), max(phases, 1))
    assert lattice.straight == (phases == 0) and lattice.phases == max(phases, 1)
    nz, ny, nx = shape = (8, 20, 18)
    volume = rng.standard_normal(shape).astype(np.float32)
    extent = lattice.rows_shape(1, ny)
    rows, group = rng.standard_normal(extent).astype(np.float32), np.zeros(7, np.int32)
    if phases:
        projected = kernels.project_sheared(volume, lattice.position, lattice.offset, extent[2:])
        smeared = kernels.backproject_sheared(rows, lattice.position, lattice.offset, lattice.slab, group, 1, shape)
    else:
        projected = kernels.project(volume, lattice.position, extent[2])[:, :, None]
        smeared = kernels.backproject(rows[:, :, :, 0], lattice.position, lattice.slab, group, 1, nz, nx)
    one, other = np.vdot(projected, rows[:, 0]), np.vdot(volume, smeared[0])
    assert abs(one - other) < 1e-5 * np.linalg.norm(projected) * np.linalg.norm(rows)
    assert np.mean(projected != 0) > 0.2 and abs(one) > 1e-3 * np.linalg.norm(projected) * np.linalg.norm(rows)


def noisy(xtilt=0.0, noise=3.0):
    """Tilt images of particles in ice, noise of 3 times their contrast, and where the particles are (voxels)."""
    rng = np.random.default_rng(0)
    s = make_series("s", (110, 110), PIXEL, 500.0, 41, 14, rng, 190.0, xtilt=xtilt)
    images = np.stack([project_tilt(s, chiral_phantom(170.0), t) for t in range(41)])
    images += noise * images.std() * rng.standard_normal(images.shape).astype(np.float32)
    return s, prepare_stack(lambda t: images[t].copy(), ["image"] * 41, PIXEL, PIXEL)


def contrast(volume, s, plan):
    """Mean of the particles over that of the ice around them, in standard deviations of the ice."""
    place = np.indices(volume.shape)[::-1].reshape(3, -1).T
    voxel = s.position / PIXEL + plan.centre
    distance = np.min(np.linalg.norm(place[:, None] - voxel, axis=2), axis=1).reshape(volume.shape)
    core = np.zeros(volume.shape, bool)
    core[4:-4, 6:-6, 6:-6] = True
    particle, ice = volume[(distance < 5) & core], volume[(distance > 11) & core]
    return (particle.mean() - ice.mean()) / ice.std()


@pytest.mark.parametrize("xtilt", [0.0, 6.0])
def test_contrast_of_particles_in_the_raw_map(cpu, xtilt):
    """Ten iterations raise it threefold; it falls slowly as more of them bring out detail and noise."""
    s, stack = noisy(xtilt)
    plan = setup_tomogram(s.geometry, PIXEL, s.ctf)
    found = [contrast(reconstruct_tomogram(stack, s.geometry, s.ctf, plan, cpu, sirt=n)[0], s, plan)
             for n in (0, 10, 30)]
    assert found[1] > 3 * found[0]
    assert found[1] > found[2] > 1.5 * found[0]


def test_iterations_bring_projections_closer_to_the_images(rng, cpu):
    g = series(rng, 9)
    lattice = make_lattice(g, setup_tomogram(g, 8.0), 1)
    truth = rng.standard_normal((20, 16, 30)).astype(np.float32)
    project = implementation(cpu).project
    images = project(truth, lattice.position, lattice.n_u)[:, None, :, None]
    covered = np.ones(images[:, 0].shape, bool)
    left, error = [], []
    for n in (0, 1, 4, 16, 64):
        volume = refine(np.zeros_like(truth), images, covered, lattice, np.arange(9), np.ones(9), 8.0, n, cpu)
        left.append(np.linalg.norm(images[:, 0, :, 0] - project(volume, lattice.position, lattice.n_u)))
        error.append(np.linalg.norm(volume - truth))
    assert all(b < a for a, b in zip(left, left[1:])) and all(b < a for a, b in zip(error, error[1:]))
    assert left[-1] < 0.12 * left[0]


def test_density_sums_to_the_images(rng, cpu):
    """A slab of even density: what it projects to is its thickness times that, in every tilt."""
    g = series(rng, 9, shift=np.zeros((9, 2)))
    plan = setup_tomogram(g, 8.0)
    lattice = make_lattice(g, plan, 1)
    truth = np.full((plan.shape[0], 16, plan.shape[2]), 0.5, np.float32)
    images = implementation(cpu).project(truth, lattice.position, lattice.n_u)[:, None, :, None]
    covered = np.ones(images[:, 0].shape, bool)
    volume = refine(np.zeros_like(truth), images, covered, lattice, np.arange(9), np.ones(9), 8.0, 40, cpu)
    assert np.abs(volume[4:-4, :, 6:-6] - 0.5).max() < 0.05


@pytest.mark.parametrize("change", [{}, {"xtilt": np.full(9, 4.0)}], ids=["straight", "x-tilt"])
def test_a_bead_stays_where_it_is(rng, cpu, change):
    g = series(rng, **change)
    where = np.array([[31.0, -52.0, 23.0]])
    plan = setup_tomogram(g, 5.0)
    volume, = reconstruct_tomogram(bead(g, where), g, None, plan, cpu, "none", False, sirt=20)
    assert np.linalg.norm(centre_of(volume, plan) - where[0]) < 0.3 * 5.0


def test_halves_have_iterations_of_their_own(rng, cpu):
    g = series(rng)
    stack = PreparedStack(rng.standard_normal((9, 96, 80)).astype(np.float32), (4.0, 4.0), np.zeros(9, bool),
                          np.zeros(9, int))
    ctf = Ctf(Optics(), np.full(9, 2e4), np.full(9, 1.9e4), np.full(9, 10.0))
    group = np.arange(9) % 2
    plan = setup_tomogram(g, 8.0, ctf)
    full, odd, even = reconstruct_tomogram(stack, g, ctf, plan, cpu, group=group, sirt=5)
    alone, = reconstruct_tomogram(stack, g, ctf, plan, cpu, sirt=5)
    assert np.abs(full - alone).max() < 1e-4 * alone.std()
    assert abs(np.corrcoef(odd.ravel(), even.ravel())[0, 1]) < 0.2
    assert np.corrcoef(odd.ravel(), full.ravel())[0, 1] > 0.5
