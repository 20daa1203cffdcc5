"""Softmax with full relative accuracy: probabilities, their complements, their logarithms and their derivatives.

For logits z (..., C), with the classes last:

    p_k = e^{z_k} / Σ_j e^{z_j}                       softmax, in the lecture's three steps: exponentiate, sum, divide
    q_k = 1 - p_k = Σ_{j≠k} p_j                       the complement
    log p_k = (z_k - m) - log(1 + s)                  m = max z,  s = Σ e^{z_j - m} over all classes but one at the top
    J_kj = ∂p_k/∂z_j = p_k (δ_kj - p_j)               diag(p) - p pᵀ

Late in training the interesting numbers are tiny: q of a confident class, log p near zero. Written literally (1 - p,
z_k - logsumexp(z)) they cancel to zero in float32 where one logit leads by 15 to 20. Nothing cancels here: every
component of p, q, log p and of the product J t keeps its leading digits, as far down as the type has numbers, and so do
the derivatives that jax takes forwards, backwards and twice. What remains is the rounding of z_k - m itself.

A logit of -inf excludes its class: p = 0, q = 1, log p = -inf, and all derivatives with respect to it are 0.
At least one logit must be finite, and none +inf; otherwise the result is NaN.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

# Up to so many classes along this axis, sums and maxima are written out, class by class. The compiler then makes one
# vectorised loop of the whole layer; its own reductions over a short last axis take several times as long. With many
# more terms of one size, float32 would lose a digit that the tree sums of ``jnp.sum`` keep.
_FEW = {-1: 16, 0: 4}


class Probabilities(NamedTuple):
    """Softmax seen from three sides, each (..., C): p, its complement q = 1 - p, and log p."""

    p: jax.Array
    q: jax.Array
    log_p: jax.Array


def as_logits(argument: str, z: ArrayLike) -> jax.Array:
    """Return ``z`` as an array of floats with at least one class.

    Raises TypeError for a type that is not real and floating, ValueError where the last axis is missing or empty.
    """
    z = jnp.asarray(z)
    if not jnp.issubdtype(z.dtype, jnp.floating):
        raise TypeError(f"{argument}: expected floating-point logits, got {z.dtype}")
    if z.ndim == 0 or z.shape[-1] == 0:
        raise ValueError(f"{argument}: expected logits of shape (..., C) with C >= 1, got shape {z.shape}")
    return z


def _total(x: jax.Array, axis: int = -1) -> jax.Array:
    if x.shape[axis] <= _FEW[axis] and x.dtype.itemsize >= 4:
        return functools.reduce(jax.lax.add, _classes(x, axis))
    return jnp.sum(x, axis=axis, keepdims=True)


def largest(x: jax.Array, axis: int) -> jax.Array:
    """The largest over the classes, (..., 1), of columns (1, n)."""
    if x.shape[axis] <= _FEW[axis]:
        return functools.reduce(jax.lax.max, _classes(x, axis))
    return jnp.max(x, axis=axis, keepdims=True)


def _classes(x: jax.Array, axis: int) -> list[jax.Array]:
    """x class by class: each of (..., C) as (..., 1), of columns (C, n) as (1, n)."""
    return jnp.split(x, x.shape[axis], axis)


def exponentiate(z: jax.Array, axis: int = -1) -> tuple[jax.Array, jax.Array]:
    """Step 1: the gaps z - max z <= 0 and e = exp(z - max z) in [0, 1], each (..., C); axis 0: of columns (C, n)."""
    gap = z - largest(z, axis)
    return gap, jnp.exp(gap)


def add(e: jax.Array, *more: jax.Array, axis: int = -1) -> tuple[jax.Array, ...]:
    """Step 2: s = Σ e - 1, the sum over all classes but one at the top, and the sums of ``more``, each (..., 1).

    Below 2 the total holds a single 1, so that s is the sum of the rest; from 2 on, the subtraction loses nothing.
    """
    total, rest, *others = (_total(x, axis) for x in (e, jnp.where(e == 1, 0, e), *more))
    return jnp.where(total < 2, rest, total - 1), *others


def divide(e: jax.Array, s: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Step 3: p = e / (1 + s) and q = 1 - p, which is s / (1 + s) at the top; elsewhere p <= 1/2 and 1 - p is safe."""
    share = 1 / (1 + s)  # one quotient for all: it takes several times as long as a product
    p = e * share
    return p, jnp.where(e == 1, s * share, 1 - p)


