"""The tables of ``results/mixed_batches.json`` and its like of a GPU: what it costs that a batch mixes paths."""

from __future__ import annotations

from typing import Any

from table_text import markdown, measured


def everything(results: dict[str, Any]) -> list[str]:
    """A row for each network and batch; the last column is the most that a queue by path could gain."""
    lines = []
    for row in results["rows"]:
        times, paths = row["ms"], row["paths"]
        shown = [f"{times[way]:.2f}" for way in ("one by one", "mixed", "sorted", "alike")]
        lines.append(
            [
                f"{row['network']}, {row['size']}x{row['size']}",
                str(row["batch"]),
                f"{paths['mixed']:.1f} / {paths['sorted']:.1f}",
                *shown,
                f"{1 - times['sorted'] / times['mixed']:.0%}",
                f"{1 - times['alike'] / times['mixed']:.0%}",
            ]
        )
    head = ["network", "batch", "paths in a batch, mixed / sorted"]
    head += [f"ms an image, {way}" for way in ("one by one", "mixed", "sorted", "alike")]
    head += ["sorting gains", "bound"]
    return [*markdown(head, lines), "", measured([results["machine"]], f", {results['where']}")]
