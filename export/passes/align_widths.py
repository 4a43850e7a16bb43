"""Align the widths of static convolutions to what the engine computes fastest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from penstock.export.nodes.channelwise import is_channelwise, is_flattening
from penstock.export.nodes.routed_conv import WIDTH, RoutedConvNode, read_routed_conv
from penstock.export.passes.reporting import Effect
from penstock.manifest import INT8

GROUPED = "a convolution with groups computes all its filters"
UNASKED = "not asked for: as many filters as are open"
FITTING = "as wide as it is to be already"


@dataclass(frozen=True, kw_only=True)
class Widths:
    """How many filters a static convolution of open ones gets.

    Attributes:
        align: a multiple of this many; the rest are zeros. ONNX Runtime's fast layout wants multiples of 16.
        least: at least this many.
        fill: where all channels are needed, as at a residual add, compute zeros for the closed ones rather than
            bring the open ones to their places.
    """

    align: int = 1
    least: int = 1
    fill: bool = False


OPEN = Widths()


def compact(precision: str) -> Widths:
    """The fewest filters with which ONNX Runtime's convolutions of this precision are fast.

    Its blocked layout at float32 and its direct convolution at int8 take channels in fours. At float32, convolutions of
    175 channels at 4x4 take 1.3 times as long as of 176. At int8, 22 filters of 64 channels at 32x32 take 1.5 times as
    long as 24, and 12 longer than 16.
    """
    return Widths(align=4, least=16 if precision == INT8 else 1)


class AlignWidths:
    """A routed convolution of k open filters computes ``max(least, ceil(k / align) align)``, the rest being zeros.

    The pass writes the number to the convolution's node; `KeepCompact` makes the weights. Where that is as wide as the
    dense convolution, or is asked for because a reader needs all channels, the convolution keeps all its filters in
    their places. It declines grouped convolutions, and layers for which nobody asked. Exports ask for `compact` widths
    everywhere; wider ones pay on some engines and networks only, so that ``--lowering auto`` measures them.

    Args:
        widths: by layer.
        prototype: whose filters are open.
        others: of all other layers.
    """

    name = "align widths"

    def __init__(self, widths: Mapping[str, Widths], prototype: int, others: Widths = OPEN) -> None:
        self._widths = widths
        self._prototype = prototype
        self._others = others

    def __call__(self, graph: ir.Graph) -> Effect:
        """Choose the width of every routed convolution."""
        effect = Effect()
        for node in graph:
            conv = read_routed_conv(node)
            if conv is None:
                continue
            width = self._width(conv)
            node.attributes[WIDTH] = ir.AttrInt64(WIDTH, width)
            name = str(node.name)
            if conv.conv_attributes["group"] > 1:
                effect.declined[name] = GROUPED
            elif self._asked(conv) == OPEN:
                effect.declined[name] = UNASKED
            elif width == _open(conv, self._prototype):
                effect.declined[name] = FITTING
            else:
                effect.changed.append(name)
        return effect

    def _asked(self, conv: RoutedConvNode) -> Widths:
        return self._widths.get(conv.layer, self._others)

    def _width(self, conv: RoutedConvNode) -> int:
        if conv.conv_attributes["group"] > 1:
            return conv.filters
        widths = self._asked(conv)
        width = max(widths.least, -(-_open(conv, self._prototype) // widths.align) * widths.align)
        whole = width >= conv.filters or (widths.fill and _needs_all(conv.node.outputs[0]))
        return conv.filters if whole else width


def _open(conv: RoutedConvNode, prototype: int) -> int:
    """Number of open filters; a convolution has at least one."""
    return max(1, int(conv.bits[prototype].sum()))


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
