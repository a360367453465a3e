"""Whole tomograms from aligned tilt series."""

from pyworkflow.protocol import EnumParam, PointerParam
from tomo.objects import SetOfTiltSeries, SetOfTomograms

from ..convert import from_scipion, to_scipion
from ..io import mrc
from ..io.relion5 import write_project
from .form import addCompute, addGroups
from .growing import ProtTomoExportGrowingBase
from .protocol_series import FAILED

CENTRES = ("", "imod", "relion")


def addTransformCentre(form, **more):
    """Add the question about which point the alignment transforms are about."""
    form.addParam("transformCentre", EnumParam, default=0, display=EnumParam.DISPLAY_HLIST, expertLevel=1, **more,
                  choices=["as the tilt series, or IMOD's", "IMOD's (N-1)/2", "N/2"], label="Tilt axis centre",
                  help="Scipion stores IMOD's transforms, about the image centre (N-1)/2. Some plugins drop the half "
                       "pixel when they make transforms from another program's alignment: choose N/2 for those. Tilt "
                       "series imported by this plugin know it.")


class ProtTomoExportReconstruct(ProtTomoExportGrowingBase):
    """Reconstruct tomograms from aligned tilt series at any pixel size.

    Weighted back-projection with the exact filter for the tilts that are there; CTF correction per slab of equal
    defocus, weighting by dose, contrast inversion and the tomograms of odd and even tilts in the same pass. The tilt
    axis is along Y. Excluded views take no part. Tilt series that still arrive are followed: the outputs grow with
    them, and close when they do.
    """

    _label = "reconstruct tomograms"
    _possibleOutputs = {"Tomograms": SetOfTomograms, "Deconvolved": SetOfTomograms, FAILED: SetOfTiltSeries}
    VERB = "reconstruct"
    INPUTS = {"tomograms": "inputTiltSeries"}

    # -------------------------- DEFINE param functions -----------------------
    def _defineParams(self, form):
        form.addSection("Input")
        form.addParam("inputTiltSeries", PointerParam, pointerClass="SetOfTiltSeries", important=True,
                      label="Tilt series", help="Aligned tilt series, not interpolated, as recorded or binned. They "
                      "give dose and alignment.")
        form.addParam("inputCtfs", PointerParam, pointerClass="SetOfCTFTomoSeries", allowsNull=True,
                      label="CTFs", help="Defocus of every tilt, joined with the images by acquisition "
                      "order. Views without one are excluded. Needed for CTF correction.")
        addTransformCentre(form)
        form.addSection("Output")
        addGroups(form, self.VERB, "Tomograms", "Odd and even", "Deconvolution")
        form.addSection("Processing")
        addGroups(form, self.VERB, "Method", "CTF and dose", "Tilt images", last=True)
        addCompute(form, self.VERB, threads=3)

    # --------------------------- STEPS functions -----------------------------
    def _read(self, names):
        ctfs = self.inputCtfs.get() if self._needsCtf() else None
        return from_scipion.tilt_series_set(
            self.inputTiltSeries.get(), names, ctfs, hand=self._optionValues()["hand"],
            centre=CENTRES[self.transformCentre.get()])

    def _writeInputs(self, names):
        series, notes, failures = self._read(names)
        if series:
            write_project(self._inputPath(), series)
        return notes, failures

    def _jobInputs(self):
        return {"tomograms": self._inputPath("tomograms.star")}

    def _checkResult(self, result):
        for name in ("tomogram", "odd", "even", "deconv"):
            if name in result:
                mrc.read_header(result[name])

    def createOutputStep(self, key, attempt):
        """Make the sets anew from the files on disk."""
        self._addFailed(self._seriesIds())
        self._collect()
        names = set(self._seriesIds()) - set(self._errors())
        for label, kind in self._kinds():
            output = self._newSet(kind)
            for ts in self.inputTiltSeries.get().iterItems():
                if ts.getTsId() in names:
                    output.append(self._tomogram(ts, kind))
            self._addOutput(label, output, self.inputTiltSeries, self.inputCtfs)

    def _grow(self, name):
        ts = self.inputTiltSeries.get().getItem("_tsId", name)
        for label, kind in self._kinds():
            self._appendTo(label, lambda kind=kind: self._newSet(kind), self._tomogram(ts, kind))

    # --------------------------- UTILS functions -----------------------------
    def _kinds(self):
        """Outputs and what results call their files."""
        return (("Tomograms", "tomogram"), ("Deconvolved", "deconv"))[:1 + self._optionValues()["deconvolve"]]

    def _newSet(self, kind):
        output = self._createSetOfTomograms(suffix="" if kind == "tomogram" else kind)
        output.setSamplingRate(self._optionValues()["pixel_size"])
        output.setAcquisition(self.inputTiltSeries.get().getAcquisition())
        return output

    def _tomogram(self, ts, kind):
        """The tomogram of a tilt series that was reconstructed."""
        values, result = self._optionValues(), self._result(ts.getTsId())
        halves = [self._relative(result[name]) for name in ("odd", "even")] if (
            values["halves"] and kind == "tomogram") else ()
        return to_scipion.tomogram(self._relative(result[kind]), ts, values["pixel_size"], result["centre"], halves,
                                   values["ctf"] != "none")

    def _usedSets(self):
        return [self.inputTiltSeries.get()] + ([self.inputCtfs.get()] if (
            self.inputCtfs.get() is not None and self._needsCtf()) else [])

    def _seriesIds(self):
        return self._match()[0]

    def _match(self):
        sets = {"tilt series": self.inputTiltSeries.get().getTSIds()}
        if self.inputCtfs.get() is not None and self._needsCtf():
            sets["CTFs"] = self.inputCtfs.get().getTSIds()
        return from_scipion.match(sets)

    def _needsCtf(self):
        values = self._optionValues()
        return values["ctf"] != "none" or values["deconvolve"]

    def _orphans(self):
        return ["Not in every input: " + line for line in self._match()[1]]

    # --------------------------- INFO functions ------------------------------
    def _checkInputs(self):
        errors, values = [], self._optionValues()
        if values["deconvolve"] and values["ctf"] == "wiener":
            errors.append("Deconvolved version too: CTF correction by wiener has restored the amplitudes already. "
                          "Choose phaseflip.")
        if values["halves"] and values["halves_by"] == "frames" and not self.inputTiltSeries.get().hasOddEven():
            errors.append("Odd and even of: the tilt series have no images of odd and even frames. Choose tilts.")
        if self._needsCtf() and self.inputCtfs.get() is None:
            errors.append("CTF correction: there are no CTFs. Give a set of CTFs, or choose none."
                          if values["ctf"] != "none" else
                          "Deconvolved version too: there are no CTFs. Give a set of CTFs.")
        elif not self._seriesIds() and not self._isFollowing():
            errors.append("CTFs: none belongs to the tilt series. " + " ".join(self._match()[1]))
        return errors + from_scipion.obstacles(self.inputTiltSeries.get(), self._seriesIds(), self._smallest())

    def _doubts(self):
        values = self._optionValues()
        return from_scipion.doubts(self.inputTiltSeries.get(), self._seriesIds(), hand=values["hand"],
                                   size_known=values["size_z"] > 0, ctf=values["ctf"] != "none")

    def _methods(self):
        values = self._optionValues()
        how = "weighted back-projection" if values["method"] == "wbp" else (
            "%d iterations of the simultaneous iterative reconstruction technique (SIRT), begun from a smoothed "
            "back-projection" % values["iterations"])
        ctf = {"none": "The CTF was not corrected", "phaseflip": "Phases were flipped per slab of equal defocus",
               "wiener": "The CTF was corrected by a Wiener filter per slab of equal defocus"}[values["ctf"]]
        lines = ["Tomograms were reconstructed at %g Å per pixel by %s with tomoexport. %s; tilts were %sweighted by "
                 "dose." % (values["pixel_size"], how, ctf, "" if values["dose_weighting"] else "not ")]
        if values["halves"]:
            lines.append("Tomograms of odd and even %s were made as well." % values["halves_by"])
        if values["deconvolve"]:
            lines.append("A deconvolved version was made (strength %g, falloff %g, high-pass %g Å)." % tuple(
                values["deconv_" + name] for name in ("strength", "falloff", "highpass")))
        return lines

    def _citations(self):
        sirt = self._optionValues()["method"] == "sirt"
        return super()._citations() + (["Gilbert1972"] if sirt else ["Harauz1986"])
