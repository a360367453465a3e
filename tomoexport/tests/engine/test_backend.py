"""The choice of a device: a GPU only if it really works, and a reason if it does not."""

import logging
import sys

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
    assert "libcuda.so.1" in backend.select_backend("auto").why
    with pytest.raises(BackendError, match="libcuda.so.1"):
        backend.select_backend("cuda:0")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", ""])
def test_unknown_devices_are_named(device):
    with pytest.raises(BackendError, match="--device"):
        backend.select_backend(device)


def test_memory_is_known():
    assert backend.select_backend("cpu").free_bytes() > 0
    backend.keep_freed_memory()
