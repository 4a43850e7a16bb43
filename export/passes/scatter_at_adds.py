"""Scatter only at adds: add open channels onto the other summand instead of onto zeros."""

from __future__ import annotations

import onnx_ir as ir

from penstock.export.building import constant_array, is_constant, supersede
from penstock.export.passes.reporting import Effect

BROADCAST = "the other summand has another shape, or is made of open channels itself"


class ScatterAtAdds:
    """``scatter(zeros, i, u) + y`` becomes ``scatter_add(y, i, u)``: one image's open channels, added in their places.

    That saves a whole activation of zeros, and adding it. The pass runs behind `KeepCompact`, which has left channels
    compact wherever it could. It declines adds whose summands differ in shape, and those with no scatter in front.
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
    """The scatter onto zeros that a whole value comes from, in the form that `compact.scattered` gives it."""
    unsqueezed = None if value is None else value.producer()
    if unsqueezed is None or unsqueezed.op_type != "Unsqueeze" or unsqueezed.inputs[0] is None:
        return None
    scatter = unsqueezed.inputs[0].producer()
    if (
        scatter is None
        or scatter.op_type != "ScatterND"
        or scatter.attributes["reduction"].as_string() != "none"
    ):
        return None
    onto = _onto(scatter)
    return scatter if is_constant(onto) and not constant_array(onto).any() else None


def _onto(scatter: ir.Node) -> ir.Value:
    """What is written onto, ``[1, C, H, W]``, in front of the squeeze."""
    squeezed = scatter.inputs[0]
    assert squeezed is not None
    squeeze = squeezed.producer()
    assert squeeze is not None
    assert squeeze.inputs[0] is not None
    return squeeze.inputs[0]


def _add_onto(graph: ir.Graph, add: ir.Node, scatter: ir.Node, other: ir.Value) -> None:
    squeezed = scatter.inputs[0]
    assert squeezed is not None
    squeeze = squeezed.producer()
    assert squeeze is not None
    squeeze.replace_input_with(0, other)
    scatter.attributes["reduction"] = ir.AttrString("reduction", "add")
    (unsqueeze, _), *_ = scatter.outputs[0].uses()
    supersede(add.outputs[0], unsqueeze.outputs[0])
    graph.remove(add, safe=True)
