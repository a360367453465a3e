"""Series of tilt images per particle, from coordinates and tilt series."""

from pwem.objects import SetOfParticles
from tomo.objects import SetOfTiltSeries

from ..convert import attributes, to_scipion
from ..io import mrc
from .protocol_export_subtomos import ProtTomoExportSubtomos
from .protocol_series import FAILED


class ProtTomoExportImageSeries(ProtTomoExportSubtomos):
    """Export a series of tilt images for every particle, as cut out: not corrected for the CTF.

    A table with one row per image, in order of the dose, gives defocus at the particle, the orientation of the
    projection, dose and tilt: what tomoDRGN and single-particle programs read. In its column rlnCtfBfactor, -4 times
    the dose, decay has a negative sign; RELION's is positive.
    """

    _label = "export image series"
    _possibleOutputs = {"Particles": SetOfParticles, FAILED: SetOfTiltSeries}
    VERB = "series"
    EXPORT = ("species", "pixel_size", "box", "diameter", "shift_x", "shift_y", "shift_z", "first_tilts", "hand",
              "star")
    PROCESSING = ("invert", "normalize_input", "min_tilts", "relative_paths", "centre", "allow_loss", "float16")

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
        attributes.put(output, attributes.STAR, self._getExtraPath(self._optionValues()["star"]))
        output.setHasCTF(True)
        output.setAlignmentProj()
        to_scipion.add_image_series(output, kept, self._getExtraPath)
        self._addOutput("Particles", output, self.inputCoordinates, self.inputTiltSeries, self.inputCtfs)

    # --------------------------- INFO functions ------------------------------
    def _methods(self):
        return ["Image series of %d pixels at %g Å per pixel were cut out of the tilt images with tomoexport."
                % tuple(self._optionValues()[name] for name in ("box", "pixel_size"))]
