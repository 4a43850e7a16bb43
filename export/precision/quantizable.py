"""Which operators of a network are worth computing with int8, and which must not be."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_ir as ir
from onnx import helper, shape_inference

from penstock.export.lowerings.regions import inner_graphs

# They keep the scale of what they read, so that int8 passes through.
PASSING = frozenset({"Relu", "Clip", "MaxPool", "AveragePool", "Pad", "Slice"})
# The logits pass through them from the classifier's layers on, from branch to branch, and a cascade blends them.
ANSWERING = frozenset(
    {"Gemm", "Relu", "Concat", "Gather", "Where", "ScatterND", "Identity", "If", "Add", "Mul"}
)
Shapes = Mapping[str, tuple[object, ...]]


def quantizable(model: onnx.ModelProto, answers: frozenset[str]) -> list[str]:
    """Names of the nodes to quantise: convolutions, what lies between them, and the classifier.

    Everything else stays in float32: what decides on paths (pools, linear layers, comparisons), the detector, costs.

    Args:
        model: sorted, with sizes of its inputs but for the batch.
        answers: values that become the logits.
    """
    shapes = _shapes(shape_inference.infer_shapes(model))
    maps = {name for name, sizes in shapes.items() if len(sizes) == 4}
    constants = {tensor.name for tensor in model.graph.initializer}
    small = {value.name for value in model.graph.input} & maps  # what comes in int8 or soon will be
    chosen = []
    for node in model.graph.node:
        read = [name for name in node.input if name not in constants]
        if node.op_type == "Gemm":
            fits = node.output[0] in answers and node.input[1] in constants
        elif node.op_type == "Conv":
            fits = True
        elif node.op_type == "Add":  # nothing must be broadcast
            sizes = _sizes(shapes, node.output[0])
            fits = sizes is not None and [_sizes(shapes, name) for name in read] == [sizes, sizes]
        elif node.op_type in ("Concat", "Gather"):
            # Along the batch, they put together what branches answered.
            fits = all(name in small for name in read) and _axis(node) == 1
        else:
            fits = node.op_type in PASSING and all(name in small for name in read)
        if fits:
            chosen.append(node.name)
            small.update(node.output)
    return chosen


def answering(logits: ir.Value) -> frozenset[str]:
    """Names of the values, in all branches, that become the logits by linear layers alone."""
    waiting, found = [logits], set()
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if value in found or node is None or node.op_type not in ANSWERING:
            continue
        found.add(value)
        place = node.outputs.index(value)
        waiting += [graph.outputs[place] for graph in inner_graphs(node)]
        waiting += [read for read in node.inputs if read is not None]
    return frozenset(str(value.name) for value in found)


def _sizes(shapes: Shapes, name: str) -> tuple[object, ...] | None:
    """Of a map, all but the batch."""
    sizes = shapes.get(name, ())
    return sizes[1:] if len(sizes) == 4 else None


def _axis(node: onnx.NodeProto) -> int | None:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == "axis"), None)


def _shapes(model: onnx.ModelProto) -> Shapes:
    graph = model.graph
    return {
        value.name: tuple(dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
