"""What a side is asked besides the race: many optimizers in one sweep, and the memory of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import jax_sides
from experiments.benchmarks.items import Item
from jaxsoft import sweep, train
from jaxsoft.process import Process

# optax's name of each, with its defaults
OPTIMIZERS = (
    "sgd", "adam", "adamw", "adamax", "adamaxw", "nadam", "nadamw", "radam", "amsgrad", "rmsprop", "adagrad",
    "adadelta", "adabelief", "lion", "lamb", "lars", "yogi", "novograd", "sm3", "sign_sgd",
)  # fmt: skip
COMPILING = "/jax/core/compile/backend_compile_duration"
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
COMPARED = 3  # of the rates: the others are too large for some optimizers, and blow rounding up


def one_sweep(item: Item, names: Sequence[str]) -> np.ndarray:
    """Final losses (optimizer, learning rate, run)."""
    surface = jax_sides.surface(item)

    def process(optimizer: Callable[..., optax.GradientTransformation], learning_rate: jax.Array) -> Process:
        return train.make_train(surface, optimizer(learning_rate))

    axes = {"optimizer": {name: getattr(optax, name) for name in names}, "learning_rate": RATES}
    ds = sweep.run(process, {**axes, "run": sweep.Seeds(item.runs)}, seed=0, steps=item.steps)
    return ds["loss"].to_numpy()[..., -1]


def separate_sweeps(item: Item, names: Sequence[str]) -> np.ndarray:
    """A sweep an optimizer, nothing kept by jax from one to the next."""
    parts = []
    for name in names:
        jax.clear_caches()
        parts.append(one_sweep(item, [name]))
    return np.concatenate(parts)


def separate_programs(item: Item, names: Sequence[str]) -> np.ndarray:
    """A ``jit(vmap(vmap(scan)))`` an optimizer, over learning rates and runs."""
    start = jax_sides.by_rows(jax_sides.initial(item, item.runs))
    loss = jax_sides.plain_loss(item)
    parts = []
    for name in names:
        jax.clear_caches()

        def train_one(learning_rate: jax.Array, params: Any, name: str = name) -> tuple[jax.Array, object]:
            optimizer = getattr(optax, name)(learning_rate)

            def step(carry: Any, _: None) -> tuple[Any, tuple[jax.Array, jax.Array]]:
                params, state = carry
                value, grad = jax.value_and_grad(loss)(params)
                updates, state = optimizer.update(grad, state, params)
                return (optax.apply_updates(params, updates), state), (value, optax.tree.norm(grad))

            carry, records = jax.lax.scan(step, (params, optimizer.init(params)), length=item.steps)
            return loss(carry[0]), records

        train_all = jax.jit(jax.vmap(jax.vmap(train_one, (None, 0)), (0, None)))
        parts.append(np.asarray(train_all(jnp.asarray(RATES), start)[0]))
    return np.stack(parts)


GRIDS = {"one sweep": one_sweep, "separate sweeps": separate_sweeps, "separate programs": separate_programs}


def timed_grid(how: str, item: Item, count: int) -> dict[str, Any]:
    """Of the first so many optimizers: seconds in all, the compiler's own seconds, and the median final losses."""
    compiling: list[float] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILING:
            compiling.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    begin = time.perf_counter()
    losses = GRIDS[how](item, OPTIMIZERS[:count])
    seconds = time.perf_counter() - begin
    return {
        "seconds": seconds,
        "compile": sum(compiling),
        "losses": np.median(losses[:, :COMPARED], axis=(1, 2)).tolist(),
    }


def train_runs(item: Item, runs: int, steps: int, record_every: int) -> None:
    sweep.run(jax_sides.process(item), {"run": sweep.Seeds(runs)}, seed=0, steps=steps, record_every=record_every)


def state_bytes(item: Item) -> int:
    """What one run carries from step to step."""
    init = jax_sides.process(item).init

    def plain(key: jax.Array) -> list[jax.Array]:
        leaves = jax.tree.leaves(init(key))
        return [jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in leaves]

    return sum(x.size * x.dtype.itemsize for x in jax.eval_shape(plain, jax.random.key(0)))
