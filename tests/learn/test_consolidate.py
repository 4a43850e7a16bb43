"""Consolidation: its losses, and whole runs on digits."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from penstock.cli import main
from penstock.data import load
from penstock.errors import ConfigurationError, PenstockError, UnsupportedError
from penstock.export.pipeline import ExportOptions, export
from penstock.export.runtime import open_graph
from penstock.files import sha256
from penstock.learn import consolidate as module
from penstock.learn import runs
from penstock.learn.batches import Batch, Batches
from penstock.learn.config import Schedule
from penstock.learn.consolidate import GROUPS_FILE, consolidate
from penstock.learn.consolidate_config import ConsolidateConfig, read_consolidate_config
from penstock.learn.consolidating import UNGROUPED, ConsolidateTraining
from penstock.learn.runs import FIGURES_FILE
from penstock.nn.backbones import build_backbone
from penstock.nn.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint
from penstock.nn.inference import answer
from penstock.nn.prototypes import (
    ConsolidatedNetwork,
    PrototypeConfig,
    attach_prototypes,
    set_prototypes,
)
from penstock.nn.run_folders import CONFIG_FILE
from penstock.nn.surgery import attach_gates
from penstock.report.report import write_report

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "consolidate"
Few = Callable[..., ConsolidateConfig]


def training_of(config: ConsolidateConfig, budget: float = 0.5) -> ConsolidateTraining:
    torch.manual_seed(0)
    gated = attach_gates(build_backbone("digits-cnn", 10), torch.zeros(1, 1, 8, 8))
    network = attach_prototypes(gated, PrototypeConfig(count=config.count, stages=(1, 3)))
    set_prototypes(
        network, [torch.bernoulli(torch.full_like(router.prototypes, 0.5)) for router in network.routers]
    )
    train = load("digits").train
    groups = torch.arange(2 * len(train)).reshape(-1, 2) % config.count
    batches = Batches(train, 16, training=True)
    return ConsolidateTraining(network.eval(), groups, config, budget, batches, 10)


def batch_of(training: ConsolidateTraining) -> Batch:
    return next(iter(training.train_batches))


def at(training: ConsolidateTraining, progress: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a training believe that it has come so far."""
    monkeypatch.setattr(type(training), "progress", progress)


def terms_of(training: ConsolidateTraining) -> dict[str, float]:
    return {name: term.item() for name, term in training.losses(batch_of(training)).items()}


def test_every_term_is_weighted_and_one_without_weight_left_out(few: Few) -> None:
    one = terms_of(training_of(few(budget_weight=1.0, guidance=1.0)))
    assert terms_of(training_of(few(budget_weight=2.0, guidance=3.0))) == pytest.approx(
        {"task": one["task"], "budget": 2 * one["budget"], "guidance": 3 * one["guidance"]}
    )
    assert terms_of(training_of(few(budget_weight=0.0, guidance=0.0))) == {"task": one["task"]}
    assert set(terms_of(training_of(few(count=1)))) == {"task"}  # nothing to choose


def test_the_budget_term_is_the_distance_of_the_mean_cost(few: Few) -> None:
    training = training_of(few(budget_weight=1.0), budget=0.25)
    active = training.consolidated(batch_of(training).images).active_macs.mean().item()
    assert terms_of(training)["budget"] == pytest.approx(abs(active - 0.25), abs=1e-6)


