"""Softmax against its definition in 400 digits, its identities and limits, and other libraries."""

from __future__ import annotations

from typing import NamedTuple

import chex
import hypothesis
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.special
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.test_util import check_grads

from jaxsoft import softmax as sm

# What may be lost: z_k - m is rounded by half a unit in the last place, 2^-18 = 3.8e-6 for gaps in [64, 128) in float32
# and 2^-44 = 5.7e-14 for gaps in [512, 1024) in float64, and that is the relative error of e^{z_k - m}. The rest of the
# allowance is for a few roundings and for the sums over the classes.
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-13}
GAPS = {
    np.float32: (0, 1e-6, 0.01, 0.7, 3.3, 9.1, 20, 40.1, 63.9, 80),
    np.float64: (0, 1e-12, 0.01, 0.7, 3.3, 20, 40.1, 120.3, 511.9, 700),
}
DIGITS = {np.float32: 120, np.float64: 400}
CLASSES = (2, 3, 10, 64, 65, 1000)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    with jax.enable_x64(request.param is np.float64):
        yield request.param


class Exact(NamedTuple):
    """The definitions, term by term, with so many digits that 50 of 1 + e^{-gap} - 1 are left."""

    p: list
    q: list
    log_p: list

    def tangent(self, t) -> tuple[list, np.ndarray]:
        """d log p_k = Σ_j p_j (t_k - t_j), and the sum of the sizes of these terms."""
        mean = mpmath.fsum(p * float(v) for p, v in zip(self.p, t, strict=True))
        sizes = np.abs(np.subtract.outer(t, t)).astype(np.float64) @ np.array([float(p) for p in self.p])
        return [float(v) - mean for v in t], sizes

    def product(self, t) -> tuple[list, np.ndarray]:
        """(J t)_k = Σ_j p_k p_j (t_k - t_j), and the sum of the sizes of these terms."""
        tangent, sizes = self.tangent(t)
        return [p * d for p, d in zip(self.p, tangent, strict=True)], sizes * np.array([float(p) for p in self.p])


def exact(z) -> Exact:
    e = [mpmath.exp(float(v)) for v in z]
    total = mpmath.fsum(e)
    p = [v / total for v in e]
    return Exact(p, [1 - v for v in p], [mpmath.log(v) for v in p])


def assert_close(actual, expected, sizes=None):
    """|actual - expected| <= tolerance · size, where size is by default the expected value's own.

    A few of the smallest normal numbers are allowed besides: below them, floating point has no digits left to give.
    """
    actual = np.asarray(actual)
    error = np.array([float(abs(float(a) - e)) for a, e in zip(actual, expected, strict=True)])
    sizes = np.array([float(abs(e)) for e in expected]) if sizes is None else sizes
    excess = error - (TOLERANCE[actual.dtype.type] * sizes + 8 * float(np.finfo(actual.dtype).tiny))
    worst = int(np.argmax(excess))
    assert excess[worst] <= 0, f"component {worst}: {actual[worst]}, expected {mpmath.nstr(expected[worst], 12)}"


