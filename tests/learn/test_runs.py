"""What all runs have in common."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock.data import load
from penstock.errors import ConfigurationError
from penstock.learn import runs
from penstock.learn.batches import Batches
from penstock.learn.config import DecoupleConfig
from penstock.nn.backbones import build_backbone
from penstock.nn.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint
from penstock.nn.run_folders import CONFIG_FILE


def test_a_folder_belongs_to_one_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "some" / "run"
    runs.refuse_other_run(folder, {"seed": 0})  # nobody's yet
    assert not folder.exists()
    runs.claim(folder, {"seed": 0, "mean": (0.5,)})
    runs.claim(folder, {"seed": 0, "mean": [0.5]})  # read back from a file
    for ask in (runs.claim, runs.refuse_other_run):
        with pytest.raises(ConfigurationError, match=r"run holds a run with another configuration"):
            ask(folder, {"seed": 1, "mean": (0.5,)})
    assert (folder / CONFIG_FILE).read_text() == '{\n  "seed": 0,\n  "mean": [\n    0.5\n  ]\n}\n'


@pytest.mark.parametrize(
    ("data", "padding", "flip"),
    [("digits", 1, False), ("cifar10", 4, True), ("caltech25", 16, True), ("folder:here", 0, True)],
)
def test_images_are_varied_as_suits_the_data_set(data: str, padding: int, flip: bool) -> None:
    batches = runs.training_batches(load("digits"), data, size=32, seed=3, views=5)
    assert (batches.padding, batches.flip) == (padding, flip)
    assert (batches.batch_size, batches.seed, batches.views, batches.training) == (32, 3, 5, True)


def test_images_of_a_folder_are_shifted_by_a_share_of_their_width_and_mirrored() -> None:
    assert runs.augmentation("folder:here", 224) == (16, True)
    assert runs.augmentation("folder:here", 32) == (2, True)
    assert runs.augmentation("mnist", 28) == (2, False)


def test_the_teacher_is_the_configured_one_or_the_runs_own_or_nobody() -> None:
    own, batches = build_backbone("digits-cnn", 10), Batches(load("digits").train, 32, training=True)
    config = DecoupleConfig(data="digits", backbone="digits-cnn", distillation=0.5, temperature=3.0)
    taught = runs.distillation(config, own, batches, None)
    assert taught is not None
    assert (taught.weight, taught.temperature) == (0.5, 3.0)
    assert runs.distillation(config, None, batches, None) is None
    assert runs.distillation(replace(config, distillation=0.0), own, batches, None) is None


def test_a_checkpoint_says_what_it_was_trained_on(tiny_run: Path) -> None:
    assert runs.trained_on(load_checkpoint(tiny_run / CHECKPOINT_FILE), "tiny") == "digits"


def test_a_run_is_finished_only_when_its_figures_are_there(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = load_checkpoint(tiny_run / CHECKPOINT_FILE)

    def full(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "write_atomic", full)
        with pytest.raises(OSError, match="no space left"):
            finish(done, tmp_path)
    assert list(tmp_path.iterdir()) == []
    finish(done, tmp_path)
    for name in (runs.FIGURES_FILE, CHECKPOINT_FILE):
        assert (tmp_path / name).read_bytes() == (tiny_run / name).read_bytes(), name


@pytest.mark.parametrize("missed", [True, False])
def test_a_budget_that_was_missed_is_told(missed: bool, tiny_run: Path, tmp_path: Path) -> None:
    done, said = load_checkpoint(tiny_run / CHECKPOINT_FILE), list[str]()
    share = done.figures["mac_fraction"]
    finish(done, tmp_path, budget=share - 0.2 if missed else share - 0.004, say=said.append)
    told = [line for line in said if line.startswith("over budget")]
    assert told == [
        f"over budget: {share:.1%} of the MACs on the test images, {share - 0.2:.1%} were asked for; "
        "give it more epochs, a larger budget_weight or a larger budget"
    ] * int(missed)


def test_only_a_budget_that_a_term_kept_to_was_asked_for() -> None:
    config = DecoupleConfig(data="digits", backbone="digits-cnn", budget=0.4)
    assert runs.budget_of(config.to_json()) == 0.4
    assert runs.budget_of(replace(config, budget_weight=0.0).to_json()) is None
    assert (
        runs.budget_of({"count": 4, "budget": 0.3, "budget_weight": 0.0}) == 0.3
    )  # prototypes are cut to fit
    assert runs.budget_of({"first": {}, "budget": 0.3}) == 0.3
    assert runs.budget_of({"dense": True}) is None


def finish(done: Checkpoint, out: Path, **more: Any) -> None:
    """End the run of a checkpoint once more."""
    runs.finish(
        out,
        load("digits"),
        done.network,
        done.dense,
        backbone=done.backbone,
        members=done.members,
        config=done.config,
        fpr=0.05,
        **more,
    )
