"""Commands beside ``decouple`` that are killed at a random moment and called again: their result is the same."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from penstock.cli import main
from penstock.files import sha256
from penstock.learn.runs import FIGURES_FILE
from penstock.nn.checkpoint import CHECKPOINT_FILE
from penstock.nn.run_folders import CONFIG_FILE, WEIGHTS_FILE

TRAIN = """
data = "digits"
backbone = "digits-cnn"
train = { epochs = 6, batch_size = 100, learning_rate = 0.05, average = 0.9 }
"""
TUNE = "tune = { epochs = 6, batch_size = 100, learning_rate = 0.05 }"


Kill = Callable[[Sequence[str], str, float], bool]


class Reference(NamedTuple):
    """A command, and what it gives if nobody kills it.

    Attributes:
        arguments: of ``penstock``, without ``--out``.
        line: that it tells when its work begins.
        result: file that it ends with.
        folder: with its whole result.
    """

    arguments: tuple[str, ...]
    line: str
    result: str
    folder: Path

    def command(self, folder: Path) -> list[str]:
        """The same in another folder."""
        return [*self.arguments, "--out", str(folder)]

    def is_that_of(self, folder: Path) -> bool:
        """Whether another folder holds the same bytes."""
        names = (CONFIG_FILE, FIGURES_FILE, self.result)
        return all(sha256(folder / name) == sha256(self.folder / name) for name in names)


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
    found = Reference(arguments, line, result, folder / "whole")
    assert main(found.command(found.folder)) == 0
    return found


def test_a_killed_run_goes_on_to_the_same_bytes(
    reference: Reference, kill_after: Kill, tmp_path: Path
) -> None:
    seconds, folder = random.uniform(0.05, 0.8), tmp_path / "run"
    kill_after(reference.command(folder), reference.line, seconds)
    while (folder / reference.result).exists():  # a faster machine had ended by then
        shutil.rmtree(folder)
        seconds /= 2
        kill_after(reference.command(folder), reference.line, seconds)
    assert main(reference.command(folder)) == 0
    assert reference.is_that_of(folder), f"killed {seconds} s after {reference.line!r}"


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(10))
def test_a_run_killed_again_and_again_goes_on_to_the_same_bytes(
    round_: int, reference: Reference, kill_after: Kill, tmp_path: Path
) -> None:
    draw, folder = random.Random(round_), tmp_path / "run"
    moments: list[float] = []
    while not (folder / reference.result).exists() and len(moments) < 12:
        moments.append(draw.uniform(0.0, 1.5))
        kill_after(reference.command(folder), "", moments[-1])
    assert main(reference.command(folder)) == 0
    assert reference.is_that_of(folder), f"killed after {moments} s"
