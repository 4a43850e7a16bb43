"""The tables of ``results/disentangle.json``: what the sub-architectures of classes can do, tell and look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from table_text import markdown, measured

PARTS = ("first quarter", "second", "third", "last quarter")  # of a network's depth


def tasks(results: dict[str, Any]) -> list[str]:
    """One row a network: each class's yes-or-no task by its sub-architecture, beside the whole network."""
    head = ["network", "loss", "beta", "accuracy, dense", "own-class recall, dense", "own-class recall"]
    head += ["balanced accuracy, dense", "balanced accuracy", "filters", "MACs", "images"]
    rows = []
    for name, entry in results["networks"].items():
        figures, own = entry["figures"], entry["figures"]["tasks"]
        shares = ("dense_recall", "recall", "dense_balanced", "balanced", "density", "mac_share")
        rows.append(
            (
                f"`{name}`",
                entry["settings"]["form"],
                f"{figures['beta']:g}",
                f"{figures['dense_accuracy']:.2%}",
                *(f"{np.mean(own[key]):.1%}" for key in shares),
                f"{own['images']:,}",
            )
        )
    return _finished(markdown(head, rows, words=2), results)


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


def _hit(hits: dict[str, Any], part: Sequence[int] | np.ndarray[Any, Any]) -> str:
    """Mean over layers; no standard error of a mean is larger than the mean of its layers' standard errors."""
    mean, error = (np.asarray(hits[key])[part].mean() for key in ("mean", "error"))
    return f"{mean:.1%} ± {100 * error:.1f}"


def _chance(p_value: float | None) -> str:
    return "none" if p_value is None else f"{p_value:.1g}"


def _finished(table: list[str], results: dict[str, Any]) -> list[str]:
    entries = results["networks"].values()
    return [*table, "", measured(entry["machine"] for entry in entries)] if entries else []
