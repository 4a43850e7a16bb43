"""A whole decoupling run: dense network, gates, detector, figures, checkpoint.

A run lives in a folder:

    config.json                what was asked for; a folder never changes its configuration
    dense/, decouple/          Lightning's checkpoints and logs of the two trainings
    checkpoint.safetensors     the result, see `penstock.nn.checkpoint`
    figures.json               what was measured on the test images

Calling `decouple` again on the folder of a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from penstock.data import Splits, load
from penstock.data.cache import cache_folder
from penstock.detect import PathDetector, PathFeatures
from penstock.detect.calibration import conformal_rank
from penstock.errors import ConfigurationError
from penstock.files import write_atomic
from penstock.learn.batches import Batches
from penstock.learn.config import DecoupleConfig
from penstock.learn.decoupling import DecoupleTraining, DenseTraining
from penstock.learn.figures import accuracy_figures, flag_figures
from penstock.learn.process import check_devices
from penstock.learn.start import load_network
from penstock.learn.teacher import Teacher, load_teacher
from penstock.learn.training import Distillation, fit
from penstock.nn.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint
from penstock.nn.inference import Answers, answer
from penstock.nn.surgery import GatedNetwork, attach_gates

CONFIG_FILE = "config.json"
FIGURES_FILE = "figures.json"
DETECTOR_IMAGES = 20_000  # training images that the detector is fitted on, at most

# How training images are varied: largest shift in pixels, and whether to mirror (a mirrored digit is no digit).
AUGMENTATION = {"digits": (1, False), "cifar10": (4, True), "caltech25": (16, True)}

Say = Callable[[str], None]


def decouple(
    config: DecoupleConfig,
    out: Path,
    *,
    data: Path | None = None,
    progress: bool = True,
    devices: int = 1,
    say: Say = lambda _: None,
) -> Checkpoint:
    """Run what ``config`` asks for, or go on with it, and leave the result in ``out``.

    Args:
        config: what to do.
        out: run folder; made if it is not there.
        data: folder of the data set; by default what ``PENSTOCK_DATA`` says.
        progress: show progress bars.
        devices: how many GPUs, or processes where there is none, train together.
        say: told what is going on, in short lines.

    Raises:
        ConfigurationError: the folder holds a run with another configuration.
        InvalidArgumentError: there are not so many devices, or a batch is too small for them.
        NotFoundError: the data set or the weights to start from are not there.
    """
    _refuse_other_run(out, config)
    if (out / CHECKPOINT_FILE).is_file():
        say(f"{out} is finished already")
        return load_checkpoint(out / CHECKPOINT_FILE)
    splits = load(config.data, folder=data)
    classes = len(splits.class_names)
    conformal_rank(len(splits.calibration), config.fpr)  # refuses now what would fail after hours
    validation = Batches(splits.validation, 500)
    dense = _start(config, classes, data)
    _refuse_misfit(config, dense, splits.train.images.shape[1:])
    for schedule in (config.decouple, *([config.dense] if config.start is None else [])):
        check_devices(devices, min(schedule.batch_size, len(splits.train)))
    teaches = None if config.teacher is None else load_teacher(config.teacher, classes, data)
    # From here on the folder is this configuration's; a typing error above does not spoil it.
    write_atomic(out / CONFIG_FILE, _text(config))
    style: dict[str, Any] = {"precision": config.precision, "progress": progress, "devices": devices}
    if config.start is None:
        say(f"training the dense {config.backbone}")
        batches = _batches(config, splits, config.dense.batch_size)
        taught = _distillation(config, teaches, batches, cache_folder()) if teaches else None
        learning = DenseTraining(dense, config.dense, batches, classes, config.seed, taught)
        fit(learning, validation, out / "dense", **style)
    dense.eval()
    goal = f" to {config.budget:.0%} of its MACs" if config.budget_weight else ""
    say(f"decoupling {config.backbone}{goal}")
    torch.manual_seed(config.seed)
    network = attach_gates(dense, torch.zeros(1, *splits.train.images.shape[1:]), config.gate)
    batches = _batches(config, splits, config.decouple.batch_size)
    # What a network from elsewhere says serves many runs; what this run's own says, this run.
    taught = (
        _distillation(config, teaches, batches, cache_folder())
        if teaches
        else _distillation(config, copy.deepcopy(dense), batches, None)
    )
    training = DecoupleTraining(network, config, batches, classes, taught)
    fit(training, validation, out / "decouple", **style)
    say("fitting the detector")
    checkpoint = _finish(config, splits, network.eval(), dense)
    checkpoint.save(out / CHECKPOINT_FILE)
    write_atomic(out / FIGURES_FILE, json.dumps(dict(checkpoint.figures), indent=2) + "\n")
    return checkpoint


def features(answers: Answers) -> PathFeatures:
    """What a detector sees of a network's answers."""
    return PathFeatures(answers.bits, answers.gate_logits, answers.predicted)


def _refuse_other_run(out: Path, config: DecoupleConfig) -> None:
    file = out / CONFIG_FILE
    if file.exists() and file.read_text(encoding="utf-8") != _text(config):
        raise ConfigurationError(f"{out} holds a run with another configuration: choose another folder")


def _refuse_misfit(config: DecoupleConfig, dense: nn.Module, shape: tuple[int, ...]) -> None:
    """See now, and not after other work, that the network takes the data set's images."""
    try:
        with torch.no_grad():
            dense.eval()(torch.zeros(1, *shape))
    except RuntimeError as error:
        raise ConfigurationError(
            f"backbone {config.backbone!r} does not take the images of {config.data!r}, {shape}: {error}"
        ) from error


def _text(config: DecoupleConfig) -> str:
    return json.dumps(config.to_json(), indent=2) + "\n"


def _start(config: DecoupleConfig, classes: int, data: Path | None) -> nn.Module:
    """The dense network as it is before any training here."""
    torch.manual_seed(config.seed)
    return load_network(config.backbone, config.start, classes, data=data, normalize=config.normalize)


def _batches(config: DecoupleConfig, splits: Splits, size: int) -> Batches:
    padding, flip = AUGMENTATION.get(config.data, (0, False))
    return Batches(
        splits.train,
        size,
        training=True,
        seed=config.seed,
        padding=padding,
        flip=flip,
        views=config.views,
    )


def _distillation(
    config: DecoupleConfig, teacher: nn.Module, batches: Batches, folder: Path | None
) -> Distillation | None:
    if not config.distillation:
        return None
    kept = folder / "teachers" if folder else None
    return Distillation(Teacher(teacher, batches, kept), config.distillation, config.temperature)


def _finish(config: DecoupleConfig, splits: Splits, network: GatedNetwork, dense: nn.Module) -> Checkpoint:
    """Fit the detector, measure everything, and put the result together."""
    detector = PathDetector(classes=len(splits.class_names))
    detector.fit(features(answer(network, splits.train.images[:DETECTOR_IMAGES])))
    calibration = answer(network, splits.calibration.images)
    test = answer(network, splits.test.images)
    scores = detector.score(features(calibration)), detector.score(features(test))
    return Checkpoint(
        backbone=config.backbone,
        class_names=splits.class_names,
        input_shape=splits.train.images.shape[1:],
        gate=config.gate,
        network=network,
        dense=dense,
        detector=detector.state(),
        calibration=scores[0].astype(np.float64),
        config=config.to_json(),
        figures=accuracy_figures(splits, network, dense) | flag_figures(config.fpr, *scores),
    )
