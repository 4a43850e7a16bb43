r"""Gates: small modules that decide, from a layer's input, which of its filters run.

For one convolution with input ``x`` (Li et al., *Interpretable Neural Network Decoupling*, ECCV 2020,
https://arxiv.org/abs/1906.01166, "architecture controlling module"):

    y = W2 relu(W1 gap(x) + b1) + b2        gate logits                    ``[N, filters]``
    z = 1[y > 0]                            path encoding of this layer    ``[N, filters]``

and the layer gives ``z * act(bn(conv(x)))``. The step function has no gradient, so training uses Improved SemHash
(Kaiser and Bengio, *Discrete Autoencoders for Sequence Models*, https://arxiv.org/abs/1801.09797):

    g  = y + noise,  noise ~ N(0, 1)
    v1 = min(1, max(0, 1.2 sigmoid(g) - 0.1))       saturating sigmoid, differentiable
    v2 = 1[g > 0]                                   what will run
    z  = v2 for a random half of the *samples*, v1 for the others; the gradient is always that of v1

Outside of training ``z`` is exactly ``1[y > 0]``; its gradient is that of ``sigmoid(y)``, so that an attack on the
network sees through the gates instead of being stopped by masked gradients. That of v1 would not do: it is zero where
``|y| > 2.4``, which holds for most filters of a trained network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from penstock.errors import InvalidArgumentError

STARTS = ("uniform", "kaiming", "static")
Slope = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Shape and start of a gate.

    Attributes:
        reduction: the hidden layer has ``in_channels / reduction`` units, 4 in the paper.
        normalize: batch normalisation without affine parameters on the pooled input. Pooled features carry a large
            constant part that drowns what differs between inputs; without it gates tend to become static.
        initial_logit: bias of the last layer, 1 in the released code: positive, so that gates start open.
        start: how weights are drawn, one of `STARTS`. ``uniform`` is PyTorch's own way, in small numbers: with a
            positive ``initial_logit`` all gates start open. ``kaiming`` draws W1 and W2 from Kaiming's normal
            distribution, with b1 = 1, as the released code does for CIFAR's networks: a quarter starts closed.
            ``static`` sets W1 = 0 besides, as it does for the others: no gate depends on the input at first.
    """

    reduction: int = 4
    normalize: bool = False
    initial_logit: float = 1.0
    start: str = "uniform"

    def __post_init__(self) -> None:
        if self.reduction < 1:
            raise InvalidArgumentError(f"GateConfig.reduction is {self.reduction}; it must be at least 1")
        if self.start not in STARTS:
            raise InvalidArgumentError(f"GateConfig.start is {self.start!r}; there are {', '.join(STARTS)}")


class GateCode(NamedTuple):
    """What a gate says: ``code`` is z, ``logits`` is y, both ``[N, filters]``."""

    code: Tensor
    logits: Tensor


