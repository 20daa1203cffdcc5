"""Curvature against closed forms, planted spectra and independent libraries; a certificate is never wrong."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import matfree.decomp
import matfree.eig
import numpy as np
import pytest
import scipy.sparse.linalg
from flax import linen, nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from jaxsoft import curvature, data, losses, models, problem, process, sweep, theory
from jaxsoft.curvature import lanczos, ldl, sturm
from jaxsoft.curvature.products import memory_bytes
from jaxsoft.process import CONVERGED, DIVERGED

EPS = float(np.finfo(np.float64).eps)


def planted(eigenvalues, seed=0):
    """A symmetric matrix with this spectrum."""
    values = np.asarray(eigenvalues, np.float64)
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))[0]
    matrix = (basis * values) @ basis.T
    return (matrix + matrix.T) / 2


def quadratic(matrix):
    return lambda params: 0.5 * params @ jnp.asarray(matrix) @ params


def small_digits(sizes, examples=60, **kwargs):
    whole = data.digits()
    part = data.Dataset(whole.x[:examples], whole.y[:examples], whole.num_classes, "digits")
    return problem.classification(models.mlp(sizes, **kwargs), part)


def at_random(made, seed=0, scale=0.3):
    params = made.init(jax.random.key(seed))
    flat, unravel = ravel_pytree(params)
    return unravel(flat + scale * jax.random.normal(jax.random.key(seed + 1), flat.shape))


def dense_by_jax(loss, params):
    flat, unravel = ravel_pytree(params)
    return jax.jit(jax.hessian(lambda theta: loss(unravel(theta))))(flat)


# Compiled as a whole, which is quicker than operation after operation.
hessian = jax.jit(curvature.hessian, static_argnums=0)
hvp = jax.jit(curvature.hvp, static_argnums=0)
inertia = jax.jit(curvature.inertia, static_argnums=0, static_argnames="method")
spectrum = jax.jit(curvature.spectrum, static_argnums=(0, 2, 3), static_argnames="max_restarts")


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(3)(jnp.tanh(linen.Dense(4)(x)))


class Nnx(nnx.Module):
    def __init__(self, *, rngs):
        self.first, self.last = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x)))


# Matrices and products


@pytest.mark.parametrize(
    ("hidden", "activation", "bias", "l2"),
    [
        ((), "tanh", True, 0.0),
        ((3,), "tanh", True, 0.1),
        ((4,), "gelu", False, 0.0),
        ((3, 2), "erf", True, 0.0),
        ((3, 4), "linear", False, 0.2),
        ((3, 2, 4), "tanh", True, 0.0),
        ((5, 3), "relu", True, 0.0),
    ],
)
def test_the_closed_form_is_the_hessian(x64, hidden, activation, bias, l2):
    made = problem.classification(models.mlp((4, *hidden, 3), activation=activation, bias=bias), data.iris(), l2)
    params = at_random(made)
    expected = dense_by_jax(made.loss, params)
    eager = [curvature.hessian(made.loss, params)] if hidden == (3, 2, 4) else []
    for found in (hessian(made.loss, params), *eager):
        # Sums of 150 terms of one size, in another order.
        np.testing.assert_allclose(found, expected, rtol=0, atol=200 * EPS * np.abs(expected).max())
        np.testing.assert_array_equal(found, found.T)


def test_the_closed_form_in_slices_is_the_same(x64, monkeypatch):
    made = small_digits((64, 5, 4, 10), scale=0.3)
    params = made.init(jax.random.key(0))
    whole = hessian(made.loss, params)
    monkeypatch.setattr("jaxsoft.curvature.layered.SLICE_BYTES", 64**2 * 8 * 7)
    sliced = jax.jit(lambda p: curvature.hessian(made.loss, p))(params)
    np.testing.assert_allclose(sliced, whole, rtol=0, atol=1e-14)


@pytest.mark.parametrize("module", [Linen(), Nnx], ids=["linen", "nnx"])
def test_flax_modules_products_matrices_and_inertia_agree(x64, module):
    made = problem.classification(models.from_flax(module, jnp.zeros(4)), data.iris())
    params = at_random(made)
    matrix = np.asarray(dense_by_jax(made.loss, params))
    np.testing.assert_allclose(hessian(made.loss, params), matrix, atol=1e-14)
    v = jax.tree.map(jnp.ones_like, params)
    np.testing.assert_allclose(ravel_pytree(hvp(made.loss, params, v))[0], matrix.sum(1), atol=1e-13)
    found = curvature.inertia(made.loss, params)
    values = np.linalg.eigvalsh(matrix)
    assert found.undecided == 0
    assert found.negative == np.sum(values < -float(found.band))
    assert found.zero + found.null == np.sum(np.abs(values) <= float(found.band))


def test_products_are_linear_and_symmetric_and_match_finite_differences(x64):
    made = small_digits((64, 3, 10))
    params = at_random(made)
    flat, unravel = ravel_pytree(params)
    rng = np.random.default_rng(0)
    u, v = (jnp.asarray(rng.normal(size=flat.size)) for _ in range(2))

    def h(w):
        return ravel_pytree(hvp(made.loss, params, unravel(w)))[0]

    np.testing.assert_allclose(h(2 * u + v), 2 * h(u) + h(v), atol=1e-12)
    np.testing.assert_allclose(u @ h(v), v @ h(u), rtol=1e-11)
    gradient = jax.jit(jax.grad(lambda w: made.loss(unravel(w))))
    step = 1e-5
    difference = (gradient(flat + step * v) - gradient(flat - step * v)) / (2 * step)
    np.testing.assert_allclose(h(v), difference, atol=1e-7)  # step² and rounding / step


def test_gauss_newton_is_the_jacobian_form(x64):
    made = problem.classification(models.mlp((4, 3, 3)), data.iris(), 0.05)
    params = at_random(made)
    flat, unravel = ravel_pytree(params)
    jacobian = jax.jit(jax.jacobian(lambda w: made.loss.outputs(unravel(w))))(flat)  # (n, C, P)
    p = jax.nn.softmax(made.loss.outputs(params))
    curved = jax.vmap(lambda q: jnp.diag(q) - jnp.outer(q, q))(p) / len(p)
    expected = jnp.einsum("ncp,ncd,ndq->pq", jacobian, curved, jacobian)
    expected += jax.hessian(lambda w: made.loss.penalty(unravel(w)))(flat)
    gauss_newton = jax.jit(curvature.gauss_newton, static_argnums=0)
    matrix = gauss_newton(made.loss, params)
    np.testing.assert_allclose(matrix, expected, atol=1e-14)
    v = jax.random.normal(jax.random.key(3), flat.shape)
    product = ravel_pytree(curvature.gauss_newton_product(made.loss, params, unravel(v)))[0]
    np.testing.assert_allclose(product, expected @ v, atol=1e-13)
    plain = curvature.Composite(made.loss.outputs, made.loss.cost, made.loss.penalty)  # without a closed form
    np.testing.assert_allclose(gauss_newton(plain, params), expected, atol=1e-14)


def test_gauss_newton_is_positive_semidefinite_where_the_hessian_is_not(x64):
    made = small_digits((64, 4, 10), init="zeros")
    params = at_random(made, scale=0.05)
    assert np.linalg.eigvalsh(curvature.gauss_newton(made.loss, params))[0] > -1e-14
    assert np.linalg.eigvalsh(hessian(made.loss, params))[0] < -1e-3


def test_layer_blocks_are_the_diagonal_blocks(x64):
    made = small_digits((64, 3, 10))
    params = at_random(made)
    whole = hessian(made.loss, params)
    blocks = curvature.layer_blocks(made.loss, params)
    assert list(blocks) == ["0", "1"]
    first = 3 * 65
    np.testing.assert_allclose(blocks["0"], whole[:first, :first], atol=1e-14)
    np.testing.assert_allclose(blocks["1"], whole[first:, first:], atol=1e-14)


# The certificate


SPECTRA = st.tuples(
    st.sampled_from([2, 7, 25]),  # P
    st.integers(0, 2**31),  # seed
    st.sampled_from(["plain", "clustered", "at the band", "gapless"]),
    st.sampled_from(["none", "flat", "nearly flat"]),  # hints
    st.booleans(),  # the default band
    st.sampled_from([np.float32, np.float64]),
)


def spectrum_near_the_band(size, seed, kind, band):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=size)
    some = rng.random(size) < 0.6
    if kind == "clustered":
        values[some] = rng.choice([-2, -1, 0, 1, 2], some.sum()) * band * rng.choice([0.4, 1.5], some.sum())
    elif kind == "at the band":  # as near as the last digits
        values[some] = band * rng.choice([-1, 1], some.sum()) * (1 + 10.0 ** -rng.integers(1, 17, some.sum()))
    elif kind == "gapless":
        values[some] = band * rng.uniform(-3, 3, some.sum())
    return values


def hints_for(matrix, kind, seed):
    """Three mixtures, of any length, of the eigenvectors of the smallest |λ|: (P, 3); zeros are none."""
    if kind == "none":
        return np.zeros((len(matrix), 3))
    rng = np.random.default_rng(seed)
    values, vectors = np.linalg.eigh(matrix)
    nearest = vectors[:, np.argsort(np.abs(values))[:3]]
    mixed = nearest @ rng.normal(size=(nearest.shape[1], 3)) * 10.0 ** rng.integers(-3, 4, 3)
    return mixed * (1 + (kind == "nearly flat") * 10.0 ** -rng.integers(2, 8) * rng.normal(size=mixed.shape))


@functools.partial(jax.jit, static_argnames="default")
def by_traced_methods(matrix, band, null, default):
    loss, start = quadratic(matrix), jnp.zeros(len(matrix), matrix.dtype)
    band = None if default else band
    return [curvature.inertia(loss, start, band=band, method=m, null=null) for m in ("tridiagonal", "lanczos")]


@given(SPECTRA)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_certificate_is_wrong(quick_compilation, drawn):
    size, seed, kind, flat, default, dtype = drawn
    band = float(dtype({np.float32: 1e-3, np.float64: 1e-6}[dtype]))
    near = float(np.sqrt(np.finfo(dtype).eps)) if default else band
    matrix = planted(spectrum_near_the_band(size, seed, kind, near), seed).astype(dtype)
    values = np.linalg.eigvalsh(matrix.astype(np.float64))  # of the matrix as it was rounded
    doubt = 40 * EPS * size * np.abs(values).max()
    hints = hints_for(matrix.astype(np.float64), flat, seed).astype(dtype)
    with jax.enable_x64(True):
        start = jnp.zeros(size, dtype)
        given = None if default else band
        found_by = [curvature.inertia(quadratic(matrix), start, band=given, method="ldl", null=jnp.asarray(hints))]
        found_by += by_traced_methods(jnp.asarray(matrix), band, jnp.asarray(hints), default=default)
    for found in found_by:
        band = float(found.band)
        below, above = np.sum(values < -band + doubt), np.sum(values > band - doubt)
        assert found.negative <= below
        assert found.positive <= above
        assert found.zero + found.null <= np.sum(np.abs(values) <= band + doubt)
        assert found.negative + found.undecided >= np.sum(values < -band - doubt)
        assert found.positive + found.undecided >= np.sum(values > band + doubt)
        assert min(found.negative, found.positive, found.zero, found.null, found.undecided) >= 0
        clear = np.abs(np.abs(values) - band) > float(found.bound) + doubt
        if found.method != "lanczos":
            assert found.undecided <= size - np.sum(clear)  # undecided only within the bound of an edge
        assert found.negative + found.zero + found.positive + found.undecided + found.null == size


@pytest.mark.parametrize("size", [5, 12])
def test_three_methods_agree_on_planted_matrices(x64, quick_compilation, size):
    """300 spectra over seven decades; every count equals the planted one, which no method has seen."""
    band, rng = 1e-3, np.random.default_rng(5)
    values = rng.normal(size=(300, size)) * 10.0 ** rng.integers(-7, 1, (300, size))
    values = np.where(np.abs(np.abs(values) - band) < 1e-9, 0, values)
    matrices = jnp.asarray(np.stack([planted(v, i) for i, v in enumerate(values)]))
    truth = np.stack([(values < -band).sum(1), (np.abs(values) <= band).sum(1), (values > band).sum(1)])

    def all_of(method):
        return jax.jit(jax.vmap(lambda m: curvature.inertia(quadratic(m), jnp.zeros(size), band=band, method=method)))

    found = all_of("tridiagonal")(matrices)
    np.testing.assert_array_equal(np.stack([found.negative, found.zero, found.positive]), truth)
    assert not found.undecided.any()
    bounds = all_of("lanczos")(matrices)  # its space is everything here
    np.testing.assert_array_equal(np.stack([bounds.negative, bounds.positive]), truth[[0, 2]])
    edges = [(-band, -1), (-band, 1), (band, -1), (band, 1)]
    counts = np.array([ldl.counts_below(np.asarray(m), edges)[0] for m in matrices]).T
    np.testing.assert_array_equal(counts[:2], np.stack([truth[0]] * 2))
    np.testing.assert_array_equal(counts[2:], np.stack([truth[0] + truth[1]] * 2))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sturm_counts_are_those_of_the_eigenvalues(x64, dtype):
    """Toeplitz matrices (2 cos(π i/(n+1)), exact), random ones, some of them falling apart."""
    rng, n = np.random.default_rng(0), 30
    exact = 2 * np.cos(np.pi * np.arange(n, 0, -1) / (n + 1))
    cases = [(np.zeros(n), np.ones(n - 1), exact)]
    for _ in range(20):
        d, e = rng.normal(size=n), rng.normal(size=n - 1) * (rng.random(n - 1) < 0.7)
        d, e = d.astype(dtype).astype(float), e.astype(dtype).astype(float)
        cases.append((d, e, scipy.linalg.eigvalsh_tridiagonal(d, e)))
    for d, e, values in cases:
        t = sturm.Tridiagonal(jnp.asarray(d, dtype), jnp.asarray(e, dtype))
        between = np.concatenate([[values[0] - 1], (values[1:] + values[:-1]) / 2, [values[-1] + 1]])
        clear = np.min(np.abs(between[:, None] - values), axis=1) > 50 * np.finfo(dtype).eps
        counts = sturm.sturm_counts(t, jnp.asarray(between, dtype))
        np.testing.assert_array_equal(np.asarray(counts)[clear], np.arange(n + 1)[clear])
        norm, gershgorin = np.abs(values).max(), np.abs(d).max() + 2 * np.abs(e).max()
        found = sturm.norm(t)
        assert norm * (1 - 1e-6) <= found <= norm + 2e-3 * gershgorin


def test_known_flat_directions_spare_factorisations(x64, monkeypatch):
    """Two factorisations tell all where nothing but what is known to be flat lies in the band; else four do."""
    calls = []
    count = ldl.negatives
    monkeypatch.setattr(ldl, "negatives", lambda m, shift: calls.append(shift) or count(m, shift))
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    for flat, factorisations in [(0, 2), (3, 2), (5, 4)]:
        values = np.concatenate([np.zeros(flat), rng.normal(size=20 - flat)])
        matrix = jnp.asarray((basis * values) @ basis.T)
        calls.clear()
        found = curvature.inertia(quadratic(matrix), jnp.zeros(20), method="ldl", null=jnp.asarray(basis[:, :3]))
        assert len(calls) == factorisations
        assert (found.null, found.zero, found.undecided) == (min(flat, 3), max(flat - 3, 0), 0)
        assert found.negative == np.sum(values < 0)
        assert found.positive == np.sum(values > 0)


def test_the_backward_error_of_the_factors_is_bounded():
    """ε is at least ‖A - P L D Lᵀ Pᵀ‖₂, the factors taken from scipy's own unpacking."""
    import scipy.linalg

    for seed, size in enumerate([3, 30, 300]):
        matrix = planted(np.random.default_rng(seed).normal(size=size), seed)
        lower, d, _ = scipy.linalg.ldl(matrix, lower=True)
        residual = np.linalg.norm(matrix - lower @ d @ lower.T, 2)
        count, bound = ldl.negatives(matrix, 0.0)
        assert count == np.sum(np.linalg.eigvalsh(matrix) < 0)
        assert residual < bound < 1e4 * max(residual, EPS)


