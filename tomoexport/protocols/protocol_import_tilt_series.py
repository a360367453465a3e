"""Aligned tilt series and their CTFs from a RELION 5 project, from Warp's XML, or from IMOD's alignment."""

import os
import time
from dataclasses import replace

from pyworkflow.object import Set
from pyworkflow.protocol import GE, LEVEL_ADVANCED, BooleanParam, FileParam, FloatParam, FolderParam
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
        group = form.addGroup("A folder that fills", help="While data are still aligned.", expertLevel=LEVEL_ADVANCED)
        group.addParam("follow", BooleanParam, default=False, expertLevel=LEVEL_ADVANCED, label="Follow the folder",
                       help="Import what is there, and what comes later, until nothing comes any more; reconstruct "
                       "tomograms follows. Stop and Continue go on.")
        group.addParam("followMinutes", FloatParam, default=60.0, condition="follow", expertLevel=LEVEL_ADVANCED,
                       validators=[GE(0.0, "Minutes until it ends: give 0 or more")], label="Minutes until it ends",
                       help="When no tilt series has come for so long, the sets are closed.")
        group.addParam("followQuiet", FloatParam, default=30.0, condition="follow", expertLevel=LEVEL_ADVANCED,
                       validators=[GE(0.0, "Quiet seconds: give 0 or more")], label="Quiet seconds", help="A tilt "
                       "series is taken when its images have not changed for so long: what is being copied is not "
                       "complete.")

    # -------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        self._insertFunctionStep(self.importStep, self._key(), needsGPU=False)

    # --------------------------- STEPS functions -----------------------------
    def importStep(self, key):
        """Link the images and make the sets; of a folder that fills, until nothing comes any more."""
        self._names, self._notes, self._unknown = {}, [], []
        if self.follow.get():
            series, lost = self._followFolder()
        else:
            series, lost = self._usable()
            self._append(series)
        if self._unknown:
            self._notes.append("%s: the files do not say how far the CTFs fit; %g Å is written as their resolution, "
                               "which other plugins ask for." % (listed(self._unknown), to_scipion.RESOLUTION))
        self._close()
        report.tilt_series_overview(series, self._getExtraPath("report", "tilt_series.png"))
        self._note(list(lost) + self._notes)

    def _followFolder(self):
        """Append tilt series as they come; returns all of them, and what was never complete."""
        done, last = {}, time.monotonic()
        known = set(self.TiltSeries.getTSIds()) if hasattr(self, "TiltSeries") else set()
        while True:
            try:
                series, lost = self._usable()
            except InputError as error:  # nothing has come yet
                series, lost = [], [str(error)]
            new = [one for one in series if one.ts_id not in done and self._isQuiet(one)]
            if new:
                for one in new:
                    done[one.ts_id] = one
                # A run that was stopped has some of them already.
                self._append([one for one in new if self._called(one) not in known])
                last = time.monotonic()
                self.info("%d tilt series have come" % len(done))
            elif time.monotonic() - last > 60 * self.followMinutes.get():
                break
            time.sleep(min(10.0, max(0.5, self.followQuiet.get() / 2)))
        if not done:
            raise InputError(self.tomogramsStar.get(), "no tilt series came in %g minutes" % self.followMinutes.get(),
                             " ".join(lost) or "Look at the folder")
        return list(done.values()), lost

    def _isQuiet(self, one):
        """Tell whether nothing of a tilt series is being written any more."""
        paths = {path for path, _ in one.images}
        youngest = max(os.path.getmtime(path) for path in paths)
        return time.time() - youngest >= self.followQuiet.get()

    def _called(self, one):
        """Scipion's name of a tilt series, which stays whatever comes after it."""
        if one.ts_id not in self._names:
            taken = set(self._names.values())
            name = to_scipion.ts_ids_of([one.ts_id])[one.ts_id]
            free, number = name, 1
            while free.lower() in {other.lower() for other in taken}:
                number += 1
                free = "%s_%d" % (name, number)
            self._names[one.ts_id] = free
        return self._names[one.ts_id]

    def _append(self, series):
        """Append tilt series and their CTFs to the outputs."""
        if not series:
            return
        if not self.follow.get():  # all are known: proper names stay as they are, whatever is before them
            self._names = to_scipion.ts_ids_of([one.ts_id for one in series])
        ctfs = [one for one in series if one.ctf is not None]
        with self._lock:
            tilt_series, places = self._open("TiltSeries", series[0]), {}
            for one in series:
                ts_id = self._called(one)
                places[ts_id] = import_files.gather(one, self._getExtraPath(), ts_id, self.makeStacks.get())
                to_scipion.add_tilt_series(tilt_series, one, ts_id, places[ts_id])
                self._notes += self._remarks(one, ts_id)
            self._keep("TiltSeries", tilt_series)
            if ctfs:
                output = self._open("CTFs", ctfs[0])
                for one in ctfs:
                    ts_id = self._called(one)
                    to_scipion.add_ctfs(output, one, ts_id, places[ts_id])
                    if None in to_scipion.resolutions(one):
                        self._unknown.append(ts_id)
                self._keep("CTFs", output)

    def _open(self, name, first):
        """An output to append to; it is made for the first tilt series."""
        output = getattr(self, name, None)
        if output is not None:
            output.enableAppend()
            return output
        if name == "TiltSeries":
            output = self._createSetOfTiltSeries()
            output.setSamplingRate(first.geometry.pixel_size)
            output.setAcquisition(to_scipion.acquisition(first))
        else:
            output = SetOfCTFTomoSeries.create(self._getPath(), template="ctfTomoSeries%s.sqlite")
            output.setSetOfTiltSeries(self.TiltSeries)
        return output

    def _keep(self, name, output):
        """Write an output; it stays open until `_close`."""
        if hasattr(self, name):
            self._setState(output, Set.STREAM_OPEN)
            return
        output.setStreamState(Set.STREAM_OPEN)
        output.write()
        self._defineOutputs(**{name: output})
        if name == "CTFs":
            self._defineSourceRelation(self.TiltSeries, output)
        self._store(self)  # otherwise others see it when the step ends

    def _close(self):
        with self._lock:
            for _, output in self.iterOutputAttributes():
                self._setState(output, Set.STREAM_CLOSED)

    @staticmethod
    def _remarks(one, ts_id):
        """What people should know of a tilt series that was imported."""
        excluded = one.geometry.n_tilts - one.geometry.used.sum()
        notes = ["%s: %d tilts%s" % (ts_id, one.geometry.n_tilts, ", %d excluded" % excluded if excluded else "")]
        notes += ["%s: %s." % (ts_id, note) for note in one.notes]
        notes += [str(problem) for problem in unfollowed("Scipion's tilt series", ts_id, one.statements, local=False)]
        if ts_id != one.ts_id:
            notes.append("%s is called %s here: Scipion allows letters, digits and underscores." % (one.ts_id, ts_id))
        return notes

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
        if self.follow.get() and os.path.exists(self.tomogramsStar.get()):
            return []  # what is not there yet may come
        self._usable()
        return []

    def _doubts(self):
        return [] if self.follow.get() else self._usable()[1]

    def _methods(self):
        return ["Aligned tilt series were imported from %s." % self.tomogramsStar.get()]

    def _citations(self):
        return super()._citations() + ["Burt2024"]
