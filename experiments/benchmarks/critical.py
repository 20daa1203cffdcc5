"""How many critical points a minute on one core, here and with the published way of searching?

    pip install '.[data,bench]'
    python -m experiments.benchmarks.critical

The net 10-5-10 on 500 digits (115 parameters, 10 principal components) with a small penalty, float64, everything bound
to one core. The peer does what the published finders do (Newton-MR: MINRES on Hessian-vector products, then
backtracking on the squared gradient), one start after the other, with HIPS autograd and SciPy's MINRES; both take the
same starts and the same ‖∇L‖ at the end, and nearly the same rule for a step and for MINRES: ours cuts p at 1 + ‖θ‖ and
takes a step whose decrease is below rounding if ‖g‖ falls; the relative tolerance is 1e-3 for both, but of ‖g‖ in ours
and of ‖H‖‖p‖ in SciPy's. Starts lie near
saddles and minima (ends of eigenvector following, moved by a random step), where both can arrive, and at random, where
most searches stop at gradient-flat points: the peer has no verdict and calls whatever is below the field's usual
‖∇L‖² < 1e-10 critical.

A step of Newton-MR takes about as many products here as there, so steps per second compare the machinery, critical
points per minute the whole. Read them as ratios of one run; cold is the first call, with compilation.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from rich.console import Console
from rich.table import Table
from scipy.sparse.linalg import LinearOperator, minres

from experiments.benchmarks.curvature import small_digits
from experiments.benchmarks.timing import in_turn, spread
from jaxsoft import critical, models, problem
from jaxsoft.problem import Problem

DECREASE, HALVINGS = 1e-4, 50

Gradient = Callable[[np.ndarray], np.ndarray]
Product = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Config:
    """near, random: starts of jaxsoft of each kind; peer_starts: of these, the first so many for the peer."""

    hidden: int = 5
    l2: float = 1e-2
    seeds: int = 24  # searches for the critical points to start near
    near: int = 960
    random: int = 64
    peer_starts: int = 4
    step: float = 0.02  # from a critical point, relative to 1 + ‖θ‖
    max_steps: int = 30
    solver_tol: float = 1e-3
    tol: float = 1e-8
    repeats: int = 3
    seed: int = 0
    tools: tuple[str, ...] = ("jaxsoft", "autograd")


class Ends(NamedTuple):
    """Of n searches: seconds, whether each is critical by its finder's own word, ‖∇L‖ and the steps taken."""

    seconds: float
    critical: np.ndarray
    grad_norm: np.ndarray
    steps: np.ndarray


class Row(NamedTuple):
    kind: str
    tool: str
    cold: float
    per_minute: tuple[float, ...]
    steps_per_second: tuple[float, ...]
    critical: int
    searches: int


def setting(config: Config) -> tuple[Problem, Any]:
    dataset = small_digits(500, 10)
    model = models.mlp([10, config.hidden, 10], init="glorot")
    return problem.classification(model, dataset, l2=config.l2), dataset


def draw(made: Problem, count: int, seed: int) -> Any:
    return jax.vmap(made.init)(jax.random.split(jax.random.key(seed), count))


def near_critical(made: Problem, config: Config) -> Any:
    """Ends of eigenvector following at indices 0 to 3, in turn, each time moved by another random step."""
    found = critical.find_all(
        made.loss, draw(made, config.seeds, config.seed), lambda i: critical.eigenvector_following(i % 4), certify=False
    )
    theta = np.asarray(jax.vmap(lambda p: ravel_pytree(p)[0])(found.params))[found.status == "critical"]
    theta = np.resize(theta, (config.near, theta.shape[1]))
    step = np.random.default_rng(config.seed).normal(size=theta.shape)
    length = config.step * (1 + np.linalg.norm(theta, axis=1)) / np.linalg.norm(step, axis=1)
    unravel = ravel_pytree(made.init(jax.random.key(0)))[1]
    return jax.vmap(unravel)(jnp.asarray(theta + step * length[:, None]))


def ours(made: Problem, starts: Any, config: Config) -> Ends:
    method = critical.newton_mr(tol=config.solver_tol)
    begin = time.perf_counter()
    found = critical.find_all(made.loss, starts, method, tol=config.tol, max_steps=config.max_steps, certify=False)
    seconds = time.perf_counter() - begin
    return Ends(seconds, found.status == "critical", found.grad_norm, found.steps)


