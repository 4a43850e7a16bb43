"""What all stand-ins for convolutions share while their network is captured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from penstock.errors import UnsupportedError
from penstock.export.operators import DOMAIN


class CapturedConvolution(nn.Module):
    """Stands for a convolution with a mask, and becomes one node of our domain.

    A ReLU is part of the node. Any other activation f stands behind it: ``z f(y) = f(z y)`` where f(0) = 0, and
    ``z f(z y)`` elsewhere.

    Args:
        kind: the node's operator.
        conv: the convolution.
        activation: what follows it.
        tensors: the node's inputs behind x.
        name: of the layer.
    """

    def __init__(
        self, kind: str, conv: nn.Conv2d, activation: nn.Module, tensors: Sequence[Tensor], name: str
    ) -> None:
        super().__init__()
        self.kind = kind
        self.tensors = nn.ParameterList(
            nn.Parameter(tensor.detach(), requires_grad=False) for tensor in tensors
        )
        self.size: tuple[Any, ...] = (conv.stride, conv.padding, conv.dilation, conv.groups)
        relu = isinstance(activation, nn.ReLU)
        self.attributes: dict[str, Any] = {
            "strides": list(conv.stride),
            "pads": _pads(conv, name),
            "dilations": list(conv.dilation),
            "group": conv.groups,
            "layer": name,
            "relu": int(relu),
        }
        self.activation = nn.Identity() if relu else activation
        with torch.inference_mode():
            self.mask_again = bool(self.activation(torch.zeros(1, conv.out_channels, 1, 1)).any())

    def node(self, x: Tensor, *more: Tensor, codes: int) -> tuple[Tensor, ...]:
        """The node's outputs for ``x`` ``[N, C, H, W]``: the masked result, z, and ``codes - 1`` more like z."""
        weight = self.tensors[0]
        size = torch.nn.functional.conv2d(x, weight, None, *self.size).shape  # dead code but for its shape
        shapes = (tuple(size), *((x.shape[0], weight.shape[0]),) * codes)
        output, code, *rest = torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::{self.kind}",
            (x, *self.tensors, *more),
            self.attributes,
            dtypes=(x.dtype,) * len(shapes),
            shapes=shapes,
            version=1,
        )
        output = self.activation(output)
        if self.mask_again:
            output = output * code[:, :, None, None]
        return output, code, *rest


def check_foldable(conv: nn.Conv2d, norms: Sequence[nn.Module], name: str) -> None:
    """Refuse what cannot become one plain convolution.

    Raises:
        UnsupportedError: the convolution does more than a convolution, or a batch norm depends on the batch.
    """
    if type(conv).forward is not nn.Conv2d.forward:
        raise UnsupportedError(
            f"convolution {name} is a {type(conv).__name__}, which may do more than a Conv2d: leave it ungated (where)"
        )
    if any(isinstance(norm, nn.BatchNorm2d) and norm.running_mean is None for norm in norms):
        raise UnsupportedError(
            f"the batch norm of convolution {name} keeps no statistics, so its answers would depend on the batch"
        )


def _pads(conv: nn.Conv2d, name: str) -> list[int]:
    """ONNX's ``[top, left, bottom, right]``."""
    if conv.padding_mode != "zeros":
        raise UnsupportedError(
            f"convolution {name} pads with {conv.padding_mode!r}; only zeros can be compiled: leave it ungated (where)"
        )
    if conv.padding == "valid":
        return [0, 0, 0, 0]
    if conv.padding == "same":
        sums = [step * (size - 1) for step, size in zip(conv.dilation, conv.kernel_size, strict=True)]
        return [total // 2 for total in sums] + [total - total // 2 for total in sums]
    return list(cast(tuple[int, int], conv.padding)) * 2
