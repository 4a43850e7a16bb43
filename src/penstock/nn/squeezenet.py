"""SqueezeNet 1.1 for 224x224 images, and how the weights that Caffe trained become its own.

Caffe's network sees ``255 x - c`` with the channels in the order blue, green, red; this one, like torchvision's, sees
``(x - m) / s`` in the order red, green, blue. The first convolution pads nothing, so every value that it sees is a
pixel and one can be written as the other: with ``w, b`` in the order red, green, blue and ``k`` a channel,

    w_k (255 x_k - c_k)  =  255 s_k w_k (x_k - m_k) / s_k  +  w_k (255 m_k - c_k)

So ``255 s_k w_k`` are the weights here, and the last term, summed over the window, goes into the bias. Published
weights of either origin fit, and training sees inputs of about unit size instead of +-128.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchvision.models import squeezenet1_1

from penstock.errors import InvalidArgumentError
from penstock.nn.normalize import Normalize

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CAFFE_MEAN = (123.0, 117.0, 104.0)  # red, green, blue

_FIRST, _LAST = "features.0", "classifier.1"
_FIRES = {f"fire{number}": f"features.{place}" for number, place in enumerate((3, 4, 6, 7, 9, 10, 11, 12), 2)}
_CONVOLUTIONS = {"squeeze1x1": "squeeze", "expand1x1": "expand1x1", "expand3x3": "expand3x3"}
_PARAMETERS = {"w": "weight", "b": "bias"}


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1 (Iandola et al., 2016, https://arxiv.org/abs/1602.07360) from torchvision.

    Parameter names are torchvision's, so its published weights load. The logits are means of rectified maps, as in
    the original: none is negative.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.normalize = Normalize(MEAN, STD)
        network = squeezenet1_1(num_classes=classes)
        self.features = network.features
        self.classifier = network.classifier

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, 224, 224]`` in 0..1 to logits ``[N, classes]``."""
        logits: Tensor = self.classifier(self.features(self.normalize(x))).flatten(1)
        return logits


def is_caffe(arrays: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of the Caffe network, as its conversions to ONNX keep them."""
    return "conv1_w_0" in arrays and "conv10_w_0" in arrays


def from_caffe(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of `SqueezeNet` out of the Caffe network's arrays, without ``normalize``.

    Args:
        arrays: ``conv1_w_0`` ``[64, 3, 3, 3]`` (input channels blue, green, red), ``conv1_b_0``,
            ``fire2/squeeze1x1_w_0``, ..., ``conv10_b_0``; of any floating type.

    Returns:
        float32, named as in `SqueezeNet`.

    Raises:
        InvalidArgumentError: a name has no place in the network.
    """
    state = {_place(name): array.float() for name, array in arrays.items()}
    # In double precision: the bias is a sum of terms that nearly cancel.
    weight = state[f"{_FIRST}.weight"].double().flip(1)
    mean, std, caffe_mean = (
        torch.tensor(values, dtype=torch.double).view(1, 3, 1, 1) for values in (MEAN, STD, CAFFE_MEAN)
    )
    shift = (weight * (255 * mean - caffe_mean)).sum((1, 2, 3))
    state[f"{_FIRST}.weight"] = (weight * (255 * std)).float()
    state[f"{_FIRST}.bias"] = (state[f"{_FIRST}.bias"] + shift).float()
    return state


def _place(name: str) -> str:
    """``features.3.squeeze.weight`` for ``fire2/squeeze1x1_w_0``."""
    layer, _, parameter = name.removesuffix("_0").rpartition("_")
    places = {"conv1": _FIRST, "conv10": _LAST} | {
        f"{fire}/{caffe}": f"{place}.{ours}"
        for fire, place in _FIRES.items()
        for caffe, ours in _CONVOLUTIONS.items()
    }
    if layer not in places or parameter not in _PARAMETERS:
        raise InvalidArgumentError(f"{name!r} is no array of the Caffe SqueezeNet 1.1")
    return f"{places[layer]}.{_PARAMETERS[parameter]}"
