"""How long until ``jaxsoft sweep`` has its result: the whole command, in a process of its own, from nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.benchmarks.timing import in_turn, seconds

NO_CACHE = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
EVERYTHING = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
IMPORTS = "import jaxsoft.sweep, jaxsoft.train, jaxsoft.problem, jaxsoft.models, jaxsoft.optimizers, jaxsoft.data"


def command(arguments: Sequence[str], environment: dict[str, str]) -> None:
    """Run Python on these arguments; subprocess.CalledProcessError where it fails."""
    subprocess.run(
        [sys.executable, *arguments], env={**os.environ, **environment}, cwd=Path(__file__).parents[2],
        check=True, capture_output=True,
    )  # fmt: skip


def main(options: Sequence[str], repeats: int) -> dict[str, list[float]]:
    """Seconds of each repeat: without a cache of compiled programs, filling an empty one, and with a full one.

    "imports alone" is what of it Python and the libraries take before anything is computed.
    """
    with tempfile.TemporaryDirectory() as folder:
        fresh = (Path(folder) / str(i) for i in range(10**6))

        def sweep(environment: dict[str, str]) -> None:
            command(["-m", "jaxsoft", "sweep", *options, "--out", str(next(fresh))], environment)

        def cached(where: Path) -> dict[str, str]:
            return {**EVERYTHING, "JAX_COMPILATION_CACHE_DIR": str(where)}

        full = next(fresh)
        sweep(cached(full))
        calls: dict[str, Callable[[], float]] = {
            "imports alone": lambda: seconds(lambda: command(["-c", IMPORTS], {})),
            "without a cache": lambda: seconds(lambda: sweep(NO_CACHE)),
            "filling a cache": lambda: seconds(lambda: sweep(cached(next(fresh)))),
            "with a full cache": lambda: seconds(lambda: sweep(cached(full))),
        }
        return in_turn(calls, repeats)
