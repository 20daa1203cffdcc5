"""The command line: ``jaxsoft sweep | report | diagnose | lecture``. jax is loaded only when something is computed."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, subcommand

from jaxsoft import recipe
from jaxsoft.recipe import Diagnose, Sweep
from jaxsoft.signals import Interrupted


@dataclass(frozen=True)
class Report:
    """Print the table of a sweep, and write its figures (PNG, SVG) and one self-contained HTML page."""

    run: Positional[Path]
    """Folder of a sweep."""
    to: Path | None = None
    """Folder for the figures and the page; by default the sweep's folder with -report added."""


@dataclass(frozen=True)
class Lecture:
    """Print the lecture's worked example: softmax in three steps, the loss, dz = ŷ - y, gradient descent."""


Command = Sweep | Report | Diagnose | Lecture


def _sweep(config: Sweep) -> None:
    recipe.check(config)
    import os

    import jax

    # One XLA device for each core: the engine runs one block of lanes on each.
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    jax.config.update("jax_enable_x64", config.dtype == "float64")
    _keep_compiled()
    recipe.sweep(config)
    print(f"results: {config.out}    now: jaxsoft report {config.out}")


def _keep_compiled() -> None:
    """Programs compiled once are kept in the user's cache folder; jax's own settings in the environment come first."""
    import os

    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "jaxsoft"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.01)


def _report(config: Report) -> None:
    from jaxsoft import report, store

    path = config.run.absolute()
    ds = store.load(path)
    store.verify(ds, path)
    if not bool(ds["committed"].any()):
        raise ValueError(f"run: expected a sweep with committed runs, {path} has none yet")
    report.print_table(report.summary(ds))
    folder = config.to or path.with_name(path.name + "-report")
    try:
        regions = recipe.decision_regions(ds)
    except (ValueError, OSError) as error:  # the user's data file may have moved since
        print(f"jaxsoft: no picture of the decision regions: {error}", file=sys.stderr)
        regions = []
    try:
        written = report.write(ds, folder, more=regions)
    except OSError as error:
        raise OSError(error.errno, f"to: cannot write to {folder}: {error.strerror or error}") from error
    for written_path in written:
        print(written_path)


def _diagnose(config: Diagnose) -> None:
    _keep_compiled()
    print(recipe.diagnose(config))


def _lecture(_: Lecture) -> None:
    from jaxsoft import lecture

    lecture.show()


RUN: dict[type, Callable[..., None]] = {Sweep: _sweep, Report: _report, Diagnose: _diagnose, Lecture: _lecture}


def _one_line(box: str) -> str:
    """The first part of tyro's framed message, on one line."""
    lines = [re.sub(r"[│╭╮╰╯]", "", line).strip() for line in box.splitlines()]
    text = " ".join(line for line in lines if line and not set(line) <= {"─", " "} and not line.startswith("─"))
    return re.sub(r"\s*(Argument helptext|For full helptext).*", "", text).strip()


def parse(arguments: Sequence[str] | None = None) -> Command:
    """Parse the command line; a mistake is one line on standard error and exit code 2."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                Annotated[Sweep, subcommand("sweep")]
                | Annotated[Report, subcommand("report")]
                | Annotated[Diagnose, subcommand("diagnose")]
                | Annotated[Lecture, subcommand("lecture")],
                prog="jaxsoft",
                description="Why a softmax classifier stalls, and when it will move again.",
                args=arguments,
            )
    except SystemExit as stop:
        if stop.code:
            print(f"jaxsoft: error: {_one_line(said.getvalue())}", file=sys.stderr)
        raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for a mistake, 130/143 after SIGINT/SIGTERM."""
    try:
        config = parse(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        RUN[type(config)](config)
    except (ValueError, TypeError, OSError, ImportError) as error:
        return _mistake(str(error) if not isinstance(error, OSError) or error.strerror is None else error.strerror)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "out of memory" not in str(error).lower():
            raise
        return _mistake("hidden, dataset, inits: the sweep does not fit into this machine's memory")
    except Interrupted as stop:
        print(f"jaxsoft: {stop}", file=sys.stderr)
        return 128 + stop.signum
    return 0


def _mistake(said: str) -> int:
    print(f"jaxsoft: error: {' '.join(said.split())}", file=sys.stderr)
    return 2
