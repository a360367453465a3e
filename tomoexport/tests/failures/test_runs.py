"""Runs that are repeated, disturbed, or cannot write, and devices that are not there: F27, F30 to F33, F37."""
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import types
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import tomoexport
from tomoexport.errors import BackendError, InputError
from tomoexport.io import mrc, star
from tomoexport.io.lock import lock
from tomoexport.jobs import runner

from .conftest import assert_told, contents, whole

VERBS = ("reconstruct", "subtomo")
#: Where the results of a verb are, whose dates tell whether they were made again.
RESULTS = {"reconstruct": "reconstruction", "subtomo": "subtomo"}


def dates(project, verb):
    """Volumes of a verb and when they were written, per tilt series."""
    files = contents(os.path.join(project.out, RESULTS[verb]))
    return {ts: {p: date for p, (_, date) in files.items() if p.endswith(".mrc") and ts in os.path.basename(p)}
            for ts in ("TS_01", "TS_02")}


def statuses(project, verb, **values):
    return {name: r["status"] for name, r in project.results(verb, **values).items()}


# ------------------------------------------------------------------------------------------ F31: what is done again

@pytest.mark.parametrize("verb", VERBS)
def test_F31_unchanged_is_skipped(project, verb):
    assert set(statuses(project, verb).values()) == {"done"}
    before = dates(project, verb)
    assert before["TS_01"] and before["TS_02"]
    assert set(statuses(project, verb, threads=1).values()) == {"skipped"}
    assert dates(project, verb) == before


@pytest.mark.parametrize("verb, change", (
    ("reconstruct", dict(invert=False)), ("reconstruct", dict(ctf="none")), ("reconstruct", dict(hand=1)),
    ("reconstruct", dict(dose_weighting=False)), ("reconstruct", dict(size_z=20)),
    ("reconstruct", dict(full_voxels=True)),
    ("subtomo", dict(invert=False)), ("subtomo", dict(hand=-1)), ("subtomo", dict(normalize_output=False)),
    ("subtomo", dict(diameter=120.0)), ("subtomo", dict(box=18)), ("subtomo", dict(float16=True)),
    ("subtomo", dict(interpolation="trilinear"))))
def test_F31_changed_options_are_done_again(project, verb, change):
    project.run(verb)
    before = dates(project, verb)
    assert set(statuses(project, verb, **change).values()) == {"done"}
    after = dates(project, verb)
    for ts in before:
        assert all(after[ts][path] > date for path, date in before[ts].items())
    # And back again: what is on disk is of the other options now.
    assert set(statuses(project, verb).values()) == {"done"}


@pytest.mark.parametrize("change", (dict(star="other.star"), dict(format="3.0"), dict(allow_loss=True)))
def test_F31_what_only_the_table_depends_on_leaves_the_volumes(project, change):
    project.run("subtomo")
    before = dates(project, "subtomo")
    out = project.run("subtomo", **change)
    assert {r["status"] for r in out["results"]} == {"skipped"}
    assert dates(project, "subtomo") == before
    table = star.read(out["collected"]["star"])
    assert (table.blocks == [""]) == (change.get("format") == "3.0")
    assert os.path.basename(out["collected"]["star"]) == change.get("star", "particles.star")


@pytest.mark.parametrize("verb", VERBS)
def test_F31_only_the_series_that_changed(project, verb):
    project.run(verb)
    before = dates(project, verb)
    project.put(project.tilts("TS_02"), "rlnTomoXShiftAngst", 0, "12.5")
    assert statuses(project, verb) == {"TS_01": "skipped", "TS_02": "done"}
    after = dates(project, verb)
    assert after["TS_01"] == before["TS_01"]
    assert all(after["TS_02"][path] > date for path, date in before["TS_02"].items())


@pytest.mark.parametrize("column", ("rlnDefocusU", "rlnMicrographPreExposure", "rlnTomoYTilt", "tomoexportUsed"))
def test_F31_every_number_counts(project, column):
    project.run("subtomo")
    project.put(project.tilts(), column, 2, "0" if column == "tomoexportUsed" else "20.5")
    assert statuses(project, "subtomo") == {"TS_01": "done", "TS_02": "skipped"}


