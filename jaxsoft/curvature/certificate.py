"""How many ways down: counts of negative, zero and positive eigenvalues, with a bound on what rounding can change.

Sylvester's law: H + σI = L D Lᵀ has as many negative eigenvalues as D, that is as many as H has below -σ. In floating
point the factors are those of H + σI + E with ‖E‖₂ <= ε, and by Weyl no eigenvalue moves by more than ε. So the count
at σ = band + ε never exceeds, and that at σ = band - ε never falls short of, the number of eigenvalues below -band.
What lies between the two counts is undecided, and is said to be.

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
from scipy.linalg import get_blas_funcs, get_lapack_funcs

from jaxsoft import checks
from jaxsoft.curvature.lanczos import exponent, lengths, random_krylov, scaled
from jaxsoft.curvature.products import Composite, Loss, Params, check, check_memory, hessian, memory_bytes, products
from jaxsoft.curvature.sturm import STURM, householder, norm, sturm_counts

METHODS = ("auto", "ldl", "tridiagonal", "lanczos")
# Up to so many parameters the tridiagonal form is as quick as the factorisations, which always take float64.
TRIDIAGONAL_SIZE = {"float32": 64, "float64": 256}
LANCZOS_WIDTH, LANCZOS_BLOCKS = 16, 20
OFF = 256  # √P u ‖H‖_F: how far from an edge factors are made first; they are seldom worse
INDEPENDENT = 1e-3  # null directions with a smaller singular value count as dependent


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
    method: "ldl", "tridiagonal" or "lanczos"; with "lanczos" the counts are only lower bounds.

    A Hessian with NaN or infinite entries has everything undecided and a bound of NaN.
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
        band: > 0, in the units of H; √ε ‖H‖ by default (1.5e-8 ‖H‖ in float64, 3.5e-4 ‖H‖ in float32).
        method: "ldl", two to four factorisations by LAPACK, not under jit or vmap; "tridiagonal", Sturm counts of the
            similar tridiagonal matrix, also there; "lanczos", from products alone: lower bounds. "auto" takes the first
            of these that the place allows and that fits into memory.
        null: (P, k) directions that should be flat; by default those that a ``Composite`` knows. As many as turn out to
            be, with ‖H v‖ inside the band, are counted apart as ``null``, and so are rows of H that are exactly zero
            (dead inputs, dead units).
        key: draws the start of Lanczos.

    Raises ValueError for a band that is not positive, an unknown method, "ldl" under a transformation, a ``null`` of
    another shape; MemoryError for a matrix that does not fit; and what ``hessian`` raises.
    """
    size, dtype = check(loss, params)
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
            return _by_lanczos(loss, params, size, dtype, band, null, key)
        check_memory(size, dtype, 5 if method == "tridiagonal" else 3, "use method='lanczos'")
        matrix, flat = loss.dense(params) if isinstance(loss, Composite) else (hessian(loss, params), None)
        flat = flat if null is None else null
        transformed = any(checks.traced(x) for x in (matrix, flat, band))
        if method == "auto":
            few = size <= TRIDIAGONAL_SIZE[jnp.dtype(dtype).name]
            method = "tridiagonal" if transformed or few else "ldl"
        if method == "tridiagonal":
            return _tridiagonal_form(matrix, band, flat)
        if transformed:
            raise ValueError("method: expected 'tridiagonal' or 'lanczos' under jit or vmap, got 'ldl'")
        return _in_units_of_one(_by_factors, matrix, band, flat)


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
    certify: Callable[..., Inertia], matrix: jax.Array, band: float | jax.Array | None, null: jax.Array | None
) -> Inertia:
    """The certificate of 2⁻ᵉ H, its largest entry about 1, so that no square under- or overflows."""
    dtype, e = matrix.dtype, exponent(matrix)
    if not checks.traced(e) and e == 0:
        return certify(matrix, band, null)
    return _in_units(certify(jnp.ldexp(matrix, -e), _band_inside(band, e, dtype), null), band, e)


