"""Transforms of our own call: those of SciPy, bit by bit the same from call to call."""
import numpy as np
import pytest
import scipy.fft

from tomoexport.engine import transforms

CASES = {
    "fft": lambda m, x: m.fft(x, axis=1),
    "fft of a view": lambda m, x: m.fft(x[:, 2:8, ::2], axis=2),
    "ifft": lambda m, x: m.ifft(x, axis=0),
    "irfft": lambda m, x: m.irfft(x, n=14, axis=2),
    "irfft, odd, of a view": lambda m, x: m.irfft(x.swapaxes(0, 2), n=15, axis=0),
    "irfft, even by default": lambda m, x: m.irfft(x, axis=1),
    "irfft2": lambda m, x: m.irfft2(x),
    "irfft2 along others": lambda m, x: m.irfft2(x, s=(12, 14), axes=(1, 2)),
    "irfftn": lambda m, x: m.irfftn(x, s=(10, 12, 14), axes=(0, 1, 2)),
    "rfft": lambda m, x: m.rfft(x.real.copy(), axis=1),
    "rfft, filled up": lambda m, x: m.rfft(x.real, n=20, axis=1),
    "rfft2": lambda m, x: m.rfft2(x.imag),
    "rfft2 along others": lambda m, x: m.rfft2(x.imag.copy(), axes=(0, 1)),
}


@pytest.fixture
def data():
    rng = np.random.default_rng(3)
    return (rng.standard_normal((10, 12, 8)) + 1j * rng.standard_normal((10, 12, 8))).astype(np.complex64)


@pytest.mark.parametrize("precision, tolerance", [(np.complex64, 2e-6), (np.complex128, 1e-14)])
@pytest.mark.parametrize("case", CASES)
def test_as_scipy(data, case, precision, tolerance):
    data = data.astype(precision)
    before = data.copy()
    ours, theirs = CASES[case](transforms, data), CASES[case](scipy.fft, data)
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()
    assert np.array_equal(CASES[case](transforms, data), ours)
    assert np.array_equal(data, before)


@pytest.mark.parametrize("name", ["fft", "ifft"])
def test_in_place(data, name):
    expected = getattr(scipy.fft, name)(data, axis=1)
    out = getattr(transforms, name)(data, axis=1, overwrite_x=True)
    assert out is data and np.abs(out - expected).max() < 1e-5 * np.abs(expected).max()


def test_overwritten_input_gives_the_same(data):
    expected = transforms.irfftn(data, s=(10, 12, 14), axes=(0, 1, 2))
    assert np.array_equal(transforms.irfftn(data, s=(10, 12, 14), axes=(0, 1, 2), overwrite_x=True), expected)


@pytest.mark.parametrize("s", [(9, 12, 14), (10, 12, 16), (10, 12, 12)])
def test_nothing_is_cropped_or_filled_up_in_the_inverse(data, s):
    with pytest.raises(ValueError, match="samples along axes"):
        transforms.irfftn(data, s=s, axes=(0, 1, 2))


def test_particles_do_not_depend_on_their_neighbours():
    """41 x 21 lines do not fill vectors."""
    rng = np.random.default_rng(4)
    real = rng.standard_normal((3, 41, 21, 26)).astype(np.float32)
    spectrum = (real[..., :14] + 1j * real[..., 12:]).astype(np.complex64)
    for work in (lambda x: transforms.rfft2(x.real, axes=(2, 3)), lambda x: transforms.fft(x, axis=2),
                 lambda x: transforms.ifft(x.copy(), axis=2, overwrite_x=True), lambda x: transforms.irfft(x, axis=3),
                 lambda x: transforms.irfftn(x, axes=(1, 2, 3))):
        together = work(spectrum)
        for i in range(3):
            assert np.array_equal(work(spectrum[i:i + 1])[0], together[i])
