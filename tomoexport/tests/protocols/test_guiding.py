"""The wands of the forms: what they propose, and that the form takes it."""

import os
import shutil
import subprocess
import tkinter
from unittest import SkipTest, mock

import numpy as np
from pwem import Domain

from tomoexport.convert import proposals
from tomoexport.protocols import (
    ProtTomoExportAverage,
    ProtTomoExportImageSeries,
    ProtTomoExportImportParticles,
    ProtTomoExportIntersect,
    ProtTomoExportPseudoSubtomos,
    ProtTomoExportReconstruct,
    ProtTomoExportReconstructParticle,
    ProtTomoExportRemoveDuplicates,
    ProtTomoExportSelect,
    ProtTomoExportSubtomos,
)
from tomoexport.tests.protocols.test_protocols import BOX, PIXEL, TOMO_PIXEL, ProtocolTest
from tomoexport.wizards import (
    TomoExportBinningWizard,
    TomoExportBoxWizard,
    TomoExportCropWizard,
    TomoExportDiameterWizard,
    TomoExportHandWizard,
    TomoExportPixelSizeWizard,
    TomoExportScoreWizard,
    TomoExportSizeWizard,
    TomoExportTiltSeriesWizard,
    TomoExportToleranceWizard,
    wizard_base,
    wizard_diameter,
    wizard_hand,
)


class Form:
    """What a wand sees of a form."""

    def __init__(self, protocol):
        self.protocol, self.root, self.told = protocol, None, {}

    def setVar(self, name, value):
        self.told[name] = value
        getattr(self.protocol, name).set(value)


class Listed:
    """A dialog in which somebody chooses given lines."""

    choose, last = (0,), None

    def __init__(self, parent, title, provider, message=None, **kwargs):
        Listed.last = self
        self.title, self.lines = title, [item.get() for item in provider.getObjects()]
        self.values = [provider.getObjects()[i] for i in self.choose]

    def resultYes(self):
        return True


