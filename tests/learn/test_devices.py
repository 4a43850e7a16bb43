"""Training on several devices, which on a machine without GPUs are processes."""

from __future__ import annotations

import csv
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from penstock.errors import InvalidArgumentError
from penstock.learn.config import DecoupleConfig, Schedule
from penstock.learn.decouple import decouple
from penstock.learn.process import check_devices
from penstock.nn.checkpoint import CHECKPOINT_FILE, load_checkpoint

SCRIPT = Path(__file__).with_name("sharing.py")


def start(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def done(*arguments: object) -> None:
    process = start(*arguments)
    assert process.returncode == 0, process.stderr
    assert process.stdout == process.stderr == ""  # neither the caller nor its processes chatter


def shares(folder: Path) -> dict[int, list[list[list[int]]]]:
    """Images of each step, by device and step, for every epoch."""
    epochs: dict[int, list[list[list[int]]]] = {}
    for place, file in enumerate(sorted(folder.glob("seen-*.txt"))):
        for line in file.read_text().splitlines():
            epoch, *which = map(int, line.split())
            epochs.setdefault(epoch, [[], []])[place].append(which)
    return epochs


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a training that two processes shared."""
    folder = tmp_path_factory.mktemp("two")
    done("fit", folder, 2)
    return folder


def test_an_epoch_shows_every_image_once_and_to_one_device(two: Path) -> None:
    epochs = shares(two)
    assert set(epochs) == {0, 1, 2}
    for first, second in epochs.values():
        assert [len(which) for which in first] == [len(which) for which in second] == [5] * 4
        assert sorted(itertools.chain(*first, *second)) == list(range(40))


def test_validation_figures_are_those_of_one_process(two: Path) -> None:
    (log,) = two.glob("logs/*/metrics.csv")
    rows = [row for row in csv.DictReader(log.read_text().splitlines()) if row["val/objective"]]
    best = max(rows, key=lambda row: float(row["val/objective"]))
    alone = json.loads((two / "alone.json").read_text())
    assert len(rows) == 3
    for name, value in alone.items():
        assert float(best[f"val/{name}"]) == pytest.approx(value, rel=1e-5), name


@pytest.mark.slow
def test_a_training_that_died_goes_on_to_the_same_weights(two: Path, tmp_path: Path) -> None:
    assert start("fit", tmp_path, 2, 2).returncode != 0
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 1
    done("fit", tmp_path, 2)
    for name in ("best.ckpt", "last.ckpt"):
        resumed, whole = (torch.load(folder / name, weights_only=True) for folder in (tmp_path, two))
        assert resumed["epoch"] == whole["epoch"]
        for key in ("state_dict", "current_model_state"):
            assert all(torch.equal(value, whole[key][which]) for which, value in resumed[key].items()), name
    assert shares(tmp_path) == shares(two)


@pytest.mark.slow
def test_a_whole_run_on_two_devices_ends_with_figures_and_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "short.toml").write_text(
        'data = "digits"\nbackbone = "digits-cnn"\nbudget = 0.6\nmutual_information = 0.0\n'
        "dense = { epochs = 4, batch_size = 65, learning_rate = 0.05 }\n"
        "decouple = { epochs = 4, batch_size = 65, learning_rate = 0.05 }\n"
    )
    done("run", tmp_path / "short.toml", tmp_path / "run", 2)
    figures = json.loads((tmp_path / "run" / "figures.json").read_text())
    assert figures["decoupled_accuracy"] > 0.5
    assert load_checkpoint(tmp_path / "run" / CHECKPOINT_FILE).figures == figures


@pytest.mark.parametrize(("devices", "message"), [(0, "devices is 0"), (-1, "at least 1"), (99, "99")])
def test_a_number_of_devices_that_cannot_be_is_refused_before_training(
    devices: int, message: str, short: Callable[..., DecoupleConfig], tmp_path: Path
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        decouple(short(), tmp_path / "run", devices=devices, progress=False)
    assert not (tmp_path / "run").exists()


def test_a_batch_too_small_for_its_devices_is_refused_before_training(
    short: Callable[..., DecoupleConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    config = short(dense=Schedule(epochs=1, batch_size=7))
    with pytest.raises(InvalidArgumentError, match="a batch of 7 is too small for 4 devices"):
        decouple(config, tmp_path / "run", devices=4, progress=False)
    assert not (tmp_path / "run").exists()


def test_no_more_devices_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_devices(2, 4)
    with pytest.raises(InvalidArgumentError, match="devices is 3; this machine has 2"):
        check_devices(3, 128)
