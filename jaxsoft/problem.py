"""The first waist: a problem is a way to draw parameters and a pure ``loss(params) -> scalar``.

Training, curvature and searches see only this; models and data end here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsoft import backpropagation, checks, losses, softmax
from jaxsoft.curvature import Composite, Preconditioner, layered
from jaxsoft.data import Dataset
from jaxsoft.models import ACTIVATIONS, Layers, Model, Perceptron
from jaxsoft.symmetry import Symmetry

Params = optax.Params

RENEWAL = 128  # a preconditioner's renewal may take about half as many products


class InitFn(Protocol):
    def __call__(self, key: jax.Array, /) -> Params: ...


class LossFn(Protocol):
    def __call__(self, params: Params, /) -> jax.Array: ...


class Batch(Protocol):
    def __call__(self, indices: jax.Array, /) -> LossFn: ...


class Problem(NamedTuple):
    """What is minimised.

    init: ``key -> params``.
    loss: ``params -> scalar``, on all the data.
    batch: ``indices -> loss``, the loss on the examples with these indices; None where there are no examples.
    num_examples: how many examples there are; 0 for a bare surface.
    """

    init: InitFn
    loss: LossFn
    batch: Batch | None = None
    num_examples: int = 0


class Metrics(Protocol):
    def __call__(self, params: Params, /) -> dict[str, jax.Array]: ...


def _penalty(params: object, l2: float | jax.Array) -> jax.Array:
    """l2/2 Σ w² over the weights: the leaves with two dimensions or more (biases are free)."""
    weights = [leaf for leaf in jax.tree.leaves(params) if jnp.ndim(leaf) >= 2]
    return 0.5 * l2 * sum((jnp.sum(jnp.square(w)) for w in weights), start=jnp.zeros(()))


def _on_device(dataset: Dataset) -> tuple[jax.Array, jax.Array]:
    """Inputs in the default float type (float64 under x64) and integer labels."""
    return jnp.asarray(dataset.x, dtype=jnp.result_type(float)), jnp.asarray(dataset.y)


def _check_fit(model: Model, dataset: Dataset) -> None:
    """The model must take one example and return one logit per class."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    one = jax.ShapeDtypeStruct(dataset.x.shape[1:], jnp.result_type(float))
    logits = jax.eval_shape(lambda k, x: model.apply(model.init(k), x), key, one)
    if logits.shape != (dataset.num_classes,):
        raise ValueError(
            f"model: expected logits of shape ({dataset.num_classes},), one for each class of {dataset.name}, "
            f"got shape {logits.shape}"
        )


def classification(model: Model, dataset: Dataset, l2: float | jax.Array = 0.0) -> Problem:
    """Softmax classification: the mean cross-entropy of a model on a data set, plus an optional penalty.

        L(θ) = -(1/n) Σ_i log softmax(f_θ(x_i))[y_i] + (l2/2) Σ w²     (natural logarithms; w: weights, not biases)

    ``l2`` may be traced, so a sweep can vary it. ``batch`` takes example indices.
    Raises ValueError when the model does not return one logit per class, or l2 is negative.
    """
    checks.non_negative("l2", l2)
    _check_fit(model, dataset)
    x, y = _on_device(dataset)

    penalised = not (isinstance(l2, float) and l2 == 0.0)

    def penalty(params: Params) -> jax.Array:
        return _penalty(params, l2)

    if isinstance(model.apply, Perceptron):
        by_hand = _cost_and_grad(model.apply.activation, l2 if penalised else None)

    def on(inputs: jax.Array, labels: jax.Array, shared: bool) -> Composite:
        """The loss on these examples, the same for all runs or not."""

        def outputs(params: Params) -> jax.Array:
            logits = jax.vmap(model.apply, in_axes=(None, 0))(params, inputs)
            chex.assert_shape(logits, (len(inputs), dataset.num_classes))
            return logits

        def backward(params: Layers) -> tuple[jax.Array, Layers]:
            return by_hand(params, inputs, labels, shared)

        return Composite(
            outputs,
            lambda logits: losses.cost(logits, labels),
            penalty if penalised else None,
            backward=backward if isinstance(model.apply, Perceptron) else None,
        )

    loss = on(x, y, shared=True)
    if isinstance(model.apply, Perceptron):
        loss = _with_mlp_curvature(loss, model.apply.activation, x, y, l2 if penalised else None)
        layers = jax.eval_shape(model.init, jax.eval_shape(lambda: jax.random.key(0)))
        if len(layers) == 1 and _renewed_cheaply(*x.reshape(len(x), -1).shape):
            loss = dataclasses.replace(loss, preconditioner=_by_class(loss.outputs, x, layers[0].bias is not None, l2))
    return Problem(model.init, loss, lambda indices: on(x[indices], y[indices], shared=False), num_examples=len(y))


