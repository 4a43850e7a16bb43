"""What is left to do where gates only look on: nothing, since they are captured as plain operators."""

from __future__ import annotations

import onnx_ir as ir

from penstock.export.lowerings.executed import Executed, everything
from penstock.export.passes.reporting import Report


class Observed:
    """The dense network, whole, and the observers beside it."""

    name = "observed"
    single = False

    def lower(self, model: ir.Model, report: Report | None = None) -> Executed:
        """Leave the model as it is."""
        return everything
