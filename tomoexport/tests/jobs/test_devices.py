"""Several GPUs, which are not there, work on the tilt series of one run at the same time."""

import _thread
import io
import json
import logging
import os
import signal
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from tomoexport.engine import backend
from tomoexport.errors import BackendError, InputError
from tomoexport.io.lock import lock
from tomoexport.io.manifest import Manifest
from tomoexport.jobs import runner
from tomoexport.jobs.plan import Plan, Problem, Unit
from tomoexport.jobs.progress import Progress

NAMES = ["TS_%d" % i for i in range(1, 7)]


class Fake:
    """A verb of six tilt series whose work is what a test makes of it, and GPUs that only count."""

    def __init__(self, folder, monkeypatch):
        self.out, self.began, self.errors = str(folder / "out"), [], {}
        self.work = lambda name, device: None
        self._lock, self.current = threading.Lock(), {}
        xp = types.SimpleNamespace(cuda=types.SimpleNamespace(Device=lambda number: types.SimpleNamespace(
            use=lambda: self.current.__setitem__(threading.get_ident(), number))))
        monkeypatch.setattr(backend, "list_gpus", lambda: [("GPU", 1)] * 3)
        monkeypatch.setattr(backend, "_cuda", lambda n, threads: backend.CudaBackend(
            "cuda", xp, threads=threads, device=n))
        monkeypatch.setattr(runner, "verb_module", lambda verb: self)

    def plan(self, options, only=None):
        units = [Unit(name, depends={"name": name}, error=self.errors.get(name)) for name in NAMES
                 if only is None or name in only]
        return Plan("reconstruct", options, units)

    def execute(self, unit, options, device):
        assert self.current[threading.get_ident()] == device.device, "another device is the current one"
        with self._lock:
            self.began.append((unit.name, device.device, options.threads, options.memory))
        self.work(unit.name, device.device)
        path = os.path.join(options.output, unit.name + ".mrc")
        Path(path).write_text(unit.name)
        return {"files": [path], "device": device.device}

    def collect(self, options, results):
        return {"names": [r["ts_id"] for r in results]}

    def run(self, device="cuda:0,1", **values):
        options = dict({"output": self.out, "device": device, "threads": 5, "memory": 4.0}, **values.pop("options", {}))
        return runner.run(dict({"verb": "reconstruct", "options": options}, **values))

    def recorded(self):
        """Names of the tilt series that are finished."""
        return [n for n in NAMES if Manifest(self.out).done(n, Unit(n, depends={"name": n}).fingerprint)]


@pytest.fixture
def fake(tmp_path, monkeypatch):
    return Fake(tmp_path, monkeypatch)


def pairs(count):
    """Work that only goes on when ``count`` threads are at it."""
    barrier = threading.Barrier(count)
    return lambda name, device: barrier.wait(20)


@pytest.mark.parametrize("device, count", [("cuda:0,1", 2), ("cuda:2,0", 2), ("cuda:all", 3)])
def test_devices_work_at_the_same_time(fake, device, count):
    fake.work = pairs(count)
    out = fake.run(device)
    assert [r["status"] for r in out["results"]] == ["done"] * 6 and out["failed"] == []
    assert len({r["device"] for r in out["results"]}) == count
    assert sorted(name for name, *_ in fake.began) == NAMES == fake.recorded()


def test_one_device_works_on_one_at_a_time(fake):
    busy = threading.Lock()

    def work(name, device):
        assert busy.acquire(blocking=False) and threading.current_thread() is threading.main_thread()
        time.sleep(0.01)
        busy.release()
    fake.work = work
    for device in ("auto", "cuda", "cuda:2"):
        assert fake.run(device, options={"output": fake.out + device[-1]})["failed"] == []
    assert [name for name, *_ in fake.began] == 3 * NAMES
    assert [d for _, d, _, _ in fake.began] == 12 * [0] + 6 * [2]


def test_results_stay_in_the_order_of_the_plan(fake):
    rest = threading.Event()

    def work(name, device):
        if name == "TS_1":
            assert rest.wait(20)
        elif name == "TS_6":
            rest.set()
    fake.work = work
    out = fake.run()
    assert [r["ts_id"] for r in out["results"]] == NAMES == out["collected"]["names"]
    assert [d for n, d, _, _ in fake.began if n != "TS_1"] == 5 * [1 - out["results"][0]["device"]]
    for name, result in zip(NAMES, out["results"]):
        assert json.loads(Path(fake.out, "results", name + ".json").read_text()) == result


