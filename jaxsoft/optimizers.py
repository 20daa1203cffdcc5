"""Optimizers by name, as optax transforms, with the equation of each.

Notation: θ parameters, g = ∇L(θ), η learning rate, u the update that is added to θ. All states start at zero.

    gd         u = -η g
    momentum   m ← β m + g;   u = -η m                                               (heavy ball)
    nesterov   m ← β m + g;   u = -η (g + β m)
    rmsprop    v ← ρ v + (1 - ρ) g²;   u = -η g / √(v + ε), or -η g / (√v + ε) with eps_in_sqrt=False
    adam       m ← β m + (1 - β) g;   v ← ρ v + (1 - ρ) g²;   u = -η m̂ / (√v̂ + ε)     (m̂, v̂: bias-corrected)
    adamw      as adam, and u ← u - η λ θ
    lion       u = -η (sign(β m + (1 - β) g) + λ θ);   m ← ρ m + (1 - ρ) g
    muon       matrices: m ← β m + (1 - β) g;   u = -η (0.2 √max(rows, columns) · O + λ θ), where O ≈ U Vᵀ for
               β m̂ + (1 - β) ĝ = U S Vᵀ (5 Newton-Schulz steps);   everything else: nadamw with β = 0.9
    noisy_gd   u = -η g + σ ξ,   ξ ~ N(0, I) anew at each step

β is ``momentum``, ρ ``decay``, ε ``eps``, λ ``weight_decay``, σ ``noise``. Learning rates and these numbers may be
traced, so one program sweeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from jaxsoft import checks

Scalar = float | jax.Array
LearningRate = Scalar | optax.Schedule

MUON_RMS = 0.2  # root mean square of the entries of muon's update at η = 1, as Adam's: Liu et al. (2025)


class Hyper(NamedTuple):
    """The numbers of an optimizer besides its learning rate; one that it does not have is zero.

    All may be traced but eps_in_sqrt, which chooses between two formulas.
    """

    momentum: Scalar = 0.0
    decay: Scalar = 0.0
    eps: Scalar = 0.0
    eps_in_sqrt: Scalar = False
    weight_decay: Scalar = 0.0
    noise: Scalar = 0.0


class Optimizer(NamedTuple):
    """An entry of the table: how to build the transform, the defaults of the hyperparameters that it has, and whether
    it is ``elementwise``."""

    build: Callable[[LearningRate, Hyper], optax.GradientTransformation]
    defaults: Mapping[str, float]
    elementwise: bool = False


class Elementwise(optax.GradientTransformationExtraArgs):
    """A transform marked by ``elementwise``."""


def elementwise(transform: optax.GradientTransformation) -> Elementwise:
    """The same transform, marked: what becomes of an entry of the parameters depends on no other entry, nor on where it
    stands. ``train.make_train`` then gives it all parameters as one vector, which takes less time.

    Nothing checks the mark. Adam with its relatives is elementwise; what asks for the norm or the shape of an array, or
    for a part of the parameters, is not: clipping, Muon, masks, noise drawn for each array.

    >>> optimizer = elementwise(optax.adam(0.01))
    """
    if not isinstance(transform, optax.GradientTransformation):
        raise TypeError(f"transform: expected an optax transform, got {type(transform).__name__} {transform!r}")
    return Elementwise(*optax.with_extra_args_support(transform))


def update(
    transform: optax.GradientTransformationExtraArgs,
    grad: optax.Updates,
    state: optax.OptState,
    params: optax.Params,
    *,
    value: jax.Array,
    value_fn: Callable[[optax.Params], jax.Array],
    key: jax.Array,
) -> tuple[optax.Updates, optax.OptState]:
    """One update of any optimizer, with ``value``, ``grad`` and ``value_fn`` as optax's extra arguments.

    The key only for one that asks for it: line searches pass on what they get, and refuse what they do not know.
    """
    try:
        return transform.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
    except TypeError:
        return transform.update(grad, state, params, value=value, grad=grad, value_fn=value_fn, key=key)


def add_gaussian(std: Scalar) -> optax.GradientTransformationExtraArgs:
    """Add N(0, std²) to every entry of the updates, drawn from the ``key`` that ``update`` receives for this step.

    The state is empty: each lane of a sweep draws from its own key. Raises TypeError in ``update`` without a key.
    """

    def init(params: optax.Params) -> optax.OptState:
        return optax.EmptyState()

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        key: jax.Array | None = None,
        **_: object,
    ) -> tuple[optax.Updates, optax.OptState]:
        if key is None:
            raise TypeError("key: expected a key for this step, update(grads, state, params, key=...), got None")
        noise = optax.tree.random_like(key, updates, jax.random.normal)
        return jax.tree.map(lambda u, xi: u + (std * xi).astype(u.dtype), updates, noise), state

    return optax.GradientTransformationExtraArgs(init, update)


def _muon(eta: LearningRate, h: Hyper) -> optax.GradientTransformation:
    # With this scaling one η serves the matrices and Adam's share. Unlike optax's other scaling, it does not ask which
    # axis of a matrix is the output: W is (out, in) here, (in, out) in flax.
    decay = h.weight_decay
    return optax.contrib.muon(
        eta, beta=h.momentum, weight_decay=decay, adam_weight_decay=decay, consistent_rms=MUON_RMS
    )


OPTIMIZERS: dict[str, Optimizer] = {
    "gd": Optimizer(lambda eta, h: optax.sgd(eta), {}, elementwise=True),
    "momentum": Optimizer(lambda eta, h: optax.sgd(eta, momentum=h.momentum), {"momentum": 0.9}, elementwise=True),
    "nesterov": Optimizer(
        lambda eta, h: optax.sgd(eta, momentum=h.momentum, nesterov=True), {"momentum": 0.9}, elementwise=True
    ),
    "rmsprop": Optimizer(
        lambda eta, h: optax.rmsprop(eta, decay=h.decay, eps=h.eps, eps_in_sqrt=bool(h.eps_in_sqrt)),
        {"decay": 0.9, "eps": 1e-8, "eps_in_sqrt": True},
        elementwise=True,
    ),
    "adam": Optimizer(
        lambda eta, h: optax.adam(eta, b1=h.momentum, b2=h.decay, eps=h.eps),
        {"momentum": 0.9, "decay": 0.999, "eps": 1e-8},
        elementwise=True,
    ),
    "adamw": Optimizer(
        lambda eta, h: optax.adamw(eta, b1=h.momentum, b2=h.decay, eps=h.eps, weight_decay=h.weight_decay),
        {"momentum": 0.9, "decay": 0.999, "eps": 1e-8, "weight_decay": 1e-4},
        elementwise=True,
    ),
    "lion": Optimizer(
        lambda eta, h: optax.lion(eta, b1=h.momentum, b2=h.decay, weight_decay=h.weight_decay),
        {"momentum": 0.9, "decay": 0.99, "weight_decay": 1e-3},
        elementwise=True,
    ),
    "muon": Optimizer(_muon, {"momentum": 0.95, "weight_decay": 0.0}),
    "noisy_gd": Optimizer(lambda eta, h: optax.chain(optax.sgd(eta), add_gaussian(h.noise)), {"noise": 1e-3}),
}

NAMES = tuple(OPTIMIZERS)

# Customary values for the full batch of a small problem: one η for gradient descent with and without momentum, so that
# momentum's gain is seen at the same η, and optax's usual 1e-3 for the adaptive ones.
DEFAULT_LEARNING_RATE: dict[str, float] = {
    "gd": 0.1,
    "momentum": 0.1,
    "nesterov": 0.1,
    "rmsprop": 1e-3,
    "adam": 1e-3,
    "adamw": 1e-3,
    "lion": 1e-3,
    "muon": 2e-2,
    "noisy_gd": 0.1,
}


def _chosen(what: str, defaults: Mapping[str, float], **values: Scalar | None) -> dict[str, Scalar]:
    """The defaults, replaced by the values that are not None; only what has a default may be given."""
    given = {name: value for name, value in values.items() if value is not None}
    for name, value in given.items():
        if name not in defaults:
            raise ValueError(f"{name}: expected None for {what} (it has {', '.join(defaults) or 'none'}), got {value}")
    return {**defaults, **given}


def make(
    name: str,
    learning_rate: LearningRate,
    *,
    momentum: Scalar | None = None,
    decay: Scalar | None = None,
    eps: Scalar | None = None,
    eps_in_sqrt: bool | None = None,
    weight_decay: Scalar | None = None,
    noise: Scalar | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of this name, with the equation in the module's docstring.

    ``learning_rate`` is a number > 0 or a schedule (see ``schedule``). None takes the optimizer's default; defaults are
    optax's, except muon's scaling (0.2 √max(rows, columns), Liu et al. 2025):

        momentum β      0.9 (momentum, nesterov, adam, adamw, lion), 0.95 (muon)
        decay ρ         0.9 (rmsprop), 0.999 (adam, adamw), 0.99 (lion)
        eps ε           1e-8 (rmsprop, adam, adamw)
        eps_in_sqrt     True (rmsprop): the divisor never falls below √ε = 1e-4, which rules on plateaus, where |g| is
                        smaller than that: there rmsprop is slow gradient descent with learning rate η/√ε
        weight_decay λ  1e-4 (adamw), 1e-3 (lion), 0 (muon); decoupled, on all parameters
        noise σ         1e-3 (noisy_gd): the standard deviation of the random step of each parameter, in the
                        parameter's own units, not scaled by η. It needs ``update(..., key=...)``, a key for the step

    Raises ValueError for an unknown name, a hyperparameter that the optimizer does not have, and a number out of range.

    Polyak (1964) and Nesterov (1983) for the momenta; Tieleman & Hinton (2012), RMSProp; Kingma & Ba (2015), Adam;
    Loshchilov & Hutter (2019), AdamW; Chen et al. (2023), Lion; Jordan et al. (2024) and Liu et al. (2025), Muon.

    >>> optimizer = make("momentum", 0.5, momentum=0.75)
    >>> updates, state = optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
    >>> optimizer.update(jnp.ones(2), state)[0].tolist()
    [-0.875, -0.875]
    """
    entry = OPTIMIZERS[checks.one_of("optimizer", name, OPTIMIZERS)]
    if not callable(learning_rate):
        checks.positive("learning_rate", learning_rate)
    for argument, fraction in (("momentum", momentum), ("decay", decay)):
        if fraction is not None:
            checks.fraction(argument, fraction)
    if eps_in_sqrt is not None and not isinstance(eps_in_sqrt, bool):
        raise TypeError(f"eps_in_sqrt: expected a bool, got {type(eps_in_sqrt).__name__} {eps_in_sqrt!r}")
    for argument, number in (("eps", eps), ("weight_decay", weight_decay), ("noise", noise)):
        if number is not None:
            checks.non_negative(argument, number)
    hyper = _chosen(
        name,
        entry.defaults,
        momentum=momentum,
        decay=decay,
        eps=eps,
        eps_in_sqrt=eps_in_sqrt,
        weight_decay=weight_decay,
        noise=noise,
    )
    built = entry.build(learning_rate, Hyper(**hyper))
    return elementwise(built) if entry.elementwise else optax.with_extra_args_support(built)


