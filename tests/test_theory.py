"""Closed forms against simulation and against automatic differentiation."""

from __future__ import annotations

import decimal
import doctest
import importlib
import itertools
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
from sklearn.svm import SVC

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


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.9, 0.999])
def test_growth_is_exact_to_rounding_however_flat_the_saddle(beta):
    """Against the same roots in 60 digits; where 1 + g/(1 - β) is 1 in float64, the factor is 1 and not below."""
    exact = decimal.Context(60)
    for g in (0.0, 1e-17, 1e-12, 1e-9, 1e-3, 0.3, 2.0):
        flat, b = decimal.Decimal(g), decimal.Decimal(beta)
        laws = {
            theory.growth_heavy_ball: (1 + b + flat, b),
            theory.growth_nesterov: ((1 + b) * (1 + flat), b * (1 + flat)),
        }
        for law, (total, both) in laws.items():
            with decimal.localcontext(exact):
                root = float((total + (total * total - 4 * both).sqrt()) / 2)
            assert law(g, beta) >= 1
            np.testing.assert_allclose(law(g, beta), root, rtol=2.3e-16)  # one unit in the last place


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


def flow(gradient, start, times):
    """Gradient flow from ``start`` at these times, by an eighth-order Runge-Kutta method."""
    solved = scipy.integrate.solve_ivp(
        lambda t, y: -gradient(y), (0, times[-1]), np.ravel(start), "DOP853", times, rtol=1e-10, atol=1e-14
    )
    return solved.y.T


@pytest.mark.parametrize("k", [1, 2, 10])
def test_escape_times_from_a_gaussian_start(k):
    """Against gradient descent, step by step, on -½ λ |y|²."""
    g, ratio, draws = 0.05, 200.0, 20_000
    y = np.random.default_rng(k).normal(size=(draws, k))
    time = np.zeros(draws)
    for t in range(1, 1000):
        y = np.where(time[:, None] == 0, y + g * y, y)
        time[(time == 0) & (np.linalg.norm(y, axis=1) >= ratio)] = t
    assert (time > 0).all()
    steps = np.arange(1, 400)
    share = np.searchsorted(np.sort(time), steps, side="right") / draws
    # Kolmogorov's 99.9 % quantile, which is conservative for a law on whole steps
    assert np.max(np.abs(share - theory.escape_time_cdf(steps, 1 + g, ratio, k))) < 1.95 / np.sqrt(draws)
    late = np.linspace(0, 2000, 200_001)  # the moments by integration, over times after and before 0
    after, before = (1 - theory.escape_time_cdf(late, 1 + g, ratio, k), theory.escape_time_cdf(-late, 1 + g, ratio, k))
    mean = scipy.integrate.trapezoid(after - before, late)
    square = scipy.integrate.trapezoid(2 * late * (after + before), late)
    np.testing.assert_allclose(theory.escape_time_mean(1 + g, ratio, k), mean, rtol=1e-4)
    np.testing.assert_allclose(theory.escape_time_std(1 + g, k), np.sqrt(square - mean**2), rtol=1e-3)


@pytest.mark.parametrize("name", ["momentum", "nesterov"])
def test_the_share_of_the_start_that_grows(x64, name):
    g, beta = 0.02, 0.8
    growth, share = {
        "momentum": (theory.growth_heavy_ball, theory.amplitude_heavy_ball),
        "nesterov": (theory.growth_nesterov, theory.amplitude_nesterov),
    }[name]
    made = train.make_train(problem.quadratic([-1.0]), optimizers.make(name, g, momentum=beta))
    loss = sweep.run(made, {"run": sweep.Seeds(1)}, seed=0, steps=200)["loss"].values[0]
    # the other root, β/μ or less, has died out after 200 steps
    np.testing.assert_allclose(np.sqrt(loss[200] / loss[0]) / growth(g, beta) ** 200, share(g, beta), rtol=1e-10)


def steps_to_leave(optimizer, starts, curvatures, most):
    """The first step at which |y| is at least 1, on -½ λ y² from each y = start and λ."""

    def process(start, curvature):
        surface = problem.Problem(lambda key: jnp.reshape(start, 1), lambda y: -0.5 * curvature * jnp.sum(y**2))
        return train.make_train(surface, optimizer, probe=lambda y: {"distance": jnp.abs(y[0])})

    ds = sweep.run(process, {"start": starts, "curvature": curvatures}, seed=0, steps=most)
    return np.argmax(ds["distance"].values >= 1.0, axis=-1)


