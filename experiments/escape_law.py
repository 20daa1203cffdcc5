"""How long does a quadratic saddle hold each optimizer? Every law of the textbook saddle, over 10,000 starts.

    python -m experiments.escape_law --quick  # 15 s
    python -m experiments.escape_law          # 15 s

Gradient descent from y₀ ~ N(0, σ² I) with k ways down leaves the radius R at T = ln(R/|y₀|) / ln(1 + ηλ): a law without
a free number, for k = 1, 2, 10. Heavy ball, Nesterov, RMSProp on its floor and saddle-free Newton grow by factors in
closed form. Adam takes about the same time from everywhere, at any curvature, RMSProp one that depends on where its ε
stands. float64.

What comes out: all of these laws, for Adam as long as its ε is felt by no gradient; from 1e-12 at λ = 0.01 it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
from matplotlib.axes import Axes

from experiments import script
from experiments.claim import Claim
from jaxsoft import optimizers, problem, style, sweep, theory, train
from jaxsoft.process import Process


@dataclass(frozen=True)
class Config:
    ways_down: tuple[int, ...] = (1, 2, 10)
    inits: int = 10_000
    sigma: float = 1e-3
    eta: float = 0.05  # at the curvature 1 also g
    steps: int = 450
    beta: float = 0.9
    starts: tuple[float, ...] = (1e-12, 1e-9, 1e-6, 1e-4, 1e-2)  # of Adam and RMSProp
    curvatures: tuple[float, ...] = (1e-3, 0.01, 1.0)
    adaptive_eta: float = 1e-3
    eps: float = 1e-8
    damping: float = 0.3
    seed: int = 0


QUICK = Config()
TINY = Config(ways_down=(2,), inits=4000, steps=260, starts=(1e-12, 1e-2), curvatures=(1e-3, 1.0))


class Results(NamedTuple):
    """Escape times (inits,) by k; growth factors by name; steps of Adam and RMSProp, (starts, curvatures) by name."""

    times: dict[int, np.ndarray]
    growth: dict[str, float]
    steps: dict[str, np.ndarray]


def escape_times(k: int, config: Config, *, progress: bool) -> np.ndarray:
    """When the distance passes 1, between two steps by the line through its logarithms; NaN for a run that stays."""
    made = problem.quadratic([1.0, *[-1.0] * k], config.sigma)
    process = train.make_train(made, optimizers.make("gd", config.eta))
    axes = {"run": sweep.Seeds(config.inits)}
    loss = sweep.run(process, axes, seed=config.seed, steps=config.steps, progress=progress)["loss"].to_numpy()
    log = 0.5 * np.log(np.maximum(-2 * loss, np.finfo(float).tiny))
    last = np.argmax(log >= 0, axis=1) - 1
    before, after = log[np.arange(len(log)), last], log[np.arange(len(log)), last + 1]
    return np.where(last >= 0, last + before / (before - after), np.nan)


def saddle_free_newton(damping: float) -> optax.GradientTransformation:
    """u = -(|H| + δ)⁻¹ ∇L, with |H| the Hessian of the eigenvalues' moduli."""

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        value_fn: Callable[[optax.Params], jax.Array] | None = None,
        **_: object,
    ) -> tuple[optax.Updates, optax.OptState]:
        assert value_fn is not None
        values, vectors = jnp.linalg.eigh(jax.hessian(value_fn)(params))
        return -vectors @ ((vectors.T @ jnp.asarray(updates)) / (jnp.abs(values) + damping)), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def saddle(start: float | jax.Array, curvature: float | jax.Array, optimizer: optax.GradientTransformation) -> Process:
    """½ x² - ½ λ y² from x = y = ``start``, with the distance |y| recorded."""

    def loss(theta):
        return 0.5 * (theta[0] ** 2 - curvature * theta[1] ** 2)

    surface = problem.Problem(lambda key: start * jnp.ones(2), loss)
    return train.make_train(surface, optimizer, probe=lambda theta: {"distance": jnp.abs(jnp.asarray(theta)[1])})


def factor(optimizer: optax.GradientTransformation, steps: int) -> float:
    """How much the last step has lengthened the distance."""
    process = saddle(1e-30, 0.3, optimizer)
    distance = sweep.run(process, {"run": sweep.Seeds(1)}, seed=0, steps=steps)["distance"].to_numpy()[0]
    return float(distance[-1] / distance[-2])


def steps_to_leave(optimizer: optax.GradientTransformation, config: Config, *, progress: bool) -> np.ndarray:
    """The first step with |y| ≥ 1, (starts, curvatures), on y alone."""
    most = int(5 * np.sqrt(config.eps) * 30 / (config.adaptive_eta * min(config.curvatures)) + 2 / config.adaptive_eta)
    ds = sweep.run(
        lambda start, curvature: saddle(start, curvature, optimizer),
        {"start": config.starts, "curvature": config.curvatures}, seed=0, steps=most, progress=progress,
    )  # fmt: skip
    return np.argmax(ds["distance"].to_numpy() >= 1, axis=-1)


def rmsprop(config: Config, inside: bool) -> optax.GradientTransformation:
    return optimizers.make("rmsprop", config.adaptive_eta, eps=config.eps, eps_in_sqrt=inside)


