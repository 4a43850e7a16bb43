from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from penstock.nn.surgery import GatedNetwork


@pytest.fixture(scope="session")
def force() -> Callable[[GatedNetwork, Sequence[Tensor]], GatedNetwork]:
    """Let every gate answer given bits ``[filters]``, whatever it sees."""

    def apply(network: GatedNetwork, codes: Sequence[Tensor]) -> GatedNetwork:
        for layer, code in zip(network.gated_layers, codes, strict=True):
            torch.nn.init.zeros_(layer.gate.expand.weight)
            with torch.no_grad():
                layer.gate.expand.bias.copy_(code * 2.0 - 1.0)
        return network

    return apply
