"""A statement that a run can refute: what theory expects, what was measured, and how far apart they may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table


class Claim(NamedTuple):
    """``expected`` comes from theory or a paper, never from the run. ``tolerance`` is relative to it."""

    name: str
    source: str
    expected: float
    measured: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return abs(self.measured - self.expected) <= self.tolerance * abs(self.expected)


def show(claims: Sequence[Claim], console: Console | None = None) -> None:
    """Print the claims and their verdicts."""
    table = Table()
    for heading in ("claim", "source", "expected", "measured", "tolerance", "verdict"):
        table.add_column(heading)
    for c in claims:
        verdict = "holds" if c.passed else "does not hold"
        table.add_row(c.name, c.source, f"{c.expected:.5g}", f"{c.measured:.5g}", f"{c.tolerance:.1%}", verdict)
    (console or Console()).print(table)
