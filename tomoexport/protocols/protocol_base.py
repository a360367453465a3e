"""What the protocols have in common: forms made from the options, one job per tilt series, failed sets."""

import json
import os
import shlex
import sys
from dataclasses import fields
from pathlib import Path

from pwem.protocols import EMProtocol
from pyworkflow.constants import BETA
from pyworkflow.object import Set
from pyworkflow.protocol import (
    GPU_LIST,
    LEVEL_ADVANCED,
    LEVEL_NORMAL,
    STEPS_PARALLEL,
    USE_GPU,
    BooleanParam,
    EnumParam,
    FileParam,
    FloatParam,
    IntParam,
    Range,
    StringParam,
)
from tomo.protocols import ProtTomoBase

from ..convert import to_scipion
from ..errors import InputError
from ..io.atomic import write_json
from ..io.manifest import fingerprint
from ..io.paths import safe_stem
from ..options import VERBS, from_dict
from ..plugin import Plugin

# What the form says for a choice that would be a bare number.
SHOWN = {("hand", 0): "as the tilt series", ("hand", 1): "+1", ("hand", -1): "-1"}
FAILED = "FailedTiltSeries"


def paramName(option):
    """Scipion's spelling of an option: ``pixel_size`` becomes ``pixelSize``."""
    first, *others = option.split("_")
    return first + "".join(word.capitalize() for word in others)


