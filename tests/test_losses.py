"""Cross-entropy against its definition in many digits, in every mode of differentiation, and its algebra."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from sklearn.metrics import log_loss

from jaxsoft import losses

# The gap z_j - z_y itself is rounded to half a unit: 2^-18 = 3.8e-6 at 64-128 in float32, 2^-44 = 5.7e-14 at 512-1024
# in float64; that is the relative error of e^gap. The rest of the tolerance is for a few more roundings.
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-13}
GAPS = {np.float32: (0.0, 0.3, 5.5, 20.0, 51.7, 80.0), np.float64: (0.0, 0.3, 20.0, 80.0, 333.3, 700.0)}
DIGITS = 400  # 50 digits of 1 + e^-700


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    with jax.enable_x64(request.param is np.float64):
        yield request.param


def logits_with_gap(gap, classes, dtype):
    """Class 0 leads by ``gap``; the others lie up to 3 below the second."""
    below = np.linspace(0, 3, classes - 1)
    return np.concatenate([[1.5 + gap], 1.5 - below]).astype(dtype)


def truth(z, y, t):
    """Loss, gradient and Hessian-vector product of label y in the direction t, from the exact inputs."""
    with mpmath.workdps(DIGITS):
        e = [mpmath.exp(mpmath.mpf(float(v))) for v in z]
        total = mpmath.fsum(e)
        p = [v / total for v in e]
        direction = [mpmath.mpf(float(v)) for v in t]
        mean = mpmath.fsum(a * b for a, b in zip(p, direction, strict=True))
        loss = -mpmath.log(p[y])
        gradient = [p[k] - (k == y) for k in range(len(p))]
        product = [a * (b - mean) for a, b in zip(p, direction, strict=True)]
        scale = [
            mpmath.fsum(p[k] * p[j] * abs(direction[k] - direction[j]) for j in range(len(p))) for k in range(len(p))
        ]
        return loss, gradient, product, scale


def relative(measured, exact, scale=None):
    with mpmath.workdps(DIGITS):
        sizes = exact if scale is None else scale
        pairs = zip(np.ravel(np.asarray(measured)), exact, sizes, strict=True)
        return max(float(abs(mpmath.mpf(float(m)) - e) / abs(s)) if s else float(abs(float(m))) for m, e, s in pairs)


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
@pytest.mark.parametrize("label", [0, 1], ids=["label leads", "label trails"])
def test_every_component_keeps_its_digits_in_every_mode(classes, label, dtype):
    def loss(z):
        return losses.cross_entropy(z, label)

    def forward_over_reverse(z, t):
        return jax.jvp(jax.grad(loss), (z,), (t,))[1]

    def reverse_over_reverse(z, t):
        return jax.grad(lambda v: jnp.vdot(jax.grad(loss)(v), t))(z)

    def reverse_over_forward(z, t):
        return jax.grad(lambda v: jax.jvp(loss, (v,), (t,))[1])(z)

    def analytic(z, t):
        return losses.cross_entropy_hvp(z, label, t)

    zs = jnp.stack([jnp.asarray(logits_with_gap(gap, classes, dtype)) for gap in GAPS[dtype]])
    # Only class 0 moves: all terms of the product (H t)_k have one sign, so its relative accuracy is well defined.
    one_sign = np.eye(classes, dtype=dtype)[0]
    mixed = np.random.default_rng(0).normal(size=classes).astype(dtype)
    value = jax.jit(jax.vmap(loss))(zs)
    reverse = jax.jit(jax.vmap(jax.grad(loss)))(zs)
    forward = jax.vmap(lambda z: jax.vmap(lambda t: jax.jvp(loss, (z,), (t,))[1])(jnp.eye(classes, dtype=dtype)))(zs)
    closed = losses.cross_entropy_grad(zs, jnp.full(len(zs), label))
    products = [forward_over_reverse, reverse_over_reverse, reverse_over_forward, analytic]
    products = [[jax.jit(jax.vmap(f, (0, None)))(zs, jnp.asarray(t)) for f in products] for t in (one_sign, mixed)]
    for i, z in enumerate(np.asarray(zs)):
        exact_loss, gradient, product, _ = truth(z, label, one_sign)
        _, _, mixed_product, scale = truth(z, label, mixed)
        assert relative(value[i], [exact_loss]) < TOLERANCE[dtype]
        for got in (reverse[i], forward[i], closed[i]):
            assert relative(got, gradient) < TOLERANCE[dtype]
        for got in products[0]:
            assert relative(got[i], product) < TOLERANCE[dtype]
        for got in products[1]:  # terms of both signs: relative to the sum of their sizes
            assert relative(got[i], mixed_product, scale) < TOLERANCE[dtype]


@pytest.mark.parametrize("classes", [1, 2, 4, 5, 40])
def test_examples_in_columns_keep_their_digits(classes, dtype):
    """Loss and gradient of columns, whatever the label, and the derivatives of both; a class alone has a loss of 0."""
    labels = jnp.arange(classes)
    both, direction = jax.jit(losses.cross_entropy_and_grad), np.eye(classes, dtype=dtype)[0]
    for gap in GAPS[dtype]:
        z = logits_with_gap(gap, classes, dtype)
        columns = jnp.tile(jnp.asarray(z)[:, None], classes)
        _, gradient = both(columns, labels)
        for label in range(classes):
            exact_loss, exact, product, _ = truth(z, label, direction)
            (loss, _), (loss_slope, gradient_slope) = jax.jvp(
                lambda v, shown=labels == label: both(v, labels, shown),
                (columns,),
                (jnp.tile(jnp.asarray(direction)[:, None], classes),),
            )
            assert relative(loss, [exact_loss]) < TOLERANCE[dtype]
            assert relative(gradient[:, label], exact) < TOLERANCE[dtype]
            assert relative(loss_slope, exact[:1]) < TOLERANCE[dtype]
            assert relative(gradient_slope[:, label], product) < TOLERANCE[dtype]
            assert not np.delete(gradient_slope, label, axis=1).any()


@pytest.mark.parametrize("classes", [2, 4, 5])
@pytest.mark.parametrize("kind", ["certain", "undecided", "certain of another class", "of all kinds"])
def test_the_sum_over_examples_keeps_its_digits(classes, kind, dtype):
    """70 examples: with few classes four times 16 of them have one logarithm, and 6 their own. Where all are certain,
    the losses add up to 1e-8 and less; where none is, 16 factors are 4^16; shown are all, or every third."""
    rng = np.random.default_rng(0)
    certain = np.stack([logits_with_gap(gap, classes, dtype) for gap in rng.uniform(20, 50, 70)], axis=1)
    undecided = rng.normal(scale=1e-3, size=(classes, 70)).astype(dtype)
    z = certain if kind.startswith("certain") else undecided
    z = np.where(np.arange(70) % 2, certain, undecided) if kind == "of all kinds" else z
    labels = np.full(70, classes - 1 if "another" in kind else 0)
    for shown in (None, np.arange(70) % 3 == 0):
        which = np.arange(70) if shown is None else np.flatnonzero(shown)
        with mpmath.workdps(DIGITS):
            exact = mpmath.fsum(truth(z[:, i], labels[i], np.ones(classes))[0] for i in which)
        loss, gradient = jax.jit(losses.cross_entropy_and_grad)(z, labels, shown)
        assert relative(loss, [exact]) < TOLERANCE[dtype]
        by_class = losses.cross_entropy_grad(z.T, labels).T * (1 if shown is None else shown[None])
        np.testing.assert_allclose(gradient, by_class, rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("kind", [jnp.float16, jnp.bfloat16])
def test_a_mean_in_half_precision(kind):
    """16 factors of 3 and a sum of 60,000 terms would overflow float16; a mean of equal terms has a few roundings."""
    eps, n = float(jnp.finfo(kind).eps), 60_000
    for classes in (3, 10):
        loss, gradient = losses.cross_entropy_and_grad(jnp.zeros((classes, n), kind), jnp.zeros(n, int), share=1 / n)
        assert loss.dtype == gradient.dtype == kind
        np.testing.assert_allclose(float(loss), np.log(classes), rtol=4 * eps)


def test_a_hidden_example_may_be_anything():
    """Also in the derivatives: its logits NaN and infinite, its label none."""
    z = jnp.array([[0.5, jnp.nan, 1.0, jnp.inf], [0.0, 0.0, -1.0, jnp.inf]])
    labels, shown = jnp.array([0, 5, 1, -1]), jnp.array([True, False, True, False])

    def loss(z):
        return losses.cross_entropy_and_grad(z, labels, shown)[0]

    value, slope = jax.value_and_grad(loss)(z)
    _, gradient = losses.cross_entropy_and_grad(z, labels, shown)
    kept = jnp.array([0, 2])
    np.testing.assert_allclose(value, losses.cross_entropy(z[:, kept].T, labels[kept]).sum(), rtol=1e-6)
    np.testing.assert_allclose(gradient[:, kept].T, losses.cross_entropy_grad(z[:, kept].T, labels[kept]), rtol=1e-6)
    np.testing.assert_array_equal(slope, gradient)
    assert not gradient[:, jnp.array([1, 3])].any()
    second = jax.jvp(jax.grad(loss), (z,), (jnp.ones_like(z).at[0].set(0),))[1]
    assert np.isfinite(second).all()


def test_columns_ask_for_one_label_each():
    z = jnp.zeros((3, 2))
    for labels in (jnp.zeros(3, int), jnp.zeros(2), jnp.zeros((3, 2))):
        with pytest.raises(ValueError, match=r"^labels: expected integers of shape \(n,\).* got "):
            losses.cross_entropy_and_grad(z, labels)
    with pytest.raises(ValueError, match=r"^labels: expected .* got 3"):
        losses.cross_entropy_and_grad(z, jnp.array([0, 3]))
    with pytest.raises(TypeError, match=r"^mask: expected booleans of shape \(2,\), got int32"):
        losses.cross_entropy_and_grad(z, jnp.array([0, 1]), jnp.array([0, 1]))
    with pytest.raises(ValueError, match=r"^mask: expected booleans of shape \(2,\), got shape \(3,\)"):
        losses.cross_entropy_and_grad(z, jnp.array([0, 1]), jnp.ones(3, bool))
    for classes in (3, 10):  # compiled, the maximum of 10 classes over many columns drops NaN
        z, labels = jnp.zeros((classes, 1024)), jnp.full(1024, classes).at[0].set(0)
        both = jax.jit(losses.cross_entropy_and_grad)
        loss, gradient = both(z, labels)
        assert np.isnan(loss)
        assert np.isnan(gradient[:, 1:]).all()
        for one in range(1024, 0, -100):  # one label that is none, wherever it stands
            assert np.isnan(both(z, jnp.zeros(1024, int).at[one - 1].set(classes))[0])
        assert np.isfinite(both(z, labels, jnp.arange(1024) < 1)[0])


def test_the_literal_form_would_fail_this_test():
    """ŷ - y in float32 has no label component at a gap of 20, and logsumexp(z) - z_y no loss: the test has teeth."""
    z = jnp.asarray(logits_with_gap(20.0, 3, np.float32))
    exact_loss, gradient, _, _ = truth(np.asarray(z), 0, np.ones(3))
    assert relative(jax.nn.softmax(z) - jax.nn.one_hot(0, 3), gradient) > 0.5
    assert relative(jax.nn.logsumexp(z) - z[0], [exact_loss]) > 0.5


def test_the_numbers_of_the_lecture():
    z = jnp.log(jnp.array([0.3, 0.2, 0.1, 0.4]))
    y = jnp.array([0.0, 1.0, 0.0, 0.0])
    for label in (1, y):
        np.testing.assert_allclose(losses.cross_entropy(z, label), -np.log(0.2), rtol=1e-6)
        np.testing.assert_allclose(losses.cross_entropy_grad(z, label), [0.3, -0.8, 0.1, 0.4], rtol=1e-6)
        np.testing.assert_allclose(jax.grad(losses.cross_entropy)(z, label), [0.3, -0.8, 0.1, 0.4], rtol=1e-6)


@given(st.integers(2, 9), st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_gradient_identities(classes, seed):
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        z, shift = rng.normal(scale=3, size=(4, classes)), rng.normal(scale=100, size=(4, 1))
        y = rng.dirichlet(np.ones(classes), size=4)
        gradient = losses.cross_entropy_grad(z, y)
        p = jax.nn.softmax(z)
        np.testing.assert_allclose(gradient, p - y, atol=1e-14)  # ŷ - y, where nothing cancels
        np.testing.assert_allclose(gradient.sum(1), 0, atol=1e-15)  # the class shift changes nothing
        shifted = losses.cross_entropy(z + shift, y)
        np.testing.assert_allclose(shifted, losses.cross_entropy(z, y), rtol=1e-14, atol=1e-12)  # ulp(400) is 6e-14
        scaled = losses.cross_entropy_grad(z, 3 * y)  # (Σ y) ŷ - y
        np.testing.assert_allclose(scaled, 3 * (p - y), atol=1e-13)
        hard = np.argmax(y, axis=1)
        plain = optax.losses.softmax_cross_entropy_with_integer_labels(z, hard)  # subtracts: absolutely accurate only
        np.testing.assert_allclose(losses.cross_entropy(z, hard), plain, rtol=1e-14, atol=2e-14)
        np.testing.assert_array_equal(
            losses.cross_entropy_grad(z, hard), losses.cross_entropy_grad(z, np.eye(classes)[hard])
        )


@pytest.mark.parametrize("labels", ["integers", "probabilities"])
def test_finite_differences_to_second_order(x64, labels):
    rng = np.random.default_rng(1)
    z = rng.normal(size=(3, 5))
    y = np.array([0, 4, 2]) if labels == "integers" else rng.dirichlet(np.ones(5), size=3)
    options = {"weights": np.array([1.0, 2.0, 0.5, 1.0, 3.0]), "smoothing": 0.1}
    check_grads(lambda z: losses.cost(z, y, **options), (z,), order=2, modes=["fwd", "rev"])


def test_the_hessian_is_the_second_derivative_and_bounded(x64):
    z = np.random.default_rng(2).normal(scale=2, size=(6, 4))
    y = np.array([0, 1, 2, 3, 0, 1])
    hessian = losses.cross_entropy_hessian(z, y)
    automatic = jax.vmap(jax.hessian(losses.cross_entropy))(z, y)
    np.testing.assert_allclose(hessian, automatic, atol=1e-15)
    bound = 0.5 * (np.eye(4) - np.full((4, 4), 0.25))  # Böhning 1992
    for h in np.asarray(hessian):
        assert np.linalg.eigvalsh(bound - h).min() > -1e-15
        assert np.linalg.eigvalsh(h).min() > -1e-15
        np.testing.assert_allclose(h.sum(0), 0, atol=1e-16)


def test_soft_labels_are_differentiable_themselves(x64):
    z = jnp.array([2.0, -1.0, 0.5])
    gradient = jax.grad(losses.cross_entropy, argnums=1)(z, jnp.array([0.2, 0.3, 0.5]))
    np.testing.assert_allclose(gradient, -jax.nn.log_softmax(z), rtol=1e-14)
    excluded = jnp.array([2.0, -jnp.inf, 0.5])
    gradient = jax.grad(losses.cross_entropy, argnums=1)(excluded, jnp.array([0.5, 0.0, 0.5]))
    np.testing.assert_allclose(
        gradient[jnp.array([0, 2])], -jax.nn.log_softmax(excluded)[jnp.array([0, 2])], rtol=1e-14
    )
    assert np.isfinite(gradient).all()


def test_weights_smoothing_and_mask_mean_what_they_say(x64):
    rng = np.random.default_rng(3)
    z, y = rng.normal(size=(20, 4)), rng.integers(0, 4, 20)
    w = np.array([1.0, 3.0, 0.5, 2.0])
    p = np.asarray(jax.nn.softmax(z))
    np.testing.assert_allclose(losses.cost(z, y, weights=w), log_loss(y, p, sample_weight=w[y]), rtol=1e-13)
    smooth = 0.9 * np.eye(4)[y] + 0.1 / 4
    np.testing.assert_allclose(
        losses.cross_entropy(z, y, smoothing=0.1), optax.losses.softmax_cross_entropy(z, smooth), rtol=1e-13
    )
    mask = rng.random(20) < 0.5
    np.testing.assert_allclose(losses.cost(z, y, mask=mask), losses.cost(z[mask], y[mask]), rtol=1e-14)
    np.testing.assert_array_equal(losses.cross_entropy(z, y, mask=mask)[~mask], 0)
    np.testing.assert_allclose(losses.accuracy(z, y, mask=mask), np.mean(z[mask].argmax(1) == y[mask]))


def test_masked_examples_may_hold_anything():
    z = jnp.array([[1.0, 2.0], [jnp.nan, jnp.inf]])
    y = jnp.array([0, 7])
    mask = jnp.array([True, False])
    value, gradient = jax.value_and_grad(losses.cost)(z, y, mask=mask)
    np.testing.assert_allclose(value, np.log1p(np.e), rtol=1e-6)
    np.testing.assert_array_equal(gradient[1], 0)
    value, gradient = jax.value_and_grad(losses.cost)(z, y, mask=jnp.zeros(2, bool))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_an_excluded_class_is_as_good_as_absent(x64):
    full, short = jnp.array([1.0, -jnp.inf, 3.0, 0.2]), jnp.array([1.0, 3.0, 0.2])
    keep = jnp.array([0, 2, 3])
    t = jnp.array([0.3, 5.0, -1.0, 0.7])

    def second(z, y, t):
        return jax.grad(lambda v: jnp.vdot(jax.grad(losses.cross_entropy)(v, y), t))(z)

    np.testing.assert_allclose(losses.cross_entropy(full, 2), losses.cross_entropy(short, 1), rtol=1e-15)
    for derivative in (
        lambda z, y, t: jax.grad(losses.cross_entropy)(z, y),
        lambda z, y, t: jax.jvp(lambda v: jax.grad(losses.cross_entropy)(v, y), (z,), (t,))[1],
        second,
        lambda z, y, t: losses.cross_entropy_hvp(z, y, t),
    ):
        got = derivative(full, 2, t)
        np.testing.assert_allclose(got[keep], derivative(short, 1, t[keep]), rtol=1e-13)
        assert got[1] == 0
    assert losses.cross_entropy(full, 1) == jnp.inf
    assert not jnp.isnan(jax.grad(losses.cross_entropy)(full, 1)).any()
    assert jax.jvp(lambda z: losses.cross_entropy(z, 2), (full,), (t,))[1] == pytest.approx(
        float(jnp.vdot(jax.grad(losses.cross_entropy)(short, 1), t[keep])), rel=1e-13
    )


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
def test_huge_logits_stay_finite(name):
    z = jnp.array([1e4, -1e4, 0.0], name)
    for label, expected in ((0, 0.0), (1, 2e4), (2, 1e4)):
        np.testing.assert_allclose(np.float64(losses.cross_entropy(z, label)), expected, rtol=1e-2)
        gradient = jax.grad(losses.cross_entropy)(z, label)
        np.testing.assert_allclose(np.float64(gradient), np.float64([1, 0, 0]) - np.eye(3)[label], atol=1e-7)


class Variants(chex.TestCase):
    """Compiled or not, one example or many: the same numbers, from one trace."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True)
    def test_loss_and_gradient(self):
        z = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
        y = np.arange(8) % 5
        whole = self.variant(losses.cross_entropy)(z, y)
        single = jnp.stack([losses.cross_entropy(a, b) for a, b in zip(z, y, strict=True)])
        chex.assert_trees_all_close(whole, single, rtol=1e-6)
        gradient = self.variant(jax.grad(lambda z: losses.cost(z, y)))(z)
        chex.assert_trees_all_close(gradient, losses.cross_entropy_grad(z, y) / 8, rtol=1e-6, atol=1e-9)

    def test_one_trace_for_one_shape(self):
        chex.clear_trace_counter()
        compiled = jax.jit(chex.assert_max_traces(losses.cost, n=1))
        z = jnp.ones((4, 3))
        for labels in ([0, 1, 2, 0], [2, 2, 2, 2]):
            np.testing.assert_allclose(compiled(z, jnp.array(labels)), np.log(3), rtol=1e-6)


