"""Where the reference values of other programs are, and what stands in for them where they are not."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from tomoexport.io import star

ROOT = Path(__file__).resolve().parents[2]
DERIVED = Path(__file__).with_name("data") / "derived.json"
RELION = Path(__file__).with_name("data") / "relion5.json"


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
    return {k: unpack(v) if isinstance(v, dict) else np.array(v) if isinstance(v, list) else v
            for k, v in values.items()}


def pack(array, dtype):
    """An array as text: rounded to the steps of an unsigned integer type, in base 85."""
    low, high = float(array.min()), float(array.max())
    step = (high - low) / np.iinfo(dtype).max
    whole = np.rint((np.asarray(array, np.float64) - low) / step).astype(dtype)
    return {"dtype": dtype, "shape": array.shape, "low": low, "step": step,
            "base85": base64.b85encode(whole.tobytes()).decode()}


def unpack(packed):
    """The float32 array that `pack` was given, to half a step."""
    whole = np.frombuffer(base64.b85decode(packed["base85"]), packed["dtype"]).reshape(packed["shape"])
    return (packed["low"] + packed["step"] * whole).astype(np.float32)


MATRIX_COLUMNS = ("XTilt", "YTilt", "ZRot", "XShiftAngst", "YShiftAngst")


def read_220728(name):
    """Projection matrices `(T, 4, 4)` and `MATRIX_COLUMNS` of a real tilt series, or None if the file is not there."""
    path = shared("data", "relion5", "import_220728", "tilt_series", name + ".star")
    if path is None:
        return None
    table = star.read(path).table(name)
    rows = [i for i, text in enumerate(table.text("rlnTomoProjX")) if text.startswith("[")]
    row = lambda text: [float(v) for v in text.strip("[]").split(",")]  # noqa: E731
    out = {c: np.array([float(table.text("rlnTomo" + c)[i]) for i in rows]) for c in MATRIX_COLUMNS}
    out["matrix"] = np.array([[row(table.text("rlnTomoProj" + c)[i]) for c in "XYZW"] for i in rows])
    return out
