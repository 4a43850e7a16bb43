"""Which channels of a value are zeros because a gate is closed.

A value's channels are a row of segments, each ruled by one gated layer or by none:

    squeeze -> (expand1x1, expand3x3) -> cat        [(expand1x1, 64), (expand3x3, 64)]

`ChannelFlow` carries that through a graph, in order. It claims a gate only where a closed filter is certain to be zero:
through operators that treat channels apart and turn zero into zero (pooling, ReLU, dropout, padding with zeros),
through concatenations, splits and products. An add has the channel when either summand has; a batch norm turns zero
into a constant; what is not known is taken to do so too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from torch import fx, nn

from penstock.nn.operators import (
    AVERAGE_POOLS,
    COPIES,
    DROPOUTS,
    MAX_POOLS,
    REDUCTIONS,
    RESHAPES,
    SPLITS,
    ZERO_ACTIVATIONS,
    argument,
    kind_of,
    shape_of,
    shapes_of,
    tensor_input,
    writes_in_place,
)

KEEPING = ZERO_ACTIVATIONS | MAX_POOLS | AVERAGE_POOLS | REDUCTIONS | DROPOUTS | COPIES | RESHAPES
KEEPING |= {"pad", "interpolate"}
FULL = slice(None, None, None)


class Segment(NamedTuple):
    """Some neighbouring channels: all those of gated layer ``layer``, or ones that no gate rules (``None``)."""

    layer: int | None
    channels: int


Channels = tuple[Segment, ...]


def gates_of(channels: Channels) -> set[int]:
    """The gated layers that rule some of the channels."""
    return {segment.layer for segment in channels if segment.layer is not None}


class ChannelFlow:
    """Follows channels through a measured graph.

    Args:
        modules: the graph's modules by name.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.modules = modules
        self._known: dict[fx.Node, Channels] = {}
        self._parts: dict[fx.Node, tuple[Channels, ...]] = {}

    def of(self, node: fx.Node) -> Channels:
        """The channels of a value; dimension 1 of its shape."""
        return self._known.get(node) or _ungated(node)

    def set(self, node: fx.Node, channels: Channels) -> None:
        """State what a value's channels are."""
        self._known[node] = channels

    def visit(self, node: fx.Node) -> None:
        """Work out the channels of ``node`` from those of what it reads."""
        kind = kind_of(node, self.modules)
        if kind in SPLITS:
            self._split(node)
            return
        found = self._through(node, kind)
        if found is not None and sum(segment.channels for segment in found) == (*shape_of(node), 0, 0)[1]:
            self._known[node] = found
        elif node.all_input_nodes and writes_in_place(node, self.modules):
            # What was zero before may be none now, for whoever reads the changed value later.
            self._known.pop(tensor_input(node), None)

    def _through(self, node: fx.Node, kind: str) -> Channels | None:
        if kind == "cat":
            return self._joined(node)
        if kind == "getitem":
            return self._item(node)
        if kind == "mul":  # zero where either factor is: keep to the one that gates rule most
            factors = [self.of(each) for each in node.all_input_nodes if _same_channels(each, node)]
            return max(factors, key=_gated_channels, default=None)
        if kind == "truediv" and isinstance(node.args[0], fx.Node) and _same_channels(node.args[0], node):
            return self.of(node.args[0])
        if kind in KEEPING and self._keeps(node, kind):
            return self.of(tensor_input(node))
        return None

    def _keeps(self, node: fx.Node, kind: str) -> bool:
        """Whether an operator that keeps channels apart, as a rule, does so here and turns zero into zero."""
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        entering, leaving = shape_of(tensor_input(node)), shape_of(node)
        if len(leaving) < 2 or entering[:2] != leaving[:2]:
            return False
        if kind in ("hardtanh", "clamp"):
            return _bounds_hold_zero(node, module, "min_val" if kind == "hardtanh" else "min")
        if kind == "pad":
            return _pads_with_zeros(node, module)
        if kind in REDUCTIONS:
            return _over_space(node)
        return True

    def _joined(self, node: fx.Node) -> Channels | None:
        parts = argument(node, 0, "tensors", ())
        dim = argument(node, 1, "dim", 0)
        ndim = len(shape_of(node))
        if not isinstance(parts, list | tuple) or not isinstance(dim, int) or dim % max(ndim, 1) != 1:
            return None
        return tuple(segment for part in parts if isinstance(part, fx.Node) for segment in self.of(part))

    def _split(self, node: fx.Node) -> None:
        dim = argument(node, 2, "dim", 0)
        entering = tensor_input(node)
        if not isinstance(dim, int) or dim % len(shape_of(entering)) != 1:
            return
        parts, start = [], 0
        for shape in shapes_of(node):
            parts.append(_cut(self.of(entering), start, start + shape[1]))
            start += shape[1]
        self._parts[node] = tuple(parts)

    def _item(self, node: fx.Node) -> Channels | None:
        value, index = node.args
        assert isinstance(value, fx.Node)
        if value in self._parts and isinstance(index, int):
            return self._parts[value][index]
        if not isinstance(index, tuple) or len(index) < 2 or index[0] != FULL:
            return None
        chosen = index[1]
        if not isinstance(chosen, slice) or any(isinstance(part, fx.Node) for part in index[2:]):
            return None
        if chosen == FULL:
            return self.of(value)
        bounds = (chosen.start, chosen.stop)
        if chosen.step not in (None, 1) or any(isinstance(bound, fx.Node) for bound in bounds):
            return None
        start, stop, _ = chosen.indices(shape_of(value)[1])
        return _cut(self.of(value), start, stop)


