"""Intersection of two sets of particles."""

from pyworkflow.protocol import PointerParam
from tomo.objects import SetOfCoordinates3D, SetOfSubTomograms

from ..convert import positions, subsets
from .form import addCompute, addGroups
from .protocol_base import PARTICLES, ProtTomoExportBase


class ProtTomoExportIntersect(ProtTomoExportBase):
    """Intersect a set of particles with another one.

    Particles of both sets are matched by their distance, within a tolerance and within each tomogram, each with one
    other at most. This makes three sets: only old, in both, and only new, any combination of which is the output.
    Particles in both keep their old poses. The histogram of distances helps to choose the tolerance.
    """

    _label = "intersect particles"
    _possibleOutputs = {"Coordinates": SetOfCoordinates3D, "Subtomograms": SetOfSubTomograms}
    VERB = "intersect"
    INPUTS = {"old": "inputOld", "new": "inputNew"}

    # -------------------------- DEFINE param functions -----------------------
    def _defineParams(self, form):
        form.addSection("Input")
        form.addParam("inputOld", PointerParam, pointerClass=PARTICLES, important=True,
                      label="Old particles", help="The output is of this kind, unless only new particles are added to "
                      "sub-tomograms, when it is coordinates.")
        form.addParam("inputNew", PointerParam, pointerClass=PARTICLES, important=True,
                      label="New particles", help="Coordinates picked at any pixel size, or sub-tomograms, whose "
                      "refined shifts are applied to the positions. Tomograms are matched by tsId.")
        addGroups(form, self.VERB)
        addCompute(form, self.VERB, threads=1)

    # -------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        key = self._key()
        first = self._insertFunctionStep(self.convertInputStep, key, prerequisites=[], needsGPU=False)
        second = self._insertFunctionStep(self.intersectStep, key, prerequisites=[first], needsGPU=False)
        self._insertFunctionStep(self.createOutputStep, key, prerequisites=[second], needsGPU=False)

    # --------------------------- STEPS functions -----------------------------
    def convertInputStep(self, key):
        """Write the tables of both sets."""
        self._writeInputs([])

    def intersectStep(self, key):
        """Run the job; the files that it must leave are checked."""
        self._runJob(self._job(), "intersect")
        return [self._getExtraPath("particles.star"), self._getExtraPath("report", "matches.csv")]

    def _jobInputs(self):
        return {name: self._inputPath(name + ".star") for name in ("old", "new")}

    def _writeInputs(self, names):
        for name, path in self._jobInputs().items():
            subsets.write_table(path, getattr(self, self.INPUTS[name]).get(), self._centre())
        return [], {}

    def createOutputStep(self, key):
        """Make the output: copies of the old items, or coordinates if there are new ones among them."""
        old, values = self.inputOld.get(), self._optionValues()
        isVolumes = isinstance(old, SetOfSubTomograms) and not values["only_new"]
        coordinates = subsets.coordinates(old)
        output = subsets.create_like(self, old if isVolumes else coordinates)
        if values["only_new"]:
            subsets.add_table(output, self._getExtraPath("particles.star"), coordinates.getPrecedents(),
                              self._centre())
        else:
            names = subsets.chosen(self._getExtraPath("report", "matches.csv"), only_old=values["only_old"],
                                   both=values["both"])
            subsets.copy_items(output, old, names, self._centre())
        self._addOutput("Subtomograms" if isVolumes else "Coordinates", output, self.inputOld, self.inputNew)

    # --------------------------- UTILS functions -----------------------------
    def _centre(self):
        return self._optionValues()["centre"]

    # --------------------------- INFO functions ------------------------------
    def _checkInputs(self):
        values = self._optionValues()
        if not (values["only_old"] or values["both"] or values["only_new"]):
            return ["Only old, in both, only new: none of the sets is chosen. Choose at least one."]
        errors = self._notParticles("inputOld", "inputNew")
        if errors or not values["only_new"]:
            return errors
        old, new = (subsets.coordinates(p.get()) for p in (self.inputOld, self.inputNew))
        ticked = [name.strip() for name in values["sources"].split(",") if name.strip()]
        known = {t.getTsId() for t in old.getPrecedents().iterItems()}
        missing = [name for name in positions.counts(new) if name not in known and (not ticked or name in ticked)]
        return ["New particles: %s are not among the tomograms of the old particles. Choose old particles on all "
                "tomograms, or name the tilt series that take part." % ", ".join(missing)] if missing else []

    def _outputLines(self):
        counts = self._readJson(self._getExtraPath("results", "intersect.json")).get("counts", {})
        return super()._outputLines() + ["%s: %d" % (name.replace("_", " "), counts[name])
                                         for name in ("only_old", "both", "only_new") if name in counts
                                         ] + self._tableLines()

    def _methods(self):
        return ["Particles of two sets were matched by distance, within %g Å, with tomoexport." % self.tolerance.get()]