def _cost_and_grad(activation: str, l2: float | jax.Array | None) -> Callable[..., tuple[jax.Array, Layers]]:
    """(params, x, y, shared) -> the loss of an MLP and its gradient, by the lecture's backpropagation.

    ``shared``: whether all runs have these examples.
    """

    @functools.partial(jax.jit, static_argnums=3)  # traced once, for the start, the steps and the sweeps that follow
    def by_hand(params: Layers, x: jax.Array, y: jax.Array, shared: bool) -> tuple[jax.Array, Layers]:
        columns = x.reshape(len(x), -1).T
        head = losses.cross_entropy_and_grad
        cost, grad = backpropagation.cost_and_grad(params, ACTIVATIONS[activation], columns, y, head, in_parts=shared)
        if l2 is None:
            return cost, grad
        pull = jax.tree.map(lambda g, w: g + l2 * w if w.ndim >= 2 else g, grad, params)
        return cost + _penalty(params, l2), pull

    return by_hand


# What may be done to the units of a hidden layer without changing the outputs.
UNITS = {"tanh": "odd", "erf": "odd", "relu": "positive", "linear": "linear"}


def _with_mlp_curvature(
    loss: Composite, activation: str, x: jax.Array, y: jax.Array, l2: float | jax.Array | None
) -> Composite:
    """With the closed-form Hessian of an MLP's mean cross-entropy, its symmetry, and the directions flat by it."""
    inputs = x.reshape(len(x), -1)
    symmetry = Symmetry(UNITS.get(activation, "permutation"), class_shift=True)

    def terms(logits: jax.Array, rows: slice) -> tuple[jax.Array, jax.Array]:
        gradient, curved = losses.cross_entropy_grad(logits, y[rows]), losses.cross_entropy_hessian(logits, y[rows])
        return gradient / len(y), curved / len(y)

    def closed_form(params: Layers, residual: bool) -> jax.Array:
        matrix = layered.hessian(params, ACTIVATIONS[activation], inputs, terms, residual=residual)
        if l2 is None:
            return matrix
        penalised = [jnp.full(leaf.size, l2 if leaf.ndim >= 2 else 0.0) for leaf in jax.tree.leaves(params)]
        return matrix + jnp.diag(jnp.concatenate(penalised))

    def null(params: Layers) -> jax.Array:
        return layered.flat_directions(params, symmetry.units)  # those that a penalty bends do not count

    return dataclasses.replace(
        loss, closed_form=closed_form, null=null, symmetry=symmetry if l2 is None else symmetry.penalised()
    )


def _renewed_cheaply(examples: int, inputs: int) -> bool:
    """Whether the factors of ``_by_class``, C d² (n + d), take no longer than some tens of products, C d n each."""
    return inputs * (examples + inputs) <= RENEWAL * examples


def _by_class(
    outputs: Callable[[Params], jax.Array], x: jax.Array, bias: bool, l2: float | jax.Array
) -> Preconditioner:
    """For softmax regression: its Hessian without what couples two classes, Xᵀ diag(p_k q_k) X / n + l2.

    Here the biases are penalised as well: the second derivatives of a saturated softmax alone would let them go far.
    """

    def factors(params: Params) -> jax.Array:
        inputs, (p, q, _) = x.reshape(len(x), -1), softmax.probabilities(outputs(params))
        if bias:
            inputs = jnp.concatenate([inputs, jnp.ones((len(x), 1), x.dtype)], axis=1)
        return layered.class_inverses(inputs, p * q / len(x), jnp.full(inputs.shape[1], l2, x.dtype))

    return Preconditioner(factors, functools.partial(layered.apply_by_class, bias=bias))


def metrics(model: Model, dataset: Dataset, prefix: str = "") -> Metrics:
    """A probe: ``params -> {prefix + "loss", prefix + "accuracy"}``, the mean cross-entropy and the share of hits."""
    x, y = _on_device(dataset)

    def probe(params: Params) -> dict[str, jax.Array]:
        logits = jax.vmap(model.apply, in_axes=(None, 0))(params, x)
        return {f"{prefix}loss": losses.cost(logits, y), f"{prefix}accuracy": losses.accuracy(logits, y)}

    return probe


def quadratic(eigenvalues: Sequence[float], sigma: float | jax.Array = 1.0) -> Problem:
    """The surface f(θ) = ½ Σ λ_i θ_i², started at θ ~ N(0, σ² I): a bowl, a saddle or a ridge by the signs of λ."""
    curvature = np.asarray(eigenvalues, dtype=np.float64)
    if curvature.ndim != 1 or curvature.size == 0 or not np.isfinite(curvature).all():
        raise ValueError(f"eigenvalues: expected a non-empty list of finite numbers, got {eigenvalues}")

    def init(key: jax.Array) -> jax.Array:
        return sigma * jax.random.normal(key, curvature.shape)

    def loss(params: Params) -> jax.Array:
        theta = jnp.asarray(params)
        return 0.5 * jnp.sum(jnp.asarray(curvature, theta.dtype) * jnp.square(theta))

    return Problem(init=init, loss=loss)


