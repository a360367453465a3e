"""The device that numbers are computed on, chosen once and passed as a value."""

import ctypes
import logging
import os
from dataclasses import dataclass
from typing import Any, List, Optional, Tuple, Union

import numpy as np

from ..errors import BackendError
from . import copies, transforms
from .arrays import Array
from .copies import Direct, Ring

log = logging.getLogger(__name__)

PLANS = 64  # of transforms that are kept: a handful for each size of a batch


def available_cores() -> int:
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
    """Where arrays live and which functions work on them; this one is the host, `CudaBackend` a GPU.

    Attributes
    ----------
    name : str
        'numpy' (readable reference), 'cpu' (Numba) or 'cuda'.
    xp : module
        numpy or cupy.
    fft : module
        `transforms` or cupyx.scipy.fft; both keep single precision.
    threads : int
        CPU threads for work that is parallel over particles or tilts.
    device : int
        CUDA device number; 0 on the CPU.
    why : str
        How `auto` came to this choice.
    """

    name: str
    xp: Any = np
    fft: Any = transforms
    threads: int = 1
    device: int = 0
    why: str = ""

    @property
    def on_gpu(self) -> bool:
        """Whether arrays live on a GPU."""
        return self.name == "cuda"

    def activate(self) -> None:
        """Make the device the one that the calling thread works on; CUDA remembers it thread by thread."""

    def to_device(self, array: np.ndarray) -> Array:
        """Copy a host array to the device; on the CPU the array itself.

        Parameters
        ----------
        array : ndarray

        Returns
        -------
        ndarray or cupy.ndarray
        """
        return self.xp.asarray(array)

    def to_host(self, array: Array) -> np.ndarray:
        """Copy a device array to the host; on the CPU the array itself.

        Parameters
        ----------
        array : ndarray or cupy.ndarray

        Returns
        -------
        ndarray
        """
        return array

    def copies(self, slots: int) -> Union[Direct, Ring]:
        """The way of copying large arrays that suits the device.

        Parameters
        ----------
        slots : int
            Results that may be on their way to the host, or be held there, at the same time.

        Returns
        -------
        copies.Direct or copies.Ring
        """
        return copies.Direct(self)

    def free_bytes(self) -> int:
        """Free memory of the device.

        Returns
        -------
        int
            Bytes.
        """
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def own_memory(self) -> Optional[int]:
        """What is free of a memory that is not the host's.

        Returns
        -------
        int or None
            Bytes; None on the CPU.
        """
        return None

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Tell whether an exception says that the device's memory is used up.

        Parameters
        ----------
        error : Exception

        Returns
        -------
        bool
            False on the CPU.
        """
        return False

    def release(self) -> None:
        """Give cached device memory back, so that it can be had in other pieces."""

    def keep_plans(self) -> None:
        """Keep the calling thread's plans of Fourier transforms, while they take less than half of the free memory."""

    def host(self) -> "Backend":
        """The host's backend with the same threads, for work that is the CPU's on any device.

        Returns
        -------
        Backend
        """
        return Backend("cpu", threads=self.threads) if self.on_gpu else self

    def describe(self) -> str:
        """The backend for logs.

        Returns
        -------
        str
            One line.
        """
        where = "GPU %d" % self.device if self.on_gpu else "CPU, %d threads" % self.threads
        return "%s%s" % (where, " (%s)" % self.why if self.why else "")


