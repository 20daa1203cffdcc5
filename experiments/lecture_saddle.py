"""Local optima, or saddles? The old picture, the horse's saddle, and how rare minima are in many dimensions.

    python -m experiments.lecture_saddle --quick  # 25 s
    python -m experiments.lecture_saddle          # 1 min

The old picture: in two dimensions, a surface full of local minima. It is f(θ) = Σ g(θ_i), g(t) = sin t - 0.6 sin 3t. As
g is odd, turning θ_i into -θ_i turns a curve that bends up into one that bends down, and Newton's method, which only
asks where the gradient is zero, takes the mirrored way. So from starts that are symmetric about 0 every direction of
the point that it finds is a fair coin: it is a minimum with the chance 2^-n exactly, and a saddle nearly always. Real
nets are not made of coins: ``share_of_minima`` counts theirs.

The horse's saddle is ½ (x² - y²), and the rider starts nearly on the ridge, at y = 0.001. Gradient descent moves away
by 1 + η a step. Momentum goes by both roots of z² - (1 + β + η) z + β = 0: the larger one, μ, is its factor, and the
other, β/μ, dies out. Steps of RMSProp and Adam hardly depend on the slope, so |y| is no power: it is computed from the
equations of their papers in NumPy. float64.

What comes out: minima become rare as 2^-n, from one half in one dimension to 3 in a thousand in eight; all four leave
the ridge as theory says, to nine digits, Adam after 108 steps and RMSProp after 118.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.axes3d import Axes3D
from scipy.stats import binomtest

from experiments import script
from experiments.claim import Claim
from jaxsoft import critical, optimizers, plot_surface, style, sweep, theory, train
from jaxsoft.problem import Params, Problem
from jaxsoft.process import Process

BETA, RHO = 0.9, 0.9  # of momentum and Adam; of RMSProp
ADAM_RHO, EPS = 0.999, 1e-8


@dataclass(frozen=True)
class Config:
    """dimensions: of the surfaces that are searched; learning_rates: of the riders."""

    dimensions: tuple[int, ...] = (1, 2, 3, 4, 6, 8)
    searches: int = 4000
    max_steps: int = 60
    learning_rates: tuple[tuple[str, float], ...] = (
        ("gd", 0.05),
        ("momentum", 0.05),
        ("rmsprop", 0.01),
        ("adam", 0.01),
    )
    start: tuple[float, float] = (1.5, 1e-3)
    radius: float = 1.5  # |y| of a rider who has left
    steps: int = 250
    seed: int = 0


QUICK = Config(dimensions=(1, 2, 4), searches=1000)
TINY = Config(dimensions=(1,), searches=100)


class Results(NamedTuple):
    """Ways down (m,) of the critical points found, by dimension; the riders' ways, (optimizer, run, step, 2)."""

    index: dict[int, np.ndarray]
    paths: xr.Dataset


def old_picture(params: Params) -> jax.Array:
    """Σ sin θ_i - 0.6 sin 3θ_i."""
    theta = jnp.asarray(params)
    return jnp.sum(jnp.sin(theta) - 0.6 * jnp.sin(3 * theta))


def horse(params: Params) -> jax.Array:
    """½ (x² - y²)."""
    x, y = jnp.asarray(params)
    return 0.5 * (x**2 - y**2)


def ways_down(dimension: int, config: Config, *, progress: bool) -> np.ndarray:
    """The index of every critical point that Newton's method finds."""
    key = jax.random.fold_in(jax.random.key(config.seed), dimension)
    starts = jax.random.uniform(key, (config.searches, dimension), minval=-jnp.pi, maxval=jnp.pi)
    found = critical.find_all(old_picture, starts, "newton", max_steps=config.max_steps, progress=progress)
    assert found.inertia is not None
    return np.asarray(found.inertia.negative)[found.status == "critical"]


def ride(config: Config, *, progress: bool) -> xr.Dataset:
    def process(optimizer: str, learning_rate: float) -> Process:
        surface = Problem(lambda key: jnp.asarray(config.start), horse)
        made = optimizers.make(optimizer, learning_rate)
        return train.make_train(surface, made, probe=lambda theta: {"theta": jnp.asarray(theta)})

    kinds = {name: {"learning_rate": eta} for name, eta in config.learning_rates}
    axes = {"optimizer": kinds, "run": sweep.Seeds(1)}
    return sweep.run(process, axes, seed=config.seed, steps=config.steps, progress=progress)


def main(config: Config = Config(), *, progress: bool = False) -> Results:
    index = {n: ways_down(n, config, progress=progress) for n in config.dimensions}
    return Results(index, ride(config, progress=progress))


