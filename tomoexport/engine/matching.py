"""Which particles of two sets are the same ones, and which of one set are the same particle picked twice.

Everything here concerns one tilt series. Results do not depend on the order of the points: they are sorted first, by
x, y, z and, where they coincide, by the ids given.
"""

from typing import Optional, Tuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from ..errors import InputError

WARP_SLACK = 1e-6  # angstrom; M keeps pairs up to this beyond the tolerance
_DENSE = 1 << 18  # cells of a cost matrix that are quicker filled than avoided
_TIE = 1e-9  # of the tolerance: what the rule for ties may cost per pair


def match(old: ArrayLike, new: ArrayLike, tolerance: float, method: str = "gated", old_id: Optional[ArrayLike] = None,
          new_id: Optional[ArrayLike] = None) -> Tuple[np.ndarray, np.ndarray]:
    """Find the partner of each particle of one set in another.

    Parameters
    ----------
    old : array_like `(N, 3)`
        Angstrom, in any frame.
    new : array_like `(M, 3)`
        Angstrom, in the same frame.
    tolerance : float
        Angstrom; partners are not farther apart.
    method : {'gated', 'warp'}
        gated: the assignment with the least sum of min(distance, tolerance), so that what is too far away is never
        bought with a pair that is near. Tolerance 0 matches nothing, not even points that coincide. warp: M's order
        of operations, the assignment with the least sum of distances, of which pairs with
        distance <= tolerance + 1e-6 are kept.
    old_id, new_id : array_like `(N,)`, `(M,)` of int, optional
        Decide between points that coincide.

    Returns
    -------
    partner : ndarray `(N,)` of int
        Index into `new`, or -1.
    distance : ndarray `(N,)`
        Angstrom; infinite without partner.

    Raises
    ------
    InputError
        If coordinates or tolerance are no numbers, or the method is another one.

    Notes
    -----
    The saturated cost makes pairs beyond the tolerance as dear as no pair at all, so the problem falls apart, exactly,
    into the connected components of the graph of pairs within it. Before, pairs are chosen that no competitor can
    outdo: they gain more, of the tolerance, than the best others of both their ends together. Of assignments with the
    same sum the one with the nearest pairs is taken; among equal distances points that come first in the sorted order
    go first.
    """
    old, new = _points(old, "old"), _points(new, "new")
    if not tolerance >= 0:
        raise InputError("tolerance", "%r is not possible" % (tolerance,), "Give 0 or a positive number of angstrom")
    a, b = _sorted(old, old_id), _sorted(new, new_id)
    if method == "warp":
        i, j, d = _assigned_first(old[a], new[b], tolerance)
    elif method == "gated":
        i, j, d = _gated_first(old[a], new[b], tolerance)
    else:
        raise InputError("matching", "%s is not known" % (method,), "Choose gated or warp")
    partner, distance = np.full(len(old), -1), np.full(len(old), np.inf)
    partner[a[i]], distance[a[i]] = b[j], d
    return partner, distance


def pairs_within(old: ArrayLike, new: ArrayLike, tolerance: float) -> int:
    """Count the pairs that `match` has to consider: what its memory depends on.

    Parameters
    ----------
    old : array_like `(N, 3)`
    new : array_like `(M, 3)`
    tolerance : float
        In the unit of the points.

    Returns
    -------
    int
    """
    old, new = _points(old, "old"), _points(new, "new")
    if not len(old) or not len(new):
        return 0
    return int(cKDTree(old).count_neighbors(cKDTree(new), tolerance))


def duplicates(position: ArrayLike, distance: float, score: Optional[ArrayLike] = None,
               ids: Optional[ArrayLike] = None) -> np.ndarray:
    """Reduce particles that were picked several times to one each.

    The particle with the best score is kept, all that are closer to it than the distance go, and so on with the best
    of the rest.

    Parameters
    ----------
    position : array_like `(N, 3)`
        Angstrom, in any frame.
    distance : float
        Angstrom. No two particles that are kept are closer than this; 0 keeps all.
    score : array_like `(N,)`, optional
        The higher, the better; what is not a number comes last. Without it, and between equal scores, the sorted order
        decides.
    ids : array_like `(N,)` of int, optional
        Decide between points that coincide.

    Returns
    -------
    ndarray `(N,)` of bool
        True for those kept.

    Raises
    ------
    InputError
        If coordinates or the distance are no numbers.
    """
    position = _points(position, "particle")
    if not distance >= 0:
        raise InputError("distance", "%r is not possible" % (distance,), "Give 0 or a positive number of angstrom")
    order = _sorted(position, ids)
    if score is not None:
        score = np.asarray(score, np.float64)
        worse = np.where(np.isnan(score), np.inf, -score)
        order = order[np.argsort(worse[order], kind="stable")]
    kept, waiting = np.zeros(len(position), bool), np.ones(len(position), bool)
    if not len(position):
        return kept
    tree = cKDTree(position)
    for i in order:
        if waiting[i]:
            kept[i] = True
            near = np.array(tree.query_ball_point(position[i], distance), int)
            # The tree counts those at the very distance as well.
            waiting[near[np.sqrt(((position[near] - position[i]) ** 2).sum(axis=1)) < distance]] = False
            waiting[i] = False
    return kept


