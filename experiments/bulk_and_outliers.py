"""Does the Hessian have about C outliers, and does the gradient live among them?

    python -m experiments.bulk_and_outliers --quick  # 75 s
    python -m experiments.bulk_and_outliers          # 3 min

Trained classifiers have a Hessian of many small eigenvalues (the bulk) and about C large ones, C - 1 for centred
classes (Sagun et al. 2017; Papyan 2019). Here: a trained net on blobs at the corners of a simplex, C = 2 to 10, and one
on digits; the outliers end at the largest ratio of neighbours among the first 2 C + 2 eigenvalues. With few classes the
next group, of the C (C - 1) pairs of classes, is as distinct as the first, and the count may end there.

Gur-Ari, Roberts & Dyer (2018) find the gradient almost wholly in the space of the C largest eigenvalues. On digits that
holds for mini-batches and not for the full batch: gradient descent shrinks a component by 1 - ηλ each step, so the
steep directions are the first to be done; what keeps the gradient there is the noise of the batches. float64.

What comes out: C - 1 outliers from five classes on, and 8 on digits; with 2, 3 and 4 the count ends later, at 2, 4 and
7. On digits nine tenths of the gradient are in their space with mini-batches, and nothing with the full batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
import xarray as xr
from jax.flatten_util import ravel_pytree
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import script
from experiments.claim import Claim
from jaxsoft import curvature, data, models, optimizers, problem, style, sweep, train
from jaxsoft.problem import Problem


@dataclass(frozen=True)
class Config:
    classes: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8, 9, 10)
    per_class: int = 60
    spread: float = 0.3
    blob_hidden: int = 32
    blob_steps: int = 400
    blob_learning_rate: float = 0.3
    dataset: str = "digits"
    hidden: int = 16
    batch_size: int = 32
    learning_rate: float = 1.0
    steps: int = 2000
    record_every: int = 100
    runs: int = 2
    seed: int = 0


QUICK = Config(classes=(2, 4, 6, 8, 10), steps=1000, runs=1)
TINY = Config(
    classes=(6,), blob_hidden=12, blob_steps=200, dataset="iris", hidden=4, batch_size=8, learning_rate=0.3, steps=300,
    record_every=50, runs=1,
)  # fmt: skip


class Results(NamedTuple):
    """The largest eigenvalues by the name of the problem, descending; and overlaps (batch, run, step)."""

    spectra: dict[str, np.ndarray]
    overlaps: xr.Dataset


def corners(classes: int, config: Config) -> data.Dataset:
    """Gaussian blobs around the corners 2 e_c of a simplex, in C + 2 dimensions, centred."""
    rng = np.random.default_rng([config.seed, classes])
    y = np.repeat(np.arange(classes), config.per_class)
    x = 2 * np.eye(classes, classes + 2)[y] + config.spread * rng.normal(size=(len(y), classes + 2))
    return data.Dataset(x - x.mean(axis=0), y.astype(np.int32), classes, f"{classes} blobs")


def net(examples: data.Dataset, hidden: int) -> Problem:
    model = models.mlp((examples.x[0].size, hidden, examples.num_classes), init="glorot")
    return problem.classification(model, examples)


def main(config: Config = Config(), *, progress: bool = False) -> Results:
    """Spectra at the end of training, and the gradient's overlap with the top-C space on the way."""
    spectra = {}
    for classes in config.classes:
        made = net(corners(classes, config), config.blob_hidden)
        process = train.make_train(made, optimizers.make("gd", config.blob_learning_rate), keep_params=True)
        ds = sweep.run(process, {}, seed=config.seed, steps=config.blob_steps, record_every=config.blob_steps)
        spectra[f"{classes} blobs"] = largest(made, ds, 2 * classes + 3)

    examples = data.get(config.dataset)
    made = net(examples, config.hidden)

    def batches(batch):
        def probe(params):
            return {"overlap": curvature.gradient_overlap(made.loss, params, examples.num_classes)}

        optimizer = optimizers.make("gd", config.learning_rate)
        size = None if batch == "all" else config.batch_size
        return train.make_train(made, optimizer, batch_size=size, probe=probe, keep_params=True)

    axes = {"batch": [str(config.batch_size), "all"], "run": sweep.Seeds(config.runs)}
    steps = {"steps": config.steps, "record_every": config.record_every}
    overlaps = sweep.run(batches, axes, seed=config.seed, **steps, progress=progress)
    spectra[config.dataset] = largest(made, overlaps.sel(batch="all").isel(run=0), 2 * examples.num_classes + 3)
    return Results(spectra, overlaps)


