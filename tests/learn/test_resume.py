"""A run that was killed and called again ends as one that was not: every byte of the checkpoint is the same."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from penstock.files import sha256
from penstock.learn.config import read_config
from penstock.learn.decouple import decouple
from penstock.nn.backbones import build_backbone
from penstock.nn.checkpoint import CHECKPOINT_FILE

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


Kill = Callable[[Sequence[str], str, float], bool]


class Reference(NamedTuple):
    """A configuration, and what an uninterrupted run of it gives."""

    config: Path
    sha256: str

    def command(self, folder: Path) -> list[str]:
        """The run in another folder, as arguments of ``penstock``."""
        return ["decouple", "--config", str(self.config), "--out", str(folder)]


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
        hash_ = sha256(folder / "run" / CHECKPOINT_FILE)
        shutil.rmtree(folder / "cache", ignore_errors=True)
        yield Reference(config, hash_)


@pytest.mark.parametrize("line", ["training the dense", "decoupling"])
def test_a_killed_run_goes_on_to_the_same_bytes(
    line: str, reference: Reference, kill_after: Kill, tmp_path: Path
) -> None:
    seconds = random.uniform(0.05, 0.8)
    folder = tmp_path / "run"
    while not kill_after(reference.command(folder), line, seconds):  # a faster machine had ended by then
        shutil.rmtree(folder)
        seconds /= 2
    assert not (folder / CHECKPOINT_FILE).exists()
    decouple(read_config(reference.config), folder, progress=False)
    assert sha256(folder / CHECKPOINT_FILE) == reference.sha256, f"killed {seconds} s after {line!r}"


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(10))
def test_a_run_killed_again_and_again_goes_on_to_the_same_bytes(
    round_: int, reference: Reference, kill_after: Kill, tmp_path: Path
) -> None:
    draw = random.Random(round_)
    moments: list[float] = []
    while not (tmp_path / CHECKPOINT_FILE).exists() and len(moments) < 12:
        moments.append(draw.uniform(0.0, 1.5))
        kill_after(reference.command(tmp_path), "", moments[-1])
    decouple(read_config(reference.config), tmp_path, progress=False)
    assert sha256(tmp_path / CHECKPOINT_FILE) == reference.sha256, f"killed after {moments} s"
