"""Every class of particle set through every protocol that offers to take it: nothing of a particle is lost."""

import os
import tempfile

import numpy as np
from pwem.protocols import ProtUnionSet
from pyworkflow.object import Pointer
from tomo.objects import ClassSubTomogram, MeshPoint, SetOfAverageSubTomograms, SetOfCoordinates3D, SetOfMeshes

from tomoexport.convert import attributes, positions, refined, subsets
from tomoexport.io import mrc, star
from tomoexport.protocols import (
    ProtTomoExportAverage,
    ProtTomoExportImageSeries,
    ProtTomoExportImportParticles,
    ProtTomoExportIntersect,
    ProtTomoExportPseudoSubtomos,
    ProtTomoExportReconstructParticle,
    ProtTomoExportRemoveDuplicates,
    ProtTomoExportSelect,
    ProtTomoExportSubtomos,
)
from tomoexport.tests.protocols.test_protocols import BOX, PIXEL, ProtocolTest

CROP = 24
HALVES, CLASS = "rlnRandomSubset", "rlnClassNumber"
#: Protocols and what their input for particles is called.
CHOOSE = {ProtTomoExportRemoveDuplicates: "inputParticles", ProtTomoExportIntersect: "inputOld",
          ProtTomoExportSelect: "inputParticles"}
CUT = {ProtTomoExportSubtomos: "inputCoordinates", ProtTomoExportImageSeries: "inputCoordinates",
       ProtTomoExportPseudoSubtomos: "inReParticles", ProtTomoExportReconstructParticle: "inReParticles"}
TAKING = {**CHOOSE, **CUT, ProtTomoExportAverage: "inputSubtomograms"}


