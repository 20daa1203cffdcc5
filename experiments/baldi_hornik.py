"""Every critical point of a linear autoencoder on real digits: does its index follow Baldi & Hornik?

    python -m experiments.baldi_hornik --quick  # 10 s
    python -m experiments.baldi_hornik          # 10 s

The loss ½‖M - A B‖² of a two-layer linear net of width p has a critical point for every set I of at most p singular
values of M, and along with it a whole orbit A C, C⁻¹ B. With r = |I| its index is the number of pairs (i in I, j not in
I) with s_j > s_i, and (p - r)(k - r) more; its loss is ½ Σ s_j² over j not in I. Only the best p values are a minimum:
all others are saddles (Baldi & Hornik 1989, "Neural networks and principal component analysis").

First a random 4 x 5 matrix, p = 3: 15 sets. Then the autoencoder 16-4-16 of the digits pooled to 4 x 4 pixels, where M
is the root of their second-moment matrix: 2,517 sets. Each in a random gauge C. float64.

What comes out: index and loss of all 15 and all 2,517 points are those of theory, and only the best is a minimum.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from matplotlib.axes import Axes

from experiments import script
from experiments.claim import Claim
from jaxsoft import curvature, data, process, style, sweep, theory


@dataclass(frozen=True)
class Config:
    widths: tuple[tuple[str, int], ...] = (("random 4 x 5", 3), ("digits 16", 4))
    most: int | None = None  # sets of each matrix; None for all
    seed: int = 0


QUICK = Config()
TINY = Config(widths=(("random 4 x 5", 3),))


def target(name: str, rng: np.random.Generator) -> np.ndarray:
    """M: a random matrix, or the symmetric root of the second moments of the digits as 4 x 4 images."""
    if name.startswith("random"):
        return rng.normal(size=(4, 5))
    images = data.digits().x.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16).astype(np.float64)
    values, vectors = np.linalg.eigh(images.T @ images / len(images))
    return (vectors * np.sqrt(values)) @ vectors.T


def subsets(k: int, p: int) -> list[tuple[int, ...]]:
    return [chosen for r in range(p + 1) for chosen in itertools.combinations(range(k), r)]


def critical_point(
    svd: tuple[np.ndarray, np.ndarray, np.ndarray], chosen: tuple[int, ...], p: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A (m, p) and B (p, d) with A B the part of M in the chosen singular values, in a random gauge."""
    u, s, vt = svd
    a, b = np.zeros((len(u), p)), np.zeros((p, vt.shape[1]))
    pick = list(chosen)
    a[:, : len(pick)] = u[:, pick] * np.sqrt(s[pick])
    b[: len(pick)] = np.sqrt(s[pick])[:, None] * vt[pick]
    rotation = np.linalg.qr(rng.normal(size=(p, p)))[0]
    gauge = rotation * rng.uniform(0.5, 2.0, p)
    return a @ gauge, np.linalg.solve(gauge, b)


def main(config: Config = Config(), *, progress: bool = False) -> dict[str, xr.Dataset]:
    """For each matrix, along ``point``: certified counts, loss and gradient norm, beside theory's index and loss."""
    results = {}
    for name, p in config.widths:
        rng = np.random.default_rng(config.seed)
        matrix = target(name, rng)
        svd = np.linalg.svd(matrix, full_matrices=False)
        chosen = subsets(len(svd[1]), p)
        if config.most is not None:
            chosen = chosen[:: -(-len(chosen) // config.most)]
        points = [critical_point(svd, i, p, rng) for i in chosen]
        stacked = tuple(jnp.asarray(np.stack(parts)) for parts in zip(*points, strict=True))
        scale = jnp.linalg.norm(jnp.asarray(matrix))

        def loss(params, matrix=matrix):
            return 0.5 * jnp.sum(jnp.square(jnp.asarray(matrix) - params[0] @ params[1]))

        def measure(params, loss=loss, scale=scale):
            slope = optax.tree.norm(jax.grad(loss)(params))
            return curvature.inertia(loss, params, method="tridiagonal").arrays() | {
                "loss": loss(params),
                "slope": slope / scale,
            }

        axes = {"point": range(len(chosen))}
        found = sweep.run(process.evaluate(measure, stacked), axes, seed=0, steps=1, progress=progress)
        expected = [theory.baldi_hornik(svd[1], i, p) for i in chosen]
        found["index"] = ("point", np.array([index for index, _ in expected]))
        found["loss"] = ("point", np.array([value for _, value in expected]))
        results[name] = found
    return results


def claims(results: dict[str, xr.Dataset], config: Config) -> list[Claim]:
    made = []
    for name, ds in results.items():
        wrong = int((ds["final_negative"] != ds["index"]).sum())
        steepest = float(ds["final_slope"].max())
        apart = float(abs(ds["final_loss"] - ds["loss"]).max() / ds["loss"].max())
        made += [
            Claim(f"{name}: mismatches among {ds.sizes['point']} critical points", "Baldi & Hornik 1989", 0, wrong, 0),
            Claim(f"{name}: eigenvalues left undecided", "certificate", 0, int(ds["final_undecided"].sum()), 0),
            Claim(f"{name}: largest gradient / ‖M‖", "critical points", 1e-12, steepest, 0, "at most"),
            Claim(f"{name}: largest error of the loss / largest loss", "½ Σ s² left out", 1e-10, apart, 0, "at most"),
            Claim(
                f"{name}: points of index 0",
                "no local minimum but the best",
                1,
                int((ds["final_negative"] == 0).sum()),
                0,
            ),
        ]
    return made


def plot(results: dict[str, xr.Dataset], config: Config, *, ax: Axes | None = None) -> Axes:
    """Index against loss: the higher a critical point, the more ways down."""
    ax = style.axes(ax)
    name, ds = list(results.items())[-1]
    loss = ds["final_loss"] / ds["final_loss"].max()
    ax.plot(loss, ds["index"], "o", mfc="none", color="0.6", ms=6, mew=0.8, label="Baldi & Hornik")
    ax.plot(loss, ds["final_negative"], ".", color=style.style(0).color, ms=3, label="certified")
    ax.set(xlabel="loss / largest loss", ylabel="index", title=f"{ds.sizes['point']:,} critical points, {name}")
    ax.legend(frameon=False)
    return ax


if __name__ == "__main__":
    script.run("baldi_hornik", Config(), main, claims, plot, x64=True)
