"""A dense network of one's own: trained, measured, and kept as weights that every other run can start from.

The run folder is that of `penstock.learn.runs`, with Lightning's checkpoints and logs in ``train/`` and the result in
``weights.safetensors``. Calling `train_dense` again on the folder of a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from penstock.data import load
from penstock.errors import ConfigurationError
from penstock.files import write_atomic
from penstock.learn import runs
from penstock.learn.batches import Batches
from penstock.learn.config import NormalizeConfig, Schedule, TeacherConfig, check_run, check_weights
from penstock.learn.decoupling import DenseTraining
from penstock.learn.process import check_devices
from penstock.learn.runs import Say
from penstock.learn.start import load_network
from penstock.learn.training import fit
from penstock.nn.inference import predict
from penstock.nn.run_folders import WEIGHTS_FILE


@dataclass(frozen=True, kw_only=True)
class DenseConfig:
    """One training of a dense network.

    Attributes:
        data: data set, as `penstock.data.load` knows it.
        backbone: network, a name that `penstock.nn.backbones` knows.
        start: file with weights to begin with; ``None`` begins with random ones.
        fresh_classifier: the starting weights are for other classes: begin with a fresh last layer.
        normalize: constants that the starting weights were trained with; ``None``: the file's or the backbone's own.
        train: schedule.
        teacher: who teaches; ``None``: nobody.
        distillation: weight of the teacher's softened answers.
        temperature: of the distillation.
        views: number of different augmentations of each image.
        cutout: side in pixels of a black square in each training image; 0: none.
        label_smoothing: share of a label that goes to all classes alike, Szegedy et al., CVPR 2016
            (https://arxiv.org/abs/1512.00567).
        seed: of everything random.
        precision: Lightning's name, one of `penstock.learn.config.PRECISIONS`.
    """

    data: str
    backbone: str
    start: str | None = None
    fresh_classifier: bool = False
    normalize: NormalizeConfig | None = None
    train: Schedule = field(default_factory=Schedule)
    teacher: TeacherConfig | None = None
    distillation: float = 1.0
    temperature: float = 4.0
    views: int = 16
    cutout: int = 0
    label_smoothing: float = 0.0
    seed: int = 0
    precision: str = "32-true"

    def __post_init__(self) -> None:
        check_run(self)
        check_weights(self, "distillation")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigurationError(
                f"label_smoothing is {self.label_smoothing}; it is a share of a label, from 0 to below 1"
            )
        if self.cutout < 0:
            raise ConfigurationError(f"cutout is {self.cutout}; give a number of pixels, or 0 for none")

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)


def train_dense(
    config: DenseConfig,
    out: Path,
    *,
    data: Path | None = None,
    progress: bool = True,
    devices: int = 1,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Run what ``config`` asks for, or go on with it, and leave weights and figures in ``out``.

    Args:
        config: what to do.
        out: run folder; made if it is not there.
        data: folder of the data set; by default what ``PENSTOCK_DATA`` says.
        progress: show progress bars.
        devices: how many GPUs, or processes where there is none, train together.
        say: told what is going on, in short lines.

    Returns:
        the figures.

    Raises:
        ConfigurationError: the folder holds a run with another configuration.
        InvalidArgumentError: there are not so many devices, or a batch is too small for them.
        NotFoundError: the data set or the weights to start from are not there.
    """
    if runs.finished(out, config.to_json(), WEIGHTS_FILE, say):
        found: dict[str, Any] = json.loads((out / runs.FIGURES_FILE).read_text(encoding="utf-8"))
        return found
    splits = load(config.data, folder=data)
    classes = len(splits.class_names)
    check_devices(devices, min(config.train.batch_size, len(splits.train)))
    torch.manual_seed(config.seed)
    network = load_network(
        config.backbone,
        config.start,
        classes,
        data=data,
        normalize=config.normalize,
        fresh_classifier=config.fresh_classifier,
    )
    batches = runs.training_batches(
        splits,
        config.data,
        size=config.train.batch_size,
        seed=config.seed,
        views=config.views,
        cutout=config.cutout,
    )
    taught = runs.distillation(config, None, batches, data)
    runs.claim(out, config.to_json())
    say(f"training {config.backbone}")
    training = DenseTraining(
        network, config.train, batches, classes, config.seed, taught, config.label_smoothing
    )
    validation = Batches(splits.validation, 500)
    fit(training, validation, out / "train", precision=config.precision, progress=progress, devices=devices)
    right = predict(network.eval(), splits.test.images) == splits.test.labels
    figures = {"images": len(right), "dense_accuracy": float(right.mean())}
    write_atomic(out / runs.FIGURES_FILE, json.dumps(figures, indent=2) + "\n")
    write_atomic(out / WEIGHTS_FILE, save(_contiguous(network)))
    return figures


def _contiguous(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
