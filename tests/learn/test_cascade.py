"""Cascades of real runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from penstock.cli import main
from penstock.data import load
from penstock.errors import ConfigurationError, PenstockError, UnsupportedError
from penstock.export.pipeline import ExportOptions, export
from penstock.files import sha256
from penstock.learn import cascade as module
from penstock.learn.cascade import BLEND, cascade
from penstock.learn.runs import FIGURES_FILE
from penstock.nn.cascade import RAN, Cascade, confidence
from penstock.nn.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint
from penstock.nn.inference import answer
from penstock.nn.run_folders import CONFIG_FILE

BUDGET = 0.6


@pytest.fixture(scope="module")
def run(consolidations: dict[int, Path], tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One prototype, then the gates that it was made from."""
    folder = tmp_path_factory.mktemp("runs") / "cascade"
    cascade(str(consolidations[1]), str(tiny_run), folder, budget=BUDGET)
    return folder


def test_it_costs_the_budget_on_the_images_that_its_threshold_was_set_on(run: Path) -> None:
    network = load_checkpoint(run / CHECKPOINT_FILE).network
    calibration = load("digits").calibration.images
    answers = answer(network, calibration)
    dearest = answers.active_macs.max()
    mean = answers.active_macs.mean(dtype=np.float64)
    assert BUDGET - 1.01 * dearest / len(calibration) <= mean <= BUDGET + 1e-6


def test_without_a_second_the_dense_network_answers_what_the_first_is_unsure_of(
    consolidations: dict[int, Path], tmp_path: Path
) -> None:
    checkpoint = cascade(str(consolidations[1]), None, tmp_path, budget=0.9)
    images = load("digits").test.images
    both = answer(checkpoint.network, images)
    ran = (
        both.bits[:, checkpoint.network.layout.slices[checkpoint.network.layout.names.index(RAN)]][:, 0] == 1
    )
    assert 0 < ran.mean() < 1
    with torch.no_grad():
        dense = checkpoint.dense(torch.from_numpy(images[ran]).float() / 255).numpy()
    small = answer(load_checkpoint(consolidations[1] / CHECKPOINT_FILE).network, images)
    np.testing.assert_allclose(both.logits[ran], dense + BLEND * small.logits[ran], atol=1e-4)
    np.testing.assert_allclose(both.active_macs, small.active_macs + ran, rtol=1e-5)
    again = load_checkpoint(tmp_path / CHECKPOINT_FILE)
    np.testing.assert_array_equal(answer(again.network, images).bits, both.bits)


def test_its_answers_are_those_of_its_members(
    run: Path, consolidations: dict[int, Path], tiny_run: Path
) -> None:
    images = load("digits").test.images
    network = load_checkpoint(run / CHECKPOINT_FILE).network
    assert isinstance(network, Cascade)
    small, large = (
        answer(load_checkpoint(folder / CHECKPOINT_FILE).network, images)
        for folder in (consolidations[1], tiny_run)
    )
    both = answer(network, images)
    unsure = (confidence(torch.from_numpy(small.logits)) < network.threshold).numpy()
    assert 0 < unsure.mean() < 1
    wanted = np.where(unsure[:, None], large.logits + BLEND * small.logits, small.logits)
    np.testing.assert_allclose(both.logits, wanted, atol=1e-4)
    ran = network.layout.slices[network.layout.names.index(RAN)]
    np.testing.assert_array_equal(both.bits[:, ran][:, 0], unsure)
    costs = small.active_macs + unsure * large.active_macs
    np.testing.assert_allclose(both.active_macs, costs, atol=1e-6)


def test_figures_checkpoint_and_configuration_belong_together(
    run: Path, consolidations: dict[int, Path], tiny_run: Path
) -> None:
    checkpoint = load_checkpoint(run / CHECKPOINT_FILE)
    assert checkpoint.figures == json.loads((run / FIGURES_FILE).read_text())
    assert checkpoint.figures["decoupled_accuracy"] > 0.85
    test = load("digits").test  # and none of the images that the threshold was set on
    answers = answer(checkpoint.network, test.images)
    assert checkpoint.figures["images"] == len(test)
    assert checkpoint.figures["decoupled_accuracy"] == answers.accuracy(test.labels)
    assert checkpoint.figures["mac_fraction"] == pytest.approx(answers.active_macs.mean(), abs=1e-6)
    # All filters of the second network follow one decision; their share would say something else.
    assert (checkpoint.figures["varying"], checkpoint.figures["input_dependent"]) == (None, None)
    assert checkpoint.calibration.shape == (499,)
    config = json.loads((run / CONFIG_FILE).read_text())
    assert checkpoint.config == config
    assert config == {
        "first": {"name": "prototypes-1", "sha256": sha256(consolidations[1] / CHECKPOINT_FILE)},
        "second": {"name": "tiny", "sha256": sha256(tiny_run / CHECKPOINT_FILE)},
        "budget": BUDGET,
        "blend": BLEND,
        "fpr": 0.05,
        "data": "digits",
    }


