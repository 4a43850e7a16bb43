"""A network with prototypes whose routers are watched: beside each stage's router a gate reads what the router reads.

The gate is that of the stage's first layer in the decoupled network that was consolidated: one for each stage, at the
place where its input is at hand anyway. It rules nothing. Its logits take the place of the router's soft code of
the first layer, so that a detector sees both what ran and what gates would have opened.
"""

from __future__ import annotations

import copy
from dataclasses import replace

from torch import Tensor

from penstock.errors import UnsupportedError
from penstock.nn.gates import Gate
from penstock.nn.path_network import PathNetwork
from penstock.nn.prototypes import ConsolidatedNetwork
from penstock.nn.routing import Route, StageRouter
from penstock.nn.surgery import GatedNetwork


class WatchedRouter(StageRouter):
    """A router, and a gate that looks on.

    Args:
        router: chooses.
        gate: of the stage's first layer.
    """

    def __init__(self, router: StageRouter, gate: Gate) -> None:
        channels = gate.reduce.in_features
        hidden = router.reduce.out_features if router.count > 1 else 1
        super().__init__(channels, router.filters, router.count, hidden)
        self.load_state_dict(router.state_dict())
        self.noise = router.noise
        self.gate = gate

    def forward(self, x: Tensor) -> Route:
        """Decide for ``x`` ``[N, C, H, W]``."""
        route = super().forward(x)
        return route._replace(soft_codes=(self.gate(x).logits, *route.soft_codes[1:]))


def watch(network: PathNetwork, gated: PathNetwork) -> ConsolidatedNetwork:
    """A network with prototypes, its routers watched by gates.

    Args:
        network: with prototypes; it is copied, not changed.
        gated: the decoupled network that it was made from, or another one with gates of the same form.

    Raises:
        UnsupportedError: the first has no prototypes, the second no gates, or they are of two architectures.
    """
    if not isinstance(network, ConsolidatedNetwork):
        raise UnsupportedError(f"a {type(network).__name__} has no routers to watch: take a consolidated run")
    if not isinstance(gated, GatedNetwork) or isinstance(gated, ConsolidatedNetwork):
        raise UnsupportedError(
            f"a {type(gated).__name__} has no gates: name the run of `penstock decouple` that was consolidated"
        )
    shapes = [[(layer.name, layer.filters) for layer in each.layout.layers] for each in (network, gated)]
    if shapes[0] != shapes[1]:
        raise UnsupportedError(
            "prototypes and gates are of two architectures: name the run that was consolidated"
        )
    watched = copy.deepcopy(network)
    first = macs = 0
    for index, router in enumerate(network.routers):
        gate = copy.deepcopy(gated.gated_layers[first].gate)
        watched.body.set_submodule(f"routers.{index}", WatchedRouter(router, gate))
        macs += gate.macs
        first += len(router.filters)
    watched.layout = replace(network.layout, fixed_macs=network.layout.fixed_macs + macs)
    watched.active_macs = type(network.active_macs)(watched.layout)
    return watched.eval()
