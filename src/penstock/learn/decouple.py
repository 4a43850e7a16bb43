"""A whole decoupling run: dense network, gates, detector, figures, checkpoint.

A run lives in a folder:

    config.json                what was asked for; a folder never changes its configuration
    dense/, decouple/          Lightning's checkpoints and logs of the two trainings
    checkpoint.safetensors     the result, see `penstock.nn.checkpoint`
    figures.json               what was measured on the test images

Calling `decouple` again on the folder of a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from penstock.data import ImageSet, Splits, load
from penstock.detect import (
    PathDetector,
    PathFeatures,
    conformal_threshold,
    false_positive_interval,
    resplit_rates,
)
from penstock.detect.calibration import conformal_rank
from penstock.errors import ConfigurationError, InvalidArgumentError, NotFoundError
from penstock.files import write_atomic
from penstock.learn.batches import Batches
from penstock.learn.config import DecoupleConfig
from penstock.learn.decoupling import DecoupleTraining, DenseTraining
from penstock.learn.training import fit
from penstock.nn.backbones import build_backbone
from penstock.nn.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint
from penstock.nn.inference import Answers, answer
from penstock.nn.surgery import GatedNetwork, attach_gates
from penstock.paths import PathSet

CONFIG_FILE = "config.json"
FIGURES_FILE = "figures.json"
DETECTOR_IMAGES = 20_000  # training images that the detector is fitted on, at most

# How training images are varied: largest shift in pixels, and whether to mirror (a mirrored digit is no digit).
AUGMENTATION = {"digits": (1, False), "cifar10": (4, True)}

Say = Callable[[str], None]


def decouple(
    config: DecoupleConfig,
    out: Path,
    *,
    data: Path | None = None,
    progress: bool = True,
    say: Say = lambda _: None,
) -> Checkpoint:
    """Run what ``config`` asks for, or go on with it, and leave the result in ``out``.

    Args:
        config: what to do.
        out: run folder; made if it is not there.
        data: folder of the data set; by default what ``PENSTOCK_DATA`` says.
        progress: show progress bars.
        say: told what is going on, in short lines.

    Raises:
        ConfigurationError: the folder holds a run with another configuration.
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
    # From here on the folder is this configuration's; a typing error above does not spoil it.
    write_atomic(out / CONFIG_FILE, _text(config))
    if config.start is None:
        say(f"training the dense {config.backbone}")
        batches = _batches(config, splits, config.dense.batch_size)
        learning = DenseTraining(dense, config.dense, batches, classes, config.seed)
        fit(learning, validation, out / "dense", precision=config.precision, progress=progress)
    dense.eval()
    say(f"decoupling {config.backbone} to {config.budget:.0%} of its MACs")
    torch.manual_seed(config.seed)
    network = attach_gates(dense, torch.zeros(1, *splits.train.images.shape[1:]), config.gate)
    training = DecoupleTraining(
        network, dense, config, _batches(config, splits, config.decouple.batch_size), classes
    )
    fit(training, validation, out / "decouple", precision=config.precision, progress=progress)
    say("fitting the detector")
    checkpoint = _finish(config, splits, network.eval(), dense)
    checkpoint.save(out / CHECKPOINT_FILE)
    write_atomic(out / FIGURES_FILE, json.dumps(dict(checkpoint.figures), indent=2) + "\n")
    return checkpoint


def features(answers: Answers) -> PathFeatures:
    """What a detector sees of a network's answers."""
    return PathFeatures(answers.bits, answers.gate_logits, answers.predicted)


def load_weights(network: nn.Module, file: Path) -> None:
    """Load a dense network's published weights: a state dict, or a dict that holds one as ``state_dict``.

    Names may begin with ``module.``, as DataParallel saves them. The normalisation constants may be missing: the
    backbone has its own.

    Raises:
        InvalidArgumentError: the file is not such a thing, or does not fit the network.
    """
    try:
        loaded: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        state: dict[str, Tensor] = loaded.get("state_dict", loaded)
        named = {name.removeprefix("module."): tensor for name, tensor in state.items()}
        missing, unexpected = network.load_state_dict(named, strict=False)
    except Exception as error:  # torch.load raises many kinds for a file that is something else
        raise InvalidArgumentError(f"{file} holds no weights of this network: {error}") from error
    lost = [name for name in missing if not name.startswith("normalize.")]
    if lost or unexpected:
        raise InvalidArgumentError(
            f"{file} does not fit the network: missing {lost[:3]}, unexpected {unexpected[:3]}"
        )


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
    network = build_backbone(config.backbone, classes)
    if config.start is not None:
        load_weights(network, _find_weights(config.start, data))
    return network


def _find_weights(start: str, data: Path | None) -> Path:
    folders = [Path(), *([data] if data else []), Path(os.environ.get("PENSTOCK_DATA", "."))]
    for folder in folders:
        if (folder / start).is_file():
            return folder / start
    looked = ", ".join(str(folder / start) for folder in dict.fromkeys(folders))
    raise NotFoundError(
        f"no weights to start from: looked at {looked}; set PENSTOCK_DATA or give a full path"
    )


def _batches(config: DecoupleConfig, splits: Splits, size: int) -> Batches:
    padding, flip = AUGMENTATION[config.data]
    return Batches(splits.train, size, training=True, seed=config.seed, padding=padding, flip=flip)


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
        figures=_accuracy_figures(splits, network, dense) | _flag_figures(config.fpr, *scores),
    )


def _accuracy_figures(splits: Splits, network: GatedNetwork, dense: nn.Module) -> dict[str, Any]:
    """Accuracy and cost on all images that were held out of training and selection."""
    held_out = splits.held_out
    answers = answer(network, held_out.images)
    paths = PathSet(network.layout, answers.bits)
    return {
        "images": len(held_out),
        "dense_accuracy": _dense_accuracy(dense, held_out),
        "decoupled_accuracy": answers.accuracy(held_out.labels),
        "mac_fraction": float(paths.active_macs.mean()),
        "density": float(paths.bits.mean()),
        "input_dependent": float(paths.input_dependent().mean()),
        "dense_macs": network.layout.dense_macs,
    }


def _flag_figures(fpr: float, calibration: Any, test: Any) -> dict[str, Any]:
    """What the detector's promise came to on honest test images."""
    detector_rates = resplit_rates(
        np.concatenate([calibration, test]), len(calibration), fpr, rounds=100, seed=0
    )
    low, high = false_positive_interval(len(test), len(calibration), fpr)
    return {
        "fpr_target": fpr,
        "fpr": float((test > conformal_threshold(calibration, fpr)).mean()),
        "fpr_interval_99": [low, high],
        "fpr_mean_of_100_resplits": float(detector_rates.mean()),
    }


@torch.inference_mode()
def _dense_accuracy(network: nn.Module, images: ImageSet, batch: int = 500) -> float:
    right = 0
    for start in range(0, len(images), batch):
        floats = torch.from_numpy(images.images[start : start + batch]).float() / 255
        labels = torch.from_numpy(images.labels[start : start + batch])
        right += int((network(floats).argmax(1) == labels).sum())
    return right / len(images)