def test_F31_images_that_changed(project):
    project.run("reconstruct")
    project.pixels(lambda images: images.__imul__(2))
    assert statuses(project, "reconstruct") == {"TS_01": "done", "TS_02": "skipped"}


def test_F31_one_particle_moved(project):
    project.run("subtomo")
    project.put(project.particles, "rlnCenteredCoordinateXAngst", 5, "3.0")
    assert statuses(project, "subtomo") == {"TS_01": "skipped", "TS_02": "done"}


@pytest.mark.parametrize("damage", (os.unlink, lambda path: os.truncate(path, 2000)))
def test_F31_a_result_that_is_gone_or_cut_is_made_again(project, damage):
    first = project.results("subtomo")["TS_01"]["files"][0]
    damage(first)
    assert statuses(project, "subtomo") == {"TS_01": "done", "TS_02": "skipped"}
    whole(project.out)


def test_F31_a_series_that_failed_is_tried_again(project):
    text = Path(project.stack()).read_bytes()
    os.truncate(project.stack(), 5000)
    assert statuses(project, "reconstruct") == {"TS_01": "failed", "TS_02": "done"}
    Path(project.stack()).write_bytes(text)
    assert statuses(project, "reconstruct") == {"TS_01": "done", "TS_02": "skipped"}


def test_F31_a_result_outlives_a_failed_run(project):
    """What was made of good images stays when the images are damaged later, and is known when they are back."""
    project.run("reconstruct")
    before = dates(project, "reconstruct")
    saved, stat = Path(project.stack()).read_bytes(), os.stat(project.stack())
    os.truncate(project.stack(), 5000)
    assert statuses(project, "reconstruct") == {"TS_01": "failed", "TS_02": "skipped"}
    assert dates(project, "reconstruct") == before
    Path(project.stack()).write_bytes(saved)
    os.utime(project.stack(), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    # Done again or skipped, but never called failed, nor a skipped one without its results.
    result = project.results("reconstruct")["TS_01"]
    assert result["status"] in ("done", "skipped") and mrc.read_header(result["tomogram"])


def test_F31_simulation(project):
    project.run("simulate")
    assert statuses(project, "simulate") == {"TS_01": "skipped", "TS_02": "skipped"}
    assert statuses(project, "simulate", noise=0.5) == {"TS_01": "done", "TS_02": "done"}


def test_F31_average(project):
    project.run("subtomo")
    out = project.out + "/average"
    assert statuses(project, "average", output=out) == {"average": "done"}
    assert statuses(project, "average", output=out) == {"average": "skipped"}
    assert statuses(project, "average", output=out, diameter=100) == {"average": "done"}
    project.run("subtomo", invert=False)
    assert statuses(project, "average", output=out, diameter=100) == {"average": "done"}


# ------------------------------------------------------------------------- F32: inputs that change while work is done

def meanwhile(project, verb, change):
    """Let ``change`` happen while the first tilt series is worked on."""
    module = runner.verb_module(verb)
    execute = module.execute

    def disturbed(unit, *rest):
        if unit.name == "TS_01":
            change()
        return execute(unit, *rest)
    project.monkeypatch.setattr(module, "execute", disturbed)


@pytest.mark.parametrize("verb", VERBS)
def test_F32_images_deleted(project, verb):
    meanwhile(project, verb, lambda: os.unlink(project.stack("TS_02")))
    results = project.results(verb)
    assert {n: r["status"] for n, r in results.items()} == {"TS_01": "done", "TS_02": "failed"}
    assert_told(results["TS_02"]["error"], (project.stack("TS_02"), "removed since the work was planned"))


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("ts_id", ("TS_01", "TS_02"))
def test_F32_images_changed(project, verb, ts_id):
    """Before the series' turn, and while it is worked on: the result is not taken for that of the new images."""
    meanwhile(project, verb, lambda: project.pixels(lambda images: images.__imul__(3), ts_id))
    results = project.results(verb)
    assert [n for n, r in results.items() if r["status"] == "failed"] == [ts_id]
    assert_told(results[ts_id]["error"], (ts_id, project.stack(ts_id), "changed since the work was planned", "again"))
    project.monkeypatch.undo()
    assert statuses(project, verb)[ts_id] == "done"


def test_F32_particle_table_changed(project):
    meanwhile(project, "subtomo", lambda: project.put(project.particles, "rlnCenteredCoordinateXAngst", 6, "9.0"))
    with pytest.raises(InputError, match="all 2 tilt series failed.*particles.star: it has changed"):
        project.run("subtomo")
    assert not os.path.exists(project.out + "/particles.star")


def test_F32_subtomogram_changed(project):
    project.run("subtomo")
    image = project.results("subtomo")["TS_01"]["files"][0]
    module = runner.verb_module("average")
    execute = module.execute

    def disturbed(*arguments):
        os.utime(image, (1, 1))
        return execute(*arguments)
    project.monkeypatch.setattr(module, "execute", disturbed)
    with pytest.raises(InputError, match="it has changed since"):
        project.run("average", output=project.out + "/average")


# ------------------------------------------------------------------ F27, F33: places that cannot be written to, F30

def limited(arguments, size):
    """Run the command line in a process whose files cannot grow beyond ``size`` bytes; exit code and text."""
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    root = str(Path(tomoexport.__file__).resolve().parents[1])
    done = subprocess.run([sys.executable, "-m", "tomoexport"] + arguments, stdout=subprocess.PIPE, cwd=root,
                          stderr=subprocess.STDOUT, text=True, preexec_fn=limit,
                          env=dict(os.environ, MPLBACKEND="Agg"))
    return done.returncode, done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_F27_disk_full(project, verb):
    """Nothing half written takes the place of what is there, no temporary file stays, and the exit code tells."""
    project.run(verb)
    before = {path: Path(path).read_bytes() for path in contents(project.out)
              if path.endswith((".mrc", ".star")) and os.path.isfile(path)}
    assert before
    flags = ["--%s=%s" % (name.replace("_", "-"), value)
             for name, value in project.job(verb)["options"].items()] + ["--no-invert"]
    code, text = limited([verb] + flags, 6000)
    assert code == 2, text
    assert "Traceback" not in text
    assert_told(text, ("error: all 2 tilt series failed", "TS_01", "File too large", "Look at the disk"))
    assert {path: Path(path).read_bytes() for path in before} == before
    whole(project.out)
    # There is room again.
    assert set(statuses(project, verb, invert=False).values()) == {"done"}
    assert whole(project.out) and any(Path(path).read_bytes() != old for path, old in before.items())


def test_F27_disk_full_when_tables_are_written(project, figures):
    """The volumes are done, the figures do not fit: an error, no traceback, no table; and then only that is made."""
    options = project.job("subtomo", box=8, diameter=80)["options"]  # volumes smaller than any picture
    flags = ["--%s=%s" % (name.replace("_", "-"), value) for name, value in options.items()]
    code, text = limited(["subtomo"] + flags, 4500)
    assert code == 2 and "Traceback" not in text, text
    assert_told(text, ("error: ", "File too large", "what is finished is kept"))
    assert not os.path.exists(project.out + "/particles.star")
    whole(project.out)
    assert set(statuses(project, "subtomo", box=8, diameter=80).values()) == {"skipped"}
    assert os.path.exists(project.out + "/particles.star")


def test_F27_too_little_room_is_known_before(project, monkeypatch):
    stat = os.statvfs(str(project.root))
    monkeypatch.setattr(os, "statvfs", lambda path: types.SimpleNamespace(f_bavail=3, f_frsize=4096))
    assert stat.f_bavail
    project.refused("subtomo", "12.3 kB are free", "are needed", "Free some space")


def test_F27_what_is_finished_needs_no_room(project, monkeypatch):
    project.run("reconstruct")
    monkeypatch.setattr(os, "statvfs", lambda path: types.SimpleNamespace(f_bavail=3, f_frsize=4096))
    assert {r["status"] for r in project.run("reconstruct")["results"]} == {"skipped"}


@pytest.mark.parametrize("below", ("", "/deeper/still"))
def test_F33_output_is_a_file(project, below):
    Path(project.out).write_text("mine")
    project.refused("reconstruct", project.out, "it is a file, not a folder", output=project.out + below)
    assert Path(project.out).read_text() == "mine"


@pytest.mark.parametrize("below", ("", "/deeper"))
def test_F33_output_is_a_dangling_link(project, below):
    os.symlink(str(project.root / "nowhere"), project.out)
    project.refused("subtomo", project.out, "it is a link to", "nowhere", "does not exist", output=project.out + below)


def test_F33_output_is_a_link_to_a_folder(project):
    os.mkdir(str(project.root / "elsewhere"))
    os.symlink("elsewhere", project.out)
    project.run("subtomo")
    assert os.path.islink(project.out) and whole(project.root / "elsewhere") == 17
    assert project.run("average", output=project.out + "/average")["results"][0]["particles"] == 8


@pytest.fixture
def others(copy):
    """A data set that belongs to root where root runs the tests, for which everything is allowed; `nobody` acts."""
    with tempfile.TemporaryDirectory() as folder:
        project = copy(Path(folder) / "project")
        os.chmod(folder, 0o755)
        os.chmod(str(project.root), 0o755)
        yield project


@contextmanager
def nobody():
    """Act as a user without rights, if root runs the tests."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("below", ("", "/deeper"))
def test_F33_output_is_read_only(others, below):
    os.mkdir(others.out, 0o555)
    with nobody():
        others.refused("reconstruct", others.out, "cannot be written to", "permissions", output=others.out + below)


def test_F33_input_that_may_not_be_read(others):
    os.chmod(others.tomograms, 0)
    with nobody():
        others.refused("reconstruct", others.tomograms, "Permission denied")


def test_F33_no_output_and_no_input(project):
    for verb, name in (("reconstruct", "output"), ("subtomo", "output"), ("simulate", "output")):
        with pytest.raises(InputError, match="--output: no folder is given"):
            project.run(verb, **{name: ""})
    for verb, name in (("reconstruct", "tomograms"), ("subtomo", "tomograms"), ("subtomo", "particles"),
                       ("average", "particles")):
        project.refused(verb, "--" + name, "no file is given", **{name: ""})


def test_F30_folder_in_use(project):
    os.mkdir(project.out)
    with lock(project.out, "TS_01"):
        with pytest.raises(InputError, match="in use by .*:%d since" % os.getpid()):
            project.run("reconstruct")
    assert set(statuses(project, "reconstruct").values()) == {"done"}


# ---------------------------------------------------------------------------------------------------- F37: no GPU

def broken_cupy(monkeypatch, error):
    """A CuPy that can be imported and fails at the first touch of a device."""
    def device(number):
        raise error
    cuda = types.SimpleNamespace(Device=device)
    for name in ("cupy", "cupyx", "cupyx.scipy", "cupyx.scipy.fft"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["cupyx"].scipy = sys.modules["cupyx.scipy"]
    sys.modules["cupyx.scipy"].fft = sys.modules["cupyx.scipy.fft"]
    sys.modules["cupy"].cuda, sys.modules["cupy"].float32 = cuda, np.float32


@pytest.fixture(params=("absent", "broken", "old driver"))
def no_gpu(request, monkeypatch):
    """What is wrong, and what is said about it."""
    if request.param == "absent":
        monkeypatch.setitem(sys.modules, "cupy", None)
        return "CuPy is not installed"
    if request.param == "broken":
        broken_cupy(monkeypatch, ImportError("libcudart.so.12: cannot open shared object file"))
        return "libcudart.so.12: cannot open"
    broken_cupy(monkeypatch, RuntimeError("cudaErrorInsufficientDriver: driver version is insufficient\nand more"))
    return "cudaErrorInsufficientDriver: driver version is insufficient"


@pytest.mark.parametrize("verb", VERBS)
def test_F37_auto_takes_the_cpu_and_says_why(project, no_gpu, verb, caplog):
    with caplog.at_level(logging.INFO):
        out = project.run(verb, device="auto")
    assert out["failed"] == []
    said, = [r.getMessage() for r in caplog.records if r.getMessage().startswith("computing on CPU, 2 threads (")]
    assert no_gpu in said


@pytest.mark.parametrize("device", ("cuda", "cuda:0", "cuda:7"))
def test_F37_a_gpu_that_is_asked_for_is_an_error(project, no_gpu, device):
    code, text = project.cli("reconstruct", device=device)
    assert code == 2
    assert_told(text, ("error: --device %s: the GPU cannot be used" % device, "--device cpu"))
    with pytest.raises(BackendError):
        project.run("subtomo", device=device)
    assert not os.path.exists(project.out + "/reconstruction")


@pytest.mark.parametrize("device", ("gpu", "cuda:x", "cuda:-1", ""))
def test_F37_a_device_of_no_meaning(project, device):
    code, text = project.cli("reconstruct", device=device)
    assert code == 2
    assert_told(text, ("error: --device", "cuda:"))
    assert not os.path.exists(project.out + "/reconstruction")


# --------------------------------------------------------------------------------------------------- the job file

@pytest.mark.parametrize("text, cause", (
    ("{", "no valid JSON"), ("[]", "no JSON object"), ("{}", "does not exist"), ('{"verb": "fly"}', "verb fly"),
    ('{"verb": "reconstruct", "options": {"pixle": 1}}', "option pixle"),
    ('{"verb": ["reconstruct"]}', "does not exist"), ('{"verb": "reconstruct", "options": [1]}', "names with values"),
    ('{"verb": "reconstruct", "options": {"tomograms": null}}', "--tomograms: None is not a text"),
    ('{"verb": "subtomo", "options": {"box": 1e400}}', "--box: inf is not a whole number"),
    ('{"verb": "subtomo", "options": {"star": "../p.star"}}', "--star"),
    ('{"verb": "reconstruct", "series": "TS_01"}', "series is 'TS_01'"),
    ('{"verb": "reconstruct", "series": [1]}', "series is [1]"),
    ('{"verb": "reconstruct", "collect": "no"}', "collect is 'no'"), ("[" * 100000, "no valid JSON"),
    ('{"verb": "reconstruct", "options": {}, "tilts": 3}', "unknown entries tilts")))
def test_job_file(project, capsys, text, cause):
    from tomoexport import cli
    path = project.root / "job.json"
    path.write_text(text)
    assert cli.main(["run", str(path)]) == 2
    assert_told(capsys.readouterr().err, ("error: ", cause))


def test_exit_codes(project):
    """0 all is well, 1 some tilt series failed, 2 all of them or wrong input."""
    assert project.cli("reconstruct")[0] == 0
    os.truncate(project.stack("TS_01"), 5000)
    code, text = project.cli("reconstruct")
    assert code == 1
    assert_told(text, ("error: 1 of 2 tilt series failed: TS_01. The others are finished",))
    os.truncate(project.stack("TS_02"), 5000)
    assert project.cli("reconstruct")[0] == 2
    assert project.cli("reconstruct", pixel_size=0)[0] == 2


def test_job_of_one_series_that_fails_leaves_its_reason(project):
    """A protocol's step reads it."""
    os.truncate(project.stack(), 5000)
    with pytest.raises(InputError, match="truncated"):
        runner.run(dict(project.job("reconstruct"), series=["TS_01"]))
    result = json.loads(Path(project.out, "results", "TS_01.json").read_text())
    assert result["status"] == "failed" and "truncated" in result["error"]
    shutil.rmtree(project.out)
