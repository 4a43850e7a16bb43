"""Exports of networks whose data set is not at hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from penstock.data import load
from penstock.detect import conformal_threshold
from penstock.errors import InvalidArgumentError
from penstock.export.pipeline import ExportOptions, export
from penstock.export.sample import sample_of, synthetic_images
from penstock.nn.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint
from penstock.nn.inference import answer
from tests.export.pipeline.kinds import run


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


def test_a_folder_of_images_is_for_networks_that_look_at_some(tiny: Checkpoint, tmp_path: Path) -> None:
    nothing = replace(tiny, config={"timing": {}})
    assert not sample_of(nothing, tmp_path, lambda _: None).real
    with pytest.raises(InvalidArgumentError, match="no data set ''"):
        sample_of(replace(tiny, config={}), tmp_path, lambda _: None)
