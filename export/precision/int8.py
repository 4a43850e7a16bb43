"""Lowered graphs in int8, as ``QuantizeLinear`` and ``DequantizeLinear`` around the operators that run in it.

The passes, in order: `BlockStem` and `FourChannels` ready the first convolution, `Quantize` makes each graph, branches
too, one of integers, `RoundOnceAtMasks` saves a rounding, `NarrowBorders` lets integers cross from graph to graph, and
`PoolIntegers` averages them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from penstock.bundle import INPUT
from penstock.errors import InvalidArgumentError, UnsupportedError
from penstock.export.building import is_constant
from penstock.export.nodes.regions import all_graphs
from penstock.export.passes.reporting import Report
from penstock.export.passes.simplify import tidy
from penstock.export.precision.borders import NarrowBorders
from penstock.export.precision.four_channels import FourChannels
from penstock.export.precision.masks import RoundOnceAtMasks
from penstock.export.precision.pooling import PoolIntegers
from penstock.export.precision.quantize import Quantize
from penstock.export.precision.standalone import drop_all_unused, own_constants
from penstock.export.precision.stem import BlockStem

MOST = 128  # images to calibrate with: more change no figure


def to_int8(model: ir.Model, images: npt.NDArray[np.uint8], report: Report | None = None) -> ir.Model:
    """A lowered graph with its convolutions and classifier in int8.

    Args:
        model: lowered and finished, for one image or for batches; stays as it is.
        images: ``[N, C, H, W]``, real ones, of which some set the ranges of activations.
        report: is told what passes did.

    Raises:
        UnsupportedError: weights are chosen when the graph runs.
        InvalidArgumentError: there are no images.
    """
    if not len(images):
        raise InvalidArgumentError("no images to calibrate int8 with")
    report = report or Report()
    result = model.clone()
    graph = result.graph
    _refuse_moving_weights(graph)
    own_constants(graph)
    spread = np.linspace(0, len(images) - 1, min(len(images), MOST)).astype(
        int
    )  # they may lie class by class
    feeds = [{INPUT: image[None].astype(np.float32) / np.float32(255)} for image in images[spread]]
    for each in all_graphs(graph):
        for step in (BlockStem(), FourChannels()):
            report.run(step, each)
    report.run(Quantize(feeds), graph)
    for each in all_graphs(graph):
        report.run(RoundOnceAtMasks(), each)
    report.run(NarrowBorders(), graph)
    for each in all_graphs(graph):
        report.run(PoolIntegers(), each)
    drop_all_unused(graph)
    return tidy(result)


def _refuse_moving_weights(graph: ir.Graph) -> None:
    for node in (node for each in all_graphs(graph) for node in each):
        if node.op_type in ("Conv", "ConvTranspose") and not is_constant(node.inputs[1]):
            raise UnsupportedError(
                f"the weights of {node.name} are gathered for each image, which at int8 takes the time that it saves: "
                "take the lowering masked or routed for int8"
            )