def largest(made: Problem, ds: xr.Dataset, count: int) -> np.ndarray:
    """The largest eigenvalues of the Hessian where the run ended."""
    unravel = ravel_pytree(made.init(jax.random.key(0)))[1]
    params = unravel(jax.numpy.asarray(ds["final_params"].to_numpy()))
    return np.linalg.eigvalsh(np.asarray(curvature.hessian(made.loss, params)))[::-1][:count]


def outliers(values: np.ndarray) -> int:
    """How many of the largest eigenvalues, descending, come before the largest ratio of one to the next; of the
    positive ones only, as a ratio says nothing further down."""
    positive = values[values > 0]
    return 1 + int(np.argmax(positive[:-1] / positive[1:])) if len(positive) > 1 else len(positive)


def late(results: Results, batch: str) -> float:
    """The mean overlap over the second half of training."""
    series = results.overlaps["overlap"].sel(batch=batch)
    return float(series.isel(step=slice(series.sizes["step"] // 2, None)).mean())


def claims(results: Results, config: Config) -> list[Claim]:
    classes = [*config.classes, data.get(config.dataset).num_classes]
    made = [
        Claim(f"{name}: outliers, C - 1", "Papyan 2019", c - 1, outliers(values), 0.25, "reported")
        for (name, values), c in zip(results.spectra.items(), classes, strict=True)
    ]
    noisy = late(results, str(config.batch_size))
    return [
        *made,
        Claim(
            "overlap, mini-batches: threshold for 'about 1'", "Gur-Ari et al. 2018", 0.8, noisy, 0, "reported at least"
        ),
        Claim("overlap, full batch: threshold for 'to 0'", "(1 - ηλ)ᵗ", 0.05, late(results, "all"), 0, "at most"),
    ]


def plot(results: Results, config: Config, *, ax: Axes | None = None) -> Axes:
    """The spectra, each divided by its largest eigenvalue, outliers filled; beside them the overlap over training."""
    if ax is None:
        ax, right = Figure(figsize=(10, 4), layout="constrained").subplots(1, 2)
        plot_overlap(results, config, ax=right)
    ax = style.axes(ax)
    for row, (_, values) in enumerate(results.spectra.items()):
        n, shown = outliers(values), values / values[0]
        ax.plot(shown[:n], np.full(n, row), "o", color=style.style(0).color, ms=5)
        ax.plot(shown[n:], np.full(len(shown) - n, row), "|", color="0.4", ms=9)
        ax.text(1.03, row, str(n), va="center", transform=ax.get_yaxis_transform())
    ax.text(1.03, 1.01, "outliers", transform=ax.transAxes, ha="center", va="bottom", fontsize="small")
    ax.set_yticks(range(len(results.spectra)), list(results.spectra))
    ax.set_xscale("log")
    ax.set_xlabel("eigenvalue / largest eigenvalue   (dots: outliers, bars: bulk)")
    return ax


def plot_overlap(results: Results, config: Config, *, ax: Axes | None = None) -> Axes:
    """The share of the gradient in the space of the C largest eigenvalues, over training: every run a line."""
    ax = style.axes(ax)
    for i, batch in enumerate(results.overlaps["batch"].to_numpy()):
        series = results.overlaps["overlap"].sel(batch=batch)
        for run in range(series.sizes["run"]):
            label = "full batch" if batch == "all" else f"mini-batches of {batch}"
            values = series.isel(run=run).to_numpy()
            style.curve(ax, i, series["step"].to_numpy(), values, label if run == 0 else f"_{label}")
    ax.set(xlabel="step (optimizer updates)", ylabel="share of the gradient in the top-C space", ylim=(-0.02, 1.02))
    ax.legend(frameon=False, loc="center right", title=config.dataset)
    return ax


if __name__ == "__main__":
    script.run("bulk_and_outliers", Config(), main, claims, plot, x64=True)
