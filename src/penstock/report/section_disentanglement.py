"""The classes' sub-architectures: how alike they are, what they cost, and whether they look at the right place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penstock.errors import InvalidArgumentError
from penstock.learn.similarity import layer_similarities
from penstock.paths import Floats, PathSet
from penstock.report.drawing import MUTED, SERIES, Drawing, name_layers, percent, to_svg
from penstock.report.markup import Html, details, figure, join, table, text
from penstock.report.page import Section
from penstock.report.section_classes import depth_picture, extreme_pairs, similarity_picture


@dataclass(frozen=True, eq=False, kw_only=True)
class HitRates:
    """How much of what a class's sub-architecture responds to lies where the class's object is.

    Attributes:
        mean: ``[layers]`` over mosaics and their four classes, the share of the strongest places in the quadrant
            of the class.
        deviation: ``[layers]`` standard deviation over mosaics and their classes.
        chance: what a map that knows nothing reaches, a quarter for four quadrants.
    """

    mean: Floats
    deviation: Floats
    chance: float = 0.25


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassPaths:
    """What disentanglement found.

    Attributes:
        paths: one path per class, in the classes' order.
        class_names: one per path.
        similarities: ``[layers, classes, classes]`` Jaccard indices, if they were measured already.
        expected: ``[layers]`` mean index that independent paths of these densities would have, if it was measured.
        hit_rates: if they were measured.
    """

    paths: PathSet
    class_names: tuple[str, ...]
    similarities: Floats | None = None
    expected: Floats | None = None
    hit_rates: HitRates | None = None

    def __post_init__(self) -> None:
        if len(self.paths) != len(self.class_names) or len(self.paths) < 2:
            raise InvalidArgumentError(
                f"{len(self.paths)} paths for {len(self.class_names)} classes; one each, and two at least, is needed"
            )
        layers = len(self.paths.layout.layers)
        if self.hit_rates is not None and self.hit_rates.mean.shape != (layers,):
            raise InvalidArgumentError(
                f"hit rates have shape {self.hit_rates.mean.shape}; the paths have {layers} layers"
            )


def disentanglement_section(found: ClassPaths) -> Section:
    """Similarities of the classes' sub-architectures over depth, their cost, and their hit rates."""
    layout = found.paths.layout
    similarities = found.similarities
    if similarities is None:
        similarities = layer_similarities(layout, found.paths.bits)
    most, least = extreme_pairs(similarities.mean(axis=0), found.class_names)
    parts = [
        figure(
            depth_picture(layout.names, similarities, found.expected),
            "Jaccard index of two classes' filters. Line: mean over all pairs; band: least to most alike pair"
            + ("." if found.expected is None else "; dotted: independent paths of the same densities."),
        ),
        figure(
            similarity_picture(layout.names, similarities, found.class_names),
            f"Over all layers the most alike are {most}, the least {least}.",
        ),
    ]
    if found.hit_rates is not None:
        parts.append(
            figure(
                hit_rate_picture(layout.names, found.hit_rates),
                "In mosaics of four images of different classes: share of a layer's strongest places that lie in the "
                "image of the class whose sub-architecture runs. Band: one standard deviation over mosaics and their "
                "classes.",
            )
        )
    parts.append(details("Size of each class's sub-architecture", _sizes(found)))
    lead = (
        "For each class the filters that its decisions need, found in the frozen dense network; what remains of it is "
        "the class's sub-architecture."
    )
    return Section("disentanglement", "Sub-architectures", lead, join(parts))


def hit_rate_picture(names: Sequence[str], rates: HitRates) -> Html:
    """The curve of hit rates over depth, with what chance would reach."""
    places = np.arange(len(names))
    with Drawing(2.8) as drawing:
        axes = drawing.subplots()
        low, high = (np.clip(rates.mean + sign * rates.deviation, 0, 1) for sign in (-1, 1))
        axes.fill_between(places, low, high, color=SERIES[2], alpha=0.18, linewidth=0)
        axes.plot(places, rates.mean, color=SERIES[2], marker="o", markersize=4, label="hit rate")
        axes.axhline(
            rates.chance, color=MUTED, linestyle=":", linewidth=1, label=f"chance, {rates.chance:.0%}"
        )
        name_layers(axes, names)
        percent(axes, "path hit rate")
        drawing.legend(loc="outside upper left", ncols=2)
        return to_svg(
            drawing,
            f"Path hit rate by layer, {rates.mean[0]:.0%} in the first and {rates.mean[-1]:.0%} in the last; chance is "
            f"{rates.chance:.0%}.",
        )


def _sizes(found: ClassPaths) -> Html:
    shares = zip(
        found.class_names, found.paths.bits.mean(axis=1), found.paths.active_macs.tolist(), strict=True
    )
    rows = ((text(name), text(f"{kept:.1%}"), text(f"{macs:.1%}")) for name, kept, macs in shares)
    return table(
        ("class", "filters kept", "MACs"), rows, "Of the dense network's filters that can be left out"
    )
