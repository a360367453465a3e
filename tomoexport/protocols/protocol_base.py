"""What all protocols have in common."""

import json
import os
import shlex
import sys
from pathlib import Path

from pwem.protocols import EMProtocol
from pyworkflow.constants import BETA
from pyworkflow.object import Set
from pyworkflow.protocol import GPU_LIST, USE_GPU, PathParam
from tomo.protocols import ProtTomoBase

from ..convert import to_scipion
from ..errors import InputError
from ..io import mrc
from ..io.atomic import write_json
from ..io.manifest import fingerprint
from ..options import from_dict
from ..plugin import Plugin
from .form import optionValues


class ProtTomoExportBase(EMProtocol, ProtTomoBase):
    """Base of the protocols; one that runs a verb of the command line names it."""

    _label = None
    _devStatus = BETA
    VERB = ""

    # -------------------------- INSERT steps functions -----------------------
    def _key(self):
        """Hash of all parameters and inputs."""
        values = {}
        for name, attribute in self.iterDefinitionAttributes():
            if attribute.isPointer():
                target = attribute.get()
                value = [attribute.getUniqueId(), Path(target.getFileName())] if target is not None else ""
            else:
                value = str(attribute.get())
                if os.path.isfile(value):  # what is in a file counts, not its name alone
                    value = [value, Path(value)]
            if name not in (USE_GPU, GPU_LIST, "numberOfThreads", "numberOfMpi", "threads", "device", "seriesPerJob"):
                values[name] = value
        return fingerprint(values)

    # --------------------------- STEPS functions -----------------------------
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
        options = dict(self._optionValues(), output=os.path.abspath(self._getExtraPath()),
                       **{name: os.path.abspath(path) for name, path in self._jobInputs().items()})
        if "centre" in options and not self._fromTables():
            options["centre"] = "relion"  # the tables that we write count in angstrom from the centre
        return {"verb": self.VERB, "options": options}

    # --------------------------- UTILS functions -----------------------------
    def _fromTables(self):
        """Tell whether the job reads tables of other programs, and not those that are made of sets."""
        return False

    def _optionValues(self):
        """Return what the form says for the options of the verb, as plain values."""
        return optionValues(self, self.VERB)

    @staticmethod
    def _readJson(path):
        if not os.path.exists(path):
            return {}
        with open(path, encoding="utf-8") as file:
            return json.load(file)

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

    def _addMaps(self, pixel_size, *sources):
        """Make the outputs of a map, its halves and their FSC from the files on disk."""
        path, *halves = [self._getExtraPath(name) for name in ("average.mrc", "half1.mrc", "half2.mrc")]
        for name in [path] + halves:
            mrc.read_header(name)
        self._addOutput("Average", to_scipion.average(path, halves, pixel_size), *sources)
        curves = self._createSetOfFSCs()
        to_scipion.add_fscs(curves, self._getExtraPath("fsc.csv"))
        self._addOutput("FSC", curves, *sources)

    def _resolutionLines(self, path):
        """What a result says of the resolution; nothing if it is not there."""
        result = self._readJson(path) if os.path.exists(path) else {}
        return ["FSC falls to %s at %.1f Å" % (threshold, result[name]) for name, threshold in (
            ("resolution_0143", "0.143"), ("resolution_05", "0.5")) if result.get(name)]

    # --------------------------- INFO functions ------------------------------
    def _validate(self):
        errors = self._checkForm()
        if errors or self._isIncomplete():
            return errors
        try:
            if self.VERB:
                from_dict(self.VERB, self._optionValues())
            return self._checkInputs()
        except InputError as error:
            return [str(error)]

    def _isIncomplete(self):
        """Tell whether an input that is needed was not chosen; Scipion itself says which."""
        return any(attribute.isPointer() and attribute.get() is None and not self.getParam(name).allowsNull
                   and self.evalParamCondition(name) for name, attribute in self.iterDefinitionAttributes())

    def _checkForm(self):
        """Tell which files are not given, and which sets are empty or still grow."""
        errors = []
        for name, attribute in self.iterDefinitionAttributes():
            param = self.getParam(name)
            if not self.evalParamCondition(name):
                continue
            if isinstance(param, PathParam) and param.isImportant() and not attribute.get():
                errors.append("%s: no file is given. Choose one." % param.getLabel())
            target = attribute.get() if attribute.isPointer() else None
            if isinstance(target, Set) and target.getSize() == 0:
                errors.append("%s: the set is empty. Choose another one." % param.getLabel())
            elif isinstance(target, Set) and target.isStreamOpen():
                errors.append("%s: the set is still growing. Wait until its run has finished." % param.getLabel())
        return errors

    def _checkInputs(self):
        """Tell what else is wrong with the inputs, all of which are there."""
        return []

    def _warnings(self):
        return [] if self._isIncomplete() else self._doubts()

    def _doubts(self):
        """Tell what is assumed about the inputs, or looks wrong."""
        return []

    def _summary(self):
        lines = list(self._outputLines())
        notes = self._getExtraPath("notes.json")
        return lines + list(self._readJson(notes) if os.path.exists(notes) else [])

    def _outputLines(self):
        return ["%s: %s" % (name, output) for name, output in self.iterOutputAttributes()]

    def _citations(self):
        return ["JimenezDeLaMorena2022"]
