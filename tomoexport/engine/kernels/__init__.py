"""The hot kernels, each written three times with one signature.

`reference` is plain NumPy and the specification, `cpu` is Numba, `gpu` is CUDA through CuPy (source in
`kernels.cu`). One parametrised test holds them together.

=====================================  ================================================================================
crop                                   windows of the tilt images, one per particle and tilt
modulate                               CTF, envelope and sub-pixel shift applied to the transforms of those windows
modulate_parts, join_parts             the same in parts that are even or odd along y; parts put together again
circle                                 windows levelled and masked by a circle, and cropped
insert_slices                          scatter of 2D transforms into a 3D Fourier grid with a Kaiser-Bessel kernel
fold_grid                              halo and Hermitian half of that grid brought together
spread_rows                            the same as sums of whole rows, where the tilt axis is an axis of the grid
insert_linear, fold_linear             the same by trilinear interpolation, as RELION 5 does it
weigh                                  all filters of a tilt image, and the CTF of every slab of depth
resample                               images sampled on a slanted lattice
backproject                            tilt images smeared back along the beam, single tilt axis
project                                the adjoint: volumes projected along the beam
backproject_sheared, project_sheared   the same for any geometry, x-tilt included
=====================================  ================================================================================
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any, Union

if TYPE_CHECKING:
    from ..backend import Backend

NAMES = ("crop", "modulate", "modulate_parts", "join_parts", "circle", "insert_slices", "fold_grid", "spread_rows",
         "insert_linear", "fold_linear", "weigh", "resample", "backproject", "backproject_sheared", "project",
         "project_sheared")

#: How the CTF enters: sign only (phase flip), once, not at all, or as a Wiener-like filter.
CTF_MODES = {"phaseflip": 0, "multiply": 1, "none": 2, "wiener": 3}

WIENER_NOISE = 0.1  # 1 / SNR of that filter

#: Cells added around a Fourier grid so that no tap needs a bounds test; enough for kernels up to 6 cells wide.
HALO = 3

MODULES = {"numpy": "reference", "cpu": "cpu", "cuda": "gpu"}


def implementation(backend: Union["Backend", str]) -> ModuleType:
    """The module that implements the kernels for a backend.

    Parameters
    ----------
    backend : Backend or str
        Or its name: 'numpy', 'cpu' or 'cuda'.

    Returns
    -------
    module
    """
    name: Any = getattr(backend, "name", backend)
    return importlib.import_module("." + MODULES[name], __name__)
