"""The minimum-residual solution of a symmetric system, from products alone."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsoft.curvature.products import Flat


class Solution(NamedTuple):
    """x: (P,). residual: ‖A x - b‖₂. steps: () int32, the products taken."""

    x: jax.Array
    residual: jax.Array
    steps: jax.Array


class _Iterate(NamedTuple):
    """x and the last two directions w; the Lanczos basis, its next vector and β; the last rotation of T."""

    x: jax.Array
    w: jax.Array
    w_before: jax.Array
    basis: jax.Array
    v: jax.Array
    beta: jax.Array
    delta_bar: jax.Array
    epsilon: jax.Array
    cosine: jax.Array
    sine: jax.Array
    residual: jax.Array
    outside: jax.Array
    norm: jax.Array
    steps: jax.Array


def minres(apply: Flat, b: jax.Array, *, tol: float | jax.Array, max_steps: int) -> Solution:
    """argmin ‖A x - b‖₂ over the Krylov space of b, A symmetric, indefinite or singular; ``apply`` is x -> A x.

    Stops where the residual r has ‖r‖ <= tol ‖b‖; where ‖A r‖ <= max(tol, √ε) ‖A‖ ‖r‖, so that what is left of b lies outside the
    range of A and x is a least-squares solution; or after ``max_steps`` products. Paige & Saunders (1975), "Solution of
    sparse indefinite systems of linear equations": Lanczos' A V_k = V_{k+1} T, Givens rotations that turn T into an
    upper triangle R, and one direction of W = V R⁻¹ a step. The basis V is kept and each vector orthogonalised against
    all of it, as an inconsistent system is recognised only by an orthogonal basis: (max_steps, P) numbers.
    """
    dtype = b.dtype
    zero, zeros = jnp.zeros((), dtype), jnp.zeros_like(b)
    eps, tiny = jnp.finfo(dtype).eps, jnp.finfo(dtype).tiny
    length = jnp.linalg.norm(b)
    basis = jnp.zeros((max_steps, b.size), dtype)
    start = _Iterate(
        zeros, zeros, zeros, basis, b / jnp.maximum(length, tiny), zero, zero, zero, -jnp.ones((), dtype), zero, length,
        jnp.zeros((), jnp.bool_), zero, jnp.zeros((), jnp.int32),
    )  # fmt: skip

    def going(i: _Iterate) -> jax.Array:
        ended = (i.steps > 0) & (i.beta <= 10 * eps * i.norm)
        return ~(i.outside | ended | (i.residual <= tol * length)) & (i.steps < max_steps)

    def advance(i: _Iterate) -> _Iterate:
        basis = i.basis.at[i.steps].set(i.v)
        moved = apply(i.v)
        alpha = jnp.vdot(i.v, moved)
        for _ in range(2):
            moved = moved - (basis @ moved) @ basis
        beta = jnp.linalg.norm(moved)
        norm = jnp.maximum(i.norm, jnp.hypot(jnp.hypot(alpha, beta), i.beta))
        delta = i.cosine * i.delta_bar + i.sine * alpha
        gamma_bar = i.sine * i.delta_bar - i.cosine * alpha
        delta_bar = -i.cosine * beta
        steep = jnp.hypot(gamma_bar, delta_bar)  # ‖A r‖ of the iterate so far, over ‖r‖
        outside = steep <= jnp.maximum(tol, jnp.sqrt(eps)) * norm  # a step later T would be singular
        gamma = jnp.maximum(jnp.hypot(gamma_bar, beta), tiny)
        cosine, sine = gamma_bar / gamma, beta / gamma
        w = (i.v - i.epsilon * i.w_before - delta * i.w) / gamma
        x = jnp.where(outside, i.x, i.x + cosine * i.residual * w)
        residual = jnp.where(outside, i.residual, sine * i.residual)
        return _Iterate(
            x, w, i.w, basis, moved / jnp.maximum(beta, tiny), beta, delta_bar, i.sine * beta, cosine, sine, residual,
            outside, norm, i.steps + 1,
        )  # fmt: skip

    found = jax.lax.while_loop(going, advance, start)
    return Solution(found.x, found.residual, found.steps)
