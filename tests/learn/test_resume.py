"""A run that was killed and called again ends as one that was not: every byte of the checkpoint is the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from penstock.learn.config import read_config
from penstock.learn.decouple import decouple
from penstock.nn.backbones import build_backbone
from penstock.nn.checkpoint import CHECKPOINT_FILE
from tests.learn.killing import ROUNDS, Kill, Reference, killed_again_and_again, killed_once

LINES = ("training the dense", "decoupling")
PLAIN = """
data = "digits"
backbone = "digits-cnn"
budget = 0.6
dense = { epochs = 6, batch_size = 100, learning_rate = 0.05 }
decouple = { epochs = 6, batch_size = 100, learning_rate = 0.05 }
"""
AVERAGED = """
data = "digits"
backbone = "digits-cnn"
budget = 0.6
ramp = 0.5
views = 4
dense = { epochs = 6, batch_size = 100, learning_rate = 0.05, average = 0.9 }
decouple = { epochs = 6, batch_size = 100, learning_rate = 0.05, average = 0.9, decay = "steps" }
teacher = { backbone = "digits-cnn", start = "FOLDER/teacher.th" }
"""


@pytest.fixture(scope="module", params=[PLAIN, AVERAGED], ids=["plain", "averaged-with-teacher"])
def reference(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reference]:
    folder = tmp_path_factory.mktemp("reference")
    torch.manual_seed(1)
    torch.save(build_backbone("digits-cnn", 10).state_dict(), folder / "teacher.th")
    config = folder / "short.toml"
    config.write_text(request.param.replace("FOLDER", str(folder)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "XDG_CACHE_HOME", str(folder / "cache")
        )  # killed runs find the teacher's answers, or half of them
        decouple(read_config(config), folder / "run", progress=False)
        shutil.rmtree(folder / "cache", ignore_errors=True)
        yield Reference(("decouple", "--config", str(config)), LINES, CHECKPOINT_FILE, folder / "run")


@pytest.mark.parametrize("line", LINES)
def test_a_killed_run_goes_on_to_the_same_bytes(
    line: str, reference: Reference, kill_after: Kill, tmp_path: Path
) -> None:
    killed_once(reference, kill_after, tmp_path / "run", line)


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_run_killed_again_and_again_goes_on_to_the_same_bytes(
    round_: int, reference: Reference, kill_after: Kill, tmp_path: Path
) -> None:
    killed_again_and_again(reference, kill_after, tmp_path / "run", round_)