@pytest.mark.parametrize("inside", [True, False])
def test_rmsprop_on_a_saddle(x64, inside):
    eta, eps, curvature = 1e-3, 1e-8, 1e-3
    rms = optax.rmsprop(eta, decay=0.9, eps=eps, eps_in_sqrt=inside)
    found = steps_to_leave(rms, [1e-12], [curvature], 4000).item()
    flowing = theory.rmsprop_escape_time(1e-12, 1.0, curvature, eta, eps, inside)
    assert 0 < flowing - found < 9 * np.log(1000)  # v lags by 9 steps of, at last, a thousand

    def dt(log_y):
        w = curvature * np.exp(log_y)
        return (np.sqrt(w**2 + eps) if inside else w + eps) / (eta * curvature)

    integral = scipy.integrate.quad(dt, np.log(1e-12), 0, epsrel=1e-12)[0]
    np.testing.assert_allclose(flowing, integral, rtol=1e-9)
    y = jnp.asarray(1e-3)  # so flat that v stays far below ε
    moved = y + rms.update(-1e-9 * y, rms.init(y))[0]
    np.testing.assert_allclose(moved / y - 1, theory.growth_rmsprop(eta * 1e-9, eps, inside) - 1, rtol=1e-3)


def test_adam_hardly_feels_the_saddle(x64):
    least, most = theory.adam_escape_bounds(1.0, 1e-3)
    found = steps_to_leave(optax.adam(1e-3), [1e-6, 1e-2], [0.01, 1.0], 1200)
    assert (least < found).all()
    assert (found < most).all()
    # beyond 1/(1 - ρ) the speed falls to η: with a second moment that remembers as many steps as the first
    slow = steps_to_leave(optax.adam(1e-3, b2=0.9), [1e-6], [1.0], 1200).item()
    assert 0.99 * most < slow < 1.01 * most


def test_saddle_free_newton_doubles_the_distance():
    a = np.random.default_rng(0).normal(size=(5, 5))
    values, vectors = np.linalg.eigh(a + a.T)
    theta = 1.0 + np.arange(5.0)
    for damping in (0.0, 0.7):
        step = -vectors @ ((vectors.T @ (vectors @ (values * (vectors.T @ theta)))) / (np.abs(values) + damping))
        factor = (vectors.T @ (theta + step)) / (vectors.T @ theta)
        for value, found in zip(values, factor, strict=True):
            if value < 0:
                np.testing.assert_allclose(found, theory.growth_saddle_free_newton(-value, damping), rtol=1e-10)


def test_degenerate_saddles_hold_for_a_power_of_the_start(x64):
    for order, rate in [(3, 1.0), (4, 1.0), (5, 0.5)]:
        times = [0, theory.flat_escape_time(0.05, 1.0, order, rate)]
        ends = flow(lambda y, order=order, rate=rate: -rate * y ** (order - 1), [0.05], times)
        np.testing.assert_allclose(ends[-1], 1.0, rtol=1e-6)
    gradient = jax.jit(jax.grad(problem.monkey_saddle().loss))
    time = theory.flat_escape_time(0.1, 1.0, 3, rate=3.0)  # down the ray x < 0, y = 0
    np.testing.assert_allclose(flow(gradient, [-0.1, 0.0], [0, time])[-1], [-1.0, 0.0], rtol=1e-6)


