"""Graphs in int8 and float16: what becomes narrow in them and what must not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from penstock.errors import UnsupportedError
from penstock.export.lowerings.gathered import Gathered, Picking
from penstock.export.lowerings.masked import Masked
from penstock.export.nodes.regions import all_graphs
from penstock.export.precision import fp16
from penstock.export.precision.agreement import compare
from penstock.export.precision.fp16 import to_fp16
from penstock.export.precision.int8 import to_int8
from tests.export.precision.narrowed import (
    BRANCHING,
    CASES,
    ERRORS,
    Narrow,
    SomeImages,
    answers,
    content,
    maker,
    nodes,
    opened,
)


@pytest.mark.parametrize("precision", ERRORS)
@pytest.mark.parametrize(("network", "form"), CASES)
def test_the_file_is_plain_and_old_enough_and_holds_nothing_that_nobody_reads(
    network: str, form: str, precision: str, narrow: Narrow
) -> None:
    model = narrow(network, form, precision).model
    file = onnx.load_model_from_string(content(model))
    onnx.checker.check_model(file, full_check=True)
    assert (file.ir_version, [(use.domain, use.version) for use in file.opset_import]) == (8, [("", 18)])
    assert {node.domain for node in nodes(model)} == {""}
    for graph in all_graphs(model.graph):
        assert all(value.uses() or value.is_graph_output() for value in graph.initializers.values())


@pytest.mark.parametrize(("network", "form"), CASES)
def test_passes_say_what_they_did_to_make_float16(network: str, form: str, narrow: Narrow) -> None:
    made = narrow(network, form, "fp16")
    assert tuple(made.records) == ("compute in float16", "cross borders narrow")
    halved = made.records["compute in float16"]
    assert halved.changed >= len(nodes(made.model, "Conv"))
    deciding = [node for node in nodes(made.lowered, "Gemm") if not answers(node)]
    assert halved.declined.get(fp16.DECIDES, 0) == len(deciding)


AVERAGES = ("MatMulInteger", "ReduceMean", "GlobalAveragePool")


def since_average(value: ir.Value | None) -> Iterator[ir.Node]:
    """What made a value, back to the average over an image's places."""
    node = None if value is None else value.producer()
    if node is not None:
        yield node
        for source in node.inputs if node.op_type not in AVERAGES else ():
            yield from since_average(source)


@pytest.mark.parametrize("precision", ERRORS)
@pytest.mark.parametrize(("network", "form"), CASES)
def test_what_decides_stays_float32(network: str, form: str, precision: str, narrow: Narrow) -> None:
    model = narrow(network, form, precision).model
    deciding = [node for node in nodes(model, "Gemm") if not answers(node)]
    assert deciding or network == "static"
    for node in deciding:
        weight = node.inputs[1]
        assert weight is not None
        assert weight.dtype == ir.DataType.FLOAT
        made = list(since_average(node.inputs[0]))
        assert any(one.op_type in AVERAGES for one in made)
        assert not {"QuantizeLinear", "DequantizeLinear"} & {one.op_type for one in made}
        assert {maker(one.inputs[0]) for one in made if one.op_type == "Cast"} <= {"MatMulInteger"}


@pytest.mark.parametrize(("network", "form"), BRANCHING)
def test_int8_and_float16_cross_the_borders_of_branches(network: str, form: str, narrow: Narrow) -> None:
    for precision, kind in (("int8", ir.DataType.UINT8), ("fp16", ir.DataType.FLOAT16)):
        outermost, *branches = all_graphs(narrow(network, form, precision).model.graph)
        choices = [node for graph in (outermost, *branches) for node in graph if node.op_type == "If"]
        maps = [output for node in choices for output in node.outputs if output.dtype == kind]
        assert maps
        leaving = {maker(output) for branch in branches for output in branch.outputs}
        assert "DequantizeLinear" not in leaving
        entering = {
            maker(value)
            for branch in branches
            for node in branch
            for value in node.inputs
            if value is not None and value.graph is not branch
        }
        assert "DequantizeLinear" not in entering


def test_gates_are_narrowed_behind_masks_and_gathered_weights_to_float16_only(
    captured: dict[str, Any], some_images: SomeImages
) -> None:
    images = some_images(24)
    gated = captured["residual"]
    names = frozenset(gated.served.network.layout.names)
    turned = Gathered(Picking(turned=names, turned_readers=names))
    for lowering, narrows in (
        (Masked(), (to_int8, to_fp16)),
        (Gathered(), (to_fp16,)),
        (turned, (to_fp16,)),
    ):
        model = gated.lowered(lowering)
        expected = opened(model, single=lowering.single).run(images)
        for narrowed in narrows:
            result = to_int8(model, images) if narrowed is to_int8 else to_fp16(model)
            got = opened(result, single=lowering.single).run(images)
            assert compare(expected, got, real=False).same_bits >= 0.97
    for lowering in (Gathered(), turned):
        with pytest.raises(UnsupportedError, match="gathered for each image"):
            to_int8(gated.lowered(lowering), images)
