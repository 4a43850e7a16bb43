"""Let a finished graph take pixels as bytes, 0 to 255, for clients that send them as they come from the file."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from penstock.bundle import INPUT
from penstock.export.building import Builder
from penstock.export.passes.reporting import Effect

LARGEST = np.float32(255)


class TakeBytes:
    """``float32(x) / 255`` stands behind the input ``x``: the same float32 that a client would have sent.

    It never declines.
    """

    name = "take pixels as bytes"

    def __call__(self, graph: ir.Graph) -> Effect:
        """Let the graph's one input take uint8."""
        floats = graph.inputs[0]
        images = ir.Value(name=INPUT, shape=floats.shape, type=ir.TensorType(ir.DataType.UINT8))
        build = Builder(graph, "pixels")
        scaled = build.op(
            "Div", build.op("Cast", images, to=ir.DataType.FLOAT), build.constant(LARGEST, "largest")
        )
        graph.inputs[0] = images
        floats.name = None
        scaled.shape, scaled.type = floats.shape, floats.type
        ir.convenience.replace_all_uses_with(floats, scaled)
        graph.insert_before(graph[0], list(build.tape.nodes))
        return Effect(changed=[INPUT])
