"""Put stand-ins into a network, so that PyTorch's exporter leaves whole what lowerings work on."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn

from penstock.export.capture.cascaded import CapturedCascade
from penstock.export.capture.contract import DenseModel, ServedModel
from penstock.export.capture.gated import CapturedGatedConv
from penstock.export.capture.observed import CapturedObserver, CapturedStageObserver
from penstock.export.capture.routed import CapturedRoutedConv, CapturedRouter
from penstock.nn.cascade import Cascade
from penstock.nn.gates import GatedConv2d
from penstock.nn.observed import ObservedConv2d, ObservedNetwork
from penstock.nn.observers import OBSERVERS, observers_of
from penstock.nn.prototypes import ConsolidatedNetwork
from penstock.nn.routing import RoutedConv2d
from penstock.nn.surgery import GatedNetwork


def capturable(model: ServedModel | DenseModel) -> nn.Module:
    """A copy whose gates, routers and cascades have stand-ins; the original is left as it was."""
    copied = copy.deepcopy(model).eval()
    if isinstance(copied, ServedModel):
        copied.network = _stand_in(copied.network)  # type: ignore[assignment]
    return copied


def _stand_in(network: nn.Module, prefix: str = "") -> nn.Module:
    if isinstance(network, Cascade):
        first = _stand_in(network.first, f"{prefix}first.")
        return CapturedCascade(network, first, _stand_in(network.second, f"{prefix}second."))
    if isinstance(network, ConsolidatedNetwork):
        _stand_in_routed(network, prefix)
    elif isinstance(network, GatedNetwork):
        for layer in network.layout.layers:
            if not layer.observes:
                gated = cast(GatedConv2d, network.body.get_submodule(layer.name))
                network.body.set_submodule(layer.name, CapturedGatedConv(gated, prefix + layer.name))
    elif isinstance(network, ObservedNetwork):
        for name in network.layout.names:
            observed = cast(ObservedConv2d, network.body.get_submodule(name))
            network.body.set_submodule(name, CapturedObserver(observed))
    if isinstance(network, GatedNetwork):
        for index, observer in enumerate(observers_of(network)):
            network.body.set_submodule(f"{OBSERVERS}.{index}", CapturedStageObserver(observer))
    return network


def _stand_in_routed(network: ConsolidatedNetwork, prefix: str) -> None:
    names = iter(network.layout.names)
    for index, router in enumerate(network.routers):
        for bits in torch.split(router.prototypes, router.filters, 1):
            name = next(names)
            routed = cast(RoutedConv2d, network.body.get_submodule(name))
            network.body.set_submodule(name, CapturedRoutedConv(routed, bits, prefix + name))
        network.body.set_submodule(f"routers.{index}", CapturedRouter(router))
