"""The device that numbers are computed on, chosen once and passed as a value."""

import ctypes
import logging
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft

from ..errors import BackendError

log = logging.getLogger(__name__)


def available_cores():
    """Cores that this process may use, as its affinity mask says.

    Returns
    -------
    int
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Backend:
    """Where arrays live and which functions work on them.

    Attributes
    ----------
    name : str
        'numpy' (readable reference), 'cpu' (Numba) or 'cuda'.
    xp : module
        numpy or cupy.
    fft : module
        scipy.fft or cupyx.scipy.fft; both keep single precision.
    threads : int
        CPU threads for work that is parallel over particles or tilts.
    device : int
        CUDA device number; 0 on the CPU.
    why : str
        How `auto` came to this choice.
    """

    name: str
    xp: Any = np
    fft: Any = scipy.fft
    threads: int = 1
    device: int = 0
    why: str = ""

    @property
    def on_gpu(self):
        """Whether arrays live on a GPU."""
        return self.name == "cuda"

    def activate(self):
        """Make the device the one that the calling thread works on; CUDA remembers it thread by thread."""
        if self.on_gpu and hasattr(self.xp, "cuda"):
            self.xp.cuda.Device(self.device).use()

    def to_device(self, array):
        """Copy a host array to the device; on the CPU the array itself.

        Parameters
        ----------
        array : ndarray

        Returns
        -------
        ndarray or cupy.ndarray
        """
        return self.xp.asarray(array)

    def to_host(self, array):
        """Copy a device array to the host; on the CPU the array itself.

        Parameters
        ----------
        array : ndarray or cupy.ndarray

        Returns
        -------
        ndarray
        """
        return array.get() if hasattr(array, "get") else array

    def free_bytes(self):
        """Free memory of the device.

        Returns
        -------
        int
            Bytes; of a GPU with what CuPy's pool holds unused.
        """
        if self.on_gpu:
            pool = self.xp.get_default_memory_pool()
            return self.xp.cuda.Device(self.device).mem_info[0] + pool.free_bytes()
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def is_out_of_memory(self, error):
        """Tell whether an exception says that the device's memory is used up.

        Parameters
        ----------
        error : Exception

        Returns
        -------
        bool
            False on the CPU.
        """
        return self.on_gpu and type(error).__name__ == "OutOfMemoryError"

    def release(self):
        """Give cached device memory back, so that it can be had in other pieces."""
        if self.on_gpu:
            self.xp.get_default_memory_pool().free_all_blocks()

    def describe(self):
        """The backend for logs.

        Returns
        -------
        str
            One line.
        """
        where = "GPU %d" % self.device if self.on_gpu else "CPU, %d threads" % self.threads
        return "%s%s" % (where, " (%s)" % self.why if self.why else "")


def keep_freed_memory():
    """Let this process keep freed memory for its next arrays instead of returning it to the system.

    Every particle needs the same few megabytes; having them faulted in anew each time costs as much as the
    arithmetic.  Only glibc has the two switches; elsewhere nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD


def select_backend(device="auto", threads=0):
    """Choose the device.

    Parameters
    ----------
    device : str
        'auto' takes a GPU only if a transform and a kernel really run on it; 'cpu'; 'numpy' for the readable
        reference; 'cuda' or 'cuda:N' insist on a GPU.
    threads : int
        CPU threads, 0 for all that the process may use.

    Returns
    -------
    Backend

    Raises
    ------
    BackendError
        If a GPU was asked for by name and cannot be used, or the name is unknown.
    """
    threads = int(threads) or available_cores()
    if device == "numpy":
        return Backend("numpy", threads=threads)
    if device == "cpu":
        return Backend("cpu", threads=threads)
    if device == "auto" or device == "cuda" or device.startswith("cuda:"):
        number = device.partition(":")[2] or "0"
        if not number.isdigit():
            raise BackendError("--device: %r is no device number. Use cuda:0, cuda:1 ..." % number)
        try:
            return _cuda(int(number), threads)
        except Exception as error:  # whatever CuPy, the driver or the compiler raises
            reason = "%s: %s" % (type(error).__name__, str(error).strip().splitlines()[0] if str(error) else "")
            if device != "auto":
                raise BackendError("--device %s: the GPU cannot be used (%s). `tomoexport doctor` says more; --device "
                                   "cpu needs no GPU." % (device, reason)) from error
            if isinstance(error, ModuleNotFoundError):
                reason = "CuPy is not installed"
        log.info("computing on the CPU: %s", reason)
        return Backend("cpu", threads=threads, why=reason)
    raise BackendError("--device: %r is unknown. Use auto, cpu, cuda or cuda:N" % device)


def _cuda(number, threads):
    """Return a CUDA backend after a real transform and a real kernel gave the right numbers."""
    import cupy
    import cupyx.scipy.fft as fft

    from .kernels import gpu
    with cupy.cuda.Device(number):
        probe = cupy.arange(256, dtype=cupy.float32)
        if abs(float(fft.rfft(probe)[0].real) - 32640.0) > 1.0:
            raise BackendError("the GPU's Fourier transform is wrong")
        patches = gpu.crop(probe.reshape(1, 16, 16), cupy.zeros((1, 1, 2), cupy.int32), 4)
        if float(patches[0, 0, 3, 3]) != 51.0:
            raise BackendError("the GPU's kernels are wrong")
        cupy.cuda.Device(number).use()
    return Backend("cuda", cupy, fft, threads, number)
