"""Sets that grow: tilt series arrive while the chain runs; in the end it is as if all had been there."""

import os
import shutil
import threading
import time
from dataclasses import replace

from pyworkflow.object import Set
from pyworkflow.protocol import MODE_RESUME, getProtocolFromDb

from tomoexport.io import mrc, relion5
from tomoexport.protocols import (
    ProtTomoExportImportTiltSeries,
    ProtTomoExportReconstruct,
    ProtTomoExportSubtomos,
)
from tomoexport.tests.protocols.test_protocols import BOX, PIXEL, TOMO_PIXEL, ProtocolTest

NAMES = ("TS_01", "TS_02", "TS_03", "TS_04")
LONGEST = 240  # seconds


class TestTomoExportGrowing(ProtocolTest):
    """Four tilt series, of which two are there at first."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.whole = cls.folder("whole", NAMES)
        cls.known = cls.launch(ProtTomoExportImportTiltSeries, tomogramsStar=cls.whole)
        cls.expected = cls.launch(ProtTomoExportReconstruct, pixelSize=TOMO_PIXEL, halves=True, ctf=1,
                                  inputTiltSeries=(cls.known, "TiltSeries"))

    @classmethod
    def folder(cls, name, names):
        """A folder of tables of tilt series, as RELION's tomograms.star names them."""
        path = os.path.abspath(name)
        os.makedirs(path, exist_ok=True)
        return cls.arrive(path, names)

    @classmethod
    def arrive(cls, path, names):
        """Write the table of tilt series that are there by now."""
        series = relion5.read_project(os.path.join(cls.data, "tomograms.star"))
        made = []
        for number, name in enumerate(names):
            one = series[number % 2]
            stack = os.path.join(path, name + ".mrcs")
            if not os.path.exists(stack):
                shutil.copy(one.images[0][0], stack + ".part")
                os.rename(stack + ".part", stack)
            made.append(cls.renamed(one, name, stack))
        return relion5.write_project(path, made)

    @staticmethod
    def renamed(one, name, stack):
        return replace(one, geometry=replace(one.geometry, ts_id=name), optics_group=name,
                       images=tuple((stack, section) for _, section in one.images))

    def start(self, protocol_class, **values):
        """Launch a run and do not wait for it."""
        protocol = self.make(protocol_class, **values)
        self.proj.launchProtocol(protocol, wait=False)
        return protocol

    def now(self, protocol):
        """The run as its own database has it; that of the project is written by one process alone."""
        return getProtocolFromDb(self.proj.path, protocol.getDbPath(), protocol.getObjId())

    @staticmethod
    def isAlive(pid):
        """Whether a process works: one that nobody has waited for does not."""
        try:
            with open("/proc/%d/stat" % int(pid), encoding="utf-8") as file:
                return file.read().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False

    def until(self, what, message):
        """Wait until something is so."""
        begun = time.monotonic()
        while not what():
            self.assertLess(time.monotonic() - begun, LONGEST, message)
            time.sleep(1.0)

    def count(self, protocol, name):
        output = getattr(self.now(protocol), name, None)
        return 0 if output is None else output.getSize()

    def test_outputs_grow_and_close(self):
        """Stop and Continue of the reconstruction between; files are those of the closed set to the byte."""
        path = os.path.dirname(self.folder("filling", NAMES[:2]))
        importing = self.start(ProtTomoExportImportTiltSeries, tomogramsStar=os.path.join(path, "tomograms.star"),
                               follow=True, followMinutes=0.7, followQuiet=1.0)
        self.until(lambda: self.count(importing, "TiltSeries") == 2, "the first two are imported")
        self.assertTrue(self.now(importing).TiltSeries.isStreamOpen())
        self.proj._updateProtocol(importing)
        opened = importing
        rebuilding = self.make(ProtTomoExportReconstruct, pixelSize=TOMO_PIXEL, halves=True, ctf=1,
                               inputTiltSeries=(opened, "TiltSeries"))
        self.assertEqual(rebuilding.validate(), [])
        waiting = self.make(ProtTomoExportSubtomos, pixelSize=PIXEL, box=BOX, inputTiltSeries=(opened, "TiltSeries"),
                            inputCtfs=(opened, "CTFs"), inputCoordinates=(opened, "TiltSeries"))
        self.assertIn("still growing", " ".join(waiting.validate()))
        self.proj.launchProtocol(rebuilding, wait=False)
        self.until(lambda: self.count(rebuilding, "Tomograms") >= 1, "the first tomogram")
        self.assertTrue(self.now(rebuilding).Tomograms.isStreamOpen())
        self.proj._updateProtocol(rebuilding)
        self.proj.stopProtocol(rebuilding)
        self.until(lambda: not self.isAlive(rebuilding.getPid()), "it stops")
        rebuilding.runMode.set(MODE_RESUME)
        self.proj.launchProtocol(rebuilding, wait=False)
        # Before anything new comes: those that follow would end.
        self.until(lambda: self.now(rebuilding).Tomograms.isStreamOpen(), "it is open again")
        self.arrive(path, NAMES[:3])
        self.until(lambda: self.count(rebuilding, "Tomograms") >= 3, "the third tomogram")
        self.assertTrue(self.now(rebuilding).Tomograms.isStreamOpen(), "it is open again")
        self.arrive(path, NAMES)
        self.until(lambda: not self.now(rebuilding).isActive() and not self.now(importing).isActive(), "both end")
        done, read = self.now(rebuilding), self.now(importing)
        for protocol in (done, read):
            self.assertTrue(protocol.isFinished(), protocol.getErrorMessage())
        for output in (done.Tomograms, read.TiltSeries):
            self.assertEqual(output.getStreamState(), Set.STREAM_CLOSED)
            self.assertEqual(sorted(output.getTSIds()), list(NAMES))
        files = {t.getTsId(): [t.getFileName(), *t.getHalfMaps(asList=True)] for t in done.Tomograms.iterItems()}
        for tomogram in self.expected.Tomograms.iterItems():
            own = [tomogram.getFileName(), *tomogram.getHalfMaps(asList=True)]
            for one, other in zip(own, files[tomogram.getTsId()]):
                with open(one, "rb") as left, open(other, "rb") as right:
                    self.assertEqual(left.read(), right.read(), other)
        summary = "\n".join(done.summary())
        self.assertNotIn("Failed", summary)
        self.assertEqual(len(done._readJson(done._getExtraPath("key.json"))), len(
            self.expected._readJson(self.expected._getExtraPath("key.json"))))

    def test_a_changed_option_leaves_nothing_behind(self):
        """Continue with another pixel size: outputs and files are of that one, also where a set was followed."""
        for follows in (False, True):
            protocol = self.launch(ProtTomoExportReconstruct, pixelSize=2 * TOMO_PIXEL, ctf=1, inputTiltSeries=(
                self.known, "TiltSeries"))
            if follows:
                with open(protocol._getExtraPath("growing.json"), "w", encoding="utf-8") as file:
                    file.write("true")
            before = [t.getFileName() for t in protocol.Tomograms.iterItems()]
            protocol.runMode.set(MODE_RESUME)
            protocol.pixelSize.set(TOMO_PIXEL)
            self.launchProtocol(protocol)
            found = self.now(protocol)
            self.assertEqual(found.Tomograms.getSamplingRate(), TOMO_PIXEL)
            self.assertEqual(found.Tomograms.getSize(), len(before))
            for tomogram in found.Tomograms.iterItems():
                self.assertTrue(os.path.isfile(tomogram.getFileName()))
            self.assertFalse([path for path in before if os.path.exists(path)], follows)

    def test_what_is_being_copied_waits(self):
        """A stack that still changes is not taken; a folder in which nothing comes ends with a reason."""
        path = os.path.dirname(self.folder("slow", NAMES[:1]))
        stack, stop = os.path.join(path, "TS_01.mrcs"), time.monotonic() + 6

        def touch():
            while time.monotonic() < stop:
                os.utime(stack)
                time.sleep(0.3)

        thread = threading.Thread(target=touch)
        thread.start()
        begun = time.monotonic()
        protocol = self.launch(ProtTomoExportImportTiltSeries, tomogramsStar=os.path.join(path, "tomograms.star"),
                               follow=True, followMinutes=0.15, followQuiet=2.0)
        thread.join()
        self.assertEqual(protocol.TiltSeries.getSize(), 1)
        self.assertGreater(time.monotonic() - begun, 6)
        self.assertEqual(mrc.read_header(stack).shape[0], 3)
