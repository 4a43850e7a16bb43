"""Quantise a graph and its branches, each for itself.

ONNX Runtime's quantisation does not look into the branches of ``If`` nodes. So every graph, the outermost and each
branch, is quantised as a static network that reads activations and other branches' answers, calibrated with what really
enters it for the images that take it. Float32 values cross the borders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from penstock.export.nodes.regions import reads
from penstock.export.passes.reporting import Effect
from penstock.export.precision.forms import Scale
from penstock.export.precision.quantizable import answering, quantizable
from penstock.export.precision.scales import handed_down, settle
from penstock.export.precision.standalone import IF, Feed, convolves, standalone, trace
from penstock.export.precision.static import put_back, quantized

FEWEST = 16  # images for a branch; if fewer take it, all are used


class Quantize:
    """Convolutions, what lies between them, and the classifier read and give integers; see `quantizable`.

    It declines what decides on paths, what adds or passes on float32 values, and sums of maps of other sizes.

    Args:
        feeds: what enters the outermost graph, image by image; the graph must have constants of its own.
    """

    name = "compute in int8"

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = feeds

    def __call__(self, graph: ir.Graph) -> Effect:
        """Quantise a graph and its branches."""
        run = _Quantization(answering(graph.outputs[0]))
        run.quantize(graph, self._feeds, {})
        return run.effect


@dataclass(frozen=True)
class _Quantization:
    """Quantises graphs.

    Attributes:
        answers: names of the values that become the logits.
        effect: what it did, over all graphs.
    """

    answers: frozenset[str]
    effect: Effect = field(default_factory=Effect)

    def quantize(self, graph: ir.Graph, feeds: Sequence[Feed], scales: Mapping[str, Scale]) -> None:
        """Quantise a graph and its branches, in place.

        Args:
            graph: with constants of its own.
            feeds: what enters it, image by image.
            scales: of what enters and leaves it, by name, where they are settled.
        """
        branching = [node for node in graph if node.op_type == IF]
        plain = [node for node in graph if node.op_type != IF]
        into = _unique(value for node in branching for value in reads(node) if value.producer() in graph)
        back = _unique(value for node in plain for value in reads(node) if value.producer() in branching)
        traced = trace(graph, _unique([*into, *back]), feeds)
        settled = settle(graph, scales, traced)
        outputs = [value for value in _unique([*into, *graph.outputs]) if value.producer() in plain]
        if outputs:
            network = standalone(graph, plain, outputs, traced[0])
            found = quantizable(network, self.answers)
            self._remember(found, str(graph.name))
            if found.changed:
                put_back(graph, plain, quantized(network, found.changed, traced, settled))
        for node in branching:
            self._branches(node, traced, settled)

    def _remember(self, found: Effect, graph: str) -> None:
        """Branches have nodes of equal names."""
        self.effect.changed += [f"{graph}/{name}" for name in found.changed]
        self.effect.declined.update({f"{graph}/{name}": why for name, why in found.declined.items()})

    def _branches(self, node: ir.Node, feeds: Sequence[Feed], scales: Mapping[str, Scale]) -> None:
        condition = node.inputs[0]
        assert condition is not None
        taken = [bool(feed[str(condition.name)].item()) for feed in feeds]
        for attribute in node.attributes.values():
            branch, wanted = attribute.as_graph(), attribute.name == "then_branch"
            if not convolves(branch):
                continue
            own = [feed for feed, choice in zip(feeds, taken, strict=True) if choice == wanted]
            own = own if len(own) >= FEWEST else [_all_rows(feed) for feed in feeds]
            self.quantize(branch, own, handed_down(node, branch, scales))


def _unique(values: Iterable[ir.Value]) -> list[ir.Value]:
    return list(dict.fromkeys(values))


def _all_rows(feed: Feed) -> Feed:
    """A branch reads truth values to pick the rows that it is to run, and nothing else."""
    return {name: np.ones_like(value) if value.dtype == np.bool_ else value for name, value in feed.items()}
