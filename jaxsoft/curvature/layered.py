"""The exact Hessian of a cost of an MLP's outputs, in closed form: a few matrix products instead of P passes.

For one example, layers l = 1..L with h_0 = x, a_l = W_l h_{l-1} + b_l, h_l = φ(a_l), z = a_L, and a cost of z with
gradient r and Hessian S (for the softmax r = ŷ - y and S = diag p - p pᵀ, over n):

    δ_L = r,   δ_l = φ'(a_l) ⊙ W_{l+1}ᵀ δ_{l+1}                 the gradient in a_l
    A_{l,l} = I,   A_{m+1,l} = W_{m+1} diag(φ'(a_m)) A_{m,l}     ∂a_m/∂a_l, m ≥ l
    G_{L,l} = S A_{L,l}                                          G_{m,l} = ∂δ_m/∂a_l
    G_{m,l} = diag(φ'(a_m)) W_{m+1}ᵀ G_{m+1,l} + diag(φ''(a_m) ⊙ W_{m+1}ᵀ δ_{m+1}) A_{m,l}

and as ∂L/∂W_m = δ_m h_{m-1}ᵀ, the block of (W_m)_pq against (W_l)_rs, m ≥ l, summed over the examples, is

    Σ (G_{m,l})_pr (h_{m-1})_q (h_{l-1})_s + [m > l] (δ_m)_p (diag(φ'(a_{m-1})) A_{m-1,l})_qr (h_{l-1})_s.

A bias is a weight whose input is 1. Without the terms in δ it is the Gauss-Newton matrix. Bishop (1992), "Exact
calculation of the Hessian matrix for the multilayer perceptron".
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

SLICE_BYTES = 2**30  # what the largest array of one slice of the examples may take


class Layer(Protocol):
    """An affine map: weight (out, in), bias (out,) or None."""

    @property
    def weight(self) -> jax.Array: ...
    @property
    def bias(self) -> jax.Array | None: ...


Activation = Callable[[jax.Array], jax.Array]
Terms = tuple[jax.Array, jax.Array]


def _derivative(phi: Activation) -> Activation:
    """φ' of an elementwise φ."""
    return lambda a: jax.jvp(phi, (a,), (jnp.ones_like(a),))[1]


