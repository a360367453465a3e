"""docs/reliability.md names tests that exist, for every promise and every failure of the list."""
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parents[1] / "docs" / "reliability.md"


def test_every_test_that_is_named_exists():
    named = re.findall(r"`((?:\w+/)*test_\w+\.py)(?:::(\w+))?`", PAGE.read_text())
    assert len(named) > 50
    for file, test in named:
        text = (TESTS / file).read_text()
        assert not test or re.search(r"^\s*def %s\(" % test, text, re.M), "%s::%s" % (file, test)


def test_every_failure_is_in_the_list_once():
    assert re.findall(r"^\| (F\d\d) \|", PAGE.read_text(), re.M) == ["F%02d" % n for n in range(1, 44)]


def test_numbers_of_the_list_are_those_of_the_tests():
    for number, test in re.findall(r"^\| (F\d\d) \|.*::test_(F\d\d)?", PAGE.read_text(), re.M):
        assert test in ("", number), number


def test_no_table_was_forgotten():
    assert not re.search(r"^[A-Z]+_TABLE$", PAGE.read_text(), re.M)
