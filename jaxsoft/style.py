"""How groups look, in colour and in grey: one line, marker and place for a name for each.

The colours are those of Okabe & Ito (2008), safe for the colour-blind; line style and marker say the same in grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES: tuple[str | tuple[int, tuple[float, ...]], ...] = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*", "h")
GREY = "0.35"
SIZE = (6.0, 4.0)


class Style(NamedTuple):
    """How one group looks, in colour and in grey."""

    color: str
    line: str | tuple[int, tuple[float, ...]]
    marker: str


def style(i: int) -> Style:
    """The look of group i; different for the first 35."""
    return Style(COLORS[i % len(COLORS)], LINES[i % len(LINES)], MARKERS[i % len(MARKERS)])


def plain(label: str) -> str:
    """A name that is drawn as it is written, without mathematics between dollars."""
    return label.replace("$", r"\$")


def axes(ax: Axes | None) -> Axes:
    """The axes to draw into, without the box's upper and right side."""
    ax = Figure(figsize=SIZE, layout="constrained").add_subplot() if ax is None else ax
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def curve(ax: Axes, i: int, x: npt.NDArray, y: npt.NDArray, label: str, *, steps: bool = False) -> Line2D:
    """One group's line, with a few markers whose places differ from group to group."""
    color, linestyle, marker = style(i)
    [line] = ax.plot(x, y, color=color, linestyle=linestyle, linewidth=2, label=label, zorder=3)
    line.set(marker=marker, markersize=5, markevery=(0.03 + 0.02 * (i % 7), 0.16))
    line.set_drawstyle("steps-post" if steps else "default")
    return line


def legend(ax: Axes, handles: Sequence[Artist], names: Sequence[str], title: str | None = None) -> None:
    """Above the axes, so that it hides nothing."""
    columns = 3 if len(names) in (5, 6) or max(map(len, names)) > 16 else 4
    ax.legend(
        handles, names, title=title, ncols=columns, loc="lower left", bbox_to_anchor=(0, 1.03), borderaxespad=0,
        frameon=False, fontsize="small", title_fontsize="small", alignment="left",
    )  # fmt: skip


def label_curves(ax: Axes, lines: Sequence[Line2D]) -> bool:
    """Write each line's name beside it, by preference at its fall and clear of the others; False where one has no room.

    Works in fractions of the axes, which do not depend on the layout: 1 is about 5 x 3.2 inches.
    """
    to_axes = ax.transScale + ax.transLimits
    paths = [_evenly(to_axes.transform(np.asarray(line.get_xydata()))) for line in lines]
    boxes: list[Bbox] = []
    for line, path in zip(lines, paths, strict=True):
        width, height = 0.02 * len(str(line.get_label())), 0.055
        best, least = None, 40.0
        for x, y in path[::4]:
            around = Bbox.from_extents(x, y, x, y).padded(0.015)
            shared = sum(around.count_contains(other) for other in paths if other is not path)
            beside = [(x + 0.02, y), (x - 0.02 - width, y), (x - width / 2, y - 0.06), (x - width / 2, y + 0.06)]
            for left, middle in beside:
                box = Bbox.from_bounds(left, middle - height / 2, width, height)
                inside = 0 < box.x0 < box.x1 < 1 and 0.01 < box.y0 < box.y1 < 0.99
                if not inside or any(box.padded(0.03).overlaps(other) for other in boxes):
                    continue
                cost = sum(box.count_contains(other) for other in paths) + shared + abs(middle - 0.5)
                if cost < least:
                    best, least = box, cost
        if best is None:
            return False
        boxes.append(best)
    for line, box in zip(lines, boxes, strict=True):
        text = ax.text(box.x0, (box.y0 + box.y1) / 2, str(line.get_label()), transform=ax.transAxes, va="center")
        text.set(color=line.get_color(), weight="bold", zorder=5)
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])
    return True


def _evenly(path: npt.NDArray, count: int = 400) -> npt.NDArray:
    """Points at equal distances along a polygonal path (n, 2)."""
    if len(path) == 0:
        return path
    length = np.append(0, np.cumsum(np.hypot(*np.diff(path, axis=0).T)))
    along = np.linspace(0, length[-1], count)
    return np.stack([np.interp(along, length, path[:, k]) for k in range(2)], axis=1)
