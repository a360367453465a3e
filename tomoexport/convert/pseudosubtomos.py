"""Extracted pseudo-subtomograms as sets of Scipion; the inverse, for refined ones, is `refined`."""

import json
import os
from dataclasses import replace

import numpy as np
from pwem.objects import Transform
from tomo.objects import Coordinate3D, SubTomogram

from ..engine.poses import zyz_from_matrix
from ..errors import InputError
from ..io import mrc, optimisationset, particlestar, relion5, star
from . import attributes as extra
from . import positions, to_scipion

# Where scipion-em-reliontomo keeps Scipion's coordinate of a particle.
COORDINATE, GROUP = ("sciXCoord", "sciYCoord", "sciZCoord"), "sciGroupId"
_FILES = ("rlnImageName", "rlnCtfImage")


def write_table(path, items, particles):
    """Write the table from which particles are extracted.

    Orientations are those of the boxes (rlnTomoSubtomogram*), as scipion-em-reliontomo has them: refinement begins
    from there with rlnAngle* of 0.

    Parameters
    ----------
    path : str
    items : tomo.objects.SetOfCoordinates3D or SetOfSubTomograms
    particles : ParticleSet
        Of `positions.particles`, from these items.
    """
    columns = {"rlnTomoName": particles.names(), "rlnTomoParticleName": list(particles.uid)}
    columns.update(zip(particlestar.CENTRED, particles.position.T))
    columns.update(zip(particlestar.BOX_ANGLE, zyz_from_matrix(particles.rotation)))
    columns.update({label: [0.0] * len(particles) for label in particlestar.ANGLE})
    columns.update(particlestar.kept_columns(particles.extra))
    if GROUP not in columns:
        wanted = set(particles.names())
        coordinates = (i.getCoordinate3D() if hasattr(i, "getCoordinate3D") else i for i in items.iterItems())
        columns[GROUP] = [int(c.getGroupId() or 0) for c in coordinates if c.getTomoId() in wanted]
    star.write(path, [star.Table.from_columns("particles", columns)])


def read_table(folder, count):
    """Read the particles that were extracted.

    Parameters
    ----------
    folder : str
        Output folder of the job.
    count : int
        Particles that the jobs recorded.

    Returns
    -------
    ParticleSet
        In the order of the table: positions and orientations of the particles; ``extra`` holds the columns.

    Raises
    ------
    InputError
        If the table has another number of particles, or a file is not there.
    """
    path = os.path.join(folder, "particles.star")
    if not count:
        raise InputError(path, "no particle was extracted", "Look at the summary for the reasons")
    particles, _ = particlestar.read_particles(path)
    if len(particles) != count:
        raise InputError(path, "it has %d particles, %d were extracted" % (len(particles), count),
                         "Restart the protocol")
    for column in _FILES:
        for file in particles.extra.get(column, ()):
            mrc.read_header(file)
    return particles


def bring_home(folder, particles, series, frames, named):
    """Name files as seen from the project's folder, where RELION is run, and add Scipion's coordinates.

    Parameters
    ----------
    folder : str
        Output folder of the job; its particle table and optimisation set are written anew, and a table of tomograms
        where that of another project would not be understood here.
    particles : ParticleSet
        Of `read_table`.
    series : list of io.tiltseries.TiltSeries
        What the table of tomograms names.
    frames : dict of str to positions.Frame
        Of the tomograms, by the name of the tilt series in the table.
    named : callable
        Makes paths as tables have them.

    Returns
    -------
    particles : ParticleSet
        With the columns as they were written.
    str
        Path of the optimisation set.

    Raises
    ------
    InputError
        If a particle is in a tomogram that is not there.
    """
    table, whole = (os.path.join(folder, name) for name in ("particles.star", "optimisation_set.star"))
    blocks = star.read(table)
    columns = {label: particles.extra[label] for label in blocks.table("particles").columns}
    for name in _FILES:
        if name in columns:
            columns[name] = [named(file) for file in columns[name]]
    centred = np.array([columns[label] for label in particlestar.CENTRED], np.float64).T
    stored = [_frame(frames, name).stored(place) for name, place in zip(particles.names(), centred)]
    columns.update(zip(COORDINATE, np.transpose(stored).tolist()))
    columns[GROUP] = columns.pop(GROUP, ["0"] * len(particles))
    star.write(table, [block for block in blocks if block.name != "particles"]
               + [star.Table.from_columns("particles", columns)])
    tables = optimisationset.read_optimisation_set(whole)
    if not _is_of_this_project(tables["tomograms"]):
        tables["tomograms"] = relion5.write_project(folder, series, base=os.getcwd())
    optimisationset.write_optimisation_set(whole, **{name: named(path) for name, path in tables.items()})
    return replace(particles, extra=columns), whole


def _is_of_this_project(tomograms):
    """Tell whether the tables that a table of tomograms names are found from the working folder."""
    label = "rlnTomoTiltSeriesStarFile"
    table = star.read(tomograms).table("global")
    return not table.has(label) or all(map(os.path.isfile, table.text(label)))


