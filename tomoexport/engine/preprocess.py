"""What happens to a tilt image before anything is cut out of it or projected back from it."""

from dataclasses import dataclass
from typing import Any, Callable, List, Optional, Sequence, Tuple, Union

import numpy as np
import scipy.ndimage

from ..errors import UnitError
from .backend import Backend
from .fourier import ROWS, fourier_rescale, low_frequencies, taper
from .kernels import implementation
from .turn import Turn, turn_image

TAPER = 0.02  # of the shorter side, at least 8 pixels: where the images fall off to 0
FLAT = 1e-6  # of the largest mean of a line: an image with less than that beside its plane has no contrast


@dataclass(frozen=True, eq=False)
class PreparedStack:
    """Tilt images of one series, ready for extraction.

    Attributes
    ----------
    images : ndarray `(T, h, w)` float32
        Mean 0, falling off to 0 at the edges; pixel N//2 is the image centre. Turned ones are 0 beyond their edges.
        Extended ones are as they were, their edge pixels repeated outwards.
    pixel_size : (float, float)
        Angstrom per pixel along y and x; within 1e-4 of what was asked for, or as near as even lengths allow: in
        small images just above the original pixel size up to 1e-3.
    empty : ndarray `(T,)` of bool
        Images without any contrast, which must be left out.
    filled : ndarray `(T,)` of int
        Pixels that were no numbers and have been replaced.
    """

    images: np.ndarray
    pixel_size: Tuple[float, float]
    empty: np.ndarray
    filled: np.ndarray

    def position_px(self, xy: np.ndarray) -> np.ndarray:
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


def remove_plane(image: np.ndarray) -> np.ndarray:
    """Subtract the least-squares plane from an image.

    Parameters
    ----------
    image : ndarray `(h, w)` float32
        Changed in place.

    Returns
    -------
    ndarray `(h, w)` float32
        The image.
    """
    along_y, along_x = fit_plane(*line_sums(image))
    for y in range(0, len(image), ROWS):  # a piece at a time, so that the plane itself stays in the cache
        image[y:y + ROWS] -= along_y[y:y + ROWS] + along_x
    return image


