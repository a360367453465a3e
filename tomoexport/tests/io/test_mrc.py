"""MRC files: exact round trips, strict reading, whole writing."""
import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import mrcfile
import numpy as np
import pytest

from tomoexport.errors import InputError
from tomoexport.io import mrc


@pytest.fixture
def volume():
    return np.random.default_rng(1).normal(3, 2, (4, 5, 6)).astype(np.float32)


def foreign(path, data):
    """Write a file as another program would, whose doubts about the values do not concern us."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with mrcfile.new(path, data) as other:
            other.set_extended_header(np.zeros(256, "u1"))
            other.voxel_size = 2.5


@pytest.mark.parametrize("kind, ispg", [("volume", 1), ("stack", 0)])
def test_round_trip_is_exact(tmp_path, volume, kind, ispg):
    path = str(tmp_path / "a.mrc")
    mrc.write(path, volume, 1.35, kind, origin=(1, 2, 3), label="made by a test")
    back, pixel_size = mrc.read_volume(path)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, volume)
    assert pixel_size == pytest.approx(1.35, rel=1e-6)
    with mrcfile.open(path) as other:
        h = other.header
        assert other.is_volume() == (kind == "volume") and h.ispg == ispg
        assert (h.mx, h.my, h.mz) == (6, 5, 4)
        assert (h.cella.x, h.cella.y, h.cella.z) == pytest.approx((6 * 1.35, 5 * 1.35, 4 * 1.35))
        assert (h.origin.x, h.origin.y, h.origin.z) == (1, 2, 3)
        assert (h.dmin, h.dmax) == (volume.min(), volume.max())
        assert (h.dmean, h.rms) == pytest.approx((volume.mean(), volume.std()), rel=1e-5)
        assert other.get_labels() == ["made by a test"]
    assert mrcfile.validate(path)


def test_image(tmp_path, volume):
    mrc.write(tmp_path / "a.mrc", volume[0], 2.0, "image")
    np.testing.assert_array_equal(mrc.read_volume(tmp_path / "a.mrc")[0], volume[:1])


def test_same_data_same_bytes(tmp_path, volume):
    for name in "ab":
        mrc.write(tmp_path / name, volume, 2.0)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_F01_truncated_mrc(tmp_path, volume):
    path = str(tmp_path / "a.mrc")
    mrc.write(path, volume, 1.0)
    os.truncate(path, 1024 + 100)
    with pytest.raises(InputError, match=r"a\.mrc: the file is truncated: 1124 bytes, expected 1504 for 6 x 5 x 4"):
        mrc.read_header(path)


@pytest.mark.parametrize("content, cause", [
    (b"", "empty"), (b"just some text\n", "not an MRC"), (b"text\n" * 500, "not an MRC"), (b"\0" * 2000, "not an MRC")])
def test_F02_not_an_mrc(tmp_path, content, cause):
    path = tmp_path / "a.mrc"
    path.write_bytes(content)
    with pytest.raises(InputError, match=cause) as error:
        mrc.open_stack(str(path))
    assert str(path) in str(error.value)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "absent.mrc", tmp_path):
        with pytest.raises(InputError, match="no such file"):
            mrc.read_header(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path, volume, bad):
    path = tmp_path / "a.mrc"
    volume[2, 3, 4] = bad
    with pytest.raises(InputError, match=r"a\.mrc: section 3 .* not finite"):
        mrc.write(path, volume, 1.0)
    assert os.listdir(tmp_path) == []
    foreign(path, volume)
    with pytest.raises(InputError, match=r"a\.mrc: section 3 .* not finite"):
        mrc.read_volume(path)
    np.testing.assert_array_equal(mrc.read_volume(path, finite=False)[0], volume)


def test_F35_float16(tmp_path, volume):
    path = tmp_path / "a.mrc"
    mrc.write(path, volume, 1.0, float16=True)
    assert mrc.read_header(path).mode == 12
    np.testing.assert_array_equal(mrc.read_volume(path)[0], volume.astype(np.float16))
    for scale, cause in ((1e6, "float16 holds up to 65504"), (1e-7, "float16 is too coarse")):
        with pytest.raises(InputError, match=cause):
            mrc.write(path, volume * np.float32(scale), 1.0, float16=True)
    with pytest.raises(InputError, match="too coarse"):
        mrc.write(path, volume + 5000, 1.0, float16=True)
    mrc.write(path, np.zeros_like(volume), 1.0, float16=True)


@pytest.mark.parametrize("suffix", [".mrc", ".st", ".ali", ".rec", ".mrcs"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype, mode", [("i1", 0), ("i2", 1), ("f4", 2), ("u2", 6), ("f2", 12)])
def test_F36_modes_byte_orders_and_extensions(tmp_path, dtype, mode, order, suffix):
    path = str(tmp_path / ("a" + suffix))
    info = np.iinfo(dtype) if dtype[0] in "iu" else np.finfo(dtype)
    data = np.linspace(float(info.min) / 2, float(info.max) / 2, 60).reshape(3, 4, 5).astype(order + dtype)
    foreign(path, data)
    header = mrc.read_header(path)
    assert (header.mode, header.shape, header.pixel_size, header.offset) == (mode, (3, 4, 5), 2.5, 1280)
    with mrc.open_stack(path) as stack:
        image = stack.read(2)
        assert len(stack) == 3 and image.dtype == np.dtype(np.float32)
        np.testing.assert_array_equal(image, data[2].astype(np.float32))
        image[:] = 0
        with pytest.raises(InputError, match="section 4 is asked for, the file has 3"):
            stack.read(3)


@pytest.mark.parametrize("flags, value", [(0, 200), (1, -56)])
def test_F36_bytes_of_imod(tmp_path, flags, value):
    path = str(tmp_path / "a.st")
    foreign(path, np.full((1, 2, 2), -56, np.int8))
    with open(path, "r+b") as handle:
        handle.seek(152)
        handle.write(np.array([1146047817, flags], "<i4").tobytes())
    assert (mrc.read_volume(path)[0] == value).all()


def test_complex_and_turned_axes_are_refused(tmp_path):
    path = tmp_path / "a.mrc"
    foreign(path, np.zeros((2, 2, 2), np.complex64))
    with pytest.raises(InputError, match="complex"):
        mrc.read_header(path)
    with mrcfile.new(path, np.zeros((2, 2, 2), np.float32), overwrite=True) as other:
        other.header.mapc, other.header.maps = 3, 1
    with pytest.raises(InputError, match="order 3 2 1"):
        mrc.read_header(path)


def test_writer_takes_slabs_in_any_order(tmp_path, volume):
    path, whole = tmp_path / "a.mrc", tmp_path / "b.mrc"
    with mrc.VolumeWriter(path, volume.shape, 3.0) as writer:
        writer.put(2, volume[2:])
        writer.put(0, volume[:2].astype(np.float64))
        assert not path.exists()
    mrc.write(whole, volume, 3.0)
    np.testing.assert_array_equal(mrc.read_volume(path)[0], volume)
    with mrcfile.open(path) as one, mrcfile.open(whole) as two:
        assert one.header.rms == pytest.approx(two.header.rms)


def test_writer_takes_blocks_of_rows_from_threads(tmp_path):
    path = tmp_path / "a.mrc"
    volume = np.random.default_rng(2).normal(3, 2, (12, 40, 31)).astype(np.float32)
    with mrc.VolumeWriter(path, volume.shape, 3.0, np.float16) as writer, ThreadPoolExecutor(4) as pool:
        places = [(z, y) for z in range(0, 12, 3) for y in range(0, 40, 8)]
        list(pool.map(lambda p: writer.put(p[0], volume[p[0]:p[0] + 3, p[1]:p[1] + 8], p[1]), places))
    np.testing.assert_array_equal(mrc.read_volume(path)[0], volume.astype(np.float16))
    with mrcfile.open(path) as written:
        assert written.header.rms == pytest.approx(volume.std(), rel=1e-3)
        assert written.header.dmean == pytest.approx(volume.mean(), rel=1e-3)


def test_writer_commits_only_what_is_whole(tmp_path, volume):
    path = tmp_path / "a.mrc"
    mrc.write(path, volume, 1.0)
    before = path.read_bytes()
    with pytest.raises(InputError, match="only 2 of 4 sections"):
        with mrc.VolumeWriter(path, volume.shape, 3.0) as writer:
            writer.put(0, volume[:2])
    with pytest.raises(ValueError, match="are there already"):
        with mrc.VolumeWriter(path, volume.shape, 3.0) as writer:
            writer.put(0, volume[:2])
            writer.put(1, volume[:2])
    with pytest.raises(ValueError, match="do not fit"):
        with mrc.VolumeWriter(path, volume.shape, 3.0) as writer:
            writer.put(0, volume[:, :, 1:])
    with pytest.raises(ValueError, match="do not fit"):
        with mrc.VolumeWriter(path, volume.shape, 3.0) as writer:
            writer.put(0, volume, 1)
    with pytest.raises(InputError, match="only 0 of 4 sections"):
        with mrc.VolumeWriter(path, volume.shape, 3.0) as writer:
            writer.put(0, volume[:, 1:], 1)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.mrc"]


@pytest.mark.shared
def test_real_files(shared):
    paths = sorted((shared / "reference" / "relion5").rglob("*.mrc*"))
    assert len(paths) > 100
    for path in paths:
        with mrc.open_stack(path) as stack:
            assert np.isfinite(stack.read(len(stack) - 1)).all()
    array, pixel_size = mrc.read_volume(shared / "reference" / "relion5" / "phantom_bin1.mrc")
    assert pixel_size == pytest.approx(4.0) and array.std() > 0
