"""Batches on a GPU that is not there: sizes, and what happens when memory runs out."""

import numpy as np
import pytest

from tomoexport.engine.backend import Backend
from tomoexport.engine.kernels import gpu
from tomoexport.errors import UnitError
from tomoexport.io import mrc
from tomoexport.jobs import runner, subtomo
from tomoexport.jobs.batches import batch_size, run_halving
from tomoexport.tests.engine import shim


class OutOfMemoryError(Exception):
    """Named like CuPy's."""


class Pool:
    """A memory pool that counts how often it was emptied."""

    released = 0

    def free_all_blocks(self):
        Pool.released += 1

    def free_bytes(self):
        return 0


class Device:
    """Module with as much of CuPy as a backend asks for."""

    mem_info = (1000, 4000)

    class cuda:
        Device = staticmethod(lambda number: Device)

    @staticmethod
    def get_default_memory_pool():
        return Pool()


def test_size_follows_free_memory():
    assert batch_size(Backend("cuda", Device), 50) == 5
    assert batch_size(Backend("cuda", Device), 10 ** 6) == 1
    assert batch_size(Backend("cpu"), 50) == 1


@pytest.mark.parametrize("room", [1, 3, 8, 100])
def test_F38_batches_are_halved_until_they_fit(room):
    done = []

    def work(items):
        if len(items) > room:
            raise OutOfMemoryError
        done.extend(items)

    run_halving(work, np.arange(20), Backend("cuda", Device), 50)
    assert done == list(range(20))


def test_F38_one_particle_that_does_not_fit_is_an_error_with_numbers():
    def work(items):
        raise OutOfMemoryError

    before = Pool.released
    with pytest.raises(UnitError, match="one particle needs about 9.1 GB, 1 kB are free.*--device cpu"):
        run_halving(work, np.arange(4), Backend("cuda", Device), 9.1e9)
    assert Pool.released > before


def test_other_errors_are_left_alone():
    def work(items):
        raise ValueError("no memory matter")

    with pytest.raises(ValueError):
        run_halving(work, np.arange(4), Backend("cuda", Device), 50)
    with pytest.raises(OutOfMemoryError):
        run_halving(lambda items: (_ for _ in ()).throw(OutOfMemoryError()), np.arange(4), Backend("cpu"), 50)


@pytest.mark.compiler
def test_an_export_in_batches_is_the_export_one_by_one(tmp_path, monkeypatch):
    """The GPU path of the job, on the CUDA source compiled for the CPU, with a device that is full at two particles."""
    if not shim.compiler():
        pytest.skip("no C++ compiler: install g++ to compile the CUDA source for the CPU")
    runtime = shim.ShimRuntime(tmp_path)
    monkeypatch.setattr(gpu, "runtime", lambda: runtime)

    class Full(Backend):
        def free_bytes(self):
            return 1 << 40

        def release(self):
            pass

    real, sizes = subtomo.reconstruct_subtomos, []

    def reconstruct(stack, plan, position, *rest):
        if rest[-1].on_gpu:
            sizes.append(len(position))
            if len(position) > 2:
                raise OutOfMemoryError
        return real(stack, plan, position, *rest)

    monkeypatch.setattr(subtomo, "reconstruct_subtomos", reconstruct)
    data = tmp_path / "data"
    runner.run({"verb": "simulate", "options": {"output": str(data), "preset": "tiny", "particles": 6}})
    volumes = {}
    for name in ("cpu", "cuda"):
        if name == "cuda":
            monkeypatch.setattr(runner, "select_backend", lambda device, threads: Full("cuda", threads=1))
        out = runner.run({"verb": "subtomo", "options": {
            "tomograms": str(data / "tomograms.star"), "particles": str(data / "particles.star"), "pixel_size": 8.0,
            "box": 16, "diameter": 100.0, "output": str(tmp_path / name)}})
        volumes[name] = [mrc.read_volume(f)[0] for r in out["results"] for f in r["files"]]
    assert max(sizes) > 2 and len(volumes["cpu"]) == len(volumes["cuda"]) > 8
    for a, b in zip(volumes["cpu"], volumes["cuda"]):
        assert np.abs(a - b).max() <= 1e-4 * np.abs(a).max()
