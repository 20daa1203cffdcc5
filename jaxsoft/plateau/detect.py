"""Where a loss stands still: plateaus, tails and stalls, by a definition with three numbers.

With y = ln(L - L_ref), a **plateau** is a maximal interval with |dy/dt| < κ, followed by a drop of y by at least δ.
Without the drop, at the end of what was recorded or before a rise, it is a **tail** if y fell by δ or more within it,
so that the loss was still on its way, and else a **stall**: it may be a plateau that has not ended yet.

A loss falls more slowly than κ exactly where G(t) = y(t) + κ t rises. So the intervals are those between a minimum and
the next maximum of G; of all extremes those count that are separated by at least δ in G ("persistence", Edelsbrunner,
Letscher & Zomorodian 2002). Hence an interval lasts at least δ/κ, and ripples below δ change nothing. Edges lie where
the rate passes κ, not where a window ends, so that they do not depend on how densely the loss is recorded.

In one point this is stricter than the words above: a drop has to fall by δ beyond what κ allows. A slide at the rate
(1 + ε) κ ends a plateau once it has lasted δ/(ε κ) steps; until then it belongs to the interval. By the bare words a
slide whose rate wavers around κ would break into as many plateaus as it has wavers, however little each gains on κ: the
answer would jump with a change of the rate that no noisy loss can show.

Rises: a loss that rises faster than κ, by δ beyond what κ allows, stands no more still than one that falls so. They are
found as the falls are, with the signs turned, and cut a trace into parts; no interval crosses one. A rise that is taken
back within the interval, or comes less than δ/κ steps before the drop or the end, is a spike, and stays in it.

Noise: y is first replaced, in each part, by the falling curve closest to it in the mean square over time (antitonic
regression, Barlow et al. 1972). It has no window to choose, leaves a falling loss as it is, averages noise where the
loss stands, and a spike becomes a small part of the interval around it. Noise of a standard deviation up to about δ/4
in y is harmless.
"""

from __future__ import annotations

from typing import NamedTuple, overload

import numpy as np
import scipy.optimize
import xarray as xr

from jaxsoft import checks
from jaxsoft.plateau.escape import watched as watched_runs

NONE, PLATEAU, TAIL, STALL = 0, 1, 2, 3
KINDS = ("none", "plateau", "tail", "stall")
LANES = 2048  # at once: fewer cost more passes over the records, more leave the cache


class Plateaus(NamedTuple):
    """The intervals of every trace in order of time, (..., P), P the most that a trace has; ``kind`` NONE fills up.

    begin, end: steps at records; the end of a tail or stall is the last record watched. NaN where there is none.
    level: L_ref plus the mean of e^y over the interval, y the fitted falling curve. Where the loss stands, that is the
    geometric mean of L - L_ref, which a spike hardly moves; noise of the variance v in ln(L - L_ref) takes it below the
    mean loss, by v/2 of L - L_ref. drop: by how much y falls from the end of a plateau to the begin of the next
    interval, to a rise, or to the last record; 0 for a tail or stall. kind: an index into ``KINDS``.
    """

    begin: np.ndarray
    end: np.ndarray
    level: np.ndarray
    drop: np.ndarray
    kind: np.ndarray


class _Parts(NamedTuple):
    """Stretches of traces: the row, the first and the last record."""

    row: np.ndarray
    first: np.ndarray
    last: np.ndarray


class _Found(NamedTuple):
    """Intervals of a block of traces as records: the trace, the first and last record, and what ``Plateaus`` says."""

    trace: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    level: np.ndarray
    drop: np.ndarray
    kind: np.ndarray


@overload
def detect(
    losses: xr.Dataset, *, kappa: float, delta: float = ..., reference: float | np.ndarray = ...
) -> xr.Dataset: ...


@overload
def detect(
    losses: np.ndarray,
    *,
    kappa: float,
    delta: float = ...,
    reference: float | np.ndarray = ...,
    step: np.ndarray | None = ...,
    watched: np.ndarray | None = ...,
) -> Plateaus: ...


