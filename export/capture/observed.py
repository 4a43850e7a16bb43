"""Stand-ins for gates that only look on while their network is captured."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penstock.nn.gates import Gate
from penstock.nn.observed import ObservedConv2d
from penstock.nn.observers import Observer


class CapturedGate(nn.Module):
    """Stands for a gate that only looks on, in operators that export well, its normalisation folded in."""

    reduce_weight: Tensor
    reduce_bias: Tensor
    expand_weight: Tensor
    expand_bias: Tensor

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        names = ("reduce_weight", "reduce_bias", "expand_weight", "expand_bias")
        for name, tensor in zip(names, gate.folded(), strict=True):
            self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        """Gate logits ``[N, filters]`` of ``x`` ``[N, C, H, W]``."""
        # Not `mean`: ONNX Runtime pools in the layout of its fast convolutions, but would turn it for a ReduceMean.
        size = (x.shape[0], x.shape[1], 1, 1)
        pooled = torch.onnx.ops.symbolic("GlobalAveragePool", (x,), {}, dtype=x.dtype, shape=size, version=1)
        hidden = torch.relu(F.linear(pooled.flatten(1), self.reduce_weight, self.reduce_bias))
        return F.linear(hidden, self.expand_weight, self.expand_bias)


class CapturedStageObserver(nn.Module):
    """Stands for an `Observer` at the end of a stage."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self.gate = CapturedGate(observer.gate)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three results of `Observer.forward`."""
        logits: Tensor = self.gate(x)
        code = (logits > 0).to(x.dtype)
        return code, logits, code


class CapturedObserver(nn.Module):
    """Stands for an `ObservedConv2d`: the convolution as it was, and its gate."""

    def __init__(self, layer: ObservedConv2d) -> None:
        super().__init__()
        self.conv = layer.conv
        self.norm = layer.norm
        self.activation = layer.activation
        self.gate = CapturedGate(layer.gate)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four results of `ObservedConv2d.forward`; the response, which no graph answers with, is the code."""
        output: Tensor = self.activation(self.norm(self.conv(x)))
        logits: Tensor = self.gate(x)
        code = (logits > 0).to(x.dtype)
        return output, code, logits, code
