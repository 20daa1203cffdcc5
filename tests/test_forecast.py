"""Forecasts against closed forms on quadratic saddles, against runs, and where there is none."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsoft import data, models, optimizers, plateau, problem, theory
from jaxsoft.plateau.linear import linear_form

pytestmark = pytest.mark.usefixtures("quick_compilation")

SADDLE = problem.quadratic([-1.0, -0.5, 2.0, 3.0]).loss


def saddle(theta):
    return 1 + SADDLE(theta)


def steps_taken(loss, params, optimizer, state, level, most=5000):
    """The optimizer on the loss itself."""
    transform = optax.with_extra_args_support(optimizer)

    def step(carry):
        t, params, state = carry
        value, grad = jax.value_and_grad(loss)(params)
        updates, state = transform.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        return t + 1, optax.apply_updates(params, updates), state

    run = jax.jit(lambda c: jax.lax.while_loop(lambda c: (loss(c[1]) >= level) & (c[0] < most), step, c))
    return int(run((jnp.zeros((), jnp.int32), params, state))[0])


def linear(optimizer, params=None, state=None, grad=None):
    params = jnp.arange(4.0) if params is None else params
    transform = optax.with_extra_args_support(optimizer)
    state = transform.init(params) if state is None else state
    return linear_form(transform, params, state, jnp.array([1.0, -2.0, 0.5, 3.0]) if grad is None else grad)


@pytest.mark.parametrize("name", ["gd", "momentum", "nesterov", "adam", "rmsprop"])
def test_on_a_quadratic_saddle_the_forecast_is_exact(x64, name):
    theta = jnp.array([1e-4, -2e-4, 0.3, -0.2])
    optimizer = optimizers.make(name, 0.05)
    state = optimizer.init(theta)
    for _ in range(3):  # a state that is not fresh
        updates, state = optimizer.update(jax.grad(saddle)(theta), state, theta)
        theta = optax.apply_updates(theta, updates)
    found = plateau.forecast(saddle, theta, optimizer, state, level=0.9)
    assert found.steps == steps_taken(saddle, theta, optimizer, state, 0.9)
    assert found.low <= found.steps <= found.high


def test_an_odd_number_of_parameters_with_momentum(x64):
    def three(x):
        return 1 + jnp.sum(jnp.array([-1, 0.5, 3]) * x**2) / 2

    theta, optimizer = jnp.array([1e-3, 0.3, 0.2]), optax.sgd(0.05, momentum=0.9)
    found = plateau.forecast(three, theta, optimizer, level=0.9)
    assert found.steps == steps_taken(three, theta, optimizer, optimizer.init(theta), 0.9)


def test_what_is_no_tail_is_not_called_one(x64):
    too_fast = plateau.forecast(lambda x: 1 + x @ x, jnp.ones(3), optax.sgd(2.5))
    assert too_fast.verdict == "diverging"
    slow = optax.chain(optax.clip_by_global_norm(1e-4), optax.sgd(1e-4))
    assert plateau.forecast(saddle, jnp.full(4, 1e-3), slow, level=0.5, max_steps=50).verdict == "beyond"


def test_small_weights_in_single_precision_are_not_stationary():
    made = problem.classification(models.mlp((4, 8, 3), scale=1e-6), data.iris())
    assert plateau.forecast(made.loss, made.init(jax.random.key(0)), optax.sgd(0.1)).verdict != "stationary"


@pytest.mark.parametrize("nesterov", [False, True])
def test_what_momentum_overshoots_is_crossed_the_first_time(x64, nesterov):
    """On ½ (x² + y²/30) momentum passes the minimum and comes back: the loss is below a level, above, and below again.

    Run and forecast agree at every level, down to a millionth of the way; each has its own first crossing.
    """

    def bowl(x):
        return 1 + (x[0] ** 2 + x[1] ** 2 / 30) / 2

    optimizer, theta = optax.sgd(0.05, momentum=0.97, nesterov=nesterov), jnp.array([1.0, -1.0])
    for share in (0.9, 0.5, 0.2, 0.1, 0.05, 0.01, 1e-3, 1e-4, 1e-6):
        level = 1 + share * (float(bowl(theta)) - 1)
        found = plateau.forecast(bowl, theta, optimizer, level=level)
        assert found.steps == steps_taken(bowl, theta, optimizer, optimizer.init(theta), level), share


def test_a_second_forecast_traces_nothing(x64):
    traced = []

    def update(grad, state, params=None):
        traced.append(grad)
        return jnp.clip(-0.1 * grad, -1e-2, 1e-2), state

    theta, optimizer = jnp.full(4, 1e-3), optax.GradientTransformation(lambda params: (), update)
    plateau.forecast(saddle, theta, optimizer, level=0.9)
    count = len(traced)
    plateau.forecast(saddle, 2 * theta, optimizer, level=0.9)
    assert len(traced) == count > 0


@pytest.mark.parametrize("name", ["gd", "momentum", "nesterov"])
def test_growth_and_time_are_those_of_theory(x64, name):
    """From y₀ with momentum 0, L = 1 - y²/2 falls to ½ when |y| = 1: t = ln(1/(A y₀)) / ln μ, rounded up."""
    y, g = 1e-9, 0.01
    found = plateau.forecast(
        lambda x: 1 - jnp.sum(x**2) / 2, jnp.array([y]), optimizers.make(name, g), level=0.5, delta=0.1
    )
    growth, amplitude = {
        "gd": (theory.growth_gd(g), 1.0),
        "momentum": (theory.growth_heavy_ball(g, 0.9), theory.amplitude_heavy_ball(g, 0.9)),
        "nesterov": (theory.growth_nesterov(g, 0.9), theory.amplitude_nesterov(g, 0.9)),
    }[name]
    assert math.isclose(found.growth, growth, rel_tol=1e-10)
    assert found.steps == math.ceil(math.log(1 / (amplitude * y)) / math.log(growth))
    assert found.verdict == "plateau"


def test_a_plateau_of_a_million_million_steps_costs_no_more(x64):
    found = plateau.forecast(lambda x: 1 - x**2 / 2, jnp.asarray(1e-3), optax.sgd(1e-12), level=0.5)
    assert math.isclose(found.steps, math.log(1e3) / math.log1p(1e-12), rel_tol=1e-3)  # ln(1 + g) has 4 digits


def test_optimizers_are_recognised_by_their_answers(x64):
    assert linear(optax.sgd(0.1))[:3] == pytest.approx((0.1, 0.0, False))
    assert linear(optax.sgd(0.3, momentum=0.8))[:3] == pytest.approx((0.3, 0.8, False))
    assert linear(optax.sgd(0.3, momentum=0.8, nesterov=True))[:3] == pytest.approx((0.3, 0.8, True))
    assert linear(optax.chain(optax.trace(0.5), optax.scale(-2.0)))[:3] == pytest.approx((2.0, 0.5, False))
    for other in (
        optax.adam(0.1),
        optax.rmsprop(0.1),
        optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1)),
        optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1)),
        optax.sgd(optax.cosine_decay_schedule(0.1, 500)),
        optax.sign_sgd(0.1),
        optax.sgd(-0.1),
        optimizers.make("noisy_gd", 0.1),
        optax.noisy_sgd(0.1, key=0),
    ):
        assert linear(other) is None


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_momentum_is_read_from_the_state(x64, nesterov):
    optimizer = optax.sgd(0.3, momentum=0.8, nesterov=nesterov)
    state, trace = optimizer.init(jnp.zeros(4)), np.zeros(4)
    for seed in range(3):
        grad = np.random.default_rng(seed).normal(size=4)
        state, trace = optimizer.update(jnp.asarray(grad), state)[1], 0.8 * trace + grad
    np.testing.assert_allclose(linear(optimizer, state=state).trace, trace, rtol=1e-10)


@pytest.mark.parametrize("name", ["gd", "momentum", "nesterov", "adam"])
def test_a_net_leaves_its_plateau_when_forecast(x64, name):
    """4-8-3 on iris from small weights; the run itself is the truth, not seen by the forecast."""
    made = problem.classification(models.mlp((4, 8, 3), scale=1e-3), data.iris())
    level = plateau.exit_level(3)
    optimizer = optimizers.make(name, optimizers.DEFAULT_LEARNING_RATE[name])
    params = made.init(jax.random.key(1))
    state = optimizer.init(params)
    found = plateau.forecast(made.loss, params, optimizer, state, level=level)
    truth = steps_taken(made.loss, params, optimizer, state, level)
    assert abs(found.steps - truth) <= 0.1 * truth
    assert found.low <= truth <= found.high
    assert found.verdict == "plateau"


def test_a_wrong_curvature_would_be_caught(x64):
    """The same state of a loss twice as steep leaves in half the time: the test above could fail."""
    made = problem.classification(models.mlp((4, 8, 3), scale=1e-3), data.iris())
    params, level = made.init(jax.random.key(1)), plateau.exit_level(3)
    one = plateau.forecast(made.loss, params, optax.sgd(0.1), level=level)
    two = plateau.forecast(lambda p: 2 * made.loss(p), params, optax.sgd(0.1), level=2 * level)
    assert two.steps == pytest.approx(one.steps / 2, rel=0.1)  # ln(1 + 2g) / ln(1 + g) is a little below 2


def test_three_layers_at_zero_have_no_quadratic_forecast(x64):
    made = problem.classification(models.mlp((4, 6, 6, 3), scale=1e-3), data.iris())
    for scale in (1.0, 0.0):
        params = jax.tree.map(lambda x: scale * x, made.init(jax.random.key(0)))  # noqa: B023
        found = plateau.forecast(made.loss, params, optax.sgd(0.1), level=plateau.exit_level(3))
        assert found.verdict == ("degenerate" if scale else "stationary")
        assert not scale or (found.low, found.high) == (0, math.inf)
        assert "no quadratic forecast" in str(found) or "no step leaves" in str(found)


def test_a_convex_tail_expects_no_drop(x64):
    made = problem.classification(models.softmax_regression(4, 3), data.iris(), l2=0.1)
    params = made.init(jax.random.key(0))
    step = jax.jit(lambda p: jax.tree.map(lambda x, g: x - 0.1 * g, p, jax.grad(made.loss)(p)))
    for _ in range(100):
        params = step(params)
    found = plateau.forecast(made.loss, params, optax.sgd(0.1))
    assert found.verdict == "tail"
    assert found.steps == math.inf


def test_a_point_of_zero_gradient_is_left_by_no_step(x64):
    found = plateau.forecast(saddle, jnp.zeros(4), optax.sgd(0.1, momentum=0.9), level=0.5)
    assert found.verdict == "stationary"
    assert found.steps == math.inf


@pytest.mark.parametrize(("share", "curvature"), [(1e-12, 0.5), (1e-9, 0.5), (1e-6, 0.01)])
def test_a_way_down_that_the_gradient_hardly_shows_is_found(x64, share, curvature):
    """300 directions, one of them down, along which the state is ``share`` of what it is along the others."""
    curvatures = jnp.concatenate([jnp.array([-curvature]), jnp.linspace(0, 5, 299)])

    def loss(x):
        return 1 + jnp.sum(curvatures * x**2) / 2

    theta, optimizer = jnp.full(300, 1e-3).at[0].multiply(share), optax.sgd(0.1)
    found = plateau.forecast(loss, theta, optimizer)
    truth = steps_taken(loss, theta, optimizer, optimizer.init(theta), found.level, 30_000)
    assert found.verdict == "plateau"
    assert found.low <= truth <= found.high
    assert abs(found.steps - truth) <= 0.01 * truth


def test_a_slow_run_at_a_saddle_is_not_on_a_tail(x64):
    """Adam takes η a step: 0.63 away at η = 1e-5 are 63,000 steps, and there is a way down, if a flat one."""

    def loss(x):
        return 1 + x[0] ** 2 / 2 - 0.0025 * x[1] ** 2

    theta = jnp.array([0.0, 1e-3])
    found = plateau.forecast(loss, theta, optax.adam(1e-5), delta=1e-3, max_steps=500)
    assert (found.verdict, found.steps) == ("beyond", math.inf)
    assert found.low <= 63_000 <= found.high


def separable():
    """Softmax regression on two classes that a line parts, after 2,000 steps of gradient descent."""
    iris = data.iris()
    made = problem.classification(models.softmax_regression(4, 2), data.Dataset(iris.x[:100], iris.y[:100], 2, "pair"))
    grad = jax.grad(made.loss)
    params = made.init(jax.random.key(0))
    return made.loss, jax.lax.fori_loop(
        0, 2000, lambda _, p: jax.tree.map(lambda x, g: x - 0.1 * g, p, grad(p)), params
    )


@pytest.mark.parametrize(
    ("loss", "params"),
    [(lambda x: jnp.exp(-x), 5.0), (lambda x: 1 / x, 5.0), (None, None)],
    ids=["exponential", "hyperbola", "softmax regression"],
)
def test_a_loss_that_falls_for_ever_is_a_tail_for_forecast_and_detect(x64, loss, params):
    """Without a way down that curves: L = e^-x, 1/x, and separable data. The level is passed, but the fall fades."""
    loss, params = separable() if loss is None else (loss, jnp.asarray(params))
    optimizer, kappa = optax.sgd(0.1), 1e-2
    for name in ("gd", "adam"):
        other = optimizer if name == "gd" else optax.adam(1e-4)
        assert plateau.forecast(loss, params, other, kappa=kappa).verdict == "tail"
    found = plateau.forecast(loss, params, optimizer, kappa=kappa)
    truth = steps_taken(loss, params, optimizer, optimizer.init(params), found.level)
    assert found.low <= truth <= found.high
    step = jax.value_and_grad(loss)

    def move(params, _):
        value, slope = step(params)
        return jax.tree.map(lambda x, g: x - 0.1 * g, params, slope), value

    losses = np.asarray(jax.lax.scan(move, params, length=2000)[1])
    assert [plateau.KINDS[kind] for kind in plateau.detect(losses, kappa=kappa).kind] == ["tail"]


def test_both_losses_are_told_apart(x64):
    found = plateau.forecast(lambda x: 1e-4 * (1 - x @ x / 2), jnp.full(1, 1e-3), optax.sgd(0.1), delta=1e-4)
    assert "loss 0.00010000" in str(found)
    assert "below 9.9990e-05" in str(found)
    close = found._replace(loss=1.0, level=1 - 1e-9)
    assert "loss 1.00000000: on a plateau, below 0.999999999 " in str(close)


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.sgd(0.1, 0.9), optax.adam(1e-3), optax.rmsprop(1e-3)])
def test_at_a_degenerate_zero_every_optimizer_is_stationary(x64, optimizer):
    made = problem.classification(models.deep_linear((4, 6, 6, 3)), data.iris())
    zero = jax.tree.map(jnp.zeros_like, made.init(jax.random.key(0)))
    assert plateau.forecast(made.loss, zero, optimizer, max_steps=100).verdict == "stationary"
    assert plateau.forecast(lambda x: 1 - x @ x, jnp.zeros(3), optimizer).verdict == "stationary"
    net = problem.classification(models.mlp((4, 8, 3)), data.iris())  # a strict saddle, but its ways down are dead
    zero = jax.tree.map(jnp.zeros_like, net.init(jax.random.key(0)))
    assert plateau.forecast(net.loss, zero, optimizer, max_steps=100).verdict == "stationary"


@pytest.mark.parametrize(("scale", "wide"), [(1e-8, False), (1e-16, True)])
def test_the_smallest_start_that_moves_is_not_stationary(scale, wide):
    """1 - y²/2 from y₀: (1.1)^t y₀ passes √(2 (1 - e^-0.1)) at a known t; a net from weights as small leaves."""
    with jax.enable_x64(wide):
        found = plateau.forecast(lambda x: 1 - x @ x / 2, jnp.array([scale]), optax.sgd(0.1))
        truth = math.log(math.sqrt(2 * (1 - math.exp(-0.1))) / scale) / math.log(1.1)
        assert found.low <= math.ceil(truth) <= found.high
        made, optimizer = problem.classification(models.mlp((4, 8, 3), scale=scale), data.iris()), optax.sgd(0.1)
        params = made.init(jax.random.key(0))
        net = plateau.forecast(made.loss, params, optimizer)
        taken = steps_taken(made.loss, params, optimizer, optimizer.init(params), net.level)
    assert net.verdict == "plateau"
    assert abs(net.steps - taken) <= 0.05 * taken


@pytest.mark.parametrize("power", [3, 4])
def test_without_a_forecast_the_interval_excludes_nothing(x64, power):
    """y₀^p: the time of the flow, (y₀^(2-p) - R^(2-p)) / (η p (p-2)), lies inside."""

    def loss(x):
        return 1 + x[0] ** 2 - x[1] ** power

    found = plateau.forecast(loss, jnp.array([1e-3, 1e-2]), optax.sgd(0.1))
    end = (1 - math.exp(-0.1)) ** (1 / power)
    truth = (1e-2 ** (2 - power) - end ** (2 - power)) / (0.1 * power * (power - 2))
    assert found.verdict == "degenerate"
    assert found.low <= truth <= found.high


def test_max_steps_holds_for_all_steps_together(x64):
    """Clipped to 1e-3 · 0.1 a step, R = 1 takes 10,000 steps: both parts of a forecast share them."""
    slow, theta = optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(0.1)), jnp.array([1e-3, 0, 0, 0])
    assert linear(slow, theta, grad=theta) is not None  # not clipped yet
    whole = plateau.forecast(saddle, theta, slow, level=0.5)
    assert whole.steps == steps_taken(saddle, theta, slow, slow.init(theta), 0.5, 20_000)
    count = int(whole.steps)
    assert plateau.forecast(saddle, theta, slow, level=0.5, max_steps=count).steps == count
    assert plateau.forecast(saddle, theta, slow, level=0.5, max_steps=count - 1).verdict == "beyond"


@pytest.mark.parametrize("optimizer", [optax.lbfgs(), optimizers.make("noisy_gd", 0.1), optax.polyak_sgd(0.1)])
def test_optimizers_that_ask_for_more_than_a_gradient(x64, optimizer):
    found = plateau.forecast(saddle, jnp.array([1e-2, 0.1, 0.1, 0.1]), optimizer, level=0.9)
    assert math.isfinite(found.steps)


def test_a_falling_loss_is_not_on_a_plateau(x64):
    found = plateau.forecast(lambda x: jnp.sum(x**2), jnp.ones(3), optax.sgd(0.1))
    assert found.verdict == "moving"
    assert found.steps == 1


def test_bad_input_is_named(x64):
    theta = jnp.ones(4)
    for wrong, said in (
        ({"delta": 0}, "delta: expected"),
        ({"kappa": -1}, "kappa: expected"),
        ({"level": 9.0}, "level: expected a number below the loss"),
        ({"reference": 9.0}, "reference: expected a number below the loss, got 9.0"),
        ({"max_steps": 0}, "max_steps: expected"),
    ):
        with pytest.raises(ValueError, match=said):
            plateau.forecast(saddle, theta, optax.sgd(0.1), **wrong)
    with pytest.raises(ValueError, match=r"reference: expected a number below the loss, got 0\.0 for a loss of -"):
        plateau.forecast(lambda x: saddle(x) - 9, theta, optax.sgd(0.1))
    with pytest.raises(TypeError, match="loss: expected one real number"):
        plateau.forecast(lambda x: x, theta, optax.sgd(0.1))
    adam, ones = optax.adam(0.1), jnp.ones(4)
    for state in (optax.sgd(0.1).init(ones), adam.init(jnp.ones(3)), adam.init({"a": ones}), 3):
        with pytest.raises(ValueError, match="opt_state: expected"):
            plateau.forecast(saddle, theta, adam, state)
    for loss, params, said in (
        (saddle, theta.at[0].set(jnp.nan), "params: expected a finite loss there, got nan"),
        (lambda x: 1 + jnp.sqrt(x[0]), jnp.zeros(2), "params: expected a finite gradient there, got inf in entry 0"),
    ):
        with pytest.raises(ValueError, match=said):
            plateau.forecast(loss, params, adam)
