"""Bring a lowered graph to the precision that is wanted."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from penstock.export.passes.reporting import Report
from penstock.export.precision.fp16 import to_fp16
from penstock.export.precision.int8 import to_int8
from penstock.manifest import FP16, INT8


def narrow(
    model: ir.Model, precision: str, images: npt.NDArray[np.uint8], report: Report | None = None
) -> ir.Model:
    """A lowered graph at some precision; at float32 it is the same one.

    Args:
        model: lowered and finished; stays as it is.
        precision: one of `penstock.manifest.PRECISIONS`.
        images: ``[N, C, H, W]``, to calibrate int8 with.
        report: is told what passes did.

    Raises:
        UnsupportedError: int8 of weights that are chosen when the graph runs.
    """
    if precision == INT8:
        return to_int8(model, images, report)
    return to_fp16(model, report) if precision == FP16 else model
