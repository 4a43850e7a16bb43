"""Scatter only at adds: add open channels onto the other summand instead of onto zeros."""

from __future__ import annotations

import onnx_ir as ir

from penstock.export.building import supersede
from penstock.export.nodes.compact import PLACED
from penstock.export.passes.reporting import Effect

BROADCAST = "the other summand has another shape, or is made of open channels itself"


class ScatterAtAdds:
    """``scatter(zeros, i, u) + y`` becomes ``scatter_add(y, i, u)``: one image's open channels, added in their places.

    That saves a whole activation of zeros, and adding it. The pass runs behind `KeepCompact`, which has left channels
    compact wherever it could. It declines adds whose summands differ in shape, and those with no scatter in front; what
    it has made is a sum and no scatter onto zeros any more.
    """

    name = "scatter only at adds"

    def __call__(self, graph: ir.Graph) -> Effect:
        """Rewrite every add of a scattered value."""
        effect = Effect()
        for node in list(graph):
            if node.op_type != "Add":
                continue
            first, second = node.inputs
            summands = [(_scatter(first), second), (_scatter(second), first)]
            found = [(scatter, other) for scatter, other in summands if scatter is not None]
            fitting = [
                (s, other) for s, other in found if other is not None and other.shape == _onto(s).shape
            ]
            if fitting:
                _add_onto(graph, node, *fitting[0])
                effect.changed.append(str(node.name))
            elif found:
                effect.declined[str(node.name)] = BROADCAST
        return effect


def _scatter(value: ir.Value | None) -> ir.Node | None:
    """The scatter onto zeros that a whole value comes from; none of a network's own, which may name a place twice."""
    unsqueeze = None if value is None else value.producer()
    if unsqueeze is None or unsqueeze.op_type != "Unsqueeze" or unsqueeze.inputs[0] is None:
        return None
    scatter = unsqueeze.inputs[0].producer()
    return scatter if scatter is not None and PLACED in scatter.meta else None


def _onto(scatter: ir.Node) -> ir.Value:
    """What is written onto, ``[1, C, H, W]``."""
    onto = _squeeze(scatter).inputs[0]
    assert onto is not None
    return onto


def _squeeze(scatter: ir.Node) -> ir.Node:
    """The node between what is written onto and the scatter."""
    squeezed = scatter.inputs[0]
    squeeze = None if squeezed is None else squeezed.producer()
    assert squeeze is not None
    return squeeze


def _add_onto(graph: ir.Graph, add: ir.Node, scatter: ir.Node, other: ir.Value) -> None:
    _squeeze(scatter).replace_input_with(0, other)
    scatter.attributes["reduction"] = ir.AttrString("reduction", "add")
    del scatter.meta[PLACED]  # the next add must not take what was added for zeros
    ((unsqueeze, _),) = scatter.outputs[0].uses()
    supersede(add.outputs[0], unsqueeze.outputs[0])
    graph.remove(add, safe=True)
