"""Tell what this installation can do: versions, GPU, a self-test of the kernels, and what would help."""

import importlib
import platform
import re
import shutil
import subprocess
import sys

import numpy as np

from .. import __version__
from ..engine.backend import available_cores, list_gpus, select_backend
from ..engine.gridding import grid_size, kernel_table, spread_terms
from ..engine.kernels import HALO, implementation
from .plan import size

PACKAGES = ("numpy", "scipy", "numba", "mrcfile", "emtable", "matplotlib", "pyworkflow", "pwem", "tomo", "cupy")
TOLERANCE = 1e-5  # of the reference's rms


def report():
    """Examine the installation.

    Returns
    -------
    lines : list of str
        For people.
    healthy : bool
        False if the self-test of a kernel failed or a needed package is missing.
    """
    lines = ["tomoexport %s, Python %s, %s, %d cores" % (__version__, platform.python_version(), platform.platform(),
                                                          available_cores())]
    healthy = True
    for name in PACKAGES:
        try:
            module = importlib.import_module(name)
            lines.append("%-12s %s" % (name, getattr(module, "__version__", "present")))
        except Exception as error:
            optional = name in ("pyworkflow", "pwem", "tomo", "cupy")
            healthy &= optional
            lines.append("%-12s %s" % (name, "not installed" if isinstance(error, ImportError) else error))
    backend = select_backend("auto")
    lines.append("auto device   %s" % backend.describe())
    try:
        gpus = list_gpus()
    except Exception:  # the line above says why
        gpus = []
    lines += ["cuda:%-8d %s, %s" % (number, name, size(memory)) for number, (name, memory) in enumerate(gpus)]
    for device in ["cpu"] + ["cuda:%d" % number for number in range(len(gpus))]:
        try:
            differences = self_test(device)
            bad = [name for name, value in differences.items() if not value < TOLERANCE]
            good = not bad
            lines.append("self-test     %s: %d kernels, largest difference %.1e of the rms: %s"
                         % (device, len(differences), max(differences.values()),
                            "good" if good else "BAD in " + ", ".join(bad)))
        except Exception as problem:  # a broken compiler, driver or CuPy, which is what the doctor is asked about
            good = False
            lines.append("self-test     %s: %s: %s" % (device, type(problem).__name__, problem))
        healthy &= good
    if not backend.on_gpu:
        lines.append("to use a GPU  " + gpu_command())
    return lines, healthy


