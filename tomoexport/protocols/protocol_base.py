"""What all protocols have in common."""

import json
import os
import shlex
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from pwem.protocols import EMProtocol
from pyworkflow.constants import BETA
from pyworkflow.object import Set
from pyworkflow.protocol import GPU_LIST, USE_GPU, PathParam
from tomo.objects import SetOfCoordinates3D, SetOfSubTomograms
from tomo.protocols import ProtTomoBase

from ..convert import subsets, to_scipion
from ..engine.backend import select_backends
from ..errors import InputError, TomoexportError
from ..io import mrc
from ..io.atomic import write_json
from ..io.manifest import fingerprint
from ..jobs import runner
from ..jobs.maps import falls
from ..options import from_dict
from ..plugin import Plugin
from .form import optionValues, spoken, unanswered

#: What an input for particles offers; classes that other plugins derive from these come with them.
PARTICLES = "SetOfCoordinates3D, SetOfSubTomograms"


class ProtTomoExportBase(EMProtocol, ProtTomoBase):
    """Base of the protocols; one that runs a verb of the command line names it."""

    _label = None
    _devStatus = BETA
    VERB = ""
    WORDS = ""  # the verb whose options the form has, where it runs none
    #: What changes no result.
    ELSEWHERE = (USE_GPU, GPU_LIST, "numberOfThreads", "numberOfMpi", "threads", "device", "seriesPerJob", "binThreads")
    #: Inputs of the form that become files of the job, by the option that names the file.
    INPUTS = {}

    # -------------------------- INSERT steps functions -----------------------
    def _key(self, contents=True):
        """Hash of all parameters and inputs; without the contents of sets, which ones they are."""
        values = {}
        for name, attribute in self.iterDefinitionAttributes():
            if attribute.isPointer():
                target = attribute.get()
                value = [attribute.getUniqueId()] + [Path(target.getFileName())] * contents if (
                    target is not None) else ""
            else:
                value = str(attribute.get())
                if os.path.isfile(value):  # what is in a file counts, not its name alone
                    value = [value, Path(value)]
            if name not in self.ELSEWHERE:
                values[name] = value
        return fingerprint(values)

    # --------------------------- STEPS functions -----------------------------
    def _runJob(self, job, name):
        """Run a job of the command line, on the GPUs of this step; what it gave as the reason of a failure is raised.

        A queue tells neither how a job ended nor what it printed: this comes in a file.
        """
        path, came = (os.path.abspath(self._getExtraPath(folder, name + ".json")) for folder in ("jobs", "outcomes"))
        for one in (path, came):
            os.makedirs(os.path.dirname(one), exist_ok=True)
        if os.path.exists(came):
            os.remove(came)
        write_json(path, job)
        environ = Plugin.getEnviron()
        gpus = self._stepsExecutor.getGpuList() if self.usesGpu() and not self.useQueueForSteps() else None
        if gpus:
            environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(g) for g in gpus)
        error = None
        try:
            self.runJob(shlex.quote(sys.executable), "-m tomoexport run %s --outcome %s" % (
                shlex.quote(path), shlex.quote(came)), env=environ)
        except Exception as raised:
            error = raised
        outcome = self._readJson(came)
        if outcome.get("error"):
            raise RuntimeError(self._spoken(outcome["error"])) from error
        if error is not None:
            raise error
        if outcome.get("collected"):
            write_json(self._getExtraPath("collected.json"), outcome["collected"])

    def _job(self):
        """Return the job without its tilt series. Paths are absolute: a queue may start it in any folder."""
        options = dict(self._optionValues(), output=os.path.abspath(self._getExtraPath()),
                       **{name: os.path.abspath(path) for name, path in self._jobInputs().items()})
        if "centre" in options and not self._fromTables():
            options["centre"] = "relion"  # the tables that we write count in angstrom from the centre
        return {"verb": self.VERB, "options": options}

    def _jobInputs(self):
        """Return the files that the job reads, by the option that names them."""
        return {}

    def _writeInputs(self, names):
        """Write the files of `_jobInputs` of what is in the sets now.

        Parameters
        ----------
        names : list of str
            Tilt series that take part.

        Returns
        -------
        notes : list of str
            What was excluded or assumed.
        failures : dict of str to str
            Why a tilt series cannot be read.
        """
        return [], {}

    def _inputPath(self, *names):
        """Path of a file that the job reads; while a form is checked that is in a folder that does not stay."""
        return os.path.join(getattr(self, "_elsewhere", None) or self._getExtraPath("input"), *names)

    # --------------------------- PLAN functions ------------------------------
    @contextmanager
    def _inputsElsewhere(self):
        """Write inputs of jobs to a folder that goes afterwards."""
        with tempfile.TemporaryDirectory(prefix="tomoexport_") as folder:
            self._elsewhere = folder
            try:
                yield folder
            finally:
                self._elsewhere = None

    def _planned(self):
        """The plan of the job, as `tomoexport check` makes it, from the inputs as they are now.

        Returns
        -------
        errors, warnings : list of str
            In the words of the form.
        """
        key = self._key()
        known = getattr(self, "_lastPlan", None)
        if known is None or known[0] != key:
            self._lastPlan = known = (key, self._makePlan())
        return known[1]

    def _makePlan(self):
        names = self._planNames()
        with self._inputsElsewhere():
            notes, failures = self._writeInputs(names)
            if names and len(failures) == len(set(names)):
                return [self._spoken(text) for text in failures.values()], []
            warnings = notes + ["%s Its tilt series will be put aside as failed." % text for text in failures.values()]
            job = self._job()
            options = runner.read_options(self.VERB, job["options"])
            try:
                planned = runner.plan(self.VERB, options)
            except InputError as error:
                return [self._spoken(str(error))], []
            errors = [str(p) for p in planned.problems if p.severity == "error"]
            bad = [str(unit.error) for unit in planned.units if unit.error]
            if bad and len(bad) == len(planned.units):
                errors += bad
            else:
                warnings += ["%s This tilt series will fail." % text for text in bad]
            warnings += [str(p) for p in planned.problems if p.severity == "warning"]
            return ([self._spoken(text) for text in dict.fromkeys(errors)],
                    [self._spoken(text) for text in dict.fromkeys(warnings)])

    def _planNames(self):
        """Names of the tilt series that a plan is made for; none for all that its tables name."""
        return []

    def _checkDevice(self):
        """Tell which devices that somebody insists on are not here; a queue's computers may have them."""
        values = self._optionValues()
        if self.useQueue() or values.get("device", "auto") in ("auto", "cpu"):
            return []
        try:
            select_backends(values["device"], 1)
        except TomoexportError as error:
            return [self._spoken(str(error))]
        return []

    def _spoken(self, text):
        """A message of a job in the words of the form: labels for options, and for files that were made of inputs."""
        inputs = {} if self._fromTables() else self.INPUTS
        for name, param in inputs.items():
            made = self._inputPath(name + ".star")
            for path in (os.path.abspath(made), made):
                text = text.replace(path, self.getParam(param).getLabel())
        return spoken(self, self.WORDS or self.VERB, text, inputs)

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

    def _setState(self, output, state):
        """Let an output set that is defined be open or closed, and keep what it holds."""
        output.setStreamState(state)
        output.write()
        self._store(output)

    @classmethod
    def particlesInput(cls):
        """Name of the form's input of particles, of which others are compared with; None if it has none."""
        return cls.INPUTS.get("particles") or cls.INPUTS.get("old")

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
        result = self._readJson(path)
        if not result.get("resolution_0143"):
            return []
        return [falls(result, level).replace(" A", " Å") if level in result.get("stays_above", ()) else
                "FSC falls to %g at %.1f Å" % (level, result[name]) for name, level in (
                    ("resolution_0143", 0.143), ("resolution_05", 0.5))]

    # --------------------------- INFO functions ------------------------------
    def _validate(self):
        errors = self._checkForm()
        if errors or self._isIncomplete():
            return errors
        lacking = ["%s: no value is given. Give one; the wand beside it proposes values." % label
                 for label in self._unanswered()]
        try:
            if self.VERB:
                from_dict(self.VERB, self._optionValues())
            errors = self._checkInputs() + lacking
            return errors or (self._checkDevice() + self._planned()[0] if self.VERB else [])
        except (TomoexportError, OSError) as error:
            return [self._spoken(str(error))] + lacking

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
                errors.append("%s: the set is still growing. %sWait until its run has finished." % (
                    param.getLabel(), "It does not say when a tilt series has all its particles. " if isinstance(
                        target, (SetOfCoordinates3D, SetOfSubTomograms)) else ""))
        return errors

    def _notParticles(self, *names):
        """Tell which inputs offer sets that are not the particles that they seem to be."""
        return ["%s: %s" % (self.getParam(name).getLabel(), line) for name in names
                for line in subsets.obstacles(getattr(self, name).get())]

    def _unanswered(self):
        """Labels of the numbers that nobody has given and that have no default."""
        return unanswered(self, self.VERB)

    def _checkInputs(self):
        """Tell what else is wrong with the inputs, all of which are there."""
        return []

    def _warnings(self):
        if self._isIncomplete() or self._unanswered():
            return []
        return list(dict.fromkeys(self._doubts() + (self._planned()[1] if self.VERB else [])))

    def _doubts(self):
        """Tell what is assumed about the inputs, or looks wrong."""
        return []

    def _summary(self):
        lines = list(self._outputLines())
        if self.isFailed() and self.getErrorMessage():
            lines.insert(0, "Failed: %s" % self.getErrorMessage())
        notes = self._getExtraPath("notes.json")
        return lines + list(self._readJson(notes) if os.path.exists(notes) else [])

    def _outputLines(self):
        return ["%s: %s" % (name, output) for name, output in self.iterOutputAttributes()]

    def _tableLines(self):
        """What the tables are called that other programs read, and what these must be told."""
        collected = self._readJson(self._getExtraPath("collected.json"))
        return ["%s: %s" % (what, self._relative(collected[name])) for name, what in (
            ("optimisation_set", "Optimisation set"), ("star", "Particle table")) if collected.get(name)] + list(
                collected.get("advice") or ())

    def _citations(self):
        return ["JimenezDeLaMorena2022"]
