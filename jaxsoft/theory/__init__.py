"""Closed forms from the literature, each with its derivation in a line and its source. Pure NumPy and SciPy.

    growth         the factor by which each optimizer leaves a quadratic saddle
    saddles        how long a saddle holds: the law of the escape time, degenerate saddles, a net at zero weights
    adaptive       why RMSProp and Adam hardly feel how flat a saddle is
    deep_linear    stages and plateaus of deep linear nets, with squared error and with softmax
    chains         saddles in sequence
    committees     the symmetric plateau of a committee machine
    separable      the tail on separable data
    stability      the edge of stability
    softmax        bounds of the curvature
    landscapes     index and loss of critical points: Baldi & Hornik, the p-spin, random matrices
    examples       checks of examples and labels

Notation: curvature -λ along a way down (λ > 0), learning rate η, g = ηλ, momentum β.
"""

from jaxsoft.theory.adaptive import adam_escape_bounds, rmsprop_escape_time
from jaxsoft.theory.chains import chain_stage_times, noisy_stage_time
from jaxsoft.theory.committees import committee_error, committee_plateau
from jaxsoft.theory.deep_linear import (
    saxe_plateau,
    saxe_strength,
    saxe_time,
    softmax_loss,
    softmax_margin,
    softmax_time,
)
from jaxsoft.theory.growth import (
    amplitude_heavy_ball,
    amplitude_nesterov,
    growth_gd,
    growth_heavy_ball,
    growth_nesterov,
    growth_rmsprop,
    growth_saddle_free_newton,
)
from jaxsoft.theory.landscapes import (
    baldi_hornik,
    goe_positive_definite,
    goe_positive_definite_log,
    p_spin_index,
    semicircle_cdf,
)
from jaxsoft.theory.saddles import (
    escape_time_cdf,
    escape_time_mean,
    escape_time_std,
    flat_escape_time,
    zero_saddle_rates,
)
from jaxsoft.theory.separable import MaxMargin, max_margin, separable_loss, separable_norm
from jaxsoft.theory.softmax import bohning_bound, jacobian_bound
from jaxsoft.theory.stability import edge_gd, edge_heavy_ball, edge_nesterov

__all__ = [
    "MaxMargin",
    "adam_escape_bounds",
    "amplitude_heavy_ball",
    "amplitude_nesterov",
    "baldi_hornik",
    "bohning_bound",
    "chain_stage_times",
    "committee_error",
    "committee_plateau",
    "edge_gd",
    "edge_heavy_ball",
    "edge_nesterov",
    "escape_time_cdf",
    "escape_time_mean",
    "escape_time_std",
    "flat_escape_time",
    "goe_positive_definite",
    "goe_positive_definite_log",
    "growth_gd",
    "growth_heavy_ball",
    "growth_nesterov",
    "growth_rmsprop",
    "growth_saddle_free_newton",
    "jacobian_bound",
    "max_margin",
    "noisy_stage_time",
    "p_spin_index",
    "rmsprop_escape_time",
    "saxe_plateau",
    "saxe_strength",
    "saxe_time",
    "semicircle_cdf",
    "separable_loss",
    "separable_norm",
    "softmax_loss",
    "softmax_margin",
    "softmax_time",
    "zero_saddle_rates",
]
