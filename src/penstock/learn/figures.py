"""What a finished run is measured by."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from penstock.data import ImageSet
from penstock.detect import conformal_threshold, false_positive_interval, resplit_rates
from penstock.nn.inference import Answers, predict
from penstock.paths import PathLayout, PathSet


def accuracy_figures(
    images: ImageSet, answers: Answers, layout: PathLayout, dense: nn.Module
) -> dict[str, Any]:
    """Accuracy and cost on images that were held out of training and selection.

    Args:
        images: the images.
        answers: of the network with paths.
        layout: its paths'.
        dense: the dense network.
    """
    paths = PathSet(layout, answers.bits)
    return {
        "images": len(images),
        "dense_accuracy": float((predict(dense, images.images) == images.labels).mean()),
        "decoupled_accuracy": answers.accuracy(images.labels),
        "mac_fraction": float(paths.active_macs.mean()),
        "density": float(paths.bits.mean()),
        "input_dependent": float(paths.input_dependent().mean()),
        "dense_macs": layout.dense_macs,
    }


def flag_figures(
    fpr: float, calibration: npt.NDArray[np.float32], test: npt.NDArray[np.float32]
) -> dict[str, Any]:
    """What the detector's promise came to, from anomaly scores ``[N]`` of honest images."""
    scores = np.concatenate([calibration, test])
    rates = resplit_rates(scores, len(calibration), fpr, rounds=100, seed=0)
    low, high = false_positive_interval(len(test), len(calibration), fpr)
    return {
        "fpr_target": fpr,
        "fpr": float((test > conformal_threshold(calibration, fpr)).mean()),
        "fpr_interval_99": [low, high],
        "fpr_mean_of_100_resplits": float(rates.mean()),
    }
