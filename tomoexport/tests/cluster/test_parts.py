"""Many processes on one folder: parts of a job, killed and repaired, give what one process gives, to the byte."""
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tomoexport import cli, options
from tomoexport.io import star
from tomoexport.io.lock import lock
from tomoexport.tests.failures import faults

pytestmark = pytest.mark.slow

COUNT = 6
VERBS = {"subtomo": faults.BOX, "series": faults.BOX, "reconstruct": ["--pixel-size", "16", "--halves"],
         "pseudosubtomo": ["--binning", "2", "--box", "16"], "particle": ["--binning", "2", "--box", "16"]}


def words(six, verb, out, *more):
    """A command on the six tilt series."""
    tables = ["--tomograms", str(six / "tomograms.star")]
    tables += [] if verb == "reconstruct" else ["--particles", str(six / "particles.star")]
    return [verb, *VERBS[verb], *tables, *faults.COMMON, "--output", str(out), *more]


@pytest.mark.parametrize("verb", VERBS)
def test_parts_and_the_plain_command_give_what_one_process_gives(six, tmp_path, verb):
    assert cli.main(words(six, verb, tmp_path / "out")) == 0
    whole = faults.snapshot(tmp_path / "out")
    os.rename(str(tmp_path / "out"), str(tmp_path / "one"))
    for part in ("1/4", "0/4", "3/4", "2/4"):
        assert cli.main(words(six, verb, tmp_path / "out", "--part", part)) == 0
        assert not list((tmp_path / "out").glob("*.star")) and not list((tmp_path / "out").glob("*.mrc"))
    assert cli.main(words(six, verb, tmp_path / "out")) == 0
    found = faults.snapshot(tmp_path / "out")
    assert found == whole
    assert len(list((tmp_path / "out" / "results").glob("*.json"))) == COUNT


def process(words, **how):
    return subprocess.Popen([sys.executable, "-m", "tomoexport", *words], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, **how)


def test_three_processes_of_which_one_is_killed(six, tmp_path):
    """At once, in one folder; the plain command repairs."""
    assert cli.main(words(six, "subtomo", tmp_path / "out")) == 0
    whole = faults.snapshot(tmp_path / "out")
    os.rename(str(tmp_path / "out"), str(tmp_path / "one"))
    started = [process(words(six, "subtomo", tmp_path / "out", "--part", "%d/3" % i)) for i in range(3)]
    until = time.monotonic() + 100
    # In the middle of the second one's work: of its first tilt series some volumes are there, and not all.
    while not list((tmp_path / "out" / "subtomo" / "TS_02").glob("TS*.mrc")):
        assert time.monotonic() < until and started[1].poll() is None
        time.sleep(0.001)
    started[1].send_signal(signal.SIGKILL)
    said = [one.communicate(timeout=120)[0] for one in started]
    assert [one.returncode for one in started] == [0, -signal.SIGKILL, 0], said
    assert not (tmp_path / "out" / "particles.star").exists()
    assert cli.main(words(six, "subtomo", tmp_path / "out")) == 0
    assert faults.snapshot(tmp_path / "out") == whole


def test_a_part_whose_series_fail_speaks_of_itself(six, tmp_path, capsys):
    project = tmp_path / "data"
    assert cli.main(["simulate", "--preset", "tiny", "--output", str(project)]) == 0
    os.truncate(str(project / "tiltseries" / "TS_02.mrcs"), 2000)
    assert cli.main(words(project, "subtomo", tmp_path / "out", "--part", "0/2")) == 0
    assert cli.main(words(project, "subtomo", tmp_path / "out", "--part", "1/2")) == 2
    assert "TS_02" in capsys.readouterr().err
    assert cli.main(words(project, "subtomo", tmp_path / "out")) == 1
    *_, table = star.read(str(tmp_path / "out" / "particles.star"))
    assert set(table.text("rlnTomoName")) == {"TS_01"}


@pytest.mark.parametrize("part, code, said", [
    ("6/7", 0, "part 6/7: no tilt series"), ("3/3", 2, "Count from 0"), ("0/0", 2, "none of 0 parts"),
    ("x", 2, "no part"), ("1", 2, "no part"), ("-1/3", 2, "no part"), ("1/3/5", 2, "no part"), ("1.5/3", 2, "no part"),
    ("9/3", 2, "none of 3 parts"), ("", 2, "no part")])
