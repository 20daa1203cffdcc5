"""How far an optimizer comes on the quadratic model around one state, and in how many steps.

Around θ the loss is L + gᵀd + ½ dᵀHd. An optimizer that is linear in the gradient (``linear``) stays in the Krylov
space of H from the gradient and the momentum. A random vector is added to these: it finds a way down along which the
gradient is still too small to lead there. In that space H is a small matrix, a step is a 3x3 map along each of its
eigenvectors, and powers of it tell the loss after any number of steps. The space grows until the steps no longer depend
on its size, at most to ``DEPTHS[-1]`` blocks. Every other optimizer is run on the model, with one product H d a step.

What rounding alone put there is left out: curvatures below ``NOISE`` eps ‖H‖, and the part of the gradient along a way
down that is below ``LEAK`` eps of all of it.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jaxsoft import optimizers
from jaxsoft.curvature.lanczos import DENSE_SIZE, Space, empty, krylov, orthonormal
from jaxsoft.curvature.products import Loss, Params, hessian, product, products
from jaxsoft.plateau.linear import Linear

Unravel = Callable[[jax.Array], Params]

DEPTHS = (30, 40, 80, 160)  # blocks of the Krylov space, tried in turn
AGREED = 0.01  # two sizes of the space that differ by less than this share of the steps, or by one, agree
NOISE, LEAK = 100, 10
MOST = 2**60  # steps
LOOK = 512  # steps that are looked at together


class Leg(NamedTuple):
    """A stretch of a forecast: its steps (inf: never), where it ends, the trace or state there.

    curvature, sharpness: the lowest and the largest of the model; fall: how much its first step lowers the loss; drop:
    how much all steps do, to the last that was looked at; bend: dᵀHd to there, negative where the loss curves down
    along the way, 0 where that is within rounding; off: by how much ``steps`` depends on the size of the space.
    """

    steps: float
    theta: jax.Array
    memory: Any
    curvature: float
    sharpness: float
    fall: float
    drop: float
    bend: float
    off: float = 0.0

    @property
    def norm(self) -> float:
        """The largest |curvature|."""
        return max(self.sharpness, -self.curvature)


class Model(NamedTuple):
    """The quadratic model in eigenvectors of H on a subspace: L, curvatures, slopes and trace (n,), all float64;
    ``back`` takes their coordinates to (P,)."""

    value: float
    curvatures: np.ndarray
    slopes: np.ndarray
    trace: np.ndarray
    back: Callable[[np.ndarray], jax.Array]


@functools.partial(jax.jit, static_argnums=(0, 1))
def value_and_grad(loss: Loss, unravel: Unravel, theta: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.value_and_grad(lambda t: loss(unravel(t)))(theta)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _dense(loss: Loss, unravel: Unravel, theta: jax.Array) -> jax.Array:
    return hessian(loss, unravel(theta))


@functools.partial(jax.jit, static_argnums=1)
def _started(starts: jax.Array, columns: int) -> Space:
    key, nothing = jax.random.key(0), jnp.zeros((len(starts), 1), starts.dtype)
    return empty(orthonormal(starts, nothing, key), columns)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _grown(loss: Loss, unravel: Unravel, theta: jax.Array, space: Space, begin: jax.Array, blocks: jax.Array) -> Space:
    key = jax.random.fold_in(jax.random.key(0), begin)
    return krylov(products(loss, unravel(theta)), space, begin, blocks, key)  # pyrefly: ignore[bad-argument-type]


def models(
    loss: Loss, unravel: Unravel, theta: jax.Array, trace: jax.Array | None, most: int = DEPTHS[-1]
) -> Iterator[Model]:
    """The model around θ in Krylov spaces of growing size, or once in the whole space where that is small."""
    value, grad = value_and_grad(loss, unravel, theta)
    eps = float(jnp.finfo(theta.dtype).eps)

    def reduced(small: np.ndarray, basis: jax.Array | None) -> Model:
        curvatures, mix = np.linalg.eigh(np.asarray(small, np.float64))
        n = len(curvatures)  # columns beyond are empty

        def along(vector: jax.Array) -> np.ndarray:
            inside = vector if basis is None else basis.T @ vector
            found = mix.T @ np.asarray(inside[:n], np.float64)
            return np.where((curvatures <= 0) & (np.abs(found) < LEAK * eps * np.linalg.norm(found)), 0.0, found)

        def back(x: np.ndarray) -> jax.Array:
            inside = jnp.asarray(mix @ x, theta.dtype)
            return inside if basis is None else basis[:, :n] @ inside

        curvatures = np.where(np.abs(curvatures) <= NOISE * eps * np.abs(curvatures).max(), 0.0, curvatures)
        return Model(float(value), curvatures, along(grad), 0 * curvatures if trace is None else along(trace), back)

    if theta.size <= DENSE_SIZE:
        yield reduced(np.asarray(_dense(loss, unravel, theta)), None)
        return
    starts = [grad, jax.random.normal(jax.random.key(1), theta.shape, theta.dtype)]
    starts += [] if trace is None else [trace]
    width = len(starts)
    depths = sorted({min(depth, theta.size // width) for depth in DEPTHS})
    space = _started(jnp.stack(starts, axis=1), depths[-1] * width)
    for begin, end in itertools.pairwise([0, *(depth for depth in depths if depth <= max(most, depths[0]))]):
        space = _grown(loss, unravel, theta, space, jnp.asarray(begin * width), jnp.asarray(end - begin))
        yield reduced(np.asarray(space.small)[: end * width, : end * width], space.basis)


def powers(
    loss: Loss, unravel: Unravel, linear: Linear, theta: jax.Array, trace: jax.Array, targets: list[float]
) -> list[Leg]:
    """The first steps at which the model's loss is below each of ``targets``, by powers of one step."""
    legs: list[Leg] = []
    for model in models(loss, unravel, theta, trace if linear.momentum else None):
        before, legs = legs, [_powers(model, linear, theta, target) for target in targets]
        off = [_apart(a.steps, b.steps) for a, b in zip(legs, before, strict=False)]
        legs = [leg._replace(off=by) for leg, by in zip(legs, off or [0.0] * len(legs), strict=True)]
        if before and all(math.isfinite(leg.steps) and leg.off <= max(1, AGREED * leg.steps) for leg in legs):
            break
    return legs


