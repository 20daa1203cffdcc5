"""Canonical forms: one point for all those that a continuous symmetry makes the same.

Points are lists of layers (W, b) with W (n, out, in), b (n, out) or None: float64, n points at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Points = list[tuple[Array, Array | None]]

EPS = float(np.finfo(np.float64).eps)
SWEEPS = 2000  # of the balancing, which converges linearly; one is enough for one hidden layer


def _centre(x: Array) -> Array:
    """x (n, C, ...) less its mean over the classes; a constant becomes an exact zero."""
    centred = x - np.mean(x, axis=1, keepdims=True)
    rounding = 4 * EPS * x.shape[1] * np.max(np.abs(x), axis=1, keepdims=True)
    return np.where(np.max(np.abs(centred), axis=1, keepdims=True) <= rounding, 0.0, centred)


def without_shift(points: Points, *, weights: bool) -> Points:
    """The class shift taken out: the last layer's biases, and its ``weights``, have the mean 0 over the classes."""
    weight, bias = points[-1]
    return [*points[:-1], (_centre(weight) if weights else weight, None if bias is None else _centre(bias))]


def without_hidden_biases(points: Points) -> Points:
    """The translations of a linear net's hidden layers taken out: h_l → h_l + t makes every bias but the last 0.

    The last becomes c = b_L + W_L (b_{L-1} + W_{L-1} (...)), the value at x = 0.
    """
    constant = points[0][1]
    if constant is None:
        return points
    for weight, bias in points[1:]:
        constant = np.einsum("nij,nj->ni", weight, constant) + (0.0 if bias is None else bias)
    return [*((weight, np.zeros_like(bias)) for weight, bias in points[:-1]), (points[-1][0], constant)]


def balanced(points: Points) -> Points:
    """The rescalings of the units taken out: the weights into every hidden unit have the norm of those out of it.

    This is the point of least norm ‖θ‖ that positive rescalings reach, and the only one (the norm is a sum of
    exponentials in the logarithms of the scales, and convex): exact block minimisation, layer after layer. Arcs that
    are on no way from the inputs or a bias to the outputs could be scaled down for ever; they are left out of the
    norms, and then scaled so that the weights into their unit, or out of it where none come in, have the norm 1.
    """
    weights, biases = [w.copy() for w, _ in points], [b if b is None else b.copy() for _, b in points]
    hidden = range(len(points) - 1)

    def scale(m: int, s: Array) -> None:
        weights[m] *= s[:, :, None]
        weights[m + 1] /= s[:, None, :]
        bias = biases[m]
        if bias is not None:
            bias *= s

    def norms(m: int, before: Array | float, after: Array | float) -> tuple[Array, Array]:
        """Squared norms (n, h) into and out of the units of a layer, of arcs from and to the units of these masks."""
        bias, source = biases[m], np.broadcast_to(before, weights[m][:, 0].shape)
        target = np.broadcast_to(after, weights[m + 1][:, :, 0].shape)
        into = np.einsum("nij,nj->ni", np.square(weights[m]), source) + (0.0 if bias is None else np.square(bias))
        return into, np.einsum("nij,ni->nj", np.square(weights[m + 1]), target)

    reached: list[Array | float] = [1.0]  # from the inputs or a bias
    for m in hidden:
        reached.append((norms(m, reached[-1], 1.0)[0] > 0).astype(float))
    useful: list[Array | float] = [1.0]  # to the outputs
    for m in reversed(hidden):
        useful.insert(0, (norms(m, 1.0, useful[0])[1] > 0).astype(float))
    live = [1.0, *(np.asarray(r) * np.asarray(u) for r, u in zip(reached[1:], useful[:-1], strict=True)), 1.0]

    for _ in range(SWEEPS if len(hidden) > 1 else 1):
        largest = 0.0
        for m in hidden:
            into, out = norms(m, live[m], live[m + 2])
            s = np.where(live[m + 1], out, 1.0) ** 0.25 / np.where(live[m + 1], into, 1.0) ** 0.25
            largest = max(largest, float(np.max(np.abs(np.log(s)), initial=0.0)))
            scale(m, s)
        if largest < 1e-14:
            break

    for m in hidden:
        into, _ = norms(m, 1.0, 1.0)
        idle = (np.asarray(live[m + 1]) == 0) & (into > 0)
        scale(m, 1 / np.sqrt(np.where(idle, into, 1.0)))
    for m in reversed(hidden):
        into, out = norms(m, 1.0, 1.0)
        idle = (np.asarray(live[m + 1]) == 0) & (into == 0) & (out > 0)
        scale(m, np.sqrt(np.where(idle, out, 1.0)))
    return list(zip(weights, biases, strict=True))


def linear_invariants(weights: Sequence[Array], tol: float) -> tuple[Array, Array, list[Array], npt.NDArray[np.int64]]:
    """All that GL(h) between the layers cannot change, for W_1 (n, h_1, d), ..., W_L (n, C, h_{L-1}).

    Returns the root H = U S^{1/L} Vᵀ (n, C, d) of the product W_L ... W_1 = U S Vᵀ; its singular values S^{1/L}; bases
    (n, ., r) of the row spaces of W_j ... W_1 and the column spaces of W_L ... W_i, zero where that of the product has
    the same dimension; and the ranks of all W_j ... W_i (n, L (L + 1) / 2). Together they are complete: two points with
    the same product, ranks, and spaces are copies (a chain of maps is a sum of intervals; Gabriel 1972, "Unzerlegbare
    Darstellungen I"). A singular value of k factors counts as zero where it is below max(tol^k, rounding) Π ‖W‖₂.
    """
    depth = len(weights)
    size = [np.linalg.norm(w, ord=2, axis=(1, 2)) for w in weights]
    ranks, spaces, root = [], [], None
    for i in range(depth):
        product, bound = None, np.ones(len(weights[0]))
        for j in range(i, depth):
            product = weights[j] if product is None else weights[j] @ product
            bound = bound * size[j]
            u, s, vt = np.linalg.svd(product, full_matrices=False)
            least = max(tol ** (j - i + 1), 100 * EPS * max(product.shape[1:]))
            kept = s > least * bound[:, None]
            ranks.append(kept.sum(1))
            if i == 0 and j == depth - 1:
                root = (u, np.where(kept, s, 0.0) ** (1 / depth), vt)
            elif i == 0:
                spaces.append((ranks[-1], np.swapaxes(vt, 1, 2) * kept[:, None, :]))
            elif j == depth - 1:
                spaces.append((ranks[-1], u * kept[:, None, :]))
    assert root is not None
    u, s, vt = root
    end = ranks[depth - 1]
    bases = [basis * (rank > end)[:, None, None] for rank, basis in spaces]
    return (u * s[:, None, :]) @ vt, s, bases, np.stack(ranks, axis=1)