def _band_inside(band: float | jax.Array | None, e: jax.Array, dtype: jnp.dtype) -> jax.Array | None:
    """The band for 2⁻ᵉ H; beyond the range of the type it makes no difference which."""
    limits = jnp.finfo(dtype)
    return None if band is None else jnp.clip(jnp.ldexp(jnp.asarray(band, dtype), -e), limits.tiny, limits.max)


def _in_units(found: Inertia, band: float | jax.Array | None, e: jax.Array) -> Inertia:
    """The certificate of H from that of 2⁻ᵉ H."""
    dtype = found.band.dtype
    given = jnp.ldexp(found.band, e) if band is None else jnp.asarray(band, dtype)
    return replace(found, band=given, bound=jnp.ldexp(found.bound.astype(dtype), e))


@jax.jit
def _tridiagonal_form(matrix: jax.Array, band: float | jax.Array | None, null: jax.Array | None) -> Inertia:
    return _in_units_of_one(_by_tridiagonal, matrix, band, null)


def _band(given: float | jax.Array | None, scale: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The band in the units of H: as given, or √ε of the scale ‖H‖₂ (1 for a matrix of zeros)."""
    if given is not None:
        return jnp.asarray(given, dtype)
    return jnp.sqrt(jnp.finfo(dtype).eps) * jnp.where(scale == 0, 1, scale)


def _verdict(
    size: int, counts: tuple[jax.Array, ...], finite: jax.Array, band: jax.Array, bound: jax.Array, method: str
) -> Inertia:
    """Put certified counts (below, inside, above the band, known null) together. What they leave out of P is undecided,
    and so is everything of a broken matrix."""
    below, inside, above, null = (jnp.where(finite, x, 0).astype(jnp.int32) for x in counts)
    null = jnp.minimum(null, size - below - above)
    inside = jnp.maximum(inside, null)
    undecided = size - below - inside - above
    bound = jnp.where(finite, bound, jnp.nan)
    return Inertia(below, inside - null, above, undecided, null, band, bound, method)


def _known_null(
    dead: jax.Array, null: jax.Array | None, image: jax.Array | None, band: jax.Array, rounding: float | jax.Array
) -> jax.Array:
    """How many independent flat directions are known: rows of zeros, and what is flat in the span of ``null`` beside
    them. U (P, k) is an orthonormal basis of that; j singular values of H U up to band/√k, less what ``rounding`` in H
    times the given directions can change, put j eigenvalues of H inside the band."""
    count = jnp.sum(dead)
    if null is None or image is None:
        return count
    length = lengths(null)
    unit = jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0)[None]
    _, sines, mix = jnp.linalg.svd(jnp.where(dead[:, None], 0, null * unit), full_matrices=False)
    independent = sines > INDEPENDENT
    scaled = (image * unit) @ mix.T * jnp.where(independent, 1 / jnp.where(independent, sines, 1), 0)[None]
    limit = band - rounding / jnp.min(jnp.where(independent, sines, 1), initial=1)
    steep = jnp.linalg.svd(scaled, compute_uv=False) > limit / np.sqrt(len(sines))
    return count + jnp.maximum(jnp.sum(independent) - jnp.sum(steep), 0)


def _by_tridiagonal(matrix: jax.Array, band: float | jax.Array | None, null: jax.Array | None) -> Inertia:
    """Sturm counts of T = Qᵀ H Q, with ε = ‖H Q - Q T‖_F + 2 ‖Qᵀ Q - I‖_F ‖T‖₂, the rounding of these sums and of the
    counts.

    Rounding Q to the nearest orthonormal U changes it by at most ‖Qᵀ Q - I‖; then ‖Uᵀ H U - T‖ <= ε, and Weyl.
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
    band = _band(band, scale, dtype)
    edges = jnp.stack([-band - bound, -band + bound, band - bound, band + bound])
    below, at_most_below, up_to, at_most_up_to = sturm_counts(t, edges)
    image = None if null is None else matrix @ null
    # After T, by way of its bound: before jaxlib 0.12 two batched LAPACK calls at once wait for each other for ever.
    dead = ~jnp.any(matrix != 0, axis=1) & (bound >= 0)
    counts = (
        below,
        jnp.maximum(up_to - at_most_below, 0),
        size - at_most_up_to,
        _known_null(dead, null, image, band, 2 * size * unit * frobenius),
    )
    return _verdict(size, counts, finite, band, bound, "tridiagonal")


def _by_factors(matrix: jax.Array, given: float | None, null: jax.Array | None) -> Inertia:
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
    rounding = 2 * size * _floor(whole)
    band, dead, known = _before_factors(matrix, given, null, image, rounding)
    alive = np.flatnonzero(~np.asarray(dead))
    part = whole if len(alive) == size else whole[np.ix_(alive, alive)]
    edge = float(band)
    (below, at_most_up_to), bound = _counts_below(part, [(-edge, -1), (edge, +1)])
    inside = int(known)
    if at_most_up_to - below + size - len(alive) > inside:
        (at_most_below, up_to), more = _counts_below(part, [(-edge, +1), (edge, -1)], bound / 2)
        inside, bound = max(0, up_to - at_most_below) + size - len(alive), max(bound, more)
    counts = (jnp.asarray(below), jnp.asarray(inside), jnp.asarray(len(alive) - at_most_up_to), known)
    return _verdict(size, counts, jnp.asarray(True), band, jnp.asarray(bound), "ldl")


@jax.jit
def _before_factors(
    matrix: jax.Array, given: float | None, null: jax.Array | None, image: jax.Array | None, rounding: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The band, which rows are zero, and the number of known null directions, from H times them."""
    band = _band(given, _norm(matrix) if given is None else jnp.ones((), matrix.dtype), matrix.dtype)
    dead = ~jnp.any(matrix != 0, axis=1)
    return band, dead, _known_null(dead, null, image, band, rounding)


def _counts_below(matrix: np.ndarray, edges: list[tuple[float, int]], least: float = 0.0) -> tuple[list[int], float]:
    """For each (edge, side): how many eigenvalues are below edge + side · ε; and how far the counts may be from the
    edges. Side -1 never counts an eigenvalue above the edge, side +1 never misses one below it."""
    if len(matrix) == 0:
        return [0] * len(edges), 0.0
    shift = max(least, OFF * np.sqrt(len(matrix)) * _floor(matrix))
    counts = []
    for edge, side in edges:
        while True:
            count, bound = negatives(matrix, edge + side * shift)
            if bound <= shift:
                break
            shift = 2 * bound  # the factors are worse than expected: stand further off
        counts.append(count)
    return counts, 2 * shift


def _floor(matrix: np.ndarray) -> float:
    """u ‖H‖_F: no bound is better than the last digit."""
    return float(np.finfo(np.float64).eps / 2 * np.linalg.norm(matrix))


def negatives(matrix: np.ndarray, shift: float, probes: int = 10) -> tuple[int, float]:
    """How many eigenvalues of a symmetric matrix are below ``shift``, and the backward error ε of that count.

    A = H - shift·I = P L D Lᵀ Pᵀ by Bunch & Kaufman (1977) pivoting, in float64. The count is exact for A - E with
    E = A - P L D Lᵀ Pᵀ, the residual of the computed factors. For Gaussian vectors ω_1 .. ω_k,

        ‖E‖₂ <= 10 √(2/π) max_i ‖E ω_i‖₂     with a probability of at least 1 - 10⁻ᵏ

    (Halko, Martinsson & Tropp 2011, lemma 4.1); k = ``probes`` = 10. That is ε, and u ‖H‖_F more.
    """
    size = len(matrix)
    factor = np.array(matrix, np.float64, order="F")
    factor[np.diag_indices(size)] -= shift
    sytrf, sytrf_lwork, syconv = get_lapack_funcs(("sytrf", "sytrf_lwork", "syconv"), (factor,))
    trmm = get_blas_funcs("trmm", (factor,))
    factor, pivots, info = sytrf(factor, lwork=int(sytrf_lwork(size, lower=1)[0]), lower=1, overwrite_a=1)
    if info < 0:
        raise ValueError(f"matrix: expected a matrix of finite numbers, LAPACK refuses argument {-info}")
    factor, off, _ = syconv(factor, pivots, lower=1, way=0, overwrite_a=1)
    off[-1] = 0.0
    diagonal = np.diagonal(factor).copy()

    first = np.flatnonzero(pivots[:-1] < 0)
    first = first[::2]  # both rows of a 2x2 pivot are marked, one pair after the other
    single = np.ones(size, bool)
    single[first] = single[first + 1] = False
    a, b, c = diagonal[first], off[first], diagonal[first + 1]
    two = np.where(a * c - b * b < 0, 1, np.where(a + c < 0, 2, 0))
    count = int(np.sum(diagonal[single] < 0) + np.sum(two))

    omega = np.asfortranarray(np.random.default_rng(0).normal(size=(size, probes)))
    order = _permutation(pivots)
    moved = trmm(1.0, factor, np.asfortranarray(omega[order]), lower=1, trans_a=1, diag=1)
    moved = _tridiagonal(diagonal, off, moved)
    moved = trmm(1.0, factor, np.asfortranarray(moved), lower=1, diag=1)
    residual = matrix @ omega - shift * omega
    residual[order] -= moved
    largest = float(np.max(np.linalg.norm(residual, axis=0)))
    return count, 10 * np.sqrt(2 / np.pi) * largest + _floor(matrix)


def _permutation(pivots: np.ndarray) -> np.ndarray:
    """The order of rows that LAPACK's interchanges (lower) bring about."""
    order = np.arange(len(pivots))
    k = 0
    while k < len(pivots):
        pair = pivots[k] < 0
        row = k + pair
        other = abs(int(pivots[k])) - 1
        order[[row, other]] = order[[other, row]]
        k += 1 + pair
    return order


def _tridiagonal(diagonal: np.ndarray, off: np.ndarray, x: np.ndarray) -> np.ndarray:
    """D x for the block diagonal D."""
    y = diagonal[:, None] * x
    y[1:] += off[:-1, None] * x[:-1]
    y[:-1] += off[:-1, None] * x[1:]
    return y


def _norm(matrix: jax.Array) -> jax.Array:
    """‖H‖₂ from a random Krylov space, from below; a default band needs no more."""
    size = len(matrix)
    width = min(4, size)
    blocks = max(1, min(8, size // width))
    space = random_krylov(lambda v: matrix @ v, size, matrix.dtype, width, blocks, jax.random.key(0))
    return jnp.max(jnp.abs(jnp.linalg.eigvalsh(space.small)))


def _by_lanczos(
    loss: Loss,
    params: Params,
    size: int,
    dtype: jnp.dtype,
    given: float | jax.Array | None,
    null: jax.Array | None,
    key: jax.Array | None,
) -> Inertia:
    """Lower bounds: by Courant and Fischer H has at least as many eigenvalues below -band as its projection on any
    subspace. ε covers what the basis lacks of orthonormality, and the rounding of the projection."""
    apply, e = scaled(products(loss, params), size, dtype)
    width = min(LANCZOS_WIDTH, size)
    blocks = max(1, min(LANCZOS_BLOCKS, size // width))
    space = random_krylov(apply, size, dtype, width, blocks, jax.random.key(0) if key is None else key)
    finite = jnp.isfinite(space.square)
    values = jnp.linalg.eigvalsh(jnp.where(finite, space.small, 0))
    scale = jnp.max(jnp.abs(values))
    skew = jnp.linalg.norm(space.basis.T @ space.basis - jnp.eye(len(values), dtype=dtype))
    unit = jnp.finfo(dtype).eps / 2
    # Each product off the diagonal stands for two entries, hence 6 and not 4.
    rounding = 6 * (size + len(values)) * unit * jnp.sqrt(jnp.where(finite, space.square, 0))
    bound = 2 * skew * scale + rounding
    band = _band(_band_inside(given, e, dtype), scale, dtype)
    counts = (
        jnp.sum(values < -band - bound),
        jnp.zeros((), jnp.int32),
        jnp.sum(values > band + bound),
        _known_null(jnp.zeros(size, bool), null, None if null is None else apply(null), band, rounding),
    )
    found = _verdict(size, counts, finite, band, bound, "lanczos")
    return _in_units(found, given, e)
