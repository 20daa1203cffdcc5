"""How many ways down: counts of negative, zero and positive eigenvalues, with a bound on what rounding can change.

Sylvester's law: H + σI = L D Lᵀ has as many negative eigenvalues as D, that is as many as H has below -σ. In floating
point the factors are those of H + σI + E with ‖E‖₂ <= ε, and by Weyl no eigenvalue moves by more than ε. So the count
at σ = band + ε never exceeds, and that at σ = band - ε never falls short of, the number of eigenvalues below -band.
What lies between the two counts is undecided, and is said to be. For the factors of LAPACK the ε is an estimate from
random vectors, always the same ones: too small with a probability of 10⁻¹⁰ for each factorisation (``ldl.negatives``).

The certificate is for the matrix (or the products) as computed: the rounding in the second derivatives themselves is
about 1e-15 ‖H‖ in float64, far inside the default band.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxsoft import checks
from jaxsoft.curvature.lanczos import exponent, lengths, random_krylov, scaled
from jaxsoft.curvature.ldl import counts_below, floor
from jaxsoft.curvature.products import (
    Composite,
    Loss,
    Params,
    check_memory,
    examine,
    hessian,
    memory_bytes,
    products,
)
from jaxsoft.curvature.sturm import STURM, householder, norm, sturm_counts

METHODS = ("auto", "ldl", "tridiagonal", "lanczos")
# Up to so many parameters the tridiagonal form is as quick as the factorisations, which always take float64.
TRIDIAGONAL_SIZE = {"float32": 64, "float64": 256}
LANCZOS_WIDTH, LANCZOS_BLOCKS = 16, 20
# Null directions with a smaller singular value, or one where rounding takes half the band, count as dependent.
INDEPENDENT = 1e-3


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["negative", "zero", "positive", "undecided", "null", "band", "bound"],
    meta_fields=["method"],
)
@dataclass(frozen=True)
class Inertia:
    """Counts of the P eigenvalues of a Hessian; negative + zero + positive + undecided + null = P.

    negative: at least so many are below -band, and at most negative + undecided are. zero: within the band, without
    null. positive: above the band. undecided: too near an edge of the band for the rounding ``bound``, or out of reach
    of the method. null: directions known to be flat by symmetry, checked to be. band, bound: in the units of H.
    method: "ldl", "tridiagonal" or "lanczos"; with "lanczos" the counts are only lower bounds. The bound of "ldl" holds
    with a probability of 1 - 10⁻¹⁰ for each of its factorisations.

    A Hessian with NaN or infinite entries has everything undecided and a bound of NaN, and so has a band under jit or
    vmap that turns out not to be a finite number > 0.
    """

    negative: jax.Array
    zero: jax.Array
    positive: jax.Array
    undecided: jax.Array
    null: jax.Array
    band: jax.Array
    bound: jax.Array
    method: str

    def arrays(self) -> dict[str, jax.Array]:
        """Everything but the method, by name: what a process can record."""
        return {name: value for name, value in asdict(self).items() if name != "method"}

    def __str__(self) -> str:
        least = "at least " if self.method == "lanczos" else ""
        if np.ndim(self.negative):
            low, high, unsure = np.min(self.negative), np.max(self.negative), np.max(self.undecided)
            points = np.size(self.negative)
            return f"index {least}{low} to {high} at {points} points (undecided at most {unsure}; {self.method})"
        return (
            f"index {least}{self.negative} (positive {self.positive}, zero {self.zero}, known null {self.null}, "
            f"undecided {self.undecided}; band {self.band:.2g}, bound {self.bound:.1g}, {self.method})"
        )


def inertia(
    loss: Loss,
    params: Params,
    *,
    band: float | jax.Array | None = None,
    method: str = "auto",
    null: jax.Array | None = None,
    key: jax.Array | None = None,
) -> Inertia:
    """Certified counts of the Hessian's eigenvalues below -band, inside the band, and above it (Sylvester 1852).

    Args:
        loss: ``loss(params) -> scalar``.
        params: a pytree of floats.
        band: > 0, in the units of H; √ε ‖H‖ by default (1.5e-8 ‖H‖ in float64, 3.5e-4 ‖H‖ in float32), with the ε of
            the least precise of the types of the parameters and of the loss. A cast to less inside the loss is not
            seen: there the band has to be given.
        method: "ldl", two to four factorisations by LAPACK, more where one is worse than usual, not under jit or vmap;
            "tridiagonal", Sturm counts of the similar tridiagonal matrix, also there; "lanczos", from products alone:
            lower bounds. "auto" takes the first of these that the place allows and that fits into memory.
        null: (P, k) directions that should be flat; by default those that a ``Composite`` knows. As many as turn out to
            be, with ‖H v‖ inside the band, are counted apart as ``null``, and so are rows of H that are exactly zero
            (dead inputs, dead units).
        key: draws the start of Lanczos.

    Raises ValueError for a band that is not positive, an unknown method, "ldl" under a transformation, a ``null`` of
    another shape; MemoryError for a matrix that does not fit; and what ``hessian`` raises.
    """
    size, dtype, worst = examine(loss, params)
    eps = float(jnp.finfo(worst).eps)
    if band is not None:
        checks.positive("band", band)
        if not checks.traced(band) and not 0 < float(np.asarray(band, dtype)) < np.inf:
            raise ValueError(f"band: expected a number > 0 in {dtype}, got {band}")
    checks.one_of("method", method, METHODS)
    null = _hint(null, size)
    if method == "auto" and 3 * size**2 * 8 > memory_bytes():
        method = "lanczos"
    with jax.default_matmul_precision("highest"):
        if method == "lanczos":
            null = loss.null(params) if null is None and isinstance(loss, Composite) and loss.null else null
            return _by_lanczos(loss, params, size, dtype, band, eps, null, key)
        kind, copies = (dtype, 5) if method == "tridiagonal" else (jnp.float64, 3)
        check_memory(size, kind, copies * size, "use method='lanczos'")
        matrix, flat = loss.dense(params) if isinstance(loss, Composite) else (hessian(loss, params), None)
        flat = flat if null is None else null
        transformed = any(checks.traced(x) for x in (matrix, flat, band))
        if method == "auto":
            few = size <= TRIDIAGONAL_SIZE[jnp.dtype(dtype).name]
            method = "tridiagonal" if transformed or few else "ldl"
        if method == "tridiagonal":
            return _tridiagonal_form(matrix, band, eps, flat)
        if transformed:
            raise ValueError("method: expected 'tridiagonal' or 'lanczos' under jit or vmap, got 'ldl'")
        return _in_units_of_one(_by_factors, matrix, band, eps, flat)


def _hint(null: jax.Array | None, size: int) -> jax.Array | None:
    """Directions that a person says are flat, as an array."""
    if null is None:
        return None
    null = jnp.asarray(null)
    if null.ndim != 2 or null.shape[0] != size or not jnp.issubdtype(null.dtype, jnp.floating):
        raise ValueError(f"null: expected floats of shape ({size}, k), got {null.dtype} of shape {null.shape}")
    if not checks.traced(null) and not jnp.isfinite(null).all():
        raise ValueError("null: expected finite numbers, got NaN or infinity")
    return null


def _in_units_of_one(
    certify: Callable[..., Inertia],
    matrix: jax.Array,
    band: float | jax.Array | None,
    eps: float,
    null: jax.Array | None,
) -> Inertia:
    """The certificate of 2⁻ᵉ H, its largest entry about 1, so that no square under- or overflows. Rows of zeros are
    those of H, as small ones may become zero."""
    e, dead = exponent(matrix), _zero_rows(matrix)
    if not checks.traced(e) and e == 0:
        return certify(matrix, dead, band, eps, null)
    inside = _band_inside(band, e, matrix.dtype)
    return _in_units(certify(jnp.ldexp(matrix, -e), dead, inside, eps, null), band, e)


@jax.jit  # without copies of a large matrix
def _zero_rows(matrix: jax.Array) -> jax.Array:
    return ~jnp.any(matrix != 0, axis=1)


def _band_inside(band: float | jax.Array | None, e: jax.Array, dtype: jnp.dtype) -> jax.Array | None:
    """The band for 2⁻ᵉ H; beyond the range of the type it makes no difference which. NaN for what is no band."""
    if band is None:
        return None
    band, limits = jnp.asarray(band, dtype), jnp.finfo(dtype)
    inside = jnp.clip(jnp.ldexp(band, -e), limits.tiny, limits.max)
    return jnp.where((band > 0) & (band < jnp.inf), inside, jnp.nan)


def _in_units(found: Inertia, band: float | jax.Array | None, e: jax.Array) -> Inertia:
    """The certificate of H from that of 2⁻ᵉ H."""
    dtype = found.band.dtype
    given = jnp.ldexp(found.band, e) if band is None else jnp.asarray(band, dtype)
    return replace(found, band=given, bound=jnp.ldexp(found.bound.astype(dtype), e))


@functools.partial(jax.jit, static_argnames="eps")
def _tridiagonal_form(matrix: jax.Array, band: float | jax.Array | None, eps: float, null: jax.Array | None) -> Inertia:
    return _in_units_of_one(_by_tridiagonal, matrix, band, eps, null)


def _band(given: float | jax.Array | None, scale: jax.Array, eps: float, dtype: jnp.dtype) -> jax.Array:
    """The band in the units of H: as given, or √ε of the scale ‖H‖₂ (1 for a matrix of zeros)."""
    if given is not None:
        return jnp.asarray(given, dtype)
    return jnp.asarray(np.sqrt(eps), dtype) * jnp.where(scale == 0, 1, scale)


def _verdict(
    size: int, counts: tuple[jax.Array, ...], finite: jax.Array, band: jax.Array, bound: jax.Array, method: str
) -> Inertia:
    """Put certified counts (below, inside, above the band, known null) together. What they leave out of P is undecided,
    and so is everything of a broken matrix or band."""
    finite = finite & (band > 0)
    below, inside, above, null = (jnp.where(finite, x, 0).astype(jnp.int32) for x in counts)
    null = jnp.minimum(null, size - below - above)
    inside = jnp.clip(inside, null, size - below - above)
    undecided = size - below - inside - above
    bound = jnp.where(finite, bound, jnp.nan)
    return Inertia(below, inside - null, above, undecided, null, band, bound, method)


def _known_null(
    dead: jax.Array, null: jax.Array | None, image: jax.Array | None, band: jax.Array, rounding: float | jax.Array
) -> jax.Array:
    """How many independent flat directions are known: rows of zeros, and what is flat in the span of ``null`` beside
    them. U (P, k) is an orthonormal basis of that; j singular values of H U up to the band, less what ``rounding`` in H
    times each of the given directions can change, put j eigenvalues of H inside the band (Courant and Fischer, H²)."""
    count = jnp.sum(dead)
    if null is None or image is None:
        return count
    length = lengths(null)
    unit = jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0)[None]
    _, sines, mix = jnp.linalg.svd(jnp.where(dead[:, None], 0, null * unit), full_matrices=False)
    rounding = np.sqrt(null.shape[1]) * rounding
    independent = sines > jnp.maximum(INDEPENDENT, 2 * rounding / band)
    scaled = (image * unit) @ mix.T * jnp.where(independent, 1 / jnp.where(independent, sines, 1), 0)[None]
    limit = band - rounding / jnp.min(jnp.where(independent, sines, 1), initial=1)
    steep = jnp.linalg.svd(scaled, compute_uv=False) > limit
    return count + jnp.maximum(jnp.sum(independent) - jnp.sum(steep), 0)


def _by_tridiagonal(
    matrix: jax.Array, dead: jax.Array, band: float | jax.Array | None, eps: float, null: jax.Array | None
) -> Inertia:
    """Sturm counts of T = Qᵀ H Q, with ε = ‖H Q - Q T‖_F + 2 ‖Qᵀ Q - I‖_F ‖T‖₂, the rounding of these sums and of the
    counts.

    Rounding Q to the nearest orthonormal U changes it by at most ‖Qᵀ Q - I‖; then ‖Uᵀ H U - T‖ <= ε, and Weyl. The
    rounding of the sums is taken to be 4 (P + 4) √P u ‖H‖_F: for H Q - Q T no sum of P products can be worse, and for
    Qᵀ Q, with 2 P² u ‖T‖₂ at worst, it is far more than roundings of both signs add up to (Higham & Mary 2019).
    """
    size, dtype = len(matrix), matrix.dtype
    finite = jnp.all(jnp.isfinite(matrix))
    matrix = jnp.where(finite, matrix, 0)
    q, t = householder(matrix)
    scale = norm(t)
    frobenius = jnp.linalg.norm(matrix)
    moved = q * t.diagonal[None]
    moved = moved.at[:, 1:].add(q[:, :-1] * t.off[None]).at[:, :-1].add(q[:, 1:] * t.off[None])
    residual = jnp.linalg.norm(matrix @ q - moved)
    skew = jnp.linalg.norm(q.T @ q - jnp.eye(size, dtype=dtype))
    unit = jnp.finfo(dtype).eps / 2
    rounding = 4 * (size + 4) * unit * np.sqrt(size) * frobenius + STURM * unit * jnp.max(jnp.abs(t.off), initial=0)
    bound = residual + 2 * skew * scale + rounding
    band = _band(band, scale, eps, dtype)
    edges = jnp.stack([-band - bound, -band + bound, band - bound, band + bound])
    below, at_most_below, up_to, at_most_up_to = sturm_counts(t, edges)
    image = None if null is None else matrix @ null
    # After T, by way of its bound: before jaxlib 0.12 two batched LAPACK calls at once wait for each other for ever.
    dead = dead & (bound >= 0)
    counts = (
        below,
        jnp.maximum(up_to - at_most_below, 0),
        size - at_most_up_to,
        _known_null(dead, null, image, band, 2 * size * unit * frobenius),
    )
    return _verdict(size, counts, finite, band, bound, "tridiagonal")


def _by_factors(
    matrix: jax.Array, dead: jax.Array, given: float | jax.Array | None, eps: float, null: jax.Array | None
) -> Inertia:
    """Counts by L D Lᵀ in float64, at ±(band + ε); if more lie between than are known to be flat, at ±(band - ε) too.
    Rows of zeros are left out, as they are known exactly."""
    size, dtype = len(matrix), matrix.dtype
    if not jnp.all(jnp.isfinite(matrix)):
        nothing = jnp.zeros((), jnp.int32)
        nan = jnp.asarray(jnp.nan, dtype)
        band = nan if given is None else jnp.asarray(given, dtype)
        return _verdict(size, (nothing,) * 4, jnp.asarray(False), band, nan, "ldl")
    whole = np.asarray(matrix, np.float64)
    image = None if null is None else whole @ np.asarray(null, np.float64)
    rounding = 2 * size * floor(whole)
    band, known = _before_factors(matrix, dead, given, eps, null, image, rounding)
    alive = np.flatnonzero(~np.asarray(dead))
    part = whole if len(alive) == size else whole[np.ix_(alive, alive)]
    edge = min(float(band), 2 * float(np.linalg.norm(part)))  # beyond ‖H‖_F there is nothing to count
    (below, at_most_up_to), bound = counts_below(part, [(-edge, -1), (edge, +1)])
    inside = int(known)
    if at_most_up_to - below + size - len(alive) > inside:
        (at_most_below, up_to), more = counts_below(part, [(-edge, +1), (edge, -1)], bound / 2)
        inside, bound = max(0, up_to - at_most_below) + size - len(alive), float(np.maximum(bound, more))
    counts = (jnp.asarray(below), jnp.asarray(inside), jnp.asarray(len(alive) - at_most_up_to), known)
    return _verdict(size, counts, jnp.asarray(np.isfinite(bound)), band, jnp.asarray(bound), "ldl")


@functools.partial(jax.jit, static_argnames="eps")
def _before_factors(
    matrix: jax.Array,
    dead: jax.Array,
    given: float | jax.Array | None,
    eps: float,
    null: jax.Array | None,
    image: jax.Array | None,
    rounding: float,
) -> tuple[jax.Array, jax.Array]:
    """The band, and the number of known null directions, from H times them."""
    band = _band(given, _norm(matrix) if given is None else jnp.ones((), matrix.dtype), eps, matrix.dtype)
    return band, _known_null(dead, null, image, band, rounding)


def _norm(matrix: jax.Array) -> jax.Array:
    """‖H‖₂ from a random Krylov space, from below; a default band needs no more."""
    width, blocks = 4, 8
    if len(matrix) > width * blocks:
        space = random_krylov(lambda v: matrix @ v, len(matrix), matrix.dtype, width, blocks, jax.random.key(0))
        matrix = space.small
    return jnp.max(jnp.abs(jnp.linalg.eigvalsh(matrix)))


def _by_lanczos(
    loss: Loss,
    params: Params,
    size: int,
    dtype: jnp.dtype,
    given: float | jax.Array | None,
    eps: float,
    null: jax.Array | None,
    key: jax.Array | None,
) -> Inertia:
    """Lower bounds: by Courant and Fischer H has at least as many eigenvalues below -band as its projection on any
    subspace. ε covers what the basis lacks of orthonormality, and the rounding of the projection."""
    apply, e = scaled(products(loss, params), size, dtype)
    width = min(LANCZOS_WIDTH, -(-size // LANCZOS_BLOCKS))
    blocks = min(LANCZOS_BLOCKS, size // width)
    check_memory(size, dtype, 2 * width * blocks, "use spectrum with a small k")
    space = random_krylov(apply, size, dtype, width, blocks, jax.random.key(0) if key is None else key)
    finite = jnp.isfinite(space.square)
    values = jnp.linalg.eigvalsh(jnp.where(finite, space.small, 0))
    scale = jnp.max(jnp.abs(values))
    skew = jnp.linalg.norm(space.basis.T @ space.basis - jnp.eye(len(values), dtype=dtype))
    unit = jnp.finfo(dtype).eps / 2
    # Each product off the diagonal stands for two entries, hence 6 and not 4.
    rounding = 6 * (size + len(values)) * unit * jnp.sqrt(jnp.where(finite, space.square, 0))
    bound = 2 * skew * scale + rounding
    band = _band(_band_inside(given, e, dtype), scale, eps, dtype)
    counts = (
        jnp.sum(values < -band - bound),
        jnp.zeros((), jnp.int32),
        jnp.sum(values > band + bound),
        _known_null(jnp.zeros(size, bool), null, None if null is None else apply(null), band, rounding),
    )
    found = _verdict(size, counts, finite, band, bound, "lanczos")
    return _in_units(found, given, e)
