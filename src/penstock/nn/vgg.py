"""VGG-16 with batch norm for 32x32 images: a plain chain of convolutions."""

from __future__ import annotations

from torch import Tensor, nn

from penstock.nn.normalize import Normalize

WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # configuration D


class CifarVGG(nn.Module):
    """VGG-16 (Simonyan and Zisserman, 2015, https://arxiv.org/abs/1409.1556) with one linear layer at its end.

    Every published CIFAR-10 figure of a pruned "VGG-16" means this form: batch norm after each of the thirteen
    convolutions, and one linear layer in the place of the three that ImageNet needs.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.normalize = Normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
        layers: list[nn.Module] = []
        channels = 3
        for stage in WIDTHS:
            for width in stage:
                layers += [nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, 32, 32]`` in 0..1 to logits ``[N, classes]``."""
        logits: Tensor = self.linear(self.features(self.normalize(x)).flatten(1))
        return logits
