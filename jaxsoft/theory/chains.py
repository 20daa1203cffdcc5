"""Saddles in sequence: each one presses the next way down closer to zero (``problem.chain``)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from jaxsoft import checks
from jaxsoft.theory.saddles import escape_time_mean


def chain_stage_times(ratios: npt.ArrayLike, up: float, down: float) -> npt.NDArray[np.float64]:
    """The steps of gradient descent at each of a sequence of saddles: they multiply.

        T_k = ln(R/|x_k|) / ln(1 + d) + r Σ_{j<k} T_j,     r = ln(1/(1 - u)) / ln(1 + d)

    At saddle k the k-th coordinate grows by 1 + d a step (``down``, learning rate times curvature) from what is left of
    its start x_k up to R, ``ratios`` (..., n) = R/|x|; those to come shrink by 1 - u (``up``) meanwhile. From equal
    starts T_{k+1} = (1 + r) T_k. The few steps between two saddles are left out. With the curvatures -2γ and 2L of
    Du et al. d = 2ηγ and u = 2ηL. Raises ValueError unless 0 < u < 1 and all ratios exceed 1. Du et al. (2017),
    "Gradient descent can take exponential time to escape saddle points".

    >>> chain_stage_times([100.0, 100.0, 100.0], up=0.5, down=0.5).round(1).tolist()
    [11.4, 30.8, 83.4]
    """
    distance = np.asarray(ratios, np.float64)
    if distance.ndim == 0 or not (distance > 1).all():
        raise ValueError(f"ratios: expected numbers > 1 (..., n), got {ratios}")
    rate = math.log1p(checks.positive("down", down))
    delay = -math.log1p(-checks.fraction("up", checks.positive("up", up))) / rate
    times = np.log(distance) / rate
    for k in range(1, distance.shape[-1]):
        times[..., k] += delay * times[..., :k].sum(axis=-1)
    return times


def noisy_stage_time(ratio: float, up: float, down: float) -> float:
    """The mean steps of noisy gradient descent at each saddle of a chain but the first: all the same.

    With noise N(0, σ²) at each step a coordinate waits its turn with the variance σ² / (1 - (1 - u)²), and gains
    σ² / ((1 + d)² - 1) while it grows, as y_t μ^{-t} = y_0 + Σ_s σ ξ_s μ^{-s} with μ = 1 + d. So the time up to
    R = ``ratio`` σ is ``escape_time_mean`` from a Gaussian of both variances. Not slowed down by the saddles before: Du
    et al. (2017), "Gradient descent can take exponential time to escape saddle points"; the constant is derived here.

    The limit of R far above the spread S of that Gaussian, as noise that comes after R is counted too. The mean of the
    first whole step outside is within one step of it from R = 2 S on; at 1.3 S it may be 10 % below. Raises ValueError
    for R ≤ S, where there is no wait, unless 0 < u < 1 and d > 0.

    >>> round(noisy_stage_time(1000.0, up=0.5, down=0.5), 2)
    17.67
    """
    checks.fraction("up", checks.positive("up", up))
    growth = 1.0 + checks.positive("down", down)
    variance = 1.0 / (1.0 - (1.0 - up) ** 2) + 1.0 / (growth**2 - 1.0)
    if checks.positive("ratio", ratio) <= math.sqrt(variance):
        raise ValueError(f"ratio: expected a number > {math.sqrt(variance):.3g}, the spread of the noise, got {ratio}")
    return escape_time_mean(growth, ratio / math.sqrt(variance))
