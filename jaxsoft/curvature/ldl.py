"""How many eigenvalues of a symmetric matrix lie below a number, by L D Lᵀ, and what rounding can change of it."""

from __future__ import annotations

import numpy as np

OFF = 256  # √P u ‖H‖_F: how far from an edge factors are made first; they are seldom worse


def counts_below(matrix: np.ndarray, edges: list[tuple[float, int]], least: float = 0.0) -> tuple[list[int], float]:
    """For each (edge, side): how many eigenvalues are below edge + side · ε; and how far the counts may be from the
    edges. Side -1 never counts an eigenvalue above the edge, side +1 never misses one below it. NaN where the numbers
    overflow: then nothing is known."""
    if len(matrix) == 0:
        return [0] * len(edges), 0.0
    shift = max(least, OFF * np.sqrt(len(matrix)) * floor(matrix))
    counts = []
    for edge, side in edges:
        count, bound = negatives(matrix, edge + side * shift)
        while bound > shift:
            shift = 2 * bound  # the factors are worse than expected: stand further off
            if not np.isfinite(shift):
                return [0] * len(edges), np.nan
            count, bound = negatives(matrix, edge + side * shift)
        if np.isnan(bound):
            return [0] * len(edges), np.nan
        counts.append(count)
    return counts, 2 * shift


def floor(matrix: np.ndarray) -> float:
    """u ‖H‖_F: no bound is better than the last digit."""
    return float(np.finfo(np.float64).eps / 2 * np.linalg.norm(matrix))


def negatives(matrix: np.ndarray, shift: float, probes: int = 10) -> tuple[int, float]:
    """How many eigenvalues of a symmetric matrix are below ``shift``, and the backward error ε of that count.

    A = H - shift·I = P L D Lᵀ Pᵀ by Bunch & Kaufman (1977) pivoting, in float64. The count is exact for A - E with
    E = A - P L D Lᵀ Pᵀ, the residual of the computed factors. For Gaussian vectors ω_1 .. ω_k,

        ‖E‖₂ <= 10 √(2/π) max_i ‖E ω_i‖₂     with a probability of at least 1 - 10⁻ᵏ

    (Halko, Martinsson & Tropp 2011, lemma 4.1); k = ``probes`` = 10. That is ε, and u ‖H‖_F more.
    """
    from scipy.linalg import get_blas_funcs, get_lapack_funcs  # not at the top: a sweep need not wait for SciPy

    size = len(matrix)
    factor = np.array(matrix, np.float64, order="F")
    factor[np.diag_indices(size)] -= shift
    sytrf, sytrf_lwork, syconv = get_lapack_funcs(("sytrf", "sytrf_lwork", "syconv"), (factor,))
    trmm = get_blas_funcs("trmm", (factor,))
    factor, pivots, info = sytrf(factor, lwork=int(sytrf_lwork(size, lower=1)[0]), lower=1, overwrite_a=1)
    if info < 0:
        raise ValueError(f"matrix: expected a matrix of finite numbers, LAPACK refuses argument {-info}")
    factor, off, _ = syconv(factor, pivots, lower=1, way=0, overwrite_a=1)
    off[-1] = 0.0
    diagonal = np.diagonal(factor).copy()

    first = np.flatnonzero(pivots[:-1] < 0)
    first = first[::2]  # both rows of a 2x2 pivot are marked, one pair after the other
    single = np.ones(size, bool)
    single[first] = single[first + 1] = False
    a, b, c = diagonal[first], off[first], diagonal[first + 1]
    two = np.where(a * c - b * b < 0, 1, np.where(a + c < 0, 2, 0))
    count = int(np.sum(diagonal[single] < 0) + np.sum(two))

    omega = np.asfortranarray(np.random.default_rng(0).normal(size=(size, probes)))
    order = _permutation(pivots)
    moved = trmm(1.0, factor, np.asfortranarray(omega[order]), lower=1, trans_a=1, diag=1)
    moved = _tridiagonal(diagonal, off, moved)
    moved = trmm(1.0, factor, np.asfortranarray(moved), lower=1, diag=1)
    residual = matrix @ omega - shift * omega
    residual[order] -= moved
    largest = float(np.max(np.linalg.norm(residual, axis=0)))
    return count, 10 * np.sqrt(2 / np.pi) * largest + floor(matrix)


def _permutation(pivots: np.ndarray) -> np.ndarray:
    """The order of rows that LAPACK's interchanges (lower) bring about."""
    order = np.arange(len(pivots))
    k = 0
    while k < len(pivots):
        pair = pivots[k] < 0
        row = k + pair
        other = abs(int(pivots[k])) - 1
        order[[row, other]] = order[[other, row]]
        k += 1 + pair
    return order


def _tridiagonal(diagonal: np.ndarray, off: np.ndarray, x: np.ndarray) -> np.ndarray:
    """D x for the block diagonal D."""
    y = diagonal[:, None] * x
    y[1:] += off[:-1, None] * x[:-1]
    y[:-1] += off[:-1, None] * x[1:]
    return y
