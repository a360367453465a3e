"""Pseudo-subtomograms through Scipion, with scipion-em-reliontomo and without it."""

import json
import os
from dataclasses import fields
from unittest import SkipTest

import numpy as np
from pwem import Domain
from pwem.objects import Transform, Volume
from pwem.protocols import ProtSubSet
from pyworkflow.project import Manager

from tomoexport.convert import attributes, from_scipion, landmarks, positions, pseudosubtomos, refined, to_scipion
from tomoexport.engine.poses import matrix_from_zyz
from tomoexport.io import mrc, optimisationset, particlestar, relion5, star
from tomoexport.jobs import runner
from tomoexport.options import PseudosubtomoOptions
from tomoexport.protocols import (
    ProtTomoExportImportTiltSeries,
    ProtTomoExportPseudoSubtomos,
    ProtTomoExportSubtomos,
)
from tomoexport.protocols.form import paramName
from tomoexport.tests.protocols.editing import change
from tomoexport.tests.protocols.test_protocols import PIXEL, SERIES, TOMO_PIXEL, ProtocolTest
from tomoexport.viewers.viewer_results import TomoExportResultsViewer, reportFigures

BOX, CROP = 32, 24


class PseudoTest(ProtocolTest):
    """A project with tomograms and coordinates, whose pseudo-subtomograms are extracted in two and three dimensions."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tomograms = cls.reconstruct()
        cls.particles = cls.importParticles(cls.tomograms)

    @classmethod
    def values(cls, **more):
        return dict(dict(inReParticles=(cls.particles, "Coordinates"), inputTS=(cls.imported, "TiltSeries"),
                         inputCtfTs=(cls.imported, "CTFs"), boxSize=BOX, croppedBoxSize=CROP, outputInFloat16=False),
                    **more)

    @classmethod
    def extract(cls, **more):
        return cls.launch(ProtTomoExportPseudoSubtomos, **cls.values(**more))

    def direct(self, folder, **more):
        """Particles of the same extraction on the command line."""
        folder = os.path.abspath(folder)
        runner.run({"verb": "pseudosubtomo", "options": dict(dict(
            tomograms=os.path.join(self.data, "tomograms.star"), particles=os.path.join(self.data, "particles.star"),
            output=folder, box=BOX, crop=CROP, float16=False), **more)})
        return self.table(os.path.join(folder, "particles.star"))

    @staticmethod
    def table(path):
        return particlestar.read_particles(path)[0]

    def checkImages(self, found, expected, column="rlnImageName"):
        """Files of two tables hold the same for particles of the same name."""
        files = dict(zip(expected.uid, expected.extra[column]))
        self.assertLessEqual(set(found.uid), set(files))
        for name, path in zip(found.uid, found.extra[column]):
            one, other = mrc.read_volume(path)[0], mrc.read_volume(files[name])[0]
            scale = np.abs(other).max()
            np.testing.assert_allclose(one / scale, other / scale, rtol=0, atol=1e-5, err_msg=name)

    def checkPoses(self, found, expected):
        """Positions and orientations are those of the particles of the same name."""
        order = [expected.uid.index(name) for name in found.uid]
        np.testing.assert_allclose(found.position, expected.position[order], atol=2e-3)
        np.testing.assert_allclose(found.rotation, expected.rotation[order], atol=1e-5)

    def checkProjected(self, protocol, count):
        """Landmarks are where the geometry of the tilt series projects the particles, in the images that show them."""
        models = protocol.projected2DCoordinates
        self.assertEqual([m.getTsId() for m in models], list(SERIES))
        self.assertEqual(self.sources(protocol, models), {"TiltSeries"})
        particles = self.table(protocol._getExtraPath("particles.star"))
        chains = 0
        for model in models:
            model = models.completeLandmarkModel(model)
            self.assertFalse(model.applyTSTransformation())
            series, _ = from_scipion.tilt_series(model.getTiltSeries(), volume_size=positions.frames(
                self.particles.Coordinates.getPrecedents())[model.getTsId()].size)
            own = particles.in_series(model.getTsId())
            g = series.geometry
            expected = g.project(own.position).xy / g.pixel_size + np.array(g.image_shape[::-1]) // 2 + 0.5
            section = {s + 1: t for t, (_, s) in enumerate(series.images)}
            rows = np.array(model.retrieveInfoTable(), np.float64)
            for x, y, image, chain, *_ in rows:
                np.testing.assert_allclose((x, y), expected[int(chain) - 1, section[int(image)]], atol=2e-3)
            shown = [sum(json.loads(text)) for text in own.extra["rlnTomoVisibleFrames"]] if (
                "rlnTomoVisibleFrames" in own.extra) else None
            if shown:
                self.assertEqual(np.bincount(rows[:, 3].astype(int))[1:].tolist(), shown)
            chains += model.getCount()
        self.assertEqual(chains, count)


class TestTomoExportPseudoSubtomosRelion(PseudoTest):
    """With scipion-em-reliontomo: its set, its writer, its inputs."""

    @classmethod
    def setUpClass(cls):
        if not refined.plugin():
            raise SkipTest("scipion-em-reliontomo is not installed")
        super().setUpClass()
        cls.flat = cls.extract()
        # Particles that two tilts show are left out.
        cls.volumes = cls.extract(write2dStacks=False, minNoFrames=3)

    def test_the_set(self):
        for protocol, stacks in ((self.flat, True), (self.volumes, False)):
            output = protocol.relionParticles
            self.assertEqual(type(output).__name__, "RelionSetOfPseudoSubtomograms")
            table = self.table(output.getParticlesStar())
            self.assertEqual(output.getSize(), output.getNReParticles())
            self.assertEqual((output.getBoxSize(), output.getRelionBinning(), output.getTsSamplingRate(),
                              output.getSamplingRate()), (CROP, 1.0, PIXEL, PIXEL))
            self.assertEqual((output.are2dStacks(), output.areRe5Particles()), (stacks, True))
            self.assertEqual(self.sources(protocol, output), {"Coordinates", "TiltSeries", "CTFs"})
            self.assertEqual(set(output.getTSIds()), set(SERIES))
            coordinates = {attributes.take(c, attributes.UID): c.clone()
                           for c in self.particles.Coordinates.iterCoordinates()}
            for item, name, image in zip(output.iterSubtomos(), table.uid, table.extra["rlnImageName"]):
                self.assertEqual((item.getRelionParticleName(), item.getFileName()), (name, image))
                self.assertFalse(os.path.isabs(image))
                self.assertEqual(mrc.read_header(image).shape[1:], (CROP, CROP))
                # The particle is paired with its own coordinate, whichever were left out.
                own, expected = item.getCoordinate3D(), coordinates[name]
                np.testing.assert_allclose([c.get() for c in (own._x, own._y, own._z)],
                                           [c.get() for c in (expected._x, expected._y, expected._z)], atol=1e-4)
                self.assertEqual(own.getTomoId(), expected.getTomoId())
                np.testing.assert_allclose(item.getTransform().getMatrix()[:3, :3], expected.getMatrix()[:3, :3],
                                           atol=1e-5)
                if stacks:
                    self.assertEqual(sum(json.loads(item.getVisibleFrames())), mrc.read_header(image).shape[0])
                else:
                    self.assertEqual(mrc.read_header(item.getCtfFile()).shape, (2 * CROP, CROP, CROP // 2 + 1))
        self.assertEqual(self.flat.relionParticles.getSize(), 8)
        self.assertTrue(0 < self.volumes.relionParticles.getSize() < 8)

    def test_every_file_is_found_from_the_project(self):
        """Where RELION is run; relative names let the project be moved."""
        for protocol in (self.flat, self.volumes):
            whole = star.read(protocol.relionParticles.filesMaster).table("")
            for label in (optimisationset.LABELS[name] for name in ("particles", "tomograms")):
                self.assertFalse(os.path.isabs(whole.text(label)[0]))
            tomograms = star.read(whole.text("rlnTomoTomogramsFile")[0]).table("global")
            for name, path in zip(*(tomograms.text(c) for c in ("rlnTomoName", "rlnTomoTiltSeriesStarFile"))):
                for image in star.read(path).table(name).text("rlnMicrographName"):
                    self.assertTrue(os.path.isfile(image.split("@")[-1]), image)

    def test_same_as_the_command_line(self):
        """Nothing is lost or moved on the way through Scipion: x-tilt, hands, half pixels, dose, positions."""
        flat = self.table(self.flat._getExtraPath("particles.star"))
        expected = self.direct("direct2d")
        self.assertEqual(set(flat.uid), set(expected.uid))
        self.checkImages(flat, expected)
        self.checkPoses(flat, expected)
        self.assertEqual(set(flat.extra["rlnRandomSubset"]), {"1", "2"})
        frames = dict(zip(expected.uid, expected.extra["rlnTomoVisibleFrames"]))
        self.assertEqual([sum(json.loads(t)) for t in flat.extra["rlnTomoVisibleFrames"]],
                         [sum(json.loads(frames[name])) for name in flat.uid])

    def test_boxes_are_turned_with_the_coordinates(self):
        """A 3D sum is made in the frame of its particle, as scipion-em-reliontomo asks RELION to."""
        volumes = self.table(self.volumes._getExtraPath("particles.star"))
        expected = self.direct("direct3d", stack2d=False, min_frames=3, apply_orientations=True)
        self.assertEqual(set(volumes.uid), set(expected.uid))
        self.checkPoses(volumes, expected)
        for column in ("rlnImageName", "rlnCtfImage"):
            self.checkImages(volumes, expected, column)

    def test_projected_centres(self):
        self.checkProjected(self.flat, 8)
        self.checkProjected(self.volumes, self.volumes.relionParticles.getSize())

    def test_its_own_writer_writes_the_same_table(self):
        _, convert = refined.plugin()
        for protocol, stacks in ((self.flat, True), (self.volumes, False)):
            folder = protocol._getExtraPath("rewritten")
            os.makedirs(folder)
            convert.convert50_tomo.Writer().pseudoSubtomograms2Star(protocol.relionParticles, folder, stacks)
            written = os.path.join(folder, "inParticles.star")
            one, two = self.table(written), self.table(protocol._getExtraPath("particles.star"))
            self.assertEqual(one.uid, two.uid)
            self.checkPoses(one, two)
            for column in ("rlnTomoName", "rlnImageName", "rlnOpticsGroup", "rlnRandomSubset",
                           "rlnTomoVisibleFrames" if stacks else "rlnCtfImage"):
                self.assertEqual(one.extra[column], two.extra[column], column)
            for column in ("rlnImagePixelSize", "rlnTomoSubtomogramBinning", "rlnTomoTiltSeriesPixelSize", "rlnVoltage",
                           "rlnAmplitudeContrast", "rlnSphericalAberration", "rlnImageSize", "rlnImageDimensionality",
                           "rlnCtfDataAreCtfPremultiplied", *pseudosubtomos.COORDINATE):
                np.testing.assert_allclose(*(np.array(p.extra[column], float) for p in (one, two)), atol=1e-4,
                                           err_msg=column)
            general = star.read(written).table("general")
            self.assertEqual(general.int("rlnTomoSubTomosAre2DStacks")[0], int(stacks))

    def test_its_refinements_take_the_set(self):
        from reliontomo.protocols import ProtRelionDeNovoInitialModel, ProtRelionRefineSubtomograms
        mrc.write(os.path.abspath("reference.mrc"), np.ones((CROP,) * 3), PIXEL)
        reference = Volume()
        reference.setFileName(os.path.abspath("reference.mrc"))
        reference.setSamplingRate(PIXEL)
        project = Manager().loadProject(self.projName)
        for protocol_class in (ProtRelionDeNovoInitialModel, ProtRelionRefineSubtomograms):
            for source in (self.flat, self.volumes):
                protocol = self.make(protocol_class, inReParticles=(source, "relionParticles"))
                if protocol_class is ProtRelionRefineSubtomograms:
                    protocol.referenceVolume.set(reference)
                # What the form offers to choose from.
                param = protocol.getParam("inReParticles")
                classes = [Domain.findClass(name.strip()) for name in param.pointerClass.get().split(",")]
                offered = project.getProtocolCompatibleOutputs(protocol, classes, param.pointerCondition.get(),
                                                               strictPointer=param.strictPointer.get())
                self.assertIn((source.getObjId(), "relionParticles"),
                              {(p.getObjValue().getObjId(), p.getExtended()) for p in offered})
                self.assertTrue(protocol.inReParticles.get().areRe5Particles())
                self.assertEqual(protocol._validate(), [])

    def test_refined_particles_again_at_another_binning(self):
        """A subset, with changed poses and offsets: what comes out has the same poses, and box and binning as asked."""
        subset = self.launch(ProtSubSet, inputFullSet=(self.flat, "relionParticles"), chooseAtRandom=True, nElements=5)
        name, output = next(subset.iterOutputAttributes())
        rng = np.random.default_rng(3)
        changed = {}
        for number in sorted(output.getIdSet()):
            item = output[number]
            box, angles = matrix_from_zyz(*rng.uniform(-90, 90, 3)), rng.uniform(-90, 90, 3)
            offset = rng.uniform(-10, 10, 3)
            matrix = to_scipion.pose(box)
            matrix[:3, 3] = box.T @ offset / output.getSamplingRate()
            item.setTransform(Transform(matrix))
            for setter, value in zip((item.setRot, item.setTilt, item.setPsi), angles):
                setter(float(value))
            centre = np.array([item.getXInImg(), item.getYInImg(), item.getZInImg()])
            turn = box @ matrix_from_zyz(*angles)
            changed[item.getRelionParticleName()] = (centre - box @ offset + turn @ [0, 0, 8], turn)
            output.update(item)
        output.write()
        # Smaller than before, so that no particle is lost by its offset; and centred on another point of the map.
        again = self.launch(ProtTomoExportPseudoSubtomos, inReParticles=(subset, name), binningFactor=2.0, boxSize=16,
                            croppedBoxSize=8, write2dStacks=False, shiftZ=8.0)
        output = again.relionParticles
        self.assertEqual((output.getSize(), output.getBoxSize(), output.getRelionBinning(), output.getSamplingRate()),
                         (5, 8, 2.0, 2 * PIXEL))
        self.assertEqual(self.sources(again, output), {name})
        table = self.table(output.getParticlesStar())
        for uid, place, turn in zip(table.uid, table.position, table.rotation):
            np.testing.assert_allclose(place, changed[uid][0], atol=1e-3)
            np.testing.assert_allclose(turn, changed[uid][1], atol=1e-5)
        # Offsets are in the positions now, and in the coordinates that Scipion shows.
        self.assertFalse(np.array([table.extra[c + "Angst"] for c in particlestar.ORIGIN], float).any())
        scale = self.particles.Coordinates.getSamplingRate()
        frames = positions.frames(self.particles.Coordinates.getPrecedents())
        for item, uid in zip(output.iterSubtomos(), table.uid):
            c = item.getCoordinate3D()
            np.testing.assert_allclose([c._x.get(), c._y.get(), c._z.get()], frames[item.getTsId()].stored(
                changed[uid][0]), atol=1e-3 / scale)
        read = positions.particles(output)
        self.checkPoses(read, table)
        # The other exports read the whole pose as well.
        export = self.launch(ProtTomoExportSubtomos, **dict(self.inputs(), pixelSize=PIXEL, box=BOX,
                                                            inputCoordinates=(again, "relionParticles")))
        self.checkPoses(positions.particles(export.Subtomograms), table)

    def test_particles_of_relion_4_are_refused(self):
        output = self.flat.relionParticles
        output.setAreRe5Particles(False)
        try:
            errors = self.make(ProtTomoExportPseudoSubtomos, inReParticles=(self.flat, "relionParticles")).validate()
        finally:
            output.setAreRe5Particles(True)
        self.assertIn("they are RELION 4's", " ".join(errors))

    def test_excluded_views_are_absent_from_what_relion_reads(self):
        imported = self.launch(ProtTomoExportImportTiltSeries, tomogramsStar=os.path.join(self.data, "tomograms.star"))

        def exclude(ti):
            ti.setEnabled(False)
            return ti.getIndex() == 1

        change(imported.TiltSeries, "TS_01", exclude)
        protocol = self.extract(inputTS=(imported, "TiltSeries"), inputCtfTs=(imported, "CTFs"))
        table = self.table(protocol.relionParticles.getParticlesStar())
        lengths = {name: {len(json.loads(t)) for t in table.in_series(name).extra["rlnTomoVisibleFrames"]}
                   for name in SERIES}
        self.assertEqual(lengths, {"TS_01": {2}, "TS_02": {3}})
        read = relion5.read_project(protocol.relionParticles.getTomogramsStar())
        self.assertEqual([one.geometry.n_tilts for one in read], [2, 3])
        self.assertTrue(all(one.geometry.used.all() for one in read))
        rows = {m.getTsId(): {int(r[2]) for r in m.retrieveInfoTable()} for m in protocol.projected2DCoordinates}
        self.assertEqual(rows, {"TS_01": {2, 3}, "TS_02": {1, 2, 3}})

    def test_tables_of_relion(self):
        """The same particles from RELION's tables, of another project and of this one."""
        expected = self.table(self.flat._getExtraPath("particles.star"))
        values = dict(inputFrom=1, boxSize=BOX, croppedBoxSize=CROP, outputInFloat16=False,
                      inputTomograms=(self.tomograms, "Tomograms"), inputTS=(self.imported, "TiltSeries"))
        tables = self.launch(ProtTomoExportPseudoSubtomos, tomograms=os.path.join(self.data, "tomograms.star"),
                             particles=os.path.join(self.data, "particles.star"), **values)
        whole = self.launch(ProtTomoExportPseudoSubtomos,
                            optimisationSet=self.flat.relionParticles.filesMaster, **values)
        for protocol in (tables, whole):
            self.assertEqual(protocol.validate(), [])
            found = self.table(protocol.relionParticles.getParticlesStar())
            self.assertEqual(len(found), 8)
            self.checkImages(found, expected)
            self.checkPoses(found, expected)
            coordinates = protocol.Coordinates
            self.assertEqual([i.getCoordinate3D().getTomoId() for i in protocol.relionParticles.iterSubtomos()],
                             found.names())
            self.checkCoordinates(coordinates, expectedSetSize=8, expectedBoxSize=CROP // 2, expectedSRate=TOMO_PIXEL,
                                  orientedParticles=True)
            self.checkPoses(positions.particles(coordinates), found)
            self.checkProjected(protocol, 8)
            tomograms = star.read(protocol.relionParticles.getTomogramsStar()).table("global")
            for path in tomograms.text("rlnTomoTiltSeriesStarFile"):
                self.assertTrue(os.path.isfile(path), path)


