"""The particle's map straight from tilt series, with half maps and FSC."""

from pwem.objects import SetOfFSCs
from tomo.objects import AverageSubTomogram, SetOfTiltSeries

from ..engine.symmetry import point_group
from ..io import mrc
from .protocol_extract_pseudosubtomos import ProtTomoExportPseudoSubtomos
from .protocol_series import FAILED


class ProtTomoExportReconstructParticle(ProtTomoExportPseudoSubtomos):
    """Reconstruct the particle straight from tilt series, as RELION 5's job does: nothing needs to be extracted first.

    Particles with orientations: coordinates, sub-tomograms, pseudo-subtomograms, or RELION's own tables. Gives the map,
    two half maps and their Fourier shell correlation, with the symmetry of a point group, at any binning and centred on
    any point of the map that the angles refer to.
    """

    _label = "reconstruct particle"
    _possibleOutputs = {"Average": AverageSubTomogram, "FSC": SetOfFSCs, FAILED: SetOfTiltSeries}
    VERB, SECTION = "particle", "Map"
    PAIRED = False

    # -------------------------- DEFINE param functions -----------------------
    def _defineTomograms(self, form):
        """Maps need none."""

    # --------------------------- STEPS functions -----------------------------
    def _checkResult(self, result):
        if any(particle["kept"] for particle in result["particles"]) and not result["sums"]:
            raise RuntimeError("its job left no sums. Look at the output log.")

    def createOutputStep(self, key, attempt):
        """Make the outputs from the files on disk."""
        self._addFailed(self._seriesIds())
        self._collect()
        self._addMaps(mrc.read_header(self._getExtraPath("average.mrc")).pixel_size,
                      *[getattr(self, name) for name in ("inReParticles", "inputCtfTs", "inputTS")
                        if self.evalParamCondition(name)])

    # --------------------------- INFO functions ------------------------------
    def _missing(self):
        return []

    def _checkInputs(self):
        values = self._optionValues()
        point_group(values["symmetry"])
        if values["reference"]:
            mrc.read_header(values["reference"])
        return super()._checkInputs()

    def _outputLines(self):
        return super()._outputLines() + self._resolutionLines(self._getExtraPath("map.json"))

    def _tableLines(self):
        return []

    def _methods(self):
        values = self._optionValues()
        return ["The particle was reconstructed straight from the tilt series at binning %g with symmetry %s with "
                "tomoexport." % (values["binning"], values["symmetry"])]

    def _citations(self):
        return super()._citations() + ["Rosenthal2003"]
