"""Quantise a static network with ONNX Runtime's tool, and put what it makes in the place of what was there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import shape_inference
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static

from penstock.export.precision.forms import Scale
from penstock.export.precision.scales import handed_back
from penstock.export.precision.standalone import Feed

# Each branch is a network without identities, its batch norms folded: there is nothing to pre-process.
_PREPARED = onnx.StringStringEntryProto(key="onnx.quant.pre_process", value="onnxruntime.quant")


def quantized(
    model: onnx.ModelProto, nodes: Sequence[str], feeds: Sequence[Feed], scales: Mapping[str, Scale]
) -> ir.Graph:
    """The same network with some of its nodes between ``QuantizeLinear`` and ``DequantizeLinear``.

    Weights are int8, symmetric, one scale per filter; activations uint8, their ranges as wide as the
    feeds show; biases int32.

    Args:
        model: without branches.
        nodes: names of those to quantise.
        feeds: what to calibrate with.
        scales: of activations that are not to be calibrated, by name.
    """
    model.metadata_props.append(_PREPARED)
    settled = handed_back(model, nodes, scales)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            file,
            _Reader(feeds, [value.name for value in model.graph.input]),
            op_types_to_quantize=sorted({node.op_type for node in model.graph.node if node.name in nodes}),
            nodes_to_quantize=list(nodes),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "OpTypesToExcludeOutputQuantization": ["Gemm"],
                "TensorQuantOverrides": {
                    name: [{key: np.array(number) for key, number in asdict(scale).items()}]
                    for name, scale in settled.items()
                },
            },
        )
        return ir.serde.deserialize_model(shape_inference.infer_shapes(onnx.load(file))).graph


def put_back(graph: ir.Graph, nodes: Sequence[ir.Node], made: ir.Graph) -> None:
    """Put the nodes of ``made`` in the place of ``nodes``; inputs and outputs are found by their names."""
    read = {value.name: value for node in nodes for value in node.inputs if value is not None}
    for value in made.inputs:
        ir.convenience.replace_all_uses_with(value, read[value.name])
    old = {output.name: output for node in nodes for output in node.outputs}
    outputs = list(made.outputs)
    made.outputs.clear()
    fresh = list(made)
    made.remove(fresh)
    for output in outputs:
        former = old[output.name]
        output.shape, output.type = former.shape, former.type
        ir.convenience.replace_all_uses_with(former, output, replace_graph_outputs=True)
    graph.remove(nodes, safe=True)
    _exchange_constants(graph, made)
    graph.extend(fresh)
    graph.sort()


def _exchange_constants(graph: ir.Graph, made: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
    for name, value in list(made.initializers.items()):
        del made.initializers[name]
        if name in graph.initializers:
            value.name = f"{name}.int8"
        graph.register_initializer(value)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Iterable[Feed], names: Sequence[str]) -> None:
        self._feeds: Iterator[dict[str, npt.NDArray[Any]]] = (
            {name: feed[name] for name in names} for feed in feeds
        )

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        return next(self._feeds, None)
