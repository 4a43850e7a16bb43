"""What a finished run is measured by.

``input_dependent`` is the strict share of `penstock.learn.dependence`, ``varying`` the naive one, as in what
``penstock evaluate`` prints.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from penstock.data import ImageSet
from penstock.detect import conformal_threshold, false_positive_interval, resplit_rates
from penstock.learn.dependence import Dependence, dependence, measure_steadiness
from penstock.nn.cascade import Cascade
from penstock.nn.inference import Answers, predict
from penstock.nn.path_network import PathNetwork
from penstock.paths import PathSet


def accuracy_figures(
    images: ImageSet, answers: Answers, network: PathNetwork, dense: nn.Module
) -> dict[str, Any]:
    """Accuracy, cost and input dependence on images that nothing was trained, chosen or calibrated by.

    Args:
        images: the images.
        answers: of the network with paths.
        network: which answered; it is run once more, under noise.
        dense: the dense network.
    """
    layout = network.layout
    paths = PathSet(layout, answers.bits)
    steadiness = measure_steadiness(network, images.images, paths)
    found = dependence(paths, images.labels, len(images.class_names), steadiness)
    return {
        "images": len(images),
        "dense_accuracy": float((predict(dense, images.images) == images.labels).mean()),
        "decoupled_accuracy": answers.accuracy(images.labels),
        "mac_fraction": float(paths.active_macs.mean()),
        "density": layout.over_filters(paths.bits, without=1.0),
        **dependent_shares(network, paths, found),
        "dense_macs": layout.dense_macs,
    }


def dependent_shares(network: PathNetwork, paths: PathSet, found: Dependence) -> dict[str, float | None]:
    """Shares of filters that vary and that depend on the input, by name; ``None`` where they would mislead.

    A cascade takes one decision. All filters of its second member follow it, and would count as so many.
    """
    if isinstance(network, Cascade):
        return {"varying": None, "input_dependent": None}
    return {
        "varying": paths.layout.over_filters(found.varies, without=0.0),
        "input_dependent": paths.layout.over_filters(found.input_dependent, without=0.0),
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
