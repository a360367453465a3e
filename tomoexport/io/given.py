"""What is said beside the files that describe tilt series: what they lack, or have wrong."""

from dataclasses import dataclass

import numpy as np

from ..engine.ctf import Optics
from ..errors import InputError


@dataclass(frozen=True)
class Given:
    """Values that stand in for what a file does not say; 0, None and "" give nothing.

    Attributes
    ----------
    size_px : (int, int, int), optional
        xyz, unbinned voxels of the images' pixel size: size of the tomogram.
    volume_size : (float, float, float), optional
        The same in angstrom; goes first.
    pixel_size : float
        Angstrom per pixel of the tilt images.
    alignment_pixel_size : float
        Angstrom per pixel of the stack that was aligned, where that is not the tilt images' (IMOD).
    centre : {'imod', 'relion'}
        What alignment transforms are about: IMOD's image centre (N-1)/2 or pixel N//2.
    hand : int
        +1 or -1; overrules the file.
    exposure_dose : float
        e/A^2 of one exposure.
    voltage, cs, amplitude_contrast : float
        kV, mm, fraction.
    image_shape : (int, int), optional
        Height and width of images that are not there, pixels.
    size_needed : bool
        False where only distances count: a tomogram's size may be missing then.
    base : str, optional
        Folder in which files are looked for first.
    """

    size_px: tuple = None
    volume_size: tuple = None
    pixel_size: float = 0.0
    alignment_pixel_size: float = 0.0
    centre: str = "imod"
    hand: int = 0
    exposure_dose: float = 0.0
    voltage: float = 0.0
    cs: float = 0.0
    amplitude_contrast: float = 0.0
    image_shape: tuple = None
    size_needed: bool = True
    base: str = None

    def extent(self, pixel_size):
        """Size of the tomogram, if it is given.

        Parameters
        ----------
        pixel_size : float
            Angstrom per pixel of the images.

        Returns
        -------
        tuple of 3 float or None
            Angstrom, xyz.
        """
        if self.volume_size:
            return tuple(self.volume_size)
        return tuple(n * pixel_size for n in self.size_px) if self.size_px else None

    def optics(self, item):
        """Optics of a series whose files say nothing of it.

        Parameters
        ----------
        item : str
            Whose they are.

        Returns
        -------
        Optics

        Raises
        ------
        InputError
            If one of the three values is not given, or out of range.
        """
        known = {"voltage": self.voltage, "cs": self.cs, "amplitude contrast": self.amplitude_contrast}
        missing = [name for name, value in known.items() if not value]
        if missing:
            raise InputError(item, "it does not say %s" % ", ".join(missing), "Give " + ", ".join(
                "--" + name.replace(" ", "-") for name in missing))
        try:
            return Optics(*known.values())
        except InputError as error:
            raise InputError("%s, %s" % (item, error.item), error.cause, error.remedy) from None

    def dose(self, item, order):
        """Dose before each exposure, of equal exposures.

        Parameters
        ----------
        item : str
        order : ndarray `(T,)` of int or None
            Order of acquisition; None where it is not known.

        Returns
        -------
        ndarray `(T,)`
            e/A^2.

        Raises
        ------
        InputError
            If the order is not known.
        """
        if order is None:
            raise InputError(item, "--exposure-dose needs the order in which its images were taken, which it does not "
                             "say", "Give the dose before each image instead, a line each, in a file of this name that "
                             "ends in .dose")
        return self.exposure_dose * np.argsort(np.argsort(order, kind="stable"), kind="stable")

    def told(self, name, mine, its, unit=""):
        """A note where what is given is not what the file says.

        Parameters
        ----------
        name : str
            Option, such as ``--hand``.
        mine, its : float
            What is given and what the file says; None where it says nothing.
        unit : str

        Returns
        -------
        tuple of str
            One line, or none.
        """
        if not mine or its is None or abs(mine - its) <= 1e-3 * abs(its):
            return ()
        return ("%s %g%s is taken, its own table says %g%s" % (name, mine, unit, its, unit),)
