"""Particle tables for the tests of verbs that work on them alone."""

import numpy as np

from tomoexport.engine.poses import zyz_from_matrix
from tomoexport.io import particlestar, star


def particle_table(path, position, names, rotation=None, blocks=(), optics=None, block="particles", **columns):
    """Write a table in RELION 5's dialect: positions `(N, 3)` in angstrom from the centre, and further columns."""
    table = {"rlnTomoName": list(names)}
    table.update(zip(particlestar.CENTRED, np.asarray(position, float).T))
    if rotation is not None:
        table.update(zip(particlestar.ANGLE, zyz_from_matrix(rotation)))
    table.update(columns)
    tables = list(blocks) + ([star.Table.from_columns("optics", optics)] if optics else [])
    star.write(str(path), tables + [star.Table.from_columns(block, table)])
    return str(path)


def rows(path, block="particles"):
    """The rows of a table as text, by column."""
    table = star.read(str(path)).table(block)
    return [dict(zip(table.columns, row)) for row in table.rows]
