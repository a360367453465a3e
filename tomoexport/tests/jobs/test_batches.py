"""Batches on a GPU that is not there: sizes, and what happens when memory runs out."""

import weakref

import numpy as np
import pytest

from tomoexport.engine.backend import Backend, CudaBackend
from tomoexport.engine.kernels import gpu
from tomoexport.errors import UnitError
from tomoexport.io import mrc
from tomoexport.jobs import runner, subtomo
from tomoexport.jobs.batches import Batches, batch_size, run_halving
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

    def get_limit(self):
        return 0


class Plans:
    """A cache of the plans of transforms."""

    cleared, size, memsize = 0, None, None

    def clear(self):
        Plans.cleared += 1

    def get_curr_memsize(self):
        return 200

    def set_size(self, n):
        Plans.size = n

    def set_memsize(self, n):
        Plans.memsize = n


class Device:
    """Module with as much of CuPy as a backend asks for."""

    mem_info = (1000, 4000)

    class fft:
        class config:
            get_plan_cache = Plans

    class cuda:
        Device = staticmethod(lambda number: Device)

    @staticmethod
    def get_default_memory_pool():
        return Pool()


def test_size_follows_free_memory():
    assert batch_size(CudaBackend("cuda", Device), 50) == 5
    assert batch_size(CudaBackend("cuda", Device), 10 ** 6) == 1
    assert batch_size(Backend("cpu"), 50) == 1


@pytest.mark.parametrize("room", [1, 3, 8, 100])
def test_F38_batches_are_halved_until_they_fit(room):
    done = []

    def work(items):
        if len(items) > room:
            raise OutOfMemoryError
        done.extend(items)

    run_halving(work, np.arange(20), CudaBackend("cuda", Device), 50)
    assert done == list(range(20))


def test_F38_the_largest_that_fitted_is_known():
    room = iter([3, 1, 1, 1, 2])

    def work(items):
        if len(items) > next(room):
            raise OutOfMemoryError

    assert run_halving(work, np.arange(4), CudaBackend("cuda", Device), 50) == 2


def test_F38_one_particle_that_does_not_fit_is_an_error_with_numbers():
    def work(items):
        raise OutOfMemoryError

    before, plans = Pool.released, Plans.cleared
    with pytest.raises(UnitError, match="one particle needs about 9.1 GB, 1 kB are free.*--device cpu"):
        run_halving(work, np.arange(4), CudaBackend("cuda", Device), 9.1e9)
    assert Pool.released > before and Plans.cleared > plans


def test_other_errors_are_left_alone():
    def work(items):
        raise ValueError("no memory matter")

    with pytest.raises(ValueError):
        run_halving(work, np.arange(4), CudaBackend("cuda", Device), 50)
    with pytest.raises(OutOfMemoryError):
        run_halving(lambda items: (_ for _ in ()).throw(OutOfMemoryError()), np.arange(4), Backend("cpu"), 50)


@pytest.mark.parametrize("text", ["CUFFT_ALLOC_FAILED", "the plan memsize is too large", ""])
def test_F38_transforms_without_memory_for_their_plans(text):
    """What CuPy raises then is no OutOfMemoryError."""
    error, tried = RuntimeError(text), []

    def work(items):
        tried.append(len(items))
        if len(items) > 1:
            raise error

    if text:
        assert run_halving(work, np.arange(2), CudaBackend("cuda", Device), 50) == 1 and tried == [2, 1, 1]
    else:
        with pytest.raises(RuntimeError):
            run_halving(work, np.arange(2), CudaBackend("cuda", Device), 50)


def test_plans_are_kept_within_half_of_the_free_memory():
    CudaBackend("cuda", Device).keep_plans()
    assert Plans.size > 16 and Plans.memsize == 600
    Backend("cpu").keep_plans()


@pytest.mark.parametrize("most, sizes", [(None, [16, 16, 8, 4, 1]), (7, [4] * 11 + [1]), (0, [1] * 45)])
def test_batches_come_in_few_sizes(most, sizes):
    batches = list(Batches(CudaBackend("cuda", Device), 10, most).split(np.arange(45)))
    assert [len(b) for b in batches] == sizes and np.concatenate(batches).tolist() == list(range(45))


def test_F38_later_batches_are_as_small_as_what_fitted():
    batches, tried, done, room = Batches(CudaBackend("cuda", Device), 10), [], [], []

    def work(items):
        tried.append(len(items))
        if len(items) > 5:
            raise OutOfMemoryError
        done.extend(items)

    for items in batches.split(np.arange(45)):
        batches.run(work, items, lambda: room.append(len(done)))
    assert done == list(range(45))
    assert tried == [16, 8, 4, 4, 8, 4, 4] + [4] * 7 + [1]
    assert room == [0, 0, 8]


def test_F38_another_try_finds_the_arrays_of_the_first_gone():
    class Array:
        pass

    arrays = []

    def work(items):
        assert not any(array() for array in arrays), "the memory is still taken"
        made = Array()
        arrays.append(weakref.ref(made))
        if len(items) > 1:
            raise OutOfMemoryError

    run_halving(work, np.arange(4), CudaBackend("cuda", Device), 10)
    assert len(arrays) == 7


@pytest.mark.compiler
def test_an_export_in_batches_is_the_export_one_by_one(tmp_path, monkeypatch, shim_runtime, simulated):
    """The GPU path of the job, on the CUDA source compiled for the CPU, with a device that is full at two particles."""
    monkeypatch.setattr(gpu, "runtime", lambda: shim_runtime)
    real, sizes = subtomo.reconstruct_subtomos, []

    def reconstruct(stack, plan, position, *rest):
        if rest[-1].on_gpu:
            sizes.append(len(position))
            if len(position) > 2:
                raise OutOfMemoryError
        return real(stack, plan, position, *rest)

    monkeypatch.setattr(subtomo, "reconstruct_subtomos", reconstruct)
    data = tmp_path / "data"
    simulated("tiny", into=data, particles=6)
    volumes = {}
    for name in ("cpu", "cuda"):
        if name == "cuda":
            monkeypatch.setattr(runner, "select_backends", lambda *arguments: [shim.ShimBackend("cuda", threads=1)])
        out = runner.run({"verb": "subtomo", "options": {
            "tomograms": str(data / "tomograms.star"), "particles": str(data / "particles.star"), "pixel_size": 8.0,
            "box": 16, "diameter": 100.0, "output": str(tmp_path / name)}})
        volumes[name] = [mrc.read_volume(f)[0] for r in out["results"] for f in r["files"]]
    assert max(sizes) > 2 and len(volumes["cpu"]) == len(volumes["cuda"]) > 8
    for a, b in zip(volumes["cpu"], volumes["cuda"]):
        assert np.abs(a - b).max() <= 1e-4 * np.abs(a).max()
