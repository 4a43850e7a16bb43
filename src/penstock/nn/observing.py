"""Checkpoints with gates that only look on, at a dense network or beside routers: with detectors of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from penstock import data
from penstock.data.splitting import at_most
from penstock.detect.recipe import DEFAULT
from penstock.errors import NotFoundError, UnsupportedError
from penstock.nn.checkpoint import Checkpoint
from penstock.nn.detecting import FIT_SEED, features_of, newly_fitted
from penstock.nn.observed import ObservedConv2d, observe
from penstock.nn.path_network import PathNetwork
from penstock.nn.watched import WatchedRouter, watch

NORM_IMAGES = 5_000  # training images for the gates' normalisation
BATCH = 250


def observed_checkpoint(checkpoint: Checkpoint, folder: Path | None = None) -> Checkpoint:
    """The checkpoint whose network is its dense one, observed; the detector is fitted on what is observed.

    Args:
        checkpoint: decoupled, with gates.
        folder: of its data set; by default what ``PENSTOCK_DATA`` says.

    Raises:
        UnsupportedError: it has no gates, or observers.
        NotFoundError: the training images are not there, to which the detector is fitted.
    """
    if len(checkpoint.members) != 1:
        raise UnsupportedError(
            "a cascade has no gates that could observe: take the run of `penstock decouple` that it was made from"
        )
    gate = checkpoint.members[0].gate
    if gate is None or checkpoint.members[0].observers is not None:
        raise UnsupportedError("the network has observers already: export it as it is, without --observe")
    example = torch.zeros(1, *checkpoint.input_shape)
    network = observe(checkpoint.dense, checkpoint.network, example, gate)
    return _fitted(checkpoint, network, folder)


def watched_checkpoint(checkpoint: Checkpoint, gated: Checkpoint, folder: Path | None = None) -> Checkpoint:
    """The checkpoint whose routers are watched by another one's gates; the detector is fitted on what is seen.

    Args:
        checkpoint: with prototypes.
        gated: the decoupled one that it was made from.
        folder: of its data set; by default what ``PENSTOCK_DATA`` says.

    Raises:
        UnsupportedError: there is nothing to watch, or nothing to watch with.
        NotFoundError: the training images are not there, to which the detector is fitted.
    """
    return _fitted(checkpoint, watch(checkpoint.network, gated.network), folder)


def _fitted(checkpoint: Checkpoint, network: PathNetwork, folder: Path | None) -> Checkpoint:
    """The checkpoint with another network, its observers' normalisation settled and its detector fitted."""
    name = str(checkpoint.config.get("data", ""))
    if not name:
        raise NotFoundError(
            "no images belong to this source, and observers need a detector of their own: take a run that was learned "
            "from a data set"
        )
    splits = data.load(name, folder=folder)
    normalize_anew(network, splits.train.images[at_most(splits.train.labels, NORM_IMAGES, FIT_SEED)])
    classes = len(checkpoint.class_names)
    score = newly_fitted(network, DEFAULT, splits.train, None, classes=classes)
    scores = score.score(features_of(network, splits.calibration.images))
    return replace(
        checkpoint,
        network=network,
        detector=score.arrays(),
        detector_name=DEFAULT,
        calibration=scores.astype(np.float64),
    )


@torch.no_grad()
def normalize_anew(network: PathNetwork, images: npt.NDArray[np.uint8]) -> None:
    """Let the gates' normalisation, in place, be that of what they read now: activations of another network.

    Args:
        network: in evaluation mode; of gates without normalisation nothing changes.
        images: ``[N, C, H, W]`` training images.
    """
    norms = [
        module.gate.normalize
        for module in network.modules()
        if isinstance(module, ObservedConv2d | WatchedRouter)
        and isinstance(module.gate.normalize, nn.BatchNorm1d)
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all batches
        norm.train()
    whole = len(images) // BATCH * BATCH or len(
        images
    )  # a small last batch would count as much as a large one
    for start in range(0, whole, BATCH):
        network(torch.from_numpy(images[start : start + BATCH]).float() / 255)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
