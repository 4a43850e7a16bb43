"""The ``gathered`` lowering: gather the open filters' weights and run a convolution that is that much smaller.

    y = gate(x);  z = 1[y > 0];  open = indices of z;  out = relu(conv(x, W[open], b[open]))

The result is *compact*: ``[1, k, H, W]`` with k open channels and their indices beside it. It stays compact through
operators that treat channels alike (pooling, ReLU) into the next gated convolution, which gathers the input side of
its weights too, so that k_out k_in of C_out C_in products remain. Only where something needs all channels is it
scattered: at a residual add straight onto the other summand, elsewhere onto zeros. Compact values stay so through a
concatenation, also with whole ones.

ONNX fixes the number of a convolution's groups, so a depthwise convolution that follows a gate runs whole; what it
gives is made compact again where it meets its mask. A grouped convolution with a gate of its own is refused.

A convolution with no filter at all is not allowed in ONNX Runtime. Where a gate opens nothing, a filter of zeros is
run in their stead; it adds zeros to channel 0, which changes nothing.

Indices differ from image to image, so the graph takes one image at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from penstock.errors import UnsupportedError
from penstock.export.building import Builder, constant_array
from penstock.export.lowerings.gated_conv import (
    GatedConvNode,
    codes,
    gate_logits,
    pooled_input,
    read_gated_conv,
)

# Operators that treat every channel alike and keep zeros zero.
CHANNELWISE = frozenset(
    {
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "Relu",
        "LeakyRelu",
        "Elu",
        "HardSwish",
        "Tanh",
    }
)
# What a code passes through on its way to a depthwise convolution's result.
MASK_FORMS = frozenset({"Unsqueeze", "Cast", "Identity"})


@dataclass(frozen=True)
class Compact:
    """The open channels of a value.

    Attributes:
        value: ``[1, k, H, W]``.
        index: int64 ``[k]``, the channel of each.
    """

    value: ir.Value
    index: ir.Value


class Gathered:
    """Gather weights, smaller convolution."""

    name = "gathered"
    single = True
    skips = True

    def lower(self, model: ir.Model) -> frozenset[str]:
        """Replace every gated convolution of ``model``, in place, and fix the batch at one."""
        graph = model.graph
        _fix_batch(graph)
        compact: dict[ir.Value, Compact] = {}
        masks: dict[ir.Value, ir.Value] = {}  # a code, in whatever form, to the indices of its ones
        narrow: set[str] = set()
        for node in list(graph):
            conv = read_gated_conv(node)
            if conv is not None:
                narrow |= {conv.layer} if conv.x in compact else set()
                masks.update([_lower_conv(graph, conv, compact)])
            elif node.op_type in MASK_FORMS and node.inputs[0] in masks:
                masks[node.outputs[0]] = masks[node.inputs[0]]
            elif any(value in compact for value in node.inputs if value is not None):
                _lower_reader(graph, node, compact)
            elif node.op_type == "Mul" and any(value in masks for value in node.inputs if value is not None):
                _compact_again(graph, node, compact, masks)
        return frozenset(narrow)


def _lower_conv(
    graph: ir.Graph, conv: GatedConvNode, compact: dict[ir.Value, Compact]
) -> tuple[ir.Value, ir.Value]:
    """Replace one gated convolution; gives its code and the indices of its ones."""
    if conv.conv_attributes["group"] > 1:
        raise UnsupportedError(
            f"layer {conv.layer} has {conv.conv_attributes['group']} groups, whose filters cannot be gathered: take "
            "the lowering masked, or leave the layer ungated (where)"
        )
    build = Builder(graph, conv.layer)
    entering = compact.get(conv.x)
    x, rows = (conv.x, None) if entering is None else (entering.value, entering.index)
    logits = gate_logits(build, conv, pooled_input(build, x), rows)
    code = codes(build, logits)
    chosen = _open_indices(build, code)
    zeros = np.zeros_like(conv.weight[:1])
    weight = build.op(
        "Gather", build.constant(np.concatenate([conv.weight, zeros]), "weight"), chosen, axis=0
    )
    bias = build.op("Gather", build.constant(np.append(conv.bias, np.float32(0)), "bias"), chosen, axis=0)
    if rows is not None:
        weight = build.op("Gather", weight, rows, axis=1)
    output = build.op("Conv", x, weight, bias, **conv.conv_attributes)
    if conv.relu:
        output = build.op("Relu", output)
    index = build.op("Mod", chosen, build.constant(np.array(conv.filters), "filters"))
    masked, old_code, old_logits = conv.node.outputs
    build.insert_before(conv.node)
    for old, new in ((old_code, code), (old_logits, logits)):
        ir.convenience.replace_all_uses_with(old, new)
    compact[masked] = Compact(output, index)
    return code, index


def _compact_again(
    graph: ir.Graph, node: ir.Node, compact: dict[ir.Value, Compact], masks: dict[ir.Value, ir.Value]
) -> None:
    """Behind a multiplication with a mask ``[1, C, 1, 1]`` keep the open channels only.

    If none is open, the index is that of one closed channel, which the mask has made zero.
    """
    mask = next(value for value in node.inputs if value in masks)
    output = node.outputs[0]
    if output.shape is None or len(output.shape) != 4:
        return
    build = Builder(graph, f"{node.name or node.op_type}.compact")
    small = build.op("Gather", output, masks[mask], axis=1)
    graph.insert_after(node, list(build.tape.nodes))
    compact[output] = Compact(small, masks[mask])


def _open_indices(build: Builder, code: ir.Value) -> ir.Value:
    """Indices of the ones in ``code`` ``[1, filters]``; if there are none, ``[filters]``, that of the zero filter."""
    axis = build.constant(np.array([1]), "axis")
    some = build.op("ReduceMax", code, axis, keepdims=1)
    none = build.op("Sub", build.constant(np.float32(1), "one"), some)
    extended = build.op("Concat", code, none, axis=1)
    return build.op("Gather", build.op("NonZero", extended), build.constant(np.array(1), "columns"), axis=0)


def _lower_reader(graph: ir.Graph, node: ir.Node, compact: dict[ir.Value, Compact]) -> None:
    """Let an operator read compact values, or scatter them in front of it."""
    build = Builder(graph, node.name or node.op_type)
    first = node.inputs[0]
    if first in compact and _is_channelwise(node):
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        small = build.op(node.op_type, compact[first].value, *node.inputs[1:], **attributes)
        build.insert_before(node)
        compact[node.outputs[0]] = Compact(small, compact[first].index)
        return
    if node.op_type == "Concat" and node.attributes["axis"].as_int() == 1:
        joined = _joined(build, node, compact)
        build.insert_before(node)
        compact[node.outputs[0]] = joined
        return
    if node.op_type == "Add" and sum(value in compact for value in node.inputs) == 1:
        branch, other = sorted((v for v in node.inputs if v is not None), key=lambda v: v not in compact)
        if branch.shape == other.shape:  # nothing is broadcast
            build.replace(node, (_scatter(build, compact[branch], other, add=True),))
            return
    for position, value in enumerate(node.inputs):
        if value in compact:
            assert value is not None
            assert value.shape is not None
            whole = build.constant(np.zeros((1, *value.shape.numpy()[1:]), np.float32), f"zeros{position}")
            node.replace_input_with(position, _scatter(build, compact[value], whole, add=False))
    build.insert_before(node)


def _joined(build: Builder, node: ir.Node, compact: dict[ir.Value, Compact]) -> Compact:
    """A concatenation along the channels, of compact values and whole ones."""
    values, indices, offset = [], [], 0
    for position, value in enumerate(node.inputs):
        assert value is not None
        assert value.shape is not None
        channels = int(value.shape.numpy()[1])
        if value in compact:
            values.append(compact[value].value)
            start = build.constant(np.array(offset), f"offset{position}")
            indices.append(build.op("Add", compact[value].index, start))
        else:
            values.append(value)
            indices.append(build.constant(np.arange(offset, offset + channels), f"channels{position}"))
        offset += channels
    return Compact(build.op("Concat", *values, axis=1), build.op("Concat", *indices, axis=0))


def _is_channelwise(node: ir.Node) -> bool:
    if node.op_type in CHANNELWISE:
        return True
    if node.op_type == "Clip":
        low, high = (*node.inputs[1:], None, None)[:2]
        low_holds = low is None or bool(constant_array(low) <= 0)
        return low_holds and (high is None or bool(constant_array(high) >= 0))
    if node.op_type != "ReduceMean" or not node.attributes.get_int("keepdims", 1):
        return False
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    return axes is not None and set(constant_array(axes).ravel().tolist()) <= {2, 3, -1, -2}


def _scatter(build: Builder, branch: Compact, onto: ir.Value, *, add: bool) -> ir.Value:
    """Write or add a compact value's channels into ``onto`` ``[1, C, H, W]``."""
    batch = build.constant(np.array([0]), "batch")
    result = build.op(
        "ScatterND",
        build.op("Squeeze", onto, batch),
        build.op("Unsqueeze", branch.index, build.constant(np.array([1]), "last")),
        build.op("Squeeze", branch.value, batch),
        reduction="add" if add else "none",
    )
    return build.op("Unsqueeze", result, batch)


def _fix_batch(graph: ir.Graph) -> None:
    """Set the free batch dimension to one everywhere."""
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape([dim if isinstance(dim, int) else 1 for dim in value.shape])
