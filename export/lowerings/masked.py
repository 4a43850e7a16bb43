"""The ``masked`` lowering: run the whole convolution, then multiply by z.

    y = gate(x);  z = 1[y > 0];  out = z * relu(conv(x))

A routed convolution takes z, its scale and its shift from the row of the prototype that its image takes. The second
member of a cascade answers every image, and its answers count where the first is not sure.

It saves no time. It is the reference that every other lowering must equal, takes any batch, and runs anywhere.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from penstock.export.building import Builder
from penstock.export.lowerings.cascades import run_both
from penstock.export.lowerings.executed import Executed, everything
from penstock.export.nodes.gated_conv import read_gated_conv
from penstock.export.nodes.masked_conv import mask_gated, spatial
from penstock.export.nodes.routed_conv import RoutedConvNode, read_routed_conv
from penstock.export.operators import DOMAIN
from penstock.export.passes.align_widths import AlignWidths
from penstock.export.passes.keep_compact import KeepCompact
from penstock.export.passes.long_gathers import LongGathers
from penstock.export.passes.reporting import Report
from penstock.export.passes.scatter_at_adds import ScatterAtAdds


class Masked:
    """Dense convolution, then multiply."""

    name = "masked"
    single = False

    def lower(self, model: ir.Model, report: Report | None = None) -> Executed:
        """Replace every operator of our domain in ``model``, in place."""
        for step in (AlignWidths, KeepCompact, ScatterAtAdds, LongGathers):
            (report or Report()).skip(step.name, "the lowering masked runs every filter")
        for node in list(model.graph):
            gated, routed = read_gated_conv(node), read_routed_conv(node)
            if gated is not None:
                mask_gated(model.graph, gated)
            elif routed is not None:
                _lower_routed(model.graph, routed)
            elif node.domain == DOMAIN:
                run_both(model.graph, node)
        return everything


def _lower_routed(graph: ir.Graph, conv: RoutedConvNode) -> None:
    build = Builder(graph, conv.layer)

    def rows(table: npt.NDArray[np.float32], name: str) -> ir.Value:
        return build.op("Gather", build.constant(table, name), conv.chosen, axis=0)

    code = rows(conv.bits.astype(np.float32), "bits")
    output = build.op("Conv", conv.x, build.constant(conv.weight, "weight"), **conv.conv_attributes)
    output = build.op("Mul", output, spatial(build, rows(conv.scale, "scale")))
    output = build.op("Add", output, spatial(build, rows(conv.shift, "shift")))
    output = build.op("Relu", output) if conv.relu else output
    build.replace(conv.node, (build.op("Mul", output, spatial(build, code)), code))
