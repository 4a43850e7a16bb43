"""How far each path bit is from flipping: what decides on it may come out a little different in another engine.

The bit of a gate or an observer flips where its logit passes 0; all bits of a stage where another prototype's logit
becomes the largest; those of a cascade's second member where the first one's confidence passes the threshold.
"""

from __future__ import annotations

import torch
from torch import Tensor

from penstock.nn.cascade import Cascade, confidence
from penstock.nn.observers import observers_of
from penstock.nn.path_network import PathNetwork
from penstock.nn.prototypes import ConsolidatedNetwork


def margins(network: PathNetwork, images: Tensor) -> Tensor:
    """Distances ``[N, P]`` of what decides on the bits from where they flip, in path order.

    Args:
        network: in evaluation mode.
        images: ``[N, C, H, W]`` float32.
    """
    if isinstance(network, Cascade):
        answered = network.first(images)
        doubt = (confidence(answered.logits) - network.threshold).abs()[:, None]
        return torch.cat([margins(network.first, images), doubt, margins(network.second, images)], dim=1)
    output = network(images)
    if isinstance(network, ConsolidatedNetwork):
        stages = zip(output.router_logits, network.routers, strict=True)
        chosen = [_lead(r)[:, None].expand(-1, sum(router.filters)) for r, router in stages]
        count = len(observers_of(network))
        return torch.cat(
            [*chosen, *(y.abs() for y in output.gate_logits[len(output.gate_logits) - count :])], dim=1
        )
    distances: Tensor = torch.cat(output.gate_logits, dim=1).abs()
    return distances


def _lead(logits: Tensor) -> Tensor:
    """By how much the largest of ``[N, K]`` leads; where there is only one, for ever."""
    if logits.shape[1] == 1:
        return torch.full_like(logits[:, 0], torch.inf)
    first, second = logits.topk(2, dim=1).values.unbind(dim=1)
    return first - second
