"""The runs of a sweep, group by group: what pictures and tables are made of.

Runs are grouped along one axis of the sweep and pooled over all others. Runs that an interrupted sweep has not reached
are left out. A diverged run counts until it broke; it has no end, so it is in no final value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from jaxsoft import checks
from jaxsoft.process import DIVERGED


class Group(NamedTuple):
    """The committed runs of one value of an axis: every variable as (lane,) or (lane, step)."""

    label: str
    data: xr.Dataset


def groups(ds: xr.Dataset, by: str | None = "optimizer", *, keep: Sequence[str] | None = None) -> list[Group]:
    """The committed runs of a sweep, one group for each value along the dimension ``by``, all other axes pooled.

    ``None`` pools everything, and so does "optimizer" where a sweep has no such axis. A group may be empty. ``keep``
    names the records to read, by default all. Raises ValueError for any other ``by`` that is not an axis of the sweep,
    and where there is no status, steps or committed.
    """
    missing = [name for name in ("status", "steps", "committed") if name not in ds]
    if missing:
        raise ValueError(f"dataset: expected the result of a sweep, got one without {', '.join(missing)}")
    ds = ds if keep is None else ds[["status", "steps", "committed", *keep]]
    axes = [str(dim) for dim in ds["committed"].dims]
    if by is None or (by == "optimizer" and by not in axes):
        return [Group("all runs", _lanes(ds, axes))]
    checks.one_of("by", by, axes)
    others = [dim for dim in axes if dim != by]
    values = ds[by].to_numpy()
    labels = [f"{by} {v:g}" if values.dtype.kind in "iuf" else str(v) for v in values]
    return [Group(label, _lanes(ds.isel({by: i}), others)) for i, label in enumerate(labels)]


def _lanes(ds: xr.Dataset, axes: Sequence[str]) -> xr.Dataset:
    """The committed runs along one dimension ``lane``; records that are not one number a step are left out."""
    names = [name for name in ds.data_vars if set(axes) <= set(ds[name].dims) <= {*axes, "step"}]
    flat = ds[names].stack(lane=axes, create_index=False) if axes else ds[names].expand_dims("lane")
    return flat.isel(lane=np.flatnonzero(flat["committed"].to_numpy())).transpose("lane", ...)


def diverged(data: xr.Dataset) -> npt.NDArray[np.bool_]:
    """Which lanes of a group ended by turning non-finite."""
    return data["status"].to_numpy() == DIVERGED


def until_broken(data: xr.Dataset, name: str = "loss") -> npt.NDArray[np.float64]:
    """A record (lane, step), NaN from the step at which a diverged run broke: later records repeat its last state."""
    values = data[name].to_numpy().astype(np.float64)
    broken = diverged(data)[:, None] & (data["step"].to_numpy() >= data["steps"].to_numpy()[:, None])
    return np.where(broken | ~np.isfinite(values), np.nan, values)


def final_values(data: xr.Dataset, name: str) -> npt.NDArray[np.float64]:
    """The last record of ``name`` for every lane of a group that did not diverge."""
    values = data[name].isel(step=-1) if "step" in data[name].dims else data[name]
    return values.to_numpy().astype(np.float64)[~diverged(data)]


def accuracy_name(ds: xr.Dataset) -> str | None:
    """The accuracy to judge a run by: on held-out data where it was recorded, else on the training data."""
    return next((name for name in ("test_accuracy", "accuracy") if name in ds), None)


def num_classes(ds: xr.Dataset) -> int | None:
    """C, where a sweep trains a classifier."""
    return int(ds.attrs["num_classes"]) if "num_classes" in ds.attrs else None


def steps_text(median: float, watched: float) -> str:
    """A median in steps; ``> last step watched`` where it is infinite (more than half of the runs never left)."""
    return f"{median:,.0f}" if math.isfinite(median) else f"> {watched:,.0f}"
