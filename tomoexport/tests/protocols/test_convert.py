"""Scipion's sets and the engine's types: what goes to Scipion comes back as it was."""
import gc
import os
import tempfile
from dataclasses import replace
from unittest import mock

import numpy as np
from pyworkflow.mapper.sqlite import SqliteFlatDb
from pyworkflow.tests import BaseTest
from tomo.objects import SetOfCoordinates3D, SetOfCTFTomoSeries, SetOfTiltSeries, SetOfTomograms, TiltImage, Tomogram
from tomo.objects import TiltSeries as TiltSeriesItem

from tomoexport.convert import attributes, connections, from_scipion, import_files, positions, to_scipion
from tomoexport.engine.ctf import Ctf, Optics
from tomoexport.engine.geometry import TiltSeriesGeometry
from tomoexport.engine.particles import ParticleSet
from tomoexport.engine.poses import matrix_from_zyz
from tomoexport.errors import InputError
from tomoexport.io import mrc, star
from tomoexport.io.tiltseries import TiltSeries
from tomoexport.tests.protocols.editing import change
from tomoexport.tests.protocols.watched import Watched

TILTS = 7


def simulated(ts_id="TS_1", shape=(60, 48), seed=1, folder=".", images=TILTS):
    """A tilt series with every property that has to survive, and its stack."""
    rng = np.random.default_rng(seed)
    path = os.path.join(folder, ts_id.replace("/", "_") + ".mrcs")
    mrc.write(path, rng.normal(size=(images,) + shape), 3.3, kind="stack")
    order = np.array([7, 5, 3, 1, 2, 4, 6])
    geometry = TiltSeriesGeometry(
        ts_id, shape, 3.3, tilt=np.linspace(-45, 45, TILTS), axis=85.3 + rng.normal(size=TILTS),
        shift=rng.normal(size=(TILTS, 2)) * 30, dose=3.1 * (order - 1), acq_order=order, hand=1,
        volume_size=(60 * 3.3, 48 * 3.3, 100 * 3.3), xtilt=rng.normal(size=TILTS),
        used=np.arange(TILTS) != 2, magnification=np.tile(1.02 * np.eye(2), (TILTS, 1, 1)))
    u = rng.uniform(2e4, 4e4, TILTS)
    ctf = Ctf(Optics(300, 2.7, 0.07), u, u - 700, rng.uniform(0, 180, TILTS), phase=rng.uniform(0, 90, TILTS),
              bfactor=rng.uniform(0, 9, TILTS), scale=np.cos(np.deg2rad(geometry.tilt)))
    return TiltSeries(geometry, ctf, tuple((path, i) for i in range(TILTS)), optics_group=ts_id, optics=ctf.optics)


