"""The record of what is done, and the lock of a folder."""
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tomoexport.errors import InputError
from tomoexport.io.lock import lock
from tomoexport.io.manifest import Manifest, fingerprint


def test_fingerprint_depends_on_values_and_files(tmp_path):
    path = tmp_path / "a.mrc"
    path.write_text("one")
    base = fingerprint({"b": 1, "a": [1.5, None]}, path)
    assert base == fingerprint({"a": (1.5, None), "b": 1}, path)
    assert base != fingerprint({"a": [1.5, None], "b": 2}, path)
    path.write_text("three")
    assert base != fingerprint({"b": 1, "a": [1.5, None]}, path)


def test_fingerprint_of_a_moved_file_stays(tmp_path):
    path = tmp_path / "a.mrc"
    path.write_text("one")
    before = fingerprint([{"file": path}])
    (tmp_path / "b").mkdir()
    assert fingerprint([{"file": path.rename(tmp_path / "b" / "a.mrc")}]) == before


@pytest.mark.parametrize("unit", ["TS_01", "../TS 1"])
def test_unit_is_done_while_its_outputs_are_whole(tmp_path, unit):
    output = tmp_path / "out" / "x.mrc"
    output.parent.mkdir()
    output.write_text("data")
    manifest = Manifest(tmp_path / "out")
    assert not manifest.done(unit, "f")
    manifest.record(unit, "f", [str(output)])
    assert manifest.done(unit, "f") and not manifest.done(unit, "other") and not manifest.done("TS_02", "f")
    assert Path(manifest.path(unit)).parent == tmp_path / "out" / ".tomoexport"
    os.rename(tmp_path / "out", tmp_path / "moved")
    moved = Manifest(tmp_path / "moved")
    assert moved.done(unit, "f")
    (tmp_path / "moved" / "x.mrc").write_text("dat")
    assert not moved.done(unit, "f")
    os.remove(tmp_path / "moved" / "x.mrc")
    assert not moved.done(unit, "f")


def test_damaged_record_is_no_record(tmp_path):
    manifest = Manifest(tmp_path)
    manifest.record("TS_01", "f", [])
    for text in ("", "{", "{}", '"x"'):
        Path(manifest.path("TS_01")).write_text(text)
        assert not manifest.done("TS_01", "f")


def test_threads_record_and_lock_at_once(tmp_path):
    manifest, start = Manifest(tmp_path / "out"), threading.Barrier(8)
    (tmp_path / "out").mkdir()

    def act(i):
        start.wait(10)
        held = 0
        for n in range(20):
            unit = "TS_%d" % (n % 3)
            try:
                with lock(tmp_path / "out", unit):
                    assert unit not in inside
                    inside.add(unit)
                    manifest.record(unit, "f%d" % i, [])
                    assert manifest.done(unit, "f%d" % i)
                    inside.remove(unit)
                    held += 1
            except InputError as error:
                assert "in use by" in str(error)
            manifest.record("own %d" % i, "f", [])
            assert manifest.done("own %d" % i, "f")
        return held
    inside = set()
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(act, range(8))) > 0
    assert not [name for name in os.listdir(tmp_path / "out" / ".tomoexport") if ".tmp-" in name]


def test_lock_names_who_holds_it(tmp_path):
    with lock(tmp_path):
        with pytest.raises(InputError, match=r"in use by \S+:%d since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d" % os.getpid()):
            with lock(tmp_path):
                pass
        with lock(tmp_path, "TS_01"), lock(tmp_path, "TS_02"):
            with pytest.raises(InputError), lock(tmp_path, "TS_01"):
                pass
    with lock(tmp_path):
        pass


def test_lock_of_a_killed_run_is_taken_over(tmp_path):
    code = "import sys; from tomoexport.io.lock import lock\nwith lock(sys.argv[1]): print(1, flush=True); input()"
    root = str(Path(__file__).resolve().parents[3])
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             cwd=root)
    try:
        assert other.stdout.readline() == b"1\n"
        with pytest.raises(InputError, match=r":%d since" % other.pid), lock(tmp_path):
            pass
    finally:
        other.kill()
        other.communicate()
    with lock(tmp_path):
        pass
