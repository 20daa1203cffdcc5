"""The distance of two points after the units of the hidden layers have been matched.

A point is a list of layers (W, b), W (out, in), b (out,) or None. With the other layers held, the best map of a layer's
units is a linear assignment, or for orthogonal maps a polar factor (Schönemann 1966, "A generalized solution of the
orthogonal Procrustes problem"). Ainsworth, Hayase & Srinivasa (2023), "Git Re-Basin: merging models modulo permutation
symmetries".
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Point = Sequence[tuple[Array, Array | None]]


def distance(a: Point, b: Point) -> float:
    """‖θ_a - θ_b‖ as they are."""
    total = 0.0
    for (weight, bias), (other, other_bias) in zip(a, b, strict=True):
        total += float(np.sum(np.square(weight - other)))
        if bias is not None and other_bias is not None:
            total += float(np.sum(np.square(bias - other_bias)))
    return total**0.5


def aligned_distance(a: Point, b: Point, units: str, enough: float) -> float:
    """An upper bound of min_g ‖θ_a - g θ_b‖ over the maps g of the units; the minimum for one hidden layer.

    First each layer's units are matched by ``_words``, whatever the other layers'; then one layer after the other with
    its neighbours held, forth and back while that helps. It stops at a distance of ``enough``.
    """
    if units == "none" or len(a) == 1:
        return distance(a, b)
    hidden = list(range(len(a) - 1))
    moved, best = list(b), float("inf")
    if len(hidden) > 1:
        for m, (ours, theirs) in enumerate(zip(_words(a), _words(b), strict=True)):
            moved = _moved(moved, m, _match(ours, theirs, units))
        best = distance(a, moved)
    while best > enough:
        for m in hidden:
            moved = _moved(moved, m, _match(_arcs(a, m), _arcs(moved, m), units))
        now = distance(a, moved)
        if len(hidden) == 1 or not now < best * (1 - 1e-6):
            return min(now, best)
        hidden, best = hidden[::-1], now
    return best


def _moved(point: Point, m: int, map_: Array) -> list[tuple[Array, Array | None]]:
    """The units of hidden layer m mapped by an orthogonal matrix."""
    (weight, bias), (following, following_bias) = point[m], point[m + 1]
    layers = list(point)
    layers[m] = (map_ @ weight, None if bias is None else map_ @ bias)
    layers[m + 1] = (following @ map_.T, following_bias)
    return layers


def _arcs(point: Point, m: int) -> Array:
    """What goes into and out of each unit of hidden layer m, (h, k)."""
    (weight, bias), out = point[m], point[m + 1][0].T
    return np.concatenate([weight, out] if bias is None else [weight, bias[:, None], out], axis=1)


def _words(point: Point) -> list[Array]:
    """For each hidden layer, numbers (h, k) of its units that an orthogonal map of this layer moves as it does the
    units, and one of another layer does not change: F = [W_l F_{l-1}, b_l] from the inputs, B = W_{l+1}ᵀ B_{l+1} from
    the outputs, and both after W_l W_lᵀ and W_{l+1}ᵀ W_{l+1}. Each has the norm 1 or is zero."""
    weights = [_unit(w) for w, _ in point]
    from_inputs, from_outputs = [np.eye(weights[0].shape[1])], [np.eye(len(weights[-1]))]
    for w, (_, bias) in zip(weights[:-1], point[:-1], strict=True):
        moved = _unit(w @ from_inputs[-1])
        from_inputs.append(moved if bias is None else np.concatenate([moved, _unit(bias[:, None])], axis=1))
    for w in weights[:0:-1]:
        from_outputs.insert(0, _unit(w.T @ from_outputs[0]))
    found = []
    for m, (w, v) in enumerate(itertools.pairwise(weights)):
        short = np.concatenate([from_inputs[m + 1], from_outputs[m]], axis=1)
        found.append(np.concatenate([short, _unit(w @ (w.T @ short)), _unit(v.T @ (v @ short))], axis=1))
    return found


def _unit(x: Array) -> Array:
    length = float(np.linalg.norm(x))
    return x / length if length > 0 else x


def _match(ours: Array, theirs: Array, units: str) -> Array:
    """The map T (h, h) that brings T ``theirs`` nearest to ``ours``, both (h, k)."""
    if units == "orthogonal":
        u, _, vt = np.linalg.svd(ours @ theirs.T)
        return np.asarray(u @ vt)
    from scipy.optimize import linear_sum_assignment  # not at the top: a sweep need not wait for SciPy
    from scipy.spatial.distance import cdist

    cost, sign = cdist(ours, theirs, "sqeuclidean"), np.ones((len(ours), len(ours)))
    if units == "odd":
        flipped = cdist(ours, -theirs, "sqeuclidean")
        cost, sign = np.minimum(cost, flipped), np.where(flipped < cost, -1.0, 1.0)
    rows, columns = linear_sum_assignment(cost)
    found = np.zeros_like(sign)
    found[rows, columns] = sign[rows, columns]
    return found
