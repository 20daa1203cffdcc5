"""A side of the race in a process of its own, with its own devices and threads, kept alive and asked in turn.

    python -m experiments.benchmarks.worker SIDE

Requests and answers are JSON, one a line, over standard input and output. jaxsoft runs with one XLA device a core, as
its command line does; plain jax with the one device that it has by default, and that device's threads; torch with a
thread a core.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from experiments.benchmarks.items import from_plain

# The module and the function of each side that make a call from an item and its initial weights.
SIDES = {
    "jaxsoft": ("jax_sides", "ours"),
    "plain": ("jax_sides", "plain"),
    "torch.func": ("torch_peers", "func"),
    "torch loop": ("torch_peers", "loop"),
}
NEEDS = {"torch.func": ("torch",), "torch loop": ("torch",)}


class Process:
    """The other end of a side: ``ask`` sends a request, and waits for the answer."""

    def __init__(self, side: str) -> None:
        self.side = side
        self._child = subprocess.Popen(
            [sys.executable, "-m", "experiments.benchmarks.worker", side],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip

    def ask(self, do: str, **request: object) -> dict[str, Any]:
        """Raises ChildProcessError where the side's process ends instead of answering."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        if not line:
            raise ChildProcessError(f"{self.side}: expected an answer to {do!r}, its process ended: see above")
        return json.loads(line)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._child.communicate()
        self._child.wait()


class Side:
    """What answers: each method is a request."""

    def __init__(self, side: str) -> None:
        module, name = SIDES[side]
        self._make: Callable[..., Callable[[], np.ndarray]] = getattr(
            importlib.import_module(f"experiments.benchmarks.{module}"), name
        )
        self._calls: dict[str, Callable[[], np.ndarray]] = {}

    def initial(self, item: dict[str, Any], to: str) -> dict[str, Any]:
        """Write the weights from which the runs start."""
        from experiments.benchmarks import jax_sides

        made = from_plain(item)
        save_start(Path(to), jax_sides.initial(made, made.runs))
        return {}

    def prepare(self, item: dict[str, Any], start: str) -> dict[str, Any]:
        made = from_plain(item)
        self._calls[made.name] = self._make(made, load_start(Path(start)))
        return {}

    def call(self, item: str, to: str | None = None) -> dict[str, Any]:
        """Train; the seconds, and the losses (runs, steps) in the file ``to``."""
        begin = time.perf_counter()
        losses = self._calls[item]()
        seconds = time.perf_counter() - begin
        if to is not None:
            np.save(to, losses)
        return {"seconds": seconds}

    def limits(self, **sizes: Any) -> dict[str, Any]:
        from experiments.benchmarks import roofline

        return {name: asdict(limits) for name, limits in roofline.measure(**sizes).items()}

    def grid(self, how: str, item: dict[str, Any], count: int) -> dict[str, Any]:
        from experiments.benchmarks import extras

        return extras.timed_grid(how, from_plain(item), count)

    def peak(self) -> dict[str, Any]:
        return {"bytes": peak_bytes()}

    def memory(self, item: dict[str, Any], runs: int, steps: int, record_every: int) -> dict[str, Any]:
        from experiments.benchmarks import extras

        extras.train_runs(from_plain(item), 2, steps, record_every)  # what the libraries and the compiler take
        before = peak_bytes()
        extras.train_runs(from_plain(item), runs, steps, record_every)
        return {"before": before, **self.peak(), "state": extras.state_bytes(from_plain(item))}


def peak_bytes() -> int:
    """The most memory that this process held at once.

    getrusage also counts what its parent held when it was started, so the system's own record comes first.
    """
    with contextlib.suppress(OSError, StopIteration):
        status = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def save_start(path: Path, start: list[list[np.ndarray]]) -> None:
    named = {f"{i}/{k}": leaf for i, layer in enumerate(start) for k, leaf in enumerate(layer)}
    np.savez(path, **named)  # pyrefly: ignore


def load_start(path: Path) -> list[list[np.ndarray]]:
    with np.load(path) as stored:
        layers = 1 + max(int(name.split("/")[0]) for name in stored.files)
        return [[stored[f"{i}/{k}"] for k in range(2) if f"{i}/{k}" in stored.files] for i in range(layers)]


def serve(answering: Side, requests: Iterable[str]) -> Iterator[str]:
    for line in requests:
        request = json.loads(line)
        yield json.dumps(getattr(answering, request.pop("do"))(**request))


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    if sys.argv[1] == "jaxsoft":
        import jax

        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    for answer in serve(Side(sys.argv[1]), sys.stdin):
        print(answer, file=answers, flush=True)
