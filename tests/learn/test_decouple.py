import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from penstock.data import load
from penstock.errors import ConfigurationError, NotFoundError, PenstockError
from penstock.learn.config import DecoupleConfig
from penstock.learn.decouple import decouple
from penstock.learn.runs import FIGURES_FILE
from penstock.nn.backbones import BACKBONES
from penstock.nn.checkpoint import CHECKPOINT_FILE, load_checkpoint
from penstock.nn.inference import answer

Short = Callable[..., DecoupleConfig]


def test_a_tiny_run_meets_its_budget_roughly_and_is_far_better_than_chance(tiny_run: Path) -> None:
    figures = json.loads((tiny_run / FIGURES_FILE).read_text())
    assert 0.5 < figures["mac_fraction"] < 0.7
    assert figures["decoupled_accuracy"] > 0.8
    assert figures["dense_accuracy"] > 0.8


def test_figures_are_those_of_the_checkpoint_on_test_images_alone(tiny_run: Path) -> None:
    checkpoint = load_checkpoint(tiny_run / CHECKPOINT_FILE)
    test = load("digits").test
    answers = answer(checkpoint.network, test.images)
    figures = json.loads((tiny_run / FIGURES_FILE).read_text())
    assert figures == checkpoint.figures
    assert figures["images"] == len(test) == 498
    assert figures["decoupled_accuracy"] == answers.accuracy(test.labels)
    assert figures["mac_fraction"] == pytest.approx(answers.active_macs.mean(), abs=1e-6)
    assert figures["density"] == pytest.approx(answers.bits.mean())
    with torch.no_grad():
        logits = checkpoint.dense(torch.from_numpy(test.floats()))
    right = (logits.argmax(dim=1).numpy() == test.labels).mean()
    assert figures["dense_accuracy"] == pytest.approx(right)


def test_a_checkpoint_holds_detector_and_calibration_scores(tiny_run: Path) -> None:
    checkpoint = load_checkpoint(tiny_run / CHECKPOINT_FILE)
    assert checkpoint.detector["usual"].shape == (10, checkpoint.network.layout.bits)
    assert checkpoint.calibration.shape == (499,)
    assert checkpoint.config["budget"] == 0.6


def test_the_best_epoch_on_validation_images_is_taken_and_only_within_budget(tiny_run: Path) -> None:
    (log,) = tiny_run.glob("decouple/logs/*/metrics.csv")
    rows = [row for row in csv.DictReader(log.read_text().splitlines()) if row["val/objective"]]
    accuracy, loss, active, objective = (
        np.array([float(row[f"val/{name}"]) for row in rows])
        for name in ("accuracy", "loss", "active_macs", "objective")
    )
    assert len(rows) == 8
    penalty = 5 * np.maximum(0, active - 0.6 - 0.005)
    np.testing.assert_allclose(objective, accuracy - 0.01 * loss - penalty, atol=1e-5)
    best = torch.load(tiny_run / "decouple" / "best.ckpt", weights_only=True)
    assert best["epoch"] == objective.argmax()
    # Early epochs are far over budget, however well they answer.
    assert active[best["epoch"]] < 0.65 < active[0]
    checkpoint = load_checkpoint(tiny_run / CHECKPOINT_FILE)
    for name, value in checkpoint.network.state_dict().items():
        assert torch.equal(value, best["state_dict"][f"network.{name}"]), name


def test_a_finished_run_is_given_back_as_it_is(tiny_run: Path, tiny_config: DecoupleConfig) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*") if path.is_file()}
    said: list[str] = []
    again = decouple(tiny_config, tiny_run, progress=False, say=said.append)
    assert said == [f"{tiny_run} is finished already"]
    assert again.figures == json.loads((tiny_run / FIGURES_FILE).read_text())
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_run_of_another_configuration_is_refused(tiny_run: Path, short: Short) -> None:
    with pytest.raises(ConfigurationError, match="another configuration: choose another folder"):
        decouple(short(), tiny_run, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "vgg99"}, "no backbone 'vgg99'"),
        ({"data": "faces"}, "no data set 'faces'"),
        ({"start": "nowhere.th"}, "no weights to start from"),
        ({"fpr": 0.0005}, "499 calibration scores are too few"),
    ],
)
def test_what_cannot_work_is_refused_before_training_and_does_not_claim_the_folder(
    changes: dict[str, object], message: str, short: Short, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(PenstockError, match=message):
        decouple(short(**changes), out, progress=False)
    assert not out.exists()


def test_a_network_that_does_not_take_the_images_is_refused_before_training(
    short: Short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKBONES, "coloured", lambda classes: torch.nn.Conv2d(3, classes, 3))
    with pytest.raises(
        ConfigurationError, match=r"'coloured' does not take the images of 'digits', \(1, 8, 8\)"
    ):
        decouple(short(backbone="coloured"), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_starts_from_given_weights(short: Short, tmp_path: Path, tiny_run: Path) -> None:
    dense = load_checkpoint(tiny_run / CHECKPOINT_FILE).dense
    torch.save(dense.state_dict(), tmp_path / "dense.th")
    run = tmp_path / "run"
    checkpoint = decouple(short(start=str(tmp_path / "dense.th")), run, progress=False)
    assert not (run / "dense").exists()
    for name, value in checkpoint.dense.state_dict().items():
        assert torch.equal(value, dense.state_dict()[name])


def test_missing_weights_are_named_with_where_they_were_looked_for(short: Short, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"nowhere\.th.*set PENSTOCK_DATA"):
        decouple(short(start="nowhere.th"), tmp_path / "run", data=tmp_path, progress=False)
