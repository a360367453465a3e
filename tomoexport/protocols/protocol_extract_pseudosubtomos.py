"""RELION's pseudo-subtomograms, from coordinates, from refined ones, or from RELION's own tables."""

import os
from dataclasses import fields
from pathlib import Path

from pyworkflow.object import Pointer
from pyworkflow.protocol import EnumParam, PointerParam
from tomo.objects import SetOfCoordinates3D, SetOfLandmarkModels, SetOfSubTomograms, SetOfTiltSeries

from ..convert import (
    attributes,
    from_scipion,
    import_files,
    landmarks,
    positions,
    pseudosubtomos,
    refined,
    subsets,
    to_scipion,
)
from ..io import mrc
from ..io.manifest import fingerprint
from ..io.paths import safe_stem
from ..io.project import read_project
from ..io.relion5 import write_project
from ..jobs import pseudosubtomo, windows
from ..jobs.particles import read_table
from ..jobs.tiltseries import given
from ..options import VERBS, ParticleTableOptions, TiltSeriesOptions, from_dict
from .form import GROUPS, addCompute, addGroups, addOptions, optionValues
from .protocol_reconstruct_tomograms import CENTRES, addTransformCentre
from .protocol_series import FAILED, ProtTomoExportSeriesBase

PARTICLES, PROJECTED, COORDINATES = "relionParticles", "projected2DCoordinates", "Coordinates"
SETS, TABLES = "inputFrom == 0", "inputFrom == 1"
FILES = ("optimisation_set", "tomograms", "particles", "motion", "source")
# What the sets of the project say themselves.
BESIDE = tuple(spec.name for kind in (TiltSeriesOptions, ParticleTableOptions) for spec in fields(kind)
               if spec.name not in FILES + ("hand", "centre"))