def _apart(a: float, b: float) -> float:
    return 0.0 if a == b else abs(a - b)


def _powers(model: Model, linear: Linear, theta: jax.Array, target: float) -> Leg:
    """Momentum may overshoot and come back: one step after another, until its oscillations, √βᵗ, have settled. From
    there on, and for gradient descent, the loss only falls: by powers of 2."""
    curvatures, slopes = model.curvatures, model.slopes
    start = state = np.stack([np.zeros_like(slopes), model.trace, np.ones_like(slopes)], axis=1)

    def drop(state: np.ndarray) -> np.ndarray:
        d = state[..., 0]
        return -np.sum(slopes * d + 0.5 * curvatures * d * d, axis=-1)

    def onward(power: np.ndarray) -> np.ndarray:
        return np.einsum("nij,nj->ni", power, state)

    first = linear.step(curvatures, slopes)
    first[(slopes == 0) & (model.trace == 0)] = np.eye(3)  # nothing ever moves along these, however often it doubles
    steps_of = [first]
    needed, fall = model.value - target, float(drop(onward(steps_of[0])))

    def there(steps: float, state: np.ndarray) -> Leg:
        d, trace = state[:, 0], state[:, 1]
        moved = d if math.isfinite(steps) else np.zeros_like(d)
        bend = float(np.sum(curvatures * d * d))
        return Leg(
            steps, theta + model.back(moved), model.back(trace), curvatures[0], curvatures[-1],
            fall, float(drop(state)), bend,
        )  # fmt: skip

    if needed <= 0:
        return there(0.0, start)
    with np.errstate(over="ignore", invalid="ignore"):
        for seen in range(0, linear.oscillates, LOOK):
            path = _path(steps_of[0], state, LOOK)
            below = drop(path) > needed
            if below.any():
                return there(float(seen + 1 + below.argmax()), path[below.argmax()])
            state = path[-1]
        state = start
        while not drop(onward(steps_of[-1])) > needed:
            if 2 ** len(steps_of) > MOST:
                return there(math.inf, onward(steps_of[-1]))
            steps_of.append(steps_of[-1] @ steps_of[-1])
    steps = 0
    for i in reversed(range(len(steps_of) - 1)):
        if not drop(onward(steps_of[i])) > needed:
            state, steps = onward(steps_of[i]), steps + 2**i
    return there(float(steps + 1), onward(steps_of[0]))