def hessian(
    layers: Sequence[Layer],
    activation: Activation,
    x: jax.Array,
    terms: Callable[[jax.Array, slice], Terms],
    *,
    residual: bool = True,
) -> jax.Array:
    """The Hessian (P, P) of Σ_i cost_i(z_i), in the order of ``jax.tree.leaves`` of the layers; exactly symmetric.

    Args:
        layers: of the MLP, first to last.
        activation: φ, elementwise.
        x: inputs (n, d).
        terms: ``(z, rows) -> (r, S)``, the gradients (k, C) and Hessians (k, C, C) of the costs of these rows of x.
        residual: False leaves out the terms with δ: the Gauss-Newton matrix.
    """
    widest = max(max(layer.weight.shape) for layer in layers)
    length = max(1, min(len(x), SLICE_BYTES // (widest**2 * x.dtype.itemsize)))
    total = None
    for begin in range(0, len(x), length):
        rows = slice(begin, min(begin + length, len(x)))
        part = _sum_over(rows, layers, activation, x, terms, residual)
        total = part if total is None else total + part
    assert total is not None
    return total


def _sum_over(
    rows: slice,
    layers: Sequence[Layer],
    phi: Activation,
    x: jax.Array,
    terms: Callable[[jax.Array, slice], Terms],
    residual: bool,
) -> jax.Array:
    slope = _derivative(phi)
    weights = [layer.weight for layer in layers]
    inputs, pre = [x[rows]], []
    for layer in layers:
        a = inputs[-1] @ layer.weight.T
        pre.append(a if layer.bias is None else a + layer.bias[None])
        inputs.append(phi(pre[-1]))
    r, s = terms(pre[-1], rows)
    slopes = [slope(a) for a in pre[:-1]]
    deltas, bends = [r], []  # δ_m, and φ''(a_m) ⊙ W_{m+1}ᵀ δ_{m+1}
    for m in reversed(range(len(layers) - 1)):
        back = deltas[0] @ weights[m + 1]
        deltas.insert(0, slopes[m] * back)
        bends.insert(0, _derivative(slope)(pre[m]) * back)

    features = [
        h if layer.bias is None else jnp.concatenate([h, jnp.ones((len(h), 1), h.dtype)], axis=1)
        for h, layer in zip(inputs, layers, strict=False)
    ]

    blocks: dict[tuple[int, int], list[list[jax.Array]]] = {}
    for low in range(len(layers)):
        moved = _moved_inputs(low, weights, slopes)
        curved = _curved(low, weights, slopes, bends if residual else None, moved, s)
        blocks[low, low] = _by_leaf(_symmetric(curved[0], features[low]), layers[low], layers[low])
        for m in range(low + 1, len(layers)):
            block = _outer(curved[m - low], features[m], features[low])
            if residual:
                bent = _outer_residual(deltas[m], moved[m - low - 1], features[low])
                block = block.at[:, : inputs[m].shape[1]].add(bent)
            blocks[m, low] = _by_leaf(block, layers[m], layers[low])
            blocks[low, m] = [[part.T for part in column] for column in zip(*blocks[m, low], strict=True)]
    every = range(len(layers))
    return jnp.block(
        [[part for i in every for part in blocks[m, i][k]] for m in every for k in range(len(blocks[m, m]))]
    )


def _by_leaf(block: jax.Array, row: Layer, column: Layer) -> list[list[jax.Array]]:
    """A block of two layers (p, q, r, s), the biases as last weights, as matrices of their leaves."""

    def leaves(layer: Layer) -> list[tuple[slice, int]]:
        outs, ins = layer.weight.shape
        return [(slice(ins), outs * ins)] + ([] if layer.bias is None else [(slice(ins, ins + 1), outs)])

    return [[block[:, q, :, s].reshape(height, width) for s, width in leaves(column)] for q, height in leaves(row)]


def _moved_inputs(low: int, weights: list[jax.Array], slopes: list[jax.Array]) -> list[jax.Array]:
    """∂h_m/∂a_l at l = ``low`` for m = l .. L-1: (n, out_m, out_l), but (n, out_l), a diagonal, for m = l."""
    moved: list[jax.Array] = []
    for m in range(low, len(slopes)):
        if m == low:
            moved.append(slopes[m])
        else:
            before = weights[m][None] * moved[-1][:, None, :] if m == low + 1 else jnp.matmul(weights[m], moved[-1])
            moved.append(slopes[m][:, :, None] * before)
    return moved


def _curved(
    low: int,
    weights: list[jax.Array],
    slopes: list[jax.Array],
    bends: list[jax.Array] | None,
    moved: list[jax.Array],
    s: jax.Array,
) -> list[jax.Array]:
    """G_{m,l} (n, out_m, out_l) at l = ``low``, for m = l .. L."""
    if low == len(slopes):
        return [s]
    jacobian = [_apply(weights[m + 1], before, m == low) for m, before in enumerate(moved, start=low)]
    curved = [s @ jacobian[-1]]
    for m in reversed(range(low, len(slopes))):
        g = slopes[m][:, :, None] * (weights[m + 1].T @ curved[0])
        if bends is not None:
            if m == low:
                g += bends[m][:, :, None] * jnp.eye(g.shape[-1], dtype=g.dtype)[None]
            else:
                g += bends[m][:, :, None] * jacobian[m - low - 1]
        curved.insert(0, g)
    return curved


def _apply(weight: jax.Array, moved: jax.Array, diagonal: bool) -> jax.Array:
    return weight[None] * moved[:, None, :] if diagonal else weight @ moved


def _symmetric(g: jax.Array, f: jax.Array) -> jax.Array:
    """Σ_n g_npr f_nq f_ns as (p, q, r, s) for g symmetric in p and r: each pair (p, r) once, and each (q, s)."""
    pairs, place = _pairs(g.shape[1])
    packed = g[:, *pairs]
    if f.shape[1] < 2 * packed.shape[1]:
        twice, where = _pairs(f.shape[1])
        once = (packed.T @ (f[:, twice[0]] * f[:, twice[1]]))[:, where]
    else:
        once = jnp.einsum("nks,nq->kqs", packed[:, :, None] * f[:, None, :], f)
        once = (once + once.transpose(0, 2, 1)) / 2
    return once[place].transpose(0, 2, 1, 3)


def _pairs(size: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """The pairs i <= j, and for every (i, j) the place of its pair."""
    pairs = np.triu_indices(size)
    place = np.zeros((size, size), int)
    place[pairs] = np.arange(len(pairs[0]))
    return pairs, np.maximum(place, place.T)


def _outer(g: jax.Array, f: jax.Array, e: jax.Array) -> jax.Array:
    """Σ_n g_npr f_nq e_ns as (p, q, r, s): the smallest product of two first, then one large matrix product."""
    sizes = {"fe": f.shape[1] * e.shape[1], "ge": g[0].size * e.shape[1], "gf": g[0].size * f.shape[1]}
    first = min(sizes, key=lambda name: sizes[name])
    if first == "fe":
        return jnp.einsum("npr,nqs->pqrs", g, f[:, :, None] * e[:, None, :])
    if first == "ge":
        return jnp.einsum("nprs,nq->pqrs", g[..., None] * e[:, None, None, :], f)
    return jnp.einsum("npqr,ns->pqrs", g[:, :, None, :] * f[:, None, :, None], e)


def _outer_residual(delta: jax.Array, moved: jax.Array, e: jax.Array) -> jax.Array:
    """Σ_n δ_np moved_nqr e_ns as (p, q, r, s); ``moved`` may be a diagonal (n, r)."""
    if moved.ndim == 2:
        diagonal = jnp.einsum("nps,nr->prs", delta[:, :, None] * e[:, None, :], moved)
        return diagonal[:, None] * jnp.eye(moved.shape[1], dtype=e.dtype)[None, :, :, None]
    return jnp.einsum("nps,nqr->pqrs", delta[:, :, None] * e[:, None, :], moved)


def class_inverses(x: jax.Array, curved: jax.Array, penalty: jax.Array) -> jax.Array:
    """The inverses (C, m, m) of the blocks Xᵀ diag(c_k) X + diag(penalty), one for each class k.

    x: what enters each weight of a class, (n, m). curved: c (n, C), the second derivative of each cost in one logit.
    penalty: (m,). Each block is lifted by ε times its trace; one that has no Cholesky factor even so counts as 1.
    """
    size, columns = x.shape[1], x.T

    def inverse(weights: jax.Array) -> jax.Array:
        block = (columns * weights[None]) @ x + jnp.diag(penalty)
        lift = jnp.finfo(x.dtype).eps * jnp.trace(block)
        found = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(block + lift * jnp.eye(size)), True), jnp.eye(size))
        return jnp.where(jnp.all(jnp.isfinite(found)), (found + found.T) / 2, jnp.eye(size))

    return jax.lax.map(inverse, curved.T)  # one after the other: see jaxsoft.program


def apply_by_class(inverses: jax.Array, v: jax.Array, bias: bool) -> jax.Array:
    """``class_inverses`` times a vector (P,) in the order of the leaves of one layer: its weights, then its biases."""
    classes, size = inverses.shape[:2]
    if not bias:
        return jnp.einsum("kij,kj->ki", inverses, v.reshape(classes, size)).ravel()
    rows = jnp.concatenate([v[:-classes].reshape(classes, size - 1), v[-classes:, None]], axis=1)
    moved = jnp.einsum("kij,kj->ki", inverses, rows)
    return jnp.concatenate([moved[:, :-1].ravel(), moved[:, -1]])


def flat_directions(layers: Sequence[Layer], units: str) -> jax.Array:
    """Directions (P, k) in which symmetry makes the Hessian flat, not normalised.

    The class shift, in + 1 of them: one vector added to every class of the last layer, exact at any point, as
    softmax(z + c 1) = softmax(z). And where ``units`` (of a ``Symmetry``) are "positive": each hidden unit's incoming
    weights up, its outgoing ones down by the same factor; where "linear": W_l → X W_l, W_{l+1} → W_{l+1} X⁻¹ for any X,
    or only for a diagonal X where these would be more than P directions. Along these the loss is constant, on a curve,
    so that the Hessian vanishes there at critical points, and only there.
    """
    zeros = [jax.tree.map(jnp.zeros_like, (layer.weight, layer.bias)) for layer in layers]

    def flat(changes: dict[int, tuple[jax.Array, jax.Array | None]]) -> jax.Array:
        parts = [changes.get(i, zero) for i, zero in enumerate(zeros)]
        return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(parts)])

    def shift(column: jax.Array) -> jax.Array:
        weight, bias = zeros[-1]
        inputs = weight.shape[1]
        weight = weight + (jnp.arange(inputs) == column)[None]
        return flat({len(zeros) - 1: (weight, None if bias is None else bias + (column == inputs))})

    def gauge(m: int, i: jax.Array, j: jax.Array) -> jax.Array:
        (weight, bias), (following, following_bias) = zeros[m], zeros[m + 1]
        before, after = layers[m], layers[m + 1]
        moved = weight.at[i].set(before.weight[j])
        moved_bias = None if bias is None or before.bias is None else bias.at[i].set(before.bias[j])
        return flat({m: (moved, moved_bias), m + 1: (following.at[:, j].set(-after.weight[:, i]), following_bias)})

    inputs = layers[-1].weight.shape[1] + (layers[-1].bias is not None)
    found = [jax.vmap(shift)(jnp.arange(inputs))]
    widths = [len(layer.weight) for layer in layers[:-1]]
    whole = units == "linear" and sum(h * h for h in widths) <= sum(leaf.size for leaf in jax.tree.leaves(zeros))
    for m, width in enumerate(widths) if units in ("positive", "linear") else []:
        each = jnp.arange(width)
        pairs = map(jnp.ravel, jnp.meshgrid(each, each)) if whole else (each, each)
        found.append(jax.vmap(functools.partial(gauge, m))(*pairs))
    return jnp.concatenate(found).T
