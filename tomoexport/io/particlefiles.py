"""Particle files that belong to one tilt series each, found from any one of them.

Template matching writes ``[series name]_suffix.star``. The name of a tilt series is never a part of a longer one: TS_1
takes ``TS_1_ribosome.star`` and not ``TS_10_ribosome.star``.
"""

import os
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from ..engine.particles import ParticleSet
from ..errors import InputError
from . import star
from .particlestar import NAMES, bare_name, read_particles


@dataclass(frozen=True)
class ParticleFiles:
    """Particle files by tilt series.

    Attributes
    ----------
    suffix : str
        What follows the name of the tilt series in the names of the files.
    files : dict of str to str
        Path of the file of each tilt series that has one, in the order of the series.
    missing : tuple of str
        Tilt series without a file.
    others : tuple of str
        Paths of files with this suffix in the same folder that belong to none of the tilt series.
    """

    suffix: str
    files: dict
    missing: tuple
    others: tuple


def find_particle_files(path, ts_ids):
    """Find the particle files of all tilt series beside that of one of them.

    Parameters
    ----------
    path : str
        Any one of the files.
    ts_ids : sequence of str
        Names of the tilt series; without extension, if they have one, they count as well.

    Returns
    -------
    ParticleFiles

    Raises
    ------
    InputError
        If the file is not there or its name does not begin with that of a tilt series.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise InputError(path, "there is no such file", "Check the path")
    folder, picked = os.path.split(path)
    bare = [bare_name(ts_id) for ts_id in ts_ids]
    stems = {ts_id: (ts_id, stem) if bare.count(stem) == 1 else (ts_id,) for ts_id, stem in zip(ts_ids, bare)}
    begins = [stem for both in stems.values() for stem in both if _begins(picked, stem)]
    if not begins:
        raise InputError(path, "its name does not begin with that of a tilt series, which are %s" % ", ".join(ts_ids),
                         "Name the files of the tilt series [series name]_suffix.star, or read this one as a file of "
                         "all tilt series")
    suffix = picked[len(max(begins, key=len)):]
    present = set(os.listdir(folder or "."))
    files = {}
    for ts_id, both in stems.items():
        found = next((stem + suffix for stem in both if stem + suffix in present), None)
        if found is not None:
            files[ts_id] = os.path.join(folder, found)
    taken = {os.path.basename(file) for file in files.values()}
    # Every table in the folder ends in .star.
    others = sorted(os.path.join(folder, name) for name in present - taken
                    if suffix != ".star" and name.endswith(suffix) and name[0] != ".")
    return ParticleFiles(suffix, files, tuple(ts_id for ts_id in ts_ids if ts_id not in files), tuple(others))


def _begins(name, stem):
    """Whether the name begins with this stem, and it is not a part of a longer word."""
    return bool(stem) and name.startswith(stem) and not name[len(stem):len(stem) + 1].isalnum()


def read_particle_files(path, series, **how):
    """Read the particle files of all tilt series beside that of one of them.

    Parameters
    ----------
    path : str
        Any one of the files.
    series : sequence of TiltSeries
    **how
        As for `particlestar.read_particles`.

    Returns
    -------
    particles : ParticleSet
        Each file's rows belong to its tilt series, whatever name they have. Names of particles that occur in two
        files get that of the tilt series in front; columns that a file does not have are empty there.
    problems : list of str
        Tilt series without a file, files without a tilt series or without particles, rows that name another tilt
        series, and what `read_particles` finds.

    Raises
    ------
    InputError
        As `find_particle_files` and `read_particles`, or if no file has particles, or one is of M.
    """
    found = find_particle_files(path, [one.ts_id for one in series])
    problems = ["%s: there is no particle file %s of this tilt series" % (name, bare_name(name) + found.suffix)
                for name in found.missing]
    problems += ["%s: it is not read, there is no tilt series of this name" % os.path.basename(file)
                 for file in found.others]
    sets = []
    for ts_id, file in found.files.items():
        try:
            one, lines = read_particles(file, series, name=ts_id, **how)
        except InputError:
            if not _is_empty(file):
                raise
            problems.append("%s: there are no particles in %s" % (ts_id, os.path.basename(file)))
            continue
        if one.trajectory is not None:
            raise InputError(file, "M's particle tables hold all tilt series", "Read it as one file for all")
        sets.append(one)
        problems += ["%s: %s" % (os.path.basename(file), line) for line in lines]
        label = next(filter(one.extra.__contains__, NAMES), None)
        strange = dict.fromkeys(name for name in one.extra.get(label, ()) if bare_name(name) != bare_name(ts_id))
        if strange:
            problems.append("%s: its rows name %s and are taken for those of %s" % (
                os.path.basename(file), ", ".join(strange), ts_id))
    if not sets:
        raise InputError(path, "neither it nor another file *%s has particles" % found.suffix,
                         "Give files with particles")
    return _joined(sets), problems


def _is_empty(path):
    """Whether no table of a STAR file has rows, but for optics and lists."""
    return not any(len(table) for table in star.read(path) if table.name != "optics" and not table.is_list)


def _joined(sets):
    """One set of several that have the same tilt series."""
    counts = Counter(uid for one in sets for uid in one.uid)
    uid = [name if counts[name] == 1 else "%s/%s" % (ts_id, name)
           for one in sets for ts_id, name in zip(one.names(), one.uid)]
    columns = dict.fromkeys(column for one in sets for column in one.extra)
    return ParticleSet(
        np.concatenate([one.position for one in sets]), np.concatenate([one.rotation for one in sets]),
        np.concatenate([one.ts for one in sets]), sets[0].ts_ids, uid,
        {column: [value for one in sets for value in one.extra.get(column, [""] * len(one))] for column in columns},
        all(one.oriented for one in sets), table=replace(sets[0].table, optics=None, statements=tuple(
            dict.fromkeys(statement for one in sets for statement in one.table.statements))))
