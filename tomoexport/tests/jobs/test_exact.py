"""The export's ways inside: binned images, unbinned windows, Warp's gridding."""

import numpy as np
import pytest

from tomoexport.engine.fourier import shell_correlation
from tomoexport.errors import InputError
from tomoexport.io import mrc
from tomoexport.jobs import runner, subtomo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory, simulated):
    folder = tmp_path_factory.mktemp("exact")
    simulated("demo", into=folder, particles=3, noise=2.0)
    return folder


def export(data, name, **options):
    out = runner.run({"verb": "subtomo", "options": dict(
        {"tomograms": str(data / "tomograms.star"), "particles": str(data / "particles.star"), "pixel_size": 5.7,
         "box": 40, "diameter": 170.0, "output": str(data / name), "threads": 2}, **options)})
    files = sorted(f for r in out["results"] for f in r["files"])
    volumes = [f for f in files if "_ctf_" not in f]
    return [mrc.read_volume(f)[0] for f in volumes], [mrc.read_volume(f)[0] for f in files if "_ctf_" in f]


@pytest.mark.parametrize("turned", [False, True])
def test_unbinned_windows_and_binned_images_agree(data, monkeypatch, turned):
    """Unbinned images are not turned; binned ones are, where they can be."""
    if not turned:
        monkeypatch.setattr(subtomo, "turn_series", lambda geometry, ctf, pixel_size: (None, geometry, ctf))
    (a, c), (b, d) = export(data, "fast%d" % turned), export(data, "exact%d" % turned, exact=True)
    assert len(a) == len(b) == 6
    shells = np.array([shell_correlation(x, y) for x, y in zip(a, b)])
    print("FSC of exact with the default up to 0.95 Nyquist: median %.4f, lowest %.4f" % (
        np.median(shells[:, 2:20]), shells[:, 2:20].min()))
    alike = [np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(c, d)]
    print("3D CTF: lowest cc %.4f" % min(alike))
    # The lowest are at zeros of the CTF: the two ways take CTF boxes of different sizes, which place the change of
    # sign differently. With one box they agree everywhere (engine/test_subtomo.py). Windows of turned images are
    # other squares about the particle as well, parallel to the volume, and the 3D CTF is what these squares leave.
    median, lowest, least = (0.98, 0.6, 0.95) if turned else (0.99, 0.7, 0.995)
    assert np.median(shells[:, 2:20]) > median and shells[:, 2:20].min() > lowest and min(alike) > least


def test_warps_gridding_sees_the_same_particles(data):
    (a, _), (b, _) = export(data, "fast"), export(data, "warp", interpolation="trilinear")
    for x, y in zip(a, b):
        spectrum = np.conj(np.fft.fftn(x)) * np.fft.fftn(y)
        assert np.fft.ifftn(spectrum).real.argmax() == 0 and np.corrcoef(x.ravel(), y.ravel())[0, 1] > 0.7


def test_both_at_once_is_refused(data):
    with pytest.raises(InputError, match="--exact.*trilinear"):
        export(data, "both", exact=True, interpolation="trilinear")
