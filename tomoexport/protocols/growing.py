"""Sets that grow: a protocol that follows an open set of tilt series, and closes its outputs when that closes.

Scipion's executor asks `_stepsCheck` every few seconds, in the main thread, whether there are new steps. Reading and
writing of sets is under the protocol's lock; the state of a stream is read before the names in it, so that nothing
that came between is lost.
"""

import os
import time

from pyworkflow.object import Set
from pyworkflow.protocol import STATUS_NEW

from ..io.atomic import write_json
from ..io.paths import safe_stem
from ..io.relion5 import write_project
from .protocol_series import ProtTomoExportSeriesBase


class ProtTomoExportGrowingBase(ProtTomoExportSeriesBase):
    """Base of the protocols whose outputs grow with their tilt series.

    A step per tilt series reads it, writes a table of its own, runs its job and appends to the outputs; the last step
    waits until the inputs are closed, and joins what all have in common.
    """

    _label = None
    #: Inputs that may grow.
    FOLLOWS = ("inputTiltSeries", "inputCtfs")

    # -------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        if not self._isFollowing():
            super()._insertAllSteps()
            return
        self._following, key = {}, self._key(contents=False)
        # With the time, so that Continue repeats it.
        self._first = self._insertFunctionStep(self.openStep, key, time.time(), prerequisites=[], needsGPU=False)
        self._last = self._insertFunctionStep(self.closeStep, key, self._attempts(), prerequisites=[self._first],
                                              wait=True, needsGPU=False)
        self._follow()

    def _stepsCheck(self):
        if getattr(self, "_following", None) is not None and self._follow():
            self.updateSteps()

    def _follow(self):
        """Insert a step for each tilt series that has come; let the last one run when no more will.

        Returns
        -------
        bool
            Whether steps have changed.
        """
        last = self._steps[self._last - 1]
        if not last.isWaiting():
            return False
        with self._lock:
            isOpen, names = self._arrived()
        new = [name for name in names if name not in self._following]
        for name in new:
            self._following[name] = self._insertFunctionStep(
                self.growStep, name, self._key(contents=False), self._failures(name).get("attempts", 0),
                prerequisites=[self._first], needsGPU=self.usesGpu() and not self.useQueueForSteps())
        if not isOpen:
            last.addPrerequisites(*self._following.values())
            last.setStatus(STATUS_NEW)
        return bool(new) or not isOpen

    # --------------------------- STEPS functions -----------------------------
    def openStep(self, key, begun):
        """Open the outputs again that a stop has closed; forget results of other parameters."""
        changed = self._forgetOthers(key)
        write_json(self._getExtraPath("growing.json"), True)
        with self._lock:
            for _, output in list(self.iterOutputAttributes()):
                if changed:  # it names files of other parameters
                    self.deleteOutput(output)
                elif isinstance(output, Set):
                    self._setState(output, Set.STREAM_OPEN)

    def growStep(self, name, key, attempt):
        """Work on a tilt series, and append what came of it to the outputs."""
        folder = self._getExtraPath("input", safe_stem(name))
        with self._lock:
            series, notes, failures = self._read([name])
        self._setFailure(name, self._spoken(failures.get(name, "")), "input")
        for line in notes:
            self.info(self._spoken(line))
        if not series:
            return
        table = write_project(folder, series)
        job, error = self._job(), None
        job["options"]["tomograms"] = os.path.abspath(table)
        try:
            self._runJob(dict(job, series=[name]), safe_stem(name))
        except Exception as raised:  # one tilt series does not stop the others
            error = raised
        self._judge(name, error)
        if name not in self._errors():
            with self._lock:
                self._grow(name)

    def closeStep(self, key, attempt):
        """Join what all tilt series have in common, and close the outputs."""
        names = self._seriesIds()
        notes, _ = self._writeInputs(names)
        self._note([self._spoken(line) for line in dict.fromkeys(self._doubts() + self._orphans() + notes)])
        self._addFailed(names)
        self._collect()
        with self._lock:
            for name in names:  # what a run that was stopped had finished and not appended
                if name not in self._errors():
                    self._grow(name)
            for _, output in self.iterOutputAttributes():
                if isinstance(output, Set):
                    self._setState(output, Set.STREAM_CLOSED)

    # --------------------------- UTILS functions -----------------------------
    def _isFollowing(self):
        """Tell whether inputs grow, or did when this run began."""
        return os.path.exists(self._getExtraPath("growing.json")) or any(
            target.isStreamOpen() for target in self._followed())

    def _followed(self):
        """The sets that are followed, as they are on disk now."""
        targets = [getattr(self, name).get() for name in self.FOLLOWS]
        targets = [target for target in targets if isinstance(target, Set)]
        for target in targets:
            target.loadAllProperties()
        return targets

    def _arrived(self):
        """Whether more tilt series will come, and the names of those that are complete."""
        isOpen = any(target.isStreamOpen() for target in self._followed())
        names = self._seriesIds()
        return isOpen, [name for name in names if self._isWhole(name)]

    def _isWhole(self, name):
        """Tell whether the images and CTFs of a tilt series are there, and not its row alone."""
        for target in self._usedSets():
            item = target.getItem("_tsId", name)
            if item is None or not item.getSize():
                return False
        return True

    def _attempts(self):
        return sum(self._failures(name).get("attempts", 0) for name in self._seriesIds())

    def _appendTo(self, label, create, item):
        """Append an item to an output that is made with the first one; an item that is there already is left."""
        output = getattr(self, label, None)
        if output is None:
            output = create()
            output.setStreamState(Set.STREAM_OPEN)
            output.append(item)
            output.write()
            self._defineOutputs(**{label: output})
            for name in self.FOLLOWS:
                if getattr(self, name).get() is not None:
                    self._defineSourceRelation(getattr(self, name), output)
            self._store(self)  # otherwise others see it when the step ends
            return
        if item.getTsId() in output.getTSIds():
            return
        self.info("%s: appended to %s" % (item.getTsId(), label))
        output.enableAppend()
        output.append(item)
        self._setState(output, Set.STREAM_OPEN)

    # --------------------------- of the protocols ----------------------------
    def _usedSets(self):
        """The sets in which a tilt series must be."""
        raise NotImplementedError

    def _read(self, names):
        """As `from_scipion.tilt_series_set`, with the form's values."""
        raise NotImplementedError

    def _grow(self, name):
        """Append what came of a tilt series to the outputs."""
        raise NotImplementedError

    # --------------------------- INFO functions ------------------------------
    def _checkForm(self):
        """Inputs that grow may do so, and be empty yet."""
        growing = {self.getParam(name).getLabel() for name in self.FOLLOWS
                   if isinstance(getattr(self, name).get(), Set) and getattr(self, name).get().isStreamOpen()}
        return [error for error in super()._checkForm() if error.split(": the set is ")[0] not in growing]

    def _planNames(self):
        return [name for name in super()._planNames() if self._isWhole(name)]

    def _makePlan(self):
        # Of tilt series that are not there yet nothing can be said.
        return super()._makePlan() if self._planNames() or not self._isFollowing() else ([], [])
