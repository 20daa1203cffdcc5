"""The second waist: a process is a pair of pure functions ``(init, step)``, for everything that iterates.

    state       = init(key)
    state, info = step(state)

``info`` describes the state that *went in*. So ``step(state)[1]`` observes any state, frozen or live, and a compiler
drops the observation wherever only the next state is used. A training run is a process, a search for a critical point
is one; ``jaxsoft.sweep.run`` runs any of them over thousands of lanes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:  # reading results needs the statuses, not jax
    import jax

State = TypeVar("State")

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