def cases(classes: int, dtype) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, C) in which one class leads by one of the gaps, and for each of them directions (n, k, C)."""
    rng = np.random.default_rng(classes)
    logits, directions = [], []
    for gap in GAPS[dtype][:: 1 if classes <= 10 else 3 if classes <= 100 else 9]:
        for spread in (0.0, 3.0):  # the others all alike, or all different
            z = spread * rng.normal(size=classes) + rng.normal()
            top, low = rng.permutation(classes)[:2]
            z[top] = np.delete(z, top).max() + gap
            one = np.eye(classes)
            noise = np.round(8 * rng.normal(size=classes)) / 8  # differences no smaller than 1/8 do not underflow
            logits.append(np.maximum(z, z[top] - GAPS[dtype][-1]))
            directions.append([one[top], one[low], 1 - one[top], 1 - one[low], noise, noise + 10_000])
    return np.array(logits, dtype), np.array(directions, dtype)


@pytest.mark.parametrize("classes", CLASSES)
def test_values_and_derivatives_keep_their_digits_at_every_gap(classes, dtype):
    """Forward mode, reverse mode and the explicit product, against the definition.

    For a direction of zeros and ones, all terms p_k p_j (t_k - t_j) of a component have one sign, so that the sum of
    their sizes is the size of the component and the bound is a relative one. In other directions the terms may cancel,
    and then no algorithm that is given rounded z and t can promise more than a share of the sum of their sizes.
    """
    logits, directions = cases(classes, dtype)
    values = jax.jit(jax.vmap(sm.probabilities))(logits)
    modes = {
        "product": lambda z, t: sm.jacobian_product(z, t),
        "forward": lambda z, t: jax.jvp(sm.softmax, (z,), (t,))[1],
        "reverse": lambda z, t: jax.vjp(sm.softmax, z)[1](t)[0],
        "log": lambda z, t: jax.jvp(sm.log_softmax, (z,), (t,))[1],
    }
    over_all = {mode: jax.jit(jax.vmap(jax.vmap(f, in_axes=(None, 0)))) for mode, f in modes.items()}
    results = {mode: f(logits, directions) for mode, f in over_all.items()}
    chex.assert_type(jax.tree.leaves((values, results)), dtype)
    with mpmath.workdps(DIGITS[dtype]):
        for i, z in enumerate(logits):
            truth = exact(z)
            for name in ("p", "q", "log_p"):
                assert_close(getattr(values, name)[i], getattr(truth, name))
            for j, t in enumerate(directions[i]):
                for mode in ("product", "forward", "reverse"):
                    assert_close(results[mode][i, j], *truth.product(t))
                assert_close(results["log"][i, j], *truth.tangent(t))


@pytest.mark.parametrize("classes", [2, 10, 65])
def test_the_reverse_derivative_of_log_softmax_is_accurate_at_the_label(classes, dtype):
    """Its pullback of -one_hot(y) is p - one_hot(y), which at y is -q_y: tiny where y is confident."""
    logits, _ = cases(classes, dtype)

    def pull_back(z, y):
        return jax.vjp(sm.log_softmax, z)[1](-jax.nn.one_hot(y, classes, dtype=dtype))[0]

    for labels in (np.argmax(logits, -1), np.argmin(logits, -1)):
        pulled = jax.jit(jax.vmap(pull_back))(logits, labels)
        with mpmath.workdps(DIGITS[dtype]):
            for z, y, actual in zip(logits, labels, pulled, strict=True):
                truth = exact(z)
                assert_close(actual, [-truth.q[k] if k == y else p for k, p in enumerate(truth.p)])


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_every_entry_of_the_jacobian_keeps_its_digits(classes, dtype):
    logits, _ = cases(classes, dtype)
    with mpmath.workdps(DIGITS[dtype]):
        for z, matrix in zip(logits, jax.jit(sm.jacobian)(logits), strict=True):
            p, q, _ = exact(z)
            entries = [p[k] * (q[k] if k == j else -p[j]) for k in range(classes) for j in range(classes)]
            assert_close(matrix.ravel(), entries)


def test_the_literal_forms_would_fail_these_tests(dtype):
    """The sweeps above have teeth: 1 - p and z - logsumexp(z) have no correct digit left at gaps they contain."""
    z = np.array([{np.float32: 20, np.float64: 40.1}[dtype], 0], dtype)
    with mpmath.workdps(DIGITS[dtype]):
        truth = exact(z)
        assert_close(sm.probabilities(z).q, truth.q)
        assert_close(sm.log_softmax(z), truth.log_p)
        with pytest.raises(AssertionError, match="component 0"):
            assert_close(1 - jax.nn.softmax(z), truth.q)
        with pytest.raises(AssertionError, match="component 0"):
            assert_close(z - jax.nn.logsumexp(z), truth.log_p)


def test_the_numbers_of_the_lecture():
    """z = (5, 2, -1, 3): exponentiate, sum, divide. The lecture prints one decimal, and here five."""
    z = jnp.array([5.0, 2.0, -1.0, 3.0])
    gap, e = sm.exponentiate(z)
    np.testing.assert_allclose(np.exp(5) * e, [148.4, 7.4, 0.4, 20.1], atol=0.05)
    np.testing.assert_allclose(np.exp(5) * (1 + sm.add(e)[0]), [176.3], atol=0.05)
    np.testing.assert_array_equal(gap, z - 5)
    np.testing.assert_allclose(sm.softmax(z), [0.84203, 0.04192, 0.00209, 0.11396], atol=5e-6)
    np.testing.assert_array_equal(sm.hardmax(z), [1, 0, 0, 0])


def logits_of(classes: int, bound: float = 20.0) -> st.SearchStrategy[np.ndarray]:
    """Logits in multiples of 1/16, so that shifts by integers are exact."""
    return hnp.arrays(np.int32, (classes,), elements=st.integers(-int(16 * bound), int(16 * bound))).map(
        lambda k: (k / 16).astype(np.float32)
    )


@hypothesis.given(z=logits_of(5), shift=st.integers(-10_000, 10_000), order=st.permutations(range(5)))
@hypothesis.settings(deadline=None, max_examples=50)
def test_shifting_changes_nothing_and_permuting_permutes(z, shift, order):
    """Softmax depends on differences only: bit by bit, as the shift is exact in float32."""
    evaluate = jax.jit(sm.probabilities)
    chex.assert_trees_all_equal(evaluate(z), evaluate(z + np.float32(shift)))
    permuted = evaluate(z[np.array(order)])
    # sums in another order: a few roundings
    chex.assert_trees_all_close(permuted, jax.tree.map(lambda x: x[np.array(order)], evaluate(z)), rtol=1e-6)


@hypothesis.given(a=logits_of(6), b=logits_of(6))
@hypothesis.settings(deadline=None, max_examples=50)
def test_softmax_lies_on_the_simplex_and_is_half_lipschitz(a, b):
    p, q, log_p = jax.jit(sm.probabilities)(a)
    assert (np.asarray(p) >= 0).all() and (np.asarray(log_p) <= 0).all()
    np.testing.assert_allclose(np.sum(p), 1, rtol=1e-6)
    np.testing.assert_allclose(p + q, np.ones(6), rtol=1e-6)
    np.testing.assert_allclose(
        np.exp(log_p), p, rtol=2e-5
    )  # exp turns the rounding of a gap up to 40 into 2e-6 and more
    distance = np.linalg.norm(np.asarray(p - sm.softmax(b), np.float64))
    assert distance <= 0.5 * np.linalg.norm((a - b).astype(np.float64)) + 1e-6


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("classes", [2, 5, 40])
def test_the_jacobian_is_a_laplacian_with_a_bounded_spectrum(classes):
    """J is symmetric, positive semidefinite, J 1 = 0, and λ_max <= 2 max p (1 - p) <= ½ (Nair 2025)."""
    z = np.random.default_rng(0).normal(scale=3, size=(200, classes))
    p, matrices = np.asarray(sm.softmax(z)), np.asarray(sm.jacobian(z))
    chex.assert_shape(matrices, (200, classes, classes))
    np.testing.assert_array_equal(matrices, np.swapaxes(matrices, 1, 2))
    np.testing.assert_allclose(matrices.sum(-1), 0, atol=1e-16 * classes)  # a row's entries are at most 1/4
    np.testing.assert_allclose(matrices, [np.diag(v) - np.outer(v, v) for v in p], atol=1e-15)
    spectrum = np.linalg.eigvalsh(matrices)
    assert (spectrum[:, 0] >= -1e-15).all()
    bound = 2 * (p * (1 - p)).max(axis=-1)
    assert (spectrum[:, -1] <= bound + 1e-15).all() and (bound <= 0.5).all()
    # Two equal classes that hold everything attain the bound ½.
    np.testing.assert_allclose(np.linalg.eigvalsh(sm.jacobian(np.zeros(2)))[-1], 0.5, rtol=1e-15)


def test_the_product_ignores_what_all_components_share():
    """J 1 = 0. The shift is exact in float32, so even a large one costs only the rounding of the mean."""
    z = np.random.default_rng(1).normal(scale=4, size=(100, 7)).astype(np.float32)
    t = np.random.default_rng(2).integers(-8, 8, size=(100, 7)).astype(np.float32)
    chex.assert_trees_all_close(sm.jacobian_product(z, t + 2**20), sm.jacobian_product(z, t), rtol=1e-5, atol=1e-6)
    assert np.abs(sm.jacobian_product(z, np.full_like(t, 2**20))).max() < 1e-6


@pytest.mark.usefixtures("x64")
def test_jax_differentiates_to_all_orders():
    """Finite differences to second order, where a difference quotient gives 1e-5, and jax.nn's derivatives to third."""
    z = np.random.default_rng(3).normal(size=4)
    check_grads(jax.jit(sm.probabilities), (z,), order=2, modes=("fwd", "rev"), rtol=1e-5, atol=1e-5)
    reference = jax.jit(jax.jacfwd(jax.jacrev(jax.jacfwd(jax.nn.softmax))))(z)
    for first, second, third in ((jax.jacfwd, jax.jacrev, jax.jacfwd), (jax.jacrev, jax.jacfwd, jax.jacrev)):
        chex.assert_trees_all_close(jax.jit(third(second(first(sm.softmax))))(z), reference, atol=1e-14)


