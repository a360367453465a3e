"""The doctor: every kernel is tested, a fault is named, and a driver that is silent is no crash."""

import numpy as np
import pytest

from tomoexport.engine.backend import Backend
from tomoexport.engine.kernels import NAMES, implementation
from tomoexport.jobs import doctor


def test_every_kernel_is_tested():
    differences = doctor.self_test("cpu")
    assert set(differences) == set(NAMES) and max(differences.values()) < doctor.TOLERANCE
    for name, arguments in doctor.kernel_cases().items():
        made = getattr(implementation("numpy"), name)(*arguments)
        for array in made if isinstance(made, tuple) else (made,):
            assert np.mean(array != 0) > 0.1, "%s is tested on next to nothing" % name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [2.0, np.nan])
def test_a_wrong_kernel_is_named(monkeypatch, name, value):
    kernels = implementation("cpu")
    right = getattr(kernels, name)

    def wrong(*arguments):
        made = right(*arguments)
        return tuple(value * a for a in made) if isinstance(made, tuple) else value * made
    monkeypatch.setattr(kernels, name, wrong)
    lines, healthy = doctor.report()
    assert not healthy
    assert [line for line in lines if line.startswith("self-test") and line.endswith("BAD in " + name)]


def test_a_kernel_that_does_not_compile_is_told(monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no compiler")
    monkeypatch.setattr(implementation("cpu"), "crop", broken)
    lines, healthy = doctor.report()
    assert not healthy and "self-test     cpu: RuntimeError: no compiler" in lines


def test_every_gpu_is_listed_and_tested(monkeypatch):
    tested = []

    def self_test(device):
        tested.append(device)
        if device == "cuda:1":
            raise RuntimeError("ECC")
        return {"crop": 0.0}
    monkeypatch.setattr(doctor, "list_gpus", lambda: [("H200", 150e9), ("A40", 48e9)])
    monkeypatch.setattr(doctor, "self_test", self_test)
    lines, healthy = doctor.report()
    assert tested == ["cpu", "cuda:0", "cuda:1"] and not healthy
    assert "cuda:0        H200, 150 GB" in lines and "cuda:1        A40, 48 GB" in lines
    assert "self-test     cuda:1: RuntimeError: ECC" in lines
    assert any(line.startswith("self-test     cuda:0: 1 kernels") and line.endswith("good") for line in lines)


def test_a_self_test_runs_on_its_device(monkeypatch):
    class Device(Backend):
        def activate(self):
            raise RuntimeError("device %d is the current one" % self.device)
    monkeypatch.setattr(doctor, "select_backend", lambda device: Device("cpu", device=3))
    with pytest.raises(RuntimeError, match="device 3"):
        doctor.self_test("cuda:3")


@pytest.mark.parametrize("script, words", [
    ("true", "does not answer: nvidia-smi printed nothing"),
    ("echo; echo No devices were found; exit 6", "does not answer: No devices were found"),
    ("echo '| Driver Version: 550.1  CUDA Version: 12.4 |'", "cupy-cuda12x>=12"),
    ("echo 'CUDA Version: N/A'", "does not answer: CUDA Version: N/A"),
    (None, "nvidia-smi is absent"),
])
def test_what_would_add_a_gpu(monkeypatch, tmp_path, script, words):
    if script:
        program = tmp_path / "nvidia-smi"
        program.write_text("#!/bin/sh\n%s\n" % script)
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert words in doctor.gpu_command()
