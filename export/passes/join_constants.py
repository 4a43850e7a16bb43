"""Join once, when a graph is compiled, what is joined anew for every image and always the same.

``concat(x, A, B)`` becomes ``concat(x, AB)`` where A and B are constants. A path is the codes of all layers end to end,
those of static layers among them. Engines fold operators whose inputs are all constant, not those of which some are.
"""

from __future__ import annotations

from itertools import groupby

import numpy as np
import onnx_ir as ir

from penstock.export.building import Builder, constant_array, is_constant


def join_constants(graph: ir.Graph) -> None:
    """Join neighbours in every concatenation of a graph, its branches left aside."""
    for node in list(graph):
        if node.op_type == "Concat":
            _join(graph, node)


def _join(graph: ir.Graph, node: ir.Node) -> None:
    build, axis = Builder(graph, str(node.name)), node.attributes["axis"].as_int()
    inputs: list[ir.Value | None] = []
    for constant, neighbours in groupby(node.inputs, is_constant):
        values = list(neighbours)
        if constant and len(values) > 1:
            whole = np.concatenate([constant_array(value) for value in values], axis=axis)
            values = [build.constant(whole, "constants")]
        inputs += values
    if len(inputs) < len(node.inputs):
        build.replace(node, (build.op("Concat", *inputs, axis=axis),))
