"""Keep activations compact from the convolution that makes them to those that read them.

Behind a gated convolution only the open channels are there. They stay compact through operators that treat channels
alike into the next convolution or linear layer, which takes the columns of its weights that belong to them, so that
``k_out k_in`` of ``C_out C_in`` products remain. Only where something needs all channels are they put back to their
places: at a residual add straight onto the other summand, elsewhere among zeros.

    y = gate(x);  z = 1[y > 0];  open = indices of z;  out = relu(conv(x, W[open], b[open]))

Which filters are open is decided when the graph runs (gates, one image at a time) or is known when it is compiled
(one prototype, any batch; then the convolutions are plain static ones). A depthwise convolution of known channels
loses the closed ones. ONNX fixes the number of a convolution's groups, so that one whose channels a gate decides on
runs whole, and what it gives is made compact again where it meets its mask. A grouped convolution with a gate of its
own is refused.

A convolution with no filter at all is not allowed in ONNX Runtime. Where nothing is open, one filter of zeros is run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from penstock.errors import UnsupportedError
from penstock.export.building import Builder, constant_array, dimension, is_constant, supersede
from penstock.export.lowerings.channelwise import MASK_FORMS, is_channelwise, is_flattening, keeps_zeros
from penstock.export.lowerings.compact import (
    NOTHING,
    Compact,
    Index,
    covers,
    given,
    joined,
    scattered,
    shifted,
    silenced,
    take,
    whole,
)
from penstock.export.lowerings.gated_conv import (
    GatedConvNode,
    codes,
    gate_logits,
    pooled_input,
    read_gated_conv,
)
from penstock.export.lowerings.masked import mask_gated
from penstock.export.lowerings.regions import origin
from penstock.export.lowerings.routed_conv import RoutedConvNode, read_routed_conv


@dataclass(frozen=True, kw_only=True)
class Widths:
    """How many filters a static convolution of open ones gets.

    Attributes:
        align: a multiple of this many; the rest are zeros. ONNX Runtime's fast layout wants multiples of 16.
        fill: where all channels are needed, as at a residual add, compute zeros for the closed ones rather than
            bring the open ones to their places.
    """

    align: int = 1
    fill: bool = False


COMPACT = Widths()
# What stands in front of a network's own names; of a cascade's member, the layout names keep which one it is.
WRAPPING = re.compile(r"^network\.((?:first\.|second\.)?)body\.")


@dataclass(eq=False)
class Compaction:
    """Rewrites the convolutions of one graph, in place.

    Attributes:
        graph: what is rewritten: gated convolutions, which need a batch of one, and routed ones.
        widths: of the static convolutions, by layer.
        prototype: whose scale, shift and bits routed convolutions take.
        masked: gated layers that run whole and are masked, because that is faster here.
        masks: codes, in whatever form, and the indices of their ones; gates add theirs.
        shares: after `run`, of each convolution whose open filters and channels are known the share of its products
            that is really computed.
        narrow: after `run`, the convolutions that read only those channels that a gate has opened.
    """

    graph: ir.Graph
    widths: Mapping[str, Widths] = field(default_factory=dict)
    masks: dict[ir.Value, Index] = field(default_factory=dict)
    prototype: int = 0
    masked: frozenset[str] = frozenset()
    shares: dict[str, float] = field(default_factory=dict)
    narrow: set[str] = field(default_factory=set)
    _compact: dict[ir.Value, Compact] = field(default_factory=dict)

    def run(self) -> None:
        """Rewrite every node that makes or reads compact values."""
        for node in list(self.graph):
            gated, routed = read_gated_conv(node), read_routed_conv(node)
            if gated is not None:
                self._gated(gated)
            elif routed is not None:
                self._static(routed)
            elif node.op_type in MASK_FORMS and node.inputs[0] in self.masks:
                self.masks[node.outputs[0]] = self.masks[node.inputs[0]]
            elif node.op_type == "Mul" and any(value in self.masks for value in node.inputs):
                self._masked(node)
            elif any(value in self._compact for value in node.inputs):
                self._read(node)

    def _gated(self, conv: GatedConvNode) -> None:
        if conv.layer in self.masked:
            build = Builder(self.graph, f"{conv.layer}.reads")
            x = self._whole(build, conv.x)
            build.insert_before(conv.node)
            mask_gated(self.graph, replace(conv, x=x))
            return
        if conv.conv_attributes["group"] > 1:
            raise UnsupportedError(
                f"layer {conv.layer} has {conv.conv_attributes['group']} groups, whose filters cannot be gathered: "
                "take the lowering masked, or leave the layer ungated (where)"
            )
        build = Builder(self.graph, conv.layer)
        x, columns = self._entering(conv.x)
        logits = gate_logits(build, conv, pooled_input(build, x), columns)
        code = codes(build, logits)
        chosen = _open_indices(build, code)
        zeros = np.zeros_like(conv.weight[:1])
        weight = take(build, np.concatenate([conv.weight, zeros]), chosen, 0, "weight")
        bias = take(build, np.append(conv.bias, np.float32(0)), chosen, 0, "bias")
        weight = given(build, take(build, weight, columns, 1, "weight"), "weight")
        output = build.op("Conv", x, weight, given(build, bias, "bias"), **conv.conv_attributes)
        output = build.op("Relu", output) if conv.relu else output
        # The filter of zeros adds zeros to channel 0, which changes nothing.
        index = build.op("Mod", chosen, build.constant(np.array(conv.filters), "filters"))
        masked, old_code, old_logits = conv.node.outputs
        build.insert_before(conv.node)
        for old, new in ((old_code, code), (old_logits, logits)):
            ir.convenience.replace_all_uses_with(old, new)
        self._compact[masked] = Compact(output, index)
        self.masks[code] = index
        self.narrow |= {conv.layer} if columns is not None else set()

    def _static(self, conv: RoutedConvNode) -> None:
        build = Builder(self.graph, conv.layer)
        grouped = conv.conv_attributes["group"] > 1
        x, columns = (self._whole(build, conv.x), None) if grouped else self._entering(conv.x)
        masked = conv.node.outputs[0]
        index = self._rows(conv, masked, grouped=grouped)
        rows = (
            np.where(conv.bits[self.prototype], np.arange(conv.filters), NOTHING) if index is None else index
        )
        whole_weight, whole_bias = conv.folded(self.prototype)
        weight = given(build, take(build, take(build, whole_weight, rows, 0, "w"), columns, 1, "w"), "weight")
        bias = given(build, take(build, whole_bias, rows, 0, "b"), "bias")
        output = build.op("Conv", x, weight, bias, **conv.conv_attributes)
        output = build.op("Relu", output) if conv.relu else output
        self.shares[conv.layer] = _share(weight, conv.weight.shape)
        build.insert_before(conv.node)
        if index is None:
            supersede(masked, output)
        else:
            self._compact[masked] = Compact(output, index)

    def _rows(self, conv: RoutedConvNode, masked: ir.Value, *, grouped: bool) -> npt.NDArray[np.int64] | None:
        """Filters that a static convolution computes; ``None``: as many as the dense one, closed ones as zeros."""
        rows = np.flatnonzero(conv.bits[self.prototype])
        widths = self.widths.get(conv.layer, COMPACT)
        width = max(1, -(-len(rows) // widths.align)) * widths.align
        if grouped or width >= conv.filters or (widths.fill and _needs_all(masked)):
            return None
        return np.append(rows, np.full(width - len(rows), NOTHING))

    def _entering(self, x: ir.Value) -> tuple[ir.Value, Index | None]:
        """What a convolution reads, and which channels that are; ``None``: all."""
        found = self._compact.get(x)
        if found is None:
            return x, None
        self._check_clean(x)
        return found.value, found.index

    def _masked(self, node: ir.Node) -> None:
        """A multiplication with a mask ``[N, C, 1, 1]``: behind it, keep the open channels only.

        If none is open, the index is that of one closed channel, which the mask has made zero.
        """
        mask = next(value for value in node.inputs if value in self.masks)
        value = next((value for value in node.inputs if value is not mask), None)
        assert mask is not None
        index, output = self.masks[mask], node.outputs[0]
        entering = None if value is None else self._compact.get(value)
        if entering is not None and covers(index, entering.index):  # the mask's zeros are left out already
            build = Builder(self.graph, f"{node.name or node.op_type}.clean")
            self._compact[output] = Compact(silenced(build, entering, mask), entering.index)
            build.insert_before(node)
        elif entering is not None:
            self._read(node)
        elif output.shape is not None and len(output.shape) == 4 and not isinstance(index, np.ndarray):
            build = Builder(self.graph, f"{node.name or node.op_type}.compact")
            small = build.op("Gather", output, index, axis=1)
            self.graph.insert_after(node, list(build.tape.nodes))
            self._compact[output] = Compact(small, index)

    def _read(self, node: ir.Node) -> None:
        """Let an operator read compact values, or bring their channels to their places in front of it."""
        build = Builder(self.graph, node.name or node.op_type)
        first, output = node.inputs[0], node.outputs[0]
        entering = self._compact.get(first) if first is not None else None
        if entering is not None and self._passes(node, entering.index):
            self._pass_on(build, node, entering)
        elif node.op_type == "Mul" and self._same_channels(node):
            self._multiplied(build, node)
        elif node.op_type == "Concat" and node.attributes["axis"].as_int() == 1 and self._all_clean(node):
            self._compact[output] = self._joined(build, node)
            build.insert_before(node)
        elif (
            entering is not None and entering.clean and node.op_type == "Conv" and is_constant(node.inputs[1])
        ):
            self._conv(build, node, entering)
        elif (
            entering is not None and entering.clean and node.op_type == "Gemm" and is_constant(node.inputs[1])
        ):
            self._linear(build, node, entering)
        elif not self._added(build, node):
            self._complete(build, node)

    def _all_clean(self, node: ir.Node) -> bool:
        return all(value not in self._compact or self._compact[value].clean for value in node.inputs)

    def _passes(self, node: ir.Node, index: Index) -> bool:
        """Whether an operator can work on the channels of ``index`` alone."""
        if keeps_zeros(node) or is_flattening(node):
            return True
        return is_channelwise(node) and self._is_cleaned(node.outputs[0], index)

    def _is_cleaned(self, value: ir.Value, index: Index) -> bool:
        """Whether what reads a value sets its left-out channels to zero before it mixes channels."""
        return not value.is_graph_output() and all(self._cleans(node, index) for node, _ in value.uses())

    def _cleans(self, node: ir.Node, index: Index) -> bool:
        if node.op_type == "Mul":
            factors = [self._compact.get(value) for value in node.inputs if value is not None]
            zero = any(factor is not None and factor.clean and factor.index is index for factor in factors)
            if zero or any(value in self.masks for value in node.inputs):
                return True
        return (node.op_type == "Mul" or is_channelwise(node)) and self._is_cleaned(node.outputs[0], index)

    def _same_channels(self, node: ir.Node) -> bool:
        """Whether both factors hold the same channels, as in ``x sigmoid(x)``."""
        factors = [self._compact.get(value) for value in node.inputs if value is not None]
        first, second = factors
        return first is not None and second is not None and first.index is second.index

    def _multiplied(self, build: Builder, node: ir.Node) -> None:
        """A product of two values that hold the same channels: zero where either is."""
        factors = [self._compact[value] for value in node.inputs if value is not None]
        product = build.op("Mul", *(factor.value for factor in factors))
        build.insert_before(node)
        clean = any(factor.clean for factor in factors)
        self._compact[node.outputs[0]] = Compact(product, factors[0].index, clean)

    def _pass_on(self, build: Builder, node: ir.Node, entering: Compact) -> None:
        if is_flattening(node) and node.op_type != "ReduceMean":
            small = build.op("Flatten", entering.value, axis=1)
        else:
            attributes = {name: attribute.value for name, attribute in node.attributes.items()}
            small = build.op(node.op_type, entering.value, *node.inputs[1:], **attributes)
        build.insert_before(node)
        clean = entering.clean and (keeps_zeros(node) or is_flattening(node))
        self._compact[node.outputs[0]] = Compact(small, entering.index, clean)

    def _conv(self, build: Builder, node: ir.Node, entering: Compact) -> None:
        """A convolution without a mask of its own: its columns, or if it is depthwise its filters."""
        weight, group = constant_array(node.inputs[1]), node.attributes.get_int("group", 1)
        assert node.inputs[1] is not None
        depthwise = group == len(weight) and weight.shape[1] == 1 and group > 1
        name = _layer(node.inputs[1])
        if group == 1:
            columns = given(build, take(build, weight, entering.index, 1, "weight"), "weight")
            output = build.op("Conv", entering.value, columns, *node.inputs[2:], **_attributes(node))
            if isinstance(entering.index, np.ndarray):
                self.shares[name] = _share(columns, weight.shape)
            else:
                self.narrow.add(name)
            build.replace(node, (output,))
        elif (
            depthwise
            and isinstance(entering.index, np.ndarray)
            and (len(node.inputs) < 3 or self._is_cleaned(node.outputs[0], entering.index))
        ):
            rows = given(build, take(build, weight, entering.index, 0, "weight"), "weight")
            bias = [
                given(build, take(build, constant_array(value), entering.index, 0, "bias"), "bias")
                for value in node.inputs[2:]
            ]
            attributes = {**_attributes(node), "group": len(entering.index)}
            output = build.op("Conv", entering.value, rows, *bias, **attributes)
            self.shares[name.removesuffix(".conv")] = _share(rows, weight.shape)  # of a `FollowingConv2d`
            build.insert_before(node)
            # Its bias alone would be at the closed channels.
            self._compact[node.outputs[0]] = Compact(output, entering.index, clean=not bias)
        else:
            self._complete(build, node)

    def _linear(self, build: Builder, node: ir.Node, entering: Compact) -> None:
        """A linear layer: those of its columns whose inputs are there."""
        axis = 1 if node.attributes.get_int("transB", 0) else 0
        weight = take(build, constant_array(node.inputs[1]), entering.index, axis, "weight")
        columns = given(build, weight, "weight")
        output = build.op("Gemm", entering.value, columns, *node.inputs[2:], **_attributes(node))
        build.replace(node, (output,))

    def _joined(self, build: Builder, node: ir.Node) -> Compact:
        """A concatenation along the channels, of compact values and whole ones."""
        values, indices, offset = [], [], 0
        for position, value in enumerate(node.inputs):
            assert value is not None
            channels = dimension(value, 1)
            entering = self._compact.get(value)
            here = Compact(value, np.arange(channels)) if entering is None else entering
            values.append(here.value)
            indices.append(shifted(build, here.index, offset, f"offset{position}"))
            offset += channels
        return Compact(build.op("Concat", *values, axis=1), joined(build, indices))

    def _added(self, build: Builder, node: ir.Node) -> bool:
        """At an add of one image's open channels to a whole value, add them in their places."""
        inside = [value for value in node.inputs if value in self._compact]
        if node.op_type != "Add" or len(inside) != 1 or inside[0] is None:
            return False
        entering = self._compact[inside[0]]
        other = next(value for value in node.inputs if value is not inside[0])
        if other is None or inside[0].shape != other.shape or not entering.clean:  # something is broadcast
            return False
        if isinstance(entering.index, np.ndarray):
            return False
        build.replace(node, (scattered(build, entering, other, add=True),))
        return True

    def _complete(self, build: Builder, node: ir.Node) -> None:
        """Give an operator all channels of what it reads."""
        for position, value in enumerate(node.inputs):
            if value in self._compact:
                assert value is not None
                node.replace_input_with(position, self._whole(build, value))
        build.insert_before(node)

    def complete_outputs(self) -> None:
        """Give the values that leave the graph all their channels."""
        build = Builder(self.graph, f"{self.graph.name}.leaving")
        for position, value in enumerate(self.graph.outputs):
            if value in self._compact:
                complete = self._whole(build, value)
                complete.shape, complete.type = value.shape, value.type
                self.graph.outputs[position] = complete
        self.graph.extend(list(build.tape.nodes))

    def _whole(self, build: Builder, value: ir.Value) -> ir.Value:
        if value not in self._compact:
            return value
        self._check_clean(value)
        assert value.shape is not None
        sizes = tuple(dimension(value, axis) for axis in range(2, len(value.shape)))
        return whole(build, self._compact[value], dimension(value, 1), sizes, f"zeros.{value.name}")

    def _check_clean(self, value: ir.Value) -> None:
        if not self._compact[value].clean:
            raise UnsupportedError(
                f"{value.name} is read before its mask, by an operator that mixes channels: take the lowering masked"
            )