def test_what_is_a_part(six, tmp_path, capsys, part, code, said):
    try:
        ended = cli.main(words(six, "subtomo", tmp_path / "out", "--part=" + part))
    except SystemExit as stop:
        ended = stop.code
    captured = capsys.readouterr()
    assert ended == code and (code == 0 or said in captured.err), captured


def test_a_part_can_be_given_in_a_job(six, tmp_path, capsys):
    job = {"verb": "reconstruct", "options": dict(tomograms=str(six / "tomograms.star"), pixel_size=16.0,
                                                  output=str(tmp_path / "out")), "part": [1, 3]}
    (tmp_path / "job.json").write_text(json.dumps(job))
    assert cli.main(["run", str(tmp_path / "job.json")]) == 0
    names = sorted(path.name for path in (tmp_path / "out" / "results").iterdir())
    assert names == ["TS_02.json", "TS_05.json"]
    for wrong in ([1], "1/3", [1, "3"], [True, 3], [3, 3]):
        (tmp_path / "job.json").write_text(json.dumps(dict(job, part=wrong)))
        assert cli.main(["run", str(tmp_path / "job.json")]) == 2, wrong
    (tmp_path / "job.json").write_text(json.dumps(dict(job, series=["TS_01"])))
    assert cli.main(["run", str(tmp_path / "job.json")]) == 2
    assert "Give one of the two" in capsys.readouterr().err


@pytest.mark.parametrize("verb", sorted(set(options.VERBS) - set(VERBS)))
def test_verbs_without_tilt_series_of_their_own_have_no_parts(verb, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([verb, "--output", str(tmp_path), "--part", "0/2"])
    assert stop.value.code == 2 and "--part" in capsys.readouterr().err
    (tmp_path / "job.json").write_text(json.dumps({"verb": verb, "options": {"output": str(tmp_path / "out")},
                                                   "part": [0, 2]}))
    assert cli.main(["run", str(tmp_path / "job.json")]) == 2
    assert "does not work per tilt series" in capsys.readouterr().err


def test_check_says_how_many_there_are_and_how_much_is_done(six, tmp_path, capsys):
    check = ["check", *words(six, "reconstruct", tmp_path / "out")]
    assert cli.main(check) == 0 and "6 tilt series, done: 0 of 6" in capsys.readouterr().out
    assert cli.main(words(six, "reconstruct", tmp_path / "out", "--part", "0/3")) == 0
    capsys.readouterr()
    assert cli.main(check) == 0 and "6 tilt series, done: 2 of 6" in capsys.readouterr().out
    assert cli.main(words(six, "reconstruct", tmp_path / "out")) == 0
    assert "part" not in capsys.readouterr().out
    assert cli.main(check) == 0 and "6 tilt series, all of them done already" in capsys.readouterr().out


def test_a_busy_series_is_told(six, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    with lock(str(tmp_path / "out"), "TS_03"):
        for more in ([], ["--part", "0/2"]):
            assert cli.main(words(six, "reconstruct", tmp_path / "out", *more)) == 2
            said = capsys.readouterr().err
            assert "TS_03" in said and "another part or run is at it" in said and "in use by" in said
        assert cli.main(words(six, "reconstruct", tmp_path / "out", "--part", "1/2")) == 0  # has nothing to do with it


def test_F40_parts_where_nothing_can_be_locked(six, tmp_path, monkeypatch, recwarn):
    """Told, and right all the same: files appear whole, whoever writes them."""
    assert cli.main(words(six, "subtomo", tmp_path / "out")) == 0
    whole = faults.snapshot(tmp_path / "out")
    os.rename(str(tmp_path / "out"), str(tmp_path / "one"))

    def refuse(*arguments):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for more in (["--part", "0/2"], ["--part", "1/2"], []):
        assert cli.main(words(six, "subtomo", tmp_path / "out", *more)) == 0
    assert faults.snapshot(tmp_path / "out") == whole
    assert any("cannot be locked" in str(one.message) for one in recwarn)


def test_every_verb_that_works_per_tilt_series_has_parts():
    assert {verb for verb, one in options.VERBS.items() if issubclass(one, options.TiltSeriesOptions)} == set(VERBS)
