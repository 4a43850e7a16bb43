"""The section on a detector: its curves are right on scores whose answer is known, and a real run gives a page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from penstock.attacks.evaluation import RESULTS, evaluate_detection
from penstock.attacks.evaluation_config import EvaluationConfig
from penstock.attacks.metrics import auroc
from penstock.cli.main import main
from penstock.errors import InvalidArgumentError
from penstock.report.detection_page import read_detection
from penstock.report.section_detection import roc


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order() -> None:
    draw = np.random.default_rng(0)
    honest, attacked = draw.normal(0, 1, 300).round(1), draw.normal(1, 1, 200).round(1)  # with ties
    false, true = roc(honest, attacked)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert (np.diff(false) >= 0).all()
    assert (np.diff(true) >= 0).all()
    assert np.trapezoid(true, false) == pytest.approx(auroc(honest, attacked))


def test_a_finished_evaluation_gives_a_page(tiny_run: Path, tmp_path: Path) -> None:
    config = EvaluationConfig(
        images=30,
        fit=60,
        kinds=("fgsm", "signs", "joint"),
        eps=(20.0, 60.0),
        baselines=("energy",),
        adaptive_steps=5,
        adaptive_restarts=1,
    )
    folder = tmp_path / "judged"
    found = evaluate_detection(str(tiny_run), config, folder)
    assert main(["report", str(folder), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<section id="detection"' in page
    assert f"{found['clean']['path']['0.05']['measured']:.1%} of {498} clean test images" in page
    assert "ROC curves of fgsm 60/255, joint 60/255." in page
    assert "Detection and evasion against eps of fgsm, joint." in page
    strong = found["attacks"][1]
    assert (strong["attack"], strong["eps"]) == ("fgsm", 60)
    area, failed = (strong["detectors"]["path"][part] for part in ("turned", "failed"))
    area = area["auroc"]
    assert f"<td>{area['value']:.3f} ({area['low']:.3f} to {area['high']:.3f})</td>" in page
    assert failed is None or f"<td>{failed['0.05']['value']:.1%} (" in page
    assert "<td>energy</td>" in page
    rows = [row for row in page.split("<tr>") if "joint 20/255" in row or "joint 60/255" in row]
    assert any("<td>path</td>" in row for row in rows)
    assert not any("<td>energy</td>" in row for row in rows)  # nobody attacked it
    worst = found["any"][-1]
    assert f"by any attack within 60/255, of {worst['attacked']:,} images" in page
    assert "http" not in page
    run = read_detection(folder)
    assert [len(attack.scores) for attack in run.attacks[:2]] == [
        attack["turned"] for attack in found["attacks"][:2]
    ]
    assert len(run.attacks[2].scores) == found["attacks"][2]["attacked"]  # a control shows all

    (folder / "clean-test.npz").unlink()
    with pytest.raises(InvalidArgumentError, match="no finished evaluation"):
        read_detection(folder)
    (folder / RESULTS).write_text(json.dumps([]))
    with pytest.raises(InvalidArgumentError, match="no finished evaluation"):
        read_detection(folder)
