"""Networks with gates to attach prototypes to."""

from __future__ import annotations

import pytest
import torch
import torchvision.models as models
from torch import nn

from penstock.nn.backbones import build_backbone
from penstock.nn.surgery import GatedNetwork, attach_gates
from tests.nn.prototypes.networks import example


@pytest.fixture(scope="session")
def gated(chain: nn.Module, residual: nn.Module) -> dict[str, GatedNetwork]:
    """Every network with gates; weights and batch norms that leave no layer without effect."""
    torch.manual_seed(0)
    plain: dict[str, nn.Module] = {"chain": chain, "residual": residual}
    for name in ("resnet20", "densenet40"):
        plain[name] = build_backbone(name, 10)
    plain["squeezenet1_1"] = models.squeezenet1_1(num_classes=10)
    plain["mobilenet_v2"] = models.mobilenet_v2(num_classes=10)
    for name, network in plain.items():
        if network not in (chain, residual):
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.weight, 0.7, 1.3)
                    nn.init.normal_(module.bias, std=0.2)
            network.eval()
        plain[name] = network
    return {name: attach_gates(network, example(name)) for name, network in plain.items()}
