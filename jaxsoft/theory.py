"""Closed forms from the literature, each with its derivation in a line and its source.

Notation: curvature -λ along a way down (λ > 0), learning rate η, g = ηλ, momentum β.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from jaxsoft import checks


def growth_gd(g: float) -> float:
    """Gradient descent multiplies the distance from a quadratic saddle by 1 + g each step: y ← y + ηλ y."""
    return 1.0 + checks.non_negative("g", g)


def growth_heavy_ball(g: float, beta: float) -> float:
    """Heavy ball's factor at a quadratic saddle: the larger root of z² - (1 + β + g) z + β = 0.

    From y_{t+1} = y_t + β (y_t - y_{t-1}) + g y_t (Polyak 1964). It is far below 1 + g / (1 - β) unless g ≪ (1 - β)²:

    >>> round(growth_heavy_ball(0.01, 0.9), 6)
    1.064659
    """
    checks.non_negative("g", g)
    checks.fraction("beta", beta)
    middle = 1.0 + beta + g
    return 0.5 * (middle + math.sqrt(middle**2 - 4.0 * beta))


def growth_nesterov(g: float, beta: float) -> float:
    """Nesterov momentum's factor at a quadratic saddle: the larger root of z² - (1 + β)(1 + g) z + β (1 + g) = 0.

    From y_{t+1} = (1 + g) (y_t + β (y_t - y_{t-1})) (Nesterov 1983; Sutskever et al. 2013).

    >>> round(growth_nesterov(0.01, 0.9), 6)
    1.06739
    """
    checks.non_negative("g", g)
    checks.fraction("beta", beta)
    middle = (1.0 + beta) * (1.0 + g)
    return 0.5 * (middle + math.sqrt(middle**2 - 4.0 * beta * (1.0 + g)))


def zero_saddle_rates(x: npt.ArrayLike, y: npt.ArrayLike, num_classes: int) -> npt.NDArray[np.float64]:
    """The curvatures down from the zero point of a two-layer softmax net without biases, largest first.

    With all weights zero every class has the probability 1/C. To second order in the weights V (out) and W (in) of a
    hidden layer with f(0) = 0, f'(0) = 1, the loss is ln C - Tr(Vᵀ M W), with

        M = (1/n) Σ_i (e_{y_i} - 1/C) x_iᵀ          (C, d),

    so the Hessian has the eigenvalues ±s_j(M), each once for every hidden unit, and zeros. A bias in the hidden layer
    is one more input that is always 1: append it to x. Returns the singular values s_j of M, min(C, d) of them.

    Args: x inputs (n, ...), flattened; y labels (n,); num_classes C.
    """
    inputs, labels = np.asarray(x, np.float64), np.asarray(y)
    if inputs.ndim < 2 or labels.shape != inputs.shape[:1]:
        raise ValueError(f"labels: expected shape ({len(inputs)},), one for each example, got {labels.shape}")
    checks.count("num_classes", num_classes, at_least=2)
    residual = np.eye(num_classes)[labels] - 1.0 / num_classes
    moment = residual.T @ inputs.reshape(len(inputs), -1) / len(inputs)
    return np.asarray(np.linalg.svd(moment, compute_uv=False), np.float64)


def bohning_bound(x: npt.ArrayLike, num_classes: int) -> npt.NDArray[np.float64]:
    """Böhning's bound of the Hessian of softmax regression, (C·d, C·d), for inputs x (n, d).

        H = (1/n) Σ (diag p - p pᵀ) ⊗ x xᵀ  ⪯  B = ½ (I - 11ᵀ/C) ⊗ XᵀX/n

    in the Löwner order, at any weights, as diag p - p pᵀ ⪯ ½ (I - 11ᵀ/C). The weights (C, d) are row by row. For two
    classes at zero weights H = B. Böhning (1992), "Multinomial logistic regression algorithm".
    """
    inputs = np.asarray(x, np.float64)
    if inputs.ndim != 2 or not len(inputs) or not np.isfinite(inputs).all():
        raise ValueError(f"x: expected finite numbers of shape (n, d), got shape {inputs.shape}")
    checks.count("num_classes", num_classes, at_least=2)
    bound = np.kron(0.5 * (np.eye(num_classes) - 1.0 / num_classes), inputs.T @ inputs / len(inputs))
    return np.asarray(bound, np.float64)


def baldi_hornik(s: npt.ArrayLike, chosen: Sequence[int], width: int) -> tuple[int, float]:
    """Index and loss of the critical point of ½‖M - A B‖² that keeps the singular values ``chosen`` of M.

    M has k distinct singular values s > 0, and A B has rank at most p = ``width``. With I the chosen ones, r = |I|:

        index = #{(i in I, j not in I): s_j > s_i} + (p - r)(k - r),      loss = ½ Σ_{j not in I} s_j²

    Each pair can swap a smaller value for a larger one; each idle unit can pick up any value left out. Baldi & Hornik
    (1989), "Neural networks and principal component analysis: learning from examples without local minima".

    >>> baldi_hornik([3.0, 2.0, 1.0], chosen=[1], width=2)
    (3, 5.0)
    """
    values = np.asarray(s, np.float64)
    if values.ndim != 1 or not (np.isfinite(values) & (values > 0)).all() or len(np.unique(values)) < values.size:
        raise ValueError(f"s: expected different singular values > 0, got {s}")
    kept = sorted({operator.index(i) for i in chosen})
    if len(kept) != len(chosen) or not all(0 <= i < len(values) for i in kept):
        raise ValueError(f"chosen: expected different indices in [0, {values.size}), got {list(chosen)}")
    if len(kept) > checks.count("width", width):
        raise ValueError(f"chosen: expected at most {width} (the width), got {len(kept)}")
    rest = np.setdiff1d(np.arange(len(values)), kept)
    swaps = int(np.sum(values[rest][None, :] > values[kept][:, None]))
    return swaps + (width - len(kept)) * len(rest), float(0.5 * np.sum(values[rest] ** 2))


def semicircle_cdf(x: npt.ArrayLike, radius: float = 2.0) -> npt.NDArray[np.float64]:
    """The share of a semicircle's eigenvalues at or below x, for the density 2 √(R² - x²) / (π R²) on [-R, R]:

        F(x) = 1/2 + x √(R² - x²) / (π R²) + arcsin(x/R) / π,     0 below -R, 1 above R.

    The spectrum of an n-dimensional symmetric matrix with independent entries of the variance 1/n, R = 2 (Wigner 1955,
    "Characteristic vectors of bordered matrices with infinite dimensions").

    >>> semicircle_cdf([-2.0, 0.0, 1.0]).round(4).tolist()
    [0.0, 0.5, 0.8045]
    """
    t = np.clip(np.asarray(x, np.float64) / checks.positive("radius", radius), -1.0, 1.0)
    return np.asarray(0.5 + (t * np.sqrt(1.0 - t**2) + np.arcsin(t)) / np.pi, np.float64)


def p_spin_index(p: int, u: npt.ArrayLike, n: int) -> npt.NDArray[np.float64]:
    """The expected share α of ways down at a critical point of ``problem.p_spin`` with the energy u = f/√n, to leading
    order in n:

        α = F_sc(p u / √(p (p - 1)) · √(n / (n - 1))),     F_sc = ``semicircle_cdf`` of radius 2.

    All directions go up below u = -2 √((p - 1)/p), for large n. Derived at ``problem.p_spin``; Auffinger, Ben Arous &
    Černý (2013), "Random matrices and complexity of spin glasses".

    >>> p_spin_index(3, [-1.7, 0.0], 1000).tolist()
    [0.0, 0.5]
    """
    checks.count("p", p, at_least=2)
    checks.count("n", n, at_least=2)
    energy = np.asarray(u, np.float64)
    return semicircle_cdf(p * energy / math.sqrt(p * (p - 1)) * math.sqrt(n / (n - 1)))


def goe_positive_definite(n: int) -> float:
    """The chance that an n-dimensional symmetric Gaussian matrix (GOE) has positive eigenvalues only, for n = 1, 2, 3:

        1/2,     (2 - √2)/4 = 0.1464,     (π - 2√2)/(4π) = 0.0249.

    n = 2: with the mean m ~ N(0, 1/2) of the eigenvalues, and half their distance r, of density 2 r e^{-r²} (off the
    diagonal the variance is 1/2), P = P(m > r) = ½ ∫ erfc(r) 2 r e^{-r²} dr = (1 - 1/√2)/2. Far below the 2^-n of n
    independent coins, as eigenvalues repel. Raises ValueError for n > 3: see ``goe_positive_definite_log``. Dean &
    Majumdar (2008), "Extreme value statistics of eigenvalues of Gaussian random matrices".

    >>> [round(goe_positive_definite(n), 4) for n in (1, 2, 3)]
    [0.5, 0.1464, 0.0249]
    """
    exact = (0.5, (2.0 - math.sqrt(2.0)) / 4.0, (math.pi - 2.0 * math.sqrt(2.0)) / (4.0 * math.pi))
    return exact[checks.count("n", n, at_most=len(exact)) - 1]


def goe_positive_definite_log(n: int) -> float:
    """ln P of ``goe_positive_definite`` to leading order for large n: -(ln 3 / 4) n².

    The cost of pushing the eigenvalues, charges in a plane that repel, to the right of a wall at 0. Dean & Majumdar
    (2006), "Large deviations of extreme eigenvalues of random matrices", Phys. Rev. Lett. 97, 160201.

    >>> round(goe_positive_definite_log(100))  # in the place of 100 ln(1/2) = -69
    -2747
    """
    return -0.25 * math.log(3.0) * checks.count("n", n) ** 2
