"""What a finished run is measured by."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from penstock.data import Splits
from penstock.detect import conformal_threshold, false_positive_interval, resplit_rates
from penstock.nn.inference import answer, predict
from penstock.nn.path_network import PathNetwork
from penstock.paths import PathSet


def accuracy_figures(splits: Splits, network: PathNetwork, dense: nn.Module) -> dict[str, Any]:
    """Accuracy and cost on all images that were held out of training and selection."""
    held_out = splits.held_out
    answers = answer(network, held_out.images)
    paths = PathSet(network.layout, answers.bits)
    return {
        "images": len(held_out),
        "dense_accuracy": float((predict(dense, held_out.images) == held_out.labels).mean()),
        "decoupled_accuracy": answers.accuracy(held_out.labels),
        "mac_fraction": float(paths.active_macs.mean()),
        "density": float(paths.bits.mean()),
        "input_dependent": float(paths.input_dependent().mean()),
        "dense_macs": network.layout.dense_macs,
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
