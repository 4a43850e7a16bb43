"""The table of ``results/ray.json``: replicas on a Ray cluster of one machine beside one server."""

from __future__ import annotations

from typing import Any

from table_text import markdown, measured

_MODELS = {"model": "next to none", "work": "8 convolutions"}


def scaling(results: dict[str, Any]) -> list[str]:
    """A row for each model and number of replicas."""
    rows = sorted(results["rows"], key=lambda row: list(_MODELS).index(row["model"]))
    lines = [
        [
            _MODELS[row["model"]],
            row["server"],
            f"{row['requests_per_second']:,.0f}",
            f"{row['p50_ms']:.1f}",
            f"{row['p99_ms']:.1f}",
        ]
        for row in rows
    ]
    head = ["work", "server", "requests/s", "p50, ms", "p99, ms"]
    ray = results["machine"]["versions"]["ray"]
    notes = (
        f"{results['rows'][0]['concurrency']} requests at once, Ray {ray}. {measured([results['machine']])}"
    )
    return [*markdown(head, lines, words=2), "", notes]
