"""The tables of ``results/serving.json``: servers around the same small model, and where Penstock's time goes."""

from __future__ import annotations

from statistics import geometric_mean
from typing import Any

from table_text import markdown, measured

PENSTOCK, FLOOR, RAW = "Penstock", "bare grpc.aio", "ONNX Runtime, no server"


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
    lines = []
    for row in results["rows"]:
        if row["server"] == PENSTOCK:
            parts = row["phases_us"]
            times = [*(parts[name] for name in names), row["mean_ms"] * 1000 - parts["success"]]
            size = f"{row['size']}x{row['size']}"
            lines.append([size, str(row["concurrency"]), *(f"{each:,.0f}" for each in times)])
    head = ["image", "at once", "queue, µs", "before the graph", "in the graph", "after it", "together"]
    head.append("outside: gRPC, decoding, encoding, client")
    return [*markdown(head, lines, words=2), "", measured([results["machine"]])] if lines else []


def limits(results: dict[str, Any]) -> list[str]:
    """What was promised, what was measured, and whether that keeps the promise; nothing without peers to judge by."""
    rows = {(row["server"], row["size"], row["concurrency"]): row for row in results["rows"]}
    points = [key[1:] for key in rows if key[0] == PENSTOCK]
    peers = {row["server"] for row in rows.values() if not row["native"]} - {PENSTOCK, FLOOR, RAW}
    peers = {peer for peer in peers if all((peer, *point) in rows for point in points)}
    alone = [point for point in points if point[1] == 1]
    if not (peers and alone):
        return []

    def rate(server: str, point: tuple[int, int]) -> float:
        return float(rows[server, *point]["requests_per_second"])

    slowest = max(rows[PENSTOCK, *at]["p50_ms"] / rows[FLOOR, *at]["p50_ms"] for at in alone)
    worst = min(rate(PENSTOCK, point) / max(rate(peer, point) for peer in peers) for point in points)
    means = {server: geometric_mean([rate(server, at) for at in points]) for server in (*peers, PENSTOCK)}
    best = means[PENSTOCK] / max(means[peer] for peer in peers)
    promises = (
        ("p50 / floor, 1 at once", slowest, "at most 1.25", slowest <= 1.25),
        ("requests/s / best Python peer, worst point", worst, "at least 0.97", worst >= 0.97),
        ("requests/s / best Python peer, geometric means", best, "above 1", best > 1),
    )
    lines = [[what, f"{value:.2f}", limit, "yes" if kept else "no"] for what, value, limit, kept in promises]
    return [*markdown(["", "measured", "promised", "kept"], lines), "", measured([results["machine"]])]
