"""How fast are sweeps, next to what one would write without this library, and next to what the machine can do?

    make bench            # or: pip install '.[data,bench]'; python -m experiments.benchmarks.sweeps
    make bench QUICK=1    # smaller sizes; exit code 1 where a ratio is under its floor

Every side has a process of its own, and all are asked in turn, so that what else the machine does hits all alike: read
the results as ratios of one run. README.md beside this file says what the sides and the work items are, and the limit.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments import script
from experiments.benchmarks.items import FULL, GRID, Item
from experiments.benchmarks.items import QUICK as QUICK_ITEMS
from experiments.benchmarks.race import (
    OURS,
    Memory,
    Row,
    many_optimizers,
    memory,
    not_installed,
    race,
    time_to_first_result,
)
from experiments.benchmarks.timing import spread, versions
from experiments.benchmarks.worker import SIDES, Process

SHARE = "share of the limit"
# The least median of a ratio, by work item and what it is the ratio to; QUICK and full size have the same. Some three
# quarters of the smaller of both, on the slower of two machines: under QUICK a sweep's preparation weighs most.
FLOORS: dict[tuple[str, str], float] = {
    ("a", "plain"): 3.7,
    ("a", "torch.func"): 5.4,
    ("a", "torch loop"): 200.0,
    ("a", SHARE): 0.19,
    ("b", "plain"): 1.8,
    ("b", "torch.func"): 2.6,
    ("b", "torch loop"): 3.9,
    ("b", SHARE): 0.3,
    ("c", "plain"): 2.0,
    ("c", "torch.func"): 2.0,
    ("c", "torch loop"): 20.0,
    ("c", SHARE): 0.12,
    ("d", "plain"): 2.8,
    ("d", "torch.func"): 6.0,
    ("d", "torch loop"): 50.0,
    ("d", SHARE): 0.13,
    ("g", "without a cache"): 1.3,
    ("h", "separate sweeps"): 1.0,
    ("h", "separate programs"): 0.28,
}
MEMORY_CEILING = 2e9  # bytes, of a whole process
ELSEWHERE = (
    "(e) softmax regression along a path of l2: python -m experiments.benchmarks.path",
    "(f) Hessians and indices: python -m experiments.benchmarks.curvature",
    "(f) critical points: python -m experiments.benchmarks.critical",
)
PACKAGES = ("jaxsoft", "jax", "jaxlib", "optax", "numpy", "torch")


@dataclass(frozen=True)
class Config:
    """rest: seconds before each call, in which the threads of the side before stop waiting for work.

    limits: arguments of ``roofline.measure``. first: options of ``jaxsoft sweep`` for (g). grid, optimizers: of (h).
    memory: runs, steps, and steps between records; all of item (a).
    """

    items: tuple[Item, ...] = FULL
    sides: tuple[str, ...] = tuple(SIDES)
    repeats: int = 5
    rest: float = 0.2
    limits: dict[str, float] = field(default_factory=dict)
    first: tuple[str, ...] = ("--optimizers", "gd", "--inits", "64", "--steps", "20")
    first_repeats: int = 3
    grid: Item = GRID
    optimizers: int = 20
    grid_repeats: int = 1
    memory: tuple[tuple[int, int, int], ...] = ((4096, 1000, 1), (100_000, 20, 20))


QUICK = Config(
    items=QUICK_ITEMS, repeats=3, limits={"window": 0.1}, first_repeats=1, optimizers=3, grid_repeats=1,
    memory=((4096, 30, 1), (100_000, 2, 2)),
)  # fmt: skip


@dataclass(frozen=True)
class Results:
    machine: dict[str, object]
    rows: list[Row]
    memory: list[Memory]


def main(config: Config = Config(), console: Console | None = None) -> Results:
    """Everything that the configuration names; each part is shown as it comes."""
    console = console or Console()
    about = machine()
    console.print(about)
    rows: list[Row] = []
    with ExitStack() as stack:
        absent = {side: reason for side in config.sides if (reason := not_installed(side))}
        sides = {side: stack.enter_context(Process(side)) for side in config.sides if side not in absent}
        for item in config.items:
            made = race(item, sides, config.limits, config.repeats, config.rest)
            made += [Row(item.name, item.title, side, note=reason) for side, reason in absent.items()]
            show(made, console)
            show_limits(made, console)
            rows += made
    if config.first_repeats:
        first = time_to_first_result(config.first, config.first_repeats)
        show(first, console)
        rows += first
    if config.grid_repeats:
        grid = many_optimizers(config.grid, config.optimizers, config.grid_repeats, Process)
        show(grid, console)
        rows += grid
    small = config.items[0]
    held = [memory(small, *amount, Process) for amount in config.memory]
    show_memory(held, console)
    for line in ELSEWHERE:
        console.print(line)
    return Results(about, rows, held)


def machine() -> dict[str, object]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],  # before anything is run here
        "python": platform.python_version(),
        "versions": versions(PACKAGES),
        "time": time.strftime("%Y-%m-%d %H:%M"),
    }


def failures(results: Results, floors: dict[tuple[str, str], float] | None = None) -> list[str]:
    """A line for each ratio under its floor, each result that differs from ours, and each memory over its ceiling."""
    floors = FLOORS if floors is None else floors
    lines = []
    for row in results.rows:
        if not row.valid:
            lines.append(f"{row.title}: {row.side} does not compute the same, its loss differs by {row.difference:.1e}")
        measured = {row.side: row.ratios, SHARE: row.shares if row.side == OURS else ()}
        for to, values in measured.items():
            floor = floors.get((row.item, to))
            if floor is not None and values and not np.median(values) >= floor:
                what = SHARE if to == SHARE else f"speed over {to}"
                lines.append(f"{row.title}: {what} {spread(values)}, expected at least {floor:g}")
    for held in results.memory:
        if held.peak > MEMORY_CEILING:
            lines.append(f"{held.title}: peak {held.peak / 1e9:.2f} GB, expected at most {MEMORY_CEILING / 1e9:g} GB")
    return lines


def number(value: float, form: str = ".3g") -> str:
    return "" if math.isnan(value) else format(value, form)


def percent(shares: Sequence[float]) -> str:
    return spread([100 * share for share in shares]) if shares else ""


def show(rows: Sequence[Row], console: Console) -> None:
    """The table of one work item, without the columns that say nothing there."""
    columns: dict[str, Callable[[Row], str]] = {
        "runs x steps": lambda r: r.amount,
        "cold s": lambda r: number(r.cold),
        "compile s": lambda r: number(r.compile),
        "s, median [min-max]": lambda r: spread(r.seconds) if r.seconds else "",
        "run-steps a second": lambda r: f"{np.median(r.rates):,.0f}" if r.rates else "",
        "jaxsoft faster by": lambda r: spread(r.ratios) if r.ratios else "",
        "% of the limit": lambda r: percent(r.shares),
        "% of XLA's": lambda r: percent(r.xla_shares),
        "loss apart": lambda r: number(r.difference, ".0e") + ("" if r.valid else " INVALID"),
        "": lambda r: r.note,
    }
    cells = {heading: [cell(r) for r in rows] for heading, cell in columns.items()}
    shown = {heading: column for heading, column in cells.items() if any(column)}
    table = Table(title=rows[0].title, title_justify="left")
    table.add_column("side")
    for heading in shown:
        table.add_column(heading, justify="right")
    for side, *line in zip([r.side for r in rows], *shown.values(), strict=True):
        table.add_row(side, *line)
    console.print(table)


def show_limits(rows: Sequence[Row], console: Console) -> None:
    """The rates of all rounds, by which the shares are."""
    rounds = [now for row in rows for now in row.limits]
    for name in rounds[0] if rounds else ():

        def rates(of: str, unit: float = 1e9, name: str = name) -> str:
            return spread([getattr(now[name], of) / unit for now in rounds])

        console.print(
            f"limits, {name}: GEMM {rates('gemm')} GFLOP/s; tanh {rates('tanh')}, exp {rates('exp')}, "
            f"log {rates('log')} thousand million a second; memory {rates('bandwidth')} GB/s"
        )


def show_memory(held: Sequence[Memory], console: Console) -> None:
    table = Table(title="Memory", title_justify="left")
    table.add_column("sweep")
    for heading in ("state of a run, bytes", "its records, bytes", "before, MB", "peak, MB", "growth a run, bytes"):
        table.add_column(heading, justify="right")
    for h in held:
        growth = (h.peak - h.before) / h.runs
        table.add_row(
            h.title, f"{h.state_bytes:,}", f"{h.record_bytes:,}", f"{h.before / 1e6:,.0f}", f"{h.peak / 1e6:,.0f}",
            f"{growth:,.0f}",
        )  # fmt: skip
    console.print(table)


def save(results: Results, lines: Sequence[str], path: Path) -> None:
    """All numbers, and what failed, as JSON; a NaN is null."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        if isinstance(value, float | np.floating):
            return float(value) if math.isfinite(value) else None
        return bool(value) if isinstance(value, np.bool_) else value

    made = plain({**asdict(results), "failures": list(lines)})
    script.write(path, json.dumps(made, indent=1, ensure_ascii=False).encode())


def run(arguments: Sequence[str] | None = None, console: Console | None = None) -> int:
    """The command: the exit code is 1 where something is under its floor or does not compute the same."""
    about = (__doc__ or "").partition("\n")[0]
    parser = script.Parser(prog="python -m experiments.benchmarks.sweeps", description=about)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, a few minutes")
    parser.add_argument("--out", type=script.folder, default="results", help="folder for the numbers as JSON")
    options = parser.parse_args(arguments)
    console = console or Console(width=None if sys.stdout.isatty() else 170)
    results = main(QUICK if options.quick else Config(), console)
    lines = failures(results)
    path = options.out / ("bench_quick.json" if options.quick else "bench.json")
    save(results, lines, path)
    console.print(str(path))
    for line in lines:
        print(line, file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(run())
