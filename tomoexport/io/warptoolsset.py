"""Optimisation sets in WarpTools' form: particles with 2D stacks of all tilts, and the tilts in blocks of one table.

The tomogram is a virtual one of the images' pixel size, unbinned, so that programs which disagree about the unit of
coordinates read the same. Rows of the tilt tables are in the order of the images in the stacks.
"""

import os

import numpy as np

from ..engine.poses import zyz_from_matrix
from . import star
from .optimisationset import write_optimisation_set
from .particlestar import ANGLE, CORNER, ORIGIN

_PROJECTION = ("rlnTomoProjX", "rlnTomoProjY", "rlnTomoProjZ")


def names(path):
    """The three files of a set.

    Parameters
    ----------
    path : str
        Of the particle table.

    Returns
    -------
    tuple of str
        Paths of the set, the particles and the tomograms.
    """
    stem = path[:-len(".star")]
    return stem + "_optimisation_set.star", path, stem + "_tomograms.star"


def write_set(path, particles, groups, images, series, views, pixel_size, box):
    """Write particles, tomograms and then the set that names both.

    Parameters
    ----------
    path : str
        Of the particle table.
    particles : ParticleSet
        Those of a tilt series together.
    groups : list of str
        Names of the particles, as readers shall know them.
    images : list of str
        Their stacks, relative to the folder of the table.
    series : dict of str to TiltSeries
    views : dict of str to list of dict
        The T tilts of each series, in the order of the stacks: ``rotation`` (3 x 3: tomogram to image),
        ``defocus_u``, ``defocus_v`` (angstrom, at the tomogram's centre), ``defocus_angle``, ``phase`` (degrees),
        ``scale``, ``before`` (e/A^2, without the exposure).
    pixel_size : float
        Angstrom, of images and coordinates.
    box : int
        Pixels.

    Returns
    -------
    str
        Path of the set.
    """
    whole, table, tomograms = names(path)
    order = [name for name in dict.fromkeys(particles.names())]
    # An even number of pixels has its middle at half of it for every reader.
    sizes = {name: [2 * int(np.ceil(side / pixel_size / 2)) for side in series[name].geometry.volume_size]
             for name in order}
    number = {name: i for i, name in enumerate(order, 1)}
    optics = [series[name].optics for name in order]
    rows = particles.names()
    corner = particles.position / pixel_size + np.array([sizes[name] for name in rows]) / 2
    columns = {"rlnTomoName": [_tomostar(name) for name in rows],
               "rlnTomoParticleId": list(range(1, len(rows) + 1)), **dict(zip(CORNER, corner.T)),
               **dict(zip(ANGLE, zyz_from_matrix(particles.rotation))), "rlnTomoParticleName": list(groups),
               "rlnOpticsGroup": [number[name] for name in rows], "rlnImageName": list(images),
               **{label + "Angst": [0.0] * len(rows) for label in ORIGIN},
               "rlnTomoVisibleFrames": ["[%s]" % ",".join("1" * len(views[name])) for name in rows]}
    groups_of_optics = ["opticsGroup%d" % number[name] for name in order]
    star.write(table, [
        star.Table.from_columns("general", {"rlnTomoSubTomosAre2DStacks": [1]}, is_list=True),
        star.Table.from_columns("optics", {
            "rlnOpticsGroup": list(number.values()), "rlnOpticsGroupName": groups_of_optics,
            "rlnSphericalAberration": [float(o.cs) for o in optics], "rlnVoltage": [float(o.voltage) for o in optics],
            "rlnTomoTiltSeriesPixelSize": [float(pixel_size)] * len(order),
            "rlnCtfDataAreCtfPremultiplied": [0] * len(order), "rlnImageDimensionality": [2] * len(order),
            "rlnTomoSubtomogramBinning": [1.0] * len(order), "rlnImagePixelSize": [float(pixel_size)] * len(order),
            "rlnImageSize": [int(box)] * len(order),
            "rlnAmplitudeContrast": [float(o.amplitude_contrast) for o in optics]}),
        star.Table.from_columns("particles", columns)])
    blocks = [star.Table.from_columns("global", {
        "rlnTomoName": [_tomostar(name) for name in order],
        # No program reads it: the particles have their images.
        "rlnTomoTiltSeriesName": ["%s.mrc" % name for name in groups_of_optics],
        "rlnTomoFrameCount": [len(views[name]) for name in order],
        **{"rlnTomoSize" + axis: [sizes[name][i] for name in order] for i, axis in enumerate("XYZ")},
        "rlnTomoHand": [float(series[name].geometry.hand) for name in order], "rlnOpticsGroupName": groups_of_optics,
        "rlnTomoTiltSeriesPixelSize": [float(pixel_size)] * len(order),
        "rlnVoltage": [float(o.voltage) for o in optics], "rlnSphericalAberration": [float(o.cs) for o in optics],
        "rlnAmplitudeContrast": [float(o.amplitude_contrast) for o in optics],
        "rlnTomoImportFractionalDose": [_step(views[name]) for name in order]})]
    for name in order:
        tilts = views[name]
        matrices = np.array([tilt["rotation"] for tilt in tilts])
        lines = {label: ["[%s,0]" % ",".join(repr(float(v)) for v in row) for row in matrices[:, i]]
                 for i, label in enumerate(_PROJECTION)}
        take = lambda key: [float(tilt[key]) for tilt in tilts]  # noqa: B023, E731  used in this turn only
        blocks.append(star.Table.from_columns(_tomostar(name), {
            **lines, "rlnTomoProjW": ["[0,0,0,1]"] * len(tilts), "rlnDefocusU": take("defocus_u"),
            "rlnDefocusV": take("defocus_v"), "rlnDefocusAngle": take("defocus_angle"),
            "rlnCtfScalefactor": take("scale"), "rlnMicrographPreExposure": take("before"),
            "rlnPhaseShift": take("phase")}))
    star.write(tomograms, blocks)
    write_optimisation_set(whole, particles=os.path.basename(table), tomograms=os.path.basename(tomograms))
    return whole


def _tomostar(name):
    """Warp's name of a tilt series; it makes no number of any name."""
    return name if name.endswith(".tomostar") else name + ".tomostar"


def _step(tilts):
    """Dose of an exposure, e/A^2."""
    before = np.sort([tilt["before"] for tilt in tilts])
    return float(np.median(np.diff(before))) if len(before) > 1 else 0.0
