"""The whole export as a GPU does it, on NumPy arrays behind lazy streams: batches, buffers, half precision."""

import types

import numpy as np
import pytest

from tomoexport.engine import copies
from tomoexport.engine.backend import Backend, CudaBackend, select_backend
from tomoexport.io import mrc
from tomoexport.jobs import extraction, particle, pseudosubtomo, runner, subtomo
from tomoexport.tests.engine.test_copies import LazyStream
from tomoexport.tests.jobs.test_batches import OutOfMemoryError, Plans


class Numpy:
    """NumPy that calls itself CuPy."""

    fft = types.SimpleNamespace(config=types.SimpleNamespace(get_plan_cache=Plans))
    cuda = types.SimpleNamespace(Device=lambda number: types.SimpleNamespace(use=lambda: None, mem_info=(1 << 40, 0)))
    get_default_memory_pool = staticmethod(lambda: types.SimpleNamespace(free_bytes=lambda: 0, get_limit=lambda: 0,
                                                                         free_all_blocks=lambda: None))

    def __getattr__(self, name):
        return getattr(np, name)


@pytest.fixture(scope="module")
def data(tmp_path_factory, simulated):
    folder = tmp_path_factory.mktemp("gpu")
    simulated("tiny", into=folder, particles=30)
    return folder


class Exports:
    """Runs of the export on the CPU, and on a GPU that takes at most `room` particles at once."""

    def __init__(self, data, folder, monkeypatch):
        self.data, self.folder, self.patch = data, folder, monkeypatch
        self.stream, self.sizes, self.room, self.types = LazyStream(), [], 1000, set()

    def run(self, device, **values):
        out = self.folder / device
        if device == "cuda:0":
            self.patch.setattr(runner, "select_backends", lambda *a: [CudaBackend("cuda", Numpy(), threads=2)])
            self.patch.setattr(copies, "CopyStream", lambda xp: self.stream)
            self.patch.setattr(subtomo, "reconstruct_subtomos", self.reconstruct)
            self.patch.setattr(mrc, "write", self.write)
        results = runner.run({"verb": "subtomo", "collect": False, "options": dict(
            {"tomograms": str(self.data / "tomograms.star"), "particles": str(self.data / "particles.star"),
             "pixel_size": 8.0, "box": 16, "diameter": 100.0, "device": device, "threads": 2, "memory": 4.0,
             "output": str(out)}, **values)})["results"]
        assert {r["status"] for r in results} == {"done"}
        names = [name for r in results for name in r["files"]]
        return {name[len(str(out)):]: mrc.read_volume(name)[0] for name in names}

    def reconstruct(self, stack, plan, position, *rest):
        self.sizes.append(len(position))
        if len(position) > self.room:
            raise OutOfMemoryError
        return self.real(stack, plan, position, *rest[:-1], select_backend("cpu", 1))

    def write(self, path, array, *rest, **options):
        assert any(np.shares_memory(array, buffer) for buffer in self.stream.buffers), "not through a pinned buffer"
        self.types.add(("ctf" in path, array.dtype.name))
        self.real_write(path, array, *rest, **options)

    real, real_write = staticmethod(subtomo.reconstruct_subtomos), staticmethod(mrc.write)


@pytest.fixture
def exports(data, tmp_path, monkeypatch):
    return Exports(data, tmp_path, monkeypatch)


@pytest.mark.parametrize("room, values", [
    (1000, {}), (3, {}), (1, {}), (1000, {"normalize_output": False}), (1000, {"float16": True}),
    (1000, {"float16": True, "normalize_output": False}), (1000, {"exact": True})])
def test_a_gpu_exports_what_the_cpu_does(exports, room, values):
    expected = exports.run("cpu", **values)
    exports.room = room
    made = exports.run("cuda:0", **values)
    assert set(made) == set(expected) and len(made) > 80
    for name, volume in expected.items():
        scale = np.abs(volume).max()
        assert np.abs(made[name] - volume).max() <= (2e-3 if "float16" in values else 1e-5) * scale
    assert max(exports.sizes) > 8
    if room < 8:  # it learns: only the first batch of a series, of 16, is too large, and what it is cut into
        assert sum(size > room for size in exports.sizes) == 2 * {3: 1 + 2 + 4, 1: 1 + 2 + 4 + 8}[room]
    half = values.get("float16") and values.get("normalize_output", True)
    assert exports.types == {(False, "float16" if half else "float32"), (True, "float32")}
    assert not exports.stream.busy


