"""When runs leave the plateau: right-censored escape times and their survival curves."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
import scipy.stats
import xarray as xr

from jaxsoft import checks
from jaxsoft.process import DIVERGED


class EscapeTime(NamedTuple):
    """Right-censored times: ``time`` in steps, and whether the run ``escaped`` then or was only watched until then."""

    time: np.ndarray
    escaped: np.ndarray


class Survival(NamedTuple):
    """The share of runs still on the plateau after ``time`` steps, with a pointwise confidence band."""

    time: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray


def exit_level(num_classes: int, drop: float = 0.1) -> float:
    """The loss below which a run has left the symmetric plateau: (1 - drop) ln C.

    A classifier that answers 1/C for every class has the loss ln C (2.303 for ten classes), whatever the data.
    """
    checks.count("num_classes", num_classes, at_least=2)
    if not 0 < drop < 1:
        raise ValueError(f"drop: expected a number in (0, 1), got {drop}")
    return (1 - drop) * math.log(num_classes)


def escape_time(loss: np.ndarray, step: np.ndarray, level: float, *, watched: np.ndarray | None = None) -> EscapeTime:
    """The first recorded step at which the loss is below ``level``, for every run.

    Args:
        loss: (..., T) losses at the recorded steps.
        step: (T,) those steps, increasing. The time is known to the spacing of the records.
        level: the loss to fall below.
        watched: (...) the step after which a run was not watched any more (a diverged run); by default the last.

    Returns:
        ``time`` (...) and ``escaped`` (...). A run that does not escape has the time up to which it was watched:
        the time is right-censored, never NaN.
    """
    loss, step = np.asarray(loss), np.asarray(step)
    if step.ndim != 1 or loss.shape[-1:] != step.shape or step.size == 0:
        raise ValueError(f"loss: expected shape (..., {step.size}) to match step, got {loss.shape}")
    end = np.broadcast_to(step[-1] if watched is None else watched, loss.shape[:-1])
    below = (loss < level) & (step <= end[..., None])
    escaped = np.asarray(below.any(axis=-1))
    return EscapeTime(np.where(escaped, step[below.argmax(axis=-1)], end), escaped)


def escape_times(dataset: xr.Dataset, *, drop: float = 0.1) -> xr.Dataset:
    """``time`` and ``escaped`` for every run of a sweep that records ``loss`` and knows its ``num_classes``.

    Leaving means loss < (1 - drop) ln C. A diverged run is watched until the step at which it broke.
    """
    if "num_classes" not in dataset.attrs:
        raise ValueError("dataset: expected a sweep of a classifier, with the attribute num_classes; it has none")
    level = exit_level(int(dataset.attrs["num_classes"]), drop)
    step = dataset["step"].to_numpy()
    loss = dataset["loss"].transpose(..., "step")
    runs = dataset["status"].transpose(*loss.dims[:-1])
    steps = dataset["steps"].transpose(*loss.dims[:-1])
    watched = np.where(runs.to_numpy() == DIVERGED, steps.to_numpy(), step[-1])
    time, escaped = escape_time(loss.to_numpy(), step, level, watched=watched)
    return xr.Dataset({"time": runs.copy(data=time), "escaped": runs.copy(data=escaped)}, attrs={"level": level})


def survival(time: np.ndarray, escaped: np.ndarray, *, confidence: float = 0.95) -> Survival:
    """The Kaplan-Meier estimate of the share of runs still on the plateau, for right-censored times.

    S(t) = Π_{t_i <= t} (1 - d_i / n_i), with d_i the escapes at t_i and n_i the runs still watched just before; the
    band is Greenwood's on the log-log scale, pointwise. Kaplan & Meier 1958. Starts at (0, 1).
    """
    time, escaped = np.ravel(time), np.ravel(escaped).astype(bool)
    if time.shape != escaped.shape or time.size == 0:
        raise ValueError(f"escaped: expected one flag for each of {time.size} (> 0) times, got {escaped.size}")
    if not escaped.any():
        ones = np.ones(2)
        return Survival(np.array([0.0, time.max()]), ones, np.array([1.0, np.nan]), ones)
    curve = scipy.stats.ecdf(scipy.stats.CensoredData.right_censored(time.astype(float), ~escaped)).sf
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the band is undefined (NaN) where nobody is left
        band = curve.confidence_interval(confidence_level=confidence, method="log-log")
    steps, share = curve.quantiles, curve.probabilities
    low, high = band.low.probabilities, band.high.probabilities
    at_start = (0.0, 1.0, 1.0, 1.0)
    columns = zip(at_start, (steps, share, low, high), strict=True)
    return Survival(*(np.concatenate([[first], rest]) for first, rest in columns))


def median(curve: Survival) -> float:
    """The first time at which at most half of the runs are left; infinity if more than half never leave."""
    reached = np.flatnonzero(curve.share <= 0.5 + 1e-12)  # a product that is 1/2 but for rounding
    return float(curve.time[reached[0]]) if reached.size else math.inf
