"""When a run leaves: the first record below a level, right-censored."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import xarray as xr

from jaxsoft import checks
from jaxsoft.process import DIVERGED


class EscapeTime(NamedTuple):
    """Right-censored times: ``time`` in steps, and whether the run ``escaped`` then or was only watched until then."""

    time: np.ndarray
    escaped: np.ndarray


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
    runs, loss, step, end = watched(dataset)
    time, escaped = escape_time(loss, step, level, watched=end)
    return xr.Dataset({"time": runs.copy(data=time), "escaped": runs.copy(data=escaped)}, attrs={"level": level})


def watched(dataset: xr.Dataset) -> tuple[xr.DataArray, np.ndarray, np.ndarray, np.ndarray]:
    """The runs of a sweep (any variable without steps), their losses (..., T), the steps (T,), and the step (...) after
    which each was not watched any more: for a diverged run that at which it broke."""
    step = dataset["step"].to_numpy()
    loss = dataset["loss"].transpose(..., "step")
    runs = dataset["status"].transpose(*loss.dims[:-1])
    steps = dataset["steps"].transpose(*loss.dims[:-1])
    return runs, loss.to_numpy(), step, np.where(runs.to_numpy() == DIVERGED, steps.to_numpy(), step[-1])
