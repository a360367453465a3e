"""Back from heterogeneity analysis: the particles that it kept, as a subset of a set."""

import os

from pwem.objects import SetOfParticles
from pyworkflow.protocol import FileParam, PointerParam
from tomo.objects import SetOfCoordinates3D, SetOfSubTomograms

from ..convert import attributes, subsets
from ..io.exportedparticles import path_beside
from .form import addCompute, addGroups
from .protocol_base import PARTICLES, ProtTomoExportBase


class ProtTomoExportSelect(ProtTomoExportBase):
    """Select the particles that tomoDRGN or cryoDRGN kept.

    What an analysis of exported image series left, a filtered STAR file or an index (.pkl), chooses particles of the
    set that was exported. The output is of the same kind, with all that its particles had before.
    """

    _label = "select particles (tomoDRGN / cryoDRGN)"
    _possibleOutputs = {"Coordinates": SetOfCoordinates3D, "Subtomograms": SetOfSubTomograms}
    VERB = "select"
    INPUTS = {"particles": "inputParticles", "exported": "inputSeries", "kept": "keptFile", "indexed": "indexedFile"}

    # -------------------------- DEFINE param functions -----------------------
    def _defineParams(self, form):
        form.addSection("Input")
        form.addParam("inputParticles", PointerParam, pointerClass=PARTICLES, important=True,
                      label="Particles", help="The set whose images were exported: coordinates, "
                      "sub-tomograms or pseudo-subtomograms.")
        form.addParam("inputSeries", PointerParam, pointerClass="SetOfParticles", important=True,
                      label="Exported images", help="The images that were exported for tomoDRGN / cryoDRGN.")
        form.addParam("keptFile", FileParam, important=True, label="Kept particles", help="What the analysis left: a "
                      "filtered STAR file (tomoDRGN, cryoDRGN) or an index of particles, .pkl.")
        form.addParam("indexedFile", FileParam, label="Table of the index", help="The STAR file that the analysis "
                      "read, if it was not the export's own but a part of it: an index counts in this.")
        addGroups(form, self.VERB)
        addCompute(form, self.VERB, threads=1)

    # -------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        key = self._key()
        first = self._insertFunctionStep(self.convertInputStep, key, prerequisites=[], needsGPU=False)
        second = self._insertFunctionStep(self.selectStep, key, prerequisites=[first], needsGPU=False)
        self._insertFunctionStep(self.createOutputStep, key, prerequisites=[second], needsGPU=False)

    # --------------------------- STEPS functions -----------------------------
    def convertInputStep(self, key):
        """Write the table of the particles."""
        self._writeInputs([])

    def selectStep(self, key):
        """Run the job; the files that it must leave are checked."""
        self._runJob(self._job(), "select")
        return [self._getExtraPath("particles.star"), self._getExtraPath("report", "selection.csv")]

    def _job(self):
        job = super()._job()
        job["options"]["centre"] = "relion"  # that of the table that the job reads
        return job

    def _jobInputs(self):
        paths = {"particles": self._inputPath("particles.star"), "exported": self._exported(),
                 "kept": self.keptFile.get()}
        return dict(paths, indexed=self.indexedFile.get()) if self.indexedFile.get() else paths

    def _writeInputs(self, names):
        subsets.write_table(self._inputPath("particles.star"), self.inputParticles.get(), self._centre())
        return [], {}

    def createOutputStep(self, key):
        """Make the output of copies of the items that were chosen."""
        items = self.inputParticles.get()
        isVolumes = isinstance(items, SetOfSubTomograms)
        output = subsets.create_like(self, items)
        subsets.copy_items(output, items, subsets.kept(self._getExtraPath("particles.star")), self._centre())
        self._addOutput("Subtomograms" if isVolumes else "Coordinates", output, self.inputParticles, self.inputSeries)

    # --------------------------- UTILS functions -----------------------------
    def _centre(self):
        return self._optionValues()["centre"]

    def _exported(self):
        """Return the table that the export left; an empty text if there is none."""
        return attributes.take(self.inputSeries.get(), attributes.STAR, "")

    # --------------------------- INFO functions ------------------------------
    def _checkInputs(self):
        errors = self._notParticles("inputParticles")
        if errors:
            return errors
        table = self._exported()
        if not isinstance(self.inputSeries.get(), SetOfParticles) or not table or not os.path.isfile(
                path_beside(table)):
            return ["Exported images: they were not exported with this plugin, or their table is gone. Choose the "
                    "output of an export for tomoDRGN / cryoDRGN."]
        return ["%s: there is no such file. Choose what the analysis left." % path for path in (
            self.keptFile.get(), self.indexedFile.get()) if path and not os.path.isfile(path)]

    def _outputLines(self):
        result = self._readJson(self._getExtraPath("results", "select.json"))
        lines = ["%d of %d exported particles were selected" % (result["kept"], result["kept"] + result["removed"]),
                 "by %s" % self.keptFile.get()] if "kept" in result else []
        return super()._outputLines() + lines + self._tableLines()

    def _methods(self):
        return ["The particles that an analysis of heterogeneity kept were selected with tomoexport."]
