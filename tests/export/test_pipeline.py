from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from penstock.bundle import OUTPUTS, Bundle, read_bundle, versions
from penstock.data import load
from penstock.detect import conformal_threshold
from penstock.errors import (
    InvalidArgumentError,
    NotFoundError,
    PenstockError,
    UnsupportedError,
    VerificationError,
)
from penstock.export.autotune.stages import MASKED, PICKINGS
from penstock.export.lowerings.executed import Executed
from penstock.export.lowerings.masked import Masked
from penstock.export.nodes.gated_conv import read_gated_conv
from penstock.export.options import LOWERINGS
from penstock.export.passes.reporting import Report
from penstock.export.pipeline import ExportOptions, export
from penstock.export.runtime import open_graph
from penstock.export.sample import synthetic_images
from penstock.nn.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint
from penstock.nn.inference import answer
from penstock.nn.observed import observed_layout
from penstock.paths import PathLayout

GATED = ("masked", "gathered", "no-flags")
FLAGGING = ("masked", "gathered", "observed")
ALL = (*GATED, "dense", "observed")
CLASSES = 10


def run(bundle: Bundle, images: Any) -> dict[str, Any]:
    return open_graph(bundle.model_file, single=bundle.manifest.single, threads=1).run(images)


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


def test_without_flags_nothing_is_ever_flagged(bundles: dict[str, Bundle]) -> None:
    got = run(bundles["no-flags"], load("digits").test.images)
    assert not got["anomaly_score"].any()
    assert not got["adversarial"].any()
    assert bundles["no-flags"].manifest.calibration is None


@pytest.mark.parametrize("kind", FLAGGING)
def test_flags_are_scores_above_the_conformal_threshold_of_this_graph(
    kind: str, bundles: dict[str, Bundle]
) -> None:
    splits = load("digits")
    calibration = bundles[kind].manifest.calibration
    assert calibration is not None
    assert (calibration.source, calibration.images, calibration.target_fpr) == ("graph", 499, 0.05)
    on_calibration, on_test = (run(bundles[kind], part.images) for part in (splits.calibration, splits.test))
    # Another number of threads may add in another order: the last bit of a score is not to be relied on.
    threshold = conformal_threshold(on_calibration["anomaly_score"][:, 0], 0.05)
    assert calibration.threshold == pytest.approx(threshold, rel=1e-6)
    for got in (on_calibration, on_test):
        np.testing.assert_array_equal(got["adversarial"], got["anomaly_score"] > calibration.threshold)
    assert 0 < on_calibration["adversarial"].sum() <= 0.05 * 499 + 1  # the image at the threshold itself
    assert on_test["adversarial"].any()


@pytest.mark.parametrize("pixel", [np.nan, np.inf, -np.inf, 1e38])
@pytest.mark.parametrize("kind", FLAGGING)
def test_an_image_that_is_no_image_is_flagged(kind: str, pixel: float, bundles: dict[str, Bundle]) -> None:
    graph = open_graph(bundles[kind].model_file, single=bundles[kind].manifest.single, threads=1)
    image = load("digits").test.take([0]).floats()
    image[0, 0, 4, 4] = pixel
    (flag,) = graph.session.run(["adversarial"], {"images": image})
    assert flag.all()


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


def test_auto_takes_what_it_measured_as_fastest(tiny: Checkpoint, tiny_run: Path, tmp_path: Path) -> None:
    said: list[str] = []
    options = ExportOptions(source=str(tiny_run), repository=tmp_path, name="auto")
    manifest = export(options, said.append).manifest
    tuning = manifest.tuning
    assert tuning is not None
    assert (tuning.provider, tuning.batch, tuning.threads) == ("cpu", 1, 1)
    assert tuning.tried_ms.keys() == set(PICKINGS)  # there are no prototypes to route to
    assert list(tuning.layers) == list(tiny.network.layout.names)
    assert manifest.lowering == ("masked" if set(tuning.layers.values()) == {MASKED} else "gathered")
    assert tuning.ratio == tuning.dense_ms / tuning.chosen_ms
    assert [name for stage in tuning.stages for name in stage.layers] == list(tuning.layers)
    for stage in tuning.stages:
        assert stage.tried_ms.keys() == set(PICKINGS)
        assert {tuning.layers[name] for name in stage.layers} == {stage.chosen}
        assert str(stage) in said
    assert f"taking {manifest.lowering}" in said


def test_auto_without_flags_is_never_slower_than_dense(tiny_run: Path, tmp_path: Path) -> None:
    options = ExportOptions(source=str(tiny_run), repository=tmp_path, name="auto", flags=False)
    tuning = (manifest := export(options).manifest).tuning
    assert tuning is not None
    if manifest.lowering == "dense":
        assert (tuning.ratio, tuning.layers) == (1.0, {})
        assert tuning.tried_ms["tuned"] > tuning.chosen_ms
    else:
        assert tuning.ratio >= 1
        assert "tuned" not in tuning.tried_ms


