"""Problems: the loss of a classifier is the mean cross-entropy plus its penalty; the surfaces are what they say."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

from jaxsoft import curvature, problem, theory
from jaxsoft.data import blobs, iris
from jaxsoft.models import cnn, mlp, softmax_regression

KEY = jax.random.key(3)


def test_loss_and_metrics_equal_scikit_learns(x64):
    model, data = mlp([4, 5, 3], scale=0.8), iris()
    made = problem.classification(model, data)
    params = made.init(KEY)
    logits = np.asarray(jax.vmap(model.apply, (None, 0))(params, jnp.asarray(data.x, float)))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(made.loss(params), log_loss(data.y, p), rtol=1e-13)
    scores = problem.metrics(model, data)(params)
    np.testing.assert_allclose(scores["loss"], log_loss(data.y, p), rtol=1e-13)
    np.testing.assert_allclose(scores["accuracy"], accuracy_score(data.y, logits.argmax(1)))


def test_the_mean_over_batches_of_an_epoch_is_the_full_loss(x64):
    made = problem.classification(mlp([4, 5, 3], scale=0.8), iris())
    params = made.init(KEY)
    batches = np.random.default_rng(0).permutation(150).reshape(10, 15)
    mean = np.mean([made.batch(jnp.asarray(i))(params) for i in batches])
    np.testing.assert_allclose(mean, made.loss(params), rtol=1e-14)


def test_the_penalty_pulls_on_weights_and_leaves_biases_free(x64):
    model, data, l2 = mlp([4, 5, 3], scale=0.8), iris(), 0.3
    params = jax.tree.map(lambda p: p + 0.1, model.init(KEY))
    plain = jax.grad(problem.classification(model, data).loss)(params)
    ridge = jax.grad(problem.classification(model, data, l2).loss)(params)
    for layer, a, b in zip(params, plain, ridge, strict=True):
        np.testing.assert_allclose(b.weight - a.weight, l2 * layer.weight, rtol=1e-12)
        np.testing.assert_allclose(b.bias, a.bias, atol=1e-15)


def test_a_swept_penalty_is_one_program():
    model, data = softmax_regression(4, 3, init="normal", scale=0.5), iris()
    params = model.init(KEY)
    swept = jax.vmap(lambda l2: problem.classification(model, data, l2).loss(params))(jnp.array([0.0, 0.1]))
    alone = [problem.classification(model, data, l2).loss(params) for l2 in (0.0, 0.1)]
    np.testing.assert_allclose(swept, alone, rtol=1e-6)


def test_quadratic_has_the_curvatures_given(x64):
    eigenvalues = [-2.0, 0.0, 3.5]
    made = problem.quadratic(eigenvalues, sigma=2.0)
    theta = made.init(KEY)
    np.testing.assert_allclose(jax.hessian(made.loss)(theta), np.diag(eigenvalues))
    np.testing.assert_allclose(jax.grad(made.loss)(theta), np.array(eigenvalues) * theta)
    draws = jax.vmap(made.init)(jax.random.split(KEY, 4000))
    # the variance of 12,000 normal draws has the relative standard deviation sqrt(2/12000) = 1.3 %
    np.testing.assert_allclose(np.var(draws), 4.0, rtol=0.065)


def test_the_monkey_saddle_has_three_ways_down_and_no_curvature(x64):
    made = problem.monkey_saddle()
    np.testing.assert_allclose(jax.hessian(made.loss)(jnp.zeros(2)), np.zeros((2, 2)))
    # f = r³ cos 3φ
    for angle in np.linspace(0, 2 * np.pi, 13):
        point = 0.7 * jnp.array([np.cos(angle), np.sin(angle)])
        np.testing.assert_allclose(made.loss(point), 0.7**3 * np.cos(3 * angle), atol=1e-15)


def test_a_model_that_does_not_fit_its_data_is_refused():
    with pytest.raises(
        ValueError, match=r"model: expected logits of shape \(3,\), one for each class of iris, got shape \(2,\)"
    ):
        problem.classification(softmax_regression(4, 2), iris())
    with pytest.raises(ValueError, match="x: expected 5 features, got 4"):
        problem.classification(mlp([5, 3, 3]), iris())
    with pytest.raises(ValueError, match="x: expected"):
        problem.classification(cnn((8, 8), 3), iris())
    with pytest.raises(ValueError, match=r"l2: expected a finite number >= 0, got -0.1"):
        problem.classification(softmax_regression(4, 3), iris(), l2=-0.1)
    with pytest.raises(ValueError, match="eigenvalues: expected a non-empty list of finite numbers"):
        problem.quadratic([1.0, float("nan")])


def test_two_dimensional_data_of_many_classes_fits():
    data = blobs(n=60, classes=6)
    made = problem.classification(mlp([2, 4, 6], init="zeros"), data)
    np.testing.assert_allclose(made.loss(made.init(KEY)), np.log(6), rtol=1e-6)


def test_two_spins_have_the_eigenvectors_as_critical_points_and_their_place_as_index(x64):
    n, key = 12, jax.random.key(5)
    made = problem.p_spin(2, n, key)
    # f = θᵀ S θ / ‖θ‖², so the Hessian of f ‖θ‖² is 2 S
    symmetric = np.asarray(jax.hessian(lambda t: made.loss(t) * jnp.sum(t**2))(jnp.ones(n))) / 2
    values, vectors = np.linalg.eigh(symmetric)
    for k, (value, vector) in enumerate(zip(values, vectors.T, strict=True)):
        for theta in (jnp.asarray(vector), jnp.asarray(-2.0 * vector)):
            np.testing.assert_allclose(made.loss(theta), value, rtol=1e-12)
            np.testing.assert_allclose(jax.grad(made.loss)(theta), 0, atol=1e-13)
            found = curvature.inertia(made.loss, theta, null=theta[:, None])
            assert (found.negative, found.null, found.undecided, found.positive) == (k, 1, 0, n - 1 - k)


def test_two_spins_follow_the_semicircle(x64):
    """F_sc(2 u/√2 √(n/(n-1))) against the exact (k-1)/(n-1): Wigner's law, to a few per n."""
    n = 200
    made = problem.p_spin(2, n, jax.random.key(6))
    symmetric = jax.hessian(lambda t: made.loss(t) * jnp.sum(t**2))(jnp.ones(n)) / 2
    energies = np.linalg.eigvalsh(symmetric) / np.sqrt(n)
    # the counting function of n eigenvalues is rigid: it strays from the law by O(ln n / n)
    assert np.max(abs(theory.p_spin_index(2, energies, n) - np.arange(n) / (n - 1))) < 3 * np.log(n) / n


