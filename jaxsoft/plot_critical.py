"""Pictures of critical points: index against loss, and the graph of saddles by loss."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from jaxsoft import checks, style
from jaxsoft.critical import CriticalPoint, SaddleGraph


def index_against_loss(points: CriticalPoint, *, parameters: int, ax: Axes | None = None) -> Axes:
    """The share α = index / P of negative curvatures at every end of a search; only filled dots are critical points."""
    checks.count("parameters", parameters)
    if points.inertia is None:
        raise ValueError("points: expected searches with certify=True, got some without an index")
    ax = style.axes(ax)
    share, loss = np.atleast_1d(points.inertia.negative) / parameters, np.atleast_1d(points.loss)
    critical = np.atleast_1d(points.status) == "critical"
    ax.plot(share[~critical], loss[~critical], "o", mfc="none", color="0.6", ms=4, mew=0.8, label="other ends")
    ax.plot(share[critical], loss[critical], "o", color=style.style(0).color, ms=4, label="critical points")
    ax.set(xlabel="index / number of parameters", ylabel="loss (nats)")
    ax.legend(frameon=False)
    return ax


def saddle_graph(graph: SaddleGraph, *, ax: Axes | None = None) -> Axes:
    """Critical points by loss and index, a line for each way down; minima are filled."""
    ax = style.axes(ax)
    loss, index = np.asarray(graph.points.loss), graph.indices
    place = _places(index, loss)
    for a, b in graph.edges:
        ax.plot(place[[a, b]], loss[[a, b]], color="0.75", lw=0.8, zorder=1)
    for minimum, face in ((False, "white"), (True, style.style(0).color)):
        chosen = (index == 0) == minimum
        ax.scatter(place[chosen], loss[chosen], s=160, facecolor=face, edgecolor="black", linewidth=0.8, zorder=2)
    for x, y, k in zip(place, loss, index, strict=True):
        ax.annotate(f"{k}", (x, y), ha="center", va="center", fontsize="small", color="white" if k == 0 else "black")
    levels = np.unique(index)[::-1]
    ax.set_xticks(-levels, [f"{k}" for k in levels])
    ax.set_xlim(-levels[0] - 0.5, -levels[-1] + 0.5)
    ax.set(xlabel="index (ways down)", ylabel="loss (nats)")
    return ax


def _places(index: npt.NDArray[np.int_], loss: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Horizontal places: a column for each index, points of one column apart, the lowest in its middle."""
    place = -index.astype(float)
    for level in np.unique(index):
        members = np.flatnonzero(index == level)[np.argsort(loss[index == level])]
        order = np.arange(len(members))
        apart = np.where(order % 2, -(order // 2 + 1), order // 2) * 0.5 / max(len(members), 3)
        place[members] += apart
    return place
