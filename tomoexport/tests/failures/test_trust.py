"""Nothing between files lies: tables, results and inputs are of one run, or one is told (F27 to F32)."""
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tomoexport import cli, options
from tomoexport.errors import InputError
from tomoexport.io import mrc, star
from tomoexport.jobs import runner
from tomoexport.tests.failures import faults

from .conftest import SUBTOMO

pytestmark = pytest.mark.slow

BOX = dict(binning=2.0, box=16, device="cpu", threads=2)
PARTICLE_VERBS = {"subtomo": SUBTOMO, "series": SUBTOMO, "pseudosubtomo": BOX, "particle": BOX}


def job_of(project, verb, **values):
    chosen = dict(PARTICLE_VERBS[verb], tomograms=project.tomograms, particles=project.particles, output=project.out)
    return {"verb": verb, "options": dict(chosen, **values)}


def move_a_particle(project):
    """As an editor does: nothing of ours writes the table."""
    path, (*_, table) = Path(project.particles), star.read(project.particles)
    old = table.text("rlnCenteredCoordinateXAngst")[1]
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, "11.5"))


# --------------------------------------------------------------------------------- 2: collecting asks what it collects

@pytest.mark.parametrize("verb", PARTICLE_VERBS)
def test_collecting_results_of_other_options_names_what_changed(project, verb):
    other = dict(binning=2.5) if "binning" in PARTICLE_VERBS[verb] else dict(pixel_size=20.0)
    (name, value), = other.items()
    runner.run(dict(job_of(project, verb), series=["TS_01", "TS_02"], collect=False))
    with pytest.raises(InputError, match=r"%s \(was %s, is %s\)" % (name, PARTICLE_VERBS[verb][name], value)):
        runner.run(dict(job_of(project, verb, **other), series=[], collect=True))
    assert not [path for path in Path(project.out).iterdir() if path.suffix in (".star", ".mrc")]


@pytest.mark.parametrize("verb", PARTICLE_VERBS)
def test_collecting_results_of_other_particles_names_them(project, verb):
    runner.run(dict(job_of(project, verb), series=["TS_01", "TS_02"], collect=False))
    move_a_particle(project)
    with pytest.raises(InputError, match="TS_01: its result is of other inputs or options than these: particles"):
        runner.run(dict(job_of(project, verb), series=[], collect=True))
    # The remedy works.
    assert runner.run(job_of(project, verb))["failed"] == []


def test_collecting_tells_of_a_series_without_result(project, caplog):
    runner.run(dict(job_of(project, "subtomo"), series=["TS_01"], collect=False))
    out = runner.run(dict(job_of(project, "subtomo"), series=[], collect=True))
    assert out["collected"]["kept"] == 4 and "TS_02: it has no result" in caplog.text


@pytest.mark.parametrize("verb", PARTICLE_VERBS)
def test_a_table_that_is_edited_while_results_are_joined(project, verb, monkeypatch):
    """After the last series, and in the middle of the collecting."""
    module = runner.verb_module(verb)
    collect = module.collect

    def edited(options, results):
        move_a_particle(project)
        return collect(options, results)

    monkeypatch.setattr(module, "collect", edited)
    with pytest.raises(InputError, match="particles.star: it has changed since the work was planned"):
        runner.run(job_of(project, verb))
    assert not [path for path in Path(project.out).iterdir() if path.suffix in (".star", ".mrc")]
    monkeypatch.undo()
    assert runner.run(job_of(project, verb))["failed"] == []


# ----------------------------------------------------------------------------- 1: tables do not outlive their volumes

def test_a_table_of_another_name_goes_as_well(project):
    """Its volumes are replaced by a run that writes its own table under another name."""
    project.run("subtomo", star="first.star")
    *_, table = star.read(os.path.join(project.out, "first.star"))
    assert len(table) == 8
    project.run("subtomo", star="second.star", invert=False)
    assert sorted(path.name for path in Path(project.out).glob("*.star")) == ["second.star"]


