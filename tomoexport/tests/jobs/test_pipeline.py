"""Computing and writing at the same time: order, bounds, and what happens when one of them fails."""

import itertools
import os
import signal
import threading
import time

import numpy as np
import pytest

from tomoexport.engine.copies import Fetched
from tomoexport.io import mrc
from tomoexport.jobs import runner, subtomo
from tomoexport.jobs.pipeline import Pipeline
from tomoexport.jobs.progress import Progress

SOON = 20.0  # seconds, after which something hangs


class Case:
    """Batches of numbers that are computed and written, with a count of everything."""

    def __init__(self, writers=2, ahead=3, write=None, **options):
        self.written, self.computed, self.under_way, self.most, self.released = [], [], 0, 0, 0
        self._lock = threading.Lock()
        self._action = write
        self.pipeline = Pipeline(self.write, writers, ahead, **options)

    def write(self, item, value):
        if self._action:
            self._action(item)
        assert value == 10 * item, "another item's array"
        with self._lock:
            self.written.append(item)

    def compute(self, batch):
        with self._lock:
            self.computed.append(batch)
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        self.pipeline.deliver(batch, Fetched([10 * np.array(batch)], give_back=self.back))

    def back(self):
        with self._lock:
            self.under_way -= 1
            self.released += 1

    def run(self, batches, workers=1):
        thread = threading.current_thread()
        self.pipeline.run(batches, self.compute, workers)
        assert threading.current_thread() is thread


def interrupt():
    """What Ctrl-C does."""
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def wait_until(condition):
    """Wait for what another thread does; a pause of a fixed length would be too short on a busy machine."""
    late = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < late, "nothing happens"
        time.sleep(0.001)


def pairs(count):
    return [(2 * n, 2 * n + 1) for n in range(count)]


@pytest.mark.parametrize("workers", [1, 3])
def test_every_item_is_written_once_and_little_is_under_way(workers):
    case = Case(ahead=3, write=lambda item: wait_until(lambda: case.most >= 3))
    case.run(pairs(40), workers)
    assert sorted(case.written) == list(range(80))
    assert case.released == len(case.computed) == 40
    # Beside what is delivered, every thread may hold one that waits for room.
    assert 3 <= case.most <= 3 + workers


@pytest.mark.parametrize("workers", [1, 2])
def test_computing_goes_on_while_a_writer_is_busy(workers):
    third = threading.Event()
    case = Case(writers=1, ahead=4, write=lambda item: third.wait(SOON) or pytest.fail("computing waited"))

    def batches():
        yield from pairs(2)
        third.set()
        yield from pairs(4)[2:]

    case.run(batches(), workers)
    assert len(case.written) == 8


def test_writers_work_at_the_same_time():
    together = threading.Barrier(3)
    Case(writers=3, write=lambda item: together.wait(SOON)).run([(0, 1, 2)])


def test_threads_are_activated():
    active = set()

    def write(item):
        assert threading.get_ident() in active

    case = Case(write=write, activate=lambda: active.add(threading.get_ident()))
    compute, case.compute = case.compute, lambda batch: write(0) or compute(batch)
    case.run(pairs(3), 2)
    assert len(case.written) == 6


@pytest.mark.parametrize("workers", [1, 3])
def test_F27_a_writer_that_fails_stops_the_computation(workers):
    full = OSError(28, "No space left on device")

    def write(item):
        # Counted, for an item's turn depends on the threads.
        if len(case.written) == 20:
            raise full

    case = Case(writers=1, write=write)
    with pytest.raises(OSError) as caught:
        case.run(((2 * n, 2 * n + 1) for n in itertools.count()), workers)
    assert caught.value is full
    assert len(case.written) == 20, "what waits is dropped"
    assert workers > 1 or case.written == list(range(20))
    # Ten are released at most, three under way; each worker waits to deliver one, or has begun one, or may begin one.
    assert len(case.computed) <= 10 + 3 + 2 * workers
    assert case.under_way == 0, "buffers are kept"


@pytest.mark.parametrize("workers", [1, 3])
def test_a_computation_that_fails_lets_the_writers_finish(workers):
    failed = threading.Event()
    case = Case(ahead=9, write=lambda item: failed.wait(SOON))

    def batches():
        yield from pairs(4)
        failed.set()
        raise ValueError("computing")

    with pytest.raises(ValueError, match="computing"):
        case.run(batches(), workers)
    assert sorted(case.written) == list(range(8)) and case.under_way == 0


