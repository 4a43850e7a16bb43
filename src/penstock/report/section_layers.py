"""What each layer's gates do: how many filters are open, which of them choose, and what their choice tells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock.learn.dependence import HIGH, LOW, STEADY, Dependence
from penstock.paths import Floats, PathSet
from penstock.report.drawing import ALWAYS, NEVER, SERIES, Drawing, name_layers, percent, to_svg
from penstock.report.evaluation import LayerFigures, layer_figures
from penstock.report.markup import Html, details, figure, join, table, text
from penstock.report.page import Section

KINDS = ("almost always open", "chosen per input", "varies, but noise flips it", "almost never open")


def layers_section(paths: PathSet, dependence: Dependence) -> Section:
    """Density, kinds of filters and entropies, layer by layer."""
    layers = layer_figures(paths, dependence)
    kinds = filter_kinds(paths, dependence)
    caption = (
        f"Almost always: on more than {HIGH:.0%} of the images. Almost never: on fewer than {LOW:.0%}. Chosen per "
        f"input: in between, and on {STEADY:.0%} of the images noise of one grey level leaves the choice as it was."
    )
    body = join(
        (
            figure(density_picture(layers), "Mean share of each layer's filters that run."),
            figure(kinds_picture(paths.layout.names, kinds), caption),
            figure(
                entropy_picture(layers),
                "Height of a bar: how undecided a filter is over all images, H(z), at most ln 2 = 0.69 nats. The lower "
                "part, I(z;y), is what the class settles of it; the upper, H(z|y), is left open within a class. "
                "Means over the layer's filters.",
            ),
            details("The same as a table", _table(layers)),
        )
    )
    lead = "A gate before every convolution decides, for each image, which of its filters run."
    return Section("layers", "Layers", lead, body)


def filter_kinds(paths: PathSet, dependence: Dependence) -> Floats:
    """How the filters of each layer divide into `KINDS`.

    Returns:
        ``[layers, kinds]`` shares; each row sums to 1.
    """
    rate = dependence.opening_rate
    chosen = dependence.input_dependent
    masks = (
        ~dependence.varies & (rate > 0.5),
        chosen,
        dependence.varies & ~chosen,
        ~dependence.varies & (rate <= 0.5),
    )
    return np.array([[part.mean() for part in paths.layout.split(mask)] for mask in masks]).T


def density_picture(layers: Sequence[LayerFigures]) -> Html:
    """Bars: share of open filters."""
    density = [layer.density for layer in layers]
    with Drawing(2.7) as drawing:
        axes = drawing.subplots()
        axes.bar(range(len(layers)), density, color=SERIES[0], width=0.72)
        name_layers(axes, [layer.name for layer in layers])
        percent(axes, "filters open, mean")
        lowest, highest = (layers[int(find(density))] for find in (np.argmin, np.argmax))
        return to_svg(
            drawing,
            f"Share of open filters in {len(layers)} layers, from {lowest.density:.0%} in {lowest.name} to "
            f"{highest.density:.0%} in {highest.name}.",
        )


def kinds_picture(names: Sequence[str], kinds: Floats) -> Html:
    """Stacked bars: always open, chosen per input, trembling, never open.

    Args:
        names: of the layers.
        kinds: ``[layers, kinds]`` shares, see `filter_kinds`.
    """
    with Drawing(3.1) as drawing:
        axes = drawing.subplots()
        base = np.zeros(len(names))
        for kind, (label, colour) in enumerate(
            zip(KINDS, (ALWAYS, SERIES[0], SERIES[1], NEVER), strict=True)
        ):
            if label == KINDS[2] and not kinds[:, kind].any():
                continue  # seldom there at all: no need to explain it
            axes.bar(range(len(names)), kinds[:, kind], bottom=base, color=colour, width=0.72, label=label)
            base += kinds[:, kind]
        name_layers(axes, names)
        percent(axes, "filters of the layer")
        drawing.legend(loc="outside upper left", ncols=4)
        deepest = kinds[:, 1]
        return to_svg(
            drawing,
            "How many filters of each layer are almost always open, chosen per input, or almost never open; chosen per "
            f"input are {deepest[0]:.0%} in the first layer and {deepest[-1]:.0%} in the last.",
        )


def entropy_picture(layers: Sequence[LayerFigures]) -> Html:
    """Stacked bars: information about the class, and entropy within a class."""
    information = np.array([layer.information for layer in layers])
    within = np.array([layer.class_entropy for layer in layers])
    with Drawing(2.9) as drawing:
        axes = drawing.subplots()
        places = range(len(layers))
        axes.bar(places, information, color=SERIES[2], width=0.72, label="I(z;y), settled by the class")
        axes.bar(
            places, within, bottom=information, color=NEVER, width=0.72, label="H(z|y), open within a class"
        )
        name_layers(axes, [layer.name for layer in layers])
        axes.set_ylabel("entropy per filter, nats")
        drawing.legend(loc="outside upper left", ncols=2)
        most = layers[int(np.argmax(information))]
        return to_svg(
            drawing,
            f"Entropy of the gates and the part that the class settles, by layer; {most.name} tells most of the class, "
            f"{most.information:.2f} nats per filter.",
        )


def _table(layers: Sequence[LayerFigures]) -> Html:
    headings = (
        "layer",
        "filters",
        "open",
        "input-dependent",
        "varying",
        "class spread",
        "H(z)",
        "H(z|y)",
        "I(z;y)",
    )
    rows = (
        (
            text(layer.name),
            text(layer.filters),
            *(text(f"{share:.1%}") for share in (layer.density, layer.input_dependent, layer.varying)),
            *(
                text(f"{value:.3f}")
                for value in (layer.class_spread, layer.entropy, layer.class_entropy, layer.information)
            ),
        )
        for layer in layers
    )
    return table(
        headings, rows, "Entropies in nats; spread: standard deviation of the opening rate between classes"
    )
