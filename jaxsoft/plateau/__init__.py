"""Plateaus in losses, and when runs leave them.

detect      plateaus, tails and stalls of one loss or of a whole sweep
escape      right-censored escape times
points      the critical point behind each plateau: ``behind``
quadratic   when a run will leave, from one state: ``forecast``
survival    survival curves, and tests between kinds of runs
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from jaxsoft.plateau.detect import KINDS, NONE, PLATEAU, STALL, TAIL, Plateaus, detect, flattest
from jaxsoft.plateau.escape import EscapeTime, escape_time, escape_times, exit_level
from jaxsoft.plateau.survival import LogRank, Paired, Survival, log_rank, median, paired, survival

if TYPE_CHECKING:
    from jaxsoft.plateau.points import behind
    from jaxsoft.plateau.quadratic import Forecast, forecast

__all__ = [
    "KINDS",
    "NONE",
    "PLATEAU",
    "STALL",
    "TAIL",
    "EscapeTime",
    "Forecast",
    "LogRank",
    "Paired",
    "Plateaus",
    "Survival",
    "behind",
    "detect",
    "escape_time",
    "escape_times",
    "exit_level",
    "flattest",
    "forecast",
    "log_rank",
    "median",
    "paired",
    "survival",
]


LAZY = {"Forecast": "quadratic", "behind": "points", "forecast": "quadratic"}


def __getattr__(name: str) -> object:
    if name in LAZY:  # on first use: losses are read without jax
        return getattr(importlib.import_module(f"jaxsoft.plateau.{LAZY[name]}"), name)
    raise AttributeError(f"module 'jaxsoft.plateau' has no attribute {name!r}")
