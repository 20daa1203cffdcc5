"""The scoreboard: every experiment's claims, in one table and on one page with the figures.

    python -m experiments.science [NAME ...] [--cheap] [--full] [--out FOLDER]

Each experiment runs in a process of its own, the quickest first, so one that fails is a row and harms no other. Ctrl-C
keeps what is finished. As long as nothing that a result depends on has changed (``script.identity``), it is not
computed again, and stands in ``claims.json`` and on the page even where the command names other experiments. Exit code
1 where an experiment of the command fails or a claim of it does not hold; one that is *not reproduced* is a result.
"""

from __future__ import annotations

import importlib
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments import gallery, registry, script
from experiments.claim import Claim
from experiments.registry import Experiment
from jaxsoft import signals


class Job(NamedTuple):
    """An experiment in one of its settings, with what its result depends on; or why it cannot run."""

    experiment: Experiment
    setting: str
    identity: dict[str, str] | None = None
    error: str = ""

    @property
    def stem(self) -> str:
        return script.stem(self.experiment.name, self.setting)

    @property
    def options(self) -> list[str]:
        return [] if self.setting == script.FULL else [f"--{self.setting}"]


class Outcome(NamedTuple):
    """What came of a job: its claims and the seconds they took, or an error. kept: from an earlier command."""

    job: Job
    claims: list[Claim]
    seconds: float
    error: str = ""
    kept: bool = False

    @property
    def refuted(self) -> list[Claim]:
        return [claim for claim in self.claims if not claim.passed and not claim.reported]

    @property
    def not_reproduced(self) -> list[Claim]:
        return [claim for claim in self.claims if not claim.passed and claim.reported]

    @property
    def words(self) -> str:
        if self.error:
            return f"failed: {self.error}"
        passed = sum(claim.passed for claim in self.claims)
        text = f"{passed} of {len(self.claims)} claims hold"
        text += f", {len(self.not_reproduced)} not reproduced" if self.not_reproduced else ""
        return text + (f", {len(self.refuted)} DO NOT HOLD" if self.refuted else "")


def jobs(experiment: Experiment, *, full: bool) -> list[Job]:
    """The quick setting, or all settings but the small ones. What stands in the way is told in ``Job.error``."""
    try:
        module = importlib.import_module(f"experiments.{experiment.name}")
        settings = script.settings(module)
    except (Exception, SystemExit) as error:
        return [Job(experiment, script.FULL if full else "quick", error=script.reason(error))]
    chosen = [name for name in settings if name not in ("quick", "tiny")] if full else ["quick"]
    if not set(chosen) <= set(settings):
        return [Job(experiment, "quick", error="QUICK: expected a Config of this name in the module, got none")]
    return [Job(experiment, name, script.identity(module, settings[name])) for name in chosen]


