"""The CUDA source compiled by a C++ compiler, behind the host code of `kernels.gpu`."""

import ctypes
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tomoexport.engine import transforms
from tomoexport.engine.backend import Backend, CudaBackend
from tomoexport.engine.kernels import gpu


def compiler():
    """Path of a C++ compiler, or None."""
    return shutil.which("g++") or shutil.which("clang++")


class ShimRuntime(gpu.Runtime):
    """Runs the kernels of `kernels.cu` on NumPy arrays."""

    def __init__(self, folder):
        super().__init__(np)
        source = folder / "kernels.cpp"
        source.write_text('#include "%s"\n#include "%s"\n' % (Path(__file__).with_name("kernels_shim.h"), gpu.SOURCE))
        library = folder / "kernels.so"
        subprocess.run([compiler(), "-O2", "-Wall", "-Wno-unknown-pragmas", "-shared", "-fPIC", "-o", str(library),
                        str(source)], check=True, capture_output=True, text=True)
        self.library = ctypes.CDLL(str(library))

    def start(self, name, count, arrays, numbers):
        """See `Runtime.start`."""
        getattr(self.library, name)(*(ctypes.c_void_p(a.ctypes.data) for a in arrays), *map(ctypes.c_int, numbers))


class CupyTransforms:
    """The engine's transforms with the order in memory that CuPy gives their results.

    Along any axis but the last, CuPy transforms a copy whose last axis that is, and returns a view of it.
    """

    rfft2, irfft2, irfftn = (staticmethod(getattr(transforms, name)) for name in ("rfft2", "irfft2", "irfftn"))

    @staticmethod
    def _along(name):
        def transform(x, *given, axis=-1, **named):
            turned = np.ascontiguousarray(np.swapaxes(x, axis, -1))
            return np.swapaxes(getattr(transforms, name)(turned, *given, axis=-1, **named), axis, -1)
        return staticmethod(transform)


for _name in ("fft", "ifft", "rfft", "irfft"):
    setattr(CupyTransforms, _name, CupyTransforms._along(_name))


@dataclass(frozen=True)
class ShimBackend(Backend):
    """A GPU that the CPU plays."""

    fft: Any = CupyTransforms
    is_out_of_memory = CudaBackend.is_out_of_memory

    def free_bytes(self):
        return 1 << 34

    def release(self):
        pass
