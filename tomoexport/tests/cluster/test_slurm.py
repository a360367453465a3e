"""The scripts of docs/cluster.md on a real SLURM, from the command line and from Scipion."""
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tomoexport import cli
from tomoexport.tests.cluster.conftest import ROOT
from tomoexport.tests.cluster.test_parts import words
from tomoexport.tests.failures import faults

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def said(*command, **how):
    """What a program says."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=True,
                          **how).stdout.strip()


def wait_for(found, seconds=120):
    """Wait until something is there; returns it."""
    until = time.monotonic() + seconds
    while True:
        value = found()
        if value:
            return value
        assert time.monotonic() < until, said("squeue")
        time.sleep(0.02)


def replaced(text, old, new):
    assert text.count(old) == 1, old
    return text.replace(old, new)


def recipe(six, folder):
    """The job script and the commands of docs/cluster.md, for six tilt series and a computer of this size."""
    script, submit = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "cluster.md").read_text(), re.S)[:2]
    script = replaced(script, "--cpus-per-task=8 --mem=32G", "--cpus-per-task=1 --mem=2G")
    script = replaced(script, "parts=200", "parts=6")
    script = replaced(script, "--tomograms tomograms.star --particles particles.star --pixel-size 10 --box 48 "
                      "--diameter 220", " ".join(words(six, "subtomo", "X")[1:-6]))
    (folder / "job.sh").write_text(script)
    return replaced(submit, "0-199%16", "0-5%16")


def test_an_array_of_which_a_task_is_killed(six, slurm, tmp_path, monkeypatch):
    """Every file is as one process makes it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"])
    submit = recipe(six, tmp_path)
    last = said("bash", "-c", submit + "echo $parts").split()
    first, join = last[-1], last[-2]
    wait_for(lambda: list((tmp_path / "out" / "subtomo").glob("TS_03/TS*.mrc")))
    subprocess.run(["scancel", "--signal=KILL", first + "_2"], check=True)
    wait_for(lambda: not said("squeue", "-h"))
    logs = "".join(path.read_text() for path in sorted(tmp_path.glob("*.log")))
    assert said("scontrol", "show", "job", join, "-o").find("JobState=COMPLETED") > 0, logs
    states = said("scontrol", "show", "job", first, "-o")
    assert len(re.findall("JobState=COMPLETED", states)) == 5 and "ArrayTaskId=2 " in states, states
    found = faults.snapshot("out")
    os.rename("out", "many")
    assert cli.main(words(six, "subtomo", "out")) == 0
    one = faults.snapshot("out")
    assert found == one and len([name for name in one if name.endswith(".mrc")]) == 48
    assert Path("out", "particles.star").exists()


@pytest.mark.scipion
def test_scipion_through_the_queue(six, slurm, tmp_path, monkeypatch):
    """Several steps at once with the form's defaults; a cancelled one comes back; a lost controller ends none."""
    pytest.importorskip("scipion")
    for name, value in (("SCIPION_HOSTS", ROOT / "docs" / "slurm_hosts.conf"), ("SCIPION_HOME", tmp_path / "home"),
                        ("SCIPION_USER_DATA", tmp_path / "data"), ("SCIPION_NOTIFY", "False")):
        monkeypatch.setenv(name, str(value))
    if sys.version_info >= (3, 11):
        monkeypatch.setenv("SQLITE_JOURNAL_MODE", "WAL")
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"])
    for folder in ("home", "data"):
        (tmp_path / folder).mkdir()
    script = str(Path(__file__).with_name("on_slurm.py"))
    ended = subprocess.run([sys.executable, "-m", "scipion", "python", script, str(six), str(slurm)],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900)
    assert ended.returncode == 0, ended.stdout[-5000:]
    out = json.loads(ended.stdout.strip().splitlines()[-1])
    everything = ["TS_%02d" % i for i in range(1, 7)]
    first, second, third = (out[name] for name in ("reconstruct", "continued", "subtomos"))
    assert first["at_once"] >= 2, out
    assert len(first["failed"]) == 1 and sorted(first["done"] + first["failed"]) == everything, out
    assert second["done"] == everything and second["failed"] == [] and second["state"] == "finished", out
    assert third["stopped"] and third["count"] == 24 and third["failed"] == [] and third["state"] == "finished", out
    # SLURM remembers jobs for 300 s: whoever takes that for work waits as long.
    assert max(out[name]["seconds"] for name in out) < 150, out
