"""Lowered graphs in int8, as ``QuantizeLinear`` and ``DequantizeLinear`` around the operators that run in it.

ONNX Runtime's quantisation does not look into the branches of ``If`` nodes. So every graph, the outermost and each
branch, is quantised for itself, as a static network that reads activations and other branches' answers, calibrated with
what really enters it for the images that take it. Float32 values cross the borders at first; then `borders` lets uint8
ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from penstock.bundle import INPUT
from penstock.errors import InvalidArgumentError, UnsupportedError
from penstock.export.building import is_constant
from penstock.export.lowerings.regions import inner_graphs, reads
from penstock.export.passes.simplify import tidy
from penstock.export.precision.borders import narrow_borders
from penstock.export.precision.forms import Scale
from penstock.export.precision.masks import round_once_at_masks
from penstock.export.precision.pooling import pool_integers
from penstock.export.precision.quantizable import answering, quantizable
from penstock.export.precision.scales import handed_down, settle
from penstock.export.precision.standalone import (
    IF,
    Feed,
    convolves,
    drop_all_unused,
    own_constants,
    standalone,
    trace,
)
from penstock.export.precision.static import put_back, quantized
from penstock.export.precision.stem import block_stem

MOST = 128  # images to calibrate with: more change no figure
FEWEST = 16  # of them for a branch; if fewer take it, all are used


def to_int8(model: ir.Model, images: npt.NDArray[np.uint8]) -> ir.Model:
    """A lowered graph with its convolutions and classifier in int8.

    Args:
        model: lowered and finished, for one image or for batches; stays as it is.
        images: ``[N, C, H, W]``, real ones of which the first few set the ranges of activations.

    Raises:
        UnsupportedError: weights are chosen when the graph runs.
        InvalidArgumentError: there are no images.
    """
    if not len(images):
        raise InvalidArgumentError("no images to calibrate int8 with")
    result = model.clone()
    _refuse_moving_weights(result.graph)
    own_constants(result.graph)
    block_stem(result.graph)
    feeds = [{INPUT: image[None].astype(np.float32) / np.float32(255)} for image in images[:MOST]]
    _Quantization(answering(result.graph.outputs[0])).quantize(result.graph, feeds, {})
    round_once_at_masks(result.graph)
    narrow_borders(result.graph)
    pool_integers(result.graph)
    drop_all_unused(result.graph)
    return tidy(result)


@dataclass(frozen=True)
class _Quantization:
    """Quantises graphs.

    Attributes:
        answers: names of the values that become the logits.
    """

    answers: frozenset[str]

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
            chosen = quantizable(network, self.answers)
            if chosen:
                put_back(graph, plain, quantized(network, chosen, traced, settled))
        for node in branching:
            self._branches(node, traced, settled)

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


def _refuse_moving_weights(graph: ir.Graph) -> None:
    for node in graph:
        if node.op_type in ("Conv", "ConvTranspose") and not is_constant(node.inputs[1]):
            raise UnsupportedError(
                f"the weights of {node.name} are gathered for each image, so they have no fixed scales to quantise "
                "them with: take the lowering masked or routed for int8"
            )
        for inner in inner_graphs(node):
            _refuse_moving_weights(inner)
