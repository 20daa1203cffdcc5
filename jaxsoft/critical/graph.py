"""Which critical points lie below a saddle: the ways down, one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxsoft import checks
from jaxsoft.critical.methods import Method, eigenvector_following
from jaxsoft.critical.points import CriticalPoint, find_all
from jaxsoft.curvature import hessian
from jaxsoft.curvature.products import Composite, Loss, Params, check
from jaxsoft.symmetry import Symmetry, distinct

SAME = 1e-4  # points so near, relative to max(1, ‖θ‖), are one: searches end far closer to theirs


class SaddleGraph(NamedTuple):
    """Critical points and the ways down between them.

    points: m of them, the saddle first, then in the order in which they were reached. edges: (e, 2) places in
    ``points``, from higher to lower index and loss. lost: how many steps down ended at no critical point of lower index
    and loss, or at one that ``most`` left out.
    """

    points: CriticalPoint
    edges: np.ndarray
    lost: int

    @property
    def indices(self) -> np.ndarray:
        """(m,): the certified number of ways down from each point."""
        assert self.points.inertia is not None
        return np.asarray(self.points.inertia.negative)


class _Way(NamedTuple):
    """A step down: from which point, to where, and the modes to follow uphill, (P, k), zeros where fewer."""

    origin: int
    start: np.ndarray
    uphill: np.ndarray
    target: int


def saddle_graph(
    loss: Loss,
    saddle: Params,
    *,
    ways: int = 4,
    step: float = 1e-2,
    symmetry: Symmetry | None = None,
    tol: float | None = None,
    max_steps: int = 200,
    most: int = 200,
    progress: bool = False,
) -> SaddleGraph:
    """The critical points below a saddle, as a graph: from index k to the lower ones that are reached.

    From a point with index k a step of length ``step`` (1 + ‖θ‖) to either side along each of its m = min(k, ``ways``)
    lowest modes v, then down again: by eigenvector following that goes uphill along the j lowest others, for each
    j = m-1 .. 0, so that a critical point of index j is sought; those of index m to k-1 are not. What is reached
    becomes a point of the graph if its index and its loss are lower, and so on down to the minima, until there are
    ``most`` points. All steps of one level are one batch.
    Yin, Wang, Chen, Zhang & Zhang (2020), "Construction of a pathway map on a complicated energy landscape".

    ``symmetry`` tells copies of one point apart from others (``distinct``); by default what the loss knows of its own.
    Raises ValueError where ``saddle`` is no critical point or has no way down. Dense Hessians: for small nets.
    """
    checks.count("ways", ways)
    checks.positive("step", step)
    checks.count("most", most)
    check(loss, saddle, "saddle")
    if symmetry is not None and not isinstance(symmetry, Symmetry):
        raise TypeError(f"symmetry: expected a Symmetry, got {type(symmetry).__name__}")
    if symmetry is None:
        known = loss.symmetry if isinstance(loss, Composite) else None
        symmetry = Symmetry("none", False) if known is None else known
    unravel = ravel_pytree(saddle)[1]
    alone = jax.tree.map(lambda x: jnp.asarray(x)[None], saddle)
    points = find_all(loss, alone, "trust_region", tol=tol, max_steps=max_steps)
    assert points.inertia is not None
    if points.status[0] != "critical" or not int(points.inertia.negative[0]):
        raise ValueError(f"saddle: expected a critical point with a way down, got {points}; {points.inertia}")
    edges: set[tuple[int, int]] = set()
    lost, level = 0, [0]
    while level:
        down = [way for node in level for way in _ways_down(loss, points, node, ways, step)]
        if not down:
            break
        found = find_all(
            loss, jax.vmap(unravel)(jnp.asarray(np.stack([way.start for way in down]))), _followed(down), tol=tol,
            max_steps=max_steps, progress=progress,
        )  # fmt: skip
        assert found.inertia is not None
        origins = np.array([way.origin for way in down])
        above = np.asarray(points.inertia.negative)[origins]
        good = (found.status == "critical") & (np.asarray(found.inertia.negative) < above)
        good &= found.loss < np.asarray(points.loss)[origins]
        lost += int(np.sum(~good))
        before = len(points.loss)
        points = _joined(points, found, np.flatnonzero(good))
        names = distinct(points.params, symmetry, tol=SAME)
        new = names.representatives[names.representatives >= before]
        keep = np.concatenate([np.arange(before), new])[: max(most, before)]
        place = {int(names.label[old]): here for here, old in enumerate(keep)}
        for origin, label in zip(origins[good], names.label[before:], strict=True):
            if int(label) not in place:
                lost += 1
            elif place[int(label)] != origin:
                edges.add((int(origin), place[int(label)]))
        points = _taken(points, keep)
        level = list(range(before, len(keep)))
    return SaddleGraph(points, np.array(sorted(edges), int).reshape(-1, 2), lost)


def _ways_down(loss: Loss, points: CriticalPoint, node: int, ways: int, step: float) -> list[_Way]:
    params = jax.tree.map(lambda x: x[node], points.params)
    assert points.inertia is not None
    index = int(points.inertia.negative[node])
    theta = np.asarray(ravel_pytree(params)[0])
    lowest = np.linalg.eigh(np.asarray(hessian(loss, params)))[1][:, :index]
    most = min(ways - 1, len(theta))
    made = []
    for i in range(min(index, ways)):
        others = np.delete(lowest, i, axis=1)[:, :most]
        for j in range(others.shape[1] + 1):
            uphill = np.zeros((len(theta), most))
            uphill[:, :j] = others[:, :j]
            for side in (-1, 1):
                start = theta + side * step * (1 + np.linalg.norm(theta)) * lowest[:, i]
                made.append(_Way(node, start, uphill, j))
    return made


def _followed(down: list[_Way]) -> Callable[[jax.Array], Method]:
    uphill, target = jnp.asarray(np.stack([w.uphill for w in down])), jnp.asarray([w.target for w in down])

    def method(number: jax.Array) -> Method:
        return eigenvector_following(target[number], directions=uphill[number])

    return method


def _joined(points: CriticalPoint, found: CriticalPoint, good: np.ndarray) -> CriticalPoint:
    return _each(lambda a, b: np.concatenate([a, b[good]]), points, found)


def _taken(points: CriticalPoint, keep: np.ndarray) -> CriticalPoint:
    return _each(lambda a: a[keep], points)


def _each(function: Callable[..., np.ndarray], *points: CriticalPoint) -> CriticalPoint:
    """The same for every array of many critical points."""
    return jax.tree.map(lambda *arrays: function(*map(np.asarray, arrays)), *points)
