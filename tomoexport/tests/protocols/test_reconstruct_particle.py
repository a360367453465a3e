"""The particle's map straight from tilt series, through Scipion."""

import os
from dataclasses import fields

import numpy as np

from tomoexport.io import mrc
from tomoexport.jobs import runner
from tomoexport.options import ParticleOptions
from tomoexport.protocols import ProtTomoExportPseudoSubtomos, ProtTomoExportReconstructParticle
from tomoexport.protocols.form import paramName
from tomoexport.tests.protocols.test_protocols import PIXEL, ProtocolTest
from tomoexport.viewers.viewer_results import TomoExportResultsViewer, reportFigures

BOX, CROP = 32, 24


class TestTomoExportReconstructParticle(ProtocolTest):
    """From coordinates, from extracted particles and from RELION's tables: the maps of the command line."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tomograms = cls.reconstruct()
        cls.particles = cls.importParticles(cls.tomograms)
        cls.fromSets = cls.launch(ProtTomoExportReconstructParticle, symmetry="D2", **cls.values())

    @classmethod
    def values(cls, **more):
        return dict(dict(inReParticles=(cls.particles, "Coordinates"), inputTS=(cls.imported, "TiltSeries"),
                         inputCtfTs=(cls.imported, "CTFs"), boxSize=BOX, croppedBoxSize=CROP), **more)

    def direct(self, **more):
        folder = os.path.abspath("direct")
        out = runner.run({"verb": "particle", "options": dict(
            dict(tomograms=os.path.join(self.data, "tomograms.star"), output=folder, box=BOX, crop=CROP,
                 particles=os.path.join(self.data, "particles.star")), **more)})
        return {name: mrc.read_volume(out["collected"][name])[0] for name in ("average", "half1", "half2")}

    def checkMaps(self, protocol, expected):
        average = protocol.Average
        self.checkAverage(average, expectedSRate=PIXEL, expectedBoxSize=CROP, hasHalves=True)
        files = [average.getFileName()] + average.getHalfMaps().split(",")
        for name, path in zip(("average", "half1", "half2"), files):
            found = mrc.read_volume(path)[0]
            self.assertGreater(np.corrcoef(found.ravel(), expected[name].ravel())[0, 1], 0.9999, name)
        self.assertEqual([fsc.getObjLabel() for fsc in protocol.FSC], ["half maps"])

    def test_from_sets(self):
        self.checkMaps(self.fromSets, self.direct(symmetry="D2"))
        self.assertEqual(self.sources(self.fromSets, self.fromSets.Average), {"Coordinates", "TiltSeries", "CTFs"})
        self.assertTrue(any("FSC falls to 0.143" in line for line in self.fromSets.summary()))
        self.assertTrue(any("symmetry D2" in line for line in self.fromSets._methods()))
        viewer = TomoExportResultsViewer(protocol=self.fromSets, project=self.proj)
        self.assertTrue(reportFigures(viewer.protocol))

    def test_from_relions_tables(self):
        protocol = self.launch(ProtTomoExportReconstructParticle, inputFrom=1, boxSize=BOX, croppedBoxSize=CROP,
                               tomograms=os.path.join(self.data, "tomograms.star"),
                               particles=os.path.join(self.data, "particles.star"))
        self.checkMaps(protocol, self.direct())

    def test_from_what_was_extracted(self):
        extracted = self.launch(ProtTomoExportPseudoSubtomos, **self.values())
        protocol = self.launch(ProtTomoExportReconstructParticle, **self.values(
            inReParticles=(extracted, "relionParticles")))
        self.checkMaps(protocol, self.direct())

    def test_every_option_is_in_the_form(self):
        protocol = self.make(ProtTomoExportReconstructParticle)
        for spec in fields(ParticleOptions):
            if spec.name != "output":
                self.assertIsNotNone(protocol.getParam(paramName(spec.name, "particle")), spec.name)
        self.assertEqual(protocol._optionValues(), {spec.name: spec.default for spec in fields(ParticleOptions)
                                                    if spec.name != "output"})

    def test_obstacles_are_named(self):
        for values, words in ((dict(croppedBoxSize=48), "48 px is more than the box"),
                              (dict(symmetry="X4"), "X4 is no point group"),
                              (dict(reference="none.mrc"), "none.mrc")):
            errors = self.make(ProtTomoExportReconstructParticle, **self.values(**values)).validate()
            self.assertTrue(any(words in error for error in errors), (words, errors))