def test_the_ring_keeps_to_the_memory_limit(exports, monkeypatch):
    monkeypatch.setattr(extraction, "RING_BYTES", 5 * subtomo.result_bytes(16))
    exports.run("cuda:0")
    assert max(exports.sizes) == 4
    monkeypatch.setattr(extraction, "RING_BYTES", 1 << 30)
    needs = []
    real = subtomo.memory_needs
    monkeypatch.setattr(subtomo, "memory_needs", lambda *a: needs.append(real(*a)) or needs[-1])
    exports.sizes.clear()
    with pytest.raises(Exception, match="one particle at a time needs"):
        exports.run("cuda:0", memory=0.01, box=18)
    limit = (max(n.least for n in needs) + 10 * subtomo.result_bytes(18)) / 1e9
    exports.run("cuda:0", memory=limit, box=18)
    assert max(exports.sizes) == 4


def test_images_that_do_not_fit_are_an_error_with_numbers(exports, monkeypatch):
    def full(*arguments):
        raise OutOfMemoryError

    exports.stream.empty = full
    with pytest.raises(Exception, match="the images need .* are free.*--device cpu"):
        exports.run("cuda:0")


@pytest.mark.parametrize("room, values", [
    (1000, {}), (3, {}), (1, {}), (1000, {"stack2d": False}), (2, {"stack2d": False, "cone_weight": True}),
    (1000, {"exact": True, "whiten": True, "precrop": True})])
def test_a_gpu_extracts_what_the_cpu_does(data, tmp_path, monkeypatch, room, values):
    """Pseudo-subtomograms: at most `room` particles at once, those of one call in the same tilts."""
    stream, sizes = LazyStream(), []

    def run(device):
        options = dict({"tomograms": str(data / "tomograms.star"), "particles": str(data / "particles.star"), "box": 16,
                        "crop": 12, "device": device, "threads": 2, "memory": 4.0, "float16": False,
                        "output": str(tmp_path / device)}, **values)
        results = runner.run({"verb": "pseudosubtomo", "collect": False, "options": options})["results"]
        assert {r["status"] for r in results} == {"done"}
        return {name[len(options["output"]):]: mrc.read_volume(name)[0] for r in results for name in r["files"]
                if not name.endswith(".csv")}

    def on_the_cpu(real):
        def extract(stack, plan, position, *rest):
            sizes.append(len(position))
            if len(position) > room:
                raise OutOfMemoryError
            place = next(i for i, a in enumerate(rest) if isinstance(a, Backend))
            return real(stack, plan, position, *rest[:place], select_backend("cpu", 1), *rest[place + 1:])
        return extract

    expected = run("cpu")
    monkeypatch.setattr(runner, "select_backends", lambda *a: [CudaBackend("cuda", Numpy(), threads=2)])
    monkeypatch.setattr(copies, "CopyStream", lambda xp: stream)
    for name in ("extract_stacks", "extract_volumes"):
        monkeypatch.setattr(pseudosubtomo, name, on_the_cpu(getattr(pseudosubtomo, name)))
    found = run("cuda:0")
    assert set(found) == set(expected) and len(found) >= 60
    assert max(np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max() for name in found) < 1e-5
    assert max(sizes) > 4 and (room > 100 or min(sizes) <= room)


@pytest.mark.parametrize("room", [1000, 4])
def test_a_gpu_sums_what_the_cpu_does(data, tmp_path, monkeypatch, room):
    def run(device):
        options = {"tomograms": str(data / "tomograms.star"), "particles": str(data / "particles.star"), "box": 16,
                   "device": device, "threads": 2, "memory": 4.0, "output": str(tmp_path / device)}
        return mrc.read_volume(runner.run({"verb": "particle", "options": options})["collected"]["average"])[0]

    real, sizes = particle.sum_particles, []

    def sums(stack, plan, position, *rest):
        sizes.append(len(position))
        if len(position) > room:
            raise OutOfMemoryError
        return real(stack, plan, position, *rest[:-1], select_backend("cpu", 1))

    expected = run("cpu")
    monkeypatch.setattr(runner, "select_backends", lambda *a: [CudaBackend("cuda", Numpy(), threads=2)])
    monkeypatch.setattr(copies, "CopyStream", lambda xp: LazyStream())
    monkeypatch.setattr(particle, "sum_particles", sums)
    found = run("cuda:0")
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert max(sizes) > 4 and (room > 100 or min(sizes) <= room)
