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

from jaxsoft.models import Activation, Layer, Layers

FEW_INPUTS = 4  # up to so many, W h is a sum of outer products, computed together with φ

Head = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


def cost_and_grad(
    layers: Sequence[Layer], activation: Activation, x: jax.Array, head: Head
) -> tuple[jax.Array, Layers]:
    """The cost of an MLP's outputs and its gradient, a tuple like ``layers``.

    Args:
        layers: first to last, weight (out, in) and bias (out,) or None.
        activation: φ, elementwise, differentiable by jax.
        x: the examples as columns (d, n).
        head: z (C, n) -> the cost and δ_L = ∂cost/∂z (C, n).
    """
    inputs, slopes = [x], []
    for layer in layers[:-1]:
        h, slope = jax.vjp(activation, _affine(layer, inputs[-1]))
        inputs.append(h)
        slopes.append(slope)
    cost, delta = head(_affine(layers[-1], inputs[-1]))
    grads: list[Layer] = []
    for number in reversed(range(len(layers))):
        # As an array of its own: fused into each of its uses, δ would be computed again for every one of them.
        layer, delta = layers[number], jax.lax.optimization_barrier(delta)
        weight = (delta @ inputs[number].T).astype(layer.weight.dtype)
        bias = None if layer.bias is None else jnp.sum(delta, axis=1).astype(layer.bias.dtype)
        grads.insert(0, Layer(weight, bias))
        if number > 0:
            # Wᵀ as an array of its own, too: products with a transposed left side take a slower way.
            (delta,) = slopes[number - 1](jax.lax.optimization_barrier(layer.weight.T) @ delta)
    return cost, tuple(grads)


def _affine(layer: Layer, h: jax.Array) -> jax.Array:
    """W h + b for columns h (in, n)."""
    if len(h) <= FEW_INPUTS:
        z = functools.reduce(jnp.add, [layer.weight[:, k, None] * h[None, k] for k in range(len(h))])
    else:
        z = layer.weight @ h
    return z if layer.bias is None else z + layer.bias[:, None]
