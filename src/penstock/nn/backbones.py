"""Networks by name: those that torchvision does not have, torchvision's, and those of other people's packages.

    resnet20                one of `BACKBONES`: for 32x32 images, and a small one for 8x8 digits
    torchvision:resnet50    a classifier of torchvision
    wide-net                whatever an installed package, or the running program, has registered under this name

Every backbone takes images in 0..1 and normalises them itself, so that what is exported needs no preprocessing.

A name never says what to import. It is looked up among the entry points of installed packages, so a checkpoint or a
configuration from a stranger can choose among what its reader has installed, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.metadata import entry_points
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from penstock.errors import AlreadyExistsError, InvalidArgumentError
from penstock.nn.densenet import CifarDenseNet
from penstock.nn.from_torchvision import build_torchvision
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


Builder = Callable[[int], nn.Module]  # from the number of classes to a fresh network

TORCHVISION_PREFIX = "torchvision:"
ENTRY_POINTS = "penstock.backbones"  # the group in which packages register theirs

BACKBONES: dict[str, Builder] = {
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
_registered: dict[str, Builder] = {}


def register_backbone(name: str, builder: Builder) -> None:
    """Let the running program use a network by name; a later call with the same name replaces the earlier one.

    A package does better to have an entry point in the group `ENTRY_POINTS`: commands know that one too.

    Args:
        name: to use in configurations, and to find in checkpoints.
        builder: makes the network, with random weights, from the number of classes. It takes images in 0..1.

    Raises:
        AlreadyExistsError: the name is one of `BACKBONES` or torchvision's.
    """
    if name in BACKBONES or name.startswith(TORCHVISION_PREFIX):
        raise AlreadyExistsError(f"backbone {name!r} is Penstock's own: choose another name")
    _registered[name] = builder


def build_backbone(name: str, classes: int) -> nn.Module:
    """A fresh network by name.

    Raises:
        InvalidArgumentError: no such backbone, and how to register one; or what is registered builds no network.
    """
    network = _builder(name)(classes)
    if not isinstance(network, nn.Module):
        raise InvalidArgumentError(
            f"backbone {name!r} was built as a {type(network).__name__}; its builder must return a torch.nn.Module"
        )
    return network


def _builder(name: str) -> Builder:
    if name.startswith(TORCHVISION_PREFIX):
        return partial(build_torchvision, name.removeprefix(TORCHVISION_PREFIX))
    known = BACKBONES | _registered
    return known[name] if name in known else _installed(name)


def _installed(name: str) -> Builder:
    """The builder that an installed package has registered; of all packages only this one's module is imported."""
    found = tuple(entry_points(group=ENTRY_POINTS, name=name))
    if not found:
        others = {*BACKBONES, *_registered, *entry_points(group=ENTRY_POINTS).names}
        raise InvalidArgumentError(
            f"no backbone {name!r}; there are {', '.join(sorted(others))}, and {TORCHVISION_PREFIX}NAME. A package "
            f"adds its own by an entry point in the group {ENTRY_POINTS!r}, a program by register_backbone"
        )
    if len(found) > 1:
        raise InvalidArgumentError(
            f"backbone {name!r} is registered by {' and by '.join(each.value for each in found)}: remove one of them"
        )
    try:
        builder: Builder = found[0].load()
    except (ImportError, AttributeError) as error:
        raise InvalidArgumentError(
            f"backbone {name!r} is registered as {found[0].value}, which cannot be imported: {error}"
        ) from error
    return builder


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))
