"""Particle species of M: their particle tables, which sample poses over dose, and the XML files beside them.

A table ``*_particles.star`` has the position of sample i in ``wrpCoordinateX/Y/Z{i}``, angstrom from the corner of the
tomogram, and its RELION angles in ``wrpAngleRot/Tilt/Psi{i}``; i counts from 1 without gaps, for either on its own.
``wrpSourceName`` names the tilt series, ``wrpSourceHash`` tells apart those of equal name: the ``.source`` that the
hash comes from lists it. Warp's corner is voxel 0, and half of the tomogram's extent lies at its centre.
"""

import os
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np

from ..engine.poses import matrix_from_zyz, zyz_from_matrix
from ..engine.trajectory import Trajectory
from ..errors import InputError
from . import mrc, star

COORDINATE = ("wrpCoordinateX", "wrpCoordinateY", "wrpCoordinateZ")
ANGLE = ("wrpAngleRot", "wrpAngleTilt", "wrpAnglePsi")
NAME, HASH, SUBSET = "wrpSourceName", "wrpSourceHash", "wrpRandomSubset"
_EMPTY = star.NO_VALUE + ("null",)
_KEEP_COORDINATE, _KEEP_MATRIX = 1e-6, 1e-6  # by which a pose may differ from its text: angstrom, matrix elements
_RELION_POSES = ("rlnCoordinate", "rlnCenteredCoordinate", "rlnOrigin", "rlnAngle", "rlnTomoSubtomogram")


def is_species(table):
    """Tell whether a table of particles is M's.

    Parameters
    ----------
    table : star.Table

    Returns
    -------
    bool
    """
    return table.has(COORDINATE[0] + "1")


def sample_columns(table, columns):
    """Columns of each sample of a pose.

    Parameters
    ----------
    table : star.Table
    columns : sequence of str
        The three labels without number.

    Returns
    -------
    list of tuple of str
        For sample 1, 2, ... up to the first that is not there.

    Raises
    ------
    InputError
        If a sample has some of its three columns only.
    """
    out = []
    while True:
        labels = tuple("%s%d" % (column, len(out) + 1) for column in columns)
        missing = [label for label in labels if not table.has(label)]
        if len(missing) == 3:
            return out
        if missing:
            raise InputError(table.where(), "there is no column %s" % ", ".join(missing),
                             "Every sample has three coordinates and three angles")
        out.append(labels)


def trajectories(table, centre):
    """Trajectories of the particles of a table.

    Parameters
    ----------
    table : star.Table
    centre : ndarray `(N, 3)`
        Angstrom, xyz: half of the extent of each particle's tomogram.

    Returns
    -------
    Trajectory
        Without columns of angles the rotations are 1.

    Raises
    ------
    InputError
        If columns of a sample are missing or a value is no finite number.
    """
    position = _samples(table, COORDINATE) - np.asarray(centre)[:, None]
    if sample_columns(table, ANGLE):
        rotation = matrix_from_zyz(*np.moveaxis(_samples(table, ANGLE), -1, 0))
    else:
        rotation = np.broadcast_to(np.eye(3), (len(table), 1, 3, 3))
    return Trajectory(position, rotation)


def _samples(table, columns):
    """The samples of three columns, `(N, S, 3)`."""
    labels = sample_columns(table, columns)
    values = np.array([[table.float(label) for label in three] for three in labels])  # S, 3, N
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        sample, axis, row = bad[0]
        raise InputError(table.where(row), "%s is no finite number" % labels[sample][axis], "Correct or remove the row")
    return np.moveaxis(values, -1, 0)


