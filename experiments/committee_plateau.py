"""Two students, two teachers: how high is the symmetric plateau, and does it need isotropic inputs?

    python -m experiments.committee_plateau --quick  # 10 s
    python -m experiments.committee_plateau          # 30 s

A committee of two erf units learns two orthonormal ones from Gaussian inputs, by gradient descent on the exact
generalisation error. From small weights both students first learn the same; they stay on a plateau whose height Saad &
Solla (1995) give in closed form for isotropic inputs, until they specialise. Yoshida & Okada (2019), "Data-dependence
of plateau phenomenon in learning with neural network", found that the plateau goes away where the eigenvalues of the
inputs' covariance spread. float64.

What comes out: the height of theory to one in ten thousand, and shorter plateaus for every step in spread. For each
decade of smaller weights ln 10 / ln(1 + ηλ) more steps, -λ the least curvature at the symmetric saddle, whatever the
spread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.stats
import xarray as xr
from matplotlib.axes import Axes

from experiments import script
from experiments.claim import Claim
from jaxsoft import curvature, optimizers, plateau, problem, style, sweep, theory, train
from jaxsoft.problem import LossFn, Params
from jaxsoft.process import Process

UNITS = 2


@dataclass(frozen=True)
class Config:
    inputs: int = 8
    spreads: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0)  # the covariance's eigenvalues go like e^{±spread}
    scales: tuple[float, ...] = (1e-8, 1e-6, 1e-4)
    inits: int = 64
    eta: float = 0.5
    steps: int = 1500
    kappa: float = 2e-3
    seed: int = 0


QUICK = Config(inits=16)
TINY = Config(inputs=4, spreads=(0.0, 1.0), scales=(1e-6, 1e-4), inits=8, steps=900)


class Saddle(NamedTuple):
    """The symmetric saddle: the error there, and its least curvature."""

    loss: float
    curvature: float


def error(spread: float | jax.Array, config: Config) -> LossFn:
    """``theory.committee_error`` of the students (K, N): eigenvalues of the mean 1, random orthonormal teachers."""
    eigenvalues = jnp.exp(spread * jnp.linspace(-1, 1, config.inputs))
    eigenvalues = eigenvalues / jnp.mean(eigenvalues)
    draws = np.random.default_rng(config.seed).normal(size=(config.inputs, UNITS))
    teacher = jnp.asarray(np.linalg.qr(draws)[0].T)
    signs = jnp.repeat(jnp.asarray([1.0, -1.0]), UNITS)

    def loss(student: Params) -> jax.Array:
        both = jnp.concatenate([jnp.asarray(student), teacher])
        overlap = (both * eigenvalues[None, :]) @ both.T
        scale = jnp.sqrt(1 + jnp.diag(overlap))
        return signs @ jnp.arcsin(overlap / jnp.outer(scale, scale)) @ signs / jnp.pi

    return loss


def saddle(spread: float, config: Config) -> Saddle:
    """The least error of two equal students, by BFGS, and the Hessian of all weights there."""
    loss = error(spread, config)
    twice = jax.jit(jax.value_and_grad(lambda row: loss(jnp.tile(row, (UNITS, 1)))))
    start = jax.random.normal(jax.random.key(config.seed), (config.inputs,)) / config.inputs
    found = scipy.optimize.minimize(lambda row: [np.asarray(v) for v in twice(row)], start, jac=True, tol=1e-10)
    matrix = curvature.hessian(loss, jnp.tile(found.x, (UNITS, 1)))
    return Saddle(float(found.fun), float(np.linalg.eigvalsh(matrix)[0]))


def main(config: Config = Config(), *, progress: bool = False) -> xr.Dataset:
    """Losses (spread, scale, run, step)."""

    def process(spread: float, scale: float) -> Process:
        def init(key: jax.Array) -> jax.Array:
            return scale * jax.random.normal(key, (UNITS, config.inputs))

        return train.make_train(problem.Problem(init, error(spread, config)), optimizers.make("gd", config.eta))

    axes = {"spread": config.spreads, "scale": config.scales, "run": sweep.Seeds(config.inits)}
    return sweep.run(process, axes, seed=config.seed, steps=config.steps, progress=progress)


def lengths(results: xr.Dataset, config: Config) -> np.ndarray:
    """Mean steps of the plateau from the largest scale, (spread,); a run without one counts as 0."""
    part = results.sel(scale=max(config.scales))
    found = plateau.detect(part, kappa=config.kappa, reference=-1e-9)  # rounding ends at -1e-16
    high = (found["kind"] == plateau.PLATEAU) & (found["level"] > 1e-3)
    return (found["end"] - found["begin"]).where(high, 0).sum("plateau").mean("run").to_numpy()


def height(results: xr.Dataset, config: Config) -> float:
    """The error where the isotropic runs of the smallest scale fall most slowly before they have halved it."""
    loss = results["loss"].sel(spread=0.0, scale=min(config.scales)).to_numpy()
    rate = -np.diff(np.log(np.maximum(loss, 1e-12)), axis=1)
    before = loss[:, :-1] > theory.committee_plateau(UNITS) / 2
    at = np.where(before, rate, np.inf).argmin(axis=1)
    return float(np.mean(loss[np.arange(len(loss)), at]))


def claims(results: xr.Dataset, config: Config) -> list[Claim]:
    tops = [saddle(spread, config) for spread in config.spreads]
    expected = theory.committee_plateau(UNITS)
    made = [
        Claim("height of the plateau, isotropic inputs", "Saad & Solla 1995", expected, height(results, config), 1e-4)
    ]
    trend = float(scipy.stats.spearmanr(config.spreads, lengths(results, config)).statistic)
    made.append(Claim("rank correlation of length and spread", "Yoshida & Okada 2019", -1.0, trend, 1e-9, "reported"))
    for spread, top in zip(config.spreads, tops, strict=True):
        loss, step = results["loss"].sel(spread=spread).to_numpy(), results["step"].to_numpy()
        time = plateau.escape_time(loss, step, top.loss / 2).time.mean(axis=-1)
        slope = -float(np.polyfit(np.log10(config.scales), time, 1)[0])
        law = float(np.log(10) / np.log(theory.growth_gd(-config.eta * top.curvature)))
        made.append(Claim(f"spread {spread:g}: steps per decade of scale", "curvature at the saddle", law, slope, 0.03))
    return made


def plot(results: xr.Dataset, config: Config, *, ax: Axes | None = None) -> Axes:
    """The error against steps for each spread, the median run of the largest scale; theory's isotropic height."""
    ax = style.axes(ax)
    for i, (spread, length) in enumerate(zip(config.spreads, lengths(results, config), strict=True)):
        loss = results["loss"].sel(spread=spread, scale=max(config.scales)).median("run").to_numpy()
        about = f"e^±{spread:g}: {length:.0f} steps" if spread else f"all equal: {length:.0f} steps"
        style.curve(ax, i, results["step"].to_numpy(), np.maximum(loss, 1e-12), about)
    ax.axhline(theory.committee_plateau(UNITS), color="black", lw=1, ls=":")
    top = f"Saad & Solla 1995: {theory.committee_plateau(UNITS):.6f}"
    ax.text(0.98, theory.committee_plateau(UNITS) * 1.1, top, transform=ax.get_yaxis_transform(), ha="right")
    ax.set(xlabel="step of gradient descent", ylabel="generalisation error", yscale="log")
    ax.set(xlim=(0, config.steps / 2), ylim=(1e-6, 1))
    ax.legend(frameon=False, fontsize="small", title="eigenvalues of the covariance: plateau", loc="upper right",
              bbox_to_anchor=(1, 0.65))  # fmt: skip
    return ax


if __name__ == "__main__":
    script.run("committee_plateau", Config(), main, claims, plot, x64=True)