@pytest.mark.parametrize("p", [2, 3, 4])
def test_p_spins_are_constant_along_rays_and_of_variance_one(x64, p):
    n, key = 5, jax.random.key(7)
    made = problem.p_spin(p, n, key)
    theta = made.init(KEY)
    np.testing.assert_allclose(jnp.sum(theta**2), 1, rtol=1e-14)
    for scale in (1e-3, 5.0):
        np.testing.assert_allclose(made.loss(scale * theta), made.loss(theta), rtol=1e-12)
    np.testing.assert_allclose(made.loss(-theta), (-1) ** p * made.loss(theta), rtol=1e-12)
    gradient, hessian = jax.grad(made.loss)(theta), jax.hessian(made.loss)(theta)
    np.testing.assert_allclose(theta @ gradient, 0, atol=1e-13)
    np.testing.assert_allclose(hessian @ theta, -gradient, atol=1e-12)  # Euler, of degree -1
    other = made.init(jax.random.key(8))
    draws = jax.jit(jax.vmap(lambda k: jnp.stack([problem.p_spin(p, n, k).loss(t) for t in (theta, other)])))(
        jax.random.split(key, 20_000)
    )
    # E f(θ) f(θ') = (θ·θ')^p; the standard error of a product of two unit normals is at most √2/√20000 = 0.01
    np.testing.assert_allclose(np.mean(draws[:, 0] ** 2), 1, atol=0.05)
    np.testing.assert_allclose(np.mean(draws[:, 0] * draws[:, 1]), float(theta @ other) ** p, atol=0.05)


def test_the_index_of_three_spins_follows_the_semicircle(x64):
    """The mean over critical points that Newton's method finds on the sphere, N = 30."""
    n, starts = 30, 40
    made = problem.p_spin(3, n, jax.random.key(9))

    def newton(theta, _):
        g, h = jax.grad(made.loss)(theta), jax.hessian(made.loss)(theta)
        radial = jnp.outer(theta, theta)
        tangent = (jnp.eye(n) - radial) @ h @ (jnp.eye(n) - radial) + radial
        step = jnp.linalg.solve(tangent, g)
        step = step * jnp.minimum(1.0, 0.3 / jnp.linalg.norm(step))
        return (theta - step) / jnp.linalg.norm(theta - step), None

    find = jax.jit(jax.vmap(lambda t: jax.lax.scan(newton, t, length=200)[0]))
    points = find(jax.vmap(made.init)(jax.random.split(KEY, starts)))
    slopes = np.linalg.norm(jax.vmap(jax.grad(made.loss))(points), axis=1)
    points = points[slopes < 1e-9]
    assert len(points) >= starts // 4
    energies = np.asarray(jax.vmap(made.loss)(points)) / np.sqrt(n)
    spectra = np.linalg.eigvalsh(jax.vmap(jax.hessian(made.loss))(points))
    shares = np.sum(spectra < -1e-6, axis=1) / (n - 1)
    assert np.all(np.sum(abs(spectra) < 1e-6, axis=1) == 1)  # the ray
    # an eigenvalue or two of the 29 beside the law, and a mean that is nearer
    gaps = shares - theory.p_spin_index(3, energies, n)
    assert np.max(abs(gaps)) < 4 / (n - 1)
    assert abs(np.mean(gaps)) < 1 / (n - 1)


def test_p_spin_arguments_are_named():
    with pytest.raises(ValueError, match="p: expected an integer >= 2, got 1"):
        problem.p_spin(1, 4, KEY)
    with pytest.raises(ValueError, match="n: expected an integer >= 2, got 1"):
        problem.p_spin(3, 1, KEY)
