"""What a sweep found, in words: a table for the terminal, and a page with the pictures that stands on its own."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import matplotlib
import numpy as np
import rich.box
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from jaxsoft import page, plateau, plot, style
from jaxsoft.groups import accuracy_name, diverged, final_values, groups, num_classes, steps_text
from jaxsoft.page import Picture

if TYPE_CHECKING:
    from jaxsoft.data import Dataset


class Row(NamedTuple):
    """One group of a sweep. NaN stands for what is not known.

    runs: committed runs. learning_rate: None where it is unknown or not one number.
    median_escape: Kaplan-Meier median of the steps to leave the plateau; infinity if more than half never left.
    watched: the last step at which a run of the group was watched. never_left: share of the runs that were watched to
    the end and stayed. diverged: share of the runs that turned non-finite.
    final_loss, accuracy: medians of the last records, over the runs that did not diverge; ``held_out`` says on what
    data the accuracy is. num_classes: C, None where it is unknown.
    """

    label: str
    learning_rate: float | None
    runs: int
    median_escape: float
    watched: float
    never_left: float
    final_loss: float
    accuracy: float
    held_out: bool
    diverged: float
    num_classes: int | None


def summary(ds: xr.Dataset, by: str | None = "optimizer") -> list[Row]:
    """One row of numbers for each value along the dimension ``by`` (``None``: one row for all runs).

    Uncommitted runs are left out; a group without a committed run has ``runs`` 0. Raises ValueError for what is not the
    result of a sweep, and for an unknown ``by``.
    """
    classes = num_classes(ds)
    rows = []
    name = accuracy_name(ds)
    for label, data in groups(ds, by, keep=[n for n in ("loss", name) if n is not None and n in ds]):
        broken = diverged(data)
        median, watched, never = math.nan, math.nan, math.nan
        if classes is not None and "loss" in data and broken.size:
            times = plateau.escape_times(data)
            curve = plateau.survival(times["time"].to_numpy(), times["escaped"].to_numpy())
            median, watched = plateau.median(curve), float(curve.time[-1])
            never = float(np.mean(~times["escaped"].to_numpy() & ~broken))
        rows.append(
            Row(
                label=label,
                learning_rate=_learning_rate(data),
                runs=broken.size,
                median_escape=median,
                watched=watched,
                never_left=never,
                final_loss=_median(data, "loss"),
                accuracy=_median(data, name) if name else math.nan,
                held_out=name == "test_accuracy",
                diverged=float(broken.mean()) if broken.size else math.nan,
                num_classes=classes,
            )
        )
    return rows


def _median(data: xr.Dataset, name: str) -> float:
    values = final_values(data, name) if name in data else np.array([])
    return float(np.median(values)) if values.size else math.nan


def _learning_rate(data: xr.Dataset) -> float | None:
    if "learning_rate" not in data.coords:
        return None
    rates = np.unique(data["learning_rate"].to_numpy())
    return float(rates[0]) if rates.size == 1 and np.isfinite(rates[0]) else None


def _percent(share: float) -> str:
    """A share of runs; one that is neither none nor all never looks as if it were."""
    if math.isnan(share):
        return "-"
    if 0 < share < 0.0005 or 0.9995 < share < 1:
        return "< 0.1 %" if share < 0.5 else "> 99.9 %"
    return f"{100 * share:.1f} %" if 0 < share < 1 else f"{100 * share:.0f} %"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or math.isnan(value) else format(value, form)


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The headings and the cells, as text; columns of which nothing is known are left out. First the label."""
    data = "held-out" if any(row.held_out for row in rows) else "training"
    columns: dict[str, list[str]] = {
        "": [row.label for row in rows],
        "learning rate": [_number(row.learning_rate, ".4g") for row in rows],
        "runs": [f"{row.runs:,}" for row in rows],
        "median steps to leave the plateau": [
            "-" if math.isnan(row.median_escape) else steps_text(row.median_escape, row.watched) for row in rows
        ],
        "never left": [_percent(row.never_left) for row in rows],
        "median final loss": [_number(row.final_loss, "#.3g") for row in rows],
        f"median {data} accuracy": ["-" if math.isnan(row.accuracy) else f"{100 * row.accuracy:.1f} %" for row in rows],
        "diverged": [_percent(row.diverged) for row in rows],
    }
    kept = {head: cells for head, cells in columns.items() if not head or any(cell != "-" for cell in cells)}
    return list(kept), [list(cells) for cells in zip(*kept.values(), strict=True)]


def caption(rows: Sequence[Row]) -> str:
    """What the columns of ``table`` mean, for somebody who sees them for the first time."""
    sentences = []
    classes = next((row.num_classes for row in rows if row.num_classes is not None), None)
    if classes is not None:
        sentences.append(
            f"A run has left the plateau when its loss is first below 0.9 ln C = {plateau.exit_level(classes):.3f}; "
            f"ln C = {math.log(classes):.3f} is the loss of the answer 1/C for each of the C = {classes} classes. "
            "The median steps are a Kaplan-Meier estimate, in which a run counts for as long as it was watched; "
            "'> n' says that more than half had not left after n steps. Never left: there to the end of the sweep."
        )
    sentences.append("Final loss and accuracy are medians over the runs that did not diverge (turn NaN or infinite).")
    return " ".join(sentences)


