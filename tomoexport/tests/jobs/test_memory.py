"""The memory limit: fewer threads, one clear error, and an estimate that is what a run really takes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tomoexport
from tomoexport import options as options_module
from tomoexport.errors import InputError
from tomoexport.jobs import memory, runner, subtomo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory, simulated):
    folder = tmp_path_factory.mktemp("memory")
    simulated("tiny", into=folder, particles=6)
    return folder


def options(data, **values):
    return options_module.from_dict("subtomo", dict(
        {"tomograms": str(data / "tomograms.star"), "particles": str(data / "particles.star"), "pixel_size": 8.0,
         "box": 96, "diameter": 300.0, "device": "cpu", "threads": 4, "output": str(data / "out")}, **values))


def test_how_many_threads_fit():
    assert [memory.workers_that_fit(room, 100, 50, 3) for room in (0, 149, 199, 200, 249, 250, 9999)] == [
        1, 1, 1, 2, 2, 3, 3]


def test_a_small_budget_takes_fewer_threads(data):
    free = subtomo.plan(options(data, memory=50.0))
    needs = max((unit.work.needs for unit in free.units), key=lambda n: n.shared)
    assert "for want of memory" not in "".join(free.lines())
    assert free.memory_bytes == needs.shared + 4 * needs.worker
    for fit in (1, 2, 3):
        room = (needs.shared + (fit + 0.5) * needs.worker) / 1e9
        planned = subtomo.plan(options(data, memory=room))
        assert "threads %d of 4, for want of memory" % fit in planned.lines()[0]
        assert planned.memory_bytes == needs.shared + fit * needs.worker <= room * 1e9


def test_a_budget_that_holds_nothing_is_one_error_that_says_what_would_do(data):
    planned = subtomo.plan(options(data, memory=0.1))
    error, = [p for p in planned.problems if p.severity == "error"]
    assert "100 MB are allowed" in error.cause and "--memory" in error.remedy
    with pytest.raises(InputError, match="one particle at a time needs"):
        runner.run({"verb": "subtomo", "options": options_module.to_dict(options(data, memory=0.1))})
    assert not (data / "out" / "subtomo").exists()
    enough = float(error.remedy.split("--memory ")[1].split()[0])
    assert not [p for p in subtomo.plan(options(data, memory=enough)).problems if p.severity == "error"]
    assert [p for p in subtomo.plan(options(data, memory=enough - 0.011)).problems if p.severity == "error"]


def test_devices_share_memory_and_threads(data):
    one, two = (subtomo.plan(options(data, memory=4.0, device=d)) for d in ("cuda:0", "cuda:0,1"))
    assert one.memory_bytes < two.memory_bytes <= 4e9
    assert [p.severity for p in subtomo.plan(options(data, memory=0.8, device="cuda:0")).problems].count("error") == 0
    assert [p.severity for p in subtomo.plan(options(data, memory=0.8, device="cuda:0,1")).problems].count("error") == 1


# The process itself takes less than is reckoned with once its kernels are compiled: half of it where boxes are small.
@pytest.mark.parametrize("values, threads, least", [
    ({}, 1, 0.3), ({}, 2, 0.4), ({"box": 160}, 2, 0.6), ({"exact": True, "pixel_size": 10.0}, 2, 0.4),
    ({"box": 64, "interpolation": "trilinear"}, 1, 0.25)])
def test_a_run_takes_what_was_estimated(data, tmp_path, values, threads, least):
    """Peak of the process's own memory, without pages of files."""
    chosen = options(data, threads=threads, output=str(tmp_path / "out"), **values)
    estimate = subtomo.plan(chosen).memory_bytes
    flags = ["--%s=%s" % (k.replace("_", "-"), v) if not isinstance(v, bool) else
             "--" + ("" if v else "no-") + k.replace("_", "-") for k, v in options_module.to_dict(chosen).items()]
    peaks = []
    for _ in range(2):  # the first run compiles, where nobody has before
        peaks.append(peak([sys.executable, "-m", "tomoexport", "subtomo"] + flags))
        for result in (tmp_path / "out" / "results").iterdir():
            result.unlink()
    assert least * estimate < peaks[1] <= estimate, "%.3g of %.3g MB" % (peaks[1] / 1e6, estimate / 1e6)


def peak(command):
    """Largest anonymous memory of a process that has to succeed, bytes."""
    process = subprocess.Popen(command, cwd=str(Path(tomoexport.__file__).resolve().parents[1]),
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env=dict(os.environ, MPLBACKEND="Agg"))
    most = 0
    while process.poll() is None:
        try:
            fields = dict(line.split(":", 1) for line in Path("/proc/%d/status" % process.pid).read_text().splitlines())
        except OSError:
            break
        most = max(most, 1024 * int(fields.get("RssAnon", "0").split()[0]))
        time.sleep(0.002)
    assert process.wait() == 0
    return most