class ConvertTest(Watched, BaseTest):
    """A folder for the sets of each test."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="tomoexport-convert-")
        self.here = os.getcwd()
        os.chdir(self.folder)

    def tearDown(self):
        os.chdir(self.here)

    def store(self, *series, prefix=""):
        """Sets of the tilt series and CTFs, written and read again."""
        tilt_series = SetOfTiltSeries(filename=prefix + "tiltseries.sqlite")
        tilt_series.setSamplingRate(series[0].geometry.pixel_size)
        ctfs = SetOfCTFTomoSeries(filename=prefix + "ctfs.sqlite")
        ctfs.setSetOfTiltSeries(tilt_series)
        for one in series:
            places = import_files.gather(one, ".", prefix + one.ts_id + "_linked")
            to_scipion.add_tilt_series(tilt_series, one, one.ts_id, places)
            to_scipion.add_ctfs(ctfs, one, one.ts_id, places)
        tilt_series.write()
        ctfs.write()
        tilt_series.close()
        ctfs.close()
        tilt_series = SetOfTiltSeries(filename=prefix + "tiltseries.sqlite")
        tilt_series.loadAllProperties()
        ctfs = SetOfCTFTomoSeries(filename=prefix + "ctfs.sqlite")
        ctfs.loadAllProperties()
        ctfs.setSetOfTiltSeries(tilt_series)
        return tilt_series, ctfs

    def tomogram(self, dims, pixel_size, origin=None, ts_id="TS_1"):
        path = "%s_%d.mrc" % (ts_id, dims[2])
        mrc.write(path, np.zeros(dims[::-1]), pixel_size)
        tomogram = Tomogram(tsId=ts_id)
        tomogram.setFileName(path)
        tomogram.setSamplingRate(pixel_size)
        tomogram.setOrigin()
        if origin is not None:
            tomogram.getOrigin().setShifts(*origin)
        return tomogram


class TestTomoExportConvertTiltSeries(ConvertTest):
    def test_round_trip(self):
        one = simulated()
        tilt_series, ctfs = self.store(one)
        (back,), notes, failures = from_scipion.tilt_series_set(tilt_series, ["TS_1"], ctfs)
        self.assertEqual(failures, {})
        self.assertEqual(notes, ["TS_1: 1 of 7 views are excluded (acquisition order 3)"])
        for name in ("tilt", "axis", "shift", "dose", "acq_order", "used", "xtilt", "magnification", "volume_size"):
            np.testing.assert_allclose(getattr(back.geometry, name), getattr(one.geometry, name), rtol=0, atol=1e-9,
                                       err_msg=name)
        self.assertEqual(back.geometry.hand, 1)
        self.assertEqual(back.geometry.image_shape, one.geometry.image_shape)
        np.testing.assert_allclose(back.geometry.project(np.eye(3) * 100).xy, one.geometry.project(np.eye(3) * 100).xy,
                                   atol=1e-9)
        for name in ("defocus_u", "defocus_v", "angle", "phase", "bfactor", "scale"):
            np.testing.assert_allclose(getattr(back.ctf, name), getattr(one.ctf, name), atol=1e-9, err_msg=name)
        self.assertEqual(back.optics, one.optics)
        self.assertEqual([section for _, section in back.images], list(range(TILTS)))

    def test_distorted_images(self):
        """Transforms with any magnification project points to where they were."""
        one = simulated()
        distortion = np.eye(2) + 0.02 * np.random.default_rng(4).normal(size=(TILTS, 2, 2))
        one = replace(one, geometry=one.geometry.replace(magnification=distortion))
        tilt_series, _ = self.store(one)
        points = np.random.default_rng(5).normal(size=(9, 3)) * 100
        back = from_scipion.tilt_series_set(tilt_series, ["TS_1"])[0][0].geometry.project(points)
        np.testing.assert_allclose(back.xy, one.geometry.project(points).xy, atol=1e-9)
        np.testing.assert_allclose(back.depth, one.geometry.project(points).depth, atol=1e-9)

    def test_stored_transform_is_imods(self):
        one = simulated()
        tilt_series, _ = self.store(one)
        ti = next(iter(tilt_series.getFirstItem().iterItems()))
        matrix, geometry = ti.getTransform().getMatrix(), one.geometry
        self.assertEqual(matrix.shape, (3, 3))
        # A raw image point x, counted from IMOD's centre, lies at A x + d in the aligned image; the point where the
        # tomogram centre is seen must come to that of the aligned image, which IMOD's tilt puts at (N-1)/2.
        seen = geometry.shift[0] / geometry.pixel_size + 0.5
        np.testing.assert_allclose(matrix[:2, :2] @ seen + matrix[:2, 2], 0, atol=1e-9)

    def test_transform_centre(self):
        tilt_series, _ = self.store(simulated())
        shifts = [from_scipion.tilt_series_set(tilt_series, ["TS_1"], centre=centre)[0][0].geometry.shift
                  for centre in ("imod", "relion")]
        np.testing.assert_allclose(shifts[1] - shifts[0], 0.5 * 3.3, atol=1e-9)

    def test_exposures_are_numbered_from_1(self):
        """As tomo's imports do; rlnTomoTiltMovieIndex where a table has it, so that missing exposures leave a gap."""
        one = simulated()
        from_zero = replace(one, geometry=replace(one.geometry, acq_order=one.geometry.acq_order - 1))
        index = [str(n) for n in (9, 6, 4, 1, 2, 5, 8)]
        gaps = replace(from_zero, extra={"rlnTomoTiltMovieIndex": index})
        other = replace(from_zero, extra={"rlnTomoTiltMovieIndex": index[::-1]})  # contradicts the dose
        plain = one.geometry.acq_order.tolist()
        for series, expected in ((one, plain), (from_zero, plain), (gaps, [int(n) for n in index]), (other, plain)):
            self.assertEqual(to_scipion.acquisition_orders(series).tolist(), expected)
            tilt_series, ctfs = self.store(series, prefix=tempfile.mkdtemp(dir=".") + "/")
            for items in (tilt_series.getFirstItem(), ctfs.getFirstItem()):
                self.assertEqual(sorted(item.getAcquisitionOrder() for item in items), sorted(expected))

    def test_one_side_counts_from_0(self):
        """Of a set of ours that was imported earlier and one of another import: joined in order, or told."""
        one = simulated()
        tilt_series, ctfs = self.store(one)
        known = from_scipion.defoci(ctfs.getFirstItem())
        earlier = {number - 1: value for number, value in known.items()}
        (right, _), (again, notes) = (from_scipion.tilt_series(tilt_series.getFirstItem(), c) for c in (known, earlier))
        np.testing.assert_array_equal(right.ctf.defocus_u, again.ctf.defocus_u)
        self.assertIn("numbered from 1, the CTFs from 0: they are joined in the order of acquisition", " ".join(notes))
        # A view or a CTF less at one end: nothing is guessed, and it is said.
        for views, others, shift, words in (
                (range(41), range(1, 42), 1, "joined in the order"),
                (range(1, 42), range(41), -1, "joined in the order"),
                (range(41), range(1, 41), 0, "one exposure off"), (range(1, 41), range(41), 0, "one exposure off"),
                (range(41), range(41), 0, ""), (range(1, 42), range(1, 42), 0, ""), (range(1, 42), range(3, 20), 0, ""),
                (range(5, 20), range(6, 21), 0, "one exposure off"), ([], [], 0, "")):
            found = from_scipion.orders_apart(list(views), list(others))
            self.assertEqual(found[0], shift, (views, others))
            self.assertIn(words, found[1])
            self.assertEqual(bool(found[1]), bool(words))

    def test_ctfs_have_a_resolution(self):
        """Of the table, or a stated number: other plugins ask for one."""
        one = simulated()
        told = [str(4.0 + n) for n in range(TILTS)]
        for extra, expected in (({}, [to_scipion.RESOLUTION] * TILTS), ({"rlnCtfMaxResolution": told}, [
                float(text) for text in told]), ({"rlnCtfMaxResolution": ["nan", "0"] + told[2:]}, [
                    to_scipion.RESOLUTION] * 2 + [float(text) for text in told[2:]])):
            _, ctfs = self.store(replace(one, extra=extra), prefix=tempfile.mkdtemp(dir=".") + "/")
            self.assertEqual([ctf.getResolution() for ctf in ctfs.getFirstItem()], expected)

    def test_joined_by_acquisition_order(self):
        """F06, F07, F08: rows in another order, a CTF missing, one disabled, one marked as not found."""
        one = simulated()
        tilt_series, _ = self.store(one)
        shuffled = SetOfCTFTomoSeries(filename="shuffled.sqlite")
        shuffled.setSetOfTiltSeries(tilt_series)
        order = [6, 1, 3, 0, 5, 2]
        # Pretend that the stack of the CTFs had another order, and one image less.
        rows = TiltSeries(one.geometry.select(order), one.ctf.select(order), tuple(one.images[i] for i in order),
                          optics=one.optics)
        to_scipion.add_ctfs(shuffled, rows, "TS_1", import_files.Places([("x", i) for i in range(6)], None, None))
        shuffled.write()

        def spoil(ctf):
            if ctf.getAcquisitionOrder() == 5:
                ctf.setEnabled(False)
            elif ctf.getAcquisitionOrder() == 7:
                ctf.setWrongDefocus()
            else:
                return False
            return True

        change(shuffled, "TS_1", spoil)
        (back,), notes, _ = from_scipion.tilt_series_set(tilt_series, ["TS_1"], shuffled)
        # Acquisition orders are 7 5 3 1 2 4 6: 3 is excluded, 2 has no CTF, 5 and 7 have unusable ones.
        np.testing.assert_array_equal(back.geometry.used, [False, False, False, True, False, True, True])
        np.testing.assert_allclose(back.ctf.defocus_u[[3, 5, 6]], one.ctf.defocus_u[[3, 5, 6]])
        self.assertIn("TS_1: 3 views have no CTF and are excluded (acquisition order 7, 5, 2)", notes)

    def test_values_that_may_be_missing(self):
        tilt_series, ctfs = self.store(simulated())

        def spoil(ctf):
            ctf.setPhaseShift(None)
            ctf.setResolution(None)
            if ctf.getAcquisitionOrder() == 4:
                ctf.setDefocusU(float("nan"))
            return True

        change(ctfs, "TS_1", spoil)
        (back,), notes, _ = from_scipion.tilt_series_set(tilt_series, ["TS_1"], ctfs)
        np.testing.assert_array_equal(back.ctf.phase, 0)
        self.assertFalse(back.geometry.used[5])

    def test_restacked_series(self):
        """A series of fewer images than CTFs: the CTFs without an image are named and left aside."""
        one = simulated()
        few = one.select(np.arange(TILTS) != 4)
        tilt_series, _ = self.store(few)
        _, ctfs = self.store(one, prefix="full_")
        (back,), notes, _ = from_scipion.tilt_series_set(tilt_series, ["TS_1"], ctfs)
        self.assertEqual(back.geometry.n_tilts, TILTS - 1)
        np.testing.assert_allclose(back.ctf.defocus_u, few.ctf.defocus_u)
        self.assertIn("TS_1: CTFs without a view are left aside (acquisition order 2)", notes)

    def refused(self, tilt_series, ctfs=None):
        series, _, failures = from_scipion.tilt_series_set(tilt_series, ["TS_1"], ctfs)
        self.assertEqual(series, [])
        return failures["TS_1"]

    def test_F01_truncated_stack(self):
        one = simulated()
        tilt_series, ctfs = self.store(one)
        os.truncate(one.images[0][0], 5000)
        self.assertIn("truncated", self.refused(tilt_series, ctfs))

    def test_F16_dose(self):
        tilt_series, _ = self.store(simulated())
        self.assertEqual(from_scipion.doubts(tilt_series, ["TS_1"]), [])

        def forget(ti):
            ti.getAcquisition().setDoseInitial(None)
            return True

        change(tilt_series, "TS_1", forget)
        (back,), _, _ = from_scipion.tilt_series_set(tilt_series, ["TS_1"])
        np.testing.assert_array_equal(back.geometry.dose, 0)
        self.assertIn("dose-filtered", from_scipion.doubts(tilt_series, ["TS_1"])[0])

        def forget_one(ti):
            ti.getAcquisition().setDoseInitial(None if ti.getAcquisitionOrder() == 4 else 3.0)
            return True

        change(tilt_series, "TS_1", forget_one)
        self.assertIn("the dose of 1 views is missing", self.refused(tilt_series))

    def test_F17_nothing_left(self):
        tilt_series, ctfs = self.store(simulated())

        def exclude(item):
            item.setEnabled(False)
            return True

        change(ctfs, "TS_1", exclude)
        self.assertIn("no view is left", self.refused(tilt_series, ctfs))

    def test_F20_optics(self):
        tilt_series, _ = self.store(simulated())
        for ts in tilt_series.iterItems():
            ts.getAcquisition().setAmplitudeContrast(None)
            self.assertRaisesRegex(InputError, "TS_1: amplitude contrast is None", from_scipion.tilt_series, ts)

    def test_F21_alignment(self):
        tilt_series, _ = self.store(simulated())
        for ts in tilt_series.iterItems():
            ts.setInterpolated(True)
            self.assertRaisesRegex(InputError, "interpolated", from_scipion.tilt_series, ts)
        unaligned = SetOfTiltSeries(filename="unaligned.sqlite")
        unaligned.setSamplingRate(3.3)
        ts = TiltSeriesItem(tsId="TS_1")
        connections.append(unaligned, ts)
        ti = TiltImage(tsId="TS_1", tiltAngle=0.0, acquisitionOrder=1)
        ti.setLocation(1, "TS_1.mrcs")
        ti.setSamplingRate(3.3)
        ts.append(ti)
        self.assertRaisesRegex(InputError, "TS_1, tilt 1: it has no alignment", from_scipion.tilt_series, ts)

    def test_an_older_set_of_the_same_path_may_go_while_one_is_filled(self):
        """It takes the entry of the path with it from which inner sets know the connection; see `convert.connections`.

        Both would wait for each other's lock for a quarter of an hour: here for two seconds.
        """
        one, source = simulated(), os.getcwd()
        tilt_series, _ = self.store(one)
        places = import_files.gather(one, ".", "linked")
        first = tilt_series.getFirstItem()
        add = {SetOfTiltSeries: (lambda s: to_scipion.add_tilt_series(s, one, "TS_1", places),
                                 lambda s: to_scipion.copy_tilt_series(s, first, "a reason")),
               SetOfCTFTomoSeries: (lambda s: to_scipion.add_ctfs(s, one, "TS_1", places),)}
        for kind, ways in add.items():
            for way in ways:
                old = [self.older(kind, way)]
                new = kind(filename="same.sqlite")

                def known(outer, know=connections._know, old=old):
                    old.clear()
                    gc.collect()
                    know(outer)

                with mock.patch.object(SqliteFlatDb.__init__, "__defaults__", ("", 2, None, None)), \
                        mock.patch.object(connections, "_know", known):
                    way(new)
                new.write()
                self.assertEqual(new.getFirstItem().getSize(), TILTS)
                new.close()
                os.chdir(source)

    def older(self, kind, fill):
        """A filled set that is still open; the folder is another one afterwards."""
        os.chdir(tempfile.mkdtemp(dir=self.folder))
        out = kind(filename="same.sqlite")
        fill(out)
        out.write()
        os.chdir(tempfile.mkdtemp(dir=self.folder))
        return out

    def test_F23_mixed_pixel_sizes(self):
        tilt_series, _ = self.store(simulated())

        def rescale(ti):
            ti.setSamplingRate(6.6)
            return ti.getAcquisitionOrder() == 4

        change(tilt_series, "TS_1", rescale)
        self.assertIn("different pixel sizes (3.3, 6.6 A)", self.refused(tilt_series))

    def test_what_nobody_says(self):
        """Series of other plugins have no extra attributes: what is assumed is said."""
        tilt_series, _ = self.store(simulated())
        for ts in tilt_series.iterItems():
            for name in (attributes.HAND, attributes.SIZE, attributes.CENTRE):
                attributes.put(ts, name, "")
            back, _ = from_scipion.tilt_series(ts)
            ts.setCtfCorrected(True)
            tilt_series.update(ts)
        doubts = "\n".join(from_scipion.doubts(tilt_series, ["TS_1"]))
        for words in ("TS_1: the handedness", "TS_1: the thickness", "TS_1: the CTF of the images has been corrected"):
            self.assertIn(words, doubts)
        self.assertEqual(len(from_scipion.doubts(tilt_series, ["TS_1"], hand=1, size_known=True)), 1)
        self.assertEqual(from_scipion.doubts(tilt_series, ["TS_1"], size_known=True, ctf=False), [])
        self.assertEqual(back.geometry.hand, from_scipion.HAND)
        # The tilt axis is near 90 degrees: the images' sides are swapped in the tomogram.
        np.testing.assert_allclose(back.geometry.volume_size[:2], (60 * 3.3, 48 * 3.3))
        self.assertAlmostEqual(back.geometry.volume_size[2], from_scipion.THICKNESS, delta=2 * 3.3)

    def test_names(self):
        names = ["TS_1", "001", "TS-1", "TS 1", "ü", "ts_1", "a/b"]
        ts_ids = to_scipion.ts_ids_of(names)
        self.assertEqual(ts_ids["TS_1"], "TS_1")
        self.assertEqual(ts_ids["001"], "TS_001")
        self.assertEqual(len({t.lower() for t in ts_ids.values()}), len(names))
        for ts_id in ts_ids.values():
            self.assertRegex(ts_id, "^[A-Za-z][A-Za-z0-9_]*$")

    def test_single_images_become_a_stack(self):
        one = simulated()
        images = []
        with mrc.open_stack(one.images[0][0]) as stack:
            for t in range(TILTS):
                images.append(("image%d.mrc" % (6 - t), 0))
                mrc.write(images[-1][0], stack.read(t), 3.3, kind="image")
        places = import_files.gather(TiltSeries(one.geometry, one.ctf, tuple(images), optics=one.optics), ".", "new")
        self.assertEqual(places.images, [("./new.mrcs", t) for t in range(TILTS)])
        stacked, pixel_size = mrc.read_volume("new.mrcs")
        np.testing.assert_array_equal(stacked, mrc.read_volume(one.images[0][0])[0])
        self.assertAlmostEqual(pixel_size, 3.3, places=5)