def detect(
    losses: np.ndarray | xr.Dataset,
    *,
    kappa: float,
    delta: float = 0.1,
    reference: float | np.ndarray = 0.0,
    step: np.ndarray | None = None,
    watched: np.ndarray | None = None,
) -> Plateaus | xr.Dataset:
    """Plateaus, tails and stalls of one loss (T,), of many (..., T), or of a sweep's dataset; see the module.

    Args:
        losses: at the recorded steps, watched up to the first that is not finite. Or a dataset of ``sweep.run``.
        kappa: κ, the largest rate |d ln(L - L_ref)/dt| that counts as standing still, per step. An interval lasts at
            least δ/κ steps: with δ = 0.1, κ = 2/T finds what lasts a twentieth of T steps or longer.
        delta: δ, the least drop of ln(L - L_ref) that ends a plateau: 0.1 is 10 % of L - L_ref.
        reference: L_ref, what the loss would end at, a number or one for each trace (...): 0 for a cross-entropy.
        step: (T,) the recorded steps, increasing, evenly spaced or not; by default 0, 1, 2, ... A dataset has its own.
        watched: (...) the step after which a run was not watched any more; by default the last. A dataset has its own.

    Returns:
        ``Plateaus`` for arrays. For a dataset, a dataset of the same variables with the dimensions (runs..., plateau)
        and the attributes kappa, delta and reference; a diverged run is watched up to the step at which it broke.

    Raises ValueError for a trace that starts at or below its reference, steps that do not increase, shapes or numbers
    that do not fit, and ``step`` or ``watched`` beside a dataset.

    >>> t = np.arange(2000)
    >>> found = detect(0.2 + 1 / (1 + np.exp((t - 500) / 10)), kappa=1e-3)
    >>> [KINDS[kind] for kind in found.kind], found.level.round(2).tolist()
    (['plateau', 'stall'], [1.2, 0.2])
    """
    checks.positive("kappa", kappa)
    checks.positive("delta", delta)
    if isinstance(losses, xr.Dataset):
        for name, given in (("step", step), ("watched", watched)):
            if given is not None:
                raise ValueError(
                    f"{name}: expected none beside a dataset, which has its own, got shape {np.shape(given)}"
                )
        return _in_sweep(losses, kappa, delta, reference)
    trace = np.asarray(losses, np.float64)
    times = np.arange(trace.shape[-1] if trace.ndim else 0) if step is None else np.asarray(step)
    if times.ndim != 1 or times.size == 0 or trace.shape[-1:] != times.shape:
        raise ValueError(f"losses: expected shape (..., {times.size}) to match step, got {trace.shape}")
    if not np.isfinite(times).all() or not (np.diff(times) > 0).all():
        raise ValueError("step: expected increasing finite numbers, got some that are not")
    lanes, shape = trace.reshape(-1, times.size), trace.shape[:-1]
    limit = _for_each("reference", reference, shape)
    if not np.isfinite(limit).all():
        raise ValueError(f"reference: expected finite numbers, got {limit[~np.isfinite(limit)][0]}")
    end = _for_each("watched", times[-1] if watched is None else watched, shape)
    if np.isnan(end).any():
        raise ValueError("watched: expected steps, got nan")
    below = np.flatnonzero(lanes[:, 0] <= limit)
    if below.size:
        got = f"{limit[below[0]]} for a loss that starts at {lanes[below[0], 0]}"
        raise ValueError(f"reference: expected a number below the loss, got {got}")
    blocks = [
        _detect(lanes[i : i + LANES], times.astype(float), limit[i : i + LANES], end[i : i + LANES], kappa, delta, i)
        for i in range(0, max(len(lanes), 1), LANES)
    ]
    return _padded(_Found(*map(np.concatenate, zip(*blocks, strict=True))), times, shape)


