"""Take out of a graph what only the exporter needed, and set the version of the file."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes import InPlacePass
from onnx_ir.passes import common as passes

from penstock.export.passes.join_constants import JoinConstants

IR_VERSION = 8  # read by every ONNX Runtime since 1.10; newer versions add nothing that we use


def simplify(model: ir.Model) -> ir.Model:
    """Drop identities, repetitions and what nobody reads."""
    return _apply(
        model,
        (
            passes.IdentityEliminationPass(),
            passes.LiftConstantsToInitializersPass(lift_all_constants=True),
            passes.CommonSubexpressionEliminationPass(),
            passes.DeduplicateInitializersPass(),
            passes.RemoveUnusedNodesPass(),
            passes.TopologicalSortPass(),
        ),
    )


def tidy(model: ir.Model) -> ir.Model:
    """Finish a lowered graph; its ``If`` nodes need the identities that lead values out of their branches."""
    JoinConstants()(model.graph)
    _apply(
        model,
        (
            passes.RemoveUnusedNodesPass(),
            passes.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
            passes.RemoveUnusedOpsetsPass(),
            passes.TopologicalSortPass(),
            passes.ClearMetadataAndDocStringPass(),
            passes.NameFixPass(),
        ),
    )
    model.ir_version = IR_VERSION
    return model


def _apply(model: ir.Model, steps: Sequence[InPlacePass]) -> ir.Model:
    for step in steps:
        step(model)
    return model
