"""Name the tensor that the detector looks at, so that whoever explains a score can ask the graph for it.

The exporter names values as it likes. What the detector subtracts its means from and then divides by its scale is
the gate logits: that place is looked for, whatever the lowering put in front of it.
"""

from __future__ import annotations

import onnx_ir as ir

from penstock.bundle import GATE_LOGITS
from penstock.errors import VerificationError

SCALE = "head.both.scale"  # the parameter of `penstock.nn.detector_head.DetectorHead`


def name_gate_logits(model: ir.Model) -> None:
    """Give the tensor its name; the graph computes what it did.

    Raises:
        VerificationError: the graph has no detector, or not in the form that we export.
    """
    scale = model.graph.initializers.get(SCALE)
    divisions = [] if scale is None else [node for node, _ in scale.uses() if node.op_type == "Div"]
    if len(divisions) != 1:
        raise VerificationError(f"the graph divides by {SCALE!r} {len(divisions)} times; once was expected")
    centred = divisions[0].inputs[0]
    difference = None if centred is None else centred.producer()
    if difference is None or difference.op_type != "Sub" or difference.inputs[0] is None:
        raise VerificationError(f"what the graph divides by {SCALE!r} is no difference from a mean")
    difference.inputs[0].name = GATE_LOGITS
