"""How long a saddle holds: the escape law of gradient descent, flatter saddles, the saddle of a net at zero weights.

Times are in steps, with a growth factor μ of ``growth``, or in the flow's own time (learning rate times steps).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import scipy.special
import scipy.stats

from jaxsoft import checks
from jaxsoft.theory.examples import labelled


def _law(growth: float, ratio: float, k: int) -> tuple[float, float, int]:
    """ln μ and ln(R/σ) of an escape law; ValueError for what is none."""
    if checks.positive("growth", growth) <= 1:
        raise ValueError(f"growth: expected a factor > 1, got {growth}")
    return math.log(growth), math.log(checks.positive("ratio", ratio)), checks.count("k", k)


def escape_time_cdf(t: npt.ArrayLike, growth: float, ratio: float, k: int = 1) -> npt.NDArray[np.float64]:
    """The chance to have left a quadratic saddle by time t (in steps), from a Gaussian start:

        P(T ≤ t) = P(χ²_k ≥ (R/σ)² μ^{-2t})

    k equal ways down, along each the start y₀ ~ N(0, σ²) and y_t = μ^t y₀; T is when the distance √(Σ y²) reaches R, so
    T = ln(R/|y₀|) / ln μ, below 0 for a start outside. ``growth`` μ (1 + g for gradient descent), ``ratio`` R/σ. At
    whole t it is the law of the first step outside. Raises ValueError for μ ≤ 1, R/σ ≤ 0 or k < 1.

    >>> escape_time_cdf([0, 100, 1e9], growth=1.05, ratio=100.0).round(3).tolist()
    [0.0, 0.447, 1.0]
    """
    rate, reach, k = _law(growth, ratio, k)
    threshold = np.exp(2.0 * (reach - rate * np.asarray(t, np.float64)))
    return np.asarray(scipy.stats.chi2.sf(threshold, k), np.float64)


def escape_time_mean(growth: float, ratio: float, k: int = 1) -> float:
    """The mean of ``escape_time_cdf``, in steps: E[T] = [ln(R/σ) - ½ (ψ(k/2) + ln 2)] / ln μ, ψ the digamma function.

    As E[ln χ²_k] = ψ(k/2) + ln 2. For k = 1 it is [ln(R/σ) + ½ (γ + ln 2)] / ln μ, γ = 0.5772. More ways down, sooner:

    >>> [round(escape_time_mean(1.01, 1000.0, k)) for k in (1, 2, 10)]
    [758, 688, 584]
    """
    rate, reach, k = _law(growth, ratio, k)
    return (reach - 0.5 * (float(scipy.special.digamma(k / 2)) + math.log(2.0))) / rate


def escape_time_std(growth: float, k: int = 1) -> float:
    """The standard deviation of ``escape_time_cdf``, in steps: ½ √ψ₁(k/2) / ln μ; for k = 1, π / (2√2 ln μ).

    As Var[ln χ²_k] = ψ₁(k/2), the trigamma function. It does not depend on R/σ.
    """
    rate, _, k = _law(growth, 1.0, k)
    return 0.5 * math.sqrt(float(scipy.special.polygamma(1, k / 2))) / rate


def flat_escape_time(start: float, radius: float, order: float, rate: float = 1.0) -> float:
    """The time in which gradient flow goes from |y| = ``start`` to ``radius`` on the degenerate saddle -c |y|^p / p:

        ẏ = c y^{p-1},     T = (start^{-(p-2)} - radius^{-(p-2)}) / (c (p - 2)),     p = ``order`` > 2, c = ``rate``

    A power of the start, in the place of the logarithm of a quadratic saddle. The monkey saddle x³ - 3xy² is, along
    its rays down, -r³: p = 3 and c = 3. Raises ValueError for p ≤ 2 and a start outside (0, radius].

    >>> flat_escape_time(0.01, 1.0, order=3, rate=3.0)
    33.0
    """
    if checks.positive("order", order) <= 2:
        raise ValueError(f"order: expected a number > 2, got {order}")
    if checks.positive("start", start) > checks.positive("radius", radius):
        raise ValueError(f"start: expected a number in (0, {radius}], got {start}")
    power = order - 2.0
    return (start**-power - radius**-power) / (checks.positive("rate", rate) * power)


def zero_saddle_rates(x: npt.ArrayLike, y: npt.ArrayLike, num_classes: int) -> npt.NDArray[np.float64]:
    """The curvatures down from the zero point of a two-layer softmax net without biases, largest first.

    With all weights zero every class has the probability 1/C. To second order in the weights V (out) and W (in) of a
    hidden layer with f(0) = 0, f'(0) = 1, the loss is ln C - Tr(Vᵀ M W), with

        M = (1/n) Σ_i (e_{y_i} - 1/C) x_iᵀ          (C, d),

    so the Hessian has the eigenvalues ±s_j(M), each once for every hidden unit, and zeros. A bias in the hidden layer
    is one more input that is always 1: append it to x. Returns the singular values s_j of M, min(C, d) of them.

    Args: x inputs (n, ...), flattened; y labels (n,), integers in [0, C); num_classes C. Raises ValueError for others.
    """
    inputs, labels = labelled(x, y, num_classes)
    residual = np.eye(num_classes)[labels] - 1.0 / num_classes
    moment = residual.T @ inputs / len(inputs)
    return np.asarray(np.linalg.svd(moment, compute_uv=False), np.float64)
