"""Write tomoexport/tests/data/*.json: small values that stand in where the reference files are absent."""

import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tomoexport.io import mrc, relion5, star  # noqa: E402
from tomoexport.tests.shared import DERIVED, RELION, pack, read_220728, shared  # noqa: E402

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


SHOWN = 100  # pixels of the tilt images about one particle: RELION's window of 96 at binning 2, and a margin
PARTICLE = "TS_01/9"  # near an edge: not every tilt shows it


def relion_extraction():
    """RELION 5's own extractions of one particle, and what is needed to make them again."""
    folder = shared("reference", "relion5")
    one = relion5.read_project(str(folder / "tomograms.star"), ["TS_01"])[0]
    tables = {"global": star.read(str(folder / "tomograms.star")).table("global").select([0]),
              "TS_01": next(iter(star.read(str(folder / "tilt_series" / "TS_01.star"))))}
    out = {}
    for name in ("stack2d_bin1", "volume_bin2"):
        whole = star.read(str(folder / "expected" / name / "particles.star"))
        row = whole.table("particles").text("rlnTomoParticleName").index(PARTICLE)
        mine = whole.table("particles").select([row])
        files = {column: mrc.read_volume(str(folder / mine.text(column)[0]))[0]
                 for column in ("rlnImageName", "rlnCtfImage") if mine.has(column)}
        out[name] = {"files": {column: pack(values, "uint16") for column, values in files.items()}, "tables": {
            block: {c: whole.table(block).text(c) for c in whole.table(block).columns}
            for block in ("general", "optics")}, "particle": {c: mine.text(c)[0] for c in mine.columns}}
    given = star.read(str(folder / "particles.star")).table("particles")
    given = given.select([given.text("rlnTomoParticleName").index(PARTICLE)])
    position = [[float(given.text("rlnCenteredCoordinate%sAngst" % axis)[0]) for axis in "XYZ"]]
    place = one.geometry.project(np.array(position)).xy[0][:, ::-1] / one.geometry.pixel_size
    origin = np.rint(place).astype(int) + np.array(one.geometry.image_shape) // 2 - SHOWN // 2
    images = np.stack([mrc.read_volume(path)[0][section] for path, section in one.images])
    padded = np.pad(images, ((0, 0), (SHOWN, SHOWN), (SHOWN, SHOWN)))
    # A tilt that does not show it at binning 1, where the circle is smaller, is left empty.
    seen = [int(v) for v in out["stack2d_bin1"]["particle"]["rlnTomoVisibleFrames"].strip("[]").split(",")]
    cut = np.stack([image[max(0, y + SHOWN):, max(0, x + SHOWN):][:SHOWN, :SHOWN] for image, (y, x), there in zip(
        padded, origin, seen) if there])
    out.update(shape=one.geometry.image_shape, origin=origin.tolist(), shown=seen, windows=pack(cut, "uint16"),
               particles={c: given.text(c) for c in given.columns}, tables={
                   name: {c: table.text(c) for c in table.columns} for name, table in tables.items()})
    return out


def main():
    """Derive everything."""
    RELION.write_text(json.dumps(relion_extraction(), separators=(",", ":")))
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
