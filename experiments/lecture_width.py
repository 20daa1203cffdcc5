"""A big enough network is unlikely to be trapped: the share of trapped runs against the number of hidden units.

    python -m experiments.lecture_width --quick  # 30 s
    python -m experiments.lecture_width          # 2 min

Exclusive or, four corners of a square, with one hidden layer of 1 to 32 units and softmax; 1,000 initialisations each,
full batch, heavy ball. **Trapped** means: after all the steps a corner is still on the wrong side. That says nothing of
what holds the run: a minimum, a saddle, a dead unit, or weights that grow for ever. The share after half of the steps
is drawn too; where the two agree, more steps would not help.

With one unit the output is monotonic along a line, and on no line are the corners in the order needed: all runs are
trapped. Two units are enough for a solution. Then ever fewer, and of the widest nets at most one in a hundred. Where
two corners of different classes look the same to the hidden layer, the best that is left is to be sure of the other two
and to answer 1/2 for these: a loss of (2 ln 2)/4. float32.

What comes out: fewer are trapped in every wider network, none in a big enough one. Of 1,000 runs with tanh 235 are
trapped with 2 units, 3 with 3 and 1 with 4, none from 6 on; with ReLU 751, 341, 138, then 17 with 6, 1 with 8, none
from 12 on. Half of the steps give the same to within one run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from scipy.stats import binomtest, kendalltau

from experiments import script
from experiments.claim import Claim
from jaxsoft import data, models, optimizers, problem, style, sweep, train
from jaxsoft.process import Process

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Config:
    """inits: by activation."""

    widths: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
    inits: tuple[tuple[str, str], ...] = (("tanh", "glorot"), ("relu", "he"))
    runs: int = 1000
    learning_rate: float = 0.1
    steps: int = 4000
    seed: int = 0


QUICK = Config(widths=(1, 2, 4, 8, 32), runs=200)


def main(config: Config = Config(), *, progress: bool = False) -> xr.Dataset:
    """Loss and accuracy at the start, half way and at the end: (activation, width, run, step)."""
    corners, init = data.xor(4, noise=0.0), dict(config.inits)

    def process(activation: str, width: float) -> Process:
        model = models.mlp([2, int(width), 2], activation=activation, init=init[activation])
        made = problem.classification(model, corners)
        optimizer = optimizers.make("momentum", config.learning_rate)
        return train.make_train(made, optimizer, probe=problem.metrics(model, corners))

    axes = {"activation": list(init), "width": sweep.Static(config.widths), "run": sweep.Seeds(config.runs)}
    return sweep.run(
        process, axes, seed=config.seed, steps=config.steps, record_every=config.steps // 2, progress=progress
    )


def trapped(results: xr.Dataset, record: int = -1) -> xr.DataArray:
    """Which runs have a corner on the wrong side: (activation, width, run)."""
    return results["accuracy"].isel(step=record) < 1


def claims(results: xr.Dataset, config: Config) -> list[Claim]:
    made = []
    for activation in results["activation"].to_numpy():
        share = trapped(results).sel(activation=activation)
        width = np.repeat(config.widths, config.runs)
        p = kendalltau(width, share.transpose("width", "run").to_numpy().ravel(), alternative="less").pvalue
        falls = f"{activation}: the share falls with width, p of Kendall's test"
        clear = f"{activation}: share that gets through with {max(config.widths)} units"
        stuck = results["loss"].sel(activation=activation).isel(step=-1).where(share & (share["width"] > 1))
        through = 1 - float(share.sel(width=max(config.widths)).mean())
        made += [
            Claim(f"{activation}: share trapped with one unit", "monotonic", 1.0, float(share.sel(width=1).mean()), 0),
            Claim(falls, "the lecture", 1 - CONFIDENCE, float(p), 0, "reported at most"),
            Claim(clear, "the lecture", 1.0, through, 0.01, "reported"),
        ]
        source = "two corners look the same: (2 ln 2)/4"
        about = f"{activation}: median loss of trapped runs with more than one unit"
        median = float(stuck.median())  # NaN where none is trapped: not reproduced
        made.append(Claim(about, source, 0.5 * np.log(2), median, 1e-3, "reported"))
    return made


def plot(results: xr.Dataset, config: Config, *, ax: Axes | None = None) -> Axes:
    """The share of trapped runs against width, with 95% intervals (Wilson), after all and after half of the steps."""
    ax = style.axes(ax)
    for i, activation in enumerate(results["activation"].to_numpy()):
        look = style.style(i)
        count = trapped(results).sel(activation=activation).sum("run").to_numpy()
        ends = [binomtest(int(k), config.runs).proportion_ci(CONFIDENCE, method="wilson") for k in count]
        low, high = np.array([(e.low, e.high) for e in ends]).T
        share = count / config.runs
        ax.errorbar(
            config.widths, share, np.maximum((share - low, high - share), 0), fmt=look.marker, ls=look.line,
            color=look.color, mfc="white", capsize=3, label=f"{activation}, after {config.steps:,} steps",
        )  # fmt: skip
        half = trapped(results, 1).sel(activation=activation).mean("run").to_numpy()
        ax.plot(config.widths, half, look.marker, color=look.color, ms=10, mfc="none", alpha=0.6,
                label=f"{activation}, after {config.steps // 2:,} steps")  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_xticks(config.widths, [str(w) for w in config.widths])
    ax.minorticks_off()
    ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    ax.set(ylim=(-0.02, 1.04), xlabel="hidden units", ylabel=f"trapped of {config.runs:,} runs (exclusive or)")
    ax.set_title("A big enough network is unlikely to be trapped", fontsize="medium")
    ax.legend(frameon=False)
    return ax


if __name__ == "__main__":
    script.run("lecture_width", Config(), main, claims, plot)