def test_a_table_stays_where_nothing_it_names_is_replaced(project):
    """Other names of volumes; and a run in which nothing succeeds."""
    project.run("subtomo", star="first.star")
    project.run("subtomo", star="second.star", pixel_size=20.0)
    assert (Path(project.out) / "first.star").exists() and (Path(project.out) / "second.star").exists()
    for ts_id in ("TS_01", "TS_02"):
        project.pixels(lambda images: images.fill(np.nan), ts_id)
    with pytest.raises(InputError, match="all 2 tilt series failed"):
        project.run("subtomo", invert=False, star="first.star")
    assert cli.main(["average", "--particles", os.path.join(project.out, "first.star"), "--output",
                     str(project.root / "average")]) == 0


def test_a_table_that_is_read_is_not_taken_away(project):
    """An export from its own table into the same folder would replace what that table names."""
    project.run("subtomo", star="first.star")
    table = os.path.join(project.out, "first.star")
    with pytest.raises(InputError, match="it names results in .* that would be replaced while it is read"):
        project.run("subtomo", star="second.star", particles=table, invert=False)
    assert os.path.exists(table)
    elsewhere = str(project.root / "elsewhere")
    assert project.run("subtomo", star="second.star", particles=table, invert=False, output=elsewhere)["failed"] == []


def test_a_redo_that_fails_in_one_series_leaves_the_table_of_the_other(project):
    project.run("subtomo")
    project.pixels(lambda images: images.fill(np.nan), "TS_02")
    out = project.run("subtomo", invert=False)
    *_, table = star.read(out["collected"]["star"])
    assert out["failed"] == ["TS_02"] and set(table.text("rlnTomoName")) == {"TS_01"}


# ------------------------------------------------------------------------------------------- 6: our own damaged files

@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", "\x00" * 100, "{" * 100000])
@pytest.mark.parametrize("name", ["results/TS_01.json", ".tomoexport/TS_01.json"])
def test_a_result_that_cannot_be_read_is_made_anew(project, name, text):
    project.run("subtomo")
    before = faults.snapshot(project.out)
    Path(project.out, name).write_text(text)
    assert {n: r["status"] for n, r in project.results("subtomo").items()} == {"TS_01": "done", "TS_02": "skipped"}
    assert faults.snapshot(project.out) == before


def test_a_damaged_list_of_tables_is_named_before_the_work(project):
    project.run("subtomo")
    path = Path(project.out, ".tomoexport", "tables", "subtomo.json")
    path.write_text("{")
    code, text = project.cli("subtomo", invert=False)
    assert code == 2 and str(path) in text and "Remove it" in text
    path.unlink()
    assert project.cli("subtomo", invert=False)[0] == 0


@pytest.mark.parametrize("make", [lambda path: path.symlink_to(path.parent.parent.parent / "precious"),
                                  lambda path: os.mkfifo(str(path)), lambda path: path.mkdir()],
                         ids=["a link", "a named pipe", "a folder"])
def test_a_lock_follows_no_link(project, make):
    (project.root / "precious").write_text("untouched")
    folder = Path(project.out, ".tomoexport")
    folder.mkdir(parents=True)
    make(folder / "TS_01.lock")
    code, text = project.cli("subtomo")
    assert code == 2 and "TS_01.lock" in text and "Remove it" in text
    assert (project.root / "precious").read_text() == "untouched"


# -------------------------------------------------------------------------------------------- 4: a file that shrinks

@pytest.mark.parametrize("verb", ["reconstruct", "subtomo"])
def test_a_stack_that_shrinks_while_it_is_read(project, verb, monkeypatch):
    """The series fails and says why; the process lives, and the other series is done."""
    read = mrc.Stack.read

    def shrinking(self, index):
        if self.header.path == project.stack() and index == 1:
            os.truncate(project.stack(), 1024 + 4 * 64 * 64 + 100)
        return read(self, index)

    monkeypatch.setattr(mrc.Stack, "read", shrinking)
    out = project.run(verb)
    assert out["failed"] == ["TS_01"] and "ends within section" in out["results"][0]["error"]
    assert out["results"][1]["status"] == "done"


def test_a_disk_that_fails_while_it_is_read(project, monkeypatch):
    import errno
    real = os.preadv

    def failing(handle, buffers, offset):
        if os.readlink("/proc/self/fd/%d" % handle) == project.stack():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(handle, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    out = project.run("subtomo")
    assert out["failed"] == ["TS_01"] and "Input/output error" in out["results"][0]["error"]


def test_more_files_than_may_be_open(project):
    """A file per tilt, and fewer that a process may have open."""
    for ts_id in ("TS_01", "TS_02"):
        images, pixel = mrc.read_volume(project.stack(ts_id))
        folder = project.root / ("frames_" + ts_id)
        folder.mkdir()
        names = [str(folder / ("%03d.mrc" % i)) for i in range(len(images))]
        for name, image in zip(names, images):
            mrc.write(name, image, pixel, kind="image")
        project.edit(project.tilts(ts_id), lambda columns, names=names: columns.__setitem__(
            "rlnMicrographName", ["1@" + name for name in names]))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 12, hard))
    # Each tilt is in a file of its own, and read several times over: none may stay open.
    held = [open(os.devnull) for _ in range(4)]
    try:
        assert project.run("subtomo", threads=1)["failed"] == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in held:
            one.close()


