"""Let what branches add from around them enter ONNX Runtime's blocked layout where the branch begins."""

from __future__ import annotations

import onnx_ir as ir

from penstock.export.building import Builder
from penstock.export.nodes.regions import all_graphs
from penstock.export.passes.reporting import Effect

NO_MAP = "what is added is no map, or of unknown shape"


class EnterBlocked:
    """In a branch with convolutions, ``conv(...) + y`` becomes ``conv(...) + average_pool(y)`` over single pixels.

    ONNX Runtime computes float32 convolutions in a layout of channels in blocks, into which it melts the adds and
    activations behind them (its `NchwcTransformer`). Layouts end at the borders of branches. What crosses a border and
    is added there has the plain layout, then so has the sum, and so on to the next convolution: of each prototype of
    ResNet-18, every add and activation, with a copy before and behind it. A pooling over single pixels changes no
    number, NaN included, and is computed in blocks, from where everything goes on as in a network without branches.
    The pass declines vectors and values of unknown shape, and leaves adds alone whose summands the branch computes.
    """

    name = "enter the blocked layout"

    def __call__(self, graph: ir.Graph) -> Effect:
        """Rewrite all branches of a graph."""
        effect = Effect()
        for branch in all_graphs(graph):
            if branch is not graph and any(node.op_type == "Conv" for node in branch):
                _enter(branch, effect)
        return effect


def _enter(branch: ir.Graph, effect: Effect) -> None:
    added = [value for node in branch if node.op_type == "Add" for value in node.inputs]
    for value in dict.fromkeys(added):
        if value is None or value.const_value is not None or not _plain(value, branch):
            continue
        if value.shape is None or len(value.shape) != 4:
            effect.declined[str(value.name)] = NO_MAP
            continue
        build = Builder(branch, f"{branch.name}.{value.name}")
        entered = build.op("AveragePool", value, kernel_shape=[1, 1])
        entered.shape, entered.type = value.shape, value.type
        users = [(user, place) for user, place in value.uses() if user.graph is branch]
        made_by = value.producer()
        if made_by is not None and made_by.graph is branch:
            branch.insert_after(made_by, list(build.tape.nodes))
        else:
            branch.insert_before(next(iter(branch)), list(build.tape.nodes))
        for user, place in users:
            user.replace_input_with(place, entered)
        effect.changed.append(str(value.name))


def _plain(value: ir.Value, branch: ir.Graph) -> bool:
    """Whether a value comes from around the branch, or is the rows of such a one that it takes."""
    node = value.producer()
    return node is None or node.graph is not branch or node.op_type == "Compress"
