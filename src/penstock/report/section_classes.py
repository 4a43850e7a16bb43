"""How the classes' paths differ: which filters each class opens, and how alike two classes are, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock.learn.similarity import between_classes, layer_similarities
from penstock.paths import Floats, PathLayout
from penstock.report.drawing import (
    MUTED,
    SERIES,
    Drawing,
    heat,
    heat_scale,
    name_classes,
    name_layers,
    to_svg,
)
from penstock.report.markup import Html, figure, join
from penstock.report.page import Section

DEEP = 3  # layers whose filters are shown one by one


def classes_section(layout: PathLayout, rates: Floats, class_names: Sequence[str]) -> Section:
    """Opening rates of deep layers, and similarities of all.

    Args:
        layout: of the paths.
        rates: ``[classes, P]`` opening rate among each class's images; NaN for a class without any.
        class_names: one per class.
    """
    similarities = layer_similarities(layout, rates)
    most, least = extreme_pairs(similarities[-1], class_names)
    body = join(
        (
            figure(
                rates_picture(layout, rates, class_names),
                "Each column is a filter. Within a layer they are ordered by how much they differ between classes: "
                "what is specific to classes stands at the left, what is the same for all at the right.",
            ),
            figure(
                depth_picture(layout.names, similarities),
                "Line: mean over all pairs of different classes. Band: from the least to the most alike pair. 1: both "
                "classes open the same filters equally often.",
            ),
            figure(
                similarity_picture(layout.names, similarities, class_names),
                f"The scale begins at the least value of the three layers. In {layout.names[-1]} the most alike are "
                f"{most}, the least {least}.",
            ),
        )
    )
    lead = "How often the images of each class open each filter, and how alike two classes are in that, layer by layer."
    return Section("classes", "Classes", lead, body)


def rates_picture(layout: PathLayout, rates: Floats, class_names: Sequence[str]) -> Html:
    """Heat maps, classes x filters, of the last layers."""
    names = layout.names[-DEEP:]
    parts = list(layout.split(rates))[-DEEP:]
    with Drawing(0.5 + len(parts) * (0.6 + 0.17 * len(class_names))) as drawing:
        grid = drawing.add_gridspec(len(parts), 2, width_ratios=(40, 1))
        for row, (name, part) in enumerate(zip(names, parts, strict=True)):
            axes = drawing.add_subplot(grid[row, 0])
            spread = np.nanstd(part, axis=0)
            heat(axes, part[:, np.argsort(-spread, kind="stable")], 0, 1)
            axes.set_title(name)
            axes.set_yticks(range(len(class_names)), class_names, fontsize=8)
            axes.tick_params(length=0)
        axes.set_xlabel("filters of the layer, those that differ most between classes first")
        heat_scale(drawing.add_subplot(grid[:, 1]), 0, 1, "share of the class's images")
        return to_svg(
            drawing,
            f"Share of each class's images for which each filter of {', '.join(names)} is open.",
        )


def depth_picture(names: Sequence[str], similarities: Floats, expected: Floats | None = None) -> Html:
    """The curve of similarity between classes over depth.

    Args:
        names: of the layers.
        similarities: ``[layers, classes, classes]``.
        expected: ``[layers]`` what paths as dense as these would have by chance, drawn beside it.
    """
    pairs = between_classes(similarities)
    mean = pairs.mean(axis=1)
    places = np.arange(len(names))
    with Drawing(2.8) as drawing:
        axes = drawing.subplots()
        axes.fill_between(
            places, pairs.min(axis=1), pairs.max(axis=1), color=SERIES[0], alpha=0.18, linewidth=0
        )
        axes.plot(places, mean, color=SERIES[0], marker="o", markersize=4)
        if expected is not None:
            axes.plot(places, expected, color=MUTED, linestyle=":", linewidth=1.2)
        name_layers(axes, names)
        axes.set_ylim(0, 1.03)
        axes.set_ylabel("similarity of two classes\n(weighted Jaccard)")
        return to_svg(
            drawing,
            f"Mean similarity between the paths of two classes: {mean[0]:.2f} in the first layer, {mean[-1]:.2f} in "
            "the last.",
        )


def similarity_picture(names: Sequence[str], similarities: Floats, class_names: Sequence[str]) -> Html:
    """Heat maps, classes x classes, of an early, a middle and the last layer."""
    chosen = sorted({0, len(names) // 2, len(names) - 1})
    low = float(np.nanmin(similarities[chosen]))
    with Drawing(3.2 if len(class_names) <= 12 else 4.4) as drawing:
        grid = drawing.add_gridspec(1, len(chosen) + 1, width_ratios=[12] * len(chosen) + [1])
        for column, layer in enumerate(chosen):
            axes = drawing.add_subplot(grid[0, column])
            heat(axes, similarities[layer], low, 1)
            axes.set_title(names[layer])
            name_classes(axes, class_names, size=7)
            axes.set_yticks(range(len(class_names)), class_names if column == 0 else [], fontsize=7)
            for spine in axes.spines.values():
                spine.set_color(MUTED)
        heat_scale(drawing.add_subplot(grid[0, -1]), low, 1, "similarity", unit="")
        return to_svg(
            drawing,
            f"Similarity of every two classes in {', '.join(names[layer] for layer in chosen)}.",
        )


def extreme_pairs(similarity: Floats, names: Sequence[str]) -> tuple[str, str]:
    """The two most alike classes and the two least alike ones of one layer, as words.

    Args:
        similarity: ``[classes, classes]``, at least two of them with images.
        names: one per class.
    """
    rows, columns = np.triu_indices(len(names), k=1)
    values = similarity[rows, columns]
    found = (int(np.nanargmax(values)), int(np.nanargmin(values)))
    most, least = (f"{names[rows[at]]} and {names[columns[at]]} ({values[at]:.2f})" for at in found)
    return most, least
