"""Read of several vectors only those that are asked for, not a part of all of them joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import onnx_ir as ir

from penstock.errors import UnsupportedError
from penstock.export.building import Builder, constant_array, dimension, is_constant
from penstock.export.passes.reporting import Effect

MAPS = "it slices maps, whose channels other passes follow"
BOUNDS = "what it takes shows only when the graph runs"
STEPS = "it takes every so many, nothing, or from other axes too"
WIDTHS = "how wide the parts are shows only when the graph runs"


class SliceParts:
    """``slice(concat(a, b, c), from, to)`` becomes ``concat`` of what it takes of a, b and c, vectors ``[N, P]``.

    Detectors read a few bits of a path, and costs depend on a few. Joined first, all bits have to be there, with
    whatever computes them for nobody else: a cascade of static networks made every image's path, thousands of bits
    that are always the same, to look at the 48 of its observers. The pass declines maps, and parts of unknown widths.
    """

    name = "slice parts, not their join"

    def __call__(self, graph: ir.Graph) -> Effect:
        """Rewrite every slice of joined vectors."""
        effect = Effect()
        for node in list(graph):
            join = node.inputs[0].producer() if node.op_type == "Slice" and node.inputs[0] else None
            if join is not None and join.op_type == "Concat":
                effect.note(str(node.name), _rewritten(graph, node, join))
        return effect


def _rewritten(graph: ir.Graph, node: ir.Node, join: ir.Node) -> str | None:
    """Rewrite one; why not, if not."""
    parts = [cast(ir.Value, part) for part in join.inputs]
    if any(part.shape is None or len(part.shape) != 2 for part in parts):
        return MAPS
    if not all(is_constant(value) for value in node.inputs[1:]):
        return BOUNDS
    start, end, *rest = ([int(each) for each in constant_array(value)] for value in node.inputs[1:])
    along = join.attributes["axis"].as_int() in (1, -1) and rest[:1] in ([[1]], [[-1]])
    if not along or rest[1:] not in ([], [[1]]):
        return STEPS
    try:
        widths = [dimension(part, 1) for part in parts]
    except UnsupportedError:
        return WIDTHS
    build = Builder(graph, str(node.name))
    taken = _taken(build, parts, widths, range(*slice(start[0], end[0]).indices(sum(widths))))
    if not taken:
        return STEPS
    joined = build.op("Concat", *taken, axis=1) if len(taken) > 1 else build.op("Identity", *taken)
    build.replace(node, (joined,))
    return None


def _taken(build: Builder, parts: Sequence[ir.Value], widths: Sequence[int], wanted: range) -> list[ir.Value]:
    """What is wanted of each part, of those of which anything is."""
    taken, begin = [], 0
    for part, width in zip(parts, widths, strict=True):
        low, high = max(wanted.start - begin, 0), min(wanted.stop - begin, width)
        begin += width
        if (low, high) == (0, width):
            taken.append(part)
        elif low < high:
            ends = (build.constant(np.array([place]), name) for place, name in ((low, "from"), (high, "to")))
            value = build.op("Slice", part, *ends, build.constant(np.array([1]), "axis"))
            assert part.shape is not None
            value.shape, value.type = ir.Shape([part.shape[0], high - low]), part.type
            taken.append(value)
    return taken
