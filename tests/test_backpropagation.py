"""The written-out backpropagation is jax.grad, to rounding, for any MLP; and training uses it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxsoft import backpropagation, data, losses, models, problem, train
from jaxsoft.curvature import Composite, value_and_grad

CASES = {
    "softmax regression": ([4, 3], {}),
    "few inputs": ([2, 8, 3], {}),
    "four inputs, no biases": ([4, 6, 3], {"bias": False}),
    "three layers, relu": ([7, 5, 6, 4], {"activation": "relu"}),
    "gelu": ([3, 9, 5], {"activation": "gelu"}),
    "erf": ([6, 2, 2, 3], {"activation": "erf"}),
    "deep linear": ([5, 4, 4, 5], {"activation": "linear", "bias": False}),
    "forty classes": ([3, 4, 40], {}),
}


def made(sizes, l2=0.0, n=50, seed=0, **options):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, sizes[-1], n)
    examples = data.dataset(rng.normal(size=(n, sizes[0])), labels, num_classes=sizes[-1], dtype=np.float64)
    return problem.classification(models.mlp(sizes, **{"init": "glorot", **options}), examples, l2)


def biased(params, seed=1):
    """With biases that are not zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda w: w + jnp.asarray(0.3 * rng.normal(size=w.shape), w.dtype), params)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_equals_jax_grad(name, l2):
    """In float64 both are sums of some hundred terms of size one: 1e-13 leaves a factor of ten over their rounding."""
    sizes, options = CASES[name]
    with jax.enable_x64(True):
        p = made(sizes, l2, **options)
        params = biased(p.init(jax.random.key(0)))
        assert p.loss.backward is not None
        chex.assert_trees_all_close(
            value_and_grad(p.loss, params), jax.value_and_grad(p.loss)(params), rtol=1e-13, atol=1e-15
        )


@pytest.mark.parametrize("name", CASES)
def test_equals_jax_grad_over_many_runs_and_batches(name):
    """Vmapped over runs, on a batch each, in float32: 1e-5 for sums of 20 terms of size one."""
    sizes, options = CASES[name]
    p = made(sizes, 0.01, **options)
    runs = jax.vmap(lambda k: biased(p.init(k)))(jax.random.split(jax.random.key(1), 6))
    batches = jax.random.randint(jax.random.key(2), (6, 20), 0, 50)
    ours = jax.jit(jax.vmap(lambda w, i: value_and_grad(p.batch(i), w)))(runs, batches)
    theirs = jax.vmap(lambda w, i: jax.value_and_grad(p.batch(i))(w))(runs, batches)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["softmax regression", "few inputs", "three layers, relu", "deep linear"])
def test_part_by_part_equals_jax_grad(name, monkeypatch):
    """50 examples in three parts of 20, the last of which overlaps; the tolerance of ``test_equals_jax_grad``."""
    sizes, options = CASES[name]
    monkeypatch.setattr(backpropagation, "LEAST", 12)
    monkeypatch.setattr(backpropagation, "MULTIPLE", 4)
    monkeypatch.setattr(backpropagation, "PART_BYTES", 1)  # sizes from 12 to 24
    monkeypatch.setattr(backpropagation, "TWICE", 1.2)
    with jax.enable_x64(True):
        p = made(sizes, 0.1, **options)
        params = biased(p.init(jax.random.key(0)))
        assert "scan" in str(jax.make_jaxpr(lambda w: value_and_grad(p.loss, w))(params))
        assert "scan" not in str(jax.make_jaxpr(lambda w: value_and_grad(p.batch(jnp.arange(50)), w))(params))
        chex.assert_trees_all_close(
            value_and_grad(p.loss, params), jax.value_and_grad(p.loss)(params), rtol=1e-13, atol=1e-15
        )


def test_half_precision_is_rounded_once():
    """Many parts, added up in float32: no more than two roundings to 8 bits from what comes out in one go."""
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(4, 20_000)), jnp.float32), jnp.asarray(rng.integers(0, 3, 20_000))
    net = made([4, 32, 3]).init(jax.random.key(0))
    half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), net)

    head = losses.cross_entropy_and_grad
    assert backpropagation._part(half, x) < 1000
    found = backpropagation.cost_and_grad(half, jnp.tanh, x, y, head, in_parts=True)[1]
    whole = backpropagation.cost_and_grad(half, jnp.tanh, x, y, head)[1]
    for part, one in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
        assert part.dtype == jnp.bfloat16
        a, b = (np.asarray(v, np.float64) for v in (part, one))
        assert np.abs(a - b).max() <= 2**-8 * np.abs(b).max()


def test_an_infinite_loss_in_two_parts_is_infinite():
    """The example that the last part takes once more, and must not count."""
    examples = data.dataset(np.ones((300, 64)), [2] * 299 + [0], num_classes=3)
    p = problem.classification(models.mlp([64, 32, 3]), examples)
    first, last = p.init(jax.random.key(0))
    params = first, last._replace(bias=jnp.array([0.0, 0.0, -jnp.inf]))
    assert backpropagation._part(params, jnp.ones((64, 300))) == 160
    assert value_and_grad(p.loss, params)[0] == p.loss(params) == jnp.inf


