"""The choice of a device: a GPU only if it really works, and a reason if it does not."""

import logging
import sys
import types

import numpy as np
import pytest

from tomoexport.engine import backend
from tomoexport.errors import BackendError


def without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # importing it then raises ModuleNotFoundError


def test_F37_auto_without_cupy_takes_the_cpu_and_says_why(monkeypatch, caplog):
    without_cupy(monkeypatch)
    with caplog.at_level(logging.INFO):
        chosen = backend.select_backend("auto", 3)
    assert (chosen.name, chosen.threads, chosen.xp) == ("cpu", 3, np)
    assert "CuPy is not installed" in chosen.describe() and "CuPy is not installed" in caplog.text


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_F37_an_explicit_gpu_never_falls_back(monkeypatch, device):
    without_cupy(monkeypatch)
    with pytest.raises(BackendError, match="--device %s.*--device cpu" % device):
        backend.select_backend(device)


def test_F37_a_broken_cupy_is_reported(monkeypatch):
    def broken(number, threads):
        raise OSError("libcuda.so.1: cannot open shared object file")
    monkeypatch.setattr(backend, "_cuda", broken)
    monkeypatch.setattr(backend, "list_gpus", lambda: [("GPU", 1)])
    assert "libcuda.so.1" in backend.select_backend("auto").why
    with pytest.raises(BackendError, match="libcuda.so.1"):
        backend.select_backend("cuda:0")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", ""])
def test_unknown_devices_are_named(device):
    with pytest.raises(BackendError, match="--device"):
        backend.select_backend(device)


@pytest.fixture
def gpus(monkeypatch):
    """Three GPUs that are not there; the numbers of those that were tried."""
    tried = []

    def cuda(number, threads):
        tried.append(number)
        return backend.Backend("cuda", threads=threads, device=number)
    monkeypatch.setattr(backend, "list_gpus", lambda: [("GPU", 1)] * 3)
    monkeypatch.setattr(backend, "_cuda", cuda)
    return tried


@pytest.mark.parametrize("device, threads, most, expected", [
    ("auto", 4, None, [(0, 4)]), ("cuda", 4, None, [(0, 4)]), ("cuda:2", 4, None, [(2, 4)]),
    ("cuda:2,0", 4, None, [(2, 2), (0, 2)]), ("cuda:0, 1", 5, None, [(0, 3), (1, 2)]),
    ("cuda:all", 2, None, [(0, 1), (1, 1), (2, 1)]), ("cuda:all", 7, 2, [(0, 4), (1, 3)]),
    ("cuda:1,2", 7, 1, [(1, 7)])])
def test_several_gpus_share_the_threads(gpus, device, threads, most, expected):
    chosen = backend.select_backends(device, threads, most)
    assert [(b.device, b.threads) for b in chosen] == expected and all(b.on_gpu for b in chosen)
    assert gpus == [number for number, _ in expected]


@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_without_gpus_there_is_one_backend(device):
    assert backend.select_backends(device, 3) == [backend.Backend(device, threads=3)]


@pytest.mark.parametrize("device, words", [
    ("cuda:0,0", "GPU 0 is named more than once"), ("cuda:1,01", "GPU 1 is named more than once"),
    ("cuda:x", "'x' is no device number"), ("cuda:0,x", "'x' is no device number"),
    ("cuda:0,", "'' is no device number"), ("cuda:-1", "'-1' is no device number"),
    ("cuda:all,0", "'all' is no device number"), ("cuda:\u00b2", "is no device number"),
    ("cuda:3", "there is no GPU 3, there are GPUs 0 to 2"), ("cuda:0,3,4", "there is no GPU 3, 4, there are"),
    ("cuda0,1", "'cuda0,1' is unknown")])
def test_wrong_lists_are_one_clear_error(gpus, device, words):
    with pytest.raises(BackendError, match="^--device.*" + words):
        backend.select_backends(device, 2, 1)
    assert not gpus


@pytest.mark.parametrize("count, device, words", [
    (1, "cuda:1", "no GPU 1, GPU 0 is the only one"),
    (0, "cuda:all", "there is no GPU\\."), (0, "cuda:0", "there is no GPU\\.")])
def test_few_gpus(monkeypatch, gpus, count, device, words):
    monkeypatch.setattr(backend, "list_gpus", lambda: [("GPU", 1)] * count)
    with pytest.raises(BackendError, match=words):
        backend.select_backends(device)


def test_a_list_without_cupy_is_an_error(monkeypatch):
    without_cupy(monkeypatch)
    for device in ("cuda:0,1", "cuda:all"):
        with pytest.raises(BackendError, match="--device %s: the GPU cannot be used .*--device cpu" % device):
            backend.select_backends(device)


def test_the_gpu_that_is_broken_is_named(monkeypatch, gpus):
    def cuda(number, threads):
        if number:
            raise RuntimeError("ECC")
        return backend.Backend("cuda")
    monkeypatch.setattr(backend, "_cuda", cuda)
    with pytest.raises(BackendError, match=r"--device cuda:all: GPU 1 cannot be used \(RuntimeError: ECC\)"):
        backend.select_backends("cuda:all")


@pytest.mark.parametrize("device", ["cuda:0,1", "cuda:all"])
def test_one_device_is_no_list(gpus, device):
    with pytest.raises(BackendError, match="a single device"):
        backend.select_backend(device)


def test_gpus_are_listed(monkeypatch):
    found = [dict(name=b"H200", totalGlobalMem=9), dict(name=b"A40", totalGlobalMem=5)]
    runtime = types.SimpleNamespace(getDeviceCount=lambda: 2, getDeviceProperties=found.__getitem__)
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=runtime)))
    assert backend.list_gpus() == [("H200", 9), ("A40", 5)]


@pytest.mark.parametrize("limit, expected", [(0, 1200), (700, 500), (150, 0), (9000, 1200)])
def test_a_limit_of_the_pool_is_kept_to(limit, expected):
    pool = types.SimpleNamespace(free_bytes=lambda: 200, used_bytes=lambda: 200, get_limit=lambda: limit)
    xp = types.SimpleNamespace(get_default_memory_pool=lambda: pool, cuda=types.SimpleNamespace(
        Device=lambda number: types.SimpleNamespace(mem_info=(1000, 4000))))
    assert backend.CudaBackend("cuda", xp).free_bytes() == expected


def test_memory_is_known():
    assert backend.select_backend("cpu").free_bytes() > 0
    backend.keep_freed_memory()
