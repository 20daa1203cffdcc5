"""Closed forms against simulation and against automatic differentiation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsoft import optimizers, problem, sweep, theory, train
from jaxsoft.data import dataset, iris
from jaxsoft.models import mlp
from jaxsoft.train import flatten


@pytest.mark.parametrize("g", [1e-3, 0.01, 0.3])
@pytest.mark.parametrize("name", ["gd", "momentum", "nesterov"])
def test_growth_at_a_quadratic_saddle(x64, name, g):
    factor = {"gd": theory.growth_gd(g), "momentum": theory.growth_heavy_ball(g, 0.9)}
    factor["nesterov"] = theory.growth_nesterov(g, 0.9)
    made = train.make_train(problem.quadratic([-1.0], 1e-30), optimizers.make(name, g), keep_params=True)
    ds = sweep.run(made, {"run": sweep.Seeds(2)}, seed=0, steps=400)
    # L = -½ y², so y grows by the square root; after 300 steps the smaller root has died out (0.95^300 = 2e-7)
    ratio = np.sqrt(ds["loss"].values[:, 400] / ds["loss"].values[:, 399])
    np.testing.assert_allclose(ratio, factor[name], rtol=1e-6)


def test_momentum_vanishes_into_gradient_descent():
    for g in (0.01, 0.5):
        assert theory.growth_heavy_ball(g, 0.0) == pytest.approx(theory.growth_gd(g), rel=1e-15)
        assert theory.growth_nesterov(g, 0.0) == pytest.approx(theory.growth_gd(g), rel=1e-15)
    # the folk rule 1 + g / (1 - β) holds for g ≪ (1 - β)², to the next order g / (1 - β)²
    assert theory.growth_heavy_ball(1e-7, 0.9) - 1 == pytest.approx(1e-6, rel=2e-5)


@pytest.mark.parametrize("activation", ["tanh", "linear"])
def test_the_zero_saddle_has_the_singular_values_of_the_moment(x64, activation):
    data, hidden = iris(), 3
    model = mlp([4, hidden, 3], activation=activation, init="zeros", bias=False)
    loss, params = problem.classification(model, data).loss, model.init(jax.random.key(0))
    _, unravel = jax.flatten_util.ravel_pytree(params)
    hessian = jax.hessian(lambda v: loss(unravel(v)))(flatten(params))
    rates = theory.zero_saddle_rates(data.x, data.y, 3)
    rates = rates[rates > 1e-12]
    assert len(rates) <= 2  # rank M <= C - 1
    expected = np.sort(np.concatenate([np.repeat(rates, hidden), np.repeat(-rates, hidden), np.zeros(21 - 4 * hidden)]))
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian), expected, atol=1e-14)


def test_a_hidden_bias_is_one_more_input(x64):
    rng = np.random.default_rng(0)
    data = dataset(rng.normal(size=(40, 2)), rng.permutation(np.repeat([0, 1, 2, 2], 10)), dtype=np.float64)
    model = mlp([2, 1, 3], init="zeros")
    loss, params = problem.classification(model, data).loss, model.init(jax.random.key(0))
    hidden_block = jax.hessian(
        lambda w, b, v: loss((params[0]._replace(weight=w, bias=b), params[1]._replace(weight=v))), (0, 1, 2)
    )
    blocks = hidden_block(params[0].weight, params[0].bias, params[1].weight)
    matrix = np.block(
        [[np.reshape(blocks[i][j], (n, m)) for j, m in enumerate((2, 1, 3))] for i, n in enumerate((2, 1, 3))]
    )
    rates = theory.zero_saddle_rates(np.column_stack([data.x, np.ones(40)]), data.y, 3)
    np.testing.assert_allclose(np.linalg.eigvalsh(matrix), np.sort(np.concatenate([rates, -rates])), atol=1e-14)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"g: expected a finite number >= 0, got -0\.1"):
        theory.growth_gd(-0.1)
    with pytest.raises(ValueError, match=r"beta: expected a number in \[0, 1\), got 1.0"):
        theory.growth_nesterov(0.1, 1.0)
    with pytest.raises(ValueError, match=r"labels: expected shape \(3,\)"):
        theory.zero_saddle_rates(np.zeros((3, 2)), np.zeros(2, int), 2)


def test_the_optimum_of_a_bowl_is_left_alone():
    """No growth without a way down: at λ = 0 each factor is 1."""
    assert theory.growth_gd(0) == theory.growth_heavy_ball(0, 0.5) == theory.growth_nesterov(0, 0.5) == 1
    assert float(optax.tree.norm(jax.grad(problem.quadratic([1.0]).loss)(jnp.zeros(1)))) == 0


def test_baldi_and_hornik_counts_the_negative_eigenvalues_of_a_plain_hessian(x64):
    """Every subset of a diagonal 3 x 3 problem of width 2, against numpy's eigenvalues of jax's own Hessian."""
    s, width = np.array([3.0, 2.0, 1.0]), 2

    def loss(theta):
        a, b = theta[:6].reshape(3, 2), theta[6:].reshape(2, 3)
        return 0.5 * jnp.sum((jnp.diag(jnp.asarray(s)) - a @ b) ** 2)

    for chosen in ([], [0], [1], [2], [0, 1], [0, 2], [1, 2]):
        a = np.zeros((3, 2))
        a[chosen, range(len(chosen))] = np.sqrt(s[chosen])
        theta = jnp.asarray(np.concatenate([a.ravel(), a.T.ravel()]))
        values = np.linalg.eigvalsh(jax.hessian(loss)(theta))
        index, value = theory.baldi_hornik(s, chosen, width)
        assert index == np.sum(values < -1e-9)
        np.testing.assert_allclose(value, loss(theta), rtol=1e-14)
    with pytest.raises(ValueError, match="chosen: expected different indices"):
        theory.baldi_hornik(s, [0, 0], 2)
    with pytest.raises(ValueError, match="chosen: expected at most 2"):
        theory.baldi_hornik(s, [0, 1, 2], 2)


def test_bohnings_bound_holds_at_random_probabilities():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 4))
    p = rng.dirichlet(np.full(3, 0.3), size=30)
    hessian = sum(np.kron(np.diag(q) - np.outer(q, q), np.outer(v, v)) for q, v in zip(p, x, strict=True)) / 30
    bound = theory.bohning_bound(x, 3)
    assert np.linalg.eigvalsh(bound - hessian)[0] > -1e-14
    assert np.linalg.eigvalsh(0.1 * bound - hessian)[0] < 0
