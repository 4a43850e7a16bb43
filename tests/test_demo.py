"""The main job end to end: the demo itself, with the promises that it makes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from penstock import zoo
from penstock.cli import main
from penstock.demo import DIGITS
from penstock.detect import false_positive_interval
from penstock.learn.config import read_config

KEYS = {
    "dense_accuracy",
    "decoupled_accuracy",
    "mac_fraction",
    "latency_ratio",
    "parity_max_abs",
    "top1_agreement",
    "fpr_target",
    "fpr",
    "fpr_n",
    "calibration_n",
    "tpr_pgd",
    "served_requests",
    "failed_requests",
}


def test_demo_on_digits_keeps_its_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, file = tmp_path / "paths.png", tmp_path / "figures.json"
    assert main(["demo", "--json", str(file), "--picture", str(picture)]) == 0

    figures = json.loads(file.read_text())
    assert set(figures) >= KEYS
    assert figures["dense_accuracy"] > 0.95
    assert figures["decoupled_accuracy"] >= figures["dense_accuracy"] - 0.02
    assert 0.2 < figures["mac_fraction"] <= 0.70
    assert figures["parity_max_abs"] <= 1e-4
    assert figures["served_requests"] >= 100
    assert figures["failed_requests"] == 0
    assert figures["attack_success"] > 0.3
    low, high = false_positive_interval(figures["fpr_n"], figures["calibration_n"], figures["fpr_target"])
    assert low <= figures["fpr"] <= high
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "share of MACs" in capsys.readouterr().out


def test_demo_trains_what_the_committed_configuration_says() -> None:
    assert read_config(Path(__file__).parent.parent / "configs" / "digits.toml") == DIGITS


@pytest.mark.slow
@pytest.mark.skipif("PENSTOCK_DATA" not in os.environ, reason="PENSTOCK_DATA names no folder with CIFAR-10")
def test_demo_on_cifar10_keeps_its_promises(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    assert main(["demo", "--data", "cifar10", "--json", str(file), "--picture", str(tmp_path / "p.png")]) == 0

    figures = json.loads(file.read_text())
    committed = zoo.find("resnet20-cifar10").figures
    assert figures["decoupled_accuracy"] == pytest.approx(committed["decoupled_accuracy"], abs=0.01)
    assert figures["mac_fraction"] <= 0.55
    assert figures["failed_requests"] == 0
    low, high = false_positive_interval(figures["fpr_n"], figures["calibration_n"], figures["fpr_target"])
    assert low <= figures["fpr"] <= high
