"""Which masks make up for an operator that does not keep zeros, on the open channels alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest

from penstock.errors import UnsupportedError
from penstock.export.building import Builder, inner_graph
from penstock.export.nodes.compact import NOTHING, Compact
from penstock.export.passes.keep_compact import KeepCompact
from penstock.export.passes.tracking import Tracked

OPEN = np.array([0, 2])


def a_value(name: str, channels: int) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape([1, channels, 4, 4]), type=ir.TensorType(ir.DataType.FLOAT))


def masked_sigmoid(mask: ir.Value) -> tuple[ir.Value, ir.Node, ir.Value]:
    """A value, its sigmoid, and that behind a mask and a ReLU."""
    graph = inner_graph("graph")
    build, x = Builder(graph, "graph"), a_value("x", 4)
    sigmoid = build.op("Sigmoid", x)
    masked = build.op("Mul", sigmoid, mask)
    for value in (sigmoid, masked):
        value.shape = x.shape
    graph.outputs.append(build.op("Relu", masked))
    graph.extend(list(build.tape.nodes))
    node = sigmoid.producer()
    assert node is not None
    return x, node, masked


@pytest.mark.parametrize(
    ("ones", "enough"),
    [([0, 2], True), ([2, 0], True), ([0, 2, NOTHING], True), ([0, 1, 2], False), ([0], False)],
)
def test_only_a_mask_of_the_same_channels_sets_the_others_to_zero(ones: Sequence[int], enough: bool) -> None:
    mask = a_value("mask", 4)
    x, sigmoid, _ = masked_sigmoid(mask)
    tracked = Tracked({mask: np.array(ones)}, {x: Compact(x, OPEN)})
    assert tracked.passes(sigmoid, OPEN) is enough


def test_a_gates_mask_is_told_from_that_of_another_gate() -> None:
    mask, own, other = a_value("mask", 4), a_value("own", 4), a_value("other", 4)
    x, sigmoid, _ = masked_sigmoid(mask)
    for index, enough in ((own, True), (other, False)):
        assert Tracked({mask: index}, {x: Compact(x, own)}).passes(sigmoid, own) is enough


def test_what_is_left_out_of_a_value_that_is_not_clean_is_not_taken_for_closed() -> None:
    mask = a_value("mask", 4)
    _, sigmoid, masked = masked_sigmoid(mask)
    value, mul = sigmoid.outputs[0], masked.producer()
    assert mul is not None
    assert isinstance(mul.graph, ir.Graph)
    keep = KeepCompact({mask: np.array([0, 1, 2])})
    keep._graph = mul.graph
    keep._tracked.compact[value] = Compact(value, OPEN, clean=False)
    with pytest.raises(UnsupportedError, match="read before its mask"):
        keep._masked(mul)
    keep._tracked.compact[value] = Compact(value, OPEN)
    keep._masked(mul)
    assert keep._tracked.compact[masked].index is OPEN
