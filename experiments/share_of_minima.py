"""How many of the critical points that searches find are minima, from 10 to 2,550 parameters?

    python -m experiments.share_of_minima --quick  # 3 min
    python -m experiments.share_of_minima          # 35 min

The lecture's picture: every one of the n curvatures at a critical point is a coin flip, so that it is a minimum with
the chance 2^-n, and almost every point of zero gradient is a saddle. If the Hessian were a symmetric Gaussian matrix,
whose eigenvalues repel, minima would be rarer still: exp(-(ln 3 / 4) n²) (Dean & Majumdar 2006; see ``theory``). But
signs of curvatures are not independent: they go with the loss (Bray & Dean 2007, "Statistics of critical points of
Gaussian fields on large-dimensional spaces"), and a loss that grows to all sides has a minimum, whatever n is.

Real handwritten digits, reduced to principal components and fewer classes for the small nets d-h-C, with tanh, no
biases and a 1 among the inputs: with a penalty on every weight there is a minimum at finite distance, no curvature is
zero by symmetry, and n is the number of parameters. Newton-MR, which knows no index. Only ends with the verdict
critical and a decided index count, each point once for each kind of start, its copies by symmetry included.

**The share depends on the search and on its starts**: nobody draws critical points at random. So it is shown by kind:
random weights at several scales; points along runs of heavy ball, which lead down to points of low index; and known
saddles, moved by a random step: zero weights, the ends of runs with idle units, and what the other two kinds have
found. The intervals treat distinct points as independent draws, which they are not quite. That a minimum is found at
all refutes independent signs; that its share falls as n grows is the lecture's claim, asked of each kind and of all.
float64.

What comes out: a minimum at every size, with 2,550 parameters 2 of the 5 points found, where coins would allow one in
10^768. From random weights and from saddles it looks as the lecture says: one minimum among three points each at
n = 10, and none from n = 14 on; but 29 and 65 points in all are few, and Kendall's test calls only the second fall
significant (p = .058 and .048). From points along runs it is not so: of those that arrive ever more are minima, all of
them from n = 774 on, and of all points together the share does not fall either. What is rare is a matter of where one
looks, and training does not look at random.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.flatten_util import ravel_pytree
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binomtest, kendalltau

from experiments import script
from experiments.claim import Claim
from jaxsoft import critical, data, models, optimizers, problem, style, sweep, symmetry, theory, train
from jaxsoft.critical import CriticalPoint
from jaxsoft.critical.graph import SAME
from jaxsoft.curvature import Composite
from jaxsoft.models import Layers
from jaxsoft.problem import Problem
from jaxsoft.process import Process
from jaxsoft.progress import Report

KINDS = ("random", "along a run", "near a saddle")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Config:
    """nets: components, hidden units, classes, and how many starts of each kind, in multiples of the scales."""

    nets: tuple[tuple[int, int, int, int], ...] = (
        (2, 2, 2, 48), (3, 2, 3, 48), (4, 3, 3, 48), (5, 4, 4, 48), (8, 6, 5, 32), (10, 9, 10, 24), (16, 14, 10, 16),
        (32, 18, 10, 12), (64, 20, 10, 8), (64, 34, 10, 8),
    )  # fmt: skip
    examples: int = 300
    l2: float = 0.01
    scales: tuple[float, ...] = (0.3, 1.0, 2.0, 4.0)  # of Glorot's initial weights
    times: tuple[int, ...] = (100, 1000, 10000, 50000)
    learning_rate: float = 0.1
    apart: tuple[float, ...] = (0.03, 0.3)  # from a saddle, relative to 1 + ‖θ‖
    steps: int = 100
    seed: int = 0


QUICK = Config(nets=((2, 2, 2, 24), (4, 3, 3, 16), (8, 6, 5, 12)), times=(100, 1000, 5000))
TINY = Config(nets=((2, 2, 2, 8),), examples=100, scales=(0.3, 3.0), times=(20, 1000), apart=(0.1,), steps=50)


def examples(net: tuple[int, int, int, int], config: Config) -> data.Dataset:
    """The first digits of the first classes, by their principal components, of mean square 1, and a 1."""
    components, _, classes, _ = net
    whole = data.digits()
    pick = np.flatnonzero(whole.y < classes)[: config.examples]
    x = whole.x[pick].astype(np.float64)
    x = x - x.mean(axis=0)
    x = x @ np.linalg.svd(x, full_matrices=False)[2][:components].T
    x = np.column_stack([x / np.sqrt(np.mean(x**2)), np.ones(len(x))])
    return data.Dataset(x, whole.y[pick], classes, whole.name)


def made(net: tuple[int, int, int, int], config: Config, scale: float = 1.0) -> Problem:
    components, hidden, classes, _ = net
    model = models.mlp((components + 1, hidden, classes), init="glorot", scale=scale, bias=False)
    return problem.classification(model, examples(net, config), config.l2)


def at_random(net: tuple[int, int, int, int], config: Config) -> Layers:
    each, key = max(1, net[3] // len(config.scales)), jax.random.key(config.seed)
    drawn = [
        jax.vmap(made(net, config, scale).init)(jax.random.split(jax.random.fold_in(key, number), each))
        for number, scale in enumerate(config.scales)
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *drawn)


def along_runs(net: tuple[int, int, int, int], config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Points (m, P) of runs of heavy ball from small weights, and the ends (k, P) of runs with idle units.

    A unit without weights in or out gets no gradient, tanh being odd, and stays so: the run is that of a narrower net.
    """
    here, hidden = made(net, config, min(config.scales)), net[1]
    optimizer = optimizers.make("momentum", config.learning_rate)

    def process(active: jax.Array) -> Process:
        def init(key: jax.Array) -> Layers:
            used = jnp.arange(hidden) < active
            drawn: Layers = here.init(key)  # pyrefly: ignore[bad-assignment]
            first, last = drawn
            return first._replace(weight=first.weight * used[:, None]), last._replace(weight=last.weight * used[None])

        narrow = here._replace(init=init)  # pyrefly: ignore[bad-argument-type]
        return train.make_train(narrow, optimizer, probe=lambda p: {"params": train.flatten(p)})

    active = sorted({hidden // 3, 2 * hidden // 3, hidden} - {0})
    axes = {"active": active, "run": sweep.Seeds(max(1, net[3] // len(config.times)))}
    every = int(np.gcd.reduce(np.array(config.times)))
    ds = sweep.run(process, axes, seed=config.seed, steps=max(config.times), record_every=every)
    theta = ds["params"].sel(step=list(config.times)).transpose("active", "run", "step", ...).to_numpy()
    return theta[-1].reshape(-1, theta.shape[-1]), theta[:-1, :, -1].reshape(-1, theta.shape[-1])


def near_saddles(net: tuple[int, int, int, int], config: Config, saddles: np.ndarray) -> Layers:
    """The saddles (m, P) in turn, each time moved by another random step."""
    theta = np.resize(saddles, (net[3], saddles.shape[1]))
    step = np.random.default_rng(config.seed).normal(size=theta.shape)
    length = np.resize(config.apart, len(theta)) * (1 + np.linalg.norm(theta, axis=1))
    return _points(made(net, config), theta + step * (length / np.linalg.norm(step, axis=1))[:, None])


def _points(here: Problem, theta: np.ndarray) -> Layers:
    unravel = ravel_pytree(here.init(jax.random.key(0)))[1]
    return jax.vmap(unravel)(jnp.asarray(theta))


def _flat(params: Layers) -> np.ndarray:
    return np.asarray(jax.vmap(lambda p: ravel_pytree(p)[0])(params))


def counted(found: CriticalPoint) -> np.ndarray:
    """Which ends are critical points of a certain index, without a curvature that may be zero."""
    assert found.inertia is not None
    unsure = np.asarray(found.inertia.undecided) + np.asarray(found.inertia.zero) + np.asarray(found.inertia.null)
    return (found.status == "critical") & (unsure == 0)


def main(config: Config = Config(), *, progress: bool = False) -> xr.Dataset:
    """One row for each search. point: a number for each critical point of a net, -1 for what does not count."""
    tables = []
    with Report(len(KINDS) * len(config.nets), 1, show=progress) as report:
        for number, net in enumerate(config.nets):
            here, method = made(net, config), critical.newton_mr()._replace(segment=50)

            def search(starts: Layers, kind: str, here=here, method=method, net=net) -> CriticalPoint:
                report.say(f"{net[0]}-{net[1]}-{net[2]}, {kind}")
                found = critical.find_all(here.loss, starts, method, max_steps=config.steps, seed=config.seed)
                report.finished(1, 0)
                return found

            along, idle = along_runs(net, config)
            found = [search(at_random(net, config), KINDS[0]), search(_points(here, along), KINDS[1])]
            zero = np.zeros((1, along.shape[1]))
            saddles = [
                idle,
                *(_flat(f.params)[counted(f) & (np.asarray(f.inertia.negative) > 0)] for f in found if f.inertia),
            ]
            found.append(search(near_saddles(net, config, np.concatenate([zero, *saddles])), KINDS[2]))
            params = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(f.params for f in found))
            good = np.concatenate([counted(f) for f in found])
            point = np.full(len(good), -1)
            assert isinstance(here.loss, Composite) and here.loss.symmetry is not None
            if good.any():
                kept = jax.tree.map(lambda leaf, good=good: leaf[good], params)
                point[good] = symmetry.distinct(kept, here.loss.symmetry, tol=SAME).label
            rows = {
                "net": np.full(len(good), number),
                "parameters": np.full(len(good), zero.shape[1]),
                "kind": np.repeat(KINDS, [len(f.loss) for f in found]),
                "status": np.concatenate([f.status for f in found]),
                "steps": np.concatenate([f.steps for f in found]),
                "loss": np.concatenate([f.loss for f in found]),
                "negative": np.concatenate([np.asarray(f.inertia.negative) for f in found if f.inertia]),
                "point": point,
            }
            tables.append(xr.Dataset({name: ("search", values) for name, values in rows.items()}))
    return xr.concat(tables, "search")


def distinct_points(results: xr.Dataset, kinds: tuple[str, ...] = KINDS) -> xr.Dataset:
    """The rows of critical points that starts of these kinds have found, each point once."""
    here = results.isel(search=np.flatnonzero((results["point"] >= 0) & results["kind"].isin(list(kinds))))
    names = np.column_stack([here["net"], here["point"]])
    return here.isel(search=np.sort(np.unique(names, axis=0, return_index=True)[1]))


def shares(points: xr.Dataset) -> np.ndarray:
    """Rows (parameters, minima, points, share, low, high) for each size, with Clopper & Pearson's 95% interval."""
    rows = []
    for size in np.unique(points["parameters"]):
        index = points["negative"].to_numpy()[points["parameters"] == size]
        minima = int((index == 0).sum())
        low, high = binomtest(minima, len(index)).proportion_ci(CONFIDENCE, method="exact")
        rows.append((size, minima, len(index), minima / len(index), low, high))
    return np.array(rows).reshape(-1, 6)


def coins(n: np.ndarray) -> np.ndarray:
    """log10 of 2^-n."""
    return -n * np.log10(2)


def gaussian(n: np.ndarray) -> np.ndarray:
    """log10 of the chance that a Gaussian matrix has positive eigenvalues only, to leading order."""
    return np.array([theory.goe_positive_definite_log(int(k)) for k in n]) / np.log(10)


def claims(results: xr.Dataset, config: Config) -> list[Claim]:
    table = shares(distinct_points(results))
    with np.errstate(divide="ignore"):
        above = np.log10(table[:, 4]) > np.maximum(coins(table[:, 0]), gaussian(table[:, 0]))
    made = [
        Claim("sizes with more minima than independent signs allow", "a minimum exists", len(config.nets),
            int(above.sum()), 0,)
    ]  # fmt: skip
    for kinds in ((KINDS[0],), (KINDS[1],), (KINDS[2],), KINDS):
        points = distinct_points(results, kinds)
        minimum, n = points["negative"].to_numpy() == 0, points["parameters"].to_numpy()
        varied = len(np.unique(minimum)) > 1 and len(np.unique(n)) > 1
        p = float(kendalltau(n, minimum, alternative="less").pvalue) if varied else 1.0
        name = kinds[0] if len(kinds) == 1 else "all"
        about = f"{name}: the share falls with n, p of Kendall's test"
        made.append(Claim(about, "the lecture", 1 - CONFIDENCE, p, 0, "reported at most"))
    return made


def plot(results: xr.Dataset, config: Config, *, ax: Axes | None = None) -> Axes:
    """The share of minima by kind of start; beside it how far it is from independent signs, in powers of ten."""
    if ax is None:
        ax, right = Figure(figsize=(11, 4.6), layout="constrained").subplots(1, 2)
        plot_powers(results, config, ax=right)
    ax = style.axes(ax)
    for i, kind in enumerate(KINDS):
        look = style.style(i)
        n, _, count, share, low, high = shares(distinct_points(results, (kind,))).T
        ax.errorbar(
            n * 1.06 ** (i - 1), share, (share - low, high - share), fmt=look.marker, ls=look.line, color=look.color,
            mfc="white", ms=6, lw=1.2, capsize=2, label=f"{kind}: {int(count.sum())} points",
        )  # fmt: skip
    smooth = np.geomspace(*_range(results), 400)
    ax.plot(smooth, 10 ** coins(smooth), color="black", lw=1.5, label="coin flips, $2^{-n}$")
    ax.set(xscale="log", ylim=(-0.03, 1.03), xlabel="number of parameters n", ylabel="share of minima")
    ax.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
    return ax


def _range(results: xr.Dataset) -> tuple[float, float]:
    n = results["parameters"].to_numpy()
    return 0.9 * float(n.min()), 1.1 * float(n.max())


def plot_powers(results: xr.Dataset, config: Config, *, ax: Axes | None = None) -> Axes:
    """One minimum in 10^y critical points: y of theory and as found by all starts together."""
    ax = style.axes(ax)
    smooth = np.geomspace(*_range(results), 50).round()
    ax.plot(smooth, -gaussian(smooth), "--", color="black", lw=1.5, label="Gaussian matrix, exp(-n² ln 3 / 4)")
    ax.plot(smooth, -coins(smooth), "-", color="black", lw=1.5, label="coin flips, $2^{-n}$")
    n, _, _, share, low, high = shares(distinct_points(results)).T
    some = share > 0
    y, top = -np.log10(np.where(some, share, 1)), -np.log10(np.where(some, low, 1))
    bottom = -np.log10(np.where(some, high, 1))
    look = style.style(1)
    ax.errorbar(
        n[some], y[some], (y - bottom, top - y) @ np.diag(some)[:, some] if some.any() else None, fmt=look.marker,
        color=look.color, mfc="white", ms=6, capsize=2, label="found, all starts (95%)",
    )  # fmt: skip
    ax.set(
        xscale="log", yscale="log", xlabel="number of parameters n", ylabel="y: one minimum in $10^y$ critical points"
    )
    ax.legend(frameon=False, fontsize="small", loc="upper left")
    return ax


if __name__ == "__main__":
    script.run("share_of_minima", Config(), main, claims, plot, x64=True)