class ProtTomoExportBase(EMProtocol, ProtTomoBase):
    """Base of the protocols that run a verb of the command line."""

    _label = None
    _devStatus = BETA
    stepsExecutionMode = STEPS_PARALLEL
    VERB = ""

    # -------------------------- DEFINE param functions -----------------------
    def _addOptions(self, form, *names, verb=None, condition="True"):
        """Add form parameters for the named options of the verb, with their texts, limits and defaults."""
        specs = {spec.name: spec for spec in fields(VERBS[verb or self.VERB])}
        for name in names:
            spec, meta = specs[name], specs[name].metadata
            common = dict(label="%s (%s)" % (meta["label"], meta["unit"].replace("A", "Å")) if meta["unit"]
                          else meta["label"], help=meta["help"], default=spec.default, condition=condition,
                          expertLevel=LEVEL_ADVANCED if meta["advanced"] else LEVEL_NORMAL)
            kind = StringParam
            if meta["choices"]:
                kind = EnumParam
                common.update(choices=[SHOWN.get((name, c), str(c)) for c in meta["choices"]],
                              default=meta["choices"].index(spec.default), display=EnumParam.DISPLAY_HLIST)
            elif meta["kind"] == "input":
                kind = FileParam
            elif isinstance(spec.default, bool):
                kind = BooleanParam
            elif isinstance(spec.default, (int, float)):
                kind = IntParam if isinstance(spec.default, int) else FloatParam
                common["validators"] = [Range(meta["low"], meta["high"], "%s: give a value from %g to %g %s" % (
                    meta["label"], meta["low"], meta["high"], meta["unit"]))]
            form.addParam(paramName(name), kind, **common)

    def _addCompute(self, form, parallel=True):
        """Add the parameters that say where to compute."""
        form.addHidden(USE_GPU, BooleanParam, default=True, label="Use GPU", help="Use a GPU if there is one on which "
                       "a real kernel runs; otherwise, or with No, the CPU computes.")
        form.addHidden(GPU_LIST, StringParam, default="0", label="GPU IDs", help="One tilt series at a time is worked "
                       "on per GPU of this list, as threads allow. Without a GPU, choose No to work on several at once "
                       "on the CPU.")
        self._addOptions(form, *[n for n in ("bad_pixels", "device", "threads")
                                 if n in VERBS[self.VERB].__dataclass_fields__])
        form.addParallelSection(threads=3 if parallel else 1, mpi=0)

    def _optionValues(self, verb=None):
        """Return what the form says for every option of the verb that it has, as plain values."""
        values = {}
        for spec in fields(VERBS[verb or self.VERB]):
            attribute = getattr(self, paramName(spec.name), None)
            if attribute is not None and self._definition.hasParam(paramName(spec.name)):
                choices = spec.metadata["choices"]
                values[spec.name] = choices[attribute.get()] if choices else attribute.get()
        if not self.usesGpu() and values.get("device") == "auto":
            values["device"] = "cpu"
        return values

    # -------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        # A step runs again on Continue if its arguments changed: they hold everything that the results depend on, and
        # how often a tilt series has failed, so that failures are tried again.
        key, names = self._key(), self._seriesIds()
        failures = {name: self._failures(name).get("attempts", 0) for name in names}
        total = sum(failures.values())
        first = self._insertFunctionStep(self.convertInputStep, key, total, prerequisites=[], needsGPU=False)
        runs = [self._insertFunctionStep(self.runSeriesStep, name, key, failures[name], prerequisites=[first],
                                         needsGPU=self.usesGpu()) for name in names]
        self._insertFunctionStep(self.createOutputStep, key, total, prerequisites=runs, needsGPU=False)

    def _key(self):
        """Hash of all parameters and inputs."""
        values = {}
        for name, attribute in self.iterDefinitionAttributes():
            if attribute.isPointer():
                target = attribute.get()
                value = [attribute.getUniqueId(), Path(target.getFileName())] if target is not None else ""
            else:
                value = str(attribute.get())
            if name not in (USE_GPU, GPU_LIST, "numberOfThreads", "numberOfMpi", "threads", "device"):
                values[name] = value
        return fingerprint(values)

    # --------------------------- STEPS functions -----------------------------
    def runSeriesStep(self, name, key, attempt):
        """Run the job of one tilt series, and look at what it left: a queue does not tell whether a job failed."""
        if self._failures(name).get("stage") == "input":
            return
        try:
            self._runJob(dict(self._job(), series=[name]), safe_stem(name))
            result = self._result(name)
            if result.get("status") not in ("done", "skipped"):
                raise RuntimeError("%s: its job left no result. Look at the output log." % name)
            self._checkResult(result)
            self._setFailure(name)
        except Exception as error:  # one tilt series does not stop the others
            result = self._result(name)
            self._setFailure(name, result["error"] if result.get("status") == "failed" else str(error), "job")

    def _collect(self):
        """Run the job that merges tables and draws the report."""
        self._runJob(dict(self._job(), series=[], collect=True), "collect")

    def _runJob(self, job, name):
        """Run a job of the command line, on the GPUs of this step."""
        path = os.path.abspath(self._getExtraPath("jobs", name + ".json"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_json(path, job)
        environ = Plugin.getEnviron()
        gpus = self._stepsExecutor.getGpuList() if self.usesGpu() and not self.useQueueForSteps() else None
        if gpus:
            environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(g) for g in gpus)
        self.runJob(shlex.quote(sys.executable), "-m tomoexport run " + shlex.quote(path), env=environ)

    def _job(self):
        """Return the job without its tilt series. Paths are absolute: a queue may start it in any folder."""
        return {"verb": self.VERB, "options": dict(
            self._optionValues(), output=os.path.abspath(self._getExtraPath()),
            **{name: os.path.abspath(path) for name, path in self._jobInputs().items()})}

    def _result(self, name):
        """Return what a job recorded of one tilt series."""
        return self._readJson(self._getExtraPath("results", safe_stem(name) + ".json"))

    @staticmethod
    def _readJson(path):
        if not os.path.exists(path):
            return {}
        with open(path, encoding="utf-8") as file:
            return json.load(file)

    # --------------------------- UTILS functions -----------------------------
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

    def _note(self, lines):
        """Keep remarks for the summary, and log them."""
        write_json(self._getExtraPath("notes.json"), list(lines))
        for line in lines:
            self.info(line)

    def _relative(self, path):
        """Path as sets keep it: relative to the project, so that the project can be moved."""
        return os.path.relpath(path, os.path.abspath("."))

    def _addOutput(self, name, output, *sources):
        """Define a closed output set that comes from the given inputs."""
        if isinstance(output, Set):
            output.setStreamState(Set.STREAM_CLOSED)
            output.write()
        self._defineOutputs(**{name: output})
        for source in sources:
            if source.get() is not None:
                self._defineSourceRelation(source, output)

    def _addFailed(self, names):
        """Put the tilt series that failed into a set of their own; fails if there is no other."""
        failed = {name: error for name, error in self._errors().items() if name in names}
        if failed and len(failed) == len(names):
            raise RuntimeError("No tilt series succeeded.\n" + "\n".join(failed.values()))
        # Scipion brings an output that was deleted back from the project: one that is no longer needed becomes empty.
        if failed or hasattr(self, FAILED):
            source = self.inputTiltSeries.get()
            output = self._createSetOfTiltSeries("_failed")
            output.copyInfo(source)
            for ts in source.iterItems():
                if ts.getTsId() in failed:
                    to_scipion.copy_tilt_series(output, ts, failed[ts.getTsId()])
            self._addOutput(FAILED, output, self.inputTiltSeries)

    # --------------------------- INFO functions ------------------------------
    def _validate(self):
        try:
            if self.VERB:
                from_dict(self.VERB, self._optionValues())
            return self._checkInputs()
        except InputError as error:
            return [str(error)]

    def _checkSets(self):
        """Tell which input sets cannot be used: empty ones, and those that still grow."""
        errors = []
        for name, attribute in self.iterDefinitionAttributes():
            target = attribute.get() if attribute.isPointer() else None
            if isinstance(target, Set):
                label = self.getParam(name).getLabel()
                if target.getSize() == 0:
                    errors.append("%s: the set is empty. Choose another one." % label)
                elif target.isStreamOpen():
                    errors.append("%s: the set is still growing. Wait until its run has finished." % label)
        return errors

    def _summary(self):
        lines = list(self._outputLines())
        lines += ["Failed: " + error for error in self._errors().values()]
        notes = self._getExtraPath("notes.json")
        return lines + list(self._readJson(notes) if os.path.exists(notes) else [])

    def _outputLines(self):
        return ["%s: %s" % (name, output) for name, output in self.iterOutputAttributes()]

    def _citations(self):
        return ["JimenezDeLaMorena2022"]
