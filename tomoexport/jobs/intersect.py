"""Intersect a set of particles with another one: only old, both, only new, and any combination of them."""

import csv
import io
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.matching import match, nearest, pairs_within
from ..engine.particles import ParticleSet
from ..errors import InputError
from ..io import particlerows, particlestar, species
from ..io.atomic import write_text
from . import histogram
from .memory import budget
from .particles import overwritten
from .plan import Problem, size
from .progress import Progress
from .sets import grouped, memory_of, one_unit, read, read_series, refuse_ambiguous, row_order, tables_of, told

_PAIR_BYTES, _CELL_BYTES = 250, 17  # of memory: per pair within the tolerance, per cell of a dense cost matrix
SETS = ("only_old", "both", "only_new")


@dataclass(frozen=True, eq=False)
class Pairing:
    """What is compared.

    Attributes
    ----------
    old, new : ParticleSet
    of_new : list of str
        Tilt series of each new particle, as the old set calls it.
    groups : dict of str to (ndarray of int, ndarray of int)
        Old and new particles of each tilt series.
    ticked : list of str
        Tilt series that take part.
    left_out : dict of str to int
        New particles in others.
    project : io.project.Project or None
    """

    old: ParticleSet
    new: ParticleSet
    of_new: list
    groups: dict
    ticked: list
    left_out: dict
    project: Any


