"""The tables of ``results/disentangle.json``: what the sub-architectures of classes can do, tell and look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from table_text import markdown, measured

PARTS = ("first quarter", "second", "third", "last quarter")  # of a network's depth
KEPT = (
    "*Kept* is the share of the whole network's balanced accuracy above chance that validation images show, by which "
    "beta is chosen; **bold** where no beta that was tried keeps what was asked for."
)


def tasks(results: dict[str, Any]) -> list[str]:
    """One row a network: each class's yes-or-no task by its sub-architecture, beside the whole network."""
    head = ["network", "loss", "beta", "accuracy, dense", "own-class recall, dense", "own-class recall"]
    head += [
        "balanced accuracy, dense",
        "balanced accuracy",
        "filters",
        "MACs",
        "images",
        "kept (validation)",
        "to keep",
    ]
    rows = []
    for name, entry in results["networks"].items():
        figures, own = entry["figures"], entry["figures"]["tasks"]
        keep, kept = entry["settings"]["keep"], _kept(figures)
        shares = ("dense_recall", "recall", "dense_balanced", "balanced", "density", "mac_share")
        rows.append(
            (
                f"`{name}`",
                entry["settings"]["form"],
                f"{figures['beta']:g}",
                f"{figures['dense_accuracy']:.2%}",
                *(f"{np.mean(own[key]):.1%}" for key in shares),
                f"{own['images']:,}",
                f"{kept:.1%}" if kept >= keep else f"**{kept:.1%}**",
                f"{keep:.0%}",
            )
        )
    return _finished([*markdown(head, rows, words=2), "", KEPT], results)


def classes(results: dict[str, Any]) -> list[str]:
    """One row a network: similarity of classes, what it says of confusions and errors, and concepts."""
    head = ["network", "similarity", "by chance", "Spearman with confusion", "p", "errors"]
    head += ["percentile of the wrong class", "95% interval", "p", "concepts a path", "concepts a layer"]
    rows = []
    for name, entry in results["networks"].items():
        figures = entry["figures"]
        agreement, errors, concepts = (figures[key] for key in ("agreement", "errors", "concepts"))
        interval = errors["interval_95"]
        rows.append(
            (
                f"`{name}`",
                f"{figures['similarity']:.3f}",
                f"{np.mean(figures['expected_similarity_by_layer']):.3f}",
                f"{agreement['spearman']:.2f}",
                _chance(agreement["p_value"]),
                f"{errors['errors']:,}",
                "none" if interval is None else f"{errors['percentile']:.1%}",
                "none" if interval is None else f"{interval[0]:.1%} to {interval[1]:.1%}",
                _chance(errors["p_value"]),
                f"{concepts['diversity']:.2f}",
                f"{np.mean(concepts['whole_by_layer']):.2f}",
            )
        )
    return _finished(markdown(head, rows), results)


def hit_rates(results: dict[str, Any]) -> list[str]:
    """One row a network and mask rate, one column a part of the depth; chance is 25 %."""
    rows = [
        (
            f"`{name}`",
            f"{hits['mask_rate']:.0%}",
            *(_hit(hits, part) for part in np.array_split(np.arange(len(hits["mean"])), len(PARTS))),
            f"{hits['last']:.1%}",
            f"{np.mean(hits['open_mean']):.1%}",
            f"{hits['mosaics']:,}",
        )
        for name, entry in results["networks"].items()
        for hits in entry["figures"]["hits"] or ()
    ]
    head = ["network", "pixels that count", *PARTS, "last three layers", "all filters open", "mosaics"]
    return _finished(markdown(head, rows), results) if rows else []


def _kept(figures: dict[str, Any]) -> float:
    """What the beta that was taken keeps of the network's balanced accuracy above chance, on validation images."""
    (kept,) = (each["kept"] for each in figures["candidates"] if each["beta"] == figures["beta"])
    return float(kept)


def _hit(hits: dict[str, Any], part: Sequence[int] | np.ndarray[Any, Any]) -> str:
    """Mean over layers; no standard error of a mean is larger than the mean of its layers' standard errors."""
    mean, error = (np.asarray(hits[key])[part].mean() for key in ("mean", "error"))
    return f"{mean:.1%} ± {100 * error:.1f}"


def _chance(p_value: float | None) -> str:
    return "none" if p_value is None else f"{p_value:.1g}"


def _finished(table: list[str], results: dict[str, Any]) -> list[str]:
    entries = results["networks"].values()
    return [*table, "", measured(entry["machine"] for entry in entries)] if entries else []
