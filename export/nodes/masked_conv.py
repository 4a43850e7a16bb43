"""One gated convolution that runs whole and is multiplied by its code."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from penstock.export.building import Builder
from penstock.export.nodes.gated_conv import GatedConvNode, codes, gate_logits, pooled_input


def mask_gated(graph: ir.Graph, conv: GatedConvNode) -> None:
    """Run a gated convolution whole and multiply by its code, in place."""
    build = Builder(graph, conv.layer)
    logits = gate_logits(build, conv, pooled_input(build, conv.x))
    code = codes(build, logits)
    weight = build.constant(conv.weight, "weight")
    bias = build.constant(conv.bias, "bias")
    output = build.op("Conv", conv.x, weight, bias, **conv.conv_attributes)
    output = build.op("Relu", output) if conv.relu else output
    build.replace(conv.node, (build.op("Mul", output, spatial(build, code)), code, logits))


def spatial(build: Builder, code: ir.Value) -> ir.Value:
    """``[N, C]`` as ``[N, C, 1, 1]``."""
    return build.op("Unsqueeze", code, build.constant(np.array([2, 3]), "spatial"))
