"""The second waist: a process is a pair of pure functions ``(init, step)``, for everything that iterates.

    state       = init(key)
    state, info = step(state)

``info`` describes the state that *went in*. So ``step(state)[1]`` observes any state, frozen or live, and a compiler
drops the observation wherever only the next state is used. A training run is a process, a search for a critical point
is one; ``jaxsoft.sweep.run`` runs any of them over thousands of lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:  # reading results needs the statuses, not jax
    import jax

State = TypeVar("State")
Params = Any

RUNNING, MAX_STEPS, DIVERGED, CONVERGED = 0, 1, 2, 3
STATUSES = ("running", "max_steps", "diverged", "converged")


class Info(NamedTuple):
    """What can be said of one state.

    done: () int32, 0 to go on, or the status (``CONVERGED``, ``DIVERGED``) with which the lane ends at this state.
    record: named arrays of fixed shape; the sweep keeps them at the thinned times as time series.
    final: named arrays of fixed shape; the sweep keeps them only for the state in which the lane ends.
    """

    done: jax.Array
    record: dict[str, jax.Array]
    final: dict[str, jax.Array]


class Init(Protocol[State]):
    """Draw the initial state from a typed key."""

    def __call__(self, key: jax.Array, /) -> State: ...


class Step(Protocol[State]):
    """Advance one step, and describe the state that came in."""

    def __call__(self, state: State, /) -> tuple[State, Info]: ...


class Process(NamedTuple, Generic[State]):
    """A pair of pure functions: ``init(key) -> state``, ``step(state) -> (state, info)``."""

    init: Init[State]
    step: Step[State]


def evaluate(measure: Callable[[Params], dict[str, jax.Array]], points: Params) -> Callable[[float], Process]:
    """``measure(params)`` at many points, as a process to sweep over: one step, and the result is its final record.

        ds = sweep.run(process.evaluate(measure, points), {"point": range(n)}, seed=0, steps=1)    # ds.final_...

    ``points`` is a pytree with n points along the first axis of every leaf. A point whose result is not a number, or a
    number that names none of the n, ends as diverged, and its results stay zero; the others are not touched.
    Raises ValueError where the leaves differ in n, TypeError where ``measure`` does not return a dict of arrays.
    """
    import jax
    import jax.numpy as jnp

    points = jax.tree.map(jnp.asarray, points)
    traced_once = jax.jit(lambda params: measure(params))  # of this call alone: what measure closes over may change
    like = jax.eval_shape(traced_once, points_of("points", points)[1])
    if not isinstance(like, dict) or not all(hasattr(value, "dtype") for value in like.values()):
        got = "an array" if hasattr(like, "dtype") else type(like).__name__
        raise TypeError(f"measure: expected a dict of arrays by name, got {got}")

    def process(point: float | jax.Array) -> Process:
        def init(key: jax.Array) -> tuple[Params, dict[str, jax.Array], jax.Array]:
            nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
            return point_at(points, point), nothing, jnp.zeros((), jnp.int32)

        def step(state: tuple[Params, dict[str, jax.Array], jax.Array]) -> tuple[object, Info]:
            here, result, done = state
            return (here, traced_once(here), jnp.full((), CONVERGED, jnp.int32)), Info(done, {}, result)

        return Process(init, step)

    return process


def until(process: Process[State], record: str, level: float | jax.Array) -> Process[State]:
    """The same process, ended as converged at the first state whose ``record`` is below the level (traced or not).

    >>> import jax.numpy as jnp
    >>> halve = Process(lambda key: jnp.ones(()), lambda x: (x / 2, Info(jnp.int32(RUNNING), {"x": x}, {})))
    >>> [int(until(halve, "x", 0.5).step(jnp.asarray(x))[1].done == CONVERGED) for x in (0.5, 0.4)]
    [0, 1]
    """
    import jax.numpy as jnp

    def step(state: State) -> tuple[State, Info]:
        following, info = process.step(state)
        below = (info.done == RUNNING) & (info.record[record] < level)
        return following, info._replace(done=jnp.where(below, CONVERGED, info.done))

    return Process(process.init, step)


def points_of(argument: str, points: Params) -> tuple[int, Params]:
    """How many points lie along the first axis of every leaf, and the shapes of one; ValueError where leaves differ."""
    import jax
    import jax.numpy as jnp

    lengths = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(points)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"{argument}: expected the same number of points, at least one, in every leaf, got {sorted(lengths)}"
        )
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[1:], jnp.result_type(leaf)), points)
    return lengths.pop(), one


def point_at(points: Params, point: float | jax.Array) -> Params:
    """The point with this (traced) number; NaN where the number names none."""
    import jax
    import jax.numpy as jnp

    index = jnp.asarray(point).round().astype(jnp.int32)

    def pick(leaf: jax.Array) -> jax.Array:
        leaf = jnp.asarray(leaf)
        known = (index == point) & (index >= 0) & (index < len(leaf))
        return jnp.where(known, leaf[index], _nothing(leaf.dtype))

    return jax.tree.map(pick, points)


def _nothing(dtype: jax.typing.DTypeLike) -> float:
    """NaN where the type has one."""
    import jax.numpy as jnp

    return float("nan") if jnp.issubdtype(dtype, jnp.inexact) else 0
