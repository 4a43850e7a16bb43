"""Compute once on what is joined what was computed alike on each of its parts.

``concat(x, f(a), f(b), f(c))`` becomes ``concat(x, f(concat(a, b, c)))`` where f looks at each number alone: one
operator in the place of several, and no new join where the parts are joined elsewhere, too. Every observer's bits are a
comparison and a cast of its gate logits; a path joins the bits of all, a detector their logits. On small graphs that
counts: an operator costs about a microsecond, whatever it computes. Only vectors are joined: joining maps copies them.
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
    while waiting:
        waiting += _rewritten(graph, waiting.pop())
    graph.sort()


def _rewritten(graph: ir.Graph, node: ir.Node) -> list[ir.Node]:
    """Rewrite one concatenation; gives those of sources that this made."""
    build, axis = Builder(graph, str(node.name)), node.attributes["axis"].as_int()
    inputs: list[ir.Value] = []
    made, done = [], []
    for alike, neighbours in groupby(map(_part, node.inputs), lambda part: part[0]):
        values = [value for _, value in neighbours]
        if alike is not None and len(values) > 1:
            makers = [cast(ir.Node, value.producer()) for value in values]
            sources = [cast(ir.Value, maker.inputs[0]) for maker in makers]
            whole = _joined_already(graph, sources, axis)
            if whole is None and (len(values) > 2 or len(values) == len(node.inputs)):
                whole = build.op("Concat", *sources, axis=axis)
                made.append(cast(ir.Node, whole.producer()))
            if whole is not None:
                first = makers[0]
                values = [build.op(first.op_type, whole, *first.inputs[1:], **attributes_of(first))]
                done += makers
        inputs += values
    if done:
        build.replace(node, (build.op("Concat", *inputs, axis=axis) if len(inputs) > 1 else inputs[0],))
        graph.remove(done, safe=True)
    return made


def _part(value: ir.Value | None) -> tuple[object, ir.Value]:
    """What neighbours must share to be computed as one, ``None`` if this one must stay apart; and the value."""
    assert value is not None
    node = value.producer()
    if node is None or node.op_type not in POINTWISE or len(value.uses()) > 1 or value.is_graph_output():
        return None, value
    source, *others = node.inputs
    if source is None or source.dtype is None or source.shape is None or len(source.shape) != 2:
        return None, value
    if not all(is_constant(other) and constant_array(other).size == 1 for other in others):
        return None, value
    return (
        node.op_type,
        source.dtype,
        attributes_of(node),
        [constant_array(each).item() for each in others],
    ), value


def _joined_already(graph: ir.Graph, sources: list[ir.Value], axis: int) -> ir.Value | None:
    """These values joined, if the graph does that."""
    for node, place in sources[0].uses():
        same = node.op_type == "Concat" and place == 0 and list(node.inputs) == sources
        if same and node.graph is graph and node.attributes["axis"].as_int() == axis:
            return node.outputs[0]
    return None
