"""What softmax alone says of the curvature."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from jaxsoft import checks


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


def jacobian_bound(p: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """A bound of the largest eigenvalue of softmax's Jacobian diag p - p pᵀ, for probabilities p (..., C):

        λ_max ≤ 2 max_i p_i (1 - p_i) ≤ ½

    The i-th row sums in modulus to p_i (1 - p_i) + p_i Σ_{j≠i} p_j = 2 p_i (1 - p_i) (Gershgorin). So softmax is
    ½-Lipschitz in the 2-norm; Nair (2025), "Softmax is 1/2-Lipschitz".

    >>> jacobian_bound([0.5, 0.5, 0.0]).tolist(), jacobian_bound([1.0, 0.0]).tolist()
    (0.5, 0.0)
    """
    probabilities = np.asarray(p, np.float64)
    if probabilities.ndim == 0 or not (np.abs(probabilities.sum(-1) - 1) < 1e-6).all() or (probabilities < 0).any():
        raise ValueError(f"p: expected probabilities (..., C), got {p}")
    return np.asarray(2.0 * np.max(probabilities * (1.0 - probabilities), axis=-1), np.float64)
