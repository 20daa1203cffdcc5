"""A plateau: a long, nearly flat slope, and a red point at the bottom to be reached. How many steps does each one take?

    python -m experiments.lecture_plateau --quick  # 8 s
    python -m experiments.lecture_plateau          # 8 s

The surface falls by only s a unit of length along x until x = L, then into a bowl; across, it is a valley ½ y². Where
the gradient is constant, x after t steps is, with η the learning rate,

    gd        η s t
    momentum  η s (t - β (1 - β^t) / (1 - β)) / (1 - β)         in the long run 1 / (1 - β) = 10 times as fast
    rmsprop   Σ_k η s / √(s² (1 - ρ^k) + ε)                     η a step, and more in the beginning
    adam      η s t / (s + ε)                                   η a step, however flat

The slope ends between two steps of each optimizer, so that rounding decides nothing and theory holds to the step. In a
net the plateau is not drawn but grows from small weights: see ``escape_against_scale``. float64.

What comes out: each takes the steps of theory, at the learning rates chosen here gradient descent ten times as many as
the others. It is at the red point after 4,094 steps, momentum, which at first swings past it, after 438, Adam after 444
and RMSProp after 508, with a learning rate of 0.1 for the first two and 0.01 for the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.axes3d import Axes3D
from scipy.optimize import brentq

from experiments import script
from experiments.claim import Claim
from jaxsoft import optimizers, plot_surface, style, sweep, train
from jaxsoft.problem import Params, Problem
from jaxsoft.process import Process

BETA, RHO, EPS = 0.9, 0.9, 1e-8


@dataclass(frozen=True)
class Config:
    slope: float = 0.01
    length: float = 4.0005  # of the slope; half a step of gradient descent away from the end of a step
    depth: float = 1.0
    width: float = 1.5  # of the bowl, from its rim to the red point
    start: tuple[float, float] = (0.0, 0.8)
    learning_rates: tuple[tuple[str, float], ...] = (("gd", 0.1), ("momentum", 0.1), ("rmsprop", 0.01), ("adam", 0.01))
    near: float = 0.1  # of the red point
    steps: int = 5000
    seed: int = 0


QUICK = Config()


def surface(config: Config) -> Problem:
    """-s x + D (3u⁴ - 4u³) + ½ y², u = max(x - L, 0) / w: twice continuously differentiable."""

    def loss(params: Params) -> jax.Array:
        x, y = jnp.asarray(params)
        u = jnp.maximum(x - config.length, 0) / config.width
        return -config.slope * x + config.depth * (3 * u**4 - 4 * u**3) + 0.5 * y**2

    return Problem(lambda key: jnp.asarray(config.start), loss)


def red_point(config: Config) -> np.ndarray:
    """The minimum: 12 D u² (u - 1) / w = s."""

    def falls(u: float) -> float:
        return 12 * config.depth * u**2 * (u - 1) / config.width - config.slope

    return np.array([config.length + config.width * cast(float, brentq(falls, 1, 2, xtol=1e-14)), 0.0])


def main(config: Config = Config(), *, progress: bool = False) -> xr.Dataset:
    """The ways of the optimizers, (optimizer, run, step, 2)."""
    made = surface(config)

    def process(optimizer: str, learning_rate: float) -> Process:
        chosen = optimizers.make(optimizer, learning_rate)
        return train.make_train(made, chosen, probe=lambda theta: {"theta": jnp.asarray(theta)})

    kinds = {name: {"learning_rate": eta} for name, eta in config.learning_rates}
    axes = {"optimizer": kinds, "run": sweep.Seeds(1)}
    return sweep.run(process, axes, seed=config.seed, steps=config.steps, progress=progress)


def along_the_slope(name: str, eta: float, config: Config) -> np.ndarray:
    """x after t = 0, 1, ... steps on a slope without end."""
    t, s = np.arange(config.steps + 1), config.slope
    rms = np.sqrt(s**2 * (1 - RHO ** t[1:]) + EPS)
    law = {
        "gd": lambda: eta * s * t,
        "momentum": lambda: eta * s * (t - BETA * (1 - BETA**t) / (1 - BETA)) / (1 - BETA),
        "rmsprop": lambda: np.append(0, np.cumsum(eta * s / rms)),
        "adam": lambda: eta * s * t / (s + EPS),
    }
    return config.start[0] + law[name]()


def steps_in_theory(config: Config) -> dict[str, int]:
    """The first step beyond the slope."""
    laws = {name: along_the_slope(name, eta, config) for name, eta in config.learning_rates}
    return {name: int(np.argmax(x >= config.length)) for name, x in laws.items()}


def paths(results: xr.Dataset) -> dict[str, np.ndarray]:
    """(step, 2) by optimizer."""
    theta = results["theta"].isel(run=0)
    return {str(name): theta.sel(optimizer=name).to_numpy() for name in theta["optimizer"].to_numpy()}


def claims(results: xr.Dataset, config: Config) -> list[Claim]:
    expected, ways, goal = steps_in_theory(config), paths(results), red_point(config)
    made = []
    for name, steps in expected.items():
        measured = int(np.argmax(ways[name][:, 0] >= config.length))
        source = "sum of the updates for a constant gradient"
        made.append(Claim(f"{name}: steps to the end of the slope", source, steps, measured, 0))
    there = sum(float(np.linalg.norm(way[-1] - goal)) < config.near for way in ways.values())
    made.append(Claim("optimizers at the red point in the end", "the only minimum", len(expected), there, 0))
    return made


def plot(results: xr.Dataset, config: Config, *, ax: Axes | None = None) -> Axes:
    """The surface with the ways to the red point; beside it the loss against steps."""
    ways, goal, loss = paths(results), red_point(config), surface(config).loss
    if ax is None:
        figure = Figure(figsize=(13, 5), layout="constrained")
        left = figure.add_subplot(1, 2, 1, projection="3d")
        assert isinstance(left, Axes3D)
        beyond = goal[0] + 0.4
        plot_surface.plot_surface(loss, (config.start[0] - 0.2, beyond), (-1.0, 1.0), ways, ax=left, resolution=80)
        mark(left, goal, loss, "red point", color="red", ms=11, mec="white", mew=1.5)
        mark(left, np.array(config.start), loss, "start", color="black", ms=6)
        left.set(xlabel="x", ylabel="y", zlabel="loss")
        left.set_yticks([-1, 0, 1])
        left.set_box_aspect((2.2, 1, 1), zoom=1.2)
        left.view_init(elev=35, azim=-70)
        left.set_title("A plateau: nearly flat for a long way, then down to the red point", fontsize="medium")
        ax = figure.add_subplot(1, 2, 2)
        figure.get_layout_engine().set(wspace=0.08)  # pyrefly: ignore[missing-attribute]
    ax = style.axes(ax)
    expected, height = steps_in_theory(config), results["loss"].isel(run=0)
    first = min(expected.values())
    inset = ax.inset_axes((0.08, 0.39, 0.46, 0.32))  # there the ends of the slope lie apart
    for i, (name, steps) in enumerate(expected.items()):
        arrived = int(np.argmax(np.linalg.norm(ways[name] - goal, axis=1) < config.near))
        curve, eta = height.sel(optimizer=name).to_numpy(), dict(config.learning_rates)[name]
        along = np.arange(len(curve))
        style.curve(ax, i, along[1:], curve[1:], f"{name}, η = {eta:g}: at the red point after {arrived:,} steps")
        near = slice(int(0.95 * first), int(1.12 * first))
        if steps in range(near.start, near.stop):
            style.curve(inset, i, along[near], curve[near], name)
            inset.plot(steps, curve[steps], "|", color="black", ms=12, mew=1.5, zorder=6)
            place = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center"}
            inset.annotate(f"{steps}", (steps, curve[steps]), **place, fontsize="x-small")
        else:
            ax.plot(steps, curve[steps], "|", color="black", ms=22, mew=1.5, zorder=6)
    ax.plot([], [], "|", color="black", ms=12, mew=1.5, ls="", label="end of the slope in theory")
    inset.set_ylim(-config.slope * config.length - 0.05, -config.slope * config.length + 0.05)
    inset.tick_params(labelsize="x-small")
    ax.indicate_inset_zoom(inset, edgecolor=style.GREY)
    ax.set(xscale="log", xlabel="step", ylabel="loss")
    ax.set_title("Momentum, RMSProp and Adam speed up the way", fontsize="medium")
    ax.legend(frameon=False, fontsize="small", loc="lower left")
    return ax


def mark(ax: Axes3D, point: np.ndarray, loss: Callable[[Params], jax.Array], name: str, **look: Any) -> None:
    """A dot with its name, on the surface."""
    x, y, z = *map(float, point), float(loss(jnp.asarray(point)))
    ax.plot([x], [y], [z], "o", zorder=6, **look)
    ax.text(x, y, z, f"    {name}", fontsize="small", zorder=7)


if __name__ == "__main__":
    script.run("lecture_plateau", Config(), main, claims, plot, x64=True)