@pytest.mark.parametrize("temperature", [1e-1, 1e-2, 1e-3])
def test_a_low_temperature_leaves_the_hardmax(temperature):
    """Every other class holds at most e^{-Δ/T}, where Δ is the smallest gap below the top."""
    z = jnp.array([[1.0, 3.0, 2.5, -1.0], [0.25, -2.0, -1.0, 0.0]])
    chex.assert_trees_all_close(sm.softmax(z / temperature), sm.hardmax(z), atol=3 * np.exp(-0.25 / temperature) + 1e-7)


def test_ties_share_a_low_temperature_and_the_first_takes_the_hardmax():
    z = jnp.array([1.0, 3.0, 3.0, 2.0])
    chex.assert_trees_all_close(sm.softmax(z / 1e-3), jnp.array([0, 0.5, 0.5, 0]))
    chex.assert_trees_all_equal(sm.hardmax(z), jnp.array([0.0, 1.0, 0.0, 0.0]))
    chex.assert_trees_all_equal(jax.jacobian(sm.hardmax)(z), jnp.zeros((4, 4)))
    for classes in (1, 2, 7, 64, 65, 1000):  # equal logits: one over the number of classes
        values = sm.probabilities(jnp.zeros(classes))
        expected = sm.Probabilities(
            np.full(classes, 1 / classes), np.full(classes, 1 - 1 / classes), np.full(classes, -np.log(classes))
        )
        chex.assert_trees_all_close(values, jax.tree.map(np.float32, expected), rtol=1e-6)


