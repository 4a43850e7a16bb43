"""The tables of ``results/serving.json``: servers around the same small model, and where Penstock's time goes."""

from __future__ import annotations

from typing import Any

from table_text import markdown, measured

PENSTOCK, FLOOR = "Penstock", "bare grpc.aio"


def servers(results: dict[str, Any]) -> list[str]:
    """A row for each server, size and concurrency; servers whose front end is not Python come last."""
    floor = {
        (row["size"], row["concurrency"]): row["p50_ms"] for row in results["rows"] if row["server"] == FLOOR
    }
    rows = sorted(results["rows"], key=lambda row: (row["size"], row["concurrency"], row["native"]))
    lines = []
    for row in rows:
        key = row["size"], row["concurrency"]
        lines.append(
            [
                f"{row['size']}x{row['size']}",
                str(row["concurrency"]),
                row["server"] + (" (C++ front end)" if row["native"] else ""),
                f"{row['p50_ms']:.2f}",
                f"{row['p99_ms']:.2f}",
                f"{row['requests_per_second']:,.0f}",
                f"{row['p50_ms'] / floor[key]:.2f}" if key in floor else "",
            ]
        )
    head = ["image", "at once", "server", "p50, ms", "p99, ms", "requests/s", "p50 / floor"]
    notes = [f"{name} is not here: {reason}." for name, reason in results["skipped"].items()]
    for name, versions in results.get("peers", {}).items():
        notes.append(f"{name}: {', '.join(f'{package} {number}' for package, number in versions.items())}.")
    return [*markdown(head, lines, words=3), "", *notes, measured([results["machine"]])]


def phases(results: dict[str, Any]) -> list[str]:
    """Mean microseconds of a request in Penstock, by phase."""
    names = ("queue", "compute_input", "compute_infer", "compute_output", "success")
    found = {row["size"]: row["phases_us"] for row in results["rows"] if row["server"] == PENSTOCK}
    lines = [[f"{size}x{size}", *(f"{parts[name]:,.0f}" for name in names)] for size, parts in found.items()]
    head = ["image", "queue, µs", "before the graph", "in the graph", "after it", "together"]
    return [*markdown(head, lines, words=1), "", measured([results["machine"]])] if lines else []
