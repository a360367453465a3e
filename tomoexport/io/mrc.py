"""MRC files, read strictly and written whole.

mrcfile interprets and makes the headers. The pixels are read and written here, in place: mrcfile would hold whole
volumes in memory, or use a memory map, where a full disk or a file that shrinks kills the process instead of raising an
error.
"""

import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from tempfile import NamedTemporaryFile

import mrcfile
import mrcfile.mrcfile
import mrcfile.utils
import numpy as np

from ..errors import InputError
from .atomic import staged

_HEADER_BYTES = 1024
_PIECE_BYTES = 4 << 20
_READ_BYTES = 1 << 30  # a system takes no more than 2 GiB at once
_IMOD_STAMP = 1146047817


@dataclass(frozen=True)
class Header:
    """What the header of an MRC file says.

    Attributes
    ----------
    path : str
    shape : (int, int, int)
        Sections, rows, columns.
    dtype : numpy.dtype
        Of the pixels in the file, with its byte order.
    pixel_size : float
        Angstrom along x; 0 where the header gives none.
    mode : int
        MRC mode.
    offset : int
        Bytes before the first pixel.
    excess : int
        Bytes after the last one.
    """

    path: str
    shape: tuple
    dtype: np.dtype
    pixel_size: float
    mode: int
    offset: int
    excess: int = 0


def read_header(path):
    """Read and check the header of an MRC file of any extension and byte order.

    Parameters
    ----------
    path : str

    Returns
    -------
    Header

    Raises
    ------
    InputError
        If the file is missing, empty, no MRC file, of a mode without real pixels, or shorter than its header says.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise InputError(path, "there is no such file", "Check the path, and that the disk is mounted")
    size = os.path.getsize(path)
    if size == 0:
        raise InputError(path, "the file is empty (0 bytes), not an MRC", "Make or copy it again")
    try:
        with mrcfile.mrcfile.MrcFile(path, header_only=True) as mrc:
            header = mrc.header
            dtype = mrcfile.utils.data_dtype_from_header(header)
    except ValueError as error:
        raise InputError(path, "not an MRC file (%s)" % error, "Give an uncompressed MRC file") from None
    mode = int(header.mode)
    if dtype.kind == "c":
        raise InputError(path, "MRC mode %d holds complex numbers" % mode, "Give an image or volume of real numbers")
    if mode == 0 and _unsigned_bytes(header):
        dtype = np.dtype(np.uint8)
    shape = tuple(int(n) for n in (header.nz, header.ny, header.nx))
    if min(shape) < 1:
        raise InputError(path, "its header gives %d x %d x %d pixels" % shape[::-1], "Make or copy it again")
    axes = tuple(int(n) for n in (header.mapc, header.mapr, header.maps))
    if axes not in ((1, 2, 3), (0, 0, 0)):
        raise InputError(path, "its axes are stored in the order %d %d %d" % axes, "Rewrite it in the order x y z")
    offset = _HEADER_BYTES + int(header.nsymbt)
    expected = offset + dtype.itemsize * shape[0] * shape[1] * shape[2]
    if size < expected:
        raise InputError(path, "the file is truncated: %d bytes, expected %d for %d x %d x %d pixels"
                         % ((size, expected) + shape[::-1]), "Make or copy it again")
    pixel = float(header.cella.x) / int(header.mx) if header.mx > 0 and header.cella.x > 0 else 0.0
    return Header(path, shape, dtype, pixel, mode, offset, size - expected)


def _unsigned_bytes(header):
    """Whether IMOD wrote the bytes of mode 0 as 0 to 255, which it marks by a stamp and a cleared flag."""
    stamp, flags = np.frombuffer(header.extra2.tobytes()[40:48], header.nx.dtype)
    return stamp == _IMOD_STAMP and not flags & 1


class Stack:
    """Images of an open MRC file; made by `open_stack`, closed by `close` or as a context manager.

    Parameters
    ----------
    header : Header
    """

    def __init__(self, header):
        self.header = header
        self._handle = os.open(header.path, os.O_RDONLY | os.O_CLOEXEC)

    def __len__(self):
        return self.header.shape[0]

    def read(self, index):
        """Read one section.

        Parameters
        ----------
        index : int
            Counted from 0.

        Returns
        -------
        ndarray `(ny, nx)` float32
            A copy.

        Raises
        ------
        InputError
            If the file has no such section, or no longer has it.
        OSError
            If the disk fails.
        """
        if not 0 <= index < len(self):
            raise InputError(self.header.path, "section %d is asked for, the file has %d" % (index + 1, len(self)),
                             "Correct the image numbers of the table")
        _, rows, columns = self.header.shape
        raw = np.empty((rows, columns), self.header.dtype)
        # Not by a memory map: a file that shrinks, or a disk that fails, would end the process.
        rest, offset = memoryview(raw.reshape(-1).view(np.uint8)), self.header.offset + index * raw.nbytes
        while len(rest):
            done = os.preadv(self._handle, [rest[:_READ_BYTES]], offset)
            if not done:
                raise InputError(self.header.path, "it ends within section %d: it has become shorter since its header "
                                 "was read" % (index + 1), "Make or copy it again")
            rest, offset = rest[done:], offset + done
        return raw.astype(np.float32, copy=False)

    def close(self):
        """Release the file."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def open_stack(path):
    """Open an MRC file for reading section by section.

    Parameters
    ----------
    path : str

    Returns
    -------
    Stack

    Raises
    ------
    InputError
        As `read_header`.
    """
    return Stack(read_header(path))