def print_table(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print the rows of ``summary``; where the output is not a terminal, as plain text and as wide as it needs."""
    console = Console() if console is None else console
    heads, cells = table(rows)
    grid = Table(box=rich.box.SIMPLE_HEAD, caption=Text(caption(rows)), caption_justify="left", padding=(0, 1, 0, 0))
    for i, head in enumerate(heads):
        short = "\n".join(textwrap.wrap(head, 9, break_on_hyphens=False))
        grid.add_column(Text(short), justify="right" if i else "left", overflow="fold", vertical="bottom")
    for line in cells:
        grid.add_row(*(Text(cell) for cell in line))
    width = console.width
    try:
        if not console.is_terminal:
            needed = Measurement.get(console, console.options.update(max_width=10_000), grid).maximum
            console.width = max(width, needed)
        console.print(grid)
    finally:
        console.width = width


class Draw(Protocol):
    """Draw a sweep into axes."""

    def __call__(self, ds: xr.Dataset, *, ax: Axes | None, by: str | None) -> Axes: ...


def write(
    ds: xr.Dataset, folder: str | Path, *, by: str | None = "optimizer", more: Sequence[Picture] = ()
) -> list[Path]:
    """Write every figure as ``.png`` and ``.svg``, and ``report.html``, one page that needs nothing else.

    Figures for which the sweep has no records are left out; ``more`` ones are added. Every file appears whole or not
    at all, and the same data gives the same bytes. Returns the paths, the page last. Raises ValueError for a ``folder``
    that is a file, for a sweep without a committed run and as ``summary`` does.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"folder: expected a folder, got the file {folder}")
    rows = summary(ds, by)
    if not any(row.runs for row in rows):
        raise ValueError("dataset: expected at least one committed run, got none")
    pictures = [*_pictures(ds, by), *more]
    heads, lines = table(rows)
    html = page.build(ds, by, page.Table([by or "", *heads[1:]], lines, caption(rows)), pictures)
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"{p.name}.{kind}": data for p in pictures for kind, data in (("png", p.png), ("svg", p.svg))}
    return [_write(folder / name, data) for name, data in {**files, "report.html": html.encode()}.items()]


def _write(path: Path, data: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _pictures(ds: xr.Dataset, by: str | None) -> Iterator[Picture]:
    """Draw what the records allow."""

    def picture(name: str, title: str, about: str, draw: Draw) -> Picture:
        figure = Figure(figsize=style.SIZE, layout="constrained")
        draw(ds, ax=figure.add_subplot(), by=by)
        return Picture(name, title, about, _render(figure, "png"), _render(figure, "svg"))

    classifier, accuracy = num_classes(ds) is not None, accuracy_name(ds)
    if "loss" in ds:
        at_plateau = "Dashed: ln C, the loss of the answer 1/C for every class, where the plateau lies. "
        about = (
            "Thick: the median run. Band: from the 10 % to the 90 % quantile of the runs. Thin: some single runs. "
            f"{at_plateau if classifier else ''}Where the axis of steps is logarithmic, its first piece is linear, so "
            "that step 0 has a place."
        )
        yield picture("loss_curves", "Loss against step", about, plot.plot_loss_curves)
    if "loss" in ds and classifier:
        about = (
            "Kaplan-Meier estimate with a pointwise 95 % band. A run has left when its loss is first below 0.9 ln C. "
            "A tick marks where runs were last seen on the plateau: at the end of the sweep, or at the step at which "
            "they diverged. The dotted line is one half; a curve crosses it at its median."
        )
        yield picture("survival", "Runs still on the plateau against step", about, plot.plot_survival)
    about = (
        f"A point is a run (at most {plot.STRIP} are drawn, evenly by rank); the box spans the middle half, "
        "the thick line in it is the median, and the whiskers reach from 10 % to 90 %. Diverged runs are not in it."
    )
    if "loss" in ds:
        yield picture("final_loss", "Loss at the last step", about, plot.plot_final_loss)
    if accuracy is not None:
        title = f"Accuracy on {'held-out' if accuracy == 'test_accuracy' else 'training'} data at the last step"
        yield picture("final_accuracy", title, about, plot.plot_final_accuracy)


def regions_picture(predictors: Mapping[str, plot.Predict], dataset: Dataset) -> Picture:
    """What classifiers of the plane decide, a panel for each, named by the keys; see ``plot.plot_decision_regions``."""
    columns = min(len(predictors), 2)
    rows = -(-len(predictors) // columns)
    figure = Figure(figsize=(style.SIZE[0] * columns, style.SIZE[1] * rows), layout="constrained")
    for i, (name, predict) in enumerate(predictors.items()):
        ax = plot.plot_decision_regions(predict, dataset, ax=figure.add_subplot(rows, columns, i + 1))
        ax.set_title(name, loc="right")
    about = (
        "For each optimizer the run of median final loss. Colour: the class with the largest output; lines: where it "
        "changes hands; points: the data the runs were trained and tested on."
    )
    return Picture("decision_regions", "Decision regions", about, _render(figure, "png"), _render(figure, "svg"))


def _render(figure: Figure, kind: str) -> bytes:
    """The figure as a file, without dates and random names: the same data gives the same bytes."""
    metadata = {"png": {"Software": None}, "svg": {"Date": None}}[kind]
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "jaxsoft"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()
