"""Commands beside ``decouple`` that are killed at a random moment and called again: their result is the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.cli import main
from penstock.nn.checkpoint import CHECKPOINT_FILE
from penstock.nn.run_folders import WEIGHTS_FILE
from tests.learn.killing import ROUNDS, Kill, Reference, killed_again_and_again, killed_once

TRAIN = """
data = "digits"
backbone = "digits-cnn"
train = { epochs = 6, batch_size = 100, learning_rate = 0.05, average = 0.9 }
"""
TUNE = "tune = { epochs = 6, batch_size = 100, learning_rate = 0.05 }"


@pytest.fixture(scope="module", params=["train", "consolidate", "cascade"])
def reference(
    request: pytest.FixtureRequest, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    folder = tmp_path_factory.mktemp("reference")
    config = folder / "short.toml"
    config.write_text(TRAIN if request.param == "train" else TUNE)
    source, options = str(tiny_run), ("--config", str(config))
    arguments, line, result = {
        "train": (("train", *options), "training digits-cnn", WEIGHTS_FILE),
        "consolidate": (
            ("consolidate", source, "--prototypes", "3", "--budget", "0.6", *options),
            "3 prototypes a stage",
            CHECKPOINT_FILE,
        ),
        "cascade": (("cascade", source, "--budget", "0.9"), "setting the threshold", CHECKPOINT_FILE),
    }[request.param]
    found = Reference(arguments, (line,), result, folder / "whole")
    assert main(found.command(found.folder)) == 0
    return found


def test_a_killed_run_goes_on_to_the_same_bytes(
    reference: Reference, kill_after: Kill, tmp_path: Path
) -> None:
    killed_once(reference, kill_after, tmp_path / "run", reference.lines[0])


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_run_killed_again_and_again_goes_on_to_the_same_bytes(
    round_: int, reference: Reference, kill_after: Kill, tmp_path: Path
) -> None:
    killed_again_and_again(reference, kill_after, tmp_path / "run", round_)
