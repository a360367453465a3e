"""Write tomoexport/tests/data/derived.json: small values that stand in where the reference files are absent."""

import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tomoexport.tests.shared import DERIVED, shared  # noqa: E402

PEER = (
    "pixel_size",
    "volume_size_angstrom",
    "tilt_angle_warp_deg",
    "tilt_axis_angle_deg",
    "axis_offset_angstrom",
    "dose",
    "defocus_um",
    "astigmatism_um",
    "astigmatism_angle_deg",
    "voltage_kv",
    "cs_mm",
    "amplitude_contrast",
    "points_angstrom",
    "position_and_defocus",
)


def main():
    """Derive everything."""
    out = {}
    peer = np.load(shared("reference", "warpylib", "series.npz"))
    for name in PEER:
        out["warpylib_" + name] = np.round(peer[name].astype(float), 5).tolist()
    out["warpylib_ctf3d"] = np.round(peer["ctf3d"][:1].astype(float), 4).tolist()
    truth = np.load(shared("reference", "relion5", "truth.npz"))
    for name in ("TS_01", "TS_02"):
        for key in ("pos", "R", "shift_A"):
            out["%s_%s" % (name, key)] = np.round(truth["%s_%s" % (name, key)], 9).tolist()
        folder = shared("reference", "relion5", "imod", name)
        for key in ("xf", "tlt", "xtilt"):
            out["%s_%s" % (name, key)] = np.loadtxt(folder / ("%s.%s" % (name, key))).tolist()
    DERIVED.parent.mkdir(exist_ok=True)
    DERIVED.write_text(json.dumps(out, separators=(",", ":")))


if __name__ == "__main__":
    main()
