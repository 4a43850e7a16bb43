"""Read of several tensors only those that are asked for, not a part of all of them joined."""

from __future__ import annotations

from typing import cast

import numpy as np
import onnx_ir as ir

from penstock.errors import UnsupportedError
from penstock.export.building import Builder, constant_array, dimension, is_constant
from penstock.export.passes.reporting import Effect

AXIS = "it slices along another axis than parts are joined along"
STEPS = "it takes every so many, or what it takes shows only when the graph runs"
WIDTHS = "how wide the parts are shows only when the graph runs"


class SliceParts:
    """``slice(concat(a, b, c), from, to)`` becomes ``concat`` of what it takes of a, b and c.

    Detectors read a few bits of a path, and costs depend on a few. Joined first, all bits have to be there, with
    whatever computes them for nobody else: a cascade of static networks made every image's path, thousands of bits
    that are always the same, to look at the 48 of its observers. The pass declines where a part's width is not known.
    """

    name = "slice parts, not their join"

    def __call__(self, graph: ir.Graph) -> Effect:
        """Rewrite every slice of joined parts."""
        effect = Effect()
        for node in list(graph):
            join = node.inputs[0].producer() if node.op_type == "Slice" and node.inputs[0] else None
            if join is not None and join.op_type == "Concat":
                effect.note(str(node.name), _rewritten(graph, node, join))
        return effect


def _rewritten(graph: ir.Graph, node: ir.Node, join: ir.Node) -> str | None:
    """Rewrite one; why not, if not."""
    parts = [cast(ir.Value, part) for part in join.inputs]
    if len(node.inputs) < 4 or not all(is_constant(value) for value in node.inputs[1:]):
        return STEPS
    start, end, axis, *step = ([int(each) for each in constant_array(value)] for value in node.inputs[1:])
    if len(axis) != 1 or (step and step[0] != [1]):
        return STEPS
    rank = 0 if parts[0].shape is None else len(parts[0].shape)
    joined = join.attributes["axis"].as_int()
    if rank == 0 or axis[0] % rank != joined % rank:
        return AXIS
    try:
        widths = [dimension(part, joined) for part in parts]
    except UnsupportedError:
        return WIDTHS
    first, last, _ = slice(start[0], end[0]).indices(sum(widths))
    build = Builder(graph, str(node.name))
    taken = []
    begin = 0
    for part, width in zip(parts, widths, strict=True):
        low, high = max(first - begin, 0), min(last - begin, width)
        begin += width
        if low == 0 and high == width:
            taken.append(part)
        elif low < high:
            bounds = (
                build.constant(np.array([place]), name) for place, name in ((low, "from"), (high, "to"))
            )
            taken.append(build.op("Slice", part, *bounds, build.constant(np.array([joined]), "axis")))
    build.replace(node, (build.op("Concat", *taken, axis=joined),))
    return None
