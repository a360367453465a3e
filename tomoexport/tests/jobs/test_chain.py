"""From noisy tilt series to an averaged particle: our average, RELION's, and what wrong signs do to both."""

import os
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from tomoexport.engine.average import fsc
from tomoexport.engine.ctf import Ctf
from tomoexport.engine.fourier import sphere
from tomoexport.engine.phantom import chiral_phantom
from tomoexport.io import mrc, relion5, star
from tomoexport.jobs import runner, simulate

pytestmark = pytest.mark.slow

PIXEL, BOX = 5.0, 52


@pytest.fixture(scope="module")
def data(tmp_path_factory, simulated):
    """The demonstration's data: both hands, x-tilt, astigmatism, noise twice the signal, 180 particles."""
    folder = tmp_path_factory.mktemp("chain")
    simulated("demo", into=folder / "data")
    return folder


@pytest.fixture(scope="module")
def phantom():
    preset = simulate.PRESETS["demo"]
    return chiral_phantom(preset["diameter"], preset["blobs"])


def export(data, name, change=None, move=0.0, pixel=PIXEL, box=BOX, **options):
    """Export sub-tomograms; ``change`` alters the tilt series, ``move`` shifts all particles along x, angstrom."""
    folder = data / name
    tomograms, particles = data / "data" / "tomograms.star", data / "data" / "particles.star"
    if change:
        series = [change(s) for s in relion5.read_project(str(tomograms))]
        tomograms = relion5.write_project(str(folder / "tables"), series, paths="absolute")
    if move:
        table = star.read(str(particles)).table("particles")
        columns = {c: table.text(c) for c in table.columns}
        columns["rlnCenteredCoordinateXAngst"] = [float(x) + move for x in columns["rlnCenteredCoordinateXAngst"]]
        os.makedirs(str(folder), exist_ok=True)
        particles = str(folder / "moved.star")
        star.write(particles, [star.Table.from_columns("particles", columns)])
    out = runner.run(
        {
            "verb": "subtomo",
            "options": dict(
                {
                    "tomograms": str(tomograms),
                    "particles": str(particles),
                    "output": str(folder),
                    "pixel_size": pixel,
                    "box": box,
                    "diameter": 180.0,
                    "threads": 2,
                },
                **options,
            ),
        }
    )
    return out["collected"]["star"]


def average(data, table, name):
    out = runner.run({"verb": "average", "options": {"particles": table, "output": str(data / name), "threads": 2}})
    return mrc.read_volume(out["collected"]["average"])[0]


