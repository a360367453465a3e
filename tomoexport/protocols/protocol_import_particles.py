"""Particles from STAR files, onto tomograms."""

from pyworkflow.protocol import IntParam, PathParam, PointerParam, Positive
from tomo.objects import SetOfCoordinates3D

from ..convert import import_files, to_scipion
from ..jobs import report
from .form import addOptions, optionValues
from .protocol_base import ProtTomoExportBase


class ProtTomoExportImportParticles(ProtTomoExportBase):
    """Import particles from STAR files as coordinates with orientations.

    Reads the tables of RELION 3.0, 3.1, 4 and 5, of WarpTools and of M, whose trajectories go along. Offsets are folded
    into the positions, which keep their fractions of a voxel, and the two rotations of RELION 4 and 5 are composed. The
    other columns stay with the coordinates and come out again when sub-tomograms are exported.
    """

    _label = "import particles"
    WORDS = "subtomo"
    _possibleOutputs = {"Coordinates": SetOfCoordinates3D}
    OPTIONS = ("per_series", "coordinates_pixel_size", "normalized", "centre", "allow_loss", "source")

    # -------------------------- DEFINE param functions -----------------------
    def _defineParams(self, form):
        form.addSection("Import")
        form.addParam("filesPath", PathParam, important=True, label="STAR files", help="One particle table, or several "
                      "by a pattern with * or ?. Particles of all are put into one set.")
        form.addParam("inputTomograms", PointerParam, pointerClass="SetOfTomograms", important=True, label="Tomograms",
                      help="The tomograms that the particles are in, at any pixel size. Names are matched with tsId or "
                      "with the name that the tilt series had where it was imported from.")
        form.addParam("boxSize", IntParam, default=32, validators=[Positive], label="Box size (px)", help="How large "
                      "the particles are shown, in pixels of the tomograms. Nothing is cut out with it.")
        addOptions(form, "subtomo", *self.OPTIONS)

    # -------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        self._insertFunctionStep(self.importStep, self._key(), needsGPU=False)

    # --------------------------- STEPS functions -----------------------------
    def importStep(self, key):
        """Read the tables and make the set."""
        tomograms = self.inputTomograms.get()
        particles, problems = self._read()
        output = self._createSetOfCoordinates3D(self.inputTomograms)
        output.setSamplingRate(tomograms.getSamplingRate())
        output.setBoxSize(self.boxSize.get())
        counts = to_scipion.add_coordinates(output, particles, tomograms, self._options()["centre"])
        self._addOutput("Coordinates", output, self.inputTomograms)
        report.particles_per_tomogram(counts, self._getExtraPath("report", "particles_per_tomogram.png"))
        self._note(["%d particles in %d tomograms" % (len(particles), sum(1 for n in counts.values() if n))] + problems)

    # --------------------------- UTILS functions -----------------------------
    def _options(self):
        return optionValues(self, "subtomo")

    def _read(self):
        return import_files.particles(self.filesPath.get(), self.inputTomograms.get(), **self._options())

    # --------------------------- INFO functions ------------------------------
    def _checkInputs(self):
        self._read()
        return []

    def _methods(self):
        return ["Particles were imported from %s." % self.filesPath.get()]
