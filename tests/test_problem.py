"""Problems: the loss of a classifier is the mean cross-entropy plus its penalty; the surfaces are what they say."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

from jaxsoft import problem
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
    mean = np.mean([made.batch_loss(params, jnp.asarray(i)) for i in batches])
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
