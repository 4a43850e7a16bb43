"""What detectors see of a checkpoint's network, and the scores that it is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from penstock import data
from penstock.detect import FamilyDetector, FamilyScore, PathFeatures
from penstock.errors import NotFoundError
from penstock.nn.checkpoint import Checkpoint
from penstock.nn.inference import Levels, answer
from penstock.nn.path_network import PathNetwork

FIT_IMAGES = 20_000  # training images that a detector is fitted on, at most


def features_of(network: PathNetwork, images: Levels) -> PathFeatures:
    """What detectors see of images ``[N, C, H, W]`` in 0..255."""
    seen = answer(network, images)
    return PathFeatures.of(network.layout, seen.bits, seen.gate_logits, seen.logits)


def fitted_score(
    checkpoint: Checkpoint, name: str, ranking: npt.NDArray[np.uint8], folder: Path | None = None
) -> FamilyScore:
    """A detector's score: the checkpoint's own, or another, fitted on the training images of its data set.

    Args:
        checkpoint: holds the tables of its own.
        name: of a recipe, `penstock.detect.recipe`.
        ranking: ``[N, C, H, W]`` images that the network has not learned from, for recipes that want them; or none.
        folder: of the data set; by default what ``PENSTOCK_DATA`` says.

    Raises:
        NotFoundError: not its own, and there are no training images to fit another to.
    """
    if name == checkpoint.detector_name and checkpoint.detector:
        return checkpoint.score
    source = str(checkpoint.config.get("data", ""))
    if not source:
        raise NotFoundError(f"detector {name} is fitted on training images, and none belong to this source")
    honest = features_of(checkpoint.network, data.load(source, folder=folder).train.images[:FIT_IMAGES])
    ranked = features_of(checkpoint.network, ranking) if len(ranking) else None
    return FamilyDetector(name, classes=len(checkpoint.class_names)).fit(honest, ranked).fitted
