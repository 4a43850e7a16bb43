"""``penstock evaluate`` on a real run: its figures are those that plain numpy gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from penstock.cli import main
from penstock.data import load
from penstock.errors import InvalidArgumentError, NotFoundError
from penstock.nn.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint
from penstock.report.evaluation import evaluate
from penstock.report.observation import Observation, observe


def changed(run: Path, folder: Path, **values: object) -> str:
    """A copy of a run's checkpoint with other values."""
    found = load_checkpoint(run / CHECKPOINT_FILE)
    fields = {name: getattr(found, name) for name in Checkpoint.__dataclass_fields__} | values
    Checkpoint(**fields).save(folder / CHECKPOINT_FILE)
    return str(folder)


@pytest.fixture(scope="module")
def seen(tiny_run: Path) -> Observation:
    return observe(str(tiny_run))


def test_accuracy_and_cost_are_those_of_the_networks(seen: Observation, tiny_run: Path) -> None:
    checkpoint = load_checkpoint(tiny_run / CHECKPOINT_FILE)
    test = load("digits").test
    images = torch.from_numpy(test.images).float() / 255
    with torch.inference_mode():
        output = checkpoint.network(images)
        dense = checkpoint.dense(images).argmax(1).numpy() == test.labels
    right = output.logits.argmax(1).numpy() == test.labels
    figures = evaluate(seen)
    assert (figures.source, figures.data, figures.images) == (tiny_run.name, "digits", 498)
    assert figures.dense_accuracy == pytest.approx(dense.mean())
    assert figures.decoupled_accuracy == pytest.approx(right.mean())
    assert figures.loss_points == pytest.approx(100 * (dense.mean() - right.mean()))
    assert figures.mac_fraction == pytest.approx(output.active_macs.mean().item(), abs=1e-6)
    assert figures.density == pytest.approx(torch.cat(output.codes, 1).mean().item(), abs=1e-6)
    for label, of_class in enumerate(figures.classes):
        own = test.labels == label
        assert of_class.images == own.sum()
        assert of_class.dense_accuracy == pytest.approx(dense[own].mean())
        assert of_class.decoupled_accuracy == pytest.approx(right[own].mean())
        assert of_class.mac_fraction == pytest.approx(output.active_macs[own].mean().item(), abs=1e-6)


def test_layers_are_those_of_the_codes(seen: Observation, tiny_run: Path) -> None:
    checkpoint = load_checkpoint(tiny_run / CHECKPOINT_FILE)
    test = load("digits").test
    with torch.inference_mode():
        codes = checkpoint.network(torch.from_numpy(test.images).float() / 255).codes
    figures = evaluate(seen)
    assert [layer.filters for layer in figures.layers] == [code.shape[1] for code in codes]
    for layer, code in zip(figures.layers, codes, strict=True):
        z = code.numpy()
        rate = z.mean(axis=0)
        assert layer.density == pytest.approx(z.mean())
        assert layer.varying == pytest.approx(((rate >= 0.05) & (rate <= 0.95)).mean())
        assert layer.input_dependent <= layer.varying
        rates = np.stack([z[test.labels == label].mean(axis=0) for label in range(10)])
        assert layer.class_spread == pytest.approx(rates.std(axis=0).mean(), abs=1e-6)
        assert layer.information == pytest.approx(layer.entropy - layer.class_entropy, abs=1e-9)
    weights = np.array([layer.filters for layer in figures.layers])
    mean = np.average([layer.input_dependent for layer in figures.layers], weights=weights)
    assert figures.input_dependent == pytest.approx(mean)


def test_flags_are_those_that_the_run_measured(seen: Observation, tiny_run: Path) -> None:
    written = json.loads((tiny_run / "figures.json").read_text(encoding="utf-8"))
    assert seen.flags is not None
    assert {name: written[name] for name in seen.flags} == seen.flags


def test_what_a_run_writes_of_its_filters_is_what_is_evaluated(seen: Observation, tiny_run: Path) -> None:
    written = json.loads((tiny_run / "figures.json").read_text(encoding="utf-8"))
    figures = evaluate(seen)
    assert written["varying"] == figures.varying
    assert written["input_dependent"] == figures.input_dependent


def test_the_command_prints_tables_and_writes_figures(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["evaluate", str(tiny_run), "--json", str(tmp_path / "new" / "figures.json")]) == 0
    told = capsys.readouterr().out
    figures = json.loads((tmp_path / "new" / "figures.json").read_text(encoding="utf-8"))
    assert f"{figures['decoupled_accuracy']:.2%}" in told
    assert f"{figures['input_dependent']:.1%}" in told
    assert f"{figures['flags']['fpr']:.1%}" in told
    assert "…" not in told  # nothing is cut off at the width of a terminal
    assert max(map(len, told.splitlines())) <= 80
    assert [layer["name"] for layer in figures["layers"]] == list(
        load_checkpoint(tiny_run / CHECKPOINT_FILE).network.layout.names
    )


def test_without_a_detector_there_is_no_rate(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = changed(tiny_run, tmp_path, detector={}, calibration=np.zeros(0))
    assert main(["evaluate", source, "--json", str(tmp_path / "figures.json")]) == 0
    assert json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["flags"] is None
    assert "false positives" not in capsys.readouterr().out


def test_missing_images_are_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PENSTOCK_DATA", raising=False)
    with pytest.raises(NotFoundError, match=r"zoo:resnet20-cifar10 .*cifar10: .*PENSTOCK_DATA.*--data"):
        observe("zoo:resnet20-cifar10")


def test_a_checkpoint_of_unknown_data_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="does not say which data set"):
        observe(changed(tiny_run, tmp_path, config={}))
