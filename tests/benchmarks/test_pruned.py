"""Static pruning for comparison: how much it takes away, and that what is left is trained, kept and found again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pruned
import pytest
from speed_subjects import SUBJECTS, forms, networks

from penstock.data import load
from penstock.export.runtime import open_graph
from penstock.nn.backbones import BasicBlock
from penstock.nn.checkpoint import CHECKPOINT_FILE, load_checkpoint, load_source

EPOCHS = ("--epochs", "2")


def test_it_keeps_to_what_the_paths_ask_for(tiny_run: Path) -> None:
    checkpoint = load_checkpoint(tiny_run / CHECKPOINT_FILE)
    assert pruned.budget(checkpoint) == checkpoint.figures["mac_fraction"]
    unmeasured = pruned.budget(replace(checkpoint, figures={}))
    assert 0 < unmeasured <= 1.1
    assert unmeasured != pruned.budget(checkpoint)
    assert not any(
        "--macs" in form.command for network in networks(["*"], SUBJECTS) for form in forms(network)
    )
    _, share = pruned.pruned(checkpoint, 0.5)
    assert 0.25 < share <= 0.5


def test_blocks_with_shortcuts_that_pad_become_narrow_inside() -> None:
    network, share = pruned.pruned(load_source("zoo:resnet20-cifar10")[0], 0.5)
    blocks = [module for module in network.modules() if isinstance(module, BasicBlock)]
    assert [block.conv2.out_channels for block in blocks] == [16] * 3 + [32] * 3 + [64] * 3
    assert all(4 <= block.conv1.out_channels < block.conv2.out_channels for block in blocks)
    assert 0.35 < share <= 0.5


def test_what_is_left_is_fine_tuned_once_and_takes_any_batch(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert pruned.main([str(tiny_run), *EPOCHS, "--out", str(tmp_path / "first")]) == 0
    test = load("digits").test
    logits = open_graph(tmp_path / "first" / "model.onnx", single=False).run(test.images)["logits"]
    assert (logits.argmax(1) == test.labels).mean() > 0.8
    share = json.loads((tmp_path / "first" / "about.json").read_text())["macs"]
    assert 0.3 < share <= load_checkpoint(tiny_run / CHECKPOINT_FILE).figures["mac_fraction"]
    (kept,) = (tmp_path / "cache").rglob("weights.safetensors")
    content, log = kept.read_bytes(), kept.parent / "train" / "logs"
    trainings = len(list(log.iterdir()))
    kept.unlink()  # as if it had been killed on the way: the loop's own files are there
    for name in ("second", "third"):
        assert pruned.main([str(tiny_run), *EPOCHS, "--out", str(tmp_path / name)]) == 0
        assert kept.read_bytes() == content
    assert len(list(log.iterdir())) == trainings + 1, "the third run found what the second left"
