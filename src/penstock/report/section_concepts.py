"""How many concepts the paths of classes hold, over depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from penstock.nn.sub_architectures import SubArchitectures
from penstock.report.drawing import MUTED, SERIES, Drawing, name_layers, to_svg
from penstock.report.markup import Html, figure
from penstock.report.page import Section


def concepts_section(found: SubArchitectures) -> Section:
    """Diversity of what the channels of a path tell."""
    concepts = found.figures["concepts"]
    lead = (
        f"A channel's concept is the class that it tells best. A path holds {concepts['diversity']:.1f} of them, mean "
        f"over layers, and {concepts['own_share']:.0%} of its channels tell its own class; of all channels, "
        f"{concepts['whole_share']:.0%} tell a given one."
    )
    picture = figure(
        concepts_picture(found.layout.names, concepts),
        "Effective number of concepts. Line: of a class's path, mean over classes; dotted: of all channels of the "
        "layer.",
    )
    return Section("concepts", "Concepts", lead, picture)


def concepts_picture(names: Sequence[str], concepts: Mapping[str, Any]) -> Html:
    """The curves of diversity over depth."""
    places, own = np.arange(len(names)), concepts["diversity_by_layer"]
    with Drawing(2.8) as drawing:
        axes = drawing.subplots()
        axes.plot(places, own, color=SERIES[0], marker="o", markersize=4)
        axes.plot(places, concepts["whole_by_layer"], color=MUTED, linestyle=":", linewidth=1.2)
        name_layers(axes, names)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("concepts")
        return to_svg(
            drawing,
            f"Effective number of concepts of a path, {own[0]:.1f} in the first layer and {own[-1]:.1f} in the last.",
        )
