"""Parts of a graph, branches included, as models of their own, so that they can be run and quantised alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import helper

from penstock.errors import UnsupportedError
from penstock.export.engine_errors import ENGINE_ERRORS, told
from penstock.export.nodes.regions import bring_constants, drop_unused, inner_graphs, reads

Feed: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""What one image gives to the values that a graph reads from around it, by name."""

IF = "If"


def own_constants(graph: ir.Graph) -> None:
    """Give every branch constants of its own, so that nothing but activations enters it."""
    for node in graph:
        for inner in inner_graphs(node):
            bring_constants(inner)
            own_constants(inner)


def standalone(
    graph: ir.Graph, nodes: Collection[ir.Node], outputs: Iterable[ir.Value], example: Feed
) -> onnx.ModelProto:
    """A model that runs some nodes of a graph.

    Args:
        graph: with constants of its own.
        nodes: of the graph; what they read and do not make becomes an input.
        outputs: what the model gives.
        example: one of the things it will be fed; types and sizes are taken from it, but for the batch.
    """
    whole = ir.serde.serialize_graph(graph)
    kept = {str(output.name) for node in nodes for output in node.outputs}
    names = {str(value.name) for node in nodes for value in reads(node)}
    made = helper.make_graph(
        [node for node in whole.node if node.output[0] in kept],
        str(graph.name),
        [_input(name, example[name]) for name in example if name in names - kept],
        [onnx.ValueInfoProto(name=str(value.name)) for value in outputs],
        initializer=[tensor for tensor in whole.initializer if tensor.name in names],
    )
    opset = helper.make_opsetid("", 18)
    return helper.make_model(made, opset_imports=[opset], ir_version=8)


def trace(graph: ir.Graph, values: Sequence[ir.Value], feeds: Sequence[Feed]) -> list[Feed]:
    """What the values of a graph are for each image, beside what the image feeds to it.

    Args:
        graph: with constants of its own.
        values: that it makes.
        feeds: of the graph, one or more.
    """
    if not values:
        return list(feeds)
    model = standalone(graph, needed(graph, values), values, feeds[0])
    session = open_model(model)
    inputs = [tensor.name for tensor in session.get_inputs()]
    names = [str(value.name) for value in values]
    return [
        {**feed, **dict(zip(names, session.run(names, {name: feed[name] for name in inputs}), strict=True))}
        for feed in feeds
    ]


def needed(graph: ir.Graph, values: Iterable[ir.Value]) -> list[ir.Node]:
    """Nodes of a graph that its values depend on, in order."""
    waiting, found = list(values), set()
    while waiting:
        node = waiting.pop().producer()
        if node is not None and node.graph is graph and node not in found:
            found.add(node)
            waiting += reads(node)
    return [node for node in graph if node in found]


def drop_all_unused(graph: ir.Graph) -> None:
    """Remove what nobody reads from a graph and its branches."""
    for node in graph:
        for inner in inner_graphs(node):
            drop_all_unused(inner)
    drop_unused(graph)


def picks_rows(node: ir.Node) -> bool:
    """Whether a node does nothing but pick rows of batches, or join batches."""
    return node.op_type in ("Compress", "Gather", "Concat") and node.attributes.get_int("axis", -1) == 0


def picked(node: ir.Node) -> Sequence[ir.Value | None]:
    """What the rows of such a node come from."""
    return node.inputs if node.op_type == "Concat" else node.inputs[:1]


def convolves(graph: ir.Graph) -> bool:
    """Whether there is a convolution in a graph or in a branch of it."""
    return any(node.op_type == "Conv" or any(map(convolves, inner_graphs(node))) for node in graph)


def open_model(model: onnx.ModelProto) -> ort.InferenceSession:
    """Load a model on one CPU.

    Raises:
        UnsupportedError: ONNX Runtime cannot load it; names the node.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = 1
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except ENGINE_ERRORS as error:
        what = f"ONNX Runtime cannot load {model.graph.name}, a part that is to be quantised"
        raise told(UnsupportedError, what, error, "export with --precision fp32") from error


def _input(name: str, example: npt.NDArray[Any]) -> onnx.ValueInfoProto:
    """Sizes are said of activations only: what rows are picked with has none that is the same in every batch."""
    kind = helper.np_dtype_to_tensor_dtype(example.dtype)
    activation = example.dtype == np.float32 and example.ndim > 1
    return helper.make_tensor_value_info(name, kind, [None, *example.shape[1:]] if activation else None)
