"""Parts of a captured network that are tuned on their own, and what there is to choose in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeAlias

import onnx_ir as ir

from penstock.export.lowerings.gathered import Gathered, Picking
from penstock.export.lowerings.lowering import Lowering
from penstock.export.lowerings.masked import Masked
from penstock.export.lowerings.routed import Routed
from penstock.export.nodes.gated_conv import read_gated_conv
from penstock.export.nodes.routed_conv import read_routed_conv
from penstock.export.passes.align_widths import Widths, compact
from penstock.manifest import FP32

# How a stage with gates can run: whether its layers are masked or gathered, and which convolutions are turned then.
MASKED = "masked"
PICKINGS = ("gathered", "filters turned", "readers turned", "both turned", MASKED)
# The forms that a routed stage's static networks can have, see `forms`.
FORMS = ("compact", "aligned", "filled", "aligned and filled")

Choice: TypeAlias = tuple[str, ...]
"""One option for each stage."""


def forms(precision: str) -> dict[str, Widths]:
    """What the forms mean at a precision."""
    small, aligned = compact(precision), Widths(align=16)
    widths = (small, aligned, replace(small, fill=True), replace(aligned, fill=True))
    return dict(zip(FORMS, widths, strict=True))


@dataclass(frozen=True)
class Tunable:
    """A captured network's stages.

    Attributes:
        stages: names of the layers of each.
        options: what there is to choose for each of them.
        routed: whether prototypes or gates rule them.
        single: make routed graphs for exactly one image.
        precision: that graphs will have.
    """

    stages: tuple[tuple[str, ...], ...]
    options: tuple[str, ...]
    routed: bool
    single: bool = False
    precision: str = FP32

    def lowering(self, choice: Choice) -> Lowering:
        """The lowering that a choice means."""
        by_layer = self.by_layer(choice)
        if self.routed:
            widths = forms(self.precision)
            return Routed(self.single, {name: widths[option] for name, option in by_layer.items()})
        if set(choice) == {MASKED}:
            return Masked()

        def layers(*options: str) -> frozenset[str]:
            return frozenset(name for name, option in by_layer.items() if option in options)

        picking = Picking(
            whole=layers(MASKED),
            turned=layers("filters turned", "both turned"),
            turned_readers=layers("readers turned", "both turned"),
        )
        return Gathered(picking)

    def by_layer(self, choice: Choice) -> Mapping[str, str]:
        """The option of each layer."""
        return {name: option for stage, option in zip(self.stages, choice, strict=True) for name in stage}


def tunable(graph: ir.Graph, *, single: bool, precision: str = FP32) -> Tunable:
    """The stages of a captured network: layers that one router rules, or that follow each other at the same size.

    Args:
        graph: before any lowering.
        single: make routed graphs for exactly one image.
        precision: that graphs will have.
    """
    layers: list[tuple[object, str]] = []
    routed = False
    for node in graph:
        conv = read_routed_conv(node)
        gated = read_gated_conv(node)
        if conv is not None or gated is not None:
            shape = node.outputs[0].shape
            assert shape is not None
            size = tuple(shape[2:])
            ruler = conv.chosen.name if conv is not None and conv.prototypes > 1 else size
            layers.append((ruler, conv.layer if conv is not None else gated.layer))  # type: ignore[union-attr]
            routed |= conv is not None
    stages = tuple(tuple(name for _, name in same) for _, same in groupby(layers, key=lambda pair: pair[0]))
    return Tunable(stages, FORMS if routed else PICKINGS, routed, single, precision)
