"""A small DenseNet for 32x32 images: every layer reads what all layers before it in its block wrote."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penstock.nn.normalize import Normalize

BLOCKS = 3
LAYERS = 6  # of two convolutions each, in each block: 40 layers with stem, transitions and the linear one


class DenseLayer(nn.Module):
    """Batch norm, ReLU, 1x1 to four times the growth, batch norm, ReLU, 3x3 to the growth; appended to the input."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N, C + growth, H, W]``."""
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        return torch.cat([x, out], 1)


class CifarDenseNet(nn.Module):
    """DenseNet-BC with 40 layers (Huang et al., 2017, https://arxiv.org/abs/1608.06993, section 3).

    Args:
        classes: number of classes.
        growth: channels that each layer adds, k in the paper.
    """

    def __init__(self, classes: int = 10, growth: int = 12) -> None:
        super().__init__()
        self.normalize = Normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
        channels = 2 * growth
        self.conv1 = nn.Conv2d(3, channels, 3, 1, 1, bias=False)
        features: list[nn.Module] = []
        for block in range(BLOCKS):
            for _ in range(LAYERS):
                features.append(DenseLayer(channels, growth))
                channels += growth
            features += [nn.BatchNorm2d(channels), nn.ReLU()]
            if block < BLOCKS - 1:
                features += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
                channels //= 2
        self.features = nn.Sequential(*features)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, 32, 32]`` in 0..1 to logits ``[N, classes]``."""
        x = self.features(self.conv1(self.normalize(x)))
        logits: Tensor = self.linear(self.pool(x).flatten(1))
        return logits
