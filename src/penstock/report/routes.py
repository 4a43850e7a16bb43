"""Which prototypes of a consolidated network ran for which images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from penstock.nn.prototypes import ConsolidatedNetwork
from penstock.report.section_prototypes import Prototypes


@torch.inference_mode()
def read_prototypes(
    network: ConsolidatedNetwork, images: npt.NDArray[np.uint8], batch: int = 250
) -> Prototypes:
    """Run a consolidated network and note what its routers pick.

    Args:
        network: in evaluation mode.
        images: ``[N, C, H, W]`` uint8, at least one.
        batch: images per run.
    """
    pieces = []
    for start in range(0, len(images), batch):
        output = network(torch.from_numpy(images[start : start + batch]).float() / 255)
        pieces.append(torch.stack([logits.argmax(1) for logits in output.router_logits], dim=1))
    bits = tuple(router.prototypes.numpy().astype(np.uint8) for router in network.routers)
    return Prototypes(bits, torch.cat(pieces).numpy())
