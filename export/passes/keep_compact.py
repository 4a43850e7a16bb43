"""Keep activations compact from the convolution that makes them to those that read them.

Behind a gated convolution only the open channels are there. They stay compact through operators that treat channels
alike into the next convolution or linear layer (`penstock.export.passes.readers`), so that ``k_out k_in`` of
``C_out C_in`` products remain. Only where something needs all channels are they put back to their places: there the
pass declines.

Which filters are open is decided when the graph runs (gates, one image at a time) or is known when it is compiled
(one prototype, any batch; then the convolutions are plain static ones). A depthwise convolution of known channels
loses the closed ones. ONNX fixes the number of a convolution's groups, so that one whose channels a gate decides on
runs whole, and what it gives is made compact again where it meets its mask. A grouped convolution with a gate of its
own is refused.

A convolution with no filter at all is not allowed in ONNX Runtime. Where nothing is open, one filter of zeros is run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from penstock.export.building import Builder, supersede
from penstock.export.nodes.channelwise import MASK_FORMS
from penstock.export.nodes.compact import (
    NOTHING,
    Compact,
    Index,
    covers,
    given,
    opens_just,
    picked,
    silenced,
    take,
)
from penstock.export.nodes.gated_conv import GatedConvNode, read_gated_conv
from penstock.export.nodes.gathered_conv import gather_conv
from penstock.export.nodes.masked_conv import mask_gated
from penstock.export.nodes.routed_conv import WIDTH, RoutedConvNode, read_routed_conv
from penstock.export.passes.readers import Readers, share_of
from penstock.export.passes.reporting import Effect
from penstock.export.passes.tracking import Tracked

MASKED = "asked for whole and masked: lowering auto found that faster"
WIDE = "all its filters are computed: open ones, aligned ones, or a convolution with groups"
LEAVING = "what leaves a prototype's part of the graph has all channels"


class KeepCompact:
    """Rewrites the convolutions of one graph, and what reads them.

    Args:
        masks: codes, in whatever form, and the indices of their ones, where those are known; gates add theirs.
        prototype: whose scale, shift and bits routed convolutions take.
        whole: gated layers that nevertheless run whole and are masked.
    """

    name = "keep activations compact"

    def __init__(
        self, masks: Mapping[ir.Value, Index], *, prototype: int = 0, whole: Collection[str] = ()
    ) -> None:
        self._prototype = prototype
        self._whole = whole
        self._masks: dict[ir.Value, Index] = {}
        for code, index in masks.items():
            self._note(code, index)
        self._tracked = Tracked(self._masks)
        self._readers = Readers(self._tracked)

    @property
    def shares(self) -> Mapping[str, float]:
        """Afterwards: see `Readers.shares`."""
        return self._readers.shares

    @property
    def narrow(self) -> frozenset[str]:
        """Afterwards: see `Readers.narrow`."""
        return frozenset(self._readers.narrow)

    def __call__(self, graph: ir.Graph) -> Effect:
        """Rewrite every node that makes or reads compact values: gated ones, which need a batch of one, and routed."""
        self._graph = graph
        for node in list(graph):
            gated, routed = read_gated_conv(node), read_routed_conv(node)
            if gated is not None:
                self._gated(gated)
            elif routed is not None:
                self._static(routed)
            elif node.op_type == "Mul" and any(value in self._masks for value in node.inputs):
                self._masked(node)
            elif self._tracked.reads(node):
                self._readers.read(node)
        self._complete_outputs()
        return self._readers.effect

    def _note(self, code: ir.Value, index: Index) -> None:
        """A code and all forms that it takes, also those that come late: what stands before a mask looks ahead."""
        self._masks[code] = index
        for user, _ in code.uses():
            if user.op_type in MASK_FORMS:
                self._note(user.outputs[0], index)

    def _gated(self, conv: GatedConvNode) -> None:
        if conv.layer in self._whole:
            build = Builder(self._graph, f"{conv.layer}.reads")
            x = self._tracked.whole(build, conv.x)
            build.insert_before(conv.node)
            mask_gated(self._graph, replace(conv, x=x))
            self._readers.effect.declined[conv.layer] = MASKED
            return
        build = Builder(self._graph, conv.layer)
        x, columns = self._tracked.entering(conv.x)
        output, code, logits = gather_conv(build, conv, x, columns)
        masked, old_code, old_logits = conv.node.outputs
        build.insert_before(conv.node)
        for old, new in ((old_code, code), (old_logits, logits)):
            ir.convenience.replace_all_uses_with(old, new)
        self._tracked.compact[masked] = output
        self._note(code, output.index)
        if columns is not None:
            self._readers.narrow.add(conv.layer)
        self._readers.effect.changed.append(conv.layer)

    def _static(self, conv: RoutedConvNode) -> None:
        build = Builder(self._graph, conv.layer)
        grouped = conv.conv_attributes["group"] > 1
        x, columns = (self._tracked.whole(build, conv.x), None) if grouped else self._tracked.entering(conv.x)
        masked, bits = conv.node.outputs[0], conv.bits[self._prototype]
        width = conv.node.attributes.get_int(WIDTH, max(1, int(bits.sum())))
        if width == conv.filters:  # closed ones as zeros
            rows = np.where(bits, np.arange(conv.filters), NOTHING)
        else:
            rows = np.append(np.flatnonzero(bits), np.full(width - int(bits.sum()), NOTHING))
        whole_weight, whole_bias = conv.folded(self._prototype)
        weight = picked(build, whole_weight, rows, columns)
        bias = given(build, take(build, whole_bias, rows, 0, "b"), "bias")
        output = build.op("Conv", x, weight, bias, **conv.conv_attributes)
        output = build.op("Relu", output) if conv.relu else output
        self._readers.shares[conv.layer] = share_of(weight, conv.weight.shape)
        build.insert_before(conv.node)
        if width == conv.filters:
            supersede(masked, output)
            self._readers.effect.declined[str(conv.node.name)] = WIDE
        else:
            self._tracked.compact[masked] = Compact(output, rows)
            self._readers.effect.changed.append(str(conv.node.name))

    def _masked(self, node: ir.Node) -> None:
        """A multiplication with a mask ``[N, C, 1, 1]``: behind it, keep the open channels only.

        If none is open, the index is that of one closed channel, which the mask has made zero.
        """
        mask = next(value for value in node.inputs if value in self._masks)
        value = next((value for value in node.inputs if value is not mask), None)
        assert mask is not None
        index, output = self._masks[mask], node.outputs[0]
        entering = self._tracked.get(value)
        if entering is not None and _is_closed_by(entering, index):  # the mask's zeros are left out already
            build = Builder(self._graph, f"{node.name or node.op_type}.clean")
            self._tracked.compact[output] = Compact(silenced(build, entering, mask), entering.index)
            build.insert_before(node)
        elif entering is not None:
            self._readers.read(node)
        elif output.shape is not None and len(output.shape) == 4 and not isinstance(index, np.ndarray):
            build = Builder(self._graph, f"{node.name or node.op_type}.compact")
            small = build.op("Gather", output, index, axis=1)
            self._graph.insert_after(node, list(build.tape.nodes))
            self._tracked.compact[output] = Compact(small, index)

    def _complete_outputs(self) -> None:
        """Give the values that leave the graph all their channels."""
        build = Builder(self._graph, f"{self._graph.name}.leaving")
        for position, value in enumerate(self._graph.outputs):
            if value in self._tracked.compact:
                self._readers.effect.declined[str(value.name)] = LEAVING
                complete = self._tracked.whole(build, value)
                complete.shape, complete.type = value.shape, value.type
                self._graph.outputs[position] = complete
        self._graph.extend(list(build.tape.nodes))


def _is_closed_by(entering: Compact, mask: Index) -> bool:
    """Whether behind its mask a value holds what it held, and zeros at all channels that are left out."""
    return (covers if entering.clean else opens_just)(mask, entering.index)
