"""Trajectories of particles over dose and tilt."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tomoexport.engine.geometry import rotation_y, rotation_z
from tomoexport.engine.particles import ParticleSet
from tomoexport.engine.poses import matrix_from_zyz
from tomoexport.engine.trajectory import TiltTrajectory, Trajectory, normalised_dose
from tomoexport.errors import InputError

DOSE = np.array([40.0, 22.0, 10.0, 13.0, 31.0, 100.0])  # tau 1/3, 2/15, 0, 1/30, 7/30, 1


def monotone_cubic(values, tau):
    """Fritsch and Carlson for one component at equal steps, written out: harmonic means, three-point ends."""
    step = 1 / (len(values) - 1)
    slope = np.diff(values) / step

    def end(first, second):
        d = (3 * first - second) / 2
        if d * first <= 0:
            return 0.0
        return 3 * first if first * second <= 0 and abs(d) > 3 * abs(first) else d
    inner = [2 * a * b / (a + b) if a * b > 0 else 0.0 for a, b in zip(slope, slope[1:])]
    d = [end(slope[0], slope[1])] + inner + [end(slope[-1], slope[-2])]
    i = min(int(tau / step), len(slope) - 1)
    u = tau / step - i
    return (values[i] * (1 + 2 * u) * (1 - u) ** 2 + values[i + 1] * u * u * (3 - 2 * u)
            + step * (d[i] * u * (1 - u) ** 2 + d[i + 1] * u * u * (u - 1)))


def constant(n, samples=1):
    return np.broadcast_to(np.eye(3), (n, samples, 3, 3))


def wobbling(rng, n=4, samples=3):
    """Particles that move and turn a little."""
    first = Rotation.random(n, random_state=5).as_matrix()
    turns = Rotation.from_rotvec(rng.normal(size=(n * samples, 3)) * 0.1).as_matrix().reshape(n, samples, 3, 3)
    return Trajectory(rng.normal(size=(n, samples, 3)) * 50, turns @ first[:, None])


@pytest.mark.parametrize("samples", [3, 4, 7])
def test_positions_follow_a_monotone_cubic(rng, samples):
    values = rng.normal(size=(5, samples, 3)) * 20
    values[0] = np.sort(values[0], axis=0)
    found, _ = Trajectory(values, constant(5)).at(DOSE)
    assert found.shape == (5, 6, 3)
    expected = [[[monotone_cubic(values[n, :, axis], tau) for axis in range(3)] for tau in (DOSE - 10) / 90]
                for n in range(5)]
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_two_samples_are_a_line_and_one_is_constant():
    line = np.array([[[0.0, 10.0, -5.0], [9.0, 10.0, 4.0]]])
    found, _ = Trajectory(line, constant(1)).at(DOSE)
    np.testing.assert_allclose(found[0], line[0, 0] + np.outer((DOSE - 10) / 90, [9, 0, 9]), atol=1e-12)
    still, rotation = Trajectory(line[:, :1], constant(1)).at(DOSE)
    np.testing.assert_array_equal(still, np.broadcast_to(line[:, :1], (1, 6, 3)))
    np.testing.assert_array_equal(rotation, np.broadcast_to(np.eye(3), (1, 6, 3, 3)))


def test_samples_are_met(rng):
    move = wobbling(rng, samples=4)
    position, rotation = move.at([5.0, 20.0, 10.0, 15.0])
    order = [0, 3, 1, 2]
    np.testing.assert_allclose(position, move.position[:, order], atol=1e-12)
    np.testing.assert_allclose(rotation, move.rotation[:, order], atol=1e-12)


def test_positions_and_rotations_may_have_samples_of_their_own(rng):
    move = Trajectory(rng.normal(size=(2, 3, 3)), wobbling(rng, 2, 2).rotation)
    position, rotation = move.at([0.0, 1.0, 2.0])
    np.testing.assert_allclose(position, move.position)
    np.testing.assert_allclose(rotation[:, [0, 2]], move.rotation, atol=1e-12)
    half = Rotation.from_matrix(move.rotation[:, 1] @ np.swapaxes(move.rotation[:, 0], 1, 2)).as_rotvec() / 2
    np.testing.assert_allclose(rotation[:, 1], Rotation.from_rotvec(half).as_matrix() @ move.rotation[:, 0],
                               atol=1e-12)


def test_one_dose_only_is_the_start(rng):
    move = wobbling(rng)
    for dose in ([7.0], [3.0, 3.0, 3.0]):
        position, rotation = move.at(dose)
        np.testing.assert_allclose(position, np.repeat(move.position[:, :1], len(dose), axis=1))
        np.testing.assert_allclose(rotation, np.repeat(move.rotation[:, :1], len(dose), axis=1), atol=1e-12)


def test_angles_that_pass_180_degrees_do_not_go_round():
    """Euler angles of 179 and -179 degrees are 2 apart; half way is 180 and not 0."""
    move = Trajectory(np.zeros((1, 1, 3)), matrix_from_zyz([[0.0, 0.0]], [[60.0, 60.0]], [[179.0, -179.0]]))
    _, rotation = move.at([0.0, 50.0, 100.0])
    np.testing.assert_allclose(rotation[0, 1], matrix_from_zyz(0, 60, 180), atol=1e-9)


def test_a_full_turn_goes_on_and_does_not_turn_back():
    for sign in (1, -1):
        steps = sign * np.array([[0.0, 120.0, 240.0, 360.0, 480.0]])
        move = Trajectory(np.zeros((1, 1, 3)), rotation_z(steps) @ rotation_y(30.0))
        _, rotation = move.at([0.0, 3.5, 4.0, 2.5, 1.5])
        expected = rotation_z(sign * 120.0 * np.array([0, 3.5, 4, 2.5, 1.5])) @ rotation_y(30.0)
        np.testing.assert_allclose(rotation[0], expected, atol=1e-9)


def test_a_turn_that_ends_where_it_began():
    turns = rotation_z(np.array([[0.0, 120.0, 240.0, 0.0]]))
    _, rotation = Trajectory(np.zeros((1, 1, 3)), turns).at([0.0, 5.0, 6.0])
    np.testing.assert_allclose(rotation[0, 1], rotation_z(300.0), atol=1e-9)


def test_a_constant_trajectory_stands_still(rng):
    one = wobbling(rng, samples=1)
    many = Trajectory(np.repeat(one.position, 5, axis=1), np.repeat(one.rotation, 5, axis=1))
    for still, found in zip(one.at(DOSE), many.at(DOSE)):
        np.testing.assert_allclose(found, still, atol=1e-12)


def test_tilts_that_are_asked_for_keep_the_scale_of_all(rng):
    move = wobbling(rng)
    for tilts in ([2, 3, 1], DOSE < 30):
        some, all_ = move.at(DOSE, tilts), move.at(DOSE)
        for a, b in zip(some, all_):
            np.testing.assert_array_equal(a, b[:, tilts])
    assert np.abs(move.at(DOSE, DOSE < 30)[0] - move.at(DOSE[DOSE < 30])[0]).max() > 1


def test_another_point_of_the_particle_is_followed(rng):
    move, shift = wobbling(rng), np.array([5.0, -3.0, 20.0])
    position, rotation = move.at(DOSE)
    moved, turned = move.moved(shift / 2).moved(shift / 2).at(DOSE)
    np.testing.assert_allclose(moved, position + rotation @ shift, atol=1e-12)
    np.testing.assert_array_equal(turned, rotation)
    np.testing.assert_allclose(move.moved(shift).start[0], moved[:, 2], atol=1e-12)  # the lowest dose
    assert np.abs(np.diff(moved - position, axis=1)).max() > 0.1  # it turns with the particle


def test_displacements_are_added_in_every_tilt(rng):
    n, t = 3, len(DOSE)
    position, rotation = rng.normal(size=(n, 3)), Rotation.random(n, random_state=1).as_matrix()
    displacement = rng.normal(size=(n, t, 3))
    move = TiltTrajectory(position, rotation, displacement)
    found, turned = move.at(DOSE)
    np.testing.assert_allclose(found, position[:, None] + displacement)
    np.testing.assert_array_equal(turned, np.repeat(rotation[:, None], t, axis=1))
    np.testing.assert_array_equal(move.at(DOSE, [4, 1])[0], found[:, [4, 1]])
    np.testing.assert_array_equal(move.at(DOSE, DOSE > 20)[1], turned[:, DOSE > 20])
    np.testing.assert_allclose(move.moved([1, 2, 3]).at(DOSE)[0], found + (rotation @ [1, 2, 3])[:, None])
    with pytest.raises(InputError, match="trajectory of particle 1: it has 6 tilts, the tilt series 5"):
        move.at(DOSE[:5])


def test_tilt_series_may_differ_in_their_number_of_tilts():
    move = TiltTrajectory(np.zeros((3, 3)), constant(3)[:, 0], [np.ones((2, 3)), np.full((4, 3), 2.0), np.ones((2, 3))])
    assert move.select(np.array([True, False, True])).at([0, 1])[0].shape == (2, 2, 3)
    assert move.select([1]).at(range(4))[0].max() == 2
    with pytest.raises(InputError, match="particle 2: it has 4 tilts, the tilt series 2"):
        move.at([0, 1])


def particle_set(move, **change):
    position, rotation = move.start
    n = len(move)
    return ParticleSet(**dict(dict(position=position, rotation=rotation, ts=[0, 1, 0, 1][:n], ts_ids=("a", "b"),
                                   uid=tuple("p%d" % i for i in range(n)), trajectory=move), **change))


def test_particles_carry_their_trajectories(rng):
    move = wobbling(rng)
    particles = particle_set(move)
    own = particles.in_series("b")
    np.testing.assert_array_equal(own.trajectory.position, move.position[[1, 3]])
    np.testing.assert_array_equal(own.trajectory.rotation, move.rotation[[1, 3]])
    moved = particles.moved([1.0, 2.0, 3.0])
    np.testing.assert_allclose(moved.trajectory.start[0], moved.position)
    assert np.abs(moved.position - particles.position).max() > 1
    assert particles.prerotated().trajectory is None
    assert len(particles.in_series("nowhere").trajectory.at(DOSE)[0]) == 0
    with pytest.raises(InputError, match="4 trajectories for 3 positions"):
        particle_set(move.select(range(3)), trajectory=move)


def test_displacements_go_with_their_particles(rng):
    displacement = [np.full((2 + i % 2, 3), i) for i in range(4)]
    own = particle_set(TiltTrajectory(np.zeros((4, 3)), constant(4)[:, 0], displacement)).in_series("b")
    np.testing.assert_array_equal(own.trajectory.at([0, 1, 2])[0][:, 0, 0], [1, 3])


@pytest.mark.parametrize("position, rotation, words", [
    (np.zeros((2, 1, 3)), constant(1), "1 rotations for 2 positions"),
    (np.zeros((2, 3)), constant(2), "position has the shape"),
    (np.zeros((2, 0, 3)), constant(2), "no samples"),
    (np.zeros((2, 1, 3)), np.zeros((2, 3, 3)), "rotation has the shape"),
    ([[[0, 0, 0]], [[0, np.nan, 0]]], constant(2), "trajectory of particle 2: its coordinates are not finite"),
    (np.zeros((2, 1, 3)), [[np.eye(3)], [-np.eye(3)]], "trajectory of particle 2: its matrices are no proper")])
def test_F24_what_is_no_trajectory(position, rotation, words):
    with pytest.raises(InputError, match=words):
        Trajectory(position, rotation)


def test_displacements_must_be_numbers_one_row_each():
    with pytest.raises(InputError, match="2 displacements for 1 positions"):
        TiltTrajectory(np.zeros((1, 3)), np.eye(3), [np.zeros((2, 3))] * 2)
    for bad in (np.zeros((2, 2)), np.full((2, 3), np.inf)):
        with pytest.raises(InputError, match="particle 1: it is not three finite numbers"):
            TiltTrajectory(np.zeros((1, 3)), np.eye(3), [bad])


def test_F16_doses_must_be_numbers():
    np.testing.assert_allclose(normalised_dose([3.0, 1.0, 2.0]), [1.0, 0.0, 0.5])
    assert normalised_dose([]).shape == (0,)
    with pytest.raises(InputError, match="dose of tilt 2: it is no finite number"):
        normalised_dose([0.0, np.nan])