def monkey_saddle(sigma: float | jax.Array = 1.0) -> Problem:
    """The surface f(x, y) = x³ - 3 x y², a degenerate saddle with three ways down, started at N(0, σ² I)."""

    def init(key: jax.Array) -> jax.Array:
        return sigma * jax.random.normal(key, (2,))

    def loss(params: Params) -> jax.Array:
        x, y = jnp.asarray(params)
        return x**3 - 3 * x * y**2

    return Problem(init=init, loss=loss)


def chain(stages: int, start: float | jax.Array, *, down: float = 1.0, up: float = 1.0, width: float = 1.0) -> Problem:
    """Saddles in sequence, started beside the first at N(0, start² I): coordinate k turns downhill after all before it.

        f(θ) = Σ_k s_k h(|θ_k|) + (1 - s_k) L θ_k²,     s_k = Π_{j<k} q(|θ_j|)

    With τ = ``width``, γ = ``down``, L = ``up``: q rises from 0 at τ to 1 at 2τ (a fifth-degree step), and h is -γ a²
    up to τ and L (a - 4τ)² - ν from 2τ on, joined by a quartic; f is twice continuously differentiable. The minima are
    at θ_k = ±4τ; with the first k - 1 coordinates there and the others 0 it has a saddle of index 1 and curvatures -2γ
    and 2L. ``theory.chain_stage_times`` says how long each holds. Smoothed outside the tube that runs stay in, this is
    the surface of Du et al. (2017), "Gradient descent can take exponential time to escape saddle points".

    >>> surface = chain(3, 0.01)
    >>> jax.grad(surface.loss)(jnp.array([4.0, 0.5, 0.25])).tolist()
    [0.0, -1.0, 0.5]
    """
    checks.count("stages", stages)
    gamma, smooth, tau = checks.positive("down", down), checks.positive("up", up), checks.positive("width", width)

    def init(key: jax.Array) -> jax.Array:
        return start * jax.random.normal(key, (stages,))

    def loss(params: Params) -> jax.Array:
        theta = jnp.asarray(params)
        a = jnp.abs(theta)
        b = jnp.clip(a / tau - 1, 0, 1)
        passed = b**3 * (10 - 15 * b + 6 * b**2)
        inner = -gamma * jnp.minimum(a, 2 * tau) ** 2
        inner += tau**2 * b**3 * ((10 * gamma - 14 * smooth) / 3 + (5 * smooth - 3 * gamma) / 2 * b)
        outer = smooth * (a - 4 * tau) ** 2 - (4 * smooth + 13 / 6 * (gamma + smooth)) * tau**2
        height = jnp.where(a < 2 * tau, inner, outer)
        free = jnp.concatenate([jnp.ones(1, theta.dtype), jnp.cumprod(passed)[:-1]])
        return jnp.sum(free * height + (1 - free) * smooth * theta**2)

    return Problem(init=init, loss=loss)


def p_spin(p: int, n: int, key: jax.Array) -> Problem:
    """The spherical p-spin surface on R^n without the origin, constant along rays, started anywhere on the unit sphere:

        f(θ) = Σ J_{i1...ip} θ_i1 ... θ_ip / ‖θ‖^p,     J_{i1...ip} ~ N(0, 1), n^p of them drawn from ``key``.

    For unit vectors E f(θ) f(θ') = (θ·θ')^p, so f ~ N(0, 1) at every point. At a critical point of the value f the
    Hessian along the sphere is M - p f 1, with M a symmetric Gaussian matrix of n - 1 dimensions independent of f, of
    variance p (p - 1) off the diagonal. Its spectrum is a semicircle of radius 2 √(p (p - 1)(n - 1)), so with the
    energy u = f/√n the share of ways down is ``theory.p_spin_index``:

        α = P(M < p f) = F_sc(p u / √(p (p - 1)) · √(n / (n - 1))),     F_sc that of radius 2.

    For p = 2 the critical points are the ± unit eigenvectors of (J + Jᵀ)/2, at its eigenvalues, and that of the k-th
    smallest has exactly the index k - 1. As f is constant along rays, H θ = -∇f: at critical points θ itself is a null
    direction. Raises ValueError for p or n below 2. Crisanti & Sommers (1992), "The spherical p-spin interaction spin
    glass model"; Auffinger, Ben Arous & Černý (2013), "Random matrices and complexity of spin glasses".

    >>> surface = p_spin(3, 10, jax.random.key(0))
    >>> theta = surface.init(jax.random.key(1))
    >>> bool(jnp.allclose(surface.loss(3 * theta), surface.loss(theta), rtol=1e-4))
    True
    """
    checks.count("p", p, at_least=2)
    checks.count("n", n, at_least=2)
    couplings = jax.random.normal(key, (n,) * p)

    def init(key: jax.Array) -> jax.Array:
        theta = jax.random.normal(key, (n,))
        return theta / jnp.linalg.norm(theta)

    def loss(params: Params) -> jax.Array:
        theta = jnp.asarray(params)
        unit = theta / jnp.linalg.norm(theta)
        rest = couplings.astype(theta.dtype)
        for _ in range(p):
            rest = jnp.einsum("...i,i->...", rest, unit, precision="highest")
        return rest

    return Problem(init=init, loss=loss)
