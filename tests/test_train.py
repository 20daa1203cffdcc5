"""Training as a process: mini-batches by index, early ends, and the optimum that an independent library finds."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.linear_model import LogisticRegression

from jaxsoft import losses, optimizers, problem, sweep, train
from jaxsoft.data import iris
from jaxsoft.models import mlp, softmax_regression
from jaxsoft.process import CONVERGED

KEY = jax.random.key(0)


def test_an_epoch_visits_every_example_once():
    key, n, size = jax.random.key(1), 50, 7
    per_epoch = n // size
    batches = np.stack([train.batch_indices(key, jnp.asarray(s), n, size) for s in range(3 * per_epoch)])
    epochs = batches.reshape(3, per_epoch * size)
    for epoch in epochs:
        assert len(set(epoch.tolist())) == per_epoch * size
        assert set(epoch.tolist()) <= set(range(n))
    assert not np.array_equal(epochs[0], epochs[1])
    other = train.batch_indices(jax.random.key(2), jnp.asarray(0), n, size)
    assert not np.array_equal(other, batches[0])


def test_every_example_is_as_likely_in_the_first_batch():
    n, size, keys = 12, 3, 4000
    drawn = jax.vmap(lambda k: train.batch_indices(k, jnp.asarray(0), n, size))(
        jax.random.split(jax.random.key(0), keys)
    )
    counts = np.bincount(np.ravel(drawn), minlength=n)
    # Each count is binomial(keys, size/n), sd 27; the largest of 12 stays within 4.5 sd with probability > 0.9999
    sd = np.sqrt(keys * (size / n) * (1 - size / n))
    assert np.abs(counts - keys * size / n).max() < 4.5 * sd


def test_mini_batches_in_a_sweep_equal_a_python_loop(x64):
    model, data = mlp([4, 6, 3], scale=0.5), iris()

    def process(eta):
        return train.make_train(problem.classification(model, data), optax.sgd(eta), batch_size=16)

    steps = 30
    ds = sweep.run(process, {"eta": [0.3], "run": sweep.Seeds(2)}, seed=4, steps=steps)
    for run in range(2):
        init_key, batch_key, _ = jax.random.split(jax.random.fold_in(jax.random.key(4), run), 3)
        params = model.init(init_key)

        def batch_loss(p, i):
            return losses.cost(jax.vmap(model.apply, (None, 0))(p, jnp.asarray(data.x, float)[i]), data.y[i])

        trace = []
        for step in range(steps + 1):
            i = np.asarray(train.batch_indices(batch_key, jnp.asarray(step), 150, 16))
            value, grad = jax.value_and_grad(batch_loss)(params, i)
            trace.append(float(value))
            params = jax.tree.map(lambda p, g: p - 0.3 * g, params, grad)
        np.testing.assert_allclose(ds["loss"].values[0, run], trace, rtol=1e-11)  # float64, 30 steps


@pytest.mark.parametrize("l2", [1e-2, 1e-1])
def test_softmax_regression_reaches_scikit_learns_optimum(x64, l2):
    """Convex with l2 > 0: one optimum, whoever looks for it (scikit-learn's C is 1 / (n l2), intercepts free)."""
    data = iris()

    def process(l2):
        made = problem.classification(softmax_regression(4, 3), data, l2)
        return train.make_train(made, optimizers.make("nesterov", 0.5), tolerance=1e-9, keep_params=True)

    ds = sweep.run(process, {"l2": [l2]}, seed=0, steps=20_000, record_every=1000)
    assert (ds["status"] == CONVERGED).all()
    other = LogisticRegression(C=1 / (150 * l2), tol=1e-12, max_iter=10_000).fit(data.x.astype(float), data.y)
    weights = ds["final_params"].values[0][:12].reshape(3, 4)
    np.testing.assert_allclose(weights, other.coef_, atol=1e-6)  # both stop at small gradients, over a curvature l2


def test_the_untrained_classifier_sits_at_ln_c_on_balanced_data(x64):
    state = train.make_train(problem.classification(mlp([4, 5, 3], init="zeros"), iris()), optax.sgd(1.0))
    _, info = state.step(state.init(jax.random.key(0)))
    np.testing.assert_allclose(info.record["loss"], np.log(3), rtol=1e-15)
    # balanced classes and zero weights: only rounding moves it (iris: 50 each)
    assert info.record["grad_norm"] < 1e-15


def test_an_exact_zero_gradient_is_no_convergence_unless_a_tolerance_says_so():
    flat = problem.quadratic([0.0])
    for tolerance, done in ((0.0, 0), (1e-9, CONVERGED)):
        init, step = train.make_train(flat, optax.sgd(0.1), tolerance=tolerance)
        assert int(step(init(jax.random.key(0)))[1].done) == done


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(("name", "batch_size"), [*((name, None) for name in optimizers.NAMES), ("adam", 16)])
def test_one_vector_for_an_elementwise_optimizer_changes_nothing(name, batch_size, x64):
    """The parameters as one vector or as they are, 20 steps in float64: the same but for the order of sums in ‖∇L‖.

    The mark is right for each name: the others would become something else."""
    made = problem.classification(mlp([4, 6, 3], scale=0.5), iris(), 1e-3)
    marked = optimizers.make(name, 0.05)
    plain = optax.GradientTransformationExtraArgs(marked.init, marked.update)
    states = []
    for transform in (optimizers.elementwise(plain), plain):
        init, step = train.make_train(made, transform, batch_size=batch_size)
        states.append(jax.jit(lambda k, i=init, s=step: jax.lax.fori_loop(0, 20, lambda _, x: s(x)[0], i(k)))(KEY))
    one, several = states
    assert one.theta.shape == (4 * 6 + 6 + 6 * 3 + 3,) and several.form is None
    if isinstance(marked, optimizers.Elementwise):
        assert train.make_train(made, marked)[0](KEY).form == one.form
        chex.assert_trees_all_close(one.params, several.params, rtol=1e-9)
        chex.assert_trees_all_close(one.opt_state, several.opt_state, rtol=1e-9)
        chex.assert_trees_all_close((one.loss, one.form.unflatten(one.grad)), (several.loss, several.grad), rtol=1e-9)
    else:
        with pytest.raises(AssertionError):
            chex.assert_trees_all_close(one.params, several.params, rtol=1e-3)


def test_many_states_at_once_have_their_parameters_too():
    """27 states of 27 parameters, by vmap and by scan: nothing is told by its length."""
    made = problem.classification(mlp([4, 3, 3], scale=0.5), iris())
    init, step = train.make_train(made, optimizers.make("adam", 0.1))
    state = init(KEY)
    stacked = jax.lax.scan(lambda s, _: (step(s)[0], s), state, length=27)[1]
    states = [state]
    for _ in range(26):
        states.append(jax.jit(step)(states[-1])[0])
    for which in ("params", "opt_state"):
        one_by_one = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(getattr(s, which) for s in states))
        chex.assert_trees_all_close(getattr(stacked, which), one_by_one, rtol=1e-4, atol=1e-6)  # float32, 27 steps
    by_run = jax.vmap(init)(jax.random.split(KEY, 27))
    chex.assert_tree_shape_prefix((by_run.params, by_run.opt_state), (27,))
    chex.assert_trees_all_equal_structs(by_run.opt_state, optax.adam(0.1).init(made.init(KEY)))


