"""Select the particles that an analysis of exported image series kept."""

import csv
import io
import os
from dataclasses import dataclass
from typing import List, Tuple

import numpy as np

from ..errors import InputError
from ..io import particlerows, particlestar
from ..io.atomic import write_text
from ..io.exportedparticles import path_beside, read_exported, read_kept
from .particles import overwritten
from .plan import Problem
from .sets import memory_of, one_unit, read, read_series, tables_of, told


@dataclass(frozen=True)
class Chosen:
    """Rows of a table that are chosen, and every exported particle: its group, name and whether it is."""

    source: str
    rows: List[int]
    listed: List[Tuple[str, str, bool]]


def plan(options, only=None):
    """Plan the selection: one unit, 'select'; see `contract.Verb`.

    Raises
    ------
    InputError
        If a file is not named or cannot be read, or what it names is not of this export.
    """
    for flag, path, remedy in (("--exported", options.exported, "Name the table of the exported images"),
                               ("--kept", options.kept, "Name a filtered STAR file, or an index (.pkl)")):
        if not path:
            raise InputError(flag, "no file is given", remedy)
    exported, groups = read_exported(options.exported)
    indexed = options.indexed or options.exported
    kept = read_kept(options.kept, indexed, options.counts)
    known = set(groups)
    foreign = [name for name in kept if name not in known]
    if foreign:
        raise InputError(options.kept, "%d of its %d particles are not of this export, as %s" % (
            len(foreign), len(kept), foreign[0]), "Name the export that was analysed")
    chosen = np.isin(groups, kept) != options.exclude
    if not chosen.any():
        raise InputError(options.kept, "no particle is left", "Keep some")
    series, source = read_series(options), options.particles or path_beside(options.exported)
    # The list that the export left has neither of these.
    more = dict(normalized=options.normalized, centre=options.centre) if options.particles else {}
    particles, notes = read("--particles", source, series, options.coordinates_pixel_size, options.source, True, **more)
    names = [exported.uid[i] for i in np.flatnonzero(chosen)]
    rows = _rows(options, source, particles, exported.select(chosen), names)
    if series is not None:  # particles of other tilt series were left out of the export, too
        table, _ = particlestar.particle_table(source)
        named = particlestar.tomogram_names(table, [options.source] if options.source else ())
        known = particlestar.match_names(named, series.names)
        there = [row for row, name in enumerate(named) if name in known]
        rows = [there[row] for row in rows]
    files = list(dict.fromkeys([source, path_beside(options.exported), options.kept, indexed]))
    return one_unit(
        "select", options, Chosen(source, sorted(rows), list(zip(groups, exported.uid, chosen))),
        {"particles": "%d of %d" % (len(rows), len(particles)), "exported": len(groups),
         "kept" if not options.exclude else "excluded": len(kept)}, files + tables_of(series, options),
        told(series, options) + [Problem("warning", source, note) for note in notes] + overwritten(
            options, [options.star], files),
        disk_bytes=2 * os.path.getsize(source), memory_bytes=memory_of([source]))


def _rows(options, source, particles, exported, names):
    """Rows of the table that have these names, each where it was when it was exported."""
    row = {uid: i for i, uid in enumerate(particles.uid)}
    missing = [name for name in names if name not in row]
    if missing:
        raise InputError(source, "%d of the %d chosen particles are not in it, as %s" % (
            len(missing), len(names), missing[0]), "Give the particles that were exported, and the same --tomograms")
    rows = [row[name] for name in names]
    away = np.linalg.norm(particles.position[rows] - exported.position, axis=1)
    if options.tolerance and away.max() > options.tolerance:
        worst = int(away.argmax())
        raise InputError(source, "particle %s lies %.4g A from where it was exported (%d lie more than %g A away)" % (
            names[worst], away[worst], (away > options.tolerance).sum(), options.tolerance),
            "Give the particles that were exported; if these are the same after a refinement, --tolerance 0")
    return rows


def execute(unit, options, backend):
    """Write which particles were chosen, and then their rows, as they stand; see `contract.Verb`.

    Returns
    -------
    dict
        Plain values: ``kept`` and ``removed``, numbers of exported particles; ``star``; ``report``; ``notes``;
        ``files``.
    """
    listed = unit.work.listed
    report = os.path.join(options.output, "report", "selection.csv")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["group", "particle", "kept"])
    table.writerows([group, uid, int(kept)] for group, uid, kept in listed)
    write_text(report, text.getvalue())
    path = os.path.join(options.output, options.star)
    particlerows.write_rows(path, unit.work.source, unit.work.rows)
    kept = int(sum(bool(one[2]) for one in listed))
    return {"kept": kept, "removed": len(listed) - kept, "star": path, "report": report, "notes": [],
            "files": [report, path]}


def collect(options, results):
    """Say how many particles were chosen; nothing is left to do after the one unit.

    Returns
    -------
    dict
        ``star`` (path), ``kept`` and ``removed``, numbers.
    """
    return {name: results[0][name] for name in ("star", "kept", "removed")}
