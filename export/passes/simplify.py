"""Take out of a graph what only the exporter needed, and set the version of the file."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes import InPlacePass
from onnx_ir.passes import common as passes
from onnxscript import optimizer

from penstock.export.passes.join_alike import join_alike
from penstock.export.passes.join_constants import join_constants

# Of one operator's inputs or outputs: the tables that say what a path costs have far fewer.
MOST_ELEMENTS = 2**24
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


def fold_constants(graph: ir.Graph) -> None:
    """Compute once what is the same for every image, and drop what changes nothing.

    The codes of layers with one prototype are, and so is what such a path costs. Engines fold them too, when they load
    a graph; here it is done before int8 puts operators of its own between them, and before a cascade is lowered, which
    need not choose between members for what does not depend on the image.

    Args:
        graph: changed in place.
    """
    limits = {"input_size_limit": MOST_ELEMENTS, "output_size_limit": MOST_ELEMENTS}
    optimizer.fold_constants(ir.Model(graph, ir_version=IR_VERSION), **limits)


def tidy(model: ir.Model) -> ir.Model:
    """Finish a lowered graph; its ``If`` nodes need the identities that lead values out of their branches."""
    join_alike(model.graph)
    join_constants(model.graph)
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
