"""Gated convolutions in a captured graph: how to read them, and the plain nodes of their gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from penstock.export.building import Builder, constant_array
from penstock.export.nodes.compact import Index, given, take
from penstock.export.operators import DOMAIN, GATED_CONV


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

    @property
    def fixed(self) -> npt.NDArray[np.bool_]:
        """``[filters]``, whether each one's bit is the same for all images: its gate's last weights are zero."""
        return np.asarray(~self.expand_weight.any(axis=1))


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
        conv_attributes=conv_attributes(node),
    )


def conv_attributes(node: ir.Node) -> dict[str, Any]:
    """What a plain ``Conv`` needs to know of a convolution of our domain."""
    sizes = {name: node.attributes[name].as_ints() for name in ("strides", "pads", "dilations")}
    return {**sizes, "group": node.attributes["group"].as_int()}


def gate_logits(
    build: Builder, conv: GatedConvNode, pooled: ir.Value, channels: Index | None = None
) -> ir.Value:
    """``y = W2 relu(W1 pooled + b1) + b2``.

    Args:
        build: where to write.
        conv: whose gate.
        pooled: ``[N, channels]``; if ``channels`` is given, only these, and all others are zero.
        channels: which ``pooled`` holds.

    Returns:
        ``[N, filters]``.
    """
    name = "gate.reduce.weight"
    first = given(build, take(build, conv.reduce_weight.T, channels, 0, name), name)  # [channels, hidden]
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
