"""The CUDA source compiled by a C++ compiler, behind the host code of `kernels.gpu`."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np

from tomoexport.engine.kernels import gpu


def compiler():
    """Path of a C++ compiler, or None."""
    return shutil.which("g++") or shutil.which("clang++")


class ShimRuntime:
    """Runs the kernels of `kernels.cu` on NumPy arrays."""

    xp = np

    def __init__(self, folder):
        source = folder / "kernels.cpp"
        source.write_text('#include "%s"\n#include "%s"\n' % (Path(__file__).with_name("kernels_shim.h"), gpu.SOURCE))
        library = folder / "kernels.so"
        subprocess.run([compiler(), "-O2", "-Wall", "-Wno-unknown-pragmas", "-shared", "-fPIC", "-o", str(library),
                        str(source)], check=True, capture_output=True, text=True)
        self.library = ctypes.CDLL(str(library))

    def launch(self, name, count, *arguments):
        """Run a kernel; arrays must be contiguous, as CUDA needs them."""
        def plain(a):
            if isinstance(a, (int, np.integer)):
                return ctypes.c_int(int(a))
            assert a.flags.c_contiguous, "%s was given an array with gaps" % name
            return ctypes.c_void_p(a.ctypes.data)
        getattr(self.library, name)(*(plain(a) for a in arguments))