@pytest.mark.parametrize("indefinite", [False, True])
def test_zero_pivots_and_exact_matrices(indefinite):
    matrix = np.kron(np.eye(5), [[0.0, 1.0], [1.0, 0.0]]) if indefinite else np.diag([-1.0, 0.0, 2.0])
    assert ldl.negatives(matrix, 1e-9 if not indefinite else 0.0)[0] == (5 if indefinite else 2)


def test_dead_inputs_class_shifts_and_rescalings_are_counted_apart(x64):
    examples = np.random.default_rng(0).normal(size=(40, 6))
    examples[:, 2] = 0  # a dead input
    ds = data.Dataset(examples, np.arange(40) % 3, 3, "made")
    params = at_random(problem.classification(models.mlp((6, 4, 3)), ds))
    for method in ("ldl", "tridiagonal"):
        made = problem.classification(models.mlp((6, 4, 3)), ds)
        # 4 weights of the dead input, and a class shift for each hidden unit and the bias
        assert curvature.inertia(made.loss, params, method=method).null == 4 + 5
        regularised = problem.classification(models.mlp((6, 4, 3)), ds, 0.1)
        # the penalty holds everything but a shift of the biases
        assert curvature.inertia(regularised.loss, params, method=method).null == 1
    deep = problem.classification(models.deep_linear((6, 2, 3)), ds)
    rank = theory.zero_saddle_rates(examples, ds.y, 3)
    zero = jax.tree.map(jnp.zeros_like, deep.init(jax.random.key(0)))
    found = curvature.inertia(deep.loss, zero)
    assert found.negative == 2 * np.sum(rank > 1e-12)
    assert found.null == 2 + 2  # the dead input's 2 weights, and a shift for each of 2 units


