"""Average exported sub-tomograms: the sanity check, with half maps and FSC."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import List

import numpy as np

from ..engine.average import Accumulator
from ..engine.backend import available_cores
from ..engine.particles import ParticleSet
from ..errors import InputError
from ..io import mrc, subtomostar
from . import maps
from .maps import damaged
from .particles import halves
from .plan import PROCESS_BYTES, Problem
from .progress import Progress
from .sets import one_unit
from .statements import unfollowed

PIECES = 4  # per half; fixed, so that the sums do not depend on the number of threads


@dataclass(frozen=True, eq=False)
class Subtomograms:
    """Particles, paths of their volumes and 3D CTFs, pixel size (A) and box (voxels)."""

    particles: ParticleSet
    images: List[str]
    ctfs: List[str]
    pixel_size: float
    box: int


def plan(options, only=None):
    """Plan the average: one unit, 'average'; see `contract.Verb`.

    Raises
    ------
    InputError
        If no table is named or it cannot be read; damaged or missing volumes are problems of the plan.
    """
    if not options.particles:
        raise InputError("--particles", "no file is given", "Name the STAR file of an export")
    particles, images, ctfs, pixel_size, box = subtomostar.read_subtomos(options.particles)
    problems = []
    if not particles.oriented:
        problems.append(Problem("warning", options.particles, "it has no orientations",
                                "All particles are averaged as they lie"))
    for paths, shape in ((images, (box,) * 3), (ctfs, (box, box, box // 2 + 1))):
        problems += damaged(paths, shape, options.particles)
    files = images + ctfs + ([options.reference] if options.reference else [])
    problems += damaged(files[len(images + ctfs):], (box,) * 3, "--reference")
    missing = [path for path in files if not os.path.exists(path)]
    if missing:
        problems.append(Problem("error", missing[0], "the file does not exist" + (
            "" if len(missing) == 1 else ", nor do %d more" % (len(missing) - 1)),
            "Export the sub-tomograms again, or correct the paths in %s" % options.particles))
    if len(particles) < 2:
        problems.append(Problem("error", options.particles, "it has %d particle" % len(particles),
                                "Two halves need at least two"))
    elif len(set(halves(particles))) < 2:
        problems.append(Problem("error", options.particles, "all particles are in one half",
                                "Give rlnRandomSubset both values, or remove the column"))
    problems += unfollowed("average", options.particles, particles.table.statements)
    threads = min(2 * PIECES, options.threads or available_cores())
    return one_unit(
        "average", options, Subtomograms(particles, images, ctfs, pixel_size, box), {},
        [path for path in files if os.path.exists(path)], problems,
        (halves(particles).tolist(), particles.rotation.tolist(), list(particles.uid)), 12 * box ** 3,
        PROCESS_BYTES + ((2 * PIECES + 1) * 40 + threads * 55) * (2 * box) ** 2 * (box + 1))


def execute(unit, options, backend):
    """Average the particles, and write maps, FSC and figures; see `contract.Verb`.

    Returns
    -------
    dict
        Plain values: paths of ``average``, ``half1``, ``half2``; ``resolution_0143`` and ``resolution_05`` in A;
        ``curves`` (FSC per shell) over ``frequency`` in 1/A; ``files``.

    Raises
    ------
    InputError
        If a volume cannot be read, is damaged or has another size.
    """
    work = unit.work
    particles, box = work.particles, work.box
    half = halves(particles)
    progress = Progress("average", len(particles), "particles")

    def accumulate(task):
        which, piece = task
        total = Accumulator(box)
        for i in np.flatnonzero(half == which)[piece::PIECES]:
            volume = _read(work.images[i], (box,) * 3)
            transfer = _read(work.ctfs[i], (box, box, box // 2 + 1))
            total.add(volume, transfer, particles.rotation[i])
            progress()
        return which, total

    sums = [None, None]
    with ThreadPoolExecutor(backend.threads) as pool:
        for which, part in pool.map(accumulate, [(w, p) for p in range(PIECES) for w in (0, 1)]):
            sums[which] = part if sums[which] is None else sums[which].merged(part)
    progress.finish()
    found = {"average": sums[0].merged(sums[1]).map(), "half1": sums[0].map(), "half2": sums[1].map()}
    known = _read(options.reference, (box,) * 3) if options.reference else None
    written = maps.write_maps(options.output, found, work.pixel_size, options.diameter, known)
    return dict(written, particles=len(particles), half_particles=[int((half == w).sum()) for w in (0, 1)],
                notes=[])


def _read(path, shape):
    volume, _ = mrc.read_volume(path)
    if volume.shape != shape:
        raise InputError(path, "it has %s voxels, expected %s" % (volume.shape[::-1], shape[::-1]),
                         "All sub-tomograms of a table must have one box size, and half volumes of 3D CTF")
    return volume


def collect(options, results):
    """Name the average and its resolution; nothing is left to do after the one unit.

    Returns
    -------
    dict
        ``average`` (path) and ``resolution``, a text with those at FSC 0.143 and 0.5.
    """
    return {"average": results[0]["average"], "resolution": maps.resolutions(results[0])}