class TestTomoExportGuiding(ProtocolTest):
    """Every wand on simulated data, without a screen."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tomograms = cls.reconstruct()
        cls.particles = cls.importParticles(cls.tomograms)

    def form(self, protocol_class, **values):
        return Form(self.make(protocol_class, **values))

    def cut(self, protocol_class=ProtTomoExportSubtomos, **more):
        return self.form(protocol_class, **dict(self.inputs(inputCoordinates=(self.particles, "Coordinates")), **more))

    def again(self, protocol_class=ProtTomoExportPseudoSubtomos, **more):
        return self.form(protocol_class, **dict(dict(
            inReParticles=(self.particles, "Coordinates"), inputTS=(self.imported, "TiltSeries"),
            inputCtfTs=(self.imported, "CTFs")), **more))

    def show(self, wizard, form, *choose):
        """Show a wand, choose lines; return what it wrote and the lines."""
        with mock.patch.object(wizard_base.dialog, "ListDialog", Listed), \
                mock.patch.object(Listed, "choose", choose or (0,)), \
                mock.patch.object(wizard_base.dialog, "showInfo") as info, \
                mock.patch.object(wizard_base.dialog, "showError") as error:
            Listed.last = None
            wizard().show(form)
            self.said = [call.args[1] for call in info.call_args_list + error.call_args_list]
        return form.told, Listed.last.lines if Listed.last else []

    def test_scipion_finds_a_wand_for_every_field(self):
        """Beside a field that is in the form."""
        count = 0
        for wizard in (TomoExportBinningWizard, TomoExportBoxWizard, TomoExportCropWizard, TomoExportDiameterWizard,
                       TomoExportHandWizard, TomoExportPixelSizeWizard, TomoExportScoreWizard, TomoExportSizeWizard,
                       TomoExportTiltSeriesWizard, TomoExportToleranceWizard):
            for protocol_class, names in wizard._targets:
                protocol = self.make(protocol_class)
                for name in names:
                    self.assertIsNotNone(protocol.getParam(name), (protocol_class, name))
                    found = Domain.findWizards(protocol, "tkinter")
                    self.assertIs(found[name], wizard)
                    count += 1
        self.assertGreater(count, 20)

    def test_what_has_no_default_has_a_wand(self):
        """And a form says so when it is left empty."""
        for form in (self.cut(), self.cut(ProtTomoExportImageSeries), self.again(), self.form(
                ProtTomoExportReconstruct, **self.inputs())):
            errors = form.protocol.validate()
            self.assertTrue(errors)
            names = Domain.findWizards(form.protocol, "tkinter")
            labels = {form.protocol.getParam(name).getLabel() for name in names}
            for error in errors:
                self.assertIn("no value is given", error)
                self.assertIn(error.split(": no value")[0], labels)

    def test_pixel_size(self):
        told, lines = self.show(TomoExportPixelSizeWizard, self.cut(), 1)
        self.assertEqual(told, {"pixelSize": TOMO_PIXEL})
        self.assertEqual([float(line.split()[0]) for line in lines], [8, 16, 32, 64])
        self.assertIn("that of the tomograms", lines[1])
        told, _ = self.show(TomoExportBinningWizard, self.again(), 0)
        self.assertEqual(told, {"binningFactor": 1.0})
        told, _ = self.show(TomoExportPixelSizeWizard, self.form(ProtTomoExportReconstruct, **self.inputs()), 2)
        self.assertEqual(told, {"pixelSize": 32.0})

    def test_box(self):
        form = self.cut(pixelSize=PIXEL, diameter=150.0)
        told, lines = self.show(TomoExportBoxWizard, form, 0)
        self.assertEqual(told, {"box": 24})
        self.assertIn("Å", lines[0])
        self.assertTrue(any("without aliasing" in line for line in lines))
        self.assertEqual(form.protocol.validate(), [])
        # Without a pixel size there is no box.
        told, lines = self.show(TomoExportBoxWizard, self.cut(), 0)
        self.assertEqual((told, lines), ({}, []))
        self.assertIn("pixel size is not known", self.said[0])
        told, lines = self.show(TomoExportBoxWizard, self.again(binningFactor=2.0), 0)
        self.assertEqual(int(lines[0].split()[0]), told["boxSize"])
        told, _ = self.show(TomoExportCropWizard, self.again(boxSize=64), 0)
        self.assertLessEqual(told["croppedBoxSize"], 64)

    def test_what_is_missing_is_said(self):
        told, lines = self.show(TomoExportBoxWizard, self.form(ProtTomoExportSubtomos))
        self.assertEqual((told, lines), ({}, []))
        self.assertEqual(self.said, ["Choose Particles and Tilt series first."])

    def test_size(self):
        form = self.form(ProtTomoExportReconstruct, pixelSize=TOMO_PIXEL, **self.inputs())
        told, lines = self.show(TomoExportSizeWizard, form)
        self.assertEqual(told, {"sizeX": 64, "sizeY": 64, "sizeZ": 30})
        self.assertIn("TS_01", lines[0])
        self.assertEqual(form.protocol.validate(), [])

    def test_tilt_series_and_tolerance(self):
        values = dict(inputOld=(self.particles, "Coordinates"), inputNew=(self.particles, "Coordinates"))
        form = self.form(ProtTomoExportIntersect, **values)
        told, lines = self.show(TomoExportTiltSeriesWizard, form, 0, 1)
        self.assertEqual(told, {"sources": "TS_01, TS_02"})
        self.assertIn("4 old, 4 new", lines[0])
        told, lines = self.show(TomoExportToleranceWizard, form)
        self.assertIn("0 only old, 8 both, 0 only new", lines[0])
        self.assertGreater(told["tolerance"], 0)
        self.assertEqual(form.protocol.validate(), [])
        form = self.form(ProtTomoExportRemoveDuplicates, inputParticles=values["inputOld"])
        told, lines = self.show(TomoExportToleranceWizard, form)
        self.assertIn("closer", lines[0])
        self.assertIsNotNone(self.make(ProtTomoExportSelect).getParam("tolerance"))

    def test_tolerance_lies_in_the_gap(self):
        """Pairs 3 A apart and others 80 A: a tolerance between."""
        near, far = np.linspace(2, 4, 50), np.linspace(80, 120, 30)
        with mock.patch.object(proposals, "distances", return_value=np.concatenate([near, far])):
            value, text = next((v, t) for v, t in proposals.tolerances(None, None) if "50 of 80" in t)
        self.assertTrue(4 < value < 80, text)

    def test_score(self):
        told, lines = self.show(TomoExportScoreWizard, self.form(ProtTomoExportRemoveDuplicates, inputParticles=(
            self.particles, "Coordinates")))
        self.assertEqual(told, {"score": "rlnRandomSubset"})
        self.assertEqual(lines[-1].split()[0], "none")

    def test_diameter(self):
        """The picture is of the particle: bright in the middle; what the slider says goes into the form."""
        picture, pixel_size = proposals.mean_of_particles(self.particles.Coordinates)
        self.assertEqual(pixel_size, TOMO_PIXEL)
        n = len(picture)
        middle = picture[3 * n // 8:5 * n // 8, 3 * n // 8:5 * n // 8]
        self.assertGreater(middle.mean(), picture.mean())

        class Asked:
            def __init__(self, root, picture, pixel_size, diameter):
                self.diameter = 123.4

            def resultYes(self):
                return True

        for form in (self.cut(pixelSize=PIXEL, box=BOX), self.again(ProtTomoExportReconstructParticle, boxSize=BOX)):
            with mock.patch.object(wizard_diameter, "DiameterDialog", Asked):
                told, _ = self.show(TomoExportDiameterWizard, form)
            self.assertEqual(told, {"diameter": 123.4})
        self.assertIsNotNone(self.make(ProtTomoExportAverage).getParam("diameter"))

    def test_the_dialog_of_the_diameter(self):
        if not shutil.which("Xvfb"):
            raise SkipTest("there is no Xvfb")
        read, write = os.pipe()
        screen = subprocess.Popen(["Xvfb", "-displayfd", str(write), "-screen", "0", "1000x800x24", "-nolisten", "tcp"],
                                  pass_fds=[write], stderr=subprocess.DEVNULL)
        os.close(write)
        try:
            with os.fdopen(read) as number:
                self.checkDialog(tkinter.Tk(screenName=":" + number.readline().strip()))
        finally:
            screen.terminate()
            screen.wait()

    def checkDialog(self, root):
        """The circle and the answer follow the slider."""
        shown = {}

        def drive(dialog, window=None):
            dialog._slider.set(64)
            dialog.update()
            shown["radius"] = dialog._circle.get_radius()
            dialog._handleResult(1)

        with mock.patch.object(wizard_diameter.DiameterDialog, "wait_window", drive, create=True):
            asked = wizard_diameter.DiameterDialog(root, np.random.default_rng(0).normal(size=(32, 32)), 8.0, 100.0)
        self.assertAlmostEqual(shown["radius"], 32.0, delta=4)
        self.assertAlmostEqual(asked.diameter, 64.0, delta=8)
        root.destroy()

    def test_hand(self):
        found = wizard_hand.compare_hands(self.imported.TiltSeries, self.imported.CTFs, self.particles.Coordinates,
                                          box=BOX)
        self.assertEqual(set(found), {1, -1})
        for correlation, section in found.values():
            self.assertTrue(np.isfinite(correlation))
            self.assertEqual(section.shape, (BOX // 2, BOX // 2))
        best = max(found, key=lambda hand: found[hand][0])
        with mock.patch.object(wizard_hand, "compare_hands", return_value=found):
            for form, name in ((self.cut(), "hand"), (self.again(), "handedness")):
                told, lines = self.show(TomoExportHandWizard, form)
                verb = form.protocol.VERB
                self.assertEqual(list(told), [name])
                self.assertEqual(form.protocol._optionValues()["hand"], best, verb)
                self.assertEqual(len(lines), 2)
        with mock.patch.object(wizard_hand.positions, "particles") as read:
            read.return_value.oriented = False
            self.show(TomoExportHandWizard, self.cut())
        self.assertIn("they have no orientations", self.said[0])

    def test_it_is_also_for_particles_that_come_from_elsewhere(self):
        """The import of particles has no box to propose; what shows them says so itself."""
        self.assertIsNotNone(self.make(ProtTomoExportImportParticles).getParam("boxSize"))
