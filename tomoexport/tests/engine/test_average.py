"""The average: turned the right way, weighted by the CTF."""

import numpy as np
import pytest
import scipy.fft

from tomoexport.engine.average import Accumulator, fsc, resolution
from tomoexport.engine.phantom import Phantom, chiral_phantom
from tomoexport.engine.poses import matrix_from_zyz

BOX, PIXEL = 32, 6.0


def turned(phantom, rotation):
    return Phantom(phantom.centre @ rotation.T, phantom.sigma, phantom.weight).volume(BOX, PIXEL)


def ones():
    return np.ones((BOX, BOX, BOX // 2 + 1), np.float32)


@pytest.fixture(scope="module")
def phantom():
    return chiral_phantom(110.0, 10)


def test_turned_particles_come_back_to_the_reference(rng, phantom):
    total, backwards = Accumulator(BOX), Accumulator(BOX)
    for angles in rng.uniform(-180, 180, (4, 3)):
        rotation = matrix_from_zyz(*angles)
        total.add(turned(phantom, rotation), ones(), rotation)
        backwards.add(turned(phantom, rotation), ones(), rotation.T)
    known = phantom.volume(BOX, PIXEL)
    curve = fsc(total.map(), known)
    assert curve[1:12].min() > 0.99 and fsc(backwards.map(), known)[6:12].mean() < 0.5
    assert total.map().sum() == pytest.approx(known.sum(), rel=0.02)


def test_wedges_fill_each_other(rng, phantom):
    """Each particle lacks half of Fourier space; the average does not."""
    total = Accumulator(BOX)
    k = np.fft.fftfreq(BOX)
    for angles in rng.uniform(-180, 180, (12, 3)):
        rotation = matrix_from_zyz(*angles)
        ctf = ones()
        ctf[(np.abs(k)[:, None, None] > np.abs(np.arange(BOX // 2 + 1) / BOX)) & np.ones((BOX, BOX, 1), bool)] = 0.0
        volume = scipy.fft.irfftn(scipy.fft.rfftn(turned(phantom, rotation)) * ctf, s=(BOX,) * 3)
        total.add(volume, ctf, rotation)
    assert fsc(total.map(), phantom.volume(BOX, PIXEL))[1:11].min() > 0.97


def test_merging_is_adding(rng, phantom):
    one, two, both = Accumulator(BOX), Accumulator(BOX), Accumulator(BOX)
    for i, angles in enumerate(rng.uniform(-180, 180, (4, 3))):
        rotation = matrix_from_zyz(*angles)
        volume = turned(phantom, rotation) + 0.1 * rng.standard_normal((BOX,) * 3).astype(np.float32)
        (one if i % 2 else two).add(volume, ones(), rotation)
        both.add(volume, ones(), rotation)
    merged = one.merged(two)
    assert merged.count == 4 and np.allclose(merged.map(), both.map(), atol=1e-5)


def test_resolution_is_read_between_shells():
    curve = np.array([1, 1, 0.8, 0.2, 0.0])
    assert resolution(curve, 8, 2.0, 0.5) == pytest.approx(16 / 2.5)
    assert resolution(np.ones(5), 8, 2.0, 0.5) == 4.0
    assert resolution(np.zeros(5), 8, 2.0, 0.5) == 16.0
