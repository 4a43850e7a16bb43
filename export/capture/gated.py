"""Stand-ins for gated convolutions while their network is captured."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from penstock.export.capture.convolution import CapturedConvolution, check_foldable
from penstock.export.operators import GATED_CONV
from penstock.nn.gates import GatedConv2d


class CapturedGatedConv(CapturedConvolution):
    """Stands for a `GatedConv2d`: becomes one ``penstock::GatedConv`` node, its batch norm and its gate's folded."""

    def __init__(self, layer: GatedConv2d, name: str) -> None:
        conv = layer.conv
        check_foldable(conv, [layer.norm], name)
        if isinstance(layer.norm, nn.BatchNorm2d):
            conv = fuse_conv_bn_eval(copy.deepcopy(conv).eval(), layer.norm)
        bias = conv.bias if conv.bias is not None else torch.zeros(conv.out_channels)
        super().__init__(GATED_CONV, conv, layer.activation, (conv.weight, bias, *layer.gate.folded()), name)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four results of `GatedConv2d.forward`, of which only three reach the graph."""
        output, code, logits = self.node(x, codes=2)
        return output, code, logits, output.mean(dim=(2, 3))