# ------------------------------------------------------------------------------------- 5: signals, and lost outputs

def started(project, verb="subtomo", **how):
    """A run of the command line that takes a while, as a process."""
    project.run("simulate", preset="tiny", particles=300, output=str(project.root / "larger"))
    words = [sys.executable, "-m", "tomoexport", verb, "--tomograms", str(project.root / "larger" / "tomograms.star"),
             "--particles", str(project.root / "larger" / "particles.star"), *faults.BOX, "--threads", "1", "--device",
             "cpu", "--output", project.out]
    return subprocess.Popen(words, **dict(dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True), **how))


def begun(project, process, count=20):
    """Wait until some volumes are there."""
    until = time.monotonic() + 60
    while len(list(Path(project.out).rglob("*.mrc"))) < count:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.parametrize("number, code, said", [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "stopped")])
def test_F29_an_orderly_end(project, number, code, said):
    process = started(project)
    begun(project, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code and said in errors and "goes on from there" in errors
    assert faults.temporary(faults.snapshot(project.out)) == []
    assert not list(Path(project.out).glob("*.star"))


def test_F29_a_second_sigterm_changes_nothing(project):
    process = started(project)
    begun(project, process)
    for _ in range(5):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
    assert process.wait(60) == 143 and faults.temporary(faults.snapshot(project.out)) == []


def test_a_terminal_that_is_closed_stops_no_work(project):
    process = started(project)
    begun(project, process)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=120)
    assert process.returncode == 0 and Path(project.out, "particles.star").exists()


@pytest.mark.parametrize("lost", ["a pipe that nobody reads", "a full disk", "closed"])
def test_an_output_that_is_lost_stops_no_work(project, lost):
    if lost == "a full disk":
        with open("/dev/full", "w") as full:
            process = started(project, stdout=full, stderr=full)
            code = process.wait(120)
    elif lost == "closed":
        process = started(project, stdout=None, stderr=None, preexec_fn=lambda: (os.close(1), os.close(2)))
        code = process.wait(120)
    else:
        process = started(project)
        process.stdout.close()
        process.stderr.close()
        code = process.wait(120)
    assert code == 0 and len(list(Path(project.out).rglob("*.mrc"))) > 600
    assert Path(project.out, "particles.star").exists()


def test_what_dead_processes_left_is_swept(project):
    """Temporary files of a killed run, wherever they lie, go with the next run, whatever it is about."""
    process = started(project)
    begun(project, process)
    process.kill()
    process.wait()
    left = Path(project.out, "subtomo", "TS_01")
    journal, = Path(project.out, ".tomoexport").glob("temporary-*")
    word = "-".join(journal.name[len("temporary-"):].split("-")[:2])
    (left / (".TS_01_1.mrc.tmp-%s-12345678" % word)).write_text("half")
    (left / ".TS_01_1.mrc.tmp-1-abcdefgh-12345678").write_text("not ours")
    assert project.cli("subtomo")[0] == 0
    assert [p.name for p in left.glob(".*")] == [".TS_01_1.mrc.tmp-1-abcdefgh-12345678"] and not journal.exists()


