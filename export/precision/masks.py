"""Round once, not twice, where a mask closes filters.

A mask's zeros and ones keep a value or drop it. So what stands before the mask fits on the scale of what stands behind
it: all that open filters give has a place there, and what closed ones give may be cut off, if nobody else sees it. On
one scale, the second rounding changes nothing.
"""

from __future__ import annotations

import onnx_ir as ir

from penstock.export.building import Builder
from penstock.export.nodes.channelwise import MASK_FORMS
from penstock.export.passes.reporting import Effect
from penstock.export.precision.forms import Form, Scale, behind, narrowing

FLOATS = "what it masks is float32"
READ = "what it gives is read as float32, or on several scales"
SEEN = "others read what it masks, too"
ELSEWHERE = "what it masks was rounded before it came here"


class RoundOnceAtMasks:
    """What a mask reads gets the scale of what it gives, so that the second rounding changes nothing.

    It declines masks before which or behind which nothing is rounded to int8, or not at one place and on one scale, and
    those that are not the only ones to read what they mask.
    """

    name = "round once at masks"

    def __call__(self, graph: ir.Graph) -> Effect:
        """Rescale what the masks of a quantised graph read."""
        effect = Effect()
        for node in list(graph):
            if _masks(node):
                effect.note(str(node.name), _rescale(graph, node))
        return effect


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


def _rescale(graph: ir.Graph, mask: ir.Node) -> str | None:
    """Let what a mask reads be on the scale of what it gives; or why not."""
    found, form = behind(mask.inputs[0]), _read_as(mask.outputs[0])
    if found is None:
        return FLOATS
    if not isinstance(form, Scale):
        return READ
    narrow = found.value
    maker = narrow.producer()
    if maker is None or narrowing(maker) is None:
        return ELSEWHERE
    if any(user is not mask for node, _ in narrow.uses() for user, _ in node.outputs[0].uses()):
        return SEEN
    build = Builder(graph, f"{narrow.name}.masked")
    scale = build.constant(form.scale, "scale")
    zero_point = build.constant(form.zero_point, "zero_point")
    for node in (maker, *(user for user, _ in narrow.uses())):
        node.replace_input_with(1, scale)
        node.replace_input_with(2, zero_point)
    return None
