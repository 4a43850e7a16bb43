"""Keep activations compact from the convolution that makes them to those that read them.

Behind a gated convolution only the open channels are there. They stay compact through operators that treat channels
alike into the next convolution or linear layer (`penstock.export.lowerings.readers`), so that ``k_out k_in`` of
``C_out C_in`` products remain. Only where something needs all channels are they put back to their places.

Which filters are open is decided when the graph runs (gates, one image at a time) or is known when it is compiled
(one prototype, any batch; then the convolutions are plain static ones). A depthwise convolution of known channels
loses the closed ones. ONNX fixes the number of a convolution's groups, so that one whose channels a gate decides on
runs whole, and what it gives is made compact again where it meets its mask. A grouped convolution with a gate of its
own is refused.

A convolution with no filter at all is not allowed in ONNX Runtime. Where nothing is open, one filter of zeros is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from penstock.export.building import Builder, supersede
from penstock.export.lowerings.channelwise import MASK_FORMS, is_channelwise, is_flattening
from penstock.export.lowerings.compact import NOTHING, Compact, Index, covers, given, silenced, take
from penstock.export.lowerings.gated_conv import GatedConvNode, read_gated_conv
from penstock.export.lowerings.gathered_conv import gather_conv
from penstock.export.lowerings.masked import mask_gated
from penstock.export.lowerings.readers import Readers, share_of
from penstock.export.lowerings.routed_conv import RoutedConvNode, read_routed_conv
from penstock.export.lowerings.tracking import Tracked


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


@dataclass(frozen=True, kw_only=True)
class Picking:
    """How the convolutions run whose weights are picked for each image, by the gated layer that decides.

    Attributes:
        whole: layers that nevertheless run whole and are masked.
        turned: layers whose own convolution is turned, see `penstock.export.lowerings.picked_conv`.
        turned_readers: layers whose open channels are read by turned convolutions.
    """

    whole: frozenset[str] = frozenset()
    turned: frozenset[str] = frozenset()
    turned_readers: frozenset[str] = frozenset()


@dataclass(eq=False)
class Compaction:
    """Rewrites the convolutions of one graph, in place.

    Attributes:
        graph: what is rewritten: gated convolutions, which need a batch of one, and routed ones.
        widths: of the static convolutions, by layer.
        masks: codes, in whatever form, and the indices of their ones; gates add theirs.
        prototype: whose scale, shift and bits routed convolutions take.
        picking: of the convolutions that gates decide on.
    """

    graph: ir.Graph
    widths: Mapping[str, Widths] = field(default_factory=dict)
    masks: dict[ir.Value, Index] = field(default_factory=dict)
    prototype: int = 0
    picking: Picking = field(default_factory=Picking)

    def __post_init__(self) -> None:
        self._tracked = Tracked(self.masks)
        self._readers = Readers(self._tracked)

    @property
    def shares(self) -> Mapping[str, float]:
        """After `run`: see `Readers.shares`."""
        return self._readers.shares

    @property
    def narrow(self) -> frozenset[str]:
        """After `run`: see `Readers.narrow`."""
        return frozenset(self._readers.narrow)

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
            elif self._tracked.reads(node):
                self._readers.read(node)

    def _gated(self, conv: GatedConvNode) -> None:
        if conv.layer in self.picking.whole:
            build = Builder(self.graph, f"{conv.layer}.reads")
            x = self._tracked.whole(build, conv.x)
            build.insert_before(conv.node)
            mask_gated(self.graph, replace(conv, x=x))
            return
        build = Builder(self.graph, conv.layer)
        x, columns = self._tracked.entering(conv.x)
        turned = conv.layer in self.picking.turned
        output, code, logits = gather_conv(build, conv, x, columns, turned=turned)
        masked, old_code, old_logits = conv.node.outputs
        build.insert_before(conv.node)
        for old, new in ((old_code, code), (old_logits, logits)):
            ir.convenience.replace_all_uses_with(old, new)
        self._tracked.compact[masked] = output
        self.masks[code] = output.index
        if conv.layer in self.picking.turned_readers and isinstance(output.index, ir.Value):
            self._readers.turned.add(output.index)
        if columns is not None:
            self._readers.narrow.add(conv.layer)

    def _static(self, conv: RoutedConvNode) -> None:
        build = Builder(self.graph, conv.layer)
        grouped = conv.conv_attributes["group"] > 1
        x, columns = (self._tracked.whole(build, conv.x), None) if grouped else self._tracked.entering(conv.x)
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
        self._readers.shares[conv.layer] = share_of(weight, conv.weight.shape)
        build.insert_before(conv.node)
        if index is None:
            supersede(masked, output)
        else:
            self._tracked.compact[masked] = Compact(output, index)

    def _rows(self, conv: RoutedConvNode, masked: ir.Value, *, grouped: bool) -> npt.NDArray[np.int64] | None:
        """Filters that a static convolution computes; ``None``: as many as the dense one, closed ones as zeros."""
        rows = np.flatnonzero(conv.bits[self.prototype])
        widths = self.widths.get(conv.layer, COMPACT)
        width = max(1, -(-len(rows) // widths.align)) * widths.align
        if grouped or width >= conv.filters or (widths.fill and _needs_all(masked)):
            return None
        return np.append(rows, np.full(width - len(rows), NOTHING))

    def _masked(self, node: ir.Node) -> None:
        """A multiplication with a mask ``[N, C, 1, 1]``: behind it, keep the open channels only.

        If none is open, the index is that of one closed channel, which the mask has made zero.
        """
        mask = next(value for value in node.inputs if value in self.masks)
        value = next((value for value in node.inputs if value is not mask), None)
        assert mask is not None
        index, output = self.masks[mask], node.outputs[0]
        entering = self._tracked.get(value)
        if entering is not None and covers(index, entering.index):  # the mask's zeros are left out already
            build = Builder(self.graph, f"{node.name or node.op_type}.clean")
            self._tracked.compact[output] = Compact(silenced(build, entering, mask), entering.index)
            build.insert_before(node)
        elif entering is not None:
            self._readers.read(node)
        elif output.shape is not None and len(output.shape) == 4 and not isinstance(index, np.ndarray):
            build = Builder(self.graph, f"{node.name or node.op_type}.compact")
            small = build.op("Gather", output, index, axis=1)
            self.graph.insert_after(node, list(build.tape.nodes))
            self._tracked.compact[output] = Compact(small, index)

    def complete_outputs(self) -> None:
        """Give the values that leave the graph all their channels."""
        build = Builder(self.graph, f"{self.graph.name}.leaving")
        for position, value in enumerate(self.graph.outputs):
            if value in self._tracked.compact:
                complete = self._tracked.whole(build, value)
                complete.shape, complete.type = value.shape, value.type
                self.graph.outputs[position] = complete
        self.graph.extend(list(build.tape.nodes))


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