def test_rescaling_is_flat_at_critical_points_only(x64):
    """One input, always 1, and one hidden unit: the minimum over z = w₂ w₁ has p equal to the labels' shares."""
    ds = data.Dataset(np.ones((5, 1)), np.array([0, 0, 0, 1, 1]), 2, "coins")
    made = problem.classification(models.mlp((1, 1, 2), activation="relu", bias=False), ds)
    z = np.log([0.6, 0.4])
    for first, off, null in [(0.5, 0.0, 2), (2.0, 0.0, 2), (0.5, 0.3, 1)]:
        weights = (jnp.array([[first]]), jnp.asarray(z[:, None] + [[off], [0.0]]) / first)
        params = tuple(models.Layer(w, None) for w in weights)
        found = curvature.inertia(made.loss, params)
        assert found.null == null  # the class shift, and at the minimum the rescaling
        assert found.negative == (1 if off else 0)


def test_the_zero_point_of_a_two_layer_net(x64, quick_compilation):
    """Index h · rank M, and the eigenvalues ±s_i, h times each: the closed form of theory, for three methods."""
    hidden = 2
    made = small_digits((64, hidden, 10), examples=300, init="zeros", bias=False)
    params = made.init(jax.random.key(0))
    whole = data.digits()
    rates = theory.zero_saddle_rates(whole.x[:300].reshape(300, -1), whole.y[:300], 10)
    rank = int(np.sum(rates > 1e-10))
    assert rank == 9
    found_by = [inertia(made.loss, params, method=method) for method in ("tridiagonal", "lanczos")]
    for found in (*found_by, curvature.inertia(made.loss, params, method="ldl")):
        assert found.negative == hidden * rank
        assert found.positive == hidden * rank
    values = np.linalg.eigvalsh(hessian(made.loss, params))
    np.testing.assert_allclose(values[: hidden * rank], -np.repeat(rates[:rank], hidden), atol=1e-14)