def source_names(table, sources=()):
    """The tilt series of each particle.

    Parameters
    ----------
    table : star.Table
    sources : sequence of str
        M's ``.source`` files that list the tilt series. Where they are given the hash counts, not the name.

    Returns
    -------
    list of str
        N names, as the source, or else the table, has them. Particles whose hash is in no source get a name that says
        so and that no tilt series has.

    Raises
    ------
    InputError
        If neither column is there, or a name stands for several tilt series.
    """
    if not (table.has(NAME) or table.has(HASH) and sources):
        raise InputError(table.where(), "no column names the tilt series: %s" % NAME,
                         "Give the .source file as well" if table.has(HASH) else "Give M's particle table")
    hashes = ["" if value in _EMPTY else value for value in table.text(HASH, "")]
    names = table.text(NAME, "tilt series")
    if sources:
        known = {}
        for path in sources:
            known.update(read_source(path))
        names = [known.get(value, "%s (hash %s is in no source)" % (name, value)) if value else name
                 for name, value in zip(names, hashes)]
    meant = {}
    for name, value in zip(names, hashes):
        if value:
            meant.setdefault(name, {})[value] = None
    several = {name: list(values) for name, values in meant.items() if len(values) > 1}
    if several:
        raise InputError(table.where(), "%d tilt series are called %s (hashes %s)" % (
            len(next(iter(several.values()))), next(iter(several)), ", ".join(next(iter(several.values())))),
            "Give only the .source file that lists the ones meant" if sources
            else "Give the .source file of the data source that is meant")
    return names


def read_source(path):
    """Read which tilt series a data source of M has.

    Parameters
    ----------
    path : str
        File ``.source``.

    Returns
    -------
    dict of str to str
        Hash to name.

    Raises
    ------
    InputError
        If it is not there, no XML, or lists no tilt series.
    """
    files = {one.get("Hash"): os.path.basename(one.get("Name").replace("\\", "/"))
             for one in _parse(path).iter("File") if one.get("Hash") and one.get("Name")}
    if not files:
        raise InputError(path, "it lists no tilt series", "Give the .source file of M's population")
    return files


@dataclass(frozen=True)
class Species:
    """What M says about a species.

    Attributes
    ----------
    name : str
    pixel_size : float
        Angstrom per voxel of its map.
    diameter : float
        Angstrom.
    box : int
        Voxels along its map; 0 if the file does not say and there is no map.
    symmetry : str
    particles : str
        Path of its particle table, "" if there is none beside the file.
    """

    name: str
    pixel_size: float
    diameter: float
    box: int
    symmetry: str
    particles: str


def read_species(path):
    """Read the description of a species.

    Parameters
    ----------
    path : str
        File ``.species``.

    Returns
    -------
    Species

    Raises
    ------
    InputError
        If it is not there, no XML, or pixel size or diameter are missing or no numbers above 0.
    """
    values = {one.get("Name"): one.get("Value") for one in _parse(path).iter("Param")}
    stem = os.path.splitext(path)[0]
    box = int(_positive(path, values, "Size")) if values.get("Size") else 0
    half_map = stem + "_half1.mrc"
    if not box and os.path.isfile(half_map):
        box = mrc.read_header(half_map).shape[-1]
    table = stem + "_particles.star"
    return Species(values.get("Name") or os.path.basename(stem), _positive(path, values, "PixelSize"),
                   _positive(path, values, "DiameterAngstrom"), box, values.get("Symmetry") or "C1",
                   table if os.path.isfile(table) else "")


def _positive(path, values, name):
    try:
        value = float(values.get(name) or "nan")
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise InputError(path, "%s is %s, not a number above 0" % (name, values.get(name)),
                         "Give the .species file that M wrote")
    return value


def _parse(path):
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise InputError(path, "there is no such file", "Check the path")
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(path, "it is no XML file (%s)" % error, "Give the file that M wrote") from None


