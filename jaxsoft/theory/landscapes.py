"""Critical points counted: the autoencoder of Baldi and Hornik, the spherical p-spin, random matrices."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from jaxsoft import checks


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
