"""Pictures of sub-architectures: curves against depth, one network beside the other, and the classes' similarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.learn.subarchitectures import similarity
from penstock.paths import PathSet
from penstock.report.png import canvas, write_png

CHANCE = 0.25  # of a hit in one of four quadrants


def draw_depth(figures: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Write a PNG: path hit rate, similarity of classes and diversity of concepts against depth.

    Args:
        figures: for each network, by name, what ``figures.json`` of its run holds.
        file: where to write.
    """
    panels = canvas(15, 4.2)
    axes = panels.subplots(1, 3)
    for colour, (name, found) in enumerate(figures.items()):
        place = np.linspace(0, 1, len(found["layers"]))
        style: dict[str, Any] = {"color": f"C{colour}", "label": name}
        for hits in (found["hits"] or ())[:1]:
            mean, error = np.array(hits["mean"]), np.array(hits["error"])
            axes[0].plot(place, mean, **style)
            axes[0].fill_between(place, mean - 2 * error, mean + 2 * error, color=f"C{colour}", alpha=0.2)
            axes[0].set_title(f"Path hit rate, highest {hits['mask_rate']:.0%} of the pixels")
        axes[1].plot(place, found["similarity_by_layer"], **style)
        axes[1].plot(place, found["expected_similarity_by_layer"], color=f"C{colour}", linestyle=":")
        axes[2].plot(place, found["concepts"]["diversity_by_layer"], **style)
        axes[2].plot(place, found["concepts"]["whole_by_layer"], color=f"C{colour}", linestyle=":")
    axes[0].axhline(CHANCE, color="black", linewidth=0.6)
    axes[1].set_title("Similarity of two classes' paths (dotted: independent ones)")
    axes[2].set_title("Concepts of a path (dotted: of the layer)")
    for each in axes:
        each.set_xlabel("depth, first masked layer to last")
    axes[1].legend()
    write_png(panels, file)


def draw_similarity(paths: PathSet, class_names: Sequence[str], file: Path) -> None:
    """Write a PNG: the mean Jaccard index of every two classes' sub-architectures.

    Args:
        paths: ``[classes, P]``.
        class_names: one per class.
        file: where to write.
    """
    similar = similarity(paths).mean(axis=0)
    np.fill_diagonal(similar, np.nan)
    panels = canvas(0.5 * len(class_names) + 3, 0.5 * len(class_names) + 2)
    axes = panels.subplots()
    _matrix(panels, axes, similar, class_names, class_names, "Jaccard index, mean over layers")
    axes.set_title("How alike two classes' sub-architectures are")
    write_png(panels, file)


def draw_tasks(figures: Mapping[str, Any], class_names: Sequence[str], file: Path) -> None:
    """Write a PNG: of which class's images each sub-architecture says that they are its own.

    Args:
        figures: what ``figures.json`` of a run holds.
        class_names: one per class.
        file: where to write.
    """
    panels = canvas(0.5 * len(class_names) + 3, 0.5 * len(class_names) + 2)
    axes = panels.subplots()
    yes = np.array(figures["tasks"]["yes"])
    _matrix(panels, axes, yes, class_names, class_names, "share that gets yes")
    axes.set_xlabel("sub-architecture of")
    axes.set_ylabel("images of")
    write_png(panels, file)


def _matrix(
    panels: Any,
    axes: Any,
    values: npt.NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    meaning: str,
) -> None:
    image = axes.imshow(values, cmap="Blues")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right")
    panels.colorbar(image, ax=axes, label=meaning)
