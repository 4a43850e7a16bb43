"""What a page is made of, without a network: images, labels and paths set by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.data import ImageSet
from penstock.learn.dependence import dependence
from penstock.nn.checkpoint import CHECKPOINT_FILE, load_checkpoint
from penstock.paths import PathLayer, PathLayout, PathSet
from penstock.report.observation import Observation


@pytest.fixture(scope="session")
def layout() -> PathLayout:
    """Two layers of two and three filters; every filter costs 10 % of the dense network."""
    layers = (PathLayer(name="low", filters=2, macs=20), PathLayer(name="high", filters=3, macs=30))
    return PathLayout(layers=layers, fixed_macs=50, dense_macs=100)


@pytest.fixture(scope="session")
def made(tiny_run: Path) -> Callable[..., Observation]:
    """Makes an observation of given paths; the checkpoint is a real one, but nothing of it is run."""
    checkpoint = load_checkpoint(tiny_run / CHECKPOINT_FILE)

    def make(paths: PathSet, labels: list[int], names: tuple[str, ...], **changed: Any) -> Observation:
        count, draw = len(labels), np.random.default_rng(0)
        images = ImageSet(
            draw.integers(0, 256, (count, 3, 4, 4), dtype=np.uint8),
            np.array(labels, dtype=np.int64),
            names,
            np.arange(1000, 1000 + count),
        )
        values: dict[str, Any] = {
            "name": "made",
            "sha256": "0" * 64,
            "checkpoint": checkpoint,
            "data": "digits",
            "images": images,
            "paths": paths,
            "predicted": images.labels,
            "dense_predicted": images.labels,
            "dependence": dependence(paths, images.labels, len(names), np.ones(paths.layout.bits)),
            "flags": None,
        }
        return Observation(**(values | changed))

    return make
