"""A bundle whose classes have thresholds of their own, made and calibrated for real, behind a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.data import load
from penstock.detect import PathDetector, PathFeatures
from penstock.service import client
from penstock.service.client import PathClient


def test_served_flags_are_those_of_the_library_with_a_threshold_for_each_class(
    tiny_run: Path, tmp_path: Path, start: Any
) -> None:
    pytest.importorskip("torch")
    from penstock.export.pipeline import ExportOptions, export
    from penstock.export.recalibrate import RecalibrateOptions, recalibrate
    from penstock.nn.checkpoint import CHECKPOINT_FILE, load_checkpoint
    from penstock.nn.inference import answer

    first = export(ExportOptions(source=str(tiny_run), repository=tmp_path, name="net", lowering="masked"))
    recalibrate(RecalibrateOptions(bundle=first.folder, data="digits", fpr=0.1, per_class=True))

    checkpoint, splits = load_checkpoint(tiny_run / CHECKPOINT_FILE), load("digits")

    def features(images: Any) -> PathFeatures:
        seen = answer(checkpoint.network, images)
        return PathFeatures(seen.bits, seen.gate_logits, seen.predicted)

    detector = PathDetector.from_state(checkpoint.detector)
    detector.calibrate(features(splits.calibration.images), 0.1, per_class=True)
    wanted = features(splits.test.images)
    images = splits.test.floats()
    with start(tmp_path) as server:
        parts = [client.infer(server.url, "net", images[row : row + 32]) for row in range(0, len(images), 32)]
        with PathClient(server.url) as paths:
            explained = paths.explain("net", images[:8])
    scores = np.concatenate([part.anomaly_score[:, 0] for part in parts])
    flags = np.concatenate([part.adversarial[:, 0] for part in parts])
    clear = np.abs(scores - detector.thresholds[wanted.predicted]) > 1e-3
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(flags[clear], detector.predict(wanted)[clear])
    assert len(np.unique(detector.thresholds)) == 10
    assert (flags != (scores > np.median(detector.thresholds))).any()  # one threshold would flag others
    for row, image in enumerate(explained):
        assert image.threshold == pytest.approx(detector.thresholds[wanted.predicted[row]], abs=1e-4)
        assert image.adversarial == flags[row]
