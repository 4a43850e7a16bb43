"""Gates that look on beside routers: what runs stays the same, and the detector sees what they would have opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from penstock.bundle import read_bundle
from penstock.cli.main import main
from penstock.data import load
from penstock.detect import FamilyDetector, PathFeatures, false_positive_interval
from penstock.detect.router_gate import disagreement
from penstock.errors import InvalidArgumentError, UnsupportedError
from penstock.export.pipeline import ExportOptions
from penstock.export.runtime import open_bundle
from penstock.learn.config import Schedule
from penstock.learn.consolidate import consolidate
from penstock.learn.consolidate_config import ConsolidateConfig
from penstock.nn.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint
from penstock.nn.inference import answer
from penstock.nn.observing import watched_checkpoint
from penstock.nn.watched import WatchedRouter, watch


@pytest.fixture(scope="module")
def routed_run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "routed"
    tune = Schedule(epochs=4, batch_size=64, learning_rate=0.05)
    consolidate(
        str(tiny_run), ConsolidateConfig(count=3, tune=tune, budget_weight=16.0), folder, progress=False
    )
    return folder


@pytest.fixture(scope="module")
def watched(routed_run: Path, tiny: Checkpoint) -> Checkpoint:
    return watched_checkpoint(load_checkpoint(routed_run / CHECKPOINT_FILE), tiny)


def seen(checkpoint: Checkpoint, images: np.ndarray) -> PathFeatures:
    found = answer(checkpoint.network, images)
    return PathFeatures(found.bits, found.gate_logits, found.predicted)


def test_what_runs_stays_the_same_and_gates_are_counted(watched: Checkpoint, routed_run: Path) -> None:
    plain = load_checkpoint(routed_run / CHECKPOINT_FILE).network
    images = load("digits").test.images[:100]
    before, after = answer(plain, images), answer(watched.network, images)
    np.testing.assert_array_equal(after.logits, before.logits)
    np.testing.assert_array_equal(after.bits, before.bits)
    routers = [module for module in watched.network.modules() if isinstance(module, WatchedRouter)]
    assert len(routers) == len(plain.routers)  # type: ignore[arg-type]
    extra = sum(router.gate.macs for router in routers) / plain.layout.dense_macs
    np.testing.assert_allclose(after.active_macs - before.active_macs, extra, atol=1e-6)
    # Where gates look on, their logits stand; elsewhere the routers' soft codes, between -1/2 and 1/2.
    first = watched.network.layout.slices[0]
    assert np.abs(after.gate_logits[:, first]).max() > 0.6
    assert np.abs(before.gate_logits).max() < 0.501


@pytest.mark.parametrize("lowering", ["masked", "routed"])
def test_exported_graphs_flag_by_the_same_disagreement(
    lowering: str, watched: Checkpoint, routed_run: Path, tiny_run: Path, tmp_path: Path
) -> None:
    options = ["--lowering", lowering, "--gates", str(tiny_run), "--detector", "router-gate"]
    where = ["--repository", str(tmp_path), "--name", "net"]
    assert main(["export", str(routed_run), *options, *where]) == 0
    bundle = read_bundle(tmp_path / "net" / "1")
    calibration = bundle.manifest.calibration
    assert calibration is not None
    assert (bundle.manifest.lowering, calibration.detector) == (lowering, "router-gate")
    splits = load("digits")
    got = open_bundle(bundle, threads=1).run(splits.test.images)
    features = seen(watched, splits.test.images)
    detector = FamilyDetector("router-gate", classes=10).fit(seen(watched, splits.train.images))
    np.testing.assert_array_equal(got["path"], features.bits)
    np.testing.assert_allclose(got["anomaly_score"][:, 0], detector.score(features), rtol=1e-4, atol=1e-4)
    assert np.ptp(got["anomaly_score"]) > 1
    low, high = false_positive_interval(len(splits.test), calibration.images, 0.05, 0.999)
    assert low <= got["adversarial"].mean() <= high


def test_disagreement_is_whole_where_gates_are_sure() -> None:
    features = PathFeatures(
        np.array([[1, 1, 0, 0, 1]], np.uint8),
        np.array([[3.0, -3.0, 3.0, -3.0, 0.0]], np.float32),
        np.zeros(1, np.int64),
    )
    np.testing.assert_allclose(disagreement(features), [[0, 1, 1, 0, 0.5]])


def test_what_cannot_be_watched_is_refused(watched: Checkpoint, tiny: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="has no routers to watch"):
        watch(tiny.network, tiny.network)
    with pytest.raises(UnsupportedError, match="has no gates: name the run"):
        watch(watched.network, watched.network)
    with pytest.raises(InvalidArgumentError, match="leave out --dense and --no-flags"):
        ExportOptions(source="x", repository=tmp_path, name="x", gates="y", dense=True)
    x = torch.from_numpy(load("digits").test.floats()[:2])
    with torch.no_grad():
        assert torch.isfinite(watched.network(x).logits).all()
