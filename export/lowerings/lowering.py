"""What every lowering is."""

from __future__ import annotations

from typing import Protocol

import onnx_ir as ir

from penstock.export.lowerings.executed import Executed
from penstock.export.passes.reporting import Report


class Lowering(Protocol):
    """A way to turn the operators of our domain into plain ONNX.

    Attributes:
        name: as on the command line.
        single: whether the result takes exactly one image at a time.
    """

    name: str
    single: bool

    def lower(self, model: ir.Model, report: Report | None = None) -> Executed:
        """Replace every operator of our domain in ``model``, in place.

        Args:
            model: captured.
            report: is told what passes did.

        Returns:
            what the result really computes.

        Raises:
            UnsupportedError: this lowering cannot do the network; says why and what to do.
        """