class ProtTomoExportPseudoSubtomos(ProtTomoExportSeriesBase):
    """Extract pseudo-subtomograms, as RELION 5's Extract job does: 2D stacks of the tilt images, or 3D sums.

    From coordinates; from pseudo-subtomograms that were refined, again at another binning or box size, their alignment
    kept; or from RELION's own tables. RELION 5 and the refinements of scipion-em-reliontomo take what it gives: with
    that plugin installed it is a set of pseudo-subtomograms, otherwise one of sub-tomograms with the same files. The
    projected centres of the particles, and their picture in the report, show before any refinement whether the
    coordinates lie on particles.
    """

    _label = "extract pseudo-subtomograms"
    _possibleOutputs = {PARTICLES: SetOfSubTomograms, PROJECTED: SetOfLandmarkModels, COORDINATES: SetOfCoordinates3D,
                        FAILED: SetOfTiltSeries}
    VERB, SECTION = "pseudosubtomo", "Extract"
    INPUTS = {"tomograms": "inputTS", "particles": "inReParticles"}
    PAIRED = True  # every particle belongs to a coordinate

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        plugin = refined.plugin()
        if plugin and PARTICLES in self._possibleOutputs:
            self._possibleOutputs = dict(self._possibleOutputs, **{
                PARTICLES: plugin[0].RelionSetOfPseudoSubtomograms})

    # -------------------------- INSERT steps functions -----------------------
    def _key(self):
        """With what is in the tables that other tables name."""
        if not self._fromTables():
            return super()._key()
        options = self._tables()
        return fingerprint(super()._key(), [Path(path) for path in (
            options.particles, options.tomograms, options.motion, *pseudosubtomo.tilt_tables(options)) if path])

    # -------------------------- DEFINE param functions -----------------------
    def _defineParams(self, form):
        form.addSection("Input")
        form.addParam("inputFrom", EnumParam, default=0, display=EnumParam.DISPLAY_HLIST,
                      choices=["sets of this project", "RELION's tables"], label="Particles from", help="Sets of this "
                      "project, or an optimisation set of RELION, or its tables.")
        form.addParam("inReParticles", PointerParam, important=True, condition=SETS,
                      pointerClass=refined.particle_classes("SetOfCoordinates3D", "SetOfSubTomograms"),
                      label="Particles", help="Coordinates, with or without orientations, "
                      "picked at any pixel size; aligned sub-tomograms; or, with scipion-em-reliontomo, refined "
                      "pseudo-subtomograms, which are extracted again with their alignment, trajectories and tilt "
                      "series as refined.")
        form.addParam("inputCtfTs", PointerParam, pointerClass="SetOfCTFTomoSeries", allowsNull=True, condition=SETS,
                      label="CTFs", help="Defocus of every tilt; joined with the images by "
                      "acquisition order. Views without one are excluded. Refined pseudo-subtomograms have their own.")
        form.addParam("inputTS", PointerParam, pointerClass="SetOfTiltSeries", allowsNull=True,
                      label="Tilt series", help="Aligned tilt series, not interpolated, that the tomograms were "
                      "made from: they are called the same (tsId). Excluded views take no part. Refined "
                      "pseudo-subtomograms and RELION's tables have their own; given here as well, they are what the "
                      "projected centres are shown on.")
        addOptions(form, self.VERB, *FILES, *BESIDE, condition=TABLES)
        self._defineTomograms(form)
        addOptions(form, self.VERB, "hand")
        addGroups(form, self.VERB, "Positions")
        addTransformCentre(form, condition=SETS)
        form.addSection(self.SECTION)
        addGroups(form, self.VERB, *[title for title in GROUPS[self.VERB] if title != "Positions"], last=True,
                  shown=FILES + ("hand",))
        addCompute(form, self.VERB, threads=3)

    def _defineTomograms(self, form):
        form.addParam("inputTomograms", PointerParam, pointerClass="SetOfTomograms", condition=TABLES,
                      label="Tomograms", help="The tomograms that the particles are in, at any pixel size: Scipion "
                      "counts coordinates in them. Names are matched with tsId or with the name that the tilt series "
                      "had where it was imported from.")

    # --------------------------- STEPS functions -----------------------------
    def _writeInputs(self, names):
        if self._isAgain():
            refined.write_table(self._table(), refined.particles(self._items(), names))
        elif not self._fromTables():
            return self._writeSets(names)
        return [], {}

    def _writeSets(self, names):
        values = optionValues(self, self.VERB)
        frames = positions.frames(self._coordinates().getPrecedents())
        series, notes, failures = from_scipion.tilt_series_set(
            self.inputTS.get(), names, self.inputCtfTs.get(), {n: f.size for n, f in frames.items()}, values["hand"],
            CENTRES[self.transformCentre.get()])
        if series:
            # RELION, which reads this table later, does not know of views that are excluded.
            used = [one.select(one.geometry.used & one.ctf.measured) for one in series]
            write_project(self._inputPath(), used, base=os.getcwd())
            left = [one.ts_id for one in used]
            pseudosubtomos.write_table(self._table(), self._items(),
                                       positions.particles(self._items(), values["centre"], left))
        return notes, failures

    def _jobInputs(self):
        if self._fromTables():
            return {name: value for name, value in self._optionValues().items() if value and name in FILES}
        if self._isAgain():
            motion = self._items().getTrajectoriesStar()
            return dict({"tomograms": self._items().getTomogramsStar(), "particles": self._table()},
                        **({"motion": motion} if motion else {}))
        return {"tomograms": self._inputPath("tomograms.star"), "particles": self._table()}

    def _checkResult(self, result):
        for particle in result["particles"]:
            if particle["kept"] and not self._optionValues()["only_project"]:
                for name in ("image", "weights"):
                    if particle[name]:
                        mrc.read_header(self._getExtraPath(particle[name]))

    def createOutputStep(self, key, attempt):
        """Make the sets anew from the files on disk."""
        names = self._seriesIds()
        self._addFailed(names)
        self._collect()
        done = [name for name in names if name not in self._errors()]
        if not self._optionValues()["only_project"]:
            self._addParticles(sum(p["kept"] for name in done for p in self._result(name)["particles"]))
        if self.inputTS.get() is not None:
            self._addProjected(done)

    def _addParticles(self, count):
        values, centre = self._optionValues(), optionValues(self, self.VERB)["centre"]
        series = self._series()
        particles = pseudosubtomos.read_table(self._getExtraPath(), count)
        coordinates = self._addCoordinates(centre) if self._lackCoordinates() else self._coordinatesPointer()
        frames, volumes = pseudosubtomos.frames_by_name(coordinates.get().getPrecedents(), centre)
        particles, whole = pseudosubtomos.bring_home(self._getExtraPath(), particles, series, frames, self._named)
        pixel_size = series[0].geometry.pixel_size
        acquisitions = {one.ts_id: to_scipion.acquisition(one) for one in series}
        plugin = refined.plugin()
        if plugin:
            source = self.inputTS.get()
            acquisition = acquisitions[series[0].ts_id] if source is None else source.getAcquisition()
            output = pseudosubtomos.relion_set(
                plugin, self._getPath(), whole, particles, coordinates, tsSamplingRate=pixel_size,
                relionBinning=values["binning"], boxSize=windows.crop(from_dict(self.VERB, values)),
                are2dStacks=values["stack2d"], acquisition=acquisition)
        else:
            output = self._createSetOfSubTomograms()
            output.setSamplingRate(values["binning"] * pixel_size)
            output.setAcquisition(acquisitions[series[0].ts_id])
            output.setCoordinates3D(coordinates)
            attributes.put(output, attributes.STAR, self._relative(self._getExtraPath("particles.star")))
            pseudosubtomos.add_subtomograms(output, particles, frames, volumes, acquisitions)
        self._addOutput(PARTICLES, output, *[getattr(self, name) for name in (
            "inReParticles", "inputCtfTs", "inputTS", "inputTomograms") if self.evalParamCondition(name)])

    def _lackCoordinates(self):
        """Tell whether particles have no coordinates in the project, or fewer, as sets that were joined: the set that
        scipion-em-reliontomo reads has no more particles than coordinates."""
        return self._fromTables() or self._coordinates().getSize() < self._items().getSize()

    def _addCoordinates(self, centre):
        """Make coordinates of the particles that were extracted; return a pointer to them."""
        source = self.inputTomograms
        if not self._fromTables():
            source = self._coordinates()._precedentsPointer
        tomograms = source.get()
        found, _ = import_files.particles(self._getExtraPath("particles.star"), tomograms, centre=centre)
        output = self._createSetOfCoordinates3D(source)
        output.setSamplingRate(tomograms.getSamplingRate())
        size = self._diameter() / tomograms.getSamplingRate()
        output.setBoxSize(max(2, 2 * int(round(size / 2))))
        to_scipion.add_coordinates(output, found, tomograms, centre)
        self._addOutput(COORDINATES, output, self.inputTomograms if self._fromTables() else self.inReParticles)
        return Pointer(self, extended=COORDINATES)

    def _addProjected(self, names):
        """Make landmark models of where the particles are seen."""
        output = self._createSetOfLandmarkModels()
        output.copyInfo(self.inputTS.get())
        output.setSetOfTiltSeries(self.inputTS)
        series = {one.ts_id: one for one in self._series()}
        os.makedirs(self._getExtraPath("landmarks"), exist_ok=True)
        for ts in self.inputTS.get().iterItems():
            name = next((n for n in (ts.getTsId(), attributes.take(ts, attributes.NAME)) if n in names), None)
            numbers = landmarks.stack_numbers(series[name], ts) if name else None
            if numbers:
                stem = safe_stem(name)
                landmarks.add_landmarks(output, ts, self._getExtraPath("projected", stem + ".csv"),
                                        self._getExtraPath("landmarks", stem + ".sfid"), numbers, self._diameter())
            elif name:
                self.warning("%s: its images are not those that the particles were cut from; centres are not shown "
                             "on them" % name)
        if output.getSize():
            self._addOutput(PROJECTED, output, self.inputTS)

    # --------------------------- UTILS functions -----------------------------
    def _items(self):
        return self.inReParticles.get()

    def _fromTables(self):
        return self.inputFrom.get() == 1

    def _isAgain(self):
        """Tell whether refined pseudo-subtomograms are extracted again."""
        return not self._fromTables() and refined.is_refined(self._items())

    def _table(self):
        return self._inputPath("particles.star")

    def _optionValues(self):
        values = super()._optionValues()
        if self._fromTables():
            return values
        plain = {spec.name: spec.default for spec in fields(VERBS[self.VERB])}
        return dict(values, **{name: plain[name] for name in FILES + BESIDE})

    def _tables(self):
        """Options of the job with the tables that it reads."""
        return windows.completed(from_dict(self.VERB, dict(self._optionValues(), **self._jobInputs())))

    def _diameter(self):
        """Side of what is extracted, angstrom."""
        options = self._tables()
        return windows.crop(options) * options.binning * self._series()[0].geometry.pixel_size

    def _series(self):
        """The tilt series as the job reads them."""
        options = self._tables()
        return read_project(options.tomograms, given=given(options))

    def _named(self, path):
        """Path as tables name it: relative to the project, where RELION is run, for what is in it."""
        path = self._relative(path)
        return os.path.abspath(path) if path.startswith(os.pardir) else path

    def _tiltSeriesPointer(self):
        return self.inputTS

    def _coordinates(self):
        return subsets.coordinates(self._items())

    def _coordinatesPointer(self):
        items = self._items()
        if isinstance(items, SetOfSubTomograms):
            return items.getCoordinates3D(asPointer=True)
        pointer = Pointer()
        pointer.copy(self.inReParticles)
        return pointer

    def _seriesIds(self):
        return self._match()[0]

    def _match(self):
        """Tilt series that take part, what is missing where, and how many particles are lost by that."""
        if self._fromTables():
            series = self._series()
            named = set(read_table(self._tables(), series, True)[0].names())
            return [one.ts_id for one in series if one.ts_id in named], [], 0
        if self._isAgain():
            counts = refined.counts(self._items())
            return from_scipion.match({"particles": counts, "table of tomograms": [
                one.ts_id for one in self._series()]}, counts)
        counts = positions.counts(self._coordinates())
        return from_scipion.match({"particles": counts, "tilt series": self.inputTS.get().getTSIds(),
                                   "CTFs": self.inputCtfTs.get().getTSIds()}, counts)

    def _orphans(self):
        return ["Not in every input: " + line for line in self._match()[1]]

    # --------------------------- INFO functions ------------------------------
    def _checkInputs(self):
        values = self._optionValues()
        errors = self._checkSizes(values)
        if self._fromTables():
            return errors or self._missing()
        items = self._items()
        unfit = self._notParticles("inReParticles")
        if unfit:
            return errors + unfit
        if not self._isAgain() and (self.inputTS.get() is None or self.inputCtfTs.get() is None):
            return errors + ["Tilt series and CTFs are needed for particles that are not refined pseudo-subtomograms. "
                             "Give both."]
        names, orphans, lost = self._match()
        if not names:
            return errors + ["Inputs: no tilt series is in all of them. " + " ".join(orphans)]
        if lost and not self.allowLoss.get():
            errors.append("%d particles would be lost: %s. Complete the inputs, or allow it in the form."
                          % (lost, "; ".join(orphans)))
        if self.PAIRED and self._coordinates() is None:
            return errors + ["%s: the set has no coordinates. Give one that was extracted from coordinates."
                             % self.getParam("inReParticles").getLabel()]
        particles = positions.particles(items, ts_ids=names)
        if self._isAgain():
            return errors
        if particles.trajectory is not None:
            errors.append("Particles: they turn while they are exposed, which RELION has no place for. Export "
                          "sub-tomograms or image series, which follow M's trajectories.")
        return errors + from_scipion.obstacles(self.inputTS.get(), names, float("inf"))

    @staticmethod
    def _checkSizes(values):
        side = values["crop"] or values["box"]
        if side % 2:
            return ["Cropped box size: %d is odd. Give an even size; %d is next." % (side, side + 1)]
        if side > values["box"]:
            return ["Cropped box size: %d px is more than the box of %d px. Take a smaller one, or a larger box."
                    % (side, values["box"])]
        return []

    def _missing(self):
        """Tell which tomograms are not there."""
        known = pseudosubtomos.frames_by_name(self.inputTomograms.get())[0]
        missing = sorted(set(self._seriesIds()) - set(known))
        return ["Tomograms: there are none of %s. Complete the set." % ", ".join(missing)] if missing else []

    def _doubts(self):
        if self._fromTables():
            return []
        if self._isAgain():
            return ["CTFs: they are not used, the particles have their own, refined ones."] if (
                self.inputCtfTs.get() is not None) else []
        if self.inputTS.get() is None or self.inputCtfTs.get() is None:
            return []
        return from_scipion.doubts(self.inputTS.get(), self._seriesIds(), hand=optionValues(self, self.VERB)["hand"],
                                   size_known=True)

    def _methods(self):
        values = self._optionValues()
        return ["Pseudo-subtomograms (%s) of %d pixels were extracted at binning %g with tomoexport." % (
            "2D stacks" if values["stack2d"] else "3D", values["crop"] or values["box"], values["binning"])]

    def _citations(self):
        return super()._citations() + ["Zivanov2022", "Burt2024"]
