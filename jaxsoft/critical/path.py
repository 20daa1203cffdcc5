"""The minima along a path of one number, each found from those before it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.flatten_util import ravel_pytree

from jaxsoft import checks
from jaxsoft.critical.methods import Iterate, Memory, Method, newton_cg
from jaxsoft.critical.search import surface_of
from jaxsoft.curvature.products import Composite, Loss, Params, Preconditioner
from jaxsoft.process import CONVERGED, RUNNING, Info, Process

RENEWED = 5  # values for which a preconditioner serves
ORDER = 2  # of the polynomial in ln l2 that foretells the next minimum
MOST_STEPS = 100  # Newton steps at one value


class Surface(Protocol):
    """A loss, and a way to draw parameters for it: every ``problem.Problem``."""

    @property
    def init(self) -> Callable[[jax.Array], Params]: ...
    @property
    def loss(self) -> Loss: ...


_Corrected = tuple[Iterate, Memory, jax.Array, jax.Array]


class PathState(NamedTuple):
    """The minimum at the value ``index``, those before it (order, P), nearest first, its gap and its Newton steps.

    factors: of the preconditioner, where the loss has one.
    """

    at: Iterate
    before: jax.Array
    factors: jax.Array | None
    index: jax.Array
    gap: jax.Array
    newton_steps: jax.Array


def make_path(
    problem: Callable[[jax.Array], Surface],
    l2: npt.ArrayLike,
    *,
    rtol: float = 1e-8,
    method: Method | None = None,
) -> Process[PathState]:
    """The minima of a convex loss, one penalty after the other, as ``(init, step)``: each step goes to the next value.

        def from_(start):                    # two pieces of 25, side by side: a path of 50 values from 1 to 1e-6
            return make_path(lambda l2: classification(model, dataset, l2), start * ratio ** jnp.arange(25))

        ds = sweep.run(from_, {"start": [1.0, ratio**25]}, seed=0, steps=24, segment=1)    # ratio = 10 ** (-6 / 49)

    ``l2`` (k,) has one ratio from value to value, downwards best; it may be traced. θ(l2) is foretold by the polynomial
    of degree 2 in ln l2 through the last three minima, then corrected by ``method`` (``newton_cg()`` by default, which
    is preconditioned where the loss has a ``preconditioner``: renewed every five values) until

        ‖∇L‖² / (2 l2 L) <= rtol,

    a bound of (L - min L) / L where L is l2-strongly convex (all parameters penalised). Unpenalised biases add
    ½ g_bᵀ H_bb⁻¹ g_b, less than that wherever the curvature in the biases is above l2. Use float64.

    The record at step k is that of value k: ``l2``, ``loss``, ``grad_norm``, ``gap`` (the left side above),
    ``newton_steps`` and ``params`` (P,) in the order of ``jax.tree.leaves``. Where the method got stuck, or took 100
    steps, gap > rtol says so. One lane is one piece of the path; one piece for each device keeps all of them busy.

    Raises ValueError for values that are not positive or not of one ratio, and an rtol that is not positive. Allgower &
    Georg (1990), "Numerical continuation methods"; warm starts: Friedman, Hastie & Tibshirani (2010), "Regularization
    paths for generalized linear models via coordinate descent".
    """
    values = _checked(l2)
    checks.positive("rtol", rtol)
    chosen = newton_cg() if method is None else method
    like = jax.eval_shape(problem(jnp.ones(())).init, jax.eval_shape(lambda: jax.random.key(0)))
    flat, unravel = ravel_pytree(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like))
    dtype = flat.dtype

    @jax.jit  # traced once, for the start and the step
    def solve(theta: jax.Array, index: jax.Array, before: jax.Array, factors: jax.Array | None) -> PathState:
        penalty = jnp.asarray(values, dtype)[index]
        loss = problem(penalty).loss
        surface = surface_of(loss, like)
        known = _preconditioner(loss, chosen)
        if known is not None:
            outdated = (index % RENEWED == 1) | (index == 0)
            held = jax.lax.cond(outdated, lambda: known.factors(unravel(theta)), lambda: factors)
            surface, factors = surface._replace(precondition=lambda v: known.apply(held, v)), held

        def gap(at: Iterate) -> jax.Array:
            return jnp.vdot(at.grad, at.grad) / (2 * penalty * at.loss)

        def going(carry: _Corrected) -> jax.Array:
            at, _, stuck, steps = carry
            return (gap(at) > rtol) & ~stuck & (steps < MOST_STEPS)

        def correct(carry: _Corrected) -> _Corrected:
            at, memory, _, steps = carry
            at, memory, stuck = chosen.move(surface, at, memory, jax.random.key(0))
            return at, memory, stuck, steps + 1

        at = surface.at(theta)
        begin = (at, chosen.start(at), jnp.zeros((), jnp.bool_), jnp.zeros((), jnp.int32))
        at, _, _, steps = jax.lax.while_loop(going, correct, begin)
        return PathState(at, before, factors, index, gap(at), steps)

    def init(key: jax.Array) -> PathState:
        with jax.default_matmul_precision("highest"):
            surface = problem(jnp.ones(()))
            theta, known = ravel_pytree(surface.init(key))[0], _preconditioner(surface.loss, chosen)
            shape = None if known is None else jax.eval_shape(known.factors, like)
            nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
            return solve(theta, jnp.zeros((), jnp.int32), jnp.zeros((ORDER, theta.size), dtype), nothing)

    def step(state: PathState) -> tuple[PathState, Info]:
        with jax.default_matmul_precision("highest"):
            points = jnp.concatenate([state.at.theta[None], state.before])
            weights = jnp.stack([extrapolation(min(k, ORDER) + 1) for k in range(ORDER + 1)])
            foretold = weights[jnp.minimum(state.index, ORDER)].astype(dtype) @ points
            following = jnp.minimum(state.index + 1, len(values) - 1)
            moved = solve(foretold, following, points[:-1], state.factors)
        done = jnp.where(state.index == len(values) - 1, CONVERGED, RUNNING).astype(jnp.int32)
        record = {
            "l2": jnp.asarray(values, dtype)[state.index],
            "loss": state.at.loss,
            "grad_norm": jnp.linalg.norm(state.at.grad),
            "gap": state.gap,
            "newton_steps": state.newton_steps,
            "params": state.at.theta,
        }
        return moved, Info(done, record, {})

    return Process(init, step)


def _preconditioner(loss: Loss, method: Method) -> Preconditioner | None:
    return loss.preconditioner if isinstance(loss, Composite) and method.preconditioned else None


def _checked(l2: npt.ArrayLike) -> jax.Array:
    if not checks.traced(l2):
        known = np.asarray(l2, np.float64)
        if known.ndim != 1 or not known.size or not (np.isfinite(known) & (known > 0)).all():
            raise ValueError(f"l2: expected a list of finite numbers > 0, got {l2}")
        if len(known) > 2 and not np.allclose(np.diff(np.log(known)), np.log(known[1] / known[0])):
            raise ValueError(f"l2: expected values of one ratio, like those of numpy.geomspace, got {l2}")
    return jnp.asarray(l2, jnp.result_type(float))


def extrapolation(points: int) -> jax.Array:
    """Weights of the last points, newest first, by which a polynomial through them gives the next one."""
    known = [(-1.0) ** j * math.comb(points, j + 1) for j in range(points)]
    return jnp.array(known + [0.0] * (ORDER + 1 - points))
