"""Drop filters that no calibration image opens."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from penstock.export.passes.reporting import Effect
from penstock.export.passes.settling import settle
from penstock.paths import Bits


class DropClosedFilters:
    """The gate of a filter that is closed for all images answers "closed" without looking: ``W2[j] = 0, b2[j] = -1``.

    What is closed for good is never asked about, and a lowering that picks filters leaves it out. On the images that
    were looked at nothing changes; on others a filter may be missing that its gate would have opened. The pass declines
    layers in which every filter is opened by some image.

    Args:
        paths: by layer, the bits ``[N, filters]`` of the images to go by.
    """

    name = "drop filters that no image opens"

    def __init__(self, paths: Mapping[str, Bits]) -> None:
        self._never = {layer: np.asarray(~bits.any(axis=0)) for layer, bits in paths.items()}

    def __call__(self, graph: ir.Graph) -> Effect:
        """Settle the gates of filters that are closed; one entry for each."""
        return settle(graph, self._never, -1.0, "some image opens each filter of the layer")
