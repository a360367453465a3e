"""The contrast transfer function of each tilt, and the box that holds it without aliasing.

``CTF = -sin(gamma)`` with ``gamma = -pi lambda dz k^2 + pi/2 Cs lambda^3 k^4 - phase - asin(Q0)``: positive at its
first peak for underfocus, so that contrast-inverted images (particles bright) are the projected density times it.
Astigmatism: ``dz(a) = (U+V)/2 + (U-V)/2 cos 2(a - angle)``, the angle counted from +x of the image.
"""

from dataclasses import dataclass, replace
from typing import Any, Dict, Optional, Sequence, Tuple, Union

import numpy as np

from ..errors import InputError
from .record import fields_of

PER_TILT = ("defocus_u", "defocus_v", "angle", "phase", "bfactor", "scale")  # fields of `Ctf`


@dataclass(frozen=True)
class Optics:
    """Optics of the microscope.

    Attributes
    ----------
    voltage : float
        kV.
    cs : float
        Spherical aberration, mm.
    amplitude_contrast : float
        Fraction.

    Raises
    ------
    InputError
        If a value is missing or out of range.
    """

    voltage: float = 300.0
    cs: float = 2.7
    amplitude_contrast: float = 0.1

    def __post_init__(self) -> None:
        limits = (("voltage", 20.0, 3000.0, "kV"), ("cs", 0.0, 20.0, "mm"), ("amplitude_contrast", 0.0, 1.0, ""))
        for name, low, high, unit in limits:
            value = getattr(self, name)
            if value is None or not np.isfinite(value) or not low <= value <= high:
                raise InputError("optics", "%s is %s" % (name.replace("_", " "), value),
                                 "Give a value from %g to %g %s" % (low, high, unit))

    @property
    def wavelength(self) -> float:
        """Electron wavelength, angstrom: ``h / sqrt(2 m e V (1 + e V / (2 m c^2)))``."""
        volts = self.voltage * 1e3
        return 12.2643247 / np.sqrt(volts * (1.0 + 0.978466e-6 * volts))


@dataclass(frozen=True, eq=False)
class Ctf:
    """CTF parameters of T tilts at the tomogram centre.

    Parameters
    ----------
    optics : Optics
    defocus_u, defocus_v : ndarray `(T,)`
        Angstrom, underfocus positive.
    angle : ndarray `(T,)`
        Degrees from +x of the image: direction of defocus_u.
    phase : ndarray `(T,)`, optional
        Degrees of phase shift (phase plate).
    bfactor : ndarray `(T,)`, optional
        A^2; the image decays by exp(-B k^2 / 4).
    scale : ndarray `(T,)`, optional
        Factor of the amplitude; cos(tilt) by default where a caller needs one.

    Raises
    ------
    InputError
        If lengths differ, or a used value is not finite or not plausible. A tilt without a CTF has NaN defocus and
        must be excluded (`measured`).
    """

    optics: Optics
    defocus_u: np.ndarray
    defocus_v: np.ndarray
    angle: np.ndarray
    phase: np.ndarray = None  # type: ignore[assignment]  # None gives zeros
    bfactor: np.ndarray = None  # type: ignore[assignment]  # None gives zeros
    scale: Optional[np.ndarray] = None

    def __post_init__(self) -> None:
        n = len(np.atleast_1d(self.defocus_u))
        for name in PER_TILT:
            value = getattr(self, name)
            if value is None and name != "scale":
                value = np.zeros(n)
            if value is None:
                continue
            value = np.atleast_1d(np.array(value, np.float64))
            if value.shape != (n,):
                raise InputError("CTF", "%s has %d values for %d tilts" % (name, value.size, n), "Give one per tilt")
            value.flags.writeable = False
            object.__setattr__(self, name, value)
        defocus = np.concatenate([self.defocus_u, self.defocus_v])
        wrong = np.isfinite(defocus) & (np.abs(defocus) > 5e5)
        if wrong.any():
            raise InputError("CTF", "defocus %g A" % defocus[wrong][0], "Defocus is in angstrom, below 500000")

    def numbers(self) -> Dict[str, Any]:
        """Every field as plain values, for fingerprints.

        Returns
        -------
        dict
            By the field's name.
        """
        return fields_of(self)

    @property
    def measured(self) -> np.ndarray:
        """`(T,)` of bool: tilts that have a CTF."""
        return np.isfinite(self.defocus_u) & np.isfinite(self.defocus_v) & np.isfinite(self.angle)

    @property
    def n_tilts(self) -> int:
        """Number of tilts T."""
        return len(self.defocus_u)

    def select(self, mask: Union[np.ndarray, Sequence[int]]) -> "Ctf":
        """The CTFs of some of the tilts.

        Parameters
        ----------
        mask : ndarray `(T,)` of bool, or of indices

        Returns
        -------
        Ctf
        """
        return replace(self, **{name: getattr(self, name)[mask] for name in PER_TILT
                                if getattr(self, name) is not None})

    def coefficients(self, kx: Union[float, np.ndarray], ky: Union[float, np.ndarray],
                     depth_shift: Union[float, np.ndarray] = 0.0) -> Tuple[np.ndarray, np.ndarray]:
        """Terms of the phase in cycles: ``gamma / (2 pi) = a + dz * b``.

        Parameters
        ----------
        kx, ky : ndarray, broadcastable to `(...)`
            Spatial frequency, 1/A, in the image frame.
        depth_shift : float or ndarray `(T,)`
            Angstrom added to the defocus.

        Returns
        -------
        a : ndarray `(T, ...)`
            Phase at the tilt's own defocus plus ``depth_shift``.
        b : ndarray `(...)`
            Change of the phase per angstrom of defocus.

        Notes
        -----
        Phase ``gamma = -pi lambda z k^2 + pi/2 Cs lambda^3 k^4 - phase - arcsin(amplitude contrast)``, z being the
        defocus along k: Mindell and Grigorieff, J. Struct. Biol. 142 (2003) 334; Rohou and Grigorieff, J. Struct. Biol.
        192 (2015) 216.
        """
        lam = self.optics.wavelength
        k2 = np.asarray(kx) ** 2 + np.asarray(ky) ** 2
        shape = (-1,) + (1,) * k2.ndim
        # k^2 cos 2(a - angle) written without an arctan: (kx^2 - ky^2) cos 2angle + 2 kx ky sin 2angle
        twice = np.deg2rad(2 * self.angle).reshape(shape)
        mean = (0.5 * (self.defocus_u + self.defocus_v) + depth_shift).reshape(shape)
        half = (0.5 * (self.defocus_u - self.defocus_v)).reshape(shape)
        along = (np.asarray(kx) ** 2 - np.asarray(ky) ** 2) * np.cos(twice) + 2 * np.asarray(kx) * ky * np.sin(twice)
        cs = self.optics.cs * 1e7
        constant = np.deg2rad(self.phase).reshape(shape) + np.arcsin(self.optics.amplitude_contrast)
        gamma = (-np.pi * lam * (mean * k2 + half * along) + 0.5 * np.pi * cs * lam ** 3 * k2 ** 2 - constant)
        return gamma / (2 * np.pi), -0.5 * lam * k2

    def polynomial(self) -> np.ndarray:
        """The phase of `coefficients` as a polynomial of the frequency.

        Returns
        -------
        ndarray `(T, 6)`
            Factors of kx^2, kx ky, ky^2, k^4 and 1, giving cycles; last that of ``dz k^2`` for a further defocus dz.
        """
        lam, turn = self.optics.wavelength, np.deg2rad(2 * self.angle)
        mean, half = 0.5 * (self.defocus_u + self.defocus_v), 0.5 * (self.defocus_u - self.defocus_v)
        quartic = 0.25 * self.optics.cs * 1e7 * lam ** 3
        constant = -(np.deg2rad(self.phase) + np.arcsin(self.optics.amplitude_contrast)) / (2 * np.pi)
        return np.stack([-0.5 * lam * (mean + half * np.cos(turn)), -lam * half * np.sin(turn),
                         -0.5 * lam * (mean - half * np.cos(turn)), np.full_like(mean, quartic), constant,
                         np.full_like(mean, -0.5 * lam)], -1)

    def values(self, kx: Union[float, np.ndarray], ky: Union[float, np.ndarray],
               depth_shift: Union[float, np.ndarray] = 0.0) -> np.ndarray:
        """CTF without envelope, ``-sin(gamma)``.

        Parameters
        ----------
        kx, ky : ndarray, broadcastable to `(...)`
            Spatial frequency, 1/A, in the image frame.
        depth_shift : float or ndarray `(T,)`
            Angstrom added to the defocus.

        Returns
        -------
        ndarray `(T, ...)`
        """
        a, _ = self.coefficients(kx, ky, depth_shift)
        return -np.sin(2 * np.pi * a)


