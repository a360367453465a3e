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
        Equal ones make one group, unless the particles' own table has groups.
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
    table, group = _optics(particles, optics, {
        "rlnCtfDataAreCtfPremultiplied": int(premultiplied), "rlnImageDimensionality": 3 if weights else 2,
        "rlnTomoSubtomogramBinning": float(binning), "rlnImageSize": int(crop)}, binning)
    zeros = [0.0] * count
    new = {"rlnTomoName": names, "rlnTomoParticleName": list(particles.uid),
           "rlnOpticsGroup": group}
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


def _optics(particles, optics, same, binning):
    """Columns of data_optics, and the group of each particle, from 1.

    Groups of the particles' own table are kept, with all their columns; each is one group for every microscope and
    pixel size that its particles are of. Particles without are grouped by those.
    """
    own = _own_groups(particles)
    which = [""] * len(particles)
    if own:
        which = particles.extra.get("rlnOpticsGroup") or [next(iter(own))] * len(particles)
    of_series = [optics[name] for name in particles.names()]
    pairs = [(group if own else microscope[0], microscope) for group, microscope in zip(which, of_series)]
    distinct = list(dict.fromkeys(pairs))
    if own:
        order = list(own)
        distinct.sort(key=lambda pair: order.index(pair[0]))
    rows = [own.get(group, {}) for group, _ in distinct]
    names = [row.get("rlnOpticsGroupName", "" if own else group) for row, (group, _) in zip(rows, distinct)]
    table = {"rlnOpticsGroup": list(range(1, len(distinct) + 1)), "rlnOpticsGroupName": _different(names)}
    table.update({column: [row[column] for row in rows] for column in rows[0] if column not in table})
    table.update({
        "rlnSphericalAberration": [microscope.cs for _, (_, microscope, _) in distinct],
        "rlnVoltage": [microscope.voltage for _, (_, microscope, _) in distinct],
        "rlnAmplitudeContrast": [microscope.amplitude_contrast for _, (_, microscope, _) in distinct],
        "rlnTomoTiltSeriesPixelSize": [pixel for _, (_, _, pixel) in distinct],
        **{label: [value] * len(distinct) for label, value in same.items()},
        "rlnImagePixelSize": [float(binning * pixel) for _, (_, _, pixel) in distinct]})
    numbers = {pair: i for i, pair in enumerate(distinct, 1)}
    return table, [numbers[pair] for pair in pairs]


def _own_groups(particles):
    """The optics groups of the particles' own table: columns and values of each, by its number there."""
    own = particles.table.optics if particles.table is not None else None
    if own is None or not own.has("rlnOpticsGroup"):
        return {}
    return {row["rlnOpticsGroup"]: row for row in (dict(zip(own.columns, values)) for values in own.iter_rows())}


def _different(names):
    """Names of groups, none of them empty and no two the same."""
    called = [name or "opticsGroup%d" % i for i, name in enumerate(names, 1)]
    return [name if called.count(name) == 1 else "%s_%d" % (name, i) for i, name in enumerate(called, 1)]
