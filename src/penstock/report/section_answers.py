"""What sub-architectures have to do with answers: which images get yes, and who is taken for whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from penstock.nn.sub_architectures import SubArchitectures
from penstock.paths import Floats
from penstock.report.disentangle import pairs
from penstock.report.drawing import SERIES, Drawing, heat, heat_scale, name_classes, to_svg
from penstock.report.markup import Html, figure, join, paragraph, text
from penstock.report.page import Section


def answers_section(found: SubArchitectures) -> Section:
    """Answers of every sub-architecture to every class's images, and the whole network's confusions."""
    figures = found.figures
    parts = [
        figure(
            answers_picture(np.array(figures["tasks"]["yes"]), found.class_names),
            "Each row is a class's images, each column a class's sub-architecture: the share of the images that it "
            "takes for its own class. A network that divides well is dark on the diagonal alone.",
        )
    ]
    if "confusion" in figures["agreement"]:  # runs of earlier versions kept the correlation only
        parts.append(
            figure(
                confusions_picture(figures["agreement"]),
                "Each point is a pair of classes: how alike their sub-architectures are, and the mean softmax output "
                "of the whole network for one over images of the other.",
            )
        )
    parts += [
        paragraph(text(line)) for line in (_agreement(figures["agreement"]), _errors(figures["errors"]))
    ]
    lead = "Are classes with similar sub-architectures taken for each other?"
    return Section("answers", "Answers and confusions", lead, join(parts))


def answers_picture(yes: Floats, class_names: Sequence[str]) -> Html:
    """Heat map, images of a class x sub-architecture of a class."""
    with Drawing(3.6 if len(class_names) <= 12 else 5.6) as drawing:
        grid = drawing.add_gridspec(1, 2, width_ratios=(30, 1))
        axes = drawing.add_subplot(grid[0, 0])
        heat(axes, yes, 0, 1)
        name_classes(axes, class_names)
        axes.set_yticks(range(len(class_names)), class_names, fontsize=8)
        axes.set_xlabel("sub-architecture of")
        axes.set_ylabel("images of")
        heat_scale(drawing.add_subplot(grid[0, 1]), 0, 1, "share that gets yes")
        return to_svg(
            drawing,
            "Share of each class's images that each sub-architecture takes for its own class; of its own images "
            f"{yes.diagonal().mean():.0%} in the mean.",
        )


def confusions_picture(agreement: Mapping[str, Any]) -> Html:
    """Similarity of classes against how likely they are taken for each other."""
    similar, confused = pairs(agreement)
    with Drawing(3.2) as drawing:
        axes = drawing.subplots()
        axes.scatter(similar, confused, s=16, alpha=0.7, color=SERIES[0])
        axes.set_yscale("log")
        axes.set_xlabel("similarity of two classes' sub-architectures")
        axes.set_ylabel("mean softmax output\nfor the other class")
        return to_svg(
            drawing,
            f"Similarity against confusion of {len(similar)} pairs of classes: Spearman's correlation is "
            f"{agreement['spearman']:.2f}.",
        )


def _agreement(agreement: Mapping[str, Any]) -> str:
    return (
        f"Spearman's correlation of similarity and confusion is {agreement['spearman']:.2f} "
        f"(p = {agreement['p_value']:.2g}, over {agreement['images']:,} images). Of the {agreement['top_k']} classes "
        f"most confused with one, {agreement['top_k_agreement']:.0%} are among its most similar ones; by chance "
        f"{agreement['top_k_chance']:.0%}."
    )


def _errors(errors: Mapping[str, Any]) -> str:
    if not errors["errors"]:
        return f"None of {errors['images']:,} images was misread: there are no errors to explain."
    low, high = errors["interval_95"]
    return (
        f"Of {errors['images']:,} images {errors['errors']:,} were misread. Among the wrong classes, ranked by how "
        f"similar they are to the right one, the one that was said stands at {errors['percentile']:.0%} (95% of the "
        f"time between {low:.0%} and {high:.0%}; chance is 50%, p = {errors['p_value']:.2g}); {errors['nearest']:.0%} "
        f"went to the most similar class, by chance {errors['nearest_chance']:.0%}."
    )
