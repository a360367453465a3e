"""A tilt series: its geometry, its CTF, and where its images are."""

from dataclasses import dataclass, field, replace

import numpy as np

from ..engine.ctf import Ctf, Optics
from ..engine.geometry import TiltSeriesGeometry
from ..errors import InputError
from . import mrc


@dataclass(frozen=True, eq=False)
class TiltSeries:
    """T tilts with their files.

    Parameters
    ----------
    geometry : TiltSeriesGeometry
    ctf : Ctf or None
        None if no CTF was measured at all.
    images : tuple of (str, int)
        For each tilt: absolute path, and section counted from 0.
    odd, even : tuple of (str, int), optional
        The same for the images of odd and even frames.
    optics_group : str
    optics : Optics, optional
    extra : dict of str to list of str
        Columns of the tilt table that have no other place here, T values each.
    tomo_extra : dict of str to str
        The same for the row of the tomogram table.
    notes : tuple of str
        What is odd about its tables, but no obstacle.
    fault : InputError, optional
        Why its images cannot be used, although its name and its size can.

    Raises
    ------
    InputError
        If something is not there once per tilt.
    """

    geometry: TiltSeriesGeometry
    ctf: Ctf
    images: tuple
    odd: tuple = None
    even: tuple = None
    optics_group: str = ""
    optics: Optics = None
    extra: dict = field(default_factory=dict)
    tomo_extra: dict = field(default_factory=dict)
    notes: tuple = ()
    fault: InputError = None

    def __post_init__(self):
        n = self.geometry.n_tilts
        lengths = {"images": self.images, "odd": self.odd, "even": self.even, **self.extra}
        counts = {name: len(values) for name, values in lengths.items() if values is not None}
        if self.ctf is not None:
            counts["CTF"] = self.ctf.n_tilts
        for name, count in counts.items():
            if count != n:
                raise InputError(self.ts_id, "%s: %d values for %d tilts" % (name, count, n), "Give one per tilt")

    @property
    def ts_id(self):
        """Name of the tilt series."""
        return self.geometry.ts_id

    def select(self, mask):
        """The series with some of its tilts only.

        Parameters
        ----------
        mask : ndarray `(T,)` of bool, or of indices
            Indices also set the order.

        Returns
        -------
        TiltSeries

        Raises
        ------
        InputError
            If no tilt is left.
        """
        index = np.arange(self.geometry.n_tilts)[mask]
        pick = lambda values: None if values is None else tuple(values[i] for i in index)  # noqa: E731
        return replace(self, geometry=self.geometry.select(index), ctf=self.ctf and self.ctf.select(index),
                       images=pick(self.images), odd=pick(self.odd), even=pick(self.even),
                       extra={name: list(pick(values)) for name, values in self.extra.items()})

    def check_files(self):
        """Check the headers of all image files.

        Returns
        -------
        list of str
            What is odd but no obstacle: sections that no tilt uses, a pixel size that is not the table's.

        Raises
        ------
        InputError
            If a file is missing or damaged, its images have another size, or it has too few of them; the fault.
        """
        if self.fault:
            raise self.fault
        notes = []
        used = {}
        for path, section in self.images + (self.odd or ()) + (self.even or ()):
            used.setdefault(path, set()).add(section)
        for path, sections in used.items():
            header = mrc.read_header(path)
            if header.shape[1:] != self.geometry.image_shape:
                raise InputError(path, "its images have %d x %d px, tilt series %s has %d x %d"
                                 % (header.shape[:0:-1] + (self.ts_id,) + self.geometry.image_shape[::-1]),
                                 "Give images of one size")
            if max(sections) >= header.shape[0]:
                raise InputError(path, "it has %d images, tilt series %s needs %d" % (header.shape[0], self.ts_id,
                                                                                   max(sections) + 1),
                                 "Give the stack that belongs to the table")
            if len(sections) < header.shape[0]:
                notes.append("%s: %d of its %d images are not in the table of %s"
                             % (path, header.shape[0] - len(sections), header.shape[0], self.ts_id))
            if header.pixel_size and abs(header.pixel_size / self.geometry.pixel_size - 1) > 0.01:
                notes.append("%s: the header says %.4g A per pixel, the table of %s %.4g A; the table counts"
                             % (path, header.pixel_size, self.ts_id, self.geometry.pixel_size))
        return notes
