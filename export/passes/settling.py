"""Settle gates: let them answer the same for every image, which they are not shown any more."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from penstock.export.building import Builder
from penstock.export.nodes.gated_conv import GatedConvNode, read_gated_conv
from penstock.export.passes.reporting import Effect


def settle(graph: ir.Graph, filters: Mapping[str, npt.NDArray[np.bool_]], logit: float, why: str) -> Effect:
    """Let gates answer ``logit`` for some filters, in place.

    Args:
        graph: before any lowering.
        filters: by layer, which of them, ``[filters]``.
        logit: 1 leaves them open for good, -1 closed.
        why: said of layers that have no such filter.

    Returns:
        one entry for each filter.
    """
    effect = Effect()
    for node in list(graph):
        conv = read_gated_conv(node)
        if conv is not None and filters[conv.layer].any():
            _fix(graph, conv, filters[conv.layer], logit)
            effect.changed += [f"{conv.layer}.{place}" for place in np.flatnonzero(filters[conv.layer])]
        elif conv is not None:
            effect.declined[conv.layer] = why
    return effect


def _fix(graph: ir.Graph, conv: GatedConvNode, rows: npt.NDArray[np.bool_], logit: float) -> None:
    build = Builder(graph, conv.layer)
    # New initializers: the old ones may have other readers, because the exporter merges equal tensors.
    weight = build.constant(np.where(rows[:, None], np.float32(0), conv.expand_weight), "settled.weight")
    bias = build.constant(np.where(rows, np.float32(logit), conv.expand_bias), "settled.bias")
    for place, value in ((-2, weight), (-1, bias)):
        conv.node.replace_input_with(len(conv.node.inputs) + place, value)