def _reference(p: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where a class is above one half (at most one is), weights r of a reference, and p without that class.

    Derivatives are taken relative to r·t, which removes what all components of t have in common. That is the component
    of the class above one half, as no other reference leaves its own derivative its digits; without such a class it is
    the mean, as then no single component need be near the others.
    """
    top = p > 0.5
    return top, jnp.where(jnp.any(top, axis=-1, keepdims=True), top, p), jnp.where(top, 0, p)


def _log_tangent(p: jax.Array, t: jax.Array) -> jax.Array:
    """d log p = t_k - Σ_j p_j t_j, as u - Σ p u with u = t - r·t, which is 0 at a class above one half."""
    top, reference, rest = _reference(p)
    u = jnp.where(top, 0, t - _total(reference * t))
    return u - _total(rest * u)


def _product(p: jax.Array, t: jax.Array) -> jax.Array:
    """J t = p ⊙ d log p, but as v - r Σ v with v = p ⊙ d log p without the class above one half.

    So written the map is its own transpose, step by step, and reverse mode is as accurate as forward mode.
    """
    _, reference, rest = _reference(p)
    v = rest * _log_tangent(p, t)
    return v - reference * _total(v)


@jax.custom_jvp
def probabilities(z: jax.Array) -> Probabilities:
    """p, q = 1 - p and log p of floating-point logits z (..., C), each with full relative accuracy.

    With m = max z, e = exp(z - m) and s = Σ e - 1:

        p = e / (1 + s),    q = s / (1 + s) at the top and 1 - p elsewhere,    log p = (z - m) - log(1 + s).
    """
    gap, e = exponentiate(z)
    (s,) = add(e)
    return Probabilities(*divide(e, s), gap - jnp.log1p(s))


@probabilities.defjvp
def _probabilities_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[Probabilities, Probabilities]:
    (z,), (t,) = primals, tangents
    values = probabilities(z)
    dp = _product(values.p, t)
    return values, Probabilities(dp, -dp, _log_tangent(values.p, t))


def softmax(z: ArrayLike) -> jax.Array:
    """The probabilities p_k = e^{z_k} / Σ_j e^{z_j} of logits z (..., C).

    The lecture's three steps are exponentiate, sum, divide; for z = (5, 2, -1, 3) that is (148.4, 7.4, 0.4, 20.1),
    176.3 and (.84, .04, .00, .11). Subtracting max z first changes nothing but the range. Softmax is ½-Lipschitz in the
    2-norm (Nair 2025), and softmax(z / T) goes to ``hardmax(z)`` as the temperature T goes to 0.

    Raises TypeError for integer logits, ValueError for a missing class axis.

    >>> [round(float(p), 4) for p in softmax([5.0, 2.0, -1.0, 3.0])]
    [0.842, 0.0419, 0.0021, 0.114]
    """
    return probabilities(as_logits("z", z)).p


def log_softmax(z: ArrayLike) -> jax.Array:
    """The logarithms log p_k = (z_k - m) - log(1 + s) of ``softmax(z)``, (..., C), for z (..., C).

    Both terms have one sign, so log p keeps its leading digits even where p rounds to 1. Its derivative is
    d log p_k = dz_k - Σ_j p_j dz_j. Raises TypeError for integer logits, ValueError for a missing class axis.
    """
    return probabilities(as_logits("z", z)).log_p


def hardmax(z: ArrayLike) -> jax.Array:
    """One where z (..., C) is largest and zero elsewhere, (..., C); of equal logits the first wins, as in argmax.

    The limit of softmax(z / T) as T goes to 0 where the largest logit is unique. Its derivative is zero.
    Raises TypeError for integer logits, ValueError for a missing class axis.

    >>> hardmax([5.0, 2.0, -1.0, 3.0]).tolist()
    [1.0, 0.0, 0.0, 0.0]
    """
    z = as_logits("z", z)
    return jax.nn.one_hot(jnp.argmax(z, axis=-1), z.shape[-1], dtype=z.dtype)


def jacobian(z: ArrayLike) -> jax.Array:
    """The Jacobian J = diag(p) - p pᵀ of softmax, (..., C, C), for z (..., C).

    J_kk = p_k q_k and J_kj = -p_k p_j, each entry with full relative accuracy. J is symmetric, positive semidefinite,
    J 1 = 0, and its largest eigenvalue is at most 2 max p (1 - p) <= ½ (Nair 2025).
    Raises TypeError for integer logits, ValueError for a missing class axis.
    """
    p, q, _ = probabilities(as_logits("z", z))
    diagonal = jnp.broadcast_to(jnp.eye(p.shape[-1], dtype=bool), (*p.shape, p.shape[-1]))
    return jnp.where(diagonal, (p * q)[..., None], -p[..., :, None] * p[..., None, :])


def jacobian_product(z: ArrayLike, t: ArrayLike) -> jax.Array:
    """The product J t = (diag p - p pᵀ) t, (..., C), for z and t (..., C), in O(C) operations.

        (J t)_k = p_k Σ_j p_j (t_k - t_j)

    Each component is accurate relative to the sum of the sizes of these terms, whatever t has in common.
    Raises TypeError for integer logits, ValueError where the shapes of z and t differ.
    """
    z, t = as_logits("z", z), jnp.asarray(t)
    if t.shape != z.shape:
        raise ValueError(f"t: expected shape {z.shape}, that of z, got shape {t.shape}")
    return _product(probabilities(z).p, t.astype(z.dtype))