def flattest(dataset: xr.Dataset, plateaus: xr.Dataset) -> xr.DataArray:
    """The step within each interval of ``detect(dataset)`` at which a run stands stillest: (runs..., plateau).

    That is the record with the least ``grad_norm``, or, where the sweep records none, with the least slope of
    ln(L - L_ref), L_ref that of ``detect``. NaN where there is no interval. ``replay.states`` gives the states there.
    """
    runs, loss, step, _ = watched_runs(dataset)
    if "grad_norm" in dataset:
        slope = dataset["grad_norm"].transpose(*runs.dims, "step").to_numpy()
    else:
        excess = loss - np.asarray(plateaus.attrs["reference"], np.float64)[..., None]
        slope = np.abs(np.gradient(np.log(np.maximum(excess, np.finfo(float).tiny)), step, axis=-1))
    slope = np.where(np.isfinite(slope), slope, np.inf)
    begin, end = (plateaus[name].transpose(*runs.dims, "plateau") for name in ("begin", "end"))
    places = []
    for i in range(plateaus.sizes["plateau"]):
        first, last = (bound.isel(plateau=i).to_numpy()[..., None] for bound in (begin, end))
        inside = (step >= first) & (step <= last)
        where = np.where(inside, slope, np.inf).argmin(axis=-1)
        places.append(np.where(inside.any(axis=-1), step[where], np.nan))
    return begin.copy(data=np.stack(places, axis=-1) if places else np.zeros(begin.shape)).rename("step")


