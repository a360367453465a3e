"""Series of tilt images per particle for tomoDRGN and cryoDRGN, from coordinates and tilt series."""

from pwem.objects import SetOfParticles
from tomo.objects import SetOfTiltSeries

from ..convert import attributes, from_scipion, to_scipion
from ..io import mrc, warptoolsset
from ..jobs import programs
from ..options import from_dict
from .protocol_export_subtomos import ProtTomoExportSubtomos
from .protocol_series import FAILED


class ProtTomoExportImageSeries(ProtTomoExportSubtomos):
    """Export a series of tilt images for every particle, as tomoDRGN and cryoDRGN read it.

    A table with one row per image, in order of the dose, gives defocus at the particle, the orientation of the
    projection, dose and tilt; the images are as cut out, not corrected for the CTF. What the chosen program cannot
    take is told before the work. In the column rlnCtfBfactor, -4 times the dose, decay has a negative sign; RELION's
    is positive.
    """

    _label = "export for tomoDRGN / cryoDRGN"
    _possibleOutputs = {"Particles": SetOfParticles, FAILED: SetOfTiltSeries}
    VERB = "series"
    EXPORT = ("Program", "Size", "Centre", "Tilts", "CTF")
    PROCESSING = ("Images", "Files")

    # --------------------------- STEPS functions -----------------------------
    def _checkResult(self, result):
        for particle in result["particles"]:
            if particle["kept"]:
                mrc.read_header(self._getExtraPath(particle["image"]))

    def createOutputStep(self, key, attempt):
        """Make the sets anew from the files on disk."""
        names = self._seriesIds()
        self._addFailed(names)
        self._collect()
        kept = [p for name in names if name not in self._errors() for p in self._result(name)["particles"] if p["kept"]]
        output = self._createSetOfParticles()
        output.setSamplingRate(self._optionValues()["pixel_size"])
        output.setAcquisition(self.inputTiltSeries.get().getAcquisition())
        attributes.put(output, attributes.STAR, self._star())
        output.setHasCTF(True)
        output.setAlignmentProj()
        to_scipion.add_image_series(output, kept, self._getExtraPath)
        self._addOutput("Particles", output, self.inputCoordinates, self.inputTiltSeries, self.inputCtfs)

    # --------------------------- UTILS functions -----------------------------
    def _star(self):
        """Return the table for the reader, or its optimisation set."""
        values = self._optionValues()
        star = self._getExtraPath(values["star"])
        return warptoolsset.names(star)[0] if values["form"] == "optimisation-set" else star

    def _problems(self, severity):
        """Return what the reader cannot take, as far as it is known before the tables are written."""
        options = from_dict(self.VERB, {name: value for name, value in self._optionValues().items()
                                        if name != "species"})
        series = self.inputTiltSeries.get()
        hands = {from_scipion.known_hand(ts) for ts in series.iterItems()} - {0}
        problems = programs.of_options(options, hands) + programs.of_voltage(
            options, series.getAcquisition().getVoltage(), "tilt series")
        return [str(problem) for problem in problems if problem.severity == severity]

    # --------------------------- INFO functions ------------------------------
    def _checkInputs(self):
        return super()._checkInputs() + self._problems("error")

    def _doubts(self):
        return super()._doubts() + self._problems("warning")

    def _tableLines(self):
        return super(ProtTomoExportSubtomos, self)._tableLines()

    def _methods(self):
        return ["Image series of %d pixels at %g Å per pixel were cut out of the tilt images with tomoexport."
                % tuple(self._optionValues()[name] for name in ("box", "pixel_size"))]
