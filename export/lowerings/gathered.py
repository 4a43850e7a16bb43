"""The ``gathered`` lowering: gather the open filters' weights and run a convolution that is that much smaller.

`penstock.export.passes.keep_compact` says how. Indices differ from image to image, so the graph takes one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from penstock.errors import UnsupportedError
from penstock.export.building import fix_batch
from penstock.export.lowerings.executed import Executed, OpenOnly
from penstock.export.operators import DOMAIN, GATED_CONV
from penstock.export.passes.align_widths import AlignWidths
from penstock.export.passes.keep_compact import KeepCompact
from penstock.export.passes.long_gathers import LongGathers
from penstock.export.passes.reporting import Report
from penstock.export.passes.scatter_at_adds import ScatterAtAdds


@dataclass(frozen=True, kw_only=True)
class Picking:
    """How the convolutions run whose weights are picked for each image, by the gated layer that decides.

    Attributes:
        whole: layers that nevertheless run whole and are masked.
        turned: layers whose own convolution is turned, see `penstock.export.passes.long_gathers`.
        turned_readers: layers whose open channels are read by turned convolutions.
    """

    whole: frozenset[str] = frozenset()
    turned: frozenset[str] = frozenset()
    turned_readers: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Gathered:
    """Gather weights, smaller convolution.

    Attributes:
        picking: what runs in another form than usual, where that is faster.
    """

    picking: Picking = field(default_factory=Picking)
    name = "gathered"
    single = True

    def lower(self, model: ir.Model, report: Report | None = None) -> Executed:
        """Replace every gated convolution of ``model``, in place, and fix the batch at one.

        Raises:
            UnsupportedError: a gated convolution has groups, or there are prototypes.
        """
        if any(node.domain == DOMAIN and node.op_type != GATED_CONV for node in model.graph):
            raise UnsupportedError(
                "the network has prototypes or is a cascade, whose paths are known beforehand: take the lowering routed"
            )
        fix_batch(model.graph)
        report = report or Report()
        report.skip(AlignWidths.name, "gates decide how many filters run when the graph does")
        compact = KeepCompact({}, whole=self.picking.whole)
        for step in (compact, ScatterAtAdds(), LongGathers(self.picking.turned, self.picking.turned_readers)):
            report.run(step, model.graph)
        return OpenOnly(compact.narrow, self.picking.whole)
