"""Cutting the particles of a tilt series out of its images: what every operation on particles does alike.

Which particles are worked on and why others are not, reading the images, batches that a device takes at once and that
are halved where it does not, the ring of buffers on their way to the host, threads that compute and threads that write.
An operation brings what it makes of some particles, and what it does with the result.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from .batches import GPU_WRITERS, Batches, batch_size, run_halving, uploaded
from .memory import workers_that_fit
from .particles import RING, RING_BYTES, poses_at
from .pipeline import Pipeline
from .progress import Progress
from .tiltseries import prepare

WAITING = 2  # results per thread of the CPU that may wait to be written


def entries_of(unit, more, why=None):
    """What is recorded of each particle of a tilt series before its images are read.

    Parameters
    ----------
    unit : plan.Unit
        Its work is a `ParticleWork`.
    more : list of dict
        What the operation records of each, beside ``uid``, ``kept``, ``tilts`` (that show it) and ``reason``.
    why : callable, optional
        ``why(count)``: the reason why a particle that so many tilts show is left out.

    Returns
    -------
    list of dict
        Plain values.
    """
    work = unit.work
    why = why or (lambda count: "seen in %d tilts, %d asked for" % (count, work.fewest))
    return [dict({"uid": uid, "kept": bool(kept), "tilts": int(count), "reason": "" if kept else why(count)}, **own)
            for uid, kept, count, own in zip(work.particles.uid, work.kept, work.seen.sum(axis=1), more)]


class Extraction:
    """The particles of a tilt series on their way from images to results.

    Parameters
    ----------
    unit : plan.Unit
        Its work is a `ParticleWork` with at least one particle that is kept.
    options : ExtractionOptions
    backend : Backend
    entries : list of dict
        Of `entries_of`; particles that turn out to be shown by too few tilts with contrast are left out in them.
    how : Preparation
        What happens to the images.
    series : TiltSeries, optional
        The unit's, turned as `how` says.
    enough : callable, optional
        ``enough(seen)``: which particles the tilts with contrast `(N, T)` still show well enough; by default those
        that as many show as are asked for.

    Attributes
    ----------
    series : TiltSeries
        With the T tilts whose images have contrast.
    stack : PreparedStack
        Their images, on the host.
    seen : ndarray `(N, T)` of bool
    index : ndarray of int
        Particles that are worked on.
    notes : list of str
    room : int
        Memory that may be taken, bytes: the plan's budget, not half of what is free after earlier series, unless
        several devices share it.
    needs : MemoryNeeds

    Raises
    ------
    UnitError
        If images cannot be used.
    """

    def __init__(self, unit, options, backend, entries, how, series=None, enough=None):
        work, series = unit.work, series or unit.series
        self.name, self.backend, self.needs = unit.name, backend, work.needs
        self.room = int(options.memory * 1e9) or work.room
        readers = replace(backend, threads=self._fitting(self.needs.reader))
        before = series.geometry.acq_order
        self.stack, self.series, self.notes = prepare(
            series, how, readers, Progress(unit.name + " reading", len(before), "tilts"))
        self.particles, self.exposures = work.particles, work.exposures
        self.seen = work.seen[:, np.isin(before, self.series.geometry.acq_order)]
        fit = enough(self.seen) if enough else self.seen.sum(axis=1) >= work.fewest
        for i in np.flatnonzero(work.kept & ~fit):
            entries[i].update(kept=False, reason="seen in %d tilts that have contrast" % self.seen[i].sum())
        for entry, shown in zip(entries, self.seen.sum(axis=1)):
            entry["tilts"] = int(shown)
        self.index = np.flatnonzero(work.kept & fit)

    def _fitting(self, each):
        """Threads of the host that memory allows, each of which takes so much."""
        return workers_that_fit(self.room, self.needs.shared, each, self.backend.threads)

    def poses(self):
        """Where the particles are, and how they are turned, in each of the tilts: as `particles.poses_at`."""
        return poses_at(self.particles, self.exposures, self.series.geometry)

    def upload(self):
        """Copy the images to the device, and let go of those of the host.

        Returns
        -------
        ndarray or cupy.ndarray `(T, h, w)`
        """
        self._copies = self.backend.copies(RING)
        self.backend.keep_plans()
        images = uploaded(self.stack.images, self._copies, self.backend)
        if self.backend.on_gpu:
            self.stack = replace(self.stack, images=self.stack.images[:0])
        return images

    def alike(self):
        """Groups of particles that the same tilts show.

        Returns
        -------
        list of (ndarray `(T,)` of bool, ndarray of int)
            Those tilts, and the particles.
        """
        patterns, which = np.unique(self.seen[self.index], axis=0, return_inverse=True)
        return [(pattern, self.index[which.reshape(-1) == n]) for n, pattern in enumerate(patterns)]

    def write(self, groups, make, store, item_bytes):
        """Make and write every particle.

        Parameters
        ----------
        groups : iterable of (object, ndarray of int)
            What some particles share, and which they are; those of one call are of one group.
        make : callable
            ``make(shared, part)``: a list of arrays on the device, with an entry per particle of `part` each.
        store : callable
            ``store(i, *arrays)``: writes what was made of particle i; called in any order, several at once.
        item_bytes : int
            Memory of the device that one particle takes.
        """
        needs, backend, copies = self.needs, self.backend, self._copies
        most = max(1, min(RING_BYTES, (self.room - needs.shared) // RING) // max(1, needs.result))
        sizes, progress = Batches(backend, item_bytes, most), Progress(self.name, len(self.index), "particles")

        def stored(i, *arrays):
            store(i, *arrays)
            progress()

        workers = 1 if backend.on_gpu else self._fitting(needs.worker)
        pipeline = Pipeline(stored, GPU_WRITERS if backend.on_gpu else workers,
                            RING if backend.on_gpu else WAITING * workers, backend.activate)

        def compute(batch):
            shared, some = batch

            def work(part):
                pipeline.deliver(part, copies.fetch(*make(shared, part)))

            sizes.run(work, some, copies.drain)

        pipeline.run(((shared, some) for shared, index in groups for some in sizes.split(index)), compute, workers)
        progress.finish()

    def add_up(self, groups, make, add, step, item_bytes):
        """Make and add up what all particles give; the order of the sums does not depend on how fast threads are.

        Parameters
        ----------
        groups : list of (object, ndarray of int)
            As of `write`.
        make : callable
            ``make(shared, part)``: what some particles give, on the host.
        add : callable
            ``add(shared, made)``: adds that to the sums.
        step : int
            Particles of one call on the host.
        item_bytes : int
            Memory of the device that one particle takes.
        """
        progress, backend = Progress(self.name, len(self.index), "particles"), self.backend
        step = max(step, batch_size(backend, item_bytes))

        def compute(task):
            made = []
            run_halving(lambda part: made.append(make(task[0], part)), task[1], backend, item_bytes)
            progress(len(task[1]))
            return task[0], made

        tasks = [(shared, index[i:i + step]) for shared, index in groups for i in range(0, len(index), step)]
        workers = 1 if backend.on_gpu else self._fitting(self.needs.worker)
        with ThreadPoolExecutor(workers, initializer=backend.activate) as pool:
            # A few at a time: what waits to be added takes memory.
            for i in range(0, len(tasks), workers):
                for shared, made in pool.map(compute, tasks[i:i + workers]):
                    for one in made:
                        add(shared, one)
        progress.finish()


def make_folders(options, names):
    """Make the folders of files.

    Parameters
    ----------
    options : ExtractionOptions
    names : iterable of str
        Relative to the output folder.
    """
    for folder in {os.path.dirname(name) for name in names}:
        os.makedirs(os.path.join(options.output, folder), exist_ok=True)
