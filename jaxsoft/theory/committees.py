"""The symmetric plateau of a committee machine: all hidden units do the same before they specialise."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from jaxsoft import checks


def committee_error(student: npt.ArrayLike, teacher: npt.ArrayLike, covariance: npt.ArrayLike | None = None) -> float:
    """The generalisation error ½ E[(Σ_i φ(J_i·x) - Σ_n φ(B_n·x))²] of a soft committee, φ(a) = erf(a/√2), x ~ N(0, Σ).

    With Q = J Σ Jᵀ, R = J Σ Bᵀ, T = B Σ Bᵀ, and 2/π arcsin of the scaled overlap the mean of a product of two units:

        ε_g = (1/π) [Σ_ik a(Q_ik) + Σ_nm a(T_nm) - 2 Σ_in a(R_in)],     a(R_in) = arcsin(R_in/√((1 + Q_ii)(1 + T_nn)))

    Args: student J (K, N); teacher B (M, N); covariance Σ (N, N), by default I. Saad & Solla (1995), "On-line
    learning in soft committee machines", Phys. Rev. E 52, 4225.

    >>> committee_error([[1.0, 0.0]], [[1.0, 0.0]])
    0.0
    """
    both = np.vstack([np.asarray(student, np.float64), np.asarray(teacher, np.float64)])
    signs = np.where(np.arange(len(both)) < len(np.asarray(student)), 1.0, -1.0)
    overlap = both @ (np.eye(both.shape[1]) if covariance is None else np.asarray(covariance, np.float64)) @ both.T
    scale = np.sqrt(1.0 + np.diag(overlap))
    return float(signs @ np.arcsin(overlap / np.outer(scale, scale)) @ signs / math.pi)


def committee_plateau(k: int) -> float:
    """The generalisation error on the symmetric plateau of K students and K orthonormal teachers, isotropic inputs:

        ε_g = (K/π) [π/6 - K arcsin(1/(2K))]

    All students are r Σ_n B_n; the best r is 1/√(K (2K - 1)), so that Q = 1/(2K - 1) and, in ``committee_error``,
    Q/(1 + Q) = R/√(2 (1 + Q)) = 1/(2K). A saddle, left by specialising. Saad & Solla (1995), "On-line
    learning in soft committee machines", Phys. Rev. E 52, 4225.

    >>> round(committee_plateau(2), 6)
    0.011611
    """
    checks.count("k", k, at_least=2)
    return k / math.pi * (math.pi / 6.0 - k * math.asin(0.5 / k))
