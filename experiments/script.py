"""What every experiment does as a script: run, print its claims, save its picture."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import jax
from matplotlib.axes import Axes

from experiments.claim import Claim, show

Config = TypeVar("Config")
Results = TypeVar("Results")


def run(
    name: str,
    config: Config,
    main: Callable[..., Results],
    claims: Callable[[Results, Config], Sequence[Claim]],
    plot: Callable[[Results, Config], Axes],
    *,
    x64: bool = False,
) -> None:
    """Run ``main(config, progress=True)`` on all cores; the picture goes to ``results/name.png``."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    jax.config.update("jax_enable_x64", x64)
    results = main(config, progress=True)
    show(claims(results, config))
    target = Path("results") / f"{name}.png"
    target.parent.mkdir(exist_ok=True)
    figure = plot(results, config).get_figure(root=True)
    assert figure is not None
    figure.savefig(target, dpi=150)
    print(target)
