"""Merge filters that every calibration image opens into the static part of the network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from penstock.export.passes.reporting import Effect
from penstock.export.passes.settling import settle
from penstock.paths import Bits


class MergeOpenFilters:
    """The gate of a filter that is open for all images answers "open" without looking: ``W2[j] = 0, b2[j] = 1``.

    What is open for good is not asked about: a lowering that picks filters begins each of its indices with them, and a
    layer in which nothing is left to decide becomes a plain static convolution. On the images that were looked at
    nothing changes. The pass declines layers of which some image closes each filter.

    Args:
        paths: by layer, the bits ``[N, filters]`` of the images to go by.
    """

    name = "merge filters that every image opens"

    def __init__(self, paths: Mapping[str, Bits]) -> None:
        self._always = {layer: np.asarray(bits.all(axis=0)) for layer, bits in paths.items()}

    def __call__(self, graph: ir.Graph) -> Effect:
        """Settle the gates of filters that are open; one entry for each."""
        return settle(graph, self._always, 1.0, "some image closes each filter of the layer")
