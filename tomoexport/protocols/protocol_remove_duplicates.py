"""Removal of particles that were picked several times."""

from pyworkflow.protocol import PointerParam
from tomo.objects import SetOfCoordinates3D, SetOfSubTomograms

from ..convert import subsets
from .form import addCompute, addGroups
from .protocol_base import PARTICLES, ProtTomoExportBase


class ProtTomoExportRemoveDuplicates(ProtTomoExportBase):
    """Remove duplicates from a set of particles.

    Of particles in one tomogram that are closer than a distance only the one with the best score stays. Dense picking
    and refinement with large shifts leave several particles in one place, which would count several times in averages
    and fall into both half sets.
    """

    _label = "remove duplicates"
    _possibleOutputs = {"Coordinates": SetOfCoordinates3D, "Subtomograms": SetOfSubTomograms}
    VERB = "duplicates"
    INPUTS = {"particles": "inputParticles"}

    # -------------------------- DEFINE param functions -----------------------
    def _defineParams(self, form):
        form.addSection("Input")
        form.addParam("inputParticles", PointerParam, pointerClass=PARTICLES, important=True,
                      label="Particles", help="Coordinates, or sub-tomograms, whose refined shifts are "
                      "applied to the positions. Scipion's score counts as rlnAutopickFigureOfMerit if there is no "
                      "such column.")
        addGroups(form, self.VERB)
        addCompute(form, self.VERB, threads=1)

    # -------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        key = self._key()
        first = self._insertFunctionStep(self.convertInputStep, key, prerequisites=[], needsGPU=False)
        second = self._insertFunctionStep(self.removeStep, key, prerequisites=[first], needsGPU=False)
        self._insertFunctionStep(self.createOutputStep, key, prerequisites=[second], needsGPU=False)

    # --------------------------- STEPS functions -----------------------------
    def convertInputStep(self, key):
        """Write the table of the particles."""
        self._writeInputs([])

    def removeStep(self, key):
        """Run the job; the files that it must leave are checked."""
        self._runJob(self._job(), "duplicates")
        return [self._getExtraPath("particles.star"), self._getExtraPath("report", "duplicates.csv")]

    def _jobInputs(self):
        return {"particles": self._inputPath("particles.star")}

    def _writeInputs(self, names):
        subsets.write_table(self._inputPath("particles.star"), self.inputParticles.get(), self._centre())
        return [], {}

    def createOutputStep(self, key):
        """Make the output of copies of the items that stay."""
        items = self.inputParticles.get()
        isVolumes = isinstance(items, SetOfSubTomograms)
        output = subsets.create_like(self, items)
        subsets.copy_items(output, items, subsets.kept(self._getExtraPath("particles.star")), self._centre())
        self._addOutput("Subtomograms" if isVolumes else "Coordinates", output, self.inputParticles)

    # --------------------------- UTILS functions -----------------------------
    def _centre(self):
        return self._optionValues()["centre"]

    # --------------------------- INFO functions ------------------------------
    def _checkInputs(self):
        return self._notParticles("inputParticles")

    def _outputLines(self):
        result = self._readJson(self._getExtraPath("results", "duplicates.json"))
        lines = ["%d particles stay, %d duplicates were removed" % (result["kept"], result["removed"])] if (
            "kept" in result) else []
        return super()._outputLines() + lines + self._tableLines()

    def _methods(self):
        return ["Of particles closer than %g Å the one with the best score was kept, with tomoexport."
                % self.distance.get()]
