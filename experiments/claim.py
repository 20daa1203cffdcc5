"""A statement that a run can refute: what theory expects, what was measured, and how far apart they may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from rich.console import Console
from rich.table import Table

Kind = Literal["equal", "at most", "at least", "reported", "reported at most", "reported at least"]


@dataclass(frozen=True)
class Claim:
    """``expected`` comes from theory or a paper, never from the run. ``tolerance`` is relative to it.

    kind: ``equal`` within the tolerance, or a bound on one side. ``reported``: not a theorem but what a source has
    found elsewhere, or a limit that a finite run need not have reached; where it fails the verdict is *not reproduced*,
    which is a result and no fault. A measured NaN fails. Raises ValueError for another kind, and for numbers with which
    no measurement could fail: an expected one that is not finite, a tolerance that is negative or not finite.
    """

    name: str
    source: str
    expected: float
    measured: float
    tolerance: float
    kind: Kind = "equal"

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind: expected one of {', '.join(get_args(Kind))}, got {self.kind}")
        if not math.isfinite(self.expected):
            raise ValueError(f"expected: expected a finite number, got {self.expected}")
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance: expected a finite number >= 0, got {self.tolerance}")

    @property
    def passed(self) -> bool:
        above, room = self.measured - self.expected, self.tolerance * abs(self.expected)
        if self.kind.endswith("at most"):
            return bool(above <= room)
        if self.kind.endswith("at least"):
            return bool(above >= -room)
        return bool(abs(above) <= room)

    @property
    def reported(self) -> bool:
        return self.kind.startswith("reported")

    @property
    def verdict(self) -> str:
        if self.reported:
            return "reproduced" if self.passed else "not reproduced"
        return "holds" if self.passed else "does not hold"

    @property
    def wanted(self) -> str:
        """What is expected, as text: ``0.5 ± 3%``, ``1.2 ± 1e-06 relative``, ``≤ 0.05``."""
        sign = "≤ " if self.kind.endswith("at most") else "≥ " if self.kind.endswith("at least") else ""
        room = ""
        if self.tolerance and self.expected:
            size = f"{100 * self.tolerance:.3g}%" if self.tolerance >= 1e-3 else f"{self.tolerance:.3g} relative"
            room = f" ± {size}"
        return f"{sign}{self.expected:.6g}{room}"


def show(claims: Sequence[Claim], console: Console | None = None) -> None:
    """Print the claims and their verdicts."""
    table = Table()
    for heading in ("claim", "source", "expected", "measured", "verdict"):
        table.add_column(heading)
    for c in claims:
        table.add_row(c.name, c.source, c.wanted, f"{c.measured:.6g}", c.verdict)
    (console or Console()).print(table)
