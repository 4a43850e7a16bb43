"""Frequent combinations of filters, class by class, with images that use them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from penstock.nn.cascade import RAN, Cascade
from penstock.paths import Bits
from penstock.report.combinations import Combination, Places, frequent_codes, telling_filters
from penstock.report.markup import NOTHING, Html, element, join, paragraph, text
from penstock.report.observation import Observation
from penstock.report.page import Section
from penstock.report.thumbnails import thumbnails

FILTERS = 12  # that a combination is made of
COMBINATIONS = 3  # shown of each class
OWN, OTHERS = 8, 4  # images shown of the class and of others


def combinations_section(seen: Observation) -> Section:
    """The most frequent combinations of each class in the layer that tells most about classes."""
    layer = most_telling_layer(seen)
    name = seen.paths.layout.names[layer]
    bits = seen.paths.bits[:, seen.paths.layout.slices[layer]]
    labels, names = seen.images.labels, seen.images.class_names
    filters, told = telling_filters(bits, labels, len(names), FILTERS)
    if not len(filters):
        return Section(
            "combinations", "Combinations", f"No filter of {name} tells anything about the class.", NOTHING
        )
    shares = np.bincount(labels, minlength=len(names)) / len(labels)
    whole = -float((shares[shares > 0] * np.log(shares[shares > 0])).sum())
    found = frequent_codes(bits[:, filters], labels, len(names), COMBINATIONS)
    lead = (
        f"The gates of {name} as combinations of {len(filters)} of its filters, those that together tell most of the "
        f"class: {told:.2f} of its {whole:.2f} nats, on images that they were not picked by. Under each class stand "
        "the combinations that most of its images use, with some of these images, and images of other classes that use "
        "the same."
    )
    cards = (
        element(
            "article", element("h3", text(class_name)), *_uses(seen, filters, combinations), class_="card"
        )
        for class_name, combinations in zip(names, found, strict=True)
    )
    legend = paragraph(
        "Numbers are filters of the layer: filled ones run. Images in a broken frame were misread. Point at an image "
        "for its class."
    )
    return Section(
        "combinations", "Combinations", lead, join((legend, element("div", *cards, class_="grid")))
    )


def most_telling_layer(seen: Observation) -> int:
    """Which layer's filters say most about the class, summed over filters.

    In a cascade what the second network's filters say they repeat of one decision, so they do not count; that does.
    """
    layout = seen.paths.layout
    totals = [part.sum() for part in layout.split(seen.dependence.information)]
    if isinstance(seen.checkpoint.network, Cascade):
        totals = totals[: layout.names.index(RAN) + 1]
    return int(np.argmax(totals))


def _uses(seen: Observation, filters: Places, combinations: list[Combination]) -> Iterator[Html]:
    if not combinations:
        yield paragraph("No image of this class is among them.")
    for combination in combinations:
        yield element(
            "div",
            _bits(filters, combination.code),
            paragraph(
                f"{combination.of_class:.1%} of the class; of all images that use it, {combination.precision:.1%} are "
                "of this class"
            ),
            thumbnails(seen, spread(combination.own, OWN)),
            _others(seen, combination),
            class_="use",
        )


def _others(seen: Observation, combination: Combination) -> Html:
    if not len(combination.others):
        return NOTHING
    labels = seen.images.labels[combination.others]
    counts = np.bincount(labels, minlength=len(seen.images.class_names))
    order = np.argsort(-counts, kind="stable")[:3]
    named = ", ".join(
        f"{seen.images.class_names[label]} ({counts[label]:,})" for label in order if counts[label]
    )
    return join(
        (
            paragraph(f"Other classes that use it: {named}"),
            thumbnails(seen, spread(combination.others, OTHERS)),
        )
    )


def _bits(filters: Places, code: Bits) -> Html:
    items = []
    for place in np.argsort(filters):
        state = "open" if code[place] else "closed"
        items.append(
            element("li", text(filters[place]), class_=state, title=f"filter {filters[place]}: {state}")
        )
    return element("ul", *items, class_="bits")


def spread(places: Places, most: int) -> Places:
    """At most ``most`` of the places, evenly spread, so that they do not all come from one corner of the data."""
    if len(places) <= most:
        return places
    return places[np.linspace(0, len(places) - 1, most).astype(np.intp)]
