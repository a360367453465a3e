"""Names of files."""
import os

import pytest

from tomoexport.io.paths import locate, relative_to, safe_stem, search_folders

ODD = ["TS 1", "ü", "a/b", "../x", "$(rm)", "-rf", "x" * 300, "", ".", "..", ".hidden", "TS\n1", "TS'1", "TS:1",
       "日本"]


@pytest.mark.parametrize("name", ["001", "TS_1", "Position_12-3", "20220728_TS.2"])
def test_plain_name_is_its_own_stem(name):
    assert safe_stem(name) == name


@pytest.mark.parametrize("name", ODD)
def test_F11_odd_name_gets_a_safe_stem(name, tmp_path):
    stem = safe_stem(name)
    assert stem != name
    assert 0 < len(stem) <= 111
    assert not set(stem) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    assert stem[0] not in ".-"
    (tmp_path / (stem + ".star")).write_text("")
    assert os.listdir(tmp_path) == [stem + ".star"]


def test_F11_stems_are_distinct():
    names = ODD + ["TS_1", "a_b", "a b", "u", "x" * 301, "_", "rf"]
    names += [safe_stem(name) for name in names if safe_stem(name) != name]
    assert len({safe_stem(name) for name in names}) == len(set(names))


def test_relative_to(tmp_path):
    assert relative_to(tmp_path / "a" / "b.mrc", tmp_path / "c") == "../a/b.mrc"


def test_files_are_found_beside_the_star_file_in_the_working_folder_and_above(tmp_path, monkeypatch):
    base, work, star = tmp_path / "base", tmp_path / "work", tmp_path / "project" / "job" / "a.star"
    for folder in (base, work, star.parent):
        folder.mkdir(parents=True)
    monkeypatch.chdir(work)
    folders = search_folders(star, base)
    assert folders[:4] == [str(base), str(star.parent), str(work), str(star.parent.parent)]
    places = [base, star.parent, work, star.parent.parent]
    for place in reversed(places):
        (place / "x.mrc").write_text("")
        assert locate("x.mrc", folders) == str(place / "x.mrc")
    assert locate("absent.mrc", folders) == str(base / "absent.mrc")
    assert locate("absent.mrc", search_folders(star)) == str(star.parent / "absent.mrc")
    assert locate(str(work / "x.mrc"), folders) == str(work / "x.mrc")
