"""A dense network whose answers stay untouched, and gates beside it that only look on.

Each gate of a decoupled network reads what its convolution reads *in the dense network*, and says which filters it
would open: nothing is masked, so the logits are the dense network's. What is observed is a path like any other, for a
detector that has to be fitted anew, because activations behind masks are others than those of the dense network.

No bit saves anything, so the layout's layers cost nothing and all is fixed: the dense network's MACs and the gates'.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, fx, nn

from penstock.errors import UnsupportedError
from penstock.nn.following import FollowingConv2d
from penstock.nn.gates import Gate, GateConfig, GatedConv2d
from penstock.nn.path_network import GatedOutput, PathNetwork
from penstock.nn.prototypes import ConsolidatedNetwork
from penstock.nn.surgery import GatedNetwork, attach_gates
from penstock.paths import PathLayout


class ObservedConv2d(nn.Module):
    """A convolution with its batch norm and activation as they were, and a gate that looks at what they read.

    Args:
        conv: the dense network's convolution.
        norm: its batch norm, or ``nn.Identity()``.
        activation: its activation, or ``nn.Identity()``.
        gate: says which filters it would open.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.Module, activation: nn.Module, gate: Gate) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.activation = activation
        self.gate = gate

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four results of `GatedConv2d.forward`, but that the output is not masked."""
        code, logits = self.gate(x)
        output = self.activation(self.norm(self.conv(x)))
        return output, code, logits, output.mean(dim=(2, 3))


class UnruledConv2d(nn.Module):
    """Stands for a `FollowingConv2d` where nothing is masked: its convolution as it was."""

    def __init__(self, layer: FollowingConv2d) -> None:
        super().__init__()
        self.conv = layer.conv
        self.norm = layer.norm
        self.activation = layer.activation

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        """Run on ``x`` ``[N, C, H, W]``, whatever gates say."""
        output: Tensor = self.activation(self.norm(self.conv(x)))
        return output


class ObservedNetwork(PathNetwork):
    """A dense network with observing gates.

    Attributes:
        body: the traced dense network; gives its output and the records of every observed layer.
        layout: order and size of the observed layers, which cost nothing; the observers' MACs are among the fixed.
    """

    def __init__(self, body: fx.GraphModule, layout: PathLayout) -> None:
        super().__init__(layout)
        self.body = body

    def forward(self, x: Tensor) -> GatedOutput:
        """Run on images ``[N, C, H, W]``."""
        logits, records = self.body(x)
        codes, gate_logits, responses = zip(*records, strict=True)
        return GatedOutput(logits, codes, gate_logits, responses, self.active_macs(torch.cat(codes, dim=1)))


def observe(dense: nn.Module, network: PathNetwork, example: Tensor, gate: GateConfig) -> ObservedNetwork:
    """Put a decoupled network's gates beside the dense network that it was made from.

    Args:
        dense: the dense network; it is copied, not changed.
        network: has the gates; they are copied.
        example: one input, ``[1, C, H, W]``.
        gate: shape of the gates.

    Raises:
        UnsupportedError: the network has no gates, but prototypes or two members.
    """
    if not isinstance(network, GatedNetwork) or isinstance(network, ConsolidatedNetwork):
        raise UnsupportedError(
            f"a {type(network).__name__} has no gates that could observe: take the run of `penstock decouple` that it "
            "was made from"
        )
    body = attach_gates(dense, example, gate).body
    for name in network.layout.names:
        layer = cast(GatedConv2d, body.get_submodule(name))
        gates = copy.deepcopy(cast(GatedConv2d, network.body.get_submodule(name)).gate)
        body.set_submodule(name, ObservedConv2d(layer.conv, layer.norm, layer.activation, gates))
    for name, module in list(body.named_modules()):
        if isinstance(module, FollowingConv2d):
            body.set_submodule(name, UnruledConv2d(module))
    return ObservedNetwork(body, observed_layout(network.layout)).eval()


def observed_layout(layout: PathLayout) -> PathLayout:
    """The same bits where none of them saves anything; gates are counted."""
    return replace(
        layout,
        layers=tuple(replace(layer, macs=0, sources=(), ungated=0) for layer in layout.layers),
        fixed_macs=layout.fixed_macs + sum(layout.reader_macs),
        followers=(),
    )
