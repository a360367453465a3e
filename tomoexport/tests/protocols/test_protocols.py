"""The protocols, run by Scipion on simulated data."""
import json
import os
from dataclasses import fields, replace

import numpy as np
from pwem import Domain
from pyworkflow.object import Set
from pyworkflow.project import Manager
from pyworkflow.protocol import MODE_RESUME
from pyworkflow.tests import setupTestProject
from tomo.tests.test_base_centralized_layer import TestBaseCentralizedLayer

from tomoexport.convert import attributes, from_scipion, positions
from tomoexport.io import mrc, relion5, star
from tomoexport.jobs import runner
from tomoexport.options import AverageOptions, ReconstructOptions, SeriesOptions, SubtomoOptions, TiltSeriesOptions
from tomoexport.protocols import (
    ProtTomoExportAverage,
    ProtTomoExportImageSeries,
    ProtTomoExportImportParticles,
    ProtTomoExportImportTiltSeries,
    ProtTomoExportReconstruct,
    ProtTomoExportSubtomos,
)
from tomoexport.protocols.form import paramName
from tomoexport.tests.protocols.editing import change
from tomoexport.tests.protocols.watched import Watched
from tomoexport.viewers.viewer_results import TomoExportResultsViewer, reportFigures

PIXEL, TOMO_PIXEL, BOX = 8.0, 16.0, 32
SERIES = ("TS_01", "TS_02")


class ProtocolTest(Watched, TestBaseCentralizedLayer):
    """A project with simulated, imported tilt series."""

    @classmethod
    def setUpClass(cls):
        setupTestProject(cls)
        cls.data = os.path.abspath("simulated")
        runner.run({"verb": "simulate", "options": {"output": cls.data, "preset": "tiny"}})
        cls.imported = cls.launch(ProtTomoExportImportTiltSeries,
                                  tomogramsStar=os.path.join(cls.data, "tomograms.star"))

    @classmethod
    def launch(cls, protocol_class, **values):
        """Run a protocol; inputs are given as (protocol, name of its output)."""
        protocol = cls.make(protocol_class, **values)
        return cls.launchProtocol(protocol)

    @classmethod
    def make(cls, protocol_class, **values):
        pointers = {k: v for k, v in values.items() if isinstance(v, tuple)}
        protocol = cls.newProtocol(protocol_class, **{k: v for k, v in values.items() if k not in pointers})
        for name, (source, output) in pointers.items():
            getattr(protocol, name).set(source)
            getattr(protocol, name).setExtended(output)
        return protocol

    @classmethod
    def inputs(cls, **more):
        return dict(inputTiltSeries=(cls.imported, "TiltSeries"), inputCtfs=(cls.imported, "CTFs"), **more)

    @classmethod
    def reconstruct(cls, **more):
        return cls.launch(ProtTomoExportReconstruct, pixelSize=TOMO_PIXEL, **cls.inputs(**more))

    @classmethod
    def importParticles(cls, tomograms, **more):
        return cls.launch(ProtTomoExportImportParticles, filesPath=os.path.join(cls.data, "particles.star"),
                          inputTomograms=(tomograms, "Tomograms"), boxSize=12, **more)

    @classmethod
    def export(cls, coordinates, **more):
        values = dict(cls.inputs(inputCoordinates=(coordinates, "Coordinates")), pixelSize=PIXEL, box=BOX)
        return cls.launch(ProtTomoExportSubtomos, **dict(values, **more))

    def sources(self, protocol, output):
        """Names of the inputs that the project's graph connects with an output."""
        return {r["object_parent_extended"] for r in protocol.mapper.getRelationsByCreator(protocol)
                if r["object_child_id"] == output.getObjId()}


