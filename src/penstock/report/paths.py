"""A picture of paths by class: which filters each class opens, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from penstock.paths import PathSet
from penstock.report.png import canvas, write_png


def draw_paths(paths: PathSet, labels: npt.NDArray[np.int64], class_names: Sequence[str], file: Path) -> None:
    """Write a PNG: one row a class, one column a filter, grouped by layer; the darker, the more often open.

    Within a layer, filters are ordered by how much their opening rate differs between classes, so what is specific
    to a class stands at the left and what is always the same at the right.

    Args:
        paths: of ``N`` images.
        labels: ``[N]`` their classes.
        class_names: one per class.
        file: where to write.
    """
    rates = paths.by_class(labels, len(class_names))  # [classes, P]
    columns = []
    for layer_rates in paths.layout.split(rates):
        spread = np.nan_to_num(layer_rates).std(axis=0)
        columns.append(layer_rates[:, np.argsort(-spread, kind="stable")])
    figure = canvas(16, 1.6 + 0.36 * len(class_names))
    axes = figure.subplots()
    image = axes.imshow(
        np.concatenate(columns, axis=1), aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest"
    )
    axes.set_yticks(range(len(class_names)), class_names)
    starts = [part.start for part in paths.layout.slices]
    ends = [part.stop for part in paths.layout.slices]
    for edge in starts[1:]:
        axes.axvline(edge - 0.5, color="black", linewidth=0.6)
    middles = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
    axes.set_xticks(
        middles, [layer.name for layer in paths.layout.layers], rotation=40, ha="right", fontsize=8
    )
    axes.tick_params(axis="x", length=0)
    varying = float(paths.varying().mean())
    axes.set_title(
        f"How often each class opens each filter  ({len(paths):,} images, {paths.layout.bits} filters, "
        f"{varying:.0%} of them neither almost always open nor almost always closed)",
        fontsize=11,
    )
    figure.colorbar(image, ax=axes, label="share of the class's images", pad=0.01)
    write_png(figure, file)