def test_auto_keeps_to_how_the_versions_there_are_called(tiny_run: Path, tmp_path: Path) -> None:
    options = ExportOptions(source=str(tiny_run), repository=tmp_path, name="net", lowering="masked")
    first = export(options)
    said: list[str] = []
    second = export(replace(options, lowering="auto"), said.append)
    assert second.manifest.lowering == "masked"
    assert second.manifest.tuning is not None
    assert second.manifest.tuning.tried_ms.keys() == {MASKED}
    assert "without gathered: the versions of 'net' that are there take batches" in said
    shutil.rmtree(first.folder)
    shutil.rmtree(second.folder)
    single = export(replace(options, lowering="gathered"))
    assert single.folder == first.folder
    third = export(replace(options, lowering="auto", flags=False)).manifest  # and not the dense network
    assert (third.lowering, MASKED in third.tuning.tried_ms if third.tuning else None) == ("gathered", False)


def test_what_fits_no_version_there_is_refused_before_it_is_compiled(tiny_run: Path, tmp_path: Path) -> None:
    options = ExportOptions(source=str(tiny_run), repository=tmp_path, name="net", lowering="masked")
    export(options)
    said: list[str] = []
    for changes in ({"lowering": "gathered"}, {"lowering": "auto", "max_batch": 7}):
        with pytest.raises(InvalidArgumentError, match="choose another --name than 'net'"):
            export(replace(options, **changes), said.append)
    assert said == []


@pytest.mark.parametrize("part", [{"class_name": "cat"}, {"member": "first"}])
@pytest.mark.parametrize("flags", [True, False])
def test_dense_is_no_candidate_where_a_part_of_the_source_was_asked_for(
    part: dict[str, Any], flags: bool
) -> None:
    options = ExportOptions(source="runs/x", repository=Path("models"), name="net", flags=flags)
    assert options.dense_will_do == (not flags)
    assert not replace(options, **part).dense_will_do


class Refusing(Masked):
    """A lowering that cannot do some layer of this network."""

    def lower(self, model: ir.Model, report: Report | None = None) -> Executed:
        raise UnsupportedError("layer odd is not for me: take another lowering")


