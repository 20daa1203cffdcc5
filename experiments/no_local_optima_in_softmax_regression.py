"""Has softmax regression a second minimum, or none at all? A thousand searches from far and near, with three methods.

    python -m experiments.no_local_optima_in_softmax_regression --quick  # 70 s
    python -m experiments.no_local_optima_in_softmax_regression          # 2 min

The loss is convex, so with a penalty on the weights there is one critical point, up to the shift of all biases by the
same number. Two ends with ‖∇L‖ <= ε are then to first order in ε at most 2 ε / λ apart, λ the smallest curvature but
for that flat direction (exactly with the least λ on the segment between them). Three classes of iris, starts at four
scales from 0.01 to 10: every search should end critical, with index 0, in one place.

Without the penalty, on classes that a plane separates (setosa and versicolor), there is no critical point at all: with
the margin γ of the inputs (and a 1 for the bias) and u the difference of the two classes' parameters,

    loss >= ln(1 + exp(-γ ‖u‖)) / n,

which vanishes only at infinity (Soudry et al. 2018, "The implicit bias of gradient descent on separable data"). So no
search should end critical, and every one on its way to infinity. float64.

What comes out: with the penalty one minimum from each of a thousand starts by each method, without it none. A thousand
of a thousand separable searches are told to be on the way to infinity, also where every softmax is saturated and the
Hessian is 1e-9 of the gradient or less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import nnls

from experiments import script
from experiments.claim import Claim
from jaxsoft import critical, curvature, data, models, problem, style
from jaxsoft.critical import CriticalPoint
from jaxsoft.models import Layers
from jaxsoft.problem import Problem
from jaxsoft.progress import Report

TOL = 1e-8


@dataclass(frozen=True)
class Config:
    methods: tuple[str, ...] = ("newton_mr", "trust_region", "saddle_free")
    scales: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0)
    starts: int = 1000  # over all scales
    l2: float = 1e-3
    pair: tuple[int, int] = (0, 1)  # setosa and versicolor
    seed: int = 0


QUICK = Config(starts=100)
TINY = Config(methods=("saddle_free",), scales=(0.01, 1.0), starts=12)


class Results(NamedTuple):
    """Ends by method, with the penalty and of the separable pair without; the loss with it at every start."""

    penalised: dict[str, CriticalPoint]
    separable: dict[str, CriticalPoint]
    begin: np.ndarray


def pair_of(config: Config) -> data.Dataset:
    whole = data.iris()
    two = np.isin(whole.y, config.pair)
    return data.Dataset(whole.x[two], (whole.y[two] == config.pair[1]).astype(np.int32), 2, "iris, a pair")


def regression(examples: data.Dataset, l2: float) -> Problem:
    model = models.softmax_regression(examples.x[0].size, examples.num_classes)
    return problem.classification(model, examples, l2)


def starts(made: Problem, config: Config) -> Layers:
    """N(0, scale²) for every parameter, the same number at each scale."""
    like = jax.eval_shape(made.init, jax.random.key(0))
    leaves, tree = jax.tree.flatten(like)
    keys = jax.random.split(jax.random.key(config.seed), len(leaves))
    scale = jnp.repeat(jnp.asarray(config.scales), -(-config.starts // len(config.scales)))[: config.starts]
    drawn = [
        jax.random.normal(key, (config.starts, *leaf.shape)) * scale.reshape(-1, *([1] * len(leaf.shape)))
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, drawn)


def main(config: Config = Config(), *, progress: bool = False) -> Results:
    both = [regression(data.iris(), config.l2), regression(pair_of(config), 0.0)]
    begins = [starts(made, config) for made in both]
    found: list[dict[str, CriticalPoint]] = [{}, {}]
    with Report(2 * len(config.methods), 1, show=progress) as report:
        for made, begin, ends in zip(both, begins, found, strict=True):
            for method in config.methods:
                report.say(f"{made.num_examples} examples, {method}")
                ends[method] = critical.find_all(made.loss, begin, method, tol=TOL)
                report.finished(1, 0)
    return Results(found[0], found[1], np.asarray(jax.vmap(lambda params: both[0].loss(params))(begins[0])))


def parameters(found: CriticalPoint) -> np.ndarray:
    """All parameters but for the class shift of the biases: (point, P)."""
    [layer] = found.params
    weight, bias = np.asarray(layer.weight), np.asarray(layer.bias)
    return np.concatenate([weight.reshape(len(weight), -1), bias - bias.mean(axis=1, keepdims=True)], axis=1)


def smallest_curvature(results: Results, config: Config) -> float:
    """At the point with the smallest gradient, without the class shift."""
    found = min(results.penalised.values(), key=lambda f: f.grad_norm.min())
    best = int(found.grad_norm.argmin())
    made = regression(data.iris(), config.l2)
    matrix = curvature.hessian(made.loss, jax.tree.map(lambda leaf: leaf[best], found.params))
    return float(np.linalg.eigvalsh(np.asarray(matrix))[1])


def margin(examples: data.Dataset) -> float:
    """γ = max over ‖u‖ = 1 of min ± u·(x, 1): the distance of the convex hull of the ±(x, 1) from 0."""
    signed = np.column_stack([examples.x, np.ones(len(examples.y))]) * np.where(examples.y == 1, 1, -1)[:, None]
    left = nnls(np.vstack([signed.T, np.ones(len(signed))]), np.eye(signed.shape[1] + 1)[-1])[1]
    return float(left / np.sqrt(1 - left**2))  # the least of t²γ² + (1 - t)² is γ² / (1 + γ²)


def difference(found: CriticalPoint) -> np.ndarray:
    """‖u‖ of every point, u the difference of the two classes' weights and biases."""
    [layer] = found.params
    both = np.concatenate([np.asarray(layer.weight), np.asarray(layer.bias)[..., None]], axis=2)
    return np.linalg.norm(both[:, 1] - both[:, 0], axis=1)


