"""Files of other programs on their way into a Scipion project."""

import glob
import os
from collections import namedtuple
from dataclasses import replace

import numpy as np

from ..engine.geometry import TiltSeriesGeometry
from ..engine.particles import ParticleSet
from ..errors import InputError
from ..io import mrc, particlefiles, particlestar
from ..io.tiltseries import TiltSeries
from . import attributes as extra
from . import positions
from .names import unique

# File and section of every image, and of its odd and even halves where there are some.
Places = namedtuple("Places", "images odd even")


def gather(series, folder, stem, stack=True):
    """Bring the images of a tilt series to where Scipion and other plugins look for them.

    Parameters
    ----------
    series : io.tiltseries.TiltSeries
    folder : str
        Existing folder for links and stacks.
    stem : str
        Of their names.
    stack : bool
        Whether images in files of their own are gathered into a stack, ordered by tilt angle.

    Returns
    -------
    Places
    """
    order = np.argsort(series.geometry.tilt, kind="stable")
    halves = [_gather(images, os.path.join(folder, stem + suffix), order, series.geometry.pixel_size, stack)
              for images, suffix in ((series.images, ""), (series.odd, "_odd"), (series.even, "_even"))]
    return Places(*halves)


def _gather(images, stem, order, pixel_size, stack):
    if not images:
        return None
    files = sorted({path for path, _ in images})
    if len(files) == 1:
        link = stem + ".mrcs"
        if os.path.lexists(link):
            os.remove(link)
        os.symlink(os.path.abspath(files[0]), link)
        return [(link, section) for _, section in images]
    if not stack:
        return [(os.path.abspath(path), section) for path, section in images]
    shape = (len(images),) + mrc.read_header(files[0]).shape[1:]
    with mrc.VolumeWriter(stem + ".mrcs", shape, pixel_size, kind="stack") as writer:
        for place, row in enumerate(order):
            path, section = images[row]
            with mrc.open_stack(path) as source:
                writer.put(place, source.read(section)[None])
    places = np.argsort(order)
    return [(stem + ".mrcs", int(place)) for place in places]


def particles(pattern, tomograms, coordinates_pixel_size=0.0, normalized=False, centre="relion",
              allow_loss=False, per_series=False, source=""):
    """Read particle tables for a set of tomograms.

    Parameters
    ----------
    pattern : str
        A file, or a pattern of several.
    tomograms : tomo.objects.SetOfTomograms
        Names of the tables are matched with tsId, or with the name that the tilt series had in its own project.
    coordinates_pixel_size : float
        Angstrom, for tables that do not say it; 0 for those that do.
    normalized : bool
        Whether coordinates run from 0 to 1.
    centre : {'relion', 'imod'}
        Which point of the tomogram positions are counted about.
    allow_loss : bool
        Whether particles that belong to no tomogram are left out; otherwise they are an error.
    per_series : bool
        Whether the file is one of several, each called as its tilt series.
    source : str
        M's ``.source`` file, if hashes and not names shall tell the tilt series of M's particles.

    Returns
    -------
    particles : ParticleSet
        Its tilt series are called by tsId.
    problems : list of str
        Particles that were left out, and coordinates that occur twice.

    Raises
    ------
    InputError
        If no file matches, or particles belong to no tomogram.
    """
    files = sorted(glob.glob(os.path.expanduser(pattern)))
    if not files:
        raise InputError(pattern, "there is no such file", "Check the path and the pattern")
    series, ts_ids, above = [], {}, {}
    for tomogram in tomograms.iterItems():
        ts_id, frame = tomogram.getTsId(), positions.Frame(tomogram)
        # How far voxel N//2, which corners are converted to here, lies above the centre (N-1)/2.
        above[ts_id] = (frame.dims // 2 - (frame.dims - 1) / 2) * frame.pixel_size
        for name in {ts_id, extra.take(tomogram, extra.NAME, ts_id)}:
            if ts_ids.setdefault(name, ts_id) == ts_id:
                series.append(_stand_in(name, frame))
    sets, problems = [], []
    read = particlefiles.read_particle_files if per_series else particlestar.read_particles
    files = files[:1] if per_series else files
    for file in files:
        one, lines = read(file, series, coordinates_pixel_size=coordinates_pixel_size or None, normalized=normalized,
                          allow_loss=allow_loss, sources=[source] if source else ())
        # M counts in angstrom, from a centre of its own.
        centred = set(particlestar.CENTRED) <= set(one.extra) or one.trajectory is not None
        if not (centred or normalized or coordinates_pixel_size or _says_pixel_size(one.extra)):
            raise InputError(file, "it does not say the pixel size of its coordinates", "Give it in the form: for "
                             "tables of RELION 4 it is that of the tilt series")
        if centre == "imod" and not centred:
            one = replace(one, position=one.position + [above[ts_ids[name]] for name in one.names()])
        if one.trajectory is not None and len(files) > 1:
            lines = lines + ["trajectories are left out: import M's table alone to keep them"]
        sets.append(one)
        problems += ["%s: %s" % (os.path.basename(file), line) for line in lines] if len(files) > 1 else lines
    return _concatenate(sets, ts_ids), problems


def _says_pixel_size(columns):
    """Whether a table that counts from the corner says in what: RELION 4 means pixels of the tilt series, which are
    not known here, and which the reader would take from the stand-ins."""
    return "rlnTomoTiltSeriesPixelSize" in columns or "rlnTomoName" not in columns or all(
        name.endswith(".tomostar") for name in columns["rlnTomoName"])


def _stand_in(name, frame):
    """A tilt series of which only the name and the tomogram matter."""
    geometry = TiltSeriesGeometry(
        ts_id=name, image_shape=(1, 1), pixel_size=frame.pixel_size, tilt=[0.0], axis=[0.0], shift=[[0.0, 0.0]],
        dose=[0.0], volume_size=frame.size)
    return TiltSeries(geometry=geometry, ctf=None, images=(("", 0),), odd=None, even=None, optics_group=name,
                      optics=None)


def _concatenate(sets, ts_ids):
    """One set of several, its tilt series called by tsId; names that occur in two tables get a number."""
    names = [ts_ids[name] for one in sets for name in one.names()]
    order = {name: i for i, name in enumerate(dict.fromkeys(names))}
    columns = list(dict.fromkeys(column for one in sets for column in one.extra))
    moving = sets[0].trajectory if len(sets) == 1 else None
    return ParticleSet(
        np.concatenate([one.position for one in sets]), np.concatenate([one.rotation for one in sets]),
        [order[name] for name in names], tuple(order),
        unique([name for one in sets for name in one.uid]),
        {c: [v for one in sets for v in one.extra.get(c, [""] * len(one))] for c in columns},
        any(one.oriented for one in sets), moving)
