"""What happens to a tilt image before anything is cut out of it or projected back from it."""

from dataclasses import dataclass

import numpy as np
import scipy.ndimage

from ..errors import UnitError
from .fourier import fourier_rescale, taper

TAPER = 0.02  # of the shorter side, at least 8 pixels: where the images fall off to 0


@dataclass(frozen=True, eq=False)
class PreparedStack:
    """Tilt images of one series, ready for extraction.

    Attributes
    ----------
    images : ndarray `(T, h, w)` float32
        Mean 0, falling off to 0 at the edges; pixel N//2 is the image centre.
    pixel_size : (float, float)
        Angstrom per pixel along y and x; within 1e-4 of what was asked for, or as near as even lengths allow: in
        small images just above the original pixel size up to 1e-3.
    empty : ndarray `(T,)` of bool
        Images without any contrast, which must be left out.
    filled : ndarray `(T,)` of int
        Pixels that were no numbers and have been replaced.
    """

    images: np.ndarray
    pixel_size: tuple
    empty: np.ndarray
    filled: np.ndarray

    def position_px(self, xy):
        """Pixels of points in the prepared images.

        Parameters
        ----------
        xy : ndarray `(..., 2)`
            Angstrom from the image centre, xy.

        Returns
        -------
        ndarray `(..., 2)`
            Pixels from the corner, yx.
        """
        h, w = self.images.shape[1:]
        xy = np.asarray(xy, np.float64)
        return np.stack([xy[..., 1] / self.pixel_size[0] + h // 2, xy[..., 0] / self.pixel_size[1] + w // 2], -1)


def remove_plane(image, sums=None):
    """Subtract the least-squares plane from an image.

    Parameters
    ----------
    image : ndarray `(h, w)` float32
        Changed in place.
    sums : tuple, optional
        The image's `line_sums`, if they are known.

    Returns
    -------
    ndarray `(h, w)` float32
        The image.
    """
    h, w = image.shape
    rows, columns = line_sums(image) if sums is None else sums
    y, x = np.arange(h) - (h - 1) / 2, np.arange(w) - (w - 1) / 2
    # On a regular grid the two slopes and the mean are independent.
    slope_y = (rows @ y) / max(w * (y @ y), 1e-300)
    slope_x = (columns @ x) / max(h * (x @ x), 1e-300)
    along_y = (rows.sum() / (h * w) + slope_y * y).astype(np.float32)[:, None]
    along_x = (slope_x * x).astype(np.float32)
    for i in range(0, h, 64):  # a piece at a time, so that the plane itself stays in the cache
        image[i:i + 64] -= along_y[i:i + 64] + along_x
    return image


def line_sums(image):
    """Sums of an image along its rows and columns; not finite if a pixel is not.

    Parameters
    ----------
    image : ndarray `(h, w)` float32

    Returns
    -------
    rows : ndarray `(h,)` float64
    columns : ndarray `(w,)` float64
    """
    h, w = image.shape
    # Matrix products take a third of the time of sums; pieces of a row lose nothing in single precision.
    with np.errstate(invalid="ignore", over="ignore"):
        rows = (image @ np.ones(w, np.float32)).astype(np.float64)
        columns = sum((np.ones(len(part), np.float32) @ part).astype(np.float64)
                      for part in (image[i:i + 512] for i in range(0, h, 512)))
    return rows, columns


def apply_taper(image, width):
    """Let an image fall off to 0 at its four edges, see `taper`.

    Parameters
    ----------
    image : ndarray `(h, w)` float32
        Changed in place.
    width : float
        Pixels.
    """
    for side, view in ((image.shape[0], image), (image.shape[1], image.T)):
        window, n = taper(side, width)[:, None], min(int(np.ceil(width)) + 1, side // 2)
        view[:n] *= window[:n]
        view[side - n:] *= window[side - n:]


def fill_bad_pixels(image):
    """Replace pixels that are not finite by the mean of the finite ones near them.

    Parameters
    ----------
    image : ndarray `(h, w)` float32
        Changed in place.

    Returns
    -------
    int
        Number of replaced pixels.
    """
    bad = ~np.isfinite(image)
    count = int(bad.sum())
    if count and count < image.size:
        image[bad] = 0
        good = (~bad).astype(np.float32)
        size = 2 * int(np.ceil(np.sqrt(scipy.ndimage.distance_transform_edt(bad).max() ** 2 + 9))) + 1
        near = scipy.ndimage.uniform_filter(good, size)
        mean = scipy.ndimage.uniform_filter(image, size) / np.maximum(near, 1e-6)
        image[bad] = np.where(near > 1e-6, mean, image[~bad].mean(dtype=np.float64))[bad]
    return count


def prepare_image(image, ratio=1.0, invert=True, normalize=True, bad_pixels="error", item="tilt image"):
    """Check, level, taper, rescale and normalise one tilt image.

    Parameters
    ----------
    image : ndarray `(h, w)` float32
        Changed in place.
    ratio : float
        Output over input pixel size, at least 1.
    invert : bool
        Multiply by -1.
    normalize : bool
        Divide by the standard deviation.
    bad_pixels : {'error', 'fill'}
        What to do with NaN and infinite pixels.
    item : str
        How errors name the image.

    Returns
    -------
    scaled : ndarray `(h', w')` float32
    true_ratio : (float, float)
        Along y and x.
    empty : bool
        The image has no contrast.
    filled : int
        Number of replaced pixels.

    Raises
    ------
    UnitError
        If pixels are not finite and `bad_pixels` is 'error', or all of them are not.
    """
    filled = 0
    sums = line_sums(image)
    if not (np.isfinite(sums[0]).all() and np.isfinite(sums[1]).all()):
        count = int((~np.isfinite(image)).sum())
        if count and (bad_pixels != "fill" or count == image.size):
            raise UnitError(item, "%d of %d pixels are NaN or infinite" % (count, image.size),
                            "Exclude the view, repair the image, or use --bad-pixels fill")
        filled = fill_bad_pixels(image)
        sums = line_sums(image)
        if not np.isfinite(sums[0]).all():
            raise UnitError(item, "its pixel values are too large to be summed", "Repair or exclude the view")
    scale = np.abs(sums[0]).max() / image.shape[1]
    remove_plane(image, sums)
    sd = image.std(dtype=np.float64) if _is_extreme(scale, image) else _sd(image)
    empty = not sd > 1e-6 * scale
    if not empty:
        image *= np.float32(1 / sd)  # whatever the unit of the pixels, transforms stay within single precision
    apply_taper(image, max(8.0, TAPER * min(image.shape)))
    scaled, true_ratio = fourier_rescale(image, ratio)
    if empty:
        scaled[:] = 0
    else:
        scaled -= np.float32(scaled.mean(dtype=np.float64))
        factor = 1.0 / scaled.std(dtype=np.float64) if normalize else sd
        scaled *= np.float32(-factor if invert else factor)
    return scaled, true_ratio, empty, filled


def _sd(image):
    flat = image.reshape(-1)
    return float(np.sqrt(flat @ flat / flat.size))


def _is_extreme(scale, image):
    """Whether squares of an image could leave the range of single precision."""
    largest = max(scale, float(np.abs(image[::16, ::16]).max()))
    return not 1e-12 < largest < 1e12


def rescaled_shape(shape, ratio):
    """Shape of an image after `fourier_rescale`, to a few pixels.

    Parameters
    ----------
    shape : (int, int)
        Height and width.
    ratio : float
        Output over input pixel size.

    Returns
    -------
    (int, int)
    """
    return tuple(2 * int(np.ceil(n / ratio / 2)) for n in shape) if abs(ratio - 1) > 1e-6 else tuple(shape)


def prepare_stack(read, items, pixel_size_in, pixel_size_out, invert=True, normalize=True, bad_pixels="error",
                  threads=1, progress=None):
    """Prepare all images of a series.

    Parameters
    ----------
    read : callable
        ``read(t)`` gives image t as a float32 array `(h, w)` of its own.
    items : sequence of str
        How errors name the images; its length is their number T.
    pixel_size_in, pixel_size_out : float
        Angstrom.
    invert, normalize, bad_pixels
        As `prepare_image`.
    threads : int
        Images that are worked on at once.
    progress : callable, optional
        Called after each image.

    Returns
    -------
    PreparedStack
    """
    from concurrent.futures import ThreadPoolExecutor
    ratio = pixel_size_out / pixel_size_in

    def one(t):
        result = prepare_image(read(t), ratio, invert, normalize, bad_pixels, items[t])
        if progress:
            progress()
        return result

    first = one(0)
    images = np.empty((len(items),) + first[0].shape, np.float32)
    results = [first[1:]] + [None] * (len(items) - 1)
    images[0] = first[0]

    def store(t):
        scaled, *rest = one(t)
        images[t] = scaled
        results[t] = rest

    with ThreadPoolExecutor(max(1, threads)) as pool:
        list(pool.map(store, range(1, len(items))))
    ratios = results[0][0]
    return PreparedStack(images, (pixel_size_in * ratios[0], pixel_size_in * ratios[1]),
                         np.array([r[1] for r in results]), np.array([r[2] for r in results]))