class TestTomoExportPseudoSubtomosAlone(PseudoTest):
    """Without scipion-em-reliontomo, and what the form says."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # Runs are processes of their own: there, this stands before the installed plugin.
        folder = os.path.abspath("without_reliontomo")
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "reliontomo.py"), "w", encoding="utf-8") as file:
            file.write("raise ImportError('scipion-em-reliontomo is hidden')\n")
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([folder] + ([before] if before else []))
        try:
            cls.flat = cls.extract()
            cls.volumes = cls.extract(write2dStacks=False, minNoFrames=3)
        finally:
            del os.environ["PYTHONPATH"]
            if before:
                os.environ["PYTHONPATH"] = before

    def test_the_set(self):
        for protocol, stacks in ((self.flat, True), (self.volumes, False)):
            output = protocol.relionParticles
            self.assertEqual(type(output).__name__, "SetOfSubTomograms")
            table = self.table(protocol._getExtraPath("particles.star"))
            self.assertEqual(attributes.take(output, attributes.STAR), protocol._getExtraPath("particles.star"))
            self.assertEqual([s.getFileName() for s in output], table.extra["rlnImageName"])
            self.assertEqual(output.getSamplingRate(), PIXEL)
            self.assertEqual(self.sources(protocol, output), {"Coordinates", "TiltSeries", "CTFs"})
            # The whole pose is found again, though the boxes are turned.
            self.checkPoses(positions.particles(output), positions.particles(self.particles.Coordinates))
            for item in output.iterSubtomos():
                np.testing.assert_allclose(item.getTransform().getMatrix(), np.eye(4), atol=1e-6)
                self.assertEqual(item.getVolName(), item.getCoordinate3D().getTomoId())
                self.assertEqual(bool(attributes.take(item, attributes.CTF_FILE)), not stacks)
        self.assertEqual(self.flat.relionParticles.getSize(), 8)
        self.assertTrue(0 < self.volumes.relionParticles.getSize() < 8)

    def test_same_files_as_the_command_line(self):
        flat = self.table(self.flat._getExtraPath("particles.star"))
        self.checkImages(flat, self.direct("direct2d"))

    def test_projected_centres(self):
        self.checkProjected(self.flat, 8)
        self.checkProjected(self.volumes, self.volumes.relionParticles.getSize())

    def test_stacks_that_are_not_the_tables(self):
        """Images are told by their files, or else by the acquisition order; other ones are not guessed."""
        series, = relion5.read_project(os.path.join(self.data, "tomograms.star"), ["TS_01"])
        ts = next(t for t in self.imported.TiltSeries.iterItems() if t.getTsId() == "TS_01")
        numbers = [section + 1 for _, section in series.images]
        self.assertEqual(landmarks.stack_numbers(series, ts), numbers)
        elsewhere = type(series)(**dict({f.name: getattr(series, f.name) for f in fields(series)},
                                        images=tuple(("elsewhere.mrcs", s) for _, s in series.images)))
        self.assertEqual(landmarks.stack_numbers(elsewhere, ts), numbers)
        later = np.arange(len(numbers)) > 0
        self.assertIsNone(landmarks.stack_numbers(elsewhere.select(later), ts))
        self.assertEqual(landmarks.stack_numbers(series.select(later), ts), numbers[1:])

    def test_projected_centres_alone(self):
        protocol = self.extract(onlyProject=True, inReParticles=(self.flat, "relionParticles"))
        self.assertEqual([name for name, _ in protocol.iterOutputAttributes()], ["projected2DCoordinates"])
        for one, other in zip(*(p.projected2DCoordinates.iterItems() for p in (protocol, self.flat))):
            np.testing.assert_allclose(*(np.array(m.retrieveInfoTable(), float) for m in (one, other)), atol=2e-3)

    def test_every_option_is_in_the_form(self):
        protocol = self.make(ProtTomoExportPseudoSubtomos)
        for spec in fields(PseudosubtomoOptions):
            if spec.name != "output":
                self.assertIsNotNone(protocol.getParam(paramName(spec.name, "pseudosubtomo")), spec.name)
        values = protocol._optionValues()
        self.assertEqual(values, {spec.name: spec.default for spec in fields(PseudosubtomoOptions)
                                  if spec.name != "output"})
        for name in ("binningFactor", "boxSize", "croppedBoxSize", "maxDose", "minNoFrames", "write2dStacks",
                     "outputInFloat16", "inReParticles", "inputCtfTs", "inputTS"):
            self.assertIsNotNone(protocol.getParam(name), name)
        for section in protocol._definition.iterSections():
            if section.getLabel() not in ("General", "Parallelization"):
                for name, param in section.iterParams():
                    self.assertTrue(param.help.get(), name)

    def test_obstacles_are_named(self):
        for values, words in (
                (dict(croppedBoxSize=48), "48 px is more than the box of 32 px"),
                (dict(croppedBoxSize=23), "23 is odd"), (dict(inputTS=None), "Tilt series and CTFs are needed"),
                (dict(inReParticles=None), "cannot be EMPTY"), (dict(inputFrom=1), "cannot be EMPTY"),
                (dict(inputFrom=1, inputTomograms=(self.tomograms, "Tomograms")), "no file is given"),
                (dict(inputFrom=1, inputTomograms=(self.tomograms, "Tomograms"), optimisationSet="none.star"),
                 "none.star")):
            given = {name: value for name, value in self.values(**values).items() if value is not None}
            errors = self.make(ProtTomoExportPseudoSubtomos, **given).validate()
            self.assertIn(words, " ".join(errors))
        self.assertEqual(self.make(ProtTomoExportPseudoSubtomos, **self.values()).validate(), [])

    def test_summary_and_figures(self):
        self.assertTrue(self.flat.summary() and self.flat._methods() and self.flat._citations())
        stems = {os.path.splitext(os.path.basename(path))[0] for _, path in reportFigures(self.flat)}
        self.assertLessEqual({"tilts_per_particle", "projected_TS_01", "projected_TS_02"}, stems)
        self.assertIn(TomoExportResultsViewer, Domain.findViewers(self.flat, "tkinter"))
        viewer = TomoExportResultsViewer(project=self.proj)
        viewer.setProtocol(self.flat)
        self.assertEqual(len(viewer._showAll()), len(reportFigures(self.flat)))
