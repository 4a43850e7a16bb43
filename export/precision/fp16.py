"""Lowered graphs in float16 for GPUs.

The network between the images and the logits works on float16: convolutions, what lies between them, and the
classifier, with their weights, in all branches. What decides on paths, the detector, costs and all inputs and outputs
stay float32, and so do the averages that routers and gates look at.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from penstock.export.building import Builder, constant_array, is_constant
from penstock.export.nodes.regions import all_graphs
from penstock.export.passes.reporting import Effect, Report
from penstock.export.passes.simplify import tidy
from penstock.export.precision.borders import NarrowBorders
from penstock.export.precision.forms import Half
from penstock.export.precision.quantizable import answering
from penstock.export.precision.standalone import drop_all_unused, own_constants

# What works on maps [N, C, H, W]. Averages of whole maps are not among them: they decide on paths.
ON_MAPS = frozenset(
    {
        "Add",
        "AveragePool",
        "Clip",
        "Compress",
        "Concat",
        "Conv",
        "ConvTranspose",
        "Elu",
        "Gather",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "MaxPool",
        "Mul",
        "Pad",
        "Relu",
        "Sigmoid",
        "Slice",
        "Tanh",
        "Transpose",
    }
)


UNKNOWN = "an average, or an operator that is not known to bear float16"
DECIDES = "a linear layer that decides on paths"


def to_fp16(model: ir.Model, report: Report | None = None) -> ir.Model:
    """A lowered graph with its network in float16.

    Args:
        model: lowered and finished; stays as it is.
        report: is told what passes did.
    """
    report = report or Report()
    result = model.clone()
    own_constants(result.graph)
    passes.ShapeInferencePass()(result)
    for step in (Halve(), NarrowBorders()):
        report.run(step, result.graph)
    drop_all_unused(result.graph)
    return tidy(result)


class Halve:
    """What works on maps, and the classifier, reads and gives float16, in a graph and its branches.

    It declines linear layers that decide on paths, averages, which they look at, and operators that may not bear it.
    """

    name = "compute in float16"

    def __call__(self, graph: ir.Graph) -> Effect:
        """Halve a graph of known shapes, with constants of its own."""
        effect, answers = Effect(), answering(graph.outputs[0])
        for each in all_graphs(graph):
            halves: dict[ir.Value, ir.Value] = {}
            for node in list(each):
                if node.op_type == "Gemm":
                    why = None if node.outputs[0].name in answers else DECIDES
                elif _turns_maps(node):
                    why = None if node.op_type in ON_MAPS else UNKNOWN
                else:
                    continue
                if why is None:
                    _halve_node(each, node, halves)
                effect.note(f"{each.name}/{node.name}", why)
        return effect


def _turns_maps(node: ir.Node) -> bool:
    x, y = node.inputs[0] if node.inputs else None, node.outputs[0] if node.outputs else None
    return _is_map(x) and _is_map(y)


def _is_map(value: ir.Value | None) -> bool:
    if value is None or value.shape is None:
        return False
    return value.dtype == ir.DataType.FLOAT and len(value.shape) == 4


def _halve_node(graph: ir.Graph, node: ir.Node, halves: dict[ir.Value, ir.Value]) -> None:
    before, behind = Builder(graph, f"{node.name}.half"), Builder(graph, f"{node.name}.whole")
    for place, value in enumerate(node.inputs):
        if value is not None and value.dtype == ir.DataType.FLOAT:
            if value not in halves:
                halves[value] = _halved(before, value)
            node.replace_input_with(place, halves[value])
    before.insert_before(node)
    for output in node.outputs:
        users, leaves = list(output.uses()), output.is_graph_output()
        wide = Half().widened(behind, output)
        wide.shape, wide.type = output.shape, output.type
        output.type = ir.TensorType(Half.kind)
        for user, place in users:
            user.replace_input_with(place, wide)
        if leaves:
            wide.name, output.name = output.name, f"{output.name}.half"
            graph.outputs[list(graph.outputs).index(output)] = wide
    graph.insert_after(node, list(behind.tape.nodes))


def _halved(build: Builder, value: ir.Value) -> ir.Value:
    if is_constant(value):
        return build.constant(constant_array(value).astype(np.float16), str(value.name))
    return Half().narrowed(build, value)
