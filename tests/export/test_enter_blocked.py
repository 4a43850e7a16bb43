"""What branches add from around them enters the blocked layout where they begin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from penstock.export.building import Builder, inner_graph
from penstock.export.lowerings.routed import Routed
from penstock.export.nodes.regions import all_graphs
from penstock.export.passes import enter_blocked
from penstock.export.passes.enter_blocked import EnterBlocked
from penstock.export.passes.simplify import tidy


@pytest.mark.parametrize("single", [False, True])
def test_in_branches_only_what_is_blocked_is_added_to_convolutions(
    single: bool, routed: Callable[[str], Any], some_images: Any, to_bytes: Callable[[ir.Model], bytes]
) -> None:
    model = routed("residual").model.clone()
    Routed(single=single).lower(model)
    tidy(model)
    feed = {"images": some_images(1 if single else 7).astype(np.float32) / 255}
    want = ort.InferenceSession(to_bytes(model), providers=["CPUExecutionProvider"]).run(None, feed)
    effect = EnterBlocked()(model.graph)
    assert effect.changed
    for branch in all_graphs(model.graph):
        if branch is model.graph or not any(node.op_type == "Conv" for node in branch):
            continue
        for summand in (value for node in branch if node.op_type == "Add" for value in node.inputs):
            assert summand is not None
            assert (maker := summand.producer()) is not None
            assert maker.graph is branch
            assert maker.op_type != "Compress"
    got = ort.InferenceSession(to_bytes(model), providers=["CPUExecutionProvider"]).run(None, feed)
    for one, other in zip(want, got, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5)


def test_vectors_and_graphs_without_branches_stay_as_they_are(routed: Callable[[str], Any]) -> None:
    static = routed("residual").model.clone()
    before = [node.op_type for node in static.graph]
    assert EnterBlocked()(static.graph).changed == []
    assert [node.op_type for node in static.graph] == before

    x = ir.Value(name="x", shape=ir.Shape([1, 3, 4, 4]), type=ir.TensorType(ir.DataType.FLOAT))
    row = ir.Value(name="row", shape=ir.Shape([1, 4]), type=ir.TensorType(ir.DataType.FLOAT))
    branch = inner_graph("branch")
    build = Builder(branch, "branch")
    weight = build.constant(np.ones((2, 3, 1, 1), np.float32), "weight")
    branch.outputs.append(build.op("Add", build.op("Conv", x, weight), row))
    branch.extend(list(build.tape.nodes))
    other = inner_graph("other")
    graph = ir.Graph([x, row], [], nodes=[], opset_imports={"": 18}, name="outermost")
    outer = Builder(graph, "outer")
    graph.outputs.extend(outer.branch(outer.constant(np.array(True), "yes"), branch, other, outputs=1))
    graph.extend(list(outer.tape.nodes))
    effect = EnterBlocked()(graph)
    assert (effect.changed, effect.declined) == ([], {"row": enter_blocked.NO_MAP})
