"""On a random surface, how many ways down has a critical point of a given height? The spherical p-spin model.

    python -m experiments.index_against_energy --quick  # 70 s
    python -m experiments.index_against_energy          # 2 min

For p = 2 the critical points on the sphere are the ± eigenvectors of a random symmetric matrix, and the one of the k-th
smallest eigenvalue has k - 1 ways down: eigenvector following, asked for each index, has to end at that eigenvalue.
For p = 3 and n = 40 the share of ways down follows the semicircle law (``theory.p_spin_index``): high points have many,
low ones none. 600 starts, for Newton's method and for eigenvector following at every index; what does not end critical
is counted apart. float64.

The surface is constant along rays; ½ (‖θ‖² - 1)² is added, which is zero at the points of the unit sphere that count,
adds one way up there, and keeps searches from lowering the gradient by merely making θ longer.

What comes out: every eigenvector is found at its index; the share of ways down is the semicircle law's within 0.02.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import script
from experiments.claim import Claim
from jaxsoft import critical, problem, style, theory
from jaxsoft.critical import CriticalPoint
from jaxsoft.problem import Problem


@dataclass(frozen=True)
class Config:
    n: int = 40
    starts: int = 600  # for p = 3, a sixth of them for Newton's method
    starts_each: int = 3  # for p = 2 and every index
    max_steps: int = 300
    seed: int = 0


QUICK = Config(starts=240, starts_each=2)
TINY = Config(n=8, starts=24, starts_each=3, max_steps=200)


class Results(NamedTuple):
    """Ends of the searches for p = 2 and 3; the index that each of the former was asked for; the eigenvalues."""

    two: CriticalPoint
    asked: np.ndarray
    eigenvalues: np.ndarray
    three: CriticalPoint


def surface(p: int, config: Config) -> Problem:
    """The p-spin surface with a wall that holds θ on the unit sphere."""
    made = problem.p_spin(p, config.n, jax.random.key(config.seed))

    def loss(theta):
        return made.loss(theta) + 0.5 * jnp.square(jnp.sum(jnp.square(theta)) - 1)

    return made._replace(loss=loss)


def starts(made: Problem, count: int, seed: int) -> jax.Array:
    return jnp.asarray(jax.vmap(made.init)(jax.random.split(jax.random.key(seed), count)))


def search(made: Problem, asked: np.ndarray, config: Config, *, newton: int, progress: bool) -> CriticalPoint:
    """Eigenvector following from one start for each index asked for, and Newton's method from ``newton`` more."""
    targets = jnp.asarray(asked)
    found = critical.find_all(
        made.loss, starts(made, len(asked), config.seed + 1), lambda i: critical.eigenvector_following(targets[i]),
        max_steps=config.max_steps, progress=progress,
    )  # fmt: skip
    if not newton:
        return found
    more = critical.find_all(
        made.loss, starts(made, newton, config.seed + 2), "newton", max_steps=config.max_steps, progress=progress
    )
    return jax.tree.map(lambda a, b: np.concatenate([a, b]), found, more)


def main(config: Config = Config(), *, progress: bool = False) -> Results:
    """Critical points of both surfaces."""
    asked = np.repeat(np.arange(config.n), config.starts_each)
    two = search(surface(2, config), asked, config, newton=0, progress=progress)
    couplings = jax.random.normal(jax.random.key(config.seed), (config.n, config.n))
    eigenvalues = np.linalg.eigvalsh(np.asarray(couplings + couplings.T) / 2)
    newton = config.starts // 6
    spread = np.linspace(0, config.n - 1, config.starts - newton).round().astype(int)
    three = search(surface(3, config), spread, config, newton=newton, progress=progress)
    return Results(two, asked, eigenvalues, three)


def shares(results: Results, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Energy u and share of ways down α of the critical points for p = 3, of the n - 1 directions on the sphere."""
    right = results.three.status == "critical"
    assert results.three.inertia is not None
    index = np.asarray(results.three.inertia.negative)[right]
    return np.asarray(results.three.loss)[right] / np.sqrt(config.n), index / (config.n - 1)


def claims(results: Results, config: Config) -> list[Claim]:
    assert results.two.inertia is not None
    right = results.two.status == "critical"
    index = np.asarray(results.two.inertia.negative)
    apart = np.abs(results.two.loss - results.eigenvalues[np.minimum(index, config.n - 1)])
    elsewhere = int(np.sum(apart[right] > 1e-8))
    missing = config.n - len(set(results.asked[right & (index == results.asked)].tolist()))
    energy, share = shares(results, config)
    error = float(np.mean(np.abs(share - theory.p_spin_index(3, energy, config.n))))
    return [
        Claim("p = 2: critical points whose index is not that of their eigenvalue", "linear algebra", 0, elsewhere, 0),
        Claim("p = 2: indices that no search found", "every eigenvector is one", 0, missing, 0),
        Claim("p = 3: mean |α - semicircle law|", "Auffinger et al. 2013", 0.02, error, 0, "at most"),
    ]


def plot(results: Results, config: Config, *, ax: Axes | None = None) -> Axes:
    """Share of ways down against energy for p = 3, over the semicircle law."""
    ax = style.axes(ax)
    energy, share = shares(results, config)
    grid = np.linspace(-1.9, 1.9, 400)
    ax.plot(grid, theory.p_spin_index(3, grid, config.n), color="black", lw=1.2, label="semicircle law")
    ax.plot(energy, share, "o", mfc="none", ms=3.5, mew=0.7, color=style.style(0).color, label="critical points found")
    title = f"spherical 3-spin, n = {config.n}: {len(share)} of {len(results.three.status)} searches end critical"
    ax.set(xlabel="energy u = f/√n", ylabel="share of ways down α", title=title)
    ax.legend(frameon=False)
    return ax


if __name__ == "__main__":
    script.run("index_against_energy", Config(), main, claims, plot, x64=True)
