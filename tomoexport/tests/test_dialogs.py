"""docs/dialogs.md names options that exist and tests that exist."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

from tomoexport.options import VERBS, flag

PAGE = Path(__file__).parents[2] / "docs" / "dialogs.md"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the package is installed without its documents")


def rows():
    """Field, options and test of every line of the tables."""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 3 and cells[0] != "field" and not set(cells[0]) <= {"-"}:
            yield cells[0], re.findall(r"`(--[a-z0-9-]+)`", cells[1]), cells[2].strip("`")


def test_every_option_exists():
    known = {flag(spec.name) for options in VERBS.values() for spec in fields(options)}
    named = [(field, option) for field, options, _ in rows() for option in options]
    assert len(named) > 40 and [pair for pair in named if pair[1] not in known] == []


def test_every_test_exists():
    missing, found = [], 0
    for field, _, test in rows():
        path, _, name = test.partition("::")
        file = Path(__file__).parent / path
        names = {node.name for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
                 if isinstance(node, ast.FunctionDef)} if file.exists() else ()
        found += name in names
        if name not in names:
            missing.append((field, test))
    assert found > 45 and missing == []


def test_the_options_of_the_dialogs_verbs_are_all_named():
    """No option of these verbs that changes what is written is left out, but for what the dialogs do not have."""
    others = {"tomograms", "output", "device", "threads", "memory", "bad_pixels", "hand", "method", "iterations", "ctf",
              "dose_weighting", "min_tilts", "centre", "allow_loss", "interpolation", "exact", "format", "species",
              "tomogram_size", "volume_size", "xml_size"}
    named = {option for _, options, _ in rows() for option in options}
    verbs = ("reconstruct", "subtomo", "series", "intersect", "pseudosubtomo", "particle")
    missing = {flag(spec.name) for verb in verbs
               for spec in fields(VERBS[verb]) if spec.name not in others} - named
    assert missing == set()
