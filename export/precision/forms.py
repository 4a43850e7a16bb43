"""Narrow forms of float32 values: uint8 on a scale, and float16.

In a graph of reduced precision every narrow value is followed by what widens it, and every node that works on narrow
ones reads what narrows a float32 value; ONNX Runtime melts these with the operators between. Here they are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from penstock.export.building import Builder, constant_array, is_constant

QUANTIZE, DEQUANTIZE, CAST = "QuantizeLinear", "DequantizeLinear", "Cast"


@dataclass(frozen=True)
class Scale:
    """How uint8 values stand for real ones: ``(value - zero_point) * scale``."""

    scale: np.float32
    zero_point: np.uint8
    kind = ir.DataType.UINT8

    def narrowed(self, build: Builder, value: ir.Value) -> ir.Value:
        """A float32 value in this form."""
        return build.op(QUANTIZE, value, *self._constants(build))

    def widened(self, build: Builder, value: ir.Value) -> ir.Value:
        """The float32 value that one of this form stands for."""
        return build.op(DEQUANTIZE, value, *self._constants(build))

    def _constants(self, build: Builder) -> tuple[ir.Value, ir.Value]:
        return build.constant(self.scale, "scale"), build.constant(self.zero_point, "zero_point")


@dataclass(frozen=True)
class Half:
    """Float16."""

    kind = ir.DataType.FLOAT16

    def narrowed(self, build: Builder, value: ir.Value) -> ir.Value:
        """A float32 value in this form."""
        half = build.op(CAST, value, to=self.kind)
        half.type = ir.TensorType(self.kind)
        return half

    def widened(self, build: Builder, value: ir.Value) -> ir.Value:
        """The float32 value that one of this form stands for."""
        return build.op(CAST, value, to=ir.DataType.FLOAT)


Form: TypeAlias = Scale | Half


@dataclass(frozen=True, eq=False)
class Narrow:
    """What a float32 value stands for.

    Attributes:
        value: in narrow form.
        form: which.
        turns: it is better passed on with its channels last, as ONNX Runtime's int8 kernels have them.
    """

    value: ir.Value
    form: Form
    turns: bool


def behind(value: ir.Value | None) -> Narrow | None:
    """The narrow value behind a float32 one that is nothing else."""
    node = None if value is None else value.producer()
    source = None if node is None else node.inputs[0] if node.inputs else None
    if value is None or node is None or source is None or is_constant(source):
        return None
    if node.op_type == DEQUANTIZE:
        return Narrow(source, scale_at(node), turns=value.shape is not None and len(value.shape) == 4)
    if node.op_type == CAST and source.dtype == Half.kind and _target(node) == ir.DataType.FLOAT:
        return Narrow(source, Half(), turns=False)
    return None


def narrowing(node: ir.Node) -> Form | None:
    """The form that a node brings its input to, if that is all it does."""
    if node.op_type == QUANTIZE:
        return scale_at(node)
    return Half() if node.op_type == CAST and _target(node) == Half.kind else None


def scale_at(node: ir.Node) -> Scale:
    """The scale of a ``QuantizeLinear`` or ``DequantizeLinear`` of activations."""
    scale, zero_point = map(constant_array, node.inputs[1:3])
    return Scale(np.float32(scale), np.uint8(zero_point))


def _target(node: ir.Node) -> int:
    return node.attributes.get_int("to", 0)