class TestTomoExportChain(ProtocolTest):
    """Import, reconstruct, import particles, export, average."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tomograms = cls.reconstruct(halves=True)
        cls.particles = cls.importParticles(cls.tomograms)
        cls.subtomos = cls.export(cls.particles)
        cls.average = cls.launch(ProtTomoExportAverage, inputSubtomograms=(cls.subtomos, "Subtomograms"))

    def test_tilt_series(self):
        self.checkTiltSeries(
            self.imported.TiltSeries, expectedSetSize=2, expectedSRate=PIXEL, hasAlignment=True, anglesCount=3,
            isHeterogeneousSet=False, presentTsIds=list(SERIES),
            expectedDimensions={"TS_01": [64, 64, 3], "TS_02": [64, 72, 3]})
        hands = {ts.getTsId(): from_scipion.known_hand(ts) for ts in self.imported.TiltSeries}
        self.assertEqual(hands, {"TS_01": -1, "TS_02": 1})
        for ts in self.imported.TiltSeries:
            self.assertEqual({attributes.take(ti, attributes.XTILT) for ti in ts},
                             {0.0 if ts.getTsId() == "TS_01" else 2.5})

    def test_ctfs(self):
        self.checkCTFs(self.imported.CTFs, expectedSetSize=2)

    def test_tomograms(self):
        tomograms = self.tomograms.Tomograms
        self.checkTomograms(tomograms, expectedSetSize=2, expectedSRate=TOMO_PIXEL, hasOddEven=True, hasHalves=True,
                            ctfCorrected=True)
        for tomogram in tomograms:
            odd, even = tomogram.getHalfMaps(asList=True)
            self.assertIn("/odd/", odd)
            self.assertIn("/even/", even)
            # 240 A are 15 voxels: the binned tomogram has 16, its centre stays the unbinned one.
            unbinned = {"TS_01": (64, 64, 30), "TS_02": (64, 72, 30)}[tomogram.getTsId()]
            np.testing.assert_allclose(tomogram.getShiftsFromOrigin(), -PIXEL * (np.array(unbinned) // 2), atol=1e-3)
            self.assertFalse(os.path.isabs(tomogram.getFileName()))
        self.assertEqual(self.sources(self.tomograms, tomograms), {"TiltSeries", "CTFs"})

    def test_coordinates(self):
        coordinates = self.particles.Coordinates
        self.checkCoordinates(coordinates, expectedSetSize=8, expectedBoxSize=12, expectedSRate=TOMO_PIXEL,
                              orientedParticles=True)
        self.assertEqual(self.sources(self.particles, coordinates), {"Tomograms"})
        with open(os.path.join(self.data, "truth.json"), encoding="utf-8") as file:
            truth = json.load(file)
        read = positions.particles(coordinates)
        for ts_id in SERIES:
            np.testing.assert_allclose(read.in_series(ts_id).position, truth[ts_id]["position"], atol=1e-3)
        self.assertEqual(set(read.extra["rlnRandomSubset"]), {"1", "2"})

    def test_subtomograms(self):
        subtomograms = self.subtomos.Subtomograms
        self.checkExtractedSubtomos(self.particles.Coordinates, subtomograms, expectedSetSize=8, expectedBoxSize=BOX,
                                    expectedSRate=PIXEL, orientedParticles=True)
        self.assertEqual(self.sources(self.subtomos, subtomograms), {"Coordinates", "TiltSeries", "CTFs"})
        table = star.read(attributes.take(subtomograms, attributes.STAR)).table("particles")
        self.assertEqual(len(table), 8)
        for name, item in zip(table.text("rlnImageName"), subtomograms):
            self.assertEqual(os.path.basename(name), os.path.basename(item.getFileName()))
            self.assertEqual(mrc.read_header(attributes.take(item, attributes.CTF_FILE)).shape,
                             (BOX, BOX, BOX // 2 + 1))
            self.assertIn(attributes.take(item, attributes.TILTS), (1, 2, 3))
        self.assertEqual(set(table.text("rlnRandomSubset")), {"1", "2"})

    def test_average(self):
        self.checkAverage(self.average.Average, expectedSRate=PIXEL, expectedBoxSize=BOX)
        self.assertEqual(self.average.FSC.getSize(), 1)
        frequency, values = self.average.FSC.getFirstItem().getData()
        self.assertEqual(len(frequency), BOX // 2 + 1)
        self.assertEqual(self.sources(self.average, self.average.Average), {"Subtomograms"})
        # Bright particle in the middle: signs, axes and order of the chain are right.
        volume, _ = mrc.read_volume(self.average.Average.getFileName())
        zyx = np.stack(np.meshgrid(*3 * [np.arange(BOX) - BOX // 2], indexing="ij"))
        radius = np.sqrt((zyx ** 2).sum(axis=0))
        self.assertGreater(volume[radius < 8].mean(), volume[radius > 12].mean())

    def test_same_as_the_command_line(self):
        """Nothing is lost or moved on the way through Scipion: x-tilt, hands, half pixels, dose, positions."""
        direct = os.path.abspath("direct")
        runner.run({"verb": "subtomo", "options": {
            "tomograms": os.path.join(self.data, "tomograms.star"), "output": direct, "pixel_size": PIXEL, "box": BOX,
            "particles": os.path.join(self.data, "particles.star")}})
        table = star.read(os.path.join(direct, "particles.star")).table("particles")
        ours = {attributes.take(s.getCoordinate3D(), attributes.UID): s.clone() for s in self.subtomos.Subtomograms}
        self.assertEqual(len(ours), len(table))
        for name, image, ctf in zip(*(table.text(c) for c in ("rlnTomoParticleName", "rlnImageName", "rlnCtfImage"))):
            for path, other in ((ours[name].getFileName(), image),
                                (attributes.take(ours[name], attributes.CTF_FILE), ctf)):
                np.testing.assert_allclose(mrc.read_volume(path)[0], mrc.read_volume(os.path.join(direct, other))[0],
                                           atol=1e-3)

    def test_subtomograms_as_particles(self):
        one, two = (positions.particles(s) for s in (self.particles.Coordinates, self.subtomos.Subtomograms))
        np.testing.assert_allclose(one.position, two.position, atol=1e-9)
        np.testing.assert_allclose(one.rotation, two.rotation, atol=1e-9)
        self.assertEqual(one.uid, two.uid)

    def test_summaries(self):
        for protocol in (self.imported, self.tomograms, self.particles, self.subtomos, self.average):
            self.assertTrue(protocol.summary())
            self.assertTrue(protocol._methods())
            self.assertTrue(protocol._citations())

    def test_figures(self):
        for protocol, names in ((self.imported, {"tilt_series"}), (self.particles, {"particles_per_tomogram"}),
                                (self.tomograms, {"TS_01_slices", "TS_02_slices"}),
                                (self.subtomos, {"montage", "particles_per_tomogram", "tilts_per_particle"}),
                                (self.average, {"fsc"})):
            paths = [path for _, path in reportFigures(protocol)]
            self.assertLessEqual(names, {os.path.splitext(os.path.basename(p))[0] for p in paths})
            for path in paths:
                self.assertLess(os.path.getsize(path), 300_000)

    def test_viewer(self):
        for protocol in (self.imported, self.tomograms, self.particles, self.subtomos, self.average):
            viewers = Domain.findViewers(protocol, "tkinter")
            self.assertIn(TomoExportResultsViewer, viewers)
            viewer = TomoExportResultsViewer(project=self.proj)
            viewer.setProtocol(protocol)
            self.assertTrue(viewer._showAll())
            self.assertTrue(viewer._showFigure())


class TestTomoExportForms(ProtocolTest):
    """What the forms ask, and what they say about inputs that cannot be used."""

    def test_every_option_is_in_a_form(self):
        given = {"tomograms", "particles", "output"}
        # Of tables that are read without Scipion; sets know.
        tables = {"motion", "species"} | {spec.name for spec in fields(TiltSeriesOptions)} - {"hand"}
        imports = {"coordinates_pixel_size", "normalized", "per_series", "source"}
        for options, protocol_class, elsewhere in (
                (ReconstructOptions, ProtTomoExportReconstruct, given | tables),
                (SubtomoOptions, ProtTomoExportSubtomos, given | imports | tables),
                (SeriesOptions, ProtTomoExportImageSeries, given | imports | tables | {"device"}),
                (AverageOptions, ProtTomoExportAverage, given)):
            protocol = self.make(protocol_class)
            for spec in fields(options):
                if spec.name not in elsewhere:
                    self.assertIsNotNone(protocol.getParam(paramName(spec.name)), spec.name)
            values = protocol._optionValues()
            self.assertEqual({n: v for n, v in values.items() if n not in elsewhere},
                             {spec.name: spec.default for spec in fields(options) if spec.name not in elsewhere})
        protocol = self.make(ProtTomoExportImportParticles)
        for name in imports:
            self.assertIsNotNone(protocol.getParam(paramName(name)), name)

    def test_every_parameter_has_help(self):
        for protocol_class in (ProtTomoExportImportTiltSeries, ProtTomoExportReconstruct, ProtTomoExportImportParticles,
                               ProtTomoExportSubtomos, ProtTomoExportImageSeries, ProtTomoExportAverage):
            protocol = self.make(protocol_class)
            self.assertTrue(protocol_class.__doc__)
            for section in protocol._definition.iterSections():
                if section.getLabel() in ("General", "Parallelization"):
                    continue
                for name, param in section.iterParams():
                    self.assertTrue(param.help.get(), "%s.%s" % (protocol_class.__name__, name))

    def test_missing_inputs(self):
        for protocol_class in (ProtTomoExportImportTiltSeries, ProtTomoExportReconstruct, ProtTomoExportImportParticles,
                               ProtTomoExportSubtomos, ProtTomoExportImageSeries, ProtTomoExportAverage):
            errors = self.make(protocol_class).validate()
            self.assertTrue(errors)
            for error in errors:
                self.assertRegex(error, "cannot be EMPTY|no file is given")

    def test_missing_ctfs(self):
        protocol = self.make(ProtTomoExportReconstruct, pixelSize=TOMO_PIXEL,
                             inputTiltSeries=(self.imported, "TiltSeries"))
        self.assertEqual(protocol.validate(),
                         ["CTF correction: there are no CTFs. Give a set of CTFs, or choose none."])

    def test_F15_pixel_size(self):
        protocol = self.make(ProtTomoExportReconstruct, pixelSize=4.0, **self.inputs())
        self.assertEqual(len(protocol.validate()), 2)
        self.assertIn("TS_01: its images have 8 A per pixel, 4 A is smaller. Give", protocol.validate()[0])
        protocol.pixelSize.set(-1)
        self.assertIn("Pixel size: give a value from 0.01", protocol.validate()[0])

    def test_missing_file(self):
        protocol = self.make(ProtTomoExportImportTiltSeries, tomogramsStar="nowhere.star")
        self.assertIn("nowhere.star", protocol.validate()[0])

    def test_F41_set_still_growing(self):
        """What cuts out particles needs all of them; tomograms follow (test_growing.py)."""
        protocol = self.make(ProtTomoExportSubtomos, inputCoordinates=(self.imported, "CTFs"), **self.inputs())
        self.imported.CTFs.setStreamState(Set.STREAM_OPEN)
        try:
            self.assertIn("CTFs: the set is still growing", " ".join(protocol._validate()))
            protocol = self.make(ProtTomoExportReconstruct, pixelSize=TOMO_PIXEL, **self.inputs())
            self.assertNotIn("growing", " ".join(protocol._validate()))
        finally:
            self.imported.CTFs.setStreamState(Set.STREAM_CLOSED)

    def test_nothing_is_assumed_of_our_own_series(self):
        self.assertEqual(self.make(ProtTomoExportReconstruct, **self.inputs()).warnings(), [])


class TestTomoExportImperfectInputs(ProtocolTest):
    """Sets as other plugins leave them."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tomograms = cls.reconstruct()
        cls.particles = cls.importParticles(cls.tomograms)
        cls.exported = cls.export(cls.particles)

    def written(self, export, column="rlnCenteredCoordinate%sAngst"):
        table = star.read(export._getExtraPath("input", "particles.star")).table("particles")
        return np.stack([table.float(column % axis) for axis in "XYZ"], axis=1)

    def test_excluded_views_and_missing_ctfs(self):
        imported = self.launch(ProtTomoExportImportTiltSeries, tomogramsStar=os.path.join(self.data, "tomograms.star"))

        def exclude(ti):
            ti.setEnabled(False)
            return ti.getIndex() == 1

        def forget(ctf):
            ctf.setWrongDefocus()
            return ctf.getIndex() == 3

        change(imported.TiltSeries, "TS_01", exclude)
        change(imported.CTFs, "TS_02", forget)
        export = self.export(self.particles, inputTiltSeries=(imported, "TiltSeries"), inputCtfs=(imported, "CTFs"))
        before, after = ([attributes.take(s, attributes.TILTS) for s in p.Subtomograms]
                         for p in (self.exported, export))
        self.assertLess(sum(after), sum(before))
        self.assertEqual(max(after), 2)
        summary = "\n".join(export.summary())
        self.assertIn("TS_01: 1 of 3 views are excluded", summary)
        self.assertIn("TS_02: 1 views have no CTF and are excluded", summary)

    def test_coordinates_of_another_pixel_size(self):
        other = self.launch(ProtTomoExportReconstruct, **dict(self.inputs(), pixelSize=24.0))
        particles = self.importParticles(other)
        self.assertEqual(particles.Coordinates.getSamplingRate(), 24.0)
        export = self.export(particles)
        np.testing.assert_allclose(self.written(export), self.written(self.exported), atol=1e-6)
        for one, two in zip(export.Subtomograms.iterItems(), self.exported.Subtomograms.iterItems()):
            np.testing.assert_allclose(mrc.read_volume(one.getFileName())[0], mrc.read_volume(two.getFileName())[0],
                                       atol=1e-3)

    def test_tomograms_of_imod(self):
        export = self.export(self.particles, centre=1)
        own = positions.particles(self.particles.Coordinates).position
        # Stored coordinates are counted from N/2, IMOD's centre is half a voxel below.
        np.testing.assert_allclose(self.written(export), own + TOMO_PIXEL / 2, atol=1e-6)

    def test_projection_matrices_that_disagree_with_angles(self):
        folder = os.path.join(self.data, "stale")
        one, = relion5.read_project(os.path.join(self.data, "tomograms.star"), ["TS_01"])
        scaled = one.geometry.replace(magnification=np.tile(np.eye(2) * 1.01, (one.geometry.n_tilts, 1, 1)))
        path = relion5.write_project(folder, [replace(one, geometry=scaled)])
        table, = star.read(os.path.join(folder, "tilt_series", "TS_01.star"))
        columns = {name: table.text(name) for name in table.columns}
        columns["rlnTomoZRot"] = ["12.5"] * len(table)
        star.write(os.path.join(folder, "tilt_series", "TS_01.star"), [star.Table.from_columns("TS_01", columns)])
        imported = self.launch(ProtTomoExportImportTiltSeries, tomogramsStar=path)
        self.assertIn("TS_01: rlnTomoProjX/Y/Z and the angles and shifts of 3 tilts disagree",
                      "\n".join(imported.summary()))

    def test_F09_orphans(self):
        alone = os.path.join(self.data, "alone")
        relion5.write_project(alone, relion5.read_project(os.path.join(self.data, "tomograms.star"), ["TS_01"]))
        imported = self.launch(ProtTomoExportImportTiltSeries, tomogramsStar=os.path.join(alone, "tomograms.star"))
        values = dict(self.inputs(inputCoordinates=(self.particles, "Coordinates")), pixelSize=PIXEL, box=BOX,
                      inputTiltSeries=(imported, "TiltSeries"))
        errors = self.make(ProtTomoExportSubtomos, **values).validate()
        self.assertEqual(errors, ["4 particles would be lost: TS_02: missing from the tilt series. Complete the "
                                  "inputs, or allow it in the form."])
        export = self.launch(ProtTomoExportSubtomos, allowLoss=True, **values)
        self.assertEqual(export.Subtomograms.getSize(), 4)
        self.assertIn("Not in every input: TS_02: missing from the tilt series", export.summary())

    def test_several_series_in_one_job(self):
        protocol = self.launch(ProtTomoExportReconstruct, **dict(self.inputs(), pixelSize=TOMO_PIXEL, seriesPerJob=2))
        self.assertEqual(sorted(os.listdir(protocol._getExtraPath("jobs"))),
                         ["TS_01_and_1_more.json", "collect.json"])
        self.assertEqual([t.getTsId() for t in protocol.Tomograms], ["TS_01", "TS_02"])
        one, two = (mrc.read_volume(p.Tomograms.getFirstItem().getFileName())[0] for p in (protocol, self.tomograms))
        np.testing.assert_array_equal(one, two)

    def test_one_series_fails(self):
        stack = os.path.join(self.data, "tiltseries", "TS_02.mrcs")
        with open(stack, "rb") as file:
            whole = file.read()
        os.truncate(stack, 5000)
        try:
            protocol = self.reconstruct()
            self.assertEqual([t.getTsId() for t in protocol.Tomograms], ["TS_01"])
            self.assertEqual([t.getTsId() for t in protocol.FailedTiltSeries], ["TS_02"])
            failed = protocol.FailedTiltSeries.getFirstItem()
            self.assertIn("truncated", attributes.take(failed, attributes.ERROR))
            self.assertEqual(failed.getSize(), 3)
            self.assertIn("truncated", "\n".join(protocol.summary()))
            self.assertEqual(self.sources(protocol, protocol.FailedTiltSeries), {"TiltSeries"})
        finally:
            with open(stack, "wb") as file:
                file.write(whole)
        before = os.stat(protocol.Tomograms.getFirstItem().getFileName()).st_mtime_ns
        protocol.runMode.set(MODE_RESUME)
        self.launchProtocol(protocol)
        # The objects here still show the first run.
        protocol = Manager().loadProject(self.projName).getProtocol(protocol.getObjId())
        self.assertEqual([t.getTsId() for t in protocol.Tomograms], list(SERIES))
        self.assertEqual(protocol.FailedTiltSeries.getSize(), 0)
        self.assertEqual(os.stat(protocol.Tomograms.getFirstItem().getFileName()).st_mtime_ns, before)
