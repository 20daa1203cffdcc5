"""What every benchmark here does: time calls in turn, and say what was measured on what."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

Result = TypeVar("Result")


def seconds(call: Callable[[], object], calls: int = 1) -> float:
    """Wall time of one of so many calls."""
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - begin) / calls


def in_turn(calls: Mapping[str, Callable[[], Result]], repeats: int) -> dict[str, list[Result]]:
    """The results of each call, one of each a round, so that what else the machine does hits all alike.

    Every second round goes backwards: none comes always after the same other. Ratios belong to rounds.
    """
    results: dict[str, list[Result]] = {name: [] for name in calls}
    for turn in range(repeats):
        names = list(calls)
        for name in names if turn % 2 == 0 else reversed(names):
            results[name].append(calls[name]())
    return results


def spread(values: Sequence[float], digits: int = 3) -> str:
    """median [min-max]"""
    median, low, high = (f"{x:.{digits}g}" for x in (np.median(values), min(values), max(values)))
    return f"{median} [{low}-{high}]"


def missing(modules: Iterable[str]) -> list[str]:
    return [module for module in modules if importlib.util.find_spec(module) is None]


def versions(names: Iterable[str]) -> str:
    """What is installed of these distributions."""
    found = []
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)
