"""Export for tomoDRGN and cryoDRGN, and back from them, run by Scipion."""

import os
import pickle
from dataclasses import fields

import numpy as np
from pwem import Domain
from pyworkflow.project import Manager

from tomoexport.convert import attributes, positions
from tomoexport.io import star
from tomoexport.options import SelectOptions
from tomoexport.protocols import ProtTomoExportImageSeries, ProtTomoExportSelect
from tomoexport.protocols.form import paramName
from tomoexport.tests.programs import tomodrgn_rules
from tomoexport.tests.protocols.test_protocols import BOX, PIXEL, TOMO_PIXEL, ProtocolTest
from tomoexport.viewers.viewer_results import TomoExportResultsViewer

READERS = ("tomodrgn", "cryodrgn", "none")


class TestTomoExportSelection(ProtocolTest):
    """Eight particles, their images, and subsets of them."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tomograms = cls.reconstruct()
        cls.particles = cls.importParticles(cls.tomograms)
        cls.subtomos = cls.export(cls.particles)
        cls.images = cls.series()

    @classmethod
    def series(cls, source=None, output="Coordinates", **more):
        values = cls.inputs(inputCoordinates=(source or cls.particles, output), pixelSize=PIXEL, box=BOX)
        return cls.launch(ProtTomoExportImageSeries, **dict(values, **more))

    @classmethod
    def table(cls, protocol):
        return os.path.abspath(attributes.take(protocol.Particles, attributes.STAR))

    def select(self, kept, source=None, output="Coordinates", images=None, **more):
        return self.launch(ProtTomoExportSelect, inputParticles=(source or self.particles, output), keptFile=kept,
                           inputSeries=(images or self.images, "Particles"), **more)

    def save(self, name, values):
        path = os.path.abspath(name)
        with open(path, "wb") as file:
            pickle.dump(values, file)
        return path

    def check(self, protocol, source, rows, output="Coordinates"):
        """The subset is these rows of the set, with all that they had, now and in another session."""
        before = positions.particles(source)
        again = Manager().loadProject(self.projName).getProtocol(protocol.getObjId())
        for found in (getattr(protocol, output), getattr(again, output)):
            after = positions.particles(found)
            self.assertEqual(after.uid, tuple(before.uid[i] for i in rows))
            np.testing.assert_allclose(after.position, before.position[rows], atol=1e-6)
            np.testing.assert_allclose(after.rotation, before.rotation[rows], atol=1e-9)
            self.assertEqual(after.extra, {name: [values[i] for i in rows] for name, values in before.extra.items()})
            self.assertIs(type(found), type(source))
        self.assertEqual(self.sources(protocol, getattr(protocol, output)), {output, "Particles"})

    def test_images_are_as_tomodrgn_reads_them(self):
        found = tomodrgn_rules.check(self.table(self.images), lazy=True)
        self.assertEqual((found.kind, found.broken, len(found.particles)), ("warp", [], 8))

    def test_one_stack_per_tilt_series_and_origins(self):
        """Sections, files and shifts in Scipion's set are those of the table."""
        protocol = self.series(stacks=1, origins=True)
        table = star.read(self.table(protocol)).table("")
        self.assertEqual(protocol.Particles.getSize(), len(table))
        names = set()
        for row, item in enumerate(protocol.Particles.iterItems()):
            number, path = table.text("rlnImageName")[row].split("@")
            self.assertEqual((item.getIndex(), os.path.basename(item.getFileName())),
                             (int(number), os.path.basename(path)))
            names.add(item.getFileName())
            matrix = item.getTransform().getMatrix()
            shift = np.array([table.float("rlnOriginX")[row], table.float("rlnOriginY")[row], 0.0])
            np.testing.assert_allclose(np.linalg.inv(matrix)[:3, 3], -shift, atol=1e-6)
        self.assertEqual(len(names), 2)
        self.assertEqual(tomodrgn_rules.check(self.table(protocol), "warp", lazy=True).broken, [])

    def test_a_filtered_table(self):
        table = star.read(self.table(self.images)).table("")
        groups = table.text("rlnGroupName")
        kept = ["TS_02_0000003", "TS_01_0000002"]
        path = os.path.abspath("filtered.star")
        star.write(path, [table.select([i for i, group in enumerate(groups) if group in kept])])
        protocol = self.select(path)
        self.checkCoordinates(protocol.Coordinates, expectedSetSize=2, expectedBoxSize=12, expectedSRate=TOMO_PIXEL,
                              orientedParticles=True)
        self.check(protocol, self.particles.Coordinates, [1, 6])
        self.assertIn("2 of 8 exported particles were selected", protocol.summary())
        self.check(self.select(path, exclude=True), self.particles.Coordinates, [0, 2, 3, 4, 5, 7])
        self.assertIn(TomoExportResultsViewer, Domain.findViewers(protocol, "tkinter"))

    def test_an_index_of_subtomograms(self):
        """Sub-tomograms of the same particles, with their volumes and 3D CTFs."""
        path = self.save("ind.pkl", np.array([7, 0, 4]))
        protocol = self.select(path, self.subtomos, "Subtomograms")
        self.check(protocol, self.subtomos.Subtomograms, [0, 4, 7], "Subtomograms")
        files = [item.getFileName() for item in self.subtomos.Subtomograms.iterItems()]
        items = [item.clone() for item in protocol.Subtomograms.iterItems()]
        self.assertEqual([item.getFileName() for item in items], [files[i] for i in (0, 4, 7)])
        for item in items:
            self.assertTrue(os.path.isfile(attributes.take(item, attributes.CTF_FILE)))
        self.assertEqual((protocol.Subtomograms.getSamplingRate(), protocol.Subtomograms.getDim()),
                         (PIXEL, (BOX, BOX, BOX)))

    def test_images_of_subtomograms_and_a_part_of_them(self):
        """Exported from sub-tomograms; the index counts in the table that the analysis was given."""
        images = self.series(self.subtomos, "Subtomograms", reader=1)
        table = star.read(self.table(images)).table("")
        groups = table.text("rlnGroupName")
        part = list(dict.fromkeys(groups))[2:]
        path = os.path.abspath("part.star")
        star.write(path, [table.select([i for i, group in enumerate(groups) if group in part])])
        protocol = self.select(self.save("first.pkl", [0, 1]), self.subtomos, "Subtomograms", images,
                               indexedFile=path)
        self.check(protocol, self.subtomos.Subtomograms, [2, 3], "Subtomograms")

    def test_an_optimisation_set(self):
        images = self.series(form=1, reader=1)
        self.assertTrue(self.table(images).endswith("particles_optimisation_set.star"))
        found = tomodrgn_rules.check(self.table(images))
        self.assertEqual((found.kind, found.broken), ("warptools", []))
        self.assertEqual(images.Particles.getSize(), 3 * len(found.particles))
        names = list(found.particles)
        protocol = self.select(self.save("last.pkl", [len(names) - 1]), images=images)
        self.assertEqual(protocol.Coordinates.getSize(), 1)
        item = protocol.Coordinates.getFirstItem()
        self.assertTrue(names[-1].startswith(item.getTomoId()))

    def test_what_the_reader_cannot_take_is_told_in_the_form(self):
        values = dict(inputCoordinates=(self.particles, "Coordinates"), pixelSize=PIXEL, **self.inputs())
        make = lambda **more: self.make(ProtTomoExportImageSeries, **dict(values, **more))  # noqa: E731
        self.assertEqual(make(box=BOX).validate(), [])
        # TS_01 has hand -1.
        self.assertIn("takes no notice of the defocus hand", " ".join(make(box=BOX, form=1).validate()))
        self.assertEqual(make(box=BOX, form=1, reader=READERS.index("cryodrgn")).validate(), [])
        self.assertIn("a stack for every particle", " ".join(make(box=BOX, form=1, reader=2, stacks=1).validate()))
        self.assertIn("fails with boxes of 48 pixels", " ".join(make(box=48)._doubts()))
        self.assertNotIn("fails with boxes", " ".join(make(box=48, reader=READERS.index("none"))._doubts()))
        self.assertIn("--uninvert-data", " ".join(make(box=BOX, invert=False)._doubts()))

    def test_what_cannot_be_selected(self):
        values = dict(inputParticles=(self.particles, "Coordinates"), inputSeries=(self.images, "Particles"))
        make = lambda **more: self.make(ProtTomoExportSelect, **dict(values, **more))  # noqa: E731
        self.assertIn("no file is given", " ".join(make().validate()))
        self.assertIn("there is no such file", " ".join(make(keptFile="nowhere.pkl").validate()))
        self.assertEqual(make(keptFile=self.table(self.images)).validate(), [])
        os.rename(self.table(self.images).replace(".star", "_exported.star"), "away.star")
        try:
            self.assertIn("not exported with this plugin", " ".join(make(keptFile=self.table(self.images)).validate()))
        finally:
            os.rename("away.star", self.table(self.images).replace(".star", "_exported.star"))

    def test_every_option_is_in_the_form(self):
        elsewhere = {"tomograms", "particles", "exported", "kept", "indexed", "output", "star", "source",
                     "coordinates_pixel_size", "normalized", "tomogram_size"}  # those of tables; a set's are known
        protocol = self.make(ProtTomoExportSelect)
        defaults = {s.name: s.default for s in fields(SelectOptions) if s.name not in elsewhere}
        for name in defaults:
            self.assertIsNotNone(protocol.getParam(paramName(name)), name)
        self.assertEqual(protocol._optionValues(), defaults)
        self.assertTrue(protocol._methods())
