"""Runs of a sweep again, each up to a step of its own: the states that nobody kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxsoft import sweep
from jaxsoft.axes import Axes, Block, Grid
from jaxsoft.process import CONVERGED, Info, Params, Process, State
from jaxsoft.program import Factory, build


def states(
    process: Factory | Process,
    axes: Axes,
    at: xr.DataArray,
    *,
    seed: int,
    keep: Callable[[Any], Params] = lambda state: state.params,
    progress: bool = False,
) -> Params:
    """What ``keep`` takes from the states of a sweep's runs at given steps, the parameters by default.

    Args:
        process, axes, seed: as they were given to ``sweep.run``; the float type has to be that of then too.
        at: steps, labelled by the axes: each axis is a coordinate, of a dimension or a single one. Other dimensions
            (several steps of one run) are welcome; NaN asks for nothing. ``plateau.flattest`` returns such steps.
        keep: of a state, a pytree of arrays; of the same structure for all kinds that are asked for.
        progress: show progress on standard error.

    Returns:
        A pytree whose leaves have one entry for each number in ``at``, in the order of ``at.to_numpy()``. Trajectories
        are those of the sweep but for rounding; a run that had ended by then is given as it ended.

    Raises ValueError for an axis that ``at`` does not name, labels that are not on the axes, and steps that are not
    whole numbers >= 0.
    """
    grid = Grid(axes)
    steps = at.to_numpy().astype(float)
    asked = ~np.isnan(steps)
    stops = steps[asked]
    if stops.size == 0 or not ((stops >= 0) & (stops == np.floor(stops)) & (stops < 2**31 - 1)).all():
        raise ValueError(f"at: expected whole numbers >= 0, at least one, got {at.to_numpy()}")
    labels = grid.coordinates()
    places = {name: _places(at, name, labels[name][1])[asked] for name in grid.dims}
    block_of, lane_of = (
        np.ravel_multi_index([places[name] for name in names], shape) if names else np.zeros(stops.size, int)
        for names, shape in ((tuple(grid.kinds), grid.shape[: len(grid.kinds)]), (grid.lane_dims, grid.lane_shape))
    )
    parts, order = [], []
    for number, block in enumerate(grid.blocks()):
        here = np.flatnonzero(block_of == number)
        if here.size:
            parts.append(_of_block(process, block, grid, lane_of[here], stops[here], seed, keep, progress))
            order.append(here)
    back = np.argsort(np.concatenate(order))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[back], *parts)


def _places(at: xr.DataArray, name: str, values: np.ndarray) -> np.ndarray:
    """Where on an axis each entry of ``at`` lies."""
    if name not in at.coords:
        raise ValueError(
            f"at: expected the axis {name} as a coordinate, got {', '.join(map(str, at.coords)) or 'none'}"
        )
    labels = xr.broadcast(at.coords[name], at)[0].transpose(*at.dims).to_numpy()
    unknown = ~np.isin(labels, values)
    if unknown.any():
        raise ValueError(f"at: expected labels of the axis {name}, got {labels[unknown][0]}")
    return (labels[..., None] == values).argmax(axis=-1)


def _of_block(
    process: Factory | Process, block: Block, grid: Grid, lanes: np.ndarray, stops: np.ndarray, seed: int,
    keep: Callable[[Any], Params], progress: bool,
) -> Params:  # fmt: skip
    """One kind's runs, each a lane of one compiled program that ends at its step."""
    numbers, runs = grid.point(lanes)
    float_type = jnp.result_type(float)
    tables = {name: jnp.asarray(values, float_type) for name, values in numbers.items()}
    shared = {name: jnp.asarray(value, float_type) for name, value in block.numbers.items()}
    ids, ends = jnp.asarray(runs), jnp.asarray(stops, jnp.int32)

    def made(index: jax.Array) -> Process:
        return build(process, block, {name: table[index] for name, table in tables.items()} | shared)

    def lane(lane: jax.Array) -> Process:
        index = lane.astype(jnp.int32)
        inner = made(index)

        def init(_: jax.Array) -> tuple[State, jax.Array]:
            return inner.init(jax.random.fold_in(jax.random.key(seed), ids[index])), jnp.zeros((), jnp.int32)

        def step(carry: tuple[State, jax.Array]) -> tuple[tuple[State, jax.Array], Info]:
            state, taken = carry
            following, info = inner.step(state)
            done = jnp.where(taken >= ends[index], CONVERGED, info.done).astype(jnp.int32)
            leaves = jax.tree.leaves(keep(state))
            return (following, taken + 1), Info(done, {}, {str(i): leaf for i, leaf in enumerate(leaves)})

        return Process(init, step)

    most = int(stops.max()) + 1
    ds = sweep.run(lane, {"lane": range(len(lanes))}, seed=seed, steps=most, record_every=most, progress=progress)
    like = jax.eval_shape(lambda: keep(made(jnp.zeros((), jnp.int32)).init(jax.random.key(0))))
    structure = jax.tree.structure(like)
    return jax.tree.unflatten(
        structure, [jnp.asarray(ds[f"final_{i}"].to_numpy()) for i in range(structure.num_leaves)]
    )
