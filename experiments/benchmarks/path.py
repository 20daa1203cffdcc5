"""How long does a path of 50 softmax regressions take, here and in scikit-learn, to the same optimum?

    pip install '.[data]'
    python -m experiments.benchmarks.path [--out FOLDER]

Digits (1,797 x 64) and 5,000 MNIST digits (x 784), 10 classes, l2 from 1 to 1e-6, float64; every minimum at most 1e-8
above the optimum, relative. jaxsoft: ``critical.make_path``, one piece of the path for each core; warm is the second
call of ``sweep.run`` and later ones, with all it does on the host. scikit-learn: C = 1 / (n l2), each fit started from
the minimum at the value before, with the loosest tolerance of a ladder that arrives, and the faster number of
threads, both found beforehand. Where ``stride`` is above 1 only every so many values are fitted, and the time is scaled
to all. The optimum is the lowest loss that any side, or a search to 1e-12, has found.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from experiments.benchmarks.timing import in_turn, spread
from jaxsoft import critical, data, models, problem, sweep
from jaxsoft.data import Dataset

OURS = "jaxsoft"
# The loosest tolerance, in the ‖∇L‖ that is always enough, and the step to the next; Newton's jump over many.
LADDER = {"lbfgs": (1.0, 2.0), "newton-cholesky": (1024.0, 4.0)}
RUNGS = 12


@dataclass(frozen=True)
class Config:
    """stride: of the values that a solver fits, by data set and solver; 1 where it is not named."""

    datasets: tuple[str, ...] = ("digits", "mnist")
    segment: int = 5  # values between two looks at the clock
    solvers: tuple[str, ...] = ("lbfgs", "newton-cholesky")
    stride: tuple[tuple[str, str, int], ...] = (("mnist", "lbfgs", 7), ("mnist", "newton-cholesky", 25))
    values: int = 50
    largest: float = 1.0
    smallest: float = 1e-6
    rtol: float = 1e-8
    threads: tuple[int, ...] = (1, 2)
    repeats: int = 3


class Row(NamedTuple):
    """Seconds of the whole path, cold (None: the same as warm) and warm; the largest relative excess loss."""

    dataset: str
    tool: str
    cold: float | None
    warm: tuple[float, ...]
    excess: float
    fitted: int
    threads: int


def penalties(config: Config) -> np.ndarray:
    return np.geomspace(config.largest, config.smallest, config.values)


def losses(examples: Dataset, l2: np.ndarray, points: np.ndarray) -> np.ndarray:
    """L at every point (k, P), weights before biases, by plain numpy."""
    x, rows = examples.x.reshape(len(examples.y), -1).astype(np.float64), np.arange(len(examples.y))
    weights, biases = np.split(points, [-examples.num_classes], axis=1)
    found = []
    for value, w, b in zip(l2, weights, biases, strict=True):
        z = x @ w.reshape(examples.num_classes, -1).T + b
        top = z.max(axis=1)
        cost = np.mean(top + np.log(np.exp(z - top[:, None]).sum(axis=1)) - z[rows, examples.y])
        found.append(cost + 0.5 * value * w @ w)
    return np.array(found)


def ours(examples: Dataset, config: Config, rtol: float) -> tuple[float, np.ndarray]:
    """Seconds, and the minima (values, P). A piece of the path for each device; the last value may be passed."""
    model = models.softmax_regression(examples.x[0].size, examples.num_classes)
    l2, pieces = penalties(config), len(jax.local_devices())
    length, ratio = -(-len(l2) // pieces), l2[1] / l2[0]

    def made(value: jax.Array) -> Any:
        return problem.classification(model, examples, value)

    def piece(start: jax.Array) -> Any:
        return critical.make_path(made, start * ratio ** jnp.arange(length), rtol=rtol)

    begin = time.perf_counter()
    starts = {"start": [l2[0] * ratio ** (length * i) for i in range(pieces)]}
    ds = sweep.run(piece, starts, seed=0, steps=max(1, length - 1), segment=config.segment)
    points = ds["params"].to_numpy()[:, :length]
    seconds = time.perf_counter() - begin
    return seconds, points.reshape(-1, points.shape[-1])[: len(l2)]


def chosen(dataset: str, solver: str, config: Config) -> np.ndarray:
    """The numbers of the values that are fitted; with a stride those in the middle of each stretch."""
    stride = {(d, s): k for d, s, k in config.stride}.get((dataset, solver), 1)
    return np.arange(config.values)[stride // 2 :: stride]


class Peer:
    """scikit-learn along the path: each fit starts from the minimum at the value before."""

    def __init__(self, examples: Dataset, solver: Any, numbers: np.ndarray, minima: np.ndarray, config: Config) -> None:
        self.x, self.y = examples.x.reshape(len(examples.y), -1).astype(np.float64), examples.y
        self.examples, self.solver, self.numbers, self.config = examples, solver, numbers, config
        self.l2, self.minima, self.threads = penalties(config), minima, config.threads[0]
        self.tol: dict[int, float] = {}

    def fit(self, k: int, tol: float) -> tuple[float, np.ndarray]:
        model = LogisticRegression(
            C=1 / (len(self.y) * self.l2[k]), solver=self.solver, tol=tol, max_iter=100_000, warm_start=True
        )
        if k > 0:
            weights, bias = np.split(self.minima[k - 1], [-self.examples.num_classes])
            model.classes_ = np.arange(self.examples.num_classes)
            model.coef_, model.intercept_ = weights.reshape(len(bias), -1).copy(), bias.copy()
        begin = time.perf_counter()
        with threadpool_limits(self.threads), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # what counts is the excess loss
            model.fit(self.x, self.y)
        return time.perf_counter() - begin, np.concatenate([model.coef_.ravel(), model.intercept_])

    def tune(self, lowest: np.ndarray) -> None:
        """The faster number of threads at the first value, then for each the loosest tolerance that is tight enough."""
        first = self.numbers[0]
        seconds = {}
        for threads in self.config.threads:
            self.threads = threads
            seconds[threads] = self.fit(first, 1e-4)[0]
        self.threads = min(seconds, key=lambda t: seconds[t])
        for k in self.numbers.tolist():
            loosest, factor = LADDER[self.solver]
            tol = loosest * float(np.sqrt(2 * self.config.rtol * self.l2[k] * lowest[k]))
            for _ in range(RUNGS):
                point = self.fit(k, tol)[1]
                if losses(self.examples, self.l2[[k]], point[None])[0] / lowest[k] - 1 <= self.config.rtol:
                    break
                tol /= factor
            self.tol[k] = tol

    def run(self) -> tuple[float, np.ndarray]:
        """Seconds, scaled to the whole path, and the minima that were fitted."""
        fits = [self.fit(k, self.tol[k]) for k in self.numbers.tolist()]
        return sum(s for s, _ in fits) * self.config.values / len(fits), np.stack([p for _, p in fits])


def main(config: Config = Config()) -> list[Row]:
    """Both sides on every data set, in turn."""
    if not jax.config.read("jax_enable_x64"):
        raise ValueError("jax_enable_x64: expected True, for 1e-8 is asked of float32")
    rows, l2 = [], penalties(config)
    for name in config.datasets:
        examples = data.get(name)
        cold, points = ours(examples, config, config.rtol)
        best = ours(examples, config, config.rtol * 1e-4)[1]
        lowest = np.minimum(losses(examples, l2, points), losses(examples, l2, best))
        peers = {s: Peer(examples, s, chosen(name, s, config), best, config) for s in config.solvers}
        for peer in peers.values():
            peer.tune(lowest)
        runs = in_turn(
            {
                OURS: functools.partial(ours, examples, config, config.rtol),
                **{s: peer.run for s, peer in peers.items()},
            },
            config.repeats,
        )
        for tool, ran in runs.items():
            numbers = np.arange(len(l2)) if tool == OURS else peers[tool].numbers
            excess = losses(examples, l2[numbers], ran[-1][1]) / lowest[numbers] - 1
            threads = len(jax.local_devices()) if tool == OURS else peers[tool].threads
            first, warm = cold if tool == OURS else None, tuple(spent for spent, _ in ran)
            rows.append(Row(name, tool, first, warm, float(excess.max()), len(numbers), threads))
    return rows


def ratios(rows: list[Row], row: Row) -> list[float]:
    """Seconds of this tool over ours, repeat by repeat."""
    own = next(r for r in rows if r.dataset == row.dataset and r.tool == OURS)
    return [theirs / mine for theirs, mine in zip(row.warm, own.warm, strict=True)]


def show(rows: list[Row], console: Console) -> None:
    table = Table()
    for heading in ("data", "tool", "cold s", "warm s", "ratio", "excess loss", "values", "threads"):
        table.add_column(heading)
    for r in rows:
        ratio = "" if r.tool == OURS else spread(ratios(rows, r))
        cold = "" if r.cold is None else f"{r.cold:.1f}"
        table.add_row(r.dataset, r.tool, cold, spread(r.warm), ratio, f"{r.excess:.1e}", str(r.fitted), str(r.threads))
    console.print(table)


def save(rows: list[Row], config: Config, path: Path) -> None:
    made = [{**r._asdict(), "ratio": None if r.tool == OURS else ratios(rows, r)} for r in rows]
    path.write_text(json.dumps({"config": asdict(config), "rows": made}, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for path.json")
    parser.add_argument("--dataset", choices=Config.datasets, help="only this one")
    parser.add_argument("--repeats", type=int, default=Config.repeats)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    jax.config.update("jax_enable_x64", True)
    only = (options.dataset,) if options.dataset else Config.datasets
    config = Config(datasets=only, repeats=options.repeats)
    rows = main(config)
    show(rows, Console(width=140))
    options.out.mkdir(parents=True, exist_ok=True)
    save(rows, config, options.out / "path.json")
