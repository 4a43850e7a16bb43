"""The tables of ``results/main_job.json``: the main job end to end, and the time of each lowering."""

from __future__ import annotations

from typing import Any

from table_text import markdown, measured

FIGURES = (
    ("accuracy, dense", "dense_accuracy", "{:.2%}"),
    ("accuracy, decoupled", "decoupled_accuracy", "{:.2%}"),
    ("share of the dense MACs, gates counted", "mac_fraction", "{:.1%}"),
    ("largest difference of a logit, served against PyTorch", "parity_max_abs", "{:.1e}"),
    ("false positives, promised", "fpr_target", "{:.1%}"),
    ("false positives, measured", "fpr", "{:.1%}"),
    ("honest test images", "fpr_n", "{:,}"),
    ("PGD attacks that succeed", "attack_success", "{:.1%}"),
    ("of these, flagged", "tpr_pgd", "{:.1%}"),
    ("dense time / decoupled time, batch 1, 1 thread", "latency_ratio", "{:.2f}"),
    ("lowering that `auto` took", "lowering", "{}"),
)


def main_job(results: dict[str, Any]) -> list[str]:
    """One column a data set, one row a figure."""
    demos = results["demo"]
    rows = (
        (title, *("none" if demo[key] is None else form.format(demo[key]) for demo in demos.values()))
        for title, key, form in FIGURES
    )
    return [*markdown(["", *demos], rows), "", measured([results["machine"]], ", no GPU in use")]


def lowerings(results: dict[str, Any]) -> list[str]:
    """One row a lowering, one column a thread count."""
    rows = results.get("lowerings", [])
    threads = sorted({row["threads"] for row in rows})
    head = ["lowering"]
    for count in threads:
        head += [f"{count} thread{'s' * (count > 1)}, ms", "dense / this"]
    lines = []
    for label in dict.fromkeys(row["lowering"] for row in rows):
        own = sorted((row for row in rows if row["lowering"] == label), key=lambda row: row["threads"])
        lines.append([label, *(text for row in own for text in (f"{row['ms']:.3f}", f"{row['ratio']:.2f}"))])
    return markdown(head, lines)
