"""Critical points with a verdict: searches from thousands of starts, honest ends, copies told apart.

    found = critical.find(problem.loss, params)                     # one start
    found = critical.find_all(problem.loss, starts, "trust_region")  # thousands, in one compiled program
    found.status == "critical"                                       # and not merely flat, or on the way to infinity

Searches see nothing but ``loss(params) -> scalar``. Each is a process ``(init, step)`` that ``sweep.run`` runs too:

    ds = sweep.run(critical.make_search(problem.loss, problem.init), {"run": sweep.Seeds(1000)}, seed=0, steps=100)

A critical point is one with ‖∇L‖ <= tol (1e-8 in float64) whose Newton step is short as well; its index is the number
of negative curvatures, certified.
"""

from jaxsoft.critical.graph import SaddleGraph, saddle_graph
from jaxsoft.critical.methods import (
    METHODS,
    Method,
    eigenvector_following,
    gradient_norm,
    newton,
    newton_cg,
    newton_mr,
    perturbed_gd,
    saddle_free,
    trust_region,
)
from jaxsoft.critical.path import make_path
from jaxsoft.critical.points import CriticalPoint, find, find_all, from_dataset
from jaxsoft.critical.search import VERDICTS, make_search

__all__ = [
    "METHODS",
    "VERDICTS",
    "CriticalPoint",
    "Method",
    "SaddleGraph",
    "eigenvector_following",
    "find",
    "find_all",
    "from_dataset",
    "gradient_norm",
    "make_path",
    "make_search",
    "newton",
    "newton_cg",
    "newton_mr",
    "perturbed_gd",
    "saddle_free",
    "saddle_graph",
    "trust_region",
]
