"""Two sides of the race in torch: ``torch.func.vmap`` over stacked runs, and run after run with torch.optim."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from experiments.benchmarks.items import DATA, Item

Call = Callable[[], np.ndarray]
Start = list[list[np.ndarray]]
BETA, RHO, EPS = 0.9, 0.999, 1e-8  # optax.adam's defaults, and torch's


def _torch() -> Any:
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(os.cpu_count() or 1)
    return torch


def _tensors(torch: Any, item: Item) -> tuple[Any, Any]:
    dataset = DATA[item.data]()
    return torch.from_numpy(np.array(dataset.x, np.float32)), torch.from_numpy(np.array(dataset.y, np.int64))


def func(item: Item, start: Start) -> Call:
    """vmap of grad_and_value over all runs, and the optimizer's formula on the stacked parameters, in place.

    Batches: a permutation a run and epoch, drawn by the argsort of uniform numbers, and gathered a step.
    """
    torch = _torch()
    runs, steps = item.amount("torch.func")
    x, y = _tensors(torch, item)
    activation = {"tanh": torch.tanh, "linear": lambda h: h}[item.activation]
    given = [torch.from_numpy(np.array(leaf[:runs])) for layer in start for leaf in layer]
    each = len(start[0])  # leaves a layer

    def loss(leaves: tuple[Any, ...], x: Any, y: Any) -> Any:
        h = x
        for i in range(0, len(leaves), each):
            h = torch.nn.functional.linear(h, *leaves[i : i + each])
            h = activation(h) if i < len(leaves) - each else h
        return torch.nn.functional.cross_entropy(h, y)

    in_dims = (0, None, None) if item.batch is None else (0, 0, 0)
    slopes = torch.func.vmap(torch.func.grad_and_value(loss), in_dims=in_dims)

    def batches() -> Iterator[tuple[Any, Any]]:
        while item.batch is None:
            yield x, y
        while True:
            order = torch.rand(runs, len(x)).argsort(1)
            for i in range(0, len(x) - item.batch + 1, item.batch):
                rows = order[:, i : i + item.batch]
                yield x[rows], y[rows]

    @torch.no_grad()
    def call() -> np.ndarray:
        leaves = tuple(leaf.clone() for leaf in given)
        m, v = ([torch.zeros_like(leaf) for leaf in leaves] for _ in range(2))
        losses, norms = torch.empty(runs, steps), torch.empty(runs, steps)
        feed = batches()
        for t in range(steps):
            grads, losses[:, t] = slopes(leaves, *next(feed))
            norms[:, t] = torch.stack([g.flatten(1).square().sum(1) for g in grads]).sum(0).sqrt()
            for theta, g, first, second in zip(leaves, grads, m, v, strict=True):
                if item.optimizer == "gd":
                    theta.add_(g, alpha=-item.learning_rate)
                    continue
                first.lerp_(g, 1 - BETA)
                second.mul_(RHO).addcmul_(g, g, value=1 - RHO)
                root = (second.sqrt() / math.sqrt(1 - RHO ** (t + 1))).add_(EPS)
                theta.addcdiv_(first, root, value=-item.learning_rate / (1 - BETA ** (t + 1)))
        return losses.numpy()

    return call


def loop(item: Item, start: Start) -> Call:
    """What a tutorial does: torch.nn.Sequential and torch.optim, one run after the other."""
    torch = _torch()
    runs, steps = item.amount("torch loop")
    x, y = _tensors(torch, item)
    between = {"tanh": torch.nn.Tanh, "linear": torch.nn.Identity}[item.activation]
    make = {"adam": torch.optim.Adam, "gd": torch.optim.SGD}[item.optimizer]

    def net(run: int) -> Any:
        layers: list[Any] = []
        for w, *b in start:
            linear = torch.nn.Linear(w.shape[2], w.shape[1], bias=bool(b))
            for parameter, value in zip(linear.parameters(), (w, *b), strict=True):
                parameter.data = torch.from_numpy(np.array(value[run]))
            layers += [linear, between()]
        return torch.nn.Sequential(*layers[:-1])

    def batches() -> Iterator[tuple[Any, Any]]:
        while item.batch is None:
            yield x, y
        while True:
            order = torch.randperm(len(x))
            for i in range(0, len(x) - item.batch + 1, item.batch):
                rows = order[i : i + item.batch]
                yield x[rows], y[rows]

    def call() -> np.ndarray:
        losses, norms = np.empty((runs, steps), np.float32), np.empty((runs, steps), np.float32)
        for run in range(runs):
            model = net(run)
            parameters = list(model.parameters())
            optimizer = make(parameters, lr=item.learning_rate)
            feed = batches()
            for t in range(steps):
                inputs, labels = next(feed)
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(model(inputs), labels)
                loss.backward()
                losses[run, t] = loss.item()
                norms[run, t] = torch.nn.utils.get_total_norm([p.grad for p in parameters]).item()
                optimizer.step()
        return losses

    return call