class TestTomoExportConvertParticles(ConvertTest):
    def coordinates(self, tomograms, particles, centre="relion", box=20):
        tomogram_set = SetOfTomograms(filename="tomograms.sqlite")
        tomogram_set.setSamplingRate(tomograms[0].getSamplingRate())
        for tomogram in tomograms:
            tomogram_set.append(tomogram)
        tomogram_set.write()
        coordinates = SetOfCoordinates3D(filename="coordinates.sqlite")
        coordinates.setPrecedents(tomogram_set)
        coordinates.setSamplingRate(tomograms[0].getSamplingRate())
        coordinates.setBoxSize(box)
        to_scipion.add_coordinates(coordinates, particles, tomogram_set, centre)
        coordinates.write()
        return coordinates

    def particles(self, n=20, ts_ids=("TS_1",)):
        rng = np.random.default_rng(3)
        return ParticleSet(
            rng.normal(size=(n, 3)) * 100, matrix_from_zyz(*rng.uniform(-180, 180, (3, n))),
            np.arange(n) % len(ts_ids), ts_ids, ["p%d" % i for i in range(n)],
            {"rlnRandomSubset": [str(1 + i % 2) for i in range(n)], "rlnClassNumber": ["3"] * n,
             "rlnCoordinateX": ["7"] * n})

    def test_round_trip(self):
        for centre in ("relion", "imod"):
            for dims in ((60, 50, 40), (61, 51, 41)):
                particles = self.particles()
                for file in ("tomograms.sqlite", "coordinates.sqlite"):
                    os.path.exists(file) and os.remove(file)
                back = positions.particles(
                    self.coordinates([self.tomogram(dims, 9.9)], particles, centre), centre)
                np.testing.assert_allclose(back.position, particles.position, atol=1e-9)
                np.testing.assert_allclose(back.rotation, particles.rotation, atol=1e-12)
                self.assertEqual(back.uid, particles.uid)
                self.assertEqual(back.names(), particles.names())
                self.assertEqual(back.extra, {"rlnClassNumber": ["3"] * 20,
                                              "rlnRandomSubset": particles.extra["rlnRandomSubset"]})

    def test_centre_and_origin(self):
        """F22: the voxel that stands for the centre, for even and odd sizes, trimmed tomograms, and IMOD's."""
        for dims, origin, centre, voxel in (
                ((60, 50, 40), None, "relion", (30, 25, 20)), ((60, 50, 40), None, "imod", (29.5, 24.5, 19.5)),
                ((61, 51, 41), None, "relion", (30, 25, 20)), ((61, 51, 41), None, "imod", (30, 25, 20)),
                # 10 voxels cut off from either end of z, 3 off the beginning of x.
                ((57, 50, 20), (-300, -250, -100), "relion", (30, 25, 10)),
                ((57, 50, 20), (-300, -250, -100), "imod", (29.5, 24.5, 9.5)),
                # An origin of zero is one that nobody set.
                ((60, 50, 40), (0, 0, 0), "relion", (30, 25, 20))):
            tomogram = self.tomogram(dims, 10.0, origin)
            frame = positions.Frame(tomogram, centre)
            # Scipion: voxel - corner = stored - origin / pixel size.
            stored = np.array(voxel) + np.array(tomogram.getShiftsFromOrigin()) / 10
            np.testing.assert_allclose(frame.positions(stored), 0, atol=1e-9, err_msg=str((dims, origin, centre)))
            np.testing.assert_allclose(frame.stored(frame.positions([1, 2, 3])), [1, 2, 3])

    def test_translation_is_folded_in(self):
        particles = self.particles(1)
        coordinates = self.coordinates([self.tomogram((60, 50, 40), 10.0)], particles)
        offset = np.array([3.0, -5.0, 7.0])
        for item in coordinates.iterItems():
            matrix = item.getMatrix()
            # As RELION plugins store an origin o: A^T o / pixel size.
            matrix[:3, 3] = particles.rotation[0].T @ offset / 10
            moved = item.clone()
            moved.setMatrix(matrix)
        coordinates.update(moved)
        back = positions.particles(coordinates)
        np.testing.assert_allclose(back.position, particles.position - offset, atol=1e-9)

    def test_F23_pixel_sizes(self):
        coordinates = self.coordinates([self.tomogram((60, 50, 40), 10.0)], self.particles())
        coordinates.setSamplingRate(5.0)
        self.assertRaisesRegex(InputError, "10 A per pixel, the coordinates 5", positions.particles, coordinates)

    def test_F24_improper_matrix(self):
        coordinates = self.coordinates([self.tomogram((60, 50, 40), 10.0)], self.particles(1))
        item = coordinates.getFirstItem().clone()
        item.setMatrix(np.diag([1.0, 1, -1, 1]))
        coordinates.update(item)
        self.assertRaisesRegex(InputError, "no proper rotation", positions.particles, coordinates)

    def test_F09_match(self):
        common, orphans, lost = from_scipion.match(
            {"particles": {"a": 3, "b": 4, "c": 5}, "tilt series": ["c", "b"], "CTFs": ["b", "c", "d"]},
            {"a": 3, "b": 4, "c": 5})
        self.assertEqual(common, ["b", "c"])
        self.assertEqual(lost, 3)
        self.assertEqual(orphans, ["d: missing from the particles", "a, d: missing from the tilt series",
                                   "a: missing from the CTFs"])

    def test_unnamed_particles_get_names(self):
        coordinates = self.coordinates([self.tomogram((60, 50, 40), 10.0)], self.particles(3))
        for item in [i.clone() for i in coordinates.iterItems()]:
            attributes.put(item, attributes.UID, "")
            coordinates.update(item)
        self.assertEqual(positions.particles(coordinates).uid, ("TS_1/1", "TS_1/2", "TS_1/3"))


