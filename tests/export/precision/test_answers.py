"""How close the answers of graphs in int8 and float16 stay, and that a damaged one is refused."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from penstock.data import load
from penstock.errors import VerificationError
from penstock.export.capture.contract import DenseModel
from penstock.export.capture.exporting import capture
from penstock.export.passes.simplify import tidy
from penstock.export.precision.agreement import LIMITS, compare, verify_agreement, warning_of
from penstock.export.precision.int8 import to_int8
from penstock.export.runtime import Outputs
from penstock.manifest import INT8, Agreement
from penstock.nn.checkpoint import load_source
from tests.export.precision.narrowed import (
    CASES,
    ERRORS,
    Narrow,
    nodes,
    opened,
)


@pytest.mark.parametrize("precision", ERRORS)
@pytest.mark.parametrize(("network", "form"), CASES)
def test_answers_stay_close_and_paths_mostly_the_same(
    network: str, form: str, precision: str, narrow: Narrow
) -> None:
    made = narrow(network, form, precision)
    same = (made.expected["path"] == made.got["path"]).all(axis=1)
    assert same.mean() >= 0.9
    near = [{name: value[same] for name, value in outputs.items()} for outputs in (made.expected, made.got)]
    found = compare(near[0], near[1], real=False)
    assert found.logit_error <= ERRORS[precision]
    assert found.same_path == 1
    np.testing.assert_allclose(near[0]["active_macs"], near[1]["active_macs"], atol=1e-5)
    for name, value in made.expected.items():
        assert (made.got[name].dtype, made.got[name].shape) == (value.dtype, value.shape), name


@pytest.mark.parametrize("precision", ERRORS)
@pytest.mark.parametrize("case", [("residual", "grouped"), ("backed", "grouped")])
def test_an_answer_does_not_depend_on_the_batch(
    case: tuple[str, str], precision: str, narrow: Narrow
) -> None:
    made = narrow(*case, precision)
    order = np.random.default_rng(0).permutation(len(made.images))
    for batch in (1, 7):
        other = made.graph.run(made.images[order], batch=batch)
        np.testing.assert_array_equal(other["path"], made.got["path"][order])
        np.testing.assert_allclose(other["logits"], made.got["logits"][order], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("precision", "limit"), [("int8", "98.5%"), ("fp16", "99.5%")])
def test_a_damaged_graph_is_refused(precision: str, limit: str, narrow: Narrow) -> None:
    made = narrow("static", "grouped", precision)
    damaged = made.model.clone()
    for node in nodes(damaged, "Gemm"):
        weight = node.inputs[1]
        assert weight is not None
        stored = weight if weight.const_value else weight.producer().inputs[0]  # type: ignore[union-attr]
        assert stored is not None
        assert stored.const_value is not None
        stored.const_value = ir.tensor(-stored.const_value.numpy(), name=stored.name)
    got = opened(damaged, single=False).run(made.images)
    for real in (True, False):
        found = compare(made.expected, got, real=real)
        assert found.logit_error > 0.5
        if real:
            with pytest.raises(VerificationError, match=f"at {precision}.* at least {limit}"):
                verify_agreement(found, precision)
        elif precision == "fp16":
            with pytest.raises(VerificationError, match=r"at fp16, logits differ .* at most 1.0% is wanted"):
                verify_agreement(found, precision)
        else:
            assert found.top1_agreement is None
            verify_agreement(found, precision)


def test_the_figures_of_an_agreement() -> None:
    logits = np.array([[1, 0], [0, 1], [3, 4], [2, 1]], np.float32)
    path = np.array([[1, 0, 1, 1]] * 4, np.uint8)
    other = path.copy()
    other[0, 0] = 0
    got: Outputs = {
        "logits": logits[:, ::-1] * [[0], [0], [0], [1]] + logits * [[1], [1], [1], [0]],
        "path": other,
    }
    # Three images of four answer alike: the median is 0. The last alone is off by (1, -1) of (2, 1).
    assert compare({"logits": logits, "path": path}, got, real=True) == Agreement(
        images=4, logit_error=0.0, top1_agreement=0.75, same_path=0.75, same_bits=15 / 16
    )
    last = slice(3, None)
    found = compare(
        {"logits": logits[last], "path": path[last]},
        {name: value[last] for name, value in got.items()},
        real=False,
    )
    assert found.logit_error == pytest.approx(np.sqrt(2 / 5))
    assert "only 93.8% of the path bits" in str(warning_of(replace(found, same_bits=15 / 16), INT8))
    assert warning_of(replace(found, same_bits=LIMITS[INT8].same_bits), INT8) is None
    assert found.top1_agreement is None
    got["logits"][0] = np.nan
    with pytest.raises(VerificationError, match="2 logits of 8 are no finite numbers"):
        compare({"logits": logits, "path": path}, got, real=False)


def test_a_trained_network_keeps_its_accuracy_in_int8() -> None:
    if not os.environ.get("PENSTOCK_DATA"):
        pytest.skip("PENSTOCK_DATA is not set: no CIFAR-10 images to test on")
    checkpoint, _ = load_source("zoo:resnet20-cifar10")
    splits = load("cifar10")
    served = DenseModel(checkpoint.dense, checkpoint.network.layout).eval()
    model = tidy(capture(served, checkpoint.input_shape))
    narrowed = to_int8(model, splits.calibration.images)
    test = splits.test.images[:2000]
    expected, got = (opened(graph, single=False).run(test) for graph in (model, narrowed))
    verify_agreement(compare(expected, got, real=True), "int8")
    labels = splits.test.labels[:2000]
    right = [(outputs["logits"].argmax(axis=1) == labels).mean() for outputs in (expected, got)]
    assert right[0] - right[1] <= 0.005