def test_two_classes_are_the_logistic_function(dtype):
    """softmax(z)_1 = σ(z_1 - z_2), and its derivative is σ (1 - σ)."""
    gap = np.linspace(-80, 80, 161).astype(dtype)
    z = np.stack([gap, np.zeros_like(gap)], axis=-1)
    p, _, log_p = sm.probabilities(z)
    tolerance = 4 * np.finfo(dtype).eps  # both sides round a few times
    np.testing.assert_allclose(p[:, 0], scipy.special.expit(gap), rtol=tolerance)
    np.testing.assert_allclose(log_p[:, 0], scipy.special.log_expit(gap), rtol=tolerance)
    slope = scipy.special.expit(gap) * scipy.special.expit(-gap)
    np.testing.assert_allclose(sm.jacobian(z)[:, 0, 0], slope, rtol=tolerance)


@pytest.mark.usefixtures("x64")
def test_agrees_with_other_libraries_at_moderate_logits():
    z = np.random.default_rng(4).normal(scale=2, size=(3, 5, 11))
    chex.assert_trees_all_close(sm.softmax(z), jax.nn.softmax(z), rtol=1e-13)
    chex.assert_trees_all_close(sm.log_softmax(z), jax.nn.log_softmax(z), rtol=1e-13)
    chex.assert_trees_all_close(sm.softmax(z), jnp.asarray(scipy.special.softmax(z, axis=-1)), rtol=1e-13)
    chex.assert_trees_all_close(sm.log_softmax(z), jnp.asarray(scipy.special.log_softmax(z, axis=-1)), rtol=1e-13)


