import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from penstock.data import load
from penstock.learn.config import DecoupleConfig, Schedule
from penstock.learn.consolidate import consolidate
from penstock.learn.consolidate_config import ConsolidateConfig
from penstock.nn.backbones import build_backbone


@pytest.fixture(scope="session")
def short() -> Callable[..., DecoupleConfig]:
    """A run of a second: digits, few epochs. Keywords replace fields."""
    config = DecoupleConfig(
        data="digits",
        backbone="digits-cnn",
        budget=0.6,
        dense=Schedule(epochs=2, batch_size=100, learning_rate=0.05),
        decouple=Schedule(epochs=3, batch_size=100, learning_rate=0.05),
    )

    def make(**changes: object) -> DecoupleConfig:
        return dataclasses.replace(config, **changes)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def trained_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a dense ``digits-cnn`` that knows its digits: a state dict, as PyTorch saves it."""
    torch.manual_seed(0)
    train = load("digits").train
    images, labels = torch.from_numpy(train.floats()), torch.from_numpy(train.labels)
    network = build_backbone("digits-cnn", 10).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(8):
        for which in torch.split(torch.randperm(len(images)), 64):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(images[which]), labels[which])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    file = tmp_path_factory.mktemp("weights") / "digits.pth"
    torch.save(network.state_dict(), file)
    return file


@pytest.fixture(scope="session")
def few() -> Callable[..., ConsolidateConfig]:
    """A consolidation of two seconds: few epochs, but not so few that luck decides. Keywords replace fields."""
    config = ConsolidateConfig(
        count=3, tune=Schedule(epochs=8, batch_size=64, learning_rate=0.05), budget_weight=16.0
    )

    def make(**changes: object) -> ConsolidateConfig:
        return dataclasses.replace(config, **changes)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def consolidations(
    tiny_run: Path, few: Callable[..., ConsolidateConfig], tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """Finished runs of ``tiny_run``'s network by number of prototypes: a small one with one, and one with three."""
    runs = {}
    for count, budget in ((1, 0.45), (3, 0.6)):
        runs[count] = tmp_path_factory.mktemp("runs") / f"prototypes-{count}"
        consolidate(str(tiny_run), few(count=count, budget=budget), runs[count], progress=False)
    return runs


@pytest.fixture(scope="session")
def kill_after() -> Callable[[Sequence[str], str, float], bool]:
    """Starts or resumes a run in a process, and kills it so long after it told a line; says whether it was killed.

    Its arguments are those of ``penstock``, how the line begins (empty: any) and the seconds to wait then.
    """

    def kill(arguments: Sequence[str], line: str, seconds: float) -> bool:
        command = [sys.executable, "-m", "penstock.cli", *arguments]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            for said in process.stderr:
                if said.startswith(f"- {line}"):
                    time.sleep(seconds)
                    process.send_signal(signal.SIGKILL)
                    break
        assert process.returncode in (0, -signal.SIGKILL)
        return process.returncode == -signal.SIGKILL

    return kill
