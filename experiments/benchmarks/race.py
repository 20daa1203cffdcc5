"""Sides that are asked in turn, and what they took as rows: each measurement of ``sweeps`` is a function here."""

from __future__ import annotations

import functools
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks import first_result
from experiments.benchmarks.items import Item, Limits, examples, losses_at, work
from experiments.benchmarks.timing import in_turn, missing
from experiments.benchmarks.worker import NEEDS, Process

OURS, LIMITS = "jaxsoft", "limits"
# The largest relative difference of median losses: with all examples the sides do the same arithmetic in another order;
# with batches they draw other ones, and a slow side has few runs.
SAME, SAME_WITH_BATCHES = 1e-3, 0.1


@dataclass(frozen=True)
class Row:
    """One side at one work item; what is not known is NaN.

    rates: run-steps a second, a repeat each. ratios: our rate over this one, repeat by repeat; empty for our own.
    shares, xla_shares: of the limit of the machine, and of the limit with XLA's functions, repeat by repeat; limits:
    those, in our own row. difference: of the median losses from ours, relative; ``valid`` where it is small.
    """

    item: str
    title: str
    side: str
    amount: str = ""
    cold: float = math.nan
    compile: float = math.nan
    seconds: tuple[float, ...] = ()
    rates: tuple[float, ...] = ()
    ratios: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    xla_shares: tuple[float, ...] = ()
    limits: tuple[dict[str, Limits], ...] = ()
    difference: float = math.nan
    valid: bool = True
    note: str = ""


@dataclass(frozen=True)
class Memory:
    """The most bytes that a process held: with libraries and compiled programs alone, and with all runs."""

    title: str
    runs: int
    state_bytes: int  # of a run, from step to step
    record_bytes: int  # of a run, kept to the end
    before: int
    peak: int


def race(item: Item, sides: Mapping[str, Process], sizes: Mapping[str, float], repeats: int, rest: float) -> list[Row]:
    """Cold once each, then the warm repeats, every side in turn, and the limits (of these sizes) among them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = str(folder / "start.npz")
        sides[OURS].ask("initial", item=asdict(item), to=start)
        for process in sides.values():
            process.ask("prepare", item=asdict(item), start=start)

        def ask(side: str, to: str | None = None) -> float:
            time.sleep(rest)
            return sides[side].ask("call", item=item.name, to=to)["seconds"]

        cold = {side: ask(side, str(folder / f"{side}.npy")) for side in sides}
        losses = {side: np.load(folder / f"{side}.npy") for side in sides}

    def measured() -> dict[str, Limits]:
        time.sleep(rest)
        return {name: Limits(**made) for name, made in sides[OURS].ask("limits", **sizes).items()}

    calls: dict[str, Callable[[], Any]] = {OURS: functools.partial(ask, OURS), LIMITS: measured}
    calls |= {side: functools.partial(ask, side) for side in sides}
    measured()  # compiles
    warm: dict[str, list[Any]] = in_turn(calls, repeats)
    limits: tuple[dict[str, Limits], ...] = tuple(warm.pop(LIMITS))
    rates = {side: tuple(math.prod(item.amount(side)) / s for s in warm[side]) for side in sides}
    needed = work(item, limits[0]["machine"].cache_bytes)
    rows = []
    for side in sides:
        runs, steps = item.amount(side)
        shares, xla_shares = (
            tuple(now[by].seconds(needed) * rate for now, rate in zip(limits, rates[side], strict=True))
            for by in ("machine", "xla")
        )
        apart = difference(item, losses[OURS], losses[side])
        ratios = () if side == OURS else tuple(a / b for a, b in zip(rates[OURS], rates[side], strict=True))
        rows.append(
            Row(
                item.name, item.title, side, f"{runs:,} x {steps}", cold[side],
                max(0.0, cold[side] - float(np.median(warm[side]))), tuple(warm[side]), rates[side], ratios,
                shares, xla_shares, limits if side == OURS else (),
                apart, apart <= (SAME if item.batch is None else SAME_WITH_BATCHES),
            )
        )  # fmt: skip
    return rows


def difference(item: Item, ours: np.ndarray, theirs: np.ndarray) -> float:
    """Of the median loss over the runs that both have, at the last step that both have; losses are (runs, steps).

    Relative to ours. With batches the mean over the last epoch stands for the loss of one step. NaN counts as infinite.
    """
    runs, steps = min(len(ours), len(theirs)), min(ours.shape[1], theirs.shape[1])
    window = 1 if item.batch is None else min(steps, examples(item) // item.batch)
    a, b = (float(np.median(losses_at(losses[:runs], steps, window))) for losses in (ours, theirs))
    return abs(a - b) / abs(a) if math.isfinite(a) and math.isfinite(b) else math.inf


def not_installed(side: str) -> str:
    """What is missing for a side, "" if nothing."""
    absent = missing(NEEDS.get(side, ()))
    return f"{' and '.join(absent)} not installed" if absent else ""


def compare(item: str, title: str, ours: str, seconds: Mapping[str, Sequence[float]]) -> list[Row]:
    """Rows of the same work done in several ways, from the seconds of each repeat of each."""
    rows = []
    for way, taken in seconds.items():
        ratios = () if way == ours else tuple(b / a for a, b in zip(seconds[ours], taken, strict=True))
        rows.append(Row(item, title, way, seconds=tuple(taken), ratios=ratios))
    return rows


def time_to_first_result(options: Sequence[str], repeats: int) -> list[Row]:
    """(g): the whole command, without a cache of compiled programs, filling one, and with it."""
    title = f"(g) jaxsoft sweep {' '.join(options)}: the whole command"
    return compare("g", title, "with a full cache", first_result.main(options, repeats))


def many_optimizers(item: Item, count: int, repeats: int, opened: Callable[[str], Process]) -> list[Row]:
    """(h): a sweep over optimizers and learning rates, and the same one by one; a fresh process each time."""
    ways = ("one sweep", "separate sweeps", "separate programs")

    def ask(how: str) -> dict:
        with opened("plain" if how == "separate programs" else OURS) as process:
            return process.ask("grid", how=how, item=asdict(item), count=count)

    answers = in_turn({how: functools.partial(ask, how) for how in ways}, repeats)
    title = f"(h) {count} optimizers x 5 learning rates x {item.runs} runs, {item.steps} steps: cold, a fresh process"
    rows = compare("h", title, ways[0], {how: [a["seconds"] for a in answers[how]] for how in ways})
    losses = {how: np.array(answers[how][0]["losses"]) for how in ways}
    apart = {how: float(np.max(np.abs(losses[how] / losses[ways[0]] - 1))) for how in ways}
    compiling = {how: float(np.median([a["compile"] for a in answers[how]])) for how in ways}
    return [replace(r, compile=compiling[r.side], difference=apart[r.side], valid=apart[r.side] <= SAME) for r in rows]


def memory(item: Item, runs: int, steps: int, record_every: int, opened: Callable[[str], Process]) -> Memory:
    """The peak of a fresh process that sweeps so many runs."""
    with opened(OURS) as process:
        found = process.ask("memory", item=asdict(item), runs=runs, steps=steps, record_every=record_every)
    records = len(range(0, steps, record_every)) + 1
    title = f"{runs:,} runs of (a), {steps} steps, {records:,} records a run"
    return Memory(title, runs, found["state"], 2 * 4 * records, found["before"], found["bytes"])
