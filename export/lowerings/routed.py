"""The ``routed`` lowering: every prototype becomes a static network that is as small as its path.

    k = argmax router(x);  out = stage_k(x)

A stage, from its router's input to the next router's, is copied for each prototype; `KeepCompact` leaves in each copy
only what its prototype runs, with static weights, so that it works as fast as any dense network of its size. Each image
takes one copy. With a single prototype there is nothing to choose, and the network simply becomes smaller. Of a
cascade, the second member runs for those images only of which the first is not sure.

    batches     rows are grouped by prototype and put back in order; a prototype that no row takes does not run
    one image   a tree of ``If`` nodes leads to its prototype
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from penstock.errors import UnsupportedError
from penstock.export.building import Builder, fix_batch, supersede
from penstock.export.lowerings.branches import choose_one, group_rows
from penstock.export.lowerings.cascades import lower_cascades
from penstock.export.lowerings.executed import Executed, Prototypes, Stage
from penstock.export.nodes.channelwise import MASK_FORMS
from penstock.export.nodes.compact import Index
from penstock.export.nodes.gated_conv import read_gated_conv
from penstock.export.nodes.regions import copied, drop_unused, stage_region
from penstock.export.nodes.routed_conv import RoutedConvNode, read_routed_conv
from penstock.export.passes.align_widths import OPEN, AlignWidths, Widths
from penstock.export.passes.keep_compact import KeepCompact
from penstock.export.passes.long_gathers import LongGathers
from penstock.export.passes.reporting import Report
from penstock.export.passes.scatter_at_adds import ScatterAtAdds
from penstock.export.passes.simplify import fold_constants

Masks = Mapping[ir.Value, RoutedConvNode]  # codes in whatever form, and whose they are


@dataclass
class Routed:
    """One static network per prototype.

    Attributes:
        single: make a graph for exactly one image.
        widths: of the static convolutions, by layer.
        others: of all other layers; if nothing is said, one filter for each that is open.
    """

    single: bool = False
    widths: Mapping[str, Widths] = field(default_factory=dict)
    others: Widths = OPEN
    name = "routed"

    def lower(self, model: ir.Model, report: Report | None = None) -> Executed:
        """Replace every operator of our domain in ``model``, in place.

        Raises:
            UnsupportedError: gates decide on the paths.
        """
        graph = model.graph
        if self.single:
            fix_batch(graph)
        if any(read_gated_conv(node) for node in graph):
            raise UnsupportedError(
                "the network has gates, which no prototypes stand for: take the lowering gathered, or masked for a "
                "cascade, or consolidate it first"
            )
        report = report or Report()
        _settle_choices(graph)
        masks = _masks(graph, single=self.single)
        stages = _stages(graph)
        several = [stage for stage in stages if stage[0].prototypes > 1]
        executed = [self._lower_stage(graph, stage, masks, report) for stage in several]
        static = [conv for stage in stages if stage[0].prototypes == 1 for conv in stage]
        if static:
            executed.append(_executed(static, [self._compact(graph, static, masks, 0, report)]))
        for step in (ScatterAtAdds, LongGathers):
            report.skip(step.name, "prototypes fix all channels and weights beforehand")
        fold_constants(graph)
        lower_cascades(graph, single=self.single)
        return Prototypes(executed)

    def _lower_stage(
        self, graph: ir.Graph, stage: Sequence[RoutedConvNode], masks: Masks, report: Report
    ) -> Stage:
        region = stage_region(graph, [conv.node for conv in stage])
        branches, shares = [], []
        for number in range(stage[0].prototypes):
            branch = copied(region, f"{stage[0].layer}.prototype{number}")
            shares.append(self._compact(branch, stage, masks, number, report))
            branches.append(branch)
        build = Builder(graph, f"{stage[0].layer}.route")
        results = (choose_one if self.single else group_rows)(build, stage[0].chosen, branches)
        graph.insert_after(region.nodes[-1], list(build.tape.nodes))
        for old, new in zip(region.outputs, results, strict=True):
            supersede(old, new)
        graph.remove(region.nodes, safe=True)
        graph.sort()
        return _executed(stage, shares)

    def _compact(
        self,
        graph: ir.Graph,
        convs: Collection[RoutedConvNode],
        masks: Masks,
        prototype: int,
        report: Report,
    ) -> Mapping[str, float]:
        """Leave in a graph only what one prototype runs, and say by convolution which share that is."""
        nodes = {conv.node for conv in convs}
        known: dict[ir.Value, Index] = {
            value: np.flatnonzero(conv.bits[prototype]) for value, conv in masks.items() if conv.node in nodes
        }
        compact = KeepCompact(known, prototype=prototype)
        for step in (AlignWidths(self.widths, prototype, self.others), compact):
            report.run(step, graph)
        drop_unused(graph)
        return compact.shares


def _executed(convs: Sequence[RoutedConvNode], shares: Sequence[Mapping[str, float]]) -> Stage:
    bits = np.concatenate([conv.bits for conv in convs], axis=1)
    names = dict.fromkeys(name for share in shares for name in share)
    each = {name: np.array([share.get(name, 1.0) for share in shares]) for name in names}
    return Stage(tuple(conv.layer for conv in convs), bits, each)


def _stages(graph: ir.Graph) -> list[list[RoutedConvNode]]:
    """Routed convolutions that one router rules, in order."""
    stages: dict[ir.Value, list[RoutedConvNode]] = {}
    for node in graph:
        conv = read_routed_conv(node)
        if conv is not None:
            stages.setdefault(conv.chosen, []).append(conv)
    return list(stages.values())


def _settle_choices(graph: ir.Graph) -> None:
    """With a single prototype a router says 0 for every row, which nobody needs to look at a map for."""
    for stage in _stages(graph):
        decision = stage[0].chosen.producer()
        said = decision.inputs[0] if decision is not None and decision.op_type == "ArgMax" else None
        if said is not None and stage[0].prototypes == 1:
            build = Builder(graph, f"{stage[0].layer}.only")
            rows = build.op("Shape", stage[0].x, start=0, end=1)
            size = build.op("Concat", rows, build.constant(np.ones(1, np.int64), "one"), axis=0)
            logits = build.op("ConstantOfShape", size, value=ir.tensor(np.zeros(1, np.float32)))
            build.insert_before(stage[0].node)
            supersede(said, logits)
    graph.sort()
    drop_unused(graph)


def _masks(graph: ir.Graph, *, single: bool) -> Masks:
    """Let codes come from the prototypes' tables, whoever runs, and find the forms in which they mask.

    With one prototype and one image there is nothing to look up: path and cost are constants, which engines fold.
    """
    masks: dict[ir.Value, RoutedConvNode] = {}
    for node in list(graph):
        conv = read_routed_conv(node)
        if conv is not None:
            build = Builder(graph, f"{conv.layer}.code")
            table = build.constant(conv.bits.astype(np.float32), "bits")
            known = single and conv.prototypes == 1
            code = table if known else build.op("Gather", table, conv.chosen, axis=0)
            build.insert_before(node)
            supersede(node.outputs[1], code)
            masks[code] = conv
        elif node.op_type in MASK_FORMS and node.inputs[0] in masks:
            masks[node.outputs[0]] = masks[node.inputs[0]]
    return masks
