"""When will it move again? The steps from one state until the loss has fallen, from the quadratic model around it.

``legs`` tells where an optimizer comes on the model, ``linear`` which optimizers need not be run for that. The model is
made anew where it says that a ``REMADE`` share of the drop is done: this moves a forecast little where the quadratic
model holds, and by how much is its interval.

A plateau and a tail both fall more slowly than κ, as in ``detect``. From a plateau the loss curves down along the way,
dᵀHd < 0: the fall grows. On a tail it does not: the fall only fades, whether or not it passes the level some day.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from jaxsoft import checks
from jaxsoft.curvature.products import Loss, Params, check
from jaxsoft.plateau.legs import Leg, powers, run, value_and_grad
from jaxsoft.plateau.linear import check_state, linear_form, with_extra_args

VERDICTS = ("plateau", "moving", "tail", "degenerate", "stationary", "beyond", "diverging")
REMADE = 0.2  # the share of the drop after which the model is made anew
BENT = 2.0  # a lowest curvature that grows by more than this factor until then makes the point degenerate
FLAT = 1e-2  # a lowest curvature above -FLAT ‖H‖ counts as that in this comparison


class Forecast(NamedTuple):
    """What will happen from here, by the quadratic model.

    verdict: "plateau": the loss stands still, and its fall will grow until it is below the level in ``steps``;
    "moving": it falls faster than κ already; "tail": it stands still, and its fall only fades: ``steps`` are those to
    the level, inf where it does not come so far; "degenerate": the curvature changes along the way, no quadratic
    forecast; "beyond": there is a way down, but not within ``max_steps``; "diverging": the learning rate is above what
    the largest curvature allows; "stationary": the optimizer stays here, but for rounding.
    steps: until the loss is below ``level``, inf where it will not be. low, high: an interval, see the module; 0 to inf
    where there is no forecast. loss, level: now, and to be reached. rate: -d ln(L - L_ref)/dt now, per step.
    curvature: the lowest of the model. growth: by which factor each step takes the run farther along it, NaN for
    optimizers without one. sharpness: the largest curvature of the model.
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
        loss, level = apart(self.loss, self.level)
        about = f"below {level} in about {self.steps:,.0f} steps ({self.low:,.0f} to {self.high:,.0f})"
        says = {
            "stationary": "at a critical point, no step leaves it",
            "tail": f"a tail, ever slower: {about if math.isfinite(self.steps) else f'no drop to {level} expected'}",
            "beyond": f"a way down, but not below {level} within the steps that were looked at",
            "diverging": "diverging, the learning rate is too large for the curvature here",
            "degenerate": f"degenerate, no quadratic forecast (curvature {self.curvature:.2g} changes along the way)",
            "plateau": f"on a plateau, {about}",
            "moving": f"not on a plateau, {about}",
        }
        return f"loss {loss}: {says[self.verdict]}"


def apart(loss: float, level: float) -> tuple[str, str]:
    """Both numbers with five digits, or with as many as tell them apart."""
    digits = next((n for n in range(5, 17) if f"{loss:.{n}g}" != f"{level:.{n}g}"), 17)
    return f"{loss:#.{digits}g}", f"{level:#.{digits}g}"


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
    Raises ValueError for a loss at or below its reference or the level, a loss or gradient that is not finite, a state
    of another optimizer, and numbers out of range; TypeError for a loss that is not one real number.

    >>> saddle = lambda x: 1 + x[0] ** 2 - x[1] ** 2 / 2
    >>> print(forecast(saddle, jnp.array([0.0, 1e-3]), optax.sgd(0.1), level=0.5))
    loss 1.0000: on a plateau, below 0.50000 in about 73 steps (72 to 74)
    """
    check(loss, params)
    for name, number in (("delta", delta), ("kappa", kappa)):
        checks.positive(name, number)
    checks.count("max_steps", max_steps)
    theta, unravel = ravel_pytree(params)
    transform = with_extra_args(optimizer)
    if opt_state is not None:
        check_state(transform, opt_state, params)
    with jax.default_matmul_precision("highest"):
        value, slope = value_and_grad(loss, unravel, theta)
        now = float(value)
        if not math.isfinite(now):
            raise ValueError(f"params: expected a finite loss there, got {now}")
        for i in jnp.flatnonzero(~jnp.isfinite(slope)):
            raise ValueError(f"params: expected a finite gradient there, got {slope[i]} in entry {i}")
        target = reference + (now - reference) * math.exp(-delta) if level is None else float(level)
        for name, number in (("reference", reference), ("level", target)):
            if not now > number:
                raise ValueError(f"{name}: expected a number below the loss, got {number} for a loss of {now}")
        state = transform.init(params) if opt_state is None else opt_state
        probe = jnp.where(jnp.any(slope != 0), slope, 1)
        linear = linear_form(transform, params, state, unravel(probe))

        def way(theta: jax.Array, memory: Any, targets: list[float], left: float) -> list[Leg]:
            if linear is not None:
                return powers(loss, unravel, linear, theta, memory, targets)
            return run(loss, unravel, transform, theta, memory, targets, int(left))

        def ahead(start: Any) -> tuple[Leg, Leg, Leg]:
            """To the share of the drop where the model is made anew, to the level without that, and on from there."""
            first, single = way(theta, start, [now - REMADE * (now - target), target], max_steps)
            if not math.isfinite(first.steps):
                return first, single, first
            return first, single, way(first.theta, first.memory, [target], max_steps - first.steps)[0]

        first, single, second = ahead(state if linear is None else linear.trace)
        if linear is not None:  # for gradients as small as here; what clips or normalises may act on the way
            if math.isfinite(second.steps):
                slope = value_and_grad(loss, unravel, second.theta)[1]
            else:  # as large as where a curvature ‖H‖ would make that drop
                slope = probe / jnp.linalg.norm(probe) * math.sqrt(2 * max(first.norm, 0.0) * (now - target))
            if jnp.any(slope != 0) and linear_form(transform, params, state, unravel(slope)) is None:
                linear = None
                first, single, second = ahead(state)
    growth = math.nan if linear is None else linear.growth(first.curvature)
    said = functools.partial(
        Forecast, loss=now, level=target, rate=single.fall / (now - reference),
        curvature=first.curvature, growth=growth, sharpness=single.sharpness,
    )  # fmt: skip
    steps = first.steps + second.steps
    if second.curvature < -BENT * max(-first.curvature, FLAT * first.norm):
        return said("degenerate", math.inf, 0.0, math.inf)
    if math.isfinite(steps):
        off = max(2 * abs(steps - single.steps), 1.0) + 2 * (first.off + second.off)
        slow = single.fall < kappa * (now - reference)
        verdict = "moving" if not slow else "plateau" if min(first.bend, second.bend) < 0 else "tail"
        return said(verdict, steps, max(steps - off, 0.0), steps + off)
    grows = linear is not None and first.norm > -first.curvature and linear.growth(first.norm) > 1
    if grows or not single.drop > target - now:
        return said("diverging", math.inf, 0.0, math.inf)
    if single.drop <= float(jnp.finfo(value.dtype).eps) * abs(now) and single.bend >= 0:
        return said("stationary", math.inf, math.inf, math.inf)
    downhill = min(first.curvature, second.curvature) < 0
    return said("beyond" if downhill else "tail", math.inf, 0.0, math.inf)
