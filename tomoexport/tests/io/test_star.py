"""STAR files: what goes in comes out, and what is wrong is named with file and line."""
import time
import tracemalloc

import numpy as np
import pytest

from tomoexport.errors import InputError
from tomoexport.io import star
from tomoexport.io.star import Table

TRICKY = ["001", "nan", "", "a b", "it's", "O'Brien's", '"', "#1", "a#1.mrc", "_x", "data_", "data_x.mrc", "loop_",
          "tab\there", "[1,0,1]", "'q'", "ü", "$x", "1e-7", "x\u00a0y", " lead", "a' b", 'a" b', "stop_", "\\n", "a;b"]


@pytest.mark.parametrize("is_list", [False, True])
def test_tricky_values_round_trip(tmp_path, is_list):
    path = str(tmp_path / "a.star")
    if is_list:
        tables = [Table.from_columns("n%d" % i, {"rlnA": [value], "rlnB": ["x"]}, True)
                  for i, value in enumerate(TRICKY)]
    else:
        tables = [Table.from_columns("one", {"rlnOnly": TRICKY}),
                  Table.from_columns("two", {"rlnA": TRICKY, "rlnB": TRICKY[::-1]})]
    star.write(path, tables, comment="first\nsecond")
    back = star.read(path)
    assert back.blocks == [table.name for table in tables]
    for table in tables:
        other = back.table(table.name)
        assert (other.columns, other.rows, other.is_list) == (table.columns, table.rows, is_list)
    copy = str(tmp_path / "b.star")
    star.write(copy, list(back), comment="first\nsecond")
    with open(path, "rb") as one, open(copy, "rb") as two:
        assert one.read() == two.read()


def test_numbers_are_exact(tmp_path):
    path = str(tmp_path / "a.star")
    values = np.array([1.0, 1e-7, 0.1 + 0.2, -1e22, 123456789.123456789, np.pi])
    star.write(path, [Table.from_columns("", {
        "rlnF": values, "rlnI": np.arange(6), "rlnB": values > 0.5, "rlnS": np.float32([0.1] * 6)})])
    table = star.read(path).table("")
    np.testing.assert_array_equal(table.float("rlnF"), values)
    np.testing.assert_array_equal(table.float("rlnS"), np.float32([0.1] * 6))
    assert table.int("rlnI").tolist() == list(range(6))
    assert table.bool("rlnB").tolist() == (values > 0.5).tolist()
    assert table.text("rlnF")[:2] == ["1.0", "1e-07"]
    assert table.text("rlnI")[1] == "1" and table.text("rlnB")[0] == "1"


def test_value_that_no_star_file_can_hold(tmp_path):
    for value in ("two\nlines", "a\" b' c"):
        with pytest.raises(InputError, match="cannot hold"):
            star.write(tmp_path / "a.star", [Table.from_columns("", {"rlnA": [value]})])
    with pytest.raises(InputError, match="holds a space"):
        star.write(tmp_path / "a.star", [Table.from_columns("TS 1", {"rlnA": [1]})])
    assert not (tmp_path / "a.star").exists()


def test_empty_tables(tmp_path):
    star.write(tmp_path / "a.star", [Table.from_columns("a", {"rlnA": []}), Table.from_columns("b", {"rlnB": [1]})])
    back = star.read(tmp_path / "a.star")
    assert back.blocks == ["a", "b"] and back.table("a").columns == ["rlnA"] and len(back.table("a")) == 0
    assert back.table("a").float("rlnA").shape == (0,)


LOOP = "data_\n\nloop_\n_rlnA #1\n_rlnB #2\n1 x\n2 y\n"


@pytest.mark.parametrize("text", [
    LOOP,
    LOOP.replace("\n", "\r\n"),
    LOOP.rstrip("\n"),
    "\ufeff" + LOOP,
    LOOP.replace("loop_", "loop_   "),
    LOOP.replace("loop_", "LOOP_"),
    LOOP.replace("#1", "").replace("#2", "# text"),
    "# version 30001\n\n" + LOOP.replace("loop_", "# version\n\nloop_\n# again"),
    LOOP.replace("2 y", "\n# comment\n   2\ty  "),
    LOOP.replace("1 x", "'1' \"x\""),
    LOOP.replace("2 y", "2 y # comment"),
    LOOP.replace("data_", "data_   # comment"),
], ids=["plain", "crlf", "no last line end", "BOM", "blanks after loop_", "LOOP_", "no numbers", "comments",
        "blank line inside", "quotes", "comment in row", "comment at block"])
def test_F25_dialects(star_file, text):
    table = star.read(star_file(text)).table("")
    assert table.columns == ["rlnA", "rlnB"]
    assert table.rows == [["1", "x"], ["2", "y"]]


