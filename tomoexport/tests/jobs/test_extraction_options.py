"""Further options of the extraction through the verb: each does what its engine function says, and nothing else."""

import os

import numpy as np
import pytest

from tomoexport.engine.poses import matrix_from_zyz
from tomoexport.engine.pseudosubtomo import cone_weight
from tomoexport.errors import InputError
from tomoexport.io import mrc, particlestar, star
from tomoexport.jobs import runner

COMMON = dict(box=32, crop=24, binning=1.5, float16=False, threads=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory, simulated):
    folder = tmp_path_factory.mktemp("simulated")
    simulated("tiny", into=folder, particles=3)
    return folder


def extract(data, folder, **options):
    out = runner.run({"verb": "pseudosubtomo", "options": dict(
        dict(COMMON, tomograms=str(data / "tomograms.star"), particles=str(data / "particles.star"),
             output=str(folder)), **options)})
    assert not out["failed"], out["results"]
    return star.read(out["collected"]["star"]).table("particles")


def volumes(table, column):
    return [mrc.read_volume(path)[0] for path in table.text(column)]


@pytest.mark.parametrize("oriented", [False, True])
def test_the_cone_is_about_the_particles_axis(data, tmp_path, oriented):
    plain, less = (extract(data, tmp_path / name, stack2d=False, apply_orientations=oriented, cone_weight=on,
                           cone_angle=25.0, cone_sigma=1.5) for name, on in (("plain", False), ("less", True)))
    truth = star.read(str(data / "particles.star")).table("particles")
    rotation = matrix_from_zyz(*(truth.float(a) for a in particlestar.ANGLE))
    names = truth.text("rlnTomoParticleName")
    for i, uid in enumerate(plain.text("rlnTomoParticleName")):
        axis = [0, 0, 1] if oriented else rotation[names.index(uid)][:, 2]
        cone = cone_weight(24, np.array([axis], float), 25.0, 1.5)[0]
        a, b = (mrc.read_volume(t.text("rlnCtfImage")[i])[0] for t in (plain, less))
        assert np.allclose(b, a * np.concatenate([cone, cone]), atol=1e-5 * a.max())
        a, b = (np.fft.rfftn(mrc.read_volume(t.text("rlnImageName")[i])[0]) for t in (plain, less))
        # irfftn takes the real part of the lines that are their own mates.
        assert np.abs(b - a * cone)[:12, :12, 1:12].max() < 1e-4 * np.abs(a).max()


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("option", ["whiten", "precrop"])
def test_windows_are_whitened_and_masked_beforehand(data, tmp_path, option, exact):
    """What that does to one window is tested with the engine; here that the option arrives, binned images or not."""
    plain, other = (volumes(extract(data, tmp_path / name, exact=exact, circle=False, **{option: on}), "rlnImageName")
                    for name, on in (("plain", False), ("other", True)))
    for a, b in zip(plain, other):
        assert a.shape == b.shape and np.linalg.norm(a - b) > 0.02 * np.linalg.norm(a)
        cc = np.corrcoef(a[:, 6:18, 6:18].ravel(), b[:, 6:18, 6:18].ravel())[0, 1]
        assert cc > (0.4 if option == "whiten" else 0.9)


def test_positions_move_in_the_particles_frame(data, tmp_path):
    shift = np.array([6.0, -9.0, 12.0])
    plain = extract(data, tmp_path / "plain")
    moved = extract(data, tmp_path / "moved", shift_x=6, shift_y=-9, shift_z=12)
    rotation = matrix_from_zyz(*(plain.float(a) for a in particlestar.ANGLE))
    at = [np.stack([t.float(c) for c in particlestar.CENTRED], -1) for t in (plain, moved)]
    assert moved.text("rlnTomoParticleName") == plain.text("rlnTomoParticleName")
    assert np.allclose(at[1], at[0] + rotation @ shift, atol=1e-4)
    kept = extract(data, tmp_path / "offsets", shift_x=6, shift_y=-9, shift_z=12, apply_offsets=False)
    assert np.allclose(np.stack([kept.float(c) for c in particlestar.CENTRED], -1), at[1], atol=1e-4)


def test_images_smaller_than_a_window_cannot_be_whitened(data, tmp_path):
    out = pytest.raises(InputError, extract, data, tmp_path, box=128, crop=24, whiten=True)
    assert "smaller than a window" in str(out.value)
    assert not os.path.exists(str(tmp_path / "particles.star"))


def test_what_is_finished_is_kept(data, tmp_path):
    """A tilt series that is done is not done again; a file that is missing, or another option, makes it new."""
    def run(**options):
        out = runner.run({"verb": "pseudosubtomo", "options": dict(
            COMMON, tomograms=str(data / "tomograms.star"), particles=str(data / "particles.star"),
            output=str(tmp_path), **options)})
        return [r["status"] for r in out["results"]]

    assert run() == ["done", "done"] and run() == ["skipped", "skipped"]
    image = next((tmp_path / "Subtomograms").glob("TS_02/*.mrcs"))
    whole = image.read_bytes()
    image.unlink()
    assert run() == ["skipped", "done"] and len(image.read_bytes()) == len(whole)
    assert run(whiten=True) == ["done", "done"] and run(whiten=True) == ["skipped", "skipped"]
    assert run(shift_z=5.0) == ["done", "done"]
