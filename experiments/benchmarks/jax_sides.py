"""Two sides of the race in jax: this library, and what an expert writes by hand, ``jit(vmap(scan))`` with optax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks.items import DATA, Item
from jaxsoft import models, optimizers, problem, sweep, train
from jaxsoft.problem import Problem
from jaxsoft.process import Process

Call = Callable[[], np.ndarray]  # trains, and returns the losses (runs, steps)
Start = list[list[np.ndarray]]  # a layer's W (runs, out, in), and b (runs, out) if it has one
Records = tuple[jax.Array, jax.Array]


def surface(item: Item) -> Problem:
    """The item as users of this library write it."""
    make = models.deep_linear if item.activation == "linear" else models.mlp
    return problem.classification(make(item.sizes, init="glorot"), DATA[item.data]())


def process(item: Item) -> Process:
    return train.make_train(surface(item), optimizers.make(item.optimizer, item.learning_rate), batch_size=item.batch)


def transform(item: Item) -> optax.GradientTransformation:
    return {"adam": optax.adam, "gd": optax.sgd}[item.optimizer](item.learning_rate)


def initial(item: Item, runs: int) -> Start:
    """The weights from which the runs of a sweep with seed 0 start."""
    init = process(item).init
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(runs))
    layers = jax.jit(jax.vmap(lambda key: init(key).params))(keys)
    return [[np.asarray(leaf) for leaf in layer if leaf is not None] for layer in layers]


def ours(item: Item, start: Start) -> Call:
    """The whole call of the sweep, which draws its own starts: those of ``initial``."""
    runs, steps = item.amount("jaxsoft")

    def call() -> np.ndarray:
        return sweep.run(process(item), {"run": sweep.Seeds(runs)}, seed=0, steps=steps)["loss"].to_numpy()

    return call


def by_rows(start: Start) -> list[list[jax.Array]]:
    """W (runs, in, out) and b (runs, out) of each layer, for h W + b."""
    return [[jnp.asarray(w.swapaxes(1, 2)), *map(jnp.asarray, b)] for w, *b in start]


def plain_loss(item: Item) -> Callable[..., jax.Array]:
    """``loss(params, rows=None)`` of one run, on all the data or on some of its rows."""
    dataset = DATA[item.data]()
    x, y = jnp.asarray(dataset.x, jnp.float32), jnp.asarray(dataset.y)
    activation = {"tanh": jnp.tanh, "linear": lambda h: h}[item.activation]

    def loss(params: Any, rows: jax.Array | None = None) -> jax.Array:
        h, labels = (x, y) if rows is None else (x[rows], y[rows])
        for i, (w, *b) in enumerate(params):
            h = h @ w + b[0] if b else h @ w
            h = activation(h) if i < len(params) - 1 else h
        return optax.softmax_cross_entropy_with_integer_labels(h, labels).mean()

    return loss


def plain(item: Item, start: Start) -> Call:
    """Inputs as rows, jax.grad, optax, a scan over steps, a vmap over runs, one jit.

    Batches: a permutation a run and epoch, and the rows of a step gathered in it.
    """
    runs, steps = item.amount("plain")
    params = by_rows([[leaf[:runs] for leaf in layer] for layer in start])
    optimizer, loss = transform(item), plain_loss(item)

    def step(carry: Any, rows: jax.Array | None) -> tuple[Any, Records]:
        params, state = carry
        value, grad = jax.value_and_grad(loss)(params, rows)
        updates, state = optimizer.update(grad, state, params)
        return (optax.apply_updates(params, updates), state), (value, optax.tree.norm(grad))

    def full(params: Any, key: jax.Array) -> Records:
        return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[1]

    def batches(params: Any, key: jax.Array) -> Records:
        size, examples = int(item.batch or 0), len(DATA[item.data]().y)
        each = examples // size

        def epoch(carry: Any, key: jax.Array) -> tuple[Any, Records]:
            order = jax.random.permutation(key, examples)[: each * size].reshape(each, size)
            return jax.lax.scan(step, carry, order)

        keys = jax.random.split(key, -(-steps // each))
        records = jax.lax.scan(epoch, (params, optimizer.init(params)), keys)[1]
        return jax.tree.map(jnp.ravel, records)

    train_all = jax.jit(jax.vmap(full if item.batch is None else batches))
    keys = jax.random.split(jax.random.key(1), runs)

    def call() -> np.ndarray:
        losses, norms = train_all(params, keys)
        np.asarray(norms)
        return np.asarray(losses)

    return call
