"""What a form says before anything runs, and what a run says that failed."""

import json
import os

from tomoexport.io import mrc
from tomoexport.protocols import (
    ProtTomoExportAverage,
    ProtTomoExportImageSeries,
    ProtTomoExportImportTiltSeries,
    ProtTomoExportIntersect,
    ProtTomoExportPseudoSubtomos,
    ProtTomoExportReconstruct,
    ProtTomoExportReconstructParticle,
    ProtTomoExportRemoveDuplicates,
    ProtTomoExportSubtomos,
)
from tomoexport.tests.protocols.test_protocols import BOX, PIXEL, ProtocolTest


class TestTomoExportTelling(ProtocolTest):
    """Wrong forms are refused in the words of the form; failed runs give their reason."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tomograms = cls.reconstruct()
        cls.particles = cls.importParticles(cls.tomograms)

    def cut(self, protocol_class=ProtTomoExportSubtomos, **more):
        values = self.inputs(inputCoordinates=(self.particles, "Coordinates"), pixelSize=PIXEL, box=BOX)
        return self.make(protocol_class, **dict(values, **more))

    def again(self, protocol_class=ProtTomoExportPseudoSubtomos, **more):
        return self.make(protocol_class, **dict(dict(
            inReParticles=(self.particles, "Coordinates"), inputTS=(self.imported, "TiltSeries"),
            inputCtfTs=(self.imported, "CTFs"), boxSize=BOX), **more))

    def test_wrong_forms_are_refused(self):
        """Label, cause and remedy; nothing of the command line's spelling."""
        particles = (self.particles, "Coordinates")
        tomograms = self.inputs(pixelSize=16.0)
        for protocol, *words in (
                (self.cut(diameter=9999.0), "Particle diameter", "leaves nothing of the box", "Take a larger box"),
                (self.cut(firstTilts=50), "First N tilts by dose", "have 3 at most", "smaller number"),
                (self.cut(minTilts=50), "no particle can be exported", "at least 50 images", "Check the pixel size"),
                (self.cut(box=None), "Box size", "no value is given", "the wand"),
                (self.cut(device="cuda:9"), "Device", "cuda:9", ""),
                (self.cut(box=33), "Box size", "33 is odd", "Give an even size"),
                (self.cut(pixelSize=0.5), "its images have 8 A per pixel", "Give a pixel size not below"),
                (self.cut(ProtTomoExportImageSeries, memory=0.001), "memory", "are allowed", "Allow"),
                (self.make(ProtTomoExportRemoveDuplicates, inputParticles=particles, score="nix"), "Score",
                 "Particles has no column nix", "The columns are"),
                (self.make(ProtTomoExportIntersect, inputOld=particles, inputNew=particles, sources="TS_99"),
                 "Tilt series", "there is no tilt series TS_99", "The names are: TS_01, TS_02"),
                (self.again(minNoFrames=50), "Particles", "no particle can be exported",
                 "at least 50 images"),
                (self.again(ProtTomoExportReconstructParticle, symmetry="Q7"), "Symmetry", "Q7 is no point group",
                 "Use C1"),
                (self.make(ProtTomoExportReconstruct, **dict(tomograms, device="cuda:9")), "Device", "cuda:9", ""),
                (self.make(ProtTomoExportReconstruct, **dict(tomograms, memory=0.001)), "needs at least",
                 'Allow more with "Memory', "")):
            errors = " ".join(protocol.validate())
            for word in words:
                self.assertIn(word, errors)
            self.assertNotRegex(errors, r"--[a-z]|/tmp|_getExtra")
        self.assertEqual(self.cut().validate(), [])

    def test_warnings_of_the_plan_stand_in_the_form(self):
        """What `check` warns of, and a hand that contradicts the tilt series."""
        protocol = self.cut(firstTilts=2, hand=1)
        text = " ".join(protocol._warnings())
        self.assertIn("TS_02", " ".join(self.cut(hand=2)._warnings()))
        self.assertIn("the handedness of the defocus is +1, the tilt series say -1", text)

    def test_checking_a_form_leaves_nothing(self):
        """Neither in the folder of the run, nor in the table of what is kept."""
        protocol = self.cut()
        protocol.validate()
        self.assertFalse(os.path.exists(protocol._getExtraPath("input")))
        self.assertEqual(protocol._inputPath("a"), protocol._getExtraPath("input", "a"))

    def test_workflows_of_reliontomo_bring_their_values(self):
        """Extract of scipion-em-reliontomo, exported and exchanged for ours: handedness, threads, empty fields."""
        entries = {"inReParticles": "%d.Coordinates" % self.particles.getObjId(),
                   "inputTS": "%d.TiltSeries" % self.imported.getObjId(),
                   "inputCtfTs": "%d.CTFs" % self.imported.getObjId(), "binThreads": 3, "binningFactor": 2,
                   "boxSize": 16, "croppedBoxSize": None, "maxDose": 50, "minNoFrames": 2, "write2dStacks": False,
                   "outputInFloat16": False, "numberOfMpi": 3, "genProjCoords": False}
        for handedness, hand in ((True, -1), (False, 1)):
            for name, verb in (("ProtTomoExportPseudoSubtomos", "pseudosubtomo"),
                               ("ProtTomoExportReconstructParticle", "particle")):
                loaded = self.proj.loadProtocols(jsonStr=json.dumps([dict(
                    entries, **{"object.className": name, "object.id": "7", "handedness": handedness})]))
                protocol = loaded["7"]
                values = protocol._optionValues()
                self.assertEqual((values["hand"], values["threads"], values["binning"], values["box"],
                                  values["crop"], values["max_dose"], values["min_frames"]),
                                 (hand, 3, 2.0, 16, 0, 50.0, 2), verb)
                self.assertEqual(protocol.validate(), [])
        self.assertEqual(self.make(ProtTomoExportPseudoSubtomos)._optionValues()["hand"], 0)

    def test_failed_runs_give_their_reason(self):
        """In the error box and in the summary; the words of the job, not its exit status."""
        failing = []
        # A tomogram that goes after the form was checked; images that go; a map that is none; files that vanish.
        average = self.launch(ProtTomoExportSubtomos, **dict(self.inputs(
            inputCoordinates=(self.particles, "Coordinates")), pixelSize=PIXEL, box=BOX))
        first = average.Subtomograms.getFirstItem().getFileName()
        os.rename(first, first + ".away")
        failing.append((ProtTomoExportAverage, dict(inputSubtomograms=(average, "Subtomograms")), os.path.basename(
            first)))
        reference = os.path.abspath("reference.mrc")
        mrc.write(reference, mrc.read_volume(first + ".away")[0][:16, :16, :16], PIXEL)
        failing.append((ProtTomoExportReconstructParticle, dict(
            inReParticles=(self.particles, "Coordinates"), inputTS=(self.imported, "TiltSeries"),
            inputCtfTs=(self.imported, "CTFs"), boxSize=BOX, reference=reference), "reference.mrc"))
        failing.append((ProtTomoExportImportTiltSeries, dict(tomogramsStar=os.path.join(self.data, "no.star")),
                        "no.star"))
        failing.append((ProtTomoExportRemoveDuplicates, dict(inputParticles=(self.particles, "Coordinates"),
                                                             score="rlnNothing"), "rlnNothing"))
        for protocol_class, values, word in failing:
            protocol = self.make(protocol_class, **values)
            self.proj.launchProtocol(protocol, wait=True)
            self.assertTrue(protocol.isFailed(), protocol_class)
            self.assertIn(word, protocol.getErrorMessage())
            self.assertNotIn("exit status", protocol.getErrorMessage())
            self.assertIn("Failed: ", protocol.summary()[0])
            self.assertIn(word, protocol.summary()[0])
        os.rename(first + ".away", first)
