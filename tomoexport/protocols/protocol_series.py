"""What the protocols have in common that work on one tilt series at a time."""

import os
from collections import Counter

from pyworkflow.protocol import STEPS_PARALLEL
from pyworkflow.utils import cleanPath

from ..convert import to_scipion
from ..convert.from_scipion import listed
from ..io.atomic import write_json
from ..io.paths import safe_stem
from .protocol_base import ProtTomoExportBase

FAILED = "FailedTiltSeries"


class ProtTomoExportSeriesBase(ProtTomoExportBase):
    """Base of the protocols that run one job per tilt series; one that fails does not stop the others."""

    _label = None
    stepsExecutionMode = STEPS_PARALLEL

    # -------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        # A step runs again on Continue if its arguments changed: they hold everything that the results depend on, and
        # how often a tilt series has failed, so that failures are tried again.
        key, names = self._key(), self._seriesIds()
        failures = {name: self._failures(name).get("attempts", 0) for name in names}
        total = sum(failures.values())
        first = self._insertFunctionStep(self.convertInputStep, key, total, prerequisites=[], needsGPU=False)
        count = max(1, self.seriesPerJob.get() or 1)
        jobs = [names[i:i + count] for i in range(0, len(names), count)]
        runs = [self._insertFunctionStep(self.runSeriesStep, job if len(job) > 1 else job[0], key,
                                         sum(failures[name] for name in job), prerequisites=[first],
                                         needsGPU=self.usesGpu() and not self.useQueueForSteps()) for job in jobs]
        self._insertFunctionStep(self.createOutputStep, key, total, prerequisites=runs, needsGPU=False)

    # --------------------------- STEPS functions -----------------------------
    def convertInputStep(self, key, attempt):
        """Write the tables that the jobs read."""
        self._forgetOthers(key)
        names = self._seriesIds()
        notes, failures = self._writeInputs(names)
        for name in names:
            self._setFailure(name, self._spoken(failures.get(name, "")), "input")
        self._note([self._spoken(line) for line in dict.fromkeys(self._doubts() + self._orphans() + notes)])

    def runSeriesStep(self, names, key, attempt):
        """Run the job of a tilt series, or of several, and look at what it left: a queue does not tell of failures."""
        names = [name for name in ([names] if isinstance(names, str) else names)
                 if self._failures(name).get("stage") != "input"]
        if not names:
            return
        error = None
        try:
            more = "_and_%d_more" % (len(names) - 1) if len(names) > 1 else ""
            self._runJob(dict(self._job(), series=names), safe_stem(names[0]) + more)
        except Exception as raised:  # one tilt series does not stop the others
            error = raised
        for name in names:
            self._judge(name, error)

    def _judge(self, name, error):
        """Record whether a job has done a tilt series; ``error``: how the job ended."""
        result = self._result(name)
        if result.get("status") not in ("done", "skipped"):
            self._setFailure(name, self._spoken(result.get("error") or str(
                error or "%s: its job left no result. Look at the output log." % name)), "job")
            return
        try:
            self._checkResult(result)
            self._setFailure(name)
        except Exception as raised:
            self._setFailure(name, str(raised), "job")

    def _collect(self):
        """Run the job that merges tables and draws the report; what other parameters left goes."""
        self._runJob(dict(self._job(), series=[], collect=True), "collect")
        self._removeStale()

    # --------------------------- UTILS functions -----------------------------
    def _forgetOthers(self, key):
        """What other parameters or inputs gave must not pass for the result of a job that a queue lost.

        Returns
        -------
        bool
            Whether there may be something of others.
        """
        if self._readJson(self._getExtraPath("key.json")) == key:
            return False
        stale = set(self._readJson(self._getExtraPath("stale.json")) or ()) | self._files()
        write_json(self._getExtraPath("stale.json"), sorted(stale))
        cleanPath(self._getExtraPath("results"))
        write_json(self._getExtraPath("key.json"), key)
        return True

    def _files(self):
        """What the jobs have written of all tilt series, relative to the output folder."""
        root = os.path.abspath(self._getExtraPath())
        return {os.path.relpath(os.path.join(root, path), root) for record in self._results().values()
                for path in record.get("files") or ()}

    def _removeStale(self):
        """Remove what other parameters had written under names that these do not write."""
        stale = set(self._readJson(self._getExtraPath("stale.json")) or ()) - self._files()
        for name in stale:
            path = self._getExtraPath(name)
            if not name.startswith(os.pardir) and os.path.isfile(path):
                os.remove(path)
        cleanPath(self._getExtraPath("stale.json"))

    def _planNames(self):
        return self._seriesIds()

    def _smallest(self):
        """Pixel size that the form asks for, to be compared with that of the images; infinite while it is open."""
        return float("inf") if self._unanswered() else self._optionValues()["pixel_size"]

    def _orphans(self):
        """Tell which tilt series some inputs lack."""
        return []

    def _result(self, name):
        """Return what a job recorded of one tilt series."""
        return self._readJson(self._getExtraPath("results", safe_stem(name) + ".json"))

    def _failures(self, name):
        """Return why a tilt series failed, at which stage, and how often it did so far."""
        return self._readJson(self._getExtraPath("failed", safe_stem(name) + ".json"))

    def _setFailure(self, name, error="", stage=""):
        """Record that a tilt series failed, or that it did not; the number of failures is kept."""
        attempts = self._failures(name).get("attempts", 0)
        if error:
            self.error("%s failed: %s" % (name, error))
        elif not attempts:
            return
        os.makedirs(self._getExtraPath("failed"), exist_ok=True)
        write_json(self._getExtraPath("failed", safe_stem(name) + ".json"),
                   {"ts_id": name, "error": error, "stage": stage if error else "", "attempts": attempts + bool(error)})

    def _errors(self):
        """Return the reasons of the tilt series that failed."""
        folder = self._getExtraPath("failed")
        records = [self._readJson(os.path.join(folder, n)) for n in sorted(os.listdir(folder))] if os.path.isdir(
            folder) else []
        return {record["ts_id"]: record["error"] for record in records if record["error"]}

    def _addFailed(self, names):
        """Put the tilt series that failed into a set of their own; fails if there is no other."""
        failed = {name: error for name, error in self._errors().items() if name in names}
        if failed and len(failed) == len(names):
            raise RuntimeError("No tilt series succeeded.\n" + "\n".join(failed.values()))
        source = self._tiltSeriesPointer().get()
        # Scipion brings an output that was deleted back from the project: one that is no longer needed becomes empty.
        if source is not None and (failed or hasattr(self, FAILED)):
            output = self._createSetOfTiltSeries("_failed")
            output.copyInfo(source)
            for ts in source.iterItems():
                if ts.getTsId() in failed:
                    to_scipion.copy_tilt_series(output, ts, failed[ts.getTsId()])
            self._addOutput(FAILED, output, self._tiltSeriesPointer())

    def _tiltSeriesPointer(self):
        return self.inputTiltSeries

    # --------------------------- INFO functions ------------------------------
    def _outputLines(self):
        return (super()._outputLines() + self._particleLines() + self._settingLines() + self._tableLines()
                + ["Failed: " + error for error in self._errors().values()])

    def _results(self):
        """What the jobs recorded of all tilt series that they have done, by name."""
        folder = self._getExtraPath("results")
        records = [self._readJson(os.path.join(folder, name)) for name in sorted(os.listdir(folder))
                   if name.endswith(".json")] if os.path.isdir(folder) else []
        return {record["ts_id"]: record for record in records if record.get("status") == "done"}

    def _particleLines(self):
        """How many particles there are, and why others are not."""
        entries = [p for record in self._results().values() for p in record.get("particles") or ()]
        if not entries:
            return []
        why = Counter(p.get("reason") or "no reason is recorded" for p in entries if not p["kept"])
        return ["%d of %d particles kept" % (sum(bool(p["kept"]) for p in entries), len(entries))] + [
            "%d left out: %s" % (count, reason) for reason, count in why.most_common(6)] + (
                ["and %d for other reasons" % sum(n for _, n in why.most_common()[6:])] if len(why) > 6 else [])

    def _settingLines(self):
        """Which handedness was used, whence it comes, and what has computed."""
        lines, results = [], self._results()
        for title, key in (("Handedness of the defocus", "hand"), ("Computed on", "device")):
            found = {}
            for name, record in results.items():
                if record.get(key):
                    found.setdefault(record[key], []).append(name)
            lines += ["%s: %s%s" % (title, value, "" if len(found) == 1 else ": " + listed(names))
                      for value, names in found.items()]
        return lines
