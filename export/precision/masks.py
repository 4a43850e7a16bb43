"""Round once, not twice, where a mask closes filters.

A mask's zeros and ones keep a value or drop it. So what stands before the mask fits on the scale of what stands behind
it: all that open filters give has a place there, and what closed ones give may be cut off, as nobody sees it. On one
scale, the second rounding changes nothing.
"""

from __future__ import annotations

import onnx_ir as ir

from penstock.export.building import Builder
from penstock.export.lowerings.channelwise import MASK_FORMS
from penstock.export.lowerings.regions import inner_graphs
from penstock.export.precision.forms import Form, Scale, behind, narrowing


def round_once_at_masks(graph: ir.Graph) -> None:
    """Give what masks read the scale of what they give, in a quantised graph and its branches, in place."""
    for node in list(graph):
        for inner in inner_graphs(node):
            round_once_at_masks(inner)
        found = behind(node.inputs[0]) if _masks(node) else None
        given = _read_as(node.outputs[0]) if found is not None else None
        if found is not None and isinstance(given, Scale):
            _rescale(graph, found.value, given)


def _masks(node: ir.Node) -> bool:
    """Whether a node multiplies with what comes out of a comparison."""
    if node.op_type != "Mul" or node.inputs[1] is None:
        return False
    source = node.inputs[1].producer()
    while source is not None and source.op_type in MASK_FORMS and source.inputs[0] is not None:
        source = source.inputs[0].producer()
    return source is not None and source.op_type == "Greater"


def _read_as(value: ir.Value) -> Form | None:
    """The one form that a value is narrowed to."""
    forms = {form for user, _ in value.uses() if (form := narrowing(user)) is not None}
    return forms.pop() if len(forms) == 1 else None


def _rescale(graph: ir.Graph, narrow: ir.Value, form: Scale) -> None:
    """Let a narrow value be on another scale."""
    maker = narrow.producer()
    if maker is None or narrowing(maker) is None:
        return
    build = Builder(graph, f"{narrow.name}.masked")
    scale = build.constant(form.scale, "scale")
    zero_point = build.constant(form.zero_point, "zero_point")
    for node in (maker, *(user for user, _ in narrow.uses())):
        node.replace_input_with(1, scale)
        node.replace_input_with(2, zero_point)
