"""The ``masked`` lowering: run the whole convolution, then multiply by z.

    y = gate(x);  z = 1[y > 0];  out = z * relu(conv(x))

It saves no time. It is the reference that every other lowering must equal, takes any batch, and runs anywhere.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from penstock.export.building import Builder
from penstock.export.lowerings.gated_conv import (
    GatedConvNode,
    codes,
    gate_logits,
    pooled_input,
    read_gated_conv,
)


class Masked:
    """Dense convolution, then multiply."""

    name = "masked"
    single = False
    skips = False

    def lower(self, model: ir.Model) -> frozenset[str]:
        """Replace every gated convolution of ``model``, in place; all run on whole inputs."""
        for node in list(model.graph):
            conv = read_gated_conv(node)
            if conv is not None:
                _lower_one(model.graph, conv)
        return frozenset()


def _lower_one(graph: ir.Graph, conv: GatedConvNode) -> None:
    build = Builder(graph, conv.layer)
    logits = gate_logits(build, conv, pooled_input(build, conv.x))
    code = codes(build, logits)
    weight = build.constant(conv.weight, "weight")
    bias = build.constant(conv.bias, "bias")
    output = build.op("Conv", conv.x, weight, bias, **conv.conv_attributes)
    if conv.relu:
        output = build.op("Relu", output)
    mask = build.op("Unsqueeze", code, build.constant(np.array([2, 3]), "spatial"))
    build.replace(conv.node, (build.op("Mul", output, mask), code, logits))
