"""Everything that is to be measured on a CUDA GPU, in one command: kernels, throughput, stages, whole jobs, warpylib.

    python benchmarks/bench_gpu.py [--device 0] [--only selftest throughput stages jobs peer] [--json FILE]

Times are those between two CUDA events on the stream that the engine works on, after a warm-up; gaps in which the GPU
waits for the host are in them, and the wall time stands beside them. A stage's time is that of the engine's own
functions, wrapped while they work, less that of wrapped functions that they call; a tomogram's stages are taken with
one thread of the host, its throughput with as many as the engine has. What a part has measured is written to FILE
before the next part begins, and a part that fails does not stop the others. Without a GPU: one line, exit status 2.
`--shim` goes through all of it on small sizes with the CUDA source compiled for the CPU: a dry run, whose figures mean
nothing.

The roofline of a stage is max(bytes / bandwidth, FLOPs / peak), its share that over the time. The bandwidth is the best
of several triads a = b + s c (12 bytes per element) in this very run, the peak that of FP32 products of matrices
(2 n^3). Bytes: what a call is given is read once, what it returns is written once. The memory really moves more where a
grid is zeroed and then added to, or where a transform takes two passes; and less where the caches hold a small batch,
whose share may be above 100 %. FLOPs: an addition, multiplication, rounding or comparison is 1, sinpif 10, sincospif
20. Those in double precision are in the FLOPs and given apart as well, for GPUs that are slow at it, and so are atomic
additions, which the L2 cache bounds:

    FFT                 2.5 P log2(p) real, 5 P log2(p) complex; P points in all, p of one transform
    crop                0; reads no more than the stack
    modulate            51 per frequency of each window, 30 of them for sines
    modulate_parts      the same, and 2 for sums and differences; join_parts 5
    spread_rows         2 per term and column
    insert_linear       114 per sample within the circle (18 double); 32 atomics; low-dose limits are not counted
    fold_linear         2 per frequency of the grid
    circle              2 per pixel, 2 per pixel kept
    weigh               per frequency 5 + 15 (double) for k and phase, 8 (4 double) per table, 20 (6 double) per slab
    resample            78 per sample (16 double)
    backproject         16 per voxel and tilt (11 double); sheared 31 (17 double)
    products            2 m k n, for m x k times k x n
    elsewhere           1 per element for real factors, 2 for complex values
"""

import argparse
import functools
import io
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bench_subtomo
import bench_tomogram
import numpy as np
from bench_stages import Stages, watch
from common import (
    HERE,
    STANDARD,
    alternate,
    correlation,
    finish,
    load,
    machine,
    middle,
    peer_python,
    standard_job,
    table,
)

from tomoexport import cli
from tomoexport.engine import pseudosubtomo, subtomo, tomogram, transforms
from tomoexport.engine.backend import available_cores, keep_freed_memory, list_gpus, select_backend
from tomoexport.engine.fourier import sphere
from tomoexport.engine.kernels import gpu
from tomoexport.engine.preprocess import PreparedStack, prepare_stack
from tomoexport.engine.simulate import make_series
from tomoexport.engine.turn import ALONG_X
from tomoexport.engine.weights import odd_even_groups
from tomoexport.errors import BackendError
from tomoexport.jobs import doctor, runner

PARTS = ("selftest", "throughput", "stages", "jobs", "peer")
REST = "rest"
TO_DEVICE, TO_HOST = "copies to the device", "copies to the host"  # PCIe: no roofline of the device's memory
NO_GPU = 2  # exit status


@dataclass(frozen=True)
class Sizes:
    """What is measured; pixels and voxels, angstrom."""

    box: int = 64
    padded: int = 80  # of sub-tomograms
    window: int = 96  # of pseudo-subtomograms
    pixel_size: float = 5.4
    shape: tuple = (928, 960)
    binning: float = 4.0
    tilts: int = 41
    batches: tuple = (1, 16, 64, 256)
    stages_batch: int = 64
    particles: int = 64  # per timing, at least
    tomogram: tuple = (502, 518)
    depth: int = 250
    tomogram_pixel_size: float = 10.0
    triad: int = 1 << 26
    gemm: int = 8192
    peer_particles: int = 64


SMALL = Sizes(box=16, padded=20, window=24, shape=(96, 104), tilts=5, batches=(1, 2), stages_batch=2, particles=2,
              tomogram=(64, 60), depth=24, triad=1 << 16, gemm=64, peer_particles=4)


# Device and clock -----------------------------------------------------------------------------------------------------

class CudaClock:
    """Events on the current stream."""

    def __init__(self, xp):
        self._cuda = xp.cuda

    def mark(self):
        """The place that the stream has got to, when it gets there."""
        event = self._cuda.Event()
        event.record(self._cuda.get_current_stream())
        return event

    def wait(self):
        """Until all is done."""
        self._cuda.Device().synchronize()

    def ms(self, start, end):
        """Milliseconds between two marks; after `wait`."""
        return self._cuda.get_elapsed_time(start, end)


