"""Optimizers and learning rates tried from one state, on the loss itself: which get below a level, and stay down."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsoft import optimizers
from jaxsoft.curvature.products import Loss, Params, value_and_grad

MOST = 500  # steps in which a setting has to reach the level
AGAIN = 100  # at least so many steps more are looked at, and as many again as it took
SLOWER = 10  # times the quickest so far: nobody wants what takes longer


class Choice(NamedTuple):
    """A setting that was tried: an optimizer with its learning rate, started fresh. It was below the level after
    ``steps``, stayed below the loss that it began with for max(steps, ``AGAIN``) more, and ended at ``loss``."""

    name: str
    learning_rate: float
    steps: int
    loss: float


class _Run(NamedTuple):
    taken: jax.Array
    params: Params
    state: optax.OptState
    loss: jax.Array
    grad: Params
    reached: jax.Array  # the first step below the level, -1 before


def tried(
    loss: Loss, params: Params, rates: Mapping[str, Sequence[float]], level: float, within: float = math.inf
) -> list[Choice]:
    """Those settings that get below ``level`` within ``within`` and ``MOST`` steps and stay down, the quickest first.

    ``rates``: learning rates by the optimizer's name (``optimizers.make``), its other numbers at their defaults. Those
    of one optimizer run side by side in one program. What takes ``SLOWER`` times as long as the quickest optimizer
    before it is given up.
    """
    found: list[Choice] = []
    now = jax.jit(functools.partial(value_and_grad, loss))(params)
    limit = min(within, MOST)
    for name, values in rates.items():
        steps, ends = _tried(loss, name, params, now, jnp.asarray(values, float), level, math.ceil(limit))
        found += [
            Choice(name, rate, int(step), float(end))
            for rate, step, end in zip(values, np.asarray(steps), np.asarray(ends), strict=True)
            if step >= 0
        ]
        limit = min([limit, *(SLOWER * choice.steps for choice in found)])
    return sorted(found, key=lambda choice: (choice.steps, choice.loss))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _tried(
    loss: Loss, name: str, params: Params, begin: tuple[jax.Array, Params], rates: jax.Array, level: float, limit: int
) -> tuple[jax.Array, jax.Array]:
    """For every learning rate the step at which it reached the level for good, or -1, and the loss at the end."""
    now, grad = begin

    def one(rate: jax.Array) -> tuple[jax.Array, jax.Array]:
        transform = optimizers.make(name, rate)

        def down(run: _Run) -> jax.Array:
            return jnp.isfinite(run.loss) & ((run.reached < 0) | (run.loss < now))

        def going(run: _Run) -> jax.Array:
            end = jnp.where(run.reached < 0, limit, run.reached + jnp.maximum(run.reached, AGAIN))
            return down(run) & (run.taken < end)

        def step(run: _Run) -> _Run:
            key = jax.random.fold_in(jax.random.key(0), run.taken)
            updates, state = optimizers.update(
                transform, run.grad, run.state, run.params, value=run.loss, value_fn=loss, key=key
            )
            params = optax.apply_updates(run.params, updates)
            value, grad = value_and_grad(loss, params)
            reached = jnp.where((run.reached < 0) & (value < level), run.taken + 1, run.reached)
            return _Run(run.taken + 1, params, state, value, grad, reached)

        first = _Run(jnp.zeros((), jnp.int32), params, transform.init(params), now, grad, jnp.full((), -1, jnp.int32))
        end = jax.lax.while_loop(going, step, first)
        return jnp.where(down(end), end.reached, -1), end.loss

    return jax.vmap(one)(rates)
