"""Detectors chosen at export: the same scores in plain ONNX, recorded, calibrated, and served like any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from penstock.bundle import read_bundle
from penstock.cli.main import main
from penstock.data import load
from penstock.detect import FamilyDetector, Recipe, false_positive_interval
from penstock.detect.recipe import COMBINED, PARTS
from penstock.errors import InvalidArgumentError, UnsupportedError
from penstock.export.detectors import detector_of
from penstock.export.pipeline import ExportOptions
from penstock.export.recalibrate import RecalibrateOptions, recalibrate
from penstock.export.runtime import open_bundle
from penstock.export.sample import Sample
from penstock.nn.checkpoint import Checkpoint
from penstock.nn.detecting import FIT_IMAGES, features_of, masks_of
from penstock.nn.family_head import FamilyHead
from penstock.nn.inference import answer
from penstock.nn.sub_architectures import SUB_ARCHITECTURES_FILE, SubArchitectures
from penstock.paths import PathSet
from tests.decided import decided

NAMES = (
    *PARTS,
    "path-likelihood+gate-mahalanobis",
    "minimum:gate-mahalanobis+doubt",
    *(f"{how}:path-likelihood+gate-mahalanobis+disagreement+doubt" for how in COMBINED),
)


def masks(tiny: Checkpoint) -> PathSet:
    """A sub-architecture for each class, by chance."""
    layout = tiny.network.layout
    return PathSet(layout, np.random.default_rng(3).integers(0, 2, (10, layout.bits), dtype=np.uint8))


@pytest.mark.parametrize("name", NAMES)
def test_the_module_scores_as_numpy_does(name: str, tiny: Checkpoint) -> None:
    splits = load("digits")
    detector = FamilyDetector(name, classes=10, sub_architectures=masks(tiny))
    detector.fit(features_of(tiny.network, splits.train.images))
    noise = np.random.default_rng(0).integers(0, 256, (100, 1, 8, 8), dtype=np.uint8)
    images = np.concatenate([splits.test.images[:100], noise])
    features, logits = (
        features_of(tiny.network, images),
        torch.from_numpy(answer(tiny.network, images).logits),
    )
    with torch.no_grad():
        got = FamilyHead(detector.fitted)(
            logits, torch.from_numpy(features.bits).float(), torch.from_numpy(features.gate_logits)
        )
    np.testing.assert_allclose(got[:, 0], detector.score(features), rtol=1e-4, atol=1e-4)
    assert np.ptp(got.numpy()) > 1


@pytest.mark.parametrize(
    "name",
    ["harmonic:path-likelihood+gate-mahalanobis+doubt", "gate-mahalanobis", "disagreement"],
)
def test_a_bundle_carries_the_detector_that_was_chosen(
    name: str, tiny_run: Path, tiny: Checkpoint, tmp_path: Path
) -> None:
    options = ["--lowering", "masked", "--repository", str(tmp_path), "--name", "net", "--detector", name]
    assert main(["export", str(tiny_run), *options]) == 0
    bundle = read_bundle(tmp_path / "net" / "1")
    calibration = bundle.manifest.calibration
    assert calibration is not None
    assert (calibration.detector, calibration.source) == (name, "graph")
    assert (bundle.manifest.files == {}) == (
        name == "disagreement"
    )  # tables are there to explain gate logits
    assert {node.domain for node in onnx.load(bundle.model_file).graph.node} == {""}
    splits = load("digits")
    got = open_bundle(bundle, threads=1).run(splits.test.images)
    unseen = splits.calibration.images
    ranks = Recipe.parse(name).ranking(len(unseen))
    assert calibration.images == len(unseen) - ranks.sum()
    assert calibration.ranked_by == ("digits" if ranks.any() else "")
    honest = features_of(tiny.network, splits.train.images[:FIT_IMAGES])
    detector = FamilyDetector(name, classes=10).fit(
        honest, features_of(tiny.network, unseen[ranks]) if ranks.any() else None
    )
    wanted = detector.score(features_of(tiny.network, splits.test.images))
    clear = decided(tiny.network, splits.test.images)
    np.testing.assert_allclose(got["anomaly_score"][clear, 0], wanted[clear], rtol=1e-4, atol=1e-4)
    low, high = false_positive_interval(len(splits.test), calibration.images, 0.05, 0.999)
    assert low <= got["adversarial"].mean() <= high
    again = recalibrate(RecalibrateOptions(bundle=bundle.folder, fpr=0.2)).manifest.calibration
    assert again is not None
    assert (again.detector, again.target_fpr, again.images) == (name, 0.2, calibration.images)


def test_a_bundle_compares_with_the_sub_architectures_of_a_run(
    tiny_run: Path, tiny: Checkpoint, tmp_path: Path
) -> None:
    found = SubArchitectures(
        backbone=tiny.backbone,
        class_names=tiny.class_names,
        input_shape=tiny.input_shape,
        dense=tiny.dense,
        layout=tiny.network.layout,
        scores=torch.from_numpy(masks(tiny).bits).float() - 0.5,
    )
    found.save(tmp_path / SUB_ARCHITECTURES_FILE)
    options = ["--lowering", "masked", "--repository", str(tmp_path), "--name", "net"]
    options += ["--detector", "sub-architecture", "--sub-architectures"]
    assert main(["export", str(tiny_run), *options, str(tmp_path)]) == 0
    bundle = read_bundle(tmp_path / "net" / "1")
    splits = load("digits")
    detector = FamilyDetector("sub-architecture", classes=10, sub_architectures=masks(tiny))
    detector.fit(features_of(tiny.network, splits.train.images[:FIT_IMAGES]))
    got = open_bundle(bundle, threads=1).run(splits.test.images)["anomaly_score"][:, 0]
    wanted = detector.score(features_of(tiny.network, splits.test.images))
    clear = decided(tiny.network, splits.test.images)
    np.testing.assert_allclose(got[clear], wanted[clear], rtol=1e-4, atol=1e-4)
    replace(found, class_names=tuple("abcdefghij")).save(tmp_path / "letters.safetensors")
    with pytest.raises(UnsupportedError, match="and not the same ones: disentangle"):
        masks_of(tmp_path / "letters.safetensors", tiny)
    with pytest.raises(InvalidArgumentError, match="takes the run of `penstock disentangle`"):
        ExportOptions(source="x", repository=tmp_path, name="net", detector="minimum:sub-architecture+doubt")


def test_what_cannot_be_fitted_or_is_unknown_is_refused(tiny: Checkpoint, tmp_path: Path) -> None:
    made_up = Sample(load("digits").test.images[:5], real=False)
    with pytest.raises(UnsupportedError, match="to be fitted and calibrated"):
        detector_of(tiny, made_up, "disagreement", None)
    with pytest.raises(InvalidArgumentError, match="no detector 'entropy'"):
        ExportOptions(source="x", repository=tmp_path, name="x", detector="entropy")