def _frame(frames, name):
    if name not in frames:
        raise InputError(name, "there is no tomogram of this name", "Complete the set of tomograms")
    return frames[name]


def relion_set(plugin, folder, optimisation_set, particles, coordinates, **properties):
    """Make the set that the refinements of scipion-em-reliontomo take.

    Parameters
    ----------
    plugin : (module, module)
        Of `refined.plugin`.
    folder : str
        Where its database goes.
    optimisation_set : str
        Of `bring_home`.
    particles : ParticleSet
        The same.
    coordinates : pyworkflow.object.Pointer
        To the set of coordinates.
    **properties
        As createSetOfRelionPSubtomograms has them: ``tsSamplingRate``, ``relionBinning``, ``boxSize``,
        ``are2dStacks``, ``acquisition``.

    Returns
    -------
    reliontomo.objects.RelionSetOfPseudoSubtomograms

    Raises
    ------
    InputError
        If the items of the set are not the particles, in their order.
    """
    objects, convert = plugin
    output = objects.createSetOfRelionPSubtomograms(
        folder, optimisation_set, coordinates, template="pseudosubtomograms%s.sqlite", **properties)
    output.setAreRe5Particles(True)
    convert.readSetOfPseudoSubtomograms(output)
    # The plugin reads as many particles as there are coordinates, and says nothing of the rest.
    found = [(i.getTsId(), i.getRelionParticleName(), i.getFileName()) for i in output.iterItems()]
    if found != list(zip(particles.names(), particles.uid, particles.extra["rlnImageName"])):
        raise InputError(optimisation_set, "scipion-em-reliontomo read %d of %d particles, or under other names" % (
            len(found), len(particles)), "Give the coordinates that the particles were made of, and tilt series whose "
            "names are no numbers")
    return output


def add_subtomograms(output, particles, frames, volumes, acquisitions):
    """Append pseudo-subtomograms to a set of Scipion's own, for want of scipion-em-reliontomo.

    Parameters
    ----------
    output : tomo.objects.SetOfSubTomograms
    particles : ParticleSet
        Of `bring_home`.
    frames : dict of str to positions.Frame
    volumes : dict of str to tomo.objects.Tomogram
        By the name of the tilt series in the table, as the frames.
    acquisitions : dict of str to tomo.objects.TomoAcquisition
        The same.

    Notes
    -----
    The transform is the pose of the particle in its box; how this is turned in the tomogram is an extra attribute, with
    which `positions.particles` finds the whole pose.
    """
    columns, names = particles.extra, particles.names()
    table = star.Table.from_columns("particles", columns)
    box, turn = particlestar.rotations(table)
    offset = particlestar.origins(table)
    angles = np.stack(zyz_from_matrix(box), -1)
    kept = {k: v for k, v in particlestar.kept_columns(columns).items() if k not in COORDINATE}
    weights = columns.get("rlnCtfImage", [""] * len(particles))
    for i, name in enumerate(names):
        coordinate = Coordinate3D()
        coordinate.setVolume(volumes[name])
        coordinate.setTomoId(volumes[name].getTsId())
        centre = np.array([columns[label][i] for label in particlestar.CENTRED], np.float64)
        for attribute, value in zip((coordinate._x, coordinate._y, coordinate._z), frames[name].stored(centre)):
            attribute.set(float(value))
        coordinate.setMatrix(to_scipion.pose(particles.rotation[i]))
        coordinate.setGroupId(int(float(columns[GROUP][i])))
        extra.put(coordinate, extra.UID, particles.uid[i])
        extra.put(coordinate, extra.COLUMNS, json.dumps({label: values[i] for label, values in kept.items()}))
        matrix = to_scipion.pose(turn[i])
        matrix[:3, 3] = turn[i].T @ offset[i] / output.getSamplingRate()
        item = SubTomogram()
        item.setFileName(columns["rlnImageName"][i])
        item.setSamplingRate(output.getSamplingRate())
        item.setCoordinate3D(coordinate)
        item.setVolName(coordinate.getTomoId())
        item.setTransform(Transform(matrix))
        if "rlnClassNumber" in columns:
            item.setClassId(int(float(columns["rlnClassNumber"][i])))
        item.setAcquisition(acquisitions[name])
        extra.put(item, extra.CTF_FILE, weights[i])
        extra.put(item, extra.BOX, json.dumps(angles[i].tolist()))
        output.append(item)


def frames_by_name(tomograms, centre="relion"):
    """Tomograms and their frames, by tsId and by the name that the tilt series had in its own project.

    Parameters
    ----------
    tomograms : tomo.objects.SetOfTomograms
    centre : {'relion', 'imod'}

    Returns
    -------
    frames : dict of str to positions.Frame
    volumes : dict of str to tomo.objects.Tomogram
    """
    frames, volumes = {}, {}
    for tomogram in tomograms.iterItems():
        volume, frame = tomogram.clone(), positions.Frame(tomogram, centre)
        for name in (tomogram.getTsId(), extra.take(tomogram, extra.NAME, tomogram.getTsId())):
            frames.setdefault(name, frame)
            volumes.setdefault(name, volume)
    return frames, volumes