class Gate(nn.Module):
    """The module that rules one convolution's filters.

    Args:
        in_channels: channels of the layer's input.
        filters: filters of the layer.
        config: shape and start.
    """

    def __init__(self, in_channels: int, filters: int, config: GateConfig) -> None:
        super().__init__()
        hidden = max(1, in_channels // config.reduction)
        self.normalize: nn.Module = (
            nn.BatchNorm1d(in_channels, affine=False) if config.normalize else nn.Identity()
        )
        self.reduce = nn.Linear(in_channels, hidden)
        self.expand = nn.Linear(hidden, filters)
        self.noise = 1.0
        self.hard_share = 0.5
        if config.start != "uniform":
            nn.init.kaiming_normal_(self.reduce.weight)
            nn.init.ones_(self.reduce.bias)
            nn.init.kaiming_normal_(self.expand.weight)
        if config.start == "static":
            nn.init.zeros_(self.reduce.weight)
        nn.init.constant_(self.expand.bias, config.initial_logit)

    @property
    def macs(self) -> int:
        """MACs of the two linear layers for one input; pooling is counted where the input's size is known."""
        return self.reduce.in_features * self.reduce.out_features + self.expand.weight.numel()

    def forward(self, x: Tensor) -> GateCode:
        """Decide for ``x`` ``[N, in_channels, H, W]``."""
        pooled = x.mean(dim=(2, 3))
        logits = self.expand(torch.relu(self.reduce(self.normalize(pooled)))).float()
        if self.training:
            return GateCode(improved_semhash(logits, noise=self.noise, hard_share=self.hard_share), logits)
        return GateCode(binarize(logits), logits)

    def folded(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``(W1, b1, W2, b2)`` in evaluation, with the normalisation folded into the first layer."""
        weight, bias = self.reduce.weight.detach(), self.reduce.bias.detach()
        if isinstance(self.normalize, nn.BatchNorm1d):
            mean = cast(Tensor, self.normalize.running_mean)
            scale = torch.rsqrt(cast(Tensor, self.normalize.running_var) + self.normalize.eps)
            weight = weight * scale
            bias = bias - weight @ mean
        return weight, bias, self.expand.weight.detach(), self.expand.bias.detach()


def saturating_sigmoid(logits: Tensor) -> Tensor:
    """``min(1, max(0, 1.2 sigmoid(logits) - 0.1))``: reaches 0 and 1 at finite logits, about -2.4 and 2.4."""
    return (1.2 * torch.sigmoid(logits) - 0.1).clamp(0.0, 1.0)


def sigmoid_slope(logits: Tensor) -> Tensor:
    """Derivative of the sigmoid, not zero even where the sigmoid itself is rounded to 1."""
    return torch.sigmoid(logits) * torch.sigmoid(-logits)


def saturating_slope(logits: Tensor) -> Tensor:
    """Derivative of `saturating_sigmoid`."""
    sigmoid = torch.sigmoid(logits)
    inside = (sigmoid > 1 / 12) & (sigmoid < 11 / 12)  # where 1.2 s - 0.1 is between 0 and 1
    return 1.2 * sigmoid * (1 - sigmoid) * inside


def straight_through(hard: Tensor, logits: Tensor, slope: Slope = sigmoid_slope) -> Tensor:
    """``hard`` exactly, with the gradient of a smooth function of ``logits`` whose derivative is ``slope``."""
    if not (torch.is_grad_enabled() and logits.requires_grad):
        return hard
    return cast(Tensor, _StraightThrough.apply(hard, logits, slope))


def binarize(logits: Tensor, slope: Slope = sigmoid_slope) -> Tensor:
    """``1[logits > 0]`` exactly, with the gradient of a smooth step."""
    return straight_through((logits > 0).to(logits.dtype), logits, slope)


def improved_semhash(logits: Tensor, *, noise: float = 1.0, hard_share: float = 0.5) -> Tensor:
    """Improved SemHash of gate logits for training.

    Args:
        logits: y, ``[N, filters]``.
        noise: standard deviation of the added normal noise.
        hard_share: share of the samples that get hard codes; the others get the saturating sigmoid.

    Returns:
        ``[N, filters]`` in 0..1.
    """
    noisy = logits + noise * torch.randn_like(logits) if noise else logits
    hard = binarize(noisy, saturating_slope)
    if hard_share >= 1.0:
        return hard
    # One draw per sample: the released code draws over channels (the same for the whole batch) or, in its later
    # version, writes channel numbers into the batch axis, so that most samples are never hard.
    is_hard = torch.rand(len(logits), 1, device=logits.device) < hard_share
    return torch.where(is_hard, hard, saturating_sigmoid(noisy))


class _StraightThrough(torch.autograd.Function):
    """Forward: what was decided. Backward: a derivative of what it was decided by."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, hard: Tensor, logits: Tensor, slope: Slope
    ) -> Tensor:
        ctx.save_for_backward(logits)
        ctx.slope = slope  # type: ignore[attr-defined]
        return hard.clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (logits,) = cast(tuple[Tensor], ctx.saved_tensors)  # type: ignore[attr-defined]
        return None, gradients[0] * ctx.slope(logits), None  # type: ignore[attr-defined]


class GatedConv2d(nn.Module):
    """A convolution with its batch norm and activation, ruled by a gate: ``z * act(bn(conv(x)))``.

    Args:
        conv: the convolution.
        norm: its batch norm, or ``nn.Identity()``.
        activation: its ReLU, or ``nn.Identity()``, as on a residual branch, where the mask stands before the add.
        gate: decides from the same input.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.Module, activation: nn.Module, gate: Gate) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.activation = activation
        self.gate = gate

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run on ``x`` ``[N, C, H, W]``.

        Returns:
            the masked output ``[N, filters, H', W']``; z and y ``[N, filters]``; and the response, the unmasked
            output averaged over space ``[N, filters]``, which the alignment loss compares with z.
        """
        code, logits = self.gate(x)
        output = self.activation(self.norm(self.conv(x)))
        mask = code.to(output.dtype)[:, :, None, None]
        return output * mask, code, logits, output.mean(dim=(2, 3))
