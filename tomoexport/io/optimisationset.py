"""RELION 5's optimisation sets: which tables belong together."""

import os

from ..errors import InputError
from . import star

#: Label of each table, by the name of the option that takes it.
LABELS = {"particles": "rlnTomoParticlesFile", "tomograms": "rlnTomoTomogramsFile", "motion": "rlnTomoTrajectoriesFile"}


def read_optimisation_set(path, names=tuple(LABELS)):
    """Read which tables an optimisation set names.

    Parameters
    ----------
    path : str
    names : sequence of str
        Keys of `LABELS` that are asked for.

    Returns
    -------
    dict of str to str
        Paths of ``particles``, ``tomograms`` and ``motion``, as far as they are named. RELION writes them relative to
        its project, which is the working folder or one above the file.

    Raises
    ------
    InputError
        If it names neither particles nor tomograms, or a file is not there.
    """
    blocks = [block for block in star.read(path) if any(block.has(label) for label in LABELS.values())]
    if not blocks:
        raise InputError(path, "it names no particles and no tomograms", "Give RELION's optimisation_set.star")
    found, folders, above = {}, [""], os.path.dirname(os.path.abspath(path))
    while above not in folders:
        folders.append(above)
        above = os.path.dirname(above)
    for name in names:
        label = LABELS[name]
        text = blocks[0].text(label)[0] if blocks[0].has(label) else ""
        if not text:
            continue
        places = [os.path.join(folder, text) for folder in folders]
        found[name] = next((place for place in places if os.path.isfile(place)), None)
        if found[name] is None:
            raise InputError(path, "%s names %s, which is not there" % (label, text),
                             "Run in RELION's project folder, or give the tables themselves")
    return found


def write_optimisation_set(path, **tables):
    """Write an optimisation set.

    Parameters
    ----------
    path : str
    **tables
        Paths of ``particles``, ``tomograms`` and ``motion``, as they shall be written; None leaves one out.
    """
    columns = {label: [tables[name]] for name, label in LABELS.items() if tables.get(name)}
    star.write(path, [star.Table.from_columns("", columns, is_list=True)])
