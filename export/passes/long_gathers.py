"""Lay out weights that are picked for every image so that each piece that a Gather copies is long."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from penstock.export.building import Builder, attributes_of, constant_array, is_constant
from penstock.export.nodes.compact import LAYER, Array
from penstock.export.passes.reporting import Effect

STRIDED = "only with stride 1, and padding within its reach, is a convolution a transposed one"
UNASKED = "not asked for: lowering auto measures whether it is faster"


class LongGathers:
    """A convolution of picked filters on picked channels becomes the same sum with its weights turned.

        direct    out = conv(x, W[filters][:, channels])
        turned    out = conv_transposed(x, V[channels][:, filters]),   V[c, f] = W[f, c], mirrored in height and width

    What the forms move differs, where weights change with every image and the engine cannot prepare them. Direct lays
    out each pixel's patch, ``k^2`` times the channels that are read, and multiplies. Turned multiplies and adds up
    ``k^2`` times the filters that are written: less where few filters read many channels. And there the weights of a
    channel lie together, so picking channels copies long pieces and not kernel by kernel: of 512 channels a quarter in
    0.2 ms and not 1.4 (ONNX Runtime 1.31, one AVX-512 core). The pass declines convolutions with strides, and layers
    for which nobody asked: which form is faster has to be measured.

    Args:
        filters: layers whose own convolution is turned.
        channels: layers whose open channels are read by turned convolutions, where those have no gate of their own.
    """

    name = "lay weights out for long Gathers"

    def __init__(self, filters: Collection[str], channels: Collection[str]) -> None:
        self._filters = filters
        self._channels = channels

    def __call__(self, graph: ir.Graph) -> Effect:
        """Turn the convolutions that were asked for and can be."""
        effect = Effect()
        for node in list(graph):
            picks = _picks(node)
            if not picks:
                continue
            name = str(node.name)
            if not self._asked(node, picks):
                effect.declined[name] = UNASKED
            elif _turn(graph, node, picks):
                effect.changed.append(name)
            else:
                effect.declined[name] = STRIDED
        return effect

    def _asked(self, node: ir.Node, picks: Mapping[int, ir.Value]) -> bool:
        own = node.meta.get(LAYER)
        return (
            own in self._filters
            if own is not None
            else (1 in picks and picks[1].meta.get(LAYER) in self._channels)
        )


def _picks(node: ir.Node) -> dict[int, ir.Value]:
    """By axis, the indices with which a convolution's weights are picked of a constant; none for all other nodes."""
    picks: dict[int, ir.Value] = {}
    value = node.inputs[1] if node.op_type == "Conv" else None
    while value is not None and not is_constant(value):
        gather = value.producer()
        if gather is None or gather.op_type != "Gather" or gather.inputs[1] is None:
            return {}
        picks[gather.attributes["axis"].as_int()] = gather.inputs[1]
        value = gather.inputs[0]
    return picks


def _turn(graph: ir.Graph, node: ir.Node, picks: Mapping[int, ir.Value]) -> bool:
    """Replace a convolution by a transposed one; ``False`` if it is none."""
    weight, bias = node.inputs[1], node.inputs[2:]
    while not is_constant(weight):
        assert weight is not None
        gather = weight.producer()
        assert gather is not None
        weight = gather.inputs[0]
    direct = constant_array(weight)
    attributes = attributes_of(node)
    pads = _turned_pads(direct, attributes)
    if pads is None:
        return False
    build = Builder(graph, f"{node.name}.turned")
    turned = build.constant(np.flip(direct, (2, 3)).swapaxes(0, 1), "weight")
    for axis in (1, 0):  # channels first: they lie along the first axis now
        if axis in picks:
            turned = build.op("Gather", turned, picks[axis], axis=1 - axis)
    output = build.op("ConvTranspose", node.inputs[0], turned, *bias, **{**attributes, "pads": pads})
    build.replace(node, (output,))
    return True


def _turned_pads(weight: Array, attributes: Mapping[str, Any]) -> list[int] | None:
    """What the transposed convolution crops, ``d (k - 1) - p`` on each side; ``None`` where there is none."""
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    pads = attributes.get("pads", [0] * 4)
    if set(strides) != {1} or attributes.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    reach = [d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
    crops = [r - p for r, p in zip([*reach, *reach], pads, strict=True)]
    return crops if min(crops) >= 0 else None