def write_species(path, particles, series, samples=None):
    """Write particles as a particle table of M.

    Columns stay as they came in, in their order. A pose that its text still says keeps the text, so that what is read
    and written back does not change; M's five decimals otherwise. RELION's columns of the pose are left out where M's
    come new.

    Parameters
    ----------
    path : str
    particles : ParticleSet
        Particles that do not move are at the same place in every sample. Displacements of single tilts have no column.
    series : sequence of TiltSeries
        Their tilt series, whose extent tells the corner.
    samples : (int, int), optional
        Numbers of samples of positions and rotations; by default those that the particles have, else one.

    Raises
    ------
    InputError
        If a tilt series is not there.
    """
    n, extra = len(particles), {name: list(values) for name, values in particles.extra.items()}
    half = {one.ts_id: np.array(one.geometry.volume_size) / 2 for one in series}
    names = particles.names()
    for name in dict.fromkeys(names):
        if name not in half:
            raise InputError(path, "there is no tilt series %s, whose size the positions count from" % name,
                             "Give the tilt series of all particles")
    centre = np.array([half[name] for name in names]).reshape(-1, 3)
    position, rotation = _resampled(particles, samples)
    position = position + centre[:, None]
    poses = _formatted(position, COORDINATE)
    poses.update(_formatted(np.stack(zyz_from_matrix(rotation), axis=-1), ANGLE))
    _keep_text(poses, extra, position, rotation)
    columns = dict(extra) if COORDINATE[0] + "1" in extra else {
        name: values for name, values in extra.items() if not name.startswith(_RELION_POSES)}
    if {name for name in columns if _is_pose(name)} != set(poses):
        # Columns of samples that there are no longer would be read as theirs.
        columns = {**poses, **{name: values for name, values in columns.items() if not _is_pose(name)}}
    columns.update(poses)
    if SUBSET not in columns:
        columns[SUBSET] = columns.pop("rlnRandomSubset", [str(i % 2 + 1) for i in range(n)])
    _fill_sources(columns, names)
    columns = {name: ["null" if value == "" else value for value in values] for name, values in columns.items()}
    star.write(path, [star.Table.from_columns("", columns)])


def _is_pose(name):
    stem = name.rstrip("0123456789")
    return stem != name and stem in COORDINATE + ANGLE


def _resampled(particles, samples):
    """Positions `(N, S, 3)`, from the tomogram centre, and rotations `(N, R, 3, 3)` at equal steps of dose."""
    trajectory = particles.trajectory
    if not isinstance(trajectory, Trajectory):
        trajectory = Trajectory(particles.position[:, None], particles.rotation[:, None])
    if samples is None:
        samples = trajectory.position.shape[1], trajectory.rotation.shape[1]
    steps = [np.linspace(0.0, 1.0, count) for count in samples]
    # With one sample only, the dose has no scale: it is the start.
    return (trajectory.at(steps[0])[0], trajectory.at(steps[1])[1])


def _formatted(values, columns):
    return {"%s%d" % (column, i + 1): ["%.5f" % v for v in values[:, i, axis]]
            for i in range(values.shape[1]) for axis, column in enumerate(columns)}


def _keep_text(poses, extra, position, rotation):
    """Put the text of the source into the rows whose poses have not changed."""
    labels = [label for label in extra if _is_pose(label)]
    if set(labels) != set(poses):
        return
    table = star.Table.from_columns("", {label: extra[label] for label in labels})
    # Rows that came from another table may have no such text.
    rows = np.array([row for row, texts in enumerate(table.iter_rows()) if all(map(_is_finite, texts))], int)
    old = trajectories(table.select(rows), np.zeros((len(rows), 3)))
    same = ((np.abs(old.position - position[rows]).max(axis=(1, 2)) < _KEEP_COORDINATE)
            & (np.abs(old.rotation - rotation[rows]).max(axis=(1, 2, 3)) < _KEEP_MATRIX))
    for row in rows[same]:
        for label in labels:
            poses[label][row] = extra[label][row]


def _is_finite(text):
    try:
        return np.isfinite(float(text))
    except ValueError:
        return False


def _fill_sources(columns, names):
    """Name and hash of the tilt series for particles that have none, from others of the same tilt series."""
    given = columns.setdefault(NAME, [""] * len(names)), columns.setdefault(HASH, [""] * len(names))
    known = {}
    for name, source, value in zip(names, *given):
        if source not in _EMPTY and (name not in known or known[name][1] in _EMPTY):
            known[name] = source, value
    new = lambda name: (name if name.endswith(".tomostar") else name + ".tomostar", "")  # noqa: E731
    for label, which in ((NAME, 0), (HASH, 1)):
        columns[label] = [value if value not in _EMPTY else known.get(name, new(name))[which]
                          for name, value in zip(names, columns[label])]
