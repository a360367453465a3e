"""Particle tables of RELION 5's pseudo-subtomograms."""

from . import particlestar, star

_LAST = ("rlnTomoVisibleFrames", "rlnImageName", "rlnCtfImage")
_DROPPED = (
    "rlnTomoParticleId", "rlnImagePixelSize", "rlnImageSize", "rlnImageDimensionality", "rlnReconstructImageName",
    "rlnTomoSubtomogramBinning", "rlnCtfDataAreCtfPremultiplied", "rlnPixelSize", "rlnDetectorPixelSize",
    "rlnMagnification") + particlestar.CORNER + particlestar.ORIGIN


def write_pseudosubtomos(path, particles, optics, images, weights, frames, binning, crop, premultiplied, offsets=None):
    """Write the table of extracted pseudo-subtomograms.

    Columns that came with the particles are kept in their order, but for those of the old images; orientations stay.

    Parameters
    ----------
    path : str
    particles : ParticleSet
        Positions at which they were cut out.
    optics : dict of str to (str, Optics, float)
        For each tilt series: name of its optics group or an empty one, optics, and pixel size of the tilt images (A).
        Equal ones make one group.
    images : list of str
        2D stacks or 3D data, as they shall be written.
    weights : list of str or None
        Weights of 3D data; None for 2D stacks.
    frames : list of list of int
        0 or 1 for every tilt of the series.
    binning : float
        Pixel size of the output over that of the tilt images.
    crop : int
        Pixels.
    premultiplied : bool
        Whether the images are multiplied by their CTF.
    offsets : ndarray `(N, 3)`, optional
        rlnOriginX/Y/ZAngst that were not applied.
    """
    names, count = particles.names(), len(particles)
    numbers = {group: i for i, group in enumerate(dict.fromkeys(optics[name] for name in dict.fromkeys(names)), 1)}
    groups = list(numbers)
    called = [g[0] or "opticsGroup%d" % i for g, i in numbers.items()]
    called = [name if called.count(name) == 1 else "%s_%d" % (name, i) for i, name in enumerate(called, 1)]
    table = {"rlnOpticsGroup": list(numbers.values()), "rlnOpticsGroupName": called,
             "rlnSphericalAberration": [g[1].cs for g in groups], "rlnVoltage": [g[1].voltage for g in groups],
             "rlnAmplitudeContrast": [g[1].amplitude_contrast for g in groups],
             "rlnTomoTiltSeriesPixelSize": [g[2] for g in groups],
             "rlnCtfDataAreCtfPremultiplied": [int(premultiplied)] * len(groups),
             "rlnImageDimensionality": [3 if weights else 2] * len(groups),
             "rlnTomoSubtomogramBinning": [float(binning)] * len(groups),
             "rlnImagePixelSize": [float(binning * g[2]) for g in groups], "rlnImageSize": [int(crop)] * len(groups)}
    zeros = [0.0] * count
    new = {"rlnTomoName": names, "rlnTomoParticleName": list(particles.uid),
           "rlnOpticsGroup": [numbers[optics[name]] for name in names]}
    new.update(zip(particlestar.CENTRED, particles.position.T))
    new.update({label + "Angst": zeros if offsets is None else offsets[:, i]
                for i, label in enumerate(particlestar.ORIGIN)})
    columns = {}
    for label in ["rlnTomoName", "rlnTomoParticleName", "rlnOpticsGroup"] + list(particles.extra) + list(new):
        if label not in columns and label not in _DROPPED + _LAST and label not in table or label == "rlnOpticsGroup":
            columns[label] = new.get(label, particles.extra.get(label))
    if not weights:
        columns[_LAST[0]] = ["[%s]" % ",".join(map(str, seen)) for seen in frames]
    columns[_LAST[1]] = list(images)
    if weights:
        columns[_LAST[2]] = list(weights)
    star.write(path, [
        star.Table.from_columns("general", {"rlnTomoSubTomosAre2DStacks": [int(not weights)]}, is_list=True),
        star.Table.from_columns("optics", table), star.Table.from_columns("particles", columns)])