class TestTomoExportEverySet(ProtocolTest):
    """Coordinates, meshes, sub-tomograms and refined pseudo-subtomograms, with halves and classes."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tomograms = cls.reconstruct()
        path = cls.refinedTable()
        cls.particles = cls.launch(ProtTomoExportImportParticles, filesPath=path, boxSize=12,
                                   inputTomograms=(cls.tomograms, "Tomograms"))
        cls.subtomos = cls.export(cls.particles)
        cls.images = cls.launch(ProtTomoExportImageSeries, pixelSize=PIXEL, box=BOX, diameter=150.0,
                                **cls.inputs(inputCoordinates=(cls.particles, "Coordinates")))
        cls.meshes = cls.meshesOf(cls.particles)
        cls.sources_ = {"coordinates": (cls.particles, "Coordinates"), "meshes": (cls.particles, "Meshes"),
                        "sub-tomograms": (cls.subtomos, "Subtomograms")}
        if refined.plugin():
            cls.refined = cls.extract(path)
            cls.sources_["refined"] = (cls.refined, "relionParticles")

    @classmethod
    def refinedTable(cls):
        """The simulated particles as a refinement leaves them: boxes as before, particles turned in them."""
        blocks = star.read(os.path.join(cls.data, "particles.star"))
        table = blocks.table("particles")
        columns = {name: table.text(name) for name in table.columns}
        rng, n = np.random.default_rng(4), len(table)
        for name in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"):
            columns[name] = ["%.3f" % angle for angle in rng.uniform(20, 80, n)]
        columns[CLASS] = [str(1 + i % 3) for i in range(n)]
        path = os.path.join(cls.data, "refined.star")
        star.write(path, [block for block in blocks if block.name != "particles"]
                   + [star.Table.from_columns("particles", columns)])
        return path

    @classmethod
    def extract(cls, path, **more):
        return cls.launch(ProtTomoExportPseudoSubtomos, inputFrom=1, boxSize=BOX, croppedBoxSize=CROP,
                          tomograms=os.path.join(cls.data, "tomograms.star"), particles=path,
                          inputTomograms=(cls.tomograms, "Tomograms"), **more)

    @classmethod
    def meshesOf(cls, protocol):
        """The same coordinates as points of meshes, as another output of the protocol."""
        source = protocol.Coordinates
        meshes = protocol._createSet(SetOfMeshes, "meshes%s.sqlite", "")
        subsets.like(meshes, source)
        meshes.setNumberOfMeshes(2)
        for item in source.iterCoordinates():
            point = MeshPoint()
            point.copy(item, copyId=True)
            for name, value in item.getAttributes():
                if not hasattr(point, name):
                    setattr(point, name, value.clone())
            point.setVolume(item.getVolume())
            meshes.append(point)
        meshes.write()
        protocol._defineOutputs(Meshes=meshes)
        protocol._store()
        return meshes

    def items(self, kind):
        protocol, output = self.sources_[kind]
        return getattr(protocol, output)

    def compare(self, found, expected, message):
        """Two particle sets agree in all that makes a particle."""
        self.assertEqual(set(found.uid), set(expected.uid), message)
        order = [expected.uid.index(name) for name in found.uid]
        np.testing.assert_allclose(found.position, expected.position[order], atol=3e-3, err_msg=message)
        np.testing.assert_allclose(found.rotation, expected.rotation[order], atol=2e-5, err_msg=message)
        for column in (HALVES, CLASS):
            self.assertEqual(found.extra[column], [expected.extra[column][i] for i in order], (message, column))

    def values(self, protocol_class, name, source):
        """Parameters that let every particle through."""
        values = {name: source}
        if protocol_class is ProtTomoExportIntersect:
            values.update(inputNew=(self.particles, "Coordinates"))
        elif protocol_class is ProtTomoExportSelect:
            values.update(inputSeries=(self.images, "Particles"), keptFile=self.keptTable())
        elif protocol_class in (ProtTomoExportSubtomos, ProtTomoExportImageSeries):
            values.update(self.inputs(), pixelSize=PIXEL, box=BOX, diameter=150.0)
        elif protocol_class is not ProtTomoExportAverage and protocol_class in CUT:
            values.update(boxSize=BOX, croppedBoxSize=CROP, inputTS=(self.imported, "TiltSeries"),
                          inputCtfTs=(self.imported, "CTFs"))
        if protocol_class is ProtTomoExportRemoveDuplicates:
            values.update(distance=1.0)
        return values

    def keptTable(self):
        return os.path.abspath(attributes.take(self.images.Particles, attributes.STAR))

    def test_what_is_chosen_keeps_its_class_poses_halves_and_files(self):
        for kind, source in self.sources_.items():
            before = self.items(kind)
            expected = positions.particles(before)
            for protocol_class, name in CHOOSE.items():
                message = "%s, %s" % (kind, protocol_class.__name__)
                protocol = self.launch(protocol_class, **self.values(protocol_class, name, source))
                (_, output), = protocol.iterOutputAttributes()
                self.assertIs(type(output), type(before), message)
                self.compare(positions.particles(output), expected, message)
                self.assertEqual(sorted(output.getIdSet()), sorted(before.getIdSet()), message)
                if hasattr(before, "getCoordinates3D"):
                    for one, other in zip(output.iterItems(), before.iterItems()):
                        self.assertEqual((one.getFileName(), one.getClassId()),
                                         (other.getFileName(), other.getClassId()), message)
                if kind == "refined":
                    self.assertEqual([getattr(output, name)() for name in ("getBoxSize", "getRelionBinning",
                                                                           "getTomogramsStar", "are2dStacks")],
                                     [getattr(before, name)() for name in ("getBoxSize", "getRelionBinning",
                                                                           "getTomogramsStar", "are2dStacks")])

    def test_what_is_cut_out_keeps_poses_and_halves(self):
        for kind, source in self.sources_.items():
            if kind == "coordinates":  # the chains do that
                continue
            expected = positions.particles(self.items(kind))
            for protocol_class, name in CUT.items():
                # Of meshes there is nothing that coordinates have not, and maps have a test of their own.
                if protocol_class is ProtTomoExportReconstructParticle or kind == "meshes" and (
                        protocol_class is not ProtTomoExportSubtomos):
                    continue
                message = "%s, %s" % (kind, protocol_class.__name__)
                protocol = self.launch(protocol_class, **self.values(protocol_class, name, source))
                if protocol_class is ProtTomoExportImageSeries:
                    table = star.read(protocol._getExtraPath("particles.star")).table("")
                    halves = dict(zip(expected.uid, expected.extra[HALVES]))
                    groups = {group.split("_")[-1]: half for group, half in zip(table.text("rlnGroupName"),
                                                                                table.text(HALVES))}
                    self.assertEqual(len(set(table.text("rlnGroupName"))), len(halves), message)
                    self.assertEqual(sorted(dict(zip(table.text("rlnGroupName"), table.text(HALVES))).values()),
                                     sorted(halves.values()), (message, groups))
                    continue
                output = protocol.Subtomograms if protocol_class is ProtTomoExportSubtomos else protocol.relionParticles
                self.compare(positions.particles(output), expected, message)

    def test_the_map_is_that_of_the_direct_way(self):
        """Refined particles, with and without removal of duplicates between."""
        if not refined.plugin():
            return
        source = self.sources_["refined"]
        unique = self.launch(ProtTomoExportRemoveDuplicates, inputParticles=source, distance=1.0)
        maps = []
        for origin in (source, (unique, "Subtomograms")):
            protocol = self.launch(ProtTomoExportReconstructParticle, inReParticles=origin, boxSize=BOX,
                                   croppedBoxSize=CROP)
            maps.append(mrc.read_volume(protocol.Average.getFileName())[0])
        self.assertGreater(np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1], 0.999)

    def test_what_is_no_set_of_particles_is_refused(self):
        """Averages; pseudo-subtomograms in the class of a classification; and pseudo-subtomograms to be averaged."""
        folder = tempfile.mkdtemp(dir=self.data)
        averages = SetOfAverageSubTomograms(filename=os.path.join(folder, "averages.sqlite"))
        first = self.subtomos.Subtomograms.getFirstItem().clone()
        averages.setSamplingRate(PIXEL)
        averages.append(first)
        averages.write()
        wrong = {"averages": averages}
        if refined.plugin():
            members = ClassSubTomogram(filename=os.path.join(folder, "members.sqlite"))
            members.setCoordinates3D(self.particles.Coordinates)
            for item in self.refined.relionParticles.iterItems():
                members.append(item.clone())
            members.write()
            wrong["class"] = members
        for kind, items in wrong.items():
            for protocol_class, name in TAKING.items():
                protocol = self.make(protocol_class, **{k: v for k, v in self.values(
                    protocol_class, name, self.sources_["coordinates"]).items() if k != name})
                getattr(protocol, name).set(items)
                errors = " ".join(protocol.validate())
                self.assertRegex(errors, "they are (averages|pseudo-subtomograms)", (kind, protocol_class))
                self.assertIn(protocol.getParam(name).getLabel(), errors)
        if refined.plugin():
            errors = self.make(ProtTomoExportAverage, inputSubtomograms=self.sources_["refined"]).validate()
            self.assertIn("pseudo-subtomograms", errors[0])
            self.assertIn("reconstruct particle", errors[0])

    def test_sets_that_were_joined(self):
        """Particles of one name in two sets are two particles, and keep what each of them was."""
        moved = os.path.join(self.data, "moved.star")
        blocks = star.read(os.path.join(self.data, "refined.star"))
        table = blocks.table("particles")
        columns = {name: table.text(name) for name in table.columns}
        place = "rlnCenteredCoordinateXAngst"
        columns[place] = [repr(float(x) + 40.0) for x in columns[place]]
        columns[CLASS] = ["7"] * len(table)
        star.write(moved, [block for block in blocks if block.name != "particles"]
                   + [star.Table.from_columns("particles", columns)])
        other = self.launch(ProtTomoExportImportParticles, filesPath=moved, boxSize=12,
                            inputTomograms=(self.tomograms, "Tomograms"))
        pairs = {"coordinates": [(self.particles, "Coordinates"), (other, "Coordinates")]}
        if refined.plugin():
            pairs["refined"] = [self.sources_["refined"], (self.extract(moved), "relionParticles")]
        for kind, sources in pairs.items():
            union = self.newProtocol(ProtUnionSet)
            for protocol, output in sources:
                union.inputSets.append(Pointer(protocol, extended=output))
            self.launchProtocol(union)
            name, joined = next(union.iterOutputAttributes())
            unique = self.launch(ProtTomoExportRemoveDuplicates, inputParticles=(union, name), distance=1.0)
            (output, kept), = unique.iterOutputAttributes()
            found = positions.particles(kept)
            expected = [positions.particles(getattr(protocol, output_)) for protocol, output_ in sources]
            count = len(expected[0])
            self.assertEqual(len(found), 2 * count, kind)
            self.assertEqual(found.uid[:count], expected[0].uid)
            self.assertEqual(found.uid[count:], tuple(uid + "_2" for uid in expected[1].uid))
            np.testing.assert_allclose(found.position, np.concatenate([e.position for e in expected]), atol=3e-3)
            for column in (HALVES, CLASS):
                self.assertEqual(found.extra[column], expected[0].extra[column] + expected[1].extra[column], column)
            again = self.launch(ProtTomoExportPseudoSubtomos, **self.values(
                ProtTomoExportPseudoSubtomos, "inReParticles", (unique, output)))
            self.assertEqual(again.relionParticles.getSize(), 2 * count, kind)
            self.compare(positions.particles(again.relionParticles), found, kind)

    def test_no_set_of_coordinates_is_a_class_that_nobody_tried(self):
        """A further class of tomo's sets gets into this matrix."""
        self.assertEqual({c.__name__ for c in SetOfCoordinates3D.__subclasses__()}, {"SetOfMeshes"})
