"""Sub-tomograms with their 3D CTFs, from coordinates and tilt series."""

from dataclasses import fields, replace

from pyworkflow.object import Pointer
from pyworkflow.protocol import PointerParam
from tomo.objects import SetOfSubTomograms, SetOfTiltSeries

from ..convert import attributes, from_scipion, positions, refined, to_scipion
from ..io import mrc, particlestar, species
from ..io.relion5 import read_project, write_project
from ..io.species import read_species
from ..options import VERBS
from .form import addCompute, addGroups, paramName
from .protocol_reconstruct_tomograms import CENTRES, addTransformCentre
from .protocol_series import FAILED, ProtTomoExportSeriesBase


class ProtTomoExportSubtomos(ProtTomoExportSeriesBase):
    """Export sub-tomograms for sub-tomogram averaging.

    Every particle is reconstructed from the tilt images, at any pixel size, with the CTF and dose weighting of its own
    place in the specimen; next to it stands its 3D CTF, and a particle table in RELION's format names both. RELION 3
    reads it as it stands, RELION 4 and 5 with --ctf3d_not_squared: the 3D CTF holds one factor of the CTF.
    """

    _label = "export sub-tomograms"
    _possibleOutputs = {"Subtomograms": SetOfSubTomograms, FAILED: SetOfTiltSeries}
    VERB = "subtomo"
    INPUTS = {"tomograms": "inputTiltSeries", "particles": "inputCoordinates"}
    EXPORT = ("Size", "Centre and orientation", "Tilts", "CTF")
    PROCESSING = ("Images", "Numerics", "Files")

    # -------------------------- DEFINE param functions -----------------------
    def _defineParams(self, form):
        form.addSection("Input")
        form.addParam("inputCoordinates", PointerParam, important=True, label="Particles",
                      pointerClass=refined.particle_classes("SetOfCoordinates3D", "SetOfSubTomograms"),
                      help="Coordinates, with or without orientations, picked at any pixel size; or aligned "
                      "sub-tomograms or pseudo-subtomograms, whose refined shifts are applied to the positions. Those "
                      "that were imported from M's tables follow their trajectories.")
        form.addParam("inputTiltSeries", PointerParam, pointerClass="SetOfTiltSeries", important=True,
                      label="Tilt series", help="Aligned tilt series, not interpolated, that the tomograms were made "
                      "from: they are called the same (tsId). Excluded views take no part.")
        form.addParam("inputCtfs", PointerParam, pointerClass="SetOfCTFTomoSeries", important=True, label="CTFs",
                      help="Defocus of every tilt; joined with the images by acquisition order. Views without one are "
                      "excluded.")
        addGroups(form, self.VERB, "Positions")
        addTransformCentre(form)
        form.addSection("Export")
        addGroups(form, self.VERB, *self.EXPORT)
        form.addSection("Processing")
        addGroups(form, self.VERB, *self.PROCESSING, last=True)
        addCompute(form, self.VERB, threads=3)

    # --------------------------- STEPS functions -----------------------------
    def _writeInputs(self, names):
        values = self._optionValues()
        particles = positions.particles(self.inputCoordinates.get(), values["centre"], names)
        frames = positions.frames(self._coordinates().getPrecedents())
        series, notes, failures = from_scipion.tilt_series_set(
            self.inputTiltSeries.get(), names, self.inputCtfs.get(), {n: f.size for n, f in frames.items()},
            values["hand"], CENTRES[self.transformCentre.get()])
        if series:
            project = write_project(self._inputPath(), series)
            table = self._inputPath("particles.star")
            if particles.trajectory is None:
                particlestar.write_particles(table, particles)
            else:  # M's tables hold them; the sizes that positions count from are those that the job will read
                kept = particles.select([name in set(s.ts_id for s in series) for name in particles.names()])
                named = replace(kept, extra=dict(kept.extra, rlnTomoParticleName=list(kept.uid)))
                species.write_species(table, named, read_project(project))
        return notes, failures

    def _jobInputs(self):
        return {"tomograms": self._inputPath("tomograms.star"), "particles": self._inputPath("particles.star")}

    def _checkResult(self, result):
        for particle in result["particles"]:
            if particle["kept"]:
                mrc.read_header(self._getExtraPath(particle["image"]))
                mrc.read_header(self._getExtraPath(particle["ctf"]))

    def createOutputStep(self, key, attempt):
        """Make the sets anew from the files on disk."""
        names = self._seriesIds()
        self._addFailed(names)
        self._collect()
        kept = {p["uid"]: p for name in set(names) - set(self._errors()) for p in self._result(name)["particles"]
                if p["kept"]}
        output = self._createSetOfSubTomograms()
        output.setSamplingRate(self._optionValues()["pixel_size"])
        output.setAcquisition(self.inputTiltSeries.get().getAcquisition())
        output.setCoordinates3D(self._coordinatesPointer())
        values = self._optionValues()
        attributes.put(output, attributes.STAR, self._getExtraPath(values["star"]))
        acquisitions = {ts.getTsId(): ts.getAcquisition().clone() for ts in self.inputTiltSeries.get().iterItems()}
        to_scipion.add_subtomograms(output, self.inputCoordinates.get(), kept, acquisitions, values["centre"],
                                    self._getExtraPath, self._moved)
        if output.getSize() != len(kept):
            raise RuntimeError("%d sub-tomograms were written, %d belong to coordinates. Restart the protocol."
                               % (len(kept), output.getSize()))
        self._addOutput("Subtomograms", output, self.inputCoordinates, self.inputTiltSeries, self.inputCtfs)

    # --------------------------- UTILS functions -----------------------------
    def _optionValues(self):
        """As the form has them; what it leaves at its default, a species of M fills in."""
        values, specs = super()._optionValues(), {spec.name: spec.default for spec in fields(VERBS[self.VERB])}
        if values.get("species"):
            known = read_species(values["species"])
            for name, value in (("pixel_size", known.pixel_size), ("box", known.box + known.box % 2),
                                ("diameter", known.diameter)):
                if value and getattr(self, paramName(name)).get() in (None, specs[name]):
                    values[name] = value
        return values

    def _unanswered(self):
        return [] if self.species.get() else super()._unanswered()

    def _moved(self, particles):
        """The particles as they lie in what was exported."""
        values = self._optionValues()
        particles = particles.moved([values["shift_" + axis] for axis in "xyz"])
        return particles.prerotated() if values.get("prerotate") else particles

    def _coordinates(self):
        items = self.inputCoordinates.get()
        return items.getCoordinates3D() if isinstance(items, SetOfSubTomograms) else items

    def _coordinatesPointer(self):
        items = self.inputCoordinates.get()
        if isinstance(items, SetOfSubTomograms):
            return items.getCoordinates3D(asPointer=True)
        pointer = Pointer()
        pointer.copy(self.inputCoordinates)
        return pointer

    def _seriesIds(self):
        return self._match()[0]

    def _match(self):
        counts = positions.counts(self._coordinates())
        return from_scipion.match({"particles": counts, "tilt series": self.inputTiltSeries.get().getTSIds(),
                                   "CTFs": self.inputCtfs.get().getTSIds()}, counts)

    def _orphans(self):
        return ["Not in every input: " + line for line in self._match()[1]]

    # --------------------------- INFO functions ------------------------------
    def _checkInputs(self):
        errors = self._notParticles("inputCoordinates")
        if errors:
            return errors
        names, orphans, lost = self._match()
        if not names:
            return ["Inputs: no tilt series is in all of them. " + " ".join(orphans)]
        errors = []
        if lost and not self.allowLoss.get():
            errors.append("%d particles would be lost: %s. Complete the inputs, or allow it in the form."
                          % (lost, "; ".join(orphans)))
        return errors + from_scipion.obstacles(self.inputTiltSeries.get(), names, self._smallest())

    def _doubts(self):
        if self._coordinates() is None:
            return []
        values = self._optionValues()
        lines = [] if values["diameter"] else ["%s: none is given, 80 %% of the box, %g Å, is taken." % (
            self.getParam("diameter").getLabel(), 0.8 * values["box"] * values["pixel_size"])]
        return lines + from_scipion.doubts(self.inputTiltSeries.get(), self._seriesIds(), hand=values["hand"],
                                           size_known=True)

    def _tableLines(self):
        lines = super()._tableLines()
        return lines + ["RELION 3 reads this table as it stands; RELION 4 and 5 need --ctf3d_not_squared: the 3D CTF "
                        "holds one factor of the CTF."] if lines else []

    def _methods(self):
        values = self._optionValues()
        return ["Sub-tomograms of %d voxels at %g Å per pixel and their 3D CTFs were reconstructed with tomoexport, "
                "from %s, weighted by dose%s." % (
                    values["box"], values["pixel_size"], "the first %d tilts by dose" % values["first_tilts"]
                    if values["first_tilts"] else "all tilts", " and turned into the frame of the map"
                    if values["prerotate"] else "")]

    def _citations(self):
        return super()._citations() + ["Tegunov2021", "Jackson1991"]
