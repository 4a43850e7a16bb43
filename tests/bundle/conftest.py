"""A bundle in a repository of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.bundle import Bundle
from penstock.bundle_writing import write_bundle
from penstock.files import sha256
from tests.bundle.made import manifest, write_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "source.onnx", 1.0)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def written(repository: Path, model: Path) -> Bundle:
    return write_bundle(
        repository, "net", manifest(sha256(model)), model.read_bytes(), also={"notes.txt": "kept"}
    )
