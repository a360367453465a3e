"""Aligned tilt series and their CTFs from a RELION 5 project, from Warp's XML, or from IMOD's alignment."""

from dataclasses import replace

from pyworkflow.protocol import LEVEL_ADVANCED, BooleanParam, FileParam, FolderParam
from tomo.objects import SetOfCTFTomoSeries, SetOfTiltSeries

from ..convert import import_files, to_scipion
from ..convert.from_scipion import listed
from ..errors import InputError
from ..io.project import read_project
from ..jobs import report
from ..jobs.statements import unfollowed
from ..jobs.tiltseries import given
from ..options import from_dict
from .form import addOptions, optionValues
from .protocol_base import ProtTomoExportBase


class ProtTomoExportImportTiltSeries(ProtTomoExportBase):
    """Import aligned tilt series and CTFs from the tomograms.star of a RELION 5 project, Warp's XML or IMOD's .xf.

    The alignment becomes IMOD transforms, exactly; dose, acquisition order and excluded views are kept. What Scipion's
    tilt series have no field for (x-tilt, handedness, size of the tomogram) stays with them as extra attributes, which
    the other protocols of this plugin honour.
    """

    _label = "import aligned tilt series"
    WORDS = "reconstruct"
    #: What files may lack.
    BESIDE = ("tomogram_size", "image_pixel_size", "alignment_pixel_size", "xf_centre", "hand", "exposure_dose",
              "voltage", "cs", "amplitude_contrast")
    _possibleOutputs = {"TiltSeries": SetOfTiltSeries, "CTFs": SetOfCTFTomoSeries}

    # -------------------------- DEFINE param functions -----------------------
    def _defineParams(self, form):
        form.addSection("Import")
        form.addParam("tomogramsStar", FileParam, label="Tomograms STAR, Warp XML or IMOD .xf", important=True,
                      help="tomograms.star of a RELION 5 project (from Align, CTF or later jobs), or of WarpTools' "
                      "export for RELION 5; the XML of a tilt series of Warp or M, or the folder of all of them; or "
                      "IMOD's .xf, with .tlt, tilt.com and raw stack beside it. What is local in an alignment has no "
                      "place in Scipion's tilt series; the command line follows Warp's.")
        form.addParam("projectFolder", FolderParam, default="", label="Project folder", help="Folder that the paths in "
                      "the tables are relative to, as RELION writes them. Leave it empty to try the folders above the "
                      "file.")
        addOptions(form, "reconstruct", *self.BESIDE)
        form.addParam("makeStacks", BooleanParam, default=True, expertLevel=LEVEL_ADVANCED,
                      label="Gather single images into stacks", help="Other plugins expect one stack per tilt series. "
                      "With No, images in files of their own stay there; the protocols of this plugin read them too. "
                      "Stacks are linked, never copied.")

    # -------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        self._insertFunctionStep(self.importStep, self._key(), needsGPU=False)

    # --------------------------- STEPS functions -----------------------------
    def importStep(self, key):
        """Link the images and make the sets."""
        series, lost = self._usable()
        tilt_series = self._createSetOfTiltSeries()
        tilt_series.setSamplingRate(series[0].geometry.pixel_size)
        tilt_series.setAcquisition(to_scipion.acquisition(series[0]))
        ts_ids, with_ctf, notes = to_scipion.ts_ids_of([one.ts_id for one in series]), [], list(lost)
        for one in series:
            ts_id = ts_ids[one.ts_id]
            places = import_files.gather(one, self._getExtraPath(), ts_id, self.makeStacks.get())
            to_scipion.add_tilt_series(tilt_series, one, ts_id, places)
            excluded = one.geometry.n_tilts - one.geometry.used.sum()
            notes.append("%s: %d tilts%s" % (ts_id, one.geometry.n_tilts,
                                             ", %d excluded" % excluded if excluded else ""))
            notes += ["%s: %s." % (ts_id, note) for note in one.notes]
            notes += [str(problem) for problem in unfollowed("Scipion's tilt series", ts_id, one.statements,
                                                             local=False)]
            if ts_id != one.ts_id:
                notes.append("%s is called %s here: Scipion allows letters, digits and underscores."
                             % (one.ts_id, ts_id))
            if one.ctf is not None:
                with_ctf.append((one, ts_id, places))
        self._addOutput("TiltSeries", tilt_series)
        if with_ctf:
            unknown = [ts_id for one, ts_id, _ in with_ctf if None in to_scipion.resolutions(one)]
            if unknown:
                notes.append("%s: the files do not say how far the CTFs fit; %g Å is written as their resolution, "
                             "which other plugins ask for." % (listed(unknown), to_scipion.RESOLUTION))
            ctfs = SetOfCTFTomoSeries.create(self._getPath(), template="ctfTomoSeries%s.sqlite")
            ctfs.setSetOfTiltSeries(self.TiltSeries)
            for arguments in with_ctf:
                to_scipion.add_ctfs(ctfs, *arguments)
            self._addOutput("CTFs", ctfs)
            self._defineSourceRelation(self.TiltSeries, ctfs)
        report.tilt_series_overview(series, self._getExtraPath("report", "tilt_series.png"))
        self._note(notes)

    # --------------------------- UTILS functions -----------------------------
    def _usable(self):
        """Tilt series that can be imported, and why the others cannot be."""
        how = from_dict("reconstruct", optionValues(self, "reconstruct"))
        project = read_project(self.tomogramsStar.get(), given=replace(
            given(how), base=self.projectFolder.get() or None))
        lost = dict(project.left_out, **{name: str(fault) for name, fault in project.faults.items()})
        series = []
        for one in project:
            try:
                if one.optics is None:
                    raise one.no_ctf or InputError(one.ts_id, "voltage, spherical aberration and amplitude contrast "
                                                   "are not known", "Give them in the form")
                one.check_files()
                series.append(one)
            except InputError as error:
                lost[one.ts_id] = str(error)
        if not series:
            raise InputError(self.tomogramsStar.get(), "none of its tilt series can be imported: " + " ".join(
                lost.values()) if lost else "it names no tilt series", "Correct the files, or give what they lack")
        return series, ["%s is left out: %s" % pair for pair in lost.items()] + list(project.notes)

    # --------------------------- INFO functions ------------------------------
    def _checkInputs(self):
        self._usable()
        return []

    def _doubts(self):
        return self._usable()[1]

    def _methods(self):
        return ["Aligned tilt series were imported from %s." % self.tomogramsStar.get()]

    def _citations(self):
        return super()._citations() + ["Burt2024"]
