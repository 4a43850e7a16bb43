"""Images of which another engine must find the very path that PyTorch finds.

Where training ends depends on how a machine adds, and with it whether a gate of some image ends up so near 0 that
the same sum in another order has the other sign. Exports are checked with that in mind (`penstock.export.verify`),
and so are tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from penstock.nn.inference import Levels
    from penstock.nn.path_network import PathNetwork


def decided(network: PathNetwork, images: Levels) -> npt.NDArray[np.bool_]:
    """Of which of ``[N, C, H, W]`` in 0..255 no bit is so near to flipping that an export may have the other one.

    They are as many as an export asks for.
    """
    from penstock.export.capture.contract import ServedModel
    from penstock.export.verify.parity import FLIPPED, MARGIN, reference

    margins = reference(ServedModel(network, None).eval(), images).margins
    found: npt.NDArray[np.bool_] = margins.min(axis=1) > MARGIN
    assert found.mean() >= 1 - FLIPPED
    return found