def published_search(gradient: Gradient, product: Product, theta: np.ndarray, config: Config) -> tuple[float, int]:
    """Newton-MR with SciPy's MINRES from θ (P,); g = gradient(θ), H v = product(θ, v). ‖g‖ at the end, and steps."""
    g = gradient(theta)
    for step in range(config.max_steps):
        if np.linalg.norm(g) <= config.tol:
            return float(np.linalg.norm(g)), step
        shape = (len(theta), len(theta))
        h = LinearOperator(shape, matvec=lambda v, at=theta: product(at, v))  # pyrefly: ignore
        p = minres(h, -g, rtol=config.solver_tol, maxiter=2 * len(theta))[0]
        slope, alpha = float(p @ product(theta, g)), 1.0
        for _ in range(HALVINGS):
            new = gradient(theta + alpha * p)
            if new @ new <= g @ g + 2 * DECREASE * alpha * slope:
                break
            alpha /= 2
        else:
            return float(np.linalg.norm(g)), step
        theta, g = theta + alpha * p, new
    return float(np.linalg.norm(g)), config.max_steps


def peers(made: Problem, dataset: Any, starts: Any, config: Config) -> Ends:
    """Newton-MR with autograd's gradients and products, and SciPy's MINRES."""
    autograd: Any = importlib.import_module("autograd")
    anp: Any = importlib.import_module("autograd.numpy")
    x, y = np.asarray(dataset.x, np.float64), np.asarray(dataset.y)
    rows = np.arange(len(y))
    sizes = (10, config.hidden, 10)
    cuts = np.cumsum([sizes[0] * sizes[1], sizes[1], sizes[1] * sizes[2], sizes[2]])

    def loss(theta: Any) -> Any:
        w1, b1 = theta[: cuts[0]].reshape(sizes[1], sizes[0]), theta[cuts[0] : cuts[1]]
        w2, b2 = theta[cuts[1] : cuts[2]].reshape(sizes[2], sizes[1]), theta[cuts[2] :]
        z = anp.dot(anp.tanh(anp.dot(x, w1.T) + b1), w2.T) + b2
        top = anp.max(z, axis=1)
        log_sum = top + anp.log(anp.sum(anp.exp(z - top[:, None]), axis=1))
        penalty = 0.5 * config.l2 * (anp.sum(w1**2) + anp.sum(w2**2))
        return anp.mean(log_sum - z[rows, y]) + penalty

    gradient = autograd.grad(loss)
    product = autograd.hessian_vector_product(loss)
    theta = np.asarray(jax.vmap(lambda p: ravel_pytree(p)[0])(starts), np.float64)
    first = jax.tree.map(lambda leaf: leaf[0], starts)
    assert np.isclose(loss(theta[0]), float(made.loss(first)), rtol=1e-12)  # the same problem

    begin = time.perf_counter()
    ends = [published_search(gradient, product, t, config) for t in theta]
    seconds = time.perf_counter() - begin
    norm = np.array([n for n, _ in ends])
    return Ends(seconds, norm**2 < 1e-10, norm, np.array([s for _, s in ends]))


def main(config: Config = Config()) -> list[Row]:
    """Both tools on both kinds of starts, in turn."""
    made, dataset = setting(config)
    rows = []
    kinds = {"near critical points": near_critical(made, config), "random": draw(made, config.random, config.seed + 1)}
    for kind, starts in kinds.items():
        few = jax.tree.map(lambda leaf: leaf[: config.peer_starts], starts)
        tools = {
            "jaxsoft": lambda s=starts: ours(made, s, config),
            "autograd": lambda f=few: peers(made, dataset, f, config),
        }
        tools = {name: tools[name] for name in config.tools}
        cold = {name: run().seconds for name, run in tools.items()}
        for name, ends in in_turn(tools, config.repeats).items():
            rows.append(
                Row(
                    kind, name, cold[name], tuple(60 * e.critical.sum() / e.seconds for e in ends),
                    tuple(e.steps.sum() / e.seconds for e in ends), int(ends[0].critical.sum()), len(ends[0].critical),
                )
            )  # fmt: skip
    return rows


def show(rows: list[Row], console: Console) -> None:
    table = Table()
    for heading in ("starts", "tool", "cold s", "critical", "critical a minute", "steps a second", "ratio of steps"):
        table.add_column(heading)
    for r in rows:
        ours = next(o for o in rows if o.kind == r.kind and o.tool == "jaxsoft")
        ratio = [a / b for a, b in zip(ours.steps_per_second, r.steps_per_second, strict=True)]
        table.add_row(
            r.kind, r.tool, f"{r.cold:.1f}", f"{r.critical} of {r.searches}", f"{np.median(r.per_minute):.3g}",
            f"{np.median(r.steps_per_second):.3g}", "" if r.tool == "jaxsoft" else spread(ratio, 2),
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    jax.config.update("jax_enable_x64", True)
    show(main(), Console(width=140))
