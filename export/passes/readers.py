"""Let operators read compact values, or bring the channels to their places in front of them.

What treats channels alike works on the open ones. A convolution or linear layer takes the columns of its weights that
belong to them, a depthwise convolution of known channels loses the closed ones. Everything else gets all channels, the
closed ones zero.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import prod

import numpy as np
import onnx_ir as ir

from penstock.export.building import Builder, attributes_of, constant_array, dimension, is_constant
from penstock.export.nodes.channelwise import is_flattening, keeps_zeros
from penstock.export.nodes.compact import Compact, given, joined, named, picked, shifted, take
from penstock.export.nodes.regions import origin
from penstock.export.passes.reporting import Effect
from penstock.export.passes.tracking import Tracked

# What stands in front of a network's own names; of a cascade's member, the layout names keep which one it is.
WRAPPING = re.compile(r"^network\.((?:first\.|second\.)?)body\.")


@dataclass(eq=False)
class Readers:
    """Rewrites what reads compact values, in place.

    Attributes:
        tracked: which values are compact.
        shares: of each convolution whose open filters and channels are known, the share of its products that is really
            computed.
        narrow: the convolutions that read only those channels that a gate has opened.
        effect: what was rewritten, and what needs all channels.
    """

    tracked: Tracked
    shares: dict[str, float] = field(default_factory=dict)
    narrow: set[str] = field(default_factory=set)
    effect: Effect = field(default_factory=Effect)

    def read(self, node: ir.Node) -> None:
        """Rewrite one node."""
        assert node.graph is not None
        build = Builder(node.graph, node.name or node.op_type)
        first, output = node.inputs[0], node.outputs[0]
        entering = self.tracked.get(first)
        if entering is not None and self.tracked.passes(node, entering.index):
            self._pass_on(build, node, entering)
        elif entering is not None and counts_rows(node):
            node.replace_input_with(0, entering.value)
        elif node.op_type == "Mul" and self.tracked.same_channels(node):
            self._multiplied(build, node)
        elif (
            node.op_type == "Concat"
            and node.attributes["axis"].as_int() == 1
            and self.tracked.all_clean(node)
        ):
            self.tracked.compact[output] = self._joined(build, node)
            build.insert_before(node)
        elif (
            entering is not None and entering.clean and node.op_type == "Conv" and is_constant(node.inputs[1])
        ):
            self._conv(build, node, entering)
        elif (
            entering is not None and entering.clean and node.op_type == "Gemm" and is_constant(node.inputs[1])
        ):
            self._linear(build, node, entering)
        else:
            self._complete(build, node)
        if build.prefix not in self.effect.declined:
            self.effect.changed.append(build.prefix)

    def _multiplied(self, build: Builder, node: ir.Node) -> None:
        """A product of two values that hold the same channels: zero where either is."""
        factors = [self.tracked.compact[value] for value in node.inputs if value is not None]
        product = build.op("Mul", *(factor.value for factor in factors))
        build.insert_before(node)
        clean = any(factor.clean for factor in factors)
        self.tracked.compact[node.outputs[0]] = Compact(product, factors[0].index, clean)

    def _pass_on(self, build: Builder, node: ir.Node, entering: Compact) -> None:
        if is_flattening(node) and node.op_type != "ReduceMean":
            small = build.op("Flatten", entering.value, axis=1)
        else:
            small = build.op(node.op_type, entering.value, *node.inputs[1:], **attributes_of(node))
        build.insert_before(node)
        clean = entering.clean and (keeps_zeros(node) or is_flattening(node))
        self.tracked.compact[node.outputs[0]] = Compact(small, entering.index, clean)

    def _conv(self, build: Builder, node: ir.Node, entering: Compact) -> None:
        """A convolution without a mask of its own: its columns, or if it is depthwise its filters."""
        weight, group = constant_array(node.inputs[1]), node.attributes.get_int("group", 1)
        assert node.inputs[1] is not None
        depthwise = group == len(weight) and weight.shape[1] == 1 and group > 1
        name = _layer(node.inputs[1])
        if group == 1:
            columns = picked(build, weight, None, entering.index)
            output = build.op("Conv", entering.value, columns, *node.inputs[2:], **attributes_of(node))
            if isinstance(entering.index, np.ndarray):
                self.shares[name] = len(entering.index) / weight.shape[1]
            else:
                self.narrow.add(name)
            build.replace(node, (output,))
        elif (
            depthwise
            and isinstance(entering.index, np.ndarray)
            and (len(node.inputs) < 3 or self.tracked.is_cleaned(node.outputs[0], entering.index))
        ):
            rows = given(build, take(build, weight, entering.index, 0, "weight"), "weight")
            bias = [
                given(build, take(build, constant_array(value), entering.index, 0, "bias"), "bias")
                for value in node.inputs[2:]
            ]
            attributes = {**attributes_of(node), "group": len(entering.index)}
            output = build.op("Conv", entering.value, rows, *bias, **attributes)
            self.shares[name.removesuffix(".conv")] = share_of(rows, weight.shape)  # of a `FollowingConv2d`
            build.insert_before(node)
            # Its bias alone would be at the closed channels.
            self.tracked.compact[node.outputs[0]] = Compact(output, entering.index, clean=not bias)
        else:
            self._complete(build, node)

    def _linear(self, build: Builder, node: ir.Node, entering: Compact) -> None:
        """A linear layer: those of its columns whose inputs are there."""
        axis = 1 if node.attributes.get_int("transB", 0) else 0
        weight = take(build, constant_array(node.inputs[1]), entering.index, axis, "weight")
        columns = given(build, weight, "weight")
        output = build.op("Gemm", entering.value, columns, *node.inputs[2:], **attributes_of(node))
        build.replace(node, (output,))

    def _joined(self, build: Builder, node: ir.Node) -> Compact:
        """A concatenation along the channels, of compact values and whole ones."""
        parts = [value for value in node.inputs if value is not None]
        sizes = [dimension(value, 1) for value in parts]
        entering = [
            self.tracked.get(value) or Compact(value, np.arange(channels))
            for value, channels in zip(parts, sizes, strict=True)
        ]
        known = all(isinstance(part.index, np.ndarray) for part in entering)
        indices, offset = [], 0
        for position, (part, channels) in enumerate(zip(entering, sizes, strict=True)):
            index = part.index
            if isinstance(index, np.ndarray) and not known:
                index = named(index, channels)
            indices.append(shifted(build, index, offset, f"offset{position}"))
            offset += channels
        return Compact(build.op("Concat", *(part.value for part in entering), axis=1), joined(build, indices))

    def _complete(self, build: Builder, node: ir.Node) -> None:
        """Give an operator all channels of what it reads."""
        for position, value in enumerate(node.inputs):
            if value in self.tracked.compact:
                assert value is not None
                node.replace_input_with(position, self.tracked.whole(build, value))
        build.insert_before(node)
        self.effect.declined[build.prefix] = f"{node.op_type} needs all channels"


def counts_rows(node: ir.Node) -> bool:
    """Whether a node asks for the size of the batch and nothing else."""
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", 0)
    return node.op_type == "Shape" and (start, end) == (0, 1)


def share_of(weight: ir.Value, dense: tuple[int, ...]) -> float:
    """Of a dense convolution's products, those that one with this weight computes."""
    return float(constant_array(weight).size / prod(dense))


def _layer(weight: ir.Value) -> str:
    """The layer that a captured convolution's weight belongs to, as a layout names it."""
    return WRAPPING.sub(r"\1", origin(weight)).removesuffix(".weight")
