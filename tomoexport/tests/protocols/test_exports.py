"""The options of the exports, through Scipion's forms."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from tomoexport.convert import attributes, positions
from tomoexport.engine.trajectory import Trajectory
from tomoexport.io import mrc, particlestar, relion5, seriesstar, species, star
from tomoexport.jobs import runner
from tomoexport.protocols import (
    ProtTomoExportImageSeries,
    ProtTomoExportImportParticles,
    ProtTomoExportImportTiltSeries,
    ProtTomoExportPseudoSubtomos,
    ProtTomoExportReconstruct,
    ProtTomoExportSubtomos,
)
from tomoexport.tests.io import warpfiles
from tomoexport.tests.protocols.test_protocols import BOX, PIXEL, TOMO_PIXEL, ProtocolTest
from tomoexport.tests.sources import imod_folder


class TestTomoExportOptions(ProtocolTest):
    """Deconvolved and covered tomograms, moved and pre-rotated sub-tomograms, image series."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tomograms = cls.reconstruct(halves=True, deconvolve=True, deconvStrength=0.8, fullVoxels=True)
        cls.particles = cls.importParticles(cls.tomograms)

    def test_deconvolved_tomograms(self):
        for output in (self.tomograms.Tomograms, self.tomograms.Deconvolved):
            halves = output is self.tomograms.Tomograms
            self.checkTomograms(output, expectedSetSize=2, expectedSRate=TOMO_PIXEL, hasOddEven=halves,
                                hasHalves=halves, ctfCorrected=True)
            self.assertEqual(self.sources(self.tomograms, output), {"TiltSeries", "CTFs"})
        pairs = zip(*(sorted(t.getFileName() for t in output) for output in (self.tomograms.Tomograms,
                                                                            self.tomograms.Deconvolved)))
        for plain, deconvolved in pairs:
            self.assertIn("/deconv/", deconvolved)
            one, other = (mrc.read_volume(path)[0] for path in (plain, deconvolved))
            self.assertTrue((one == 0).any() and not other[one == 0].any())
            self.assertFalse(np.allclose(one, other))
            self.assertTrue(os.path.exists(plain[:-4] + ".png"))

    def test_obstacles_are_named(self):
        for values, words in ((dict(deconvolve=True, ctf=2), "wiener"), (dict(halves=True, halvesBy=1), "frames")):
            protocol = self.make(type(self.tomograms), pixelSize=TOMO_PIXEL, **self.inputs(**values))
            self.assertIn(words, " ".join(protocol.validate()))

    def test_moved_and_prerotated_subtomograms(self):
        plain = self.export(self.particles)
        moved = self.export(self.particles, shiftX=16.0, shiftZ=-8.0, prerotate=True, star="mine.star", sparse=True)
        self.checkExtractedSubtomos(self.particles.Coordinates, moved.Subtomograms, expectedSetSize=8,
                                    expectedBoxSize=BOX, expectedSRate=PIXEL, orientedParticles=False)
        self.assertTrue(attributes.take(moved.Subtomograms, attributes.STAR).endswith("mine.star"))
        before, after = (positions.particles(p.Subtomograms) for p in (plain, moved))
        np.testing.assert_allclose(after.position, before.position + before.rotation @ [16.0, 0.0, -8.0], atol=1e-3)
        np.testing.assert_allclose(after.rotation, np.broadcast_to(np.eye(3), (8, 3, 3)), atol=1e-9)
        for item in moved.Subtomograms:
            ctf = mrc.read_volume(attributes.take(item, attributes.CTF_FILE))[0]
            self.assertFalse(((ctf < 0.01) & (ctf != 0)).any())

    def test_a_species_of_m_fills_the_form(self):
        """What is left at its default; what was changed stays."""
        path = os.path.abspath("ribosome.species")
        with open(path, "w", encoding="utf-8") as file:
            file.write('<Species><Param Name="Name" Value="ribosome"/><Param Name="PixelSize" Value="9.5"/>'
                       '<Param Name="DiameterAngstrom" Value="170"/><Param Name="Size" Value="28"/></Species>')
        values = self.inputs(inputCoordinates=(self.particles, "Coordinates"), species=path, box=BOX)
        found = self.make(ProtTomoExportImageSeries, **values)._optionValues()
        self.assertEqual([found[name] for name in ("pixel_size", "diameter", "box")], [9.5, 170.0, BOX])
        protocol = self.launch(ProtTomoExportSubtomos, **values)
        self.assertEqual(protocol.Subtomograms.getSamplingRate(), 9.5)
        image = protocol.Subtomograms.getFirstItem().getFileName()
        self.assertEqual((mrc.read_header(image).shape, mrc.read_header(image).pixel_size), ((BOX,) * 3, 9.5))

    def test_trajectories_of_m(self):
        """Imported, and exported as the command line does it; without them the volumes are others."""
        series = relion5.read_project(os.path.join(self.data, "tomograms.star"))
        still, _ = particlestar.read_particles(os.path.join(self.data, "particles.star"), series)
        step = np.array([[0.0, 0, 0], [14, 6, -3], [30, 10, -8]])
        turn = Rotation.from_rotvec(np.deg2rad([[0, 0, 0], [4, -6, 5], [10, -15, 12]])).as_matrix()
        moving = Trajectory(still.position[:, None] + step, turn @ still.rotation[:, None])
        table = os.path.abspath("moving_particles.star")
        species.write_species(table, replace(still, trajectory=moving), series)
        imported = self.launch(ProtTomoExportImportParticles, filesPath=table, boxSize=12,
                               inputTomograms=(self.tomograms, "Tomograms"))
        read = positions.particles(imported.Coordinates)
        order = [still.uid.index(uid) for uid in read.uid]
        where, how = (a[order] for a in moving.at(np.array([0.0, 3, 6])))
        found, turned = read.trajectory.at(np.array([0.0, 3, 6]))
        np.testing.assert_allclose(found, where, atol=2e-3)
        np.testing.assert_allclose(turned, how, atol=1e-5)
        values = self.inputs(inputCoordinates=(imported, "Coordinates"))
        pseudo = self.make(ProtTomoExportPseudoSubtomos, inReParticles=values["inputCoordinates"],
                           inputTS=values["inputTiltSeries"], inputCtfTs=values["inputCtfs"])
        self.assertIn("they turn while they are exposed", " ".join(pseudo.validate()))
        export, plain = self.export(imported), self.export(self.particles)
        direct = os.path.abspath("direct")
        runner.run({"verb": "subtomo", "options": {
            "tomograms": os.path.join(self.data, "tomograms.star"), "output": direct, "pixel_size": PIXEL, "box": BOX,
            "particles": table}})
        images = star.read(os.path.join(direct, "particles.star")).table("particles")
        expected = dict(zip(images.text("rlnTomoParticleName"), images.text("rlnImageName")))
        without = {attributes.take(s.getCoordinate3D(), attributes.UID): mrc.read_volume(s.getFileName())[0]
                   for s in plain.Subtomograms}
        self.assertEqual(export.Subtomograms.getSize(), 8)
        for item in export.Subtomograms:
            uid = attributes.take(item.getCoordinate3D(), attributes.UID)
            volume = mrc.read_volume(item.getFileName())[0]
            np.testing.assert_allclose(volume, mrc.read_volume(os.path.join(direct, expected[uid]))[0], atol=5e-3)
            self.assertGreater(np.abs(volume - without[uid]).max(), 0.1)

    def test_one_table_per_tilt_series(self):
        """All are found from one of them, and their rows belong to the series that the file is called after."""
        table = star.read(os.path.join(self.data, "particles.star")).table("particles")
        for name in ("TS_01", "TS_02"):
            rows = [i for i, own in enumerate(table.text("rlnTomoName")) if own == name]
            star.write(os.path.abspath(name + "_picks.star"), [table.select(rows)])
        values = dict(boxSize=12, inputTomograms=(self.tomograms, "Tomograms"))
        one = os.path.abspath("TS_02_picks.star")
        both = self.launch(ProtTomoExportImportParticles, filesPath=one, perSeries=True, **values)
        single = self.launch(ProtTomoExportImportParticles, filesPath=one, **values)
        self.assertEqual((both.Coordinates.getSize(), single.Coordinates.getSize()), (8, 4))
        read, expected = positions.particles(both.Coordinates), positions.particles(self.particles.Coordinates)
        for name in ("TS_01", "TS_02"):
            np.testing.assert_allclose(read.in_series(name).position, expected.in_series(name).position, atol=1e-6)

    def test_tilt_series_of_warp(self):
        """The same series, written as Warp keeps them, make the same sub-tomograms."""
        folder = os.path.abspath("warp")
        for one in relion5.read_project(os.path.join(self.data, "tomograms.star")):
            warpfiles.write_series(Path(folder), one)
        imported = self.launch(ProtTomoExportImportTiltSeries, tomogramsStar=folder)
        self.checkTiltSeries(imported.TiltSeries, expectedSetSize=2, expectedSRate=PIXEL, hasAlignment=True,
                             anglesCount=3, isHeterogeneousSet=False, presentTsIds=["TS_01", "TS_02"],
                             expectedDimensions={"TS_01": [64, 64, 3], "TS_02": [64, 72, 3]})
        plain = self.export(self.particles)
        same = self.export(self.particles, inputTiltSeries=(imported, "TiltSeries"), inputCtfs=(imported, "CTFs"))
        for one, two in zip(plain.Subtomograms.iterItems(), same.Subtomograms.iterItems()):
            np.testing.assert_allclose(*(mrc.read_volume(i.getFileName())[0] for i in (one, two)), atol=5e-3)

    def test_tilt_series_of_imod(self):
        """What IMOD's files lack is asked for in the form; the tomogram is that of RELION's table without CTF."""
        source = imod_folder(Path(self.data), Path(os.path.abspath("imod")) / "TS_01")
        errors = self.make(ProtTomoExportImportTiltSeries, tomogramsStar=source.tomograms).validate()
        self.assertIn("voltage", errors[0])
        imported = self.launch(ProtTomoExportImportTiltSeries, tomogramsStar=source.tomograms, voltage=300.0, cs=2.7,
                               amplitudeContrast=0.1)
        self.checkTiltSeries(imported.TiltSeries, expectedSetSize=1, expectedSRate=PIXEL, hasAlignment=True,
                             anglesCount=3, presentTsIds=["TS_01"], expectedDimensions=[64, 64, 3])
        self.assertFalse(hasattr(imported, "CTFs"))
        one = self.launch(ProtTomoExportReconstruct, inputTiltSeries=(imported, "TiltSeries"), pixelSize=TOMO_PIXEL,
                          ctf=1)
        two = self.reconstruct(ctf=1)
        volumes = [mrc.read_volume(protocol.Tomograms.getFirstItem().getFileName())[0] for protocol in (one, two)]
        np.testing.assert_allclose(*volumes, atol=2e-2 * volumes[1].std())

    def test_image_series(self):
        values = self.inputs(inputCoordinates=(self.particles, "Coordinates"))
        protocol = self.launch(ProtTomoExportImageSeries, pixelSize=PIXEL, box=BOX, firstTilts=2, **values)
        output = protocol.Particles
        table = star.read(attributes.take(output, attributes.STAR)).table("")
        self.assertEqual(tuple(table.columns), seriesstar.COLUMNS)
        self.assertEqual(output.getSize(), len(table))
        self.assertTrue(8 <= len(table) <= 16)
        self.assertEqual((output.getSamplingRate(), output.getDim()[:2]), (PIXEL, (BOX, BOX)))
        self.assertTrue(output.hasCTF() and output.hasAlignmentProj())
        self.assertEqual(self.sources(protocol, output), {"Coordinates", "TiltSeries", "CTFs"})
        for row, item in enumerate(output.iterItems()):
            number, path = table.text("rlnImageName")[row].split("@")
            self.assertEqual((item.getIndex(), os.path.basename(item.getFileName())), (int(number),
                                                                                      os.path.basename(path)))
            self.assertAlmostEqual(item.getCTF().getDefocusU(), table.float("rlnDefocusU")[row], delta=0.1)
            self.assertAlmostEqual(attributes.take(item, attributes.DOSE), table.float("rlnCtfBfactor")[row] / -4, 3)
        self.assertTrue(protocol.summary() and protocol._methods())