def test_a_failing_series_does_not_stop_the_others(fake, caplog):
    together = pairs(2)

    def work(name, device):
        together(name, device)
        if name in ("TS_1", "TS_4"):
            raise ValueError("odd images")
    fake.work = work
    out = fake.run()
    assert out["failed"] == ["TS_1", "TS_4"] and "odd images" in out["results"][3]["error"]
    assert fake.recorded() == ["TS_2", "TS_3", "TS_5", "TS_6"]


def test_all_that_fail_are_told_in_order(fake):
    def work(name, device):
        raise InputError(name, "no images")
    fake.work = work
    with pytest.raises(InputError, match="all 6 tilt series failed: TS_1: no.*TS_6: no"):
        fake.run()


def test_a_run_goes_on_where_it_was(fake):
    def work(name, device):
        if name in NAMES[1:3]:
            raise ValueError("once")
    fake.work = work
    assert fake.run()["failed"] == NAMES[1:3]
    fake.began.clear()
    fake.work = pairs(2)
    out = fake.run("cuda:0,2")
    assert sorted(name for name, *_ in fake.began) == NAMES[1:3]
    assert [r["status"] for r in out["results"]] == ["skipped", "done", "done", "skipped", "skipped", "skipped"]
    assert [r["ts_id"] for r in out["results"]] == NAMES
    fake.began.clear()
    assert {r["status"] for r in fake.run("cuda:0,1,2,3,4")["results"]} == {"skipped"} and not fake.began


@pytest.mark.parametrize("series, device, expected", [
    (NAMES, "cuda:0,1", {(0, 3, 2.0), (1, 2, 2.0)}), (NAMES, "cuda:1", {(1, 5, 4.0)}),
    (["TS_3"], "cuda:1,2", {(1, 5, 4.0)}), (["TS_3", "TS_4"], "cuda:all", {(0, 3, 2.0), (1, 2, 2.0)})])
def test_threads_and_memory_are_shared(fake, series, device, expected):
    fake.work = pairs(len(expected))
    fake.run(device, series=series)
    assert {tuple(rest) for _, *rest in fake.began} == expected


def test_unlimited_memory_is_shared(fake, monkeypatch):
    monkeypatch.setattr(runner, "budget", lambda options: 6e9)
    fake.run(options={"memory": 0.0})
    assert {memory for *_, memory in fake.began} == {3.0}


def test_series_that_cannot_be_used_need_no_device(fake):
    fake.errors = {name: Problem("failed", name, "no images") for name in NAMES[1:]}
    fake.run()
    assert fake.began == [("TS_1", 0, 5, 4.0)]


@pytest.mark.parametrize("device", ["cuda:0,0", "cuda:x", "cuda:0,3"])
def test_wrong_lists(fake, device):
    with pytest.raises(BackendError, match="--device " + device):
        fake.run(device)
    assert not fake.began and not fake.recorded()


def test_a_folder_in_use(fake):
    """Nothing is begun if it is known at once; if another run comes in between, what was begun is finished."""
    os.mkdir(fake.out)
    with lock(fake.out, "TS_5"), pytest.raises(InputError, match="in use by"):
        fake.run()
    assert not fake.began
    together, held = pairs(2), []

    def work(name, device):
        together(name, device)
        if name == "TS_1":
            held.append(lock(fake.out, "TS_3"))
            held[0].__enter__()
            together(name, device)
        else:
            together(name, device)
            # The other device has stopped by the time that this one is free.
            while len([t for t in threading.enumerate() if t.name.startswith("GPU")]) > 1:
                time.sleep(0.01)
    fake.work = work
    with pytest.raises(InputError, match="in use by"):
        fake.run()
    held[0].__exit__(None, None, None)
    assert fake.recorded() == ["TS_1", "TS_2"] == sorted(name for name, *_ in fake.began)
    fake.work = lambda name, device: None
    assert fake.run()["failed"] == []


@pytest.mark.parametrize("interrupt", [lambda: os.kill(os.getpid(), signal.SIGINT), _thread.interrupt_main],
                         ids=["the main thread is woken", "it is not"])
