"""Models as two pure functions of one example: ``init(key) -> params`` and ``apply(params, x) -> logits``.

Everything is written for one example; batch it with ``jax.vmap(model.apply, in_axes=(None, 0))``. A layer is the
lecture's ``W x + b`` with W (out, in), so under vmap the arrays are (features, examples) columns: also the fast layout.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar, cast

import jax
import jax.numpy as jnp

from jaxsoft import checks

if TYPE_CHECKING:
    from flax import linen, nnx

    class NnxFactory(Protocol):
        def __call__(self, *, rngs: nnx.Rngs) -> nnx.Module: ...


Params = TypeVar("Params")
Scalar = float | jax.Array
Activation = Callable[[jax.Array], jax.Array]
Tree = Mapping[str, "Tree | jax.Array"]


class Model(NamedTuple, Generic[Params]):
    """A classifier without data.

    init: ``key -> params``, from a typed key (``jax.random.key``); params is any pytree of arrays.
    apply: ``(params, x) -> logits`` (C,), for ONE example x.
    """

    init: Callable[[jax.Array], Params]
    apply: Callable[[Params, jax.typing.ArrayLike], jax.Array]


class Layer(NamedTuple):
    """The parameters of one affine map: weight (out, in), or (out, in, 3, 3) for a convolution; bias (out,) or None."""

    weight: jax.Array
    bias: jax.Array | None


Layers = tuple[Layer, ...]

ACTIVATIONS: dict[str, Activation] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),  # x Φ(x)
    "erf": lambda x: jax.lax.erf(x / math.sqrt(2.0)),  # the committee machines of Saad & Solla (1995)
    "linear": lambda x: x,
}

# The standard deviation of a weight at scale 1, from the layer's fan-in and fan-out.
INITS: dict[str, Callable[[int, int], float]] = {
    "zeros": lambda fan_in, fan_out: 0.0,
    "normal": lambda fan_in, fan_out: 1.0,
    "glorot": lambda fan_in, fan_out: math.sqrt(2.0 / (fan_in + fan_out)),
    "he": lambda fan_in, fan_out: math.sqrt(2.0 / fan_in),
}

DEFAULT_SCALE = {"zeros": 0.0, "normal": 0.01, "glorot": 1.0, "he": 1.0}


def _initialiser(
    shapes: Sequence[tuple[int, ...]], *, init: str, scale: Scalar | None, bias: bool
) -> Callable[[jax.Array], Layers]:
    """``key -> layers`` for weights of these shapes, (out, in, ...)."""
    unit = INITS[checks.one_of("init", init, INITS)]
    if init == "zeros" and scale is not None:
        raise ValueError(f"scale: expected None for init 'zeros', got {scale}")
    factor = DEFAULT_SCALE[init] if scale is None else checks.non_negative("scale", scale)
    ends = list(itertools.accumulate(math.prod(shape) for shape in shapes))

    def weight(normals: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        receptive = math.prod(shape[2:])
        return factor * (unit(shape[1] * receptive, shape[0] * receptive) * normals.reshape(shape))

    def initial(key: jax.Array) -> Layers:
        if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
            got = getattr(key, "dtype", type(key).__name__)
            raise TypeError(f"key: expected a typed key (jax.random.key), got {got}")
        # One draw, cut into layers: the compiler takes about a second for each draw, whatever its size.
        normals = jnp.zeros(ends[-1]) if init == "zeros" else jax.random.normal(key, (ends[-1],))
        weights = map(weight, jnp.split(normals, ends[:-1]), shapes)
        return tuple(Layer(w, jnp.zeros(w.shape[0]) if bias else None) for w in weights)

    return initial


def _affine(layer: Layer, x: jax.Array) -> jax.Array:
    z = layer.weight @ x
    return z if layer.bias is None else z + layer.bias


def _sizes(argument: str, sizes: Iterable[int], *, at_least: int, meaning: str) -> tuple[int, ...]:
    if isinstance(sizes, str) or not isinstance(sizes, Iterable):
        raise TypeError(f"{argument}: expected {meaning}, got {type(sizes).__name__} {sizes!r}")
    checked = tuple(checks.count(f"{argument}[{i}]", n) for i, n in enumerate(sizes))
    if len(checked) < at_least:
        raise ValueError(f"{argument}: expected {meaning}, got {list(checked)}")
    return checked


def mlp(
    sizes: Sequence[int],
    *,
    activation: str = "tanh",
    init: str = "normal",
    scale: Scalar | None = None,
    bias: bool = True,
) -> Model[Layers]:
    """A multilayer perceptron: the layer sizes are inputs, hidden widths, classes.

        h_0 = x;   h_l = φ(W_l h_{l-1} + b_l);   z = W_L h_{L-1} + b_L

    x may have any shape with ``sizes[0]`` entries; it is flattened. ``activation`` φ is one of ``ACTIVATIONS`` (gelu is
    the exact x Φ(x); erf is erf(x/√2)). ``init`` draws the weights; biases start at zero:

        zeros: 0;   normal: N(0, s²);   glorot: N(0, s²·2/(in + out));   he: N(0, s²·2/in),   s = ``scale``

    ``scale`` defaults to 0.01 for normal and 1 for glorot and he. It may be traced, so a sweep can vary it, and one key
    gives the same draws times the scale. Raises ValueError for fewer than two sizes, a size below 1, an unknown name, a
    negative scale, and in ``apply`` for an x of another size.

    Glorot & Bengio (2010), "Understanding the difficulty of training deep feedforward neural networks"; He et al.
    (2015), "Delving deep into rectifiers".

    >>> model = mlp([64, 32, 10], activation="relu", init="he")
    >>> params = model.init(jax.random.key(0))
    >>> model.apply(params, jnp.zeros((8, 8))).shape, count(params)
    ((10,), 2410)
    """
    n = _sizes("sizes", sizes, at_least=2, meaning="at least 2 layer sizes (inputs, ..., classes)")
    checks.one_of("activation", activation, ACTIVATIONS)
    shapes = [(n_out, n_in) for n_in, n_out in itertools.pairwise(n)]
    return Model(_initialiser(shapes, init=init, scale=scale, bias=bias), Perceptron(n[0], activation))


@dataclass(frozen=True)
class Perceptron:
    """The forward pass of ``mlp``, (params, x) -> logits; curvature has a closed form where it finds one."""

    inputs: int
    activation: str

    def __call__(self, params: Layers, x: jax.typing.ArrayLike) -> jax.Array:
        phi = ACTIVATIONS[self.activation]
        h = jnp.ravel(x)
        if h.size != self.inputs:
            raise ValueError(f"x: expected {self.inputs} features, got {h.size}")
        for layer in params[:-1]:
            h = phi(_affine(layer, h))
        return _affine(params[-1], h)


def softmax_regression(
    d: int, c: int, *, init: str = "zeros", scale: Scalar | None = None, bias: bool = True
) -> Model[Layers]:
    """Softmax regression, z = W x + b with W (c, d): ``mlp([d, c])``, convex, so it starts at zero.

    >>> model = softmax_regression(4, 3)
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones(4)).tolist()
    [0.0, 0.0, 0.0]
    """
    return mlp([d, c], init=init, scale=scale, bias=bias)


def deep_linear(sizes: Sequence[int], *, init: str = "normal", scale: Scalar | None = None) -> Model[Layers]:
    """A deep linear network without biases, z = W_L ... W_2 W_1 x; ``init`` and ``scale`` as in ``mlp``.

    Saxe, McClelland & Ganguli (2013), "Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks".
    """
    return mlp(sizes, activation="linear", init=init, scale=scale, bias=False)


def _mean_pool(h: jax.Array) -> jax.Array:
    """Means of 2x2 blocks of (C, H, W); an odd last row or column is left out."""
    channels, height, width = h.shape
    blocks = h[:, : height // 2 * 2, : width // 2 * 2].reshape(channels, height // 2, 2, width // 2, 2)
    return jnp.mean(blocks, axis=(2, 4))


def cnn(
    image_shape: Sequence[int],
    classes: int,
    *,
    channels: Sequence[int] = (8, 16),
    activation: str = "relu",
    init: str = "he",
    scale: Scalar | None = None,
) -> Model[Layers]:
    """A small convolutional network: for each entry of ``channels`` a stage, then one dense layer.

        h ← meanpool_2x2(φ(K * h + b));   z = W vec(h) + b

    K is a 3x3 kernel (out, in, 3, 3), applied as a cross-correlation with zero padding that keeps the image size; the
    pooling leaves out an odd last row or column. ``image_shape`` is (H, W) or (H, W, colours); x has that shape, or is
    flat. ``init`` and ``scale`` as in ``mlp``, with fan-in 9·in and fan-out 9·out for the kernels. Raises ValueError
    for an image that the pooling would use up, an unknown name, and in ``apply`` for an x of another shape.

    >>> model = cnn((8, 8), 10)
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones(64)).shape
    (10,)
    """
    image = _sizes("image_shape", image_shape, at_least=2, meaning="(H, W) or (H, W, colours)")
    if len(image) > 3:
        raise ValueError(f"image_shape: expected (H, W) or (H, W, colours), got {image}")
    height, width, colours = image if len(image) == 3 else (*image, 1)
    filters = _sizes("channels", channels, at_least=1, meaning="at least 1 number of channels")
    shrink = 2 ** len(filters)
    if min(height, width) < shrink:
        raise ValueError(f"image_shape: expected at least {shrink}x{shrink} for {len(filters)} poolings, got {image}")
    features = filters[-1] * (height // shrink) * (width // shrink)
    c = checks.count("classes", classes)
    phi = ACTIVATIONS[checks.one_of("activation", activation, ACTIVATIONS)]
    kernels = [(n_out, n_in, 3, 3) for n_in, n_out in itertools.pairwise((colours, *filters))]
    initial = _initialiser([*kernels, (c, features)], init=init, scale=scale, bias=True)
    accepted = [(height, width, colours), (height * width * colours,)] + ([(height, width)] if colours == 1 else [])

    def apply(params: Layers, x: jax.typing.ArrayLike) -> jax.Array:
        if jnp.shape(x) not in accepted:
            raise ValueError(f"x: expected shape {' or '.join(map(str, accepted))}, got {jnp.shape(x)}")
        h = jnp.moveaxis(jnp.reshape(jnp.asarray(x, params[0].weight.dtype), accepted[0]), -1, 0)
        for layer in params[:-1]:
            z = jax.lax.conv(h[None], layer.weight, window_strides=(1, 1), padding="SAME")[0]
            h = _mean_pool(phi(z if layer.bias is None else z + layer.bias[:, None, None]))
        return _affine(params[-1], jnp.ravel(h))

    return Model(initial, apply)


def count(params: object) -> int:
    """The number of parameters P: the entries of all leaves (arrays or shapes)."""
    return sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(params))


def from_flax(module: linen.Module | NnxFactory, x: jax.typing.ArrayLike) -> Model[Tree]:
    """A flax module as a ``Model`` whose params are a plain nested dict of arrays.

    ``module`` is a Linen module (an instance), or for NNX a factory ``rngs -> nnx.Module``, called as
    ``factory(rngs=...)``: the class, or a lambda. ``x`` is one example; ``apply(params, x)`` calls the module on one
    example. flax draws float32 by default: such parameters take jax's default float type, so under x64 the model is
    float64.

    Raises ValueError for a module with state beyond its parameters (batch statistics, dropout's random streams), named
    in the message; for one without parameters; and where the output is not a vector of logits. Raises TypeError for an
    NNX instance, whose parameters are drawn already, and for a Linen class.

    >>> from flax import linen
    >>> model = from_flax(linen.Dense(3), jnp.ones(4))
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones(4)).shape
    (3,)
    """
    from flax import linen, nnx

    example = jnp.asarray(x)
    if isinstance(module, nnx.Module):
        name = type(module).__name__
        raise TypeError(f"module: expected a factory `rngs -> nnx.Module`, got an instance of {name}: pass {name}")
    if isinstance(module, type) and issubclass(module, linen.Module):
        raise TypeError(f"module: expected an instance of a Linen module, got the class {module.__name__}")
    if isinstance(module, linen.Module):
        model = _from_linen(module, example)
    elif callable(module):
        model = _from_nnx(module)
    else:
        raise TypeError(f"module: expected a Linen module or a factory `rngs -> nnx.Module`, got {module!r}")
    params = jax.eval_shape(model.init, jax.random.key(0))
    if count(params) == 0:
        raise ValueError("module: expected at least one parameter, got none")
    logits = jax.eval_shape(model.apply, params, example)
    if getattr(logits, "ndim", None) != 1:
        got = f"shape {logits.shape}" if hasattr(logits, "shape") else type(logits).__name__
        raise ValueError(f"module: expected a vector of logits (C,) for one example, got {got}")
    return model


def _default_float(params: Tree) -> Tree:
    """flax's float32 as jax's default float type; a type that the module chose itself (bfloat16) stays."""
    return jax.tree.map(lambda p: p.astype(jnp.result_type(float)) if p.dtype == jnp.float32 else p, params)


def _refuse_state(kinds: Iterable[str]) -> None:
    named = ", ".join(sorted(set(kinds)))
    if named:
        raise ValueError(f"module: expected parameters only, got state in the collection {named}")


def _from_linen(module: linen.Module, x: jax.Array) -> Model[Tree]:
    from flax import errors

    key = jax.random.key(0)
    variables = jax.eval_shape(lambda k: module.init(k, x), key)
    _refuse_state(name for name in variables if name != "params")
    try:
        jax.eval_shape(lambda v: module.apply(v, x), variables)
    except errors.InvalidRngError as error:
        reason = str(error).partition(" (http")[0]
        raise ValueError(f"module: expected a deterministic module, got one with randomness: {reason}") from error

    def init(key: jax.Array) -> Tree:
        return _default_float(module.init(key, x).get("params") or {})

    def apply(params: Tree, x: jax.typing.ArrayLike) -> jax.Array:
        return cast(jax.Array, module.apply({"params": params}, jnp.asarray(x)))

    return Model(init, apply)


def _from_nnx(factory: NnxFactory) -> Model[Tree]:
    from flax import nnx

    def build(rngs: nnx.Rngs) -> nnx.Module:
        module = factory(rngs=rngs)
        if not isinstance(module, nnx.Module):
            raise TypeError(
                f"module: expected a factory `rngs -> nnx.Module`, got one that returns {type(module).__name__}"
            )
        return module

    graph, _, rest = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))), nnx.Param, ...)
    _refuse_state(type(variable).__name__ for _, variable in nnx.to_flat_state(rest))

    def init(key: jax.Array) -> Tree:
        _, params = nnx.split(build(nnx.Rngs(key)), nnx.Param)
        return _default_float(nnx.to_pure_dict(params))

    def apply(params: Tree, x: jax.typing.ArrayLike) -> jax.Array:
        return nnx.merge(graph, nnx.State(params))(jnp.asarray(x))

    return Model(init, apply)
