from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from penstock.errors import BundleError, NotFoundError
from penstock.files import sha256
from penstock.nn.assembly import Member
from penstock.nn.backbones import build_backbone
from penstock.nn.checkpoint import (
    CHECKPOINT_FILE,
    Checkpoint,
    find_source,
    load_checkpoint,
    load_source,
)
from penstock.nn.gates import GateConfig
from penstock.nn.surgery import attach_gates


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    gate = GateConfig(normalize=True, initial_logit=0.1)
    dense = build_backbone("digits-cnn", 10)
    network = attach_gates(dense, torch.zeros(1, 1, 8, 8), gate)
    for _ in range(5):
        network(torch.rand(16, 1, 8, 8))  # statistics of the gates' normalisation
    draw = np.random.default_rng(0)
    return Checkpoint(
        backbone="digits-cnn",
        class_names=tuple("0123456789"),
        input_shape=(1, 8, 8),
        members=(Member(gate=gate),),
        network=network.eval(),
        dense=dense.eval(),
        detector={"usual": draw.random((10, network.layout.bits)).astype(np.float32)},
        calibration=draw.normal(size=499),
        config={"data": "digits", "seed": 0},
        figures={"accuracy": 0.97},
    )


@pytest.fixture
def file(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    path = tmp_path / "some" / CHECKPOINT_FILE
    checkpoint.save(path)
    return path


def test_what_was_saved_answers_to_the_bit_as_before(checkpoint: Checkpoint, file: Path) -> None:
    loaded = load_checkpoint(file)
    images = torch.rand(9, 1, 8, 8)
    with torch.no_grad():
        before, after = checkpoint.network(images), loaded.network(images)
        assert torch.equal(after.logits, before.logits)
        assert torch.equal(torch.cat(after.codes, 1), torch.cat(before.codes, 1))
        assert torch.equal(torch.cat(after.gate_logits, 1), torch.cat(before.gate_logits, 1))
        assert torch.equal(after.active_macs, before.active_macs)
        assert torch.equal(loaded.dense(images), checkpoint.dense(images))
    assert not loaded.network.training
    assert not loaded.dense.training


def test_everything_else_comes_back_too(checkpoint: Checkpoint, file: Path) -> None:
    loaded = load_checkpoint(file)
    for name in ("backbone", "class_names", "input_shape", "members", "config", "figures"):
        assert getattr(loaded, name) == getattr(checkpoint, name), name
    assert loaded.network.layout == checkpoint.network.layout
    assert loaded.network.report == checkpoint.network.report
    assert loaded.calibration.dtype == np.float64
    np.testing.assert_array_equal(loaded.calibration, checkpoint.calibration)
    assert loaded.detector.keys() == checkpoint.detector.keys()
    np.testing.assert_array_equal(loaded.detector["usual"], checkpoint.detector["usual"])


def test_a_checkpoint_without_detector_stays_without(checkpoint: Checkpoint, tmp_path: Path) -> None:
    bare = replace(checkpoint, detector={}, calibration=np.zeros(0))
    bare.save(tmp_path / "bare.safetensors")
    loaded = load_checkpoint(tmp_path / "bare.safetensors")
    assert loaded.detector == {}
    assert loaded.calibration.shape == (0,)


def test_saving_again_gives_the_same_file(checkpoint: Checkpoint, file: Path, tmp_path: Path) -> None:
    load_checkpoint(file).save(tmp_path / "again.safetensors")
    assert sha256(tmp_path / "again.safetensors") == sha256(file)


def rewrite(file: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], object]) -> None:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        about = json.loads(opened.metadata()["penstock"])
    tensors = load_file(file)
    change(tensors, about)
    save_file(tensors, file, metadata={"penstock": json.dumps(about)})


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no checkpoint file"):
        load_checkpoint(tmp_path / "nothing")


@pytest.mark.parametrize("kept", [0, 5, 1000, 200_000])
def test_a_truncated_file_is_refused(kept: int, file: Path) -> None:
    content = file.read_bytes()
    assert len(content) > kept
    file.write_bytes(content[:kept])
    with pytest.raises(BundleError, match="not a usable Penstock checkpoint"):
        load_checkpoint(file)


def test_safetensors_of_somebody_else_are_refused(tmp_path: Path) -> None:
    for name, metadata in (("plain", None), ("other", {"format": "pt"}), ("text", {"penstock": "not JSON"})):
        save_file({"weight": torch.zeros(3)}, tmp_path / name, metadata=metadata)
        with pytest.raises(BundleError, match="not a usable Penstock checkpoint"):
            load_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, about: about.update(schema=1), "has schema 1; this version reads 2"),
        (lambda tensors, about: about.pop("schema"), "schema"),
        (lambda tensors, about: about.update(backbone="vgg99"), "no backbone 'vgg99'"),
        (lambda tensors, about: about.update(class_names=["a", "b"]), "size mismatch"),
        (lambda tensors, about: about["members"][0].update(gate={"wings": 2}), "wings"),
        (lambda tensors, about: about["members"][0]["gate"].update(normalize=False), "Unexpected key"),
        (lambda tensors, about: tensors.pop("calibration"), "calibration"),
        (lambda tensors, about: tensors.pop("dense.linear.bias"), "linear.bias"),
        (lambda tensors, about: tensors.update({"gated.extra": torch.zeros(1)}), "extra"),
    ],
    ids=[
        "schema",
        "no schema",
        "backbone",
        "classes",
        "gate",
        "gate shape",
        "calibration",
        "weight",
        "extra",
    ],
)
def test_a_checkpoint_that_does_not_fit_itself_is_refused(
    change: Callable[[dict[str, torch.Tensor], dict[str, Any]], object], message: str, file: Path
) -> None:
    rewrite(file, change)
    with pytest.raises(BundleError, match=message):
        load_checkpoint(file)


def test_a_source_is_a_run_folder_or_a_file(file: Path) -> None:
    assert find_source(str(file.parent)) == file
    assert find_source(str(file)) == file


@pytest.mark.parametrize(
    ("source", "message"),
    [("zoo:nothing", "no zoo entry 'nothing'"), ("nowhere", "no run folder"), (".", "nothing at")],
)
def test_a_source_that_is_not_there_is_not_found(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError, match=message):
        find_source(source)


def test_a_loaded_source_says_what_it_was(file: Path) -> None:
    loaded, origin = load_source(str(file.parent))
    assert loaded.backbone == "digits-cnn"
    assert origin == {"name": file.parent.name, "sha256": sha256(file)}
