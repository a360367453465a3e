"""Intersection of particle sets and removal of duplicates, run by Scipion."""
import os
import tempfile
from dataclasses import fields
from unittest import mock

import numpy as np
from pwem import Domain
from pyworkflow.project import Manager
from tomo.objects import SetOfCoordinates3D

from tomoexport.convert import attributes, positions, subsets
from tomoexport.io import particlestar, star
from tomoexport.options import DuplicatesOptions, IntersectOptions
from tomoexport.protocols import (
    ProtTomoExportImportParticles,
    ProtTomoExportIntersect,
    ProtTomoExportRemoveDuplicates,
)
from tomoexport.protocols.form import paramName
from tomoexport.tests.protocols.test_protocols import BOX, PIXEL, TOMO_PIXEL, ProtocolTest
from tomoexport.viewers.viewer_results import TomoExportResultsViewer, reportFigures

FAR = 30.0


class TestTomoExportParticleSets(ProtocolTest):
    """Eight particles; of the new set three are among them, a little displaced, and two are not."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tomograms = cls.reconstruct()
        cls.old = cls.importParticles(cls.tomograms)
        cls.known, _ = particlestar.read_particles(os.path.join(cls.data, "particles.star"))
        known = cls.known
        rows = [0, 1, 5, 2, 6]
        cls.moved = known.position[rows] + np.array([[3.0, 0, 0]] * 3 + [[0, 0, FAR]] * 2)
        columns = {"rlnTomoName": [known.names()[i] for i in rows], "rlnRandomSubset": [1] * 5}
        columns.update(zip(particlestar.CENTRED, cls.moved.T))
        columns.update(zip(particlestar.ANGLE, np.tile([[10.0], [20.0], [30.0]], 5)))
        cls.new = cls.importTable("new.star", columns)
        cls.subtomos = cls.export(cls.old)

    @classmethod
    def importTable(cls, name, columns):
        path = os.path.join(cls.data, name)
        star.write(path, [star.Table.from_columns("particles", columns)])
        return cls.launch(ProtTomoExportImportParticles, filesPath=path, inputTomograms=(cls.tomograms, "Tomograms"),
                          boxSize=12)

    @classmethod
    def intersect(cls, old=None, output="Coordinates", **values):
        return cls.launch(ProtTomoExportIntersect, inputOld=(old or cls.old, output),
                          inputNew=(cls.new, "Coordinates"), **values)

    def reloaded(self, protocol, output):
        """An output as another session finds it."""
        return getattr(Manager().loadProject(self.projName).getProtocol(protocol.getObjId()), output)

    def checkPlaces(self, coordinates, expected, rotation):
        self.checkCoordinates(coordinates, expectedSetSize=len(expected), expectedBoxSize=12,
                              expectedSRate=TOMO_PIXEL, orientedParticles=True)
        read = positions.particles(coordinates)
        np.testing.assert_allclose(read.position, expected, atol=1e-3)
        np.testing.assert_allclose(read.rotation, rotation, atol=1e-5)
        return read

    def test_both_keep_their_old_poses_and_columns(self):
        protocol = self.intersect()
        rows = [0, 1, 5]
        for output in (protocol.Coordinates, self.reloaded(protocol, "Coordinates")):
            read = self.checkPlaces(output, self.known.position[rows], self.known.rotation[rows])
            self.assertEqual(read.uid, tuple(self.known.uid[i] for i in rows))
            self.assertEqual(read.extra["rlnRandomSubset"], [self.known.extra["rlnRandomSubset"][i] for i in rows])
            self.assertEqual({t.getTsId() for t in output.getPrecedents()}, {"TS_01", "TS_02"})
        self.assertEqual(self.sources(protocol, protocol.Coordinates), {"Coordinates"})
        summary = "\n".join(protocol.summary())
        for line in ("only old: 5", "both: 3", "only new: 2"):
            self.assertIn(line, summary)

    def test_new_particles_are_added_with_their_own_poses(self):
        protocol = self.intersect(both=False, onlyOld=True, onlyNew=True)
        rows = [2, 3, 4, 6, 7]
        new = positions.particles(self.new.Coordinates)
        self.checkPlaces(protocol.Coordinates, np.concatenate([self.known.position[rows], self.moved[3:]]),
                         np.concatenate([self.known.rotation[rows], new.rotation[3:]]))

    def test_tolerance_and_sources(self):
        self.assertEqual(self.intersect(tolerance=40.0).Coordinates.getSize(), 5)
        self.assertEqual(self.intersect(tolerance=40.0, sources="TS_02").Coordinates.getSize(), 2)

    def test_subtomograms_stay_subtomograms(self):
        protocol = self.intersect(self.subtomos, "Subtomograms", both=False, onlyOld=True)
        rows = [2, 3, 4, 6, 7]
        files = [item.getFileName() for item in self.subtomos.Subtomograms.iterItems()]
        for output in (protocol.Subtomograms, self.reloaded(protocol, "Subtomograms")):
            self.assertEqual(output.getSize(), 5)
            self.assertEqual(output.getSamplingRate(), PIXEL)
            self.assertEqual(output.getDim(), (BOX, BOX, BOX))
            items = [item.clone() for item in output.iterItems()]
            self.assertEqual([item.getFileName() for item in items], [files[i] for i in rows])
            for item in items:
                self.assertTrue(os.path.isfile(attributes.take(item, attributes.CTF_FILE)))
            np.testing.assert_allclose(positions.particles(output).position, self.known.position[rows], atol=1e-3)
        mixed = self.intersect(self.subtomos, "Subtomograms", onlyNew=True)
        self.assertEqual(mixed.Coordinates.getSize(), 5)
        self.assertFalse(hasattr(mixed, "Subtomograms"))

    def test_duplicates(self):
        """Each particle twice, 6 A apart, the second time with the better score."""
        n = len(self.known)
        columns = {"rlnTomoName": self.known.names() * 2}
        twice = np.concatenate([self.known.position, self.known.position + [0, 6, 0]])
        columns.update(zip(particlestar.CENTRED, twice.T))
        columns["rlnAutopickFigureOfMerit"] = [0.25] * n + [0.5] * n
        picked = self.importTable("twice.star", columns)
        protocol = self.launch(ProtTomoExportRemoveDuplicates, inputParticles=(picked, "Coordinates"), distance=20.0)
        for output in (protocol.Coordinates, self.reloaded(protocol, "Coordinates")):
            self.checkCoordinates(output, expectedSetSize=n, expectedBoxSize=12, expectedSRate=TOMO_PIXEL)
            read = positions.particles(output)
            np.testing.assert_allclose(read.position, self.known.position + [0, 6, 0], atol=1e-3)
            self.assertEqual(set(read.extra["rlnAutopickFigureOfMerit"]), {"0.5"})
        self.assertIn("8 particles stay, 8 duplicates were removed", protocol.summary())
        apart = self.launch(ProtTomoExportRemoveDuplicates, inputParticles=(picked, "Coordinates"), distance=5.0)
        self.assertEqual(apart.Coordinates.getSize(), 2 * n)
        volumes = self.launch(ProtTomoExportRemoveDuplicates, inputParticles=(self.subtomos, "Subtomograms"),
                              distance=1.0)
        self.assertEqual(volumes.Subtomograms.getSize(), n)
        self.assertEqual(volumes.Subtomograms.getSamplingRate(), PIXEL)

    def test_the_score_of_scipion_counts(self):
        folder = tempfile.mkdtemp(dir=self.data)
        scored = SetOfCoordinates3D(filename=os.path.join(folder, "scored.sqlite"))
        subsets.like(scored, self.old.Coordinates)
        for i, item in enumerate(self.old.Coordinates.iterCoordinates()):
            item.setScore(0.5 * i)
            scored.append(item)
        path = os.path.join(folder, "scored.star")
        subsets.write_table(path, scored)
        self.assertEqual(star.read(path).table("particles").text("rlnAutopickFigureOfMerit"),
                         [repr(0.5 * i) for i in range(len(self.known))])
        subsets.write_table(path, self.old.Coordinates)
        self.assertFalse(star.read(path).table("particles").has("rlnAutopickFigureOfMerit"))

    def test_viewer(self):
        protocol = self.intersect()
        self.assertIn(TomoExportResultsViewer, Domain.findViewers(protocol, "tkinter"))
        self.assertEqual([title for title, _ in reportFigures(protocol)], ["Distances between particles"])
        viewer = TomoExportResultsViewer(project=self.proj)
        viewer.setProtocol(protocol)
        self.assertTrue(viewer._showAll())

    def test_every_option_is_in_a_form(self):
        given = {"tomograms", "output", "star", "source", "tomogram_size", "allow_loss", "normalized"}
        for options, protocol_class, elsewhere in (
                (IntersectOptions, ProtTomoExportIntersect, {
                    "old", "new", "old_pixel_size", "new_pixel_size", "old_normalized", "new_normalized"}),
                (DuplicatesOptions, ProtTomoExportRemoveDuplicates, {"particles", "coordinates_pixel_size"})):
            protocol = self.make(protocol_class)
            defaults = {s.name: s.default for s in fields(options) if s.name not in given | elsewhere}
            for name in defaults:
                self.assertIsNotNone(protocol.getParam(paramName(name)), name)
            self.assertEqual(protocol._optionValues(), defaults)
            self.assertTrue(protocol.validate())

    def test_what_cannot_be(self):
        values = dict(inputOld=(self.old, "Coordinates"), inputNew=(self.new, "Coordinates"))
        self.assertEqual(self.make(ProtTomoExportIntersect, **values).validate(), [])
        errors = self.make(ProtTomoExportIntersect, both=False, **values).validate()
        self.assertIn("none of the sets is chosen", errors[0])
        counts = mock.patch.object(positions, "counts", return_value={"TS_01": 3, "TS_77": 2})
        with counts:
            errors = self.make(ProtTomoExportIntersect, onlyNew=True, **values).validate()
            self.assertIn("TS_77 are not among the tomograms of the old particles", errors[0])
            self.assertEqual(self.make(ProtTomoExportIntersect, onlyNew=True, sources="TS_01", **values).validate(), [])
