"""Pictures of a sweep: how the runs leave the plateau, where they end, and what a classifier of the plane decides.

Every ``plot_x(ds, *, ax=None)`` draws into ``ax``, or into a figure of its own (6 x 4 inches, ``ax.figure``), and
returns the axes; pyplot is never involved. Runs are grouped along the dimension ``by`` (see ``jaxsoft.groups``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from jaxsoft import checks, plateau, style
from jaxsoft.groups import Group, accuracy_name, diverged, final_values, groups, num_classes, steps_text, until_broken

if TYPE_CHECKING:  # the pictures need the numbers of a dataset, not the readers of files
    from jaxsoft.data import Dataset

Predict = Callable[[npt.NDArray[np.floating]], npt.ArrayLike]  # points (m, d) to logits (m, C)

QUANTILES = (0.1, 0.5, 0.9)
EARLY = 0.05  # an event before this share of the time axis would be squeezed against its edge
MOST_LABELLED = 6  # more groups than this are told apart by a legend, and drawn without single runs
STRIP = 200  # the most points that a strip shows for a group


def plot_loss_curves(ds: xr.Dataset, *, ax: Axes | None = None, by: str | None = "optimizer", sample: int = 8) -> Axes:
    """Loss against step: the median of the runs, the band from the 10 % to the 90 % quantile, some single runs.

    The quantiles at a step are over the runs that had not diverged by then. The single runs are ``sample`` of each
    group, evenly spaced in the order of the sweep, for up to 6 groups. A dashed line marks ln C, the loss of the answer
    1/C for every class. The loss axis is linear up to at most 1.6 ln C, as the flat part and the exit are the subject;
    it is logarithmic if a median rises above 2.5 ln C. Steps are on a logarithmic axis where a group falls in the first
    5 % of the time. Raises ValueError without ``loss`` or without a committed run.
    """
    checks.count("sample", sample, at_least=0)
    found = _some(ds, by, "loss")
    ax = style.axes(ax)
    step = ds["step"].to_numpy()
    few = len(found) <= MOST_LABELLED
    lines, bands, falls = [], [], []
    for i, group in found:
        loss = until_broken(group.data)
        seen = np.isfinite(loss).any(axis=0)
        band = np.nanquantile(loss[:, seen], QUANTILES, axis=0) if seen.any() else np.empty((3, 0))
        color = style.style(i).color
        ax.fill_between(step[seen], band[0], band[2], color=color, alpha=0.2 if few else 0.08, linewidth=0)
        chosen = np.unique(np.linspace(0, len(loss) - 1, sample).astype(int)) if few and len(loss) > 1 else []
        for run in loss[chosen]:
            ax.plot(step, run, color=color, alpha=0.35, linewidth=0.6, label="_single run")
        lines.append(style.curve(ax, i, step[seen], band[1], group.label))
        bands.append(band)
        falls.append(_halfway(step[seen], band[1]))
    _step_axis(ax, step, falls)
    _loss_axis(ax, num_classes(ds), np.concatenate(bands, axis=1))
    ax.set_ylabel("loss (nats)")
    key: list[tuple[str, Artist]] = [
        ("median", Line2D([], [], color=style.GREY, linewidth=2)),
        ("10–90 % of runs", Patch(color=style.GREY, alpha=0.25, linewidth=0)),
    ]
    if few and sample:
        key.append(("single runs", Line2D([], [], color=style.GREY, linewidth=0.6)))
    if not (few and style.label_curves(ax, lines)):
        key = [(str(line.get_label()), line) for line in lines] + key
    style.legend(ax, [handle for _, handle in key], [name for name, _ in key])
    return ax


def plot_survival(ds: xr.Dataset, *, ax: Axes | None = None, by: str | None = "optimizer") -> Axes:
    """The share of runs still on the plateau against step: Kaplan-Meier curves, pointwise 95 % bands.

    A tick marks where runs were last seen on the plateau (the end of the sweep, or the step at which they broke). The
    legend gives the median: the step by which half of the runs have left. See ``plateau.survival`` for the equation.
    Raises ValueError without ``loss``, a committed run or the attribute ``num_classes``.
    """
    found = _some(ds, by, "loss")
    lines: list[Artist] = []
    names: list[str] = []
    medians: list[float] = []
    curves = [(i, group, plateau.escape_times(group.data)) for i, group in found]
    ax = style.axes(ax)
    for i, group, times in curves:
        time, escaped = times["time"].to_numpy(), times["escaped"].to_numpy()
        curve = plateau.survival(time, escaped)
        color = style.style(i).color
        ax.fill_between(curve.time, curve.low, curve.high, step="post", color=color, alpha=0.2, linewidth=0)
        lines.append(style.curve(ax, i, curve.time, curve.share, group.label, steps=True))
        censored = np.unique(time[~escaped])
        shares = curve.share[np.searchsorted(curve.time, censored, side="right") - 1]
        ax.plot(censored, shares, "|", color=color, markersize=9, label="_censored", zorder=4)
        medians.append(plateau.median(curve))
        names.append(f"{group.label}: {steps_text(medians[-1], curve.time[-1])}")
    if any(not times["escaped"].all() for *_, times in curves):
        lines.append(Line2D([], [], color=style.GREY, marker="|", markersize=9, linestyle=""))
        names.append("last seen there")
    _step_axis(ax, ds["step"].to_numpy(), medians)
    ax.axhline(0.5, color=style.GREY, linewidth=0.8, linestyle=":", label="_half")
    ax.set_ylim(-0.02, 1.04)
    ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    level = curves[0][2].attrs["level"]
    ax.set_ylabel(f"runs still on the plateau\n(loss ≥ 0.9 ln C = {level:.3f} nats)")
    style.legend(ax, lines, names, title="median steps to leave the plateau")
    return ax


def plot_final_loss(ds: xr.Dataset, *, ax: Axes | None = None, by: str | None = "optimizer") -> Axes:
    """The distribution of the last loss: runs as points, a box between the quartiles, whiskers to 10 and 90 %.

    Runs that diverged are not in it; their number stands at the right, below the median. At most 200 points are drawn
    for a group, evenly spaced by rank. Raises ValueError without ``loss`` or without a committed run.
    """
    found = _some(ds.isel(step=[-1]), by, "loss")
    ax = style.axes(ax)
    values = [final_values(group.data, "loss") for _, group in found]
    _strips(ax, found, values, [f"{np.median(v):#.3g}" if v.size else "–" for v in values], by)
    every = np.concatenate(values)
    low, high = (every.min(), every.max()) if every.size else (0, 0)
    if high > 30 * low > 0:
        ax.set_xscale("log")
    elif high > low == 0:  # a float32 loss can be exactly 0
        ax.set_xscale("symlog", linthresh=10.0 ** math.floor(math.log10(every[every > 0].min())), linscale=0.3)
    classes = num_classes(ds)
    if classes is not None:
        plain = math.log(classes)
        ax.axvline(plain, color=style.GREY, linewidth=1, linestyle="--", zorder=0)
        ax.text(plain, 1.01, f"ln C = {plain:.3f}", transform=ax.get_xaxis_transform(), ha="right", color=style.GREY)
    ax.set_xlabel("final loss (nats)")
    return ax


def plot_final_accuracy(ds: xr.Dataset, *, ax: Axes | None = None, by: str | None = "optimizer") -> Axes:
    """The distribution of the last accuracy, on held-out data where it was recorded; drawn as ``plot_final_loss``.

    Raises ValueError without ``accuracy`` or ``test_accuracy``, or without a committed run.
    """
    name = accuracy_name(ds) or "accuracy"
    found = _some(ds.isel(step=[-1]), by, name)
    ax = style.axes(ax)
    values = [final_values(group.data, name) for _, group in found]
    _strips(ax, found, values, [f"{100 * np.median(v):.1f} %" if v.size else "–" for v in values], by)
    ax.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    ax.set_xlabel("final accuracy on held-out data" if name == "test_accuracy" else "final accuracy on training data")
    return ax


def plot_decision_regions(
    predict: Predict,
    dataset: Dataset,
    *,
    ax: Axes | None = None,
    resolution: int = 300,
) -> Axes:
    """What a classifier of the plane decides: argmax_c z_c(x) as coloured regions, with the data on top.

    ``predict`` maps points (m, 2) to logits (m, C). The lines are where the largest logit changes hands.
    Raises ValueError if the inputs are not two-dimensional, or ``predict`` gives another shape or NaN.
    """
    checks.count("resolution", resolution, at_least=2)
    x, y, classes = np.asarray(dataset.x), np.asarray(dataset.y), int(dataset.num_classes)
    if x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(f"dataset: expected inputs of shape (n, 2), got {x.shape}")
    low, high = x.min(axis=0), x.max(axis=0)
    margin = np.where(high > low, 0.08 * (high - low), 1)
    first, second = (np.linspace(a, b, resolution) for a, b in zip(low - margin, high + margin, strict=True))
    points = np.stack(np.meshgrid(first, second), axis=-1).reshape(-1, 2).astype(x.dtype)
    logits = np.asarray(predict(points), dtype=np.float64)
    if logits.shape != (len(points), classes) or np.isnan(logits).any():
        what = f"shape {logits.shape}" if logits.shape != (len(points), classes) else "NaN"
        raise ValueError(f"predict: expected logits of shape ({len(points)}, {classes}) without NaN, got {what}")
    ax = style.axes(ax)
    z = np.clip(logits, -1e30, 1e30).reshape(resolution, resolution, classes)  # excluded classes have -inf
    tints = ListedColormap([0.35 * np.array(to_rgb(style.style(c).color)) + 0.65 for c in range(classes)])
    mesh = ax.pcolormesh(first, second, z.argmax(axis=-1), cmap=tints, vmin=-0.5, vmax=classes - 0.5)
    mesh.set_rasterized(True)
    for c in range(classes):
        lead = z[..., c] - np.delete(z, c, axis=-1).max(axis=-1)
        if lead.min() < 0 < lead.max():
            ax.contour(first, second, lead, levels=[0], colors="0.15", linewidths=1)
        color, _, marker = style.style(c)
        ax.plot(*x[y == c].T, marker, color=color, mec="white", mew=0.6, markersize=6, label=f"class {c}", zorder=3)
    ax.set_xlabel("input 1")
    ax.set_ylabel("input 2")
    style.legend(ax, *ax.get_legend_handles_labels())
    return ax


def _some(ds: xr.Dataset, by: str | None, name: str) -> list[tuple[int, Group]]:
    """The groups that hold a run, each with its number, which fixes its style."""
    if name not in ds:
        raise ValueError(f"dataset: expected a sweep that records {name!r}, got {', '.join(map(str, ds.data_vars))}")
    found = [(i, group) for i, group in enumerate(groups(ds, by, keep=[name])) if group.data.sizes["lane"]]
    if not found:
        raise ValueError("dataset: expected at least one committed run, got none")
    return [(i, Group(style.plain(group.label), group.data)) for i, group in found]


def _step_axis(ax: Axes, step: npt.NDArray, events: Sequence[float]) -> None:
    """Steps from 0 to the last; logarithmic (linear before the first record) where an event comes early."""
    if len(step) > 2 and min(events, default=math.inf) < EARLY * step[-1]:
        ax.set_xscale("symlog", linthresh=float(step[1]), linscale=0.3, subs=range(2, 10))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.set_xlim(step[0], max(step[-1], step[0] + 1))
    ax.set_xlabel("step (optimizer updates)")


def _loss_axis(ax: Axes, classes: int | None, bands: npt.NDArray) -> None:
    """The scale and the range of the losses, and the line at ln C; ``bands`` (3, ...) are low, median, high."""
    low, median, high = (bands.min(), bands[1].max(), bands.max()) if bands.size else (0.0, 0.0, 1.0)
    if classes is not None:
        plain = math.log(classes)
        ax.axhline(plain, color=style.GREY, linewidth=1, linestyle="--", label="_ln C", zorder=2.5)
        ax.annotate(
            f"ln C = {plain:.3f}", (0.995, plain), (0, 3), ax.get_yaxis_transform(), "offset points",
            ha="right", va="bottom", color=style.GREY,
        )  # fmt: skip
        top, logarithmic = min(max(high, plain), 1.4 * plain), median > 2.5 * plain
    else:
        top, logarithmic = high, high > 1000 * low
    if logarithmic and low > 0:
        ax.set_yscale("log")
    elif top > 0:
        ax.set_ylim(min(low, 0), 1.14 * top)


def _halfway(step: npt.NDArray, median: npt.NDArray) -> float:
    """When a curve has done half of its fall; infinity if it does not fall by a tenth."""
    if not median.size or median[-1] > 0.9 * median[0]:
        return math.inf
    return float(step[np.argmax(median <= (median[0] + median[-1]) / 2)])


def _strips(
    ax: Axes,
    found: Sequence[tuple[int, Group]],
    values: Sequence[npt.NDArray],
    medians: Sequence[str],
    by: str | None,
) -> None:
    """A row for each group: the runs as points, a box over them, the median and the diverged runs in words."""
    for row, ((i, group), value) in enumerate(zip(found, values, strict=True)):
        color, _, marker = style.style(i)
        shown = np.sort(value)[np.unique(np.linspace(0, value.size - 1, STRIP).astype(int))] if value.size else value
        spread = 0.5 * ((np.arange(shown.size) * 0.6180339887498949 + 0.5) % 1 - 0.5)  # golden ratio: evenly spread
        size, alpha = (3.5, 0.5) if shown.size > 20 else (6, 0.9)
        ax.plot(shown, row + spread, marker, color=color, markersize=size, alpha=alpha, mew=0, label=group.label)
        if value.size >= 5:
            ax.boxplot(
                [value], positions=[row], orientation="horizontal", widths=0.6, whis=(10, 90), showfliers=False,
                medianprops={"color": "black", "linewidth": 2}, manage_ticks=False,
            )  # fmt: skip
        broken, runs = int(diverged(group.data).sum()), group.data.sizes["lane"]
        note = medians[row] + (f"\n{broken:,} of {runs:,}\ndiverged" if broken else "")
        ax.text(1.02, row, note, transform=ax.get_yaxis_transform(), va="center", fontsize="small")
    ax.text(1.02, 1.01, "median", transform=ax.transAxes, va="bottom", fontsize="small", color=style.GREY)
    ax.set_yticks(range(len(found)), [group.label for _, group in found])
    room = max(0.6, 1.4 - len(found) / 2)
    ax.set_ylim(len(found) - 1 + room, -room)
    ax.tick_params(axis="y", length=0)
    ax.set_ylabel(by if by is not None and by in found[0][1].data.coords else "runs")
