"""Point groups: laws of groups, RELION's own matrices, and sums that are turned."""

import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from tomoexport.engine.particlesum import symmetrised
from tomoexport.engine.phantom import chiral_phantom
from tomoexport.engine.symmetry import point_group
from tomoexport.errors import InputError

ORDERS = {"C1": 1, "c2": 2, "C6": 6, "D2": 4, "D7": 14, "T": 12, "O": 24, "I": 60, "I1": 60, "I2": 60, "I3": 60,
          "I4": 60}


@pytest.mark.parametrize("name", ORDERS)
def test_groups_are_closed(name):
    group = point_group(name)
    assert len(group) == ORDERS[name] and np.allclose(group[0], np.eye(3))
    assert np.allclose(np.linalg.det(group), 1) and np.allclose(group @ group.transpose(0, 2, 1), np.eye(3))
    products = np.einsum("aij,bjk->abik", group, group).reshape(-1, 9)
    assert all(np.abs(group.reshape(-1, 9) - p).max(axis=1).min() < 1e-9 for p in products)


@pytest.mark.relion
@pytest.mark.parametrize("name", [n for n in ORDERS if n != "c2"])
def test_groups_are_relions(name):
    if shutil.which("relion_refine") is None:
        pytest.skip("relion_refine is not in the PATH")
    text = subprocess.run(["relion_refine", "--sym", name, "--print_symmetry_ops"], stdout=subprocess.PIPE,
                          text=True, check=False).stdout
    theirs = [np.array(block.split()[:9], float).reshape(3, 3) for block in re.split(r"R\(\d+\)=", text)[1:]]
    ours = point_group(name)
    assert len(theirs) == len(ours)
    assert max(min(np.abs(a - b).max() for b in theirs) for a in ours) < 1e-4


@pytest.mark.parametrize("name", ["", "C0", "C", "D", "X2", "I5", "C-2", "T2"])
def test_other_names_are_refused(name):
    with pytest.raises(InputError, match="no point group"):
        point_group(name)


def test_sums_are_turned_about_the_centre():
    """A map that is added in all orientations is the sum of objects that are: made by turning their atoms."""
    phantom, group = chiral_phantom(80.0, 20), point_group("C3")
    phantom = replace(phantom, sigma=0 * phantom.sigma + 6.0)  # nothing in the corners beyond Nyquist's frequency
    volume = phantom.volume(40, 4.0)
    turned = sum(replace(phantom, centre=phantom.centre @ r.T).volume(40, 4.0) for r in group)
    weight = np.abs(np.fft.rfftn(np.fft.ifftshift(volume)))
    data, other = symmetrised(volume, weight, group)
    assert np.abs(data - turned).max() < 2e-3 * turned.max()
    # The weight obeys the symmetry, too: a further turn changes nothing where it is smooth.
    again = symmetrised(data, other, group)
    assert np.abs(again[0] / 3 - data).max() < 2e-3 * data.max()
    assert np.corrcoef((again[1] / 3).ravel(), other.ravel())[0, 1] > 0.995
    assert symmetrised(volume, weight, group[:1])[0] is volume
