"""Extreme eigenpairs, and the spectral density, from Hessian-vector products alone.

Everything here is one pure function of arrays: it runs under jit and vmap, and stops by its residuals.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsoft import checks
from jaxsoft.curvature.products import Flat, Loss, Params, check, hessian, products

MODERATE = 30  # exponents of two up to which nothing is scaled
DENSE_SIZE = 256  # up to so many parameters the whole matrix is cheaper than a search
KEEP = 2  # blocks of Ritz vectors kept over a restart
BLOCKS = 12  # blocks in the subspace


class Spectrum(NamedTuple):
    """Extreme eigenpairs of a Hessian.

    eigenvalues: (k,), ascending. eigenvectors: (P, k), orthonormal. residuals: (k,), ‖H v - λ v‖₂: an eigenvalue of H
    lies within that distance of λ. converged: (k,), residual <= tol · the largest |λ| seen. products: () int32, the
    Hessian-vector products taken.
    """

    eigenvalues: jax.Array
    eigenvectors: jax.Array
    residuals: jax.Array
    converged: jax.Array
    products: jax.Array


class _Search(NamedTuple):
    """The Ritz vectors kept (P, kept) and H times them; the wanted pairs; ``left`` = H v - λ v (P, k) of these."""

    basis: jax.Array
    image: jax.Array
    values: jax.Array
    vectors: jax.Array
    left: jax.Array
    scale: jax.Array
    cycles: jax.Array


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

    Gram-Schmidt twice, then QR, and both again ("twice is enough", Giraud et al. 2005). Columns that have nothing left
    are replaced by random ones, so a block keeps its rank where the Krylov space ends.
    """
    noise = jax.random.normal(key, block.shape, block.dtype)
    tiny = 100 * jnp.finfo(block.dtype).eps
    block = block / jnp.maximum(lengths(block)[None], jnp.finfo(block.dtype).tiny)
    for _ in range(2):
        for _ in range(2):
            block = block - against @ (against.T @ block)
        q, r = jnp.linalg.qr(block)
        lost = jnp.abs(jnp.diagonal(r)) <= tiny
        block = jnp.where(lost[None], noise, q)
    for _ in range(2):
        block = block - against @ (against.T @ block)
    return jnp.linalg.qr(block)[0]


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
    ‖H v - λ v‖ <= tol · max |λ|; a block holds k vectors, so that an eigenvalue of multiplicity up to k is found that
    often. Small problems (P <= 256) take the dense matrix, with the same residuals. ``tol`` defaults to 1e-6 in float64
    and 1e-4 in float32; ``key`` draws the start. Where ``max_restarts`` ends the search, ``converged`` says which pairs
    are good. Raises ValueError for k outside [1, P], an unknown ``which``, a tol that is not positive.
    """
    size, dtype = check(loss, params)
    checks.count("k", k)
    if k > size:
        raise ValueError(f"k: expected at most {size}, the number of parameters, got {k}")
    checks.one_of("which", which, ["SA", "LA", "BE"])
    tol = checks.positive("tol", (1e-6 if dtype == jnp.float64 else 1e-4) if tol is None else tol)
    key = jax.random.key(0) if key is None else key
    checks.count("max_restarts", max_restarts, at_least=0)
    with jax.default_matmul_precision("highest"):
        if size <= max(DENSE_SIZE, (BLOCKS + 1) * k):
            matrix = hessian(loss, params)
            unit = exponent(matrix)
            found = _dense(jnp.ldexp(matrix, -unit), _wanted(size, k, which), tol)
        else:
            apply, unit = scaled(products(loss, params), size, dtype)
            found = _search(apply, size, dtype, k, which, tol, key, max_restarts)
    return found._replace(eigenvalues=jnp.ldexp(found.eigenvalues, unit), residuals=jnp.ldexp(found.residuals, unit))


def scaled(apply: Flat, size: int, dtype: jnp.dtype) -> tuple[Flat, jax.Array]:
    """2⁻ᵉ H as a map, and e, from the size of one product."""
    unit = exponent(apply(jax.random.normal(jax.random.key(0), (size, 1), dtype)))
    return lambda v: jnp.ldexp(apply(v), -unit), unit


def _wanted(size: int, k: int, which: str) -> np.ndarray:
    """Places of the wanted values among ``size`` ascending ones."""
    low = {"SA": k, "LA": 0, "BE": k - k // 2}[which]
    return np.concatenate([np.arange(low), np.arange(size - (k - low), size)])


def _dense(matrix: jax.Array, wanted: np.ndarray, tol: float) -> Spectrum:
    values, vectors = jnp.linalg.eigh(matrix)
    scale = jnp.max(jnp.abs(values))
    values, vectors = values[wanted], vectors[:, wanted]
    residuals = lengths(matrix @ vectors - vectors * values[None])
    taken = jnp.asarray(len(matrix), jnp.int32)
    return Spectrum(values, vectors, residuals, residuals <= tol * scale, taken)


def krylov(
    apply: Flat, basis: jax.Array, image: jax.Array, block: jax.Array, begin: int, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Fill the basis Q (P, m) and its image H Q from column ``begin`` on: each block (P, b) is H times the one before,
    orthonormalised against all columns so far (those not filled yet are zero)."""
    width = block.shape[1]

    def add(i: int, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        basis, image, block = carry
        basis = jax.lax.dynamic_update_slice_in_dim(basis, block, begin + i * width, axis=1)
        moved = apply(block)
        image = jax.lax.dynamic_update_slice_in_dim(image, moved, begin + i * width, axis=1)
        return basis, image, orthonormal(moved, basis, jax.random.fold_in(key, i))

    steps = (basis.shape[1] - begin) // width
    basis, image, _ = jax.lax.fori_loop(0, steps, add, (basis, image, block))
    return basis, image


def random_krylov(
    apply: Flat, size: int, dtype: jnp.dtype, width: int, blocks: int, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """An orthonormal basis Q (P, width · blocks) of a random block Krylov space, and H Q."""
    zeros = jnp.zeros((size, width * blocks), dtype)
    draw, key = jax.random.split(key)
    start = orthonormal(jax.random.normal(draw, (size, width), dtype), zeros, draw)
    return krylov(apply, zeros, zeros, start, 0, key)


def _search(
    apply: Flat, size: int, dtype: jnp.dtype, k: int, which: str, tol: float, key: jax.Array, max_restarts: int
) -> Spectrum:
    kept, total = KEEP * k, BLOCKS * k
    wanted, keep = _wanted(total, k, which), _wanted(total, kept, which)

    def project(basis: jax.Array, image: jax.Array, scale: jax.Array, cycles: jax.Array) -> _Search:
        small = basis.T @ image
        values, mix = jnp.linalg.eigh((small + small.T) / 2)
        vectors = basis @ mix[:, wanted]
        left = image @ mix[:, wanted] - vectors * values[wanted][None]
        scale = jnp.maximum(scale, jnp.max(jnp.abs(values)))
        return _Search(basis @ mix[:, keep], image @ mix[:, keep], values[wanted], vectors, left, scale, cycles + 1)

    def restart(search: _Search) -> _Search:
        draw = jax.random.fold_in(key, search.cycles)
        rest = jnp.zeros((size, total - kept), dtype)
        basis, image = (jnp.concatenate([a, rest], axis=1) for a in (search.basis, search.image))
        basis, image = krylov(apply, basis, image, orthonormal(search.left, basis, draw), kept, draw)
        return project(basis, image, search.scale, search.cycles)

    def residuals(search: _Search) -> jax.Array:
        return lengths(search.left)

    def unfinished(search: _Search) -> jax.Array:
        return jnp.any(residuals(search) > tol * search.scale) & (search.cycles <= max_restarts)

    basis, image = random_krylov(apply, size, dtype, k, BLOCKS, key)
    first = project(basis, image, jnp.zeros((), dtype), jnp.zeros((), jnp.int32))
    search = jax.lax.while_loop(unfinished, restart, first)
    taken = k * (BLOCKS + (BLOCKS - KEEP) * (search.cycles - 1))
    found = residuals(search)
    return Spectrum(search.values, search.vectors, found, found <= tol * search.scale, taken)
