"""What became of a plan, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from penstock.export.plans.outcome import FAILED, RESULTS, Outcome, told_name

STYLES = {FAILED: "red"}


def outcome_table(outcomes: Sequence[Outcome], title: str) -> Table:
    """One row for each outcome."""
    table = Table(title=escape(title))
    table.add_column("name", overflow="fold")
    table.add_column("result", no_wrap=True)
    table.add_column("lowering", no_wrap=True)
    table.add_column("precision", no_wrap=True)
    for heading in ("speed", "MACs", "size", "took"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("version, or what went wrong", overflow="fold")
    several = len({outcome.repository for outcome in outcomes}) > 1
    for outcome in outcomes:
        table.add_row(
            escape(told_name(outcome.home, several=several)),
            outcome.result,
            f"{outcome.lowering}, static" if outcome.static else outcome.lowering,
            outcome.precision,
            outcome.speed,
            "" if outcome.macs is None else f"{outcome.macs:.1%}",
            "" if outcome.size is None else _size(outcome.size),
            f"{outcome.seconds:.1f} s",
            escape(outcome.version or (outcome.error or "").split("\n", 1)[0]),
            style=STYLES.get(outcome.result),
        )
    return table


def to_json(plan: Path, outcomes: Sequence[Outcome], entries: int) -> str:
    """The same and more.

    Args:
        plan: the file.
        outcomes: of those entries that were come to.
        entries: how many there are.
    """
    counts = {result: sum(outcome.result == result for outcome in outcomes) for result in RESULTS}
    value = {
        "plan": str(plan),
        "entries": entries,
        **{result.replace(" ", "_"): count for result, count in counts.items()},
        "exports": [asdict(outcome) for outcome in outcomes],
    }
    return json.dumps(value, indent=2) + "\n"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
