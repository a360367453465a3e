"""Matching of two particle sets, and removal of duplicates."""
import itertools
import tracemalloc

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from tomoexport.engine import matching
from tomoexport.engine.matching import duplicates, match, nearest, pairs_within
from tomoexport.errors import InputError

SEEDS = (1, 2, 3)


def two_sets(seed, n_old=1500, n_new=2100, true=900, side=3000.0, displacement=10.0):
    """Random particles, the first `true` of which are in both sets, displaced; then both sets are shuffled.

    Returns old `(N, 3)`, new `(M, 3)`, and for each old one its true partner, or -1.
    """
    rng = np.random.default_rng(seed)
    old, new = rng.uniform(0, side, (n_old, 3)), rng.uniform(0, side, (n_new, 3))
    direction = rng.normal(size=(true, 3))
    direction /= np.linalg.norm(direction, axis=1)[:, None]
    new[:true] = old[:true] + direction * rng.uniform(0, displacement, (true, 1))
    a, b = rng.permutation(n_old), rng.permutation(n_new)
    truth = np.where(np.arange(n_old) < true, np.argsort(b)[np.minimum(np.arange(n_old), n_new - 1)], -1)
    return old[a], new[b], truth[a]


def saturated(old, new, tolerance):
    """The least sum of min(distance, tolerance), from the dense matrix."""
    cost = np.minimum(cdist(old, new), tolerance)
    return cost[linear_sum_assignment(cost)].sum()


def total(old, new, distance, tolerance):
    """The same sum of a result: particles of the smaller set without partner cost the tolerance."""
    paired = np.isfinite(distance)
    return distance[paired].sum() + tolerance * (min(len(old), len(new)) - paired.sum())


@pytest.mark.parametrize("seed", SEEDS)
def test_true_pairs_are_found_that_the_other_order_of_operations_loses(seed):
    old, new, truth = two_sets(seed)
    found = {method: int(((match(old, new, 60.0, method)[0] == truth) & (truth >= 0)).sum())
             for method in ("gated", "warp")}
    assert (truth >= 0).sum() == 900
    assert found["gated"] >= 898
    assert found["gated"] > found["warp"]


@pytest.mark.parametrize("seed", SEEDS)
def test_warp_is_the_dense_assignment_and_then_the_tolerance(seed):
    old, new, _ = two_sets(seed)
    cost = cdist(old, new)
    i, j = linear_sum_assignment(cost)
    keep = cost[i, j] <= 60.0 + 1e-6
    expected = np.full(len(old), -1)
    expected[i[keep]] = j[keep]
    partner, distance = match(old, new, 60.0, "warp")
    assert np.array_equal(partner, expected) and 0 < keep.sum() < len(i)
    np.testing.assert_allclose(distance[i[keep]], cost[i, j][keep], rtol=1e-12)
    assert np.isinf(distance[partner < 0]).all()


@pytest.mark.parametrize("distance, kept", [(10.0 + 5e-7, True), (10.0 + 2e-6, False)])
def test_warp_keeps_a_millionth_more_than_the_tolerance(distance, kept):
    assert (match([[0, 0, 0]], [[distance, 0, 0]], 10.0, "warp")[0][0] == 0) == kept
    assert match([[0, 0, 0]], [[distance, 0, 0]], 10.0)[0][0] == -1


@pytest.mark.parametrize("tolerance", [10.0, 60.0, 150.0, 400.0, 1e5])
@pytest.mark.parametrize("swapped", [False, True])
def test_components_give_the_dense_optimum(tolerance, swapped):
    """From pairs alone, over a graph in one piece, to every particle near every other."""
    old, new, _ = two_sets(5, 220, 300, 150, side=1000.0)
    if swapped:
        old, new = new, old
    partner, distance = match(old, new, tolerance)
    assert total(old, new, distance, tolerance) == pytest.approx(saturated(old, new, tolerance), abs=1e-4)
    paired = np.flatnonzero(partner >= 0)
    assert len(set(partner[paired])) == len(paired) > 0
    np.testing.assert_allclose(distance[paired], np.linalg.norm(old[paired] - new[partner[paired]], axis=1))
    assert distance[paired].max() <= tolerance


def test_large_components_are_solved_sparse_and_alike(monkeypatch):
    old, new, _ = two_sets(6, 700, 900, 400, side=600.0)
    dense = match(old, new, 60.0)
    assert total(old, new, dense[1], 60.0) == pytest.approx(saturated(old, new, 60.0), abs=1e-4)
    calls = []
    solve = matching.min_weight_full_bipartite_matching
    monkeypatch.setattr(matching, "_DENSE", 0)
    monkeypatch.setattr(matching, "min_weight_full_bipartite_matching", lambda t: calls.append(t) or solve(t))
    for a, b in ((old, new), (new, old)):
        sparse = match(a, b, 60.0)
        assert total(a, b, sparse[1], 60.0) == pytest.approx(total(old, new, dense[1], 60.0), abs=1e-4)
    assert calls and min(t.shape[0] for t in calls) > 1