@dataclass(frozen=True)
class CudaBackend(Backend):
    """A GPU, by CuPy."""

    name: str = "cuda"

    def activate(self) -> None:
        """See `Backend.activate`."""
        self.xp.cuda.Device(self.device).use()

    def to_host(self, array: Array) -> np.ndarray:
        """See `Backend.to_host`."""
        return array.get() if hasattr(array, "get") else array

    def copies(self, slots: int) -> Ring:
        """See `Backend.copies`."""
        return copies.Ring(copies.CopyStream(self.xp), slots)

    def free_bytes(self) -> int:
        """See `Backend.free_bytes`: with what CuPy's pool holds unused, and no more than it may have.

        The limit is CUPY_GPU_MEMORY_LIMIT.
        """
        pool = self.xp.get_default_memory_pool()
        free = self.xp.cuda.Device(self.device).mem_info[0] + pool.free_bytes()
        limit = pool.get_limit()  # 0 is none
        return min(free, max(0, limit - pool.used_bytes())) if limit else free

    def own_memory(self) -> int:
        """See `Backend.own_memory`."""
        return self.free_bytes()

    def is_out_of_memory(self, error: BaseException) -> bool:
        """See `Backend.is_out_of_memory`."""
        # The two texts: a plan of a transform that the library, or the limit of its cache, has no memory for.
        return (type(error).__name__ == "OutOfMemoryError" or "CUFFT_ALLOC_FAILED" in str(error)
                or "plan memsize is too large" in str(error))

    def release(self) -> None:
        """See `Backend.release`."""
        self.xp.fft.config.get_plan_cache().clear()
        self.xp.get_default_memory_pool().free_all_blocks()

    def keep_plans(self) -> None:
        """See `Backend.keep_plans`."""
        cache = self.xp.fft.config.get_plan_cache()
        cache.set_size(PLANS)
        cache.set_memsize(max(1, (self.free_bytes() + cache.get_curr_memsize()) // 2))


def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next arrays instead of returning it to the system.

    Every particle needs the same few megabytes; having them faulted in anew each time costs as much as the
    arithmetic.  Only glibc has the two switches; elsewhere nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD


def list_gpus() -> List[Tuple[str, int]]:
    """The GPUs that this process sees; their position is their device number.

    Returns
    -------
    list of (str, int)
        Name, and memory in bytes.

    Raises
    ------
    Exception
        Whatever CuPy or the driver raises where they are absent or do not work.
    """
    import cupy
    runtime = cupy.cuda.runtime
    found = [runtime.getDeviceProperties(n) for n in range(runtime.getDeviceCount())]
    return [(p["name"].decode(errors="replace"), int(p["totalGlobalMem"])) for p in found]


def insists_on_gpu(device: str) -> bool:
    """Tell whether a choice of device allows nothing but GPUs.

    Parameters
    ----------
    device : str
        As `select_backends` takes it.

    Returns
    -------
    bool
    """
    return device.partition(":")[0] == "cuda"


def count_devices(device: str) -> int:
    """How many devices a choice takes at most, as far as that can be told without using them.

    Parameters
    ----------
    device : str
        As `select_backends` takes it.

    Returns
    -------
    int
        At least one.
    """
    if device == "cuda:all":
        try:
            return max(1, len(list_gpus()))
        except Exception:  # choosing them tells what is wrong
            return 1
    return device.count(",") + 1


def select_backend(device: str = "auto", threads: int = 0) -> Backend:
    """Choose one device.

    Parameters
    ----------
    device : str
        As `select_backends`, but no list.
    threads : int
        CPU threads, 0 for all that the process may use.

    Returns
    -------
    Backend

    Raises
    ------
    BackendError
        As `select_backends`.
    """
    if "," in device or device == "cuda:all":
        raise BackendError("--device %s: a single device is needed here. Use cuda:N" % device)
    return select_backends(device, threads)[0]


def select_backends(device: str = "auto", threads: int = 0, most: Optional[int] = None) -> List[Backend]:
    """Choose the devices.

    Parameters
    ----------
    device : str
        'auto' takes one GPU, only if a transform and a kernel really run on it; 'cpu'; 'numpy' for the readable
        reference; 'cuda', 'cuda:N', 'cuda:N,M' or 'cuda:all' insist on GPUs.
    threads : int
        CPU threads that the devices share, 0 for all that the process may use.
    most : int, optional
        Take no more devices than this, the first ones.

    Returns
    -------
    list of Backend
        At least one; each has its share of the threads, at least one. No device is made the current one.

    Raises
    ------
    BackendError
        If a GPU was asked for by name and cannot be used or does not exist, or the text has no meaning.
    """
    threads = int(threads) or available_cores()
    if device in ("numpy", "cpu"):
        return [Backend(device, threads=threads)]
    if device == "auto":
        try:
            return [_cuda(0, threads)]
        except Exception as error:  # whatever CuPy, the driver or the compiler raises
            reason = "CuPy is not installed" if isinstance(error, ModuleNotFoundError) else _reason(error)
        log.info("computing on the CPU: %s", reason)
        return [Backend("cpu", threads=threads, why=reason)]
    kind, _, wanted = device.partition(":")
    if kind != "cuda":
        raise BackendError("--device: %r is unknown. Use auto, cpu, cuda, cuda:N, cuda:N,M or cuda:all" % device)
    numbers = _gpu_numbers(device, wanted or "0")[:most]
    shares = [max(1, threads // len(numbers) + (i < threads % len(numbers))) for i in range(len(numbers))]
    backends: List[Backend] = []
    for number, share in zip(numbers, shares):
        try:
            backends.append(_cuda(number, share))
        except Exception as error:
            raise _unusable(device, "GPU %d" % number if len(numbers) > 1 else "the GPU", error) from error
    return backends


def _gpu_numbers(device: str, wanted: str) -> List[int]:
    """Device numbers of a list, which exist and are named once."""
    words = [] if wanted == "all" else [word.strip() for word in wanted.split(",")]
    for word in words:
        if not word.isdecimal():
            raise BackendError("--device %s: %r is no device number. Use cuda:0, cuda:0,1 or cuda:all."
                               % (device, word))
    numbers = [int(word) for word in words]
    for number in numbers:
        if numbers.count(number) > 1:
            raise BackendError("--device %s: GPU %d is named more than once. Name each GPU once." % (device, number))
    try:
        count = len(list_gpus())
    except Exception as error:
        raise _unusable(device, "the GPU", error) from error
    numbers = numbers or list(range(count))
    missing = ", ".join(str(number) for number in numbers if number >= count)
    if missing or not numbers:
        there = "GPU 0 is the only one" if count == 1 else "there are GPUs 0 to %d" % (count - 1)
        raise BackendError("--device %s: %s. `tomoexport doctor` lists them; --device cpu needs none." % (
            device, "there is no GPU %s, %s" % (missing, there) if count else "there is no GPU"))
    return numbers


def _reason(error: BaseException) -> str:
    return "%s: %s" % (type(error).__name__, str(error).strip().splitlines()[0] if str(error).strip() else "")


def _unusable(device: str, which: str, error: BaseException) -> BackendError:
    return BackendError("--device %s: %s cannot be used (%s). `tomoexport doctor` says more; --device cpu needs no GPU."
                        % (device, which, _reason(error)))


def _cuda(number: int, threads: int) -> CudaBackend:
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
    return CudaBackend("cuda", cupy, fft, threads, number)
