"""The CTF-weighted average of exported sub-tomograms, with half maps and FSC."""

from pwem.objects import SetOfFSCs
from pyworkflow.protocol import PointerParam
from tomo.objects import AverageSubTomogram

from ..convert import attributes, positions, refined
from .form import addCompute, addGroups
from .protocol_base import ProtTomoExportBase


class ProtTomoExportAverage(ProtTomoExportBase):
    """Average sub-tomograms with their orientations and 3D CTFs.

    The check that should follow every export: a map that shows the particle says that geometry, handedness, contrast
    and CTF are right. Gives the average, two half maps and their Fourier shell correlation.
    """

    _label = "average sub-tomograms"
    _possibleOutputs = {"Average": AverageSubTomogram, "FSC": SetOfFSCs}
    VERB = "average"
    INPUTS = {"particles": "inputSubtomograms"}

    # -------------------------- DEFINE param functions -----------------------
    def _defineParams(self, form):
        form.addSection("Input")
        form.addParam("inputSubtomograms", PointerParam, pointerClass="SetOfSubTomograms", important=True,
                      label="Sub-tomograms", help="Sub-tomograms that this plugin exported, or a subset of them, with "
                      "orientations. Each needs its 3D CTF; halves are those of the column rlnRandomSubset, or else "
                      "every second particle.")
        addGroups(form, self.VERB)
        addCompute(form, self.VERB, threads=1)

    # -------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        key = self._key()
        first = self._insertFunctionStep(self.convertInputStep, key, prerequisites=[], needsGPU=False)
        second = self._insertFunctionStep(self.averageStep, key, prerequisites=[first], needsGPU=False)
        self._insertFunctionStep(self.createOutputStep, key, prerequisites=[second], needsGPU=False)

    # --------------------------- STEPS functions -----------------------------
    def convertInputStep(self, key):
        """Write the table of the sub-tomograms that are in the set now."""
        self._writeInputs([])

    def averageStep(self, key):
        """Run the job; the files that it must leave are checked."""
        self._runJob(self._job(), "average")
        return [self._getExtraPath(name) for name in ("average.mrc", "half1.mrc", "half2.mrc", "fsc.csv")]

    def _jobInputs(self):
        inputs = {"particles": self._inputPath("particles.star")}
        return dict(inputs, reference=self.reference.get()) if self.reference.get() else inputs

    def _writeInputs(self, names):
        positions.write_subtomograms(self._inputPath("particles.star"), self.inputSubtomograms.get())
        return [], {}

    def createOutputStep(self, key):
        """Make the outputs from the files on disk."""
        self._addMaps(self.inputSubtomograms.get().getSamplingRate(), self.inputSubtomograms)

    # --------------------------- INFO functions ------------------------------
    def _checkInputs(self):
        errors = self._notParticles("inputSubtomograms")
        items = self.inputSubtomograms.get()
        if not errors and (refined.is_refined(items) or attributes.take(items.getFirstItem(), attributes.BOX)):
            errors = ["%s: they are pseudo-subtomograms, whose 3D CTFs are none of a sub-tomogram. Use reconstruct "
                      "particle, which takes them." % self.getParam("inputSubtomograms").getLabel()]
        if not errors:
            positions.check_subtomograms(self.inputSubtomograms.get())
        return errors

    def _outputLines(self):
        return super()._outputLines() + self._resolutionLines(self._getExtraPath("results", "average.json"))

    def _methods(self):
        return ["%d sub-tomograms were averaged with tomoexport." % self.inputSubtomograms.get().getSize()]

    def _citations(self):
        return super()._citations() + ["Rosenthal2003"]