class Curve(NamedTuple):
    """A schedule's factor of the learning rate, f(t, final, warmup) at t = k / steps in [0, 1], and its defaults."""

    factor: Callable[[jax.Array, Scalar, Scalar], jax.Array]
    defaults: Mapping[str, float]


def _cosine(t: jax.Array, final: Scalar) -> jax.Array:
    return final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * t))


def _warmup_cosine(t: jax.Array, final: Scalar, warmup: Scalar) -> jax.Array:
    return jnp.where(t < warmup, t / warmup, _cosine((t - warmup) / (1 - warmup), final))


SCHEDULES: dict[str, Curve] = {
    "constant": Curve(lambda t, final, warmup: jnp.ones_like(t), {}),
    "cosine": Curve(lambda t, final, warmup: _cosine(t, final), {"final": 0.0}),
    "exponential": Curve(lambda t, final, warmup: final**t, {"final": 0.01}),
    "warmup_cosine": Curve(_warmup_cosine, {"final": 0.0, "warmup": 0.1}),
    "step": Curve(lambda t, final, warmup: final ** (0.5 * (t >= 0.5) + 0.5 * (t >= 0.75)), {"final": 0.01}),
}


def schedule(
    name: str,
    learning_rate: Scalar,
    steps: int,
    *,
    final: Scalar | None = None,
    warmup: Scalar | None = None,
) -> optax.Schedule:
    """A learning rate that changes with the step k, η_k = η f(k / steps); from ``steps`` on it stays at its last value.

        constant       f(t) = 1
        cosine         f(t) = final + (1 - final) (1 + cos πt)/2
        exponential    f(t) = final^t
        warmup_cosine  linear from 0 to 1 over the fraction ``warmup`` of the steps, then the cosine over the others
        step           1, from t = ½ on √final, from t = ¾ on final

    η, ``final`` and ``warmup`` may be traced. ``final`` defaults to 0 (the cosines) and 0.01 (exponential, step),
    ``warmup`` to 0.1. Raises ValueError for an unknown name, an argument that the schedule does not have, and a number
    out of range. Loshchilov & Hutter (2017), SGDR, for the cosine.

    >>> [round(float(schedule("cosine", 0.1, 100)(k)), 3) for k in (0, 50, 100, 200)]
    [0.1, 0.05, 0.0, 0.0]
    """
    curve = SCHEDULES[checks.one_of("schedule", name, SCHEDULES)]
    checks.positive("learning_rate", learning_rate)
    checks.count("steps", steps)
    if final is not None:
        checks.fraction("final", final, closed=True)
    if warmup is not None:
        checks.positive("warmup", checks.fraction("warmup", warmup))
    numbers = _chosen(name, curve.defaults, final=final, warmup=warmup)

    def at(count: jax.typing.ArrayLike) -> jax.Array:
        # optax counts in int32, which divides into float32 even under x64.
        t = jnp.clip(jnp.asarray(count, jnp.result_type(float)) / steps, 0.0, 1.0)
        return learning_rate * curve.factor(t, numbers.get("final", 1.0), numbers.get("warmup", 0.0))

    return at
