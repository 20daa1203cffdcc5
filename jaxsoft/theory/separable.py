"""Training that never ends: softmax regression on data that a plane separates. A tail, not a plateau.

Time t is the flow's: learning rate times steps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.optimize

from jaxsoft import checks
from jaxsoft.theory.examples import labelled


class MaxMargin(NamedTuple):
    """The widest separation: ``margin`` γ, and the weights (C, d) of norm 1 that reach it."""

    margin: float
    weights: npt.NDArray[np.float64]


def max_margin(x: npt.ArrayLike, y: npt.ArrayLike, num_classes: int) -> MaxMargin:
    """The hard margin of softmax regression without biases, γ = max_{‖W‖ = 1} min_{i, j ≠ y_i} (w_{y_i} - w_j)·x_i.

    For a bias append an input that is 1; for two classes γ is √2 times that of a support vector machine. With one row
    a = (e_{y_i} - e_j) ⊗ x_i for each pair, W* = argmin ‖W‖ under A W ≥ 1 has the norm 1/γ. Which rows it touches is
    found as non-negative least squares (Lawson & Hanson 1974, "Solving least squares problems", chapter 23), in units
    of the shortest row, and W* from those rows. That it separates is checked row by row, to rounding; so the units of x
    do not matter, and a margin is found down to some 1e-10 of ‖x‖, to a relative 1e-16 ‖x‖/γ.

    Args: x inputs (n, d), finite; y labels (n,), integers in [0, C); num_classes C. Raises ValueError for others, and
    where no plane separates the classes.

    >>> max_margin([[2.0, 0.0], [-2.0, 0.0]], [0, 1], 2).weights.round(3).tolist()
    [[0.707, 0.0], [-0.707, 0.0]]
    """
    if np.ndim(x) != 2:
        raise ValueError(f"x: expected shape (n, d), got {np.shape(x)}")
    inputs, labels = labelled(x, y, num_classes)
    ahead = np.eye(num_classes)[labels][:, None, :] - np.eye(num_classes)[None, :, :]
    rows = np.einsum("njc,nd->njcd", ahead, inputs).reshape(len(inputs) * num_classes, -1)
    rows = rows[np.arange(num_classes)[None, :].repeat(len(inputs), 0).ravel() != labels.repeat(num_classes)]
    lengths = np.linalg.norm(rows, axis=1)
    lead, direction = np.zeros(len(rows)), np.zeros(rows.shape[1])
    if (lengths > 0).all():
        unit, shortest = rows / lengths[:, None], lengths.min() / lengths
        system = np.vstack([unit.T, shortest]) / np.hypot(1.0, shortest)
        touched = scipy.optimize.nnls(system, np.append(np.zeros(rows.shape[1]), 1.0), maxiter=100 * len(rows))[0] > 0
        direction = np.linalg.lstsq(unit[touched], shortest[touched], rcond=None)[0]
        direction /= max(np.linalg.norm(direction), np.finfo(float).tiny)
        lead = unit @ direction
    if not (lead > rows.shape[1] * np.finfo(float).eps).all():
        raise ValueError("x: expected classes that a plane through the origin separates; these are not separable")
    return MaxMargin(float(np.min(lead * lengths)), direction.reshape(num_classes, -1))


def separable_loss(t: npt.ArrayLike, margin: float) -> npt.NDArray[np.float64]:
    """The loss late in training on separable data: L ≈ 1 / (γ² t), a tail whose product with t is constant.

    Once the weights point along the widest margin, ‖∇L‖ ≈ γ L, as every example's gradient is its loss times an input
    whose part along the weights is γ for those that count; so dL/dt = -‖∇L‖² = -γ² L². The correction is of relative
    order 1/ln t. Soudry et al. (2018), "The implicit bias of gradient descent on separable data".
    """
    return np.asarray(1.0 / (checks.positive("margin", margin) ** 2 * np.asarray(t, np.float64)), np.float64)


def separable_norm(t: npt.ArrayLike, margin: float) -> npt.NDArray[np.float64]:
    """The norm of the weights late in training on separable data, to leading order: ‖W‖ ≈ ln t / γ.

    As L ∝ e^{-γ‖W‖} and L ∝ 1/t. A constant is left out, so d‖W‖/d ln t reaches 1/γ long before ‖W‖/ln t does; the
    direction is off by 1/ln t. Soudry et al. (2018), "The implicit bias of gradient descent on separable data".
    """
    return np.asarray(np.log(np.asarray(t, np.float64)) / checks.positive("margin", margin), np.float64)