def plan(options, only=None):
    """Plan the intersection: one unit, 'intersect'; see `contract.Verb`.

    Raises
    ------
    InputError
        If a table is not named or cannot be read, a name may mean several tilt series, or no set is chosen.
    """
    if not any(getattr(options, name) for name in SETS):
        raise InputError("--only-old, --both, --only-new", "none of the sets is chosen", "Choose at least one")
    project = read_series(options)
    tables = {"--old": (options.old, options.old_pixel_size, options.old_normalized, options.allow_loss),
              "--new": (options.new, options.new_pixel_size, options.new_normalized, True)}

    def read_both(anywhere):
        return [read(flag, path, project, pixel, options.source, loss, normalized=normalized, centre=options.centre,
                     anywhere=anywhere) for flag, (path, pixel, normalized, loss) in tables.items()]

    (old, old_notes), (new, new_notes) = read_both(True)
    if old.table.adrift != new.table.adrift or options.only_new and old.table.adrift:
        read_both(False)  # for the error that tells which sizes are missing
    problems = told(project, options)
    for path, notes in ((options.old, old_notes), (options.new, new_notes)):
        problems += [Problem("warning", path, note) for note in notes]
    pairing = _paired(options, old, new, project)
    problems += _alone(options, pairing)
    needed = max(_needs(options, old.position[pairing.groups[name][0]], new.position[pairing.groups[name][1]])
                 for name in pairing.ticked)
    if needed > budget(options):
        problems.append(Problem("error", "--tolerance" if options.matching == "gated" else "--matching",
                                "matching needs %s of memory, %s are allowed" % (size(needed), size(budget(options))),
                                "Take a smaller tolerance" if options.matching == "gated" else "Use gated"))
    paths = [options.old, options.new]
    return one_unit(
        "intersect", options, pairing, {"old particles": len(old), "new particles": len(new), "tilt series": "%d of %d"
                                        % (len(pairing.ticked), len(pairing.groups))},
        paths + tables_of(project, options), problems + overwritten(options, [options.star]),
        disk_bytes=os.path.getsize(options.old) * (1 + bool(options.only_new) * len(new) // len(old)) + 300_000,
        memory_bytes=needed + memory_of(paths, 4.4),
        reading=["%s coordinates: %s from %s" % (word, one.table.unit, one.table.zero)
                 for word, one in (("old", old), ("new", new))])


def _paired(options, old, new, project):
    """Which particles are compared with which."""
    of_new = _same_sources(options, old, new)
    sources = list(dict.fromkeys(old.names() + of_new))
    ticked, nobody = _ticked(options, sources), np.zeros(0, int)
    of_old, of_other = grouped(old.names()), grouped(of_new)
    groups = {name: (of_old.get(name, nobody), of_other.get(name, nobody)) for name in sources}
    left_out = {name: len(g[1]) for name, g in groups.items() if name not in ticked and len(g[1])}
    return Pairing(old, new, of_new, groups, ticked, left_out, project)


def _alone(options, pairing):
    """Problems of particles that nothing is compared with."""
    out, left_out = [], pairing.left_out
    if left_out:
        out.append(Problem("warning", options.new, "%d particles are left out in tilt series that --sources does not "
                           "name: %s" % (sum(left_out.values()), ", ".join(left_out))))
    for text, which in (("only in the old set", 1), ("only in the new set", 0)):
        alone = [name for name in pairing.ticked if not len(pairing.groups[name][which])]
        if alone:
            out.append(Problem("warning", "tilt series " + text, ", ".join(alone), "Nothing there can match"))
    return out


def _same_sources(options, old, new):
    """The tilt series of each new particle, as the old set calls it where it has it: the same hash of M, or name."""
    refuse_ambiguous(options.new, new.ts_ids, dict.fromkeys(old.names()))
    meant = particlestar.match_names(new.ts_ids, tuple(dict.fromkeys(old.names())))
    if species.HASH in old.extra and species.HASH in new.extra:
        known = {}
        for value, name in zip(old.extra[species.HASH], old.names()):
            known.setdefault(value, set()).add(name)
        hashes = {name: value for value, name in zip(new.extra[species.HASH], new.names())}
        meant.update((name, next(iter(known[value]))) for name, value in hashes.items()
                     if value not in ("", "null") and len(known.get(value, ())) == 1)
    return [meant.get(name, name) for name in new.names()]


def _ticked(options, sources):
    """The tilt series that take part."""
    asked = [name.strip() for name in options.sources.split(",") if name.strip()]
    meant = particlestar.match_names(asked, sources)
    unknown = [name for name in asked if name not in meant]
    if unknown:
        raise InputError("--sources", "there is no tilt series %s" % ", ".join(unknown),
                         "The names are: " + ", ".join(sources))
    return [name for name in sources if not asked or name in meant.values()]


def _needs(options, old, new):
    """Bytes that matching in one tilt series takes."""
    if options.matching == "warp":
        return _CELL_BYTES * len(old) * len(new)
    return _PAIR_BYTES * pairs_within(old, new, options.tolerance) if options.tolerance else 0


def execute(unit, options, backend):
    """Match the sets in each tilt series, write the histogram, who matches whom, and then the table.

    See `contract.Verb`.

    Returns
    -------
    dict
        Plain values: ``counts`` of particles that are ``only_old``, ``both`` and ``only_new``; the same per tilt
        series in ``series``; ``left_out`` of the new set, per tilt series; ``written``; ``star``; ``report``;
        ``notes``; ``files``.

    Raises
    ------
    InputError
        If no particle is left.
    """
    work = unit.work
    old, new, groups, ticked = work.old, work.new, work.groups, work.ticked
    partner, distance = np.full(len(old), -1), np.full(len(old), np.inf)
    near = np.full(len(old), np.inf)
    rank = row_order(old), row_order(new)
    progress = Progress(unit.name, len(ticked), "tilt series")
    for name in ticked:
        a, b = groups[name]
        found, distance[a] = match(old.position[a], new.position[b], options.tolerance, options.matching, rank[0][a],
                                   rank[1][b])
        partner[a[found >= 0]] = b[found[found >= 0]]
        near[a] = nearest(old.position[a], new.position[b])[0]
        progress()
    progress.finish()
    free = np.zeros(len(new), bool)
    free[np.concatenate([groups[name][1] for name in ticked])] = True
    free[partner[partner >= 0]] = False
    both, free = partner >= 0, np.flatnonzero(free)
    of_series = {}
    for name in ticked:
        a, b = groups[name]
        pairs = int(both[a].sum())
        of_series[name] = {"only_old": len(a) - pairs, "both": pairs, "only_new": len(b) - pairs}
    counts = {"only_old": int((~both).sum()), "both": int(both.sum()), "only_new": len(free)}
    files = _histogram(options, distance[both], near, counts)
    files.append(os.path.join(options.output, "report", "matches.csv"))
    write_text(files[-1], _listed(old, new, work.of_new, partner, distance, free))
    rows = np.flatnonzero(both & options.both | ~both & options.only_old)
    added = []
    if options.only_new:
        added = particlerows.made_rows(options.old, old, new.select(free), [work.of_new[i] for i in free], work.project,
                                       options.old_pixel_size)
    path = os.path.join(options.output, options.star)
    if not len(rows) and not added:
        raise InputError(path, "no particle is left: %s" % _counted(counts),
                         "Choose other sets, or a tolerance that suits the histogram in %s" % files[0])
    particlerows.write_rows(path, options.old, rows, added)
    return {"counts": counts, "series": of_series, "left_out": work.left_out,
            "written": len(rows) + len(added), "star": path, "report": files[1], "notes": [], "files": files + [path]}


def _counted(counts):
    return ", ".join("%d %s" % (n, name.replace("_", " ")) for name, n in counts.items())


def _listed(old, new, of_new, partner, distance, free):
    """Every particle, its set, its partner and how far away that is, as text."""
    text, names = io.StringIO(), old.names()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["tilt_series", "set", "old", "new", "distance_A"])
    for i, j in enumerate(partner):
        table.writerow([names[i], "both", old.uid[i], new.uid[j], "%.3f" % distance[i]] if j >= 0
                       else [names[i], "only_old", old.uid[i], "", ""])
    table.writerows([of_new[i], "only_new", "", new.uid[i], ""] for i in free)
    return text.getvalue()


def _histogram(options, pairs, near, counts):
    """Distances of the pairs, and from each old particle to the nearest new one as far as that helps to see."""
    inside = near[near <= 3 * options.tolerance] if options.tolerance else near
    return histogram.write(os.path.join(options.output, "report", "distances"), histogram.edges(pairs, inside),
                           {"pairs": pairs, "nearest new particle": near}, _counted(counts),
                           ("tolerance", options.tolerance))


def collect(options, results):
    """Say how many particles are in each set; nothing is left to do after the one unit.

    Returns
    -------
    dict
        ``star`` (path), ``only_old``, ``both``, ``only_new`` and ``written``, numbers.
    """
    result = results[0]
    return dict(star=result["star"], **{name: result["counts"][name] for name in SETS}, written=result["written"])
