"""Networks that take no time, and an export of one of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from penstock.export.options import ExportOptions
from tests.export.plans.plan_files import untrained


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three tiny networks, ``0.safetensors`` and so on."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed in range(3):
        untrained(seed).save(folder / f"{seed}.safetensors")
    return folder


@pytest.fixture
def options(checkpoints: Path, tmp_path: Path) -> ExportOptions:
    """The export of one of them."""
    source = shutil.copy(checkpoints / "0.safetensors", tmp_path / "net.safetensors")
    return ExportOptions(source=str(source), repository=tmp_path / "models", name="net", dense=True)
