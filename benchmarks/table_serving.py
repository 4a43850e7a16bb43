"""The tables of ``results/serving.json``: servers around the same small model, where time goes, and overload."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from statistics import geometric_mean
from typing import Any

from table_text import markdown, measured

PENSTOCK, FLOOR, RAW = "Penstock", "bare grpc.aio", "ONNX Runtime, no server"
REFUSAL = "UNAVAILABLE: Exceeds maximum queue size"
SOON_MS = 50
Promise = tuple[str, str, str, bool]


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


def summary(results: dict[str, Any]) -> list[str]:
    """Requests a second: a row for each server, the fastest first, a column for each size and concurrency."""
    rates: dict[str, dict[tuple[int, int], float]] = {}
    for row in results["rows"]:
        shown = row["server"] + (" (C++ front end)" if row["native"] else "")
        if row["server"] not in (RAW, FLOOR):
            rates.setdefault(shown, {})[row["size"], row["concurrency"]] = row["requests_per_second"]
    points = sorted({point for own in rates.values() for point in own})
    best = sorted(rates.items(), key=lambda item: -geometric_mean(item[1].values()))
    lines = [
        [name, *(f"{own[point]:,.0f}" if point in own else "" for point in points)] for name, own in best
    ]
    head = ["requests/s", *(f"{size}x{size}, {at_once} at once" for size, at_once in points)]
    return [*markdown(head, lines), "", measured([results["machine"]])] if lines else []


def phases(results: dict[str, Any]) -> list[str]:
    """Mean microseconds of a request in Penstock, by phase."""
    names = ("queue", "compute_input", "compute_infer", "compute_output")
    lines = []
    for row in results["rows"]:
        if row["server"] == PENSTOCK:
            parts = row["phases_us"]
            own = [parts[name] for name in names]
            together = parts["success"]
            times = [*own, together - sum(own), together, row["mean_ms"] * 1000 - together]
            size = f"{row['size']}x{row['size']}"
            lines.append([size, str(row["concurrency"]), *(f"{each:,.0f}" for each in times)])
    head = ["image", "at once", "queue, µs", "laying inputs together", "in the graph", "taking outputs apart"]
    head += ["reading, checking, counting, answering", "together", "outside: gRPC and the client"]
    return [*markdown(head, lines, words=2), "", measured([results["machine"]])] if lines else []


def limits(results: dict[str, Any]) -> list[str]:
    """What was promised, what was measured, and whether that keeps the promise; nothing without figures to judge."""
    promises = [*_beside_peers(results), *_under_load(results.get("overload"))]
    if not promises:
        return []
    lines = [[what, measure, limit, "yes" if kept else "no"] for what, measure, limit, kept in promises]
    return [*markdown(["", "measured", "promised", "kept"], lines), "", measured([results["machine"]])]


def _beside_peers(results: dict[str, Any]) -> Iterator[Promise]:
    rows = {(row["server"], row["size"], row["concurrency"]): row for row in results["rows"]}
    points = [key[1:] for key in rows if key[0] == PENSTOCK]
    peers = {row["server"] for row in rows.values() if not row["native"]} - {PENSTOCK, FLOOR, RAW}
    peers = {peer for peer in peers if all((peer, *point) in rows for point in points)}
    alone = [point for point in points if point[1] == 1]
    if not (peers and alone):
        return

    def rate(server: str, point: tuple[int, int]) -> float:
        return float(rows[server, *point]["requests_per_second"])

    slowest = max(rows[PENSTOCK, *at]["p50_ms"] / rows[FLOOR, *at]["p50_ms"] for at in alone)
    worst = min(rate(PENSTOCK, point) / max(rate(peer, point) for peer in peers) for point in points)
    means = {server: geometric_mean([rate(server, at) for at in points]) for server in (*peers, PENSTOCK)}
    best = means[PENSTOCK] / max(means[peer] for peer in peers)
    yield "p50 / floor, 1 at once", f"{slowest:.2f}", "at most 1.25", slowest <= 1.25
    yield "requests/s / best Python peer, worst point", f"{worst:.2f}", "at least 0.97", worst >= 0.97
    yield "requests/s / best Python peer, geometric means", f"{best:.2f}", "above 1", best > 1


def _under_load(load: dict[str, Any] | None) -> Iterator[Promise]:
    """Of five times as much as the server can answer; somebody has to have been refused, or it was no overload."""
    if load is None:
        return
    accepted, refused = load["accepted"], load["refused"]
    of_bound = accepted.get("p99_ms", inf) / load["bound_ms"]
    yield "overload: p99 of the accepted / full queue", f"{of_bound:.2f}", "at most 2", of_bound <= 2
    for what, name in (("p99", "p99_ms"), ("largest", "largest_ms")):
        ms = refused.get(name, inf)
        yield f"overload: {what} of refusals, ms", f"{ms:.1f}", f"at most {SOON_MS}", ms <= SOON_MS
    as_said = sum(count for outcome, count in load["refusals"].items() if outcome.startswith(REFUSAL))
    share = as_said / max(1, refused["count"])
    yield "overload: refusals with the documented status", f"{share:.1%}", "100%", share == 1
    growth, soon = load["memory_growth"], load["recovery_ms"]
    yield "overload: memory, after / before", f"{growth:.3f}", "at most 1.03", growth <= 1.03
    yield "first answer after it, ms", f"{soon:.1f}", "at most 1000", soon <= 1000


def overload(results: dict[str, Any]) -> list[str]:
    """Times of the accepted and the refused, and how far the client kept to its timetable."""
    if not (load := results.get("overload")):
        return []
    lines = []
    for name in ("accepted", "refused"):
        times = load[name]
        shown = [f"{times[key]:.1f}" if key in times else "-" for key in ("p50_ms", "p99_ms", "largest_ms")]
        lines.append([name, f"{times['count']:,}", *shown])
    said = (
        f"{load['offered_per_second']:,.0f} requests a second for {load['seconds']:.0f} s, of which the server can "
        f"answer {load['capacity_per_second']:,.0f}; a full queue is {load['bound_ms']:.0f} ms. The client was at most "
        f"{load['generator_late_ms']:.1f} ms behind its timetable."
    )
    head = ["requests", "how many", "p50, ms", "p99, ms", "largest, ms"]
    return [*markdown(head, lines), "", said, "", measured([results["machine"]])]
