"""Runs compared by when they leave: survival curves, the log-rank test, and pairs that share a start."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
import scipy.stats

from jaxsoft.plateau.escape import EscapeTime


class Survival(NamedTuple):
    """The share of runs still on the plateau after ``time`` steps, with a pointwise confidence band."""

    time: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray


class LogRank(NamedTuple):
    """``statistic`` is standard normal if both kinds leave alike, positive if the first leaves earlier."""

    statistic: float
    pvalue: float


class Paired(NamedTuple):
    """How often the ``first`` and the ``second`` of a pair left before the other; ``tied`` and ``undecided`` pairs.

    ``share`` is first / (first + second), with its confidence interval; share / (1 - share) is the ratio of the rates.
    """

    first: int
    second: int
    tied: int
    undecided: int
    share: float
    low: float
    high: float
    pvalue: float


def survival(time: np.ndarray, escaped: np.ndarray, *, confidence: float = 0.95) -> Survival:
    """The Kaplan-Meier estimate of the share of runs still on the plateau, for right-censored times.

    S(t) = Π_{t_i <= t} (1 - d_i / n_i), with d_i the escapes at t_i and n_i the runs still watched just before; the
    band is Greenwood's on the log-log scale, pointwise. Kaplan & Meier 1958. Starts at (0, 1).
    Raises ValueError for no times, and for times that are not finite or below 0.
    """
    time, escaped = _flat(EscapeTime(time, escaped))
    if not escaped.any():
        ones = np.ones(2)
        return Survival(np.array([0.0, time.max()]), ones, np.array([1.0, np.nan]), ones)
    curve = scipy.stats.ecdf(scipy.stats.CensoredData.right_censored(time, ~escaped)).sf
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


def _flat(times: EscapeTime) -> tuple[np.ndarray, np.ndarray]:
    """Times and flags in a row; ValueError for what is neither."""
    time, escaped = np.ravel(times[0]), np.ravel(times[1]).astype(bool)
    if time.shape != escaped.shape or time.size == 0:
        raise ValueError(f"escaped: expected one flag for each of {time.size} (> 0) times, got {escaped.size}")
    time = time.astype(float)
    wrong = ~(np.isfinite(time) & (time >= 0))
    if wrong.any():
        raise ValueError(f"time: expected finite numbers >= 0, got {time[wrong][0]}")
    return time, escaped


def log_rank(first: EscapeTime, second: EscapeTime) -> LogRank:
    """Whether two independent groups of runs leave at the same rates: the log-rank test for right-censored times.

        Z = Σ_i (d_1i - d_i n_1i/n_i) / √(Σ_i d_i (n_1i/n_i)(1 - n_1i/n_i)(n_i - d_i)/(n_i - 1))

    with n_i runs watched just before the time t_i, of which d_i leave then, and n_1i, d_1i those of the first group.
    Asymptotically standard normal; two-sided. Groups that share their starts are not independent, and the test then
    says too little: use ``paired``. Where the variance is 0, at each t_i all leave at once or only one group is still
    watched; then d_1i = d_i n_1i/n_i, the times say nothing of the rates, and the statistic is 0. Mantel (1966),
    "Evaluation of survival data and two new rank order statistics arising in its consideration".
    """
    groups = [_flat(times) for times in (first, second)]
    (a, left_a), (b, left_b) = groups
    left = np.concatenate([a[left_a], b[left_b]])
    seen = np.concatenate([a[~left_a], b[~left_b]]).max(initial=-np.inf)
    some_stay = (left <= seen) | (left < left.max(initial=-np.inf))
    if not (some_stay & (left <= min(a.max(), b.max()))).any():
        return LogRank(0.0, 1.0)
    x, y = (scipy.stats.CensoredData.right_censored(time, ~escaped) for time, escaped in groups)
    result = scipy.stats.logrank(x, y)
    return LogRank(float(result.statistic), float(result.pvalue))


def paired(first: EscapeTime, second: EscapeTime, *, confidence: float = 0.95) -> Paired:
    """Which of two leaves first from the same start: the sign test on those pairs that right-censored times decide.

    A pair is decided where one run left while the other was still watched and had not; it is tied where both left at
    the same record, and undecided where neither was seen to leave before the other's watch ended. If the two are
    exchangeable, each decided pair is a fair coin, whatever the spread of the starts and of the watches: the p-value is
    exact (two-sided binomial), and the interval of ``share`` that of Clopper & Pearson (1934). It is the log-rank test
    stratified by pairs: where the rates of a pair have the ratio e^β, each decided pair goes to the first with the
    probability e^β/(1 + e^β). Holt & Prentice (1974), "Survival analyses in twin studies and matched pair experiments".

    Without any decided pair the share is 1/2, between 0 and 1. Raises ValueError for groups of different shapes.

    >>> times = EscapeTime(np.array([3, 5, 9]), np.array([True, True, False]))
    >>> later = EscapeTime(np.array([4, 9, 9]), np.array([True, False, False]))
    >>> paired(times, later)[:5]
    (2, 0, 0, 1, 1.0)
    """
    if np.shape(first[0]) != np.shape(second[0]):
        raise ValueError(f"second: expected the pairs of first, shape {np.shape(first[0])}, got {np.shape(second[0])}")
    (a, left_a), (b, left_b) = _flat(first), _flat(second)
    wins = int(np.sum(left_a & ((a < b) | ((a == b) & ~left_b))))
    losses = int(np.sum(left_b & ((b < a) | ((a == b) & ~left_a))))
    tied = int(np.sum(left_a & left_b & (a == b)))
    undecided = a.size - wins - losses - tied
    if wins + losses == 0:
        return Paired(0, 0, tied, undecided, 0.5, 0.0, 1.0, 1.0)
    test = scipy.stats.binomtest(wins, wins + losses)
    interval = test.proportion_ci(confidence, method="exact")
    share = wins / (wins + losses)
    return Paired(wins, losses, tied, undecided, share, float(interval.low), float(interval.high), float(test.pvalue))