def test_an_excluded_class_is_as_good_as_absent():
    """A logit of -inf: p = 0, and every derivative is that of the remaining classes, with zeros put in."""
    full, kept = jnp.array([1.0, -jnp.inf, 0.5, -2.0]), jnp.array([1.0, 0.5, -2.0])
    t = jnp.array([0.3, 5.0, -0.4, 2.0])
    remain = np.array([0, 2, 3])

    def second(z, t):
        return jax.jvp(lambda z: jax.jvp(sm.softmax, (z,), (t,))[1], (z,), (t,))[1]

    def second_reverse(z, t):
        return jax.grad(lambda z: jnp.vdot(jax.vjp(sm.softmax, z)[1](t)[0], t))(z)

    functions = {
        "softmax": lambda z, t: sm.softmax(z),
        "product": sm.jacobian_product,
        "forward": lambda z, t: jax.jvp(sm.softmax, (z,), (t,))[1],
        "reverse": lambda z, t: jax.vjp(sm.softmax, z)[1](t)[0],
        "log reverse": lambda z, t: jax.vjp(sm.log_softmax, z)[1](jnp.where(jnp.isinf(z), 0, t))[0],
        "second": second,
        "second reverse": second_reverse,
    }
    for f in functions.values():
        whole = jax.jit(f)(full, t)
        chex.assert_trees_all_close(whole[remain], jax.jit(f)(kept, t[remain]), rtol=1e-5, atol=1e-7)
        assert whole[1] == 0
    assert sm.log_softmax(full)[1] == -jnp.inf
    assert np.isfinite(jax.jvp(sm.log_softmax, (full,), (t,))[1]).all()
    assert np.isfinite(jax.jit(jax.hessian(lambda z: sm.softmax(z)[0]))(full)).all()


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
def test_large_logits_and_short_types_stay_finite(name):
    z = jnp.array([[1e4, -1e4, 0.0], [1e4, 1e4, -1e4], [-1e4, -1e4, -1e4]], name)
    expected = jnp.array([[1, 0, 0], [0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3]], name)
    p, q, log_p = sm.probabilities(z)
    chex.assert_type([p, q, log_p, sm.jacobian(z), sm.hardmax(z)], z.dtype)
    chex.assert_trees_all_close((p, q), (expected, 1 - expected), atol=2 * jnp.finfo(name).eps)
    chex.assert_tree_all_finite((log_p, sm.jacobian(z), jax.jit(jax.hessian(lambda z: sm.softmax(z).sum()))(z)))
    many = jnp.zeros(300, name)  # a sum of 300 ones is beyond what eight bits count one by one
    chex.assert_trees_all_close(sm.softmax(many), jnp.full(300, 1 / 300, name), rtol=1e-2)


def test_batches_and_compilation_change_nothing():
    """One example, a vmapped batch and a leading batch agree to a few roundings, from one trace."""
    z = np.random.default_rng(5).normal(scale=3, size=(4, 6, 9)).astype(np.float32)
    for f in (sm.softmax, sm.log_softmax, sm.hardmax, sm.jacobian):
        compiled = jax.jit(chex.assert_max_traces(f, n=1))
        batched = compiled(z)
        compiled(2 * z)
        chex.assert_trees_all_close(jax.vmap(jax.vmap(f))(z), batched, rtol=1e-5)
        chex.assert_trees_all_close(f(z[1, 2]), batched[1, 2], rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sm.softmax([5, 2, -1, 3]), TypeError, r"z: expected floating-point logits, got int32"),
        (lambda: sm.hardmax(1.0), ValueError, r"z: expected logits of shape \(\.\.\., C\) with C >= 1, got shape \(\)"),
        (lambda: sm.jacobian(np.zeros((3, 0), np.float32)), ValueError, r"got shape \(3, 0\)"),
        (lambda: sm.jacobian_product(np.zeros(3, np.float32), np.zeros(2)), ValueError, r"t: expected shape \(3,\)"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
