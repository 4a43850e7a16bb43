"""MNASNet for 32x32 images: a network that was found by search."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import MNASNet

from penstock.nn.normalize import Normalize


class CifarMNASNet(nn.Module):
    """MNASNet (Tan et al., 2019, https://arxiv.org/abs/1807.11626) from torchvision, fitted to small images.

    As it stands it halves an image five times, which leaves nothing of 32 pixels. Here the first convolution and the
    first stack of blocks keep the size, so three halvings remain.

    Args:
        classes: number of classes.
        width: multiplier of all widths, alpha in the paper.
    """

    def __init__(self, classes: int = 10, width: float = 0.5) -> None:
        super().__init__()
        self.normalize = Normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
        network = MNASNet(width, num_classes=classes, dropout=0.0)
        self.layers = network.layers
        for convolution in (self.layers[0], self.layers[8][0].layers[3]):
            assert isinstance(convolution, nn.Conv2d)
            assert convolution.stride == (2, 2)
            convolution.stride = (1, 1)
        self.linear = network.classifier[1]
        for module in self.layers.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1  # 0.0003 there, for far longer trainings than small images need

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, 32, 32]`` in 0..1 to logits ``[N, classes]``."""
        logits: Tensor = self.linear(self.layers(self.normalize(x)).mean((2, 3)))
        return logits