def _open_indices(build: Builder, code: ir.Value) -> ir.Value:
    """Indices of the ones in ``code`` ``[1, filters]``; if there are none, ``[filters]``, that of the zero filter."""
    axis = build.constant(np.array([1]), "axis")
    some = build.op("ReduceMax", code, axis, keepdims=1)
    none = build.op("Sub", build.constant(np.float32(1), "one"), some)
    extended = build.op("Concat", code, none, axis=1)
    return build.op("Gather", build.op("NonZero", extended), build.constant(np.array(1), "columns"), axis=0)


def _layer(weight: ir.Value) -> str:
    """The layer that a captured convolution's weight belongs to, as a layout names it."""
    return WRAPPING.sub(r"\1", origin(weight)).removesuffix(".weight")


def _needs_all(value: ir.Value) -> bool:
    """Whether anything that reads the value, or what follows from it channel by channel, wants all its channels."""
    if value.is_graph_output():
        return True
    for node, position in value.uses():
        if node.op_type in ("Conv", "Gemm", "GatedConv", "RoutedConv") and position == 0:
            continue
        passing = is_channelwise(node) or is_flattening(node) or node.op_type in ("Concat", "Mul")
        if not passing or _needs_all(node.outputs[0]):
            return True
    return False


def _attributes(node: ir.Node) -> dict[str, object]:
    return {name: attribute.value for name, attribute in node.attributes.items()}


def _share(weight: ir.Value, dense: tuple[int, ...]) -> float:
    """Of a dense convolution's products, those that one with this weight computes."""
    return float(constant_array(weight).size / prod(dense))
