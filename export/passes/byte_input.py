"""Let a finished graph take pixels as bytes, 0 to 255, for clients that send them as they come from the file."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from penstock.bundle import INPUT
from penstock.export.building import Builder

LARGEST = np.float32(255)


def take_bytes(model: ir.Model) -> None:
    """Put ``float32(x) / 255`` behind the input, in place: the same float32 that a client would have sent."""
    graph = model.graph
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
