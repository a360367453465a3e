"""Every verb that works on a GPU: its files are those that the CPU writes, whatever memory there is."""

import os

import numpy as np
import pytest

from tomoexport.engine.kernels import gpu
from tomoexport.io import mrc
from tomoexport.jobs import batches, runner
from tomoexport.tests.engine import shim


@pytest.fixture
def cupy():
    """CuPy with a GPU that works."""
    try:
        import cupy
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        pytest.skip("no CUDA GPU with CuPy on this machine (%s)" % type(error).__name__)
    if not count:
        pytest.skip("no CUDA GPU with CuPy on this machine")
    return cupy


@pytest.fixture(params=[pytest.param("cuda-source-on-cpu", marks=pytest.mark.compiler),
                        pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """Name of a GPU, or of the CPU in its place: the CUDA source, and arrays in memory as CuPy has them."""
    if request.param == "cuda":
        request.getfixturevalue("cupy")
    else:
        runtime, real = request.getfixturevalue("shim_runtime"), runner.select_backends
        monkeypatch.setattr(gpu, "runtime", lambda: runtime)
        monkeypatch.setattr(runner, "select_backends", lambda name, *rest: [shim.ShimBackend("cuda", threads=2)]
                            if name == "cuda:0" else real(name, *rest))
    return "cuda:0"


@pytest.fixture(scope="module")
def data(tmp_path_factory, simulated):
    """Two small tilt series, one with x-tilt."""
    folder = tmp_path_factory.mktemp("data")
    simulated("tiny", into=folder, particles=30)
    return folder


BOX = {"box": 16, "diameter": 100.0, "pixel_size": 8.0}
RELION = {"box": 16, "crop": 12, "float16": False}
RUNS = {
    "subtomo": ("subtomo", BOX), "subtomo not normalised": ("subtomo", dict(BOX, normalize_output=False)),
    "subtomo exact": ("subtomo", dict(BOX, exact=True)), "subtomo float16": ("subtomo", dict(BOX, float16=True)),
    "subtomo prerotated": ("subtomo", dict(BOX, prerotate=True)),
    "series": ("series", BOX),
    "reconstruct": ("reconstruct", {"pixel_size": 8.0, "halves": True}),
    "reconstruct sirt": ("reconstruct", {"pixel_size": 8.0, "method": "sirt", "iterations": 4}),
    "reconstruct deconvolved": ("reconstruct", {"pixel_size": 8.0, "deconvolve": True}),
    "reconstruct without CTF": ("reconstruct", {"pixel_size": 8.0, "ctf": "none"}),
    "pseudosubtomo": ("pseudosubtomo", RELION), "pseudosubtomo 3D": ("pseudosubtomo", dict(RELION, stack2d=False)),
    "pseudosubtomo exact": ("pseudosubtomo", dict(RELION, exact=True, whiten=True, precrop=True)),
    "pseudosubtomo 3D cone": ("pseudosubtomo", dict(RELION, stack2d=False, cone_weight=True)),
    "particle": ("particle", {"box": 16}), "particle D2": ("particle", {"box": 16, "symmetry": "D2"}),
}


def export(verb, data, output, device, **values):
    """Volumes that a run writes, by name within its folder."""
    options = dict({"tomograms": str(data / "tomograms.star"), "device": device, "threads": 2, "memory": 4.0,
                    "output": str(output)}, **values)
    if verb != "reconstruct":
        options["particles"] = str(data / "particles.star")
    done = runner.run({"verb": verb, "options": options})
    assert {r["status"] for r in done["results"]} == {"done"}
    return {os.path.relpath(os.path.join(folder, name), str(output)): mrc.read_volume(os.path.join(folder, name))[0]
            for folder, _, names in os.walk(str(output)) for name in names if name.endswith((".mrc", ".mrcs"))}


def compare(made, expected, tolerance):
    assert set(made) == set(expected) and made
    for name, volume in expected.items():
        assert np.isfinite(made[name]).all(), name
        off = np.sqrt(np.mean(np.square(np.subtract(made[name], volume, dtype=float))))
        assert off <= tolerance * np.asarray(volume, float).std(), "%s: %g of its deviation" % (
            name, off / np.asarray(volume, float).std())


@pytest.mark.parametrize("name", RUNS)
def test_a_gpu_writes_what_the_cpu_does(device, data, tmp_path, name):
    verb, values = RUNS[name]
    expected = export(verb, data, tmp_path / "cpu", "cpu", **values)
    compare(export(verb, data, tmp_path / "gpu", device, **values), expected, 1e-3 if "float16" in name else 1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("verb, values", [("subtomo", BOX), ("pseudosubtomo", dict(RELION, stack2d=False)),
                                          ("particle", {"box": 16})])
def test_little_memory_makes_the_batches_smaller(cupy, data, tmp_path, monkeypatch, verb, values, caplog):
    """The pool refuses what is above its limit, as a full card does, and the batches were planned for more."""
    monkeypatch.setattr(batches, "SHARE", 1e6)
    expected = export(verb, data, tmp_path / "cpu", "cpu", **values)
    pool = cupy.get_default_memory_pool()

    def made(name):
        cupy.fft.config.get_plan_cache().clear()
        pool.free_all_blocks()
        return export(verb, data, tmp_path / name, "cuda:0", **values)

    compare(made("enough"), expected, 1e-4)
    pool.set_limit(size=pool.total_bytes() * 3 // 4)
    try:
        found = made("little")
    finally:
        pool.set_limit(size=0)
    assert "going on with" in caplog.text
    compare(found, expected, 1e-4)