class TestTomoExportImportParticleTables(ConvertTest):
    def setUp(self):
        super().setUp()
        self.tomograms = SetOfTomograms(filename="tomograms.sqlite")
        self.tomograms.setSamplingRate(10.0)
        for ts_id, name in (("TS_1", "TS_1"), ("TS_002", "002")):
            tomogram = self.tomogram((60, 50, 40), 10.0, ts_id=ts_id)
            attributes.put(tomogram, attributes.NAME, name)
            self.tomograms.append(tomogram)
        self.tomograms.write()

    def table(self, path, names, optics=None, **columns):
        tables = [star.Table.from_columns("optics", optics)] if optics else []
        columns = dict(rlnTomoName=names, **columns)
        star.write(path, tables + [star.Table.from_columns("particles", columns)])

    def centred(self, path, names, position):
        self.table(path, names, **{"rlnCenteredCoordinate%sAngst" % c: p
                                   for c, p in zip("XYZ", np.transpose(position))})

    def corner(self, path, names, position, optics=None):
        self.table(path, names, optics, **{"rlnCoordinate" + c: p for c, p in zip("XYZ", np.transpose(position))})

    def test_several_tables_and_names(self):
        """Names match the tsId or the name that it stands for; particles of the same name get their own."""
        self.centred("a.star", ["TS_1", "002"], [[1, 2, 3], [4, 5, 6]])
        self.centred("b.star", ["TS_1", "TS_002"], [[7, 8, 9], [0, 0, 1]])
        particles, problems = import_files.particles("?.star", self.tomograms)
        self.assertEqual(problems, [])
        self.assertEqual(particles.names(), ["TS_1", "TS_002", "TS_1", "TS_002"])
        np.testing.assert_allclose(particles.position, [[1, 2, 3], [4, 5, 6], [7, 8, 9], [0, 0, 1]])
        self.assertEqual(len(set(particles.uid)), 4)

    def test_pixels_from_the_corner(self):
        self.corner("a.star", ["TS_1"], [[150, 125, 100]], {"rlnOpticsGroup": [1], "rlnTomoTiltSeriesPixelSize": [2.0]})
        for centre, position in (("relion", 0.0), ("imod", 5.0)):
            particles, _ = import_files.particles("a.star", self.tomograms, centre=centre)
            np.testing.assert_allclose(particles.position, [[position] * 3])
        self.corner("b.star", ["TS_1"], [[30, 25, 20]])
        self.assertRaisesRegex(InputError, "does not say the pixel size", import_files.particles, "b.star",
                               self.tomograms)
        particles, _ = import_files.particles("b.star", self.tomograms, coordinates_pixel_size=10.0)
        np.testing.assert_allclose(particles.position, [[0, 0, 0]])

    def test_F09_unknown_tomogram(self):
        self.centred("a.star", ["TS_1", "TS_9"], [[1, 2, 3], [4, 5, 6]])
        self.assertRaisesRegex(InputError, "1 particles would be lost.*TS_9", import_files.particles, "a.star",
                               self.tomograms)
        particles, problems = import_files.particles("a.star", self.tomograms, allow_loss=True)
        self.assertEqual(len(particles), 1)
        self.assertIn("TS_9", problems[0])

    def test_no_file(self):
        self.assertRaisesRegex(InputError, "there is no such file", import_files.particles, "*.tbl", self.tomograms)
