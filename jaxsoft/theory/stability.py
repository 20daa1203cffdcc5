"""The edge of stability: the sharpness (largest curvature) up to which a minimum holds the iteration."""

from __future__ import annotations

from jaxsoft import checks


def edge_gd(eta: float) -> float:
    """Gradient descent is stable up to the sharpness 2/η: y ← (1 - ηλ) y, so |1 - ηλ| ≤ 1.

    Training raises the sharpness up to there and then keeps it. Cohen et al. (2021), "Gradient descent on neural
    networks typically occurs at the edge of stability".
    """
    return 2.0 / checks.positive("eta", eta)


def edge_heavy_ball(eta: float, beta: float) -> float:
    """Heavy ball is stable up to the sharpness (2 + 2β)/η: there z² - (1 + β - ηλ) z + β has the root -1.

    Cohen et al. (2021), "Gradient descent on neural networks typically occurs at the edge of stability".
    """
    return (2.0 + 2.0 * checks.fraction("beta", beta)) / checks.positive("eta", eta)


def edge_nesterov(eta: float, beta: float) -> float:
    """Nesterov momentum is stable up to (2 + 2β)/((1 + 2β) η), below gradient descent's 2/η.

    There z² - (1 + β)(1 - ηλ) z + β (1 - ηλ) has the root -1. Cohen et al. (2021), "Gradient descent on neural networks
    typically occurs at the edge of stability".
    """
    checks.fraction("beta", beta)
    return (2.0 + 2.0 * beta) / ((1.0 + 2.0 * beta) * checks.positive("eta", eta))