def layers_of(v, shapes):
    ends = np.cumsum([a * b for a, b in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(jnp.split(v, ends), shapes, strict=True)]


def product(v, shapes):
    whole = jnp.eye(shapes[0][1])
    for weight in layers_of(v, shapes):
        whole = weight @ whole
    return whole


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_stages_of_a_deep_linear_net(x64, depth):
    """Against the gradient flow of all weights of a net with two modes, s = 1 and 0.6, turned by a rotation."""
    targets, start = np.array([1.0, 0.6]), 0.3**depth
    turn = scipy.stats.ortho_group.rvs(2, random_state=0)
    goal = turn @ np.diag(targets) @ turn.T
    gradient = jax.jit(jax.grad(lambda v: 0.5 * jnp.sum((product(v, [(2, 2)] * depth) - goal) ** 2)))
    times = np.linspace(0, 12, 25)
    weights = flow(gradient, np.tile(0.3 * np.eye(2), (depth, 1, 1)), times)
    strength = np.stack([np.diag(turn.T @ product(v, [(2, 2)] * depth) @ turn) for v in weights])
    for mode, s in enumerate(targets):
        np.testing.assert_allclose(theory.saxe_strength(times, start, s, depth), strength[:, mode], rtol=1e-6)
        before = strength[1:, mode][strength[1:, mode] < 0.99 * s]  # later, time hardly shows in the strength
        np.testing.assert_allclose(theory.saxe_time(before, start, s, depth), times[1 : len(before) + 1], rtol=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("s", [1.0, 0.7])
def test_the_last_of_a_stage_takes_ln_10_over_2s_a_decade(depth, s):
    """Near s, du/dt = L s^{2-2/L} (s - u), so a tenth of the gap takes ln 10/(L s^{2-2/L}), down to the last float."""
    gaps = np.array([1e-5, 1e-6, 1e-9, 1e-12, 1e-13, 1e-14, 1e-15])
    u = s - s * gaps
    left = (s - u) / s  # exact: what has been rounded is u
    time = theory.saxe_time(u, 0.001, s, depth)
    rate = depth * s ** (2 - 2 / depth)
    # ln u changes the time by 2e-5 over the first decade, and less later
    np.testing.assert_allclose(np.diff(time) * rate, -np.diff(np.log(left)), rtol=3e-5)
    if depth == 2:
        exact = (np.log(u / 0.001) + np.log((s - 0.001) / s) - np.log(left)) / (2 * s)
        np.testing.assert_allclose(time, exact, rtol=1e-14)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_both_forms_of_a_stage_meet(depth):
    """The time is the integral of dw / (w^{L-1} (s - w^L)), on both sides of where a series takes over."""
    u = 1.3 * (1 - np.array([0.2, 1.1e-3, 1.01e-3, 0.99e-3, 0.9e-3, 1e-4]))
    for a, b in itertools.pairwise(u):
        ends = a ** (1 / depth), b ** (1 / depth)
        whole = scipy.integrate.quad(lambda w: 1 / (w ** (depth - 1) * (1.3 - w**depth)), *ends, epsrel=1e-12)[0]
        low, high = theory.saxe_time([a, b], 0.5, 1.3, depth)
        np.testing.assert_allclose(high - low, whole, rtol=1e-9)  # the edges' own rounding, over a gap of 1e-4


def test_a_stage_ends_at_its_target():
    for depth in (1, 2, 3):
        late = theory.saxe_strength([0.0, 1e3, 1e9, np.inf], 0.2, 0.9, depth)
        np.testing.assert_allclose(late, [0.2, 0.9, 0.9, 0.9], rtol=1e-14)


def test_the_loss_of_wrong_answers():
    """ln(1 + (C - 1) e^{-u}) = -u + ln(C - 1) + ln(1 + e^u/(C - 1)): linear far below 0, and never infinite."""
    with np.errstate(all="raise", under="ignore"):
        loss = theory.softmax_loss([-1000.0, -700.0, -5.0, 5.0, 40.0], 10)
    expected = [1000 + np.log(9), 700 + np.log(9), 5 + np.log(9) + np.log1p(np.exp(-5) / 9)]
    np.testing.assert_allclose(loss, [*expected, np.log1p(9 * np.exp(-5)), 9 * np.exp(-40)], rtol=1e-14)
    np.testing.assert_allclose(theory.softmax_loss(-3.0, 2) - theory.softmax_loss(3.0, 2), 3, rtol=1e-14)


def test_the_plateau_of_a_deep_linear_net_is_a_power_of_its_scale():
    for depth in (3, 4, 6):
        # the rest of the time to s/2 is of the order 1/s: below one in a thousand of the plateau at these scales
        for scale in (1e-4, 1e-5):
            time = theory.saxe_time(0.35, scale**depth, 0.7, depth)
            np.testing.assert_allclose(theory.saxe_plateau(scale, 0.7, depth), time, rtol=1e-3)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_plateau_and_tail_of_a_softmax_classifier(x64, depth):
    """Against the gradient flow of all weights, on one example of each of four classes."""
    classes, scale = 4, 0.2
    centre = np.eye(classes) - 1 / classes

    def loss(v):
        logits = product(v, [(classes, classes)] * depth)
        return -jnp.mean(jnp.diag(jax.nn.log_softmax(logits, axis=0)))

    times = np.linspace(0, 200, 9)
    weights = flow(jax.jit(jax.grad(loss)), np.tile(scale * centre, (depth, 1, 1)), times)
    margin = theory.softmax_margin(times, scale**depth, classes, depth)
    logits = np.stack([product(v, [(classes, classes)] * depth) for v in weights])
    np.testing.assert_allclose(margin, logits[:, 0, 0] - logits[:, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(theory.softmax_loss(margin, classes), [loss(v) for v in weights], rtol=1e-6)
    assert theory.softmax_loss(0.0, classes) == pytest.approx(np.log(classes), rel=1e-15)
    late = theory.softmax_time(500.0, scale**depth, classes, depth)  # the tail's power, to the relative order 2/u
    tail = (classes - 1) / (depth * late * 500.0 ** (2 - 2 / depth))
    np.testing.assert_allclose(theory.softmax_loss(500.0, classes), tail, rtol=0.01)


def test_the_margins_of_orthonormal_examples_in_one_layer(x64):
    """Two classes of one and one of four examples, in six dimensions: each margin obeys the law of its own."""
    turn = scipy.stats.ortho_group.rvs(6, random_state=1)
    y = np.array([0, 1, 2, 2, 2, 2])

    def loss(v):
        return -jnp.mean(jax.nn.log_softmax(turn @ v.reshape(3, 6).T)[jnp.arange(6), y])

    times = np.array([0.0, 3.0, 40.0])
    weights = flow(jax.jit(jax.grad(loss)), np.zeros(18), times).reshape(-1, 3, 6)
    logits = np.einsum("nd,tcd->tnc", turn, weights)
    margin = theory.softmax_margin(3 / 6 * times, 0.0, 3, 1)
    np.testing.assert_allclose(logits[:, 0, 0] - logits[:, 0, 1], margin, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(logits[:, 5, 2] - logits[:, 5, 0], margin, rtol=1e-6, atol=1e-9)


def test_the_jacobian_of_softmax_keeps_its_bound():
    p = np.random.default_rng(0).dirichlet(np.full(5, 0.5), size=200)
    largest = [np.linalg.eigvalsh(np.diag(q) - np.outer(q, q))[-1] for q in p]
    bound = theory.jacobian_bound(p)
    assert (largest <= bound + 1e-15).all()
    assert (bound <= 0.5).all()
    halves = np.array([0.5, 0.5, 0.0])
    assert np.linalg.eigvalsh(np.diag(halves) - np.outer(halves, halves))[-1] == theory.jacobian_bound(halves)
    with pytest.raises(ValueError, match="p: expected probabilities"):
        theory.jacobian_bound([0.5, 0.6])


def stage_times(loss, theta, eta, noise, steps, runs):
    """When each coordinate passes 1 under (noisy) gradient descent: the differences, (runs, n)."""

    def step(theta, key):
        kick = noise * jax.random.normal(key, theta.shape)
        return theta - eta * jax.grad(loss)(theta) + kick, jnp.abs(theta) > 1

    @jax.jit
    @jax.vmap
    def passed(seed):
        return jax.lax.scan(step, theta, jax.random.split(jax.random.key(seed), steps))[1]

    outside = passed(jnp.arange(runs))
    assert outside[:, -1].all()
    return np.diff(np.argmax(outside, axis=1), prepend=0)


def test_saddles_in_sequence_multiply_the_time_of_gradient_descent(x64):
    surface, eta = problem.chain(4, 1.0, down=1.0, up=2.0), 0.05
    theta = jnp.asarray([1e-3, -3e-3, 1e-3, 2e-3])
    found = stage_times(surface.loss, theta, eta, 0.0, 12_000, 1)[0]
    expected = theory.chain_stage_times(1 / np.abs(theta), up=2 * eta * 2.0, down=2 * eta)
    np.testing.assert_allclose(
        found, expected, rtol=0.07
    )  # some 13 steps of 230 between the first two, then multiplied
    equal = theory.chain_stage_times(np.full(5, 50.0), up=0.2, down=0.1)
    np.testing.assert_allclose(equal[1:] / equal[:-1], 1 + np.log(1 / 0.8) / np.log(1.1), rtol=1e-12)


def test_noise_makes_every_saddle_of_a_chain_take_the_same_time(x64):
    surface, eta, noise = problem.chain(4, 1.0, down=1.0, up=2.0), 0.05, 1e-4
    found = stage_times(surface.loss, jnp.zeros(4), eta, noise, 700, 64)
    expected = theory.noisy_stage_time(1 / noise, up=2 * eta * 2.0, down=2 * eta)
    spread = theory.escape_time_std(1 + 2 * eta)
    # the mean of 64 runs to three standard errors, and some 5 steps between two saddles
    np.testing.assert_allclose(found[:, 1:].mean(axis=0), expected + 3, atol=3 * spread / 8 + 3)


@pytest.mark.parametrize("spreads", [2, 3, 10])
def test_noise_leaves_in_the_time_of_the_law_from_two_spreads_on(spreads):
    """Whole steps of y ← (1 + d) y + ξ from the Gaussian in which y waits with y ← (1 - u) y + ξ."""
    u, d, rng, runs = 0.1, 0.05, np.random.default_rng(0), 10_000
    waiting = 1 / (1 - (1 - u) ** 2)
    ratio = spreads * np.sqrt(waiting + 1 / ((1 + d) ** 2 - 1))
    y, time = np.sqrt(waiting) * rng.normal(size=runs), np.zeros(runs)
    out = np.abs(y) > ratio
    while not out.all():
        y = (1 + d) * y + rng.normal(size=runs)
        time += ~out
        out |= np.abs(y) > ratio
    law = theory.noisy_stage_time(ratio, u, d)
    assert abs(time.mean() - law) < 1 + 3 * time.std() / np.sqrt(runs)
    with pytest.raises(ValueError, match=r"ratio: expected a number > 3.88, the spread of the noise, got 3"):
        theory.noisy_stage_time(3, u, d)


def test_the_chain_is_twice_differentiable_with_its_saddles_in_place(x64):
    surface = problem.chain(3, 0.01, down=0.7, up=1.3, width=0.5)
    gradient, hessian = jax.jit(jax.grad(surface.loss)), jax.jit(jax.hessian(surface.loss))
    for passed in range(4):
        theta = jnp.where(jnp.arange(3) < passed, 2.0, 0.0)
        np.testing.assert_allclose(gradient(theta), 0, atol=1e-14)
        curvature = [2.6] * 2 + [-1.4 if passed < 3 else 2.6]
        np.testing.assert_allclose(np.sort(np.linalg.eigvalsh(hessian(theta))), np.sort(curvature), atol=1e-12)
    for edge in (0.5, 1.0):  # where the pieces meet
        near = [jnp.asarray([edge * (1 + sign * 1e-7), 0.3, 0.2]) for sign in (-1, 1)]
        for derivative in (surface.loss, gradient, hessian):
            np.testing.assert_allclose(derivative(near[0]), derivative(near[1]), atol=3e-5)


def test_the_error_of_a_committee_is_the_mean_over_gaussian_inputs():
    rng = np.random.default_rng(0)
    student, teacher, root = rng.normal(size=(3, 4)), rng.normal(size=(2, 4)), rng.normal(size=(4, 4)) / 2
    x = rng.normal(size=(1_000_000, 4)) @ root.T
    out = [scipy.special.erf(x @ w.T / np.sqrt(2)).sum(axis=1) for w in (student, teacher)]
    squares = 0.5 * (out[0] - out[1]) ** 2
    expected = theory.committee_error(student, teacher, root @ root.T)
    assert abs(squares.mean() - expected) < 4 * squares.std() / 1000
    assert abs(theory.committee_error(teacher, teacher)) < 1e-15


@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_symmetric_plateau_is_the_best_that_equal_units_can_do(k):
    def error(r):
        return theory.committee_error(np.full((k, k), r), np.eye(k))

    best = scipy.optimize.minimize_scalar(error, bounds=(0.01, 1.0), method="bounded", options={"xatol": 1e-10})
    np.testing.assert_allclose(theory.committee_plateau(k), best.fun, rtol=1e-10)
    np.testing.assert_allclose(best.x, 1 / np.sqrt(k * (2 * k - 1)), rtol=1e-6)


def separable():
    data = iris()
    kept = np.asarray(data.y) < 2
    x = np.asarray(data.x, np.float64)[kept]
    return np.column_stack([x - x.mean(axis=0), np.ones(len(x))]), np.asarray(data.y)[kept]


def test_the_widest_margin_is_that_of_a_support_vector_machine():
    x, y = separable()
    found = theory.max_margin(x, y, 2)
    machine = SVC(C=1e8, kernel=lambda a, b: a @ b.T, tol=1e-10).fit(np.vstack([x, -x]), np.append(y, 1 - y))
    # through the origin, as each example also stands opposite: the bias is then zero
    normal = machine.dual_coef_[0] @ np.vstack([x, -x])[machine.support_]
    np.testing.assert_allclose(found.margin, np.sqrt(2) / np.linalg.norm(normal), rtol=1e-5)
    np.testing.assert_allclose(found.weights[1] - found.weights[0], found.margin * normal, rtol=1e-3, atol=1e-6)
    lead = x @ (found.weights[1] - found.weights[0]) * np.where(y == 1, 1, -1)
    np.testing.assert_allclose(lead.min(), found.margin, rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(found.weights), 1, rtol=1e-12)
    with pytest.raises(ValueError, match="these are not separable"):
        theory.max_margin(x, np.append(y[:-1], 0), 2)


@pytest.mark.parametrize("scale", [1e-100, 1e-9, 1.0, 1e9])
def test_the_margin_has_the_units_of_the_inputs(scale):
    """γ(s x) = s γ(x), with the same weights; one input at ±s alone has γ = √2 s."""
    np.testing.assert_allclose(theory.max_margin([[scale], [-scale]], [0, 1], 2).margin, np.sqrt(2) * scale, rtol=1e-14)
    x, y = separable()
    whole, small = theory.max_margin(x, y, 2), theory.max_margin(scale * x, y, 2)
    np.testing.assert_allclose(small.margin, scale * whole.margin, rtol=1e-9)
    np.testing.assert_allclose(small.weights, whole.weights, rtol=1e-7, atol=1e-9)
    with pytest.raises(ValueError, match="these are not separable"):
        theory.max_margin(scale * x, np.append(y[:-1], 0), 2)


@pytest.mark.parametrize("thin", [1e-2, 1e-6, 1e-9])
def test_a_thin_margin_is_found(thin):
    """Two slabs that face each other at the distance 2 thin, with every point's mirror image across: γ = √2 thin."""
    rng = np.random.default_rng(0)
    across = rng.normal(size=(20, 4))
    normal = np.concatenate([np.full(20, thin), thin * (2 + rng.random(20))])
    half = np.column_stack([normal, np.concatenate([across[:10], -across[:10], rng.normal(size=(20, 4))])])
    x, y = np.vstack([half, half * np.array([-1, 1, 1, 1, 1])]), np.repeat([1, 0], 40)
    turn = scipy.stats.ortho_group.rvs(5, random_state=0)
    found = theory.max_margin(x @ turn.T, y, 2)
    np.testing.assert_allclose(found.margin, np.sqrt(2) * thin, rtol=1e-14 / thin)  # x is known to 1e-16
    np.testing.assert_allclose(found.weights[1] @ turn, [1 / np.sqrt(2), 0, 0, 0, 0], atol=1e-14 / thin)


def test_classes_that_touch_are_not_separable():
    for x, y in [([[1.0], [1.0]], [0, 1]), ([[0.0], [1.0]], [0, 1]), ([[1.0, 0.1], [-1.0, -0.1]], [0, 0])]:
        with pytest.raises(ValueError, match="these are not separable"):
            theory.max_margin(x, y, 2)


@pytest.mark.parametrize("law", [theory.max_margin, theory.zero_saddle_rates])
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([[1.0], [2.0]], [0, -1], r"labels: expected integers in \[0, 3\), got -1"),
        ([[1.0], [2.0]], [0, 7], r"labels: expected integers in \[0, 3\), got 7"),
        ([[1.0], [2.0]], [0.0, 1.0], r"labels: expected integers in \[0, 3\), got float64"),
        (
            np.zeros((0, 2)),
            np.zeros(0, int),
            r"x: expected finite numbers of shape \(n, ...\), n > 0, got shape \(0, 2\)",
        ),
        ([[1.0], [np.nan]], [0, 1], "x: expected finite numbers"),
        ([[1.0], [2.0]], [0], r"labels: expected shape \(2,\), one for each example, got \(1,\)"),
    ],
)
def test_bad_examples_are_named(law, x, y, message):
    with pytest.raises(ValueError, match=message):
        law(x, y, 3)


def test_the_tail_on_separable_data(x64):
    """Against gradient flow in ln t, up to t = e^20 = 5e8; the corrections are of the order 1/ln t."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 2)) + 4 * np.array([[1, 0], [0, 1], [-1, -1]]).repeat(3, 0), np.arange(3).repeat(3)
    margin = theory.max_margin(x, y, 3).margin

    def loss(v):
        logits = x @ v.reshape(3, 2).T
        ahead = jnp.take_along_axis(logits, y[:, None], 1) - logits
        return jnp.mean(jnp.log1p(jnp.sum(jnp.exp(-ahead), axis=1) - 1))

    gradient = jax.jit(jax.grad(loss))
    stamps = np.array([0.0, 16.0, 20.0])
    solved = scipy.integrate.solve_ivp(
        lambda s, v: -np.exp(s) * gradient(v), (0, 20), np.zeros(6), "Radau", stamps, rtol=1e-8, atol=1e-10
    )
    t, weights = np.exp(stamps), solved.y.T
    norms = np.linalg.norm(weights, axis=1)
    slope = (norms[2] - norms[1]) / 4
    expected = (theory.separable_norm(t[2], margin) - theory.separable_norm(t[1], margin)) / 4
    np.testing.assert_allclose(slope, expected, rtol=0.02)
    np.testing.assert_allclose(loss(weights[2]), theory.separable_loss(t[2], margin), rtol=0.1)


@pytest.mark.parametrize("name", ["gd", "momentum", "nesterov"])
def test_a_minimum_sharper_than_the_edge_does_not_hold(x64, name):
    eta, beta = 0.3, 0.7
    edges = {"gd": theory.edge_gd(eta), "momentum": theory.edge_heavy_ball(eta, beta)}
    edge = {**edges, "nesterov": theory.edge_nesterov(eta, beta)}[name]
    optimizer = optimizers.make(name, eta, **({} if name == "gd" else {"momentum": beta}))

    def process(sharpness):
        bowl = problem.Problem(lambda key: jnp.ones(1), lambda y: 0.5 * sharpness * jnp.sum(y**2))
        return train.make_train(bowl, optimizer)

    loss = sweep.run(process, {"sharpness": [0.99 * edge, 1.01 * edge]}, seed=0, steps=2000)["loss"].values
    assert loss[0, -1] < 1e-6 * loss[0, 0]
    assert loss[1, -1] > 1e3 * loss[1, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.escape_time_cdf(1.0, 1.0, 10.0), "growth: expected a factor > 1, got 1.0"),
        (lambda: theory.flat_escape_time(0.1, 1.0, 2.0), "order: expected a number > 2, got 2.0"),
        (lambda: theory.flat_escape_time(2.0, 1.0, 3.0), "start: expected a number in"),
        (lambda: theory.saxe_time(1.0, 0.1, 1.0, 2), r"u: expected numbers in \[0.1, 1.0\), got 1.0"),
        (lambda: theory.saxe_plateau(0.1, 1.0, 2), "depth: expected an integer >= 3, got 2"),
        (lambda: theory.softmax_time(1.0, 2.0, 3, 2), "u: expected finite numbers >= 2.0"),
        (lambda: theory.softmax_margin(-1.0, 0.1, 3, 2), "t: expected times >= 0"),
        (lambda: theory.softmax_margin(1.0, 700, 3, 2), "start: expected a number < 600.0, got 700"),
        (lambda: theory.saxe_strength(-1.0, 0.1, 3, 2), "t: expected times >= 0"),
        (lambda: theory.max_margin([1.0], [0], 2), r"x: expected shape \(n, d\), got \(1,\)"),
        (lambda: theory.chain_stage_times(0.5, 0.1, 0.1), "ratios: expected numbers > 1"),
        (lambda: theory.edge_nesterov(0.1, 1.0), r"beta: expected a number in \[0, 1\), got 1.0"),
        (lambda: theory.rmsprop_escape_time(2.0, 1.0, 1.0, 1.0, 1.0), "start: expected a number in"),
    ],
)
def test_arguments_outside_the_laws_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("module", [module.name for module in pkgutil.iter_modules(theory.__path__)])
def test_the_examples_of_the_docstrings(module):
    results = doctest.testmod(importlib.import_module(f"jaxsoft.theory.{module}"))
    assert results.failed == 0
