"""Deep linear nets from small, balanced weights: plateaus and stages, for squared error and for softmax cross-entropy.

L layers (weight matrices), all with the same factor w = u^{1/L} along one mode of strength u. Time t is the flow's:
learning rate times steps.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy.special

from jaxsoft import checks

Array = npt.NDArray[np.float64]
NEAR = 1e-3  # to the target s, as a part of it: the series takes over
LARGEST = 600.0  # margin: e^u is still a float


def saxe_time(u: npt.ArrayLike, start: float, s: float, depth: int) -> Array:
    """When the strength of a mode has grown from ``start`` to u, for the ½ squared error, with the target s:

        du/dt = L u^{2-2/L} (s - u)        (input covariance I, balanced layers)

    With w = u^{1/L} the time is ∫ dw / (w^{L-1} (s - w^L)), so t = F(u) - F(start),

        F(u) = (1/s) [ln w, or -w^{2-L}/(L - 2) for L ≠ 2,  +  (w²/2s) ₂F₁(1, 2/L; 1 + 2/L; u/s)].

    L = 2: t = ln[u (s - start) / (start (s - u))] / (2s). From L = 3 on the first term is the plateau: see
    ``saxe_plateau``. Raises ValueError unless 0 < start ≤ u < s. Saxe, McClelland & Ganguli (2014), "Exact solutions to
    the nonlinear dynamics of learning in deep linear neural networks".

    >>> saxe_time([0.5, 0.999], start=0.001, s=1.0, depth=2).round(3).tolist()
    [3.453, 6.907]
    """
    checks.count("depth", depth)
    goal, begin = checks.positive("s", s), checks.positive("start", start)
    strength = np.asarray(u, np.float64)
    if not (begin <= strength).all() or not (strength < goal).all():
        raise ValueError(f"u: expected numbers in [{start}, {s}), got {u}")

    return _saxe(strength / goal, (goal - strength) / goal, begin, goal, depth)


def _saxe(part: Array, gap: Array, start: float, s: float, depth: int) -> Array:
    """``saxe_time`` at u = ``part`` s, with ``gap`` = 1 - part as exact as it is known: near s it is all that counts.

    There ₂F₁(1, b; 1 + b; 1 - z) = b Σ_n (b)_n/n! [ψ(n + 1) - ψ(b + n) - ln z] zⁿ (Abramowitz & Stegun 15.3.10).
    """
    b = 2.0 / depth

    def integral(part: Array, gap: Array) -> Array:
        w = (part * s) ** (1.0 / depth)
        plateau = np.log(w) if depth == 2 else -(w ** (2.0 - depth)) / (depth - 2.0)
        z, near, factor = np.minimum(gap, NEAR), np.zeros_like(gap), b
        for n in range(6):
            near += factor * (scipy.special.digamma(n + 1.0) - scipy.special.digamma(b + n) - np.log(z)) * z**n
            factor *= (b + n) / (n + 1)
        far = scipy.special.hyp2f1(1.0, b, 1.0 + b, np.minimum(part, 1.0 - NEAR))
        return (plateau + w**2 / (2 * s) * np.where(gap < NEAR, near, far)) / s

    first = np.asarray(start / s)
    return np.asarray(integral(part, gap) - integral(first, np.asarray((s - start) / s)), np.float64)


def saxe_strength(t: npt.ArrayLike, start: float, s: float, depth: int) -> Array:
    """The strength of a mode at time t ≥ 0: the inverse of ``saxe_time``, a sigmoid from ``start`` to s."""
    if not 0 < checks.positive("start", start) < checks.positive("s", s):
        raise ValueError(f"start: expected a number in (0, {s}), got {start}")
    checks.count("depth", depth)
    expit = scipy.special.expit

    def time(logit: Array) -> Array:
        return _saxe(expit(logit), expit(-logit), start, s, depth)

    low, high = float(scipy.special.logit(start / s)), 700.0  # there the strength has long been s in float64
    return s * expit(_inverse(time, np.minimum(t, time(np.asarray(high))), low, high))


def saxe_plateau(scale: float, s: float, depth: int) -> float:
    """How long a mode of target s stays near zero, to leading order, for layers of the ``scale`` a₀ = start^{1/L}:

        t ≈ a₀^{-(L-2)} / (s (L - 2)),     L = ``depth`` ≥ 3

    A power of the scale, with log-log slope -(L - 2), where two layers have the logarithm ln(s/a₀²) / (2s): the first
    term of ``saxe_time``. Saxe, McClelland & Ganguli (2014).

    >>> saxe_plateau(0.01, 1.0, depth=3), saxe_plateau(0.01, 1.0, depth=4)
    (100.0, 5000.0)
    """
    checks.count("depth", depth, at_least=3)
    return checks.positive("scale", scale) ** -(depth - 2.0) / (checks.positive("s", s) * (depth - 2.0))


def softmax_time(u: npt.ArrayLike, start: float, num_classes: int, depth: int) -> Array:
    """When the margin u = z_y - z_j of a deep linear softmax classifier has grown from ``start``, plateau and tail:

        du/dt = L u^{2-2/L} / (e^u + C - 1),     so   ∫ (e^v + C - 1) v^{-(2-2/L)} dv = L t     from ``start`` to u

    The data are one example a class, X = I_C, the loss is the mean cross-entropy ``softmax_loss``, and every layer
    starts at w (I - 11ᵀ/C), a form that is kept: the product is w^L (I - 11ᵀ/C), of the margin u = w^L, and the loss's
    gradient in it is -(I - 11ᵀ/C)/(e^u + C - 1). Two layers: Ei(u) - Ei(start) + (C - 1) ln(u/start) = 2t. While u is
    small, the plateau, C - 1 rules; once it is large, e^v does, and the loss is (C - 1)/(L t u^{2-2/L}): a tail.

    One layer may start at 0: e^u + (C - 1) u = 1 + t; with n orthonormal inputs in the place of C it holds for
    C t/n, whatever the classes' sizes. Raises ValueError unless 0 < start ≤ u (one layer: 0 ≤ start).

    >>> softmax_time([7.85617], start=1e-4, num_classes=10, depth=2).round(2).tolist()
    [250.05]
    """
    checks.count("depth", depth)
    checks.count("num_classes", num_classes, at_least=2)
    begin = checks.non_negative("start", start) if depth == 1 else checks.positive("start", start)
    margin = np.asarray(u, np.float64)
    if not (begin <= margin).all() or not np.isfinite(margin).all():
        raise ValueError(f"u: expected finite numbers >= {start}, got {u}")
    power = 2.0 / depth - 1.0

    def integral(v: Array) -> Array:
        if depth == 2:
            return scipy.special.expi(v) + (num_classes - 1) * np.log(v)
        return v**power / power * (scipy.special.hyp1f1(power, power + 1.0, v) + num_classes - 1)

    return np.asarray((integral(margin) - integral(np.asarray(begin))) / depth, np.float64)


def softmax_margin(t: npt.ArrayLike, start: float, num_classes: int, depth: int) -> Array:
    """The margin of a deep linear softmax classifier at time t ≥ 0, up to 600: the inverse of ``softmax_time``.

    Raises ValueError for a start of 600 or more, and for times after which the margin, about ln t, would be larger.
    """
    if start >= LARGEST:
        raise ValueError(f"start: expected a number < {LARGEST}, got {start}")
    return _inverse(lambda u: softmax_time(u, start, num_classes, depth), t, start, LARGEST)


def softmax_loss(u: npt.ArrayLike, num_classes: int) -> Array:
    """The cross-entropy where the right logit leads all others by u: ln(1 + (C - 1) e^{-u}); ln C at u = 0."""
    checks.count("num_classes", num_classes, at_least=2)
    margin = np.asarray(u, np.float64)
    small = np.exp(-np.abs(margin))  # below 0: ln(1 + (C - 1) e^{-u}) = -u + ln(e^u + C - 1)
    ahead, behind = np.log1p((num_classes - 1) * small), np.log1p(num_classes - 2 + small) - margin
    return np.asarray(np.where(margin < 0, behind, ahead), np.float64)


def _inverse(time: Callable[[Array], Array], t: npt.ArrayLike, low: float, high: float) -> Array:
    """Where an increasing function is t, by bisection down to rounding; ValueError outside its range."""
    target = np.asarray(t, np.float64)
    if not (target >= 0).all() or not (target <= time(np.asarray(high))).all():
        raise ValueError(f"t: expected times >= 0 within the range of float64, got {t}")
    below, above = np.full(target.shape, low), np.full(target.shape, high)
    for _ in range(100):
        middle = 0.5 * (below + above)
        late = time(middle) > target
        below, above = np.where(late, below, middle), np.where(late, middle, above)
    return np.asarray(0.5 * (below + above), np.float64)
