"""A file is there whole, or the old one is."""
import json
import os

import pytest

from tomoexport.io.atomic import staged, write_json, write_text


def test_staged_file_appears_when_complete(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with staged(path) as temp:
        assert os.path.dirname(temp) == str(path.parent)
        with open(temp, "w") as handle:
            handle.write("text")
        assert not path.exists()
    assert path.read_text() == "text"
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_error_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), staged(path) as temp:
        with open(temp, "w") as handle:
            handle.write("half of the n")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_failing_sync_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_name_as_long_as_the_file_system_takes(tmp_path):
    path = tmp_path / ("x" * 250)
    write_text(path, "text")
    assert path.read_text() == "text"


def test_json_is_the_same_for_the_same_object(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None]})
    write_json(tmp_path / "b.json", {"a": [1.5, None], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1.5, None], "b": 1}
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", float("nan"))
