"""Which values of a graph are compact, and what may be done with them.

A value that is not *clean* holds something at channels that are left out: an operator that does not keep zeros, such as
a sigmoid, worked on the open channels alone. Its mask is still to come, and whatever mixes channels must not read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from penstock.errors import UnsupportedError
from penstock.export.building import Builder, dimension
from penstock.export.nodes.channelwise import is_channelwise, is_flattening, keeps_zeros
from penstock.export.nodes.compact import Compact, Index, opens_just, whole


@dataclass(eq=False)
class Tracked:
    """The compact values of one graph.

    Attributes:
        masks: codes, in whatever form, and the indices of their ones.
        compact: what stands for a value that has all channels.
    """

    masks: dict[ir.Value, Index] = field(default_factory=dict)
    compact: dict[ir.Value, Compact] = field(default_factory=dict)

    def get(self, value: ir.Value | None) -> Compact | None:
        """The compact form of a value, if it has one."""
        return None if value is None else self.compact.get(value)

    def reads(self, node: ir.Node) -> bool:
        """Whether a node reads a compact value."""
        return any(value in self.compact for value in node.inputs)

    def entering(self, x: ir.Value) -> tuple[ir.Value, Index | None]:
        """What a convolution reads, and which channels that are; ``None``: all."""
        found = self.get(x)
        if found is None:
            return x, None
        self.check_clean(x)
        return found.value, found.index

    def whole(self, build: Builder, value: ir.Value) -> ir.Value:
        """A value with all its channels, those that are left out as zeros."""
        if value not in self.compact:
            return value
        self.check_clean(value)
        assert value.shape is not None
        sizes = tuple(dimension(value, axis) for axis in range(2, len(value.shape)))
        return whole(build, self.compact[value], dimension(value, 1), sizes, f"zeros.{value.name}")

    def check_clean(self, value: ir.Value) -> None:
        """Refuse a compact value whose mask is still to come.

        Raises:
            UnsupportedError: names the value.
        """
        if not self.compact[value].clean:
            raise UnsupportedError(
                f"{value.name} is read before its mask, by an operator that mixes channels: take the lowering masked"
            )

    def all_clean(self, node: ir.Node) -> bool:
        """Whether no mask is still to come of anything that a node reads."""
        return all(value not in self.compact or self.compact[value].clean for value in node.inputs)

    def passes(self, node: ir.Node, index: Index) -> bool:
        """Whether an operator can work on the channels of ``index`` alone."""
        if keeps_zeros(node) or is_flattening(node):
            return True
        return is_channelwise(node) and self.is_cleaned(node.outputs[0], index)

    def is_cleaned(self, value: ir.Value, index: Index) -> bool:
        """Whether what reads a value sets its left-out channels to zero before it mixes channels."""
        return not value.is_graph_output() and all(self._cleans(node, index) for node, _ in value.uses())

    def same_channels(self, node: ir.Node) -> bool:
        """Whether both factors hold the same channels, as in ``x sigmoid(x)``."""
        factors = [self.get(value) for value in node.inputs]
        first, second = factors
        return first is not None and second is not None and first.index is second.index

    def _cleans(self, node: ir.Node, index: Index) -> bool:
        if node.op_type == "Mul":
            factors = [self.get(value) for value in node.inputs]
            zero = any(factor is not None and factor.clean and factor.index is index for factor in factors)
            masks = [self.masks[value] for value in node.inputs if value in self.masks]
            if zero or masks:  # one of other channels would not do, and what follows it comes too late
                return zero or any(opens_just(mask, index) for mask in masks)
        return (node.op_type == "Mul" or is_channelwise(node)) and self.is_cleaned(node.outputs[0], index)
