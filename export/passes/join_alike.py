"""Compute once on what is joined what was computed alike on each of its parts.

``concat(x, f(a), f(b))`` becomes ``concat(x, f(concat(a, b)))`` where f looks at each number alone: one operator in the
place of several, and one join, if the parts are joined elsewhere, too. Every observer's bits are a comparison and a
cast of its gate logits; a path joins the bits of all, a detector their logits. On small graphs that counts: an operator
costs about a microsecond, whatever it computes. Only vectors are joined: of maps, engines melt f into a convolution.
"""

from __future__ import annotations

from itertools import groupby
from typing import cast

import onnx_ir as ir

from penstock.export.building import Builder, attributes_of, constant_array, is_constant

POINTWISE = ("Cast", "Greater", "Less", "Not")


def join_alike(graph: ir.Graph) -> None:
    """Rewrite every concatenation of a graph, its branches left aside."""
    waiting = [node for node in graph if node.op_type == "Concat"]
    for node in waiting:
        waiting += _joined(graph, node)
    graph.sort()


def _joined(graph: ir.Graph, node: ir.Node) -> list[ir.Node]:
    """Rewrite one concatenation; gives the new ones."""
    build, axis = Builder(graph, str(node.name)), node.attributes["axis"].as_int()
    inputs: list[ir.Value] = []
    new, done = [], []
    for alike, neighbours in groupby(map(_part, node.inputs), lambda part: part[0]):
        values = [value for _, value in neighbours]
        if alike is not None and len(values) > 1:
            makers = [cast(ir.Node, value.producer()) for value in values]
            sources = [cast(ir.Value, maker.inputs[0]) for maker in makers]
            whole = _there(graph, sources, axis)
            if whole is None:
                whole = build.op("Concat", *sources, axis=axis)
                new.append(cast(ir.Node, whole.producer()))
            first = makers[0]
            done += makers
            values = [build.op(first.op_type, whole, *first.inputs[1:], **attributes_of(first))]
        inputs += values
    if len(inputs) < len(node.inputs):
        whole = build.op("Concat", *inputs, axis=axis) if len(inputs) > 1 else inputs[0]
        build.replace(node, (whole,))
        graph.remove(done, safe=True)
        if len(inputs) > 1:
            new.append(cast(ir.Node, whole.producer()))
    return new


def _part(value: ir.Value | None) -> tuple[object, ir.Value]:
    """What two inputs of a concatenation share if they can be computed as one, and the input; nothing: it cannot be."""
    assert value is not None
    node = value.producer()
    vector = value.shape is not None and len(value.shape) == 2
    alone = len(value.uses()) == 1 and not value.is_graph_output()
    if node is None or node.op_type not in POINTWISE or not (vector and alone):
        return None, value
    others = node.inputs[1:]
    if not all(is_constant(other) and constant_array(other).size == 1 for other in others):
        return None, value
    return (node.op_type, attributes_of(node), [constant_array(other).item() for other in others]), value


def _there(graph: ir.Graph, sources: list[ir.Value], axis: int) -> ir.Value | None:
    """These values joined, if the graph does that already."""
    for node, place in sources[0].uses():
        same = node.op_type == "Concat" and place == 0 and list(node.inputs) == sources
        if same and node.graph is graph and node.attributes["axis"].as_int() == axis:
            return node.outputs[0]
    return None
