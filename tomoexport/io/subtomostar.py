"""STAR files of sub-tomogram volumes with 3D CTF, as RELION 3.0 and 3.1 and Warp know them."""

import numpy as np

from ..engine.particles import ParticleSet
from ..engine.poses import zyz_from_matrix
from ..errors import InputError
from . import mrc, particlestar, star
from .paths import locate, search_folders

_NOTE = ("RELION 4 and 5 take a 3D CTF (rlnCtfImage) for its square: give them --ctf3d_not_squared.\n"
         "RELION 3 reads it as it is.")


def write_subtomos(path, particles, image_names, ctf_names, pixel_size, box, optics, *, centres,
                   micrograph_names=None, style="3.1"):
    """Write the STAR file of exported sub-tomograms.

    Offsets are 0 and angles are those of the particle in the volume, since the volumes are cut at the particles.
    Columns that came with the particles are kept unless they describe the old images.

    Parameters
    ----------
    path : str
    particles : ParticleSet
    image_names, ctf_names : sequence of str
        Files of the volumes and of the 3D CTFs, as they shall be written.
    pixel_size : float
        Angstrom per voxel.
    box : int
        Voxels.
    optics : dict of str to Optics
        For each tilt series; equal ones make one optics group.
    centres : dict of str to ndarray `(3,)`
        Angstrom, xyz: centre of each tomogram from its first voxel, from which rlnCoordinateX/Y/Z count, in output
        pixels.
    micrograph_names : dict of str to str, optional
        rlnMicrographName of each tilt series; by default its own name with ``.mrc``.
    style : {'3.1', '3.0'}
        With a table of optics groups, or everything in one table ``data_``.

    Raises
    ------
    InputError
        If the style is another one.
    """
    ts_names = particles.names()
    columns = {"rlnMicrographName": [micrograph_names[name] if micrograph_names else name + ".mrc"
                                     for name in ts_names]}
    corner = particles.position + np.array([centres[name] for name in ts_names]).reshape(-1, 3)
    columns.update(zip(particlestar.CORNER, (corner / pixel_size).T))
    columns.update(zip(particlestar.CENTRED, particles.position.T))
    columns.update(zip(particlestar.ANGLE, zyz_from_matrix(particles.rotation)))
    columns.update(rlnImageName=list(image_names), rlnCtfImage=list(ctf_names))
    offsets = dict.fromkeys(particlestar.ORIGIN, np.zeros(len(particles)))
    groups = {value: number for number, value in enumerate(dict.fromkeys(optics.values()), 1)}
    if style == "3.1":
        columns.update((column + "Angst", values) for column, values in offsets.items())
        columns["rlnOpticsGroup"] = [groups[optics[name]] for name in ts_names]
        group_table = {"rlnOpticsGroup": list(groups.values()),
                       "rlnOpticsGroupName": ["opticsGroup%d" % number for number in groups.values()],
                       **_optics_columns(groups),
                       "rlnImagePixelSize": [float(pixel_size)] * len(groups),
                       "rlnImageSize": [int(box)] * len(groups), "rlnImageDimensionality": [3] * len(groups)}
        tables, block = [star.Table.from_columns("optics", group_table)], "particles"
    elif style == "3.0":
        n = len(particles)
        # RELION 3.0 computes the pixel size from the first two, and ignores offsets without voltage and aberration.
        columns.update(offsets, rlnMagnification=[1e4] * n, rlnDetectorPixelSize=[float(pixel_size)] * n,
                       rlnPixelSize=[float(pixel_size)] * n, **_optics_columns([optics[name] for name in ts_names]))
        tables, block = [], ""
    else:
        raise InputError("STAR style %s" % style, "it is not known", "Choose 3.1 or 3.0")
    columns["rlnTomoParticleName"] = list(particles.uid)
    if "rlnTomoName" in particles.extra:
        columns["rlnTomoName"] = particles.extra["rlnTomoName"]
    columns.update(particlestar.kept_columns(particles.extra))
    star.write(path, tables + [star.Table.from_columns(block, columns)], comment=_NOTE)


def _optics_columns(optics):
    return {"rlnVoltage": [float(one.voltage) for one in optics],
            "rlnSphericalAberration": [float(one.cs) for one in optics],
            "rlnAmplitudeContrast": [float(one.amplitude_contrast) for one in optics]}


def read_subtomos(path):
    """Read the STAR file of sub-tomogram volumes with 3D CTF that we, RELION 3 or Warp wrote.

    Parameters
    ----------
    path : str

    Returns
    -------
    particles : ParticleSet
        Orientations in the volume; positions are 0 where the table has no centred coordinates.
    images, ctfs : list of str
        Paths.
    pixel_size : float
        Angstrom per voxel.
    box : int
        Voxels.

    Raises
    ------
    InputError
        If columns are missing, pixel sizes differ, particles are off the centres of their volumes, or the first volume
        is no cube or not there.
    """
    table, optics = particlestar.particle_table(path)
    for column in ("rlnImageName", "rlnCtfImage"):
        if not table.has(column):
            raise InputError(table.where(), "there is no column %s" % column,
                             "Give the STAR file of exported sub-tomogram volumes")
    pixel_sizes = particlestar.image_pixel_size(table)
    if pixel_sizes is None or not (pixel_sizes > 0).all() or np.ptp(pixel_sizes) > 1e-3 * pixel_sizes[0]:
        raise InputError(table.where(), "it does not give one pixel size for all particles",
                         "Average particles of one pixel size at a time")
    if np.abs(particlestar.origins(table)).max() > 1e-3 * pixel_sizes[0]:
        raise InputError(table.where(), "its particles are off the centres of their volumes (rlnOriginX/Y/Z)",
                         "Export sub-tomograms again with this table as input: they are cut at the particles then")
    folders = search_folders(path)
    images, ctfs = ([locate(name, folders) for name in table.text(column)]
                    for column in ("rlnImageName", "rlnCtfImage"))
    shape = mrc.read_header(images[0]).shape
    if len(set(shape)) != 1:
        raise InputError(images[0], "it has %d x %d x %d voxels" % shape[::-1], "Sub-tomograms are cubes")
    names = [particlestar.bare_name(name) for name in particlestar.tomogram_names(table)]
    ts_ids = tuple(dict.fromkeys(names))
    index = {ts_id: i for i, ts_id in enumerate(ts_ids)}
    _, rotation = particlestar.rotations(table)
    position = particlestar.vectors(table, particlestar.CENTRED, 0.0)
    particles = ParticleSet(position, rotation, [index[name] for name in names], ts_ids,
                            particlestar.particle_names(table, names),
                            {column: table.text(column) for column in table.columns},
                            any(map(table.has, particlestar.ANGLE)), table=particlestar.about_table(
                                path, table, optics))
    return particles, images, ctfs, float(pixel_sizes[0]), shape[0]
