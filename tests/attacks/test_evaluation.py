"""A whole small evaluation: what it reports, and that a killed one goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from penstock.attacks.evaluation import RESULTS, evaluate_detection
from penstock.attacks.evaluation_config import EvaluationConfig
from penstock.errors import AlreadyExistsError, ConfigurationError

CONFIG = EvaluationConfig(
    images=16,
    fit=60,
    kinds=("fgsm", "signs", "blur", "joint", "inflation"),
    eps=(40.0,),
    baselines=("energy", "feature-mahalanobis", "lid", "cdrp"),
    adaptive_steps=5,
    adaptive_restarts=1,
)


def test_an_evaluation_reports_and_goes_on(tiny_run: Path, tmp_path: Path) -> None:
    found = evaluate_detection(str(tiny_run), CONFIG, tmp_path / "run")
    by_kind = {attack["attack"]: attack for attack in found["attacks"]}
    assert set(by_kind) == set(CONFIG.kinds)
    fgsm = by_kind["fgsm"]
    assert 0 < fgsm["turned"] <= fgsm["attacked"] <= 16
    assert by_kind["joint"]["turned"] >= fgsm["turned"]
    own = fgsm["detectors"]["path"]
    assert own["evasion"]["0.05"]["value"] <= fgsm["turned"] / fgsm["attacked"]
    assert all(0 <= one["turned"]["auroc"]["value"] <= 1 for one in fgsm["detectors"].values())
    assert by_kind["inflation"]["active_macs"]["largest"] <= by_kind["inflation"]["active_macs"]["bound"]

    lost = tmp_path / "run" / "attack-fgsm-40.npz"
    kept = tmp_path / "run" / "attack-joint-40.npz"
    written = kept.stat().st_mtime_ns
    lost.unlink()
    assert evaluate_detection(str(tiny_run), CONFIG, tmp_path / "run") == found
    assert lost.is_file()
    assert kept.stat().st_mtime_ns == written
    assert np.isclose(json.loads((tmp_path / "run" / RESULTS).read_text())["attacks"][0]["eps"], 40)
    with pytest.raises(AlreadyExistsError, match="another"):
        evaluate_detection(str(tiny_run), EvaluationConfig(images=3), tmp_path / "run")


def test_unknown_attacks_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no kinds 'bim'"):
        EvaluationConfig(kinds=("bim",))