def test_F27_a_batch_in_many_parts_is_stopped_too():
    case = Case(write=lambda item: 1 / 0)

    def compute(batch):
        while True:
            case.pipeline.deliver([0], Fetched([np.zeros(1)]))

    with pytest.raises(ZeroDivisionError):
        case.pipeline.run([0], compute)


def test_the_first_error_counts():
    def write(item):
        wait_until(lambda: case.pipeline._error is not None)
        raise OSError("later")

    case = Case(write=write)

    def batches():
        yield 0, 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        case.run(batches())


@pytest.mark.parametrize("workers", [1, 2])
def test_F29_an_interrupt_drops_what_waits(workers):
    def write(item):
        if item == 0:
            interrupt()
            wait_until(lambda: case.pipeline._drop)  # while the others wait

    case = Case(writers=1, ahead=5, write=write)

    def batches():
        for batch in range(0, 400, 2):
            yield batch, batch + 1
            if batch >= 6:
                time.sleep(0.05)

    with pytest.raises(KeyboardInterrupt):
        case.run(batches(), workers)
    assert case.written == [0]
    assert case.under_way == 0 or workers == 1  # when it is the computing thread that was interrupted


@pytest.mark.parametrize("workers", [1, 2])
def test_a_device_that_cannot_be_activated_does_not_hang(workers):
    def activate():
        raise RuntimeError("no such device")

    with pytest.raises(RuntimeError, match="no such device"):
        Case(activate=activate).run(pairs(50), workers)


# ------------------------------------------------------------------------------------------------- the export itself

@pytest.fixture
def job(tmp_path, simulated):
    data = tmp_path / "data"
    simulated("tiny", into=data, particles=12)
    return {"verb": "subtomo", "collect": False, "options": {
        "tomograms": str(data / "tomograms.star"), "particles": str(data / "particles.star"), "pixel_size": 8.0,
        "box": 16, "diameter": 100.0, "device": "cpu", "threads": 2, "output": str(tmp_path / "out")}}


def files(job):
    return [os.path.join(folder, name) for folder, _, names in os.walk(job["options"]["output"]) for name in names]


@pytest.mark.parametrize("interpolation", ["kaiser-bessel", "trilinear"])
def test_progress_counts_pairs_that_are_on_disk(job, monkeypatch, interpolation):
    counted = []

    def count(self, n=1):
        if self.unit == "particles":
            stem = job["options"]["output"] + "/subtomo/" + self.label
            counted.append(self.label)
            count = counted.count(self.label)  # before others come
            names = [name for name in os.listdir(stem) if not name.startswith(".")]
            assert sum("_ctf_" in name for name in names) >= count
            assert sum("_ctf_" not in name for name in names) >= count

    monkeypatch.setattr(Progress, "__call__", count)
    job["options"]["interpolation"] = interpolation
    results = runner.run(job)["results"]
    assert len(counted) == sum(p["kept"] for r in results for p in r["particles"]) > 8


@pytest.mark.parametrize("threads", [1, 2])
def test_F29_an_interrupt_leaves_no_temporary_files(job, monkeypatch, threads):
    real, calls = mrc.write, []

    def write(*arguments, **options):
        calls.append(arguments[0])
        if len(calls) == 4:
            interrupt()
        if len(calls) >= 4:
            time.sleep(0.5)  # longer than the main thread takes to notice
        real(*arguments, **options)

    monkeypatch.setattr(mrc, "write", write)
    job["options"]["threads"] = threads
    with pytest.raises(KeyboardInterrupt):
        runner.run(job)
    time.sleep(0.2)  # nobody writes any more
    before = files(job)
    assert before and not [name for name in before if ".tmp-" in name or name.endswith("results/TS_01.json")]
    for name in before:
        if name.endswith(".mrc"):
            mrc.read_volume(name)
    monkeypatch.undo()
    assert {r["status"] for r in runner.run(job)["results"]} == {"done"}


def test_F27_an_error_of_a_writer_is_that_of_the_series(job, monkeypatch):
    real, calls = mrc.write, []

    def write(path, *arguments, **options):
        if "TS_01" in path:
            calls.append(path)
            if len(calls) > 2:
                raise OSError(28, "No space left on device", path)
        real(path, *arguments, **options)

    monkeypatch.setattr(mrc, "write", write)
    computed, compute = [], subtomo.reconstruct_subtomos
    monkeypatch.setattr(subtomo, "reconstruct_subtomos", lambda *a: computed.append(1) or compute(*a))
    first, second = runner.run(job)["results"]
    assert first["status"] == "failed" and first["error"].count("No space left") == 1
    assert second["status"] == "done" and not [name for name in files(job) if ".tmp-" in name]
