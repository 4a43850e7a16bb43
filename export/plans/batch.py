"""Carry out a plan and tell what became of it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

from penstock.errors import InvalidArgumentError
from penstock.export.options import ExportOptions
from penstock.export.plans.display import watching
from penstock.export.plans.leftovers import sweep
from penstock.export.plans.on_ray import run_all_on_ray
from penstock.export.plans.outcome import FAILED, Outcome
from penstock.export.plans.plan import read_plan
from penstock.export.plans.table import outcome_table, to_json
from penstock.export.plans.workers import Watcher, run_all, usable_cores
from penstock.files import write_atomic

INTERRUPTED = 130
WIDTH = 160  # of a table that goes to a file


def run_plan(
    path: Path,
    *,
    jobs: int | None = None,
    repository: Path | None = None,
    data: Path | None = None,
    json_file: Path | None = None,
    ray: str | None = None,
) -> int:
    """Make every bundle of a plan that is not there yet; print a table at the end.

    Args:
        path: the plan.
        jobs: processes at a time; by default half as many as there are cores.
        repository: counts instead of what the plan says.
        data: counts instead of what the plan says.
        json_file: write the table here, too.
        ray: address of a Ray cluster to work on, instead of processes.

    Returns:
        Exit code: 0 if all are there, 1 if one failed, 130 if it was interrupted.

    Raises:
        PenstockError: the plan is missing or wrong, or there are fewer jobs than one; nothing was begun.
    """
    jobs = max(1, usable_cores() // 2) if jobs is None else jobs
    if jobs < 1:
        raise InvalidArgumentError(f"jobs is {jobs}; at least 1 is needed")
    options = [entry.options for entry in read_plan(path, repository=repository, data=data)]
    sweep({each.home for each in options})
    outcomes: list[Outcome] = []
    interrupted = False
    try:
        several = len({each.repository for each in options}) > 1
        with (
            watching(len(options), several=several) as watcher,
            closing(_results(options, jobs, ray, watcher)) as results,
        ):
            for outcome in results:
                outcomes.append(outcome)
    except KeyboardInterrupt:
        interrupted = True
    order = {each.home: place for place, each in enumerate(options)}
    outcomes.sort(key=lambda outcome: order[outcome.home])
    _print(path.name + (", interrupted" if interrupted else ""), outcomes, len(options))
    if json_file is not None:
        write_atomic(json_file, to_json(path, outcomes, len(options)))
    if interrupted:
        return INTERRUPTED
    return 1 if any(outcome.result == FAILED for outcome in outcomes) else 0


def _results(
    options: Sequence[ExportOptions], jobs: int, ray: str | None, watcher: Watcher
) -> Generator[Outcome]:
    return run_all(options, jobs, watcher) if ray is None else run_all_on_ray(options, ray, watcher)


def _print(title: str, outcomes: Sequence[Outcome], entries: int) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(outcome_table(outcomes, f"{title}: {len(outcomes)} of {entries}"))
