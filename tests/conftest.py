"""Tiny real networks and runs that several packages' tests share, and the rule for slow tests.

PyTorch is imported inside the fixtures: the service's tests must run where it is not installed.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from torch import nn

    from penstock.learn.config import DecoupleConfig

# Tiny networks run fastest on one thread, and a run is repeated to the bit only with the same number of threads.
# Set before PyTorch is loaded, so that it holds here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says something about the machine and nothing about the code.
hypothesis.settings.register_profile("penstock", deadline=None)
hypothesis.settings.load_profile("penstock")

ROOT = Path(__file__).resolve().parents[1]
STRESS = "PENSTOCK_STRESS"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite tests/golden from what comes out now; the diff is the review",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests run only where somebody asked for them."""
    if os.environ.get(STRESS) == "1":
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason=f"takes minutes: set {STRESS}=1 (`make stress`)"))


@pytest.fixture(scope="session")
def chain() -> nn.Module:
    """Convolutions one after the other, the second with a bias and before a max pool, the last without batch norm."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    return _lived_in(
        nn.Sequential(
            OrderedDict[str, nn.Module](
                stem=nn.Conv2d(3, 8, 3, 1, 1, bias=False),
                stem_norm=nn.BatchNorm2d(8),
                stem_relu=nn.ReLU(),
                wide=nn.Conv2d(8, 12, 3, 1, 1),
                wide_norm=nn.BatchNorm2d(12),
                wide_relu=nn.ReLU(),
                shrink=nn.MaxPool2d(2),
                last=nn.Conv2d(12, 10, 3, 2, 1),
                last_relu=nn.ReLU(),
                pool=nn.AdaptiveAvgPool2d(1),
                flat=nn.Flatten(),
                linear=nn.Linear(10, 5),
            )
        )
    )


@pytest.fixture(scope="session")
def residual() -> nn.Module:
    """Two residual blocks, the second with stride, more channels, and a shortcut without parameters (option A)."""
    import torch
    from torch import nn

    from penstock.nn.backbones import BasicBlock

    torch.manual_seed(1)
    return _lived_in(
        nn.Sequential(
            OrderedDict[str, nn.Module](
                stem=nn.Conv2d(3, 8, 3, 1, 1, bias=False),
                stem_norm=nn.BatchNorm2d(8),
                stem_relu=nn.ReLU(),
                block1=BasicBlock(8, 8, 1),
                block2=BasicBlock(8, 16, 2),
                pool=nn.AdaptiveAvgPool2d(1),
                flat=nn.Flatten(),
                linear=nn.Linear(16, 5),
            )
        )
    )


@pytest.fixture(scope="session")
def tiny_config() -> DecoupleConfig:
    """A run of two seconds: digits, a few epochs of each training, gates that are quick to close."""
    from penstock.learn.config import DecoupleConfig, Schedule
    from penstock.nn.gates import GateConfig

    return DecoupleConfig(
        data="digits",
        backbone="digits-cnn",
        budget=0.6,
        budget_weight=16.0,
        settle=0.3,
        dense=Schedule(epochs=6, batch_size=64, learning_rate=0.05),
        decouple=Schedule(epochs=8, batch_size=32, learning_rate=0.2),
        gate=GateConfig(normalize=True, initial_logit=0.0),
    )


@pytest.fixture(scope="session")
def tiny_run(tiny_config: DecoupleConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run folder of ``tiny_config``."""
    from penstock.learn.decouple import decouple

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    decouple(tiny_config, folder, progress=False)
    return folder


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder: digits, trained as long as a user would."""
    from penstock.learn.config import read_config
    from penstock.learn.decouple import decouple

    folder = tmp_path_factory.mktemp("runs") / "digits"
    decouple(read_config(ROOT / "configs" / "digits.toml"), folder, progress=False)
    return folder


def _lived_in(network: nn.Module) -> nn.Module:
    """Give batch norms statistics and factors as training leaves them, so that none of them does nothing."""
    from torch import nn

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return network.eval()
