"""Point groups by the names and axes of RELION and Heymann's conventions."""

import re
from typing import Dict, Tuple

import numpy as np
from scipy.spatial.transform import Rotation

from ..errors import InputError

_GOLDEN = (1 + 5 ** 0.5) / 2
_Generators = Tuple[Tuple[int, Tuple[float, float, float]], ...]
#: Orders and axes (xyz) that generate a group.
_GENERATORS: Dict[str, _Generators] = {
    "T": ((3, (0, 0, 1)), (2, (0, 2 ** 0.5, 1))),
    "O": ((3, (1, 1, 1)), (4, (0, 0, 1))),
    "I1": ((2, (0, 0, 1)), (5, (0, 1, _GOLDEN))),
    "I2": ((2, (0, 0, 1)), (5, (1, 0, _GOLDEN))),
    "I3": ((5, (0, 0, 1)), (2, (-1, 0, _GOLDEN))),
    "I4": ((5, (0, 0, 1)), (2, (1, 0, _GOLDEN)))}
_ORDERS = {"T": 12, "O": 24, "I1": 60, "I2": 60, "I3": 60, "I4": 60}


def point_group(name: str) -> np.ndarray:
    """Rotations of a point group.

    Parameters
    ----------
    name : str
        C1, C2, ..., D1, D2, ..., T, O, I (the same as I2), I1, I2, I3 or I4, in any case.

    Returns
    -------
    ndarray `(G, 3, 3)`
        The identity first.

    Raises
    ------
    InputError
        For another name.

    Notes
    -----
    C and D have their main axis along z, D a twofold axis along x. T has a threefold axis along z, O fourfold ones
    along the axes. I1 and I2 have twofold axes along x, y and z, and a fivefold one at (0, 1, 1.618) or (1, 0, 1.618);
    I3 and I4 have a fivefold axis along z and a twofold one at (-1, 0, 1.618) or (1, 0, 1.618). Heymann, Chagoyen and
    Belnap, J. Struct. Biol. 151 (2005) 196.
    """
    word = str(name).strip().upper()
    match = re.fullmatch(r"([CD])([1-9]\d{0,2})", word)
    key = "I2" if word == "I" else word
    generators: _Generators
    if match:
        kind, n = match.group(1), int(match.group(2))
        generators, order = ((n, (0, 0, 1)),) + (((2, (1, 0, 0)),) if kind == "D" else ()), n * (1 + (kind == "D"))
    elif key in _GENERATORS:
        generators, order = _GENERATORS[key], _ORDERS[key]
    else:
        raise InputError("--symmetry", "%s is no point group" % name,
                         "Use C1, C2, ..., D2, ..., T, O, I1, I2, I3 or I4")
    steps = [Rotation.from_rotvec(np.array(axis) / np.linalg.norm(axis) * 2 * np.pi / n).as_matrix()
             for n, axis in generators]
    group = [np.eye(3)]
    for member in group:  # grows until it is closed
        for step in steps:
            product = step @ member
            if not any(np.allclose(product, other, atol=1e-6) for other in group):
                group.append(product)
        assert len(group) <= order
    assert len(group) == order
    return np.array(group)
