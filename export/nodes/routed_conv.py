"""Routed convolutions in a captured graph, and how to read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from penstock.export.building import constant_array
from penstock.export.nodes.gated_conv import conv_attributes
from penstock.export.operators import DOMAIN, ROUTED_CONV

Floats = npt.NDArray[np.float32]
WIDTH = "width"  # attribute of the node: how many filters the static convolution gets


@dataclass(frozen=True, eq=False, kw_only=True)
class RoutedConvNode:
    """A ``penstock::RoutedConv`` node, read.

    Attributes:
        node: where it stands.
        layer: name of the convolution.
        x: its input.
        chosen: int64 ``[N]``, the prototype of each image.
        weight: ``[C, C_in / group, kh, kw]``.
        scale: ``[K, C]``, what each prototype multiplies its results with.
        shift: ``[K, C]``, what it adds then.
        bits: ``[K, C]``, whether its filters are open.
        relu: whether a ReLU follows.
        conv_attributes: of the plain convolution.
    """

    node: ir.Node
    layer: str
    x: ir.Value
    chosen: ir.Value
    weight: Floats
    scale: Floats
    shift: Floats
    bits: npt.NDArray[np.bool_]
    relu: bool
    conv_attributes: dict[str, Any]

    @property
    def prototypes(self) -> int:
        """K."""
        return len(self.bits)

    @property
    def filters(self) -> int:
        """C, number of filters of the dense convolution."""
        return len(self.weight)

    def folded(self, prototype: int) -> tuple[Floats, Floats]:
        """Weight and bias of the plain convolution that one prototype is, all its filters open."""
        return self.weight * self.scale[prototype][:, None, None, None], self.shift[prototype]


def read_routed_conv(node: ir.Node) -> RoutedConvNode | None:
    """The routed convolution at ``node``, or ``None`` if it is another operator."""
    if node.domain != DOMAIN or node.op_type != ROUTED_CONV:
        return None
    x, *tensors, chosen = node.inputs
    assert x is not None
    assert chosen is not None
    weight, scale, shift, bits = map(constant_array, tensors)
    return RoutedConvNode(
        node=node,
        layer=node.attributes["layer"].as_string(),
        x=x,
        chosen=chosen,
        weight=weight,
        scale=scale,
        shift=shift,
        bits=bits > 0.5,
        relu=bool(node.attributes["relu"].as_int()),
        conv_attributes=conv_attributes(node),
    )
