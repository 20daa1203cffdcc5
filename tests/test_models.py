"""Models: the equations in numpy, symmetries of networks, laws of the initial draws, and flax at the edge."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from flax import linen, nnx
from scipy.special import erf, softmax
from sklearn.datasets import load_iris

from jaxsoft import models
from jaxsoft.models import Layer, cnn, count, deep_linear, from_flax, mlp, softmax_regression

# float64: sums of fewer than 200 products of numbers of order one, so 200 · 2.2e-16, with room for the functions.
F64 = {"atol": 1e-13, "rtol": 1e-12}
# float32: the same with 1.2e-7.
F32 = {"atol": 1e-5, "rtol": 1e-5}


def random_params(model):
    """Parameters of the model's shapes with every entry from N(0, 1), biases too, as numpy arrays."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda p: rng.normal(size=p.shape).astype(p.dtype), shapes)


def logits(model, *points):
    """``model.apply`` at several (params, x), as one program."""
    return jax.jit(lambda points: [model.apply(*point) for point in points])(points)


PHI = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * scipy.stats.norm.cdf(x),
    "erf": lambda x: erf(x / np.sqrt(2)),
    "linear": lambda x: x,
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", models.ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_forward_pass_is_the_lecture_written_in_numpy(name, bias):
    model = mlp([12, 7, 5, 3], activation=name, bias=bias)
    params = random_params(model)
    x = np.random.default_rng(2).normal(size=(3, 4))
    h = x.ravel()
    for i, layer in enumerate(params):
        z = layer.weight @ h + (layer.bias if bias else 0.0)
        h = PHI[name](z) if i < 2 else z
    chex.assert_trees_all_close(logits(model, (params, x)), [h], **F64)


@pytest.mark.usefixtures("x64")
def test_gradient_is_hand_written_backpropagation():
    model = mlp([4, 6, 3], activation="tanh")
    first, second = params = random_params(model)
    rng = np.random.default_rng(2)
    x, labels = rng.normal(size=(20, 4)), rng.integers(0, 3, 20)

    def loss(params):
        logits = jax.vmap(model.apply, (None, 0))(params, x)
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    # The lecture's columns: (features, examples).
    h = np.tanh(first.weight @ x.T + first.bias[:, None])
    z = second.weight @ h + second.bias[:, None]
    p = np.exp(z) / np.exp(z).sum(axis=0)
    dz = (p - np.eye(3)[labels].T) / 20
    dh = (second.weight.T @ dz) * (1 - h**2)
    expected = (Layer(dh @ x, dh.sum(axis=1)), Layer(dz @ h.T, dz.sum(axis=1)))
    chex.assert_trees_all_close(jax.jit(jax.grad(loss))(params), expected, **F64)


@pytest.mark.usefixtures("x64")
def test_deep_linear_is_the_product_of_its_matrices():
    model = deep_linear([5, 4, 6, 3], scale=1.0)
    params = random_params(model)
    x = np.random.default_rng(0).normal(size=5)
    product = np.linalg.multi_dot([layer.weight for layer in reversed(params)])
    chex.assert_trees_all_close(logits(model, (params, x)), [product @ x], **F64)
    assert all(layer.bias is None for layer in params)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", models.ACTIVATIONS)
def test_hidden_units_may_be_permuted(name):
    model = mlp([4, 6, 3], activation=name)
    first, second = params = random_params(model)
    order = np.array([3, 0, 5, 1, 2, 4])
    permuted = (Layer(first.weight[order], first.bias[order]), Layer(second.weight[:, order], second.bias))
    x = np.random.default_rng(2).normal(size=4)
    chex.assert_trees_all_close(*logits(model, (permuted, x), (params, x)), **F64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "incoming", "outgoing"),
    [("tanh", -1.0, -1.0), ("erf", -1.0, -1.0), ("linear", -3.0, -1 / 3), ("relu", 3.0, 1 / 3)],
)
def test_a_hidden_unit_may_be_rescaled_where_its_activation_allows(name, incoming, outgoing):
    # Odd functions: φ(-a) = -φ(a). ReLU: φ(ca) = c φ(a) for c > 0. Linear: for every c.
    model = mlp([4, 6, 3], activation=name)
    first, second = params = random_params(model)
    factor = np.ones(6)
    factor[2] = incoming
    back = np.where(factor == 1, 1.0, outgoing)
    changed = (
        Layer(first.weight * factor[:, None], first.bias * factor),
        Layer(second.weight * back[None, :], second.bias),
    )
    x = np.random.default_rng(2).normal(size=4)
    chex.assert_trees_all_close(*logits(model, (changed, x), (params, x)), **F64)


