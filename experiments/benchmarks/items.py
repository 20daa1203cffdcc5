"""The work items of the race, as plain data that every side builds in its own way, and what they cost at least."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxsoft import data


@dataclass(frozen=True)
class Item:
    """Train ``runs`` nets of the same ``sizes`` for ``steps`` steps on one data set; every loss and ‖∇L‖ is kept.

    batch: examples in a mini-batch, None for all. amounts: runs and steps of a side that is slower; rates are compared.
    """

    name: str
    sizes: tuple[int, ...]
    data: str
    runs: int
    steps: int
    activation: str = "tanh"
    optimizer: str = "adam"
    learning_rate: float = 1e-2
    batch: int | None = None
    amounts: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def amount(self, side: str) -> tuple[int, int]:
        """Runs and steps of a timed call of this side."""
        return self.amounts.get(side, (self.runs, self.steps))

    @property
    def title(self) -> str:
        net = "-".join(map(str, self.sizes)) + (" linear" if self.activation == "linear" else "")
        points = "" if self.batch is None else f", batches of {self.batch}"
        return f"({self.name}) {net}, {self.data}{points}, {self.optimizer}, {self.runs:,} runs"


DATA: dict[str, Callable[[], data.Dataset]] = {
    "128 points": lambda: data.spirals(128, classes=3),
    "digits": data.digits,
    "100 points": lambda: data.planted(100, dim=10, classes=10),
}

SMALL, DIGITS, LINEAR = (2, 8, 3), (64, 32, 10), (10, 10, 10)

FULL = (
    Item(
        "a", SMALL, "128 points", 4096, 1000,
        amounts={"plain": (4096, 100), "torch.func": (4096, 25), "torch loop": (2, 300)},
    ),
    Item(
        "b", DIGITS, "digits", 256, 150,
        amounts={"plain": (256, 20), "torch.func": (64, 20), "torch loop": (4, 100)},
    ),
    Item(
        "c", DIGITS, "digits", 256, 1400, batch=64,
        amounts={"plain": (256, 112), "torch.func": (256, 56), "torch loop": (4, 280)},
    ),
    Item(
        "d", LINEAR, "100 points", 10_000, 100, "linear", "gd", 0.1,
        amounts={"plain": (10_000, 20), "torch.func": (10_000, 10), "torch loop": (4, 300)},
    ),
)  # fmt: skip
GRID = Item("h", SMALL, "128 points", 8, 100)  # for many optimizers
QUICK = (
    Item(
        "a", SMALL, "128 points", 4096, 250,
        amounts={"plain": (4096, 20), "torch.func": (4096, 5), "torch loop": (1, 100)},
    ),
    Item(
        "b", DIGITS, "digits", 64, 150,
        amounts={"plain": (64, 10), "torch.func": (16, 10), "torch loop": (1, 100)},
    ),
    Item(
        "c", DIGITS, "digits", 64, 1400, batch=64,
        amounts={"plain": (64, 56), "torch.func": (64, 28), "torch loop": (1, 140)},
    ),
    Item(
        "d", LINEAR, "100 points", 10_000, 50, "linear", "gd", 0.1,
        amounts={"plain": (10_000, 5), "torch.func": (10_000, 2), "torch loop": (1, 100)},
    ),
)  # fmt: skip


def examples(item: Item) -> int:
    return len(DATA[item.data]().y)


@dataclass(frozen=True)
class Work:
    """What one step of one run has to do at least: counts, and bytes to and from memory."""

    matmul_flops: int
    tanh: int
    exp: int
    log: int
    memory_bytes: int


def work(item: Item, cache_bytes: int) -> Work:
    """One step of one run, forward and backward, with n examples in the batch.

    Matrix products: 2 n in·out each, three a layer (z, ∂W, ∂h), two in the first, whose inputs need no gradient. One
    tanh a hidden unit and example, one exp a class and example, one log an example. The two records go to memory; the
    optimizer's arrays (θ, ∇L, and for Adam its two moments: all read and written) and the data only where one run with
    its data does not fit the cache.
    """
    all_examples = examples(item)
    n = item.batch or all_examples
    pairs = list(itertools.pairwise(item.sizes))
    weights = sum(a * b for a, b in pairs)
    bias = 0 if item.activation == "linear" else sum(item.sizes[1:])
    flops = 2 * n * (3 * weights - pairs[0][0] * pairs[0][1])
    hidden = 0 if item.activation == "linear" else sum(item.sizes[1:-1])
    copies = 4 if item.optimizer == "adam" else 2
    state = 4 * copies * (weights + bias)
    held = state + 4 * n * sum(item.sizes) + 4 * all_examples * item.sizes[0]
    spilled = 2 * state + 4 * n * item.sizes[0] if held > cache_bytes else 0
    return Work(flops, n * hidden, n * item.sizes[-1], n, spilled + 2 * 4)


@dataclass(frozen=True)
class Limits:
    """Rates a second of the whole machine: flops, function values, bytes; and the second-level cache of a core."""

    gemm: float
    tanh: float
    exp: float
    log: float
    bandwidth: float
    cache_bytes: int

    def seconds(self, work: Work) -> float:
        """The limit time of one step of one run."""
        functions = work.tanh / self.tanh + work.exp / self.exp + work.log / self.log
        return work.matmul_flops / self.gemm + functions + work.memory_bytes / self.bandwidth


def losses_at(losses: np.ndarray, steps: int, window: int) -> np.ndarray:
    """The mean loss of each run over the last ``window`` of the first ``steps`` steps, (runs, ...) -> (runs,)."""
    return losses[:, steps - window : steps].mean(1)


def from_plain(made: dict[str, Any]) -> Item:
    """The item of ``dataclasses.asdict``, after it has been JSON."""
    amounts = {side: tuple(amount) for side, amount in made["amounts"].items()}
    return Item(**made | {"sizes": tuple(made["sizes"]), "amounts": amounts})
