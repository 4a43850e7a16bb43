"""A checkpoint whose images are not there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from penstock.nn.checkpoint import CHECKPOINT_FILE, Checkpoint


@pytest.fixture
def elsewhere(tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of a data set that is not there."""
    monkeypatch.delenv("PENSTOCK_DATA", raising=False)
    folder = tmp_path / "run"
    replace(tiny, config={"data": "cifar10"}).save(folder / CHECKPOINT_FILE)
    return folder