def _for_each(argument: str, value: float | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """One number for each trace, in a row."""
    numbers = np.asarray(value, np.float64)
    try:
        return np.broadcast_to(numbers, shape).ravel()
    except ValueError:
        raise ValueError(f"{argument}: expected a number, or one for each trace {shape}, got {numbers.shape}") from None


def _in_sweep(dataset: xr.Dataset, kappa: float, delta: float, reference: float | np.ndarray) -> xr.Dataset:
    runs, loss, step, end = watched_runs(dataset)
    found = detect(loss, kappa=kappa, delta=delta, reference=reference, step=step, watched=end)
    coords = {name: runs.coords[name] for name in runs.coords}
    result = xr.Dataset({name: ((*runs.dims, "plateau"), value) for name, value in found._asdict().items()}, coords)
    result["kind"].attrs |= {"flag_values": list(range(len(KINDS))), "flag_meanings": " ".join(KINDS)}
    return result.assign_attrs(kappa=kappa, delta=delta, reference=reference)


def _detect(
    loss: np.ndarray, step: np.ndarray, limit: np.ndarray, watched: np.ndarray, kappa: float, delta: float, offset: int
) -> _Found:
    """The intervals of a block of traces (n, T), numbered from ``offset``."""
    seen = np.isfinite(loss) & (step <= watched[:, None])
    last = np.where(seen.all(axis=1), len(step), seen.argmin(axis=1)) - 1
    excess = np.where(seen, loss - limit[:, None], 1.0)
    y = np.log(np.maximum(excess, np.finfo(float).tiny))
    weights = np.gradient(step) if len(step) > 1 else np.ones(1)
    parts, done = _Parts(np.arange(len(y)), np.zeros(len(y), int), last), []
    while True:  # cut at the rises, until no interval has one
        fitted = _fitted(y, weights, parts, falling=True)
        part, begin, end, ended = _slow(fitted + kappa * step, parts.last, delta)
        cut = _rises(y, weights, _Parts(parts.row[part], begin, end), step, kappa, delta)
        whole = ~np.isin(part, part[cut[0]])
        done.append(_judged(fitted, excess, step, limit, parts, (part, begin, end, ended), delta, whole))
        if whole.all():
            break
        parts = _without(parts, part[cut[0]], cut[1], cut[2])
    found = _Found(*map(np.concatenate, zip(*done, strict=True)))
    order = np.lexsort((found.begin, found.trace))
    return _Found(*(value[order] for value in found))._replace(trace=found.trace[order] + offset)


def _judged(
    fitted: np.ndarray,
    excess: np.ndarray,
    step: np.ndarray,
    limit: np.ndarray,
    parts: _Parts,
    intervals: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    delta: float,
    kept: np.ndarray,
) -> _Found:
    """What ``Plateaus`` says of the intervals of each part: (part, begin, end, ended), of which some are ``kept``."""
    part, begin, end, ended = intervals
    following = np.append(part[1:] == part[:-1], False) if part.size else np.zeros(0, bool)
    landing = np.where(following, np.append(begin[1:], 0)[: begin.size], parts.last[part])
    drop = np.where(ended, fitted[part, end] - fitted[part, landing], 0.0)
    trace = parts.row[part]
    moving = (fitted[part, begin] - fitted[part, end] >= delta) | (excess[trace, end] <= 0)
    kind = np.where(ended, PLATEAU, np.where(moving, TAIL, STALL)).astype(np.int8)
    above = np.exp(np.nan_to_num(fitted, nan=0.0))
    area = np.cumsum(0.5 * (above[:, 1:] + above[:, :-1]) * np.diff(step), axis=1)
    area = np.concatenate([np.zeros((len(above), 1)), area], axis=1)
    level = limit[trace] + (area[part, end] - area[part, begin]) / (step[end] - step[begin])
    return _Found(*(value[kept] for value in (trace, begin, end, level, drop, kind)))


def _fitted(y: np.ndarray, weights: np.ndarray, parts: _Parts, *, falling: bool) -> np.ndarray:
    """The closest falling (or rising) curve to each part, in the mean square over time: (parts, T), NaN outside it."""
    columns = np.arange(y.shape[1])
    inside = (columns >= parts.first[:, None]) & (columns <= parts.last[:, None])
    fitted = np.where(inside, y[parts.row], np.nan)
    change = np.diff(fitted, axis=1)  # comparisons with NaN are false
    for i in np.flatnonzero(((change > 0) if falling else (change < 0)).any(axis=1)):
        part = slice(parts.first[i], parts.last[i] + 1)
        fit = scipy.optimize.isotonic_regression(fitted[i, part], weights=weights[part], increasing=not falling)
        fitted[i, part] = fit.x
    return fitted


def _climbs(y: np.ndarray, weights: np.ndarray, intervals: _Parts, delta: float) -> np.ndarray:
    """Whether the closest rising curve to each interval rises by ``delta`` or more in it.

    It starts at the least mean of a beginning of the interval, and ends at the greatest mean of an end of it.
    """
    total = np.pad(np.cumsum(weights * np.nan_to_num(y), axis=1), ((0, 0), (1, 0)))
    mass = np.append(0.0, np.cumsum(weights))
    columns, first, last = np.arange(y.shape[1]), intervals.first[:, None], intervals.last[:, None]
    inside = (columns >= first) & (columns <= last)
    total = total[intervals.row]
    with np.errstate(invalid="ignore", divide="ignore"):  # outside the interval
        before = (total[:, 1:] - np.take_along_axis(total, first, 1)) / (mass[1:] - mass[first])
        after = (np.take_along_axis(total, last + 1, 1) - total[:, :-1]) / (mass[last + 1] - mass[:-1])
    least, most = np.where(inside, before, np.inf).min(axis=1), np.where(inside, after, -np.inf).max(axis=1)
    return most - least >= delta


def _rises(
    y: np.ndarray, weights: np.ndarray, intervals: _Parts, step: np.ndarray, kappa: float, delta: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where y rises faster than κ within intervals: the interval, the first and the last record of each rise.

    As falls are found, with the signs turned: between the rises of κ t - y that are at least ``delta`` high, y the
    closest rising curve. One at the end of an interval that takes less than δ/κ steps is a spike, and left out.
    """
    some = np.flatnonzero(_climbs(y, weights, intervals, delta))
    first, last = intervals.first[some], intervals.last[some]
    rising = _fitted(y, weights, _Parts(intervals.row[some], first, last), falling=False)
    inside, begin, end, _ = _slow(kappa * step - rising, last, delta)
    everyone = np.arange(some.size)
    owner, start = np.append(everyone, inside), np.append(first, end)
    stop_owner, stop = np.append(inside, everyone), np.append(begin, last)
    order, stop_order = np.lexsort((start, owner)), np.lexsort((stop, stop_owner))
    owner, start, stop = owner[order], start[order], stop[stop_order]
    lasting = (stop < last[owner]) | (kappa * (step[stop] - step[start]) >= delta)
    kept = (stop > start) & lasting
    return some[owner[kept]], start[kept], stop[kept]


def _without(parts: _Parts, part: np.ndarray, begin: np.ndarray, end: np.ndarray) -> _Parts:
    """What is left of those parts that have rises from ``begin`` to ``end``, in two records or more."""
    cut = np.unique(part)
    owner, first = np.append(cut, part), np.append(parts.first[cut], end)
    last_owner, last = np.append(part, cut), np.append(begin, parts.last[cut])
    order, last_order = np.lexsort((first, owner)), np.lexsort((last, last_owner))
    row, first, last = parts.row[owner[order]], first[order], last[last_order]
    long = last > first
    return _Parts(row[long], first[long], last[long])


def _slow(g: np.ndarray, last: np.ndarray, delta: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The rises of each row of g (n, T) between extremes at least ``delta`` apart, up to its last record.

    Returns the row, the records of the minimum and the maximum, and whether a fall by ``delta`` follows; where none
    does the last record takes the place of the maximum. One pass over the records, all rows at once; NaN is no record.
    """
    n = len(g)
    rising, falling = np.zeros(n, bool), np.zeros(n, bool)
    lowest, highest = np.full(n, np.inf), np.full(n, -np.inf)
    lowest_at, highest_at = np.zeros(n, int), np.zeros(n, int)
    begins, ends = [np.zeros((2, 0), int)], [np.zeros((2, 0), int)]
    for i in range(g.shape[1]):
        here = g[:, i]  # comparisons with NaN are false: what ended stays as it was
        for better, extreme, at in ((here > highest, highest, highest_at), (here < lowest, lowest, lowest_at)):
            np.copyto(extreme, here, where=better)
            at[better] = i
        turned = np.flatnonzero(~rising & (here - lowest >= delta))
        begins.append(np.stack([turned, lowest_at[turned]]))
        rising[turned], falling[turned], highest[turned], highest_at[turned] = True, False, here[turned], i
        turned = np.flatnonzero(~falling & (highest - here >= delta))
        left = turned[rising[turned]]
        ends.append(np.stack([left, highest_at[left]]))
        rising[turned], falling[turned], lowest[turned], lowest_at[turned] = False, True, here[turned], i
    begin, end = np.concatenate(begins, axis=1), np.concatenate(ends, axis=1)
    still = np.flatnonzero(rising)
    end = np.concatenate([end, np.stack([still, last[still]])], axis=1)
    ended = np.arange(end.shape[1]) < end.shape[1] - still.size
    order = np.argsort(end[0], kind="stable")
    begin = begin[:, np.argsort(begin[0], kind="stable")]
    return begin[0], begin[1], end[1, order], ended[order]


def _padded(found: _Found, step: np.ndarray, shape: tuple[int, ...]) -> Plateaus:
    """One row for each trace, as long as the longest."""
    traces = int(np.prod(shape))
    counts = np.bincount(found.trace, minlength=traces)
    most = int(counts.max(initial=0))
    place = np.arange(found.trace.size) - np.repeat(np.cumsum(counts) - counts, counts)

    def table(values: np.ndarray, fill: float, dtype: type = np.float64) -> np.ndarray:
        whole = np.full((traces, most), fill, dtype)
        whole[found.trace, place] = values
        return whole.reshape(*shape, most)

    begin, end = table(step[found.begin], np.nan), table(step[found.end], np.nan)
    level, drop = table(found.level, np.nan), table(found.drop, np.nan)
    return Plateaus(begin, end, level, drop, table(found.kind, NONE, np.int8))