def paths(results: Results) -> dict[str, np.ndarray]:
    """(step, 2) by optimizer."""
    theta = results.paths["theta"].isel(run=0)
    return {str(name): theta.sel(optimizer=name).to_numpy() for name in theta["optimizer"].to_numpy()}


def heavy_ball(eta: float, steps: np.ndarray) -> np.ndarray:
    """y_t / y_0 = A μ^t + (1 - A) (β/μ)^t."""
    growth, share = theory.growth_heavy_ball(eta, BETA), theory.amplitude_heavy_ball(eta, BETA)
    return share * growth**steps + (1 - share) * (BETA / growth) ** steps


def rmsprop(eta: float, y: float, steps: int) -> np.ndarray:
    """y at every step (Tieleman & Hinton 2012), the gradient being -y: v ← ρ v + (1 - ρ) y², y ← y + η y / √(v + ε)."""
    way, v = [y], 0.0
    for _ in range(steps):
        v = RHO * v + (1 - RHO) * way[-1] ** 2
        way.append(way[-1] + eta * way[-1] / np.sqrt(v + EPS))
    return np.array(way)


def adam(eta: float, y: float, steps: int) -> np.ndarray:
    """y at every step (Kingma & Ba 2015, Algorithm 1), the gradient being -y."""
    way, m, v = [y], 0.0, 0.0
    for t in range(1, steps + 1):
        g = -way[-1]
        m, v = BETA * m + (1 - BETA) * g, ADAM_RHO * v + (1 - ADAM_RHO) * g**2
        way.append(way[-1] - eta * m / (1 - BETA**t) / (np.sqrt(v / (1 - ADAM_RHO**t)) + EPS))
    return np.array(way)


def distances(config: Config) -> dict[str, tuple[str, np.ndarray]]:
    """By optimizer where its law is from, and |y| at every step by it, (step,)."""
    steps, y = np.arange(config.steps + 1), config.start[1]
    laws = {
        "gd": ("growth factor", lambda eta: y * theory.growth_gd(eta) ** steps),
        "momentum": ("both roots", lambda eta: y * heavy_ball(eta, steps)),
        "rmsprop": ("Tieleman & Hinton's equations", lambda eta: rmsprop(eta, y, config.steps)),
        "adam": ("Kingma & Ba's equations", lambda eta: adam(eta, y, config.steps)),
    }
    return {name: (laws[name][0], laws[name][1](eta)) for name, eta in config.learning_rates}


def claims(results: Results, config: Config) -> list[Claim]:
    made = []
    for n, index in results.index.items():
        share, count = 2.0**-n, len(index)
        spread = np.sqrt((1 - share) / (share * count))
        measured = float(np.mean(index == 0))
        made += [
            Claim(f"n = {n}: share of minima, 3 sd", "2^-n: coins", share, measured, 3 * spread),
            Claim(f"n = {n}: ways down, 3 sd", "n/2: coins", n / 2, float(np.mean(index)), 3 / np.sqrt(n * count)),
        ]
    ways = paths(results)
    for name, (source, law) in distances(config).items():
        made.append(Claim(f"{name}: distance at the end", source, law[-1], float(abs(ways[name][-1, 1])), 1e-9))
    eta = dict(config.learning_rates)
    bounds = {  # R/(s η) to R/η
        "rmsprop": (1 / np.sqrt(1 - RHO), "v <= g² <= v / (1 - ρ)"),
        "adam": (np.sqrt(3), "theory.adam_escape_bounds"),
    }
    for name, (fastest, source) in bounds.items():
        most = config.radius / eta[name]
        left = int(np.argmax(abs(ways[name][:, 1]) >= config.radius))
        made += [
            Claim(f"{name}: steps to leave, R/({fastest:.3g} η)", source, most / fastest, left, 0, "at least"),
            Claim(f"{name}: steps to leave, R/η", source, most, left, 0, "at most"),
        ]
    return made