def main(config: Config = Config(), *, progress: bool = False) -> Results:
    """Times and factors; theory enters in ``claims`` only."""
    methods: dict[str, Callable[[], optax.GradientTransformation]] = {
        "heavy ball": lambda: optimizers.make("momentum", config.eta, momentum=config.beta),
        "nesterov": lambda: optimizers.make("nesterov", config.eta, momentum=config.beta),
        "rmsprop, ε inside the root": lambda: rmsprop(config, True),
        "rmsprop, ε outside": lambda: rmsprop(config, False),
        "saddle-free newton": lambda: saddle_free_newton(0.0),
        "saddle-free newton, damped": lambda: saddle_free_newton(config.damping),
    }
    few = {"rmsprop, ε outside": 3}  # steps from 1e-30 that end below every floor
    few |= dict.fromkeys(["rmsprop, ε inside the root", "saddle-free newton", "saddle-free newton, damped"], 20)
    growth = {name: factor(make(), few.get(name, config.steps)) for name, make in methods.items()}
    adaptive = {
        "adam": optimizers.make("adam", config.adaptive_eta, eps=config.eps),
        "rmsprop, ε inside the root": rmsprop(config, True),
        "rmsprop, ε outside": rmsprop(config, False),
    }
    return Results(
        {k: escape_times(k, config, progress=progress) for k in config.ways_down},
        growth,
        {name: steps_to_leave(optimizer, config, progress=progress) for name, optimizer in adaptive.items()},
    )


def claims(results: Results, config: Config) -> list[Claim]:
    growth, ratio = theory.growth_gd(config.eta), 1 / config.sigma
    made = []
    for k, times in results.times.items():
        law = f"χ² law of the start, k = {k}"
        distance = scipy.stats.kstest(times, lambda t, k=k: theory.escape_time_cdf(t, growth, ratio, k)).statistic
        allowed = float(scipy.stats.kstwo.isf(0.01, len(times)))
        mean, spread = theory.escape_time_mean(growth, ratio, k), theory.escape_time_std(growth, k)
        made += [
            Claim(f"gd, k = {k}: mean steps", law, mean, float(np.mean(times)), 0.01),
            Claim(f"gd, k = {k}: standard deviation", law, spread, float(np.std(times)), 0.03),
            Claim(f"gd, k = {k}: Kolmogorov's distance, p > .01", law, allowed, float(distance), 0, "at most"),
        ]
    g, small = 0.3 * config.eta, 0.3 * config.adaptive_eta
    factors = {
        "heavy ball": (theory.growth_heavy_ball(g, config.beta), "Polyak 1964"),
        "nesterov": (theory.growth_nesterov(g, config.beta), "Nesterov 1983"),
        "rmsprop, ε inside the root": (theory.growth_rmsprop(small, config.eps), "gradient below its floor"),
        "rmsprop, ε outside": (theory.growth_rmsprop(small, config.eps, eps_in_sqrt=False), "gradient below its floor"),
        "saddle-free newton": (theory.growth_saddle_free_newton(0.3), "Dauphin et al. 2014"),
        "saddle-free newton, damped": (theory.growth_saddle_free_newton(0.3, config.damping), "Dauphin et al. 2014"),
    }
    made += [Claim(f"{n}: growth factor", why, x, results.growth[n], 1e-6) for n, (x, why) in factors.items()]
    adam, gradient = results.steps["adam"], np.outer(config.starts, config.curvatures)
    felt = adam[gradient > 10 * config.eps]
    least, most = theory.adam_escape_bounds(1.0, config.adaptive_eta)
    made += [
        Claim("adam: longest over shortest, gradients above ε", "sign-like", 1.0, float(felt.max() / felt.min()), 0.02),
        Claim("adam: fewest steps, R/(√3η)", "sign-like", least, float(felt.min()), 0, "at least"),
        Claim("adam: most steps, R/η", "sign-like", most, float(felt.max()), 0, "at most"),
    ]
    # v remembers 9 steps: some 45 of the 1,000 steps in which the gradient outgrows its floor are saved
    for name, inside, tolerance in (("rmsprop, ε inside the root", True, 0.01), ("rmsprop, ε outside", False, 0.06)):
        start, curvature = config.starts[0], config.curvatures[0]
        flow = theory.rmsprop_escape_time(start, 1.0, curvature, config.adaptive_eta, config.eps, inside)
        about = f"{name}: steps from {start:g}, λ = {curvature:g}"
        made.append(Claim(about, "v follows the gradient", flow, float(results.steps[name][0, 0]), tolerance))
    return made


def plot(results: Results, config: Config, *, ax: Axes | None = None) -> Axes:
    """The share of runs still at the saddle against steps, for each k, over the law."""
    ax = style.axes(ax)
    growth = theory.growth_gd(config.eta)
    for i, (k, times) in enumerate(results.times.items()):
        steps = np.arange(max(0, int(np.nanmin(times)) - 10), int(np.nanquantile(times, 0.999)) + 20)
        share = 1 - np.searchsorted(np.sort(times), steps, side="right") / len(times)
        color, _, marker = style.style(i)
        law = 1 - theory.escape_time_cdf(steps, growth, 1 / config.sigma, k)
        ax.plot(steps, law, color="black", lw=1, label="law of the χ² start" if i == 0 else None)
        ax.plot(steps[:: max(1, len(steps) // 40)], share[:: max(1, len(steps) // 40)], marker, color=color, mfc="none",
                ms=5, label=f"{k} way{'s' * (k > 1)} down: {len(times):,} runs")  # fmt: skip
    ax.set(xlabel="step of gradient descent", ylabel="share of runs still at the saddle", ylim=(-0.02, 1.02))
    ax.legend(frameon=False)
    return ax


if __name__ == "__main__":
    script.run("escape_law", Config(), main, claims, plot, x64=True)
