"""Are degenerate points seen for what they are? Split hidden units, the monkey saddle, a deep linear net at zero.

    python -m experiments.degenerate_points --quick  # 60 s
    python -m experiments.degenerate_points          # 90 s

Split a hidden unit of a net at a critical point into two with the same weights in and the weights λ v and (1 - λ) v
out: for every λ that is a critical point of the wider net, a line of them (Fukumizu & Amari 2000, "Local minima and
plateaus in hierarchical structures of multilayer perceptrons"). In the mean of the two units and their difference the
Hessian falls apart into that of the narrow net and

    K(λ) = [[λ (1 - λ) G, Qᵀ], [Q, 0]],   G = Σ (r · v) φ''(a) x xᵀ,   Q = Σ r φ'(a) xᵀ

(r = (ŷ - y) / n, x with a 1 for the bias), so by Sylvester's law index and zeros at λ are those of the narrow net and
of K(λ) added up. As vᵀQ = 0, K has a zero along the line, always. For two classes Q = 0, and whether a split minimum is
a minimum is up to the signs of G and λ (1 - λ); where Q is not zero a split point is a saddle for every λ.

Narrow nets 2-2-C, trained to their minimum on labels that a teacher draws at random, so that it is finite; C = 2, 3.
Then the monkey saddle x³ - 3xy², and a deep linear net of three layers at zero, whose Hessians vanish: searches should
end critical, index 0, all curvatures zero, and what they find from near by should be called degenerate as well.
float64.

What comes out: index and zeros are those of K(λ) for every λ. Split minima are saddles of index 1 or 2 between and
beyond the two ends λ = 0 and 1, where a unit is idle and more curvatures vanish.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.flatten_util import ravel_pytree
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import script
from experiments.claim import Claim
from jaxsoft import critical, curvature, data, models, problem, style
from jaxsoft.critical import CriticalPoint
from jaxsoft.models import Layer, Layers
from jaxsoft.problem import Problem
from jaxsoft.progress import Report

EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Config:
    nets: tuple[tuple[int, int], ...] = ((2, 1), (3, 2))  # classes, and the teacher's seed
    hidden: int = 2
    examples: int = 600
    lambdas: tuple[float, ...] = tuple(np.linspace(-1, 2, 25).tolist())
    starts: int = 4
    near: float = 1e-3  # from where the degenerate points are searched
    seed: int = 0


QUICK = Config(lambdas=tuple(np.linspace(-1, 2, 13).tolist()))
TINY = Config(nets=((2, 1),), examples=200, lambdas=(-0.5, 0.0, 0.4), starts=2)


class Results(NamedTuple):
    """By number of classes: along ``lambda`` what was counted and what K(λ) says. Ends by name: at the point, near."""

    split: dict[int, xr.Dataset]
    at: dict[str, CriticalPoint]
    near: dict[str, CriticalPoint]


def taught(classes: int, seed: int, n: int) -> data.Dataset:
    """Labels drawn from the softmax of a random net 2-3-C, so no net fits them all."""
    rng = np.random.default_rng(seed)
    x, into, out = rng.normal(size=(n, 2)), rng.normal(size=(3, 2)), 2 * rng.normal(size=(classes, 3))
    logits = np.tanh(x @ into.T) @ out.T
    y = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
    return data.Dataset(x, y.astype(np.int32), classes, "taught")


def net(examples: data.Dataset, hidden: int) -> Problem:
    return problem.classification(models.mlp((2, hidden, examples.num_classes), scale=0.5), examples)


def minimum(made: Problem, config: Config) -> Layers:
    """The lowest end of some searches, with three bare Newton steps that leave of the gradient what rounding leaves."""
    begin = jax.vmap(made.init)(jax.random.split(jax.random.key(config.seed), config.starts))
    found = critical.find_all(made.loss, begin, "saddle_free", certify=False)
    best = int(np.where(found.status == "critical", found.loss, np.inf).argmin())
    params = jax.tree.map(lambda leaf: leaf[best], found.params)
    for _ in range(3):
        theta, unravel = ravel_pytree(params)
        slope = ravel_pytree(jax.grad(made.loss)(params))[0]
        params = unravel(theta - jnp.linalg.pinv(curvature.hessian(made.loss, params), rtol=1e-9) @ slope)
    return params


def split(params: Layers, share: float | jax.Array) -> Layers:
    """The last hidden unit as two, with ``share`` of the weights out and the rest."""
    into, out = params
    assert into.bias is not None
    last = out.weight[:, -1:]
    both = jnp.concatenate([out.weight[:, :-1], share * last, (1 - share) * last], axis=1)
    return (
        Layer(jnp.concatenate([into.weight, into.weight[-1:]]), jnp.concatenate([into.bias, into.bias[-1:]])),
        Layer(both, out.bias),
    )


def remainder(params: Layers, examples: data.Dataset, share: float) -> np.ndarray:
    """K(λ), (3 + C, 3 + C)."""
    w, b, v, c = (np.asarray(leaf) for layer in params for leaf in (layer.weight, layer.bias))
    x = np.column_stack([examples.x, np.ones(len(examples.y))])
    h = np.tanh(examples.x @ w.T + b)
    logits = h @ v.T + c
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    r = (p / p.sum(axis=1, keepdims=True) - np.eye(examples.num_classes)[examples.y]) / len(x)
    slope = 1 - h[:, -1] ** 2
    g = (x * (r @ v[:, -1] * -2 * h[:, -1] * slope)[:, None]).T @ x
    q = (r * slope[:, None]).T @ x
    return np.block([[share * (1 - share) * g, q.T], [q, np.zeros((len(q), len(q)))]])


def along_the_line(made: Problem, examples: data.Dataset, narrow: Layers, config: Config) -> xr.Dataset:
    wide = net(examples, config.hidden + 1)
    own = curvature.inertia(made.loss, narrow)
    rows = []
    for share in config.lambdas:
        params = split(narrow, share)
        flat = ravel_pytree(params)[0]
        line = ravel_pytree(split(narrow, share + 1.0))[0] - flat
        found = curvature.inertia(wide.loss, params)
        matrix = curvature.hessian(wide.loss, params)
        norm = float(jnp.linalg.norm(matrix))
        values = np.linalg.eigvalsh(remainder(narrow, examples, share))
        band = float(found.band)
        rows.append(
            {
                "slope": float(jnp.linalg.norm(ravel_pytree(jax.grad(wide.loss)(params))[0])),
                "rounding": 100 * EPS * norm * max(1.0, float(jnp.linalg.norm(flat))),
                "along": float(jnp.linalg.norm(matrix @ line) / (norm * jnp.linalg.norm(line))),
                "index": int(found.negative),
                "flat": int(found.zero) + int(found.null),
                "undecided": int(found.undecided),
                "theory_index": int(own.negative) + int((values < -band).sum()),
                "theory_flat": int(own.zero) + int(own.null) + int((np.abs(values) <= band).sum()),
            }
        )
    made_of = {name: ("lambda", np.array([row[name] for row in rows])) for name in rows[0]}
    return xr.Dataset(made_of, coords={"lambda": list(config.lambdas)})


def main(config: Config = Config(), *, progress: bool = False) -> Results:
    line: dict[int, xr.Dataset] = {}
    deep = problem.classification(models.deep_linear((4, 3, 3, 3)), data.iris())
    flat = {"monkey saddle": problem.monkey_saddle(), "deep linear net": deep}
    at, near = {}, {}
    with Report(len(config.nets) + len(flat), 1, show=progress) as report:
        for classes, seed in config.nets:
            report.say(f"split units, {classes} classes")
            examples = taught(classes, seed, config.examples)
            made = net(examples, config.hidden)
            line[classes] = along_the_line(made, examples, minimum(made, config), config)
            report.finished(1, 0)
        for name, made in flat.items():
            report.say(name)
            zero = jax.tree.map(jnp.zeros_like, made.init(jax.random.key(0)))
            keys = jax.random.split(jax.random.key(config.seed), config.starts)
            begin = jax.vmap(made.init)(keys)
            begin = jax.tree.map(lambda leaf: config.near * leaf / jnp.max(jnp.abs(leaf)), begin)
            at[name] = critical.find(made.loss, zero)
            near[name] = critical.find_all(made.loss, begin)
            report.finished(1, 0)
    return Results(line, at, near)


def zeros(found: CriticalPoint) -> np.ndarray:
    assert found.inertia is not None
    return np.asarray(found.inertia.zero) + np.asarray(found.inertia.null)


def claims(results: Results, config: Config) -> list[Claim]:
    made = []
    paper = "Fukumizu & Amari 2000"
    for classes, ds in results.split.items():
        name = f"split, {classes} classes"
        along = float(ds["along"].max())
        steep = int((ds["slope"] > ds["rounding"]).sum())
        made += [
            Claim(f"{name}: λ with a gradient above rounding, of {ds.sizes['lambda']}", paper, 0, steep, 0),
            Claim(f"{name}: largest ‖H u‖ / ‖H‖, u along the line", paper, 1e-12, along, 0, "at most"),
            Claim(
                f"{name}: λ of another index than theory", "K(λ)", 0, int((ds["index"] != ds["theory_index"]).sum()), 0
            ),
            Claim(
                f"{name}: λ with other zeros than theory", "K(λ)", 0, int((ds["flat"] != ds["theory_flat"]).sum()), 0
            ),
            Claim(f"{name}: curvatures left undecided", "certificate", 0, int(ds["undecided"].sum()), 0),
        ]
    for name, found in results.at.items():
        assert found.inertia is not None
        size = models.count(found.params)
        made += [
            Claim(f"{name} at zero: critical", "degenerate", 1, int(found.status == "critical"), 0),
            Claim(f"{name} at zero: index", "H = 0", 0, int(found.inertia.negative), 0),
            Claim(f"{name} at zero: zero curvatures", "H = 0", size, int(zeros(found)), 0),
        ]
    for name, found in results.near.items():
        told = int(((found.status == "critical") & (zeros(found) > 0)).sum())
        made.append(Claim(f"{name} from near by: critical and degenerate", "degenerate", config.starts, told, 0))
    return made


def plot(results: Results, config: Config, *, ax: Axes | None = None) -> Axes:
    """Along the line of split points: certified counts as marks, theory's as lines. A panel for each net."""
    drawn = list(results.split.items())
    if ax is None:
        panels = Figure(figsize=(10, 4), layout="constrained").subplots(1, len(drawn), sharey=True, squeeze=False)[0]
    else:
        panels = [ax]
    for panel, (classes, ds) in zip(panels, drawn, strict=False):
        style.axes(panel)
        x = ds["lambda"].to_numpy()
        for i, (name, label) in enumerate((("flat", "zero"), ("index", "negative (index)"))):
            look = style.style(i)
            shown = {"color": look.color, "mfc": "none" if i == 0 else look.color, "ms": 5, "label": label}
            theory = "narrow net and K(λ), added up" if i == 0 else "_"
            panel.plot(x, ds[f"theory_{name}"], drawstyle="steps-mid", color="0.6", lw=1, zorder=1, label=theory)
            panel.plot(x, ds[name], look.marker, **shown)
        panel.set(xlabel="λ: one unit has the weights λ v out, the other (1 - λ) v", ylabel="number of curvatures")
        panel.set_title(f"{classes} classes", fontsize="medium")
        panel.set_ylim(bottom=-0.5)
    panels[0].legend(frameon=False, fontsize="small", loc="center", bbox_to_anchor=(0.5, 0.42))
    return panels[0]


if __name__ == "__main__":
    script.run("degenerate_points", Config(), main, claims, plot, x64=True)
