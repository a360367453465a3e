"""Tomograms made easier on the eye: low frequencies restored, the highest damped, by a Wiener-like filter."""

import numpy as np
import scipy.fft

from .ctf import Ctf, Optics

ENTRIES = 8193  # of the radial table
LOW_TILT = 30.0  # degrees: tilts whose defocus counts


def deconvolution_filter(frequency: np.ndarray, ctf: np.ndarray, pixel_size: float, strength: float = 1.0,
                         falloff: float = 1.0, highpass: float = 300.0, flipped: bool = True) -> np.ndarray:
    """The filter at given frequencies.

    Parameters
    ----------
    frequency : ndarray `(K,)`
        Cycles per voxel.
    ctf : ndarray `(K,)`
        CTF there.
    pixel_size : float
        Angstrom.
    strength : float
        Decimal exponent, in thirds, of the assumed signal-to-noise ratio at low frequency.
    falloff : float
        How quickly it falls with frequency.
    highpass : float
        Angstrom: frequencies below 1 / highpass are damped.
    flipped : bool
        The phases are right already: the CTF counts with its absolute value.

    Returns
    -------
    ndarray `(K,)` float64

    Notes
    -----
    ``W = c / (c^2 + 1 / snr)``, ``snr = exp(-100 x falloff / pixel_size) 10^(3 strength) hp(x)`` with x in units of
    the Nyquist frequency and ``hp`` a raised cosine that reaches 1 at ``1 / highpass``. Tegunov and Cramer, Nat.
    Methods 16 (2019) 1146, and the parameters' description at github.com/dtegunov/tom_deconv.
    """
    x = 2 * np.asarray(frequency, np.float64)
    ramp = 0.5 - 0.5 * np.cos(np.pi * np.clip(x * highpass / (2 * pixel_size), 0, 1))
    snr = np.exp(-100 * x * falloff / pixel_size) * 10 ** (3 * strength) * ramp
    c = np.abs(ctf) if flipped else np.asarray(ctf)
    return c / (c ** 2 + 1 / np.maximum(snr, 1e-15))


def deconvolve(volume: np.ndarray, pixel_size: float, optics: Optics, defocus: float, strength: float = 1.0,
               falloff: float = 1.0, highpass: float = 300.0, flipped: bool = True, threads: int = 1) -> np.ndarray:
    """Deconvolve a tomogram.

    Parameters
    ----------
    volume : ndarray `(nz, ny, nx)` float32
    pixel_size : float
        Angstrom.
    optics : Optics
    defocus : float
        Angstrom.
    strength, falloff, highpass, flipped
        As `deconvolution_filter`.
    threads : int

    Returns
    -------
    ndarray `(nz, ny, nx)` float32
    """
    shape = volume.shape
    data = scipy.fft.rfftn(np.asarray(volume, np.float32), workers=threads)
    # Far corners lie at 0.87 cycles per voxel.
    k = np.linspace(0, 0.87, ENTRIES)
    ctf = Ctf(optics, [defocus], [defocus], [0.0]).values(k / pixel_size, 0.0)[0]  # type: ignore[arg-type]  # to arrays
    table = deconvolution_filter(k, ctf, pixel_size, strength, falloff, highpass, flipped).astype(np.float32)
    kz, ky, kx = np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), np.fft.rfftfreq(shape[2])
    for section, z in zip(data, kz):
        place = np.sqrt(z ** 2 + ky[:, None] ** 2 + kx ** 2) * ((ENTRIES - 1) / k[-1])
        section *= np.interp(place.ravel(), np.arange(ENTRIES), table).reshape(place.shape).astype(np.float32)
    return scipy.fft.irfftn(data, s=shape, workers=threads, overwrite_x=True)


def typical_defocus(ctf: Ctf, tilt: np.ndarray) -> float:
    """Defocus that stands for a whole series: the mean of its low tilts.

    Parameters
    ----------
    ctf : Ctf
        Of T tilts.
    tilt : ndarray `(T,)`
        Degrees.

    Returns
    -------
    float
        Angstrom.
    """
    low = np.abs(tilt) <= max(LOW_TILT, np.abs(tilt).min())
    return float(np.mean(0.5 * (ctf.defocus_u + ctf.defocus_v)[low]))
