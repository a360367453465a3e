"""The deconvolution filter: its formula at chosen frequencies, and a volume filtered by it."""

import numpy as np
import pytest
import scipy.fft

from tomoexport.engine.ctf import Ctf, Optics
from tomoexport.engine.deconvolve import deconvolution_filter, deconvolve, typical_defocus


def test_each_parameter_means_what_its_label_says():
    pixel, k = 10.0, np.array([0.01, 1 / 30, 0.2])  # cycles per voxel; 1 / 30 is 1 / (300 A)
    one = np.ones(3)
    w = deconvolution_filter(k, one, pixel, 1.0, 1.0, 300.0)
    # Far above the noise the filter of a CTF of 1 is 1 / (1 + 1 / snr).
    snr = np.exp(-100 * 2 * k / pixel) * 1e3 * np.array([0.5 - 0.5 * np.cos(np.pi * 0.3), 1, 1])
    assert np.allclose(w, 1 / (1 + 1 / snr))
    assert deconvolution_filter(k, one, pixel, strength=0.5)[2] < w[2] < deconvolution_filter(k, one, pixel, 2.0)[2]
    assert deconvolution_filter(k, one, pixel, falloff=2.0)[2] < w[2]
    ramp = [deconvolution_filter(np.array([0.005]), np.ones(1), pixel, 1, 1, h)[0] for h in (100, 300, 2000)]
    assert ramp[0] < ramp[1] < ramp[2]
    assert deconvolution_filter(np.zeros(1), np.ones(1), pixel)[0] < 1e-10  # the mean goes


def test_a_flipped_map_is_divided_by_the_modulus():
    k, c = np.array([0.1, 0.1]), np.array([0.5, -0.5])
    flipped, plain = (deconvolution_filter(k, c, 10.0, flipped=f) for f in (True, False))
    assert flipped[0] == flipped[1] == plain[0] == -plain[1] > 1


def test_a_volume_is_multiplied_in_fourier_space(rng):
    volume = rng.standard_normal((20, 24, 18)).astype(np.float32)
    optics, pixel = Optics(), 12.0
    made = deconvolve(volume, pixel, optics, 25000.0, 1.1, 0.9, 250.0, threads=2)
    k = np.sqrt(np.fft.fftfreq(20)[:, None, None] ** 2 + np.fft.fftfreq(24)[:, None] ** 2 + np.fft.rfftfreq(18) ** 2)
    ctf = Ctf(optics, [25000.0], [25000.0], [0.0]).values(k / pixel, 0.0)[0]
    exact = scipy.fft.irfftn(scipy.fft.rfftn(volume.astype(np.float64)) * deconvolution_filter(
        k, ctf, pixel, 1.1, 0.9, 250.0), s=volume.shape)
    assert made.dtype == np.float32 and np.abs(made - exact).max() < 2e-3 * np.abs(exact).max()


def test_the_defocus_is_that_of_low_tilts():
    ctf = Ctf(Optics(), [1e4, 2e4, 2.2e4, 9e4], [1e4, 2.2e4, 2.4e4, 9e4], np.zeros(4))
    assert typical_defocus(ctf, np.array([-60.0, -20, 20, 60])) == pytest.approx(22000)
    assert typical_defocus(ctf, np.array([-60.0, -50, 40, 60])) == pytest.approx(23000)
