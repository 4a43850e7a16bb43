"""Show how a plan goes: moving bars in a terminal, plain lines elsewhere; both on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from penstock.export.plans.outcome import FAILED, Outcome, told_name
from penstock.export.plans.workers import Watcher


@contextmanager
def watching(total: int, console: Console | None = None, *, several: bool = False) -> Iterator[Watcher]:
    """Somebody to tell how it goes.

    Args:
        total: number of entries.
        console: where to show it; by default stderr.
        several: whether the models are of several repositories.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield Lines(total, console, several=several)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[line]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bars(total, progress, several=several)


class Lines:
    """One line for everything that happens."""

    def __init__(self, total: int, console: Console, *, several: bool = False) -> None:
        self.total = total
        self.several = several
        self.done = 0
        self.console = console

    def began(self, home: Path) -> None:
        """Nothing worth a line."""

    def said(self, home: Path, line: str) -> None:
        """Print it."""
        self._print(f"- {told_name(home, several=self.several)}: {line}")

    def ended(self, outcome: Outcome) -> None:
        """Print it, with the whole error."""
        self.done += 1
        self._print(f"[{self.done}/{self.total}] {summary(outcome, several=self.several)}")

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


class Bars:
    """One bar for the plan, and one line for every entry that somebody is at."""

    def __init__(self, total: int, progress: Progress, *, several: bool = False) -> None:
        self.progress = progress
        self.several = several
        self.whole = progress.add_task("exports", total=total, line="")
        self.tasks: dict[Path, TaskID] = {}

    def began(self, home: Path) -> None:
        """Add a line."""
        name = told_name(home, several=self.several)
        self.tasks[home] = self.progress.add_task(escape(name), total=None, line="")

    def said(self, home: Path, line: str) -> None:
        """Change the line."""
        self.progress.update(self.tasks[home], line=escape(line))

    def ended(self, outcome: Outcome) -> None:
        """Take the line away; an error stays."""
        self.progress.remove_task(self.tasks.pop(outcome.home))
        self.progress.advance(self.whole)
        if outcome.result == FAILED:
            told = summary(outcome, several=self.several)
            self.progress.console.print(told, markup=False, highlight=False, soft_wrap=True)


def summary(outcome: Outcome, *, several: bool = False) -> str:
    """An outcome in one line, or as many as its error has."""
    told = f"{told_name(outcome.home, several=several)}: {outcome.result}"
    if outcome.result == FAILED:
        return f"{told}: {outcome.error}"
    return f"{told}, {outcome.version}, {outcome.seconds:.1f} s"
