"""Paths of minima: the optimum of another library, its own equations, and what must not pass as a minimum."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from sklearn.linear_model import LogisticRegression

from jaxsoft import critical, curvature, data, models, problem, sweep
from jaxsoft.critical import path
from jaxsoft.critical.minres import conjugate_gradients
from jaxsoft.critical.path import extrapolation
from jaxsoft.critical.search import surface_of
from jaxsoft.curvature import layered
from jaxsoft.problem import Problem

L2 = np.logspace(0, -6, 13)
SOME_DIGITS = data.first(data.digits(), 30)


def run(made, l2, **options):
    steps = len(l2) - 1
    return sweep.run(critical.make_path(made, l2, **options), {"run": sweep.Seeds(1)}, seed=0, steps=steps).isel(run=0)


def iris(l2):
    return problem.classification(models.softmax_regression(4, 3), data.iris(), l2)


def test_the_path_has_scikit_learns_optimum(x64):
    ds, iris_data = run(iris, L2), data.iris()
    assert str(ds["status"].attrs["flag_meanings"]).split()[int(ds["status"])] == "converged"
    np.testing.assert_allclose(ds["l2"], L2, rtol=1e-14)
    assert (ds["gap"] <= 1e-8).all()
    for value, here in zip(L2, ds["params"].to_numpy(), strict=True):
        peer = LogisticRegression(C=1 / (len(iris_data.y) * value), solver="newton-cholesky", tol=1e-12, max_iter=1000)
        peer.fit(iris_data.x.astype(float), iris_data.y)
        made = iris(value)
        theirs = made.loss((models.Layer(jnp.asarray(peer.coef_), jnp.asarray(peer.intercept_)),))
        ours = made.loss((models.Layer(jnp.asarray(here[:12].reshape(3, 4)), jnp.asarray(here[12:])),))
        assert abs(float(ours / theirs) - 1) <= 1e-8


def test_pieces_side_by_side_give_the_same_minima(x64):
    whole = run(iris, L2[:12])
    ratio = L2[1] / L2[0]
    halves = sweep.run(
        lambda start: critical.make_path(iris, start * ratio ** jnp.arange(6)),
        {"start": [1.0, ratio**6]},
        seed=0,
        steps=5,
    )
    # Both are at most 1e-8 above the minimum.
    np.testing.assert_allclose(halves["loss"].to_numpy().ravel(), whole["loss"], rtol=1e-8)


def bowl(l2):
    """½ ‖A θ - b‖² + l2/2 ‖θ‖²: the minimum solves (AᵀA + l2) θ = Aᵀb."""
    a = jnp.array([[1.0, 2.0], [0.0, 1.0], [1.0, 0.0]])
    b = jnp.array([1.0, -1.0, 2.0])
    return Problem(lambda key: jnp.zeros(2), lambda t: 0.5 * jnp.sum((a @ t - b) ** 2) + 0.5 * l2 * jnp.sum(t**2))


def test_a_quadratic_has_its_minimum_and_the_gap_is_a_bound(x64):
    values = np.geomspace(1, 1e-2, 5)
    ds = run(bowl, values, rtol=1e-3)
    a, b = np.array([[1.0, 2.0], [0.0, 1.0], [1.0, 0.0]]), np.array([1.0, -1.0, 2.0])
    for k, l2 in enumerate(values):
        best = np.linalg.solve(a.T @ a + l2 * np.eye(2), a.T @ b)
        lowest = float(bowl(l2).loss(jnp.asarray(best)))
        excess = (float(ds["loss"][k]) - lowest) / float(ds["loss"][k])
        assert -1e-15 <= excess <= float(ds["gap"][k]) + 1e-15 <= 1e-3


def test_a_method_that_gets_nowhere_is_not_called_arrived(x64):
    still = critical.Method(lambda at: (), lambda surface, at, memory, key: (at, memory, jnp.ones((), jnp.bool_)))
    ds = run(bowl, np.geomspace(1, 1e-2, 3), method=still)
    assert (ds["gap"] > 1e-8).all()


def test_extrapolation_is_exact_for_its_degree():
    for degree in range(3):
        points = np.array([float(x) ** degree for x in (0, -1, -2)])  # newest first
        assert float(extrapolation(degree + 1) @ points) == 1.0**degree


def test_conjugate_gradients_solve_and_stop_at_negative_curvature(x64):
    matrix = jnp.diag(jnp.array([1.0, 10.0, 1e3])) + 0.1
    b = jnp.array([1.0, -2.0, 3.0])
    x = conjugate_gradients(lambda v: matrix @ v, b, tol=1e-10, max_steps=10)
    np.testing.assert_allclose(x, np.linalg.solve(matrix, b), rtol=1e-9)
    assert conjugate_gradients(lambda v: -v, b, tol=1e-10, max_steps=10).tolist() == b.tolist()


def by_class(params):
    """Where the numbers of each class are in flat coordinates: its weights, then its bias."""
    (weight, bias), size = params[0], sum(leaf.size for leaf in jax.tree.leaves(params))
    places = np.arange(weight.size).reshape(weight.shape)
    return places if bias is None else np.column_stack([places, np.arange(weight.size, size)])


@pytest.mark.parametrize("bias", [True, False])
def test_the_preconditioner_is_the_hessian_without_what_couples_classes(x64, bias):
    model = models.softmax_regression(4, 3, init="normal", bias=bias)
    made = problem.classification(model, data.iris(), 1e-2)
    params = model.init(jax.random.key(0))
    hessian = np.asarray(curvature.hessian(made.loss, params))
    alone = np.zeros_like(hessian)
    for places in by_class(params):
        alone[np.ix_(places, places)] = hessian[np.ix_(places, places)]
        if bias:
            alone[places[-1], places[-1]] += 1e-2  # here penalised as well
    assert abs(hessian - alone).max() > 0.1 * abs(hessian).max()  # there is something to leave out
    v = np.random.default_rng(0).normal(size=len(hessian))
    factors, apply = made.loss.preconditioner
    np.testing.assert_allclose(apply(factors(params), jnp.asarray(v)), np.linalg.solve(alone, v), rtol=1e-9)


def test_at_zero_weights_the_preconditioned_system_is_solved_in_one_step(x64):
    """There p = 1/C, and on gradients, whose classes add up to zero, H = M C / (C - 1) where there is no penalty."""
    model = models.softmax_regression(64, 10)
    made = problem.classification(model, data.digits())
    params = model.init(jax.random.key(0))
    flat, unravel = ravel_pytree(params)
    factors, apply = made.loss.preconditioner
    found = factors(params)
    grad, product = jax.linearize(jax.grad(lambda t: made.loss(unravel(t))), flat)

    def left(steps, precondition):
        x = conjugate_gradients(product, grad, tol=0.0, max_steps=steps, precondition=precondition)
        return float(jnp.linalg.norm(product(x) - grad) / jnp.linalg.norm(grad))

    assert left(1, lambda v: apply(found, v)) <= 1e-10 < left(50, None)


def test_the_exact_inverse_as_preconditioner_needs_one_step_and_a_way_down_is_turned_by_it(x64):
    matrix = jnp.diag(jnp.array([1.0, 10.0, 1e3])) + 0.1
    b, inverse = jnp.array([1.0, -2.0, 3.0]), jnp.linalg.inv(matrix)
    x = conjugate_gradients(lambda v: matrix @ v, b, tol=1e-10, max_steps=1, precondition=lambda r: inverse @ r)
    np.testing.assert_allclose(matrix @ x, b, rtol=1e-9)
    down = conjugate_gradients(lambda v: -v, b, tol=1e-10, max_steps=9, precondition=lambda r: inverse @ r)
    np.testing.assert_allclose(down, inverse @ b)


def test_a_class_without_curvature_is_not_preconditioned(x64):
    x = jax.random.normal(jax.random.key(0), (5, 2))
    curved = jnp.column_stack([jnp.zeros(5), jnp.ones(5)])  # of a saturated softmax, and of another
    inverses = layered.class_inverses(x, curved, jnp.zeros(2))
    np.testing.assert_array_equal(inverses[0], np.eye(2))
    np.testing.assert_allclose(inverses[1] @ (x.T @ x), np.eye(2), atol=1e-12)


def test_newton_cg_uses_the_preconditioner(x64):
    values, method = jnp.array([1.0, 10.0, 100.0]), critical.newton_cg(max_products=1)
    surface = surface_of(problem.quadratic(values.tolist()).loss, jnp.ones(3))
    at = surface.at(jnp.ones(3))
    for known, arrives in ((None, False), (lambda v: v / values, True)):
        moved = method.move(surface._replace(precondition=known), at, method.start(at), jax.random.key(0))[0]
        assert (float(jnp.linalg.norm(moved.theta)) < 1e-15) == arrives


def digits(l2):
    return problem.classification(models.softmax_regression(64, 10), SOME_DIGITS, l2)


def bare(l2):
    """The same, that knows nothing of a preconditioner."""
    made = digits(l2)
    return made._replace(loss=dataclasses.replace(made.loss, preconditioner=None))


def test_a_path_goes_on_with_fewer_newton_steps_of_few_products_and_renews_what_it_knows(x64, monkeypatch):
    values, few = np.geomspace(1e-1, 1e-4, 12), critical.newton_cg(max_products=8)
    steps = {}
    for name, made in (("bare", bare), ("preconditioned", digits)):
        ds = run(made, values, method=few)
        assert (ds["gap"] <= 1e-8).all()
        steps[name] = int(ds["newton_steps"].sum())
    monkeypatch.setattr(path, "RENEWED", 10**6)  # known at the first two values alone
    steps["never renewed"] = int(run(digits, values, method=few)["newton_steps"].sum())
    assert steps["preconditioned"] < steps["never renewed"] < steps["bare"]


def test_who_has_a_preconditioner_and_who_uses_it():
    def known(model, dataset):
        return problem.classification(model, dataset).loss.preconditioner is not None

    assert known(models.softmax_regression(64, 10), SOME_DIGITS)
    assert not known(models.mlp([64, 5, 10]), SOME_DIGITS)
    wide = data.dataset(np.zeros((10, 64)), np.arange(10))
    assert not known(models.softmax_regression(64, 10), wide)  # fewer examples than inputs: it costs more than it saves
    for method, used in ((None, True), (critical.newton(), False)):
        init = critical.make_path(digits, [1.0], method=method).init
        factors = jax.eval_shape(init, jax.random.key(0)).factors
        assert (factors is not None) == used


def test_a_saturated_start_gets_back(x64):
    model = models.softmax_regression(4, 3, init="normal", scale=100.0)
    ds = run(lambda l2: problem.classification(model, data.iris(), l2), [1.0, 0.1])
    assert (ds["gap"] <= 1e-8).all()
    np.testing.assert_allclose(ds["loss"], run(iris, [1.0, 0.1])["loss"], rtol=1e-8)


def test_newton_cg_finds_the_minimum_and_not_the_saddle(x64):
    def well(t):
        return t[0] ** 2 - t[1] ** 2 + t[1] ** 4

    found = critical.find(well, jnp.array([0.3, 0.1]), "newton_cg")
    assert str(found.status) == "critical"
    np.testing.assert_allclose(np.abs(found.params), [0, np.sqrt(0.5)], atol=1e-8)


@pytest.mark.parametrize("l2", [[], [0.0, 1.0], [1.0, np.nan], [[1.0]], [1.0, 0.5, 0.1]])
def test_values_are_checked(l2):
    with pytest.raises(ValueError, match="l2: expected"):
        critical.make_path(bowl, l2)


def test_rtol_is_checked():
    with pytest.raises(ValueError, match="rtol"):
        critical.make_path(bowl, [1.0], rtol=0.0)


def test_single_value(x64):
    ds = sweep.run(critical.make_path(bowl, [0.1]), {"run": sweep.Seeds(1)}, seed=0, steps=1)
    assert float(ds["gap"].max()) <= 1e-8
    assert jax.tree.leaves(ds["params"].shape) == [1, 2, 2]
