"""A whole decoupling run: dense network, gates, detector, figures, checkpoint.

The run folder is that of `penstock.learn.runs`, with Lightning's checkpoints and logs of the two trainings in
``dense/`` and ``decouple/``. Calling `decouple` again on the folder of a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from penstock.data import Splits, load
from penstock.detect.calibration import conformal_rank
from penstock.learn import runs
from penstock.learn.batches import Batches
from penstock.learn.config import DecoupleConfig
from penstock.learn.decoupling import DecoupleTraining, DenseTraining
from penstock.learn.process import check_devices
from penstock.learn.runs import Say
from penstock.learn.start import load_network, refuse_misfit
from penstock.learn.training import fit
from penstock.nn.assembly import Member
from penstock.nn.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint
from penstock.nn.surgery import attach_gates


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
    if runs.finished(out, config.to_json(), CHECKPOINT_FILE, say):
        return load_checkpoint(out / CHECKPOINT_FILE)
    splits = load(config.data, folder=data)
    dense = _start(config, splits, data)
    _check(config, splits, dense, devices)
    # Teachers are found now and not after hours; from the next line on the folder is this configuration's.
    first, second = (_batches(config, splits, part.batch_size) for part in (config.dense, config.decouple))
    taught = runs.distillation(config, None, first, data)
    runs.claim(out, config.to_json())
    validation = Batches(splits.validation, 500)
    style: dict[str, Any] = {"precision": config.precision, "progress": progress, "devices": devices}
    classes = len(splits.class_names)
    if config.trains_dense:
        say(f"training the dense {config.backbone}")
        learning = DenseTraining(dense, config.dense, first, classes, config.seed, taught)
        fit(learning, validation, out / "dense", **style)
    dense.eval()
    goal = f" to {config.budget:.0%} of its MACs" if config.promised else ""
    say(f"decoupling {config.backbone}{goal}")
    torch.manual_seed(config.seed)
    network = attach_gates(dense, torch.zeros(1, *splits.train.images.shape[1:]), config.gate)
    taught = runs.distillation(config, copy.deepcopy(dense), second, data)
    training = DecoupleTraining(network, config, second, classes, taught)
    fit(training, validation, out / "decouple", **style)
    return runs.finish(
        out,
        splits,
        network,
        dense,
        backbone=config.backbone,
        members=(Member(gate=config.gate),),
        config=config.to_json(),
        fpr=config.fpr,
        budget=config.promised,
        say=say,
    )


def _check(config: DecoupleConfig, splits: Splits, dense: nn.Module, devices: int) -> None:
    """Refuse now what would fail after hours."""
    conformal_rank(len(splits.calibration), config.fpr)
    refuse_misfit(dense, config.backbone, config.data, splits.train.images.shape[1:])
    for schedule in (config.decouple, *([config.dense] if config.trains_dense else [])):
        check_devices(devices, min(schedule.batch_size, len(splits.train)))


def _start(config: DecoupleConfig, splits: Splits, data: Path | None) -> nn.Module:
    """The dense network as it is before any training here."""
    torch.manual_seed(config.seed)
    return load_network(
        config.backbone,
        config.start,
        len(splits.class_names),
        data=data,
        normalize=config.normalize,
        fresh_classifier=config.fresh_classifier,
    )


def _batches(config: DecoupleConfig, splits: Splits, size: int) -> Batches:
    return runs.training_batches(splits, config.data, size=size, seed=config.seed, views=config.views)
