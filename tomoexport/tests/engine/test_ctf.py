"""The CTF: signs, astigmatism, delocalisation."""

import numpy as np
import pytest

from tomoexport.engine.ctf import Ctf, Optics, alias_free_box, frequency_grid
from tomoexport.errors import InputError


def one(u=20000.0, v=20000.0, angle=0.0, phase=0.0):
    return Ctf(Optics(), [u], [v], [angle], [phase])


def test_first_peak_is_positive_for_underfocus():
    k = np.linspace(0, 0.02, 50)
    assert (one().values(k, 0 * k)[0] > 0).all()
    assert one().values(np.zeros(1), np.zeros(1))[0, 0] == pytest.approx(0.1)  # amplitude contrast


def test_wavelength_at_300_kv():
    assert Optics(300.0).wavelength == pytest.approx(0.019687, abs=1e-6)


def test_astigmatism_is_counted_from_x():
    c = one(25000.0, 15000.0, 30.0)
    k = 0.03
    along = np.deg2rad(30.0)
    for angle, defocus in ((along, 25000.0), (along + np.pi / 2, 15000.0)):
        got = c.values(np.array(k * np.cos(angle)), np.array(k * np.sin(angle)))[0]
        assert got == pytest.approx(one(defocus, defocus).values(np.array(k), np.array(0.0))[0])


def test_phase_in_cycles_is_affine_in_defocus():
    kx, ky = frequency_grid((16, 16), 3.0)
    a, b = one(25000.0, 24000.0, 12.0, 40.0).coefficients(kx, ky)
    c, _ = one(25700.0, 24700.0, 12.0, 40.0).coefficients(kx, ky)
    assert np.allclose(a + 700.0 * b, c)


def test_a_phase_plate_of_90_degrees_turns_sine_into_cosine():
    k = np.array(0.0)
    assert one(phase=90.0).values(k, k)[0] == pytest.approx(np.sqrt(1 - 0.01))


@pytest.mark.parametrize(
    "defocus_um, pixel, diameter, expected", [(3, 1.35, 150, 452), (3, 2, 200, 260), (5, 2, 200, 368), (3, 4, 250, 104)]
)
def test_alias_free_box_is_that_of_warptools(defocus_um, pixel, diameter, expected):
    # Its sizes leave out Cs in the range of frequencies where the two terms oppose; within 2 %.
    got = alias_free_box(one(defocus_um * 1e4, defocus_um * 1e4), pixel, diameter)
    assert got == pytest.approx(expected, rel=0.02) and got % 2 == 0


def test_alias_free_box_takes_the_worst_tilt_and_the_depth():
    c = Ctf(Optics(), [20000.0, 40000.0], [20000.0, 39000.0], [0, 0])
    assert alias_free_box(c, 2.0, 100.0) == alias_free_box(one(40000.0, 40000.0), 2.0, 100.0)
    assert alias_free_box(c, 2.0, 100.0, 1000.0) == alias_free_box(one(41000.0, 41000.0), 2.0, 100.0)


def test_a_tilt_without_a_ctf_is_known():
    c = Ctf(Optics(), [np.nan, 1.0], [2.0, 1.0], [0, 0])
    assert list(c.measured) == [False, True]


@pytest.mark.parametrize("make, word", [
    (lambda: Optics(voltage=0.0), "voltage"), (lambda: Optics(cs=None), "cs"),
    (lambda: Optics(amplitude_contrast=1.5), "amplitude"), (lambda: one(1e6), "defocus"),
    (lambda: Ctf(Optics(), [1.0, 2.0], [1.0], [0, 0]), "defocus_v")])
def test_wrong_numbers_are_named(make, word):
    with pytest.raises(InputError, match=word):
        make()
