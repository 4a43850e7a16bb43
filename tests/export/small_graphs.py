"""Graphs of a few nodes, for what one pass does to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from penstock.export.building import Builder

Arrays = Mapping[str, npt.NDArray[Any]]


def graph_of(build_it: Callable[[Builder, Sequence[ir.Value]], ir.Value], feed: Arrays) -> ir.Graph:
    """A graph with these inputs and one output."""
    inputs = [
        ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.tensor(array).dtype))
        for name, array in feed.items()
    ]
    graph = ir.Graph(inputs, [], nodes=[], opset_imports={"": 18}, name="small")
    build = Builder(graph, "small")
    output = build_it(build, inputs)
    output.type = ir.TensorType(ir.DataType.FLOAT)
    graph.extend(list(build.tape.nodes))
    graph.outputs.append(output)
    return graph


def run(graph: ir.Graph, feed: Arrays) -> npt.NDArray[np.float32]:
    content = ir.serde.serialize_model(ir.Model(graph, ir_version=8)).SerializeToString()
    result: npt.NDArray[np.float32] = ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(
        None, feed
    )[0]
    return result


def kinds(graph: ir.Graph) -> list[str]:
    return [node.op_type for node in graph]
