"""The symmetry group of a perceptron's loss, by the symmetries of its activation and of softmax."""

from __future__ import annotations

from dataclasses import dataclass

from jaxsoft import checks

UNITS = ("none", "permutation", "odd", "positive", "orthogonal", "linear")


@dataclass(frozen=True)
class Symmetry:
    """Which maps of the layers' parameters leave a loss alone.

    units: what may be done to the units of a hidden layer, W_l, b_l their incoming weights and W_{l+1} the outgoing:

        none:         nothing
        permutation:  the units in another order
        odd:          and W_l, b_l, W_{l+1} of a unit change sign, as φ(-a) = -φ(a): tanh, erf
        positive:     a permutation, and W_l, b_l times s, W_{l+1} times 1/s for s > 0, as φ(s a) = s φ(a): ReLU
        orthogonal:   h_l → Q h_l + t with QᵀQ = 1; without biases t = 0
        linear:       h_l → X h_l + t with X invertible, as φ(a) = a; without biases t = 0

    class_shift: one vector is added to every class of the last layer, W_L + 1 vᵀ and b_L + c 1: softmax(z + c 1) =
    softmax(z). bias_shift: to the biases alone.

    Raises ValueError for unknown units. Hecht-Nielsen (1990), "On the algebraic structure of feedforward network weight
    spaces"; Chen, Lu & Hecht-Nielsen (1993), "On the geometry of feedforward neural network error surfaces".

    >>> Symmetry("positive", class_shift=True).penalised()
    Symmetry(units='permutation', class_shift=False, bias_shift=True)
    """

    units: str
    class_shift: bool = False
    bias_shift: bool = False

    def __post_init__(self) -> None:
        checks.one_of("units", self.units, UNITS)

    def penalised(self) -> Symmetry:
        """What remains under a penalty Σ w² of the weights, free biases: the subgroup that leaves it alone too."""
        units = {"positive": "permutation", "linear": "orthogonal"}.get(self.units, self.units)
        return Symmetry(units, False, self.class_shift or self.bias_shift)
