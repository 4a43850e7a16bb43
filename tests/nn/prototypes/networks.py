"""Networks with prototypes, and what they do when all images take the same one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from penstock.nn.prototypes import (
    ConsolidatedNetwork,
    PrototypeConfig,
    attach_prototypes,
    set_prototypes,
    stages_by_size,
)
from penstock.nn.surgery import GatedNetwork

Force = Callable[[GatedNetwork, Sequence[Tensor]], GatedNetwork]
NETWORKS = ("chain", "residual", "resnet20", "squeezenet1_1", "densenet40", "mobilenet_v2")
SIZES = {"chain": 16, "residual": 16, "squeezenet1_1": 64}


def example(name: str) -> Tensor:
    size = SIZES.get(name, 32)
    return torch.zeros(1, 3, size, size)


def consolidated(network: GatedNetwork, count: int, **config: Any) -> ConsolidatedNetwork:
    """With random prototypes, and batch norms of each prototype that differ from the others'."""
    stages = config.pop("stages", stages_by_size(network))
    routed = attach_prototypes(network, PrototypeConfig(count=count, stages=stages, **config))
    set_prototypes(
        routed, [torch.bernoulli(torch.full_like(router.prototypes, 0.6)) for router in routed.routers]
    )
    return routed


def choose(network: ConsolidatedNetwork, chosen: int) -> None:
    """Let every router pick one prototype, whatever it sees."""
    for router in network.routers:
        nn.init.zeros_(router.expand.weight)
        with torch.no_grad():
            router.expand.bias.copy_(10.0 * (torch.arange(router.count) == chosen))


def codes_of(network: ConsolidatedNetwork, chosen: int) -> list[Tensor]:
    path = torch.cat([router.prototypes[chosen] for router in network.routers])
    return [path[part] for part in network.layout.slices]


def lived_in(network: ConsolidatedNetwork, name: str) -> ConsolidatedNetwork:
    """Routers that choose differently for different images, and norms of prototypes that have seen different ones."""
    for router in network.routers:
        nn.init.normal_(router.expand.weight, std=3.0)
    network.train()
    for _ in range(3):
        network(torch.rand(12, *example(name).shape[1:]))
    return network.eval()
