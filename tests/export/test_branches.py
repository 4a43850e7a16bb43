"""What a branch for some rows of a batch reads of what is around it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from penstock.errors import UnsupportedError
from penstock.export.building import Builder, inner_graph
from penstock.export.lowerings.branches import pick_rows
from penstock.export.passes.simplify import tidy


def test_rows_are_picked_for_branches_inside_a_branch_too() -> None:
    rows = ir.SymbolicDim("n")
    x = ir.Value(name="x", shape=ir.Shape([rows, 2]), type=ir.TensorType(ir.DataType.FLOAT))
    takes = ir.Value(name="takes", shape=ir.Shape([rows]), type=ir.TensorType(ir.DataType.BOOL))
    graph = ir.Graph([x, takes], [], nodes=[], opset_imports={"": 18}, name="outermost")
    outer = Builder(graph, "outer")
    always = outer.constant(np.array(True), "always")

    def doubled(name: str) -> ir.Graph:
        inmost = inner_graph(name)
        build = Builder(inmost, name)
        inmost.outputs.append(build.op("Add", x, x))
        inmost.extend(list(build.tape.nodes))
        return inmost

    some = inner_graph("some")
    build = Builder(some, "some")
    some.outputs.extend(build.branch(always, doubled("then"), doubled("other"), outputs=1))
    some.extend(list(build.tape.nodes))
    pick_rows(some, takes)
    none = inner_graph("none")
    build = Builder(none, "none")
    none.outputs.append(build.op("Identity", x))
    none.extend(list(build.tape.nodes))
    (result,) = outer.branch(always, some, none, outputs=1)
    result.type = ir.TensorType(ir.DataType.FLOAT)
    graph.extend(list(outer.tape.nodes))
    graph.outputs.append(result)
    content = ir.serde.serialize_model(tidy(ir.Model(graph, ir_version=8))).SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    array = np.arange(8, dtype=np.float32).reshape(4, 2)
    taken = np.array([False, True, False, True])
    (got,) = session.run(None, {"x": array, "takes": taken})
    np.testing.assert_array_equal(got, 2 * array[taken])


def test_a_value_that_may_or_may_not_be_of_the_batch_is_refused() -> None:
    rows = ir.Shape([ir.SymbolicDim("n")])
    takes = ir.Value(name="takes", shape=rows, type=ir.TensorType(ir.DataType.BOOL))
    branch = inner_graph("branch")
    build = Builder(branch, "branch")
    branch.outputs.append(build.op("Relu", ir.Value(name="odd")))
    branch.extend(list(build.tape.nodes))
    with pytest.raises(UnsupportedError, match="rows of odd, whose shape is not known"):
        pick_rows(branch, takes)