@pytest.mark.parametrize("text, line, cause", [
    (LOOP.replace("_rlnB", "_rlnA"), 5, "column rlnA occurs twice"),
    (LOOP.replace("2 y", "2"), 7, "1 values for 2 columns"),
    (LOOP.replace("2 y", "2 y z"), 7, "3 values for 2 columns"),
    (LOOP.replace("2 y", "'2 y'"), 7, "1 values for 2 columns"),
    (LOOP + "\n" + LOOP, 9, "block data_ occurs again; it is in line 1"),
    (LOOP + "loop_\n", 8, "1 values for 2 columns"),
    (LOOP.replace("_rlnA #1\n", "_rlnA #1\nloop_\n"), 5, "second loop_"),
    (LOOP.replace("_rlnA", "_rln.A"), 4, "is no column label"),
    ("data_a\n_rlnA\n", 2, "rlnA has 0 values, expected 1"),
    ("data_a\n_rlnA 1 2\n", 2, "rlnA has 2 values, expected 1"),
    ("data_a\n_rlnA 1\n3\n", 3, "belongs to no table"),
    ("data_a\n1 2\n", 2, "belongs to no table"),
    ("hello\n" + LOOP, 1, "'hello' belongs to no table"),
], ids=["duplicate column", "short row", "long row", "quoted row", "duplicate block", "loop_ in rows", "two loops",
        "label", "no value", "two values", "row in list", "row without loop", "text"])
def test_F25_errors_name_the_line(star_file, text, line, cause):
    path = star_file(text)
    with pytest.raises(InputError) as error:
        star.read(path)
    assert str(error.value).startswith("%s:%d: " % (path, line))
    assert cause in str(error.value)
    assert error.value.remedy


@pytest.mark.parametrize("content, cause", [
    (b"", "no data_ block"), (b"# only a comment\n", "no data_ block"), (b"a\0b", "binary")])
def test_F25_no_star_file(star_file, content, cause):
    with pytest.raises(InputError, match=cause):
        star.read(star_file(content))


def test_F25_missing_file_block_and_column(star_file, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        star.read(tmp_path / "absent.star")
    file = star.read(star_file(LOOP + "\ndata_other\n_rlnX 1\n"))
    assert file.find("absent", "other").name == "other" and file.find("absent") is None
    with pytest.raises(InputError, match="no block data_absent. The blocks are: data_, data_other"):
        file.table("absent")
    with pytest.raises(InputError, match="no column rlnC. The columns are: rlnA, rlnB"):
        file.table("").float("rlnC")
    assert file.table("").float("rlnC", 2.5).tolist() == [2.5, 2.5]
    assert file.table("").text("rlnC", "x") == ["x", "x"]


@pytest.mark.parametrize("value", ["abc", "1_000", "1,5", "--"])
def test_F25_garbage_is_named_with_line_and_column(star_file, value):
    path = star_file(LOOP.replace("2 y", "\n\n%s y" % value))
    table = star.read(path).table("")
    for read in (table.float, table.int, table.bool):
        with pytest.raises(InputError, match="file.star:9: rlnA is '%s', not " % value):
            read("rlnA")
    for chosen in (table.select([1]), table.extended(["rlnC"], [["p"], ["q"]])):
        with pytest.raises(InputError, match="file.star:9: "):
            chosen.float("rlnA")


def test_values_of_the_wrong_kind(star_file):
    table = star.read(star_file(LOOP.replace("1 x", "1.000 x").replace("2 y", "2.5 y"))).table("")
    with pytest.raises(InputError, match="file.star:7: rlnA is '2.5', not an integer"):
        table.int("rlnA")
    assert table.select([0]).int("rlnA").tolist() == [1]
    nothing = star.read(star_file(LOOP.replace("1 x", '"" x').replace("2 y", "<NA> y"))).table("")
    assert np.isnan(nothing.float("rlnA")).all()
    with pytest.raises(InputError, match="not an integer"):
        nothing.int("rlnA")


def test_names_in_other_encodings_survive(star_file, tmp_path):
    table = star.read(star_file(LOOP.replace("x", "ü"), encoding="latin-1")).table("")
    star.write(tmp_path / "b.star", [table])
    assert b"\xfc" in (tmp_path / "b.star").read_bytes()


def test_F25_long_file_is_read_in_bounded_time_and_memory(tmp_path):
    n = 100_000
    path = tmp_path / "a.star"
    with open(path, "w") as handle:
        handle.write("data_particles\n\nloop_\n" + "".join("_rlnC%d #%d\n" % (i, i + 1) for i in range(5)))
        handle.writelines("TS_01 %d %d.5 0.25 'x y'\n" % (i, i) if i % 1000 == 0 else
                          "TS_01 %d %d.5 0.25 xy\n" % (i, i) for i in range(n))
    tracemalloc.start()
    start = time.process_time()
    table = star.read(path).table("particles")
    seconds = time.process_time() - start
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table) == n and table.rows[5000][4] == "x y" and table.float("rlnC2")[-1] == n - 0.5
    assert seconds < 60 and peak < 25 * path.stat().st_size + 100e6


@pytest.mark.shared
def test_real_files_round_trip(shared, tmp_path):
    paths = sorted(shared.rglob("*.star"))
    assert len(paths) > 30
    for path in paths:
        file = star.read(path)
        star.write(tmp_path / "copy.star", list(file))
        copy = star.read(tmp_path / "copy.star")
        assert copy.blocks == file.blocks
        for one, two in zip(file, copy):
            assert (one.columns, one.rows, one.is_list) == (two.columns, two.rows, two.is_list), path
