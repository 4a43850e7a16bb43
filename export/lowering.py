"""What all lowerings share: how to find gated convolutions, build plain nodes, and put them in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir import tape

from penstock.export.contract import DOMAIN, GATED_CONV


class Lowering(Protocol):
    """A way to turn gated convolutions into plain ONNX operators.

    Attributes:
        name: as on the command line.
        single: whether the result takes exactly one image at a time.
        skips: whether closed filters are really not computed.
    """

    name: str
    single: bool
    skips: bool

    def lower(self, model: ir.Model) -> frozenset[str]:
        """Replace every gated convolution of ``model``, in place.

        Returns:
            the names of the layers that run on those input channels only that are there.

        Raises:
            UnsupportedError: this lowering cannot do a layer; names it and says what to do.
        """


@dataclass(frozen=True, eq=False, kw_only=True)
class GatedConvNode:
    """A ``penstock::GatedConv`` node, read."""

    node: ir.Node
    layer: str
    x: ir.Value
    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    reduce_weight: npt.NDArray[np.float32]
    reduce_bias: npt.NDArray[np.float32]
    expand_weight: npt.NDArray[np.float32]
    expand_bias: npt.NDArray[np.float32]
    relu: bool
    conv_attributes: dict[str, Any]

    @property
    def filters(self) -> int:
        """Number of filters."""
        return len(self.weight)


def read_gated_conv(node: ir.Node) -> GatedConvNode | None:
    """The gated convolution at ``node``, or ``None`` if it is another operator."""
    if node.domain != DOMAIN or node.op_type != GATED_CONV:
        return None
    x, *tensors = node.inputs
    assert x is not None
    weight, bias, reduce_weight, reduce_bias, expand_weight, expand_bias = map(constant_array, tensors)
    return GatedConvNode(
        node=node,
        layer=node.attributes["layer"].as_string(),
        x=x,
        weight=weight,
        bias=bias,
        reduce_weight=reduce_weight,
        reduce_bias=reduce_bias,
        expand_weight=expand_weight,
        expand_bias=expand_bias,
        relu=bool(node.attributes["relu"].as_int()),
        conv_attributes={
            **{name: node.attributes[name].as_ints() for name in ("strides", "pads", "dilations")},
            "group": node.attributes["group"].as_int(),
        },
    )


def constant_array(value: ir.Value | None) -> npt.NDArray[Any]:
    """The array behind a value that must be an initializer."""
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


class Builder:
    """Writes new nodes in front of an old one.

    Args:
        graph: where initializers go.
        prefix: begins the names of everything built, usually the old node's name.
    """

    def __init__(self, graph: ir.Graph, prefix: str) -> None:
        self.graph = graph
        self.prefix = prefix
        self.tape = tape.Tape()
        self._count = 0

    def op(self, kind: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Add a node with one output and give that output."""
        name = self._name(kind)
        value = self.tape.op(kind, inputs, attributes or None, name=name)
        value.name = name
        return value

    def constant(self, array: npt.ArrayLike, name: str) -> ir.Value:
        """Add an initializer; its name gets a number if it is taken."""
        full = f"{self.prefix}.{name}"
        if full in self.graph.initializers:
            full = self._name(name)
        tensor = ir.tensor(np.asarray(array, order="C"), name=full)
        shape = ir.Shape(tensor.numpy().shape)
        value = ir.Value(name=full, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=shape)
        self.graph.register_initializer(value)
        return value

    def replace(self, node: ir.Node, outputs: Sequence[ir.Value]) -> None:
        """Put what was built in the place of ``node``."""
        ir.convenience.replace_nodes_and_values(
            self.graph, node, [node], list(self.tape.nodes), list(node.outputs), list(outputs)
        )

    def insert_before(self, node: ir.Node) -> None:
        """Put what was built in front of ``node``, which stays."""
        self.graph.insert_before(node, list(self.tape.nodes))

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{self.prefix}.{kind}{self._count}"


def gate_logits(
    build: Builder, conv: GatedConvNode, pooled: ir.Value, rows: ir.Value | None = None
) -> ir.Value:
    """``y = W2 relu(W1 pooled + b1) + b2``.

    Args:
        build: where to write.
        conv: whose gate.
        pooled: ``[N, channels]``; if ``rows`` is given, only these channels, and all others are zero.
        rows: int64 ``[k]``, which channels ``pooled`` holds.

    Returns:
        ``[N, filters]``.
    """
    first = build.constant(conv.reduce_weight.T, "gate.reduce.weight")  # [channels, hidden]
    if rows is not None:
        first = build.op("Gather", first, rows, axis=0)
    hidden = build.op("Gemm", pooled, first, build.constant(conv.reduce_bias, "gate.reduce.bias"))
    return build.op(
        "Gemm",
        build.op("Relu", hidden),
        build.constant(conv.expand_weight.T, "gate.expand.weight"),
        build.constant(conv.expand_bias, "gate.expand.bias"),
    )


def codes(build: Builder, logits: ir.Value) -> ir.Value:
    """``z = 1[y > 0]`` as float32 ``[N, filters]``."""
    opened = build.op("Greater", logits, build.constant(np.float32(0), "zero"))
    return build.op("Cast", opened, to=ir.DataType.FLOAT)


def pooled_input(build: Builder, x: ir.Value) -> ir.Value:
    """Global average of ``[N, C, H, W]`` as ``[N, C]``."""
    return build.op("Flatten", build.op("GlobalAveragePool", x), axis=1)
