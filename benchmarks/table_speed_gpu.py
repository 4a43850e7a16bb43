"""The table of ``results/speed_gpu.json``: compiled networks against their dense forms, batch by batch, on a GPU."""

from __future__ import annotations

from typing import Any

from table_text import markdown, measured

HEAD = (
    *("network", "form", "precision", "provider", "CUDA graph"),
    *("batch", "MACs", "ms", "images/s", "speed-up", "efficiency", "difference"),
)
NO_GPU = "**Rows of the provider `cpu` were measured without a GPU**, to show that the script runs."


def everything(results: dict[str, Any]) -> list[str]:
    """A row for each form, precision and batch."""
    rows = results["rows"]
    if not rows:
        return []
    notes = [NO_GPU, ""] if any(row["provider"] == "cpu" for row in rows) else []
    gpus = ", ".join(dict.fromkeys(row["machine"]["gpu"] or "no GPU" for row in rows))
    machines = [{key: value for key, value in row["machine"].items() if key != "gpu"} for row in rows]
    return [*markdown(HEAD, map(_line, rows), words=5), "", *notes, measured(machines, f", {gpus}")]


def _line(row: dict[str, Any]) -> list[str]:
    return [
        f"{row['network']}, {row['size']}x{row['size']}",
        row["form"],
        row["precision"],
        row["provider"],
        "yes" if row["cuda_graph"] else "no",
        str(row["batch"]),
        f"{row['macs']:.1%}",
        f"{row['ms']:.3f}",
        f"{row['images_per_second']:,.0f}",
        f"{row['speed_up']:.2f}",
        f"{row['efficiency']:.2f}",
        f"{row['difference']:.1e}",
    ]