def fit_plane(rows: np.ndarray, columns: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """The least-squares plane of an image.

    Parameters
    ----------
    rows, columns : ndarray `(h,)`, `(w,)`
        Its `line_sums`.

    Returns
    -------
    along_y, along_x : ndarray `(h, 1)`, `(w,)` float32
        The plane is their sum.
    """
    h, w = len(rows), len(columns)
    y, x = np.arange(h) - (h - 1) / 2, np.arange(w) - (w - 1) / 2
    # On a regular grid the two slopes and the mean are independent.
    slope_y = (rows @ y) / max(w * (y @ y), 1e-300)
    slope_x = (columns @ x) / max(h * (x @ x), 1e-300)
    return (rows.sum() / (h * w) + slope_y * y).astype(np.float32)[:, None], (slope_x * x).astype(np.float32)


def line_sums(image: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
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
    rows, columns = np.empty(h), np.zeros(w)
    # Matrix products take a third of the time of sums; pieces of a row lose nothing in single precision.
    with np.errstate(invalid="ignore", over="ignore"):
        for y in range(0, h, ROWS):
            part = image[y:y + ROWS]
            rows[y:y + ROWS] = part @ np.ones(w, np.float32)
            columns += np.ones(len(part), np.float32) @ part
    return rows, columns


class Level:
    """Subtracts a plane from an image, some rows at a time, and finds the standard deviation of what is left.

    Parameters
    ----------
    along_y, along_x : ndarray
        As of `fit_plane`.
    """

    def __init__(self, along_y: np.ndarray, along_x: np.ndarray) -> None:
        self._along_y, self._along_x = along_y, along_x
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def apply(self, y: int, rows: np.ndarray) -> None:
        """Level rows.

        Parameters
        ----------
        y : int
            Number of the first row.
        rows : ndarray `(n, w)` float32
            Changed in place.
        """
        rows -= self._along_y[y:y + len(rows)] + self._along_x
        flat = rows.reshape(-1)
        self._count += flat.size
        self._sum += float(flat.sum())
        self._squares += float(flat @ flat)

    @property
    def sd(self) -> float:
        """Standard deviation of the rows so far; single precision may have left a level in them."""
        return np.sqrt(max(self._squares / self._count - (self._sum / self._count) ** 2, 0.0))


class Edges:
    """Lets an image fall off to 0 at its four edges, some rows at a time; see `taper`.

    Parameters
    ----------
    shape : (int, int)
    width : float
        Pixels.
    """

    def __init__(self, shape: Sequence[int], width: float) -> None:
        self._y, self._x = (taper(n, width) for n in shape)
        self._n = min(int(np.ceil(width)) + 1, shape[1] // 2)

    def apply(self, y: int, rows: np.ndarray) -> None:
        """Multiply rows by the windows.

        Parameters
        ----------
        y : int
            Number of the first row.
        rows : ndarray `(n, w)` float32
            Changed in place.
        """
        n = self._n
        rows[:, :n] *= self._x[:n]
        rows[:, rows.shape[1] - n:] *= self._x[len(self._x) - n:]
        window = self._y[y:y + len(rows)]
        if window.min() < 1:
            rows *= window[:, None]


def fill_bad_pixels(image: np.ndarray) -> int:
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


def prepare_image(image: np.ndarray, ratio: float = 1.0, invert: bool = True, normalize: bool = True,
                  bad_pixels: str = "error", item: str = "tilt image",
                  turn: Optional[Callable[[np.ndarray, Tuple[float, float]], np.ndarray]] = None
                  ) -> Tuple[np.ndarray, Tuple[float, float], bool, int]:
    """Check, level, taper, rescale and normalise one tilt image, and turn it if asked to.

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
    turn : callable, optional
        ``turn(spectrum, true_ratio)`` gives the turned image for the transform of the rescaled one.

    Returns
    -------
    scaled : ndarray `(h', w')` float32
    true_ratio : (float, float)
        Along y and x; of a turned image before it was turned.
    empty : bool
        The image has no contrast.
    filled : int
        Number of replaced pixels.

    Raises
    ------
    UnitError
        If pixels are not finite and `bad_pixels` is 'error', or all of them are not.
    """
    sums, filled = _checked(image, bad_pixels, item)
    scale = np.abs(sums[0]).max() / image.shape[1]
    largest = max(scale, float(np.abs(image[::16, ::16]).max()))
    unit = 1.0 if 1e-12 < largest < 1e12 or largest == 0 else largest
    if unit != 1:  # squares could leave the range of single precision
        image *= np.float32(1 / unit)
        sums, scale = [s / unit for s in sums], scale / unit
    level, edges = Level(*fit_plane(*sums)), Edges(image.shape, max(8.0, TAPER * min(image.shape)))

    def before(y: int, rows: np.ndarray) -> None:
        level.apply(y, rows)
        edges.apply(y, rows)

    if turn:
        spectrum, true_ratio, shape = low_frequencies(image, ratio, before)
        mean, sd = _mean_and_sd(spectrum, shape)
        spectrum[0, 0] = 0
        scaled = turn(spectrum, true_ratio)
    else:
        scaled, true_ratio = fourier_rescale(image, ratio, before)
        mean, sd = scaled.mean(dtype=np.float64), scaled.std(dtype=np.float64)
        scaled -= np.float32(mean)
    empty = not level.sd > FLAT * scale
    if empty:
        scaled[:] = 0
    else:
        factor = 1.0 / sd if normalize else unit
        scaled *= np.float32(-factor if invert else factor)
    return scaled, true_ratio, empty, filled


def _checked(image: np.ndarray, bad_pixels: str, item: str) -> Tuple[Sequence[np.ndarray], int]:
    """Sums along rows and columns of an image of finite pixels, and how many were filled; changes the image."""
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
    return sums, filled


def extend_image(image: np.ndarray, ratio: float, margin: int, bad_pixels: str = "error",
                 item: str = "tilt image") -> Tuple[np.ndarray, Tuple[float, float], bool, int]:
    """Check one tilt image, repeat its edge pixels outwards and rescale it; it is neither levelled nor scaled.

    Parameters
    ----------
    image : ndarray `(h, w)` float32
        Changed in place where pixels are filled.
    ratio : float
        Output over input pixel size, at least 1.
    margin : int
        Pixels of the input that are added on each side.
    bad_pixels, item
        As `prepare_image`.

    Returns
    -------
    scaled, true_ratio, empty, filled
        As `prepare_image`; an image without contrast stays as it is.

    Raises
    ------
    UnitError
        As `prepare_image`.
    """
    sums, filled = _checked(image, bad_pixels, item)
    empty = _is_flat(image, sums)
    image = np.pad(image, margin, mode="edge")
    return fourier_rescale(image, ratio) + (empty, filled) if ratio > 1 else (image, (1.0, 1.0), empty, filled)


def _is_flat(image: np.ndarray, sums: Sequence[np.ndarray]) -> bool:
    """Whether an image is no more than a plane; by a part of its pixels, unless that is flat."""
    along_y, along_x = fit_plane(*sums)
    least = FLAT * np.abs(sums[0]).max() / image.shape[1]
    for step in (16, 1):
        rest = image[::step, ::step] - along_y[::step] - along_x[::step]
        if rest.std(dtype=np.float64) > least:
            return False
    return True


def _mean_and_sd(spectrum: np.ndarray, shape: Sequence[int]) -> Tuple[float, float]:
    """Of the part of an image that is not padding, from its transform (Parseval's theorem)."""
    h, w = len(spectrum), 2 * (spectrum.shape[1] - 1)
    power = spectrum.real ** 2
    power += spectrum.imag ** 2
    total, first = power.sum(dtype=np.float64), power[:, 0].sum(dtype=np.float64)
    size = shape[0] * shape[1]
    mean = float(spectrum[0, 0].real) / size
    return mean, np.sqrt(max((2 * total - first) / (h * w) / size - mean ** 2, 0.0))


def rescaled_shape(shape: Sequence[int], ratio: float) -> Tuple[int, ...]:
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


def prepare_stack(read: Callable[[int], np.ndarray], items: Sequence[str], pixel_size_in: float, pixel_size_out: float,
                  invert: bool = True, normalize: bool = True, bad_pixels: str = "error", threads: int = 1,
                  progress: Optional[Callable[[], Any]] = None, turn: Optional[Turn] = None,
                  backend: Union[Backend, str] = "cpu", margin: Optional[int] = None) -> PreparedStack:
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
    turn : turn.Turn, optional
        How the images are turned.
    backend : Backend or str
        What turns them; for a GPU the CPU does.
    margin : int, optional
        Extend the images by so many pixels and leave them as they are otherwise (`extend_image`).

    Returns
    -------
    PreparedStack
    """
    from concurrent.futures import ThreadPoolExecutor
    ratio = pixel_size_out / pixel_size_in

    kernels = implementation("numpy" if getattr(backend, "name", backend) == "numpy" else "cpu")

    def one(t: int, out: Optional[np.ndarray] = None) -> Tuple[np.ndarray, Tuple[float, float], bool, int]:
        def turned(spectrum: np.ndarray, true_ratio: Tuple[float, float]) -> np.ndarray:
            assert turn is not None
            image = np.empty(turn.shape, np.float32) if out is None else out
            turn_image(spectrum, [pixel_size_in * r for r in true_ratio], turn.angle[t], pixel_size_out, kernels, image)
            return image

        if margin is not None:
            result = extend_image(read(t), ratio, margin, bad_pixels, items[t])
        else:
            result = prepare_image(read(t), ratio, invert, normalize, bad_pixels, items[t], turned if turn else None)
        if progress:
            progress()
        return result

    first = one(0)
    images = np.empty((len(items),) + first[0].shape, np.float32)
    results: List[Any] = [first[1:]] + [None] * (len(items) - 1)
    images[0] = first[0]

    def store(t: int) -> None:
        scaled, *rest = one(t, images[t])
        if not turn:
            images[t] = scaled
        results[t] = rest

    with ThreadPoolExecutor(max(1, threads)) as pool:
        list(pool.map(store, range(1, len(items))))
    ratios = (pixel_size_out / pixel_size_in,) * 2 if turn else results[0][0]
    return PreparedStack(images, (pixel_size_in * ratios[0], pixel_size_in * ratios[1]),
                         np.array([r[1] for r in results]), np.array([r[2] for r in results]))
