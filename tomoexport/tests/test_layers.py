"""Imports between the rooms point one way, and only the Scipion rooms know Scipion."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1]
SCIPION = {"pyworkflow", "pwem", "tomo", "pyworkflowtests", "relion", "reliontomo"}

#: What each room may import of the package; `options` and `errors` are open to all.
ALLOWED = {
    "engine": set(), "io": {"engine"}, "jobs": {"engine", "io"}, "cli": {"io", "jobs", "lasting", "stopping"},
    "__main__": {"cli"}, "lasting": set(), "stopping": set(),
    "api": {"engine", "io", "jobs"},
    "convert": {"engine", "io", "jobs"}, "protocols": {"engine", "io", "jobs", "convert", "plugin"},
    "viewers": {"io", "jobs", "convert", "protocols"}, "wizards": {"io", "convert", "protocols", "jobs"},
    "plugin": set(), "__init__": {"plugin"}, "options": set(), "errors": set(), "bibtex": set(),
}
OPEN = {"options", "errors", ""}
KNOWS_SCIPION = {"plugin", "wizards", "convert", "protocols", "viewers"}


def files():
    return [p for p in sorted(PACKAGE.rglob("*.py")) if "tests" not in p.relative_to(PACKAGE).parts]


def room(path):
    first = path.relative_to(PACKAGE).parts[0]
    return first[:-3] if first.endswith(".py") else first


def imports(path):
    """Rooms and top-level packages that a file imports, wherever in it."""
    depth = len(path.relative_to(PACKAGE).parts)  # 1: in the package itself
    inside, outside = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            names = (node.module or "").split(".") if node.module else []
            if node.level == depth:  # reaches the package
                inside |= {names[0]} if names else {a.name for a in node.names if not a.name.startswith("__version")}
            elif node.level > depth:
                raise AssertionError("%s reaches beyond the package" % path)
        elif isinstance(node, ast.ImportFrom):
            parts = node.module.split(".")
            (inside if parts[0] == "tomoexport" else outside).add(parts[min(1, len(parts) - 1)]
                                                                  if parts[0] == "tomoexport" else parts[0])
        elif isinstance(node, ast.Import):
            outside |= {a.name.split(".")[0] for a in node.names}
    return inside, outside


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    inside, outside = imports(path)
    mine = room(path)
    wrong = inside - ALLOWED[mine] - OPEN - {mine}
    assert not wrong, "%s must not import %s" % (mine, ", ".join(sorted(wrong)))
    if mine not in KNOWS_SCIPION:
        assert not outside & SCIPION, "only %s may import Scipion" % ", ".join(sorted(KNOWS_SCIPION))


@pytest.mark.parametrize("path", [p for p in files() if room(p) == "engine"], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_engine_touches_no_files(path):
    names = {n.func.id for n in ast.walk(ast.parse(path.read_text()))
             if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert "open" not in names
