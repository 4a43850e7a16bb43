"""How far each path bit is from flipping: what decides on it may come out a little different in another engine.

The bit of a gate or an observer flips where its logit passes 0; all bits of a stage where another prototype's logit
becomes the largest; those of a cascade's second member where the first one's confidence passes the threshold.

All of this is in what the network and its members answer, so it is kept while they do, and nothing runs twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from penstock.nn.cascade import Cascade, confidence
from penstock.nn.observers import observers_of
from penstock.nn.path_network import GatedOutput, PathNetwork
from penstock.nn.prototypes import ConsolidatedNetwork, ConsolidatedOutput

Heard = Mapping[nn.Module, GatedOutput]
"""What a network with paths and its members answered last; of one that no image needed, nothing."""


@contextmanager
def listening(network: PathNetwork) -> Iterator[Heard]:
    """Keep what a network and its members answer until the end of the block."""
    heard: dict[nn.Module, GatedOutput] = {}

    def keep(module: nn.Module, _: Any, output: GatedOutput) -> None:
        heard[module] = output

    members = [module for module in network.modules() if isinstance(module, PathNetwork)]
    handles = [member.register_forward_hook(keep) for member in members]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def margins(network: PathNetwork, heard: Heard) -> Tensor:
    """Distances ``[N, P]`` of what decides on the bits from where they flip, in path order.

    Args:
        network: in evaluation mode.
        heard: what it answered to ``[N, C, H, W]``.

    Returns:
        Infinity for what nothing moves: the bits of a second member that did not run, among others.
    """
    if isinstance(network, Cascade):
        return _of_members(network, heard)
    output = heard[network]
    if isinstance(network, ConsolidatedNetwork):
        assert isinstance(output, ConsolidatedOutput)
        stages = zip(output.router_logits, network.routers, strict=True)
        chosen = [_lead(r)[:, None].expand(-1, sum(router.filters)) for r, router in stages]
        count = len(observers_of(network))
        return torch.cat(
            [*chosen, *(y.abs() for y in output.gate_logits[len(output.gate_logits) - count :])], dim=1
        )
    distances: Tensor = torch.cat(output.gate_logits, dim=1).abs()
    return distances


def _of_members(network: Cascade, heard: Heard) -> Tensor:
    sure = confidence(heard[network.first].logits)
    doubt = (sure - network.threshold).abs()[:, None]
    second = doubt.new_full((len(doubt), network.second.layout.bits), torch.inf)
    if network.second in heard:
        second[sure < network.threshold] = margins(network.second, heard)
    return torch.cat([margins(network.first, heard), doubt, second], dim=1)


def _lead(logits: Tensor) -> Tensor:
    """By how much the largest of ``[N, K]`` leads; where there is only one, for ever."""
    if logits.shape[1] == 1:
        return torch.full_like(logits[:, 0], torch.inf)
    first, second = logits.topk(2, dim=1).values.unbind(dim=1)
    return first - second
