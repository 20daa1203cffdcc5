"""Argument checks at the edge: every error names the argument, what was expected and what came.

A value that jax is tracing has no number yet, so it passes: sweeps hand traced learning rates and scales to the same
factories that a person calls with plain numbers.
"""

from __future__ import annotations

import difflib
import math
import numbers
import sys
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def traced(value: object) -> bool:
    """Whether jax is tracing ``value``; never imports jax itself."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, jax.core.Tracer)


def one_of(argument: str, value: str, known: Iterable[str]) -> str:
    """Return ``value`` if it is a known name; otherwise raise ``ValueError`` with all names and the nearest one."""
    names = list(known)
    if value in names:
        return value
    near = difflib.get_close_matches(str(value).lower(), names, n=1, cutoff=0.5)
    hint = f" (nearest: {near[0]!r})" if near else ""
    raise ValueError(f"{argument}: expected one of {', '.join(names)}, got {value!r}{hint}")


def _real(argument: str, value: object, expected: str) -> float:
    is_number = isinstance(value, numbers.Real) or (hasattr(value, "dtype") and getattr(value, "ndim", None) == 0)
    if isinstance(value, bool) or not is_number:
        raise TypeError(f"{argument}: expected {expected}, got {type(value).__name__} {value!r}")
    return float(value)  # pyrefly: ignore[bad-argument-type]


def positive(argument: str, value: T) -> T:
    """Return a finite number > 0 unchanged."""
    if not traced(value):
        number = _real(argument, value, "a number > 0")
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{argument}: expected a finite number > 0, got {value}")
    return value


def non_negative(argument: str, value: T) -> T:
    """Return a finite number >= 0 unchanged."""
    if not traced(value):
        number = _real(argument, value, "a number >= 0")
        if not (math.isfinite(number) and number >= 0):
            raise ValueError(f"{argument}: expected a finite number >= 0, got {value}")
    return value


def fraction(argument: str, value: T, *, closed: bool = False) -> T:
    """Return a number in [0, 1) unchanged; in [0, 1] if ``closed``."""
    if not traced(value):
        interval = "[0, 1]" if closed else "[0, 1)"
        number = _real(argument, value, f"a number in {interval}")
        if not (0 <= number < 1 or (closed and number == 1)):
            raise ValueError(f"{argument}: expected a number in {interval}, got {value}")
    return value


def count(argument: str, value: object, *, at_least: int = 1, at_most: int | None = None) -> int:
    """Return an integer in [``at_least``, ``at_most``] as a Python int."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{argument}: expected an integer >= {at_least}, got {type(value).__name__} {value!r}")
    if value < at_least:
        raise ValueError(f"{argument}: expected an integer >= {at_least}, got {value}")
    if at_most is not None and int(value) > at_most:
        raise ValueError(f"{argument}: expected an integer in [{at_least}, {at_most}], got {value}")
    return int(value)
