"""Stand-ins for routers and the convolutions that they rule while their network is captured."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from penstock.export.capture.convolution import CapturedConvolution, check_foldable
from penstock.export.capture.observed import CapturedGate
from penstock.export.operators import ROUTED_CONV
from penstock.nn.routing import Route, RoutedConv2d, RoutedNorm, StageRouter
from penstock.nn.watched import WatchedRouter


class CapturedRouter(nn.Module):
    """Stands for a `StageRouter`: the same decision in operators that export well, its normalisation folded in."""

    prototypes: Tensor

    def __init__(self, router: StageRouter) -> None:
        super().__init__()
        self.filters = router.filters
        self.count = router.count
        self.register_buffer("prototypes", router.prototypes)
        self.gate = CapturedGate(router.gate) if isinstance(router, WatchedRouter) else None
        if router.count > 1:
            self.reduce = _folded(router.reduce, router.normalize)
            self.expand = router.expand

    def forward(self, x: Tensor) -> Route:
        """Decide for ``x`` ``[N, C, H, W]``; the codes come from the convolutions' nodes."""
        logits = self._alone(x) if self.count == 1 else self._logits(x)
        soft_codes = torch.split(logits.softmax(1) @ self.prototypes - 0.5, self.filters, 1)
        seen = soft_codes if self.gate is None else (self.gate(x), *soft_codes[1:])
        # The codes are placeholders: `CapturedRoutedConv` answers with its node's.
        return Route(soft_codes, tuple(seen), logits.argmax(1), logits)

    def _logits(self, x: Tensor) -> Tensor:
        decided: Tensor = self.expand(torch.relu(self.reduce(x.mean(dim=(2, 3)))))
        return decided

    def _alone(self, x: Tensor) -> Tensor:
        """Zeros ``[N, 1]``, from the images: those of the batch's size the exporter would fix at the example's."""
        return x[:, :1, 0, 0] * 0


class CapturedRoutedConv(CapturedConvolution):
    """Stands for a `RoutedConv2d`: becomes one ``penstock::RoutedConv`` node.

    Args:
        layer: what it stands for.
        bits: its part of the stage's prototypes, ``[K, filters]``.
        name: of the layer.
    """

    def __init__(self, layer: RoutedConv2d, bits: Tensor, name: str) -> None:
        conv = layer.conv
        norms = list(layer.norm.norms) if isinstance(layer.norm, RoutedNorm) else [layer.norm] * len(bits)
        check_foldable(conv, norms, name)
        scale, shift = (torch.stack(rows) for rows in zip(*(_affine(conv, n) for n in norms), strict=True))
        super().__init__(ROUTED_CONV, conv, layer.activation, (conv.weight, scale, shift, bits), name)

    def forward(
        self, x: Tensor, code: Tensor, soft_code: Tensor, chosen: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four results of `RoutedConv2d.forward`, the code from the node."""
        output, code = self.node(x, chosen, codes=1)
        return output, code, soft_code, output.mean(dim=(2, 3))


def _affine(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift ``[filters]`` that turn the convolution without its bias into its normalised result."""
    bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
    if not isinstance(norm, nn.BatchNorm2d):
        return torch.ones_like(bias), bias
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    scale = torch.rsqrt(variance + norm.eps) * (1 if norm.weight is None else norm.weight)
    return scale, (bias - mean) * scale + (0 if norm.bias is None else norm.bias)


def _folded(linear: nn.Linear, norm: nn.BatchNorm1d) -> nn.Linear:
    """``linear(norm(x))`` as one linear layer."""
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    scale = torch.rsqrt(variance + norm.eps)
    folded = nn.Linear(linear.in_features, linear.out_features)
    with torch.no_grad():
        folded.weight.copy_(linear.weight * scale)
        folded.bias.copy_(linear.bias - linear.weight @ (mean * scale))
    return folded
