"""Remove duplicates from a set of particles: of those closer than a distance, the one with the best score stays."""

import csv
import io
import os
from dataclasses import dataclass
from typing import Optional

import numpy as np

from ..engine.matching import duplicates, nearest
from ..engine.particles import ParticleSet
from ..errors import InputError
from ..io import particlerows
from ..io.atomic import write_text
from . import histogram
from .particles import overwritten
from .plan import Problem
from .progress import Progress
from .sets import grouped, memory_of, one_unit, read, read_series, row_order, tables_of, told

#: Columns that say how good a particle is, the first that is there counts; in all of them more is better.
SCORES = ("rlnAutopickFigureOfMerit", "rlnMaxValueProbDistribution", "rlnLogLikeliContribution")


@dataclass(frozen=True, eq=False)
class Scored:
    """Particles, the column of scores ("" without), and its values `(N,)` or None."""

    particles: ParticleSet
    column: str
    score: Optional[np.ndarray]


def plan(options, only=None):
    """Plan the removal: one unit, 'duplicates'; see `contract.Verb`.

    Raises
    ------
    InputError
        If the table is not named or cannot be read, or has no such column of scores, or a score is no number.
    """
    project = read_series(options)
    particles, notes = read("--particles", options.particles, project, options.coordinates_pixel_size, options.source,
                            options.allow_loss, normalized=options.normalized, centre=options.centre, anywhere=True)
    problems = told(project, options) + [Problem("warning", options.particles, note) for note in notes]
    column, score = _scores(options, particles)
    return one_unit(
        "duplicates", options, Scored(particles, column, score),
        {"particles": len(particles), "tilt series": len(set(particles.names())), "score": column or "none"},
        [options.particles] + tables_of(project, options), problems + overwritten(options, [options.star]),
        disk_bytes=2 * os.path.getsize(options.particles) + 300_000,
        memory_bytes=memory_of([options.particles]), reading=["coordinates: %s from %s" % (
            particles.table.unit, particles.table.zero)])


def _scores(options, particles):
    """Name of the column of scores, and its values; none of either where there is no such column."""
    if options.score == "none":
        return "", None
    if options.score and options.score not in particles.extra:
        raise InputError("--score", "%s has no column %s" % (options.particles, options.score),
                         "The columns are: " + ", ".join(particles.extra))
    column = options.score or next((name for name in SCORES if name in particles.extra), "")
    if not column:
        return "", None
    values = []
    for row, text in enumerate(particles.extra[column]):
        try:
            values.append(float(text))
        except ValueError:
            raise InputError("%s, particle %s" % (options.particles, particles.uid[row]), "%s is '%s', not a number"
                             % (column, text), "Name another column with --score, or none") from None
    return column, np.array(values)


def execute(unit, options, backend):
    """Find the duplicates in each tilt series, write lists, histogram and then the table; see `contract.Verb`.

    Returns
    -------
    dict
        Plain values: ``kept`` and ``removed``, numbers; the same per tilt series in ``series``; ``score``, the column;
        ``star``; ``report``; ``notes``; ``files``.
    """
    particles, score = unit.work.particles, unit.work.score
    kept, before, after = np.zeros(len(particles), bool), *(np.full(len(particles), np.inf) for _ in "12")
    keeper = np.full(len(particles), -1)
    rank, groups, of_series = row_order(particles), grouped(particles.names()), {}
    progress = Progress(unit.name, len(groups), "tilt series")
    for name, own in groups.items():
        position = particles.position[own]
        kept[own] = stays = duplicates(position, options.distance, None if score is None else score[own], rank[own])
        before[own] = nearest(position)[0]
        after[own[stays]] = nearest(position[stays])[0]
        if not stays.all():
            keeper[own[~stays]] = own[stays][nearest(position[~stays], position[stays])[1]]
        of_series[name] = {"kept": int(stays.sum()), "removed": int((~stays).sum())}
        progress()
    progress.finish()
    report = os.path.join(options.output, "report")
    listed = os.path.join(report, "duplicates.csv")
    write_text(listed, _removed(particles, kept, keeper, score))
    title = "%d particles, %d without duplicates" % (len(particles), kept.sum())
    near = before[np.isfinite(before)]
    limits = histogram.edges(near[near <= 5 * options.distance] if options.distance else near)
    files = [listed] + histogram.write(
        os.path.join(report, "distances"), limits, {"nearest particle before": before, "nearest particle after": after},
        title, ("distance", options.distance))
    path = os.path.join(options.output, options.star)
    particlerows.write_rows(path, options.particles, np.flatnonzero(kept))
    return {"kept": int(kept.sum()), "removed": int((~kept).sum()), "series": of_series,
            "score": unit.work.column, "star": path, "report": files[-1], "notes": [], "files": files + [path]}


def _removed(particles, kept, keeper, score):
    """The particles that are removed, as text: where they are, and which kept one is the nearest."""
    text, names = io.StringIO(), particles.names()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["tilt_series", "particle", "x_A", "y_A", "z_A", "score", "nearest_kept", "distance_A"])
    for i in np.flatnonzero(~kept):
        distance = np.linalg.norm(particles.position[i] - particles.position[keeper[i]])
        table.writerow([names[i], particles.uid[i]] + ["%.3f" % v for v in particles.position[i]]
                       + ["" if score is None else repr(float(score[i])), particles.uid[keeper[i]], "%.3f" % distance])
    return text.getvalue()


def collect(options, results):
    """Say how many particles were removed; nothing is left to do after the one unit.

    Returns
    -------
    dict
        ``star`` (path), ``kept`` and ``removed``, numbers.
    """
    return {name: results[0][name] for name in ("star", "kept", "removed")}