def frequency_grid(shape: Sequence[int], pixel_size: Union[float, Sequence[float]]) -> Tuple[np.ndarray, np.ndarray]:
    """Frequencies of an rfft2.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the image.
    pixel_size : float or (float, float)
        Angstrom per pixel, or y and x.

    Returns
    -------
    kx `(1, w//2+1)`, ky `(h, 1)` : ndarray
        1/A.
    """
    py, px = np.broadcast_to(np.asarray(pixel_size, np.float64), (2,))
    return np.fft.rfftfreq(shape[1], px)[None, :], np.fft.fftfreq(shape[0], py)[:, None]


def alias_free_box(ctf: Ctf, pixel_size: float, diameter: float, depth_range: Union[float, np.floating] = 0.0,
                   margin: float = 1.1) -> int:
    """Smallest even box in which the CTF of the worst tilt is sampled without aliasing.

    Parameters
    ----------
    ctf : Ctf
        Of the tilts that are used.
    pixel_size : float
        Angstrom per pixel of the output.
    diameter : float
        Angstrom: extent of the particle.
    depth_range : float
        Angstrom: how far particles lie above or below the tomogram centre, at most.
    margin : float
        Factor on the delocalisation.

    Returns
    -------
    int
        Even box size, pixels.

    Notes
    -----
    The signal of frequency k is displaced by ``|d gamma / d k| / 2 pi = |lambda dz k - Cs lambda^3 k^3|``; the box
    must hold the diameter and the largest displacement on both sides. The largest is sought over all tilts,
    astigmatism and depth included.
    """
    defocus = np.concatenate([ctf.defocus_u, ctf.defocus_v])
    # With spherical aberration the smallest defocus can spread the signal more than the largest.
    extremes = np.array([[np.nanmin(defocus) - abs(depth_range)], [np.nanmax(defocus) + abs(depth_range)]])
    k = np.linspace(0, 0.5 / pixel_size, 1000)
    lam, cs = ctf.optics.wavelength, ctf.optics.cs * 1e7
    displacement = np.abs(lam * extremes * k - cs * lam ** 3 * k ** 3).max()
    return 2 * int(np.ceil((diameter + 2 * margin * displacement) / pixel_size / 2))