def kernel_cases():
    """Small arguments of every kernel, for the self-test.

    Returns
    -------
    dict
        Kernel name to tuple of its arguments, NumPy arrays and ints, as `engine.kernels.reference` describes them.
    """
    rng = np.random.default_rng(0)
    n, t, side = 2, 3, 16
    half, grid = (side, side // 2 + 1), grid_size(side)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    def spectrum():
        return (normal(n, t, *half) + 1j * normal(n, t, *half)).astype(np.complex64)

    planes = np.ascontiguousarray(np.linalg.qr(rng.standard_normal((1, t, 3, 3)))[0][..., :2]) * (grid / side)
    lines, shear = rng.uniform(-.6, .6, (t, 3)), rng.uniform(-.2, .2, (t, 3))
    lines[:, 0], shear[:, 0] = 8, 5  # voxel 0 falls into the images
    slabs, group = rng.uniform(-.1, .1, (t, 3)), np.array([0, 1, 0], np.int32)
    filters = (np.array([1 / 120, 1 / 160]), normal(12), normal(9), rng.uniform(0, 1, (2, 40)).astype(np.float32),
               np.array([4000.0, 800]), rng.uniform(-1, 1, (1, 2)), np.array([-200.0, 30, -220, 90, -.3, -.01]))
    return {
        "crop": (normal(t, 25, 30), rng.integers(-10, 25, (n, t, 2)).astype(np.int32), side),
        "modulate": (spectrum(), rng.uniform(-.5, .5, (t,) + half).astype(np.float32), 3e-4 * normal(*half),
                     1e3 * normal(n, t), normal(n, t, 2), normal(t, *half), np.array([[1, 1, 0], [1, 0, 1]], bool), 1),
        "modulate_parts": (spectrum(), rng.uniform(-.5, .5, (t,) + half).astype(np.float32), 3e-4 * normal(*half),
                           1e3 * normal(n, t), normal(n, t, 2), normal(t, *half), np.ones((n, t), bool), 0),
        "join_parts": (normal(2, half[1], 3, n, t, half[1]), normal(*half), normal(*half)),
        "insert_slices": (spectrum(), normal(n, t, *half), planes, np.array(kernel_table(side, grid)), grid),
        "fold_grid": (normal(n, grid + 2 * HALO, grid + 2 * HALO, grid // 2 + 1 + 2 * HALO, 4), grid),
        "spread_rows": (normal(n, t * side, half[1]),) + spread_terms(normal(t, 2) / 2, side, grid)[:3] + (side // 2,),
        "circle": (3 + normal(n, t, 18, 20), 1e3 + normal(n, t), 8.0, 4.0, 16),
        "insert_linear": (spectrum(), normal(n, t, *half), planes, np.array([8.0, 6.5, 8]), 12),
        "fold_linear": (normal(n, 16, 16, 8, 4), 12),
        "weigh": (np.fft.rfft2(normal(12, 16)).astype(np.complex64),) + filters + (
            np.array([-900.0, 700]), 1, (16, 20)),
        "resample": (normal(2, 30, 27), np.array([-2.017, 22.03]), np.array([[.513, .907], [.811, -.617]]),
                     np.array(kernel_table(side, grid)), np.empty((2, 30, 33), np.float32)),
        "backproject": (normal(t, 2, 24, 10), lines, slabs, group, 2, 7, 12),
        "backproject_sheared": (normal(t, 2, 24, 2, 20), lines, shear, slabs, group, 2, (5, 10, 9)),
        "project": (normal(7, 10, 12), lines, 24),
        "project_sheared": (normal(12, 10, 20), lines, shear, (24, 2, 16)),
    }


def self_test(device):
    """Compare every kernel of a device with the reference.

    Parameters
    ----------
    device : str
        As `select_backend` takes it.

    Returns
    -------
    dict
        Kernel name to largest difference from the reference, in units of the reference's rms; NaN if a result is.

    Raises
    ------
    BackendError
        If the device cannot be used.
    """
    backend = select_backend(device)
    backend.activate()
    differences = {}
    for name, arguments in kernel_cases().items():
        results = []
        for where, kernels in ((None, implementation("numpy")), (backend, implementation(backend))):
            given = [where.to_device(a) if where and isinstance(a, np.ndarray) else a for a in _copies(arguments)]
            made = getattr(kernels, name)(*given)
            made = list(made) if isinstance(made, tuple) else [made]
            if name == "modulate":  # changes its first argument
                made.append(given[0])
            results.append([where.to_host(a) if where else a for a in made])
        differences[name] = max(float(np.abs(a - b).max() / np.sqrt(np.mean(np.abs(a) ** 2)))
                                for a, b in zip(*results))
    return differences


def _copies(arguments):
    return [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]


def gpu_command():
    """Tell how to add a GPU.

    Returns
    -------
    str
        The one command that would add the GPU, or why there is none.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return "no NVIDIA driver was found on this machine (nvidia-smi is absent)"
    try:
        text = subprocess.run([program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=20,
                              encoding="utf-8", errors="replace").stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return "the NVIDIA driver does not answer: %s" % error
    version = re.search(r"CUDA Version:\s*(\d+)", text)
    if not version:
        said = text.strip().splitlines() or ["nvidia-smi printed nothing"]
        return "the NVIDIA driver does not answer: %s" % said[-1]
    limit = ",<14" if int(np.__version__.split(".")[0]) < 2 else ""
    return '%s -m pip install "cupy-cuda%dx>=12%s"' % (sys.executable, min(max(int(version[1]), 11), 13), limit)