class FakeClock:
    """The same where there is no stream."""

    mark = staticmethod(time.perf_counter)

    def wait(self):
        pass

    def ms(self, start, end):
        return 1e3 * (end - start)


def choose(args, folder):
    """Backend and clock, or exit with 2 and one line."""
    if args.shim:
        from tomoexport.tests.engine import shim
        if not shim.compiler():
            sys.exit("--shim: no C++ compiler. Install g++")
        runtime = shim.ShimRuntime(Path(folder))
        gpu.runtime = lambda: runtime
        backend = shim.ShimBackend("cuda", fft=transforms, threads=args.threads)
        doctor.select_backend = lambda *_: backend
        runner.select_backends = lambda *_: [backend]
        return backend, FakeClock()
    try:
        backend = select_backend("cuda:%d" % args.device, args.threads)
    except BackendError as error:
        print("no GPU: %s" % " ".join(str(error).split()))
        sys.exit(NO_GPU)
    backend.activate()
    return backend, CudaClock(backend.xp)


def describe(args, backend):
    """The device for the report."""
    if args.shim:
        return dict(device="none: dry run on the CPU")
    import cupy
    runtime, (name, memory) = cupy.cuda.runtime, list_gpus()[args.device]
    return dict(device=name, memory_gb=round(memory / 1e9, 1),
                capability=cupy.cuda.Device(args.device).compute_capability, driver=runtime.driverGetVersion(),
                cuda=runtime.runtimeGetVersion(), cupy=cupy.__version__)


def timed(work, clock, repeats):
    """Milliseconds of one call on the stream and on the wall: medians over `repeats`, after two that do not count."""
    found = []
    for n in range(repeats + 2):
        clock.wait()
        wall, start = time.perf_counter(), clock.mark()
        work()
        end = clock.mark()
        clock.wait()
        if n > 1:
            found.append((clock.ms(start, end), 1e3 * (time.perf_counter() - wall)))
    return [statistics.median(column) for column in zip(*found)]


def fits(work, backend):
    """Carry out; False if the device has not enough memory."""
    try:
        work()
        return True
    except Exception as error:
        if not backend.is_out_of_memory(error) and type(error).__name__ != "CuFFTError":
            raise
    clear(backend)
    return False


def clear(backend):
    """Give back the memory of the device, that of transforms' plans included."""
    backend.release()


def limits(args, backend, clock):
    """Bandwidth (B/s) of a triad and FLOP/s of a product of FP32 matrices; the best of several."""
    xp, n, m = backend.xp, args.sizes.triad, args.sizes.gemm
    b, c = xp.ones(n, np.float32), xp.ones(n, np.float32)
    a = xp.empty_like(b)
    if hasattr(xp, "ElementwiseKernel"):
        kernel = xp.ElementwiseKernel("float32 b, float32 c, float32 s", "float32 a", "a = b + s * c", "triad")

        def triad():
            kernel(b, c, np.float32(3), a)
    else:
        def triad():
            np.add(b, np.float32(3) * c, out=a)

    left, right = (xp.full((m, m), 1e-3, np.float32) for _ in range(2))

    def best(work, repeats):
        return 1e-3 * min(timed(work, clock, 1)[0] for _ in range(repeats))

    return dict(bandwidth=12 * n / best(triad, 10), peak=2.0 * m ** 3 / best(lambda: left @ right, 5))


# Bytes and FLOPs ------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Cost:
    """Work of a call; `doubles` are those of the `flops` that are in double precision."""

    bytes: float = 0.0
    flops: float = 0.0
    doubles: float = 0.0
    atomics: float = 0.0


def size_of(*arrays):
    """Bytes of those that are arrays."""
    return float(sum(a.nbytes for a in arrays if hasattr(a, "nbytes")))


def once(flops=None):
    """Cost of a kernel that reads its arguments and writes its result once; FLOPs per element of the result."""
    def cost(given, result, **_):
        results = result if isinstance(result, tuple) else (result,)
        return Cost(size_of(*given, *results), (flops or 0) * float(results[0].size))
    return cost


def nothing(given, result, **_):
    """Cost of what the host does."""
    return Cost()


def crop_cost(given, result, **_):
    stack, origin = given[:2]
    return Cost(size_of(result, origin) + min(size_of(stack), size_of(result)))


def modulate_cost(given, result, **_):
    return Cost(size_of(*given, given[0], result), 51.0 * result.size)  # the data are changed in place


