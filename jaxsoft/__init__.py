"""jaxsoft: why a softmax classifier stalls, and when it will move again.

The modules are the table of contents: ``jaxsoft.softmax``, ``jaxsoft.losses``, ``jaxsoft.models``, ``jaxsoft.data``,
``jaxsoft.problem``, ``jaxsoft.optimizers``, ``jaxsoft.train``, ``jaxsoft.sweep``, ``jaxsoft.curvature``,
``jaxsoft.plateau``. They are loaded on first use, so that ``import jaxsoft`` and the command line's help do not wait
for jax.

Notation used throughout: z logits (C,), p = softmax(z) probabilities, y labels, θ parameters, η learning rate,
n examples, d inputs, C classes.
"""

from __future__ import annotations

import importlib
from types import ModuleType

__version__ = "0.1.0"

_MODULES = (
    "checkpoint",
    "checks",
    "critical",
    "curvature",
    "data",
    "diagnose",
    "files",
    "groups",
    "lecture",
    "losses",
    "models",
    "optimizers",
    "plateau",
    "plot",
    "plot_critical",
    "plot_curvature",
    "plot_surface",
    "problem",
    "process",
    "recipe",
    "replay",
    "report",
    "softmax",
    "store",
    "sweep",
    "symmetry",
    "theory",
    "train",
)

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> ModuleType:
    if name in _MODULES:
        return importlib.import_module(f"jaxsoft.{name}")
    raise AttributeError(f"module 'jaxsoft' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
