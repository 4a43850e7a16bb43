"""Compute once, when a graph is compiled, what is the same for every image."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript.optimizer import fold_constants

from penstock.export.passes.reporting import Effect

MOST_ELEMENTS = (
    2**24
)  # of what is read or made; codes, and the tables that say what a path costs, are far smaller


class FoldConstants:
    """``f(A, B)`` becomes its value where A and B are constants.

    The codes of layers with one prototype are, and so is what such a path costs. Engines fold them too, when they load
    the graph; here it happens before int8 rounds, which else puts its own operators between them, and before a cascade
    is lowered, which need not choose between members for what does not depend on the image.
    """

    name = "fold constants"

    def __call__(self, graph: ir.Graph) -> Effect:
        """Fold all that can be folded."""
        before = {str(node.name) for node in graph}
        fold_constants(
            ir.Model(graph, ir_version=10), input_size_limit=MOST_ELEMENTS, output_size_limit=MOST_ELEMENTS
        )
        return Effect(sorted(before - {str(node.name) for node in graph}))
