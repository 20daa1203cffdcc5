"""The HTML page of a report: one file that needs nothing else."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from jaxsoft.groups import groups, num_classes
from jaxsoft.process import STATUSES

UNTOLD = ("program", "order", "statuses")  # attributes that the page shows otherwise, or that tell a reader nothing
MEANINGS = {
    "running": "still running",
    "max_steps": "took all its steps",
    "diverged": "turned NaN or infinite, and was stopped at its last finite state",
    "converged": "gradient below the tolerance",
}
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light">
<title>{title}</title>
<style>
body {{ max-width: 54rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif;
  color: #222; background: #fff; }}
h1, h2 {{ line-height: 1.2; margin: 2.5rem 0 0.5rem; }}
h1 {{ margin-top: 0; }}
figure {{ margin: 0; break-inside: avoid; }}
img {{ width: 100%; max-width: 46rem; height: auto; }}
figcaption, caption {{ color: #555; font-size: 0.9rem; text-align: left; }}
caption {{ caption-side: bottom; padding-top: 0.5rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.25rem 1rem 0.25rem 0; vertical-align: bottom; border-bottom: 1px solid #ddd; }}
th, td {{ text-align: left; }}
.numbers td, .numbers thead th:not(:first-child) {{ text-align: right; }}
.facts, .claims {{ font-size: 0.9rem; }}
.facts td {{ overflow-wrap: anywhere; }}
.claims th, .claims td {{ vertical-align: baseline; }}
.claims thead th, .claims td:not(:last-child) {{ white-space: nowrap; }}
.claims th:first-child, .claims td:last-child {{ min-width: 10rem; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


class Picture(NamedTuple):
    """A figure of the report: the name of its files, what it shows, and its bytes."""

    name: str
    title: str
    caption: str
    png: bytes
    svg: bytes


class Table(NamedTuple):
    """Text in rows and columns, the first column naming the row, and a sentence that explains it."""

    heads: Sequence[str]
    lines: Sequence[Sequence[str]]
    caption: str


def build(ds: xr.Dataset, by: str | None, table: Table, pictures: Sequence[Picture]) -> str:
    """The page as HTML 5: the table, the pictures inlined, how the runs ended, and every attribute of the sweep.

    Every text is escaped; nothing is loaded from elsewhere.
    """
    sizes = " × ".join(f"{dim} ({ds.sizes[dim]:,})" for dim in ds["committed"].dims) or "1 run"
    done, planned = int(ds["committed"].sum()), ds["committed"].size
    others = [str(dim) for dim in ds["committed"].dims if dim != by]
    pooled = f" A row or a curve takes all values of {escape(' and '.join(others))} together." if others[1:] else ""
    left = f" {planned - done:,} runs were not reached yet and are left out everywhere." if done < planned else ""
    parts = [
        f"<h1>{done:,} training run{'s' if done != 1 else ''}</h1>",
        f"<p>Planned: {escape(sizes)}, at most {int(ds['step'][-1]):,} steps each.{pooled}{left}</p>",
        *_about_plateau(ds),
        html_table(table),
    ]
    parts += [html_figure(p.name, p.title, p.caption, p.svg, "svg+xml") for p in pictures]
    parts += ["<h2>How the runs ended</h2>", html_table(_endings(ds, by))]
    told = dict(_facts({key: value for key, value in ds.attrs.items() if key not in UNTOLD}))
    twice = {key for key in told if key.startswith("config.") and told.get(key.removeprefix("config.")) == told[key]}
    facts = [[key, value] for key, value in told.items() if key not in twice]
    parts += ["<h2>Where the numbers come from</h2>", html_table(Table(["attribute", "value"], facts, ""), "facts")]
    return PAGE.format(title=f"jaxsoft: {done:,} training runs", body="\n".join(parts))


def _about_plateau(ds: xr.Dataset) -> list[str]:
    classes = num_classes(ds)
    if classes is None:
        return []
    spacing = int(ds["step"][1] - ds["step"][0]) if ds.sizes["step"] > 1 else 1
    known = f" The losses were recorded every {spacing:,} steps, so times are known to that." if spacing > 1 else ""
    return [
        f"<p><strong>The plateau.</strong> A softmax classifier that gives each of the C = {classes} classes the "
        f"probability 1/C has the loss ln C = {math.log(classes):.3f} nats, whatever the data. Small initial weights "
        "start a network close to this answer, where the gradient is small: the loss stays flat at ln C for a while "
        f"before it falls. That while is the plateau, and this page is about how long it lasts.{known}</p>"
    ]


def _endings(ds: xr.Dataset, by: str | None) -> Table:
    """How many runs of each group have which status."""
    found = groups(ds, by, keep=())
    counts = [np.bincount(data["status"].to_numpy(), minlength=len(STATUSES)) for _, data in found]
    some = [i for i in range(len(STATUSES)) if any(count[i] for count in counts)]
    missing = [ds["committed"].size // len(found) - int(count.sum()) for count in counts]
    last = any(missing)
    heads = [by or "", *(STATUSES[i] for i in some), *(["not reached"] if last else [])]
    lines = [
        [group.label, *(f"{count[i]:,}" for i in some), *([f"{rest:,}"] if last else [])]
        for group, count, rest in zip(found, counts, missing, strict=True)
    ]
    return Table(heads, lines, "; ".join(f"{STATUSES[i]}: {MEANINGS[STATUSES[i]]}" for i in some) + ".")


def _facts(attributes: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Attributes as dotted names and text; mappings, also those kept as JSON, are opened."""
    for key, value in attributes.items():
        inner = _opened(value)
        if isinstance(inner, Mapping):
            yield from _facts({str(k): v for k, v in inner.items()}, f"{prefix}{key}.")
        elif isinstance(inner, list | tuple | np.ndarray):
            yield f"{prefix}{key}", ", ".join(map(str, inner))
        else:
            yield f"{prefix}{key}", str(inner)


def _opened(attribute: object) -> object:
    """An attribute that is kept as JSON text, as the mapping that it was."""
    if not (isinstance(attribute, str) and attribute.startswith("{")):
        return attribute
    try:
        return json.loads(attribute)
    except ValueError:
        return attribute


def escape(value: str) -> str:
    """The text as HTML shows it."""
    return html.escape(value, quote=True)


def html_figure(name: str, title: str, caption: str, image: bytes, kind: str) -> str:
    """A heading, the image inlined, and its caption; kind: ``png`` or ``svg+xml``."""
    return (
        f'<figure id="{name}"><h2>{escape(title)}</h2>'
        f'<img src="data:image/{kind};base64,{base64.b64encode(image).decode()}" '
        f'alt="{escape(f"{title}. {caption}")}"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def html_table(table: Table, kind: str = "numbers") -> str:
    """The table, as wide as the page lets it be; kind: ``numbers``, ``facts`` or ``claims``."""
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in table.heads)
    lines = [
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in rest) + "</tr>"
        for first, *rest in table.lines
    ]
    below = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    return (
        f'<div class="wide"><table class="{kind}">{below}<thead><tr>{heads}</tr></thead>\n'
        "<tbody>\n" + "\n".join(lines) + "\n</tbody></table></div>"
    )
