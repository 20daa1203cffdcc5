"""Deep linear nets from small weights: one law for how long they wait, for squared error and for softmax.

    python -m experiments.deep_linear_stages --quick  # 10 s
    python -m experiments.deep_linear_stages          # 15 s

Squared error (Saxe et al. 2014): each mode of the data is learned in a stage of its own, a sigmoid in time. With two
layers the wait is logarithmic in the initial scale a₀, with L = 3 and 4 it is a power of it, a₀^{-(L-2)}. Softmax
cross-entropy, one example a class: plateau and tail follow from one integral (``theory.softmax_time``). float64.

What comes out: stage times to half a percent (2 % for L = 2, whose short waits feel most that the learning rate is not
zero), both ends of the softmax law to half a percent; slopes -(L - 2) up to the stage's own length, a part of the wait
that vanishes with a₀.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import script
from experiments.claim import Claim
from jaxsoft import data, models, optimizers, problem, style, sweep, theory, train
from jaxsoft.problem import Params
from jaxsoft.process import Process


@dataclass(frozen=True)
class Config:
    targets: tuple[float, ...] = (1.0, 0.6)
    scales: tuple[tuple[float, ...], ...] = ((0.01, 0.02, 0.04), (0.01, 0.02, 0.04), (0.03, 0.05, 0.08))
    eta: float = 0.02
    num_classes: int = 10
    softmax_scales: tuple[float, ...] = (0.01, 0.03)  # for L = 2 and 3
    softmax_steps: int = 40_000
    records: int = 2000


QUICK = Config(scales=((0.01, 0.02, 0.04), (0.01, 0.02, 0.04), (0.05, 0.08, 0.1)))
TINY = Config(scales=((0.05, 0.1), (0.005, 0.01)), softmax_scales=(0.02,), softmax_steps=4000, num_classes=4)


class Results(NamedTuple):
    """By depth: strengths (scale, run, step, mode) for squared error; losses (run, step) for softmax."""

    square: dict[int, xr.Dataset]
    softmax: dict[int, xr.Dataset]


def depths(config: Config) -> range:
    return range(2, 2 + len(config.scales))


def squared_error(depth: int, scale: float | jax.Array, config: Config) -> Process:
    """½ ‖W_L ... W_1 - U diag(s) Uᵀ‖² from W = a₀ I; the strengths of the modes are recorded."""
    count = len(config.targets)
    turn = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (count, count)))[0]
    goal = turn @ jnp.diag(jnp.asarray(config.targets)) @ turn.T

    def whole(weights: Params) -> jax.Array:
        return functools.reduce(jnp.matmul, jnp.asarray(weights)[::-1])

    surface = problem.Problem(
        lambda key: scale * jnp.tile(jnp.eye(count), (depth, 1, 1)), lambda w: 0.5 * jnp.sum((whole(w) - goal) ** 2)
    )

    def probe(weights: Params, /) -> dict[str, jax.Array]:
        return {"strength": jnp.diag(turn.T @ whole(weights) @ turn)}

    return train.make_train(surface, optimizers.make("gd", config.eta), probe=probe)


def softmax(depth: int, scale: float, config: Config) -> Process:
    """The mean cross-entropy of one example a class, from W = a₀ (I - 11ᵀ/C) in every layer."""
    classes = config.num_classes
    examples = data.dataset(np.eye(classes), np.arange(classes), dtype=np.float64)
    model = models.deep_linear([classes] * (depth + 1))
    centred = scale * (jnp.eye(classes) - 1 / classes)
    made = problem.classification(model, examples)
    started = made._replace(init=lambda key: jax.tree.map(lambda _: centred, made.init(key)))
    return train.make_train(started, optimizers.make("gd", config.eta))


def main(config: Config = Config(), *, progress: bool = False) -> Results:
    square, soft = {}, {}
    for depth, scales in zip(depths(config), config.scales, strict=True):
        longest = float(theory.saxe_time(0.9 * min(config.targets), min(scales) ** depth, min(config.targets), depth))
        steps = int(1.1 * longest / config.eta)
        square[depth] = sweep.run(
            lambda scale, depth=depth: squared_error(depth, scale, config), {"scale": scales, "run": sweep.Seeds(1)},
            seed=0, steps=steps, record_every=max(1, steps // config.records), progress=progress,
        )  # fmt: skip
    for depth, scale in zip(depths(config), config.softmax_scales, strict=False):
        steps = config.softmax_steps
        soft[depth] = sweep.run(
            softmax(depth, scale, config), {"run": sweep.Seeds(1)},
            seed=0, steps=steps, record_every=max(1, steps // config.records), progress=progress,
        )  # fmt: skip
    return Results(square, soft)


def passes(step: np.ndarray, value: np.ndarray, level: float) -> float:
    """When a monotone record passes a level, between two records by a straight line."""
    sign = 1 if value[-1] > value[0] else -1
    return float(np.interp(sign * level, sign * value, step, right=np.nan))


def stage_times(results: Results, config: Config, depth: int) -> np.ndarray:
    """The flow's time at which each mode is half learned, (scale, mode)."""
    ds = results.square[depth].isel(run=0)
    strength, time = ds["strength"].transpose("scale", "step", ...).to_numpy(), config.eta * ds["step"].to_numpy()
    return np.array([[passes(time, one[:, m], s / 2) for m, s in enumerate(config.targets)] for one in strength])