@pytest.mark.parametrize("mark", [lambda transform: transform, optimizers.elementwise])
def test_an_optimizer_may_ask_for_the_loss(mark):
    """``value_fn`` takes what the optimizer has as parameters; a line search, which refuses a key, gets none."""

    def update(grads, state, params, *, value, value_fn, **_):
        return grads, value_fn(params) - value

    asking = optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)
    made = problem.classification(mlp([4, 3, 3], scale=0.5), iris())
    init, step = train.make_train(made, mark(asking))
    assert abs(step(init(KEY))[0].moments) < 1e-6


def test_a_line_search_trains():
    made = problem.classification(softmax_regression(4, 3), iris(), 0.1)
    ds = sweep.run(train.make_train(made, optax.lbfgs()), {"run": sweep.Seeds(2)}, seed=0, steps=30)
    reference = LogisticRegression(C=1 / (0.1 * 150), tol=1e-8, max_iter=1000).fit(iris().x, iris().y)
    params = (made.init(KEY)[0]._replace(weight=jnp.array(reference.coef_), bias=jnp.array(reference.intercept_)),)
    np.testing.assert_allclose(ds["loss"][:, -1], made.loss(params), rtol=1e-5)


def test_a_start_that_cannot_be_traced():
    """Outside a sweep, where keys are numbers: drawn by NumPy, one step of gradient descent on θ²/2."""

    def init(key):
        return jnp.asarray(np.random.default_rng(int(jax.random.bits(key))).normal(size=2), jnp.float32)

    made = problem.Problem(init, lambda x: 0.5 * jnp.sum(jnp.square(x)))
    begin, step = train.make_train(made, optimizers.make("gd", 0.25))
    state = begin(KEY)
    np.testing.assert_allclose(step(state)[0].params, 0.75 * state.params, rtol=1e-6)