def test_softmax_regression_is_convex(x64):
    for name in ("iris", "wine"):
        ds = data.get(name)
        made = problem.classification(models.softmax_regression(ds.x.shape[1], ds.num_classes), ds)
        found = curvature.inertia(made.loss, at_random(made, scale=1.0))
        assert found.negative == 0
        assert found.null >= ds.x.shape[1] + 1


def test_float32_and_float64_certificates_agree_where_both_decide():
    ds = data.iris()
    made = problem.classification(models.mlp((4, 3, 3)), ds)
    params = at_random(made)
    single = curvature.inertia(made.loss, params, band=1e-3)
    with jax.enable_x64(True):
        made = problem.classification(models.mlp((4, 3, 3)), ds)
        double = curvature.inertia(made.loss, jax.tree.map(lambda x: x.astype(jnp.float64), params), band=1e-3)
    assert single.negative <= double.negative <= single.negative + single.undecided
    assert single.positive <= double.positive <= single.positive + single.undecided
    assert single.negative > 0
    assert single.undecided < 3


def test_a_broken_hessian_is_a_verdict(x64):
    def broken(params):
        return jnp.sum(params**2) * jnp.where(params[0] > 0, jnp.nan, 1.0)

    found_by = [inertia(broken, jnp.ones(3), method=method) for method in ("tridiagonal", "lanczos")]
    for found in (*found_by, curvature.inertia(broken, jnp.ones(3), method="ldl")):
        assert found.undecided == 3
        assert np.isnan(found.bound)
        assert found.negative == found.positive == found.zero == 0


def test_the_index_of_many_points_is_one_sweep(x64):
    made = problem.classification(models.mlp((4, 3, 3)), data.iris())
    points = jax.vmap(lambda k: at_random_with(made, k))(jax.random.split(jax.random.key(0), 30))
    points = jax.tree.map(lambda leaf: leaf.at[7].set(jnp.nan), points)

    def measure(params):
        return curvature.inertia(made.loss, params).arrays()

    ds = sweep.run(process.evaluate(measure, points), {"point": range(30)}, seed=0, steps=1)
    assert ds["status"][7] == DIVERGED
    assert (ds["status"].drop_sel(point=7) == CONVERGED).all()
    for i in (0, 12, 29):
        alone = curvature.inertia(made.loss, jax.tree.map(lambda leaf, i=i: leaf[i], points))
        assert ds["final_negative"][i] == alone.negative
        assert ds["final_null"][i] == alone.null
    assert (ds["final_negative"].drop_sel(point=7) > 0).all()


def at_random_with(made, key):
    flat, unravel = ravel_pytree(made.init(key))
    return unravel(flat + 0.3 * jax.random.normal(key, flat.shape))


# Extreme eigenpairs


@pytest.mark.parametrize("which", ["SA", "LA", "BE"])
def test_extreme_eigenpairs_match_scipy_and_their_residuals(x64, which):
    made = small_digits((64, 6, 10), scale=0.5)
    params = at_random(made, scale=0.2)
    matrix = np.asarray(hessian(made.loss, params))
    assert len(matrix) > lanczos.DENSE_SIZE
    found = spectrum(made.loss, params, 4, which, tol=1e-9)
    expected = np.sort(scipy.sparse.linalg.eigsh(matrix, 4, which=which, tol=1e-12)[0])
    assert found.converged.all()
    np.testing.assert_allclose(found.eigenvalues, expected, atol=1e-11)
    residuals = np.linalg.norm(matrix @ found.eigenvectors - found.eigenvectors * found.eigenvalues[None], axis=0)
    np.testing.assert_allclose(found.residuals, residuals, atol=1e-12)
    assert (residuals <= 1e-9 * np.abs(np.linalg.eigvalsh(matrix)).max()).all()
    np.testing.assert_allclose(found.eigenvectors.T @ found.eigenvectors, np.eye(4), atol=1e-13)


def test_extreme_eigenvalues_match_matfree_on_the_same_products(x64):
    made = small_digits((64, 6, 10), scale=0.5)
    params = at_random(made, scale=0.2)
    flat, unravel = ravel_pytree(params)

    def product(v):
        return ravel_pytree(curvature.hvp(made.loss, params, unravel(v)))[0]

    lanczos_of_theirs = matfree.eig.eigh_partial(matfree.decomp.tridiag_sym(100))
    start = jax.random.normal(jax.random.key(3), flat.shape)
    theirs = np.sort(jax.jit(lambda v: lanczos_of_theirs(product, v))(start)[0])
    ours = spectrum(made.loss, params, 4, "BE", tol=1e-9)
    np.testing.assert_allclose(ours.eigenvalues, [*theirs[:2], *theirs[-2:]], atol=1e-10)


