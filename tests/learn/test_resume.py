"""A run that was killed and called again ends as one that was not: every byte of the checkpoint is the same."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from penstock.files import sha256
from penstock.learn.config import read_config
from penstock.learn.decouple import decouple
from penstock.nn.checkpoint import CHECKPOINT_FILE

CONFIG = """
data = "digits"
backbone = "digits-cnn"
budget = 0.6
dense = { epochs = 6, batch_size = 100, learning_rate = 0.05 }
decouple = { epochs = 6, batch_size = 100, learning_rate = 0.05 }
"""
RUN = """
import sys
from pathlib import Path
from penstock.learn.config import read_config
from penstock.learn.decouple import decouple
config, out = map(Path, sys.argv[1:])
decouple(read_config(config), out, progress=False, say=lambda line: print(line, flush=True))
"""


def kill_after(config: Path, folder: Path, line: str, seconds: float) -> bool:
    """Start or resume the run in a process, and kill it so long after it said ``line``; whether it was killed."""
    command = [sys.executable, "-c", RUN, str(config), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for said in process.stdout:
            if said.startswith(line):
                time.sleep(seconds)
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode in (0, -signal.SIGKILL)
    return process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "short.toml"
    file.write_text(CONFIG)
    return file


@pytest.fixture(scope="module")
def uninterrupted(config: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("uninterrupted")
    decouple(read_config(config), folder, progress=False)
    return sha256(folder / CHECKPOINT_FILE)


@pytest.mark.parametrize("line", ["training the dense", "decoupling"])
def test_a_killed_run_goes_on_to_the_same_bytes(
    line: str, config: Path, uninterrupted: str, tmp_path: Path
) -> None:
    seconds = random.uniform(0.05, 0.8)
    folder = tmp_path / "run"
    while not kill_after(config, folder, line, seconds):  # a faster machine had ended by then
        shutil.rmtree(folder)
        seconds /= 2
    assert not (folder / CHECKPOINT_FILE).exists()
    decouple(read_config(config), folder, progress=False)
    assert sha256(folder / CHECKPOINT_FILE) == uninterrupted, f"killed {seconds} s after {line!r}"


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(10))
def test_a_run_killed_again_and_again_goes_on_to_the_same_bytes(
    round_: int, config: Path, uninterrupted: str, tmp_path: Path
) -> None:
    draw = random.Random(round_)
    moments: list[float] = []
    while not (tmp_path / CHECKPOINT_FILE).exists() and len(moments) < 12:
        moments.append(draw.uniform(0.0, 1.5))
        kill_after(config, tmp_path, "", moments[-1])
    decouple(read_config(config), tmp_path, progress=False)
    assert sha256(tmp_path / CHECKPOINT_FILE) == uninterrupted, f"killed after {moments} s"