def test_many_particles_need_neither_a_dense_matrix_nor_long():
    """A graph in one large piece: four neighbours within the tolerance on average. Dense, it would be 3.8 GB."""
    old, new, truth = two_sets(7, 20_000, 24_000, 10_000, side=1750.0)
    assert pairs_within(old, new, 60.0) > 3 * len(old)
    tracemalloc.start()
    partner, distance = match(old, new, 60.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6
    pairs = truth >= 0
    best = np.linalg.norm(old[pairs] - new[truth[pairs]], axis=1).sum() + 60.0 * (~pairs).sum()
    assert total(old, new, distance, 60.0) < best
    assert (partner == truth)[pairs].mean() > 0.97  # among so many, some strangers are nearer


@pytest.mark.parametrize("method", ["gated", "warp"])
@pytest.mark.parametrize("grid", [False, True])
def test_the_order_of_the_input_makes_no_difference(method, grid):
    old, new, _ = two_sets(8, 150, 200, 90, side=500.0)
    if grid:  # many equal distances
        old, new = (np.unique(np.round(x / 50) * 50, axis=0) for x in (old, new))
    rng = np.random.default_rng(0)
    partner, distance = match(old, new, 75.0, method)
    for _ in range(5):
        a, b = rng.permutation(len(old)), rng.permutation(len(new))
        shuffled, distances = match(old[a], new[b], 75.0, method)
        back = np.where(shuffled >= 0, b[shuffled], -1)
        assert np.array_equal(back, partner[a])
        assert np.array_equal(distances, distance[a])
    assert 20 < (partner >= 0).sum() < len(old)


def test_points_that_coincide_are_told_apart_by_their_ids():
    old, new = np.zeros((2, 3)), np.zeros((3, 3))
    assert list(match(old, new, 5.0, old_id=[7, 9], new_id=[3, 1, 2])[0]) == [1, 2]
    assert list(match(old, new, 5.0, old_id=[9, 7], new_id=[3, 1, 2])[0]) == [2, 1]


def test_ties_go_to_the_nearest_pair():
    """On a line, two assignments cost the same: 2 + 2, or 1 + 3."""
    partner, distance = match([[0, 0, 0], [1, 0, 0]], [[2, 0, 0], [3, 0, 0]], 50.0)
    assert list(partner) == [1, 0] and list(distance) == [3.0, 1.0]


def test_a_hopeless_pair_costs_no_true_one():
    """The sum of distances is less for 0-9 and 10-25, of which none is within 5 A."""
    old, new = [[0, 0, 0], [10, 0, 0]], [[9, 0, 0], [25, 0, 0]]
    assert list(match(old, new, 5.0)[0]) == [-1, 0]
    assert list(match(old, new, 5.0, "warp")[0]) == [-1, -1]


def test_limits():
    points, nobody = np.random.default_rng(9).uniform(0, 100, (6, 3)), np.zeros((0, 3))
    for a, b in ((points, nobody), (nobody, points), (nobody, nobody)):
        partner, distance = match(a, b, 10.0)
        assert len(partner) == len(distance) == len(a) and (partner == -1).all()
    assert (match(points, points, 0.0)[0] == -1).all()
    assert list(match(points, points, 1e-9)[0]) == list(range(6))
    # At the very tolerance is within it.
    assert match([[0, 0, 0]], [[3, 0, 0]], 3.0)[0][0] == 0 and match([[0, 0, 0]], [[3, 0, 0]], 2.999)[0][0] == -1
    # Without limit it is the assignment by distance.
    others = points[::-1] + [50.0, 0, 0]
    i, j = linear_sum_assignment(cdist(points, others))
    assert list(match(points, others, np.inf)[0]) == list(j)
    assert (match(np.zeros((4, 3)), np.zeros((2000, 3)), np.inf)[0] >= 0).all()


@pytest.mark.parametrize("arguments, words", [
    (([[0, 0, np.nan]], [[0, 0, 0]], 1.0), "old particle 1.*not finite"),
    (([[0, 0, 0]], [[0, 0, 0], [np.inf, 0, 0]], 1.0), "new particle 2.*not finite"),
    (([[0, 0, 0]], [[0, 0, 0]], -1.0), "tolerance: -1.0 is not possible"),
    (([[0, 0, 0]], [[0, 0, 0]], np.nan), "tolerance: nan is not possible"),
    (([[0, 0, 0]], [[0, 0, 0]], 1.0, "best"), "best is not known.*gated or warp"),
])
def test_wrong_input_is_named(arguments, words):
    with pytest.raises(InputError, match=words):
        match(*arguments)


def lattice(radius):
    """Vertices of an icosahedron and the middles of its edges on a sphere: 42 points, as on a small capsid."""
    golden = (1 + 5 ** 0.5) / 2
    corners = np.array([np.roll((0, a, b * golden), k) for a, b in itertools.product((-1, 1), repeat=2)
                        for k in range(3)])
    edge = np.linalg.norm(corners[:, None] - corners, axis=-1)
    middles = [(corners[i] + corners[j]) / 2 for i, j in np.argwhere(np.isclose(edge, 2.0)) if i < j]
    points = np.concatenate([corners, middles])
    return radius * points / np.linalg.norm(points, axis=1)[:, None]


def picks(seed=10, n=6000, radius=500.0):
    """Picks all over a sphere, which score the better the nearer they are to the lattice."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, 3))
    points *= (radius + rng.normal(0, 3.0, (n, 1))) / np.linalg.norm(points, axis=1)[:, None]
    return points, 1.0 - nearest(points, lattice(radius))[0] / radius


def test_an_oversampled_sphere_comes_down_to_its_lattice():
    points, score = picks()
    known = lattice(500.0)
    assert len(known) == 42 and nearest(known)[0].min() > 260
    kept = duplicates(points, 230.0, score)
    distance, index = nearest(points[kept], known)
    assert kept.sum() == 42 and sorted(index) == list(range(42))
    assert distance.max() < 30
    # Without scores it is as sparse, but somewhere else.
    assert nearest(points[duplicates(points, 230.0)], known)[0].max() > 100


@pytest.mark.parametrize("distance", [20.0, 50.0, 230.0])
@pytest.mark.parametrize("scored", [True, False])
def test_who_is_kept(distance, scored):
    points, score = picks(n=2000)
    kept = duplicates(points, distance, score if scored else None)
    assert nearest(points[kept])[0].min() >= distance
    # Everyone else has a better one, which is kept, within the distance.
    gaps = cdist(points[~kept], points[kept]) < distance
    better = score[kept] > score[~kept][:, None] if scored else np.array(
        [[tuple(p) < tuple(q) for p in points[kept]] for q in points[~kept]])
    assert (gaps & better).any(axis=1).all()


@pytest.mark.parametrize("scored", [True, False])
def test_duplicates_do_not_depend_on_the_order(scored):
    points, score = picks(n=1500)
    points = np.concatenate([points, points[:50]])  # some twice
    score = np.round(np.concatenate([score, score[:50]]), 2) if scored else None  # and many alike
    ids = np.arange(len(points))
    kept = duplicates(points, 60.0, score, ids)
    order = np.random.default_rng(1).permutation(len(points))
    assert np.array_equal(duplicates(points[order], 60.0, None if score is None else score[order], ids[order]),
                          kept[order])


def test_limits_of_duplicates():
    line = np.array([[0.0, 0, 0], [10.0, 0, 0], [20.0, 0, 0]])
    assert list(duplicates(line, 10.0)) == [True] * 3  # at the very distance they are not closer
    assert list(duplicates(line, 10.001)) == [True, False, True]
    assert list(duplicates(line, 10.001, [1, 2, 1])) == [False, True, False]
    assert list(duplicates(line, 10.001, [np.nan, np.nan, 1])) == [True, False, True]
    assert list(duplicates(line, 10.001, [1, np.nan, np.nan])) == [True, False, True]
    assert list(duplicates(np.zeros((3, 3)), 5.0, [0, 2, 1])) == [False, True, False]
    assert list(duplicates(np.zeros((3, 3)), 0.0)) == [True] * 3
    assert len(duplicates(np.zeros((0, 3)), 5.0)) == 0
    with pytest.raises(InputError, match="distance: -1.0"):
        duplicates(line, -1.0)


def test_nearest():
    distance, index = nearest([[0, 0, 0], [1, 0, 0], [5, 0, 0]])
    assert list(distance) == [1, 1, 4] and list(index) == [1, 0, 1]
    distance, index = nearest(np.zeros((2, 3)))
    assert list(distance) == [0, 0] and sorted(index) == [0, 1] and index[0] == 1
    assert np.isinf(nearest(np.zeros((1, 3)))[0]).all()
    assert np.isinf(nearest(np.zeros((2, 3)), np.zeros((0, 3)))[0]).all()
