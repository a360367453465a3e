"""The host code of the GPU path, run without a GPU: NumPy arrays, kernels compiled from the CUDA source."""

import numpy as np
import pytest

from tomoexport.engine.kernels import gpu
from tomoexport.engine.subtomo import reconstruct_subtomos, setup_subtomos
from tomoexport.engine.tomogram import reconstruct_tomogram, setup_tomogram
from tomoexport.tests.engine import shim
from tomoexport.tests.engine.test_subtomo import object_in_a_series
from tomoexport.tests.engine.test_tomogram import bead, ctf, series

pytestmark = pytest.mark.compiler


@pytest.fixture
def device(shim_runtime, monkeypatch):
    monkeypatch.setattr(gpu, "runtime", lambda: shim_runtime)
    return shim.ShimBackend("cuda", threads=2)


def alike(a, b):
    return np.abs(a - b).max() <= 1e-5 * np.abs(a).max()


def test_a_batch_of_particles(rng, cpu, device):
    geometry, optics, images, position, depth, _, _ = object_in_a_series(rng)
    many = np.concatenate([position, position + 2.7, position - 400])  # the last leaves the images
    seen = np.ones((3, 41), bool)
    seen[1, ::3] = False
    results = []
    for backend in (cpu, device):
        plan = setup_subtomos(geometry, optics, 32, 48, 4.0, backend)
        results.append(reconstruct_subtomos(backend.to_device(images), plan, many, np.repeat(depth, 3, axis=0),
                                            geometry.matrix[None], seen, backend))
    assert alike(results[0][0], results[1][0]) and alike(results[0][1], results[1][1])


@pytest.mark.parametrize("change", [{}, {"xtilt": np.full(9, 3.0)}], ids=["rows", "general"])
def test_a_tomogram_with_halves(rng, cpu, device, change):
    g = series(rng, **change)
    stack = bead(g, rng.uniform(-60, 60, (6, 3)))
    plan = setup_tomogram(g, 5.0, ctf(9))
    a, b = (reconstruct_tomogram(stack, g, ctf(9), plan, backend, group=np.arange(9) % 2) for backend in (cpu, device))
    assert len(a) == 3 and all(alike(x, y) for x, y in zip(a, b))
