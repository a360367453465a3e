"""Write tomoexport/tests/data/derived.json: small values that stand in where the reference files are absent."""

import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tomoexport.tests.shared import DERIVED, pack, read_220728, shared  # noqa: E402

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
    "pose_zyz_rad",
    "position_and_defocus",
)


WINDOW = 68  # pixels of the tilt images about the first particle: the padded box and a margin


def windows(peer):
    """Windows of all tilt images about the first particle, where warpylib sees it, and their first pixels, yx."""
    place = peer["position_and_defocus"][0, :, 1::-1] / float(peer["pixel_size"])
    origin = np.rint(place).astype(int) - WINDOW // 2
    padded = np.pad(peer["images"].astype(np.float32), ((0, 0), (WINDOW, WINDOW), (WINDOW, WINDOW)))
    return np.stack([image[y:y + WINDOW, x:x + WINDOW] for image, (y, x) in zip(padded, origin + WINDOW)]), origin


def main():
    """Derive everything."""
    out = {}
    peer = np.load(shared("reference", "warpylib", "series.npz"))
    for name in PEER:
        out["warpylib_" + name] = np.round(peer[name].astype(float), 5).tolist()
    out["warpylib_ctf3d"] = np.round(peer["ctf3d"][:1].astype(float), 4).tolist()
    images, origin = windows(peer)
    out["warpylib_window"], out["warpylib_window_origin"] = pack(images, "uint8"), origin.tolist()
    for name in ("subvolume_noctf", "subvolume_ctf", "subvolume_ctf_prerotated"):
        out["warpylib_" + name] = pack(peer[name][:1], "uint16")
    for name in ("220728_TS_01", "220728_TS_03"):
        for key, values in read_220728(name).items():
            out["%s_%s" % (name, key)] = values[[0, len(values) // 2, -1]].tolist()
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
