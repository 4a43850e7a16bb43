"""What becomes int8, on which scales, and what calibrates it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from penstock.errors import InvalidArgumentError
from penstock.export.lowerings.masked import Masked
from penstock.export.lowerings.routed import Routed
from penstock.export.passes.reporting import Report
from penstock.export.precision import masks, pooling, quantizable, stem
from penstock.export.precision.forms import behind, narrowing
from penstock.export.precision.int8 import to_int8
from tests.export.precision.narrowed import (
    BRANCHING,
    CASES,
    Named,
    Narrow,
    SomeImages,
    answers,
    content,
    maker,
    nodes,
    opened,
)


@pytest.mark.parametrize(("network", "form"), CASES)
def test_every_convolution_and_the_classifier_are_int8_with_a_scale_per_filter(
    network: str, form: str, narrow: Narrow
) -> None:
    made = narrow(network, form, "int8")
    assert made.records["compute in int8"].changed >= len(nodes(made.lowered, "Conv"))
    quantised = [node for node in nodes(made.model, "Conv", "Gemm") if maker(node.inputs[1])]
    assert len(nodes(made.model, "Conv")) == len(nodes(made.lowered, "Conv"))
    assert set(nodes(made.model, "Conv")) <= set(quantised)
    for node in quantised:
        x, weight = (value.producer() for value in node.inputs[:2] if value is not None)
        assert x is not None
        assert weight is not None
        assert (x.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        integers, scale, zero_point = (value.const_value for value in weight.inputs if value is not None)
        assert integers is not None
        assert scale is not None
        assert zero_point is not None
        assert integers.dtype == ir.DataType.INT8
        assert scale.size == integers.shape[0]
        assert not zero_point.numpy().any()
    classifiers = [node for node in quantised if node.op_type == "Gemm"]
    assert len(classifiers) == len([node for node in nodes(made.lowered, "Gemm") if answers(node)])


@pytest.mark.parametrize(("network", "form"), CASES)
def test_only_maps_and_what_the_classifier_reads_are_rounded(network: str, form: str, narrow: Narrow) -> None:
    for node in nodes(narrow(network, form, "int8").model, "QuantizeLinear"):
        value, widened = node.inputs[0], [user for user, _ in node.outputs[0].uses()]
        assert value is not None
        if maker(value) == "ConstantOfShape":  # of no rows
            continue
        assert value.shape is not None
        readers = {user.op_type for wide in widened for user, _ in wide.outputs[0].uses()}
        assert len(value.shape) == 4 or readers == {"Gemm"}, value.name


INT8_PASSES = (
    "read images in blocks",
    "read images in four channels",
    "compute in int8",
    "round once at masks",
    "cross borders narrow",
    "average integers",
)


@pytest.mark.parametrize(("network", "form"), CASES)
def test_passes_say_what_they_did_to_make_int8_and_why_not(network: str, form: str, narrow: Narrow) -> None:
    made = narrow(network, form, "int8")
    assert tuple(made.records) == INT8_PASSES
    blocks, channels, integers, rounds, borders, averages = made.records.values()
    assert (blocks.changed, blocks.declined) == (0, {stem.STRIDE: channels.changed})
    assert (channels.changed, channels.declined) == (2 if network in ("cascade", "backed") else 1, {})
    assert integers.declined.get(quantizable.DECIDES, 0) == len(
        [node for node in nodes(made.lowered, "Gemm") if not answers(node)]
    )
    assert (rounds.changed, rounds.declined) == (0, {})  # prototypes are not compared with anything
    assert (borders.changed > 0) == ((network, form) in BRANCHING)
    assert averages.changed == len(nodes(made.model, "MatMulInteger"))
    # A mask of prototypes lies behind the last convolution of that network, and the average behind the mask.
    assert averages.declined == ({pooling.FLOATS: 1} if network == "inverted" else {})


@pytest.mark.parametrize(("network", "form"), CASES)
def test_onnx_runtime_runs_every_convolution_in_int8(
    network: str, form: str, narrow: Narrow, tmp_path: Path
) -> None:
    made = narrow(network, form, "int8")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(content(made.model), options, providers=["CPUExecutionProvider"])
    optimised = ir.load(tmp_path / "optimised.onnx")
    assert not nodes(optimised, "Conv", "ConvInteger")
    assert len(nodes(optimised, "QLinearConv")) == len(nodes(made.lowered, "Conv"))


def test_values_before_and_behind_a_mask_are_on_one_scale(
    captured: dict[str, Any], some_images: SomeImages
) -> None:
    lowered, report = captured["residual"].lowered(Masked()), Report()
    model = to_int8(lowered, some_images(24), report)
    compared = 0
    for mask in nodes(model, "Mul"):
        found = behind(mask.inputs[0]) if maker(mask.inputs[1]) == "Unsqueeze" else None
        given = {form for user, _ in mask.outputs[0].uses() if (form := narrowing(user)) is not None}
        if found is not None and given:
            assert given == {found.form}
            compared += 1
    assert compared == 4
    (record,) = (record for record in report.records if record.name == "round once at masks")
    assert record.changed == 4
    assert set(record.declined) <= {masks.FLOATS, masks.READ, masks.ELSEWHERE}


def test_one_image_is_enough_to_calibrate_with_and_none_is_not(
    routed: Named, some_images: SomeImages
) -> None:
    model = routed("residual").lowered(Routed())
    got = opened(to_int8(model, some_images(1)), single=False).run(some_images(16))
    assert np.isfinite(got["logits"]).all()
    with pytest.raises(InvalidArgumentError, match="no images"):
        to_int8(model, some_images(1)[:0])