def relion_average(table):
    """What RELION 3.1 makes of an export."""
    folder, name = os.path.split(table)
    run = subprocess.run(["relion_reconstruct", "--i", name, "--o", "rec.mrc", "--3d_rot", "--ctf"], cwd=folder,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    assert run.returncode == 0, run.stdout[-2000:]
    return mrc.read_volume(os.path.join(folder, "rec.mrc"))[0]


def likeness(a, b, phantom, pixel=PIXEL):
    """Correlation inside the particle."""
    inside = sphere(len(a), phantom.diameter / 2 / pixel, dtype=bool).astype(bool)
    return float(np.corrcoef(a[inside], b[inside])[0, 1])


def mirrored(series):
    """Tilt angles of the wrong sign."""
    g = series.geometry
    return replace(series, geometry=g.replace(tilt=-g.tilt, xtilt=-g.xtilt))


def flipped_hand(series):
    return replace(series, geometry=series.geometry.replace(hand=-series.geometry.hand))


def without_ctf(series):
    """A defocus so small that the CTF has one sign everywhere: nothing is flipped."""
    nothing = np.full(series.ctf.n_tilts, 1.0)
    optics = replace(series.ctf.optics, cs=0.0)
    return replace(series, ctf=Ctf(optics, nothing, nothing, 0 * nothing), optics=optics)


@pytest.fixture(scope="module")
def right(data):
    return export(data, "right")


@pytest.mark.relion
def test_relion_averages_what_we_export(data, right, phantom):
    if not shutil.which("relion_reconstruct"):
        pytest.skip("relion_reconstruct is not installed: apt-get install relion")
    theirs, ours, known = relion_average(right), average(data, right, "ours"), phantom.volume(BOX, PIXEL)
    found = likeness(theirs, known, phantom), likeness(theirs, ours, phantom)
    print("RELION's average: CC %.4f to the phantom, %.4f to ours" % found)
    assert found[0] >= 0.95 and found[1] >= 0.99


@pytest.mark.relion
@pytest.mark.parametrize("name, values", [("mirrored", {"change": mirrored}), ("inverted", {"invert": False}),
                                          ("moved", {"move": PIXEL})])
def test_relion_shows_what_is_wrong(data, phantom, name, values):
    if not shutil.which("relion_reconstruct"):
        pytest.skip("relion_reconstruct is not installed: apt-get install relion")
    wrong = relion_average(export(data, name, **values))
    found = likeness(wrong, phantom.volume(BOX, PIXEL), phantom)
    print("%s: CC %.4f" % (name, found))
    assert found < 0.9


@pytest.mark.relion
def test_relion_reads_the_3_0_dialect_alike(data, right):
    if not shutil.which("relion_reconstruct"):
        pytest.skip("relion_reconstruct is not installed: apt-get install relion")
    old = export(data, "old", format="3.0")
    inside = sphere(BOX, 20, dtype=bool).astype(bool)
    assert np.corrcoef(relion_average(old)[inside], relion_average(right)[inside])[0, 1] > 0.9999


SHIFT = (10.0, -15.0, 20.0)


def displaced(phantom, shift):
    """The phantom at other coordinates."""
    return replace(phantom, centre=phantom.centre + np.array(shift)).volume(BOX, PIXEL)


@pytest.mark.relion
@pytest.mark.parametrize("prerotate", [False, True])
def test_a_shift_moves_the_map_the_other_way(data, phantom, prerotate):
    """In the frame of the map, whether volumes are pre-rotated or not."""
    if not shutil.which("relion_reconstruct"):
        pytest.skip("relion_reconstruct is not installed: apt-get install relion")
    table = export(data, "shifted%d" % prerotate, prerotate=prerotate, **dict(zip(("shift_x", "shift_y", "shift_z"),
                                                                                 SHIFT)))
    found = relion_average(table)
    right, still, wrong = (likeness(found, displaced(phantom, np.array(SHIFT) * sign), phantom) for sign in (-1, 0, 1))
    print("moved by -s: CC %.4f; not moved: %.4f; by +s: %.4f" % (right, still, wrong))
    assert right > 0.95 and max(still, wrong) < 0.5


def test_prerotated_volumes_add_up_to_the_map(data, phantom):
    """No angles: the sum of the volumes over that of the 3D CTFs, and even the sum alone."""
    table = star.read(export(data, "prerotated", prerotate=True)).table("particles")
    assert not any(table.float(name).any() for name in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"))
    folder = str(data / "prerotated")
    total, weight = 0.0, 0.0
    for image, ctf in zip(table.text("rlnImageName"), table.text("rlnCtfImage")):
        total = total + mrc.read_volume(os.path.join(folder, image))[0].astype(np.float64)
        weight = weight + mrc.read_volume(os.path.join(folder, ctf))[0]
    known = phantom.volume(BOX, PIXEL)
    restored = np.fft.irfftn(np.fft.rfftn(total) / np.maximum(weight, 0.05 * weight.max()), total.shape)
    unturned = export(data, "unturned", prerotate=False, first_tilts=0)
    table = star.read(unturned).table("particles")
    plain = sum(mrc.read_volume(os.path.join(os.path.dirname(unturned), n))[0] for n in table.text("rlnImageName"))
    found = [likeness(v, known, phantom) for v in (restored, total, plain)]
    print("CC to the phantom: %.4f with the CTFs, %.4f the plain sum, %.4f that of volumes as they lie" % tuple(found))
    assert found[0] > 0.95 and found[1] > 0.6 and found[2] < 0.3


def quality(volume, phantom, pixel):
    """Mean FSC with the phantom from a quarter of Nyquist to 0.9 Nyquist."""
    n = len(volume)
    curve = fsc(volume, phantom.volume(n, pixel), phantom.diameter / 2 / pixel)
    return float(curve[n // 8:int(0.45 * n)].mean()), float(curve[n // 4])


@pytest.fixture(scope="module")
def good(data, phantom):
    """The right export at 4 A, where Nyquist is 8 A, as in `make demo`."""
    table = export(data, "fine", pixel=4.0, box=64)
    return quality(average(data, table, "fine_average"), phantom, 4.0)


def test_fsc_of_the_average_with_the_phantom(good):
    print("FSC %.3f at half Nyquist, %.3f in the mean" % good[::-1])
    assert good[1] >= 0.5


@pytest.mark.parametrize("name, values, loss", [("hand", {"change": flipped_hand}, 0.02),
                                                ("contrast", {"invert": False}, 1.0),
                                                ("no_ctf", {"change": without_ctf}, 0.5)])
def test_the_same_data_with_a_wrong_setting_fall_short(data, phantom, good, name, values, loss):
    """By at least this much of the mean FSC; measured: hand 0.035, contrast 1.53, no CTF 0.75 of 0.763."""
    table = export(data, "wrong_" + name, pixel=4.0, box=64, **values)
    bad = quality(average(data, table, "wrong_%s_average" % name), phantom, 4.0)
    print("%s: mean FSC %.3f against %.3f" % (name, bad[0], good[0]))
    assert good[0] - bad[0] >= loss
