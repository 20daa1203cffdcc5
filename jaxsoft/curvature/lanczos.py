"""Extreme eigenpairs, and the spectral density, from Hessian-vector products alone.

Everything here is one pure function of arrays: it runs under jit and vmap, and stops by its residuals.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsoft import checks
from jaxsoft.curvature.products import Flat, Loss, Params, check_memory, examine, hessian, products

MODERATE = 30  # exponents of two up to which nothing is scaled
DENSE_SIZE = 256  # up to so many parameters the whole matrix is cheaper than a search
BLOCKS, KEEP = 12, 4  # blocks in the space, and blocks of Ritz vectors kept over a restart
STRIDE = 2  # blocks between two looks at the residuals
MARGIN = 0.9  # of tol: the residuals measured at the end differ from those estimated by rounding
FLOOR = 4  # eps: no residual is asked to be smaller


class Spectrum(NamedTuple):
    """Extreme eigenpairs of a Hessian.

    eigenvalues: (k,), ascending. eigenvectors: (P, k), orthonormal but for about eps for each restart. residuals: (k,),
    ‖H v - λ v‖₂: an eigenvalue of H lies within that distance of λ. converged: (k,), the search ended by itself and
    residual <= tol · the largest |λ| seen. products: () int32, the Hessian-vector products taken.

    A residual proves that there is an eigenvalue, not that it is the smallest: a vector out of a cluster that has a
    share √(k/P) of a lower one, as a random start has, looks like an eigenvector to that share. The search goes on
    until its own residuals are below tol √(k/P), so what is missed lies in all likelihood within about tol · max |λ| of
    what is found, or √(P/k) 4 eps max |λ| where that is more; to exclude more there is ``inertia``.
    """

    eigenvalues: jax.Array
    eigenvectors: jax.Array
    residuals: jax.Array
    converged: jax.Array
    products: jax.Array


class Space(NamedTuple):
    """A block Krylov space in the making.

    basis: Q (P, m), orthonormal; columns not filled yet are zero. small: Qᵀ H Q (m, m). square: ‖H Q‖_F². block: the
    next one (P, b). coupling: block ᵀ H times the block before it (b, b); with the rest of Q that product has nothing
    in common, so that H Q - Q small = block · coupling in the last b columns.
    """

    basis: jax.Array
    small: jax.Array
    square: jax.Array
    block: jax.Array
    coupling: jax.Array


class _Search(NamedTuple):
    """The space, filled up to column ``filled``; its Ritz values and their coefficients; ``good`` (k,): which of the
    wanted pairs have converged, as estimated."""

    space: Space
    filled: jax.Array
    values: jax.Array
    mix: jax.Array
    scale: jax.Array
    restarts: jax.Array
    taken: jax.Array
    good: jax.Array


@jax.jit  # without copies of a large matrix
def exponent(x: jax.Array) -> jax.Array:
    """The e for which the largest |x| is about 2ᵉ, or 0 where squares are far from under- and overflow anyway."""
    largest = jnp.max(jnp.where(jnp.isfinite(x), jnp.abs(x), 0))
    found = jnp.frexp(largest)[1]
    return jnp.where((largest > 0) & (jnp.abs(found) > MODERATE), found, 0)


def lengths(columns: jax.Array) -> jax.Array:
    """The 2-norms of the columns of (P, k)."""
    return jnp.linalg.norm(columns, axis=0)


def orthonormal(block: jax.Array, against: jax.Array, key: jax.Array) -> jax.Array:
    """Orthonormal columns for ``block`` (P, b), orthogonal to the columns of ``against`` (P, m; zeros are free).

    Gram-Schmidt and QR, twice ("twice is enough", Giraud et al. 2005). Columns that have nothing left are replaced by
    random ones, so a block keeps its rank where the Krylov space ends; these are rare, and drawn only then.
    """
    tiny = 100 * jnp.finfo(block.dtype).eps

    def project(block: jax.Array) -> tuple[jax.Array, jax.Array]:
        q, r = jnp.linalg.qr(block - against @ (against.T @ block))
        return q, jnp.abs(jnp.diagonal(r)) <= tiny

    def fill(q: jax.Array, lost: jax.Array) -> jax.Array:
        noise = jax.random.normal(key, block.shape, block.dtype)
        again, still = project(project(jnp.where(lost[None], noise, q))[0])
        return project(jnp.where(still[None], noise, again))[0]

    q, lost = project(block / jnp.maximum(lengths(block)[None], jnp.finfo(block.dtype).tiny))
    return project(jax.lax.cond(jnp.any(lost), fill, lambda q, _: q, q, lost))[0]


def spectrum(
    loss: Loss,
    params: Params,
    k: int = 5,
    which: str = "SA",
    *,
    tol: float | None = None,
    key: jax.Array | None = None,
    max_restarts: int = 100,
) -> Spectrum:
    """The ``k`` smallest (``which="SA"``), largest ("LA") eigenvalues of the Hessian, or ⌈k/2⌉, ⌊k/2⌋ of both ("BE").

    Block Lanczos with full reorthogonalisation and thick restarts (Wu & Simon 2000), until every wanted pair has
    ‖H v - λ v‖ <= tol √(k/P) max |λ| (why: see ``Spectrum``); a block holds k vectors, so that an eigenvalue of
    multiplicity up to k is found that often. Small problems (P <= 256) take the dense matrix, with the same residuals.
    ``tol`` defaults to 1e-6, and to 1e-4 where parameters or loss are float32; ``key`` draws the start. Where
    ``max_restarts`` ends the search, ``converged`` says which pairs are good. Raises ValueError for k outside [1, P],
    an unknown ``which``, a tol that is not positive, MemoryError for a k whose vectors do not fit.
    """
    size, dtype, worst = examine(loss, params)
    checks.count("k", k)
    if k > size:
        raise ValueError(f"k: expected at most {size}, the number of parameters, got {k}")
    checks.one_of("which", which, ["SA", "LA", "BE"])
    eps = float(jnp.finfo(worst).eps)
    tol = checks.positive("tol", (1e-6 if eps < 1e-8 else 1e-4) if tol is None else tol)
    key = jax.random.key(0) if key is None else key
    checks.count("max_restarts", max_restarts, at_least=0)
    dense = size <= max(DENSE_SIZE, (BLOCKS + 1) * k)
    check_memory(size, dtype, 2 * size if dense else 2 * (BLOCKS + 1) * k, "use a smaller k")
    with jax.default_matmul_precision("highest"):
        if dense:
            matrix = hessian(loss, params)
            unit = exponent(matrix)
            found = _dense(jnp.ldexp(matrix, -unit), _wanted(size, k, which), tol)
        else:
            apply, unit = scaled(products(loss, params), size, dtype)
            found = _search(apply, size, dtype, k, which, (tol, FLOOR * eps), key, max_restarts)
    return found._replace(eigenvalues=jnp.ldexp(found.eigenvalues, unit), residuals=jnp.ldexp(found.residuals, unit))


def scaled(apply: Flat, size: int, dtype: jnp.dtype) -> tuple[Flat, jax.Array]:
    """2⁻ᵉ H as a map, and e, from the size of one product."""
    unit = exponent(apply(jax.random.normal(jax.random.key(0), (size, 1), dtype)))
    return lambda v: jnp.ldexp(apply(v), -unit), unit


def _low(k: int, which: str) -> int:
    """How many of k wanted values are the lowest ones."""
    return {"SA": k, "LA": 0, "BE": k - k // 2}[which]


def _wanted(size: int, k: int, which: str) -> np.ndarray:
    """Places of the wanted values among ``size`` ascending ones."""
    low = _low(k, which)
    return np.concatenate([np.arange(low), np.arange(size - (k - low), size)])


def _dense(matrix: jax.Array, wanted: np.ndarray, tol: float) -> Spectrum:
    values, vectors = jnp.linalg.eigh(matrix)
    scale = jnp.max(jnp.abs(values))
    values, vectors = values[wanted], vectors[:, wanted]
    residuals = lengths(matrix @ vectors - vectors * values[None])
    taken = jnp.asarray(len(matrix), jnp.int32)
    return Spectrum(values, vectors, residuals, residuals <= tol * scale, taken)


def empty(block: jax.Array, columns: int) -> Space:
    """A space of so many columns, none filled, that begins with ``block``."""
    (size, width), dtype = block.shape, block.dtype
    zeros = functools.partial(jnp.zeros, dtype=dtype)
    return Space(zeros((size, columns)), zeros((columns, columns)), zeros(()), block, zeros((width, width)))


def extend(apply: Flat, space: Space, begin: jax.Array | int, key: jax.Array) -> Space:
    """Put the next block in at column ``begin``; after it comes H times it, orthonormalised against all so far."""
    width = space.block.shape[1]
    basis = jax.lax.dynamic_update_slice_in_dim(space.basis, space.block, begin, axis=1)
    moved = apply(space.block)
    column = basis.T @ moved
    small = jax.lax.dynamic_update_slice_in_dim(space.small, column.T, begin, axis=0)
    small = jax.lax.dynamic_update_slice_in_dim(small, column, begin, axis=1)
    inner = jax.lax.dynamic_slice_in_dim(column, begin, width)
    small = jax.lax.dynamic_update_slice(small, (inner + inner.T) / 2, (begin, begin))
    block = orthonormal(moved, basis, key)
    return Space(basis, small, space.square + jnp.sum(jnp.square(moved)), block, block.T @ moved)


def krylov(apply: Flat, space: Space, begin: jax.Array | int, blocks: int, key: jax.Array) -> Space:
    """Extend a space by so many blocks from column ``begin`` on."""
    width = space.block.shape[1]
    return jax.lax.fori_loop(
        0, blocks, lambda i, x: extend(apply, x, begin + i * width, jax.random.fold_in(key, i)), space
    )


def random_krylov(apply: Flat, size: int, dtype: jnp.dtype, width: int, blocks: int, key: jax.Array) -> Space:
    """A random block Krylov space of so many blocks."""
    draw, key = jax.random.split(key)
    return krylov(apply, empty(_random(size, width, dtype, draw), width * blocks), 0, blocks, key)


def _random(size: int, width: int, dtype: jnp.dtype, key: jax.Array) -> jax.Array:
    return jnp.linalg.qr(jax.random.normal(key, (size, width), dtype))[0]


def _search(
    apply: Flat,
    size: int,
    dtype: jnp.dtype,
    k: int,
    which: str,
    tols: tuple[float, float],
    key: jax.Array,
    max_restarts: int,
) -> Spectrum:
    total, kept = BLOCKS * k, KEEP * k
    tol, least = tols
    inner = jnp.maximum(tol * np.sqrt(k / size), jnp.minimum(tol, least)).astype(dtype)
    low, keep = _low(k, which), _wanted(total, kept, which)

    def wanted(filled: jax.Array) -> jax.Array:
        return jnp.concatenate([jnp.arange(low), filled - (k - low) + jnp.arange(k - low)])

    def judged(search: _Search) -> _Search:
        """With the Ritz values; columns not filled yet are put above all of these."""
        space, filled = search.space, search.filled
        norm = jnp.max(jnp.sum(jnp.abs(space.small), axis=1))
        above = jnp.where(jnp.arange(total) < filled, 0, jnp.where(norm > 0, 2 * norm, 1))
        values, mix = jnp.linalg.eigh(space.small + jnp.diag(above))
        scale = jnp.maximum(search.scale, jnp.max(jnp.abs(jnp.where(jnp.arange(total) < filled, values, 0))))
        last = jax.lax.dynamic_slice_in_dim(mix, filled - k, k)[:, wanted(filled)]
        good = ~(lengths(space.coupling @ last) > MARGIN * inner * scale)
        return search._replace(values=values, mix=mix, scale=scale, good=good)

    def restart(search: _Search) -> _Search:
        basis = jnp.zeros_like(search.space.basis).at[:, :kept].set(search.space.basis @ search.mix[:, keep])
        small = jnp.diag(jnp.zeros(total, dtype).at[:kept].set(search.values[keep]))
        space = search.space._replace(basis=basis, small=small)
        return search._replace(space=space, filled=jnp.full_like(search.filled, kept), restarts=search.restarts + 1)

    def grown(search: _Search, blocks: int) -> _Search:
        space = krylov(apply, search.space, search.filled, blocks, jax.random.fold_in(key, search.taken))
        return judged(search._replace(space=space, filled=search.filled + blocks * k, taken=search.taken + blocks * k))

    def step(search: _Search) -> _Search:
        return grown(jax.lax.cond(search.filled == total, restart, lambda x: x, search), STRIDE)

    def unfinished(search: _Search) -> jax.Array:
        return ~jnp.all(search.good) & ((search.filled < total) | (search.restarts < max_restarts))

    zero, nothing = jnp.zeros((), jnp.int32), jnp.zeros(total, dtype)
    space = empty(_random(size, k, dtype, key), total)
    first = _Search(space, zero, nothing, jnp.zeros_like(space.small), nothing[0], zero, zero, nothing[:k] > 0)
    search = jax.lax.while_loop(unfinished, step, grown(first, BLOCKS))
    places = wanted(search.filled)
    values, vectors = search.values[places], search.space.basis @ search.mix[:, places]
    residuals = lengths(apply(vectors) - vectors * values[None])
    return Spectrum(values, vectors, residuals, search.good & (residuals <= tol * search.scale), search.taken + k)
