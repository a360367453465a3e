"""Tell what this installation can do: versions, GPU, a self-test of the kernels, and what would help."""

import importlib
import platform
import shutil
import subprocess
import sys

import numpy as np

from .. import __version__
from ..engine.backend import available_cores, select_backend
from ..engine.gridding import grid_size, kernel_table
from ..engine.kernels import implementation
from ..errors import TomoexportError

PACKAGES = ("numpy", "scipy", "numba", "mrcfile", "emtable", "matplotlib", "pyworkflow", "pwem", "tomo", "cupy")


def report():
    """Examine the installation.

    Returns
    -------
    lines : list of str
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
    for device in ["cpu"] + (["cuda"] if backend.on_gpu else []):
        try:
            error = self_test(device)
            good = error < 1e-5
            lines.append("self-test     %s kernels: largest difference %.1e of the rms: %s"
                         % (device, error, "good" if good else "BAD"))
        except TomoexportError as problem:
            good = False
            lines.append("self-test     %s kernels: %s" % (device, problem))
        healthy &= good
    if not backend.on_gpu:
        lines.append("to use a GPU  " + gpu_command())
    return lines, healthy


def self_test(device):
    """Largest difference between a device's gridding and the reference's, in units of the reference's rms."""
    rng = np.random.default_rng(0)
    box, tilts = 16, 5
    grid = grid_size(box)
    shape = (2, tilts, box, box // 2 + 1)
    data = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    planes = np.linalg.qr(rng.standard_normal((1, tilts, 3, 3)))[0][..., :2] * (grid / box)
    arguments = (data, np.abs(data), np.ascontiguousarray(planes), np.array(kernel_table(box, grid)))
    expected = implementation("numpy").insert_slices(*arguments, grid)
    backend = select_backend(device)
    got = implementation(backend).insert_slices(*(backend.to_device(a) for a in arguments), grid)
    return float(np.abs(expected - backend.to_host(got)).max() / np.sqrt(np.mean(expected ** 2)))


def gpu_command():
    """The one command that would add the GPU, or why there is none."""
    if shutil.which("nvidia-smi") is None:
        return "no NVIDIA driver was found on this machine (nvidia-smi is absent)"
    text = subprocess.run(["nvidia-smi"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    version = text.partition("CUDA Version:")[2].split()[:1]
    if not version:
        return "the NVIDIA driver does not answer: " + text.strip().splitlines()[-1]
    major = int(version[0].split(".")[0])
    limit = ",<14" if int(np.__version__.split(".")[0]) < 2 else ""
    return '%s -m pip install "cupy-cuda%dx>=12%s"' % (sys.executable, min(max(major, 11), 13), limit)
