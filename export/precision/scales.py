"""Scales of uint8 activations, and on which of them values cross the borders between graphs.

What one graph writes another reads, so both must use one scale: that of the `DequantizeLinear` that a value comes out
of, or, for the answers of branches, the one on which all that they really answer has a place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnxruntime.quantization.quant_utils import compute_scale_zp

from penstock.export.nodes.regions import outside_values
from penstock.export.precision.forms import Scale, behind
from penstock.export.precision.standalone import IF, Feed, picked, picks_rows

SAME_SCALE = frozenset({"MaxPool", "AveragePool", "Pad", "Slice", "Gather"})


def settle(graph: ir.Graph, scales: Mapping[str, Scale], traced: Sequence[Feed]) -> dict[str, Scale]:
    """The scales that a graph is given, and those of its branches' answers and of rows picked from either.

    Args:
        graph: before it is quantised.
        scales: of what enters and leaves it.
        traced: what crosses borders in it, image by image.
    """
    settled = dict(scales)
    for node in graph:
        if node.op_type == IF:
            for output in node.outputs:
                if output.name not in settled:
                    settled.update(_answers(output, traced))
        elif picks_rows(node):
            found = {settled.get(str(value.name)) for value in picked(node) if value is not None}
            scale = found.pop()
            if not found and scale is not None:
                settled[str(node.outputs[0].name)] = scale
    return settled


def handed_down(node: ir.Node, branch: ir.Graph, scales: Mapping[str, Scale]) -> dict[str, Scale]:
    """The scales of what enters and leaves a branch.

    Args:
        node: the ``If`` node that it belongs to, in a graph that is quantised but for its branches.
        branch: with outputs that are not quantised yet.
        scales: of the graph around it.
    """
    entering = {str(value.name): found.form for value in outside_values(branch) if (found := behind(value))}
    leaving = zip(branch.outputs, node.outputs, strict=True)
    return {
        **scales,
        **{name: form for name, form in entering.items() if isinstance(form, Scale)},
        **{str(own.name): scales[str(outer.name)] for own, outer in leaving if outer.name in scales},
    }


def handed_back(
    model: onnx.ModelProto, nodes: Collection[str], scales: Mapping[str, Scale]
) -> dict[str, Scale]:
    """The scales of a network's values, and of those that quantised nodes pass on without changing the scale.

    Args:
        model: without branches.
        nodes: names of those that are quantised.
        scales: by name, of values in the network and perhaps others.
    """
    graph = model.graph
    handed = {name: scales[name] for name in _values(graph) if name in scales}
    readers = Counter(name for node in graph.node for name in node.input)
    for node in reversed(graph.node):
        scale = handed.get(node.output[0])
        if (
            scale is not None
            and node.name in nodes
            and node.op_type in SAME_SCALE
            and readers[node.input[0]] == 1
        ):
            handed.setdefault(node.input[0], scale)
    return handed


def _values(graph: onnx.GraphProto) -> set[str]:
    return {value.name for value in graph.input} | {name for node in graph.node for name in node.output}


def scale_of(arrays: Iterable[npt.NDArray[np.float32]]) -> Scale:
    """The scale on which all values of some arrays, and zero, have a place."""
    low, high = zip(*((array.min(), array.max()) for array in arrays), strict=True)
    zero_point, scale = compute_scale_zp(min(low), max(high), np.array(0, np.uint8), np.array(255, np.uint8))
    return Scale(np.float32(scale), np.uint8(zero_point))


def _answers(output: ir.Value, traced: Sequence[Feed]) -> dict[str, Scale]:
    """One scale for what a branch answers, and for what is joined with it into one batch."""
    joins = [node for node, _ in output.uses() if node.op_type == "Concat" and picks_rows(node)]
    values = [value for value in (joins[0].inputs if joins else [output]) if value is not None]
    arrays = [feed[str(value.name)] for feed in traced for value in values if str(value.name) in feed]
    full = [array for array in arrays if array.ndim == 4 and array.dtype == np.float32 and array.size]
    return dict.fromkeys([str(value.name) for value in values], scale_of(full)) if full else {}
