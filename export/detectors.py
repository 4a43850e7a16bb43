"""The detector that an export carries: the checkpoint's own, or another of the family, fitted anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from penstock import data
from penstock.detect import PathFeatures
from penstock.detect.family import DEFAULT, DOUBT, PVALUES, FamilyDetector
from penstock.errors import NotFoundError, UnsupportedError
from penstock.export.capture.family_head import FamilyHead
from penstock.export.capture.head import DetectorHead
from penstock.export.sample import Sample
from penstock.nn.checkpoint import Checkpoint
from penstock.nn.inference import answer

FIT_IMAGES = 20_000  # training images, at most


def detector_head(checkpoint: Checkpoint, sample: Sample, name: str, folder: Path | None) -> nn.Module:
    """The module that scores paths.

    Args:
        checkpoint: holds the tables of the default detector.
        sample: what the threshold is to be set on, and, of some detectors, scores are ranked by (`ranking`).
        name: of `penstock.detect.family.DETECTORS`.
        folder: of the data set; by default what ``PENSTOCK_DATA`` says.

    Raises:
        UnsupportedError: not the default, and the threshold could not be set: the stored scores are the default's.
        NotFoundError: not the default, and there are no training images to fit it to.
    """
    if name == DEFAULT:
        return DetectorHead(checkpoint.detector)
    source = str(checkpoint.config.get("data", ""))
    if not source:
        raise NotFoundError(f"detector {name} is fitted on training images, and none belong to this source")
    if not sample.real:
        raise UnsupportedError(
            f"detector {name} needs the data set's images, to be fitted and calibrated: name their folder with --data "
            f"or PENSTOCK_DATA, or take {DEFAULT}"
        )
    honest = _seen(checkpoint, data.load(source, folder=folder).train.images[:FIT_IMAGES])
    ranks = ranking(name, len(sample.images))
    detector = FamilyDetector(name, classes=len(checkpoint.class_names))
    return FamilyHead(detector.fit(honest, _seen(checkpoint, sample.images[ranks]) if ranks.any() else None))


def ranking(name: str, count: int) -> npt.NDArray[np.bool_]:
    """Which calibration images ``[count]`` a detector's scores are ranked by; its threshold is set on the others.

    A network is surer of images that it has learned from than it will be of others, so how surprising a doubt is cannot
    be seen there. Detectors that rank nothing take none.
    """
    ranks = np.zeros(count, np.bool_)
    if name.startswith(PVALUES) or name == DOUBT:
        ranks[::2] = True
    return ranks


def _seen(checkpoint: Checkpoint, images: npt.NDArray[np.uint8]) -> PathFeatures:
    seen = answer(checkpoint.network, images)
    return PathFeatures.of(checkpoint.network.layout, seen.bits, seen.gate_logits, seen.logits)
