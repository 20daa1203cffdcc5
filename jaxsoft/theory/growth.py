"""By which factor the distance from a quadratic saddle grows at each step, for each optimizer.

Curvature -λ along a way down (λ > 0), learning rate η, g = ηλ, momentum β; the momenta start at zero, as in optax.
A factor is rounded to float64: for g far below 1e-16 it is 1.
"""

from __future__ import annotations

import math

from jaxsoft import checks


def _excess(middle: float, g: float) -> float:
    """The root e ≥ 0 of e² + b e - g = 0, b = ``middle``, without the cancellation of -b + √(b² + 4g)."""
    root = math.sqrt(middle**2 + 4.0 * g)
    return 2.0 * g / (middle + root) if middle > 0 else 0.5 * (root - middle)


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
    return 1.0 + _excess(1.0 - beta - g, g)  # z = 1 + e


def growth_nesterov(g: float, beta: float) -> float:
    """Nesterov momentum's factor at a quadratic saddle: the larger root of z² - (1 + β)(1 + g) z + β (1 + g) = 0.

    From y_{t+1} = (1 + g) (y_t + β (y_t - y_{t-1})) (Nesterov 1983; Sutskever et al. 2013).

    >>> round(growth_nesterov(0.01, 0.9), 6)
    1.06739
    """
    checks.non_negative("g", g)
    checks.fraction("beta", beta)
    return 1.0 + _excess(1.0 - beta - g - beta * g, g)  # z = 1 + e


def amplitude_heavy_ball(g: float, beta: float) -> float:
    """The share A of the start that grows with heavy ball: y_t → A y₀ μ^t, from momentum 0, μ = ``growth_heavy_ball``.

    The first step is y₁ = (1 + g) y₀, and y_t = (A μ^t + (1 - A) ν^t) y₀ with ν = β/μ the smaller root, so

        A = (1 + g - ν) / (μ - ν).

    So y_t is above R from t = ln(R/(A |y₀|)) / ln μ on. The rest of the start dies out like ν^t.

    >>> round(amplitude_heavy_ball(0.01, 0.9), 4)
    0.7508
    """
    growth = growth_heavy_ball(g, beta)
    other = beta / growth
    return (1.0 + g - other) / (growth - other)


def amplitude_nesterov(g: float, beta: float) -> float:
    """The share A of the start that grows with Nesterov momentum: as ``amplitude_heavy_ball``, but in optax's form

        m ← β m - λ y,   y ← y - η (β m - λ y),     so y₁ = (1 + (1 + β) g) y₀ and A = (1 + (1 + β) g - ν) / (μ - ν),

    with ν = β (1 + g)/μ the smaller root.
    """
    growth = growth_nesterov(g, beta)
    other = beta * (1.0 + g) / growth
    return (1.0 + (1.0 + beta) * g - other) / (growth - other)


def growth_rmsprop(g: float, eps: float, eps_in_sqrt: bool = True) -> float:
    """RMSProp's factor while the gradient is far below its floor: 1 + g/√ε, or 1 + g/ε where ε stands outside the root.

    From u = -η ∇/√(v + ε) or -η ∇/(√v + ε) with v ≪ ε: gradient descent with a larger learning rate. With optax's
    default (ε = 1e-8, inside the root) the floor of the divisor is 1e-4, and outside it 1e-8. Tieleman & Hinton (2012);
    see ``rmsprop_escape_time`` for what follows.

    >>> growth_rmsprop(1e-6, 1e-8), round(growth_rmsprop(1e-6, 1e-8, eps_in_sqrt=False), 6)
    (1.01, 101.0)
    """
    checks.non_negative("g", g)
    checks.positive("eps", eps)
    return 1.0 + g / (math.sqrt(eps) if eps_in_sqrt else eps)


def growth_saddle_free_newton(curvature: float = 1.0, damping: float = 0.0) -> float:
    """Saddle-free Newton's factor: 1 + λ / (λ + δ), which is 2 without damping δ, whatever the curvature λ.

    From y ← y + (|H| + δ)⁻¹ λ y. Newton's own step, y ← y - H⁻¹ ∇f, has the factor 0: it ends on the saddle. Dauphin et
    al. (2014), "Identifying and attacking the saddle point problem in high-dimensional non-convex optimization".

    >>> growth_saddle_free_newton(), growth_saddle_free_newton(0.5, damping=1.5)
    (2.0, 1.25)
    """
    checks.positive("curvature", curvature)
    checks.non_negative("damping", damping)
    return 1.0 + curvature / (curvature + damping)
