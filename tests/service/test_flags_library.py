"""The flags that a server raises are those of the library: PyTorch for the network, numpy for the detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from penstock.bundle import DETECTOR_FILE, Bundle
from penstock.data import load
from penstock.detect.tables import tables_from_bytes
from penstock.service import client
from tests.service.scale import long, scaled

NEAR = 1e-4  # of the threshold: as far as graphs and library may differ
BATCH = 25

KINDS: dict[str, dict[str, Any]] = {
    "masked": {"lowering": "masked"},
    "observed": {"dense": True, "observe": True},
}


@pytest.fixture(scope="module")
def exported(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    pytest.importorskip("torch")
    from penstock.export.pipeline import ExportOptions, export

    models = tmp_path_factory.mktemp("models")
    return {
        kind: export(ExportOptions(source=str(tiny_run), repository=models, name=kind, **options))
        for kind, options in KINDS.items()
    }


def shown() -> npt.NDArray[np.float32]:
    """Images that no threshold knows: half of them clean, half of them noisy, so that many are flagged."""
    count = scaled(500, 50)
    clean = np.resize(load("digits").test.floats(), (count, 1, 8, 8))
    signs = np.random.default_rng(0).choice([-0.2, 0.2], clean.shape).astype(np.float32)
    noisy: npt.NDArray[np.float32] = np.concatenate([clean, np.clip(clean + signs, 0, 1)])
    return noisy


def of_library(kind: str, bundle: Bundle, run: Path, images: npt.NDArray[np.float32]) -> Any:
    """Scores and flags ``[N]``."""
    from penstock.nn.checkpoint import CHECKPOINT_FILE, load_checkpoint
    from penstock.nn.detecting import features_of
    from penstock.nn.observing import observed_checkpoint

    checkpoint = load_checkpoint(run / CHECKPOINT_FILE)
    checkpoint = observed_checkpoint(checkpoint) if kind == "observed" else checkpoint
    calibration = bundle.manifest.calibration
    assert calibration is not None
    score = tables_from_bytes(calibration.detector, (bundle.folder / DETECTOR_FILE).read_bytes())
    scores = score.score(features_of(checkpoint.network, images * np.float32(255)))
    return scores, scores > np.float32(calibration.threshold)


@long
def test_served_flags_are_the_librarys(exported: dict[str, Bundle], tiny_run: Path, start: Any) -> None:
    images = shown()
    assert len(images) == scaled(1000, 100)
    with start(exported["masked"].folder.parent.parent) as server:
        for kind, bundle in exported.items():
            answers = [
                client.infer(server.url, kind, images[begin : begin + BATCH])
                for begin in range(0, len(images), BATCH)
            ]
            served = np.concatenate([answer.adversarial[:, 0] for answer in answers])
            scores, flags = of_library(kind, bundle, tiny_run, images)
            served_scores = np.concatenate([answer.anomaly_score[:, 0] for answer in answers])
            np.testing.assert_allclose(served_scores, scores, rtol=1e-3, atol=1e-3)
            assert bundle.manifest.calibration is not None
            near = np.abs(scores - bundle.manifest.calibration.threshold) <= NEAR * np.maximum(1, abs(scores))
            assert near.mean() < 0.01
            np.testing.assert_array_equal(served[~near], flags[~near])
            half = len(images) // 2
            assert flags[half:].mean() > flags[:half].mean()
