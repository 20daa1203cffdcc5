"""How many ways down has the zero point of a two-layer softmax net, and how steep is the steepest?

    python -m experiments.zero_saddle_index --quick  # 55 s
    python -m experiments.zero_saddle_index          # 2 min

Without biases the Hessian at zero weights has the eigenvalues ±s_i(M), each once for every one of h hidden units, and
zeros, with M = (1/n) Σ (y - 1/C) xᵀ. So the index is h · rank M, and the escape rate is s₁, for any width. Digits, iris
and blobs, h = 1 to 64. float64.

What comes out: index h · rank M and rate s₁ to eight digits, on all three data sets at every width.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from experiments import script
from experiments.claim import Claim
from jaxsoft import curvature, data, models, problem, style, theory
from jaxsoft.progress import Report


@dataclass(frozen=True)
class Config:
    datasets: tuple[str, ...] = ("digits", "iris", "blobs")
    widths: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)


QUICK = Config(widths=(1, 4, 16))
TINY = Config(datasets=("iris",), widths=(1, 3))


def main(config: Config = Config(), *, progress: bool = False) -> xr.Dataset:
    """Certified counts and the lowest eigenvalue: (dataset, hidden)."""
    shape = (len(config.datasets), len(config.widths))
    names = ("negative", "positive", "zero", "null", "undecided")
    counts = {name: np.zeros(shape, int) for name in names}
    rate = np.zeros(shape)
    with Report(shape[0] * shape[1], 1, show=progress) as report:
        for i, name in enumerate(config.datasets):
            examples = data.get(name)
            for j, width in enumerate(config.widths):
                report.say(f"{name}, h = {width}")
                model = models.mlp((examples.x[0].size, width, examples.num_classes), init="zeros", bias=False)
                made = problem.classification(model, examples)
                params = made.init(jax.random.key(0))
                found = curvature.inertia(made.loss, params)
                for count in names:
                    counts[count][i, j] = getattr(found, count)
                rate[i, j] = -float(curvature.spectrum(made.loss, params, 1, tol=1e-10).eigenvalues[0])
                report.finished(1, 0)
    dims = ("dataset", "hidden")
    values = {name: (dims, count) for name, count in counts.items()} | {"rate": (dims, rate)}
    return xr.Dataset(values, coords={"dataset": list(config.datasets), "hidden": list(config.widths)})


def rates(name: str) -> np.ndarray:
    """The s_i of theory that are not zero."""
    examples = data.get(name)
    s = theory.zero_saddle_rates(examples.x, examples.y, examples.num_classes)
    return s[s > 1e-10 * s[0]]


def claims(results: xr.Dataset, config: Config) -> list[Claim]:
    made = []
    for name in config.datasets:
        s, here = rates(name), results.sel(dataset=name)
        wrong = here["negative"] != len(s) * here["hidden"]
        unequal = here["negative"] != here["positive"]
        worst = here["rate"].isel(hidden=int(np.abs(here["rate"].to_numpy() - s[0]).argmax()))
        made += [
            Claim(f"{name}: widths whose index is not h · rank M", f"rank M = {len(s)}", 0, int(wrong.sum()), 0),
            Claim(f"{name}: widths with more ways up than down", "spectrum ±s", 0, int(unequal.sum()), 0),
            Claim(f"{name}: eigenvalues left undecided", "certificate", 0, int(here["undecided"].sum()), 0),
            Claim(f"{name}: escape rate furthest from s₁", "s₁(M)", float(s[0]), float(worst), 1e-8),
        ]
    return made


def plot(results: xr.Dataset, config: Config, *, ax: Axes | None = None) -> Axes:
    """Index against width: counts as points, h · rank M as lines."""
    ax = style.axes(ax)
    widths = np.array(config.widths)
    for i, name in enumerate(config.datasets):
        look, rank = style.style(i), len(rates(name))
        ax.plot(widths, rank * widths, color="0.4", linewidth=1, zorder=1)
        ax.plot(
            widths,
            results["negative"].sel(dataset=name),
            look.marker,
            color=look.color,
            label=f"{name}: rank M = {rank}",
        )
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xticks(widths, [str(w) for w in widths])
    ticks = 2 ** np.arange(1, 11)
    ax.set_yticks(ticks, [str(t) for t in ticks])
    ax.set(xlabel="hidden units h", ylabel="certified index at zero weights")
    ax.legend(frameon=False, title="lines: h · rank M")
    return ax


if __name__ == "__main__":
    script.run("zero_saddle_index", Config(), main, claims, plot, x64=True)
