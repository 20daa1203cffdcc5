"""The page of the scoreboard: every figure with its question, its finding, its claims and its command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from experiments.claim import Claim
from experiments.registry import Experiment
from jaxsoft.page import PAGE, Table, escape, html_figure, html_table

ABOUT = (
    "Each figure answers a question; below it stand the claims that could have failed. What is expected comes from "
    "theory or from a paper, never from the run. A claim holds or does not hold. What a source has reported of other "
    "data, and a limit that a finite run need not have reached, is reproduced or not reproduced."
)


class Entry(NamedTuple):
    """What the page shows of an experiment; ``figure``: PNG, None where it failed."""

    experiment: Experiment
    command: str
    claims: Sequence[Claim]
    seconds: float
    words: str
    figure: bytes | None


def build(entries: Sequence[Entry], summary: str) -> str:
    """One HTML file that needs nothing else: what failed first, then all."""
    title = "jaxsoft: claims against theory"
    links = [
        f'<li><a href="#e{i}">{escape(e.experiment.question)}</a> {escape(e.words)}; {e.seconds:.0f} s.</li>'
        for i, e in enumerate(entries)
    ]
    parts = [f"<h1>{title}</h1>", f"<p><strong>{escape(summary)}</strong> {ABOUT}</p>", "<ul>", *links, "</ul>"]
    failed = [claim for e in entries for claim in e.claims if not claim.passed]
    if failed:
        parts += ["<h2>What does not hold, or is not reproduced</h2>", _table(failed)]
    for i, e in enumerate(entries):
        if e.figure is None:
            parts.append(f'<h2 id="e{i}">{escape(e.experiment.question)}</h2><p>{escape(e.words)}</p>')
        else:
            parts.append(
                html_figure(
                    f"e{i}",
                    e.experiment.question,
                    f"What comes out at full size: {e.experiment.finding}",
                    e.figure,
                    "png",
                )
            )
            parts.append(_table(e.claims))
        parts.append(f"<pre>{escape(e.command)}</pre>")
    return PAGE.format(title=title, body="\n".join(parts))


def _table(claims: Sequence[Claim]) -> str:
    def whole(text: str) -> str:
        return text.replace(" ", "\N{NO-BREAK SPACE}")

    rows = [[c.name, c.source, whole(c.wanted), f"{c.measured:.6g}", whole(c.verdict)] for c in claims]
    return html_table(Table(["claim", "source", "expected", "measured", "verdict"], rows, ""), "claims")