def test_a_finished_run_is_given_back_and_a_folder_has_one_configuration(
    run: Path, consolidations: dict[int, Path], tiny_run: Path
) -> None:
    members, said = (str(consolidations[1]), str(tiny_run)), list[str]()
    again = cascade(*members, run, budget=BUDGET, say=said.append)
    assert said == [f"{run} is finished already"]
    assert again.figures == json.loads((run / FIGURES_FILE).read_text())
    with pytest.raises(ConfigurationError, match="another configuration: choose another folder"):
        cascade(*members, run, budget=0.7)


@pytest.mark.parametrize(
    ("budget", "fpr", "message"),
    [
        (0.3, 0.05, r"the first network costs 0\.4.* the budget is 0\.300: choose a larger budget"),
        (0.0, 0.05, "budget is 0.0; it is a share of the dense MACs"),
        (float("nan"), 0.05, "budget is nan"),
        (0.6, 0.0005, "499 calibration scores are too few"),
    ],
)
def test_what_cannot_work_is_refused_and_leaves_no_folder(
    budget: float, fpr: float, message: str, consolidations: dict[int, Path], tiny_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(PenstockError, match=message):
        cascade(str(consolidations[1]), str(tiny_run), tmp_path / "run", budget=budget, fpr=fpr)
    assert not (tmp_path / "run").exists()


def test_a_budget_that_test_images_miss_is_told(
    consolidations: dict[int, Path], tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images that are judged are those that the small network is least sure of, unlike the threshold's."""
    splits = load("digits")
    small = answer(load_checkpoint(consolidations[1] / CHECKPOINT_FILE).network, splits.test.images)
    surest_last = confidence(torch.from_numpy(small.logits)).argsort().numpy()
    hard = replace(splits, test=splits.test.take(surest_last[: len(surest_last) // 4]))
    members, told = (str(consolidations[1]), str(tiny_run)), dict[str, list[str]]()
    for name, images in (("usual", splits), ("hard", hard)):
        monkeypatch.setattr(module, "load", lambda *_, images=images, **__: images)
        told[name] = []
        checkpoint = cascade(*members, tmp_path / name, budget=BUDGET, say=told[name].append)
    share = checkpoint.figures["mac_fraction"]
    assert share > BUDGET + 0.005
    lines = {name: [line for line in said if "budget" in line] for name, said in told.items()}
    assert lines == {
        "usual": [],
        "hard": [
            f"over budget: {share:.1%} of the MACs on the test images, {BUDGET:.1%} were asked for; these are harder "
            "than the calibration images that the threshold was set on: ask for a smaller budget"
        ],
    }


def test_members_that_do_not_belong_together_are_refused(run: Path, tiny_run: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_run / CHECKPOINT_FILE)
    values = {name: getattr(checkpoint, name) for name in checkpoint.__dataclass_fields__}

    def changed(name: str, **changes: object) -> str:
        Checkpoint(**(values | changes)).save(tmp_path / name)
        return str(tmp_path / name)

    strangers = {
        "is a cascade already: name what it was made of": str(run),
        "differ in class_names": changed("named", class_names=tuple("abcdefghij")),
        "tiny was trained on digits and .* on mnist": changed("other", config={"data": "mnist"}),
        "does not say which data set": changed("mute", config={}),
    }
    for message, stranger in strangers.items():
        with pytest.raises(ConfigurationError, match=message):
            cascade(str(tiny_run), stranger, tmp_path / "run", budget=0.9)
    assert not (tmp_path / "run").exists()


def test_a_cascade_can_be_exported(run: Path, tmp_path: Path) -> None:
    options = ExportOptions(source=str(run), repository=tmp_path, name="m", lowering="masked", flags=False)
    manifest = export(options).manifest
    assert (manifest.lowering, manifest.single) == ("masked", False)
    with pytest.raises(UnsupportedError, match=r"the network has gates.*masked for a cascade"):
        export(replace(options, lowering="routed"))


def test_the_command_line_cascades(
    consolidations: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["cascade", str(consolidations[1]), str(consolidations[3]), "--budget", "0.7"]
    assert main([*command, "--fpr", "0.1", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    figures = json.loads(printed.out)
    assert figures == json.loads((tmp_path / FIGURES_FILE).read_text())
    assert figures["fpr_target"] == 0.1
    assert "setting the threshold on 499 images" in printed.err
