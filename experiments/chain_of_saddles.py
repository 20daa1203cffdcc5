"""Saddles in sequence: gradient descent slows down from each to the next, with noise it does not.

    python -m experiments.chain_of_saddles --quick  # 8 s
    python -m experiments.chain_of_saddles          # 30 s

On the surface of Du et al. (2017) coordinate k turns downhill after all before it; until then gradient descent presses
it towards zero, and what was pressed has to grow again. So the time at each saddle is that at the one before times
1 + ln(1/(1 - 2ηL)) / ln(1 + 2ηγ). Noise of σ = 1e-3 a step keeps all coordinates at its own size, and each saddle
takes the same time. float64, as the last coordinate shrinks to 1e-213.

What comes out: the ratio of theory within 3 %, as some steps pass between two saddles; flat times with noise.
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
from jaxsoft import optimizers, problem, style, sweep, theory, train
from jaxsoft.process import Process


@dataclass(frozen=True)
class Config:
    stages: int = 4
    up: tuple[float, ...] = (1.0, 2.0, 3.0)  # L; γ = 1 and the radius τ = 1
    eta: float = 0.05
    start: float = 0.01
    noise: float = 1e-3
    inits: int = 32
    steps: int = 8000
    seed: int = 0


QUICK = Config(up=(2.0,))
TINY = Config(stages=3, up=(2.0,), inits=8, steps=1200)


def main(config: Config = Config(), *, progress: bool = False) -> xr.Dataset:
    """``stage``: the steps at each saddle, (optimizer, up, run, saddle); NaN for one that was not left."""

    def process(optimizer: str, up: float) -> Process:
        surface = problem.chain(config.stages, config.start, up=up)

        def init(key: jax.Array) -> jax.Array:
            return config.start * jax.random.uniform(key, (config.stages,), minval=0.5, maxval=1.0)

        noise = config.noise if optimizer == "noisy_gd" else None
        return train.make_train(
            surface._replace(init=init),
            optimizers.make(optimizer, config.eta, noise=noise),
            probe=lambda theta: {"passed": jnp.cumprod(jnp.abs(jnp.asarray(theta)) >= 1)},
        )

    axes = {"optimizer": ["gd", "noisy_gd"], "up": config.up, "run": sweep.Seeds(config.inits)}
    ds = sweep.run(process, axes, seed=config.seed, steps=config.steps, progress=progress)
    passed = ds["passed"].rename(passed_0="saddle").transpose(..., "saddle", "step").to_numpy() > 0
    at = np.where(passed.any(axis=-1), passed.argmax(axis=-1), np.nan)
    dims = ("optimizer", "up", "run", "saddle")
    coords = {name: ds[name].to_numpy() for name in dims[:-1]} | {"saddle": 1 + np.arange(config.stages)}
    return xr.Dataset({"stage": (dims, np.diff(at, axis=-1, prepend=0))}, coords)


def claims(results: xr.Dataset, config: Config) -> list[Claim]:
    made = []
    for up in config.up:
        u, d = 2 * config.eta * up, 2 * config.eta
        law = theory.chain_stage_times([1 / config.start] * 2, u, d)
        stage = results["stage"].sel(up=up).median("run")
        gd, noisy = (stage.sel(optimizer=name).to_numpy() for name in ("gd", "noisy_gd"))
        source = "Du et al. 2017"
        about = f"L = {up:g}: steps at the last saddle over the one before"
        mean = float(results["stage"].sel(up=up, optimizer="noisy_gd", saddle=slice(2, None)).mean())
        steady = theory.noisy_stage_time(1 / config.noise, u, d)
        made += [
            Claim(f"{about}, gd", source, float(law[1] / law[0]), float(gd[-1] / gd[-2]), 0.03),
            Claim(f"{about}, with noise", source, 1.0, float(noisy[-1] / noisy[-2]), 0.1),
            Claim(
                f"L = {up:g}: mean steps at saddles 2 and later, with noise", "variances of AR(1)", steady, mean, 0.1
            ),
        ]
    left = float(results["stage"].notnull().mean())
    made.append(Claim("share of saddles that were left", "strict saddles: almost surely", 1.0, left, 0.0))
    return made


def plot(results: xr.Dataset, config: Config, *, ax: Axes | None = None) -> Axes:
    """Steps at each saddle, measured (median) over theory."""
    ax = style.axes(ax)
    saddles = results["saddle"].to_numpy()
    d = 2 * config.eta
    for i, up in enumerate(config.up):
        color, _, marker = style.style(i)
        u = 2 * config.eta * up
        law = theory.chain_stage_times(np.full(config.stages, 1 / (0.75 * config.start)), u, d)
        ax.plot(saddles, law, color="black", lw=1, label="theory" if i == 0 else None)
        flat = theory.noisy_stage_time(1 / config.noise, u, d)
        ax.plot(saddles[1:], np.full(config.stages - 1, flat), color="black", lw=1, ls="--")
        for name, fill, about in (("gd", color, "gradient descent"), ("noisy_gd", "none", "with noise")):
            steps = results["stage"].sel(optimizer=name, up=up).median("run")
            ax.plot(saddles, steps, marker, color=color, mfc=fill, ms=6, label=f"{about}, L = {up:g}")
    ax.set(xlabel="saddle", ylabel="steps at the saddle", yscale="log", xticks=saddles)
    ax.legend(frameon=False, fontsize="small")
    return ax


if __name__ == "__main__":
    script.run("chain_of_saddles", Config(), main, claims, plot, x64=True)