def test_auto_goes_on_without_a_lowering_that_refuses(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.export.autotune.stages.Gathered", lambda picking: Refusing())
    monkeypatch.setitem(LOWERINGS, "gathered", lambda *, single: Refusing())
    said: list[str] = []
    options = ExportOptions(source=str(tiny_run), repository=tmp_path, name="auto")
    assert export(options, said.append).manifest.lowering == "masked"
    assert "without masked: layer odd is not for me: take another lowering" in said
    with pytest.raises(UnsupportedError, match="layer odd"):
        export(replace(options, lowering="gathered", name="net"))


def test_an_edited_configuration_is_kept_and_said_so(tiny_run: Path, tmp_path: Path) -> None:
    options = ExportOptions(source=str(tiny_run), repository=tmp_path, name="net", dense=True)
    config = export(options).folder.parent / "config.pbtxt"
    edited = config.read_text() + "instance_group [{ count: 2 }]\n"
    config.write_text(edited)
    said: list[str] = []
    assert export(options, said.append).folder.name == "2"
    assert f"{config} was edited: it stays as it is, and this version goes by it" in said
    assert config.read_text() == edited
    with pytest.raises(
        InvalidArgumentError, match="was edited and contradicts this export: it has input 'images'"
    ):
        export(replace(options, input_type="uint8"))


def test_versions_count_up_and_another_configuration_is_refused(
    tiny: Checkpoint, tiny_run: Path, tmp_path: Path
) -> None:
    def options(**changes: Any) -> ExportOptions:
        usual: dict[str, Any] = {
            "source": str(tiny_run),
            "repository": tmp_path,
            "name": "net",
            "dense": True,
        }
        return ExportOptions(**usual | changes)

    first, second = export(options()), export(options(dense=False, lowering="masked"))
    assert [first.folder.name, second.folder.name] == ["1", "2"]
    for changes in ({"dense": False, "lowering": "gathered"}, {"max_batch": 7}):
        with pytest.raises(InvalidArgumentError, match="choose another --name than 'net'"):
            export(options(**changes))
    assert versions(tmp_path / "net") == [1, 2]
    assert sorted(entry.name for entry in (tmp_path / "net").iterdir()) == [
        "1",
        "2",
        "config.pbtxt",
        "labels.txt",
    ]
    assert read_bundle(first.folder).manifest == first.manifest


@pytest.fixture
def elsewhere(tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of a data set that is not there."""
    monkeypatch.delenv("PENSTOCK_DATA", raising=False)
    folder = tmp_path / "run"
    replace(tiny, config={"data": "cifar10"}).save(folder / CHECKPOINT_FILE)
    return folder


def test_synthetic_images_take_more_paths_than_noise_does(tiny_run: Path) -> None:
    network = load_checkpoint(tiny_run / CHECKPOINT_FILE).network
    images = synthetic_images(64, (1, 8, 8))
    assert (images == synthetic_images(64, (1, 8, 8))).all()
    noise = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    moving, under_noise = ((answer(network, each).bits.std(axis=0) > 0).mean() for each in (images, noise))
    assert moving > under_noise
    assert synthetic_images(3, (3, 30, 17)).shape == (3, 3, 30, 17)


def test_without_images_synthetic_ones_and_stored_scores_serve_and_it_is_said(
    elsewhere: Path, tiny: Checkpoint, tmp_path: Path
) -> None:
    said: list[str] = []
    options = ExportOptions(
        source=str(elsewhere), repository=tmp_path / "models", name="net", lowering="masked"
    )
    bundle = export(options, said.append)
    assert "cifar10 is not part of Penstock" in said[0]
    assert "verifying on synthetic ones, threshold from stored scores" in said[0]
    calibration = bundle.manifest.calibration
    assert calibration is not None
    assert (calibration.source, calibration.images) == ("stored", 499)
    assert calibration.threshold == np.float32(conformal_threshold(tiny.calibration, 0.05))
    assert bundle.manifest.parity["images"] == 64
    # The stored scores are those of the digits: the threshold is right for them.
    flagged = run(bundle, load("digits").calibration.images)["adversarial"].mean()
    assert flagged == pytest.approx(0.05, abs=0.01)


class Deaf(Masked):
    """A wrong lowering: its gates hear only half of what their input says."""

    def lower(self, model: ir.Model, report: Report | None = None) -> Executed:
        for node in model.graph:
            if read_gated_conv(node) is not None:
                weight = node.inputs[-2]
                assert weight is not None
                assert weight.const_value is not None
                # Zero is half of zero, so nothing is wrong with all gates open or closed; only on real images.
                weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(0.5), name=weight.name)
        return super().lower(model, report)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"lowering": "masked"}, VerificationError, "the first layer that breaks is features"),
        ({"lowering": "gathered", "fpr": 0.0001}, InvalidArgumentError, "499 calibration scores are too few"),
        ({"source": "nowhere"}, NotFoundError, "no run folder"),
        ({"source": "zoo:nothing"}, NotFoundError, "no zoo entry 'nothing'"),
    ],
    ids=["verification", "calibration", "source", "zoo"],
)
def test_a_failed_export_leaves_no_files(
    changes: dict[str, Any],
    error: type[PenstockError],
    message: str,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(LOWERINGS, "masked", lambda *, single: Deaf())
    options: dict[str, Any] = {"source": str(tiny_run), "repository": tmp_path / "models", "name": "net"}
    with pytest.raises(error, match=message):
        export(ExportOptions(**options | changes))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_data_that_was_asked_for_must_be_there(elsewhere: Path, tmp_path: Path) -> None:
    options = ExportOptions(source=str(elsewhere), repository=tmp_path / "models", name="net", data=tmp_path)
    with pytest.raises(NotFoundError, match=r"no cifar10_train_a\.parquet"):
        export(options)
    assert not (tmp_path / "models").exists()


def test_a_checkpoint_without_detector_needs_no_flags_said(tiny: Checkpoint, tmp_path: Path) -> None:
    replace(tiny, detector={}, calibration=np.zeros(0)).save(tmp_path / "bare.safetensors")
    options = ExportOptions(
        source=str(tmp_path / "bare.safetensors"), repository=tmp_path / "models", name="net"
    )
    with pytest.raises(UnsupportedError, match="holds no detector: export it with --no-flags"):
        export(options)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lowering": "fastest"}, "no lowering 'fastest'; there are auto, masked, gathered"),
        ({"name": "a/b"}, "model name 'a/b'"),
        ({"input_type": "fp16"}, "no input type 'fp16'; there are fp32, uint8"),
        ({"settle": True}, "settle takes gates away that the detector looks at: add --no-flags"),
        ({"fpr": 0.0}, "fpr is 0.0"),
        ({"fpr": 1.0}, "fpr is 1.0"),
        ({"max_batch": 0}, "max_batch is 0"),
        ({"threads": 0}, "threads is 0; at least 1"),
    ],
)
def test_options_that_cannot_be_right_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"source": "x", "repository": tmp_path, "name": "net"}
    with pytest.raises(InvalidArgumentError, match=message):
        ExportOptions(**options | changes)
