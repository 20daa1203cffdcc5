"""Plateaus in losses, and when runs leave them.

detect      plateaus, tails and stalls of one loss or of a whole sweep
escape      right-censored escape times
forecast    when a run will leave, from one state
survival    survival curves, and tests between kinds of runs
"""

from jaxsoft.plateau.detect import KINDS, NONE, PLATEAU, STALL, TAIL, Plateaus, detect
from jaxsoft.plateau.escape import EscapeTime, escape_time, escape_times, exit_level
from jaxsoft.plateau.forecast import Forecast, forecast
from jaxsoft.plateau.survival import LogRank, Paired, Survival, log_rank, median, paired, survival

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
    "detect",
    "escape_time",
    "escape_times",
    "exit_level",
    "forecast",
    "log_rank",
    "median",
    "paired",
    "survival",
]