def load(job: Job, out: Path) -> Outcome | None:
    """The result of an earlier command, if it is of the same code and setting."""
    try:
        kept = json.loads((out / f"{job.stem}.claims.json").read_text())
        if kept["identity"] != job.identity or not (out / f"{job.stem}.png").exists():
            return None
        claims = [script.from_json(row) for row in kept["claims"]]
        return Outcome(job, claims, float(kept["seconds"]), kept=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def perform(job: Job, out: Path, say: Callable[[str], None]) -> Outcome:
    """Run the job, unless it is kept; what it prints goes to a log, whose last line is said and is the error."""
    if job.error:
        return Outcome(job, [], 0.0, job.error)
    kept = load(job, out)
    if kept is not None:
        return kept
    command = [sys.executable, "-m", f"experiments.{job.experiment.name}", *job.options, "--out", str(out)]
    log, began = out / f"{job.stem}.log", time.monotonic()
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
        try:
            while process.poll() is None:
                say(last_line(log))
                time.sleep(0.2)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
    seconds = time.monotonic() - began
    if process.returncode < 0:
        return Outcome(job, [], seconds, f"ended by {signal.Signals(-process.returncode).name}; see {log}")
    if process.returncode:
        return Outcome(job, [], seconds, last_line(log) or f"exit code {process.returncode}")
    made = load(job, out)
    if made is None:
        return Outcome(job, [], seconds, "its result is missing, or the code has changed meanwhile")
    return made._replace(kept=False)


def run(todo: Sequence[Job], out: Path, console: Console) -> Iterator[Outcome]:
    """The outcomes one by one; progress is shown on the console."""
    for number, job in enumerate(todo, 1):
        about = f"[{number}/{len(todo)}] {job.stem}"
        if not console.is_terminal:
            console.print(Text(about), soft_wrap=True)
        with console.status(Text(about)) as status:
            outcome = perform(
                job, out, lambda line, about=about, status=status: status.update(Text(f"{about}  {line}"))
            )
        how = "kept" if outcome.kept else f"{outcome.seconds:.0f} s"
        console.print(Text(f"{about}: {outcome.words} ({how})"), soft_wrap=True)
        yield outcome


def show(outcomes: Sequence[Outcome], console: Console) -> None:
    """The table: a line for each claim, below a line for each experiment."""
    table = Table(highlight=False)
    for heading in ("claim", "source", "expected", "measured", "verdict", "time"):
        table.add_column(heading, overflow="fold")
    for o in outcomes:
        table.add_section()
        failed = f"failed: {o.error}" if o.error else ""
        table.add_row(*map(Text, (o.job.stem, "", "", "", failed, f"{o.seconds:.0f} s")), style="bold")
        for c in o.claims:
            cells = (f"  {c.name}", c.source, c.wanted, f"{c.measured:.6g}", c.verdict, "")
            table.add_row(*map(Text, cells), style=None if c.passed else "bold")
    if not console.is_terminal:
        console.width = max(console.width, 160)
    console.print(table)


def summary(outcomes: Sequence[Outcome], left: int) -> str:
    """One sentence on how many claims hold, and how many experiments were not reached."""
    claims = [claim for o in outcomes for claim in o.claims]
    refuted, missed = (sum(len(getattr(o, kind)) for o in outcomes) for kind in ("refuted", "not_reproduced"))
    failed = sum(bool(o.error) for o in outcomes)
    text = (
        f"{sum(c.passed for c in claims)} of {len(claims)} claims hold; {refuted} do not, {missed} are not reproduced."
    )
    text += f" {failed} of {len(outcomes)} experiments failed." if failed else ""
    return text + (f" {left} experiments were not reached: the same command goes on." if left else "")


def record(outcomes: Sequence[Outcome], left: int) -> dict[str, object]:
    """``claims.json``."""
    rows = [
        {
            "experiment": o.job.experiment.name, "setting": o.job.setting, "seconds": o.seconds, "error": o.error,
            "identity": o.job.identity, "claims": [script.as_json(claim) for claim in o.claims],
        }
        for o in outcomes
    ]  # fmt: skip
    return {"summary": summary(outcomes, left), "experiments": rows}


def page(outcomes: Sequence[Outcome], left: int, out: Path) -> str:
    """``science.html``."""
    entries = []
    for o in outcomes:
        command = " ".join([f"python -m experiments.{o.job.experiment.name}", *o.job.options])
        figure = None if o.error else (out / f"{o.job.stem}.png").read_bytes()
        entries.append(gallery.Entry(o.job.experiment, command, o.claims, o.seconds, o.words, figure))
    return gallery.build(entries, summary(outcomes, left))


def _seconds(experiment: Experiment) -> float:
    """The stated time of the quick setting; infinity where there is none."""
    try:
        return registry.seconds(experiment.times.get("--quick", ""))
    except ValueError:
        return math.inf


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scoreboard; returns the exit code."""
    found = sorted(registry.experiments(), key=_seconds)
    parser = script.Parser(prog="python -m experiments.science", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="experiments to run, all if none is named")
    parser.add_argument("--cheap", action="store_true", help="only the quicker half of them")
    parser.add_argument("--full", action="store_true", help="at full size, which takes hours")
    parser.add_argument("--out", type=script.folder, default="results", help="folder for figures, claims and the page")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - {e.name for e in found}
    if unknown:
        parser.error(f"NAME: expected one of {', '.join(sorted(e.name for e in found))}, got {', '.join(unknown)}")
    asked = [e for e in found if not options.names or e.name in options.names]
    asked = asked[: -(-len(asked) // 2)] if options.cheap else asked
    todo = [job for experiment in asked for job in jobs(experiment, full=options.full)]
    rest = [job for experiment in found if experiment not in asked for job in jobs(experiment, full=options.full)]
    for signum in signals.SIGNALS:
        signal.signal(signum, signal.default_int_handler)
    outcomes: list[Outcome] = []
    try:
        for outcome in run(todo, options.out, Console(stderr=True)):
            outcomes.append(outcome)
    except KeyboardInterrupt:
        pass
    show(outcomes, Console())
    left = len(todo) - len(outcomes)
    known = outcomes + [kept for job in rest if (kept := load(job, options.out))]
    content = json.dumps(record(known, left), indent=1, ensure_ascii=False)
    script.write(options.out / "claims.json", content.encode())
    script.write(options.out / "science.html", page(known, left, options.out).encode())
    print(summary(outcomes, left), options.out / "claims.json", options.out / "science.html", sep="\n")
    return 130 if left else int(any(o.error or o.refuted for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
