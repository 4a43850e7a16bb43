"""The table of ``results/stress.json``: what the long tests saw in their full forms."""

from __future__ import annotations

from typing import Any

from table_text import markdown, measured


def everything(results: dict[str, Any]) -> list[str]:
    """A row for each test."""
    lines = [
        [
            f"`{row['test'].removeprefix('tests/')}`",
            "; ".join(f"{name}: {value}" for name, value in row["counted"].items()),
            "yes" if row["passed"] else "**no**",
            f"{row['seconds'] / 60:.1f}",
        ]
        for row in results["rows"]
    ]
    notes = measured([row["machine"] for row in results["rows"]])
    return [*markdown(["test", "saw", "passed", "minutes"], lines, words=3), "", notes]
