"""On data that a plane separates the loss never stands still and never arrives: a tail, not a plateau.

    python -m experiments.separable_tail --quick  # 12 s
    python -m experiments.separable_tail          # 15 s

Softmax regression on two kinds of iris. Late in training loss · t tends to 1/γ² and the weights grow by 1/γ per ln t,
with γ the widest margin and t learning rate times steps (Soudry et al. 2018). The loss falls for ever, ever more
slowly, and ``plateau.detect`` has to call it a tail. Expected at the end of six decades of t: all limits up to 1/ln t,
7 %, the order of the corrections in the paper. float64.

What comes out: loss · t is 5 % and the growth 6 % below their limits, and every run ends in a tail, but ‖W‖/ln t itself
is not there yet, 23 % below. Between 1/n and all of the loss sits at the margin, so it lags by up to ln n/ln t, a
third.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import optax
import xarray as xr
from matplotlib.axes import Axes

from experiments import script
from experiments.claim import Claim
from jaxsoft import data, models, optimizers, plateau, problem, style, sweep, theory, train
from jaxsoft.data import Dataset


@dataclass(frozen=True)
class Config:
    pair: tuple[int, int] = (0, 1)
    eta: float = 1.0
    inits: int = 4
    scale: float = 0.01
    steps: int = 1_000_000
    record_every: int = 20
    kappa: float = 1e-3
    seed: int = 0


QUICK = Config(inits=1)
TINY = Config(inits=1, steps=30_000, kappa=5e-3)


def examples(config: Config) -> Dataset:
    """Two kinds of iris, centred, with an input that is always 1 in the place of a bias."""
    iris = data.iris()
    kept = np.isin(iris.y, config.pair)
    x = np.asarray(iris.x, np.float64)[kept]
    x = np.column_stack([x - x.mean(axis=0), np.ones(len(x))])
    return data.dataset(x, np.searchsorted(config.pair, np.asarray(iris.y)[kept]), dtype=np.float64)


def main(config: Config = Config(), *, progress: bool = False) -> xr.Dataset:
    """Losses and the norm of the weights, (run, step)."""
    pair = examples(config)
    model = models.deep_linear([pair.x.shape[1], 2], scale=config.scale)
    made = train.make_train(
        problem.classification(model, pair),
        optimizers.make("gd", config.eta),
        probe=lambda weights: {"norm": optax.tree.norm(weights)},
    )
    axes = {"run": sweep.Seeds(config.inits)}
    return sweep.run(
        made, axes, seed=config.seed, steps=config.steps, record_every=config.record_every, progress=progress
    )


def claims(results: xr.Dataset, config: Config) -> list[Claim]:
    pair = examples(config)
    margin = theory.max_margin(pair.x, pair.y, 2).margin
    time = config.eta * results["step"].to_numpy()
    decade = np.searchsorted(time, time[-1] / 10)
    norm = results["norm"].mean("run").to_numpy()
    growth = (norm[-1] - norm[decade]) / np.log(time[-1] / time[decade])
    loss = float(results["loss"].isel(step=-1).mean())
    found = plateau.detect(results, kappa=config.kappa)["kind"].to_numpy()
    source, correction = "Soudry et al. 2018", 1 / float(np.log(time[-1]))
    return [
        Claim("growth of ‖W‖ per ln t, last decade", source, 1 / margin, float(growth), correction),
        Claim("‖W‖ / ln t at the end", source, 1 / margin, float(norm[-1] * correction), correction, "reported"),
        Claim("loss · t at the end", source, 1 / margin**2, loss * time[-1], correction),
        Claim("share of runs that end in a tail", "L ∝ 1/t", 1.0, float(np.mean((found == plateau.TAIL).any(-1))), 0.0),
        Claim("plateaus found", "a convex loss has no saddle", 0.0, float(np.sum(found == plateau.PLATEAU)), 0.0),
    ]


def plot(results: xr.Dataset, config: Config, *, ax: Axes | None = None) -> Axes:
    """Loss and norm of the weights of one run against t, over 1/(γ² t) and a line of slope 1/γ."""
    ax = style.axes(ax)
    pair = examples(config)
    margin = theory.max_margin(pair.x, pair.y, 2).margin
    time, one = config.eta * results["step"].to_numpy()[1:], results.isel(run=0)
    late = time > time[-1] / 1e4
    loss, norm = one["loss"].to_numpy()[1:], one["norm"].to_numpy()[1:]
    blue, orange = style.COLORS[:2]
    ax.plot(time, loss, color=blue, lw=2)
    ax.plot(time[late], theory.separable_loss(time[late], margin), color="black", lw=1, ls="--")
    ax.set(xscale="log", yscale="log", xlabel="time t = ηk", ylabel="cross-entropy (nats)")
    ax.annotate(
        "loss", (time[len(time) // 300], loss[len(time) // 300]), (8, 8), textcoords="offset points", color=blue
    )
    twin = ax.twinx()
    twin.spines["top"].set_visible(False)
    twin.plot(time, norm, color=orange, lw=2, ls="-.")
    law = norm[-1] + theory.separable_norm(time[late], margin) - theory.separable_norm(time[-1], margin)
    twin.plot(time[late], law, color="black", lw=1, ls="--")
    twin.set_ylabel("norm of the weights")
    place = (time[len(time) // 300], norm[len(time) // 300])
    twin.annotate("norm", place, (-8, 8), textcoords="offset points", color=orange, ha="right")
    ax.plot([], [], color="black", lw=1, ls="--", label="theory: loss 1/(γ² t), norm rising by 1/γ per ln t")
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return ax


if __name__ == "__main__":
    script.run("separable_tail", Config(), main, claims, plot, x64=True)