def read_volume(path, finite=True):
    """Read a whole MRC file.

    Parameters
    ----------
    path : str
    finite : bool
        Whether a pixel that is not a finite number is an error.

    Returns
    -------
    array : ndarray `(nz, ny, nx)` float32
    pixel_size : float
        Angstrom.

    Raises
    ------
    InputError
        As `read_header`; and if a pixel is NaN or infinite, naming the section.
    """
    with open_stack(path) as stack:
        array = np.empty(stack.header.shape, np.float32)
        for index, section in enumerate(array):
            section[:] = stack.read(index)
            if finite and not np.isfinite(section).all():
                raise InputError(path, "section %d holds pixels that are not finite numbers" % (index + 1),
                                 "Make the file again, or mend these pixels")
    return array, stack.header.pixel_size


class VolumeWriter:
    """Write an MRC file slab by slab; it appears under its name only when it is complete.

    Use as a context manager; leaving it by an exception leaves a file that was there before as it was.

    Parameters
    ----------
    path : str
    shape : (int, int, int)
        Sections, rows, columns.
    pixel_size : float
        Angstrom.
    dtype : float32 or float16
    kind : {'volume', 'stack', 'image'}
        Volumes have space group 1 in the header, the others 0.
    origin : (float, float, float)
        Angstrom, xyz.
    label : str
        For the header; 80 characters.

    Raises
    ------
    InputError
        On leaving: if sections are missing, or float16 cannot hold the values' differences.
    """

    def __init__(self, path, shape, pixel_size, dtype=np.float32, kind="volume", origin=(0, 0, 0), label=""):
        self.path, self.shape = os.fspath(path), tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)
        self._pixel_size, self._origin, self._label = float(pixel_size), origin, label or "tomoexport"
        self._space_group = {"volume": 1, "stack": 0, "image": 0}[kind]
        self._written, self._lock = np.zeros(self.shape[:2], bool), threading.Lock()
        self._low, self._high, self._sum, self._squares = np.inf, -np.inf, 0.0, 0.0

    def __enter__(self):
        self._context = self._staged()
        self._context.__enter__()
        return self

    def __exit__(self, *error):
        return self._context.__exit__(*error)

    @contextmanager
    def _staged(self):
        with staged(self.path, named=True) as temp:
            with open(temp, "wb", buffering=0) as self._file:
                yield
                self._finish(self._new_header())

    def put(self, z0, slab, y0=0):
        """Write sections ``z0`` and following, or some rows of them; threads may write different parts at once.

        Parameters
        ----------
        z0 : int
        slab : ndarray `(n, rows, nx)`
            Each row may be written once.
        y0 : int
            First row.

        Raises
        ------
        InputError
            If a value is not finite, or too large for the type.
        """
        slab = np.asarray(slab)
        z1, y1 = z0 + slab.shape[0], y0 + slab.shape[1]
        if not (0 <= z0 < z1 <= self.shape[0] and 0 <= y0 < y1 <= self.shape[1] and slab.shape[2] == self.shape[2]):
            raise ValueError("%s: sections %d to %d of shape %s do not fit" % (self.path, z0, z1 - 1, slab.shape[1:]))
        with self._lock:
            if self._written[z0:z1, y0:y1].any():
                raise ValueError("%s: sections %d to %d are there already" % (self.path, z0, z1 - 1))
            self._written[z0:z1, y0:y1] = True
        line = self.dtype.itemsize * self.shape[2]
        # Whole sections lie one after the other in the file and can be written together.
        whole = slab.shape[1] == self.shape[1]
        step = max(1, _PIECE_BYTES // max(1, line * slab.shape[1])) if whole else 1
        found = []
        for z in range(z0, z1, step):
            piece = slab[z - z0:z - z0 + step]
            with np.errstate(over="ignore"):
                stored = np.ascontiguousarray(piece, self.dtype)
            values = stored.astype(np.float32, copy=False).reshape(-1)
            low, high = float(values.min()), float(values.max())
            if not (np.isfinite(low) and np.isfinite(high)):
                raise self._unfit(z, piece)
            if max(-low, high) > 1e15:  # their squares would leave single precision
                values = values.astype(np.float64)
            found.append((low, high, float(values.sum()), float(values @ values)))
            _write_at(self._file, stored, _HEADER_BYTES + (z * self.shape[1] + y0) * line)
        lows, highs, sums, squares = zip(*found)
        with self._lock:
            self._low, self._high = min((self._low,) + lows), max((self._high,) + highs)
            self._sum += sum(sums)
            self._squares += sum(squares)

    def _unfit(self, first, piece):
        """The error for sections that hold a value that cannot be stored."""
        with np.errstate(over="ignore"):
            z = first + int(np.argmin([np.isfinite(section.astype(self.dtype)).all() for section in piece]))
        section = piece[z - first]
        if np.isfinite(section).all():
            return InputError(self.path, "section %d holds the value %g, %s holds up to %g"
                              % (z + 1, np.abs(section).max(), self.dtype, np.finfo(self.dtype).max),
                              "Write float32, or normalise the data")
        return InputError(self.path, "section %d to be written holds values that are not finite numbers" % (z + 1),
                          "Look for such pixels in the input; nothing was written")

    def _new_header(self):
        header = _template(self.dtype.name).copy()
        for axis, sections in zip("zyx", self.shape):
            header["n" + axis] = header["m" + axis] = sections
            header["cella"][axis] = sections * self._pixel_size
        for axis, value in zip("xyz", self._origin):
            header["origin"][axis] = value
        header["ispg"] = self._space_group
        # mrcfile's own label holds the time: the same data shall give the same bytes.
        header["label"][0], header["nlabl"] = self._label.encode("ascii", "replace")[:80], 1
        return header

    def _finish(self, header):
        if not self._written.all():
            whole = self._written.all(axis=1).sum()
            raise InputError(self.path, "only %d of %d sections were computed" % (whole, self.shape[0]),
                             "Run the job again")
        n = float(np.prod(self.shape, dtype=np.float64))
        mean = self._sum / n
        rms = np.sqrt(max(self._squares / n - mean ** 2, 0.0))
        if self.dtype == np.float16 and rms < 16 * float(np.spacing(np.float16(abs(mean) + 3 * rms))) and rms > 0:
            raise InputError(self.path, "float16 is too coarse for values of mean %g and deviation %g" % (mean, rms),
                             "Write float32, or normalise the data")
        for name, value in (("dmin", self._low), ("dmax", self._high), ("dmean", mean), ("rms", rms)):
            header[name] = value
        _write_at(self._file, np.frombuffer(header.tobytes(), np.uint8), 0)


@lru_cache(maxsize=4)
def _template(dtype):
    """A header as mrcfile makes it, for one kind of pixels; a plain array, whose fields are set ten times faster."""
    with NamedTemporaryFile(suffix=".mrc") as temp:
        with mrcfile.new(temp.name, overwrite=True) as mrc:
            mrc.set_data(np.zeros((1, 1, 1), dtype))
            return np.array(mrc.header).view(np.ndarray)


def _write_at(file, array, offset):
    """Write an array's bytes at a place of a file; the system may take them in several portions."""
    rest = memoryview(array).cast("B")
    while len(rest):
        done = os.pwrite(file.fileno(), rest, offset)
        rest, offset = rest[done:], offset + done


def write(path, array, pixel_size, kind="volume", float16=False, origin=(0, 0, 0), label=""):
    """Write an MRC file, atomically, in float32 or float16.

    Parameters
    ----------
    path : str
    array : ndarray `(nz, ny, nx)` or, for one image, `(ny, nx)`
    pixel_size : float
        Angstrom.
    kind, origin, label
        As in `VolumeWriter`.
    float16 : bool
        Half the size, for values up to 65504.

    Raises
    ------
    InputError
        If a value is not finite, or float16 cannot hold the values.
    """
    array = np.asarray(array)
    array = array[None] if array.ndim == 2 else array
    dtype = np.float16 if float16 else np.float32
    with VolumeWriter(path, array.shape, pixel_size, dtype, kind, origin, label) as writer:
        writer.put(0, array)
