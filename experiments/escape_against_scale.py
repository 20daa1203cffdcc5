"""How much longer is the plateau for each decade of smaller initial weights?

    python -m experiments.escape_against_scale --quick  # 20 s
    python -m experiments.escape_against_scale          # 3 min

Near zero weights a two-layer softmax net sits at a saddle of loss ln C. Along the steepest way down the distance
grows by a factor μ each step: 1 + ηs₁ for gradient descent, a root of a quadratic for heavy ball and Nesterov, where
s₁ is the largest singular value of (1/n) Σ (y - 1/C) xᵀ. So the time to leave grows by ln 10 / ln μ steps for each
decade by which the initial weights are smaller. float32.

What comes out: ln 10 / ln μ steps a decade within 3 %, with nothing fitted. The law is the limit of small scales; at
1e-3 the second way down still adds a few steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from experiments import script
from experiments.claim import Claim
from jaxsoft import data, models, optimizers, plateau, problem, style, sweep, theory, train
from jaxsoft.process import Process

BETA = 0.9


@dataclass(frozen=True)
class Config:
    dataset: str = "digits"
    hidden: int = 32
    learning_rate: float = 0.1
    optimizers: tuple[str, ...] = ("gd", "momentum", "nesterov")
    scales: tuple[float, ...] = (1e-8, 1e-7, 1e-6, 1e-5)
    inits: int = 16
    steps: int = 900
    seed: int = 0


QUICK = Config(inits=4)
TINY = Config(
    dataset="iris", hidden=4, learning_rate=0.02, optimizers=("gd", "momentum"), scales=(1e-6, 1e-4), inits=6, steps=900
)


def main(config: Config = Config(), *, progress: bool = False) -> xr.Dataset:
    """Escape times (optimizer, scale, run) in steps; every run leaves."""
    examples = data.get(config.dataset)
    sizes = (examples.x[0].size, config.hidden, examples.num_classes)

    def process(optimizer: str, scale: float) -> Process:
        made = problem.classification(models.mlp(sizes, scale=scale), examples)
        return train.make_train(made, optimizers.make(optimizer, config.learning_rate))

    axes = {"optimizer": config.optimizers, "scale": config.scales, "run": sweep.Seeds(config.inits)}
    ds = sweep.run(
        process,
        axes,
        seed=config.seed,
        steps=config.steps,
        config={"num_classes": examples.num_classes},
        progress=progress,
    )
    return plateau.escape_times(ds)


def steps_per_decade(config: Config) -> dict[str, float]:
    """ln 10 / ln μ for each optimizer, from the data alone."""
    examples = data.get(config.dataset)
    with_bias = np.column_stack([examples.x.reshape(len(examples.y), -1), np.ones(len(examples.y))])
    g = config.learning_rate * theory.zero_saddle_rates(with_bias, examples.y, examples.num_classes)[0]
    factors = {
        "gd": theory.growth_gd(g),
        "momentum": theory.growth_heavy_ball(g, BETA),
        "nesterov": theory.growth_nesterov(g, BETA),
    }
    return {name: float(np.log(10) / np.log(factors[name])) for name in config.optimizers}


def claims(results: xr.Dataset, config: Config) -> list[Claim]:
    """The slope of the mean escape time over all decades, against ln 10 / ln μ."""
    expected = steps_per_decade(config)
    decades = -np.log10(results["scale"].to_numpy())
    made = []
    for name in config.optimizers:
        mean = results["time"].sel(optimizer=name).mean("run").to_numpy()
        slope = float(np.polyfit(decades, mean, 1)[0])
        source = "saddle at ln C: growth factor of the largest singular value"
        made.append(Claim(f"{name}: steps on the plateau per decade of scale", source, expected[name], slope, 0.03))
    escaped = float(results["escaped"].mean())
    made.append(Claim("share of runs that leave the plateau", "strict saddle: almost surely", 1.0, escaped, 0.0))
    return made


def plot(results: xr.Dataset, config: Config, *, ax: Axes | None = None) -> Axes:
    """Escape time against scale: every run a dot, theory's slope a line through the rightmost mean."""
    ax = style.axes(ax)
    expected = steps_per_decade(config)
    scales = results["scale"].to_numpy()
    for name, marker, colour in zip(config.optimizers, "osD", ("#0072B2", "#D55E00", "#009E73"), strict=False):
        times = results["time"].sel(optimizer=name)
        ax.plot(np.repeat(scales, times.sizes["run"]), np.ravel(times), marker, ms=3, color=colour, alpha=0.4, mew=0)
        anchor = float(times.sel(scale=scales.max()).mean())
        line = anchor + expected[name] * (np.log10(scales.max()) - np.log10(scales))
        ax.plot(scales, line, color="black", lw=1)
        ax.plot([], [], marker, color=colour, label=f"{name}: {expected[name]:.1f} steps per decade in theory")
    ax.set(xscale="log", xlabel="standard deviation of the initial weights", ylabel="steps to leave the plateau")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, title="dots: runs; lines: theory's slope")
    return ax


if __name__ == "__main__":
    script.run("escape_against_scale", Config(), main, claims, plot)
