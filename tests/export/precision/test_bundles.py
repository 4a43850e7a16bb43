"""Exports at reduced precision, from the command line to the bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from penstock.bundle import OUTPUTS, Bundle, read_bundle
from penstock.cli.main import main
from penstock.data import load
from penstock.detect import conformal_threshold
from penstock.errors import ConfigurationError, InvalidArgumentError, UnsupportedError
from penstock.export.pipeline import ExportOptions, export
from penstock.export.plans.plan import read_plan
from penstock.export.precision.agreement import LIMITS, Limits
from penstock.export.runtime import Outputs, open_bundle
from penstock.nn.checkpoint import Checkpoint

KINDS: dict[str, dict[str, Any]] = {
    "int8": {"lowering": "masked", "precision": "int8"},
    "fp16": {"lowering": "masked", "precision": "fp16"},
    "gathered fp16": {"lowering": "gathered", "precision": "fp16"},
    "dense int8": {"dense": True, "precision": "int8"},
    "dense fp16": {"dense": True, "precision": "fp16"},
}


@pytest.fixture(scope="module")
def narrow_bundles(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """The tiny run at every reduced precision."""
    repository = tmp_path_factory.mktemp("repository")
    return {
        kind: export(
            ExportOptions(source=str(tiny_run), repository=repository, name=kind.replace(" ", "-"), **options)
        )
        for kind, options in KINDS.items()
    }


def answers(bundle: Bundle, images: Any) -> Outputs:
    return open_bundle(bundle, threads=1).run(images)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_says_its_precision_and_how_well_it_agrees(
    kind: str, narrow_bundles: dict[str, Bundle]
) -> None:
    bundle = read_bundle(narrow_bundles[kind].folder)
    model = onnx.load(bundle.model_file)
    onnx.checker.check_model(model, full_check=True)
    about = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    precision = KINDS[kind]["precision"]
    assert about["penstock.precision"] == bundle.manifest.precision == precision
    found = bundle.manifest.agreement
    assert found is not None
    assert found.images == bundle.manifest.parity["images"] == 499
    assert found.top1_agreement is not None
    assert found.top1_agreement >= {"int8": 0.985, "fp16": 0.995}[precision]
    assert 0 < found.logit_error <= {"int8": 0.1, "fp16": 0.01}[precision]


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_says_what_passes_did_to_make_it_narrow(
    kind: str, narrow_bundles: dict[str, Bundle], bundles: dict[str, Bundle]
) -> None:
    precision = KINDS[kind]["precision"]
    records = {record.name: record for record in read_bundle(narrow_bundles[kind].folder).manifest.passes}
    assert records[{"int8": "compute in int8", "fp16": "compute in float16"}[precision]].changed
    like = "dense" if "dense" in KINDS[kind] else KINDS[kind]["lowering"]
    before = [record.name for record in bundles[like].manifest.passes]
    assert list(records)[: len(before)] == before
    assert list(records)[-1] == {"int8": "average integers", "fp16": "cross borders narrow"}[precision]


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_and_outputs_stay_those_of_the_contract(
    kind: str, narrow_bundles: dict[str, Bundle], bundles: dict[str, Bundle]
) -> None:
    like = "dense" if "dense" in KINDS[kind] else KINDS[kind]["lowering"]
    narrow, wide = (onnx.load(bundle.model_file).graph for bundle in (narrow_bundles[kind], bundles[like]))
    for told, wanted in ((narrow.input, wide.input), (narrow.output, wide.output)):
        assert [(value.name, value.type) for value in told] == [(value.name, value.type) for value in wanted]
    assert [output.name for output in narrow.output] == list(OUTPUTS)


@pytest.mark.parametrize(
    ("kind", "types"),
    [("int8", {"INT8", "UINT8"}), ("fp16", {"FLOAT16"}), ("gathered fp16", {"FLOAT16"})],
)
def test_weights_are_stored_narrow(kind: str, types: set[str], narrow_bundles: dict[str, Bundle]) -> None:
    graph = onnx.load(narrow_bundles[kind].model_file).graph
    stored = [tensor for tensor in graph.initializer if len(tensor.dims) == 4 and max(tensor.dims) > 1]
    assert stored
    assert {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in stored} <= types


@pytest.mark.parametrize("kind", ["int8", "fp16", "gathered fp16"])
def test_the_threshold_is_that_of_the_narrow_graph_itself(
    kind: str, narrow_bundles: dict[str, Bundle]
) -> None:
    splits = load("digits")
    bundle = narrow_bundles[kind]
    calibration = bundle.manifest.calibration
    assert calibration is not None
    assert calibration.source == "graph"
    scores = answers(bundle, splits.calibration.images)["anomaly_score"][:, 0]
    assert calibration.threshold == np.float32(conformal_threshold(scores, 0.05))
    got = answers(bundle, splits.test.images)
    np.testing.assert_array_equal(
        got["adversarial"], got["anomaly_score"] > np.float32(calibration.threshold)
    )
    assert 0 < got["adversarial"].mean() < 0.15


def test_an_export_warns_of_paths_that_precision_changes(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    options = ExportOptions(
        source=str(tiny_run), repository=tmp_path, name="n", lowering="masked", precision="int8"
    )
    found = export(options, said.append).manifest.agreement
    assert found is not None
    assert not [line for line in said if line.startswith("warning")]
    monkeypatch.setitem(LIMITS, "int8", Limits(top1_agreement=0.9, same_bits=1.01))
    export(options, said.append)
    (warning,) = (line for line in said if line.startswith("warning"))
    assert f"only {found.same_bits:.1%} of the path bits" in warning


def test_int8_keeps_the_accuracy_of_float32(
    narrow_bundles: dict[str, Bundle], bundles: dict[str, Bundle]
) -> None:
    test = load("digits").test
    wide, narrow = (
        (answers(bundle, test.images)["logits"].argmax(axis=1) == test.labels).mean()
        for bundle in (bundles["masked"], narrow_bundles["int8"])
    )
    assert narrow >= wide - 0.01


@pytest.mark.parametrize(
    "how", [{}, {"lowering": "routed"}, {"lowering": "masked"}, {"dense": True}], ids=str
)
def test_int8_for_openvino_is_refused_before_anything_is_done(how: dict[str, Any], tmp_path: Path) -> None:
    """It would be measured and served in an engine that answers otherwise than the one that checked it."""
    where: dict[str, Any] = {
        "source": "x",
        "repository": tmp_path,
        "name": "x",
        "provider": "openvino",
        **how,
    }
    with pytest.raises(
        InvalidArgumentError, match=r"int8 and provider openvino.*take provider cpu, or precision"
    ):
        ExportOptions(**where, precision="int8")
    assert ExportOptions(**where).precision == "fp32"


def test_int8_of_gathered_weights_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"int8 and lowering gathered.*take lowering masked or"):
        ExportOptions(source="x", repository=tmp_path, name="x", lowering="gathered", precision="int8")
    with pytest.raises(InvalidArgumentError, match="no precision 'int4'; there are fp32, int8, fp16"):
        ExportOptions(source="x", repository=tmp_path, name="x", precision="int4")


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_without_the_images_of_the_data_set_precision_is_not_reduced(
    precision: str, tiny: Checkpoint, tmp_path: Path
) -> None:
    replace(tiny, config={"data": "elsewhere"}).save(tmp_path / "checkpoint.safetensors")
    with pytest.raises(UnsupportedError, match=f"{precision} is calibrated .* --data or PENSTOCK_DATA"):
        export(
            ExportOptions(
                source=str(tmp_path / "checkpoint.safetensors"),
                repository=tmp_path / "models",
                name="x",
                precision=precision,
            )
        )
    assert not (tmp_path / "models").exists()


def test_auto_measures_int8_beside_the_dense_network_in_int8(tiny_run: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    options = ExportOptions(
        source=str(tiny_run), repository=tmp_path, name="auto", precision="int8", flags=False
    )
    manifest = export(options, lines.append).manifest
    assert manifest.precision == "int8"
    assert manifest.tuning is not None
    assert set(manifest.tuning.tried_ms) == (
        {"masked", "tuned"} if manifest.lowering == "dense" else {"masked"}
    )
    assert "gathered for each image" in manifest.tuning.declined[0]
    assert manifest.lowering in ("masked", "dense")
    assert manifest.tuning.ratio >= 1
    assert manifest.agreement is not None


def test_a_plan_multiplies_precisions_out(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    text = 'repository = "models"\n[[export]]\nsource = "x"\nname = "{{lowering}}-{{precision}}"\n'
    text += 'lowering = ["masked", "{}"]\nprecision = ["fp32", "int8", "fp16"]\n'
    plan.write_text(text.replace("{{", "{").replace("}}", "}").replace("{}", "routed"))
    assert [entry.options.name for entry in read_plan(plan)] == [
        f"{lowering}-{precision}"
        for lowering in ("masked", "routed")
        for precision in ("fp32", "int8", "fp16")
    ]
    plan.write_text(text.replace("{{", "{").replace("}}", "}").replace("{}", "gathered"))
    with pytest.raises(
        ConfigurationError, match="lowering is 'gathered', precision is 'int8': precision int8 and"
    ):
        read_plan(plan)


def test_the_command_line_says_how_close_the_answers_stay(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", str(tiny_run), "--repository", str(tmp_path), "--name", "narrow"]
    assert main([*arguments, "--dense", "--precision", "int8"]) == 0
    said = capsys.readouterr().out
    assert "narrow/1: dense, int8: beside float32 the same class for " in said
    assert main([*arguments, "--precision", "int4"]) == 1
    assert "no precision 'int4'" in capsys.readouterr().err