def test_what_living_processes_write_is_left(project):
    """Another run in the folder, of another series, keeps its temporary files."""
    process = started(project)
    begun(project, process)
    process.send_signal(signal.SIGSTOP)
    try:
        folder = Path(project.out, "subtomo", "TS_01")
        journal, = Path(project.out, ".tomoexport").glob("temporary-*")
        word = "-".join(journal.name[len("temporary-"):].split("-")[:2])
        (folder / (".x.mrc.tmp-%s-12345678" % word)).write_text("half")
        from tomoexport.io.outputs import Outputs
        with Outputs(project.out, "subtomo"):
            assert (folder / (".x.mrc.tmp-%s-12345678" % word)).exists() and journal.exists()
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


# ------------------------------------------------------------------------------------- 3: nothing vanishes, all final

def test_reconstruct_resumed_gives_the_same_bytes(project):
    """Whatever of the outputs was there already."""
    values = dict(halves=True, deconvolve=True)
    project.run("reconstruct", **values)
    whole = faults.snapshot(project.out)
    for lost in ([""], ["odd"], ["deconv"], ["", "odd"], ["odd", "deconv"], ["", "deconv"]):
        for part in lost:
            for path in Path(project.out, "reconstruction", part).glob("*.mrc"):
                path.unlink()
        project.run("reconstruct", **values)
        assert faults.snapshot(project.out) == whole, lost


