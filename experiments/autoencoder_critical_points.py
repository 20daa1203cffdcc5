"""Do searches find the critical points that a linear autoencoder has, and nothing else? 2,517 are known in closed form.

    python -m experiments.autoencoder_critical_points --quick  # 55 s
    python -m experiments.autoencoder_critical_points          # 2 min

Every critical point of ½‖M - A B‖² is known with its loss and index (Baldi & Hornik 1989; see ``baldi_hornik``), and
its orbit A C, C⁻¹ B has dimension p² - (p - r)² for rank r: so many zero curvatures, and no others (but in the kernel
of a rectangular M). That makes it a test of every method: what a search calls critical must match one of the 2,517 in
loss (to 1e-8), index and zeros.
Saddle-free Newton and perturbed gradient descent should only find the global minimum, as there is no other minimum and
every saddle has a way down.

The autoencoder 16-4-16 of the digits; starts at random at four scales, along runs of gradient descent, and next to
known saddles: 40 for each of nine methods, eigenvector following for three indices. float64.

What comes out: of 360 searches 285 end critical, each of them at a point of theory. Saddle-free Newton always arrives,
trust_region nearly always, newton and newton_mr from 3 of 4 starts (the gradient of ‖g‖² misleads them, or vanishes).
Descent on ‖g‖² does not arrive once in 5,000 steps. Eigenvector following arrives from 110 of 120 starts, and at its
index from 67.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import script
from experiments.baldi_hornik import critical_point, subsets, target
from experiments.claim import Claim
from jaxsoft import critical, style, theory
from jaxsoft.progress import Report

LOSS = 1e-8  # relative: what a gradient of 1e-8 leaves of the loss is far less
KINDS = ("random", "gradient descent", "near a saddle")


@dataclass(frozen=True)
class Config:
    name: str = "digits 16"
    width: int = 4
    scales: tuple[float, ...] = (0.01, 0.1, 0.3, 1.0)
    per_scale: int = 6
    descents: int = 2
    times: tuple[int, ...] = (20, 60, 150, 400)
    learning_rate: float = 0.3
    saddles: int = 8
    apart: tuple[float, ...] = (0.001, 0.03)
    indices: tuple[int, ...] = (2, 8, 20)
    methods: tuple[str, ...] = ("newton_mr", "newton", "trust_region", "gradient_norm", "saddle_free", "perturbed_gd")
    steps: int = 200
    cheap_steps: int = 5000  # of the methods that follow a gradient
    seed: int = 0


QUICK = Config(per_scale=3, saddles=4, methods=("newton_mr", "trust_region", "saddle_free"), indices=(8,))
TINY = Config(
    name="random 4 x 5", width=3, scales=(0.3,), per_scale=4, descents=1, times=(20, 60), saddles=2,
    methods=("newton_mr", "saddle_free"), indices=(2,),
)  # fmt: skip


Point = tuple[np.ndarray, np.ndarray]


def starts(config: Config, matrix: np.ndarray) -> tuple[list[Point], list[int]]:
    """Points (A, B), and of which kind."""
    rng = np.random.default_rng(config.seed)
    p = config.width

    def random(scale: float) -> Point:
        return scale * rng.normal(size=(len(matrix), p)), scale * rng.normal(size=(p, matrix.shape[1]))

    drawn = [random(scale) for scale in config.scales for _ in range(config.per_scale)]
    descended = []
    for _ in range(config.descents):
        a, b = random(0.01)
        for step in range(1, max(config.times) + 1):
            left = a @ b - matrix
            a, b = a - config.learning_rate * left @ b.T, b - config.learning_rate * a.T @ left
            if step in config.times:
                descended.append((a, b))
    svd = np.linalg.svd(matrix, full_matrices=False)
    known = subsets(len(svd[1]), p)
    near = []
    for i in range(config.saddles):
        a, b = critical_point(svd, known[int(rng.integers(len(known)))], p, rng)
        noise = random(config.apart[i % len(config.apart)])
        near.append((a + noise[0], b + noise[1]))
    kinds = np.repeat(range(3), [len(drawn), len(descended), len(near)])
    return [*drawn, *descended, *near], kinds.tolist()


def searches(config: Config) -> dict[str, tuple[str | critical.Method, int]]:
    """Method and number of steps, by name."""
    cheap = ("gradient_norm", "perturbed_gd")
    named: dict[str, tuple[str | critical.Method, int]] = {
        name: (name, config.cheap_steps if name in cheap else config.steps) for name in config.methods
    }
    followed = {
        f"eigenvector_following({k})": (critical.eigenvector_following(k), config.steps) for k in config.indices
    }
    return named | followed


def main(config: Config = Config(), *, progress: bool = False) -> xr.Dataset:
    """The end of every search: (search, start), a search for each method."""
    matrix = target(config.name, np.random.default_rng(config.seed))
    points, kinds = starts(config, matrix)
    stacked = tuple(jnp.asarray(np.stack(part)) for part in zip(*points, strict=True))

    def loss(params):
        return 0.5 * jnp.sum(jnp.square(jnp.asarray(matrix) - params[0] @ params[1]))

    methods = searches(config)
    rows = []
    with Report(len(methods), 1, show=progress) as report:
        for name, (method, steps) in methods.items():
            report.say(name)
            found = critical.find_all(loss, stacked, method, max_steps=steps, seed=config.seed)
            assert found.inertia is not None
            counts = {key: np.asarray(value) for key, value in found.inertia.arrays().items()}
            row = {"status": found.status, "loss": found.loss, "steps": found.steps, **counts}
            rows.append(xr.Dataset({key: ("start", value) for key, value in row.items()}))
            report.finished(1, 0)
    results = xr.concat(rows, xr.Variable("search", list(methods)))
    return results.assign_coords(kind=("start", [KINDS[k] for k in kinds]))


def known(config: Config) -> np.ndarray:
    """Loss, index and zeros of every critical point of theory: (point, 3)."""
    matrix = target(config.name, np.random.default_rng(config.seed))
    s = np.linalg.svd(matrix, compute_uv=False)
    p = config.width
    rows = []
    for chosen in subsets(len(s), p):
        index, loss = theory.baldi_hornik(s, chosen, p)
        idle = p - len(chosen)
        rows.append((loss, index, p**2 - idle**2 + idle * (sum(matrix.shape) - 2 * len(s))))
    return np.array(rows)


def matches(results: xr.Dataset, config: Config) -> xr.DataArray:
    """Which ends are a critical point of theory: in loss, index and zeros."""
    table = known(config)
    flat = results["zero"] + results["null"]
    ends = np.stack([results["loss"], results["negative"], flat], axis=-1)
    loss = np.abs(ends[..., None, 0] - table[:, 0]) <= LOSS * table[:, 0]
    return xr.DataArray(
        (loss & (ends[..., None, 1:] == table[:, 1:]).all(axis=-1)).any(axis=-1), dims=("search", "start")
    )


def claims(results: xr.Dataset, config: Config) -> list[Claim]:
    found = results["status"] == "critical"
    wrong = found & ~matches(results, config)
    lowest = known(config)[:, 0].min()
    minima = found & (results["negative"] == 0)
    other = minima & (results["loss"] > (1 + LOSS) * lowest)
    source = "Baldi & Hornik 1989"
    made = [
        Claim("searches that end critical", "there is something to match", 1, int(found.sum()), 0, "at least"),
        Claim("mismatches among the critical ends", source, 0, int(wrong.sum()), 0),
        Claim(
            "curvatures left undecided at these", "certificate", 0, int(results["undecided"].where(found, 0).sum()), 0
        ),
        Claim("minima other than the best", "no local minima", 0, int(other.sum()), 0),
    ]
    for name in ("saddle_free", "perturbed_gd"):
        if name in config.methods:
            stayed = int((found & ~minima).sel(search=name).sum())
            made.append(Claim(f"saddles that {name} calls its end", "strict saddles", 0, stayed, 0))
    return made


def plot(results: xr.Dataset, config: Config, *, ax: Axes | None = None) -> Axes:
    """Index against loss: found points over theory's. Beside it how the searches of each method end."""
    if ax is None:
        ax, right = Figure(figsize=(11, 4.5), layout="constrained").subplots(1, 2, width_ratios=(1.2, 1))
        plot_shares(results, config, ax=right)
    ax = style.axes(ax)
    table = known(config)
    top = table[:, 0].max()
    ax.plot(table[:, 0] / top, table[:, 1], ".", color="0.75", ms=4, label=f"theory: {len(table):,} points", zorder=1)
    found = results["status"] == "critical"
    for i, method in enumerate(results["search"].to_numpy()):
        here = found.sel(search=method).to_numpy()
        ends = results.sel(search=method).isel(start=here)
        look = style.style(i)
        label = f"{method}: {here.sum()}"
        ax.plot(ends["loss"] / top, ends["negative"], look.marker, color=look.color, ms=5, mfc="none", label=label)
    ax.set(xlabel="loss / loss at zero", ylabel="index (certified)")
    ax.legend(frameon=False, fontsize="x-small", loc="center")
    return ax


def shares(results: xr.Dataset) -> dict[str, np.ndarray]:
    """The share of each verdict by method, of the verdicts that occur."""
    status = results["status"]
    found = {verdict: (status == verdict).mean("start").to_numpy() for verdict in critical.VERDICTS}
    return {verdict: share for verdict, share in found.items() if share.any()}


def plot_shares(results: xr.Dataset, config: Config, *, ax: Axes | None = None) -> Axes:
    ax = style.axes(ax)
    names: Sequence[str] = list(results["search"].to_numpy())
    left = np.zeros(len(names))
    looks = {"critical": ("0.35", ""), "gradient_flat": ("0.65", "///"), "diverging_to_infinity": ("0.8", "xxx")}
    looks |= {"max_steps": ("0.9", ""), "failed": ("1.0", "...")}
    for verdict, share in shares(results).items():
        grey, hatch = looks[verdict]
        ax.barh(names, share, left=left, color=grey, hatch=hatch, edgecolor="0.3", linewidth=0.5, label=verdict)
        left = left + share
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel=f"share of {results.sizes['start']} starts")
    ax.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0), fontsize="small")
    return ax


if __name__ == "__main__":
    script.run("autoencoder_critical_points", Config(), main, claims, plot, x64=True)