def test_multiple_eigenvalues_are_found_as_often_as_they_are(x64):
    made = small_digits((64, 5, 10), examples=300, init="zeros", bias=False)
    whole = data.digits()
    rate = theory.zero_saddle_rates(whole.x[:300].reshape(300, -1), whole.y[:300], 10)[0]
    found = spectrum(made.loss, made.init(jax.random.key(0)), 5)
    np.testing.assert_allclose(found.eigenvalues, np.full(5, -rate), rtol=1e-9)


def test_a_search_that_ends_early_says_so(x64):
    values = np.concatenate([np.linspace(-1, -0.99, 300), np.linspace(0.5, 1, 100)])
    found = spectrum(quadratic(planted(values)), jnp.zeros(400), 3, tol=1e-12, max_restarts=1)
    assert not found.converged.all()
    near = np.abs(values[:, None] - np.asarray(found.eigenvalues)).min(axis=0)
    assert (near <= np.asarray(found.residuals) + 1e-13).all()  # an eigenvalue within each residual all the same


@pytest.mark.parametrize(("dtype", "lowest"), [(np.float64, -1e-5), (np.float32, -3e-3)])
def test_a_lower_eigenvalue_beside_many_zeros_is_found(x64, quick_compilation, dtype, lowest):
    """A random vector has 1/√P of it: a residual of |λ| /√P, far below tol, proves nothing of what is lower."""
    values = np.concatenate([[lowest, 1.0], 10.0 ** np.random.default_rng(0).uniform(-3, 0, 14), np.zeros(984)])
    start = jnp.zeros(1000, dtype)

    @jax.jit
    @jax.vmap
    def search(key):
        return curvature.spectrum(lambda t: 0.5 * jnp.sum(jnp.asarray(values, dtype) * t**2), start, 1, key=key)

    found = search(jax.random.split(jax.random.key(0), 8))
    assert found.converged.all()
    np.testing.assert_allclose(found.eigenvalues, lowest, atol={np.float64: 1e-6, np.float32: 1e-4}[dtype])


def test_spectrum_under_vmap_equals_one_by_one(x64):
    matrices = jnp.asarray(np.stack([planted(np.random.default_rng(i).normal(size=300), i) for i in range(3)]))

    def lowest(matrix):
        return curvature.spectrum(quadratic(matrix), jnp.zeros(300), 2, tol=1e-10)

    together = jax.jit(jax.vmap(lowest))(matrices)
    for i in range(3):
        np.testing.assert_allclose(together.eigenvalues[i], np.linalg.eigvalsh(matrices[i])[:2], atol=1e-12)


# Densities and traces


def test_moments_match_the_matrix_within_their_errors(x64):
    made = small_digits((64, 3, 10))
    params = at_random(made)
    values = np.linalg.eigvalsh(hessian(made.loss, params))
    found = curvature.density(made.loss, params, jax.random.key(0), probes=64, depth=20)
    for j in range(1, 5):
        mean, error = found.moment(j)
        assert abs(mean - np.mean(values**j)) < 4 * error
        assert error < 0.5 * np.mean(np.abs(values) ** j)
    exact = curvature.trace(made.loss, params, jax.random.key(1), products_taken=3 * len(values))
    np.testing.assert_allclose(exact.value, values.sum(), rtol=1e-11)
    assert exact.error == 0


def test_standard_errors_are_those_of_many_keys(x64, quick_compilation):
    """(estimate - truth) / error over 200 keys is Student's t: mean 0 and standard deviation √(ν/(ν-2)), about 1.05."""
    values = np.random.default_rng(1).normal(size=60)

    @jax.jit
    @jax.vmap
    def estimates(key):
        loss = quadratic(jnp.diag(values))
        found = curvature.density(loss, jnp.zeros(60), key, probes=24, depth=4)
        trace = curvature.trace(quadratic(planted(values)), jnp.zeros(60), key, products_taken=72)
        return found.moment(1), found.moment(2), trace

    found = estimates(jax.random.split(jax.random.key(0), 200))
    for (mean, error), truth in zip(found, [values.mean(), (values**2).mean(), values.sum()], strict=True):
        z = np.asarray((mean - truth) / error)
        assert abs(z.mean()) < 5 / np.sqrt(200)
        assert abs(z.std() - 1.05) < 5 / np.sqrt(400)


@pytest.mark.parametrize(("dtype", "power"), [(np.float32, -90), (np.float64, -700)])
def test_estimates_of_a_loss_scaled_by_a_power_of_two_are_scaled(x64, quick_compilation, dtype, power):
    """The squares of these Hessians underflow; values, errors and shares must not."""
    matrix, key = jnp.asarray(planted(np.arange(1.0, 31.0)), dtype), jax.random.key(0)
    start = jnp.ones(30, dtype)

    @jax.jit
    def estimates(scale):
        loss = quadratic(scale * matrix)
        mean = curvature.density(loss, start, key, probes=4, depth=10).moment(1)
        trace = curvature.trace(loss, start, key, products_taken=30)
        return mean, trace, curvature.gradient_overlap(loss, start, 2)

    tiny, plain = estimates(jnp.ldexp(jnp.ones((), dtype), power)), estimates(jnp.ones((), dtype))
    rtol = 1e4 * np.finfo(dtype).eps
    for small, usual in zip(tiny[:2], plain[:2], strict=True):
        np.testing.assert_allclose(jnp.ldexp(jnp.stack(small), -power), jnp.stack(usual), rtol=rtol)
        assert small.error > 0
    np.testing.assert_allclose(tiny[2], plain[2], rtol=rtol)


