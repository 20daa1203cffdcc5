"""The page of the scoreboard: every figure with its question, its finding, its claims and its command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from experiments.claim import Claim
from experiments.registry import Experiment
from jaxsoft.page import PAGE, Table, escape, html_figure, html_table

TITLE = "jaxsoft: claims against theory"
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
    """One HTML file that needs nothing else: what failed and what does not hold first, then all experiments."""
    links = [
        f'<li><a href="#e{i}">{escape(e.experiment.question)}</a> {escape(e.words)}; {e.seconds:.0f} s.</li>'
        for i, e in enumerate(entries)
    ]
    failed = [link for link, e in zip(links, entries, strict=True) if e.figure is None]
    missed = [claim for e in entries for claim in e.claims if not claim.passed]
    parts = [f"<h1>{TITLE}</h1>", f"<p><strong>{escape(summary)}</strong> {ABOUT}</p>"]
    if failed:
        parts += ["<h2>What failed</h2>", "<ul>", *failed, "</ul>"]
    parts += _claims("What does not hold", [claim for claim in missed if not claim.reported])
    parts += _claims("What is not reproduced", [claim for claim in missed if claim.reported])
    parts += ["<h2>All experiments</h2>", "<ul>", *links, "</ul>"]
    for i, e in enumerate(entries):
        if e.figure is None:
            parts.append(f'<h2 id="e{i}">{escape(e.experiment.question)}</h2><p>{escape(e.words)}</p>')
        else:
            caption = f"What comes out at full size: {e.experiment.finding}"
            parts += [html_figure(f"e{i}", e.experiment.question, caption, e.figure, "png"), _table(e.claims)]
        parts.append(f"<pre>{escape(e.command)}</pre>")
    return PAGE.format(title=TITLE, body="\n".join(parts))


def _claims(heading: str, claims: Sequence[Claim]) -> list[str]:
    return [f"<h2>{heading}</h2>", _table(claims)] if claims else []


def _table(claims: Sequence[Claim]) -> str:
    rows = [[c.name, c.verdict, c.wanted, f"{c.measured:.6g}", c.source] for c in claims]
    return html_table(Table(["claim", "verdict", "expected", "measured", "source"], rows, ""), "claims")
