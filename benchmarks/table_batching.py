"""The table of ``results/batching.json``: whether it pays on the CPU that requests share a run."""

from __future__ import annotations

from typing import Any

from table_text import markdown, measured


def everything(results: dict[str, Any]) -> list[str]:
    """A row for each network: an image's time by batch, and requests per second, alone and sharing runs."""
    rows = results["rows"]
    batches = list(rows[0]["ms"])
    clients = sorted({rate["concurrency"] for rate in rows[0]["rates"]})
    lines = []
    for row in rows:
        rates = {(rate["requests"], rate["concurrency"]): rate["per_second"] for rate in row["rates"]}
        pairs = [f"{rates['alone', count]:,.0f} / {rates['shared', count]:,.0f}" for count in clients]
        times = [f"{row['ms'][batch]:.2f}" for batch in batches]
        lines.append([f"{row['network']}, {row['size']}x{row['size']}", *times, *pairs])
    head = ["network", *(f"ms an image, batch {batch}" for batch in batches)]
    head += [f"requests/s, {count} at once, alone / shared" for count in clients]
    return [*markdown(head, lines), "", measured([results["machine"]])]
