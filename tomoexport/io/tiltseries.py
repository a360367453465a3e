"""A tilt series: its geometry, its CTF, and where its images are."""

from dataclasses import dataclass, field, replace

import numpy as np

from ..engine.ctf import Ctf, Optics
from ..engine.geometry import TiltSeriesGeometry
from ..errors import InputError
from . import mrc

#: Which of a series' images an operation reads.
ALL, HALVES = ("images",), ("images", "odd", "even")
LARGEST_SIZE = 1e7  # angstrom, of a tomogram: beyond that a size is a damaged number
LEAST_PIXEL, MOST_PIXEL = 1e-3, 1e4  # angstrom: the same of pixels


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
        What is odd about its tables, but no obstacle; what was given beside them and they say otherwise.
    statements : tuple of statements.Statement
        What its tables say that not every operation follows.
    sized : bool
        Whether the size of the tomogram is known; it is read all the same where only distances count.
    fault : InputError, optional
        Why its images cannot be used, although its name and its size can.
    no_ctf : InputError, optional
        What is missing for a CTF, where more is known than that none was measured.
    cosine : bool
        Whether its program weighs tilts by the cosine of the stage's tilt without a table that says so, as Warp does;
        RELION counts them alike unless rlnCtfScalefactor says otherwise.

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
    statements: tuple = ()
    sized: bool = True
    fault: InputError = None
    no_ctf: InputError = None
    cosine: bool = False

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

    def numbers(self):
        """What an operation computes with, as plain values, for fingerprints.

        Returns
        -------
        dict
            Geometry, CTF, tilt of the stage, and which sections of which files.
        """
        return {"geometry": self.geometry.numbers(), "ctf": self.ctf and self.ctf.numbers(),
                "stage_tilt": self.stage_tilt.tolist(), "cosine": self.cosine,
                "sections": [section for _, section in self.images]}

    @property
    def stage_tilt(self):
        """`(T,)` degrees: tilt of the stage, from which the alignment's differs where the specimen lies obliquely.

        rlnTomoNominalStageTiltAngle where the table has it for all tilts, else the alignment's.
        """
        try:
            nominal = np.array(self.extra["rlnTomoNominalStageTiltAngle"], np.float64)
        except (KeyError, ValueError):
            return self.geometry.tilt
        return nominal if np.isfinite(nominal).all() else self.geometry.tilt

    @property
    def tilt_scale(self):
        """`(T,)` what tilts count by (rlnCtfScalefactor): the CTF's scale, else the cosine if its program takes that.

        None where neither is known.
        """
        if self.ctf is None or self.ctf.scale is not None or not self.cosine:
            return self.ctf and self.ctf.scale
        return stage_cosine(self.stage_tilt)

    def doubts(self):
        """Numbers of the alignment that mean something but are hardly meant.

        Returns
        -------
        list of str
            Of the views that are used; a line for people per kind.
        """
        g, seen = self.geometry, []
        reach = 0.5 * g.pixel_size * float(np.hypot(*g.image_shape)) + 0.5 * float(np.hypot(*g.volume_size[:2]))
        for what, values, odd in (
                ("a tilt beyond 90 degrees", g.tilt, np.abs(g.tilt) > 90),
                ("an x-tilt beyond 90 degrees", g.xtilt, np.abs(g.xtilt) > 90),
                ("a shift that moves the tomogram out of the image", np.abs(g.shift).max(axis=1),
                 np.hypot(*g.shift.T) > reach),
                ("a dose of more than 1000 e/A^2", g.dose, g.dose > 1000)):
            odd = odd & g.used
            if odd.any():
                worst = values[odd][np.argmax(np.abs(values[odd]))]
                seen.append("%d views have %s, %.4g at most; are these numbers right?" % (odd.sum(), what, worst))
        return seen

    def check_files(self, kinds=ALL):
        """Check the headers of the image files that an operation reads.

        Parameters
        ----------
        kinds : sequence of str
            `ALL`, or `HALVES` for the images of odd and even frames, too.

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
        for path, section in (image for kind in kinds for image in getattr(self, kind) or ()):
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
            if header.excess:
                notes.append("%s: it is %d bytes longer than its header says" % (path, header.excess))
            if len(sections) < header.shape[0]:
                notes.append("%s: %d of its %d images are not in the table of %s"
                             % (path, header.shape[0] - len(sections), header.shape[0], self.ts_id))
            if header.pixel_size and abs(header.pixel_size / self.geometry.pixel_size - 1) > 0.01:
                notes.append("%s: the header says %.4g A per pixel, the table of %s %.4g A; the table counts"
                             % (path, header.pixel_size, self.ts_id, self.geometry.pixel_size))
        return notes


def stage_cosine(tilt):
    """rlnCtfScalefactor as Warp and RELION's pipelines have it.

    Parameters
    ----------
    tilt : float or ndarray
        Degrees, of the stage.

    Returns
    -------
    float or ndarray
        Its cosine, whatever the x-tilt; never 0, which would leave an image out.
    """
    return np.clip(np.cos(np.deg2rad(tilt)), 1e-3, 1.0)