@functools.lru_cache(maxsize=8)
def samples(b, edge):
    """Frequencies of a window that are inserted; `edge`: the circle itself counts."""
    y, x = np.meshgrid(np.fft.fftfreq(b, 1 / b), np.arange(b // 2 + 1), indexing="ij")
    r2 = x * x + y * y
    return int((((r2 <= b * b / 4) if edge else (r2 < b * b / 4)) & ((x > 0) | (y >= 0))).sum())


def insertion_cost(flops, doubles, atomics, edge):
    def cost(given, result, **_):
        n, t, b, _ = given[0].shape
        count = float(n * t * samples(b, edge))
        return Cost(size_of(*given, result), flops * count, doubles * count, atomics * count)
    return cost


def circle_cost(given, result, **_):
    return Cost(size_of(given[0], result), 2.0 * given[0].size + 2.0 * result.size)


def weigh_cost(given, result, **_):
    transform, tables, depth = given[0], given[4], given[8]
    count, n, k = float(transform.size), len(tables), len(depth)
    return Cost(size_of(*given, result), count * (20 + 8 * n + 20 * k), count * (15 + 4 * n + 6 * k))


def resample_cost(given, result, **_):
    count = float(result.size)
    return Cost(4 * count + min(size_of(given[0]), 64 * count), 78 * count, 16 * count)


def backprojection_cost(flops, doubles):
    def cost(given, result, **_):
        rows, group = given[0], result.shape[0]
        count = float(result.size) / group * rows.shape[0]
        return Cost(size_of(rows, result), flops * count, doubles * count)
    return cost


def fft_cost(name):
    """Cost of a transform, called as the engine does: axes by name, or the last ones."""
    def cost(given, result, axes=None, axis=-1, **_):
        real = given[0] if name.startswith("rfft") else result
        over = axes or ((-2, -1) if name.endswith("2") else (axis,))
        length = math.prod(real.shape[a] for a in over)
        each = 5.0 if name in ("fft", "ifft") else 2.5
        return Cost(size_of(given[0], result), each * real.size * math.log2(length))
    return cost


def parts_cost(given, result, **_):
    data = given[0]
    return Cost(size_of(*given, data, result), 53.0 * data.size)


def spread_cost(given, result, **_):
    rows, start, source, factor, used = given
    return Cost(size_of(rows, start, source, factor, result), 2.0 * len(rows) * len(source) * used)


def slices_cost(given, result, **_):
    """What `subtomo.slices` does itself: products of matrices, for parts that are even or odd along y and along x."""
    plan, (n, t, b, bh) = given[1], result[0].shape
    s = plan.padded
    if s == b:
        return Cost(16.0 * result[0].size, 2.0 * result[0].size)
    sh, planes = s // 2 + 1, 3.0 * n * t
    return Cost(8 * planes * (sh * sh + 2 * bh * sh + bh * bh), 4 * planes * bh * sh * (sh + bh))


def volumes_3d_ctfs_cost(given, result, **_):
    """What `subtomo._spread` does itself: the window of the volume; two products and an exchange of axes of the CTF."""
    plan, n = given[2], len(result[0])
    b, g, bh = plan.box, plan.grid, plan.box // 2 + 1
    return Cost(2 * size_of(result[0]) + 4.0 * n * bh * (g * g + 2 * b * g + 3 * b * b),
                result[0].size + 2.0 * n * bh * b * g * (g + b))


def stacks_cost(given, result, **_):
    """What `pseudosubtomo.extract_stacks` does itself: one factor on the transforms."""
    plan, (n, t) = given[1], result.shape[:2]
    count = float(n * t * plan.box * (plan.box // 2 + 1))
    return Cost(16 * count, 2 * count)


def volumes_cost(given, result, **_):
    """What `pseudosubtomo.extract_volumes` does itself: signs of the transforms, factors of three volumes."""
    plan, (n, t) = given[1], given[2].shape[:2]
    count = float(n * t * plan.box * (plan.box // 2 + 1))
    return Cost(16 * count + 2 * size_of(*result), 2 * count + sum(r.size for r in result))


def fill_cost(given, result, **_):
    """What `RowSampler.fill` does itself: the image is padded."""
    sampler = given[0]
    return Cost(4.0 * math.prod(sampler.padded) + 4.0 * math.prod(sampler.stack.images.shape[1:]))


def upload_cost(given, result, **_):
    return Cost(size_of(given[1]) if isinstance(given[1], np.ndarray) else 0.0)


def download_cost(given, result, **_):
    return Cost(size_of(result))


# The clock of the stages ----------------------------------------------------------------------------------------------

class Call:
    """One call of a wrapped function."""

    def __init__(self, stage):
        self.stage, self.inner, self.start, self.end, self.cost = stage, [], None, None, Cost()


class DeviceStages(Stages):
    """Wraps functions to note when the device begins and ends with them, and their work; a context manager.

    Parameters
    ----------
    functions : dict of str to (str or callable, callable)
        Stage of each function, as `Stages` takes it, and its cost: ``cost(given, result, **named)``.
    clock : CudaClock or FakeClock
    """

    def __init__(self, functions, clock):
        super().__init__(functions)
        self.clock, self.calls = clock, []

    def _timed(self, function, entry):
        name, cost = entry

        @functools.wraps(function)
        def timed(*given, **named):
            running = self._local.__dict__.setdefault("running", [])
            call = Call(name(*given, **named) if callable(name) else name)
            running.append(call)
            call.start = self.clock.mark()
            try:
                result = function(*given, **named)
            finally:
                call.end = self.clock.mark()
                running.pop()
                with self._lock:
                    (running[-1].inner if running else self.calls).append(call)
            call.cost = cost(given, result, **named)
            return result

        return timed

    def totals(self):
        """Milliseconds and cost of each stage, and the ms of all calls together; after the clock's `wait`."""
        found = {}

        def add(call):
            whole = self.clock.ms(call.start, call.end)
            inner = sum(add(c) for c in call.inner)
            entry = found.setdefault(call.stage, dict(ms=0.0, bytes=0.0, flops=0.0, doubles=0.0, atomics=0.0))
            entry["ms"] += whole - inner
            for key in ("bytes", "flops", "doubles", "atomics"):
                entry[key] += getattr(call.cost, key)
            return whole

        return found, sum(add(call) for call in self.calls)


KERNELS, ENGINE = "tomoexport.engine.kernels.gpu:", "tomoexport.engine."


def functions_of(sizes, fft):
    """The engine's functions with their stages and costs; `fft`: the module that transforms."""
    def windows(data, *_, **__):
        """Stage of a transform of windows: the first is the whole window's."""
        return "transform of the windows" if data.shape[-1] in (sizes.padded, sizes.window) else "crop"

    def forward(data, *given, **named):
        return "forward transform" if data.ndim == 2 else windows(data)

    def backward(data, *given, **named):
        if data.ndim == 3:
            return "inverse transform of images"
        return "inverse transform of windows" if data.shape[-2] == sizes.window else "crop"

    kernels = {
        "crop": ("cut", crop_cost), "modulate": ("CTF", modulate_cost), "circle": ("circle", circle_cost),
        "modulate_parts": ("CTF", parts_cost), "join_parts": ("crop", once(5)),
        "spread_rows": ("gridding", spread_cost),
        "insert_linear": ("insertion", insertion_cost(114, 18, 32, True)), "fold_linear": ("fold", once(2)),
        "weigh": ("filters", weigh_cost), "resample": ("rows", resample_cost),
        "backproject": ("back-projection", backprojection_cost(16, 11)),
        "backproject_sheared": ("back-projection", backprojection_cost(31, 17))}
    found = {KERNELS + name: entry for name, entry in kernels.items()}
    transforms = {"rfft2": forward, "irfft2": backward, "ifft": "inverse transform", "irfft": "inverse transform",
                  "irfftn": "inverse transform", "rfft": "second transform", "fft": "second transform"}
    found.update({"%s:%s" % (fft.__name__, name): (stage, fft_cost(name)) for name, stage in transforms.items()})
    found.update({
        ENGINE + "backend:Backend.to_device": (TO_DEVICE, upload_cost),
        ENGINE + "backend:Backend.to_host": (TO_HOST, download_cost),
        ENGINE + "backend:CudaBackend.to_host": (TO_HOST, download_cost),
        ENGINE + "subtomo:slices": ("crop", slices_cost),
        ENGINE + "subtomo:_spread": ("window, 3D CTF", volumes_3d_ctfs_cost),
        ENGINE + "subtomo:reconstruct_subtomos": ("host", nothing),
        ENGINE + "pseudosubtomo:windows": ("host", nothing),
        ENGINE + "pseudosubtomo:_circled": ("host", nothing),
        ENGINE + "pseudosubtomo:extract_stacks": ("factors", stacks_cost),
        ENGINE + "pseudosubtomo:extract_volumes": ("factors", volumes_cost),
        ENGINE + "rows:RowSampler.__init__": ("filter tables (host)", nothing),
        ENGINE + "rows:RowSampler._tables": ("filter tables (host)", nothing),
        ENGINE + "rows:RowSampler.fill": ("padding, host", fill_cost),
        ENGINE + "tomogram:_Work._back_project": ("host", nothing),
        ENGINE + "tomogram:_Work._finished": ("halves (host)", nothing),
    })
    return found


# What is measured -----------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Case:
    """Work that is timed: `make(batch)` gives a function that does it; `per` is a unit of it."""

    name: str
    per: str
    make: Any
    batches: tuple


def particle_cases(args, backend):
    """Sub-tomograms and pseudo-subtomograms, in memory, that all tilts show."""
    sizes, rng = args.sizes, np.random.default_rng(1)
    p, most = sizes.pixel_size, max(max(sizes.batches), sizes.stages_batch)
    made = make_series("noise", sizes.shape, p, 1600.0, sizes.tilts, 0, rng, sizes.box * p)
    # As the export has them after it has turned the images.
    g, ctf = made.geometry.replace(axis=np.full(sizes.tilts, ALONG_X)), made.ctf
    images = rng.standard_normal((sizes.tilts,) + sizes.shape, dtype=np.float32)
    stack = PreparedStack(images, (p, p), np.zeros(sizes.tilts, bool), np.zeros(sizes.tilts, int))
    seen = g.project(rng.uniform(-0.3, 0.3, (most, 3)) * g.volume_size)
    position, depth = stack.position_px(seen.xy), g.hand * seen.depth
    visible, on_device = np.ones(depth.shape, bool), backend.to_device(images)
    plan = subtomo.setup_subtomos(g, ctf, sizes.box, sizes.padded, p, backend)
    other = pseudosubtomo.setup_pseudosubtomos(g, ctf, sizes.window, sizes.box, p, sizes.binning, backend)
    matrix = seen.matrix if len(seen.matrix) == 1 else None

    def views(n):
        return position[:n], depth[:n], seen.matrix[:n] if matrix is None else matrix, visible[:n]

    def subtomos(n):
        return lambda: subtomo.reconstruct_subtomos(on_device, plan, *views(n), backend)

    def volumes(n):
        return lambda: pseudosubtomo.extract_volumes(on_device, other, *views(n), backend)

    def stacks(n):
        at, below, _, shown = views(n)
        return lambda: pseudosubtomo.extract_stacks(on_device, other, at, below, shown, backend)

    yield Case("sub-tomogram + 3D CTF, %d from %d" % (sizes.box, sizes.padded), "particle", subtomos, sizes.batches)
    yield Case("pseudo-subtomogram 3D, %d from %d" % (sizes.box, sizes.window), "particle", volumes, sizes.batches)
    yield Case("pseudo-subtomogram 2D, %d from %d" % (sizes.box, sizes.window), "particle", stacks, sizes.batches)


def tomogram_cases(args, backend):
    """Tomograms with odd and even from prepared images, to the host's memory."""
    sizes, rng = args.sizes, np.random.default_rng(1)
    p = sizes.tomogram_pixel_size
    made = make_series("tomogram", sizes.tomogram, p, sizes.depth * p, sizes.tilts, 0, rng, 40 * p)
    g, ctf = made.geometry, made.ctf
    stack = PreparedStack(rng.standard_normal((sizes.tilts,) + sizes.tomogram, dtype=np.float32), (p, p),
                          np.zeros(sizes.tilts, bool), np.zeros(sizes.tilts, int))
    planned = tomogram.setup_tomogram(g, p, ctf)
    group = odd_even_groups(g.tilt, g.used)

    def make(slabs):
        height = planned.slab_height * planned.n_slabs / slabs
        plan = replace(planned, n_slabs=slabs, slab_height=height)
        return lambda _: lambda: tomogram.reconstruct_tomogram(stack, g, ctf, plan, backend, group=group)

    for slabs, word in ((1, "1 slab"), (4, "4 slabs")):
        yield Case("tomogram %d x %d x %d, odd and even, %s" % (planned.shape[::-1] + (word,)), "tomogram",
                   make(slabs), (1,))


def cases(args, backend):
    yield from particle_cases(args, backend)
    yield from tomogram_cases(args, backend)


def selftest(args, backend, clock):
    """Every kernel against the reference."""
    found = doctor.self_test("cuda:%d" % args.device)
    print("\nKernels against the reference: largest difference, in units of the reference's rms\n")
    table(["kernel", "difference", ""], [[name, "%.1e" % value, "good" if value < doctor.TOLERANCE else "**BAD**"]
                                         for name, value in found.items()])
    bad = [name for name, value in found.items() if not value < doctor.TOLERANCE]
    if bad:
        print("\n**BAD**: %s" % ", ".join(bad))
    return dict(differences=found, bad=bad)


def throughput(args, backend, clock):
    """Units per second for all batch sizes."""
    found, rows = [], []
    for case in cases(args, backend):
        for batch in case.batches:
            calls = max(1, args.sizes.particles // batch) if case.per == "particle" else 1
            once_ = case.make(batch)

            def work(once_=once_, calls=calls):
                for _ in range(calls):
                    once_()

            entry = dict(name=case.name, per=case.per, batch=batch)
            if fits(once_, backend):
                ms, wall = (t / batch / calls for t in timed(work, clock, args.repeats))
                entry.update(ms=ms, wall_ms=wall)
                rows.append([case.name, batch, "%.4g" % ms, "%.4g" % wall, "%.4g" % (1e3 / ms)])
            else:
                rows.append([case.name, batch, "does not fit", "", ""])
            found.append(entry)
            clear(backend)
    print("\nThroughput, in memory; medians of %d\n" % args.repeats)
    table(["what", "batch", "ms each", "wall ms each", "per second"], rows)
    return found


def stages(args, backend, clock):
    """Where the time goes, and how far each stage is from the roofline."""
    found, device = [], limits(args, backend, clock)
    clear(backend)
    print("\nBandwidth %.4g GB/s (triad), peak %.4g TFLOP/s (FP32 product of matrices)" % (
        device["bandwidth"] / 1e9, device["peak"] / 1e12))
    for case in cases(args, backend):
        batch = args.sizes.stages_batch if case.per == "particle" else 1
        while batch > 1 and not fits(case.make(batch), backend):
            batch //= 2
        work, runs = case.make(batch), []
        for n in range(args.repeats + 2):
            with one_thread(), DeviceStages(functions_of(args.sizes, backend.fft), clock) as wrapped:
                clock.wait()
                start = clock.mark()
                work()
                end = clock.mark()
                clock.wait()
            if n > 1:
                one, inside = wrapped.totals()
                whole = clock.ms(start, end)
                one[REST] = dict(ms=whole - inside, bytes=0.0, flops=0.0, doubles=0.0, atomics=0.0)
                runs.append((one, whole))
        entry = dict(name=case.name, per=case.per, batch=batch, device=device, stages={},
                     ms=statistics.median(whole for _, whole in runs) / batch)
        for stage, first in runs[0][0].items():
            values = {key: value / batch for key, value in first.items()}
            values["ms"] = statistics.median(one[stage]["ms"] for one, _ in runs) / batch
            entry["stages"][stage] = values
        report_stages(entry)
        found.append(entry)
    return found


@contextmanager
def one_thread():
    """Tomograms by one thread of the host: those of several have one stream, and stand in each other's stages."""
    threads, tomogram.GPU_THREADS = tomogram.GPU_THREADS, 1
    try:
        yield
    finally:
        tomogram.GPU_THREADS = threads


def report_stages(entry):
    """Print the table of one case, and add each stage's share of the roofline."""
    device, rows = entry["device"], []
    for stage, v in entry["stages"].items():
        memory, arithmetic = v["bytes"] / device["bandwidth"] * 1e3, v["flops"] / device["peak"] * 1e3
        bound = share = ""
        if stage not in (TO_DEVICE, TO_HOST) and max(memory, arithmetic) > 0 and v["ms"] > 0:
            v["roofline"] = max(memory, arithmetic) / v["ms"]
            bound, share = "memory" if memory >= arithmetic else "FLOPs", "%.0f %%" % (100 * v["roofline"])
        per_s = 1e-6 / v["ms"] if v["ms"] > 0 else 0.0
        rows.append([stage, "%.4g" % v["ms"], "%.0f %%" % (100 * v["ms"] / entry["ms"]), "%.4g" % (v["bytes"] / 1e6),
                     "%.4g" % (v["flops"] / 1e6), "%.4g" % (v["doubles"] / 1e6), "%.4g" % (v["bytes"] * per_s),
                     "%.4g" % (v["flops"] * per_s), "%.4g" % (v["atomics"] * per_s), bound, share])
    print("\n%s: per %s, batch %d, %.4g ms\n" % (entry["name"], entry["per"], entry["batch"], entry["ms"]))
    table(["stage", "ms", "of the time", "MB", "MFLOP", "of it double", "GB/s", "GFLOP/s", "Gatomics/s", "bound",
           "of the roofline"], rows)


# Whole jobs -----------------------------------------------------------------------------------------------------------

def in_process(command):
    """Run a job here, for the dry run; what `bench_stages.watch` gives."""
    start = time.perf_counter()
    with redirect_stdout(io.StringIO()):
        status = cli.main([str(c) for c in command[3:]])
    if status:
        raise RuntimeError("failed: " + " ".join(str(c) for c in command))
    return dict(wall=time.perf_counter() - start, cpu=0.0, anonymous_mb=0.0)


def jobs(args, backend, clock):
    """Whole jobs as a user runs them, from files to files."""
    found, verb, sizes = [], [sys.executable, "-m", "tomoexport"], args.sizes
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        if args.shim:
            data = Path(scratch) / "data"
            subprocess.run(verb + ["simulate", "--preset", "tiny", "--output", data], check=True,
                           stdout=subprocess.DEVNULL)
            pixels, launch = (8.0, 16.0), in_process
        else:
            data, pixels, launch = standard_job(args.data), (sizes.pixel_size, sizes.tomogram_pixel_size), watch
        particles = ["--tomograms", data / "tomograms.star", "--particles", data / "particles.star"]
        box = ["--box", sizes.window, "--crop", sizes.box, "--binning", 1 if args.shim else sizes.binning]
        sides = (sizes.box, sizes.window)
        commands = {
            "subtomo, box %d, %g A" % (sizes.box, pixels[0]): [
                "subtomo", *particles, "--pixel-size", pixels[0], "--box", sizes.box],
            "pseudosubtomo, 2D, %d from %d" % sides: ["pseudosubtomo", *particles, *box],
            "pseudosubtomo, 3D, %d from %d" % sides: ["pseudosubtomo", *particles, *box, "--no-stack2d"],
            "particle, %d from %d" % sides: ["particle", *particles, *box],
            "reconstruct, %g A, odd, even and full" % pixels[1]: [
                "reconstruct", *particles[:2], "--halves", "--pixel-size", pixels[1]]}
        devices = ["cuda:%d" % args.device] if args.shim else ["cuda:%d" % args.device, "cpu"]
        for name, command in commands.items():
            runs = {device: [] for device in devices}
            for _ in range(args.job_repeats + 1):  # the first one compiles, and reads the images
                for device in devices:
                    with tempfile.TemporaryDirectory(dir=scratch) as output:
                        runs[device].append(launch(verb + command + [
                            "--device", device, "--threads", args.threads, "--output", output]))
            found += [dict(name=name, device=device, first=own[0], runs=own[1:]) for device, own in runs.items()]
    print("\nWhole jobs as processes, from files to files, in turns; median (range) of %d\n" % args.job_repeats)
    table(["job", "device", "first run, wall s", "wall s", "CPU s", "peak anonymous memory MB"],
          [[job["name"], job["device"], "%.3g" % job["first"]["wall"]] + [
              middle([r[key] for r in job["runs"]]) for key in ("wall", "cpu", "anonymous_mb")] for job in found])
    return found


# The peer -------------------------------------------------------------------------------------------------------------

def own_subtomos(args, backend, clock):
    """Seconds per particle of our side on a data set, and the results."""
    data, g, ctf = load(args.worker[1])
    p, box, n = g.pixel_size, int(data["box"]), len(data["position"])
    stack = PreparedStack(data["images"], (p, p), np.zeros(g.n_tilts, bool), np.zeros(g.n_tilts, int))
    images, seen = backend.to_device(data["images"]), g.project(data["position"])
    plan = subtomo.setup_subtomos(g, ctf, box, args.sizes.padded, p, backend)
    position, depth, visible = stack.position_px(seen.xy), g.hand * seen.depth, np.ones(seen.depth.shape, bool)

    def work():
        made = []
        for i in range(0, n, args.batch):
            some = slice(i, i + args.batch)
            matrix = seen.matrix if len(seen.matrix) == 1 else seen.matrix[some]
            made.append(subtomo.reconstruct_subtomos(images, plan, position[some], depth[some], matrix, visible[some],
                                                     backend))
        clock.wait()
        return made

    work()
    seconds = [wall_time(work) for _ in range(args.repeats)]
    return dict(per_particle=statistics.median(seconds) / n), dict(
        zip(("volumes", "transfer"), (np.concatenate([backend.to_host(a) for a in part]) for part in zip(*work()))))


def own_tomogram(args, backend, clock):
    """Seconds of our side on a data set, for one map and with halves, from images in memory to the host's memory."""
    data, g, ctf = load(args.worker[1])
    p, images, group = g.pixel_size, data["images"], odd_even_groups(g.tilt, g.used)
    plan = tomogram.setup_tomogram(g, p, ctf)

    def work(halves):
        stack = prepare_stack(lambda t: images[t].copy(), ["image %d" % t for t in range(len(images))], p, p,
                              invert=False, threads=backend.threads)
        return tomogram.reconstruct_tomogram(stack, g, ctf, plan, backend, group=group if halves else None)

    seconds = []
    for halves in (False, True):
        work(halves)
        seconds.append(statistics.median(wall_time(work, halves) for _ in range(args.repeats)))
    return dict(seconds=seconds), dict(tomogram=work(False)[0])


def wall_time(work, *given):
    start = time.perf_counter()
    work(*given)
    return time.perf_counter() - start


def worker(args, backend, clock):
    """Our side of one run against the peer, in a process of its own."""
    keep_freed_memory()  # as every job does
    kind, _, out = args.worker
    figures, results = {"subtomo": own_subtomos, "tomogram": own_tomogram}[kind](args, backend, clock)
    np.savez(out, **results)
    print(json.dumps(figures))


def peer(args, backend, clock):
    """The same work by warpylib on the same GPU, in turns."""
    theirs = [peer_python(), HERE / "peer_warpylib.py", "--threads", args.threads]
    theirs += ["--device", "cpu" if args.shim else "cuda:%d" % args.device]
    ours = [sys.executable, __file__, "--device", args.device, "--threads", args.threads, "--repeats", args.repeats,
            "--batch", args.batch] + ["--shim"] * args.shim
    sizes, result = args.sizes, {}
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        folder = Path(folder)
        data, own, out = folder / "data.npz", folder / "own.npz", folder / "out.npz"
        bench_subtomo.noise_data(data, sizes.shape, sizes.box, sizes.pixel_size, sizes.peer_particles, sizes.tilts, 1)
        commands = {}
        for oversampling, batch in ((1, args.peer_batch), (2, 1), (2, args.peer_batch)):
            commands["oversampling %d, batch %d" % (oversampling, batch)] = theirs + [
                "subtomo", data, out, "--batch", batch, "--oversampling", oversampling, oversampling]
        pairs = alternate(ours + ["--worker", "subtomo", data, own], commands, args.pairs, args.threads)
        rows = []
        for name, found in pairs.items():
            mine = [1e3 * m["per_particle"] for m, _ in found]
            other = [1e3 * sum(t["seconds"]) / sizes.peer_particles for _, t in found]
            rows.append([name, middle(other), middle(mine), middle([t / m for t, m in zip(other, mine)])])
        print("\nSub-volume and 3D CTF, ms per particle, ours in batches of %d; median (range) of %d pairs\n" % (
            args.batch, args.pairs))
        table(["warpylib with", "warpylib", "tomoexport", "ratio"], rows)
        result["subtomo"] = dict(pairs=pairs, agreement=agreement(own, out, ("volumes", "transfer")))

        options = SimpleNamespace(pixel_size=sizes.tomogram_pixel_size, tilts=sizes.tilts, seed=1)
        shape = tuple(max(n, 130) for n in sizes.tomogram)  # above the peer's padding
        bench_tomogram.noise_data(data, options, shape, sizes.depth * sizes.tomogram_pixel_size)
        commands = {"batch %d" % n: theirs + ["tomogram", data, out, "--batch", n] for n in (8, args.tile_batch)}
        pairs = alternate(ours + ["--worker", "tomogram", data, own], commands, args.pairs, args.threads)
        rows = []
        for name, found in pairs.items():
            other = [t["seconds"][0] for _, t in found]
            for i, what in enumerate(("one map", "full, odd and even")):
                mine = [m["seconds"][i] for m, _ in found]
                rows.append([name, middle(other), what, middle(mine), middle([t / m for t, m in zip(other, mine)])])
        print("\nTomogram %d x %d x %d, s, prepared and in the host's memory; median (range) of %d pairs\n" % (
            shape[::-1] + (sizes.depth, args.pairs)))
        table(["warpylib with", "warpylib", "tomoexport", "", "ratio"], rows)
        result["tomogram"] = dict(pairs=pairs, agreement=agreement(own, out, ("tomogram",)))
    print("\nagreement: %s" % json.dumps({name: one["agreement"] for name, one in result.items()}))
    return result


def agreement(own, out, names):
    """Correlation of both sides' last results: that both did the work, not how well."""
    found = {}
    with np.load(own) as ours, np.load(out) as theirs:
        for name in names:
            a, b, mask = ours[name], theirs[name], None
            if a.shape != b.shape:
                found[name] = "shapes %s and %s" % (a.shape, b.shape)
                continue
            if name == "volumes":
                mask = np.broadcast_to(sphere(a.shape[-1], 28 / 64 * a.shape[-1], dtype=bool), a.shape)
            found[name] = correlation(a, b, mask)
    return found


# Command --------------------------------------------------------------------------------------------------------------

def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=int, default=0, help="number of the GPU")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="all of %s by default" % ", ".join(PARTS))
    parser.add_argument("--repeats", type=int, default=5, help="runs of each case, of which the median is taken")
    parser.add_argument("--batches", type=int, nargs="+", help="of the throughput; %s by default" % (Sizes.batches,))
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side against warpylib")
    parser.add_argument("--batch", type=int, default=64, help="our particles of one call, against warpylib")
    parser.add_argument("--peer-batch", type=int, default=16, help="warpylib's, beside 1")
    parser.add_argument("--tile-batch", type=int, default=32, help="warpylib's tiles of one call, beside its default 8")
    parser.add_argument("--threads", type=int, default=available_cores(), help="of the host, on both sides")
    parser.add_argument("--data", default=str(STANDARD), help="folder of the standard job's data, made if absent")
    parser.add_argument("--job-repeats", type=int, default=3)
    parser.add_argument("--scratch", help="folder for what is written and deleted; the system's by default")
    parser.add_argument("--json", help="write the figures here as well")
    parser.add_argument("--shim", action="store_true", help="dry run on the CPU, without warpylib unless --only peer")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.sizes = SMALL if args.shim else Sizes()
    if args.batches:
        args.sizes = replace(args.sizes, batches=tuple(args.batches))
    with tempfile.TemporaryDirectory() as folder:
        backend, clock = choose(args, folder)
        if args.worker:
            return worker(args, backend, clock)
        return measure(args, backend, clock)


def measure(args, backend, clock):
    """All parts; exit status 1 if one of them failed."""
    keep_freed_memory()  # as every job does
    parts = args.only or (PARTS[:-1] if args.shim else PARTS)
    result = dict(machine=dict(machine(), **describe(args, backend)),
                  arguments=dict(vars(args), sizes=vars(args.sizes)), failed=[])
    print(", ".join("%s %s" % item for item in result["machine"].items()))
    for name in parts:
        try:
            result[name] = globals()[name](args, backend, clock)
            clear(backend)
        except (Exception, SystemExit) as error:  # of a child, or a GPU on which something does not work
            if not isinstance(error, SystemExit):
                traceback.print_exc()
            print("\n**%s failed**: %s" % (name, error))
            result["failed"].append(name)
        if args.json:
            Path(args.json).write_text(json.dumps(result, indent=1) + "\n")
    finish(args.json, result)
    if result["failed"] or result.get("selftest", {}).get("bad"):
        sys.exit(1)


if __name__ == "__main__":
    main()
