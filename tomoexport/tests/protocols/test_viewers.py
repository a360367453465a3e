"""The viewers: every form of theirs opens, and what it shows is where particles are."""

import numpy as np
from matplotlib.figure import Figure
from pwem import Domain
from scipy.ndimage import gaussian_filter

from tomoexport.convert import positions
from tomoexport.io import mrc
from tomoexport.protocols import ProtTomoExportIntersect, ProtTomoExportRemoveDuplicates, ProtTomoExportSubtomos
from tomoexport.tests.protocols.test_protocols import BOX, PIXEL, ProtocolTest
from tomoexport.viewers import pictures, scenes
from tomoexport.viewers.viewer_results import TomoExportResultsViewer, volumesOf


class TestTomoExportViewers(ProtocolTest):
    """Runs with positions, volumes and distances."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tomograms = cls.reconstruct()
        cls.particles = cls.importParticles(cls.tomograms)
        cls.subtomos = cls.export(cls.particles, minTilts=3)
        particles = (cls.particles, "Coordinates")
        cls.unique = cls.launch(ProtTomoExportRemoveDuplicates, inputParticles=particles, distance=300.0)
        cls.both = cls.launch(ProtTomoExportIntersect, inputOld=particles, inputNew=(cls.unique, "Coordinates"))
        cls.runs = [cls.imported, cls.tomograms, cls.particles, cls.subtomos, cls.unique, cls.both]

    def viewer(self, protocol):
        """The viewer that Scipion finds, with its own form."""
        self.assertIn(TomoExportResultsViewer, Domain.findViewers(protocol, "tkinter"))
        viewer = TomoExportResultsViewer(project=self.proj, protocol=protocol)
        viewer.setProtocol(protocol)
        return viewer

    def test_everything_in_every_viewer_opens(self):
        """All buttons but those that open Scipion's own viewers."""
        for protocol in self.runs:
            viewer = self.viewer(protocol)
            actions = viewer._getVisualizeDict()
            offered = [name for name, _ in viewer.iterDefinitionAttributes()] + [
                "slices" + name for name, output in protocol.iterOutputAttributes() if volumesOf(output)]
            for name in {name for name in offered if name in actions and not name.startswith("open")}:
                self.assertTrue(actions[name](), (protocol, name))

    def test_particles_are_where_the_tomogram_shows_them(self):
        """Kept and dropped; on the slab and on the image the circles are about bright and dark spots."""
        for protocol in (self.particles, self.subtomos, self.unique):
            kept = scenes.kept_names(protocol)
            for name in scenes.names(protocol):
                scene = scenes.scene(protocol, name)
                own = positions.particles(scenes.items_of(protocol), ts_ids=[name])
                self.assertEqual(scene.kept.tolist(), [kept is None or uid in kept for uid in own.uid])
                volume = gaussian_filter(mrc.read_volume(scene.volume)[0], 2)
                rows = np.round(scene.voxels).astype(int)[:, ::-1]
                inside = (rows >= 0).all(1) & (rows < volume.shape).all(1)
                here = volume[tuple(rows[inside].T)]
                self.assertGreater(here.mean(), volume.mean() + volume.std())
                view = pictures.Particles(Figure((11, 6)), scene)
                # In a slab about a particle is that particle.
                view.set(int(round(scene.voxels[0, 2])))
                self.assertTrue(view.inside[0])
                self.assertEqual(sum(len(ring.get_offsets()) for ring in view.slab), view.inside.sum())
        self.assertLess(len(scenes.kept_names(self.unique)), 8)

    def test_particles_are_where_the_image_shows_them(self):
        scene = scenes.scene(self.subtomos, "TS_01", diameter=150.0)
        self.assertIsNotNone(scene.image)
        rows = np.round(scene.on_image).astype(int)[:, ::-1]
        inside = (rows >= 0).all(1) & (rows < scene.image.shape).all(1)
        # Particles are dark in images.
        self.assertLess(scene.image[tuple(rows[inside].T)].mean(), np.median(scene.image))
        self.assertEqual(scene.image_pixel, PIXEL)
        view = pictures.Particles(Figure((11, 6)), scene)
        self.assertEqual([len(ring.get_offsets()) for ring in view.on_image], [scene.kept.sum(), (~scene.kept).sum()])

    def test_slices(self):
        path = volumesOf(self.tomograms.Tomograms)[0]
        view = pictures.Slices(Figure((7, 7)), path)
        volume = mrc.read_volume(path)[0]
        for number in (0, 3, len(volume) + 5):
            view.slider.set_val(min(number, len(volume) - 1))
            np.testing.assert_array_equal(view.image.get_array(), volume[min(number, len(volume) - 1)])
        self.assertEqual(volumesOf(self.particles.Coordinates), [])
        self.assertEqual(volumesOf(self.imported.TiltSeries), [])

    def test_the_line_of_the_tolerance(self):
        """The counts at the run's own tolerance are those of the run; they follow the line."""
        viewer = self.viewer(self.both)
        picture = viewer._showTolerance()[0].picture
        self.assertEqual(picture.counts, (8 - self.unique.Coordinates.getSize(), self.unique.Coordinates.getSize(), 0))
        counts = self.both._readJson(self.both._getExtraPath("results", "intersect.json"))["counts"]
        self.assertEqual(picture.counts, tuple(counts[name] for name in ("only_old", "both", "only_new")))
        picture.slider.set_val(0.0)
        self.assertEqual(picture.counts, (8, 0, self.unique.Coordinates.getSize()))
        self.assertEqual(picture.tolerance, 0.0)

    def test_no_particles(self):
        self.assertEqual(scenes.names(self.tomograms), [])
        self.assertIsNone(self.viewer(self.tomograms).getParam("onTiltSeries"))
        self.assertEqual(self.make(ProtTomoExportSubtomos, box=BOX).getParam("box").getLabel(), "Box size (px)")