@pytest.mark.usefixtures("x64")
def test_relu_without_biases_is_positively_homogeneous_in_inputs_and_in_each_layer():
    model = mlp([4, 6, 5, 3], activation="relu", init="he", bias=False)
    params = random_params(model)
    x = np.random.default_rng(2).normal(size=4)
    larger = jax.tree.map(lambda w: 2.5 * w, params)
    z, of_larger_input, of_larger_weights = logits(model, (params, x), (params, 2.5 * x), (larger, x))
    chex.assert_trees_all_close(of_larger_input, 2.5 * z, **F64)
    chex.assert_trees_all_close(of_larger_weights, 2.5**3 * z, **F64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("model", [softmax_regression(4, 3), mlp([4, 6, 3]), deep_linear([4, 5, 3])])
def test_one_vector_added_to_every_class_changes_no_probability(model):
    params = random_params(model)
    rng = np.random.default_rng(2)
    last, x = params[-1], rng.normal(size=4)
    shift = rng.normal(size=last.weight.shape[1])
    shifted = (*params[:-1], last._replace(weight=last.weight + shift[None, :]))
    before, after = logits(model, (params, x), (shifted, x))
    assert np.max(np.abs(after - before)) > 1e-3
    chex.assert_trees_all_close(softmax(after), softmax(before), **F64)


def test_softmax_regression_starts_at_zero_where_the_loss_is_ln_c():
    model = softmax_regression(6, 10)
    z = model.apply(model.init(jax.random.key(0)), jnp.arange(6.0))
    loss = optax.losses.softmax_cross_entropy_with_integer_labels(z, 4)
    chex.assert_trees_all_close(loss, np.log(10), **F32)


SHAPED = {
    "mlp": lambda **kw: mlp([20, 30, 10], **kw),
    "deep_linear": lambda **kw: deep_linear([20, 30, 10], **kw),
    "softmax_regression": lambda **kw: softmax_regression(20, 10, **kw),
    "cnn": lambda **kw: cnn((8, 8, 3), 10, **kw),
}


def weights(params):
    return [layer.weight for layer in params]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("make", SHAPED.values(), ids=SHAPED)
@pytest.mark.parametrize("init", ["normal", "glorot", "he"])
def test_one_key_gives_the_same_draws_times_the_scale(make, init):
    key = jax.random.key(3)
    one = make(init=init, scale=1.0).init(key)
    chex.assert_trees_all_close(
        make(init=init, scale=1e-3).init(key), jax.tree.map(lambda w: 1e-3 * w, one), rtol=1e-15
    )
    default = make(init=init).init(key)
    factor = 0.01 if init == "normal" else 1.0
    chex.assert_trees_all_close(default, jax.tree.map(lambda w: factor * w, one), rtol=1e-15)


@pytest.mark.parametrize("make", SHAPED.values(), ids=SHAPED)
@pytest.mark.parametrize("init", ["normal", "glorot", "he"])
def test_initial_weights_have_the_stated_variance(make, init):
    keys = jax.random.split(jax.random.key(0), 100)
    params = jax.jit(jax.vmap(make(init=init, scale=0.3).init))(keys)
    for w in weights(params):
        receptive = int(np.prod(w.shape[3:]))
        fan_out, fan_in = w.shape[1] * receptive, w.shape[2] * receptive
        variance = {"normal": 1.0, "glorot": 2 / (fan_in + fan_out), "he": 2 / fan_in}[init] * 0.09
        # Σ w² / σ² is chi-square with one degree of freedom an entry: a two-sided 1e-6 band.
        low, high = scipy.stats.chi2.ppf([5e-7, 1 - 5e-7], df=w.size)
        assert low < np.sum(np.square(w, dtype=np.float64)) / variance < high
        # Every key draws for itself: 100 lanes of equal numbers would leave 1% of them different.
        assert len(np.unique(np.asarray(w))) > 0.9 * w.size
    for layer in params:
        assert layer.bias is None or not np.any(layer.bias)


def test_layers_of_equal_shape_draw_different_numbers():
    first, second = weights(deep_linear([8, 8, 8], scale=1.0).init(jax.random.key(0)))
    # Correlation of 64 independent pairs: |r| √64 is about normal; 5 is one in a million.
    assert abs(np.corrcoef(np.ravel(first), np.ravel(second))[0, 1]) < 5 / 8


@pytest.mark.parametrize("make", SHAPED.values(), ids=SHAPED)
def test_a_traced_scale_under_vmap_is_one_program(make):
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def draw(keys, scales):
        return jax.vmap(lambda k, s: make(init="normal", scale=s).init(k))(keys, scales)

    keys = jax.random.split(jax.random.key(0), 3)
    scales = jnp.asarray([1e-3, 0.1, 2.0])
    draw(keys, scales + 1)
    lanes = draw(keys, scales)
    alone = jax.jit(make(init="normal", scale=float(scales[1])).init)(keys[1])
    # The same products: equal up to a rounding or two of 6e-8.
    chex.assert_trees_all_close(jax.tree.map(lambda a: a[1], lanes), alone, rtol=2e-7)


def test_a_vmapped_layer_keeps_columns():
    # W @ x + b over examples is one matrix product, W (out, in) times (in, examples) or its transpose; never a loop.
    model = mlp([5, 4, 3])
    params, x = random_params(model), jnp.ones((7, 5))
    jaxpr = jax.make_jaxpr(jax.vmap(model.apply, (None, 0)))(params, x)
    products = [e.outvars[0].aval.shape for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    assert products == [(4, 7), (3, 7)]


# --- convolution ------------------------------------------------------------------------------------------------


def naive_cnn(params, image):
    """Loops over pixels: zero padding by 1, cross-correlation, bias, ReLU, 2x2 means, then a dense layer."""
    h = np.moveaxis(image, -1, 0)
    for weight, bias in params[:-1]:
        channels, height, width = h.shape
        padded = np.zeros((channels, height + 2, width + 2))
        padded[:, 1:-1, 1:-1] = h
        z = np.zeros((len(weight), height, width))
        for o, i, j in itertools.product(range(len(weight)), range(height), range(width)):
            z[o, i, j] = bias[o] + sum(
                weight[o, c, a, b] * padded[c, i + a, j + b]
                for c in range(channels)
                for a in range(3)
                for b in range(3)
            )
        z = np.maximum(z, 0)
        h = np.zeros((len(weight), height // 2, width // 2))
        for o, i, j in itertools.product(*map(range, h.shape)):
            h[o, i, j] = z[o, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean()
    return params[-1].weight @ h.ravel() + params[-1].bias


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(8, 8), (7, 5), (6, 9, 2)])
def test_cnn_is_a_naive_convolution_and_pool(shape):
    model = cnn(shape, 3, channels=(2, 4))
    params = random_params(model)
    x = np.random.default_rng(2).normal(size=shape)
    expected = naive_cnn(params, x if len(shape) == 3 else x[..., None])
    chex.assert_trees_all_close(logits(model, (params, x), (params, x.ravel())), [expected, expected], **F64)


def test_cnn_counts_its_parameters_and_batches_over_lanes_and_examples():
    model = cnn((8, 8), 10)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    # 1→8 and 8→16 kernels of 3x3 with biases, then 16·2·2 features to 10 classes.
    assert count(shapes) == (9 * 8 + 8) + (9 * 8 * 16 + 16) + (64 * 10 + 10)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: rng.normal(size=(3, *p.shape)).astype(p.dtype), shapes)
    x = rng.normal(size=(5, 8, 8)).astype(np.float32)
    lanes = jax.jit(jax.vmap(jax.vmap(model.apply, (None, 0)), (0, None)))(params, x)
    alone = logits(model, (jax.tree.map(lambda p: p[2], params), x[4]))
    # Logits of about 50, from sums of 64 products of numbers of order ten, in float32.
    chex.assert_trees_all_close([lanes[2, 4]], alone, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("model", "expected"),
    [(softmax_regression(64, 10), 650), (mlp([64, 32, 10]), 2410), (deep_linear([64, 32, 10]), 2368)],
)
def test_count_is_the_sum_of_out_times_in_plus_out(model, expected):
    assert count(random_params(model)) == expected
    assert count(jax.eval_shape(model.init, jax.random.key(0))) == expected


# --- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mlp([3]), ValueError, r"sizes: expected at least 2 layer sizes \(inputs, ..., classes\), got \[3\]"),
        (lambda: mlp([]), ValueError, "sizes: expected at least 2"),
        (lambda: mlp(3), TypeError, "sizes: expected at least 2 layer sizes .*, got int 3"),
        (lambda: mlp([3, 0, 2]), ValueError, r"sizes\[1\]: expected an integer >= 1, got 0"),
        (lambda: mlp([3, 2.0]), TypeError, r"sizes\[1\]: expected an integer >= 1, got float 2.0"),
        (lambda: mlp([3, 2], activation="tan"), ValueError, "activation: expected one of .*nearest: 'tanh'"),
        (lambda: mlp([3, 2], init="glorrot"), ValueError, "init: expected one of .*nearest: 'glorot'"),
        (lambda: mlp([3, 2], scale=-1.0), ValueError, "scale: expected a finite number >= 0, got -1.0"),
        (lambda: mlp([3, 2], scale=float("nan")), ValueError, "scale: expected a finite number >= 0, got nan"),
        (lambda: mlp([3, 2], init="zeros", scale=0.1), ValueError, "scale: expected None for init 'zeros', got 0.1"),
        (lambda: cnn((8,), 3), ValueError, r"image_shape: expected \(H, W\) or \(H, W, colours\), got \[8\]"),
        (lambda: cnn((8, 8, 3, 1), 3), ValueError, r"image_shape: .*, got \(8, 8, 3, 1\)"),
        (lambda: cnn((8, 3), 3), ValueError, r"image_shape: expected at least 4x4 for 2 poolings, got \(8, 3\)"),
        (lambda: cnn((8, 8), 3, channels=()), ValueError, "channels: expected at least 1"),
        (lambda: mlp([64, 2]).apply((), jnp.ones(63)), ValueError,
         "x: expected 64 features, got 63"),
        (lambda: cnn((8, 8), 3).apply((), jnp.ones((4, 16))), ValueError,
         r"x: expected shape \(8, 8, 1\) or \(64,\) or \(8, 8\), got \(4, 16\)"),
        (lambda: mlp([3, 2]).init(jnp.zeros(2, jnp.uint32)), TypeError, r"key: expected a typed key .*, got uint32"),
        (lambda: mlp([3, 2]).init(0), TypeError, r"key: expected a typed key .*, got int"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- flax -------------------------------------------------------------------------------------------------------


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(3)(linen.tanh(linen.Dense(8)(x)))


class NnxNet(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(4, 8, rngs=rngs)
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))


class NnxState(NnxNet):
    """With a norm that keeps statistics, or a dropout that keeps a random stream."""

    def __init__(self, extra, *, rngs: nnx.Rngs):
        super().__init__(rngs=rngs)
        self.extra = extra(rngs)

    def __call__(self, x):
        return self.out(self.extra(jnp.tanh(self.hidden(x))))


class LinenImages(linen.Module):
    """Convolution, norm and pooling: code of flax that must live with rank promotion "raise"."""

    @linen.compact
    def __call__(self, x):
        h = linen.relu(linen.Conv(4, (3, 3))(x[..., None]))
        h = linen.avg_pool(h, (2, 2), strides=(2, 2))
        return linen.Dense(3)(linen.LayerNorm()(h.ravel()))


class NnxImages(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.LayerNorm(64, rngs=rngs)
        self.out = nnx.Linear(64, 3, rngs=rngs)

    def __call__(self, x):
        h = nnx.avg_pool(nnx.relu(self.conv(x[..., None])), (2, 2), strides=(2, 2))
        return self.out(self.norm(h.ravel()))


FLAX = {
    "linen": (LinenNet(), jnp.ones(4)),
    "nnx": (NnxNet, jnp.ones(4)),
    "nnx lambda": (lambda rngs: nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)), jnp.ones(4)),
    "linen images": (LinenImages(), jnp.ones((8, 8))),
    "nnx images": (NnxImages, jnp.ones((8, 8))),
}  # fmt: skip
flax_cases = pytest.mark.parametrize("name", FLAX)


def test_linen_params_give_what_the_module_gives():
    module, key = LinenNet(), jax.random.key(5)
    x = jnp.asarray([0.3, -1.0, 2.0, 0.1])
    model = from_flax(module, x)
    variables = module.init(key, x)
    chex.assert_trees_all_equal(model.init(key), variables["params"])
    chex.assert_trees_all_equal(model.apply(model.init(key), x), module.apply(variables, x))


def test_nnx_params_give_what_the_module_gives():
    key, x = jax.random.key(5), jnp.asarray([0.3, -1.0, 2.0, 0.1])
    module, model = NnxNet(rngs=nnx.Rngs(key)), from_flax(NnxNet, x)
    params = model.init(key)
    chex.assert_trees_all_equal(params["hidden"]["kernel"], module.hidden.kernel[...])
    chex.assert_trees_all_equal(params["out"]["bias"], module.out.bias[...])
    chex.assert_trees_all_equal(model.apply(params, x), module(x))


def test_a_flax_net_is_the_library_s_mlp_with_transposed_kernels():
    x = jnp.asarray([0.3, -1.0, 2.0, 0.1])
    # Linen names its parts in the order of construction: the outer Dense first.
    for module, names in ((LinenNet(), ("Dense_1", "Dense_0")), (NnxNet, ("hidden", "out"))):
        model = from_flax(module, x)
        params = random_params(model)
        layers = tuple(Layer(params[n]["kernel"].T, params[n]["bias"]) for n in names)
        chex.assert_trees_all_close(logits(model, (params, x)), logits(mlp([4, 8, 3]), (layers, x)), **F32)


@functools.cache
def flax_lanes(name):
    """The model, its parameters for four keys in one program, and for the third key alone."""
    module, x = FLAX[name]
    model, keys = from_flax(module, x), jax.random.split(jax.random.key(0), 4)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def draw(keys):
        return jax.vmap(model.init)(keys), model.init(keys[2])

    draw(keys[::-1])
    return model, x, *draw(keys)


@flax_cases
def test_flax_params_are_nested_dicts_of_arrays(name):
    _, _, _, params = flax_lanes(name)
    for path, leaf in jax.tree.leaves_with_path(params):
        assert all(isinstance(entry, jax.tree_util.DictKey) for entry in path)
        assert isinstance(leaf, jax.Array)


@flax_cases
def test_flax_init_over_lanes_is_the_init_of_each_key(name):
    model, x, lanes, alone = flax_lanes(name)
    # The same products: equal up to a rounding or two of 6e-8.
    chex.assert_trees_all_close(jax.tree.map(lambda a: a[2], lanes), alone, rtol=2e-7)
    z = jax.jit(jax.vmap(model.apply, (0, None)))(lanes, x)
    chex.assert_trees_all_close([z[2]], logits(model, (alone, x)), **F32)
    assert len(np.unique(np.asarray(z))) == z.size


@flax_cases
def test_flax_trains_on_iris_below_what_one_boundary_allows(name):
    """From above ⅔ ln 2, the least loss of a model that cannot tell versicolor from virginica, to half of it."""
    model, x, _, params = flax_lanes(name)
    data = load_iris()
    inputs = (data.data - data.data.mean(axis=0)) / data.data.std(axis=0)
    if x.ndim == 2:  # the four features as the four quarters of an 8x8 image
        inputs = np.kron(inputs.reshape(-1, 2, 2), np.ones((4, 4)))
    inputs, labels = jnp.asarray(inputs, jnp.float32), jnp.asarray(data.target)
    optimizer = optax.adam(0.05)

    def loss(params):
        logits = jax.vmap(model.apply, (None, 0))(params, inputs)
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(carry, _):
        params, state = carry
        value, grad = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grad, state, params)
        return (optax.apply_updates(params, updates), state), value

    _, losses = jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), length=100))(params)
    assert losses[0] > 2 / 3 * np.log(2)
    assert losses[-1] < 1 / 3 * np.log(2)


