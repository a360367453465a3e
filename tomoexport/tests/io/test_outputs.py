"""Sets of files that appear together, tables that go in time, and what dead processes left."""
import os
import signal
import subprocess
import sys
import time

import pytest

from tomoexport.errors import InputError
from tomoexport.io import atomic
from tomoexport.io.outputs import Outputs


def put(folder, *names, text="new"):
    for name in names:
        atomic.write_text(str(folder / name), text)


def found(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_a_set_of_files_appears_together_or_not_at_all(tmp_path):
    put(tmp_path, "a", "b", text="old")
    with atomic.together():
        put(tmp_path, "a")
        assert found(tmp_path)["a"] == "old"
        put(tmp_path, "b", "c")
    assert found(tmp_path) == dict.fromkeys("abc", "new")
    with pytest.raises(RuntimeError), atomic.together():
        put(tmp_path, "a", "d", text="newer")
        raise RuntimeError
    assert found(tmp_path) == dict.fromkeys("abc", "new")


def test_the_last_of_a_set_goes_first_and_comes_last(tmp_path, monkeypatch):
    """Whoever finds it finds the others of its run."""
    put(tmp_path, "first", "last", text="old")
    done = []
    for name in ("unlink", "replace"):
        real = getattr(os, name)

        def call(path, *more, real=real, name=name):
            done.append((name, os.path.basename(more[0] if more else path)))
            return real(path, *more)

        monkeypatch.setattr(os, name, call)
    with atomic.together():
        put(tmp_path, "first", "middle", "last")
    assert [one for one in done if ".tmp-" not in one[1]] == [
        ("unlink", "last"), ("unlink", "middle"), ("unlink", "first"),
        ("replace", "first"), ("replace", "middle"), ("replace", "last")]


def test_a_file_written_twice_is_the_later_one(tmp_path):
    with atomic.together():
        put(tmp_path, "a", text="one")
        put(tmp_path, "a", text="two")
    assert found(tmp_path) == {"a": "two"}


def test_tables_go_before_the_first_file_that_they_may_name_is_replaced(tmp_path):
    for name in ("one.star", "two.star"):
        with Outputs(str(tmp_path), "verb") as outputs, outputs.collecting():
            put(tmp_path, name)
    put(tmp_path, "volume", "mine.star", text="old")
    with Outputs(str(tmp_path), "verb"):
        put(tmp_path, "volume", text="not one that tables name")
        with atomic.staged(str(tmp_path / "other"), named=True) as temp, open(temp, "w") as handle:
            handle.write("nothing is replaced")
        assert (tmp_path / "one.star").exists() and (tmp_path / "two.star").exists()
        with pytest.raises(RuntimeError), atomic.staged(str(tmp_path / "volume"), named=True) as temp:
            raise RuntimeError
        assert (tmp_path / "one.star").exists()
        with atomic.staged(str(tmp_path / "volume"), named=True) as temp, open(temp, "w") as handle:
            handle.write("new")
        assert not (tmp_path / "one.star").exists() and not (tmp_path / "two.star").exists()
    assert (tmp_path / "mine.star").exists()


def test_tables_of_another_operation_stay(tmp_path):
    put(tmp_path, "volume")
    with Outputs(str(tmp_path), "one") as outputs, outputs.collecting():
        put(tmp_path, "one.star")
    with Outputs(str(tmp_path), "other"), atomic.staged(str(tmp_path / "volume"), named=True) as temp:
        with open(temp, "w") as handle:
            handle.write("new")
    assert (tmp_path / "one.star").exists()


def test_tables_that_may_not_appear(tmp_path):
    def changed():
        raise InputError("x", "it has changed")

    with pytest.raises(InputError), Outputs(str(tmp_path), "verb") as outputs, outputs.collecting(changed):
        put(tmp_path, "one.star")
    assert [p.name for p in tmp_path.iterdir()] == [".tomoexport"]


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_temporary_files_of_a_process_that_ended(tmp_path, end):
    """In folders below, too; those of others stay."""
    code = """if True:
        import os, sys, time
        from tomoexport.io import atomic
        from tomoexport.io.outputs import Outputs
        outputs = Outputs(sys.argv[1], "verb").__enter__()
        staged = atomic.staged(os.path.join(sys.argv[1], "deep", "er", "x.mrc"))
        open(staged.__enter__(), "w").write("half")
        print("there", flush=True)
        if sys.argv[2] == "exit":
            os._exit(1)
        time.sleep(60)
    """
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), end], stdout=subprocess.PIPE)
    assert child.stdout.readline().strip() == b"there"
    folder = tmp_path / "deep" / "er"
    (folder / ".y.mrc.tmp-99999-aaaaaaaa-bbbbbbbb").write_text("of somebody else")
    if end == "kill":
        with Outputs(str(tmp_path), "verb"):
            assert len(list(folder.iterdir())) == 2  # it lives
        child.send_signal(signal.SIGKILL)
    child.wait()
    with Outputs(str(tmp_path), "verb"):
        assert [p.name for p in folder.iterdir()] == [".y.mrc.tmp-99999-aaaaaaaa-bbbbbbbb"]
        assert not list((tmp_path / ".tomoexport").glob("temporary-*"))


def test_a_process_on_another_computer_is_given_time(tmp_path):
    """Where locks do not reach it, it may live: its files must have been still for a while."""
    put(tmp_path / "deep", ".x.mrc.tmp-77-abcdefgh-12345678")
    own = tmp_path / ".tomoexport"
    put(own, "temporary-77-abcdefgh-1-elsewhere-9.txt", text="deep\n")
    with Outputs(str(tmp_path), "verb"):
        assert len(list((tmp_path / "deep").iterdir())) == 1
    long_ago = time.time() - 3600
    for path in [*(tmp_path / "deep").iterdir(), own / "temporary-77-abcdefgh-1-elsewhere-9.txt"]:
        os.utime(str(path), (long_ago, long_ago))
    with Outputs(str(tmp_path), "verb"):
        assert not list((tmp_path / "deep").iterdir()) and not list(own.glob("temporary-*"))


@pytest.mark.parametrize("text", ["../precious\n", "/\n", "\x00\n", "x" * 100000])
def test_a_journal_that_names_anything(tmp_path, text):
    """Only temporary files of that process go, wherever it points."""
    out = tmp_path / "out"
    put(tmp_path / "precious", "kept")
    put(out / ".tomoexport", "temporary-77-abcdefgh-1-%s.txt" % os.uname().nodename, text=text)
    with Outputs(str(out), "verb"):
        pass
    assert (tmp_path / "precious" / "kept").read_text() == "new"