def sources_of(channels: Channels, filters: Mapping[int, int]) -> tuple[tuple[int, ...], int]:
    """What a layer that reads these channels may skip.

    Args:
        channels: of its input.
        filters: number of filters of each gated layer.

    Returns:
        the gated layers, each as often as its filters stand there, and the number of channels that no gate rules.
    """
    sources: Counter[int] = Counter()
    ungated = 0
    for segment in channels:
        if segment.layer is None:
            ungated += segment.channels
        else:
            sources[segment.layer] += segment.channels // filters[segment.layer]
    return (tuple(sorted(sources.elements())), ungated) if sources else ((), 0)


def _ungated(node: fx.Node) -> Channels:
    shape = shape_of(node)
    return (Segment(None, shape[1]),) if len(shape) > 1 else ()


def _same_channels(one: fx.Node, other: fx.Node) -> bool:
    """Whether dimension 1 means the same in both: as many dimensions, nothing broadcast there."""
    return len(shape_of(one)) == len(shape_of(other)) and shape_of(one)[1:2] == shape_of(other)[1:2]


def _gated_channels(channels: Channels) -> int:
    return sum(segment.channels for segment in channels if segment.layer is not None)


def _cut(channels: Channels, start: int, stop: int) -> Channels:
    """Channels ``start`` to ``stop``; a part of a layer's filters counts as ungated, for simplicity."""
    cut, begin = [], 0
    for segment in channels:
        end = begin + segment.channels
        count = min(end, stop) - max(begin, start)
        if count > 0:
            cut.append(segment if count == segment.channels else Segment(None, count))
        begin = end
    return tuple(cut)


def _bounds_hold_zero(node: fx.Node, module: nn.Module | None, lowest: str) -> bool:
    highest = lowest.replace("min", "max")
    if module is not None:
        low, high = getattr(module, lowest), getattr(module, highest)
    else:
        ends = (-1.0, 1.0) if lowest == "min_val" else (None, None)
        low, high = argument(node, 1, lowest, ends[0]), argument(node, 2, highest, ends[1])
    if isinstance(low, fx.Node) or isinstance(high, fx.Node):
        return False
    return (low is None or low <= 0) and (high is None or high >= 0)


def _pads_with_zeros(node: fx.Node, module: nn.Module | None) -> bool:
    """Padding in space, with zeros or with what is there."""
    if module is not None:
        return not getattr(module, "value", 0)
    width = argument(node, 1, "pad", ())
    if not isinstance(width, list | tuple) or any(each != 0 for each in width[4:]):
        return False
    return argument(node, 2, "mode", "constant") != "constant" or argument(node, 3, "value", 0) in (0, None)


def _over_space(node: fx.Node) -> bool:
    """Whether a mean or sum is taken over dimensions behind the second."""
    dims = argument(node, 1, "dim", None)
    ndim = len(shape_of(tensor_input(node)))
    each = dims if isinstance(dims, list | tuple) else [dims]
    return all(isinstance(dim, int) and dim % ndim > 1 for dim in each)
