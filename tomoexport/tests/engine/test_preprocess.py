"""Tilt images: levelled, tapered, rescaled about their centre, checked."""

import numpy as np
import pytest

from tomoexport.engine.fourier import fast_even, fourier_rescale, rescale_lengths, shell_correlation, sphere, taper
from tomoexport.engine.preprocess import fill_bad_pixels, prepare_image, prepare_stack, remove_plane
from tomoexport.errors import InputError, UnitError


def blob(shape, y, x, sigma):
    yy, xx = np.mgrid[:shape[0], :shape[1]]
    return np.exp(-((yy - y) ** 2 + (xx - x) ** 2) / (2 * sigma ** 2)).astype(np.float32)


@pytest.mark.parametrize("shape", [(128, 150), (127, 151), (97, 128)])
@pytest.mark.parametrize("ratio", [1.0, 1.01, 1.05, 1.1, 1.3337, 2.0, 3.7])
def test_F15_rescaling_keeps_the_centre_and_the_values(shape, ratio):
    """Any ratio, those just above 1 included: a blob stays where it is, to a hundredth of a pixel."""
    dy, dx = 11.3, -17.8
    image = blob(shape, shape[0] // 2 + dy, shape[1] // 2 + dx, 7.0)
    scaled, true = fourier_rescale(image.copy(), ratio)
    assert max(abs(true[0] / ratio - 1), abs(true[1] / ratio - 1)) < 1e-3
    h, w = scaled.shape
    expected = blob((h, w), h // 2 + dy / true[0], w // 2 + dx / true[1], 7.0 / ratio)
    assert np.abs(scaled - expected).max() < 0.02
    total = scaled.sum()
    yy, xx = np.mgrid[:h, :w]
    assert (scaled * yy).sum() / total == pytest.approx(h // 2 + dy / true[0], abs=0.02)
    assert (scaled * xx).sum() / total == pytest.approx(w // 2 + dx / true[1], abs=0.02)


@pytest.mark.parametrize("n", [3838, 3712, 5760, 4092, 1024, 400])
@pytest.mark.parametrize("ratio", [1.001, 1.0554, 1.1, 2.963, 7.407])
def test_real_sizes_meet_the_tolerance_of_the_ratio(n, ratio):
    padded, cropped = rescale_lengths(n, ratio)
    assert padded >= n and padded % 2 == 0 and cropped % 2 == 0
    # Even lengths are 2 apart: near a ratio of 1 a small image cannot do better than that.
    assert abs(padded / cropped / ratio - 1) <= max(1e-4, 0.5 / n if ratio < 1.01 else 0)


def test_a_smaller_pixel_is_refused():
    with pytest.raises(InputError, match="smaller"):
        fourier_rescale(np.zeros((8, 8), np.float32), 0.9)


def test_a_plane_is_removed_and_nothing_else(rng):
    noise = rng.standard_normal((40, 50)).astype(np.float32)
    y, x = np.mgrid[:40, :50]
    plane = (3 + 0.2 * y - 0.1 * x).astype(np.float32)
    assert np.allclose(remove_plane(noise + plane), remove_plane(noise.copy()), atol=1e-4)
    assert np.abs(remove_plane(plane.copy())).max() < 1e-4


def test_F04_bad_pixels_are_an_error_or_filled(rng):
    image = rng.standard_normal((64, 64)).astype(np.float32) + 100
    image[5:8, 5:9] = np.nan
    image[40, 40] = np.inf
    with pytest.raises(UnitError, match="tilt 3: 13 of 4096 pixels are NaN"):
        prepare_image(image.copy(), item="tilt 3")
    _, _, _, filled = prepare_image(image.copy(), bad_pixels="fill")
    assert filled == 13
    assert fill_bad_pixels(image) == 13
    assert np.isfinite(image).all() and np.abs(image[5:8, 5:9] - 100).max() < 1
    with pytest.raises(UnitError, match="4096 of 4096"):
        prepare_image(np.full((64, 64), np.nan, np.float32), bad_pixels="fill")


@pytest.mark.parametrize("value", [0.0, 7.5, 0.1, 1000.1])
@pytest.mark.parametrize("shape", [(64, 48), (1000, 5760), (700, 1023)])
def test_F05_a_constant_image_is_empty(value, shape):
    scaled, _, empty, _ = prepare_image(np.full(shape, value, np.float32))
    assert empty and not scaled.any()


def test_normalised_and_inverted(rng):
    image = rng.standard_normal((100, 100)).astype(np.float32) + blob((100, 100), 50, 50, 8) * 5
    a = prepare_image(image.copy(), 1.0)[0]
    b = prepare_image(image.copy(), 1.0, invert=False)[0]
    assert np.array_equal(a, -b) and a[50, 50] < 0
    assert a.std() == pytest.approx(1, abs=1e-3) and abs(a.mean()) < 1e-4
    c = prepare_image(3 * image.copy(), 1.0, invert=False, normalize=False)[0]
    assert c.std() > 2.5


def summit(image, near):
    """Sub-pixel position yx of the Gaussian blob whose peak is the brightest pixel within 5 of ``near``, on 0."""
    corner = np.rint(near).astype(int) - 5
    window = image[corner[0]:corner[0] + 11, corner[1]:corner[1] + 11]
    y, x = corner + np.unravel_index(window.argmax(), window.shape)
    out = []
    for place, line in ((y, image[y - 1:y + 2, x]), (x, image[y, x - 1:x + 2])):
        a, b, c = np.log(line.astype(float))  # a parabola
        out.append(place + 0.5 * (a - c) / (a - 2 * b + c))
    return np.array(out)


@pytest.mark.parametrize("shape", [(151, 140), (150, 161)])
@pytest.mark.parametrize("ratio", [1.002, 1.305])
def test_stack_positions_use_the_ratio_really_applied(shape, ratio):
    """A blob 40 px off the centre is found where the stack says. A ratio of 1.002 cannot be met in small images."""
    h, w = shape
    dy, dx = 39.6, -40.3
    image = sum(blob(shape, h // 2 + s * dy, w // 2 + s * dx, 5.0) for s in (1, -1))  # two: no plane to be removed
    stack = prepare_stack(lambda t: image.copy(), ["a", "b"], 2.0, 2.0 * ratio, invert=False, threads=2)
    told = stack.position_px([dx * 2.0, dy * 2.0])
    for prepared in stack.images:
        found = summit(prepared - np.median(prepared), told)
        assert np.abs(found - told).max() < 0.01
        nominal = np.array(prepared.shape) // 2 + np.array([dy, dx]) / ratio
        assert ratio > 1.01 or np.abs(found - nominal).max() > 0.03


def test_lengths_windows_and_masks():
    assert [fast_even(n) for n in (1, 63, 64, 65, 3838)] == [2, 64, 64, 72, 3840]
    assert taper(10, 3)[5] == 1 and taper(10, 3)[0] < 0.1
    assert sphere(8, 2)[4, 4, 6] == 1 and sphere(8, 2)[4, 4, 7] == 0


def test_shell_correlation_of_a_map_with_itself_and_with_noise(rng):
    a, b = rng.standard_normal((2, 32, 32, 32))
    assert np.allclose(shell_correlation(a, a)[1:], 1)
    assert np.abs(shell_correlation(a, b)[4:]).max() < 0.15
    assert np.allclose(shell_correlation(a, -a)[1:], -1)