def least_loss(length: np.ndarray, examples: data.Dataset) -> np.ndarray:
    return np.log1p(np.exp(-margin(examples) * length)) / len(examples.y)


def claims(results: Results, config: Config) -> list[Claim]:
    ends = list(results.penalised.values())
    loss = np.concatenate([f.loss for f in ends])
    allowed = 2 * TOL / smallest_curvature(results, config)
    away = sum(int((distance > allowed).sum()) for distance in distances(results).values())
    made = []
    for name, f in results.penalised.items():
        assert f.inertia is not None
        down = int((np.asarray(f.inertia.negative) > 0).sum() + (np.asarray(f.inertia.undecided) > 0).sum())
        flat = np.asarray(f.inertia.null) + np.asarray(f.inertia.zero)
        made += [
            Claim(
                f"l2: searches that end critical, {name}",
                "convex",
                config.starts,
                int(np.sum(f.status == "critical")),
                0,
            ),
            Claim(f"l2: ends of another index than 0, {name}", "convex", 0, down, 0),
            Claim(f"l2: ends without exactly one flat direction, {name}", "class shift", 0, int((flat != 1).sum()), 0),
        ]
    made += [
        Claim("l2: spread of the loss of all ends", "one minimum", 1e-10, float(np.ptp(loss)), 0, "at most"),
        Claim("l2: ends further apart than 2 ε / λ", "one minimum", 0, away, 0),
    ]
    examples = pair_of(config)
    for name, f in results.separable.items():
        on_the_way = int(np.sum(f.status == "diverging_to_infinity"))
        below = int(np.sum(f.loss < (1 - 1e-9) * least_loss(difference(f), examples)))
        made += [
            Claim(
                f"separable: ends called critical, {name}",
                "Soudry et al. 2018",
                0,
                int(np.sum(f.status == "critical")),
                0,
            ),
            Claim(f"separable: on the way to infinity, {name}", "Soudry et al. 2018", config.starts, on_the_way, 0),
            Claim(f"separable: ends below the margin's bound, {name}", "ln(1 + exp(-γ‖u‖)) / n", 0, below, 0),
        ]
    return made


def distances(results: Results) -> dict[str, np.ndarray]:
    """How far each end is from the one with the smallest gradient, but for the class shift."""
    ends = results.penalised.values()
    places = np.concatenate([parameters(f) for f in ends])
    home = places[int(np.concatenate([f.grad_norm for f in ends]).argmin())]
    return {name: np.linalg.norm(parameters(f) - home, axis=1) for name, f in results.penalised.items()}


def plot(results: Results, config: Config, *, ax: Axes | None = None) -> Axes:
    """With the penalty: how far apart the searches end, against where they began. Beside it the way to infinity."""
    if ax is None:
        ax, right = Figure(figsize=(10, 4), layout="constrained").subplots(1, 2)
        plot_infinity(results, config, ax=right)
    ax = style.axes(ax)
    allowed = 2 * TOL / smallest_curvature(results, config)
    for i, (name, distance) in enumerate(distances(results).items()):
        look = style.style(i)
        shown = np.maximum(distance, 1e-16)
        ax.plot(results.begin, shown, look.marker, color=look.color, ms=3, mfc="none", mew=0.6, label=name)
    ax.axhline(allowed, color="black", lw=1.2, label="2 ε / λ: the same minimum")
    low = min(float(f.loss.min()) for f in results.penalised.values())
    ax.set(xscale="log", yscale="log", ylim=(1e-15, 1e3 * allowed))
    ax.set(xlabel="loss at the start (nats)", ylabel="distance from the minimum, class shift removed")
    ax.set_title(f"three classes, l2 = {config.l2:g}: one loss, {low:.6f} nats", fontsize="medium")
    ax.legend(frameon=False, ncols=2, loc="upper right", fontsize="small")
    return ax


def plot_infinity(results: Results, config: Config, *, ax: Axes | None = None) -> Axes:
    """Of the separable pair without a penalty: the loss at the end against the length of u, and the margin's bound."""
    ax = style.axes(ax)
    longest, label = 0.0, "other verdicts"
    for i, (name, f) in enumerate(results.separable.items()):
        look, length = style.style(i), difference(f)
        longest = max(longest, float(length.max()))
        ax.plot(length, f.loss, look.marker, color=look.color, ms=3, mfc="none", mew=0.6, label=name)
        other = f.status != "diverging_to_infinity"
        if other.any():
            ax.plot(length[other], f.loss[other], "x", color="black", ms=7, label=label)
            label = "_" + label
    lengths = np.geomspace(1, longest, 400)
    ax.plot(lengths, least_loss(lengths, pair_of(config)), color="black", lw=1.2, label="least at that length")
    low = min(float(f.loss.min()) for f in results.separable.values())
    ax.set(xscale="log", yscale="log", ylim=(low / 100, 1e3), ylabel="loss at the end (nats)")
    ax.set_xlabel("length of the difference of the two classes, ‖u‖")
    ax.set_title(f"a separable pair, no penalty: margin γ = {margin(pair_of(config)):.2f}", fontsize="medium")
    ax.legend(frameon=False, loc="lower left", fontsize="small")
    return ax


if __name__ == "__main__":
    script.run("no_local_optima_in_softmax_regression", Config(), main, claims, plot, x64=True)
