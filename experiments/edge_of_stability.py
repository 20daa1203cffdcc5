"""Training raises the sharpness until the optimizer is barely stable, and keeps it there.

    python -m experiments.edge_of_stability --quick  # 35 s
    python -m experiments.edge_of_stability          # 1 min

A small tanh net memorises shuffled labels of 200 handwritten digits with the full batch and squared error. Its
sharpness λ_max(H) rises (progressive sharpening) up to where the linearised iteration loses its stability: 2/η for
gradient descent, (2 + 2β)/η for heavy ball, (2 + 2β)/((1 + 2β) η) for Nesterov (Cohen et al. 2021). The learning rates
put all three edges near 20. float32.

What comes out: the median sharpness over the last quarter is within 5 % of that, from well below it at the start.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from experiments import script
from experiments.claim import Claim
from jaxsoft import curvature, data, models, optimizers, style, sweep, theory, train
from jaxsoft.models import Model
from jaxsoft.problem import Params, Problem
from jaxsoft.process import Process

BETA = 0.9


@dataclass(frozen=True)
class Config:
    dataset: str = "digits"
    examples: int = 200
    hidden: tuple[int, ...] = (20, 20, 20)
    learning_rates: tuple[tuple[str, float], ...] = (("gd", 0.1), ("momentum", 0.19), ("nesterov", 0.068))
    inits: int = 4
    steps: int = 6000
    record_every: int = 100
    seed: int = 0


QUICK = Config(inits=2, steps=4000)
TINY = Config(learning_rates=(("nesterov", 0.068),), inits=1, steps=1600)


def task(config: Config) -> Problem:
    """½ ‖f_θ(x) - e_y‖², the mean over centred inputs with shuffled labels."""
    source = data.get(config.dataset)
    flat = np.asarray(source.x).reshape(len(source.y), -1)[: config.examples]
    labels = np.random.default_rng(config.seed).permutation(np.asarray(source.y)[: config.examples])
    x, y = jnp.asarray(flat - flat.mean(axis=0)), jax.nn.one_hot(labels, source.num_classes)
    model: Model = models.mlp([x.shape[1], *config.hidden, source.num_classes], init="glorot")

    def loss(params: Params) -> jax.Array:
        outputs = jax.vmap(model.apply, in_axes=(None, 0))(params, x)
        return 0.5 * jnp.mean(jnp.sum((outputs - y) ** 2, axis=1))

    return Problem(model.init, loss)


def main(config: Config = Config(), *, progress: bool = False) -> xr.Dataset:
    """Losses and sharpness, (optimizer, run, step)."""
    made = task(config)

    def process(optimizer: str, learning_rate: float) -> Process:
        return train.make_train(
            made,
            optimizers.make(optimizer, learning_rate),
            probe=lambda params: {"sharpness": curvature.sharpness(made.loss, params)},
        )

    axes = {
        "optimizer": {name: {"learning_rate": eta} for name, eta in config.learning_rates},
        "run": sweep.Seeds(config.inits),
    }
    return sweep.run(
        process, axes, seed=config.seed, steps=config.steps, record_every=config.record_every, segment=500,
        progress=progress,
    )  # fmt: skip


def edges(config: Config) -> dict[str, float]:
    """The largest stable sharpness of each optimizer."""
    edge = {
        "gd": theory.edge_gd,
        "momentum": lambda eta: theory.edge_heavy_ball(eta, BETA),
        "nesterov": lambda eta: theory.edge_nesterov(eta, BETA),
    }
    return {name: edge[name](eta) for name, eta in config.learning_rates}


def claims(results: xr.Dataset, config: Config) -> list[Claim]:
    made = []
    late = results["sharpness"].where(results["step"] >= 0.75 * config.steps)
    for name, edge in edges(config).items():
        measured = float(late.sel(optimizer=name).median()) / edge
        about = f"{name}: late sharpness over its edge"
        made.append(Claim(about, "Cohen et al. 2021", 1.0, measured, 0.05, "reported"))
        start = float(results["sharpness"].sel(optimizer=name).isel(step=0).max()) / edge
        about = f"{name}: sharpness at the start over its edge, threshold for 'well below'"
        made.append(Claim(about, "progressive sharpening starts below", 0.8, start, 0, "at most"))
    return made


def plot(results: xr.Dataset, config: Config, *, ax: Axes | None = None) -> Axes:
    """Sharpness over its edge against step: the median run, and all runs as a band."""
    ax = style.axes(ax)
    step = results["step"].to_numpy()
    for i, (name, edge) in enumerate(edges(config).items()):
        runs = results["sharpness"].sel(optimizer=name) / edge
        style.curve(ax, i, step, runs.median("run").to_numpy(), f"{name}: edge {edge:.1f}")
        ax.fill_between(step, runs.min("run"), runs.max("run"), color=style.style(i).color, alpha=0.15, lw=0)
    ax.axhline(1, color="black", lw=1, ls=":")
    ax.set(xlabel="step", ylabel="sharpness, in units of the edge of stability", ylim=(0, None))
    ax.legend(frameon=False, loc="lower right")
    return ax


if __name__ == "__main__":
    script.run("edge_of_stability", Config(), main, claims, plot)