def nearest(position: ArrayLike, others: Optional[ArrayLike] = None) -> Tuple[np.ndarray, np.ndarray]:
    """The distance from each particle to the nearest one of another set, or of its own.

    Parameters
    ----------
    position : array_like `(N, 3)`
    others : array_like `(M, 3)`, optional
        By default the other particles of the same set.

    Returns
    -------
    distance : ndarray `(N,)`
        In the unit of the points; infinite where there is no other one.
    index : ndarray `(N,)` of int
        Of the nearest; M, or N, where there is none.
    """
    position = _points(position, "particle")
    if others is not None:
        others = _points(others, "other")
        if not len(others):
            return np.full(len(position), np.inf), np.zeros(len(position), int)
        return cKDTree(others).query(position)
    if len(position) < 2:
        return np.full(len(position), np.inf), np.full(len(position), len(position))
    distance, index = cKDTree(position).query(position, k=2)
    # Of points that coincide, the tree may name the other one first.
    own = index[:, 1] == np.arange(len(position))
    return distance[:, 1], np.where(own, index[:, 0], index[:, 1])


def _points(values: ArrayLike, name: str) -> np.ndarray:
    points = np.asarray(values, np.float64).reshape(-1, 3)
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(bad):
        raise InputError("%s particle %d" % (name, bad[0] + 1), "its coordinates are not finite numbers (%d particles)"
                         % len(bad), "Correct or remove the rows")
    return points


def _sorted(points: np.ndarray, ids: Optional[ArrayLike]) -> np.ndarray:
    """Indices that sort points by x, y, z, then id."""
    keys = (points[:, 2], points[:, 1], points[:, 0])
    return np.lexsort(keys if ids is None else (np.asarray(ids),) + keys)


def _assigned_first(old: np.ndarray, new: np.ndarray, tolerance: float) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs `i, j, distance` of the assignment by distance that lie within the tolerance."""
    cost = cdist(old, new)
    i, j = linear_sum_assignment(cost)
    d = cost[i, j]
    keep = d <= tolerance + WARP_SLACK
    return i[keep], j[keep], d[keep]


def _gated_first(old: np.ndarray, new: np.ndarray, tolerance: float) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs `i, j, distance` of the assignment by min(distance, tolerance)."""
    n, m = len(old), len(new)
    nothing = np.zeros(0, int), np.zeros(0, int), np.zeros(0)
    if not n or not m or tolerance == 0:
        return nothing
    both = np.concatenate([old, new])
    # Beyond the extent of the points no tolerance makes a difference.
    tolerance = min(float(tolerance), 1.0 + 1.001 * float(np.linalg.norm(np.ptp(both, axis=0))))
    pairs = cKDTree(old).sparse_distance_matrix(cKDTree(new), tolerance, output_type="ndarray")
    if not len(pairs):
        return nothing
    order = np.lexsort((pairs["j"], pairs["i"]))
    i, j, d = pairs["i"][order], pairs["j"][order], pairs["v"][order]
    # In units of the tolerance, and a little concave: of equal sums the one with the nearest pairs is the least, and
    # any pair is less than none.
    gain = d / tolerance
    gain = 1.0 - gain + _TIE * gain * gain
    chosen = np.zeros(len(d), bool)
    left = _choose_sure(i, j, gain, chosen)
    i_left, j_left = i[left], n + j[left]
    label = connected_components(coo_matrix((np.ones(len(left), np.int8), (i_left, j_left)), (n + m, n + m)),
                                 directed=False)[1][i_left]
    by_label = np.argsort(label, kind="stable")
    for part in np.split(left[by_label], np.flatnonzero(np.diff(label[by_label])) + 1) if len(left) else ():
        chosen[part[_component(i[part], j[part], gain[part])]] = True
    return i[chosen], j[chosen], d[chosen]


def _choose_sure(i: np.ndarray, j: np.ndarray, gain: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Choose pairs that gain more than the best of all others at both of their ends together: they are part of every
    best assignment. Marks them in `chosen` and returns the places of pairs that compete still."""
    left = np.arange(len(gain))
    while len(left):
        rows, columns, g = i[left], j[left], gain[left]
        sure = g > _best_other(rows, g) + _best_other(columns, g)
        if not sure.any():
            break
        chosen[left[sure]] = True
        left = left[~(np.isin(rows, rows[sure]) | np.isin(columns, columns[sure]))]
    return left


def _best_other(ends: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """For each pair, the largest gain of the other pairs at this end; 0 without any."""
    order = np.lexsort((-gain, ends))
    first = np.flatnonzero(np.diff(ends[order], prepend=-1))
    count = np.diff(np.append(first, len(order)))
    best = np.repeat(gain[order[first]], count)
    best[first] = np.where(count > 1, gain[order[np.minimum(first + 1, len(order) - 1)]], 0.0)
    out = np.empty(len(gain))
    out[order] = best
    return out


def _component(i: np.ndarray, j: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Places of the chosen pairs among the pairs of one component."""
    rows, i = np.unique(i, return_inverse=True)
    columns, j = np.unique(j, return_inverse=True)
    if len(rows) > len(columns):
        rows, i, columns, j = columns, j, rows, i
    n, m = len(rows), len(columns)
    if n * m <= max(_DENSE, 4 * len(gain)):
        table, place = np.zeros((n, m)), np.full((n, m), -1)
        table[i, j], place[i, j] = -gain, np.arange(len(gain))
        place = place[linear_sum_assignment(table)]
        return place[place >= 0]
    # Every row may also stay alone. A cost of 0 would count as missing.
    own = np.arange(n)
    table = csr_matrix((np.concatenate([2.0 - gain, np.full(n, 2.0)]),
                        (np.concatenate([i, own]), np.concatenate([j, m + own]))), (n, m + n))
    row, column = min_weight_full_bipartite_matching(table)
    partner = np.full(n, -1)
    partner[row] = column
    return np.flatnonzero(partner[i] == j)
