"""Which part of a network a stage's prototypes stand in the place of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from penstock.export.building import Builder
from penstock.export.lowerings.routed import Routed
from penstock.export.nodes.regions import (
    copied,
    drop_unused,
    inner_graphs,
    origin,
    outside_values,
    stage_region,
)
from penstock.export.nodes.routed_conv import read_routed_conv

Named = Callable[[str], Any]
NETWORKS = ("chain", "residual", "fire", "inverted", "odd", "cascade", "backed")
STAGES = {"fire": 5, "odd": 4}


def first_prototypes(captured: Any) -> dict[str, list[str]]:
    """What kinds of nodes the first prototype of each stage consists of, by the stage's first layer."""
    waiting = [captured.lowered(Routed()).graph]
    found = {}
    while waiting:
        graph = waiting.pop()
        if str(graph.name).endswith(".prototype0"):
            found[str(graph.name).removesuffix(".prototype0")] = [node.op_type for node in graph]
        waiting += [inner for node in graph for inner in inner_graphs(node)]
    return found


@pytest.mark.parametrize("network", NETWORKS)
def test_no_prototype_holds_what_decides_on_paths(network: str, routed: Named) -> None:
    stages = first_prototypes(routed(network))
    assert len(stages) == STAGES.get(network, 2)
    for kinds in stages.values():
        assert not {"ArgMax", "Less", "Softmax"} & set(kinds)
        assert kinds.count("Gemm") <= 1  # a classifier, no router


def test_what_joins_stages_that_stand_side_by_side_belongs_to_the_last_of_them(routed: Named) -> None:
    stages = first_prototypes(routed("fire"))
    joins = {name: kinds.count("Concat") for name, kinds in stages.items()}
    assert joins == {"2.squeeze": 0, "2.expand1x1": 0, "2.expand3x3": 1, "4.squeeze": 1, "5": 0}
    assert "MaxPool" in stages["2.expand3x3"]


def test_a_copy_computes_the_same_from_constants_of_its_own(routed: Named) -> None:
    graph = routed("fire").model.clone().graph
    last = [node for node in graph if read_routed_conv(node)][-1]
    region = stage_region(graph, [last])
    copy = copied(region, "copy")
    assert [node.op_type for node in copy] == [node.op_type for node in region.nodes]
    conv, twin = (next(node for node in part if node.op_type == "Conv") for part in (region.nodes, copy))
    weight, own = conv.inputs[1], twin.inputs[1]
    assert weight is not None
    assert own is not None
    assert own is copy.initializers["copy.network.body.7.weight"]
    assert origin(own) == weight.name == "network.body.7.weight"
    assert own.const_value is weight.const_value
    first = region.nodes[0]
    assert [value for value in outside_values(copy) if value.producer()] == [
        first.inputs[0],
        first.inputs[-1],
    ]
    assert [str(value.name) for value in copy.outputs] == [f"copy.{value.name}" for value in region.outputs]


def test_unused_nodes_go_with_all_that_only_they_read() -> None:
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2]))
    graph = ir.Graph([value], [], nodes=[], opset_imports={"": 18}, name="graph")
    build = Builder(graph, "part")
    used = build.op("Add", value, build.constant(np.ones(2, np.float32), "one"))
    build.op("Mul", build.op("Sub", value, build.constant(np.ones(2, np.float32), "two")), used)
    graph.extend(list(build.tape.nodes))
    graph.outputs.append(used)
    drop_unused(graph)
    assert [node.op_type for node in graph] == ["Add"]
    assert list(graph.initializers) == ["part.one"]
