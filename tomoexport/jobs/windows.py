"""RELION's windows of tilt images about particles: what its pseudo-subtomograms and its maps of particles share."""

from dataclasses import dataclass, replace

import numpy as np

from ..engine.poses import matrix_from_zyz
from ..engine.preprocess import rescaled_shape
from ..engine.pseudosubtomo import setup_pseudosubtomos, visible_tilts, whitening_filter
from ..engine.trajectory import Trajectory
from ..errors import InputError, UnitError
from ..io import optimisationset, particlestar
from .particles import box_facts
from .plan import PROCESS_BYTES, Problem
from .tiltseries import Preparation, Requirements


@dataclass(frozen=True)
class Windows:
    """How windows are cut.

    Attributes
    ----------
    box, crop : int
        Sides of the box in which the CTF is applied, and of the circle; pixels of the output, even.
    binning : float
        Pixel size of the output over that of the images.
    exact : bool
        Whether images are not binned before.
    ctf, invert, circle, precrop, whiten : bool
        As `engine.pseudosubtomo.setup_pseudosubtomos` takes them.
    """

    box: int
    crop: int
    binning: float
    exact: bool
    ctf: bool
    invert: bool
    circle: bool
    precrop: bool
    whiten: bool

    @classmethod
    def of(cls, options, circle, precrop):
        """The windows that options ask for.

        Parameters
        ----------
        options : RelionOptions
        circle, precrop : bool

        Returns
        -------
        Windows
        """
        return cls(options.box, crop(options), options.binning, options.exact, options.ctf, options.invert, circle,
                   precrop, options.whiten)

    @property
    def margin(self):
        """Pixels by which images are extended; half a window."""
        return 2 * int(np.ceil(self.binning * self.box / 4))

    @property
    def ratio(self):
        """Pixel of the output over that of the images that windows are cut from, but for rounding."""
        return self.binning if self.exact else 1.0

    def preparation(self, pixel_size, bad_pixels):
        """What happens to tilt images before.

        Parameters
        ----------
        pixel_size : float
            Angstrom, of the images.
        bad_pixels : str

        Returns
        -------
        tiltseries.Preparation
        """
        return Preparation(pixel_size if self.exact else self.binning * pixel_size, bad_pixels=bad_pixels,
                           margin=self.margin)

    def setup(self, series, images, backend):
        """What all particles of a tilt series share.

        Parameters
        ----------
        series : TiltSeries
        images : ndarray `(T, h, w)` float32
            Of the host, extended.
        backend : Backend

        Returns
        -------
        PseudosubtomoSetup

        Raises
        ------
        UnitError
            If the images are smaller than a window, whose noise is to be whitened.
        """
        g, whitening = series.geometry, None
        ctf = replace(series.ctf, scale=series.tilt_scale) if self.ctf else None
        if self.whiten:
            binned = 1.0 if self.exact else self.binning
            edge = int(np.ceil(self.margin / binned))
            inner, side = images[:, edge:-edge, edge:-edge], int(self.ratio * self.box + 0.5)
            if min(inner.shape[1:]) < side:
                raise UnitError(series.ts_id, "its images are smaller than a window", "Take a smaller --box, or do not "
                                "whiten")
            whitening = whitening_filter(inner, side, self.box, binned)
        return setup_pseudosubtomos(
            g, ctf, self.box, self.crop, self.binning * g.pixel_size, self.binning,
            backend, self.ratio, self.invert, self.circle, self.precrop, whitening, g.dose_bfactor)

    def image_bytes(self, geometry):
        """Memory of the prepared images, and of a thread that prepares one.

        Parameters
        ----------
        geometry : TiltSeriesGeometry

        Returns
        -------
        shared, reader : int
            With the process and what all particles have in common.
        """
        shape = [n + 2 * self.margin for n in geometry.image_shape]
        images = 4 * geometry.n_tilts * int(np.prod(rescaled_shape(shape, 1.0 if self.exact else self.binning)))
        return PROCESS_BYTES + images + 12 * geometry.n_tilts * self.box ** 2, 16 * int(np.prod(shape))


def crop(options):
    """Side of the output.

    Parameters
    ----------
    options : RelionOptions

    Returns
    -------
    int
        Pixels; the box where no crop is asked for.
    """
    return options.crop or options.box


