"""The ``gathered`` lowering: gather the open filters' weights and run a convolution that is that much smaller.

`penstock.export.lowerings.compaction` says how. Indices differ from image to image, so the graph takes one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from penstock.errors import UnsupportedError
from penstock.export.building import fix_batch
from penstock.export.capture.operators import DOMAIN, GATED_CONV
from penstock.export.lowerings.compaction import Compaction, Picking
from penstock.export.lowerings.executed import Executed, OpenOnly


@dataclass(frozen=True)
class Gathered:
    """Gather weights, smaller convolution.

    Attributes:
        picking: what runs in another form than usual, where that is faster.
    """

    picking: Picking = field(default_factory=Picking)
    name = "gathered"
    single = True

    def lower(self, model: ir.Model) -> Executed:
        """Replace every gated convolution of ``model``, in place, and fix the batch at one.

        Raises:
            UnsupportedError: a gated convolution has groups, or there are prototypes.
        """
        if any(node.domain == DOMAIN and node.op_type != GATED_CONV for node in model.graph):
            raise UnsupportedError(
                "the network has prototypes or is a cascade, whose paths are known beforehand: take the lowering routed"
            )
        fix_batch(model.graph)
        compaction = Compaction(model.graph, picking=self.picking)
        compaction.run()
        return OpenOnly(frozenset(compaction.narrow), self.picking.whole)
