"""Set a graph's threshold: the detector belongs to the exported graph, not to the checkpoint.

Precision and lowering change scores, so the threshold is the conformal quantile of the scores that this very graph
gives to honest images. Where no images are at hand, the scores stored with the checkpoint serve, and the graph is
verified to compute the same score as PyTorch does.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from penstock.bundle import Calibration
from penstock.detect import conformal_threshold
from penstock.export.capture.head import NAME

THRESHOLD = "threshold"


def calibration_of(
    scores: npt.NDArray[np.float32] | npt.NDArray[np.float64], fpr: float, source: str
) -> Calibration:
    """The calibration that scores of honest images give.

    Args:
        scores: ``[N]``.
        fpr: promised false-positive rate.
        source: ``graph`` or ``stored``, where the scores came from.

    Raises:
        InvalidArgumentError: too few scores for this rate.
    """
    threshold = float(np.float32(conformal_threshold(scores, fpr)))
    return Calibration(detector=NAME, target_fpr=fpr, threshold=threshold, images=len(scores), source=source)


def set_threshold(model: ir.Model, threshold: float) -> None:
    """Write the threshold into the graph."""
    value = model.graph.initializers[THRESHOLD]
    value.const_value = ir.tensor(np.array(threshold, dtype=np.float32), name=THRESHOLD)