def test_an_interrupt_stops_all_devices(fake, interrupt):
    together, states, ready = pairs(2), [], threading.Event()

    def work(name, device):
        together(name, device)
        if name in ("TS_1", "TS_2"):
            return
        try:
            if device == 0:
                assert ready.wait(20)
                interrupt()
            ready.set()
            for _ in range(2000):
                time.sleep(0.01)
            states.append("ran on")
        except BaseException as error:
            states.append(type(error))
            raise
    fake.work = work
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        fake.run()
    assert states == [KeyboardInterrupt] * 2 and threading.active_count() == before
    assert fake.recorded() == ["TS_1", "TS_2"] and len(fake.began) == 4
    assert not os.path.exists(os.path.join(fake.out, "results", "TS_3.json"))
    fake.began.clear()
    fake.work = lambda name, device: None
    assert fake.run()["failed"] == [] and len(fake.began) == 4


def test_a_thread_that_cannot_be_started_ends_the_run(fake, monkeypatch):
    """No tilt series is called failed for it."""
    start, begun = threading.Thread.start, threading.Event()

    def second(thread):
        if thread.name == "GPU 1":
            assert begun.wait(20)
            raise RuntimeError("can't start new thread")
        start(thread)

    def work(name, device):
        begun.set()
        for _ in range(2000):
            time.sleep(0.01)
    fake.work = work
    monkeypatch.setattr(threading.Thread, "start", second)
    with pytest.raises(RuntimeError, match="new thread"):
        fake.run()
    assert len(fake.began) == 1 and not os.path.exists(os.path.join(fake.out, "results"))


def test_a_device_that_breaks_is_told(fake, monkeypatch):
    def activate(self):
        raise BackendError("GPU %d fell off the bus" % self.device)
    monkeypatch.setattr(backend.CudaBackend, "activate", activate)
    for device in ("cuda:1", "cuda:0,1"):
        with pytest.raises(BackendError, match="fell off the bus"):
            fake.run(device)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("device, in_place", [("cuda:0", True), ("cuda:0,1", False)])
def test_progress_of_several_devices_comes_in_whole_lines(fake, monkeypatch, device, in_place):
    together = pairs(1 if in_place else 2)
    monkeypatch.setattr(Progress, "INTERVAL", 0.0)

    def work(name, device):
        together(name, device)
        progress = Progress(name, 50, "rows")
        for _ in range(50):
            progress()
        progress.finish()
    fake.work = work
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    fake.run(device)
    assert sys.stdout is terminal
    lines = terminal.getvalue().split("\n")
    assert ("\r" in terminal.getvalue()) == in_place
    if not in_place:
        assert len(lines) == 6 * 50 + 1 and all(line.count("rows") == 1 for line in lines[:-1])


def test_the_log_says_which_device(fake, caplog):
    with caplog.at_level(logging.INFO):
        fake.run()
    said = [r.getMessage() for r in caplog.records]
    assert "computing on GPU 0, GPU 1" in said
    assert {m.partition(":")[0] for m in said if "begun on GPU" in m} == set(NAMES)


def test_two_at_once_give_the_same_files(tmp_path, monkeypatch, simulated):
    """Real work, on the CPU in the place of GPUs."""
    data, files = tmp_path / "data", {}
    simulated("tiny", into=data, particles=6)
    common = {"tomograms": str(data / "tomograms.star"), "pixel_size": 8.0, "threads": 2}
    for verb, own in (("reconstruct", {"halves": True}),
                      ("subtomo", {"particles": str(data / "particles.star"), "box": 16, "diameter": 100.0})):
        module = runner.verb_module(verb)
        for count in (1, 2):
            together, execute = pairs(count), module.execute

            def begin(unit, options, device, together=together, execute=execute):
                together(unit.name, device)
                return execute(unit, options, device)
            with monkeypatch.context() as patch:
                patch.setattr(module, "execute", begin)
                patch.setattr(runner, "select_backends", lambda *arguments, count=count: [
                    backend.Backend("cpu", threads=1, device=i) for i in range(count)])
                out = tmp_path / ("%s%d" % (verb, count))
                made = runner.run({"verb": verb, "options": dict(common, output=str(out), **own)})
            assert made["failed"] == [] and len(made["results"]) == 2
            files[count] = {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.suffix in (".mrc", ".star")}
        assert files[1] == files[2] and len(files[1]) > 5
