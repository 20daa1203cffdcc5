"""Is a linear softmax model really free of saddles? Its certified index at a thousand random points.

    python -m experiments.convex_softmax_regression --quick  # 30 s
    python -m experiments.convex_softmax_regression          # 3 min

The Hessian of softmax regression is (1/n) Σ (diag p - p pᵀ) ⊗ x xᵀ: positive semidefinite everywhere, so the index is
0 at any point; the class shift gives d + 1 flat directions (d inputs and the bias), and an input that is always zero
C instead of one. Böhning (1992),
"Multinomial logistic regression algorithm", bounds it by B = ½ (I - 11ᵀ/C) ⊗ XᵀX/n, with equality at W = 0 for two
classes. Real data: digits, iris, wine. float64.

What comes out: index 0 at every one of 3,000 points, and Böhning's bound holds at all of them.
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
from jaxsoft import curvature, data, models, problem, process, style, sweep, theory
from jaxsoft.problem import Problem

ROUNDING = 1e-13  # of ‖B‖; sums of some thousand terms in float64


@dataclass(frozen=True)
class Config:
    datasets: tuple[str, ...] = ("iris", "wine", "digits")
    points: int = 1000
    scale: float = 1.0
    seed: int = 0


QUICK = Config(points=50)
TINY = Config(datasets=("iris", "wine"), points=20)


def inputs_with_bias(examples: data.Dataset) -> np.ndarray:
    return np.column_stack([examples.x.reshape(len(examples.y), -1), np.ones(len(examples.y))]).astype(np.float64)


def bound_in_order_of_parameters(examples: data.Dataset) -> np.ndarray:
    """Böhning's B for weight (C, d) and bias (C,), in the order of the flat parameters."""
    classes, d = examples.num_classes, examples.x[0].size
    bound = theory.bohning_bound(inputs_with_bias(examples), classes)
    place = np.arange(classes * (d + 1)).reshape(classes, d + 1)
    order = np.concatenate([place[:, :d].ravel(), place[:, d]])
    return bound[np.ix_(order, order)]


def regression(examples: data.Dataset) -> Problem:
    return problem.classification(models.softmax_regression(examples.x[0].size, examples.num_classes), examples)


def main(config: Config = Config(), *, progress: bool = False) -> xr.Dataset:
    """Inertia at every point, and the smallest eigenvalue of B - H relative to ‖B‖: (dataset, point)."""
    found = []
    for name in config.datasets:
        examples = data.get(name)
        made = regression(examples)
        bound = jnp.asarray(bound_in_order_of_parameters(examples))
        scale = float(jnp.linalg.norm(bound, 2))

        def measure(params, made=made, bound=bound, scale=scale):
            matrix = curvature.hessian(made.loss, params)
            lowest, room = (jnp.linalg.eigvalsh(m)[0] / scale for m in (matrix, bound - matrix))
            found = curvature.inertia(made.loss, params, method="tridiagonal").arrays()
            return found | {"lowest": lowest, "room": room}

        keys = jax.random.split(jax.random.key(config.seed), config.points)
        model = models.softmax_regression(examples.x[0].size, examples.num_classes, init="normal", scale=config.scale)
        points = jax.vmap(model.init)(keys)
        axes = {"point": range(config.points)}
        found.append(sweep.run(process.evaluate(measure, points), axes, seed=0, steps=1, progress=progress))
    return xr.concat(found, xr.Variable("dataset", list(config.datasets)), combine_attrs="drop")


def claims(results: xr.Dataset, config: Config) -> list[Claim]:
    made = []
    for name in config.datasets:
        here, examples = results.sel(dataset=name), data.get(name)
        inputs = inputs_with_bias(examples)
        dead = int(np.sum(~inputs.any(axis=0)))
        known = examples.num_classes * dead + inputs.shape[1] - dead
        flat = int((here["final_null"] != known).sum())
        unsure, most = float((here["final_undecided"] > 0).mean()), int(here["final_negative"].max())
        lowest, room = float(here["final_lowest"].min()), float(here["final_room"].min())
        made += [
            Claim(f"{name}: largest certified index", "convex", 0, most, 0),
            Claim(f"{name}: share of points with an undecided eigenvalue", "certificate", 0.01, unsure, 0, "at most"),
            Claim(f"{name}: lowest eigenvalue of H / ‖B‖", "convex, up to rounding", -ROUNDING, lowest, 0, "at least"),
            Claim(f"{name}: points without {known} known flat directions", "class shift, dead inputs", 0, flat, 0),
            Claim(f"{name}: lowest eigenvalue of B - H / ‖B‖", "Böhning 1992", -ROUNDING, room, 0, "at least"),
        ]
    return [*made, Claim("two classes at W = 0: ‖H - B‖/‖B‖", "equality", 1e-12, two_classes_at_zero(), 0, "at most")]


def two_classes_at_zero() -> float:
    """The relative distance of H from B at W = 0 for the first two classes of iris."""
    whole = data.iris()
    two = whole.y < 2
    examples = data.Dataset(whole.x[two], whole.y[two], 2, "iris, two classes")
    made = regression(examples)
    matrix = np.asarray(curvature.hessian(made.loss, made.init(jax.random.key(0))))
    bound = bound_in_order_of_parameters(examples)
    return float(np.linalg.norm(matrix - bound) / np.linalg.norm(bound))


def plot(results: xr.Dataset, config: Config, *, ax: Axes | None = None) -> Axes:
    """How the eigenvalues divide at each point: positive, flat by symmetry, zero within the band."""
    ax = style.axes(ax)
    rows = np.arange(len(config.datasets))
    left = np.zeros(len(rows))
    counts = ("negative", "zero", "positive", "undecided", "null")
    total = np.sum([results[f"final_{name}"].mean("point").to_numpy() for name in counts], axis=0)
    kinds = [
        ("positive", "up", "0.3"),
        ("null", "flat: class shift, dead inputs", "0.65"),
        ("zero", "in the band", "0.85"),
    ]
    for name, label, grey in kinds:
        mean = results[f"final_{name}"].mean("point").to_numpy()
        ax.barh(rows, mean / total, left=left, color=grey, label=label, height=0.6)
        left = left + mean / total
    most = results["final_negative"].max("point").to_numpy()
    for row, count in zip(rows, most, strict=True):
        ax.text(1.01, float(row), f"index {count}", va="center")
    ax.set_yticks(rows, list(config.datasets))
    ax.set_xlim(0, 1)
    ax.set_xlabel(f"share of the eigenvalues (mean over {config.points} random points)")
    style.legend(ax, *ax.get_legend_handles_labels())
    return ax


if __name__ == "__main__":
    script.run("convex_softmax_regression", Config(), main, claims, plot, x64=True)
