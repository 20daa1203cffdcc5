"""The tridiagonal form of a symmetric matrix, and how many of its eigenvalues lie below a number (Sturm)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

STURM = 7  # roundings of a count, in units of u max |e|
GRID = 32  # places at which a norm is looked for at once, twice


class Tridiagonal(NamedTuple):
    """A symmetric tridiagonal matrix: its diagonal (n,), and what is beside it (n - 1,)."""

    diagonal: jax.Array
    off: jax.Array


def householder(matrix: jax.Array) -> tuple[jax.Array, Tridiagonal]:
    """Q and T with H = Q T Qᵀ, by Householder's reflections."""
    if len(matrix) == 1:
        return jnp.ones_like(matrix), Tridiagonal(matrix[0], matrix[0, :0])
    reflectors, diagonal, off, scales = jax.lax.linalg.tridiagonal(matrix, lower=True)
    inner = jax.lax.linalg.householder_product(reflectors[1:, :-1], scales)
    return jnp.pad(inner, ((1, 0), (1, 0))).at[0, 0].set(1), Tridiagonal(diagonal, off)


def sturm_counts(t: Tridiagonal, shifts: jax.Array) -> jax.Array:
    """How many eigenvalues of T are below each of ``shifts`` (m,): (m,) int32.

    The signs of the pivots q_i = (d_i - σ) - e_{i-1}² / q_{i-1} are those of T - σ I (Sylvester). In floating point
    they are exact for a T with off-diagonals changed by less than ``STURM``/2 u |e|, as a pivot stands for six
    roundings of e² at most: no eigenvalue moves by more than ``STURM`` u max |e| (Demmel, Dhillon & Ren 1995).
    """
    squares = jnp.square(jnp.pad(t.off, (1, 0)))
    least = jnp.finfo(t.diagonal.dtype).tiny * jnp.maximum(1, jnp.max(squares))

    def row(carry: tuple[jax.Array, jax.Array], x: tuple[jax.Array, jax.Array]) -> tuple[tuple, None]:
        pivot, count = carry
        d, square = x
        pivot = (d - shifts) - square / pivot
        pivot = jnp.where(jnp.abs(pivot) < least, -least, pivot)
        return (pivot, count + (pivot < 0)), None

    start = jnp.ones_like(shifts), jnp.zeros(shifts.shape, jnp.int32)
    return jax.lax.scan(row, start, (t.diagonal, squares))[0][1]


def norm(t: Tridiagonal) -> jax.Array:
    """‖T‖₂ to 0.1 % of Gershgorin's bound, from above: the least of a grid within which Sturm finds all eigenvalues."""
    beside = jnp.abs(t.off)
    most = jnp.max(jnp.abs(t.diagonal) + jnp.pad(beside, (1, 0)) + jnp.pad(beside, (0, 1)))

    def narrow(low: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array]:
        grid = low + (high - low) * jnp.arange(1, GRID + 1) / GRID
        outside = len(t.diagonal) - sturm_counts(t, grid) + sturm_counts(t, -grid)
        first = jnp.argmax(jnp.append(outside[:-1], 0) == 0)
        return jnp.where(first > 0, grid[first - 1], low), grid[first]

    return narrow(*narrow(jnp.zeros_like(most), most))[1]
