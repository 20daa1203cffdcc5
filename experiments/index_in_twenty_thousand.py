"""The lecture's 20,000 dimensions: how many ways down has a net of 19,960 parameters, on its way through training?

    python -m experiments.index_in_twenty_thousand --quick  # 25 s
    python -m experiments.index_in_twenty_thousand          # 20 min

A critical point with 20,000 independent coin-flip curvatures would be a minimum with chance 2^-20000. This counts them,
with a certificate, for the net 64-266-10 on digits: at zero weights, where theory gives the index (266 · rank M; a
hidden bias is one more input, so it changes M but not its rank here; the biases of the outputs add C - 1 ways up), and
along a run of gradient descent from small weights. There theory bounds it: the loss is convex in the last layer, so
that at least C (h + 1) of the P directions do not lead down, and neither do the h weights of an input that is always
zero; these, and the h + 1 shifts of all classes alike, are the directions known to be flat. 9 GiB; float64. Finished
points are kept in results/: run it again to resume.

What comes out: 2,394 = 266 · 9 ways down at zero weights, with and without biases, none of 19,960 curvatures undecided.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.axes import Axes

from experiments import script
from experiments.claim import Claim
from jaxsoft import curvature, data, models, optimizers, problem, style, sweep, theory, train
from jaxsoft.problem import Params, Problem

Point = dict[str, float]


@dataclass(frozen=True)
class Config:
    dataset: str = "digits"
    hidden: int = 266
    learning_rate: float = 0.3
    scale: float = 0.01
    steps: tuple[int, ...] = (0, 20, 40, 80, 2000)
    seed: int = 0


QUICK = Config(hidden=32, steps=(0, 40, 2000))
TINY = Config(dataset="iris", hidden=4, learning_rate=0.1, steps=(0, 30))


def net(config: Config, **options) -> Problem:
    examples = data.get(config.dataset)
    sizes = (examples.x[0].size, config.hidden, examples.num_classes)
    return problem.classification(models.mlp(sizes, **options), examples)


def along_a_run(config: Config) -> dict[int, Params]:
    """The parameters at the chosen steps of one run of gradient descent."""
    made = net(config, scale=config.scale)
    every = int(np.gcd.reduce(np.array(config.steps)))

    def process():
        optimizer = optimizers.make("gd", config.learning_rate)
        return train.make_train(made, optimizer, probe=lambda p: {"params": train.flatten(p)})

    ds = sweep.run(process, {}, seed=config.seed, steps=max(config.steps), record_every=every)
    unravel = ravel_pytree(made.init(jax.random.key(0)))[1]
    return {step: unravel(jnp.asarray(ds["params"].sel(step=step).to_numpy())) for step in config.steps}


def measure(made: Problem, params: Params) -> Point:
    found = curvature.inertia(made.loss, params)
    slope = float(jnp.linalg.norm(ravel_pytree(jax.grad(made.loss)(params))[0]))
    counts = {name: float(value) for name, value in found.arrays().items()}
    return counts | {"loss": float(made.loss(params)), "grad_norm": slope, "parameters": models.count(params)}


def main(config: Config = Config(), *, progress: bool = False, kept: Path | None = None) -> dict[str, Point]:
    """Certified counts at zero weights without and with biases, and at the chosen steps: by name of the point."""
    kept = Path(f"results/index_in_twenty_thousand_{config.hidden}.json") if progress else kept
    stored = json.loads(kept.read_text()) if kept is not None and kept.exists() else {}
    identity = script.identity(sys.modules[__name__], config)
    results: dict[str, Point] = stored["points"] if stored.get("identity") == identity else {}
    bare, whole = net(config, init="zeros", bias=False), net(config, init="zeros")
    todo = [("zero, no biases", bare, None), ("zero", whole, None), *((f"step {s}", whole, s) for s in config.steps)]
    run = along_a_run(config) if any(name not in results for name, _, s in todo if s is not None) else {}
    for name, made, step in todo:
        if name not in results:
            results[name] = measure(made, made.init(jax.random.key(0)) if step is None else run[step])
            if kept is not None:
                kept.parent.mkdir(exist_ok=True)
                partial = kept.with_suffix(".partial")
                partial.write_text(json.dumps({"identity": identity, "points": results}, indent=1))
                partial.replace(kept)
        if progress:
            p = results[name]
            print(
                f"{name}: loss {p['loss']:.4f}, index {p['negative']:.0f}, undecided {p['undecided']:.0f}", flush=True
            )
    return results


def ways_down(config: Config) -> tuple[int, int]:
    """rank M without and with the hidden biases."""
    examples = data.get(config.dataset)
    x = examples.x.reshape(len(examples.y), -1).astype(np.float64)
    ranks = []
    for inputs in (x, np.column_stack([x, np.ones(len(x))])):
        s = theory.zero_saddle_rates(inputs, examples.y, examples.num_classes)
        ranks.append(int(np.sum(s > 1e-10 * s[0])))
    return ranks[0], ranks[1]


def claims(results: dict[str, Point], config: Config) -> list[Claim]:
    bare, biased = ways_down(config)
    examples = data.get(config.dataset)
    classes, x = examples.num_classes, examples.x.reshape(len(examples.y), -1)
    dead = int(np.sum(~x.any(axis=0)))
    unsure = sum(results[name]["undecided"] for name in ("zero, no biases", "zero"))
    run = [results[f"step {step}"] for step in config.steps]
    beyond = sum(p["negative"] > config.hidden * (x.shape[1] + 1 - dead) for p in run)
    other = sum(p["null"] != config.hidden * dead + config.hidden + 1 for p in run)
    share = max(p["undecided"] / p["parameters"] for p in run)
    return [
        Claim(
            "index at zero, no biases", "h · rank M", config.hidden * bare, results["zero, no biases"]["negative"], 0
        ),
        Claim(
            "ways up at zero, no biases", "h · rank M", config.hidden * bare, results["zero, no biases"]["positive"], 0
        ),
        Claim("index at zero", "h · rank [M, bias]", config.hidden * biased, results["zero"]["negative"], 0),
        Claim("ways up at zero", "C - 1 more", config.hidden * biased + classes - 1, results["zero"]["positive"], 0),
        Claim("eigenvalues left undecided at zero", "certificate", 0, unsure, 0),
        Claim("points of the run with an index beyond h (d + 1)", "convex in the last layer", 0, beyond, 0),
        Claim("points of the run with other flat directions", "class shift, dead inputs", 0, other, 0),
        Claim("largest share undecided along the run", "certificate", 1e-3, share, 0, "at most"),
    ]


def plot(results: dict[str, Point], config: Config, *, ax: Axes | None = None) -> Axes:
    """How the curvatures divide at each point, from zero weights to the end of training."""
    ax = style.axes(ax)
    names = [name for name in results if name != "zero, no biases"]
    left = np.zeros(len(names))
    looks = [
        ("negative", "down", "0.1", ""),
        ("zero", "within the band", "0.9", ""),
        ("null", "flat by symmetry", "1.0", "///"),
    ]
    looks.append(("positive", "up", "0.6", ""))
    for kind, label, grey, hatch in looks:
        value = np.array([results[name][kind] for name in names])
        bars = ax.barh(names, value, left=left, color=grey, hatch=hatch, edgecolor="0.4", linewidth=0.5, label=label)
        if kind == "negative":
            ax.bar_label(bars, [f" {v:,.0f}" for v in value], color="white", label_type="center", fontsize="small")
        left = left + value
    for row, name in enumerate(names):
        ax.text(1.01 * left[row], row, f"loss {results[name]['loss']:.3f}", va="center", fontsize="small")
    ax.invert_yaxis()
    ax.set_xlim(0, left.max())
    ax.set_xlabel(f"number of eigenvalues (of {left.max():,.0f})")
    ax.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize="small")
    return ax


if __name__ == "__main__":
    script.run("index_in_twenty_thousand", Config(), main, claims, plot, x64=True)