def plot(results: Results, config: Config, *, ax: Axes | None = None) -> Axes:
    """Above the two surfaces; below the riders' distances, and the share of minima; with ``ax`` the last alone."""
    if ax is None:
        figure = Figure(figsize=(11, 9.5), layout="constrained")
        first, second = (figure.add_subplot(2, 2, i, projection="3d") for i in (1, 2))
        assert isinstance(first, Axes3D)
        assert isinstance(second, Axes3D)
        plot_old_picture(first)
        plot_saddle(results, config, second)
        plot_distances(results, config, figure.add_subplot(2, 2, 3))
        ax = figure.add_subplot(2, 2, 4)
    ax = style.axes(ax)
    n = np.array(config.dimensions)
    minima = np.array([(index == 0).sum() for index in results.index.values()])
    count = np.array([len(index) for index in results.index.values()])
    ends = [binomtest(int(k), int(m)).proportion_ci(method="wilson") for k, m in zip(minima, count, strict=True)]
    low, high = np.array([(e.low, e.high) for e in ends]).T
    share = minima / count
    ax.errorbar(n, share, (share - low, high - share), fmt="o", color=style.COLORS[0], mfc="none", capsize=3,
                label=f"found from {config.searches:,} starts (95 %)")  # fmt: skip
    line = np.linspace(min(n), max(n), 50)
    ax.plot(line, 2.0**-line, color="black", lw=1, label="coin flips, $2^{-n}$")
    ax.set(yscale="log", xlabel="dimension n", ylabel="share of critical points that are minima")
    ax.set_xticks(n)
    ax.set_yticks(2.0**-n, [f"1/{2**k}" for k in n])
    ax.minorticks_off()
    ax.set_title("A sum of odd functions: each direction is a fair coin, by construction", fontsize="medium")
    ax.legend(frameon=False)
    return ax


def local_minima() -> np.ndarray:
    """g' = cos t (1 - 1.8 (4 cos² t - 3)) = 0 and g'' = 5.4 sin 3t - sin t > 0, for t in (-π, π)."""
    inner = np.arccos(np.sqrt((1 + 3 * 1.8) / (4 * 1.8)))
    flat = np.array([-np.pi / 2, np.pi / 2, inner, np.pi - inner, -inner, inner - np.pi])
    return flat[5.4 * np.sin(3 * flat) > np.sin(flat)]


def plot_old_picture(ax: Axes3D) -> None:
    plot_surface.plot_surface(old_picture, (-2.6, 3.6), (-2.6, 3.6), {}, ax=ax)
    bottoms = np.stack(np.meshgrid(local_minima(), local_minima()), axis=-1).reshape(-1, 2)
    up = np.asarray(jax.vmap(old_picture)(bottoms))
    ax.plot(*bottoms.T, up, "o", color=style.COLORS[1], mec="black", ms=7, zorder=5, label="local minima")
    ax.set(xlabel="$θ_1$", ylabel="$θ_2$", zlabel="loss")
    ax.view_init(elev=60, azim=-60)
    ax.set_title("The old picture: many local optima in 2 dimensions", fontsize="medium")
    ax.legend(frameon=False, loc="upper left", fontsize="small")


def plot_saddle(results: Results, config: Config, ax: Axes3D) -> None:
    plot_surface.plot_surface(horse, (-1.6, 1.6), (-1.6, 1.6), paths(results), ax=ax)
    for i, name in enumerate(paths(results)):  # as the path, with its markers
        color, line, marker = style.style(i)
        ax.plot([], [], [], color=color, ls=line, lw=2, marker=marker, ms=5, label=name)
    ax.plot([], [], [], "o", color="black", ms=6, label=f"start, y = {config.start[1]:g}")
    ax.set(xlabel="x", ylabel="y", zlabel="loss")
    ax.view_init(elev=30, azim=55)
    ax.set_title("A horse's saddle: up one way, down the other", fontsize="medium")
    handles, names = ax.get_legend_handles_labels()
    own = slice(len(paths(results)), None)  # the lines of the paths themselves come first
    ax.legend(handles[own], names[own], frameon=False, loc="upper left", fontsize="small", ncols=2)


def plot_distances(results: Results, config: Config, ax: Axes) -> None:
    style.axes(ax)
    laws, eta = distances(config), dict(config.learning_rates)
    for i, (name, path) in enumerate(paths(results).items()):
        y = abs(path[:, 1])
        shown = slice(0, int(np.argmax(y >= config.radius)) + 1)
        style.curve(ax, i, np.arange(len(y))[shown], y[shown], f"{name}, η = {eta[name]:g}")
        ax.plot(np.arange(len(y))[shown], laws[name][1][shown], color="black", lw=0.8, zorder=4)
    ax.plot([], [], color="black", lw=0.8, label="theory")
    ax.set(yscale="log", xlabel="step", ylabel="distance from the ridge, |y|")
    ax.set_title("How fast each optimizer leaves the saddle", fontsize="medium")
    ax.legend(frameon=False, fontsize="small")


if __name__ == "__main__":
    script.run("lecture_saddle", Config(), main, claims, plot, x64=True)
