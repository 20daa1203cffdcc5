"""The minimum-residual solution of a symmetric system, from products alone."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsoft.curvature.products import Flat


class Solution(NamedTuple):
    """x: (P,). residual: ‖A x - b‖₂. within: where the path of iterates leaves ‖x‖ <= reach, or x. steps: products."""

    x: jax.Array
    residual: jax.Array
    within: jax.Array
    steps: jax.Array


class _Iterate(NamedTuple):
    """x and the last two directions w; the Lanczos basis, its next vector and β; the last rotation of T."""

    x: jax.Array
    within: jax.Array
    beyond: jax.Array
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


def minres(
    apply: Flat,
    b: jax.Array,
    *,
    tol: float | jax.Array,
    max_steps: int,
    reach: float | jax.Array = jnp.inf,
    go_beyond: bool = True,
) -> Solution:
    """argmin ‖A x - b‖₂ over the Krylov space of b, A symmetric, indefinite or singular; ``apply`` is x -> A x.

    Stops where the residual r has ‖r‖ <= tol ‖b‖; where ‖A r‖ <= max(tol, √ε) ‖A‖ ‖r‖, so that what is left of b lies
    outside the range of A and x is a least-squares solution; before a step along w with ‖A w‖ <= ε^¾ ‖A‖ ‖w‖, which
    would follow the rounding of b into the kernel; after ``max_steps`` products, or P of them; or, without
    ``go_beyond``, where the iterates leave the ball ‖x‖ <= ``reach``. Paige & Saunders (1975), "Solution of sparse
    indefinite systems of linear equations": Lanczos' A V_k = V_{k+1} T, Givens rotations that turn T into an upper
    triangle R, and one direction of W = V R⁻¹ a step. The basis V is kept and each vector orthogonalised against all of
    it, as an inconsistent system is recognised only by an orthogonal basis: (max_steps, P) numbers.
    """
    max_steps = min(max_steps, b.size)
    dtype = b.dtype
    zero, zeros, no = jnp.zeros((), dtype), jnp.zeros_like(b), jnp.zeros((), jnp.bool_)
    eps, tiny = jnp.finfo(dtype).eps, jnp.finfo(dtype).tiny
    length = jnp.linalg.norm(b)
    start = _Iterate(
        x=zeros, within=zeros, beyond=no, w=zeros, w_before=zeros, basis=jnp.zeros((max_steps, b.size), dtype),
        v=b / jnp.maximum(length, tiny), beta=zero, delta_bar=zero, epsilon=zero, cosine=-jnp.ones((), dtype),
        sine=zero, residual=length, outside=no, norm=zero, steps=jnp.zeros((), jnp.int32),
    )  # fmt: skip

    def going(i: _Iterate) -> jax.Array:
        ended = (i.steps > 0) & (i.beta <= 10 * eps * i.norm)
        ended |= i.outside | (i.residual <= tol * length)
        return ~(ended if go_beyond else ended | i.beyond) & (i.steps < max_steps)

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
        outside |= eps**0.75 * norm * jnp.linalg.norm(w) >= 1  # ‖A w‖ = 1: w follows the rounding of b
        x = jnp.where(outside, i.x, i.x + cosine * i.residual * w)
        leaves = ~i.beyond & ~(jnp.linalg.norm(x) <= reach)
        crossing = i.x + _share_within(i.x, x - i.x, reach) * (x - i.x)
        within = jnp.where(i.beyond, i.within, jnp.where(leaves, crossing, x))
        return _Iterate(
            x=x, within=within, beyond=i.beyond | leaves, w=w, w_before=i.w, basis=basis,
            v=moved / jnp.maximum(beta, tiny), beta=beta, delta_bar=delta_bar, epsilon=i.sine * beta, cosine=cosine,
            sine=sine, residual=jnp.where(outside, i.residual, sine * i.residual), outside=outside, norm=norm,
            steps=i.steps + 1,
        )  # fmt: skip

    found = jax.lax.while_loop(going, advance, start)
    return Solution(found.x, found.residual, found.within, found.steps)


def conjugate_gradients(
    apply: Flat, b: jax.Array, *, tol: float | jax.Array, max_steps: int, precondition: Flat | None = None
) -> jax.Array:
    """x with ‖A x - b‖₂ <= tol ‖b‖, A symmetric and positive definite on the Krylov space of b; ``apply`` is x -> A x.

    ``precondition`` is r -> M⁻¹ r with M ≈ A, symmetric and positive definite; M = 1 without it. Stops at the first
    direction d with dᵀ A d <= 0: there at the x so far, or at M⁻¹ b if there is none yet. Hestenes & Stiefel (1952),
    "Methods of conjugate gradients for solving linear systems"; Nocedal & Wright (2006), algorithm 5.3.
    """
    length = jnp.vdot(b, b)

    def going(carry: tuple[jax.Array, ...]) -> jax.Array:
        _, residual, _, _, bent, steps = carry
        return ~bent & (jnp.vdot(residual, residual) > tol**2 * length) & (steps < max_steps)

    def measured(residual: jax.Array) -> tuple[jax.Array, jax.Array]:
        near = residual if precondition is None else precondition(residual)
        return near, jnp.vdot(residual, near)

    def advance(carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        x, residual, d, square, _, steps = carry
        moved = apply(d)
        curvature = jnp.vdot(d, moved)
        bent = ~(curvature > 0)
        alpha = jnp.where(bent, 0, square / jnp.where(bent, 1, curvature))
        x = jnp.where(bent & (steps == 0), d, x + alpha * d)
        residual = residual - alpha * moved
        near, new = measured(residual)
        return x, residual, near + new / square * d, new, bent, steps + 1

    near, square = measured(b)
    begin = (jnp.zeros_like(b), b, near, square, jnp.zeros((), jnp.bool_), jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(going, advance, begin)[0]


def _share_within(x: jax.Array, move: jax.Array, reach: float | jax.Array) -> jax.Array:
    """The largest t in [0, 1] with ‖x + t move‖ <= reach, for ‖x‖ <= reach."""
    a, b = jnp.vdot(move, move), jnp.vdot(x, move)
    c = jnp.maximum(jnp.minimum(reach, jnp.finfo(x.dtype).max ** 0.5) ** 2 - jnp.vdot(x, x), 0)
    root = jnp.sqrt(b * b + a * c)
    return jnp.clip(c / jnp.maximum(b + root, jnp.finfo(x.dtype).tiny), 0, 1)