def test_the_quadrature_of_a_probe_is_exact_up_to_its_degree(x64):
    matrix = planted(np.random.default_rng(0).normal(size=30))
    found = curvature.density(quadratic(matrix), jnp.zeros(30), jax.random.key(0), probes=3, depth=30)
    np.testing.assert_allclose(found.weights.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(found.nodes, np.tile(np.linalg.eigvalsh(matrix), (3, 1)), atol=1e-12)
    total = np.trapezoid(found.smoothed(np.linspace(-6, 6, 2001), 0.1).value, np.linspace(-6, 6, 2001))
    assert abs(total - 1) < 1e-6
    assert found.cumulative(np.array([-9.0, 9.0])).value.tolist() == pytest.approx([0, 1], abs=1e-12)


def test_sharpness_and_gradient_overlap(x64):
    values = np.array([-1.0, 0.5, 2.0, 3.0])
    matrix = planted(values)
    _, vectors = np.linalg.eigh(matrix)
    params = jnp.asarray(vectors @ np.array([1.0, 2.0, 0.5, 0.25]))
    np.testing.assert_allclose(curvature.sharpness(quadratic(matrix), params), 3.0, rtol=1e-12)
    parts = (values * np.array([1.0, 2.0, 0.5, 0.25])) ** 2
    for k in (1, 2, 4):
        found = curvature.gradient_overlap(quadratic(matrix), params, k)
        np.testing.assert_allclose(found, parts[4 - k :].sum() / parts.sum(), rtol=1e-12)


# Bad input


def bowl(params):
    return jnp.sum(params**2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: curvature.hessian(lambda p: p, jnp.ones(3)),
            TypeError,
            r"loss: expected one real number, got float32 of",
        ),
        (
            lambda: curvature.hessian(lambda p: (p,), jnp.ones(3)),
            TypeError,
            "loss: expected one real number, got tuple",
        ),
        (lambda: curvature.inertia(bowl, jnp.arange(3)), TypeError, "params: expected arrays of floats, got int32"),
        (lambda: curvature.hessian(bowl, jnp.ones(0)), ValueError, "params: expected at least one number"),
        (lambda: curvature.hvp(bowl, jnp.ones(3), jnp.ones(2)), ValueError, "v: expected a pytree like params"),
        (
            lambda: curvature.gauss_newton_product(
                curvature.Composite(lambda p: p[None], bowl), jnp.ones(3), jnp.ones(2)
            ),
            ValueError,
            "v: expected a pytree like params",
        ),
        (lambda: curvature.spectrum(bowl, jnp.ones(3), 4), ValueError, "k: expected at most 3"),
        (lambda: curvature.spectrum(bowl, jnp.ones(3), 0), ValueError, "k: expected an integer >= 1"),
        (lambda: curvature.spectrum(bowl, jnp.ones(3), 1, "LM"), ValueError, "which: expected one of SA, LA, BE"),
        (lambda: curvature.spectrum(bowl, jnp.ones(3), 1, tol=0.0), ValueError, "tol: expected a finite number > 0"),
        (lambda: curvature.inertia(bowl, jnp.ones(3), band=0.0), ValueError, "band: expected a finite number > 0"),
        (lambda: curvature.inertia(bowl, jnp.ones(3), band=-1.0), ValueError, "band: expected a finite number > 0"),
        (lambda: curvature.inertia(bowl, jnp.ones(3), method="lu"), ValueError, "method: expected one of auto, ldl"),
        (
            lambda: curvature.inertia(bowl, jnp.ones(3), null=jnp.ones((2, 1))),
            ValueError,
            r"null: expected floats of shape \(3, k\)",
        ),
        (
            lambda: jax.jit(lambda p: curvature.inertia(bowl, p, method="ldl"))(jnp.ones(3)),
            ValueError,
            "under jit or vmap",
        ),
        (lambda: curvature.gauss_newton(bowl, jnp.ones(3)), TypeError, "loss: expected a Composite"),
        (lambda: curvature.density(bowl, jnp.ones(3), jax.random.key(0), probes=1), ValueError, "probes: expected"),
        (lambda: curvature.trace(bowl, jnp.ones(3), jax.random.key(0), products_taken=8), ValueError, "products_taken"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_matrix_that_does_not_fit_names_what_it_needs_and_the_way_out():
    many = int((memory_bytes() / 4) ** 0.5)
    big = jax.ShapeDtypeStruct((many,), jnp.float32)
    with pytest.raises(MemoryError, match=rf"{many} parameters need .* GiB.*inertia with method='lanczos'"):
        jax.eval_shape(lambda p: curvature.hessian(bowl, p), big)
    with pytest.raises(MemoryError, match="use method='lanczos'"):
        jax.eval_shape(lambda p: curvature.inertia(bowl, p, method="tridiagonal"), big)
    many = int((memory_bytes() / 16) ** 0.5)  # the factors are of float64, whatever the parameters are
    with pytest.raises(MemoryError, match="use method='lanczos'"):
        curvature.inertia(bowl, np.broadcast_to(np.float32(0), many), method="ldl")
    with pytest.raises(MemoryError, match="use a smaller k"):
        jax.eval_shape(lambda p: curvature.spectrum(bowl, p, many), jax.ShapeDtypeStruct((many * 10,), jnp.float32))
    huge = jax.ShapeDtypeStruct((memory_bytes() // 1600,), jnp.float32)
    with pytest.raises(MemoryError, match="use spectrum with a small k"):
        jax.eval_shape(lambda p: curvature.inertia(bowl, p, method="lanczos"), huge)


# What is easily got wrong


def diagonal(values):
    return lambda t: 0.5 * jnp.sum(jnp.asarray(values, t.dtype) * t**2)


@pytest.mark.parametrize("method", ["tridiagonal", "lanczos"])
def test_a_band_that_is_none_decides_nothing(x64, quick_compilation, method):
    found = jax.jit(lambda band: curvature.inertia(diagonal([1.0, 2.0, -3.0]), jnp.zeros(3), band=band, method=method))
    for band in (jnp.nan, -1.0, 0.0, jnp.inf):
        counts = found(band)
        assert (counts.negative, counts.zero, counts.positive, counts.null, counts.undecided) == (0, 0, 0, 0, 3)
    assert found(0.5).negative == 1


@pytest.mark.parametrize("method", ["ldl", "tridiagonal"])
def test_a_band_beyond_every_eigenvalue_holds_them_all(x64, method):
    for scale, band in [(1.0, 1e308), (1.0, 1e100), (1e-200, 1e300)]:
        found = curvature.inertia(diagonal([scale, 2 * scale, -3 * scale]), jnp.zeros(3), band=band, method=method)
        assert (found.zero, found.undecided) == (3, 0)


def test_factors_that_overflow_decide_nothing(x64, monkeypatch):
    for bound in (np.nan, np.inf):
        monkeypatch.setattr(ldl, "negatives", lambda matrix, shift, bound=bound: (1, bound))
        found = curvature.inertia(diagonal([1.0, 2.0, -3.0]), jnp.zeros(3), method="ldl")
        assert (found.undecided, found.negative, found.positive) == (3, 0, 0)
        assert np.isnan(found.bound)


@pytest.mark.parametrize("method", ["ldl", "tridiagonal"])
@pytest.mark.parametrize(
    ("dtype", "values", "band"), [(np.float32, (1e10, 1e-30), 1e-31), (np.float64, (1e10, -1e-299), 1e-300)]
)
def test_a_row_that_underflows_is_no_row_of_zeros(x64, method, dtype, values, band):
    found = curvature.inertia(diagonal(values), jnp.zeros(2, dtype), band=band, method=method)
    assert (found.zero, found.null) == (0, 0)  # no eigenvalue is in the band
    assert found.negative <= np.sum(np.array(values) < 0) <= found.negative + found.undecided


def test_the_band_is_that_of_the_least_precise_numbers(x64):
    """The class shifts of a net are flat; float32 anywhere on the way makes them about 1e-8, beyond √ε in float64."""
    model = models.mlp((4, 3, 3))
    made = problem.classification(model, data.iris())
    double = at_random(made)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), double)
    plain = problem.classification(model._replace(apply=lambda params, x: model.apply(params, x)), data.iris())
    x, y = jnp.asarray(data.iris().x, jnp.float32), jnp.asarray(data.iris().y)

    def coarse(params):
        low = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
        return losses.cost(jax.vmap(model.apply, in_axes=(None, 0))(low, x), y)

    exact = curvature.inertia(made.loss, jax.tree.map(lambda leaf: leaf.astype(jnp.float64), single))
    assert (exact.null, exact.undecided) == (4, 0)
    for loss, params in [(coarse, (single[0], double[1])), (coarse, double), (plain.loss, (single[0], double[1]))]:
        found = inertia(loss, params)
        assert found.positive <= exact.positive
        assert found.negative <= exact.negative
        assert found.zero + found.undecided >= 4
        norm = np.abs(np.linalg.eigvalsh(hessian(loss, params))).max()
        np.testing.assert_allclose(found.band, np.sqrt(np.finfo(np.float32).eps) * norm, rtol=0.01)
    assert curvature.hessian(made.loss, single).dtype == curvature.gauss_newton(made.loss, single).dtype == jnp.float32


def test_numbers_of_python_and_empty_arrays_among_the_parameters(x64):
    def loss(params):
        return params[0] ** 2 - jnp.sum(params[1] ** 2) + jnp.sum(params[2])

    params = (2.0, jnp.ones(3, jnp.float32), jnp.zeros((0, 3)))
    found = curvature.inertia(loss, params)
    assert (found.negative, found.positive, found.undecided) == (3, 1, 0)
    np.testing.assert_allclose(curvature.spectrum(loss, params, 4).eigenvalues, [-2, -2, -2, 2])
    blocks = curvature.layer_blocks(loss, params)
    assert list(blocks) == ["0", "1"]
    np.testing.assert_array_equal(blocks["1"], -2 * np.eye(3))


@pytest.mark.parametrize("size", [17, 24, 31])
def test_lanczos_finds_a_single_way_down_at_any_size(x64, quick_compilation, size):
    matrix = planted([-1.0] + [1.0] * (size - 1))
    found = jax.jit(lambda t: curvature.inertia(quadratic(matrix), t, method="lanczos"))(jnp.zeros(size))
    assert found.negative == 1
    assert size - 2 <= found.positive <= size - 1


@pytest.mark.parametrize("size", [5, 7, 40])
def test_the_default_band_of_the_factors_is_that_of_the_norm(x64, size):
    matrix = planted([3.0] + [0.0] * (size - 1))
    found = curvature.inertia(quadratic(matrix), jnp.zeros(size), method="ldl")
    np.testing.assert_allclose(found.band, 3 * np.sqrt(EPS), rtol=1e-6)


def test_hints_of_a_wide_linear_net_are_no_more_than_its_parameters(x64):
    for sizes in ((64, 266, 10), (8, 32, 3), (6, 2, 3)):
        made = problem.classification(models.deep_linear(sizes), data.blobs(classes=sizes[-1], dim=sizes[0]))
        shapes = jax.eval_shape(made.init, jax.random.key(0))
        hints = jax.eval_shape(made.loss.null, shapes)
        rescalings = sizes[1] ** 2 if sizes[1] == 2 else sizes[1]
        assert hints.shape == (sum(leaf.size for leaf in jax.tree.leaves(shapes)), sizes[1] + rescalings)


@pytest.mark.parametrize("method", ["tridiagonal", "ldl"])
def test_flat_directions_near_the_edge_of_the_band_count(x64, method):
    """Four eigenvalues of 0.9 bands: any mixture of their eigenvectors is flat to a band (Courant and Fischer)."""
    values = np.concatenate([np.full(4, 0.9e-3), np.linspace(-2, -1, 4), np.linspace(1, 2, 4)])
    matrix = planted(values)
    flat = np.linalg.eigh(matrix)[1][:, 4:8] @ np.random.default_rng(0).normal(size=(4, 5))
    found = curvature.inertia(quadratic(matrix), jnp.zeros(12), band=1e-3, method=method, null=jnp.asarray(flat))
    assert (found.negative, found.null, found.zero, found.positive) == (4, 4, 0, 4)


def test_nearly_dependent_hints_leave_the_class_shifts_in_single_precision():
    made = problem.classification(models.deep_linear((4, 4, 3), init="glorot"), data.iris())
    for seed in (1, 2):  # rescalings with a singular value of a hundredth
        assert curvature.inertia(made.loss, made.init(jax.random.key(seed)), method="tridiagonal").null >= 4


@pytest.mark.parametrize("size", [6, 300])
def test_no_scale_of_the_loss_changes_the_index(x64, quick_compilation, size):
    matrix = jnp.asarray(planted(np.where(np.arange(size) < size // 3, -1.0, 2.0) * np.linspace(1, 2, size)))
    start = jnp.zeros(size)

    def loss(scale):
        return lambda t: 0.5 * (t @ (scale * matrix) @ t)

    @jax.jit
    def traced(scale):
        counts = [curvature.inertia(loss(scale), start, method=method) for method in ("tridiagonal", "lanczos")]
        return *counts, curvature.spectrum(loss(scale), start, 1)

    for scale in (1e-290, 1e-170, 1e-100, 1e100, 1e170, 1e290):
        found, least, lowest = traced(scale)
        for exact in (found, curvature.inertia(loss(scale), start, method="ldl")):
            assert (exact.negative, exact.positive, exact.undecided) == (size // 3, size - size // 3, 0)
        assert 0 < least.negative <= size // 3
        assert lowest.converged.all()
        smallest = scale * np.linalg.eigvalsh(matrix)[0]
        assert abs(lowest.eigenvalues[0] - smallest) <= lowest.residuals[0] + 1e-13 * abs(smallest)


def test_pairs_of_pivots_at_any_scale(x64):
    swaps = jnp.kron(jnp.eye(3), jnp.array([[0.0, 1.0], [1.0, 0.0]]))
    for scale in (1e-170, 1.0, 1e200):
        found = curvature.inertia(lambda t, c=scale: 0.5 * (t @ (c * swaps) @ t), jnp.zeros(6), method="ldl")
        assert (found.negative, found.positive) == (3, 3)


def test_a_loss_that_changes_is_looked_at_again(x64):
    sign = 1.0

    def loss(t):
        return sign * jnp.sum(t**2)

    for method in ("tridiagonal", "ldl", "lanczos"):
        sign = 1.0
        assert curvature.inertia(loss, jnp.zeros(3), method=method).negative == 0
        sign = -1.0
        assert curvature.inertia(loss, jnp.zeros(3), method=method).negative == 3


@pytest.mark.parametrize("method", ["tridiagonal", "ldl"])
def test_dependent_hints_count_once_in_single_precision(method):
    matrix = planted(np.concatenate([np.zeros(1), np.linspace(1, 2, 14), -np.linspace(1, 2, 15)])).astype(np.float32)
    flat = np.linalg.eigh(matrix.astype(np.float64))[1][:, 15].astype(np.float32)
    hints = jnp.asarray(np.outer(flat, np.linspace(1, 2, 60)))
    found = curvature.inertia(quadratic(matrix), jnp.zeros(30, jnp.float32), method=method, null=hints)
    assert (found.negative, found.positive, found.null) == (15, 14, 1)
    made = problem.classification(models.deep_linear([4, 20, 3], init="glorot"), data.iris())
    found = curvature.inertia(made.loss, made.init(jax.random.key(0)), method=method)
    assert found.undecided >= 0
    total = found.negative + found.zero + found.positive + found.undecided + found.null
    assert total == 4 * 20 + 20 * 3


def test_the_index_under_a_vmapped_penalty(x64):
    model = models.mlp((4, 40, 3), init="glorot")
    params = model.init(jax.random.key(0))

    def index(l2):
        return curvature.inertia(problem.classification(model, data.iris(), l2).loss, params).negative

    strengths = jnp.array([0.0, 0.1, 10.0])
    together = jax.jit(jax.vmap(index))(strengths)
    assert list(together) == [int(index(float(l2))) for l2 in strengths]
    assert together[2] < together[0]


def test_another_forward_pass_loses_the_closed_form(x64):
    model = models.mlp((4, 3, 3), init="glorot")
    doubled = model._replace(apply=lambda params, x: 2 * model.apply(params, x))
    made = problem.classification(doubled, data.iris())
    params = at_random(made)
    np.testing.assert_allclose(hessian(made.loss, params), dense_by_jax(made.loss, params), atol=1e-12)


def test_the_index_of_many_points_in_words(x64):
    def diagonal(values):
        return curvature.inertia(lambda t: 0.5 * jnp.sum(values * t**2), jnp.zeros(3))

    found = jax.vmap(diagonal)(jnp.array([[-1.0, -2.0, 3.0], [1.0, 2.0, 3.0]]))
    assert str(found) == "index 0 to 2 at 2 points (undecided at most 0; tridiagonal)"
    assert str(diagonal(jnp.array([-1.0, -2.0, 3.0]))).startswith("index 2 (positive 1, zero 0, known null 0")


def test_points_that_are_not_there(x64):
    points = jnp.arange(4.0)
    evaluated = process.evaluate(lambda p: {"twice": 2 * p}, points)
    ds = sweep.run(evaluated, {"point": [0, 3, 4, -1, 1.4]}, seed=0, steps=1)
    assert ds["status"].to_numpy().tolist() == [CONVERGED, CONVERGED, DIVERGED, DIVERGED, DIVERGED]
    np.testing.assert_array_equal(ds["final_twice"][:2], [0, 6])
    with pytest.raises(ValueError, match="points: expected the same number of points, at least one, in every leaf"):
        process.evaluate(lambda p: {"x": p[0]}, (jnp.zeros(4), jnp.zeros(2)))
    with pytest.raises(TypeError, match="measure: expected a dict of arrays by name, got an array"):
        process.evaluate(lambda p: 3.0, points)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda f, p: curvature.inertia(f, p, null=[[1.0], [0.0]]), ValueError, r"null: expected floats of shape \(3"),
        (lambda f, p: curvature.inertia(f, p, null=jnp.full((3, 1), jnp.nan)), ValueError, "null: expected finite"),
        (lambda f, p: curvature.inertia(f, p, band=1e-50), ValueError, "band: expected a number > 0 in float32"),
        (lambda f, p: curvature.inertia(3, p), TypeError, "loss: expected a function of params, got int"),
        (lambda f, p: curvature.inertia(f, "abc"), TypeError, "params: expected arrays of floats.*got str"),
        (lambda f, p: curvature.inertia(f, p.astype(jnp.bfloat16)), TypeError, "params: .* got bfloat16"),
        (lambda f, p: curvature.spectrum(f, p, 1, max_restarts=-1), ValueError, "max_restarts: expected an integer"),
        (lambda f, p: theory.baldi_hornik([2.0, 2.0], [0], 1), ValueError, "s: expected different singular values"),
    ],
    ids=range(8),
)
def test_more_bad_arguments(call, error, match):
    with pytest.raises(error, match=match):
        call(lambda t: jnp.sum(t**2), jnp.zeros(3, jnp.float32))
