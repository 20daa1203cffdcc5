"""Optimizers: the same as optax at every learning rate in one program, and closed forms on quadratic surfaces."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
import scipy.stats

from jaxsoft.optimizers import DEFAULT_LEARNING_RATE, MUON_RMS, NAMES, OPTIMIZERS, SCHEDULES, make, schedule

# A matrix (well conditioned: muon would amplify the rounding of tiny singular values some 485 times a step), a vector,
# and an absent bias, with curvatures between 0.1 and 1.
START = {"weight": 0.2 * np.random.default_rng(0).normal(size=(3, 4)), "bias": np.array([0.1, -0.2]), "none": None}
CURVATURE = {"weight": np.linspace(1.0, 0.1, 12).reshape(3, 4), "bias": np.array([0.5, 0.9]), "none": None}


def bowl(params):
    return sum(
        jnp.sum(0.5 * c * p**2) for c, p in zip(jax.tree.leaves(CURVATURE), jax.tree.leaves(params), strict=True)
    )


def descend(optimizer, steps, key, loss=bowl, start=START):
    """Parameters and losses of a run, with the extra arguments that training passes."""
    transform = optax.with_extra_args_support(optimizer)
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.result_type(float)), start)

    def step(carry, k):
        params, state = carry
        value, grad = jax.value_and_grad(loss)(params)
        extra = {"value": value, "grad": grad, "value_fn": loss, "key": jax.random.fold_in(key, k)}
        updates, state = transform.update(grad, state, params, **extra)
        return (optax.apply_updates(params, updates), state), value

    (params, _), losses = jax.lax.scan(step, (params, transform.init(params)), jnp.arange(steps))
    return params, jnp.append(losses, loss(params))


def test_every_optimizer_has_a_default_learning_rate():
    assert set(DEFAULT_LEARNING_RATE) == set(NAMES) == set(OPTIMIZERS)


@pytest.mark.parametrize("name", NAMES)
def test_the_default_learning_rate_descends_a_bowl(name):
    run = jax.jit(lambda key: descend(make(name, DEFAULT_LEARNING_RATE[name]), 1000, key)[1])
    losses = run(jax.random.key(0))
    assert losses[-1] < 0.05 * losses[0]


# Each optimizer built by hand from optax, from the learning rate and its other numbers.
ORACLES = {
    "gd": (lambda eta: optax.sgd(eta), {}),
    "momentum": (lambda eta, momentum: optax.sgd(eta, momentum), {"momentum": 0.8}),
    "nesterov": (lambda eta, momentum: optax.sgd(eta, momentum, nesterov=True), {"momentum": 0.8}),
    "rmsprop": (lambda eta, decay, eps: optax.rmsprop(eta, decay, eps), {"decay": 0.95, "eps": 1e-6}),
    "adam": (
        lambda eta, momentum, decay, eps: optax.adam(eta, momentum, decay, eps),
        {"momentum": 0.8, "decay": 0.99, "eps": 1e-6},
    ),
    "adamw": (
        lambda eta, momentum, decay, eps, weight_decay: optax.adamw(
            eta, momentum, decay, eps, weight_decay=weight_decay
        ),
        {"momentum": 0.8, "decay": 0.99, "eps": 1e-6, "weight_decay": 0.1},
    ),
    "lion": (
        lambda eta, momentum, decay, weight_decay: optax.lion(eta, momentum, decay, weight_decay=weight_decay),
        {"momentum": 0.8, "decay": 0.95, "weight_decay": 0.1},
    ),
    "muon": (
        lambda eta, momentum, weight_decay: optax.contrib.muon(
            eta, beta=momentum, weight_decay=weight_decay, adam_weight_decay=weight_decay, consistent_rms=0.2
        ),
        {"momentum": 0.9, "weight_decay": 0.1},
    ),
    "noisy_gd": (lambda eta, noise: optax.sgd(eta), {"noise": 0.0}),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", NAMES)
def test_lanes_of_traced_numbers_equal_plain_optax_in_one_program(name):
    build, numbers = ORACLES[name]
    assert set(numbers) == set(OPTIMIZERS[name].defaults) - {"eps_in_sqrt"}
    key = jax.random.key(0)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def lanes(etas, numbers):
        return jax.vmap(lambda eta, numbers: descend(make(name, eta, **numbers), 20, key)[0])(etas, numbers)

    etas = np.array([0.03, 0.001, 0.007])
    columns = {argument: np.full(3, value) for argument, value in numbers.items()}
    lanes(2 * etas, columns)
    swept = lanes(etas, columns)
    alone = jax.jit(lambda: descend(build(0.007, **numbers), 20, key)[0])()
    # The same formulas: 20 steps of a few roundings of 1.1e-16 each, all before the bottom of the bowl, where steps of
    # fixed length (lion, muon) turn around and amplify them.
    chex.assert_trees_all_close(jax.tree.map(lambda p: p[2], swept), alone, rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("noisy_gd", "muon")])
def test_defaults_are_those_of_optax(name):
    plain = {
        "gd": optax.sgd(0.05),
        "momentum": optax.sgd(0.05, momentum=0.9),
        "nesterov": optax.sgd(0.05, momentum=0.9, nesterov=True),
    }
    oracle = plain[name] if name in plain else getattr(optax, name)(0.05)
    key = jax.random.key(0)
    ours, theirs = jax.jit(lambda: [descend(o, 30, key)[0] for o in (make(name, 0.05), oracle)])()
    chex.assert_trees_all_equal(ours, theirs)


# --- closed forms on a saddle -λ y²/2, g = ηλ --------------------------------------------------------------------


def growth(name, beta, g, steps=400):
    """y_{k+1} / y_k after many steps, for lanes of (β, g)."""

    def run(beta, g):
        saddle = lambda y: -0.5 * g * y**2  # noqa: E731 - with η = 1, λ = g
        return descend(make(name, 1.0, momentum=beta), steps, jax.random.key(0), saddle, 1e-8)[1]

    losses = jax.jit(jax.vmap(run))(beta, g)
    return np.sqrt(losses[:, -1] / losses[:, -2])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "trace", "determinant"),
    [
        ("momentum", lambda b, g: 1 + b + g, lambda b, g: b),
        ("nesterov", lambda b, g: (1 + b) * (1 + g), lambda b, g: b * (1 + g)),
    ],
)
def test_momentum_leaves_a_saddle_at_the_larger_root(name, trace, determinant):
    """Heavy ball: z² - (1+β+g) z + β = 0. Nesterov: z² - (1+β)(1+g) z + β(1+g) = 0."""
    beta, g = (a.ravel() for a in np.meshgrid([0.5, 0.9, 0.95], [0.003, 0.01, 0.1]))
    b, c = trace(beta, g), determinant(beta, g)
    larger = (b + np.sqrt(b**2 - 4 * c)) / 2
    # The other mode has died: its factor is c/z, and (c/z²)^400 < 1e-16 for all nine. The root is a square root of a
    # ratio of losses, each of 400 steps' roundings.
    chex.assert_trees_all_close(growth(name, beta, g), larger, rtol=1e-12)
    folk = 1 + g / (1 - beta)
    assert abs(folk[4] - larger[4]) > 0.03  # β = 0.9, g = 0.01: the folk rule 1.1 is not this


@pytest.mark.usefixtures("x64")
def test_the_published_growth_factors():
    at = np.array([0.9]), np.array([0.01])
    chex.assert_trees_all_close(growth("momentum", *at), np.array([1.064659]), atol=5e-7)
    chex.assert_trees_all_close(growth("nesterov", *at), np.array([1.067390]), atol=5e-7)


def escape_steps(optimizer, curvature, start, radius=1.0, most=50_000):
    """The number of steps from ``start`` until |y| ≥ radius, for lanes of (λ, y₀)."""

    def run(lam, y0):
        def step(carry):
            y, state, k = carry
            updates, state = optimizer.update(-lam * y, state, y)
            return y + updates, state, k + 1

        inside = lambda carry: (jnp.abs(carry[0]) < radius) & (carry[2] < most)  # noqa: E731
        return jax.lax.while_loop(inside, step, (y0, optimizer.init(y0), 0))[2]

    return np.asarray(jax.jit(jax.vmap(run))(jnp.asarray(curvature), jnp.asarray(start)))


DISTANCES = 10.0 ** -np.arange(2, 13, 2)


@pytest.mark.usefixtures("x64")
def test_gradient_descent_leaves_a_saddle_after_ln_of_the_distance():
    """T = ln(R/|y₀|) / ln(1+g)."""
    taken = escape_steps(make("gd", 1e-3), np.ones(6), DISTANCES)
    np.testing.assert_array_equal(taken, np.ceil(np.log(1 / DISTANCES) / np.log1p(1e-3)))


def adam_in_numpy(lam, y, eta=1e-3, b1=0.9, b2=0.999, eps=1e-8):
    m = v = 0.0
    k = 0
    while abs(y) < 1:
        g, k = -lam * y, k + 1
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        y -= eta * (m / (1 - b1**k)) / (np.sqrt(v / (1 - b2**k)) + eps)
    return k


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("lam", [1.0, 0.01])
def test_adam_takes_626_or_627_steps_wherever_it_starts(lam):
    taken = escape_steps(make("adam", 1e-3), np.full(6, lam), DISTANCES)
    assert set(taken) <= {626, 627}
    np.testing.assert_array_equal(taken, [adam_in_numpy(lam, y0) for y0 in DISTANCES])
    # The bounds R/(√3 η) ≲ T ≲ R/η.
    assert 1 / np.sqrt(3) < taken.min() * 1e-3 < taken.max() * 1e-3 < 1


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("in_sqrt", "published"), [(True, 3490), (False, 955)])
def test_rmsprop_is_slowed_by_an_epsilon_inside_the_square_root(in_sqrt, published):
    taken = escape_steps(make("rmsprop", 1e-3, eps_in_sqrt=in_sqrt), [1e-3], [1e-12])
    y, v, k = 1e-12, 0.0, 0
    while abs(y) < 1:
        g, k = -1e-3 * y, k + 1
        v = 0.9 * v + 0.1 * g**2
        y -= 1e-3 * g / (np.sqrt(v + 1e-8) if in_sqrt else np.sqrt(v) + 1e-8)
    assert taken[0] == k == published


@pytest.mark.usefixtures("x64")
def test_rmsprop_on_a_plateau_is_gradient_descent_at_eta_over_root_epsilon():
    optimizer = make("rmsprop", 1e-3)
    g = jnp.array([1e-9, -3e-10])
    updates, _ = optimizer.update(g, optimizer.init(g))
    # v = 0.1 g² = 1e-19 beside ε = 1e-8: a relative 5e-12.
    chex.assert_trees_all_close(updates, -1e-3 / 1e-4 * g, rtol=1e-11)


# --- properties of single optimizers -------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
def test_weight_decay_alone_shrinks_by_one_minus_eta_lambda(name):
    flat = lambda params: 0.0 * bowl(params)  # noqa: E731 - no gradient
    optimizer = make(name, 0.2, weight_decay=0.3)
    params, _ = jax.jit(lambda: descend(optimizer, 20, jax.random.key(0), flat))()
    # 20 factors, each with two roundings of 1.1e-16.
    chex.assert_trees_all_close(params, jax.tree.map(lambda p: p * (1 - 0.2 * 0.3) ** 20, START), rtol=1e-14)


@pytest.mark.usefixtures("x64")
def test_lion_steps_have_the_magnitude_of_the_learning_rate():
    optimizer = make("lion", 0.01, weight_decay=0.0)
    params, state = jnp.zeros(50), optimizer.init(jnp.zeros(50))
    grads = np.random.default_rng(0).normal(size=(10, 50)) * 10.0 ** np.arange(-8, 2)[:, None]
    for grad in grads:
        updates, state = optimizer.update(grad, state, params)
        np.testing.assert_array_equal(np.abs(updates), 0.01)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_muon_s_first_update_has_nearly_equal_singular_values(shape):
    """Five Newton-Schulz steps f act on the singular values s / ‖S‖: f(s) = 3.4445 s - 4.775 s³ + 2.0315 s⁵."""
    rng = np.random.default_rng(0)
    u, _ = np.linalg.qr(rng.normal(size=(shape[0], min(shape))))
    v, _ = np.linalg.qr(rng.normal(size=(shape[1], min(shape))))
    s = np.linspace(1, 10, min(shape))
    grad, optimizer = (u * s) @ v.T, make("muon", 0.1)
    updates, _ = optimizer.update(grad, optimizer.init(grad), grad)
    f = s / np.linalg.norm(s)
    for _ in range(5):
        f = 3.4445 * f - 4.775 * f**3 + 2.0315 * f**5
    unit = -0.1 * MUON_RMS * np.sqrt(max(shape))
    # optax adds 1e-8 to ‖S‖ (about 15), and f has a slope below 3.5^5 = 525: 4e-7.
    chex.assert_trees_all_close(updates, unit * (u * f) @ v.T, atol=1e-6 * abs(unit))
    # Singular values from 1 to 10 went in; what comes out is within a factor of 2 (Jordan et al. 2024: [0.7, 1.2]).
    out = np.linalg.svd(updates, compute_uv=False) / abs(unit)
    assert out.max() < 2 * out.min()
    assert np.sqrt(np.mean(np.square(updates))) == pytest.approx(0.1 * MUON_RMS, rel=0.3)


@pytest.mark.usefixtures("x64")
def test_muon_leaves_what_is_no_matrix_to_adam_with_nesterov():
    start = {"bias": jnp.array([0.3, -0.1]), "kernel": jnp.ones((2, 2, 3, 3)), "scalar": jnp.asarray(0.5)}
    quadratic = lambda params: optax.tree.norm(params, squared=True)  # noqa: E731
    key = jax.random.key(0)
    both = make("muon", 0.01), optax.adam(0.01, nesterov=True)
    muon, adam = jax.jit(lambda: [descend(optimizer, 10, key, quadratic, start)[0] for optimizer in both])()
    chex.assert_trees_all_equal(muon, adam)


@pytest.mark.usefixtures("x64")
def test_noise_has_the_stated_variance_and_is_apart_for_each_lane_leaf_and_step():
    eta, sigma, steps, size = 0.1, 0.02, 2, 1000
    grad = {"a": np.full(size, 2.0), "b": np.full((size // 10, 10), -1.0)}
    optimizer = make("noisy_gd", eta, noise=sigma)

    def run(key):
        state = optimizer.init(grad)
        step = lambda k: optimizer.update(grad, state, grad, key=jax.random.fold_in(key, k))[0]  # noqa: E731
        return jax.lax.map(step, jnp.arange(steps))

    updates = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(1), 2))
    noise = jax.tree.map(lambda u, g: (np.asarray(u) + eta * g) / sigma, updates, grad)
    series = np.concatenate([leaf.reshape(2 * steps, size) for leaf in noise.values()])
    # Sums of squares are chi-square, sums normal, correlations about normal with 1/√n: bands of one in a million.
    low, high = scipy.stats.chi2.ppf([5e-7, 1 - 5e-7], df=size)
    squares = np.sum(series**2, axis=1)
    assert low < squares.min() <= squares.max() < high
    assert np.abs(series.sum(axis=1)).max() < 5 * np.sqrt(size)
    assert np.abs(np.corrcoef(series) - np.eye(len(series))).max() < 5 / np.sqrt(size)
    assert scipy.stats.kstest(series.ravel(), "norm").pvalue > 1e-6


def test_noise_is_that_of_its_key():
    optimizer, grad = make("noisy_gd", 0.1), jnp.zeros(5)
    draw = jax.jit(lambda key: optimizer.update(grad, optimizer.init(grad), grad, key=key)[0])
    chex.assert_trees_all_equal(draw(jax.random.key(3)), draw(jax.random.key(3)))
    assert not np.any(draw(jax.random.key(3)) == draw(jax.random.key(4)))


def test_noise_reaches_an_optimizer_inside_a_chain():
    chain = optax.chain(optax.clip_by_global_norm(1.0), make("noisy_gd", 0.1))
    key, grad = jax.random.key(0), jnp.ones(4)
    updates, _ = chain.update(grad, chain.init(grad), grad, key=key)
    alone = make("noisy_gd", 0.1)
    expected, _ = alone.update(grad / 2, alone.init(grad), grad, key=key)
    # ‖(1, 1, 1, 1)‖ = 2; float32.
    chex.assert_trees_all_close(updates, expected, rtol=1e-5)


def test_noise_without_a_key_is_refused():
    optimizer, grad = make("noisy_gd", 0.1), jnp.ones(4)
    with pytest.raises(TypeError, match=r"key: expected a key for this step, update\(.*key=\.\.\.\), got None"):
        optimizer.update(grad, optimizer.init(grad), grad)


# --- schedules ----------------------------------------------------------------------------------------------------


SCHEDULE_ORACLES = {
    "constant": optax.constant_schedule(0.3),
    "cosine": optax.cosine_decay_schedule(0.3, 200, alpha=0.04),
    "exponential": optax.exponential_decay(0.3, 200, 0.04, end_value=0.3 * 0.04),
    "warmup_cosine": optax.warmup_cosine_decay_schedule(0.0, 0.3, 50, 200, end_value=0.3 * 0.04),
    "step": optax.piecewise_constant_schedule(0.3, {100: 0.2, 150: 0.2}),
}


def extra(name):
    """Other numbers than the defaults, for the schedules that have them."""
    return {k: v for k, v in {"final": 0.04, "warmup": 0.25}.items() if k in SCHEDULES[name].defaults}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_those_of_optax_also_with_traced_numbers(name):
    counts = jnp.arange(250, dtype=jnp.int32)
    expected = np.broadcast_to(jax.jit(jax.vmap(SCHEDULE_ORACLES[name]))(counts.astype(float)), counts.shape)
    values = jax.jit(schedule(name, 0.3, 200, **extra(name)))(counts)
    # A handful of roundings; the cosine ends at a difference of numbers of order one.
    chex.assert_trees_all_close(values, expected, rtol=1e-13, atol=1e-16)

    @jax.jit
    def lanes(etas, numbers):
        return jax.vmap(lambda eta, numbers: schedule(name, eta, 200, **numbers)(counts))(etas, numbers)

    numbers = {argument: jnp.full(2, value) for argument, value in extra(name).items()}
    chex.assert_trees_all_close(lanes(jnp.array([0.6, 0.3]), numbers)[1], expected, rtol=1e-13, atol=1e-16)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_drives_an_optimizer_also_with_a_traced_rate(name):
    """With a constant gradient, gradient descent moves by -Σ η_k g."""
    slope = lambda y: 2.0 * y  # noqa: E731

    @jax.jit
    def run(eta):
        return descend(make("gd", schedule(name, eta, 20)), 30, jax.random.key(0), slope, 0.0)[0]

    rates = jax.vmap(schedule(name, 0.4, 20))(jnp.arange(30))
    # 30 sums of numbers below one.
    chex.assert_trees_all_close(run(0.4), -2 * jnp.sum(rates), rtol=1e-13)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: make("adma", 0.1), ValueError, "optimizer: expected one of gd, .*, got 'adma' .nearest: 'adam'"),
        (lambda: make("gd", 0.0), ValueError, "learning_rate: expected a finite number > 0, got 0.0"),
        (lambda: make("gd", -1.0), ValueError, "learning_rate: expected a finite number > 0, got -1.0"),
        (lambda: make("gd", float("nan")), ValueError, "learning_rate: expected a finite number > 0, got nan"),
        (lambda: make("gd", "fast"), TypeError, "learning_rate: expected a number > 0, got str 'fast'"),
        (lambda: make("gd", 0.1, momentum=0.9), ValueError, r"momentum: expected None for gd \(it has none\), got 0.9"),
        (lambda: make("adam", 0.1, noise=0.9), ValueError,
         r"noise: expected None for adam \(it has momentum, decay, eps\), got 0.9"),
        (lambda: make("adam", 0.1, eps_in_sqrt=False), ValueError, "eps_in_sqrt: expected None for adam"),
        (lambda: make("rmsprop", 0.1, eps_in_sqrt=1), TypeError, "eps_in_sqrt: expected a bool, got int 1"),
        (lambda: make("momentum", 0.1, momentum=1.0), ValueError, r"momentum: expected a number in \[0, 1\), got 1.0"),
        (lambda: make("adam", 0.1, decay=-0.1), ValueError, r"decay: expected a number in \[0, 1\), got -0.1"),
        (lambda: make("lion", 0.1, weight_decay=-1), ValueError, "weight_decay: expected a finite number >= 0, got -1"),
        (lambda: make("adam", 0.1, eps=-1), ValueError, "eps: expected a finite number >= 0, got -1"),
        (lambda: make("noisy_gd", 0.1, noise=-1), ValueError, "noise: expected a finite number >= 0, got -1"),
        (lambda: schedule("cosin", 0.1, 10), ValueError, "schedule: expected one of constant, .*nearest: 'cosine'"),
        (lambda: schedule("cosine", 0.0, 10), ValueError, "learning_rate: expected a finite number > 0, got 0.0"),
        (lambda: schedule("cosine", 0.1, 0), ValueError, "steps: expected an integer >= 1, got 0"),
        (lambda: schedule("cosine", 0.1, 10, final=2), ValueError, r"final: expected a number in \[0, 1\], got 2"),
        (lambda: schedule("cosine", 0.1, 10, warmup=0.1), ValueError,
         r"warmup: expected None for cosine \(it has final\), got 0.1"),
        (lambda: schedule("warmup_cosine", 0.1, 10, warmup=1.0), ValueError, r"warmup: expected a number in \[0, 1\)"),
        (lambda: schedule("warmup_cosine", 0.1, 10, warmup=0.0), ValueError, "warmup: expected a finite number > 0"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()
