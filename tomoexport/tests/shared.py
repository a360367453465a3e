"""Where the reference values of other programs are, and what stands in for them where they are not."""

import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
DERIVED = Path(__file__).with_name("data") / "derived.json"


def shared(*parts):
    """Path in the folder `shared` beside the project, or None if it is not there."""
    path = ROOT.parent.joinpath("shared", *parts)
    return path if path.exists() else None


def need_shared(*parts):
    """The same; skips the test where the folder is absent."""
    path = shared(*parts)
    if path is None:
        pytest.skip("the reference files %s are not beside this checkout" % "/".join(("shared",) + parts))
    return path


def derived():
    """Small values derived from the reference files by `tools/derive_golden.py`, as a dict of arrays and numbers."""
    values = json.loads(DERIVED.read_text())
    return {k: np.array(v) if isinstance(v, list) else v for k, v in values.items()}
