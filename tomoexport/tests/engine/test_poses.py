"""Orientations: RELION's angles and matrices."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tomoexport.engine.particles import ParticleSet
from tomoexport.engine.poses import is_rotation, matrix_from_zyz, zyz_from_matrix
from tomoexport.errors import InputError


def test_matrix_is_the_inverse_intrinsic_zyz(rng):
    angles = rng.uniform(-180, 180, (20, 3))
    expected = Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix()
    assert np.allclose(matrix_from_zyz(*angles.T), expected)


@pytest.mark.parametrize("tilt", [0.0, 1e-12, 180.0, 90.0, 37.0])
def test_angles_there_and_back(rng, tilt):
    rot, psi = rng.uniform(-180, 180, (2, 10))
    matrix = matrix_from_zyz(rot, np.full(10, tilt), psi)
    assert np.allclose(matrix_from_zyz(*zyz_from_matrix(matrix)), matrix, atol=1e-9)


def test_mirrors_are_no_rotations():
    assert is_rotation(np.eye(3)) and not is_rotation(-np.eye(3)) and not is_rotation(np.eye(3) * 1.01)


def particles(**change):
    values = dict(position=np.zeros((2, 3)), rotation=np.stack([np.eye(3)] * 2), ts=[0, 1], ts_ids=("a", "b"),
                  uid=("a/1", "b/1"), extra={"c": ["x", "y"]})
    return ParticleSet(**dict(values, **change))


def test_F10_duplicate_particle():
    with pytest.raises(InputError, match="a/1.*more than once"):
        particles(uid=("a/1", "a/1"))


def test_F24_mirrored_orientation():
    with pytest.raises(InputError, match="b/1.*no proper rotation"):
        particles(rotation=np.stack([np.eye(3), np.diag([1, 1, -1])]))


def test_a_coordinate_that_is_no_number():
    with pytest.raises(InputError, match="b/1.*finite"):
        particles(position=[[0, 0, 0], [0, np.nan, 0]])


def test_selecting_keeps_every_column():
    one = particles().in_series("b")
    assert one.uid == ("b/1",) and one.extra == {"c": ["y"]} and one.names() == ["b"]
    assert len(particles().in_series("nowhere")) == 0
