"""Finish a lowered graph in float32, before its precision is reduced."""

from __future__ import annotations

import onnx_ir as ir

from penstock.export.passes.enter_blocked import EnterBlocked
from penstock.export.passes.reporting import Report
from penstock.export.passes.simplify import tidy
from penstock.manifest import FP32


def finish(model: ir.Model, precision: str, report: Report | None = None) -> ir.Model:
    """Tidy a lowered graph, in place, and lay it out for the precision that it is going to have.

    Args:
        model: is changed.
        precision: that it is going to have.
        report: gets what passes did.

    Returns:
        The same model.
    """
    report = report or Report()
    tidy(model)
    if precision == FP32:
        report.run(EnterBlocked(), model.graph)
    else:
        report.skip(EnterBlocked.name, "the engine's blocked layout is one of float32")
    return model
