"""The lecture's backpropagation of an MLP, written out: the cost and its gradient in two sweeps over the layers.

All examples at once, in columns, as the lecture writes them: X (d, n), h_0 = X, and for the layers l = 1..L

    a_l = W_l h_{l-1} + b_l,   h_l = φ(a_l),   z = a_L                        forward
    δ_L = ∂cost/∂z = (ŷ - y)/n,   δ_l = φ'(a_l) ⊙ W_{l+1}ᵀ δ_{l+1}            backward
    ∂cost/∂W_l = δ_l h_{l-1}ᵀ,   ∂cost/∂b_l = δ_l 1

It equals ``jax.grad`` to rounding, and is what training uses: the compiler makes less of the program that ``jax.grad``
derives. Rumelhart, Hinton & Williams (1986), "Learning representations by back-propagating errors".
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsoft.models import Activation, Layer, Layers

PART_BYTES = 2**16  # on a CPU, what the layers of one run work on in one go
COPIED = 16  # times as many inputs as outputs: to copy them for each part takes longer than is won
TWICE = 1.1  # times the examples, as the last part takes some once more
LEAST, MULTIPLE = 128, 16  # examples in one go: with fewer, or an odd number of them, products are slow
FEW = 4  # inputs

Head = Callable[[jax.Array, jax.Array, jax.Array | None, float], tuple[jax.Array, jax.Array]]


def cost_and_grad(
    layers: Sequence[Layer],
    activation: Activation,
    x: jax.Array,
    y: jax.Array,
    head: Head,
    *,
    in_parts: bool = False,
) -> tuple[jax.Array, Layers]:
    """The cost of an MLP's outputs and its gradient, a tuple like ``layers``.

    Args:
        layers: first to last, weight (out, in) and bias (out,) or None.
        activation: φ, elementwise, differentiable by jax.
        x: the examples as columns (d, n).
        y: their labels (n,).
        head: z (C, m), labels (m,), a mask (m,) or None, and 1/n -> 1/n times the sum of the losses that the mask
            shows, and δ_L (C, m).
        in_parts: add up over some examples at a time where that keeps the layers' arrays in the cache of a CPU; for
            examples that all runs share, as they are copied for every part.
    """
    examples = x.shape[1]
    size = _part(layers, x) if in_parts else examples
    kind = jnp.result_type(x, *jax.tree.leaves(layers))
    starts, shown = _parts(examples, size)
    Sums = tuple[jax.Array, Layers]

    def through(inputs: jax.Array, labels: jax.Array, mask: jax.Array | None) -> Sums:
        return _through(layers, activation, inputs, lambda z: head(z, labels, mask, 1 / examples))

    def add(sums: Sums, part: tuple[jax.Array, jax.Array]) -> tuple[Sums, None]:
        start, mask = part
        inputs = jax.lax.dynamic_slice_in_dim(x, start, size, axis=1)
        labels = jax.lax.dynamic_slice_in_dim(y, start, size)
        return jax.tree.map(jnp.add, sums, through(inputs, labels, mask)), None

    if size == examples:
        cost, grads = through(x, y, None)
    else:
        zero = jnp.zeros((), kind), jax.tree.map(lambda w: jnp.zeros(w.shape, kind), tuple(layers))
        (cost, grads), _ = jax.lax.scan(add, zero, (jnp.asarray(starts), jnp.asarray(shown)))
    return cost, jax.tree.map(lambda g, w: g.astype(w.dtype), grads, tuple(layers))


def _part(layers: Sequence[Layer], x: jax.Array) -> int:
    """How many examples are taken at a time: all, or on a CPU as many as leave the layers' arrays in the cache."""
    inputs, examples = x.shape
    outputs = sum(len(layer.weight) for layer in layers)
    most = max(2 * LEAST, PART_BYTES // (2 * outputs * x.dtype.itemsize))  # of each h and δ
    if jax.default_backend() != "cpu" or examples <= most or inputs > COPIED * outputs:
        return examples
    taken = {size: -(-examples // size) * size for size in range(LEAST, most + 1, MULTIPLE)}
    size = min(taken, key=lambda size: (taken[size], -size))
    return size if taken[size] <= TWICE * examples else examples


def _parts(examples: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each part starts, and which of its examples count: the last part begins earlier, to be as long as the rest,
    and takes some once more that the one before it has had."""
    starts = np.arange(0, examples, size)
    last = examples - size
    shown = np.ones((len(starts), size), bool)
    shown[-1, : starts[-1] - last] = False
    return np.minimum(starts, last), shown


def _through(
    layers: Sequence[Layer],
    activation: Activation,
    x: jax.Array,
    head: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
) -> tuple[jax.Array, Layers]:
    """Forward and backward through the layers, for these examples; ``head``: z -> their part of the cost, and δ_L."""
    inputs, slopes = [x], []
    for layer in layers[:-1]:
        h, slope = jax.vjp(activation, _biased(layer, _product(layer.weight, inputs[-1])))
        inputs.append(h)
        slopes.append(slope)
    cost, delta = head(_biased(layers[-1], layers[-1].weight @ inputs[-1]))
    grads: list[Layer] = []
    for number in reversed(range(len(layers))):
        # As an array of its own: fused into each of its uses, δ would be computed again for every one of them.
        layer, delta = layers[number], jax.lax.optimization_barrier(delta)
        grads.insert(0, Layer(delta @ inputs[number].T, None if layer.bias is None else jnp.sum(delta, axis=1)))
        if number > 0:
            # Wᵀ as an array of its own, too: products with a transposed left side take a slower way.
            (delta,) = slopes[number - 1](jax.lax.optimization_barrier(layer.weight.T) @ delta)
    return cost, tuple(grads)


def _biased(layer: Layer, z: jax.Array) -> jax.Array:
    return z if layer.bias is None else z + layer.bias[:, None]


def _product(weight: jax.Array, h: jax.Array) -> jax.Array:
    """W h; with few inputs term by term, as the compiler then makes one loop of it and the activation."""
    if not 0 < len(h) <= FEW:
        return weight @ h
    return functools.reduce(jnp.add, [weight[:, k, None] * h[None, k] for k in range(len(h))])
