"""When will it move again? The steps from one state until the loss has fallen, from the quadratic model around it.

Around θ the loss is L + gᵀd + ½ dᵀHd. Gradient descent, heavy ball and Nesterov's momentum are linear in the gradient
and treat all directions alike, so on this model d stays in the Krylov space of H from the gradient and the momentum. In
it H is a small matrix T, and along each of its eigenvectors, of curvature λ, a step is a linear map of (d, m, 1):

    m ← β m + (g + λ d);    d ← d - η m  (heavy ball),    d ← d - η (g + λ d + β m)  (Nesterov; β = 0: gradient descent)

whose eigenvalues are 1, and the roots of ``theory.growth_heavy_ball`` and ``growth_nesterov`` where λ < 0. Powers of it
tell the loss after any number of steps. Every other optimizer is run on the model, with one product H d a step.

The model is made anew where it says that a ``REMADE`` share of the drop is done: this moves a forecast little where the
quadratic model holds, and by how much is its interval.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jaxsoft import checks
from jaxsoft.curvature.lanczos import empty, krylov, orthonormal
from jaxsoft.curvature.products import Loss, Params, check, hessian, product, products

Unravel = Callable[[jax.Array], Params]
_Carry = tuple[jax.Array, jax.Array, jax.Array, Any, jax.Array]

VERDICTS = ("plateau", "moving", "tail", "degenerate", "stationary", "beyond", "diverging")
DEPTH = 40  # blocks of the Krylov space
REMADE = 0.2  # the share of the drop after which the model is made anew
BENT = 2.0  # a lowest curvature that grows by more than this factor until then makes the point degenerate
FLAT = 1e-2  # a lowest curvature above -FLAT ‖H‖ is none
LATER = 1000  # steps after which a learning rate that changes has changed
MOST = 2**60  # steps
SETTLED = 1e-6  # what is left of an oscillation of momentum once no step after another is looked at
LOOK = 512  # steps that are looked at together


class Forecast(NamedTuple):
    """What will happen from here, by the quadratic model.

    verdict: "plateau": the loss stands still and will fall in ``steps``; "moving": it falls faster than κ already;
    "tail": no way down that reaches the level, the loss only creeps to its limit; "degenerate": the curvature changes
    along the way, no quadratic forecast; "beyond": not within ``max_steps``; "diverging": the learning rate is
    above what the largest curvature allows; "stationary": the gradient is zero to rounding, no step leaves.
    steps: until the loss is below ``level``, inf where it will not be. low, high: an interval, see the module.
    loss, level: now, and to be reached. rate: -d ln(L - L_ref)/dt now, per step. curvature: the lowest along the way.
    growth: by which factor each step takes the run farther along it, NaN for optimizers without one. sharpness: the
    largest curvature of the model, λ_max of H in the Krylov space of the gradient.
    """

    verdict: str
    steps: float
    low: float
    high: float
    loss: float
    level: float
    rate: float
    curvature: float
    growth: float
    sharpness: float

    def __str__(self) -> str:
        now = f"loss {self.loss:.4f}"
        if self.verdict == "stationary":
            return f"{now}: exactly at a critical point, no step leaves it"
        if self.verdict == "tail":
            return f"{now}: a tail, no drop to {self.level:.4f} expected"
        if self.verdict == "beyond":
            return f"{now}: on a plateau, not below {self.level:.4f} within the steps that were looked at"
        if self.verdict == "diverging":
            return f"{now}: diverging, the learning rate is too large for the curvature here"
        if self.verdict == "degenerate":
            return f"{now}: degenerate, no quadratic forecast (curvature {self.curvature:.2g} changes along the way)"
        about = f"below {self.level:.4f} in about {self.steps:,.0f} steps ({self.low:,.0f} to {self.high:,.0f})"
        return f"{now}: {'on a plateau' if self.verdict == 'plateau' else 'not on a plateau'}, {about}"


class Linear(NamedTuple):
    """An optimizer that is linear in the gradient: learning rate η, momentum β, Nesterov's or not, and m now."""

    learning_rate: float
    momentum: float
    nesterov: bool
    trace: jax.Array

    def growth(self, curvature: float) -> float:
        """The largest factor of one step along a direction of this curvature."""
        return float(np.abs(np.linalg.eigvals(self.step(np.array([curvature]), np.zeros(1))[0, :2, :2])).max())

    @property
    def oscillates(self) -> int:
        """For how many steps what momentum overshoots is more than ``SETTLED`` of itself: complex roots are √β long."""
        return math.ceil(2 * math.log(SETTLED) / math.log(self.momentum)) if self.momentum else 0

    def step(self, curvatures: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        """One step as a matrix on (d, m, 1), for each direction: (n, 3, 3)."""
        eta, beta = self.learning_rate, self.momentum
        now, kept = (1 + beta, beta * beta) if self.nesterov else (1.0, beta)
        maps = np.zeros((len(curvatures), 3, 3))
        maps[:, 0, 0], maps[:, 0, 1], maps[:, 0, 2] = 1 - eta * now * curvatures, -eta * kept, -eta * now * slopes
        maps[:, 1, 0], maps[:, 1, 1], maps[:, 1, 2] = curvatures, beta, slopes
        maps[:, 2, 2] = 1
        return maps


class Leg(NamedTuple):
    """A stretch of a forecast: its steps (inf: never), where it ends, the trace or state there.

    curvature, sharpness: the lowest and the largest of the model; fall: how much its first step lowers the loss.
    """

    steps: float
    theta: jax.Array
    memory: Any
    curvature: float
    sharpness: float
    fall: float

    @property
    def norm(self) -> float:
        """The largest |curvature|."""
        return max(self.sharpness, -self.curvature)


def forecast(
    loss: Loss,
    params: Params,
    optimizer: optax.GradientTransformation,
    opt_state: optax.OptState | None = None,
    *,
    delta: float = 0.1,
    reference: float = 0.0,
    level: float | None = None,
    kappa: float = 1e-2,
    max_steps: int = 10_000,
) -> Forecast:
    """In how many further steps of ``optimizer`` the loss will have fallen by δ.

    Args:
        loss: ``loss(params) -> scalar``, of the full batch.
        params: where the run stands.
        optimizer: any optax transform.
        opt_state: its state now; a fresh one by default.
        delta: δ, the drop of ln(L - L_ref) to wait for, as in ``detect``.
        reference: L_ref, what the loss would end at.
        level: the loss to wait for, instead of δ.
        kappa: κ, the rate of ln(L - L_ref) a step up to which the loss stands still.
        max_steps: of an optimizer that has to be run on the model; beyond it ``steps`` is inf.

    Gradient descent and both momenta are recognised by how they answer to gradients, at a constant learning rate.
    Raises ValueError for a loss at or below its reference or the level, and numbers out of range; TypeError for a loss
    that is not one real number.

    >>> saddle = lambda x: 1 + x[0] ** 2 - x[1] ** 2 / 2
    >>> print(forecast(saddle, jnp.array([0.0, 1e-3]), optax.sgd(0.1), level=0.5))
    loss 1.0000: on a plateau, below 0.5000 in about 73 steps (72 to 74)
    """
    check(loss, params)
    for name, value in (("delta", delta), ("kappa", kappa)):
        checks.positive(name, value)
    checks.count("max_steps", max_steps)
    theta, unravel = ravel_pytree(params)
    with jax.default_matmul_precision("highest"):
        value, slope = _value_and_grad(loss, unravel, theta)
        now = float(value)
        target = reference + (now - reference) * math.exp(-delta) if level is None else float(level)
        for name, number in (("reference", reference), ("level", target)):
            if not now > number:
                raise ValueError(f"{name}: expected a number below the loss, got {number} for a loss of {now}")
        transform = _with_extra_args(optimizer)
        state = transform.init(params) if opt_state is None else opt_state
        probe = jnp.where(jnp.any(slope != 0), slope, 1)
        linear = linear_form(transform, params, state, unravel(probe))
        said = functools.partial(Forecast, loss=now, level=target)
        memory: Any = state
        if linear is None:
            way = functools.partial(_run, loss, unravel, transform, max_steps)
        else:
            way, memory = functools.partial(_powers, loss, unravel, linear), linear.trace
            moving = float(jnp.linalg.norm(slope) + jnp.linalg.norm(linear.trace))
            if moving <= float(jnp.finfo(theta.dtype).eps) * abs(now):
                none = {"curvature": math.nan, "growth": math.nan, "sharpness": math.nan}
                return said("stationary", math.inf, math.inf, math.inf, rate=0.0, **none)
        single = way(theta, memory, target)
        first = way(theta, memory, now - REMADE * (now - target))
        second = way(first.theta, first.memory, target) if math.isfinite(first.steps) else first
    growth = math.nan if linear is None else linear.growth(first.curvature)
    seen = {"curvature": first.curvature, "growth": growth, "sharpness": single.sharpness}
    said = functools.partial(said, rate=single.fall / (now - reference), **seen)
    steps = first.steps + second.steps
    if second.curvature < -BENT * max(-first.curvature, FLAT * first.norm):
        return said("degenerate", math.inf, min(first.steps, single.steps), math.inf)
    if not math.isfinite(steps):
        unstable = linear is not None and first.norm > -first.curvature and linear.growth(first.norm) > 1
        verdict = "diverging" if unstable else "tail" if first.curvature >= -FLAT * first.norm else "beyond"
        return said(verdict, math.inf, min(first.steps, single.steps), math.inf)
    off = max(2 * abs(steps - single.steps), 1.0)
    verdict = "plateau" if single.fall < kappa * (now - reference) else "moving"
    return said(verdict, steps, max(steps - off, 0.0), steps + off)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _value_and_grad(loss: Loss, unravel: Unravel, theta: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.value_and_grad(lambda t: loss(unravel(t)))(theta)


_with_extra_args = functools.lru_cache(maxsize=32)(optax.with_extra_args_support)  # the same again: nothing recompiles


@functools.partial(jax.jit, static_argnums=0)
def _answers(
    transform: optax.GradientTransformationExtraArgs, first: Params, state: optax.OptState, params: Params
) -> jax.Array:
    """The updates for the gradients (first, 0, 0): (3, P)."""
    nothing, found = jax.tree.map(jnp.zeros_like, first), []
    for given in (first, nothing, nothing):
        updates, state = transform.update(given, state, params, value=jnp.zeros(()), grad=given)
        found.append(ravel_pytree(updates)[0])
    return jnp.stack(found)


def linear_form(
    transform: optax.GradientTransformationExtraArgs, params: Params, state: optax.OptState, grad: Params
) -> Linear | None:
    """Gradient descent with or without momentum, by its answers u to the gradients (g, 0, 0) less those to (0, 0, 0):

        -η g, -η β g, -η β² g  (heavy ball),      -η (1 + β) g, -η β² g, -η β³ g  (Nesterov)

    None for an optimizer with other answers, with answers that change with the parameters or are not in proportion to
    g, or that will be others ``LATER`` (a schedule). The answer to 0 alone is -η β m, or -η β² m.
    """
    nothing = jax.tree.map(jnp.zeros_like, grad)

    def answers(first: Params, state: optax.OptState, params: Params = params) -> np.ndarray:
        return np.asarray(_answers(transform, first, state, params), np.float64)

    def later(leaf: jax.Array) -> jax.Array:
        return leaf + LATER if jnp.issubdtype(jnp.result_type(leaf), jnp.integer) else leaf

    flat = ravel_pytree(grad)[0]
    g, tol = np.asarray(flat, np.float64), 1e4 * float(jnp.finfo(flat.dtype).eps)
    try:
        still = answers(nothing, state)
        response = answers(grad, state) - still
        alike = [
            (answers(nothing, state, jax.tree.map(lambda p: p + 1, params)), still),
            (1e3 * (answers(jax.tree.map(lambda x: 1e-3 * x, grad), state) - still), response),
            (answers(grad, jax.tree.map(later, state)) - answers(nothing, jax.tree.map(later, state)), response),
        ]
    except TypeError:  # it asks for more than a gradient: a line search, a key for noise
        return None
    rate, kept, last = -response @ g / max(g @ g, np.finfo(float).tiny)
    scale = np.linalg.norm(response)
    in_proportion = np.linalg.norm(response + np.outer([rate, kept, last], g)) <= tol * scale
    if not in_proportion or any(np.linalg.norm(a - b) > tol * max(scale, np.linalg.norm(still)) for a, b in alike):
        return None
    beta = last / kept if abs(kept) > tol * abs(rate) else 0.0
    for nesterov, expected in ((False, [1, beta, beta**2]), (True, [1 + beta, beta**2, beta**3])):
        eta = rate / expected[0]
        if eta > 0 and 0 <= beta < 1 and np.allclose([rate, kept, last], eta * np.array(expected), rtol=tol, atol=0):
            share = eta * expected[1]
            if not share and np.any(still):  # noise, or a drift of its own
                return None
            trace = -still[0] / share if share else np.zeros_like(g)
            return Linear(float(eta), float(beta), nesterov and beta > 0, jnp.asarray(trace, flat.dtype))
    return None


@functools.partial(jax.jit, static_argnums=(0, 1, 4))
def _reduced(
    loss: Loss, unravel: Unravel, theta: jax.Array, trace: jax.Array, with_trace: bool
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """L, and in the eigenvectors V (P, n) of H on the Krylov space: curvatures (n,), gradient and trace (n,), V."""
    value, grad = jax.value_and_grad(lambda t: loss(unravel(t)))(theta)
    block = jnp.stack([grad, trace], axis=1) if with_trace else grad[:, None]
    key = jax.random.key(0)
    if theta.size <= 2 * DEPTH:
        values, vectors = jnp.linalg.eigh(hessian(loss, unravel(theta)))
        return value, values, vectors.T @ grad, vectors.T @ trace, vectors
    blocks = min(DEPTH, theta.size // block.shape[1])
    space = empty(orthonormal(block, jnp.zeros((theta.size, 1), theta.dtype), key), blocks * block.shape[1])
    space = krylov(products(loss, unravel(theta)), space, 0, blocks, key)
    values, mix = jnp.linalg.eigh(space.small)
    vectors = space.basis @ mix
    return value, values, vectors.T @ grad, vectors.T @ trace, vectors


def _powers(loss: Loss, unravel: Unravel, linear: Linear, theta: jax.Array, trace: jax.Array, target: float) -> Leg:
    """The first step at which the model's loss is below ``target``.

    Momentum may overshoot and come back: one step after another, until its oscillations, √βᵗ, have settled. From there
    on, and for gradient descent, the loss only falls: by powers of 2.
    """
    value, *rest, vectors = _reduced(loss, unravel, theta, trace, linear.momentum > 0)
    curvatures, slopes, begin = (np.asarray(x, np.float64) for x in rest)
    start = state = np.stack([np.zeros_like(slopes), begin, np.ones_like(slopes)], axis=1)

    def drop(state: np.ndarray) -> np.ndarray:
        d = state[..., 0]
        return -np.sum(slopes * d + 0.5 * curvatures * d * d, axis=-1)

    def onward(power: np.ndarray) -> np.ndarray:
        return np.einsum("nij,nj->ni", power, state)

    needed, steps = float(value) - target, 0
    powers = [linear.step(curvatures, slopes)]
    fall = float(drop(onward(powers[0])))
    leg = functools.partial(Leg, curvature=curvatures[0], sharpness=curvatures[-1], fall=fall)
    if needed <= 0:
        return leg(0.0, theta, trace)

    def there(steps: int, state: np.ndarray) -> Leg:
        moved, trace = (vectors @ jnp.asarray(x, theta.dtype) for x in (state[:, 0], state[:, 1]))
        return leg(float(steps), theta + moved, trace)

    with np.errstate(over="ignore", invalid="ignore"):
        for seen in range(0, linear.oscillates, LOOK):
            path = _path(powers[0], state, LOOK)
            below = drop(path) > needed
            if below.any():
                return there(seen + 1 + int(below.argmax()), path[below.argmax()])
            state = path[-1]
        state = start
        while not drop(onward(powers[-1])) > needed:
            if 2 ** len(powers) > MOST:
                return leg(math.inf, theta, trace)
            powers.append(powers[-1] @ powers[-1])
    for i in reversed(range(len(powers) - 1)):
        if not drop(onward(powers[i])) > needed:
            state, steps = onward(powers[i]), steps + 2**i
    return there(steps + 1, onward(powers[0]))


def _path(step: np.ndarray, state: np.ndarray, count: int) -> np.ndarray:
    """The states after 1, 2, ... ``count`` steps, a power of 2: (count, n, 3)."""
    path, power = np.einsum("nij,nj->ni", step, state)[None], step
    while len(path) < count:
        path = np.concatenate([path, np.einsum("nij,tnj->tni", power, path)])
        power = power @ power
    return path


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _modelled(
    loss: Loss, unravel: Unravel, transform: optax.GradientTransformationExtraArgs, max_steps: int,
    theta: jax.Array, state: optax.OptState, target: jax.Array,
) -> tuple[jax.Array, jax.Array, optax.OptState, jax.Array, jax.Array]:  # fmt: skip
    """Steps on the model until it is below the target, where that is, the state there, the model's loss, its fall."""
    apply = product(loss, unravel(theta))
    value, grad = jax.value_and_grad(lambda t: loss(unravel(t)))(theta)
    key = jax.random.key(0)

    def model(t: Params) -> jax.Array:
        d = ravel_pytree(t)[0] - theta
        return value + grad @ d + 0.5 * d @ apply(d)

    def step(carry: _Carry) -> _Carry:
        t, d, curved, state, at = carry
        slope = unravel(grad + curved)
        updates, state = transform.update(
            slope, state, unravel(theta + d), value=at, grad=slope, value_fn=model, key=jax.random.fold_in(key, t)
        )
        d = d + ravel_pytree(updates)[0]
        curved = apply(d)
        return t + 1, d, curved, state, value + grad @ d + 0.5 * d @ curved

    def going(carry: _Carry) -> jax.Array:
        return (carry[4] > target) & (carry[0] < max_steps)

    nothing = jnp.zeros_like(theta)
    start = jnp.zeros((), jnp.int32), nothing, nothing, state, value
    t, d, _, after, at = jax.lax.while_loop(going, step, start)
    return t, theta + d, after, at, value - step(start)[4]


def _run(
    loss: Loss, unravel: Unravel, transform: optax.GradientTransformationExtraArgs, max_steps: int,
    theta: jax.Array, state: optax.OptState, target: float,
) -> Leg:  # fmt: skip
    """The optimizer on the quadratic model, step by step."""
    steps, end, after, at, fall = _modelled(loss, unravel, transform, max_steps, theta, state, target)
    curvatures = _reduced(loss, unravel, theta, jnp.zeros_like(theta), False)[1]
    taken = float(steps) if float(at) <= target else math.inf
    return Leg(taken, end, after, float(curvatures[0]), float(curvatures[-1]), float(fall))
