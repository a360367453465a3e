"""The recipes of docs/extending.md, followed on a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "extending.md"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PAGE.exists(), reason="docs/ is not beside the package")]


def recipes():
    """By number: the blocks of a recipe, each the file that it is about, its kind and its text."""
    found = {}
    for part in re.split(r"^## (?=\d\.)", PAGE.read_text(encoding="utf-8"), flags=re.M)[1:]:
        blocks, path = [], None
        for named, kind, text in re.findall(r"^`(tomoexport/[\w/.]+)`|^```(diff|python)\n(.*?)^```", part, re.M | re.S):
            path = named or path
            if kind:
                blocks.append((path, kind, text))
        found[int(part[0])] = blocks
    return found


def follow(root, blocks):
    """Do what a recipe says; returns the tests that it adds."""
    tests = []
    for path, kind, text in blocks:
        file = root / path
        if kind == "python":
            file.write_text(text)
        else:
            lines = text.splitlines(keepends=True)
            before = "".join(line[1:] for line in lines if line[0] in " -")
            whole = file.read_text()
            assert whole.count(before) == 1, "%s has not once:\n%s" % (path, before)
            file.write_text(whole.replace(before, "".join(line[1:] for line in lines if line[0] in " +")))
        if "/test_" in path:
            tests.append(path)
    return tests


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the package with all five, and their tests."""
    root = tmp_path_factory.mktemp("stranger")
    shutil.copytree(str(ROOT / "tomoexport"), str(root / "tomoexport"), ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "docs", "setup.py", "README.md"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(str(ROOT / name), str(root / name))
    tests = {number: follow(root, blocks) for number, blocks in recipes().items()}
    assert sorted(tests) == [1, 2, 3, 4, 5] and all(tests.values())
    return root, tests


def run(root, *words):
    """Run Python on the copy; returns all that it says."""
    environment = dict(os.environ, PYTHONPATH=str(root), PYTHONDONTWRITEBYTECODE="1")
    done = subprocess.run([sys.executable, *words], cwd=str(root), env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def test_the_tests_of_the_recipes_pass(extended):
    root, tests = extended
    assert str(root) in run(root, "-c", "import tomoexport; print(tomoexport.__file__)")
    said = run(root, "-m", "pytest", "-q", "-p", "no:cacheprovider", *[path for number in (1, 2, 3, 4)
                                                                       for path in tests[number]])
    assert re.search(r"\b4 passed", said), said
    said = run(root, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "suppress or every_kernel", *tests[5])
    assert re.search(r"\b[4-9] passed", said), said


def test_what_holds_for_every_part_holds_for_the_new_ones(extended):
    root, _ = extended
    said = run(root, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tomoexport/tests/test_layers.py",
               "tomoexport/tests/test_api.py", "tomoexport/tests/test_options.py", "-k", "not examples")
    assert "passed" in said and "failed" not in said


def test_the_option_is_in_the_help_and_in_the_form(extended):
    root, _ = extended
    assert "--label" in run(root, "-m", "tomoexport", "reconstruct", "--help")
    assert "count" in run(root, "-m", "tomoexport", "--help")
    try:
        import pwem  # noqa: F401
    except ImportError:
        return  # forms are Scipion's
    said = run(root, "-c", "import pyworkflow; from tomoexport.protocols import ProtTomoExportReconstruct as P;"
               "p = P(); print(p.getParam('label').getLabel())")
    assert "Label" in said
