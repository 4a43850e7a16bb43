"""What an exported file is called with and answers, and what it says of itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from penstock.bundle import OUTPUTS, Bundle
from penstock.data import load
from penstock.export.pipeline import ExportOptions, export
from penstock.nn.checkpoint import Checkpoint
from penstock.nn.inference import answer
from penstock.nn.observed import observed_layout
from penstock.paths import PathLayout
from tests.decided import decided
from tests.export.pipeline.kinds import ALL, CLASSES, GATED, run


@pytest.mark.parametrize("kind", ALL)
def test_inputs_and_outputs_are_those_of_the_contract(kind: str, bundles: dict[str, Bundle]) -> None:
    model = onnx.load(bundles[kind].model_file)
    onnx.checker.check_model(model, full_check=True)
    bits = bundles[kind].manifest.layout.bits
    batch: int | str = 1 if kind == "gathered" else "batch"
    float32, uint8, boolean = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8, onnx.TensorProto.BOOL

    def told(value: onnx.ValueInfoProto) -> tuple[str, int, list[int | str]]:
        kind_of = value.type.tensor_type
        shape = [dim.dim_param or dim.dim_value for dim in kind_of.shape.dim]
        return value.name, kind_of.elem_type, shape

    assert [told(value) for value in model.graph.input] == [("images", float32, [batch, 1, 8, 8])]
    assert [told(value) for value in model.graph.output] == [
        ("logits", float32, [batch, CLASSES]),
        ("path", uint8, [batch, bits]),
        ("active_macs", float32, [batch, 1]),
        ("anomaly_score", float32, [batch, 1]),
        ("adversarial", boolean, [batch, 1]),
    ]


@pytest.mark.parametrize("kind", ALL)
def test_the_file_alone_runs_in_a_stock_runtime(
    kind: str, bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    shutil.copy(bundles[kind].model_file, tmp_path / "alone.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "alone.onnx", providers=["CPUExecutionProvider"])
    image = load("digits").test.take([0]).floats()
    outputs = session.run(None, {"images": image})
    assert [output.name for output in session.get_outputs()] == list(OUTPUTS)
    assert outputs[0].shape == (1, CLASSES)
    assert outputs[1].dtype == np.uint8
    assert outputs[4].dtype == np.bool_


@pytest.mark.parametrize("kind", ["gathered", "dense"])
def test_a_model_that_takes_pixels_answers_as_the_one_that_takes_values(
    kind: str, bundles: dict[str, Bundle], tiny_run: Path, tmp_path: Path
) -> None:
    options = {"dense": True} if kind == "dense" else {"lowering": kind}
    bundle = export(
        ExportOptions(source=str(tiny_run), repository=tmp_path, name="pixels", input_type="uint8", **options)
    )
    assert "TYPE_UINT8 dims" in (bundle.folder.parent / "config.pbtxt").read_text().split("output")[0]
    model = onnx.load(bundle.model_file)
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert bundle.manifest.input_type == "uint8"
    assert str(bundle.manifest.passes[-1]) == "take pixels as bytes: 1 places"
    images = load("digits").test.images[:50]
    session = onnxruntime.InferenceSession(bundle.model_file, providers=["CPUExecutionProvider"])
    wanted = run(bundles[kind], images)
    for row in range(50):
        got = dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"images": images[row : row + 1]}), strict=True))
        np.testing.assert_allclose(got["logits"][0], wanted["logits"][row], atol=1e-5)
        np.testing.assert_array_equal(got["adversarial"][0], wanted["adversarial"][row])


@pytest.mark.parametrize("kind", ALL)
def test_the_file_is_plain_onnx_of_an_old_version(kind: str, bundles: dict[str, Bundle]) -> None:
    model = onnx.load(bundles[kind].model_file)
    assert model.ir_version == 8
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions


@pytest.mark.parametrize("kind", ALL)
def test_the_file_speaks_for_itself(kind: str, bundles: dict[str, Bundle], tiny: Checkpoint) -> None:
    model = onnx.load(bundles[kind].model_file)
    about = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    manifest = bundles[kind].manifest
    assert model.producer_name == "penstock"
    layout = tiny.network.layout
    wanted = observed_layout(layout) if kind == "observed" else layout
    assert PathLayout.from_json(about["penstock.layout"]) == manifest.layout == wanted
    assert tuple(about["penstock.class_names"]) == tiny.class_names
    assert about["penstock.lowering"] == manifest.lowering
    assert set(about["penstock.versions"]) == {"penstock", "torch", "onnx", "numpy", "onnxruntime"}
    if manifest.calibration is None:
        assert about["penstock.calibration"] is None
    else:
        assert about["penstock.calibration"]["threshold"] == manifest.calibration.threshold
        assert about["penstock.calibration"]["target_fpr"] == 0.05


@pytest.mark.parametrize("kind", GATED)
def test_the_bundle_answers_as_the_checkpoint(
    kind: str, bundles: dict[str, Bundle], tiny: Checkpoint
) -> None:
    images = load("digits").test.images[:200]
    images = images[decided(tiny.network, images)]
    got, want = run(bundles[kind], images), answer(tiny.network, images)
    np.testing.assert_array_equal(got["path"], want.bits)
    np.testing.assert_allclose(got["logits"], want.logits, atol=1e-4, rtol=0)
    np.testing.assert_allclose(got["active_macs"][:, 0], want.active_macs, atol=1e-6)


def test_the_dense_bundle_answers_as_the_dense_network_and_never_flags(
    bundles: dict[str, Bundle], tiny: Checkpoint
) -> None:
    test = load("digits").test
    got = run(bundles["dense"], test.images)
    with torch.no_grad():
        want = tiny.dense(torch.from_numpy(test.floats()))
    np.testing.assert_allclose(got["logits"], want, atol=1e-4, rtol=0)
    assert got["path"].all()
    assert (got["active_macs"] == 1).all()
    assert not got["anomaly_score"].any()
    assert not got["adversarial"].any()
    manifest = bundles["dense"].manifest
    assert (manifest.lowering, manifest.tuning, manifest.calibration) == ("dense", None, None)


@pytest.mark.parametrize("kind", ALL)
def test_the_manifest_tells_how_it_was_checked(
    kind: str, bundles: dict[str, Bundle], tiny: Checkpoint
) -> None:
    manifest = bundles[kind].manifest
    assert manifest.parity["images"] == 499
    assert manifest.parity["max_abs"] <= 1e-4
    assert manifest.parity["score_max_abs"] <= 1e-4
    assert manifest.parity["top1_agreement"] == 1
    assert manifest.input_shape == (1, 8, 8)
    assert manifest.class_names == tiny.class_names
    assert manifest.single == (kind == "gathered")
    assert manifest.lowering == {"no-flags": "masked"}.get(kind, kind)
    assert manifest.tuning is None
