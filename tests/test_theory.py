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


def test_the_semicircle_integrates_its_density():
    for radius in (0.7, 2.0):
        edges = np.linspace(-radius, radius, 100_001)
        middle = (edges[1:] + edges[:-1]) / 2
        density = 2 * np.sqrt(radius**2 - middle**2) / (np.pi * radius**2)
        whole = np.concatenate([[0.0], np.cumsum(density * np.diff(edges))])
        np.testing.assert_allclose(theory.semicircle_cdf(edges, radius), whole, atol=1e-6)
    assert theory.semicircle_cdf([-9.0, 9.0]).tolist() == [0.0, 1.0]
    np.testing.assert_allclose(theory.semicircle_cdf(0.3) + theory.semicircle_cdf(-0.3), 1, rtol=1e-15)


def test_the_p_spin_index_is_that_of_a_shifted_semicircle():
    """Against the eigenvalues of M - p f 1: M of variance p (p - 1) off the diagonal and twice that on it."""
    rng, n = np.random.default_rng(0), 401
    for p, u in [(2, 0.4), (3, -0.8), (5, -1.9)]:
        a = rng.normal(size=(n - 1, n - 1))
        matrix = np.sqrt(p * (p - 1)) * (a + a.T) / np.sqrt(2)
        share = np.mean(np.linalg.eigvalsh(matrix) < p * u * np.sqrt(n))
        assert abs(share - theory.p_spin_index(p, u, n)) < 3 * np.log(n) / n  # a rigid spectrum
    threshold = -2 * np.sqrt(2 / 3)
    assert theory.p_spin_index(3, threshold, 10**9) < 1e-9 < theory.p_spin_index(3, threshold + 0.01, 10**9)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_gaussian_matrices_are_positive_definite_that_often(n):
    draws = 200_000
    a = np.random.default_rng(n).normal(size=(draws, n, n))
    share = np.mean(np.linalg.eigvalsh(a + np.swapaxes(a, 1, 2))[:, 0] > 0)
    expected = theory.goe_positive_definite(n)
    standard_error = np.sqrt(expected * (1 - expected) / draws)  # 0.0011, 0.0008, 0.00035
    assert abs(share - expected) < 4 * standard_error
    with pytest.raises(ValueError, match=r"n: expected an integer in \[1, 3\], got 4"):
        theory.goe_positive_definite(4)


def test_a_wall_at_zero_costs_a_quarter_of_ln_3():
    """The energy E = ½ (∫ x² ρ - ∬ ln|x - y| ρρ) of the charges, held by the wall less free, in units of n².

    Free: the semicircle of radius √2. With the wall: ρ = √(L - x) (L + 2 x) / (2π √x) on [0, L], L² = 8/3 (Dean &
    Majumdar 2006). In equilibrium x² - 2 ∫ ln|x - y| ρ is a constant c on the support, so E = ¼ (∫ x² ρ + c).
    """
    angle = (np.arange(400_000) + 0.5) * np.pi / 2 / 400_000
    wall = np.sqrt(8 / 3)
    # x = L sin²φ: ρ dx = 2 L cos²φ (L + 2 x) / 2π dφ
    x = wall * np.sin(angle) ** 2
    mass = 2 * wall * np.cos(angle) ** 2 * (wall + 2 * x) / (2 * np.pi) * (np.pi / 2 / len(angle))
    np.testing.assert_allclose(np.sum(mass), 1, rtol=1e-9)
    level = wall**2 - 2 * np.sum(np.log(wall - x) * mass)
    np.testing.assert_allclose(level, -2 * np.sum(np.log(x) * mass), rtol=1e-5)  # the same at 0: an equilibrium
    held = (np.sum(x**2 * mass) + level) / 4
    radius = np.sqrt(2)
    y = radius * np.cos(2 * angle)
    free_mass = 2 / np.pi * np.sin(2 * angle) ** 2 * (np.pi / len(angle))
    np.testing.assert_allclose(np.sum(free_mass), 1, rtol=1e-9)
    free = (np.sum(y**2 * free_mass) + radius**2 - 2 * np.sum(np.log(radius - y) * free_mass)) / 4
    np.testing.assert_allclose(theory.goe_positive_definite_log(1), -(held - free), rtol=1e-5)
    np.testing.assert_allclose(theory.goe_positive_definite_log(30), 900 * theory.goe_positive_definite_log(1))
