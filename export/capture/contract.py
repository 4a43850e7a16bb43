"""The module that is captured: every exported model has these inputs and outputs, whatever its lowering.

in   images         FP32  [N, C, H, W]   0..1
out  logits         FP32  [N, classes]
out  path           UINT8 [N, P]         0 or 1, in the order of the layout
out  active_macs    FP32  [N, 1]         share of the dense MACs that the path asks for
out  anomaly_score  FP32  [N, 1]         larger is stranger
out  adversarial    BOOL  [N, 1]         score > threshold
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from penstock.errors import UnsupportedError
from penstock.nn.gates import GatedConv2d
from penstock.nn.surgery import GatedNetwork
from penstock.paths import PathLayout

DOMAIN = "penstock"
GATED_CONV = "GatedConv"


class Answer(NamedTuple):
    """Outputs of an exported model, in order; the field names are the tensors' names."""

    logits: Tensor
    path: Tensor
    active_macs: Tensor
    anomaly_score: Tensor
    adversarial: Tensor


class ServedModel(nn.Module):
    """A gated network with its detector, as it will be served.

    Args:
        network: the gated network.
        head: computes the score ``[N, 1]`` from ``(logits, path float, gate logits)``; ``None``: the score is 0.
    """

    threshold: Tensor

    def __init__(self, network: GatedNetwork, head: nn.Module | None) -> None:
        super().__init__()
        self.network = network
        self.head = head
        # Never flags until a calibration has set it. Infinity is no threshold: this is the largest number.
        self.register_buffer("threshold", torch.tensor(torch.finfo(torch.float32).max))

    def forward(self, images: Tensor) -> Answer:
        """Answer for ``[N, C, H, W]`` float32 in 0..1."""
        output = self.network(images)
        if not isinstance(output.logits, Tensor):
            raise UnsupportedError(
                f"the network returns a {type(output.logits).__name__}; only one tensor [N, classes] can be served: "
                "wrap the network in a module that returns its logits, and attach gates to that"
            )
        codes = torch.cat(output.codes, dim=1)
        if self.head is None:
            score = images.new_zeros((images.shape[0], 1))
        else:
            score = self.head(output.logits, codes, torch.cat(output.gate_logits, dim=1))
        # Not `score > threshold`: a broken image, NaN or beyond all bounds, has the score NaN and must be flagged.
        flag = torch.logical_not(score <= self.threshold)
        return Answer(output.logits, codes.to(torch.uint8), output.active_macs, score, flag)


class DenseModel(nn.Module):
    """A network without gates under the same contract: its path is all ones and it never flags.

    Args:
        network: the dense network.
        layout: of the gated network that it is compared with, for the length of the path.
    """

    def __init__(self, network: nn.Module, layout: PathLayout) -> None:
        super().__init__()
        self.network = network
        self.bits = layout.bits

    def forward(self, images: Tensor) -> Answer:
        """Answer for ``[N, C, H, W]`` float32 in 0..1."""
        count = images.shape[0]
        one = images.new_ones((count, 1))
        path = torch.ones((count, self.bits), dtype=torch.uint8, device=images.device)
        return Answer(self.network(images), path, one, one * 0, one < 0)


class CapturedConv(nn.Module):
    """Stands for a `GatedConv2d` while the network is captured: becomes one ``penstock::GatedConv`` node.

    The node's inputs are x, the convolution's weight and bias with the batch norm folded in, and the gate's
    ``W1, b1, W2, b2`` with its normalisation folded in; its outputs are the masked result, z and y. A ReLU is part of
    the node. Any other activation f stands behind it: ``z f(y) = f(z y)`` where f(0) = 0, and ``z f(z y)`` elsewhere.
    """

    def __init__(self, layer: GatedConv2d, name: str) -> None:
        super().__init__()
        conv = layer.conv
        _check(conv, layer.norm, name)
        if isinstance(layer.norm, nn.BatchNorm2d):
            conv = fuse_conv_bn_eval(copy.deepcopy(conv).eval(), layer.norm)
        bias = conv.bias if conv.bias is not None else torch.zeros(conv.out_channels)
        tensors = (conv.weight, bias, *layer.gate.folded())
        self.tensors = nn.ParameterList(
            nn.Parameter(tensor.detach(), requires_grad=False) for tensor in tensors
        )
        self.size: tuple[Any, ...] = (conv.stride, conv.padding, conv.dilation, conv.groups)
        self.attributes: dict[str, Any] = {
            "strides": list(conv.stride),
            "pads": _pads(conv, name),
            "dilations": list(conv.dilation),
            "group": conv.groups,
            "layer": name,
            "relu": int(isinstance(layer.activation, nn.ReLU)),
        }
        self.activation = nn.Identity() if isinstance(layer.activation, nn.ReLU) else layer.activation
        with torch.inference_mode():
            self.mask_again = bool(self.activation(torch.zeros(1, conv.out_channels, 1, 1)).any())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four results of `GatedConv2d.forward`, of which only three reach the graph."""
        weight, bias = self.tensors[0], self.tensors[1]
        size = torch.nn.functional.conv2d(x, weight, bias, *self.size).shape  # dead code but for its shape
        codes = (x.shape[0], weight.shape[0])
        output, code, logits = torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::{GATED_CONV}",
            (x, *self.tensors),
            self.attributes,
            dtypes=(x.dtype, x.dtype, x.dtype),
            shapes=(tuple(size), codes, codes),
            version=1,
        )
        output = self.activation(output)
        if self.mask_again:
            output = output * code[:, :, None, None]
        return output, code, logits, output.mean(dim=(2, 3))


def _check(conv: nn.Conv2d, norm: nn.Module, name: str) -> None:
    """Refuse what folding into one plain convolution would change."""
    if type(conv).forward is not nn.Conv2d.forward:
        raise UnsupportedError(
            f"convolution {name} is a {type(conv).__name__}, which may do more than a Conv2d: leave it ungated (where)"
        )
    if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is None:
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


def capturable(model: ServedModel | DenseModel) -> nn.Module:
    """A copy in which every gated convolution is a `CapturedConv`; the original is left as it was."""
    copied = copy.deepcopy(model).eval()
    network = copied.network
    if isinstance(network, GatedNetwork):
        for layer in network.layout.layers:
            gated = network.body.get_submodule(layer.name)
            network.body.set_submodule(layer.name, CapturedConv(cast(GatedConv2d, gated), layer.name))
    return copied