def claims(results: Results, config: Config) -> list[Claim]:
    made = []
    for depth, scales in zip(depths(config), config.scales, strict=True):
        found = stage_times(results, config, depth)
        for m, s in enumerate(config.targets):
            law = float(theory.saxe_time(s / 2, scales[0] ** depth, s, depth))
            about = f"L = {depth}, s = {s:g}: time to s/2 from a₀ = {scales[0]:g}"
            made.append(Claim(about, "Saxe et al. 2014", law, float(found[0, m]), 0.005 if depth > 2 else 0.02))
        slope = float(np.polyfit(np.log(scales), np.log(found[:, 0]), 1)[0])
        if depth > 2:
            made.append(Claim(f"L = {depth}: slope of the wait in a₀", "a₀^{-(L-2)}", 2.0 - depth, slope, 0.03))
    classes = config.num_classes
    for depth, ds in results.softmax.items():
        start = config.softmax_scales[depth - 2] ** depth
        time, loss = config.eta * ds["step"].to_numpy(), ds["loss"].to_numpy()[0]
        source = "∫ (e^u + C - 1) u^{-(2-2/L)} du = L t"
        level = float(theory.softmax_loss(1.0, classes))
        plateau = float(theory.softmax_time(1.0, start, classes, depth))
        last = float(theory.softmax_loss(theory.softmax_margin(time[-1], start, classes, depth), classes))
        made += [
            Claim(f"softmax, L = {depth}: time on the plateau", source, plateau, passes(time, loss, level), 0.005),
            Claim(f"softmax, L = {depth}: loss in the tail", source, last, float(loss[-1]), 0.005),
        ]
    return made


def plot_stages(results: Results, config: Config, ax: Axes) -> Axes:
    """The strength of the first mode against time, for each depth from its smallest scale, over Saxe's sigmoid."""
    ax = style.axes(ax)
    for i, (depth, scales) in enumerate(zip(depths(config), config.scales, strict=True)):
        ds, s = results.square[depth].isel(run=0, scale=0), config.targets[0]
        time, strength = config.eta * ds["step"].to_numpy(), ds["strength"].to_numpy()[:, 0]
        law = theory.saxe_strength(time, scales[0] ** depth, s, depth)
        color, _, marker = style.style(i)
        ax.plot(time[1:], law[1:], color="black", lw=1, label="theory" if i == 0 else None)
        marks = np.unique(np.searchsorted(strength, np.linspace(0.02, 0.98, 13) * s).clip(1, len(time) - 1))
        about = f"L = {depth}, a₀ = {scales[0]:g}"
        ax.plot(time[marks], strength[marks], marker, color=color, mfc="none", ms=5, label=about)
    ax.set(xscale="log", xlabel="time t = ηk", ylabel="strength of the first mode", title="squared error: stages")
    ax.set_xlim(left=0.1)
    ax.legend(frameon=False, fontsize="small", loc="upper left")
    return ax


def plot_softmax(results: Results, config: Config, ax: Axes) -> Axes:
    """The loss against time, plateau and tail, over the integral's law."""
    ax = style.axes(ax)
    for i, (depth, ds) in enumerate(results.softmax.items()):
        time, loss = config.eta * ds["step"].to_numpy()[1:], ds["loss"].to_numpy()[0, 1:]
        scale = config.softmax_scales[depth - 2]
        margin = theory.softmax_margin(time, scale**depth, config.num_classes, depth)
        color, _, marker = style.style(i)
        law = theory.softmax_loss(margin, config.num_classes)
        ax.plot(time, law, color="black", lw=1, label="theory" if i == 0 else None)
        marks = np.unique(np.searchsorted(time, np.geomspace(time[0], time[-1], 28)).clip(0, len(time) - 1))
        about = f"L = {depth}, a₀ = {scale:g}"
        ax.plot(time[marks], loss[marks], marker, color=color, mfc="none", ms=5, label=about)
    ax.axhline(np.log(config.num_classes), color=style.GREY, lw=0.8, ls=":")
    ax.set(xscale="log", yscale="log", xlabel="time t = ηk", ylabel="cross-entropy (nats)")
    ax.set_title(f"softmax: from ln {config.num_classes} (dotted) into the tail")
    ax.legend(frameon=False, fontsize="small", loc="lower left")
    return ax


def plot(results: Results, config: Config, *, ax: Axes | None = None) -> Axes:
    """Stages on the left, softmax on the right; only the stages into given axes."""
    if ax is not None:
        return plot_stages(results, config, ax)
    left, right = Figure(figsize=(10, 4), layout="constrained").subplots(1, 2)
    plot_softmax(results, config, right)
    return plot_stages(results, config, left)


if __name__ == "__main__":
    script.run("deep_linear_stages", Config(), main, claims, plot, x64=True)