def _path(step: np.ndarray, state: np.ndarray, count: int) -> np.ndarray:
    """The states after 1, 2, ... ``count`` steps, a power of 2: (count, n, 3)."""
    path, power = np.einsum("nij,nj->ni", step, state)[None], step
    while len(path) < count:
        path = np.concatenate([path, np.einsum("nij,tnj->tni", power, path)])
        power = power @ power
    return path


class _Carry(NamedTuple):
    """A run on the model: steps taken, d, H d, the optimizer's state, the model's loss."""

    taken: jax.Array
    moved: jax.Array
    curved: jax.Array
    state: optax.OptState
    at: jax.Array


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _modelled(
    loss: Loss, unravel: Unravel, transform: optax.GradientTransformationExtraArgs,
    theta: jax.Array, begin: _Carry, target: jax.Array, limit: jax.Array,
) -> _Carry:  # fmt: skip
    """Steps on the model until it is at the target, at most to ``limit``."""
    apply = product(loss, unravel(theta))
    value, grad = jax.value_and_grad(lambda t: loss(unravel(t)))(theta)

    def model(t: Params) -> jax.Array:
        d = ravel_pytree(t)[0] - theta
        return value + grad @ d + 0.5 * d @ apply(d)

    def step(carry: _Carry) -> _Carry:
        slope = unravel(grad + carry.curved)
        here = unravel(theta + carry.moved)
        key = jax.random.fold_in(jax.random.key(0), carry.taken)
        updates, state = optimizers.update(transform, slope, carry.state, here, value=carry.at, value_fn=model, key=key)
        d = carry.moved + ravel_pytree(updates)[0]
        curved = apply(d)
        at = (value + grad @ d + 0.5 * d @ curved).astype(value.dtype)
        return _Carry(carry.taken + 1, d, curved, state, at)

    return jax.lax.while_loop(lambda carry: (carry.at > target) & (carry.taken < limit), step, begin)


def run(
    loss: Loss, unravel: Unravel, transform: optax.GradientTransformationExtraArgs,
    theta: jax.Array, state: optax.OptState, targets: list[float], most: int,
) -> list[Leg]:  # fmt: skip
    """The optimizer on the quadratic model, step by step, past falling ``targets``, at most ``most`` steps."""
    value, grad = value_and_grad(loss, unravel, theta)
    nothing = jnp.zeros_like(theta)
    carry = _Carry(jnp.zeros((), jnp.int32), nothing, nothing, state, value)
    walk = functools.partial(_modelled, loss, unravel, transform, theta)
    once, passed = walk(carry, jnp.asarray(-jnp.inf, value.dtype), jnp.asarray(1)), []
    if not (jnp.any(grad != 0) or jnp.any(once.moved != 0)):  # nothing will ever move
        most = 0
    for target in targets:
        carry = walk(carry, jnp.asarray(target, value.dtype), jnp.asarray(most))
        passed.append((target, carry))
    reached = float(carry.at) <= targets[-1]
    *_, model = models(loss, unravel, theta, None, DEPTHS[1] if reached else DEPTHS[-1])
    low, high = model.curvatures[0], model.curvatures[-1]
    noise = NOISE * float(jnp.finfo(theta.dtype).eps) * max(high, -low)
    legs = []
    for target, carry in passed:
        bend, size = float(carry.moved @ carry.curved), float(carry.moved @ carry.moved)
        steps = float(carry.taken) if float(carry.at) <= target else math.inf
        drop = float(value - carry.at)
        bend = 0.0 if abs(bend) <= noise * size else bend
        legs.append(Leg(steps, theta + carry.moved, carry.state, low, high, float(value - once.at), drop, bend))
    return legs