@given(st.integers(1, 3000), st.integers(1, 300))
def test_every_example_is_in_the_mean_once(examples, size):
    size = min(size, examples)
    starts, shown = backpropagation._parts(examples, size)
    which = starts[:, None] + np.arange(size)
    assert which.min() == 0 and which.max() == examples - 1
    np.testing.assert_array_equal(np.bincount(which[shown], minlength=examples), 1)


def test_parts_where_they_pay():
    """As many examples at a time as fit; none where the inputs, which are copied, are much longer than the outputs."""

    def layer(inputs, outputs):
        return models.Layer(jax.ShapeDtypeStruct((outputs, inputs), jnp.float32), None)

    def x(inputs, examples):
        return jax.ShapeDtypeStruct((inputs, examples), jnp.float32)

    net = [layer(64, 32), layer(32, 10)]
    sizes = [backpropagation._part(net, x(64, n)) for n in (100, 256, 257, 300, 1797)]
    assert sizes == [100, 256, 257, 160, 208]  # 257 would be 288, 300 are 320, 1,797 are 1,872, as in parts of 144
    assert backpropagation._part([layer(784, 10)], x(784, 5000)) == 5000


def test_keeps_its_digits_where_the_model_is_certain():
    """A logit gap of 30: ŷ - y as written loses all digits of the label's component in float32; here none is lost.

    One example, W = 30 (1, -1)ᵀ, x = 1/2, label 0: the gradient in W is ∓½ e^-30/(1 + e^-30)."""
    examples = data.dataset([[0.5], [0.5]], [0, 1])
    p = problem.classification(models.softmax_regression(1, 2, bias=False), examples)
    (grad,) = value_and_grad(p.batch(jnp.array([0])), (models.Layer(jnp.array([[30.0], [-30.0]]), None),))[1]
    small = 0.5 * np.exp(-30.0) / (1 + np.exp(-30.0))
    np.testing.assert_allclose(np.asarray(grad.weight)[:, 0], [-small, small], rtol=1e-5)


def test_a_model_of_another_kind_takes_the_gradient_of_jax():
    p = problem.classification(models.cnn((4, 4), 3, channels=(2,)), data.dataset(np.ones((6, 4, 4)), [0, 1, 2] * 2))
    params = p.init(jax.random.key(0))
    assert isinstance(p.loss, Composite) and p.loss.backward is None
    chex.assert_trees_all_equal(value_and_grad(p.loss, params), jax.value_and_grad(p.loss)(params))


@pytest.mark.parametrize("batch_size", [None, 16])
def test_training_takes_the_same_way_as_with_jax_grad(batch_size):
    """Twenty steps of gradient descent and Adam in float64, against a loop with ``jax.grad`` on the plain loss."""
    with jax.enable_x64(True):
        p = made([4, 6, 3], 0.01)
        plain = p._replace(loss=lambda w: p.loss(w), batch=lambda i: lambda w: p.batch(i)(w))
        for optimizer in (optax.sgd(0.3), optax.adam(0.01)):
            ends = []
            for each in (p, plain):
                init, step = train.make_train(each, optimizer, batch_size=batch_size)
                state = init(jax.random.key(3))
                ends.append(jax.lax.fori_loop(0, 20, lambda _, s, step=step: step(s)[0], state).params)
            chex.assert_trees_all_close(*ends, rtol=1e-9, atol=1e-12)


def test_training_uses_it():
    """A planted fault in the loss's own backward pass reaches the run."""
    import dataclasses

    p = made([4, 6, 3])
    flipped = dataclasses.replace(
        p.loss, backward=lambda w: (p.loss(w), jax.tree.map(jnp.negative, jax.grad(p.loss)(w)))
    )
    losses = []
    for loss in (p.loss, flipped):
        init, step = train.make_train(p._replace(loss=loss), optax.sgd(0.1))
        state = init(jax.random.key(0))
        losses.append(float(step(state)[0].loss - state.loss))
    assert losses[0] < 0 < losses[1]


def test_a_layer_without_inputs_gives_its_bias():
    """No inputs: the outputs are tanh of the bias, times W, for every example."""
    first = models.Layer(jnp.zeros((4, 0)), jnp.arange(4.0))
    last = models.Layer(jnp.ones((3, 4)) * jnp.array([[0.0], [1.0], [2.0]]), None)
    cost, grads = backpropagation.cost_and_grad(
        [first, last], jnp.tanh, jnp.zeros((0, 5)), jnp.zeros(5, int), losses.cross_entropy_and_grad
    )
    np.testing.assert_allclose(cost, losses.cross_entropy(last.weight @ jnp.tanh(first.bias), 0), rtol=1e-6)
    assert grads[0].weight.shape == (4, 0)