@pytest.mark.usefixtures("x64")
@flax_cases
def test_flax_is_float64_under_x64(name):
    module, x = FLAX[name]
    model = from_flax(module, x)
    params = jax.eval_shape(model.init, jax.random.key(0))
    z = jax.eval_shape(model.apply, params, jax.ShapeDtypeStruct(x.shape, jnp.float64))
    assert {a.dtype for a in jax.tree.leaves((params, z))} == {np.dtype("float64")}


def test_a_type_that_a_flax_module_chose_stays():
    model = from_flax(linen.Dense(3, param_dtype=jnp.bfloat16), jnp.ones(4))
    params = jax.eval_shape(model.init, jax.random.key(0))
    assert params["kernel"].dtype == params["bias"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        (linen.Sequential([linen.Dense(3), linen.BatchNorm(use_running_average=True)]), ValueError,
         "module: expected parameters only, got state in the collection batch_stats"),
        (linen.Sequential([linen.Dense(3), linen.Dropout(0.5, deterministic=False)]), ValueError,
         'module: expected a deterministic module, got one with randomness: .* needs PRNG for "dropout"$'),
        (lambda rngs: NnxState(lambda r: nnx.BatchNorm(8, rngs=r), rngs=rngs), ValueError,
         "module: expected parameters only, got state in the collection BatchStat"),
        (lambda rngs: NnxState(lambda r: nnx.Dropout(0.5, rngs=r), rngs=rngs), ValueError,
         "module: expected parameters only, got state in the collection RngCount, RngKey"),
        (NnxNet(rngs=nnx.Rngs(0)), TypeError,
         "module: expected a factory `rngs -> nnx.Module`, got an instance of NnxNet: pass NnxNet"),
        (LinenNet, TypeError, "module: expected an instance of a Linen module, got the class LinenNet"),
        (lambda rngs: 3, TypeError, "module: expected a factory `rngs -> nnx.Module`, got one that returns int"),
        (3, TypeError, "module: expected a Linen module or a factory `rngs -> nnx.Module`, got 3"),
        (linen.Sequential([linen.Dense(4), lambda h: h[None]]), ValueError,
         r"module: expected a vector of logits \(C,\) for one example, got shape \(1, 4\)"),
        (linen.Sequential([linen.Dense(4), lambda h: (h, h)]), ValueError, "for one example, got tuple"),
        (linen.Sequential([linen.tanh]), ValueError, "module: expected at least one parameter, got none$"),
    ],
)  # fmt: skip
def test_flax_modules_that_do_not_fit_are_refused(module, error, message):
    with pytest.raises(error, match=message):
        from_flax(module, jnp.ones(4))


def test_flax_dropout_that_is_switched_off_is_accepted():
    model = from_flax(linen.Sequential([linen.Dense(3), linen.Dropout(0.5, deterministic=True)]), jnp.ones(4))
    chex.assert_shape(jax.eval_shape(model.apply, random_params(model), jnp.ones(4)), (3,))
