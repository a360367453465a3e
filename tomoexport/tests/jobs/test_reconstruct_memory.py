"""Memory: what a job may take, and volumes larger than that."""

import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from tomoexport import options
from tomoexport.io import mrc
from tomoexport.jobs import memory, runner

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, simulated):
    folder = str(tmp_path_factory.mktemp("tiny"))
    simulated("tiny", into=folder)
    return os.path.join(folder, "tomograms.star")


def reconstruct(tomograms, output, limit, **more):
    """Run a process that cannot have more than `limit` bytes of memory of its own; returns what it said."""
    values = dict(dict(pixel_size=16.0, ctf="none", threads=1, device="cpu"), **more)
    flags = [text for name, value in values.items() for text in (options.flag(name), str(value))]
    return subprocess.run(
        [sys.executable, "-m", "tomoexport", "reconstruct", "--tomograms", tomograms, "--output", output] + flags,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, encoding="utf-8")


def test_a_tomogram_larger_than_memory(tiny, tmp_path):
    size = dict(size_x=1400, size_y=1400, size_z=600)
    whole = reconstruct(tiny, str(tmp_path / "whole"), 1 << 40, **size)
    small = reconstruct(tiny, str(tmp_path / "small"), 450 << 20, memory=0.4, **size)
    assert whole.returncode == 0 and small.returncode == 0, small.stdout
    name = os.path.join("reconstruction", "TS_01_16.00Apx.mrc")
    with mrc.open_stack(tmp_path / "whole" / name) as a, mrc.open_stack(tmp_path / "small" / name) as b:
        assert a.header.shape == b.header.shape and 4 * np.prod(a.header.shape) > 550 << 20
        for z in range(0, len(a), 37):
            one, other = a.read(z), b.read(z)
            assert np.abs(one - other).max() <= 2e-5 * np.abs(one).max() + 1e-9


def test_too_little_memory_is_told_before_the_work(tiny, tmp_path):
    said = reconstruct(tiny, str(tmp_path / "out"), 1 << 40, memory=0.2)
    assert said.returncode == 2
    assert "TS_01: it needs at least" in said.stdout and "Allow more with --memory" in said.stdout
    assert not (tmp_path / "out" / "reconstruction").exists()


def test_what_is_planned_is_what_is_taken(tiny, tmp_path):
    """The plan's estimate bounds the process, and is not absurdly large."""
    made = options.from_dict("reconstruct", dict(tomograms=tiny, output=str(tmp_path / "a"), pixel_size=16.0, threads=1,
                                                 size_x=900, size_y=900, size_z=500))
    planned = runner.plan("reconstruct", made).memory_bytes
    said = reconstruct(tiny, str(tmp_path / "b"), planned + (150 << 20), size_x=900, size_y=900, size_z=500)
    assert said.returncode == 0, said.stdout
    assert planned < 900e6


def test_the_budget(monkeypatch):
    given = options.from_dict("reconstruct", {"memory": 2.5})
    assert memory.budget(given) == 2_500_000_000
    monkeypatch.setattr(memory, "available", lambda: 8_000_000_000)
    assert memory.budget(options.from_dict("reconstruct", {})) == 4_000_000_000


@pytest.mark.parametrize("version2", [True, False])
def test_a_queue_s_limit_counts(tmp_path, monkeypatch, version2):
    """It is set on a group above that of the process; caches in it can be had."""
    free = memory.available()
    own = tmp_path / "own"
    own.write_text("0::/slurm/job_1/step_0\n" if version2 else "5:cpuset:/x\n4:memory:/slurm/job_1/step_0\n")
    top = tmp_path if version2 else tmp_path / "memory"
    monkeypatch.setattr(memory, "_CGROUP", str(tmp_path))
    monkeypatch.setattr(memory, "_OWN_GROUPS", str(own))
    names = ("memory.max", "memory.current") if version2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    (top / "slurm" / "job_1" / "step_0").mkdir(parents=True)
    for folder in (top / "slurm", top / "slurm" / "job_1", top / "slurm" / "job_1" / "step_0"):
        (folder / names[0]).write_text("max\n" if version2 else "9223372036854771712\n")
        (folder / names[1]).write_text("1000000\n")
    assert memory.available() > 0.5 * free
    job = top / "slurm" / "job_1"
    (job / names[0]).write_text("51000000\n")
    assert memory.available() == 50_000_000
    (job / names[1]).write_text("50900000\n")
    (job / "memory.stat").write_text("anon 5\n%s 30000000\n" % ("inactive_file" if version2 else "total_inactive_file"))
    assert memory.available() == 30_100_000
