"""What every experiment does as a script: run, print its claims, save them and its picture.

    python -m experiments.NAME [--quick] [--out FOLDER]

Every ``Config`` that the module names in capitals is a setting: ``QUICK`` is run by ``--quick``. A setting's files are
``NAME.png`` and ``NAME.claims.json``, or ``NAME_quick.png`` and so on.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TypeVar

import jax
from matplotlib.axes import Axes

import jaxsoft
from experiments.claim import Claim, show
from jaxsoft.signals import Interrupted

Config = TypeVar("Config")
Results = TypeVar("Results")
FULL = "full"
NUMBERS = ("expected", "measured", "tolerance")
PACKAGES = ("jax", "jaxlib", "optax", "flax", "numpy", "scipy", "scikit-learn")  # those that compute


class Parser(argparse.ArgumentParser):
    """One line for a mistake."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see --help\n")


def folder(text: str) -> Path:
    """An argument's folder, made if it is not there, and tried: a run of hours must not end at its last line."""
    try:
        Path(text).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=text).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"expected a folder that can be written, got {text}: {error.strerror}"
        ) from error
    return Path(text)


def settings(module: ModuleType) -> dict[str, Any]:
    """The configurations of an experiment by name: ``full``, and those that it names in capitals."""
    kind = module.Config
    named = {name.lower(): value for name, value in vars(module).items() if name.isupper() and isinstance(value, kind)}
    return {FULL: kind(), **named}


def stem(name: str, setting: str) -> str:
    return name if setting == FULL else f"{name}_{setting}"


def identity(module: ModuleType, config: object) -> dict[str, str]:
    """What a result depends on: source, configuration, and the versions of Python and the packages that compute.

    The source is jaxsoft, the experiment, and what it imports of ``experiments``.
    """
    files = {*sources(Path(str(module.__file__))), *Path(jaxsoft.__path__[0]).rglob("*.py")}
    digests = sorted(hashlib.sha256(file.read_bytes()).digest() for file in files)
    versions = {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}
    return {"code": hashlib.sha256(b"".join(digests)).hexdigest()[:16], "config": repr(config), **versions}


def sources(file: Path) -> set[Path]:
    """The file, those beside it that its imports name, and so on from these."""
    found, todo = set(), {file}
    while todo:
        found.add(here := todo.pop())
        imports = [n for n in ast.walk(ast.parse(here.read_bytes())) if isinstance(n, ast.Import | ast.ImportFrom)]
        named = {word for node in imports for word in re.findall(r"\w+", ast.unparse(node))}
        todo |= {path for path in here.parent.glob("*.py") if path.stem in named} - found
    return found


def write(path: Path, content: bytes) -> None:
    """The file whole, or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def as_json(claim: Claim) -> dict[str, object]:
    """All fields and the verdict; JSON has no NaN and no infinity, so these are texts."""

    def number(value: Any) -> float | str:
        return float(value) if math.isfinite(value) else str(value)

    fields = {name: number(value) if name in NUMBERS else value for name, value in asdict(claim).items()}
    return {**fields, "passed": claim.passed, "verdict": claim.verdict}


def from_json(row: dict[str, Any]) -> Claim:
    """The claim of ``as_json``; its verdict is computed anew."""
    expected, measured, tolerance = (float(row[name]) for name in NUMBERS)
    return Claim(row["name"], row["source"], expected, measured, tolerance, row["kind"])


def reason(error: BaseException) -> str:
    """The error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def run(
    name: str,
    config: Config,
    main: Callable[..., Results],
    claims: Callable[[Results, Config], Sequence[Claim]],
    plot: Callable[[Results, Config], Axes],
    *,
    x64: bool = False,
) -> None:
    """Run ``main(config, progress=True)`` on all cores, in the setting that the command line names, ``config`` if none.

    The picture and the claims go to the folder ``--out``. A wrong option ends with one line and exit code 2, an
    interrupted run with one line and 130, one that fails or claims nothing with the reason as the last line and 1.
    """
    module = sys.modules[main.__module__]
    parser = Parser(prog=f"python -m experiments.{name}", description=(module.__doc__ or "").partition("\n")[0])
    chosen = parser.add_mutually_exclusive_group()
    for setting in settings(module):
        if setting != FULL:
            about = f"run the configuration {setting.upper()}"
            chosen.add_argument(f"--{setting}", dest="setting", action="store_const", const=setting, help=about)
    parser.add_argument("--out", type=folder, default="results", help="folder for the picture and the claims")
    options = parser.parse_args()
    setting = options.setting or FULL
    config = config if setting == FULL else settings(module)[setting]
    target = options.out / f"{stem(name, setting)}.png"
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    jax.config.update("jax_enable_x64", x64)
    try:
        _run(target, identity(module, config), config, main, claims, plot)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signum)
    except Exception as error:
        traceback.print_exc()
        sys.exit(reason(error))


def _run(
    target: Path, identified: dict[str, str], config: Any, main: Callable, claims: Callable, plot: Callable
) -> None:
    began = time.monotonic()
    results = main(config, progress=True)
    made = claims(results, config)
    if not made:
        raise ValueError("claims: expected one at least, got none")
    show(made)
    figure = plot(results, config).get_figure(root=True)
    assert figure is not None
    figure.savefig(target, dpi=150)
    print(target)
    kept = {"identity": identified, "seconds": time.monotonic() - began, "claims": [*map(as_json, made)]}
    write(target.with_suffix(".claims.json"), json.dumps(kept, indent=1, ensure_ascii=False).encode())
