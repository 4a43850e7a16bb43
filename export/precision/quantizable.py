"""Which operators of a network are worth computing with int8, and which must not be."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_ir as ir
from onnx import helper, shape_inference

from penstock.export.nodes.regions import inner_graphs
from penstock.export.passes.reporting import Effect

# They keep the scale of what they read, so that int8 passes through.
PASSING = frozenset({"Relu", "Clip", "MaxPool", "AveragePool", "Pad", "Slice"})
# The logits pass through them from the classifier's layers on, from branch to branch, and a cascade blends them.
ANSWERING = frozenset(
    {"Gemm", "Relu", "Concat", "Gather", "Where", "ScatterND", "Identity", "If", "Add", "Mul"}
)
Shapes = Mapping[str, tuple[object, ...]]


DECIDES = "a linear layer that decides on paths"
UNEQUAL = "summands of different sizes"
ROWS = "it puts rows of batches together"
FLOATS = "what it reads stays float32"


def quantizable(model: onnx.ModelProto, answers: frozenset[str]) -> Effect:
    """The nodes to quantise, by name: convolutions, what lies between them, and the classifier.

    Everything else stays in float32: what decides on paths (pools, linear layers, comparisons), the detector, costs.

    Args:
        model: sorted, with sizes of its inputs but for the batch.
        answers: values that become the logits.

    Returns:
        those to quantise as changed, and why which other linear layers and makers of maps stay as they are.
    """
    shapes = _shapes(shape_inference.infer_shapes(model))
    maps = {name for name, sizes in shapes.items() if len(sizes) == 4}
    constants = {tensor.name for tensor in model.graph.initializer}
    small = {value.name for value in model.graph.input} & maps  # what comes in int8 or soon will be
    found = Effect()
    for node in model.graph.node:
        read = [name for name in node.input if name not in constants]
        if node.op_type == "Conv":
            why = None
        elif node.op_type == "Gemm":
            why = None if node.output[0] in answers and node.input[1] in constants else DECIDES
        elif node.op_type == "Add":  # nothing must be broadcast
            sizes = _sizes(shapes, node.output[0])
            fits = sizes is not None and [_sizes(shapes, name) for name in read] == [sizes, sizes]
            why = None if fits else UNEQUAL
        elif node.op_type in ("Concat", "Gather") and _axis(node) != 1:
            why = ROWS  # along the batch, they put together what branches answered
        elif node.op_type in PASSING | {"Concat", "Gather"}:
            why = None if all(name in small for name in read) else FLOATS
        else:
            continue
        if why is None:
            small.update(node.output)
        if why is None or node.op_type == "Gemm" or node.output[0] in maps:
            found.note(node.name, why)
    return found


def answering(logits: ir.Value) -> frozenset[str]:
    """Names of the values, in all branches, that become the logits by what `ANSWERING` names alone."""
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