def test_parameters_of_two_types_make_no_vector():
    def init(key):
        return {"half": jnp.ones(2, jnp.bfloat16), "full": jnp.ones(3, jnp.float32)}

    def loss(params):
        return sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(params))

    init_train, step = train.make_train(problem.Problem(init, loss), optimizers.make("adam", 0.1))
    state = step(init_train(KEY))[0]
    assert state.form is None
    chex.assert_trees_all_equal_dtypes(state.params, init(KEY))


def test_the_probe_and_the_parameters_are_those_of_the_state():
    def process():
        probe = problem.metrics(model, data, "all_")
        return train.make_train(problem.classification(model, data), optax.sgd(0.5), probe=probe, keep_params=True)

    model, data = mlp([4, 3, 3], scale=0.5), iris()
    ds = sweep.run(process, {"run": sweep.Seeds(2)}, seed=0, steps=20, record_every=5)
    np.testing.assert_allclose(ds["all_loss"], ds["loss"], rtol=2e-6)  # the same mean in another program, float32
    structure = model.init(jax.random.key(0))
    for run in range(2):
        flat = ds["final_params"].values[run]
        sizes = np.cumsum([leaf.size for leaf in jax.tree.leaves(structure)])[:-1]
        leaves = [p.reshape(s.shape) for p, s in zip(np.split(flat, sizes), jax.tree.leaves(structure), strict=True)]
        params = jax.tree.unflatten(jax.tree.structure(structure), leaves)
        logits = jax.vmap(model.apply, (None, 0))(params, data.x)
        np.testing.assert_allclose(
            ds["all_accuracy"].values[run, -1], np.mean(np.argmax(logits, 1) == data.y), rtol=1e-6
        )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size: expected an integer >= 1, got 0"),
        ({"batch_size": 151}, ValueError, "batch_size: expected at most 150"),
        ({"batch_size": 2.0}, TypeError, "batch_size: expected an integer"),
        ({"tolerance": -1.0}, ValueError, "tolerance: expected a finite number >= 0, got -1.0"),
        ({"tolerance": float("nan")}, ValueError, "tolerance: expected a finite number >= 0, got nan"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    made = problem.classification(softmax_regression(4, 3), iris())
    with pytest.raises(error, match=message):
        train.make_train(made, optax.sgd(0.1), **arguments)


def test_a_loss_must_be_one_number():
    vector = problem.Problem(init=lambda key: jnp.ones(3), loss=lambda p: p**2)
    with pytest.raises(TypeError, match=r"problem: expected a loss that is one number, got shape \(3,\)"):
        train.make_train(vector, optax.sgd(0.1)).init(jax.random.key(0))


def test_a_surface_has_no_batches():
    with pytest.raises(ValueError, match="batch_size: expected None for a problem without examples, got 3"):
        train.make_train(problem.quadratic([1.0]), optax.sgd(0.1), batch_size=3)