def completed(options):
    """Options with the tables that an optimisation set names.

    Parameters
    ----------
    options : RelionOptions

    Returns
    -------
    RelionOptions

    Raises
    ------
    InputError
        If the set cannot be read, tables are not given, or the boxes do not go together.
    """
    if options.optimisation_set:
        missing = [name for name in optimisationset.LABELS if not getattr(options, name)]
        options = replace(options, **optimisationset.read_optimisation_set(options.optimisation_set, missing))
    for name, what in (("tomograms", "a tomograms.star"), ("particles", "a particle STAR file")):
        if not getattr(options, name):
            raise InputError("--" + name, "no file is given", "Name %s, or an --optimisation-set" % what)
    if crop(options) > options.box:
        raise InputError("--crop", "%d px is more than the box of %d px" % (crop(options), options.box),
                         "Take a smaller crop or a larger --box")
    return options


def within_the_circle(options, geometry, xy):
    """Which tilts show particles: those whose image holds the circle of the cropped window; see `ParticleVerb`."""
    return visible_tilts(geometry, xy, options.binning * crop(options) / 2 * geometry.pixel_size,
                         options.max_dose or None)


def requirements(options):
    """What is needed of tilt series; see `ParticleVerb`."""
    return Requirements(ctf=options.ctf and not getattr(options, "only_project", False))


def adjusted(options, particles):
    """The particles, which must not turn, with or without their offsets; see `ParticleVerb`."""
    if isinstance(particles.trajectory, Trajectory):
        raise InputError(options.particles, "its particles turn while they are exposed, which RELION has no place for",
                         "Use tomoexport subtomo or series, which follow M's trajectories")
    if getattr(options, "apply_offsets", True):
        return particles
    turned = np.einsum("nij,nj->ni", box_rotation(particles), offsets(particles))
    return replace(particles, position=particles.position + turned)


def box_rotation(particles):
    """Rotation of each particle's box.

    Parameters
    ----------
    particles : ParticleSet

    Returns
    -------
    ndarray `(N, 3, 3)`
        rlnTomoSubtomogramRot, Tilt, Psi.
    """
    if not any(label in particles.extra for label in particlestar.BOX_ANGLE):
        return np.broadcast_to(np.eye(3), (len(particles), 3, 3))
    zeros = [0.0] * len(particles)
    return matrix_from_zyz(*(np.array(particles.extra.get(label, zeros), np.float64)
                             for label in particlestar.BOX_ANGLE))


def offsets(particles):
    """Offsets of particles, which the reader of their table has applied.

    Parameters
    ----------
    particles : ParticleSet

    Returns
    -------
    ndarray `(N, 3)`
        rlnOriginX/Y/ZAngst.
    """
    labels, zeros = [label + "Angst" for label in particlestar.ORIGIN], [0.0] * len(particles)
    return np.stack([np.array(particles.extra.get(label, zeros), np.float64) for label in labels], -1)


def describe(unit, work, options, problems):
    """Facts and problems of a tilt series that are the same for both operations.

    Parameters
    ----------
    unit : plan.Unit
    work : ParticleWork
    options : RelionOptions
    problems : list of Problem

    Returns
    -------
    ParticleWork
        The same.
    """
    g = unit.series.geometry
    unit.facts.update(pixel="%g A" % (options.binning * g.pixel_size),
                      **box_facts(options, options.binning * g.pixel_size), crop="%d px" % crop(options))
    if any(int(round(n / g.pixel_size)) % 2 for n in g.volume_size):
        problems.append(Problem("warning", unit.name, "the tomogram's size is odd, where RELION's centre is half a "
                                "pixel off", "Give rlnTomoSizeX, Y and Z even numbers"))
    window = options.binning * options.box
    if options.exact and abs(window - round(window)) > 1e-6:
        problems.append(Problem("warning", unit.name, "windows of %g px are cut with %d: particles lie off the centre "
                                "by up to a quarter of a pixel, as in RELION" % (window, int(window + 0.5)),
                                "Take a binning and a box whose product is whole, or binned images"))
    if options.ctf and unit.series.ctf is not None and unit.series.tilt_scale is None:
        problems.append(Problem("warning", unit.name, "its table has no rlnCtfScalefactor: all tilts weigh alike, as "
                                "RELION's extraction and refinement have it then; its job that reconstructs tomograms "
                                "writes the cosine of the tilt there", "Add the column if steep tilts are to weigh "
                                "less"))
    return work


def seen_at(run):
    """Where the particles of an extraction are seen, and how deep they lie.

    Parameters
    ----------
    run : extraction.Extraction

    Returns
    -------
    place : ndarray `(N, T, 2)`
        Pixels of the images from their corner, yx.
    depth : ndarray `(N, T)`
        Angstrom added to the defocus.
    """
    g = run.series.geometry
    # A trajectory moves the image point and leaves the defocus, as in RELION.
    return (run.stack.position_px(g.project(run.poses()[0]).xy),
            g.defocus_shift(g.project(run.particles.position).depth))


