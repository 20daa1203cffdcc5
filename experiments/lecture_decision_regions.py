"""Which shapes can a softmax classifier without a hidden layer cut out of the plane? And with one?

    python -m experiments.lecture_decision_regions --quick  # 25 s
    python -m experiments.lecture_decision_regions          # 25 s

Without a hidden layer z_a - z_b is linear in x: two classes meet in a straight line, and the region of a class, where
its output is the largest, is cut out by half-planes, so it is convex. C = 3, 4, 5, 6 clouds of points in the plane.
Where the largest output changes hands is found by root finding on z_a - z_b, and the points of each pair of classes
must lie on one line to 1e-6 of its length. With a hidden layer, on the same data, no boundary may be straight. Pairs of
classes that meet in fewer than three of these points are not judged, but counted. The regions tile a rectangle, so one
can walk from each class to each other one: at least C - 1 pairs must meet. float64.

What comes out: straight to 5e-16 of a boundary's length without a hidden layer, bent by 0.02 to 0.5 of it with one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from scipy.optimize import brentq

from experiments import script
from experiments.claim import Claim
from jaxsoft import data, models, optimizers, problem, style, sweep, train
from jaxsoft import plot as pictures

STRAIGHT = 1e-6
SAME = 1e-9  # of the logits at a root


@dataclass(frozen=True)
class Config:
    """seeds: of the clouds, for each number of classes; these lie well apart."""

    classes: tuple[int, ...] = (3, 4, 5, 6)
    seeds: tuple[int, ...] = (146, 143, 166, 166)
    per_class: int = 25
    spread: float = 0.3
    hidden: int = 16
    learning_rate: float = 0.03
    steps: int = 1500
    lines: int = 60  # across the plane each way, along which roots are sought
    midpoints: int = 20_000
    seed: int = 0


QUICK = Config()


Predict = Callable[[np.ndarray], np.ndarray]


class Trained(NamedTuple):
    """x (m, 2) -> logits (m, C); boundary points (k, 2) by pair of classes; midpoints that leave their class."""

    predict: Predict
    boundaries: dict[tuple[int, int], np.ndarray]
    dented: int


def clouds(classes: int, config: Config) -> data.Dataset:
    seed = config.seeds[config.classes.index(classes)]
    return data.blobs(config.per_class * classes, classes, spread=config.spread, seed=seed)


def fit(examples: data.Dataset, hidden: tuple[int, ...], config: Config, *, progress: bool) -> Predict:
    """The logits of a trained net."""
    model = models.mlp([2, *hidden, examples.num_classes], init="glorot")
    made = problem.classification(model, examples)
    process = train.make_train(made, optimizers.make("adam", config.learning_rate), keep_params=True)
    axes = {"run": sweep.Seeds(1)}
    ds = sweep.run(process, axes, seed=config.seed, steps=config.steps, record_every=100, progress=progress)
    params = ravel_pytree(model.init(jax.random.key(0)))[1](ds["final_params"].to_numpy()[0])
    forward = jax.jit(jax.vmap(lambda x: model.apply(params, x)))
    return lambda x: np.asarray(forward(x))


def box(examples: data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    low, high = examples.x.min(axis=0).astype(np.float64), examples.x.max(axis=0).astype(np.float64)
    return low - 0.08 * (high - low), high + 0.08 * (high - low)


def boundaries(predict: Predict, examples: data.Dataset, lines: int) -> dict[tuple[int, int], np.ndarray]:
    """Where the largest output changes hands, by pair of classes: roots of z_a - z_b along lines across the plane."""
    grid = np.stack(np.meshgrid(*np.linspace(*box(examples), lines).T), axis=-1)
    top = predict(grid.reshape(-1, 2)).argmax(axis=1).reshape(lines, lines)
    found: dict[tuple[int, int], list[np.ndarray]] = {}
    for axis in (0, 1):
        before, after = (np.delete(grid, end, axis=axis) for end in (-1, 0))
        left, right = (np.delete(top, end, axis=axis) for end in (-1, 0))
        for p, q, a, b in zip(*(values[left != right] for values in (before, after, left, right)), strict=True):

            def lead(t: float, p=p, q=q, a=a, b=b) -> float:
                z = predict((p + t * (q - p))[None])[0]
                return z[a] - z[b]

            point = p + brentq(lead, 0.0, 1.0) * (q - p)
            z = predict(point[None])[0]
            if z.max() - z[a] <= SAME * abs(z).max():  # no third class is above both
                found.setdefault((min(a, b), max(a, b)), []).append(point)
    return {pair: np.array(points) for pair, points in sorted(found.items())}


def bends(boundaries: dict[tuple[int, int], np.ndarray]) -> list[float]:
    """The bend of every boundary of at least three points; two always lie on a line."""
    return [bend(points) for points in boundaries.values() if len(points) > 2]


def bend(points: np.ndarray) -> float:
    """The largest distance of points (m, 2) from the straight line through them, over their extent."""
    off = points - points.mean(axis=0)
    along, across = (off @ np.linalg.svd(off, full_matrices=False)[2].T).T
    return float(abs(across).max() / np.ptp(along))


def dented(predict: Predict, examples: data.Dataset, config: Config) -> int:
    """Of random pairs of points of one class, how many have a midpoint of another."""
    pairs = np.random.default_rng(config.seed).uniform(*box(examples), (2, config.midpoints, 2))
    first, second, middle = (predict(x).argmax(axis=1) for x in (*pairs, pairs.mean(axis=0)))
    return int(((first == second) & (middle != first)).sum())


def main(config: Config = Config(), *, progress: bool = False) -> dict[tuple[int, bool], Trained]:
    """By number of classes, and whether there is a hidden layer."""
    results = {}
    for classes, hidden in itertools.product(config.classes, (False, True)):
        examples = clouds(classes, config)
        predict = fit(examples, (config.hidden,) * hidden, config, progress=progress)
        found = boundaries(predict, examples, config.lines)
        results[classes, hidden] = Trained(predict, found, dented(predict, examples, config))
    return results


def claims(results: dict[tuple[int, bool], Trained], config: Config) -> list[Claim]:
    made = []
    for classes in config.classes:
        linear, deep = results[classes, False], results[classes, True]
        lines, curves = bends(linear.boundaries), bends(deep.boundaries)
        straight = sum(b < STRAIGHT for b in curves)
        about, beside = f"C = {classes}, no hidden layer", f"C = {classes}, hidden layer"
        met, most = "regions tile the plane", max(lines, default=np.nan)
        made += [
            Claim(f"{about}: boundaries that are judged", met, classes - 1, len(lines), 0, "at least"),
            Claim(f"{about}: largest bend of a boundary", "z_a - z_b is linear", STRAIGHT, most, 0, "at most"),
            Claim(f"{about}: midpoints outside of their class", "regions are convex", 0, linear.dented, 0),
            Claim(f"{beside}: boundaries that are judged", met, classes - 1, len(curves), 0, "at least"),
            Claim(f"{beside}: straight boundaries", "tanh is not linear", 0, straight, 0),
        ]
    return made


def plot(results: dict[tuple[int, bool], Trained], config: Config, *, ax: Axes | None = None) -> Axes:
    """A column for each number of classes, without a hidden layer above and with one below."""
    shown = list(itertools.product((False, True), config.classes))
    if ax is None:
        figure = Figure(figsize=(3.4 * len(config.classes), 7), layout="constrained")
        panels = list(figure.subplots(2, len(config.classes), squeeze=False).ravel())
    else:
        panels, shown = [ax], shown[:1]
    for panel, (hidden, classes) in zip(panels, shown, strict=True):
        trained = results[classes, hidden]
        examples = clouds(classes, config)
        pictures.plot_decision_regions(trained.predict, examples, ax=panel, resolution=200)
        panel.collections[0].set_cmap(tints(classes))
        for c in range(classes):
            x, y = np.median(examples.x[examples.y == c], axis=0)
            text = panel.text(x, y, f"{c + 1}", weight="bold", zorder=5)
            text.set(ha="center", va="center", path_effects=[withStroke(linewidth=3, foreground="white")])
        for line in panel.get_lines():
            line.set_markersize(4)
        for points in trained.boundaries.values():
            panel.plot(*points.T, ".", color="black", ms=2, zorder=4)
        legend = panel.get_legend()
        assert legend is not None
        legend.remove()
        found = bends(trained.boundaries)
        kind = "with a hidden layer: no longer straight" if hidden else "softmax alone: straight lines"
        short = len(trained.boundaries) - len(found)
        unjudged = f", {short} too short to tell" if short else ""
        told = f"{len(found)} boundaries, largest bend {max(found, default=np.nan):.0e} of the length{unjudged}"
        panel.set_title(f"C = {classes}, {kind}\n{told}", fontsize="small")
    return panels[0]


def tints(classes: int) -> ListedColormap:
    """The colours of the classes, mixed with white so that in grey they are evenly apart, from 0.7 to 0.95."""
    colors = np.array([to_rgb(style.style(c).color) for c in range(classes)])
    grey = colors @ (0.299, 0.587, 0.114)
    share = (1 - np.linspace(0.7, 0.95, classes)) / (1 - grey)
    return ListedColormap(1 - share[:, None] * (1 - colors))


if __name__ == "__main__":
    script.run("lecture_decision_regions", Config(), main, claims, plot, x64=True)
