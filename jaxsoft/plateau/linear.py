"""Optimizers as a forecast sees them: which are linear in the gradient.

Gradient descent, heavy ball and Nesterov's momentum are linear in the gradient and treat all directions alike. On a
quadratic model, along an eigenvector of curvature λ and slope g, a step is a linear map of (d, m, 1):

    m ← β m + (g + λ d);    d ← d - η m  (heavy ball),    d ← d - η (g + λ d + β m)  (Nesterov; β = 0: gradient descent)

whose eigenvalues are 1, and the roots of ``theory.growth_heavy_ball`` and ``growth_nesterov`` where λ < 0.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jaxsoft.curvature.products import Params

LATER = 1000  # steps after which a learning rate that changes has changed
SETTLED = 1e-6  # what is left of an oscillation of momentum once no step after another is looked at


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


with_extra_args = functools.lru_cache(maxsize=32)(optax.with_extra_args_support)  # the same again: nothing recompiles


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


def check_state(transform: optax.GradientTransformationExtraArgs, state: optax.OptState, params: Params) -> None:
    """Raise ValueError for a state that is not one of this optimizer for these parameters."""
    wanted = jax.eval_shape(transform.init, params)
    same = jax.tree.structure(state) == jax.tree.structure(wanted)
    if not same:
        expected, got = jax.tree.structure(wanted), jax.tree.structure(state)
        raise ValueError(f"opt_state: expected a state of the optimizer, {expected}, got {got}")
    for leaf, like in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
        if jnp.shape(leaf) != like.shape:
            raise ValueError(f"opt_state: expected arrays that fit params, {like.shape}, got {jnp.shape(leaf)}")