def test_a_label_outside_is_named_or_not_a_number():
    z = jnp.zeros((5, 10))
    labels = np.array([0, 1, 2, 12, 4])
    with pytest.raises(ValueError, match=r"labels: expected values in \[0, 10\), got 12 at index 3"):
        losses.cross_entropy(z, labels)
    traced = jax.jit(losses.cross_entropy)(z, labels)
    assert np.isnan(traced).tolist() == [False, False, False, True, False]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"labels": np.zeros(4)}, TypeError, "labels: expected integers of shape"),
        ({"labels": np.zeros(3, int)}, ValueError, "labels: expected integers of shape"),
        ({"labels": np.zeros((4, 2))}, ValueError, "labels: expected integers of shape"),
        ({"labels": np.zeros((4, 3), int)}, TypeError, "labels: expected integers of shape"),
        ({"labels": np.array([0, 1, 2, -1])}, ValueError, r"labels: expected values in \[0, 3\), got -1 at index 3"),
        ({"logits": np.zeros((4, 3), int)}, TypeError, "logits: expected floating-point logits"),
        ({"smoothing": 1.0}, ValueError, r"smoothing: expected a number in \[0, 1\), got 1.0"),
        ({"weights": np.ones(4)}, ValueError, "weights: expected one number for each class"),
        ({"weights": np.array([1.0, -1.0, 1.0])}, ValueError, r"weights\[1\]: expected a finite number >= 0"),
        ({"mask": np.ones(4)}, TypeError, "mask: expected booleans"),
        ({"mask": np.ones(3, bool)}, ValueError, "mask: expected booleans of shape"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    given_arguments = {"logits": np.zeros((4, 3), np.float32), "labels": np.array([0, 1, 2, 0])} | arguments
    with pytest.raises(error, match=message):
        losses.cost(**given_arguments)
