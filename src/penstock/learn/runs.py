"""What all runs of a network with paths have in common: their folder, their batches, their teacher, their end.

config.json                what was asked for; a folder never changes its configuration
checkpoint.safetensors     the result, see `penstock.nn.checkpoint`
figures.json               what was measured on the test images
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import nn

from penstock.data import Splits
from penstock.data.cache import cache_folder
from penstock.detect import Recipe, usual_detector
from penstock.errors import ConfigurationError
from penstock.files import write_atomic
from penstock.learn.batches import Batches
from penstock.learn.config import TeacherConfig
from penstock.learn.decoupling import TOLERANCE
from penstock.learn.figures import accuracy_figures, flag_figures
from penstock.learn.teacher import Teacher, load_teacher
from penstock.learn.training import Distillation
from penstock.nn.assembly import Member
from penstock.nn.checkpoint import CHECKPOINT_FILE, Checkpoint
from penstock.nn.detecting import features, features_of, newly_fitted
from penstock.nn.inference import answer
from penstock.nn.path_network import PathNetwork
from penstock.nn.run_folders import CONFIG_FILE

FIGURES_FILE = "figures.json"

# Largest shift in pixels, and whether to mirror (a mirrored digit is no digit).
_AUGMENTATION = {"digits": (1, False), "mnist": (2, False), "cifar10": (4, True), "caltech25": (16, True)}

Say = Callable[[str], None]


def claim(out: Path, config: Mapping[str, Any]) -> None:
    """Make a folder this configuration's.

    Raises:
        ConfigurationError: it holds a run with another one.
    """
    refuse_other_run(out, config)
    write_atomic(out / CONFIG_FILE, _text(config))


def finished(out: Path, config: Mapping[str, Any], result: str, say: Say) -> bool:
    """Whether a folder has this configuration's result, a file, already.

    Raises:
        ConfigurationError: it holds a run with another configuration.
    """
    refuse_other_run(out, config)
    found = (out / result).is_file()
    if found:
        say(f"{out} is finished already")
    return found


def refuse_other_run(out: Path, config: Mapping[str, Any]) -> None:
    """Complain where a folder holds a run with another configuration.

    Raises:
        ConfigurationError: it does.
    """
    file = out / CONFIG_FILE
    if file.exists() and file.read_text(encoding="utf-8") != _text(config):
        raise ConfigurationError(f"{out} holds a run with another configuration: choose another folder")


def trained_on(checkpoint: Checkpoint, source: str) -> str:
    """The data set that a source was trained on, by name.

    Raises:
        ConfigurationError: the checkpoint does not say.
    """
    data = checkpoint.config.get("data")
    if data is None:
        raise ConfigurationError(
            f"{source} does not say which data set it was trained on: take one that `penstock` trained"
        )
    return str(data)


def budget_of(config: Mapping[str, Any]) -> float | None:
    """The share of the MACs that a run was asked for; ``None`` where its configuration promises none.

    Args:
        config: of any run, as its checkpoint holds it.
    """
    # A decoupling has a budget in its configuration even where no term of the loss keeps to it.
    decoupled_without = "decouple" in config and not config["budget_weight"]
    return None if decoupled_without else config.get("budget")


def augmentation(data: str, size: int) -> tuple[int, bool]:
    """How training images are varied: largest shift in pixels, and whether to mirror.

    Args:
        data: data set, by name; any other than those of known style holds natural images, as far as we know.
        size: width of its images.
    """
    return _AUGMENTATION.get(data, (size // 14, True))


def training_batches(
    splits: Splits, data: str, *, size: int, seed: int, views: int, cutout: int = 0
) -> Batches:
    """The training images in the order of a seed, varied as suits the data set."""
    padding, flip = augmentation(data, splits.train.images.shape[-1])
    return Batches(
        splits.train,
        size,
        training=True,
        seed=seed,
        padding=padding,
        flip=flip,
        cutout=cutout,
        views=views,
    )


class Taught(Protocol):
    """What configurations of trainings say of their teacher."""

    @property
    def teacher(self) -> TeacherConfig | None:
        """Who teaches."""

    @property
    def distillation(self) -> float:
        """Weight of its softened answers; 0 leaves them out."""

    @property
    def temperature(self) -> float:
        """Of the softened answers."""


def distillation(
    config: Taught, own: nn.Module | None, batches: Batches, data: Path | None
) -> Distillation | None:
    """Who teaches: the network of a configuration, else the run's own, else nobody.

    What a network from elsewhere says serves many runs and is kept for them; what a run's own says, this run alone.
    """
    if not config.distillation:
        return None
    if config.teacher is not None:
        network = load_teacher(config.teacher, batches.classes, data)
        said = Teacher(network, batches, cache_folder() / "teachers")
    elif own is not None:
        said = Teacher(own, batches)
    else:
        return None
    return Distillation(said, config.distillation, config.temperature)


def finish(
    out: Path,
    splits: Splits,
    network: PathNetwork,
    dense: nn.Module,
    *,
    backbone: str,
    members: tuple[Member, ...],
    config: Mapping[str, Any],
    fpr: float,
    budget: float | None = None,
    remedy: str = "give it more epochs, a larger budget_weight or a larger budget",
    say: Say = lambda _: None,
) -> Checkpoint:
    """Fit the detector, measure everything on the test images, and write the result.

    Args:
        out: run folder.
        splits: the data.
        network: the result; put into evaluation mode.
        dense: what it was made from.
        backbone: architecture of that.
        members: how the network is put together.
        config: what was asked for.
        fpr: false-positive rate that the detector is calibrated for.
        budget: share of the MACs that training was to arrive at; ``None``: none that it could miss.
        remedy: what to do where it was missed.
        say: told what is going on, and of a budget that was missed.
    """
    say("fitting the detector")
    network.eval()
    answers = answer(network, splits.test.images)
    calibrating = features_of(network, splits.calibration.images)
    recipe = Recipe.parse(usual_detector(network.layout))
    ranks = recipe.ranking(len(calibrating))
    score = newly_fitted(
        network,
        str(recipe),
        splits.train,
        calibrating.take(ranks) if ranks.any() else None,
        classes=len(splits.class_names),
    )
    calibration, test = (score.score(seen) for seen in (calibrating.take(~ranks), features(network, answers)))
    checkpoint = Checkpoint(
        backbone=backbone,
        class_names=splits.class_names,
        input_shape=splits.train.images.shape[1:],
        members=members,
        network=network,
        dense=dense,
        detector=score.arrays(),
        detector_name=str(recipe),
        calibration=calibration.astype(np.float64),
        config=config,
        figures=accuracy_figures(splits.test, answers, network, dense) | flag_figures(fpr, calibration, test),
    )
    write_atomic(out / FIGURES_FILE, json.dumps(dict(checkpoint.figures), indent=2) + "\n")
    checkpoint.save(out / CHECKPOINT_FILE)  # last: where it is, the run is finished
    share = checkpoint.figures["mac_fraction"]
    if budget is not None and share > budget + TOLERANCE:
        say(f"over budget: {share:.1%} of the MACs on the test images, {budget:.1%} were asked for; {remedy}")
    return checkpoint


def _text(config: Mapping[str, Any]) -> str:
    return json.dumps(config, indent=2) + "\n"
