"""Which experiments there are, and what their docstrings say of them.

    python -m experiments.registry > experiments/README.md

An experiment is a module of this package that ends in ``script.run(...)``. Its docstring begins with the question; its
commands stand indented, each with its time after a ``#``; what was found follows ``What comes out:``.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

HEAD = """\
# Experiments

One script a finding: it runs, holds what it measures against theory, and draws a picture. `make science` runs all of
them at their quick setting, `make science FULL=1` at full size, `make science CHEAP=1` the quicker half. It prints the
table of claims and keeps it in `results/claims.json`, with every figure in `results/science.html`. Times are for two
cores. This page is made from the docstrings: `python -m experiments.registry > experiments/README.md`.

| question | command | quick | full | finding |
|---|---|---|---|---|
"""
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


class Experiment(NamedTuple):
    """``times`` in words by option (``""`` for the full size); ``finding`` is empty where the docstring tells none."""

    name: str
    question: str
    finding: str
    times: dict[str, str]


def experiments(package: Path = Path(__file__).parent) -> list[Experiment]:
    """All experiments of the package, by name. Nothing is imported or has to be Python: a broken one is found too."""
    texts = {path.stem: path.read_text(errors="replace") for path in sorted(package.glob("*.py"))}
    return [read(name, text) for name, text in texts.items() if re.search(r"^ +script\.run\(", text, re.M)]


def read(name: str, text: str) -> Experiment:
    """What the source of an experiment says; of one that cannot be parsed no more than the name."""
    try:
        doc = ast.get_docstring(ast.parse(text)) or ""
    except (SyntaxError, ValueError):  # ValueError: a NUL
        doc = name
    found = re.search(r"What comes out: *(.*?)(?:\n\n|\Z)", doc, re.S)
    commands = re.findall(rf"^ +python -m experiments\.{name}((?: --\w+)?) +# *(.+)$", doc, re.M)
    return Experiment(
        name,
        _line(doc.partition("\n\n")[0]),
        _line(found[1] if found else ""),
        {o.strip(): t.strip() for o, t in commands},
    )


def _line(text: str) -> str:
    return " ".join(text.split())


def seconds(time: str) -> float:
    """``"40 s"``, ``"3 min"``, ``"1 h"`` in seconds. Raises ValueError for anything else."""
    found = re.fullmatch(r"([\d.]+) (s|min|h)", time)
    if found is None:
        raise ValueError(f"time: expected a number of s, min or h, got {time!r}")
    return float(found[1]) * UNITS[found[2]]


def first_sentence(text: str) -> str:
    return re.split(r"(?<=[.?!]) ", text, maxsplit=1)[0]


def readme() -> str:
    lines = [
        f"| {e.question} | `python -m experiments.{e.name}` | {e.times.get('--quick', '')} | {e.times.get('', '')} "
        f"| {first_sentence(e.finding)} |"
        for e in experiments()
    ]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(readme(), end="")
