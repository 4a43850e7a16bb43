"""The networks that torchvision does not have: those for 32x32 images and a small one for 8x8 digits.

Every backbone takes images in 0..1 and normalises them itself, so that what is exported needs no preprocessing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from penstock.errors import InvalidArgumentError
from penstock.nn.densenet import CifarDenseNet
from penstock.nn.mnasnet import CifarMNASNet
from penstock.nn.normalize import Normalize
from penstock.nn.squeezenet import SqueezeNet
from penstock.nn.vgg import CifarVGG


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters (option A of He et al., 2016, section 4.2)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.widen = (channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_channels, H, W]`` to ``[N, channels, H / stride, W / stride]``."""
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        shortcut = x
        if self.stride != 1:
            shortcut = shortcut[:, :, :: self.stride, :: self.stride]
        if self.widen:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, self.widen, self.widen))
        return F.relu(out + shortcut)


class CifarResNet(nn.Module):
    """ResNet for 32x32 images with ``6 n + 2`` layers (He et al., *Deep Residual Learning*, 2016, section 4.2).

    Parameter names are those of https://github.com/akamaster/pytorch_resnet_cifar10, so its weights load.
    """

    def __init__(self, blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.normalize = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, 32, 32]`` in 0..1 to logits ``[N, classes]``."""
        x = F.relu(self.bn1(self.conv1(self.normalize(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(self.pool(x).flatten(1))
        return logits


class DigitsCNN(nn.Module):
    """Five convolutions for scikit-learn's 8x8 digits: a plain chain with one pooling, trained in seconds."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.normalize = Normalize((0.305,), (0.376,))
        widths = (1, 32, 32, 64, 64, 64)
        layers: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            if index == 1:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 1, 8, 8]`` in 0..1 to logits ``[N, classes]``."""
        logits: Tensor = self.linear(self.pool(self.features(self.normalize(x))).flatten(1))
        return logits


BACKBONES: dict[str, Callable[[int], nn.Module]] = {
    "digits-cnn": DigitsCNN,
    "resnet20": partial(CifarResNet, 3),
    "resnet32": partial(CifarResNet, 5),
    "resnet44": partial(CifarResNet, 7),
    "resnet56": partial(CifarResNet, 9),
    "vgg16": CifarVGG,
    "densenet40": CifarDenseNet,
    "mnasnet": CifarMNASNet,
    "squeezenet1_1": SqueezeNet,
}


def build_backbone(name: str, classes: int) -> nn.Module:
    """A fresh network by name.

    Raises:
        InvalidArgumentError: no such backbone; the message lists those that there are.
    """
    if name not in BACKBONES:
        raise InvalidArgumentError(f"no backbone {name!r}; there are {', '.join(sorted(BACKBONES))}")
    return BACKBONES[name](classes)


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))
