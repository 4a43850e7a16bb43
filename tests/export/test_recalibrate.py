"""A bundle's threshold set anew: flags follow from it, and nothing else changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from PIL import Image

from penstock.bundle import DETECTOR_FILE, OUTPUTS, Bundle, Calibration, read_bundle, versions
from penstock.cli.main import main
from penstock.data import load
from penstock.detect import class_thresholds, conformal_threshold
from penstock.detect.recipe import OF_OBSERVERS
from penstock.errors import (
    BundleError,
    InvalidArgumentError,
    NotFoundError,
    PenstockError,
    UnsupportedError,
    VerificationError,
)
from penstock.export.calibrate import set_thresholds
from penstock.export.lowerings.routed import Routed
from penstock.export.pipeline import ExportOptions, export
from penstock.export.precision.narrowing import narrow
from penstock.export.recalibrate import RecalibrateOptions, recalibrate
from penstock.export.runtime import Outputs, open_graph
from penstock.files import sha256

CLASSES = 10


def copied(bundle: Bundle, folder: Path) -> Bundle:
    """The model, all of its own, so that other tests do not meet its new versions."""
    home = shutil.copytree(bundle.folder.parent, folder / "models" / bundle.folder.parent.name)
    return read_bundle(home / bundle.folder.name)


def run(bundle: Bundle, images: Any) -> Outputs:
    return open_graph(bundle.model_file, single=bundle.manifest.single, threads=1).run(images)


def again(bundle: Bundle, **options: Any) -> Bundle:
    return recalibrate(RecalibrateOptions(bundle=bundle.folder, **options))


def check_flags(bundle: Bundle, wanted: Outputs) -> None:
    """On images of which no threshold knows: everything but the flags is as it was, to the bit."""
    calibration = bundle.manifest.calibration
    assert calibration is not None
    got = run(bundle, load("digits").test.images)
    thresholds = calibration.thresholds_of(got["logits"].argmax(axis=1))
    np.testing.assert_array_equal(got["adversarial"][:, 0], got["anomaly_score"][:, 0] > thresholds)
    assert 0 < got["adversarial"].mean() < 1
    for name in OUTPUTS[:-1]:
        np.testing.assert_array_equal(got[name], wanted[name])


@pytest.mark.parametrize("kind", ["masked", "gathered"])
def test_thresholds_are_those_of_the_graph_and_nothing_else_changes(
    kind: str, bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    splits = load("digits")
    old = copied(bundles[kind], tmp_path)
    before, wanted = run(old, splits.calibration.images), run(old, splits.test.images)
    scores, predicted = before["anomaly_score"][:, 0], before["logits"].argmax(axis=1)
    common = again(old, fpr=0.1)  # the data set that it was calibrated on
    assert common.folder.name == "2"
    found = common.manifest.calibration
    assert found is not None
    assert (found.target_fpr, found.images, found.source, found.data) == (0.1, 499, "graph", "digits")
    assert found.threshold == np.float32(conformal_threshold(scores, 0.1))
    assert found.class_thresholds == ()
    check_flags(common, wanted)
    own = again(common, data="digits", per_class=True)  # the rate that it promises
    found = own.manifest.calibration
    assert found is not None
    assert found.target_fpr == 0.1
    names = own.manifest.class_names
    assert found.class_thresholds == tuple(class_thresholds(scores, predicted, names, 0.1))
    assert found.class_images == tuple(np.bincount(predicted, minlength=CLASSES))
    check_flags(own, wanted)
    back = again(own, fpr=0.1)
    graphs = [onnx.load(bundle.model_file).graph for bundle in (common, back)]
    assert graphs[0].node == graphs[1].node
    assert sorted(map(str, graphs[0].initializer)) == sorted(map(str, graphs[1].initializer))
    assert versions(old.folder.parent) == [1, 2, 3, 4]


def test_the_new_version_is_whole_and_leaves_the_old_one_and_the_configuration_alone(
    bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    old = copied(bundles["masked"], tmp_path)
    config = old.folder.parent / "config.pbtxt"
    edited = (
        config.read_text() + 'parameters { key: "penstock_flag_policy" value { string_value: "reject" } }\n'
    )
    config.write_text(edited)
    before = {file.name: sha256(file) for file in old.folder.iterdir()}
    new = recalibrate(RecalibrateOptions(bundle=old.folder.parent, per_class=True))
    assert config.read_text() == edited
    assert {file.name: sha256(file) for file in old.folder.iterdir()} == before
    assert {file.name for file in new.folder.iterdir()} == {"model.onnx", "bundle.json", DETECTOR_FILE}
    assert sha256(new.folder / DETECTOR_FILE) == before[DETECTOR_FILE]
    model = onnx.load(new.model_file)
    about = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    stands = json.loads((new.folder / "bundle.json").read_text())
    assert about["penstock.calibration"] == stands["calibration"]
    assert stands["model_sha256"] == sha256(new.model_file)
    ignored = {"calibration": None, "model_sha256": ""}
    assert stands | ignored == json.loads((old.folder / "bundle.json").read_text()) | ignored
    was = {tensor.name: tensor for tensor in onnx.load(old.model_file).graph.initializer}
    now = {tensor.name: tensor for tensor in model.graph.initializer}
    assert was.keys() - now.keys() == {"threshold"}
    assert now.keys() - was.keys() == {"threshold.classes"}
    assert all(was[name] == now[name] for name in was.keys() & now.keys())


def test_promises_hold_in_each_class(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    """At 20 % each class has some 50 scores: of its calibration images, at most that share is above its threshold."""
    new = again(copied(bundles["masked"], tmp_path), per_class=True, fpr=0.2)
    got = run(new, load("digits").calibration.images)
    predicted = got["logits"].argmax(axis=1)
    rates = [got["adversarial"][predicted == label].mean() for label in range(CLASSES)]
    assert max(rates) <= 0.2
    assert min(rates) > 0.12


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
@pytest.mark.parametrize(("network", "single"), [("chain", False), ("cascade", True)])
def test_routed_graphs_take_thresholds_per_class_at_any_precision(
    network: str, single: bool, precision: str, routed: Callable[[str], Any], some_images: Any, to_bytes: Any
) -> None:
    images = some_images(64)
    model: ir.Model = routed(network).lowered(Routed(single=single))
    if precision != "fp32":
        model = narrow(model, precision, images)
    before = open_graph(to_bytes(model), single=single).run(images)
    own = np.quantile(before["anomaly_score"], [0.3, 0.4, 0.5, 0.6, 0.7]).astype(np.float32)
    about = {"detector": "", "target_fpr": 0.5, "threshold": 0.0, "images": 64, "source": "graph"}
    calibration = Calibration(**about, class_thresholds=tuple(own.tolist()))  # type: ignore[arg-type]
    set_thresholds(model, calibration)
    content = to_bytes(model)
    onnx.checker.check_model(onnx.load_model_from_string(content), full_check=True)
    got = open_graph(content, single=single).run(images)
    np.testing.assert_array_equal(got["anomaly_score"], before["anomaly_score"])
    wanted = before["anomaly_score"][:, 0] > own[before["logits"].argmax(axis=1)]
    np.testing.assert_array_equal(got["adversarial"][:, 0], wanted)
    assert 0 < wanted.mean() < 1


def test_bundles_of_reduced_precision_that_take_bytes_are_calibrated_as_they_are(
    tiny_run: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"lowering": "masked", "precision": "int8", "input_type": "uint8"}
    old = export(ExportOptions(source=str(tiny_run), repository=tmp_path, name="narrow", **options))
    wanted = run(old, load("digits").test.images)
    new = again(old, per_class=True)
    assert (new.manifest.precision, new.manifest.input_type) == ("int8", "uint8")
    check_flags(new, wanted)


def test_a_folder_of_images_counts_whole(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    images = load("digits").test.images[:150]
    for row, image in enumerate(images):
        file = tmp_path / "camera" / "north" / f"{row:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(file)
    (tmp_path / "camera" / ".hidden.png").write_bytes(b"")
    old = copied(bundles["masked"], tmp_path)
    scores = run(old, images)["anomaly_score"][:, 0]
    found = again(old, data=str(tmp_path / "camera")).manifest.calibration
    assert found is not None
    assert (found.images, found.data, found.ranked_by) == (150, "camera", "")  # its detector ranks nothing
    assert found.threshold == np.float32(conformal_threshold(scores, 0.05))


def test_images_that_rank_scores_set_no_threshold_whatever_set_the_last_one(
    bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    old = copied(bundles["masked"], tmp_path)
    file = old.folder / "bundle.json"
    stands = json.loads(file.read_text())
    ranks = {"detector": OF_OBSERVERS, "ranked_by": "digits"}
    file.write_text(json.dumps(stands | {"calibration": stands["calibration"] | ranks}))
    photographs = tmp_path / "digits"  # new ones, in a folder that is called as the data set is
    photographs.mkdir()
    for row, image in enumerate(load("digits").test.images[:150]):
        Image.fromarray(image[0]).save(photographs / f"{row:03}.png")
    on_photographs = again(old, data=str(photographs))
    whole = on_photographs.manifest.calibration
    half = again(on_photographs, data="digits").manifest.calibration
    assert whole is not None
    assert (whole.images, whole.data, whole.ranked_by) == (150, "digits/", "digits")
    assert half is not None
    assert (half.images, half.data, half.ranked_by) == (250, "digits", "digits")


@pytest.mark.parametrize(
    ("kind", "options", "error", "message"),
    [
        ("dense", {}, UnsupportedError, "no detector, so it has no threshold"),
        ("no-flags", {}, UnsupportedError, "no detector"),
        ("masked", {"fpr": 0.001}, InvalidArgumentError, "499 calibration scores .*: 999 are needed"),
        ("masked", {"fpr": 0.01, "per_class": True}, InvalidArgumentError, r"needs 99 .* for 0 \d+, 1 \d+"),
        ("masked", {"fpr": 1.0}, InvalidArgumentError, "rate is 1.0"),
        ("masked", {"data": "nothing"}, NotFoundError, "no images at 'nothing': name a folder"),
        (
            "masked",
            {"data": "mnist"},
            InvalidArgumentError,
            r"mnist have shape .*; the model takes \(1, 8, 8\)",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_calibrated_is_refused_and_nothing_is_written(
    kind: str,
    options: dict[str, Any],
    error: type[PenstockError],
    message: str,
    bundles: dict[str, Bundle],
    tmp_path: Path,
) -> None:
    if options.get("data") == "mnist":
        try:
            load("mnist")
        except NotFoundError as missing:
            pytest.skip(str(missing))
    old = copied(bundles[kind], tmp_path)
    with pytest.raises(error, match=message):
        again(old, **options)
    assert sorted(entry.name for entry in old.folder.parent.iterdir()) == ["1", "config.pbtxt", "labels.txt"]


def test_images_that_are_not_there_or_of_other_classes_are_refused(
    bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    old = copied(bundles["masked"], tmp_path)
    (tmp_path / "empty").mkdir()
    file = old.folder / "bundle.json"
    stands = json.loads(file.read_text())
    file.write_text(json.dumps(stands | {"calibration": stands["calibration"] | {"data": "folder:mine"}}))
    with pytest.raises(NotFoundError, match=r"no data was named, and the bundle names no data set"):
        again(old)
    with pytest.raises(NotFoundError, match=r"no image files in .*empty, and the bundle"):
        again(old, data=str(tmp_path / "empty"))
    file.write_text(json.dumps(stands | {"class_names": [f"sort {label}" for label in range(CLASSES)]}))
    with pytest.raises(InvalidArgumentError, match=r"digits has the classes 0, 1, 2, .* knows sort 0"):
        again(old)
    with pytest.raises(NotFoundError, match="no bundle at"):
        recalibrate(RecalibrateOptions(bundle=tmp_path / "nowhere"))
    with pytest.raises(BundleError, match=r"has no bundle\.json"):
        recalibrate(RecalibrateOptions(bundle=tmp_path / "empty"))


def test_a_graph_whose_flags_have_another_form_is_refused(captured: dict[str, Any]) -> None:
    model: ir.Model = captured["chain"].model.clone()
    model.graph.outputs[-1].name = "something"
    with pytest.raises(VerificationError, match="no comparison of a score with a threshold"):
        set_thresholds(model, Calibration(detector="", target_fpr=0.1, threshold=1, images=9, source="graph"))


def test_the_command_line_says_what_came_out(
    bundles: dict[str, Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = copied(bundles["masked"], tmp_path)
    arguments = ["detect", "calibrate", str(old.folder.parent), "--data", "digits", "--fpr"]
    assert main([*arguments, "0.01"]) == 0
    captured = capsys.readouterr()
    assert "on 499 images for a rate of 0.01" in captured.out
    assert "scoring 499 images of digits" in captured.err
    assert main([*arguments, "0.05", "--per-class"]) == 0
    assert "/3: thresholds " in capsys.readouterr().out
    assert main([*arguments, "0.01", "--per-class"]) == 1
    assert "needs 99 honest images taken for each class" in capsys.readouterr().err
