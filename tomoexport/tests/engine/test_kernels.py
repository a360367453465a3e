"""The three implementations of every kernel agree, and the CUDA source compiles."""

import ctypes
import glob
import importlib.util
import os

import numpy as np
import pytest

from tomoexport.engine.gridding import grid_size, kernel_table
from tomoexport.engine.kernels import NAMES, gpu, implementation, reference

TOLERANCE = 1e-5  # of the reference's rms


def have_gpu():
    try:
        import cupy
        return cupy.cuda.runtime.getDeviceCount() > 0
    except Exception:
        return False


@pytest.fixture(params=["numpy", "cpu", pytest.param("cuda-source-on-cpu", marks=pytest.mark.compiler),
                        pytest.param("cuda", marks=pytest.mark.gpu)])
def kernels(request, monkeypatch):
    if request.param == "cuda-source-on-cpu":
        runtime = request.getfixturevalue("shim_runtime")
        monkeypatch.setattr(gpu, "runtime", lambda: runtime)
        return gpu, np
    if request.param == "cuda":
        if not have_gpu():
            pytest.skip("no CUDA GPU with CuPy on this machine")
        import cupy
        return gpu, cupy
    return implementation(request.param), np


def cases():
    """Arguments of every kernel: odd and even sizes, windows that leave the image, particles apart and together."""
    rng = np.random.default_rng(5)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    n, t, s = 3, 5, 16
    spectrum = lambda: (normal(n, t, s, s // 2 + 1) + 1j * normal(n, t, s, s // 2 + 1)).astype(np.complex64)  # noqa
    origin = rng.integers(-30, 55, (n, t, 2)).astype(np.int32)
    out = [("crop", (normal(t, 41, 50), origin, 16)), ("crop", (normal(t, 12, 9), origin, 20))]
    half = (s, s // 2 + 1)
    for mode in (0, 1, 2):
        out.append(("modulate", (spectrum(), rng.uniform(-.5, .5, (t,) + half).astype(np.float32),
                                 rng.uniform(-1e-3, 1e-3, half).astype(np.float32),
                                 rng.uniform(-1000, 1000, (n, t)).astype(np.float32),
                                 rng.uniform(-.5, .5, (n, t, 2)).astype(np.float32),
                                 rng.uniform(0, 1, (t,) + half).astype(np.float32), rng.random((n, t)) > .2, mode)))
        out.append(("modulate_parts", (spectrum(),) + out[-1][1][1:]))
    out.append(("join_parts", (normal(2, s // 2 + 1, 3, n, t, s // 2 + 1), normal(*half), normal(*half))))
    grid = grid_size(s)
    for count, magnification in ((1, 1.0), (n, 1.0), (1, 1.2)):
        planes = magnification * np.linalg.qr(rng.standard_normal((count, t, 3, 3)))[0][..., :2]
        out.append(("insert_slices", (spectrum(), normal(n, t, *half), np.ascontiguousarray(planes) * (grid / s),
                                      np.array(kernel_table(s, grid)), grid)))
    cells = reference.insert_slices(*out[-1][1])
    out.append(("fold_grid", (cells, grid)))
    for length, used in ((20, 20), (40, 37), (9, 5)):
        start = np.r_[0, np.cumsum(rng.integers(0, 4, 30))].astype(np.int32)
        out.append(("spread_rows", (normal(n, 7, length), start, rng.integers(0, 7, start[-1]).astype(np.int32),
                                    normal(start[-1]), used)))
    out += [("circle", (3 + normal(n, t, rows, 20), 1e3 + normal(n, t), radius, 4.0, size, rolled, scale))
            for rows, radius, size, rolled, scale in ((20, 8.0, 16, False, 1.0), (16, 7.3, 20, True, 2.5),
                                                      (14, 6.0, 14, True, 1.0))]
    for count in (1, n):
        planes = np.ascontiguousarray(np.linalg.qr(rng.standard_normal((count, t, 3, 3)))[0][..., :2])
        out.append(("insert_linear", (spectrum(), normal(n, t, *half), planes * 0.75, np.array([8.0, 7.5, -1, 8, 3]),
                                      12)))
    out.append(("fold_linear", (reference.insert_linear(*out[-1][1]), 12)))
    out.append(("fold_linear", (normal(n, 14, 14, 7, 4), 10, 0.4)))
    position, slab = rng.uniform(-.6, .6, (t, 3)), rng.uniform(-.1, .1, (t, 3))
    position[:, 0], slab[:, 0] = 12, 1
    group = np.array([0, 1, 0, 1, 1], np.int32)
    out.append(("backproject", (normal(t, 3, 30, 20), position, slab, group, 2, 9, 24)))
    out.append(("project", (normal(9, 20, 24), position, 30)))
    for phases, length in ((1, 32), (2, 26)):
        offset = rng.uniform(-.2, .2, (t, 3))
        offset[:, 0], offset[0] = 5, (phases, 0, 0)
        out.append(("backproject_sheared", (normal(t, 3, 30, phases, length), position, offset, slab, group, 2,
                                            (9, 20, 24))))
        out.append(("project_sheared", (normal(9, 20, 24), position, offset, (30, phases, length))))
    spectrum = np.fft.rfft2(normal(14, 18)).astype(np.complex64)
    for mode in (0, 1, 2, 3):
        out.append(("weigh", (spectrum, np.array([1 / 140, 1 / 180]), normal(14), normal(10),
                              rng.uniform(0, 1, (3, 50)).astype(np.float32), np.array([5000.0, 800, 1200]),
                              rng.uniform(-1, 1, (2, 2)), np.array([-200.0, 30, -220, 90, -.3, -.01]),
                              np.array([-900.0, 0, 1500]), mode, (20, 24))))
    out.append(("resample", (normal(2, 40, 37), np.array([-3.0173, 30.0291]), np.array([[.513, .907], [.811, -.617]]),
                             np.array(kernel_table(8, 10)),
                             np.empty((2, 50, 45), np.float32))))
    return out


def tensors(values, xp):
    return [xp.asarray(v.copy()) if isinstance(v, np.ndarray) else v for v in values]


@pytest.mark.parametrize("index", range(len(cases())), ids=lambda i: "%s-%d" % (cases()[i][0], i))
def test_kernel_agrees_with_reference(kernels, index):
    module, xp = kernels
    name, arguments = cases()[index]
    expected_arguments, arguments = tensors(arguments, np), tensors(arguments, xp)
    expected = getattr(reference, name)(*expected_arguments)
    got = getattr(module, name)(*arguments)
    pairs = list(zip(expected, got)) if isinstance(expected, tuple) else [(expected, got)]
    if name == "modulate":  # changes its first argument
        pairs.append((expected_arguments[0], arguments[0]))
    for a, b in pairs:
        b = b.get() if hasattr(b, "get") else b
        assert b.dtype == a.dtype and b.shape == a.shape
        assert np.abs(a - b).max() <= TOLERANCE * np.sqrt(np.mean(np.abs(a) ** 2))


def gapped(array, xp):
    """The same values with another order of axes in memory, as CuPy's transforms leave them."""
    if getattr(array, "ndim", 0) < 2:
        return array
    return xp.swapaxes(xp.ascontiguousarray(xp.swapaxes(array, -1, -2)), -1, -2)


@pytest.mark.parametrize("kernels", [pytest.param("cuda-source-on-cpu", marks=pytest.mark.compiler),
                                     pytest.param("cuda", marks=pytest.mark.gpu)], indirect=True)
@pytest.mark.parametrize("index", range(len(cases())), ids=lambda i: "%s-%d" % (cases()[i][0], i))
def test_what_a_gpu_reads_may_have_gaps(kernels, index):
    module, xp = kernels
    name, arguments = cases()[index]
    plain, given = tensors(arguments, xp), [gapped(a, xp) for a in tensors(arguments, xp)]
    if name == "modulate":
        with pytest.raises(ValueError, match="gaps"):
            getattr(module, name)(*given)
        given[0] = xp.ascontiguousarray(given[0])
    expected, got = getattr(module, name)(*plain), getattr(module, name)(*given)
    for a, b in zip(*([r] if not isinstance(r, tuple) else r for r in (expected, got))):
        # Where thousands of threads add to one cell, the order of the sums is not that of another run.
        assert float(abs(a - b).max()) <= TOLERANCE * float((abs(a) ** 2).mean()) ** 0.5


def test_every_kernel_is_compared():
    assert {name for name, _ in cases()} == set(NAMES)


def nvrtc_library():
    """Path of NVRTC from the CUDA toolkit or its pip package, or None."""
    places = []
    for package in ("nvidia.cuda_nvrtc", "nvidia.cu13"):
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            continue
        for root in (spec.submodule_search_locations or []) if spec else []:
            places += glob.glob(os.path.join(root, "lib", "libnvrtc.so*"))
    return next(iter(sorted(p for p in places if "builtins" not in p)), None)


@pytest.mark.compiler
def test_cuda_source_compiles_with_nvrtc():
    path = nvrtc_library()
    if path is None:
        pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc-cu12")
    nvrtc = ctypes.CDLL(path)
    program = ctypes.c_void_p()
    text = gpu.SOURCE.read_bytes()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, b"kernels.cu", 0, None, None) == 0
    options = (ctypes.c_char_p * 2)(b"--gpu-architecture=compute_75", b"--std=c++11")
    status = nvrtc.nvrtcCompileProgram(program, 2, options)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    message = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, message)
    assert status == 0, message.value.decode()
    nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetPTX(program, ptx)
    for name in NAMES:
        assert b".entry " + name.encode() in ptx.raw
