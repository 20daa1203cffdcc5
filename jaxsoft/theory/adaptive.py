"""Why adaptive methods hardly feel how flat a saddle is: the escape times of RMSProp and Adam."""

from __future__ import annotations

import math

from jaxsoft import checks


def rmsprop_escape_time(
    start: float, radius: float, curvature: float, eta: float, eps: float, eps_in_sqrt: bool = True
) -> float:
    """The steps in which RMSProp goes from |y| = ``start`` to ``radius`` on -½ λ y², in the limit of small steps:

        ẏ = ηλy / √(λ²y² + ε):   T = √ε/(ηλ) · [√(1 + w²) - arsinh(1/w)] from w₀ = λ·start/√ε to w₁ = λ·radius/√ε
        ẏ = ηλy / (λy + ε):      T = [ε/λ · ln(radius/start) + radius - start] / η       with ``eps_in_sqrt=False``

    with the mean square v taken as the present gradient's square. In fact v lags behind by ρ/(1 - ρ) steps, and y goes
    faster: T is too long by a few times that lag, 9 steps at ρ = 0.9. Below its floor, |λy| ≪ √ε (or ε), RMSProp is
    gradient descent with the factor ``growth_rmsprop``; above, a walk of η a step, whatever λ. Tieleman & Hinton
    (2012), "RMSProp"; derived here.

    >>> round(rmsprop_escape_time(1e-12, 1.0, curvature=1e-3, eta=1e-3, eps=1e-8))
    3497
    >>> round(rmsprop_escape_time(1e-12, 1.0, curvature=1e-3, eta=1e-3, eps=1e-8, eps_in_sqrt=False))
    1000
    """
    if checks.positive("start", start) > checks.positive("radius", radius):
        raise ValueError(f"start: expected a number in (0, {radius}], got {start}")
    for name, value in (("curvature", curvature), ("eta", eta), ("eps", eps)):
        checks.positive(name, value)
    if not eps_in_sqrt:
        return (eps / curvature * math.log(radius / start) + radius - start) / eta
    floor = math.sqrt(eps)

    def integral(w: float) -> float:
        return math.sqrt(1.0 + w * w) - math.asinh(1.0 / w)

    return floor / (eta * curvature) * (integral(curvature * radius / floor) - integral(curvature * start / floor))


def adam_escape_bounds(radius: float, eta: float) -> tuple[float, float]:
    """About the least and the most steps in which Adam leaves a saddle, whatever the start and the curvature:

        R / (√3 η)  ≲  T  ≲  R / η

    An update is m̂/√v̂ times η. At the start it is the gradient's sign. While y, and with it the gradient, grows like a
    power t^a, m̂ is the last gradient and v̂ the mean of all squares, t^{2a}/(2a + 1): the speed is √(2a + 1) η, which is
    constant for a = 1 only, at √3 η. Long after 1/(1 - ρ) steps v̂ follows the gradient, and the speed falls to η again.
    Holds for starts well inside R whose gradients are above Adam's ε, and η ≪ R. Kingma & Ba (2015); derived here.

    >>> [round(steps) for steps in adam_escape_bounds(radius=1.0, eta=1e-3)]
    [577, 1000]
    """
    steps = checks.positive("radius", radius) / checks.positive("eta", eta)
    return steps / math.sqrt(3.0), steps