@pytest.mark.parametrize(
    ("fade", "progress", "left"),
    [(0.5, 0.0, 1.0), (0.5, 0.25, 0.5), (0.5, 0.5, 0.0), (0.5, 0.9, 0.0), (0.0, 0.0, 0.0), (1.0, 0.75, 0.25)],
)
def test_guidance_fades(
    fade: float, progress: float, left: float, few: Few, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = terms_of(training_of(few(fade=1.0)))["guidance"]
    training = training_of(few(fade=fade))
    at(training, progress, monkeypatch)
    assert terms_of(training).get("guidance", 0.0) == pytest.approx(left * whole)


def test_guidance_is_the_cross_entropy_of_routers_against_the_groups_of_known_images(few: Few) -> None:
    training = training_of(few(guidance=1.0))
    batch = batch_of(training)
    training.groups[batch.which[:10]] = UNGROUPED
    routed = training.consolidated(batch.images).router_logits
    wanted = [
        -logits.log_softmax(1)[torch.arange(10, 16), training.groups[batch.which[10:], stage]].mean()
        for stage, logits in enumerate(routed)
    ]
    assert terms_of(training)["guidance"] == pytest.approx(torch.stack(wanted).mean().item(), rel=1e-5)
    training.groups.fill_(UNGROUPED)
    assert terms_of(training)["guidance"] == 0


@pytest.mark.parametrize(("settle", "quiet_from"), [(0.0, 8), (0.25, 6), (0.5, 4), (1.0, 0)])
def test_in_the_last_epochs_routers_choose_without_noise(
    settle: float, quiet_from: int, few: Few, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = training_of(few(settle=settle))
    for epoch in range(8):
        monkeypatch.setattr(type(training), "current_epoch", epoch)
        training.on_train_epoch_start()
        assert {router.noise for router in training.consolidated.routers} == {epoch < quiet_from}


def test_the_share_of_macs_is_exact_in_bfloat16_and_its_gradient_reaches_the_routers(few: Few) -> None:
    training = training_of(few())
    with torch.autocast("cpu", torch.bfloat16):
        output = training.consolidated(batch_of(training).images)
        share = training.active_share(output)
    path = torch.cat(output.codes, 1).detach().float().numpy()
    wanted = training.consolidated.layout.active_macs(path)
    assert share[:, 0].detach().numpy() == pytest.approx(wanted, abs=1e-6)
    torch.autograd.backward(share.mean())
    for router in training.consolidated.routers:
        assert router.expand.bias.grad is not None
        assert router.expand.bias.grad.abs().sum() > 0


def test_every_parameter_has_a_part_in_the_loss(few: Few) -> None:
    """Devices that train together wait for the gradient of every parameter."""
    for count in (1, 3):
        training = training_of(few(count=count, guidance=0.0, budget_weight=0.0)).train()
        torch.autograd.backward(list(training.losses(batch_of(training)).values()))
        assert all(parameter.grad is not None for parameter in training.parameters())


@pytest.mark.parametrize(("count", "least"), [(1, 0.7), (3, 0.9)])
def test_a_run_keeps_to_its_budget_and_answers_well(
    count: int, least: float, consolidations: dict[int, Path]
) -> None:
    run = consolidations[count]
    figures = json.loads((run / FIGURES_FILE).read_text())
    checkpoint = load_checkpoint(run / CHECKPOINT_FILE)
    assert figures == checkpoint.figures
    budget = checkpoint.config["budget"]
    assert budget - 0.1 < figures["mac_fraction"] < budget + 0.05
    assert figures["decoupled_accuracy"] > least
    test = load("digits").test
    answers = answer(checkpoint.network, test.images)
    assert figures["decoupled_accuracy"] == answers.accuracy(test.labels)
    assert figures["mac_fraction"] == pytest.approx(answers.active_macs.mean(), abs=1e-6)
    assert checkpoint.calibration.shape == (499,)
    assert np.isfinite(checkpoint.calibration).all()


def test_one_prototype_is_one_path_for_all_inputs(consolidations: dict[int, Path]) -> None:
    checkpoint = load_checkpoint(consolidations[1] / CHECKPOINT_FILE)
    bits = answer(checkpoint.network, load("digits").test.images).bits
    assert (bits == bits[0]).all()
    assert 0 < bits.mean() < 1
    assert checkpoint.figures["input_dependent"] == 0
    assert checkpoint.figures["mac_fraction"] <= 0.45


def test_prototypes_are_made_from_all_classes_also_of_a_set_that_comes_class_after_class(
    tiny_run: Path, few: Few, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = load("digits")
    ordered = replace(splits, train=splits.train.take(np.argsort(splits.train.labels, kind="stable")))
    monkeypatch.setattr(module, "load", lambda *_, **__: ordered)
    monkeypatch.setattr(module, "CLUSTER_IMAGES", 100)
    config = few(budget=0.6, tune=Schedule(epochs=1, batch_size=100))
    consolidate(str(tiny_run), config, tmp_path / "run", progress=False)
    with np.load(tmp_path / "run" / GROUPS_FILE) as arrays:
        groups = arrays[arrays.files[0]]
    seen = groups[:, 0] != UNGROUPED
    assert seen.sum() == 100
    assert np.bincount(ordered.train.labels[seen]).min() >= 8


def test_prototypes_are_those_of_the_groups(consolidations: dict[int, Path]) -> None:
    network = load_checkpoint(consolidations[3] / CHECKPOINT_FILE).network
    assert isinstance(network, ConsolidatedNetwork)
    with np.load(consolidations[3] / GROUPS_FILE) as arrays:
        groups, *bits = (arrays[name] for name in arrays.files)
    assert groups.shape == (len(load("digits").train), len(network.routers))
    for router, own in zip(network.routers, bits, strict=True):
        np.testing.assert_array_equal(router.prototypes.numpy(), own)


def test_a_run_says_where_it_came_from(consolidations: dict[int, Path], tiny_run: Path) -> None:
    config = json.loads((consolidations[3] / CONFIG_FILE).read_text())
    assert config["source"] == {"name": tiny_run.name, "sha256": sha256(tiny_run / CHECKPOINT_FILE)}
    checkpoint = load_checkpoint(consolidations[3] / CHECKPOINT_FILE)
    assert checkpoint.config == config | {"data": "digits", "budget": 0.6}


def test_a_finished_run_is_given_back_as_it_is(
    consolidations: dict[int, Path], tiny_run: Path, few: Few
) -> None:
    run = consolidations[3]
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    said: list[str] = []
    consolidate(str(tiny_run), few(count=3, budget=0.6), run, progress=False, say=said.append)
    assert said == [f"{run} is finished already"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(ConfigurationError, match="another configuration: choose another folder"):
        consolidate(str(tiny_run), few(count=2), run, progress=False)


@pytest.mark.parametrize(("count", "died"), [(1, "training"), (3, "training"), (3, "finishing")])
def test_a_run_that_died_goes_on_to_the_same_bytes(
    count: int,
    died: str,
    consolidations: dict[int, Path],
    tiny_run: Path,
    few: Few,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = few(count=count, budget={1: 0.45, 3: 0.6}[count])
    start = ConsolidateTraining.on_train_epoch_start

    def dying(training: ConsolidateTraining) -> None:
        if training.current_epoch == 2:
            raise RuntimeError("killed")
        start(training)

    def dead(*_: object, **__: object) -> Checkpoint:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        if died == "training":
            patch.setattr(ConsolidateTraining, "on_train_epoch_start", dying)
        else:
            patch.setattr(runs, "finish", dead)
        with pytest.raises(RuntimeError, match="killed"):
            consolidate(str(tiny_run), config, tmp_path, progress=False)
    assert not (tmp_path / CHECKPOINT_FILE).exists()
    with monkeypatch.context() as patch:
        patch.setattr(module, "find_prototypes", dead)  # groups are kept, not found again
        consolidate(str(tiny_run), config, tmp_path, progress=False)
    for name in (CHECKPOINT_FILE, GROUPS_FILE, FIGURES_FILE):
        assert sha256(tmp_path / name) == sha256(consolidations[count] / name), name


def test_aligned_prototypes_keep_filters_in_multiples(few: Few, tiny_run: Path, tmp_path: Path) -> None:
    checkpoint = consolidate(str(tiny_run), few(count=1, align=4), tmp_path, progress=False)
    with np.load(tmp_path / GROUPS_FILE) as arrays:
        path = np.concatenate([arrays[name][0] for name in arrays.files[1:]])
    kept = checkpoint.network.layout.split(path)
    assert not path.all()
    assert all(own.sum() % 4 == 0 or own.all() for own in kept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 0.01}, r"budget is 0\.010; the fewest filters of every layer.* already"),
        (
            {"budget": 0.4, "grouping": "difficulty", "spread": 0.95},
            "with spread 0.95, the easiest images may cost 0.05",
        ),
        ({"fpr": 0.0005}, "499 calibration scores are too few"),
    ],
)
def test_what_cannot_work_is_refused_before_training_and_does_not_claim_the_folder(
    changes: dict[str, object], message: str, few: Few, tiny_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(PenstockError, match=message):
        consolidate(str(tiny_run), few(**changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_too_many_devices_are_refused_before_training(few: Few, tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(PenstockError, match="devices is 0"):
        consolidate(str(tiny_run), few(), tmp_path / "run", progress=False, devices=0)
    assert not (tmp_path / "run").exists()


def test_a_source_that_is_consolidated_already_is_refused(
    consolidations: dict[int, Path], few: Few, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="is consolidated already: name the decoupled network"):
        consolidate(str(consolidations[3]), few(), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_groups_by_difficulty_cost_the_more_the_harder(tiny_run: Path, few: Few, tmp_path: Path) -> None:
    config = few(grouping="difficulty", budget=0.5, tune=Schedule(epochs=1, batch_size=64), guidance=1.0)
    network = consolidate(str(tiny_run), config, tmp_path, progress=False).network
    assert isinstance(network, ConsolidatedNetwork)
    paths = np.concatenate([router.prototypes.numpy() for router in network.routers], axis=1)
    np.testing.assert_allclose(network.layout.active_macs(paths), [0.25, 0.5, 0.75], atol=0.02)


@pytest.mark.parametrize("count", [1, 3])
def test_prototypes_can_be_exported(count: int, consolidations: dict[int, Path], tmp_path: Path) -> None:
    source = str(consolidations[count])
    options = ExportOptions(source=source, repository=tmp_path, name="m", lowering="routed", flags=False)
    bundle = export(options)
    manifest = bundle.manifest
    assert (manifest.lowering, manifest.static) == ("routed", count == 1)
    graph = open_graph(bundle.model_file.read_bytes(), single=manifest.single)
    chosen = len(np.unique(graph.run(load("digits").test.images)["path"], axis=0))
    if count == 1:
        assert chosen == 1
    else:  # several prototypes serve, for the images of the report and for others
        assert max(np.count_nonzero(choice.images) for choice in manifest.choices) > 1
        assert chosen > 1
    with pytest.raises(UnsupportedError, match=r"has prototypes or is a cascade.*take the lowering routed"):
        export(replace(options, name="other", lowering="gathered"))


def test_the_report_shows_the_prototypes_of_a_run(consolidations: dict[int, Path], tmp_path: Path) -> None:
    write_report(str(consolidations[3]), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert re.search(r"Stage 2: [123] of 3 prototypes are used", page)


def test_the_command_line_consolidates(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.toml").write_text("budget = 0.9\nviews = 2\n[tune]\nepochs = 1\nbatch_size = 200\n")
    command = ["consolidate", str(tiny_run), "--prototypes", "2", "--out", str(tmp_path / "run")]
    command += ["--config", str(tmp_path / "config.toml"), "--budget", "0.55"]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads((tmp_path / "run" / FIGURES_FILE).read_text())
    assert "2 prototypes a stage for 55% of the MACs" in printed.err
    config = json.loads((tmp_path / "run" / CONFIG_FILE).read_text())
    assert (config["count"], config["budget"], config["views"]) == (2, 0.55, 2)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_two_devices_train_together(count: int, tiny_run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "penstock.cli", "consolidate", str(tiny_run), "--devices", "2"]
    command += ["--prototypes", str(count), "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["decoupled_accuracy"] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("grouping", ["paths", "difficulty"])
def test_prototypes_answer_digits_as_well_as_gates(grouping: str, digits_run: Path, tmp_path: Path) -> None:
    config = ConsolidateConfig(count=4, grouping=grouping)
    figures = consolidate(str(digits_run), config, tmp_path, progress=False).figures
    gates = json.loads((digits_run / FIGURES_FILE).read_text())
    assert figures["decoupled_accuracy"] > gates["decoupled_accuracy"] - 0.02
    assert figures["mac_fraction"] < 0.51


def test_a_source_without_a_budget_needs_one(few: Few, tiny_run: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_run / CHECKPOINT_FILE)
    values: dict[str, Any] = {name: getattr(checkpoint, name) for name in checkpoint.__dataclass_fields__}
    bare = Checkpoint(**(values | {"config": {"data": "digits"}}))
    bare.save(tmp_path / "bare")
    with pytest.raises(ConfigurationError, match="was trained without a budget: give one"):
        consolidate(str(tmp_path / "bare"), few(), tmp_path / "run", progress=False)
    Checkpoint(**(values | {"config": {"budget": 0.5}})).save(tmp_path / "barer")
    with pytest.raises(ConfigurationError, match="does not say which data set it was trained on"):
        consolidate(str(tmp_path / "barer"), few(), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_budget_that_nothing_kept_to_is_not_taken_over(few: Few, tiny_run: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_run / CHECKPOINT_FILE)
    config = dict(checkpoint.config) | {"budget_weight": 0.0}  # as in a run with the preset of the paper
    replace(checkpoint, config=config).save(tmp_path / "paper")
    with pytest.raises(ConfigurationError, match="was trained without a budget: give one"):
        consolidate(str(tmp_path / "paper"), few(), tmp_path / "run", progress=False)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_the_configurations_that_come_with_the_project_are_read(path: Path) -> None:
    config = read_consolidate_config(path, count=4)
    if path.name == "defaults.toml":
        assert config == ConsolidateConfig(count=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("count = 0", "count is 0; at least 1 is needed"),
        ("hidden = 0", "hidden is 0; at least 1 is needed"),
        ("align = 0", "align is 0; at least 1 is needed"),
        ("budget = 0", "budget is 0.0; it is a share of the dense MACs"),
        ("grouping = 'colour'", "no grouping 'colour'; there are paths, difficulty"),
        ("spread = 1", "spread is 1.0; it is a share of the mean"),
        ("spread = nan", "spread is nan"),
        ("fade = 1.5", "fade is 1.5; it is a share of the training, 0 to 1"),
        ("settle = -0.1", "settle is -0.1; it is a share of the training"),
        ("budget_weight = -1", "budget_weight is -1.0; a weight must not be negative"),
        ("guidance = inf", "guidance is inf; a weight"),
        ("distillation = -0.5", "distillation is -0.5; a weight"),
        ("temperature = 0", "temperature is 0.0; it must be positive"),
        ("views = 0", "views is 0; at least 1 is needed"),
        ("fpr = 1", "fpr is 1.0; a false-positive rate"),
        ("seed = -1", "seed is -1; it must be from 0"),
        ("precision = '8-bit'", "no precision '8-bit'"),
        ("[tune]\nbatch_size = 1", "batch_size of tune is 1"),
        ("[tune]\nepochs = 0", r"\[tune\]: epochs is 0"),
        ("protoypes = 3", "unknown key 'protoypes'"),
    ],
)
def test_a_setting_without_meaning_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(text if "count" in text else f"count = 3\n{text}")
    with pytest.raises(ConfigurationError, match=message):
        read_consolidate_config(tmp_path / "config.toml")


def test_what_is_said_on_the_command_line_counts_more_than_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("count = 3\nbudget = 0.4\n[tune]\nepochs = 7\nbatch_size = 1\n")
    read = read_consolidate_config(tmp_path / "config.toml", count=1, budget=None)
    assert read == ConsolidateConfig(count=1, budget=0.4, tune=Schedule(epochs=7, batch_size=1))
    assert read_consolidate_config(None, count=2) == ConsolidateConfig(count=2)
