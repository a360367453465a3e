"""The benchmark for a GPU, gone through without one."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tomoexport.engine.backend import list_gpus
from tomoexport.tests.engine import shim

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "benchmarks" / "bench_gpu.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAM.exists(), reason="the benchmarks are in the repository only"),
]


def run(*arguments):
    """Exit status, standard output, standard error."""
    done = subprocess.run([sys.executable, str(PROGRAM)] + [str(a) for a in arguments], capture_output=True, text=True,
                          timeout=120, env=dict(os.environ, PYTHONPATH=str(ROOT)))
    return done.returncode, done.stdout, done.stderr


@pytest.mark.compiler
def test_a_dry_run_measures_every_stage(tmp_path):
    if not shim.compiler():
        pytest.skip("no C++ compiler: install g++ to compile the CUDA source for the CPU")
    status, output, errors = run("--shim", "--repeats", 1, "--job-repeats", 1, "--threads", 1, "--json",
                                 tmp_path / "gpu.json")
    assert status == 0, output + errors
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["failed"] == [] and not found["selftest"]["bad"] and len(found["jobs"]) == 5
    assert [one["batch"] for one in found["throughput"]] == [1, 2, 1, 2, 1, 2, 1, 1]
    assert all(one["ms"] > 0 for one in found["throughput"])
    stages = [one["stages"] for one in found["stages"]]
    assert [len(one) > 8 for one in stages] == [True] * 5
    for one, case in zip(stages, found["stages"]):
        assert sum(v["ms"] for v in one.values()) == pytest.approx(case["ms"])
        assert one["rest"]["ms"] > -1e-3 * case["ms"]  # no stage counted twice
        assert not any(v["bytes"] for v in (one["rest"],)) and sum("roofline" in v for v in one.values()) > 5
    assert stages[0]["gridding"]["flops"] > 0 == stages[0]["gridding"]["atomics"]  # sums of rows; nothing is scattered
    insertion = stages[1]["insertion"]
    assert insertion["atomics"] > 0 < insertion["doubles"] < insertion["flops"]
    # Four slabs: the same volume from four times the rows.
    single, slabs = stages[3:]
    assert slabs["back-projection"]["flops"] == single["back-projection"]["flops"]
    assert slabs["rows"]["flops"] == 4 * single["rows"]["flops"]


def test_without_a_gpu_it_says_so():
    try:
        there = bool(list_gpus())
    except Exception:
        there = False
    if there:
        pytest.skip("there is a GPU")
    status, output, _ = run()
    assert status == 2 and output.startswith("no GPU: ") and output.count("\n") == 1
