"""What a person sees while a sweep runs: a progress bar, or plain lines."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

PLAIN_SECONDS = 10.0  # between plain lines when standard error is not a terminal


class Report:
    """Lanes done, run-steps per second, time left and diverged lanes; plain lines when not a terminal."""

    def __init__(self, total: int, steps_per_lane: int, *, show: bool, verbose: bool = False) -> None:
        self.total, self.steps_per_lane, self.show, self.verbose = total, steps_per_lane, show, verbose
        self.done = self.diverged = 0
        self._resumed = 0
        self._steps = 0.0
        self._equivalent = 0.0  # steps as if every finished lane had run to the end: what the time left goes by
        self._began = self._said = time.monotonic()
        self._console = Console(stderr=True, file=sys.stderr)
        self._bar: Progress | None = None

    def __enter__(self) -> Report:
        if self.show and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[runs]} runs"),
                TextColumn("{task.fields[rate]}"),
                console=self._console,
                expand=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=self.total * self.steps_per_lane, rate="", runs="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, what: str) -> None:
        """Name the work in hand (a compilation, a block)."""
        if self._bar is not None:
            self._bar.update(self._task, description=what)
        elif self.show:
            print(what, file=sys.stderr, flush=True)

    def explain(self, what: str) -> None:
        """A line that stays, for who wants to know more."""
        if self.verbose:
            self._console.print(what, highlight=False, markup=False, soft_wrap=True)

    def resumed(self, lanes: int) -> None:
        """Count lanes that an earlier command committed."""
        self.done += lanes
        self._resumed += lanes
        self._draw()

    def advanced(self, steps: float, equivalent: float) -> None:
        """Count steps taken, and the steps that are thereby no longer to do."""
        self._steps += steps
        self._equivalent += equivalent
        self._draw()

    def finished(self, lanes: int, diverged: int) -> None:
        self.done += lanes
        self.diverged += diverged
        self._draw(force=self.done == self.total)

    def summary(self) -> str:
        elapsed = max(time.monotonic() - self._began, 1e-9)
        rate = self._steps / elapsed
        work = (self.total - self._resumed) * self.steps_per_lane
        left = (work - self._equivalent) * elapsed / self._equivalent if self._equivalent else float("nan")
        text = f"{_short(rate)} steps/s"
        text += f", {_duration(left)} left" if left == left and self.done < self.total else ""
        return f"{text}, {self.diverged} diverged"

    def _draw(self, *, force: bool = False) -> None:
        if self._bar is not None:
            steps = self._resumed * self.steps_per_lane + self._equivalent  # moves between commits too
            runs = f"{self.done}/{self.total}"
            self._bar.update(self._task, completed=steps, rate=self.summary(), runs=runs)
        elif self.show and (force or time.monotonic() - self._said > PLAIN_SECONDS):
            self._said = time.monotonic()
            print(f"{self.done}/{self.total} runs, {self.summary()}", file=sys.stderr, flush=True)


def _short(number: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def _duration(seconds: float) -> str:
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
