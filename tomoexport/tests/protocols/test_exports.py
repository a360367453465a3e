"""The options of the exports, through Scipion's forms."""

import os
from pathlib import Path

import numpy as np

from tomoexport.convert import attributes, positions
from tomoexport.io import mrc, relion5, seriesstar, star
from tomoexport.protocols import ProtTomoExportImageSeries, ProtTomoExportImportTiltSeries
from tomoexport.tests.io import warpfiles
from tomoexport.tests.protocols.test_protocols import BOX, PIXEL, TOMO_PIXEL, ProtocolTest


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
