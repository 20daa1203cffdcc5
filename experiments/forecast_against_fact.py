"""When will it move again? Forecasts from three points of a plateau, against what the runs then did.

    python -m experiments.forecast_against_fact

A tanh net 64-32-10 with small weights on 500 handwritten digits stands at ln 10, and leaves at the first step with a
loss below 0.9 ln 10. 200 initialisations, 50 at each of four scales, under each of five optimizers, at their customary
learning rates: 1,000 runs. From 0.1, 0.5 and 0.8 of the way to that step ``plateau.forecast`` says, from the parameters
and the optimizer's state there, how many steps are left; the error is relative to the steps that were left.

The target was set before any run: nine in ten forecasts within 20 % for gradient descent and both momenta, within 30 %
for Adam and RMSProp, and nine in ten truths inside the interval that comes with the forecast (which is no confidence
interval of a stated level: it is twice what making the model anew moved the forecast).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from optax import GradientTransformation
from threadpoolctl import threadpool_limits

from experiments import script
from experiments.claim import Claim
from jaxsoft import data, models, optimizers, plateau, problem, replay, style, sweep, train
from jaxsoft.problem import Problem
from jaxsoft.process import CONVERGED, RUNNING, Info, Process
from jaxsoft.progress import Report
from jaxsoft.train import TrainState

WITHIN = {"gd": 0.2, "momentum": 0.2, "nesterov": 0.2, "adam": 0.3, "rmsprop": 0.3}
TARGET = 0.9


@dataclass(frozen=True)
class Config:
    dataset: str = "digits"
    per_class: int = 50
    hidden: int = 32
    scales: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2)
    optimizers: tuple[str, ...] = tuple(WITHIN)
    points: tuple[float, ...] = (0.1, 0.5, 0.8)
    inits: int = 50
    steps: int = 500
    seed: int = 0


def net(config: Config, scale: float | jax.Array) -> Problem:
    """As many examples of every class, so that the plateau lies at ln C."""
    whole = data.get(config.dataset)
    pick = np.concatenate([np.flatnonzero(whole.y == c)[: config.per_class] for c in range(whole.num_classes)])
    some = whole._replace(x=whole.x[pick].astype(float), y=whole.y[pick])
    sizes = (some.x[0].size, config.hidden, some.num_classes)
    return problem.classification(models.mlp(sizes, scale=scale), some)


def until(process: Process[TrainState], level: float) -> Process[TrainState]:
    """The process, ended where its loss is below a level."""

    def step(state: TrainState) -> tuple[TrainState, Info]:
        following, info = process.step(state)
        below = jnp.where(info.record["loss"] < level, CONVERGED, RUNNING).astype(info.done.dtype)
        return following, info._replace(done=jnp.where(info.done == RUNNING, below, info.done))

    return Process(process.init, step)


def main(config: Config = Config(), *, progress: bool = False) -> xr.Dataset:
    """Steps left, forecast and true, (optimizer, scale, run, point); where, the loss, the interval, the verdict."""
    made, num_classes = net(config, 1.0), data.get(config.dataset).num_classes
    transforms = {name: optimizers.make(name, optimizers.DEFAULT_LEARNING_RATE[name]) for name in config.optimizers}
    level = plateau.exit_level(num_classes)

    def process(optimizer: GradientTransformation, scale: jax.Array) -> Process[TrainState]:
        return until(train.make_train(net(config, scale), optimizer), level)

    axes = {"optimizer": transforms, "scale": config.scales, "run": sweep.Seeds(config.inits)}
    about = {"num_classes": num_classes}
    ds = sweep.run(process, axes, seed=config.seed, steps=config.steps, config=about, progress=progress)
    leaves = plateau.escape_times(ds)
    share = xr.DataArray(list(config.points), {"point": list(config.points)}, ["point"])
    at = np.floor(share * leaves["time"]).transpose("optimizer", "scale", "run", "point")
    tables = []
    with Report(at.size, 1, show=progress) as report, threadpool_limits(1, user_api="blas"):
        for name in config.optimizers:
            here = at.sel(optimizer=name)
            states = replay.states(
                process, axes, here, seed=config.seed, keep=lambda state: (state.params, state.opt_state)
            )
            report.say(f"forecasts for {name}")
            said = []
            for i in range(here.size):
                params, state = jax.tree.map(lambda leaf, i=i: leaf[i], states)
                said.append(plateau.forecast(made.loss, params, transforms[name], state, level=level))
                report.finished(1, 0)
            tables.append(
                {key: np.reshape([getattr(f, key) for f in said], here.shape) for key in plateau.Forecast._fields}
            )
    found = xr.Dataset({key: (at.dims, np.stack([t[key] for t in tables])) for key in tables[0]}, at.coords)
    return found.assign(at=at, left=leaves["time"] - at, escaped=leaves["escaped"])


def error(results: xr.Dataset) -> xr.DataArray:
    """|forecast - truth| / truth, of the steps that were left; infinite where none was forecast."""
    return abs(results["steps"] - results["left"]) / results["left"]


def claims(results: xr.Dataset, config: Config) -> list[Claim]:
    """For every optimizer the share of forecasts that are near, and of intervals that hold the truth."""
    made = []
    inside = (results["low"] <= results["left"]) & (results["left"] <= results["high"])
    for name in config.optimizers:
        off, held = error(results).sel(optimizer=name), inside.sel(optimizer=name)
        near = off <= WITHIN[name]
        medians, shares = off.median(("scale", "run")).to_numpy(), near.mean(("scale", "run")).to_numpy()
        by_point = ", ".join(
            f"{point:g}: {share:.0%}, median error {middle:.1%}"
            for point, share, middle in zip(config.points, shares, medians, strict=True)
        )
        title = f"{name}: forecasts within {WITHIN[name]:.0%} ({by_point})"
        made.append(Claim(title, "target, set beforehand", 1.0, float(near.mean()), 1 - TARGET))
        by_point = ", ".join(
            f"{p:g}: {s:.0%}" for p, s in zip(config.points, held.mean(("scale", "run")).to_numpy(), strict=True)
        )
        title = f"{name}: truths inside the interval ({by_point})"
        made.append(Claim(title, "target, set beforehand", 1.0, float(held.mean()), 1 - TARGET))
    made.append(
        Claim("share of runs that leave", "strict saddle: almost surely", 1.0, float(results["escaped"].mean()), 0)
    )
    return made


def plot(results: xr.Dataset, config: Config, *, ax: Axes | None = None) -> Axes:
    """Forecast against fact for every run and point; the diagonal, and 20 % to both sides."""
    ax = style.axes(ax)
    fact, said = results["left"], results["steps"].where(np.isfinite(results["steps"]))
    ends = np.array([fact.min() / 1.3, fact.max() * 1.3])
    ax.fill_between(ends, 0.8 * ends, 1.2 * ends, color="0.88", zorder=0, label="within 20 %")
    ax.plot(ends, ends, color="black", lw=1, zorder=1, label="forecast = fact")
    for i, name in enumerate(config.optimizers):
        look = style.style(i)
        x, y = fact.sel(optimizer=name).to_numpy().ravel(), said.sel(optimizer=name).to_numpy().ravel()
        near = float((error(results).sel(optimizer=name) <= WITHIN[name]).mean())
        label = f"{name}: {near:.0%} within {WITHIN[name]:.0%}"
        ax.plot(x, y, look.marker, color=look.color, mfc="none", ms=4, mew=0.7, alpha=0.6, label=label)
    ax.set(xscale="log", yscale="log", xlim=ends)
    ax.set(xlabel="steps that were left until the loss was below 0.9 ln C", ylabel="steps forecast")
    points = ", ".join(f"{point:g}" for point in config.points)
    ax.set_title(f"{fact.size:,} forecasts, from {points} of the plateau", fontsize="medium")
    ax.legend(frameon=False, fontsize="small", loc="upper left")
    return ax


if __name__ == "__main__":
    script.run("forecast_against_fact", Config(), main, claims, plot, x64=True)
