"""Pictures of several networks' sub-architectures: curves against depth, and similarity against confusion."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from penstock.paths import Floats
from penstock.report.png import canvas, write_png

CHANCE = 0.25  # of a hit in one of four quadrants
COLUMNS = 3  # networks side by side


def draw_depth(figures: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Write a PNG: path hit rate, similarity of classes and diversity of concepts against depth, beside chance.

    Args:
        figures: for each network, by name, what ``figures.json`` of its run holds.
        file: where to write.
    """
    panels = canvas(15, 4.8)
    axes = panels.subplots(1, 3)
    for colour, (name, found) in enumerate(figures.items()):
        place = np.linspace(0, 1, len(found["layers"]))
        style: dict[str, Any] = {"color": f"C{colour}", "label": name}
        for hits in (found["hits"] or ())[:1]:
            mean, error = np.array(hits["mean"]), np.array(hits["error"])
            axes[0].plot(place, mean, **style)
            axes[0].fill_between(place, mean - 2 * error, mean + 2 * error, color=f"C{colour}", alpha=0.2)
            axes[0].set_title(f"Path hit rate, highest {hits['mask_rate']:.0%} of the pixels", fontsize=10)
        beyond = np.subtract(found["similarity_by_layer"], found["expected_similarity_by_layer"])
        axes[1].plot(place, beyond, **style)
        concepts = found["concepts"]
        axes[2].plot(place, np.subtract(concepts["diversity_by_layer"], concepts["whole_by_layer"]), **style)
    axes[1].set_title("Similarity of two classes' paths, less that of independent ones", fontsize=10)
    axes[2].set_title("Concepts of a path, less those of its layer", fontsize=10)
    for each, nothing in zip(axes, (CHANCE, 0, 0), strict=True):
        each.axhline(nothing, color="black", linewidth=0.6)
        each.set_xlabel("depth, first masked layer to last")
    lines, names = axes[1].get_legend_handles_labels()
    panels.legend(lines, names, loc="outside lower center", ncols=3)
    write_png(panels, file)


def draw_confusions(figures: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Write a PNG: how likely two classes are taken for each other against how alike their sub-architectures are.

    Args:
        figures: for each network, by name, what ``figures.json`` of its run holds; at least one.
        file: where to write.
    """
    columns = min(len(figures), COLUMNS)
    rows = -(-len(figures) // columns)
    panels = canvas(4.2 * columns, 4 * rows)
    for place, (name, found) in enumerate(figures.items(), start=1):
        axes = panels.add_subplot(rows, columns, place)
        similar, confused = pairs(found["agreement"])
        axes.scatter(similar, confused, s=14, alpha=0.7)
        axes.set_yscale("log")
        axes.set_title(f"{name}\nSpearman {found['agreement']['spearman']:.2f}", fontsize=10)
        axes.set_xlabel("similarity of two classes' sub-architectures")
        axes.set_ylabel("mean softmax output for the other class")
    write_png(panels, file)


def pairs(agreement: Mapping[str, Any]) -> tuple[Floats, Floats]:
    """Similarity and confusion of every two classes, either way of confusion at its mean, ``[pairs]`` each."""
    similar, confused = (np.array(agreement[key]) for key in ("similarity", "confusion"))
    places = np.triu_indices(len(similar), k=1)
    return similar[places], ((confused + confused.T) / 2)[places]