def test_a_name_stands_for_what_is_final_alone(project, monkeypatch):
    """Stopped before the deconvolution: no half is there that is not deconvolved."""
    module = runner.verb_module("reconstruct")
    monkeypatch.setattr(module, "deconvolve", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        project.run("reconstruct", halves=True, deconvolve=True)
    names = [path.relative_to(project.out) for path in Path(project.out).rglob("*.mrc")]
    assert all(path.parent.name == "reconstruction" for path in names), names
    assert faults.temporary(faults.snapshot(project.out)) == []


@pytest.mark.parametrize("name", ["0@", "000000@", "-1@"])
@pytest.mark.parametrize("verb", ["subtomo", "reconstruct"])
def test_section_zero_is_refused_in_the_plan(project, verb, name):
    path = star.read(project.tilts())
    first = next(iter(path)).text("rlnMicrographName")[0].partition("@")[2]
    project.put(project.tilts(), "rlnMicrographName", 0, name + first)
    project.alone(verb, "TS_01", "@")


# ------------------------------------------------------------------------------------------ 6: what is hardly meant

@pytest.mark.parametrize("column, value, said", [
    ("rlnTomoYTilt", "120", "1 views have a tilt beyond 90 degrees, 120"),
    ("rlnTomoXShiftAngst", "1e30", "1 views have a shift that moves the tomogram out of the image, 1e+30"),
    ("rlnMicrographPreExposure", "2e3", "1 views have a dose of more than 1000 e/A^2, 2000")])
@pytest.mark.parametrize("verb", ["subtomo", "reconstruct"])
def test_numbers_that_are_hardly_meant_are_told(project, verb, column, value, said):
    project.put(project.tilts(), column, 0, value)
    code, text = project.check(verb)
    assert said in text and code in (0, 2)


@pytest.mark.parametrize("column, value, said", [
    ("rlnTomoYTilt", "720", "tilt of 720 degrees"), ("rlnMicrographPreExposure", "-3", "dose of -3 e/A^2"),
    ("rlnMicrographPreExposure", "1e6", "dose of 1e+06 e/A^2")])
@pytest.mark.parametrize("verb", ["subtomo", "reconstruct"])
def test_numbers_that_mean_nothing_stop_their_series(project, verb, column, value, said):
    project.put(project.tilts(), column, 0, value)
    project.alone(verb, "TS_01", said)


def test_a_file_longer_than_its_header_says_is_told(project):
    with open(project.stack(), "ab") as handle:
        handle.write(b"more")
    code, text = project.check("reconstruct")
    assert code == 0 and "it is 4 bytes longer than its header says" in text


def test_every_verb_that_reads_particles_is_here():
    classes = {verb for verb, one in options.VERBS.items() if issubclass(one, options.TiltSeriesOptions)}
    assert classes == set(PARTICLE_VERBS) | {"reconstruct"}


# ----------------------------------------------------------------------------------------- found by another's reading

@pytest.mark.parametrize("verb", PARTICLE_VERBS)
def test_a_table_that_changes_while_it_is_read(project, verb, monkeypatch):
    """Its state is that of before the reading, and not of after."""
    from tomoexport.io import star as reader
    read = reader.read

    def edited(path, *more):
        out = read(path, *more)
        if path == project.particles:
            monkeypatch.setattr(reader, "read", read)
            move_a_particle(project)
        return out

    monkeypatch.setattr(reader, "read", edited)
    with pytest.raises(InputError, match="particles.star: it has changed while it was read"):
        runner.run(job_of(project, verb))
    assert runner.run(job_of(project, verb))["failed"] == []


def test_a_table_of_tilts_that_changes_while_it_is_read(project, monkeypatch):
    from tomoexport.io import star as reader
    read = reader.read

    def edited(path, *more):
        out = read(path, *more)
        if path == project.tilts("TS_02"):
            monkeypatch.setattr(reader, "read", read)
            text = Path(path).read_text()
            Path(path).write_text(text + "\n")
        return out

    monkeypatch.setattr(reader, "read", edited)
    out = project.run("subtomo")
    assert out["failed"] == ["TS_02"] and "it has changed since the work was planned" in out["results"][1]["error"]


def test_volumes_that_were_removed_leave_no_table_over_new_ones(project, monkeypatch):
    """Nothing is replaced then: all the same the table of before goes."""
    project.run("subtomo", star="first.star")
    for path in Path(project.out, "subtomo", "TS_02").glob("*.mrc"):
        path.unlink()
    module = runner.verb_module("subtomo")
    execute = module.execute

    def stopped(unit, *more):
        if unit.name == "TS_02":
            execute(unit, *more)
            raise KeyboardInterrupt
        return execute(unit, *more)

    monkeypatch.setattr(module, "execute", stopped)
    with pytest.raises(KeyboardInterrupt):
        project.run("subtomo", star="first.star")
    assert list(Path(project.out, "subtomo", "TS_02").glob("*.mrc"))
    assert not Path(project.out, "first.star").exists()


def test_a_folder_without_our_records(project, monkeypatch):
    """Copied without hidden files: the table that is going to be written goes before volumes are replaced."""
    import shutil
    project.run("subtomo")
    shutil.rmtree(os.path.join(project.out, ".tomoexport"))
    module = runner.verb_module("subtomo")
    execute = module.execute

    def stopped(unit, *more):
        execute(unit, *more)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "execute", stopped)
    with pytest.raises(KeyboardInterrupt):
        project.run("subtomo", invert=False)
    assert not Path(project.out, "particles.star").exists()


def test_a_tilt_series_called_folder(project):
    for before, name in (("TS_01", "folder"), ("folder", "tables"), ("tables", ".folder")):
        project.rename(before, name)
        assert set(project.results("subtomo")) == {name, "TS_02"}
        assert project.run("subtomo", invert=False)["failed"] == []


def test_being_stopped_is_more_than_a_failure_before():
    from tomoexport.jobs.pipeline import Pipeline
    pipeline = Pipeline(lambda *a: None, 1, 1, None)
    pipeline._fail(OSError("full"))
    pipeline._fail(KeyboardInterrupt())
    pipeline._fail(OSError("full again"))
    assert isinstance(pipeline._error, KeyboardInterrupt)


def test_a_collecting_that_is_refused_removes_no_table(project, monkeypatch):
    """Not even where no particle would be left."""
    project.run("subtomo")
    module = runner.verb_module("subtomo")
    collect = module.collect

    def edited(options, results):
        os.utime(project.particles)
        return collect(options, [dict(r, particles=[dict(p, kept=False) for p in r["particles"]]) for r in results])

    monkeypatch.setattr(module, "collect", edited)
    with pytest.raises(InputError, match="it has changed"):
        project.run("subtomo")
    assert Path(project.out, "particles.star").exists()
