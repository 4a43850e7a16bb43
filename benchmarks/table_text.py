"""What all tables are written with: Markdown lines, and where and when their figures were measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> list[str]:
    """Lines of a table.

    Args:
        head: titles of the columns.
        rows: cells.
        words: how many columns, from the left, hold words; figures stand at the right of their columns.
    """
    sides = ["---"] * words + ["---:"] * (len(head) - words)
    return ["".join(f"| {cell} " if cell else "| " for cell in cells) + "|" for cells in (head, sides, *rows)]


def share(values: Sequence[float], digits: int = 1) -> str:
    """A share in percent; of several its mean and, in brackets, the least and the largest."""
    return _mean(values, lambda value: f"{value:.{digits}%}")


def points(values: Sequence[float]) -> str:
    """Percentage points; several as in `share`."""
    return _mean(values, lambda value: f"{value:.2f}")


def measured(machines: Iterable[dict[str, Any]], what: str = "") -> str:
    """When, from which commits and on what the figures of a table were measured.

    Args:
        machines: as `machine.about` describes them, one for each figure.
        what: to add to their description.
    """
    found = list({repr(machine): machine for machine in machines}.values())
    dates = sorted({machine["date"] for machine in found})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    commits = ", ".join(dict.fromkeys(machine["commit"] for machine in found))
    where = " and ".join(dict.fromkeys(f"{each['cpu']}, {each['cores']} cores" for each in found))
    software = "; ".join(dict.fromkeys(map(_software, found)))
    return f"Measured {when} at {commits} on {where}{what}; {software}."


def _software(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    return f"Python {machine['python']}, {versions}"


def _mean(values: Sequence[float], form: Callable[[float], str]) -> str:
    mean = form(sum(values) / len(values))
    return mean if len(values) == 1 else f"{mean} ({form(min(values))} to {form(max(values))})"
